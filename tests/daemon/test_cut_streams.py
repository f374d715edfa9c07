"""Azure cuts a stream without partial pictures at 60 s: it is asked for a plain answer then."""

import json
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor, frames_of
from tests.parts.eventually import eventually
from tests.parts.gateway import unlike
from tests.parts.upstream import Call, ScriptedUpstream, completed, draws, partial, streams

STREAM: dict[str, Any] = {"stream": True}
PARTIALS: dict[str, Any] = {"stream": True, "partial_images": 1}
TIMEOUT = {"error": {"code": "Timeout", "message": "The operation was timeout."}}


def cuts(how: str) -> Any:
    """A deployment that can serve everything but a silent stream."""

    async def script(call: Call) -> None:
        asked = json.loads(call.body) if call.body.startswith(b"{") else {}
        if not asked.get("stream"):
            await draws(call)
        elif asked.get("partial_images"):
            await streams([partial(), completed()])(call)
        elif how == "event":
            await streams([{"type": "error", "error": TIMEOUT["error"]}])(call)
        else:
            await call.answer(408, TIMEOUT)

    return script


async def records(door: Door, count: int) -> list[dict[str, Any]]:
    """The records of a key, once there are so many."""

    def look() -> list[dict[str, Any]]:
        found = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
        return found if len(found) == count else []

    return await eventually(look)


@pytest.mark.parametrize("kind", ["azure-v1", "azure-legacy", "openai"])
@pytest.mark.parametrize("how", ["status", "event"])
async def test_a_deployment_that_cuts_silent_streams_is_asked_for_plain_answers(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, how: str
) -> None:
    door = make_account(kind)
    upstream.script = cuts(how)
    # The first call meets the cut, and is over: its picture may exist.
    status, headers, told = await door.post(unlike(**STREAM))
    assert (status, headers["x-should-retry"]) == (408 if how == "status" else 500, "false")
    assert json.loads(told)["error"]["code"] == "Timeout"
    record = await door.record(status=status)
    assert record["may_be_billed"]
    assert [each["reason"] for each in record["attempts"]] == ["stream_timeout"]
    assert [call.json().get("stream") for call in upstream.calls] == [True]
    said = f"account {door.account} cut a stream without partial pictures"
    await eventually(lambda: said in door.gateway.words())
    # The next ones ask for a plain answer, and the client gets its event.
    for _ in range(2):
        status, headers, told = await door.post(unlike(**STREAM))
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        [event] = frames_of(told)
        assert event["type"] == "image_generation.completed"
        assert "stream" not in upstream.calls[-1].json()
        assert upstream.calls[-1].headers["accept"] == "application/json"
    for record in (await records(door, 3))[1:]:
        assert (record["status"], record["stream"]) == (200, True)
        assert (record["response_image_count"], record["may_be_billed"]) == (1, False)
    # A stream with partial pictures works, so it stays one.
    status, _, told = await door.post(unlike(**PARTIALS))
    assert [each["type"] for each in frames_of(told)] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert upstream.calls[-1].json()["stream"] is True


async def test_a_408_to_anything_else_changes_nothing(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1")

    async def script(call: Call) -> None:
        await call.answer(408, {"error": {"message": "too slow"}})

    upstream.script = script
    for parameters in (STREAM, PARTIALS, {}, STREAM):
        status, headers, _ = await door.post(unlike(**parameters))
        assert (status, headers["x-should-retry"]) == (408, "false")
    asked = [call.json().get("stream") for call in upstream.calls]
    assert asked == [True, True, None, True]
    told = [attempt["reason"] for each in await records(door, 4) for attempt in each["attempts"]]
    assert told == [None] * 4
