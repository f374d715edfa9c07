"""An answer cut at every kind of place, framed in every way: never taken for a whole one."""

import json
from typing import Any

import pytest

from tests.daemon.conftest import MakeDoor, frames_of
from tests.parts.gateway import post, rest_of
from tests.parts.upstream import Call, ScriptedUpstream, drawn, frame, images, picture

WHOLE = json.dumps(images(1, data=[{"b64_json": picture(3000)}])).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
FRAMINGS = {
    "by its length": HEAD + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE,
    "by chunks": HEAD
    + b"transfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (WHOLE[:900], WHOLE[900:]))
    + b"0\r\n\r\n",
    "by its end": HEAD + b"\r\n" + WHOLE,
}
PLACES = [
    "nothing",
    "in the status",
    "in the headers",
    "behind the headers",
    "in the picture",
    "before the last byte",
]


def cut(framing: str, place: str) -> bytes:
    wire = FRAMINGS[framing]
    body = wire.index(b"\r\n\r\n") + 4
    at = {
        "nothing": 0,
        "in the status": 7,
        "in the headers": body - 8,
        "behind the headers": body,
        "in the picture": body + 1500,
        "before the last byte": len(wire) - 1,
    }[place]
    return wire[:at]


def sends(data: bytes, *, reset: bool) -> Any:
    async def script(call: Call) -> None:
        await call.send(data)
        if reset:
            call.writer.transport.abort()

    return script


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", ["codex", "azure-v1", "openai"])
async def test_a_cut_answer_is_never_a_whole_one(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    kind: str,
    framing: str,
    place: str,
    *,
    reset: bool,
) -> None:
    door = make_account(kind)
    upstream.script = sends(cut(framing, place), reset=reset)
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, b'{"prompt": "a cat"}'))
    answer = await rest_of(reader)
    writer.close()
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["may_be_billed"]
    assert b"\r\nx-should-retry: false\r\n" in answer
    if place in {"in the picture", "before the last byte"} and kind != "codex":
        assert answer.startswith(b"HTTP/1.1 502")
        assert record["error_code"] == "upstream_cut"
    else:
        assert answer.startswith((b"HTTP/1.1 504", b"HTTP/1.1 502"))
        assert record["error_code"] in {"outcome_unknown", "upstream_invalid", "upstream_cut"}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_whole_answer_is_one_however_it_is_framed(
    make_account: MakeDoor, upstream: ScriptedUpstream, framing: str
) -> None:
    door = make_account("openai")
    upstream.script = sends(FRAMINGS[framing], reset=False)
    status, _, body = await door.post(b'{"prompt": "a cat"}')
    assert (status, body) == (200, WHOLE)
    assert (await door.record())["error_code"] is None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_answer_that_was_to_become_a_stream_is_cut_before_anything_is_sent(
    make_account: MakeDoor, upstream: ScriptedUpstream, framing: str, place: str
) -> None:
    door = make_account("codex")
    upstream.script = sends(cut(framing, place), reset=False)
    status, headers, body = await door.post(b'{"prompt": "a cat", "stream": true}')
    code = json.loads(body)["error"]["code"]
    assert (status, code) in {(504, "outcome_unknown"), (502, "upstream_invalid")}
    assert headers["x-should-retry"] == "false"
    assert (await door.record())["may_be_billed"]


EVENTS = b"".join(map(frame, drawn(1)))
MADE = EVENTS.index(b"event: response.completed")


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("at", [0, 10, 150, MADE - 200, MADE - 1, MADE, MADE + 30, len(EVENTS) - 1])
async def test_a_responses_call_is_cut_anywhere(
    make_account: MakeDoor, upstream: ScriptedUpstream, at: int, *, stream: bool
) -> None:
    """Once its picture is whole it is delivered; before that nothing is known of it."""
    door = make_account("codex-responses")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    upstream.script = sends(head + EVENTS[:at], reset=False)
    asked = {"prompt": "a cat", "stream": stream}
    status, _, body = await door.post(json.dumps(asked).encode())
    assert len(upstream.calls) == 1
    record = await door.record()
    if at >= MADE - 1:
        # All that its event may lack is its blank line.
        assert status == 200
        found = frames_of(body)[0] if stream else json.loads(body)["data"][0]
        assert found["b64_json"] == picture()
        assert record["error_code"] is None
    else:
        assert (status, json.loads(body)["error"]["code"]) == (504, "outcome_unknown")
        assert record["may_be_billed"]
