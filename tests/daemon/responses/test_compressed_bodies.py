"""Compressed bodies on the Responses paths: opened to see what they ask for."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping

import pytest
from backports import zstd

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.responses.calls import TextApi
from tests.daemon.test_refusals import check_refused
from tests.parts.upstream import ScriptedUpstream

PATH = "/v1/responses"
TEXT = b'{"model":"gpt-5","input":"caf\xc3\xa9"}'
INTENT = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}]}'
MIB = 1024 * 1024
MOST = 4 * MIB

ENCODINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "identity, gzip": gzip.compress,
}
encodings = pytest.mark.parametrize("encoding", ENCODINGS)


SETTINGS = {"max_request_bytes": MOST}


async def ask(door: Door, body: bytes, encoding: str) -> tuple[int, dict[str, str], bytes]:
    return await door.post(body, PATH, content_encoding=encoding)


@encodings
async def test_a_picture_in_a_compressed_body_passes_no_switch(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, encoding: str
) -> None:
    door = make(key={"image_enabled": False})
    answer = await ask(door, ENCODINGS[encoding](INTENT), encoding)
    await check_refused(door, answer, 403, "key_image_generation_disabled")
    assert upstream.calls == text_api.calls == []


@encodings
@pytest.mark.parametrize("padding", [0, 2 * MIB])
async def test_a_compressed_intent_goes_on_plain(
    make: MakeDoor,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    encoding: str,
    padding: int,
) -> None:
    door = make()
    body = INTENT.replace(b"a cat", b"a cat" + b"!" * padding)
    status, _, answer = await ask(door, ENCODINGS[encoding](body), encoding)
    assert (status, len(json.loads(answer)["output"])) == (200, 1)
    [call] = upstream.calls
    assert "content-encoding" not in call.headers
    said = call.json()["input"][0]["content"][0]["text"]
    assert said == "a cat" + "!" * padding
    assert text_api.calls == []
    assert (await door.record())["response_image_count"] == 1


@encodings
async def test_compressed_text_goes_on_as_it_came(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, encoding: str
) -> None:
    door = make()
    packed = ENCODINGS[encoding](TEXT)
    assert (await ask(door, packed, encoding))[0] == 200
    [call] = text_api.calls
    assert (call.body, call.headers["content-encoding"]) == (packed, encoding)
    assert upstream.calls == []
    record = await door.record()
    assert (record["status"], record["model"], record["request_bytes"]) == (
        200,
        "gpt-5",
        len(packed),
    )


@encodings
@pytest.mark.parametrize("start", [INTENT[:-1] + b',"x":"', TEXT[:-1] + b',"x":"'])
async def test_a_bomb_is_too_large(
    make: MakeDoor,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    encoding: str,
    start: bytes,
) -> None:
    door = make()
    packed = ENCODINGS[encoding](start + b"a" * (64 * MIB))
    assert len(packed) < MIB
    answer = await ask(door, packed, encoding)
    await check_refused(door, answer, 413, "request_too_large")
    assert upstream.calls == text_api.calls == []


BROKEN: Mapping[str, tuple[str, bytes, int]] = {
    "plain under another name": ("gzip", INTENT, 400),
    "plain JSON as deflate": ("deflate", INTENT, 400),
    "cut off": ("gzip", gzip.compress(INTENT)[:-9], 400),
    "two bodies": ("deflate", zlib.compress(TEXT) + zlib.compress(INTENT), 400),
    "a body in the padding": (
        "gzip",
        gzip.compress(TEXT[:-1]) + b"\0" + gzip.compress(b"," + INTENT[1:]),
        400,
    ),
    "another encoding": ("zstd", gzip.compress(INTENT), 400),
    "UTF-16 inside": ("gzip", gzip.compress(INTENT.decode().encode("utf-16")), 400),
    "twice": ("gzip, gzip", gzip.compress(gzip.compress(INTENT)), 415),
    "brotli": ("br", b"\x0b\x02\x80{}\x03", 415),
    "an unknown one": ("none", INTENT, 415),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_cannot_be_opened_goes_to_nobody(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, name: str
) -> None:
    encoding, body, status = BROKEN[name]
    door = make(key={"image_enabled": False})
    code = "invalid_body" if status == 400 else "unsupported_media_type"
    await check_refused(door, await ask(door, body, encoding), status, code)
    assert upstream.calls == text_api.calls == []


async def test_a_refusal_names_the_encodings_that_can_be_opened(make: MakeDoor) -> None:
    _, _, answer = await ask(make(), b"x", "br")
    message = json.loads(answer)["error"]["message"]
    assert all(name in message for name in ("deflate", "gzip", "zstd"))
