"""Planted secrets are searched for in every byte that the daemon wrote or answered."""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon.conftest import Door
from tests.parts import forms
from tests.parts.eventually import eventually
from tests.parts.forms import Piece
from tests.parts.gateway import free_port, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, partial, streams

TOKEN = "planted-access-token-7f3a"
ACCOUNT_ID = "planted-account-id-19bc"
PASSWORD = "planted-proxy-password-55de"
PROMPT = "planted prompt: a purple zebra on the moon"
PICTURE = base64.b64encode(b"\x89PNG planted picture " * 400).decode()
ADDRESS = "https://planted.example.com/private.png?signature=planted-signature"
USER = "planted-user@example.com"

PLANTED = (TOKEN, ACCOUNT_ID, PASSWORD, "purple zebra", PICTURE[:64], "planted-signature", USER)


def planted_in(data: bytes, *more: str) -> list[str]:
    return [text for text in (*PLANTED, *more) if text.encode() in data]


@dataclass
class Planted:
    """A daemon whose account, key, calls and upstream are full of secrets."""

    door: Door
    answers: list[bytes]

    async def send(self, body: bytes, path: str = "/v1/images/edits", **headers: str) -> int:
        status, _, answer = await self.door.post(body, path, **headers)
        self.answers.append(answer)
        return status

    async def check(self) -> None:
        """Stop the daemon, and search everything that it wrote or answered."""
        gateway = self.door.gateway
        await eventually(lambda: len(gateway.records()) == len(self.answers))
        assert await asyncio.to_thread(gateway.stop) == 0
        written = [path for path in gateway.folder.rglob("*") if path.is_file()]
        assert {"requests.jsonl", "words.log"} <= {path.name for path in written}
        for path in written:
            assert planted_in(path.read_bytes(), self.door.secret) == [], path.name
        for answer in self.answers:
            assert planted_in(answer, self.door.secret) == [], answer


@pytest.fixture
def planted(plane: Plane, make_gateway: Any, upstream: ScriptedUpstream) -> Planted:
    gateway = make_gateway(
        plane.reader_url, max_request_bytes=200_000, retry_guard_seconds=0
    ).start()
    secret = plane.add_key(key_id="key-1", account_names=["visible-account"])
    credential = {"access_token": TOKEN, "account_id": ACCOUNT_ID}
    plane.add_account("visible-account", upstream.url, credential=credential)
    return Planted(Door(gateway, plane, "key-1", secret, "visible-account"), [])


async def echoes(call: Call) -> None:
    """An upstream that repeats all it was told in its error."""
    heard = call.headers["authorization"]
    echo = f"{heard} {ACCOUNT_ID} visible-account data:image/png;base64,{PICTURE}"
    await call.answer(400, {"error": {"message": echo, "type": "x", "param": None, "code": echo}})


async def test_no_secret_prompt_or_picture_is_written_anywhere(
    planted: Planted, upstream: ScriptedUpstream
) -> None:
    door, send, answers = planted.door, planted.send, planted.answers
    plane, gateway = door.plane, door.gateway
    credential = {"access_token": TOKEN, "account_id": ACCOUNT_ID}
    plane.add_account(
        "broken-account",
        "http://planted-user:planted-proxy-password-55de@127.0.0.1",
        credential=credential,
    )
    body = {"prompt": PROMPT, "user": USER, "images": [f"data:image/png;base64,{PICTURE}"]}
    edit = json.dumps(body).encode()
    assert await send(edit) == 200

    # Only OpenAI fetches a picture by its address.
    addressed = json.dumps({**body, "images": [ADDRESS]}).encode()
    assert await send(addressed) == 400
    plane.add_account(
        "fetching-account", upstream.root, dialect="openai", credential={"api_key": TOKEN}
    )
    plane.update("keys", {"key_id": "key-1"}, account_names=["fetching-account"])
    assert await send(addressed) == 200
    plane.update("keys", {"key_id": "key-1"}, account_names=["visible-account"])

    upstream.script = echoes
    assert await send(edit) == 400
    assert b"visible-account" not in answers[-1]
    upstream.script = lambda call: call.answer(422, f"{TOKEN} {PICTURE}".encode())
    assert await send(edit) == 422
    upstream.script = lambda call: call.answer(
        200, f"<{TOKEN}>".encode(), {"content-type": "text/html"}
    )
    assert await send(edit) == 502
    upstream.script = lambda call: call.send(f"HTTP/1.1 200 OK\r\n{TOKEN}\r\n\r\n".encode())
    assert await send(edit) == 504
    # Bodies that break, at a place that holds something secret.
    assert await send(edit[:-1]) == 400
    assert await send(edit.replace(b'"prompt"', b'"%b"' % PROMPT.encode())) == 400
    assert await send(edit.replace(b'"user"', b'"n"')) == 400
    assert await send(edit + b"x" * 200_000) == 413
    assert await send(edit, content_type=f"text/{USER}") == 415
    # A proxy that cannot be reached, with a password.
    plane.update(
        "accounts",
        {"account_name": "visible-account"},
        proxy_url=f"http://127.0.0.1:{free_port()}",
        proxy_username="somebody",
        proxy_password=PASSWORD,
    )

    async def unreachable() -> bool:
        return await send(edit) == 502 and b"upstream_unreachable" in answers[-1]

    assert await unreachable()
    # A key that nobody knows, and a path that holds one.
    raw = post("planted-user@example.com", b"{}")
    answers.append(parse(await gateway.raw(raw))[2])
    await planted.check()
    assert "broken-account" in gateway.words()
    hashes = {record["prompt_hmac"] for record in gateway.records()}
    assert len(hashes - {None}) == 1


async def test_nor_by_multipart_in_events_or_behind_a_socks_proxy(
    planted: Planted, upstream: ScriptedUpstream
) -> None:
    plane, send, answers = planted.door.plane, planted.send, planted.answers
    parts = forms.body(
        Piece("image", b"\x89PNG\r\n\x1a\n" + PICTURE.encode(), f"{USER}.png"),
        ("prompt", PROMPT),
        ("user", USER),
    )
    upstream.script = echoes
    assert await send(parts, content_type=forms.FORM) == 400
    for broken in (
        parts[:-20],
        parts.replace(b'name="user"', f'name="{USER}"'.encode()),
        parts.replace(b'name="user"', b'name="n"'),
        parts.replace(b"\x89PNG", b"none"),
        parts.replace(b'name="prompt"', b'name="size"'),
    ):
        assert await send(broken, content_type=forms.FORM) == 400

    async def echoes_in_events(call: Call) -> None:
        """And in a stream, before anything else and after a frame."""
        echo = f"Bearer {TOKEN} {ACCOUNT_ID} visible-account data:image/png;base64,{PICTURE}"
        error = {"type": "error", "error": {"message": echo, "type": echo, "code": echo}}
        later = [partial(0)] if "partial_images" in call.json() else []
        await streams([*later, error])(call)

    plane.add_account(
        "visible-openai",
        f"{upstream.root}/v1",
        dialect="openai",
        credential={"api_key": TOKEN},
    )
    plane.update("keys", {"key_id": "key-1"}, account_names=["visible-openai"])
    upstream.script = echoes_in_events
    asked = {"prompt": PROMPT, "user": USER, "stream": True}
    assert await send(json.dumps(asked).encode(), "/v1/images/generations") == 500
    asked["partial_images"] = 1
    assert await send(json.dumps(asked).encode(), "/v1/images/generations") == 200
    assert b"visible-openai" not in answers[-1]
    plane.update("keys", {"key_id": "key-1"}, account_names=["visible-account"])
    # A SOCKS proxy that cannot be reached, with a password.
    plane.update(
        "accounts",
        {"account_name": "visible-account"},
        proxy_url=f"socks5h://127.0.0.1:{free_port()}",
        proxy_username="somebody",
        proxy_password=PASSWORD,
    )
    assert await send(parts, content_type=forms.FORM) == 502
    await planted.check()
