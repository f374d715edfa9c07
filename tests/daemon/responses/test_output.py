"""What a response holds at its end: the items that came, whatever the upstream's own end says."""

import asyncio
import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.daemon.conftest import MakeDoor, frames_of
from tests.parts.gateway import post
from tests.parts.upstream import ScriptedUpstream, drawn, frame, picture, streams

MIB = 1024 * 1024
TOOL: Any = {"type": "image_generation"}
TURN: Mapping[str, Any] = {"model": "gpt-5", "input": "a cat", "tools": [TOOL]}
SAID: dict[str, Any] = {
    "type": "response.output_item.done",
    "output_index": 1,
    "item": {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Here is your cat.", "annotations": []}],
    },
}
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "codex": ("codex-responses", {}),
    "openai": ("openai", {"responses_model": "gpt-main"}),
    "azure": ("azure-v1", {"responses_model": "gpt-main"}),
}
"""The accounts that serve intents."""


def as_codex_sends(
    *, size: int = 64, status: str = "generating", output: list[Any] | None = None
) -> list[dict[str, Any]]:
    """A turn with one picture and some words, whose end is empty."""
    events = copy.deepcopy([*drawn(size=size)[:-1], SAID, drawn()[-1]])
    events[2]["item"]["status"] = status
    events[-1]["response"] |= {"status": "completed", "output": output or []}
    return events


def whole_items(size: int = 64) -> list[dict[str, Any]]:
    return [{**drawn(size=size)[2]["item"], "status": "completed"}, SAID["item"]]


def numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


@pytest.mark.parametrize("size", [64, 100_000, 3 * MIB])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_streamed_end_holds_the_items_that_came(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, size: int
) -> None:
    door = make_account(KINDS[kind][0], **KINDS[kind][1])
    events = numbered(as_codex_sends(size=size))
    upstream.script = streams(events)
    _, _, body = await door.post(json.dumps({**TURN, "stream": True}).encode(), "/v1/responses")
    frames = frames_of(body)
    assert [each["sequence_number"] for each in frames] == [0, 1, 2, 3, 4]
    assert frames[:2] == events[:2]
    assert frames[2] == {**events[2], "item": whole_items(size)[0]}
    end = events[-1]["response"]
    assert frames[-1] == {
        **events[-1],
        "response": {**end, "object": "response", "output": whole_items(size)},
    }
    record = await door.record()
    assert (record["status"], record["response_image_count"]) == (200, 1)
    assert record["response_bytes"] == len(body)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("noise", [b"data: ping\n\n", b"event: ping\ndata\ndata:\n\n"])
async def test_what_is_no_json_does_not_reach_the_client(
    make_account: MakeDoor, upstream: ScriptedUpstream, noise: bytes
) -> None:
    door = make_account(KINDS["codex"][0], **KINDS["codex"][1])
    created, *events = as_codex_sends()
    upstream.script = streams([noise, created, noise, *events[:-1], noise, events[-1]])
    _, _, body = await door.post(json.dumps({**TURN, "stream": True}).encode(), "/v1/responses")
    assert [each["type"] for each in frames_of(body)] == [
        each["type"] for each in (created, *events)
    ]


async def test_items_stand_in_the_order_of_their_indices(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account(KINDS["codex"][0], **KINDS["codex"][1])
    created, drawing, picture_item, said, end = as_codex_sends()
    upstream.script = streams([created, drawing, said, picture_item, end])
    _, _, body = await door.post(json.dumps(TURN).encode(), "/v1/responses")
    assert json.loads(body)["output"] == whole_items()


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_items_without_end_are_stopped_and_the_picture_before_them_delivered(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account(KINDS["codex"][0], **KINDS["codex"][1])
    events = as_codex_sends()
    further = [{**SAID, "output_index": 2 + number} for number in range(1100)]
    upstream.script = streams([*events[:4], *further, events[4]])
    status, _, body = await door.post(
        json.dumps({**TURN, "stream": stream}).encode(), "/v1/responses"
    )
    assert (status, body.count(picture().encode())) == (200, 1)
    if stream:
        assert frames_of(body)[-1]["error"]["code"] == "upstream_cut"
    else:
        assert json.loads(body)["status"] == "incomplete"
    record = await door.record()
    assert record["error_code"] == ("upstream_cut" if stream else None)
    assert record["response_image_count"] == 1
    assert record["attempts"][0]["error_code"] == "TooManyItems"


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_openings_without_end_cost_no_memory(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account(KINDS["codex"][0], **KINDS["codex"][1])
    created, *events = as_codex_sends()
    opening = {**created, "response": {**created["response"], "instructions": "x" * 900_000}}
    frames = [*[frame(opening)] * 150, *map(frame, events)]
    upstream.script = streams(frames)
    before = door.gateway.memory()
    door.gateway.forget_peak()
    payload = json.dumps({**TURN, "stream": stream}).encode()
    async with asyncio.timeout(60):
        answer = await door.gateway.raw(post(door.secret, payload, "/v1/responses"))
    assert answer.count(picture().encode()) == (2 if stream else 1)
    assert door.gateway.memory("VmHWM") - before < 64 * MIB


@pytest.mark.parametrize("size", [64, 3 * MIB])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_holds_the_items_that_came(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, size: int
) -> None:
    door = make_account(KINDS[kind][0], **KINDS[kind][1])
    upstream.script = streams(as_codex_sends(size=size))
    status, _, body = await door.post(json.dumps(TURN).encode(), "/v1/responses")
    assert (status, json.loads(body)["output"]) == (200, whole_items(size))
    record = await door.record()
    assert (record["response_image_count"], record["response_bytes"]) == (1, len(body))


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_sees_the_picture_in_its_final_response(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    upstream.script = streams(numbered(as_codex_sends()))
    async with door.client() as client:
        if stream:
            async with client.responses.stream(**TURN) as events:
                async for _ in events:
                    pass
                final: Any = await events.get_final_response()
        else:
            final = await client.responses.create(**TURN)
    assert [item.type for item in final.output] == ["image_generation_call", "message"]
    assert (final.output[0].status, final.output[0].result) == ("completed", picture())
    assert final.output_text == "Here is your cat."
    assert (await door.record())["response_image_count"] == 1


_EMPTY = {**drawn()[2]["item"], "result": None, "status": "generating"}


@pytest.mark.parametrize(
    "output",
    [[_EMPTY], [_EMPTY, SAID["item"]], [SAID["item"]], ["odd"]],
    ids=["an emptied picture", "an emptied picture and words", "words alone", "nonsense"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_end_that_lacks_the_picture_gets_it(
    make_account: MakeDoor, upstream: ScriptedUpstream, output: list[Any], *, stream: bool
) -> None:
    door = make_account("codex-responses")
    upstream.script = streams(as_codex_sends(output=output))
    asked = json.dumps({**TURN, "stream": stream}).encode()
    _, _, body = await door.post(asked, "/v1/responses")
    response = frames_of(body)[-1]["response"] if stream else json.loads(body)
    assert response["output"] == whole_items()
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_end_stays_but_for_its_status(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    own = [{**whole_items()[0], "status": "generating"}, SAID["item"], {"type": "reasoning"}]
    upstream.script = streams(as_codex_sends(output=own))
    asked = json.dumps({**TURN, "stream": stream}).encode()
    _, _, body = await door.post(asked, "/v1/responses")
    response = frames_of(body)[-1]["response"] if stream else json.loads(body)
    assert response["output"] == [*whole_items(), {"type": "reasoning"}]
    assert (await door.record())["response_image_count"] == 1


async def test_several_pictures_and_an_item_that_comes_twice(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex-responses")
    events = as_codex_sends()
    second = copy.deepcopy(events[2])
    second["output_index"], second["item"]["id"] = 2, "ig_2"
    upstream.script = streams([*events[:4], second, copy.deepcopy(events[3]), events[4]])
    asked = json.dumps({**TURN, "stream": True}).encode()
    _, _, body = await door.post(asked, "/v1/responses")
    output = frames_of(body)[-1]["response"]["output"]
    assert [item["id"] for item in output] == ["ig_1", "msg_1", "ig_2"]
    assert (await door.record())["response_image_count"] == 2


async def test_data_on_several_lines_passes_as_it_came(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """Nobody sends that, but it is legal; its strings cannot be quoted, so nothing is added."""
    door = make_account("codex-responses")
    created, drawing, item, said, end = as_codex_sends()
    text = json.dumps(item, indent=1)
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    upstream.script = streams([created, drawing, lines.encode() + b"\n", said, end])
    asked = json.dumps({**TURN, "stream": True}).encode()
    _, _, body = await door.post(asked, "/v1/responses")
    assert lines.encode() in body
    assert (await door.record())["response_image_count"] == 1
