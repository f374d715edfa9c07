"""Errors as the SDK throws them, what it sends again, and its connection after both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.calls.parts import hold, until_left
from tests.daemon.conftest import Door
from tests.daemon.node_sdk.calls import (
    CAT,
    USAGE,
    ask,
    error,
    frame,
    image_event,
    leaves_without_a_word,
    open_door,
    run,
    streams,
)
from tests.parts.gateway import Gateway
from tests.parts.node import draw
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers, draws, images

# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "code", "key", "parameters"),
    [
        ("BadRequestError", 400, "invalid_value", {}, {"size": "1x1"}),
        ("BadRequestError", 400, "unknown_parameter", {}, {"style": "vivid"}),
        ("PermissionDeniedError", 403, "key_disabled", {"status": "disabled"}, {}),
        ("PermissionDeniedError", 403, "model_not_allowed", {"allowed_models": []}, {}),
        ("NotFoundError", 404, "model_not_found", {}, {"model": "dall-e-3"}),
        ("RateLimitError", 429, "insufficient_quota", {"quota_limit": 0}, {}),
    ],
)
async def test_a_refusal_of_ours_is_thrown_as_the_class_of_its_status(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    *,
    name: str,
    status: int,
    code: str,
    key: dict[str, Any],
    parameters: dict[str, Any],
) -> None:
    """Once: the SDK's own retries are on, and ``Door.record`` finds one record only."""
    door = doors("openai", **key)
    seen = await ask(door, "generate", {**CAT, **parameters}, maxRetries=2)
    assert (seen["error"]["name"], seen["error"]["status"]) == (name, status)
    assert seen["error"]["code"] == code
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["attempts"] == []
    assert upstream.calls == []


@pytest.mark.parametrize("azure", [False, True])
async def test_a_key_that_nobody_knows_is_an_authentication_error(
    doors: Callable[..., Door], upstream: ScriptedUpstream, *, azure: bool
) -> None:
    door = doors("openai")
    seen = await ask(door, "generate", CAT, azure=azure, apiKey="sk-nobody")
    assert (seen["error"]["name"], seen["error"]["status"]) == ("AuthenticationError", 401)
    assert seen["error"]["code"] == "invalid_api_key"
    assert "sk-nobody" not in seen["error"]["message"]
    assert upstream.calls == []
    record = await door.gateway.record(request_id=seen["error"]["requestID"])
    assert (record["status"], record["error_code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("BadRequestError", 400, "moderation_blocked"),
        ("NotFoundError", 404, "no_such_thing"),
        ("ConflictError", 409, "conflict"),
        ("UnprocessableEntityError", 422, "unprocessable"),
        ("RateLimitError", 429, "rate_limit_exceeded"),
        ("InternalServerError", 500, "server_error"),
        ("InternalServerError", 502, "bad_gateway"),
        ("InternalServerError", 503, "server_is_overloaded"),
    ],
)
async def test_an_upstreams_error_is_thrown_as_the_class_of_its_status(
    doors: Callable[..., Door], upstream: ScriptedUpstream, name: str, status: int, code: str
) -> None:
    upstream.script = answers(status, error(code), {"x-request-id": "of-the-upstream"})
    door = doors("openai")
    seen = await ask(door, "generate", CAT)
    assert (seen["error"]["name"], seen["error"]["status"]) == (name, status)
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    # A limit is told in the gateway's words, which are about all accounts.
    said = "Every account" if status == 429 else "said so"
    assert seen["error"]["message"].startswith(f"{status} {said}")
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"] != "of-the-upstream"
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["error_source"] == "upstream"
    assert [attempt["status"] for attempt in record["attempts"]] == [status]


@pytest.mark.parametrize("status", [401, 403])
async def test_our_credentials_are_none_of_the_clients_business(
    doors: Callable[..., Door], upstream: ScriptedUpstream, status: int
) -> None:
    """An account that is refused is 503: the client would take 401 or 403 for its own."""
    upstream.script = answers(status, error("invalid_api_key"))
    door = doors("openai")
    seen = await ask(door, "generate", CAT)
    assert (seen["error"]["name"], seen["error"]["status"]) == ("InternalServerError", 503)
    assert seen["error"]["code"] == "account_credentials"
    assert "said so" not in seen["error"]["message"]
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (503, "account_credentials")
    assert [attempt["status"] for attempt in record["attempts"]] == [status]


# -- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (leaves_without_a_word, 504, "outcome_unknown"),
        (answers(500, error("server_error")), 500, "server_error"),
        (answers(408, error("timeout")), 408, "timeout"),
        (answers(409, error("conflict")), 409, "conflict"),
        (answers(302, b"", {"location": "/elsewhere"}), 502, "upstream_redirect"),
        (answers(200, b"<html>", {"content-type": "text/html"}), 502, "upstream_invalid"),
    ],
    ids=["silence", "500", "408", "409", "redirect", "no JSON"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["answer", "stream"])
async def test_the_sdk_buys_nothing_twice(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    script: Script,
    status: int,
    code: str,
    *,
    streamed: bool,
) -> None:
    """``x-should-retry: false`` is obeyed: with its default retries the SDK calls once."""
    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": streamed}, maxRetries=2)
    assert (seen["error"]["status"], seen["error"]["code"]) == (status, code)
    assert seen["error"]["shouldRetry"] == "false"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["may_be_billed"]


async def test_the_sdk_waits_as_long_as_it_is_told_and_calls_again(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    """``retry-after-ms`` says when the key's start interval is over: one retry is enough."""
    door = doors("openai", min_start_interval_ms=2500)
    call = {"method": "generate", "parameters": CAT}
    said = await run(door, call, call, maxRetries=1)
    for seen in said["calls"]:
        assert seen.get("data") == images(), seen
    assert len(upstream.calls) == 2
    refused = await door.record(status=429)
    assert refused["error_code"] == "key_start_interval"
    for seen in said["calls"]:
        await door.record(status=200, request_id=seen["requestID"])


async def test_an_upstream_that_asks_to_wait_is_asked_again_by_the_sdk(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    async def script(call: Call) -> None:
        if len(upstream.calls) == 1:
            await call.answer(429, error("rate_limit_exceeded"), {"retry-after-ms": "300"})
        else:
            await draws(call)

    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", CAT, maxRetries=2)
    assert seen.get("data") == images(), seen
    assert len(upstream.calls) == 2


# -- one client, many calls ------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["buffer", "stream"])
async def test_a_refusal_before_the_body_is_read_is_thrown_and_no_broken_connection(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path, by: str
) -> None:
    """The key is refused at the headers, while megabytes are still on their way."""
    door = doors("openai", status="disabled")
    sent = draw(tmp_path, by, size=12_000_000)
    call = {"method": "edit", "parameters": {"image": sent.parameter, **CAT}}
    said = await run(door, call, call, call)
    for seen in said["calls"]:
        assert (seen["error"]["name"], seen["error"]["status"]) == ("PermissionDeniedError", 403)
        assert seen["error"]["code"] == "key_disabled"
        record = await door.record(request_id=seen["error"]["requestID"])
        assert (record["status"], record["attempts"]) == (403, [])
    assert upstream.calls == []


@pytest.mark.parametrize("by", ["buffer", "stream"])
async def test_a_body_over_the_limit_is_thrown_with_its_status(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    by: str,
) -> None:
    """The SDK sends first and reads then; within twice the limit it is heard to its end."""
    gateway = make_gateway(plane.reader_url, max_request_bytes=3_000_000).start()
    door = open_door("openai", gateway, plane, upstream)
    sent = draw(tmp_path, by, size=5_000_000)
    seen = await ask(door, "edit", {"image": sent.parameter, **CAT}, maxRetries=2)
    assert seen["error"]["isApiError"]
    assert (seen["error"]["status"], seen["error"]["code"]) == (413, "request_too_large")
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (413, "request_too_large")
    assert upstream.calls == []
    assert gateway.stop() == 0


async def test_one_client_goes_on_after_refusals_errors_and_streams(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Each answer leaves the client's connection fit for the next call, or closed."""
    events = [image_event("image_generation.completed", usage=USAGE)]

    async def script(call: Call) -> None:
        if call.target.endswith("/edits"):
            await call.answer(200, images())
        elif b'"stream"' in call.body:
            await streams(*map(frame, events))(call)
        elif b"dog" in call.body:
            await call.answer(400, error("moderation_blocked"))
        else:
            await draws(call)

    upstream.script = script
    door = doors("openai")
    kept, streamed = draw(tmp_path, "buffer", size=300_000), draw(tmp_path, "stream", size=300_000)
    round_ = [
        {"method": "generate", "parameters": CAT},
        {"method": "generate", "parameters": {**CAT, "prompt": "a dog"}},
        {"method": "edit", "parameters": {**CAT, "image": kept.parameter}},
        {"method": "edit", "parameters": {**CAT, "image": kept.parameter, "size": "1x1"}},
        {"method": "generate", "parameters": {**CAT, "stream": True}},
        {"method": "edit", "parameters": {**CAT, "image": streamed.parameter}},
        {"method": "edit", "parameters": {**CAT, "image": streamed.parameter, "n": 11}},
    ]
    said = await run(door, *round_, *round_)
    outcomes = [
        seen["error"]["code"] if "error" in seen else seen.get("events", seen.get("data"))
        for seen in said["calls"]
    ]
    expected = [
        images(),
        "moderation_blocked",
        images(),
        "invalid_value",
        events,
        images(),
        "invalid_value",
    ]
    assert outcomes == expected * 2
    for seen in said["calls"]:
        request_id = seen["error"]["requestID"] if "error" in seen else seen["requestID"]
        await door.record(request_id=request_id)
    assert len(upstream.calls) == 10


async def test_a_caller_that_gives_up_waiting_gets_the_picture_when_it_asks_again(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    door = doors("openai")
    seen = await ask(door, "generate", CAT, timeout=2000)
    assert seen["error"]["name"] == "APIConnectionTimeoutError"
    await until_left(door.gateway)
    held.go.set()
    seen = await ask(door, "generate", CAT)
    assert seen.get("data") == images(), seen
    assert len(upstream.calls) == 1
    first = await door.record(call_source="made")
    assert (first["client_left"], first["response_image_count"]) == (True, 1)
    second = await door.record(call_source="taken-over")
    assert second["call_request_id"] == first["request_id"]
