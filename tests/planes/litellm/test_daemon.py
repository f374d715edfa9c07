"""A daemon beside a LiteLLM: its keys make pictures on the adapter's accounts."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from image_gateway import sql
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.eventually import BOUND_SECONDS
from tests.parts.gateway import Gateway, parse, post
from tests.parts.upstream import ScriptedUpstream, picture
from tests.planes.litellm.rows import KEY, TEAM, LiteLlm, hashed


@pytest.fixture
def litellm(postgres_url: str) -> Iterator[LiteLlm]:
    made = LiteLlm(postgres_url)
    made.create_bare()
    made.install()
    made.execute(sql.schema("litellm_notify"))
    yield made
    made.drop()


@pytest.fixture
def beside(litellm: LiteLlm, make_gateway: Any, upstream: ScriptedUpstream) -> Gateway:
    """A daemon with one account, which knows nothing of a change but what it is told."""
    litellm.add_own_account(
        "pool",
        {"api_key": "upstream-key"},
        base_url=f"{upstream.root}/v1",
        deployments={"gpt-image-2": "theirs"},
    )
    gateway = make_gateway(litellm.reader_url, grant_ttl_seconds=600)
    started: Gateway = gateway.start()
    return started


async def test_a_key_of_litellm_makes_a_picture_by_its_team_s_name_for_a_model(
    beside: Gateway, upstream: ScriptedUpstream
) -> None:
    async with beside.client("sk-ll-team") as client:
        made = await client.images.generate(model="draw", prompt="a cat")
    assert [item.b64_json for item in made.data or []] == [picture()]
    [call] = upstream.calls
    assert call.headers["authorization"] == "Bearer upstream-key"
    assert call.json()["model"] == "theirs"
    record = await beside.record(key_id=hashed("sk-ll-team"))
    assert (record["key_name"], record["group_id"]) == ("team", "t1")
    assert (record["account_name"], record["status"]) == ("pool", 200)


async def test_what_litellm_forbids_is_refused_before_any_upstream(
    beside: Gateway, upstream: ScriptedUpstream
) -> None:
    for alias, status, code in (
        ("expired", 403, "key_expired"),
        ("blocked", 403, "key_disabled"),
        ("team-off", 403, "key_disabled"),
        ("spent", 429, "insufficient_quota"),
        ("team-over", 429, "insufficient_quota"),
        ("text", 403, "model_not_allowed"),
        ("routes", 403, "key_image_generation_disabled"),
        ("nobody", 401, "invalid_api_key"),
    ):
        answered, _, body = parse(await beside.raw(post(f"sk-ll-{alias}", PROMPT)))
        assert answered == status, alias
        check_error(body, code, "model" if code == "model_not_allowed" else None)
    assert upstream.calls == []


async def test_what_changes_in_litellm_acts_at_once(
    litellm: LiteLlm, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    """By NOTIFY: what is known of the key would be good for ten minutes more."""

    async def until(wanted: int) -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            while parse(await beside.raw(post("sk-ll-team", PROMPT)))[0] != wanted:
                pass

    await until(200)
    litellm.change(TEAM, {"team_id": "t1"}, blocked=True)
    await until(403)
    litellm.change(TEAM, {"team_id": "t1"}, blocked=False, max_budget=1)
    await until(200)
    litellm.change(TEAM, {"team_id": "t1"}, spend=1)
    await until(429)
    litellm.change(KEY, {"key_alias": "team"}, team_id=None, models=[])
    await until(200)
    assert upstream.calls
