"""Streams as the SDK reads them, however an upstream writes them."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.calls.parts import until_left
from tests.daemon.conftest import Door
from tests.daemon.node_sdk.calls import (
    CAT,
    EDITS,
    GENERATIONS,
    KEEP_ALIVE,
    MAIN_MODEL,
    PARTIAL,
    RESPONSE_COMPLETED,
    RESPONSE_CREATED,
    RESPONSE_ITEM,
    RESPONSE_PARTIALS,
    USAGE,
    ask,
    check_delivered,
    check_stream_headers,
    frame,
    image_event,
    response_events,
    run,
    streams,
)
from tests.parts.node import Part, digest_of, draw, parts
from tests.parts.upstream import Call, ScriptedUpstream, answers, images, picture, times

# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure", "openai"])
async def test_a_streamed_generation_comes_event_by_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    events = [
        image_event("image_generation.partial_image", partial_image_index=0),
        image_event("image_generation.partial_image", partial_image_index=1),
        image_event("image_generation.completed", usage=USAGE),
    ]
    upstream.script = streams(*map(frame, events))
    door = doors(kind)
    call = {"method": "generate", "parameters": {**CAT, "stream": True, "partial_images": 2}}
    said = await run(door, call, wire=True)
    [seen] = said["calls"]
    assert seen.get("events") == events
    # Frames of the Images API go on byte for byte.
    assert said["wire"] == [b"".join(map(frame, events)).decode()]
    check_stream_headers(seen["headers"])
    await check_delivered(
        door, seen, stream=True, response_image_count=1, usage=USAGE, quality_given="medium"
    )
    [arrived] = upstream.calls
    assert arrived.target == GENERATIONS[kind]
    assert arrived.headers["accept"] == "text/event-stream"
    model = {} if kind == "azure" else {"model": "gpt-image-2"}
    assert arrived.json() == {"prompt": "a cat", **model, "stream": True, "partial_images": 2}


@pytest.mark.parametrize("kind", ["azure", "openai"])
async def test_a_streamed_edit_comes_event_by_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path, kind: str
) -> None:
    events = [
        image_event("image_edit.partial_image", partial_image_index=0),
        image_event("image_edit.completed", usage=USAGE, b64_json=picture(200_001)),
    ]
    upstream.script = streams(*map(frame, events))
    door = doors(kind)
    sent = [draw(tmp_path, "buffer"), draw(tmp_path, "file", "image/webp")]
    given = {"image": [each.parameter for each in sent]}
    seen = await ask(door, "edit", {**CAT, **given, "stream": True, "partial_images": 1})
    assert seen.get("events") == events
    check_stream_headers(seen["headers"])
    await check_delivered(
        door, seen, endpoint="edits", stream=True, input_image_count=2, response_image_count=1
    )
    [call] = upstream.calls
    assert call.target == EDITS[kind]
    assert call.headers["accept"] == "text/event-stream"
    fields = {each.name: each.value for each in parts(call) if each.type is None}
    model = {} if kind == "azure" else {"model": "gpt-image-2"}
    assert fields == {"prompt": "a cat", "stream": "true", "partial_images": "1", **model}
    assert [each for each in parts(call) if each.type is not None] == [
        Part("image[]", each.digest, each.type) for each in sent
    ]


async def test_every_picture_of_a_stream_is_one_completed_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    events = [
        image_event("image_generation.completed", usage=USAGE, b64_json=picture(100 + number))
        for number in range(3)
    ]
    upstream.script = streams(*map(frame, events))
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "n": 3, "stream": True})
    assert seen.get("events") == events
    record = await check_delivered(door, seen, n=3, response_image_count=3)
    assert record["usage"] == times(USAGE, 3)


WRITTEN_PARTIAL, WRITTEN_LAST = (
    image_event("image_generation.partial_image", partial_image_index=0),
    image_event("image_generation.completed", usage=USAGE),
)


@pytest.mark.parametrize(
    "frames",
    [
        [frame(each).replace(b"\n", b"\r\n") for each in (WRITTEN_PARTIAL, WRITTEN_LAST)],
        [frame(WRITTEN_PARTIAL, name=""), frame(WRITTEN_LAST, name="")],
        [
            b"event: image_generation.partial_image\ndata: "
            + json.dumps(WRITTEN_PARTIAL, indent=1).replace("\n", "\ndata: ").encode()
            + b"\n\n",
            frame(WRITTEN_LAST),
        ],
        [
            b": ping\n\n",
            b"retry: 3000\n\n" + frame(WRITTEN_PARTIAL) + b": ping\n\n",
            b": and\n" + frame(WRITTEN_LAST),
        ],
        [frame(WRITTEN_PARTIAL), frame(WRITTEN_LAST), b"data: [DONE]\n\n"],
        [frame(WRITTEN_PARTIAL), frame(WRITTEN_LAST)[:-1]],
        [bytes([byte]) for byte in frame(WRITTEN_PARTIAL) + frame(WRITTEN_LAST)],
    ],
    ids=["CRLF", "no names", "lines of data", "comments", "DONE", "no blank line", "bytes"],
)
async def test_however_an_upstream_writes_its_frames_the_sdk_can_read_them(
    doors: Callable[..., Door], upstream: ScriptedUpstream, frames: list[bytes]
) -> None:
    upstream.script = streams(*frames)
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1})
    assert seen.get("events") == [WRITTEN_PARTIAL, WRITTEN_LAST]
    await check_delivered(door, seen, stream=True, response_image_count=1, usage=USAGE)


@pytest.mark.parametrize("method", ["generate", "edit"])
@pytest.mark.parametrize("kind", ["codex", "azure", "openai"])
async def test_an_upstream_that_answers_a_stream_at_once_still_gives_events(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    kind: str,
    method: str,
) -> None:
    """A JSON body where it asked for a stream gives the SDK no event and no error."""
    upstream.script = answers(200, images(2))
    door = doors(kind)
    given = {"image": draw(tmp_path, "buffer").parameter} if method == "edit" else {}
    seen = await ask(door, method, {**CAT, **given, "n": 2, "stream": True})
    assert "error" not in seen, seen["error"]
    check_stream_headers(seen["headers"])
    name = "image_edit.completed" if method == "edit" else "image_generation.completed"
    assert [event["type"] for event in seen["events"]] == [name] * 2
    for event in seen["events"]:
        assert event["b64_json"] == picture()
        assert event["created_at"] == 1_700_000_000
        assert (event["size"], event["output_format"]) == ("1024x1024", "png")
    assert seen["events"][-1]["usage"] == images()["usage"]
    await check_delivered(door, seen, stream=True, response_image_count=2)
    [call] = upstream.calls
    assert (b"stream" in call.body) == (kind != "codex")


@pytest.mark.parametrize(
    ("method", "prefix"), [("generate", "image_generation"), ("edit", "image_edit")]
)
async def test_a_codex_account_streams_by_the_responses_route(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    method: str,
    prefix: str,
) -> None:
    upstream.script = response_events(
        RESPONSE_CREATED, *RESPONSE_PARTIALS, RESPONSE_ITEM, RESPONSE_COMPLETED
    )
    door = doors("responses")
    sent = draw(tmp_path, "stream")
    given = {"image": sent.parameter} if method == "edit" else {}
    seen = await ask(
        door, method, {**CAT, **given, "quality": "high", "stream": True, "partial_images": 2}
    )
    assert "error" not in seen, seen["error"]
    check_stream_headers(seen["headers"])
    shared = {
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "1024x1024",
    }
    made = [event.pop("created_at") for event in seen["events"]]
    assert all(isinstance(moment, int) and moment > 1_700_000_000 for moment in made)
    assert seen["events"] == [
        *(
            {
                "type": f"{prefix}.partial_image",
                "b64_json": each["partial_image_b64"],
                "partial_image_index": index,
                **shared,
            }
            for index, each in enumerate(RESPONSE_PARTIALS)
        ),
        {"type": f"{prefix}.completed", "b64_json": picture(300), **shared, "usage": USAGE},
    ]
    await check_delivered(
        door,
        seen,
        stream=True,
        endpoint="edits" if method == "edit" else "generations",
        input_image_count=len(given),
        response_image_count=1,
        usage=USAGE,
        quality_given="high",
    )
    [call] = upstream.calls
    assert call.target == "/codex/responses"
    body = call.json()
    assert (body["model"], body["stream"], body["store"]) == (MAIN_MODEL, True, False)
    assert body["tools"] == [
        {
            "type": "image_generation",
            "action": method,
            "model": "gpt-image-2",
            "quality": "high",
            "partial_images": 2,
        }
    ]
    [message] = body["input"]
    assert message["content"][0] == {"type": "input_text", "text": "a cat"}
    assert [digest_of(each["image_url"], "image/png") for each in message["content"][1:]] == [
        sent.digest for _ in given
    ]


@pytest.mark.parametrize("kind", ["responses", "openai"])
async def test_an_event_of_some_megabytes_arrives_whole(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    large = picture(4_500_000)
    upstream.script = (
        response_events(
            {**RESPONSE_ITEM, "item": {**RESPONSE_ITEM["item"], "result": large}},
            RESPONSE_COMPLETED,
        )
        if kind == "responses"
        else streams(frame(image_event("image_generation.completed", usage=USAGE, b64_json=large)))
    )
    door = doors(kind)
    seen = await ask(door, "generate", {**CAT, "stream": True})
    await check_delivered(door, seen, stream=True, response_image_count=1, usage=USAGE)
    [made] = seen["events"]
    assert made["type"] == "image_generation.completed"
    assert made["b64_json"] == large
    assert made["usage"] == USAGE


async def test_several_pictures_by_the_responses_route_are_one_answer(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_ITEM, RESPONSE_COMPLETED)
    door = doors("responses")
    seen = await ask(door, "generate", {**CAT, "n": 2, "stream": True})
    assert [event["type"] for event in seen["events"]] == ["image_generation.completed"] * 2
    assert [event["b64_json"] for event in seen["events"]] == [picture(300)] * 2
    assert len(upstream.calls) == 2
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["response_image_count"]) == (200, 2)
    assert record["usage"] == times(USAGE, 2)
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"] * 2


async def test_a_reader_that_leaves_a_stream_gets_its_picture_when_it_asks_again(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    go = asyncio.Event()
    completed = image_event("image_generation.completed", usage=USAGE)

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(PARTIAL))
        await go.wait()
        await call.send(frame(completed))

    upstream.script = script
    door = doors("openai")
    parameters = {**CAT, "stream": True, "partial_images": 1}
    seen = await ask(door, "generate", parameters, take=1)
    assert "error" not in seen
    assert seen["events"] == [PARTIAL]
    await until_left(door.gateway)
    go.set()
    seen = await ask(door, "generate", parameters)
    assert seen["events"][-1] == completed
    assert len(upstream.calls) == 1
    first = await door.record(call_source="made")
    assert (first["client_left"], first["response_image_count"]) == (True, 1)
    assert (await door.record(call_source="taken-over"))["status"] == 200


# -- waiting ---------------------------------------------------------------------------------------


async def test_comments_while_an_upstream_thinks_disturb_nobody(
    waiting: Callable[[str], Door], upstream: ScriptedUpstream
) -> None:
    events = [
        image_event("image_generation.partial_image", partial_image_index=0),
        image_event("image_generation.completed", usage=USAGE, b64_json=picture(300_000)),
    ]
    upstream.script = streams(*map(frame, events), pause=0.7)
    door = waiting("openai")
    call = {"method": "generate", "parameters": {**CAT, "stream": True, "partial_images": 1}}
    said = await run(door, call, wire=True)
    [seen] = said["calls"]
    assert seen.get("events") == events
    # Between whole frames, before and after the first, and nowhere else.
    [wire] = said["wire"]
    frames = [frame(event).decode() for event in events]
    pattern = "".join(f"(?:{re.escape(KEEP_ALIVE)})+{re.escape(each)}" for each in frames)
    assert re.fullmatch(pattern, wire)
    await check_delivered(door, seen, stream=True, response_image_count=1)
    assert door.gateway.stop() == 0
