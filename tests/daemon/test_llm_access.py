"""A daemon beside an llm-access: its keys make pictures on its Codex accounts."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from image_gateway import sql
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.eventually import BOUND_SECONDS
from tests.parts.gateway import Gateway, parse, post
from tests.parts.llm_access import LlmAccess
from tests.parts.upstream import ScriptedUpstream, picture


@pytest.fixture
def llm(postgres_url: str) -> Iterator[LlmAccess]:
    made = LlmAccess(postgres_url)
    made.install()
    made.execute(sql.schema("llm_access_notify"))
    yield made
    made.drop()


@pytest.fixture
def beside(llm: LlmAccess, make_gateway: Any, upstream: ScriptedUpstream) -> Gateway:
    """A daemon with default settings, but that Codex is the scripted upstream."""
    llm.add_codex(
        "alice", {"tokens": {"access_token": "token-1", "account_id": "id-1", "refresh_token": "r"}}
    )
    gateway = make_gateway(llm.reader_url, codex_base_url=upstream.url, grant_ttl_seconds=600)
    started: Gateway = gateway.start()
    return started


async def test_a_key_of_llm_access_makes_a_picture_on_its_codex_account(
    llm: LlmAccess, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    llm.add("llm_runtime_config", id="default", codex_client_version="0.144.1")
    llm.add_llm_group("painters", ["alice"], on=True)
    secret = llm.add_llm_key("k", account_group_id="painters", used=3)
    async with beside.client(secret) as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
    assert [item.b64_json for item in made.data or []] == [picture()]
    [call] = upstream.calls
    assert call.target == "/codex/images/generations"
    assert call.headers["authorization"] == "Bearer token-1"
    assert call.headers["chatgpt-account-id"] == "id-1"
    assert "0.144.1" in json.dumps(call.headers)
    record = await beside.record(key_id="k")
    assert (record["key_name"], record["group_id"]) == ("name of k", "painters")
    assert (record["account_name"], record["status"]) == ("alice", 200)


async def test_what_llm_access_forbids_is_refused_before_any_upstream(
    llm: LlmAccess, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    llm.add_llm_group("writers", ["alice"])
    on: dict[str, Any] = {"codex_image_generation_enabled": True}
    refused = {
        llm.add_llm_key(status="disabled", **on): (403, "key_disabled"),
        llm.add_llm_key(provider_type="kiro", **on): (403, "key_disabled"),
        llm.add_llm_key(used=1000, **on): (429, "insufficient_quota"),
        llm.add_llm_key(account_group_id="writers"): (403, "group_image_generation_disabled"),
        llm.add_llm_key(): (403, "key_image_generation_disabled"),
        llm.add_llm_key(codex_image_generation_enabled=False): (
            403,
            "key_image_generation_disabled",
        ),
    }
    for secret, (status, code) in refused.items():
        answered, _, body = parse(await beside.raw(post(secret, PROMPT)))
        assert answered == status
        check_error(body, code)
    assert upstream.calls == []


async def test_quota_that_text_calls_use_up_stops_pictures_at_once(
    llm: LlmAccess, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    """By NOTIFY: what is known of the key would be good for ten minutes more."""
    secret = llm.add_llm_key("k", used=999, codex_image_generation_enabled=True)

    async def status() -> int:
        return parse(await beside.raw(post(secret, PROMPT)))[0]

    assert await status() == 200
    llm.change("llm_key_usage_rollups", {"key_id": "k"}, billable_tokens=1000)
    async with asyncio.timeout(BOUND_SECONDS):
        while (seen := await status()) == 200:
            pass
    assert seen == 429
    calls = len(upstream.calls)
    assert await status() == 429
    assert len(upstream.calls) == calls
