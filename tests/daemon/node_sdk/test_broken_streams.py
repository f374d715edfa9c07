"""Streams that fail: the SDK throws, and takes no error for an event."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.daemon.conftest import Door
from tests.daemon.node_sdk.calls import (
    BLOCKED,
    CAT,
    KEEP_ALIVE,
    PARTIAL,
    RESPONSE_COMPLETED,
    RESPONSE_CREATED,
    RESPONSE_ITEM,
    RESPONSE_PARTIALS,
    ask,
    error,
    frame,
    leaves_without_a_word,
    response_events,
    run,
    streams,
)
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers

# -- waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "code", "may_be_billed"),
    [
        (answers(400, BLOCKED), "moderation_blocked", False),
        (answers(401, error("invalid_api_key")), "account_credentials", False),
        (leaves_without_a_word, "outcome_unknown", True),
        (answers(200, b"<html>", {"content-type": "text/html"}), "upstream_invalid", True),
    ],
    ids=["the client's fault", "our credentials", "silence", "no JSON"],
)
async def test_an_error_after_comments_alone_is_thrown_all_the_same(
    waiting: Callable[[str], Door],
    upstream: ScriptedUpstream,
    then: Script,
    code: str,
    *,
    may_be_billed: bool,
) -> None:
    """The status is out by then: the error comes as the stream's only event."""

    async def script(call: Call) -> None:
        await asyncio.sleep(0.7)
        await then(call)

    upstream.script = script
    door = waiting("openai")
    call = {"method": "generate", "parameters": {**CAT, "stream": True}}
    said = await run(door, call, wire=True, maxRetries=2)
    [seen] = said["calls"]
    assert seen["events"] == []
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    if code == "moderation_blocked":
        for name in ("type", "param"):
            assert seen["error"][name] == BLOCKED["error"][name]
        assert "said so" in seen["error"]["message"]
    assert seen["error"]["requestID"] == seen["requestID"]
    assert said["wire"][0].startswith(KEEP_ALIVE)
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["error_code"]) == (200, code)
    assert record["error_source"] == "upstream"
    assert record["may_be_billed"] == may_be_billed
    assert door.gateway.stop() == 0


# -- streams that break ----------------------------------------------------------------------------

BROKEN = {"message": "The image broke.", "type": "server_error", "param": None, "code": "broken"}

FLAT = {name: value for name, value in BROKEN.items() if name != "type"}


@pytest.mark.parametrize(
    "last",
    [
        frame({"type": "error", "error": BROKEN}),
        frame({"type": "error", "error": BROKEN}, name=""),
        frame({"error": BROKEN}, name=""),
        frame({"type": "error", **FLAT}),
        frame(FLAT, name="error"),
    ],
    ids=["nested", "without a name", "without a type", "flat", "flat, by its name"],
)
async def test_an_error_within_a_stream_is_thrown_and_never_an_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, last: bytes
) -> None:
    upstream.script = streams(frame(PARTIAL), last)
    door = doors("openai")
    asked = {**CAT, "stream": True, "partial_images": 2}
    seen = await ask(door, "generate", asked, maxRetries=2)
    assert seen["events"] == [PARTIAL]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == "broken"
    assert "The image broke." in seen["error"]["message"]
    assert seen["error"]["requestID"] == seen["requestID"]
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["error_code"]) == (200, "broken")
    assert record["error_source"] == "upstream"
    assert [attempt["action"] for attempt in record["attempts"]] == ["end"]
    assert record["may_be_billed"]
    assert not record["client_left"]


@pytest.mark.parametrize(
    "last", [b"", frame(PARTIAL)[:-40]], ids=["between frames", "within a frame"]
)
async def test_a_stream_that_breaks_off_is_thrown_as_such(
    doors: Callable[..., Door], upstream: ScriptedUpstream, last: bytes
) -> None:
    upstream.script = streams(frame(PARTIAL), last)
    door = doors("openai")
    asked = {**CAT, "stream": True, "partial_images": 2}
    seen = await ask(door, "generate", asked, maxRetries=2)
    assert seen["events"] == [PARTIAL]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == "upstream_cut"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (200, "upstream_cut")
    assert record["error_source"] == "upstream"
    assert record["may_be_billed"]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (
            {
                "type": "response.failed",
                "response": {
                    "id": "resp_1",
                    "status": "failed",
                    "error": {"code": "server_error", "message": "The image broke."},
                },
            },
            "server_error",
        ),
        ({**FLAT, "type": "error"}, "broken"),
        (
            {
                "type": "response.incomplete",
                "response": {"incomplete_details": {"reason": "content_filter"}},
            },
            "content_filter",
        ),
        (None, "upstream_cut"),
    ],
    ids=["failed", "error", "incomplete", "cut"],
)
async def test_a_responses_call_that_fails_after_a_partial_picture_is_thrown(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    last: dict[str, Any] | None,
    code: str,
) -> None:
    ending = [] if last is None else [last]
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_PARTIALS[0], *ending)
    door = doors("responses")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1})
    assert [event["type"] for event in seen["events"]] == ["image_generation.partial_image"]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    assert seen["error"]["requestID"] == seen["requestID"]
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, code)
    assert record["error_source"] == "upstream"
    assert not record["response_image_count"]


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["answer", "stream"])
@pytest.mark.parametrize("result", [None, ""], ids=["null", "empty"])
async def test_a_responses_call_whose_item_holds_no_picture_is_thrown(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    asked: dict[str, Any],
    result: str | None,
) -> None:
    item = {"type": "image_generation_call", "id": "ig_1", "status": "failed", "result": result}
    upstream.script = response_events(
        RESPONSE_CREATED, {**RESPONSE_ITEM, "item": item}, RESPONSE_COMPLETED
    )
    door = doors("responses")
    door.plane.update("accounts", {"account_name": door.account}, codex_route="responses")
    seen = await ask(door, "generate", {**CAT, **asked}, maxRetries=2)
    assert "error" in seen, seen
    assert (seen["error"]["status"], seen["error"]["code"]) == (502, "upstream_invalid")
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (502, "upstream_invalid")
    assert not record["response_image_count"]


@pytest.mark.parametrize(
    "asked", [{}, {"stream": True, "partial_images": 1}], ids=["answer", "stream"]
)
async def test_a_responses_call_that_is_blocked_has_the_status_of_a_refusal(
    doors: Callable[..., Door], upstream: ScriptedUpstream, asked: dict[str, Any]
) -> None:
    upstream.script = response_events(
        RESPONSE_CREATED,
        {
            "type": "response.failed",
            "response": {"error": {"code": "moderation_blocked", "message": "said so"}},
        },
    )
    door = doors("responses")
    door.plane.update("accounts", {"account_name": door.account}, codex_route="responses")
    seen = await ask(door, "generate", {**CAT, **asked})
    assert "events" not in seen
    assert (seen["error"]["name"], seen["error"]["status"]) == ("BadRequestError", 400)
    assert seen["error"]["code"] == "moderation_blocked"
    assert seen["error"]["message"] == "400 said so"
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (400, "moderation_blocked")
    assert not record["may_be_billed"]


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_stream_that_fails_before_its_first_event_keeps_its_status(
    doors: Callable[..., Door], upstream: ScriptedUpstream, *, as_event: bool
) -> None:
    upstream.script = (
        streams(frame({"type": "error", **BLOCKED})) if as_event else answers(400, BLOCKED)
    )
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": True})
    assert "events" not in seen
    assert seen["error"]["name"] == "BadRequestError"
    assert (seen["error"]["status"], seen["error"]["code"]) == (400, "moderation_blocked")
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (400, "moderation_blocked")
    assert not record["may_be_billed"]
