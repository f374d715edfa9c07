"""A daemon beside a new-api: its keys make pictures over its channels."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from image_gateway import sql
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.upstream import ScriptedUpstream, picture
from tests.planes.new_api.database import NewApi


@pytest.fixture
def api(postgres_url: str) -> Iterator[NewApi]:
    made = NewApi(postgres_url)
    made.create_bare()
    made.install()
    made.execute(sql.schema("new_api_notify"))
    yield made
    made.drop()


@pytest.fixture
def beside(api: NewApi, make_gateway: Any, upstream: ScriptedUpstream) -> Gateway:
    """A daemon that would not look at the database again by itself."""
    gateway: Gateway = make_gateway(
        api.reader_url, codex_base_url=upstream.url, grant_ttl_seconds=600
    )
    return gateway.start()


async def test_a_key_of_new_api_makes_a_picture_over_a_channel_of_its_group(
    api: NewApi, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    user = api.add_user(group="painters")
    login = {"type": "codex", "access_token": "at-mine", "account_id": "acc-mine"}
    channel = api.add_channel("painters", type=57, key=json.dumps(login))
    secret = api.add_token("Daemon", user_id=user)
    key_id = api.key(secret).key_id
    async with beside.client(secret) as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
    assert [item.b64_json for item in made.data or []] == [picture()]
    [call] = upstream.calls
    assert call.headers["authorization"] == "Bearer at-mine"
    assert call.headers["chatgpt-account-id"] == "acc-mine"
    record = await beside.record(key_id=key_id)
    assert (record["key_name"], record["group_id"]) == ("Daemon", "painters")
    assert (record["account_name"], record["status"]) == (channel, 200)

    async def status() -> int:
        return parse(await beside.raw(post(secret, b'{"prompt": "a dog"}')))[0]

    async def is_refused() -> bool:
        return await status() == 429

    assert await status() == 200
    # A charge takes what the user has left, and the gateway hears of it.
    assert (
        api.charge(
            request_id=record["request_id"],
            key_id=key_id,
            at=record["time"],
            model=record["model"],
            account_name=record["account_name"],
            tokens="{}",
            images=1,
            cost=10,
        )
        == "charged"
    )
    await eventually(is_refused)
