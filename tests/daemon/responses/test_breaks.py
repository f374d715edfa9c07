"""Responses that break off or fail: what is delivered, and what is said."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, frames_of, open_door
from tests.daemon.responses.calls import (
    CREATED,
    DRAWING,
    INTENT,
    ITEM,
    STREAM,
    TEXT,
    TOOL,
    TextApi,
    ask,
    with_second,
)
from tests.daemon.test_refusals import check_error
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    answers,
    frame,
    picture,
    streams,
)


def breaks(events: list[dict[str, Any]]) -> Script:
    """The script of an upstream that breaks off within an event."""
    return streams([*events, frame(ITEM)[:-40]])


async def test_a_stream_that_is_cut_ends_with_an_error(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = breaks([CREATED, DRAWING])
    status, headers, body = await ask(door, STREAM)
    *events, last = frames_of(body)
    assert (status, events) == (200, [CREATED, DRAWING])
    assert (last["type"], last["error"]["code"]) == ("error", "upstream_cut")
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["error_code"], record["may_be_billed"]) == ("upstream_cut", True)
    assert len(upstream.calls) == 1
    async with door.client() as client:
        stream = await client.responses.create(
            model="gpt-5", input="a dog", tools=[TOOL], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            [event async for event in stream]


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_a_cut_before_anything_was_shown_is_an_error_with_a_status(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream, body: bytes
) -> None:
    """Nobody knows what was made, so no other account is asked."""
    with_second(door, other)
    upstream.script = breaks([CREATED])
    status, headers, answer = await ask(door, body)
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(answer, "outcome_unknown")
    assert other.calls == []
    assert (await door.record())["may_be_billed"]


_LIMIT = {"code": "rate_limit_exceeded", "message": "Slow down, cat."}
FAILED: dict[str, dict[str, Any]] = {
    "failed": {
        "type": "response.failed",
        "response": {"id": "resp_1", "status": "failed", "error": _LIMIT, "x": 1.5},
    },
    "flat": {"type": "error", **_LIMIT, "sequence_number": 3},
    "nested": {"type": "error", "error": _LIMIT},
}


@pytest.mark.parametrize("failed", FAILED.values(), ids=FAILED)
async def test_a_failure_within_a_stream_is_passed_in_its_own_words(
    door: Door, upstream: ScriptedUpstream, failed: dict[str, Any]
) -> None:
    """The error itself comes last, nested as SDKs raise it and flat as the Responses API has it."""
    upstream.script = streams([CREATED, DRAWING, failed])
    status, _, body = await ask(door, STREAM)
    shown = [CREATED, DRAWING, *([failed] if failed["type"] == "response.failed" else [])]
    *events, last = frames_of(body)
    assert (status, events) == (200, shown)
    nested = {"type": "rate_limit_error", "param": None, **_LIMIT}
    flat = {"code": _LIMIT["code"], "message": _LIMIT["message"], "param": None}
    number = len(shown)
    assert last == {"type": "error", "sequence_number": number, **flat, "error": nested}
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "rate_limit_exceeded")
    assert (record["error_source"], record["may_be_billed"]) == ("upstream", True)


async def test_a_failure_with_a_flood_of_values_is_told_without_them(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Each would be searched for secrets, and the event loop would stand still meanwhile."""
    failed = FAILED["failed"]
    flood = {**failed, "response": {**failed["response"], "tools": ["a"] * 100_000}}
    upstream.script = streams([CREATED, DRAWING, flood])
    _, _, body = await ask(door, STREAM)
    *events, last = frames_of(body)
    assert events == [CREATED, DRAWING]
    assert last["error"]["message"] == _LIMIT["message"]


@pytest.mark.parametrize("end", ["cut", "failed"])
async def test_a_picture_that_was_made_is_delivered_whatever_comes_after_it(
    door: Door, upstream: ScriptedUpstream, end: str
) -> None:
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error"}}}
    upstream.script = (
        streams([CREATED, ITEM, failed]) if end == "failed" else breaks([CREATED, ITEM])
    )
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)) == (
        200,
        {
            "object": "response",
            "id": "resp_1",
            "status": "incomplete",
            "incomplete_details": {"reason": "upstream_cut"},
            "output": [ITEM["item"]],
        },
    )
    record = await door.record()
    assert (record["response_image_count"], len(record["attempts"])) == (1, 1)
    assert record["attempts"][0]["error_code"] is not None


async def test_a_picture_that_came_without_an_opening_is_delivered_when_its_stream_is_cut(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = breaks([ITEM])
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)["output"]) == (200, [ITEM["item"]])
    assert json.loads(body)["status"] == "incomplete"
    assert (await door.record())["response_image_count"] == 1


async def test_a_picture_that_was_made_is_delivered_at_the_drain_deadline(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, drain_seconds=0.2).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    drawn_up_to_here = asyncio.Event()

    async def script(call: Call) -> None:
        await streams([CREATED, ITEM])(call)
        drawn_up_to_here.set()
        await call.gone()

    upstream.script = script
    running = asyncio.create_task(ask(door, INTENT))
    await asyncio.wait_for(drawn_up_to_here.wait(), 10)
    assert await asyncio.to_thread(gateway.stop) == 0
    status, _, body = await running
    assert (status, json.loads(body)["status"]) == (200, "incomplete")
    assert json.loads(body)["output"] == [ITEM["item"]]
    record = await door.record()
    assert (record["response_image_count"], record["may_be_billed"]) == (1, True)


async def test_text_that_is_not_answered_at_the_drain_deadline_is_not_sent_again(
    plane: Plane, make_gateway: Callable[..., Gateway], text_api: TextApi, text_port: int
) -> None:
    gateway = make_gateway(
        plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", drain_seconds=0.2
    ).start()
    door = open_door(gateway, plane, text_api, "codex-responses")
    text_api.script = Call.gone
    running = asyncio.create_task(ask(door, TEXT))
    await eventually(lambda: text_api.calls)
    assert await asyncio.to_thread(gateway.stop) == 0
    status, headers, body = await running
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(body, "outcome_unknown")
    assert (await door.record())["error_code"] == "outcome_unknown"


async def test_an_account_at_its_limit_is_replaced_by_another(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    second = with_second(door, other)
    upstream.script = answers(429, {"error": {"type": "usage_limit_reached", "message": "m"}})
    for body in (INTENT, STREAM):
        status, headers, answer = await ask(door, body)
        assert status == 200
        assert picture().encode() in answer
        record = await door.record(request_id=headers["x-request-id"])
        assert record["account_name"] == second
    # It cools down, so the second call did not ask it again.
    assert (len(upstream.calls), len(other.calls)) == (1, 2)
    first = (await door.record(stream=False))["attempts"]
    assert [(each["status"], each["action"]) for each in first] == [(429, "next"), (200, "deliver")]


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error"])
async def test_a_stream_that_fails_before_anything_was_shown_is_made_by_another_account(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream, body: bytes, code: str
) -> None:
    second = with_second(door, other)
    progress = {"type": "response.in_progress", "response": {"id": "resp_0"}}
    failed = {"type": "response.failed", "response": {"error": {"code": code, "message": "m"}}}
    upstream.script = streams([{**CREATED, "response": {"id": "resp_0"}}, progress, failed])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert b"resp_0" not in answer
    assert picture().encode() in answer
    record = await door.record()
    assert (record["account_name"], record["error_code"]) == (second, None)
    assert [each["action"] for each in record["attempts"]] == ["next", "deliver"]


async def test_an_upstream_s_refusal_is_passed_without_a_second_try(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    with_second(door, other)
    error = {
        "message": "No such cats.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
    }
    upstream.script = answers(400, {"error": error})
    for body in (INTENT, STREAM):
        status, headers, answer = await ask(door, body)
        assert (status, json.loads(answer)) == (400, {"error": error})
        record = await door.record(request_id=headers["x-request-id"])
        assert record["error_code"] == "moderation_blocked"
    assert other.calls == []
