"""A daemon beside a codex-lb: its keys make pictures on its accounts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_gateway import sql
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.upstream import ScriptedUpstream, picture
from tests.planes.codex_lb.database import KEY, PASSWORD, CodexLb


@pytest.fixture
def lb(postgres_url: str) -> Iterator[CodexLb]:
    made = CodexLb(postgres_url)
    made.create_bare()
    made.install()
    made.execute(sql.schema("codex_lb_notify"))
    yield made
    made.drop()


@pytest.fixture
def beside(lb: CodexLb, make_gateway: Any, upstream: ScriptedUpstream, tmp_path: Path) -> Gateway:
    """A daemon with codex-lb's key, that would not look at the database again by itself."""
    key_file = tmp_path / "encryption.key"
    key_file.write_text(KEY)
    gateway: Gateway = make_gateway(
        lb.reader_url,
        codex_base_url=upstream.url,
        credential_key_file=key_file,
        grant_ttl_seconds=600,
    )
    return gateway.start()


async def test_a_key_of_codex_lb_makes_a_picture_on_its_account_through_its_proxy(
    lb: CodexLb, beside: Gateway, upstream: ScriptedUpstream
) -> None:
    address, port = upstream.root.removeprefix("http://").split(":")
    lb.add_lb_account("mine", chatgpt_account_id="acc-mine")
    lb.add_pool(
        "pool", host=address, port=int(port), username="u", password_encrypted=PASSWORD.encode()
    )
    lb.bind("mine", "pool")
    secret = lb.add_lb_key("k", account_assignment_scope_enabled=True)
    lb.insert("api_key_accounts", api_key_id="k", account_id="mine")
    async with beside.client(secret) as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
    assert [item.b64_json for item in made.data or []] == [picture()]
    [call] = upstream.calls
    assert call.headers["authorization"] == "Bearer plane-test-access-token"
    assert call.headers["chatgpt-account-id"] == "acc-mine"
    assert call.headers["proxy-authorization"] == "Basic dTpwcm94eS1wYXNz"  # u:proxy-pass
    record = await beside.record(key_id="k")
    assert (record["key_name"], record["account_name"]) == ("name of k", "mine")
    assert record["status"] == 200

    async def status() -> int:
        return parse(await beside.raw(post(secret, b'{"prompt": "a dog"}')))[0]

    async def is_refused() -> bool:
        return await status() == 403

    assert await status() == 200
    lb.execute("UPDATE api_keys SET is_active = false WHERE id = 'k'")
    await eventually(is_refused)
