"""What the control plane keeps encrypted signs calls, and shows nowhere."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.daemon.conftest import Door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

TOKEN = "planted-access-token-7f3a"
PASSWORD = "planted-proxy-password-55de"


@dataclass(frozen=True)
class Sealed:
    """A key in a file of its own, and what it seals."""

    path: Path
    key: bytes

    def __call__(self, text: str) -> dict[str, Any]:
        value = Fernet(self.key).encrypt(text.encode()).decode()
        return {"encrypted": {"scheme": "fernet", "value": value}}


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    made = Sealed(tmp_path / "encryption.key", Fernet.generate_key())
    made.path.write_bytes(made.key + b"\n")
    return made


@pytest.fixture
def opened(plane: Plane, make_gateway: Callable[..., Gateway], sealed: Sealed) -> Door:
    """A daemon with the key, and a client's key for whatever account there will be."""
    gateway = make_gateway(plane.reader_url, credential_key_file=sealed.path).start()
    secret = plane.add_key(key_id="key-1")
    return Door(gateway, plane, "key-1", secret, "sealed")


async def test_the_upstream_sees_the_opened_token_and_the_proxy_the_opened_password(
    opened: Door, sealed: Sealed, upstream: ScriptedUpstream
) -> None:
    opened.plane.add_account(
        "sealed",
        upstream.url,
        credential={**sealed(TOKEN), "account_id": "acct-1"},
        proxy_url=upstream.root,
        proxy_username="user-1",
        proxy_password=json.dumps(sealed(PASSWORD)),
    )
    status, _, _ = await opened.post(b'{"prompt": "a cat"}')
    assert status == 200
    [call] = upstream.calls
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.headers["chatgpt-account-id"] == "acct-1"
    pair = base64.b64encode(f"user-1:{PASSWORD}".encode()).decode()
    assert call.headers["proxy-authorization"] == f"Basic {pair}"
    record = await opened.record()
    assert (record["status"], record["account_name"]) == (200, "sealed")
    assert [each["action"] for each in record["attempts"]] == ["deliver"]
    gateway = opened.gateway
    assert await asyncio.to_thread(gateway.stop) == 0
    for path in gateway.folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        for secret in (TOKEN, PASSWORD, sealed.key.decode()):
            assert secret.encode() not in data, path.name


async def test_a_wrong_key_takes_only_its_own_account_out_of_service(
    opened: Door, sealed: Sealed, upstream: ScriptedUpstream
) -> None:
    """Until the row has a value that opens."""
    other = Sealed(sealed.path, Fernet.generate_key())
    opened.plane.add_account("sealed", upstream.url, credential=other(TOKEN))
    opened.plane.add_account("plain", upstream.url, credential={"access_token": "token-1"})
    gateway = opened.gateway
    assert (await opened.post(b'{"prompt": "a cat"}'))[0] == 200
    assert upstream.calls[-1].headers["authorization"] == "Bearer token-1"
    assert (await opened.record())["account_name"] == "plain"
    await eventually(
        lambda: "left out of service: account sealed: credential is encrypted" in gateway.words()
    )
    opened.plane.update("accounts", {"account_name": "plain"}, status="disabled")
    opened.plane.update("accounts", {"account_name": "sealed"}, credential=sealed(TOKEN))
    assert (await opened.post(b'{"prompt": "a dog"}'))[0] == 200
    assert upstream.calls[-1].headers["authorization"] == f"Bearer {TOKEN}"
    await opened.record(account_name="sealed", status=200)
    assert gateway.stop() == 0
    assert TOKEN not in gateway.words()
