"""Errors nested deeper than any parser likes: the call ends by its status, never with a 500."""

import json
from typing import Any

import pytest

from tests.daemon.conftest import MakeDoor
from tests.daemon.test_refusals import PROMPT
from tests.parts.upstream import ScriptedUpstream, answers

STREAM = b'{"prompt": "a cat", "stream": true}'
BODIES = pytest.mark.parametrize("sent", [PROMPT, STREAM], ids=["answer", "stream"])
DEPTHS = [40, 200, 253, 490, 1000, 1100, 20_000]


def nested(depth: int, inner: str = "1") -> str:
    return '{"a":' * depth + inner + "}" * depth


SHAPES = {
    "within the error": '{"error":{"message":"m","code":"odd_code","inner_error":%s}}',
    "beside the error": '{"error":{"message":"m","code":"odd_code"},"more":%s}',
    "as the error": '{"error":%s}',
    "as the detail": '{"detail":%s}',
    "as the message": '{"error":{"message":%s}}',
    "as the code": '{"error":{"message":"m","code":%s}}',
}


@BODIES
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_a_deep_error_ends_by_its_status(
    make_account: MakeDoor, upstream: ScriptedUpstream, shape: str, depth: int, sent: bytes
) -> None:
    door = make_account("openai")
    for status in (418, 500):
        upstream.script = answers(status, (shape % nested(depth)).encode())
        answered, _, body = await door.post(sent)
        error = json.loads(body)["error"]
        assert answered == status
        assert {"message", "type", "param", "code"} <= set(error)
        assert error["code"] != "internal_error"
        assert len(body) < 10_000
        record = await door.record(status=status)
        assert record["error_code"] in {f"upstream_{status}", "odd_code"}


async def test_what_can_be_read_of_a_deep_error_is_told(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    told = SHAPES["within the error"] % nested(490, '"token-1"')
    upstream.script = answers(418, told.encode())
    _, _, body = await door.post(PROMPT)
    error = json.loads(body)["error"]
    assert (error["message"], error["code"]) == ("m", "odd_code")
    assert b"token-1" not in body
    assert (await door.record())["error_code"] == "odd_code"


@BODIES
@pytest.mark.parametrize("depth", DEPTHS)
async def test_a_deep_error_in_a_success_is_no_answer(
    make_account: MakeDoor, upstream: ScriptedUpstream, depth: int, sent: bytes
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, (SHAPES["as the error"] % nested(depth)).encode())
    status, headers, body = await door.post(sent)
    assert (status, headers["x-should-retry"]) == (502, "false")
    assert json.loads(body)["error"]["code"] == "upstream_invalid"
    assert (await door.record())["error_code"] == "upstream_invalid"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", [b"", b"event: error\n"])
@pytest.mark.parametrize("kind", ["openai", "codex-responses"])
async def test_a_deep_error_event_ends_the_call(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, name: bytes, depth: int
) -> None:
    door = make_account(kind)
    error = '{"message":"m","inner_error":' + nested(depth) + "}"
    data = '{"type":"error","error":' + error + "}"
    frame = name + b"data: " + data.encode() + b"\n\n"
    upstream.script = answers(200, frame, {"content-type": "text/event-stream"})
    status, _, body = await door.post(STREAM)
    code: Any = json.loads(body)["error"]["code"]
    assert (status, code) in {(500, None), (504, "outcome_unknown")}
    assert (await door.record())["error_code"] in {"outcome_unknown", "upstream_500", "error"}
