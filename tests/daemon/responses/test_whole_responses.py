"""A Responses upstream that sends something else than the events that it was asked for."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor, frames_of, open_door
from tests.daemon.test_refusals import check_error
from tests.parts.upstream import ScriptedUpstream, answers, drawn, frame, images, picture, streams

TOOL: Any = {"type": "image_generation"}
TURN: Mapping[str, Any] = {"model": "gpt-5", "input": "a cat", "tools": [TOOL]}
ITEM = drawn()[2]["item"]
RESPONSE: Mapping[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [{**ITEM, "status": "generating"}],
    "usage": {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
    "tool_usage": {"image_gen": images()["usage"]},
}
PRETTY = json.dumps(RESPONSE, indent=2).encode()
TYPES = ["application/json", "text/event-stream", "text/plain", "application/octet-stream"]


async def turn(door: Door, *, stream: bool) -> tuple[int, dict[str, str], bytes]:
    return await door.post(json.dumps({**TURN, "stream": stream}).encode(), "/v1/responses")


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("kind", ["codex-responses", "openai"])
async def test_a_response_as_json_is_delivered_to_who_waits_for_one(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, media_type: str
) -> None:
    door = make_account(kind, responses_model="gpt-main")
    upstream.script = answers(200, PRETTY, {"content-type": media_type})
    status, _, body = await turn(door, stream=False)
    assert (status, json.loads(body)) == (200, {**RESPONSE, "output": [ITEM]})
    record = await door.record()
    assert (record["response_image_count"], record["error_code"]) == (1, None)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("media_type", TYPES)
async def test_a_response_as_json_becomes_a_stream_that_the_sdk_can_read(
    make_account: MakeDoor, upstream: ScriptedUpstream, media_type: str
) -> None:
    door = make_account("codex-responses")
    upstream.script = answers(200, PRETTY, {"content-type": media_type})
    async with door.client() as client, client.responses.stream(**TURN) as events:
        kinds = [event.type async for event in events]
        final: Any = await events.get_final_response()
    assert kinds == ["response.created", "response.completed"]
    assert [(item.status, item.result) for item in final.output] == [("completed", picture())]
    record = await door.record()
    assert (record["response_image_count"], record["stream"]) == (1, True)


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("stream", [False, True])
async def test_events_of_a_response_count_under_any_type(
    make_account: MakeDoor, upstream: ScriptedUpstream, media_type: str, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    text = b"".join(map(frame, drawn()))
    upstream.script = answers(200, text, {"content-type": media_type})
    status, _, body = await turn(door, stream=stream)
    response = frames_of(body)[-1]["response"] if stream else json.loads(body)
    assert (status, response["output"]) == (200, [ITEM])
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("media_type", TYPES)
async def test_a_picture_is_taken_out_of_a_whole_response(
    make_account: MakeDoor, upstream: ScriptedUpstream, media_type: str
) -> None:
    """On the Images API, where the Responses route draws."""
    door = make_account("codex-responses")
    upstream.script = answers(200, PRETTY, {"content-type": media_type})
    async with door.client() as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
    assert made.data is not None
    assert [entry.b64_json for entry in made.data] == [picture()]
    assert (await door.record())["response_image_count"] == 1


ODD: Mapping[str, tuple[bytes, int, str]] = {
    "an error": (
        b'{"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_prompt"}}',
        400,
        "invalid_prompt",
    ),
    "nothing": (b"{}", 502, "upstream_invalid"),
    "no JSON": (b"it works", 502, "upstream_invalid"),
    "a list": (b"[]", 502, "upstream_invalid"),
    "broken JSON": (PRETTY[:-20], 502, "upstream_invalid"),
    "an empty body": (b"", 502, "upstream_invalid"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_response_is_never_a_success(
    make_account: MakeDoor, upstream: ScriptedUpstream, name: str, *, stream: bool
) -> None:
    body, status, code = ODD[name]
    door = make_account("openai", responses_model="gpt-main")
    upstream.script = answers(200, body, {"content-type": "application/json"})
    answer = await turn(door, stream=stream)
    assert answer[0] == status
    check_error(answer[2], code)
    record = await door.record()
    assert (record["status"], record["error_code"]) == (status, code)
    assert len(upstream.calls) == 1


CREATED, *_, END = drawn()
EMPTY = {**END, "response": {**END["response"], "status": "completed"}}


@pytest.mark.parametrize("stream", [False, True])
async def test_after_an_empty_completion_of_codex_another_account_is_asked(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    second = open_door(door.gateway, door.plane, upstream, "codex-responses")
    accounts = [door.account, second.account]
    where = {"key_id": door.key_id}
    door.plane.update("keys", where, account_names=accounts, route_strategy="fixed")
    empty, whole = streams([CREATED, EMPTY]), streams(drawn())

    async def script(call: Any) -> None:
        await (empty if len(upstream.calls) == 1 else whole)(call)

    upstream.script = script
    status, _, body = await turn(door, stream=stream)
    assert status == 200
    assert picture().encode() in body
    record = await door.record()
    reasons = [attempt["reason"] for attempt in record["attempts"]]
    assert (reasons, record["account_name"]) == (["no_picture", None], second.account)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_completion_of_the_last_account_is_no_success(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    upstream.script = streams([CREATED, EMPTY])
    status, headers, body = await turn(door, stream=stream)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(body, "upstream_invalid")
    assert (await door.record())["status"] == 502
