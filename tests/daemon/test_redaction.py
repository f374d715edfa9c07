"""Planted secrets are searched for in every byte that the daemon wrote or answered."""

import asyncio
import base64
import json
from typing import Any

from tests.daemon.conftest import Door
from tests.parts.eventually import eventually
from tests.parts.gateway import free_port, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream

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


async def test_no_secret_prompt_or_picture_is_written_anywhere(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, max_request_bytes=200_000).start()
    secret = plane.add_key(key_id="key-1", account_names=["visible-account"])
    credential = {"access_token": TOKEN, "account_id": ACCOUNT_ID}
    plane.add_account("visible-account", upstream.url, credential=credential)
    plane.add_account(
        "broken-account",
        "http://planted-user:planted-proxy-password-55de@127.0.0.1",
        credential=credential,
    )
    door = Door(gateway, plane, "key-1", secret, "visible-account")
    answers: list[bytes] = []

    async def send(body: bytes, path: str = "/v1/images/edits", **headers: str) -> int:
        status, _, answer = await door.post(body, path, **headers)
        answers.append(answer)
        return status

    edit = json.dumps(
        {"prompt": PROMPT, "user": USER, "images": [f"data:image/png;base64,{PICTURE}", ADDRESS]}
    ).encode()
    assert await send(edit) == 200

    async def echoes(call: Call) -> None:
        """An upstream that repeats all it was told in its error."""
        heard = call.headers["authorization"]
        echo = f"{heard} {ACCOUNT_ID} visible-account data:image/png;base64,{PICTURE}"
        await call.answer(
            400, {"error": {"message": echo, "type": "x", "param": None, "code": echo}}
        )

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
    await eventually(lambda: len(gateway.records()) == len(answers))
    assert await asyncio.to_thread(gateway.stop) == 0
    written = [path for path in gateway.folder.rglob("*") if path.is_file()]
    assert {"requests.jsonl", "words.log"} <= {path.name for path in written}
    for path in written:
        assert planted_in(path.read_bytes(), secret) == [], path.name
    for answer in answers:
        assert planted_in(answer, secret) == [], answer
    assert "broken-account" in gateway.words()
    hashes = {record["prompt_hmac"] for record in gateway.records()}
    assert len(hashes - {None}) == 1
