"""Keys over CLIProxyAPI's credentials: ``image-gateway control`` makes them, calls use them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.__main__ import main
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post
from tests.parts.upstream import ScriptedUpstream, picture
from tests.planes.cliproxyapi.database import Store

pytestmark = pytest.mark.slow

Control = Callable[..., Any]


@pytest.fixture
def control(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Control:
    """Runs ``image-gateway control LINE`` over the store; gives what it prints."""
    monkeypatch.setenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL", store.url)

    def run(line: str, code: int = 0) -> Any:
        assert main(["control", *line.split(), "--json"]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    return run


def test_a_key_that_control_makes_may_use_named_credentials_of_the_store(
    store: Store, control: Control
) -> None:
    control(
        "account add pool --openai --base-url http://pool.example/v1 --api-key-file /dev/null", 64
    )
    store.execute(
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('pool', 'openai')"
    )
    control("group create artists --images")
    made = control("key create k1 --group artists --accounts team/codex-h.json,pool --images 9")
    key = store.key(made["secret"])
    assert (key.key_id, key.status, key.group_image_enabled) == ("k1", "active", True)
    assert (key.account_names, key.images_remaining) == (("team/codex-h.json", "pool"), 9)
    for nobody in ("claude-g.json", "nobody"):
        assert f"there is no account {nobody}" in control(f"key accounts k1 {nobody}", 1)
    control("key accounts k1 --all")
    assert store.key(made["secret"]).account_names is None
    control("key disable k1")
    assert store.key(made["secret"]).status == "disabled"


def test_calls_are_charged_to_the_adapter_s_own_keys_once(store: Store, control: Control) -> None:
    secret = control("key create k2 --quota 1000 --images 9 --usd 5")["secret"]
    call: dict[str, Any] = {
        "request_id": "r1",
        "key_id": "k2",
        "at": datetime.now(UTC),
        "model": "gpt-image-2",
        "account_name": "codex-a.json",
        "tokens": Jsonb({"total": 300}),
        "images": 2,
        "cost": Decimal("0.5"),
    }
    assert [store.charge(**call) for _ in range(2)] == ["charged", "charged_before"]
    # Over a Codex subscription a call has no price.
    assert store.charge(**{**call, "request_id": "r2", "cost": None}) == "charged"
    assert store.charge(**{**call, "request_id": "r3", "key_id": "gone"}) == "unknown_key"
    key = store.key(secret)
    assert (key.quota_remaining, key.images_remaining, key.cost_remaining) == (400, 5, 4.5)
    with (
        psycopg.connect(store.charger_url) as charger,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        charger.execute("TABLE public.auth_store")


async def test_a_daemon_makes_a_picture_on_a_credential_of_the_store(
    postgres_url: str, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    store = Store(postgres_url)
    store.create_bare()
    try:
        store.install()
        store.execute(sql.schema("cliproxyapi_notify"))
        store.add_file("codex-me.json", access_token="token-1", account_id="acc-1")
        store.execute(
            "INSERT INTO image_adapter.keys (key_id, key_name, key_hash, account_names)"
            " VALUES ('k', 'Ada', encode(sha256('sk-ada'), 'hex'), '{codex-me.json}')"
        )
        gateway: Gateway = make_gateway(
            store.reader_url, codex_base_url=upstream.url, grant_ttl_seconds=600
        )
        gateway.start()
        async with gateway.client("sk-ada") as client:
            made = await client.images.generate(model="gpt-image-2", prompt="a cat")
        assert [item.b64_json for item in made.data or []] == [picture()]
        [call] = upstream.calls
        assert call.headers["authorization"] == "Bearer token-1"
        assert call.headers["chatgpt-account-id"] == "acc-1"
        record = await gateway.record(key_id="k")
        assert (record["key_name"], record["account_name"]) == ("Ada", "codex-me.json")

        async def signed_by_the_new_token() -> bool:
            await gateway.raw(post("sk-ada", b'{"prompt": "a dog"}'))
            return upstream.calls[-1].headers["authorization"] == "Bearer token-2"

        store.execute(
            'UPDATE auth_store SET content = content || \'{"access_token": "token-2"}\''
            " WHERE id = 'codex-me.json'"
        )
        await eventually(signed_by_the_new_token)
    finally:
        store.drop()
