"""A daemon beside a sub2api: its keys make pictures on its accounts."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from image_gateway import sql
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.eventually import BOUND_SECONDS
from tests.parts.gateway import parse, post
from tests.parts.upstream import ScriptedUpstream, picture
from tests.planes.sub2api.plane import Sub2Api


@pytest.fixture
def sub2api(postgres_url: str) -> Iterator[Sub2Api]:
    made = Sub2Api(postgres_url)
    made.create_bare()
    made.install()
    made.execute(sql.schema("sub2api_notify"))
    yield made
    made.drop()


async def test_keys_of_sub2api_make_pictures_on_its_accounts(
    sub2api: Sub2Api, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    """One on Codex; one on an account with an API key once Codex is switched off there."""
    sub2api.execute("UPDATE accounts SET proxy_id = NULL")
    sub2api.execute("UPDATE accounts SET deleted_at = now() WHERE id > 1")
    credentials = {"api_key": "secret-key", "base_url": upstream.url}
    name = sub2api.add_openai(1, name="relay", priority=99, credentials=credentials)
    # What is known would be good for ten minutes: all that changes below is told by NOTIFY.
    gateway = make_gateway(sub2api.reader_url, codex_base_url=upstream.url, grant_ttl_seconds=600)
    gateway.start()
    async with gateway.client("sk-s2a-active") as client, asyncio.timeout(BOUND_SECONDS):
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
        assert [item.b64_json for item in made.data or []] == [picture()]
        record = await gateway.record(key_id="1")
        assert (record["account_name"], record["owner_id"]) == ("1:codex-1", "1")
        assert (record["key_name"], record["group_id"], record["status"]) == ("ok", "1", 200)
        sub2api.execute("UPDATE accounts SET schedulable = false WHERE id = 1")
        while upstream.calls[-1].headers["authorization"] == "Bearer at-1":
            await client.images.generate(model="gpt-image-2", prompt="a dog")
        assert upstream.calls[-1].headers["authorization"] == "Bearer secret-key"
        assert upstream.calls[-1].target.endswith("/v1/images/generations")
        assert (await gateway.record(account_name=name))["dialect"] == "openai"
        sub2api.execute("UPDATE users SET balance = 0 WHERE id = 1")
        status = 200
        while status == 200:
            status, _, body = parse(await gateway.raw(post("sk-s2a-active", PROMPT)))
    assert status == 429
    check_error(body, "insufficient_quota")
