"""What comes back of an intent: items, words, ends."""

import json

import pytest

from tests.daemon.conftest import Door, frames_of
from tests.daemon.responses.calls import (
    COMPLETED,
    CREATED,
    INTENT,
    ITEM,
    STREAM,
    TOOL,
    ask,
)
from tests.parts.upstream import (
    ScriptedUpstream,
    images,
    picture,
    streams,
)


async def test_a_whole_response_holds_all_items_in_their_order(
    door: Door, upstream: ScriptedUpstream
) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 9000}
    said = {"type": "message", "id": "m_1", "content": [{"type": "output_text", "text": "y" * 99}]}
    items = [
        {"type": "response.output_item.done", "output_index": index, "item": item}
        for index, item in enumerate([thought, ITEM["item"], said])
    ]
    end = {**COMPLETED, "response": {**COMPLETED["response"], "instructions": "z" * 9000}}
    upstream.script = streams([CREATED, *items, end])
    status, headers, body = await ask(door, INTENT)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert json.loads(body) == {
        "object": "response",
        **end["response"],
        "output": [thought, ITEM["item"], said],
    }
    assert (await door.record())["response_image_count"] == 1


async def test_a_response_that_lists_its_output_itself_is_passed_as_it_is(
    door: Door, upstream: ScriptedUpstream
) -> None:
    whole = {**COMPLETED["response"], "output": [ITEM["item"]], "object": "response"}
    upstream.script = streams([CREATED, ITEM, {**COMPLETED, "response": whole}])
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)) == (200, whole)
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_a_picture_that_only_the_last_event_holds_is_counted(
    door: Door, upstream: ScriptedUpstream, body: bytes
) -> None:
    whole = {**COMPLETED["response"], "output": [ITEM["item"]]}
    upstream.script = streams([CREATED, {**COMPLETED, "response": whole}])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert picture().encode() in answer
    assert (await door.record())["response_image_count"] == 1


MANY_TOOLS = [
    {
        "type": "function",
        "name": f"function_{index}",
        "parameters": {
            "type": "object",
            "properties": {f"parameter_{at}": {"type": "string"} for at in range(60)},
        },
    }
    for index in range(120)
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_that_repeats_the_many_tools_it_was_asked_with_is_whole(
    door: Door, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    """A hundred tools with their schemas are no rarity; a response repeats them all."""
    created = {**CREATED, "response": {**CREATED["response"], "tools": MANY_TOOLS}}
    response = {**COMPLETED["response"], "status": "completed", "tools": MANY_TOOLS}
    upstream.script = streams([created, ITEM, {**COMPLETED, "response": response}])
    value = {"model": "gpt-5", "input": "a cat", "tools": [*MANY_TOOLS, TOOL], "stream": stream}
    status, _, body = await ask(door, json.dumps(value).encode())
    assert status == 200
    last = frames_of(body)[-1]["response"] if stream else json.loads(body)
    assert (last["status"], last["tools"]) == ("completed", MANY_TOOLS)
    assert picture().encode() in body
    record = await door.record()
    assert (record["response_image_count"], record["error_code"]) == (1, None)
    assert record["usage"] == images()["usage"]


SAID = {
    "type": "response.output_item.done",
    "output_index": 0,
    "item": {"type": "message", "content": [{"type": "output_text", "text": "no cats today"}]},
}


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_an_answer_in_words_is_an_answer(
    door: Door, upstream: ScriptedUpstream, body: bytes
) -> None:
    usage = {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990}
    end = {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}}
    upstream.script = streams([CREATED, SAID, end])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert b"no cats today" in answer
    record = await door.record()
    assert (record["error_code"], record["response_image_count"]) == (None, 0)
    assert (record["usage"], record["usage_text"]) == (None, usage)
    assert not record["may_be_billed"]


async def test_a_response_that_ends_incomplete_without_a_picture_is_delivered(
    door: Door, upstream: ScriptedUpstream
) -> None:
    response = {
        "id": "resp_1",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [],
    }
    end = {"type": "response.incomplete", "response": response}
    upstream.script = streams([CREATED, SAID, end])
    status, _, body = await ask(door, INTENT)
    whole = {"object": "response", **response, "output": [SAID["item"]]}
    assert (status, json.loads(body)) == (200, whole)
    assert (await door.record(stream=False))["response_image_count"] == 0
    status, _, body = await ask(door, STREAM)
    assert (status, frames_of(body)) == (200, [CREATED, SAID, {**end, "response": whole}])
    assert (await door.record(stream=True))["error_code"] is None
