"""Answers that an upstream compresses although identity was asked for."""

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from tests.daemon.conftest import Door, MakeDoor, frames_of
from tests.daemon.test_failover import error
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    frame,
    images,
    picture,
)

STREAM = b'{"prompt": "a cat", "stream": true}'
LARGE = images(data=[{"b64_json": picture(2_000_000)}])
WAYS: dict[str, tuple[Callable[[bytes], bytes], dict[str, str]]] = {
    "gzip": (gzip.compress, {"content-encoding": "gzip"}),
    "deflate": (zlib.compress, {"content-encoding": "deflate"}),
    "zstd": (zstd.compress, {"content-encoding": "zstd"}),
    "zstd unnamed": (zstd.compress, {}),
    "gzip unnamed": (gzip.compress, {}),
    "named and not done": (bytes, {"content-encoding": "gzip"}),
    "after a byte order mark": (lambda text: b"\xef\xbb\xbf" + text, {}),
    "deflate named and not done": (bytes, {"content-encoding": "deflate"}),
    "brotli named and not done": (bytes, {"content-encoding": "br"}),
    "a byte order mark in gzip": (lambda text: gzip.compress(b"\xef\xbb\xbf" + text), {}),
}
ways = pytest.mark.parametrize(("compress", "headers"), WAYS.values(), ids=WAYS)
Compress = Callable[[bytes], bytes]


@ways
async def test_a_compressed_answer_is_delivered_plain(
    door: Door, upstream: ScriptedUpstream, compress: Compress, headers: dict[str, str]
) -> None:
    upstream.script = answers(200, compress(json.dumps(LARGE).encode()), headers)
    status, named, body = await door.post(PROMPT)
    assert status == 200
    assert json.loads(body) == LARGE
    assert "content-encoding" not in named
    assert upstream.calls[-1].headers["accept-encoding"] == "identity"
    record = await door.record()
    assert (record["error_code"], record["response_image_count"]) == (None, 1)
    assert record["usage"] == images()["usage"]


@ways
async def test_a_compressed_stream_is_delivered_plain(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    compress: Compress,
    headers: dict[str, str],
) -> None:
    door = make_account("openai")
    event = completed(size=200_000)
    upstream.script = answers(
        200, compress(frame(event)), {"content-type": "text/event-stream", **headers}
    )
    status, _, body = await door.post(STREAM)
    assert (status, frames_of(body)) == (200, [event])
    assert (await door.record())["response_image_count"] == 1


@ways
async def test_a_picture_in_compressed_responses_events_is_found(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    compress: Compress,
    headers: dict[str, str],
) -> None:
    door = make_account("codex-responses")
    upstream.script = answers(
        200,
        compress(b"".join(map(frame, drawn()))),
        {"content-type": "text/event-stream", **headers},
    )
    status, _, body = await door.post(PROMPT)
    assert (status, len(json.loads(body)["data"])) == (200, 1)
    assert (await door.record())["response_image_count"] == 1


@ways
async def test_a_compressed_error_says_what_it_says(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    compress: Compress,
    headers: dict[str, str],
) -> None:
    door = make_account("openai")
    told = error("moderation_blocked", message="Your prompt was refused.")
    upstream.script = answers(400, compress(json.dumps(told).encode()), headers)
    status, named, body = await door.post(PROMPT)
    assert (status, json.loads(body)["error"]["code"]) == (400, "moderation_blocked")
    assert json.loads(body)["error"]["message"] == "Your prompt was refused."
    assert "content-encoding" not in named
    assert (await door.record())["error_code"] == "moderation_blocked"


BROKEN = {
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
    "brotli": (b"\x0b\x02\x80{}\x03", "br"),
    "two encodings": (gzip.compress(b"{}"), "gzip, br"),
    "cut": (gzip.compress(json.dumps(images()).encode())[:50], "gzip"),
    "noise within": (gzip.compress(b"{}")[:12] + b"noise", "gzip"),
    "noise": (b"noise", "deflate"),
}


@pytest.mark.parametrize(("data", "encoding"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["answer", "stream"])
async def test_what_cannot_be_opened_is_an_invalid_answer(
    make_account: MakeDoor, upstream: ScriptedUpstream, data: bytes, encoding: str, body: bytes
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, data, {"content-encoding": encoding})
    status, headers, told = await door.post(body)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    record = await door.record()
    assert (record["error_code"], record["may_be_billed"]) == ("upstream_invalid", True)


@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["answer", "stream"])
async def test_a_bomb_costs_no_memory(
    make_account: MakeDoor, upstream: ScriptedUpstream, body: bytes
) -> None:
    door = make_account("openai")
    compressor = zlib.compressobj(wbits=31)
    begin = compressor.compress(b'{"data":[{"b64_json":""}],"x":"')
    bomb = begin + b"".join(compressor.compress(b"A" * 2**20) for _ in range(300))
    bomb += compressor.compress(b'"}') + compressor.flush()

    async def script(call: Call) -> None:
        await call.answer(200, bomb, {"content-encoding": "gzip"})

    upstream.script = script
    before = door.gateway.memory()
    door.gateway.forget_peak()
    status, headers, told = await door.post(body)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    assert door.gateway.memory("VmHWM") - before < 64 * 2**20
    assert (await door.record())["error_code"] == "upstream_invalid"
