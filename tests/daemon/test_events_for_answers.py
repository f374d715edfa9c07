"""Events where a plain answer was asked for, plain answers where events were, and `url` events."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.daemon.conftest import MakeDoor, frames_of
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    frame,
    images,
    partial,
    picture,
    streams,
)

STREAM = b'{"prompt": "a cat", "stream": true}'
TWO = b'{"prompt": "a cat", "n": 2}'
EVENTS = {"content-type": "text/event-stream"}
ADDRESS = "https://pictures.example/cat.png"
USAGE = images()["usage"]


def at_address(kind: str = "image_generation") -> dict[str, Any]:
    """A finished picture of which only the address is told."""
    event = completed(kind)
    del event["b64_json"]
    return {**event, "url": ADDRESS}


def body_of(events: Sequence[Mapping[str, Any] | bytes]) -> bytes:
    return b"".join(event if isinstance(event, bytes) else frame(event) for event in events)


LARGE = 200_000
CASES: dict[str, tuple[bytes, dict[str, str]]] = {
    "images events": (body_of([completed(size=LARGE)]), EVENTS),
    "of an edit": (body_of([completed("image_edit", LARGE)]), EVENTS),
    "after partial pictures": (body_of([partial(), partial(1), completed(size=LARGE)]), EVENTS),
    "as JSON": (body_of([completed(size=LARGE)]), {}),
    "as text": (body_of([completed(size=LARGE)]), {"content-type": "text/plain"}),
    "after a comment": (b": wait\n\n" + body_of([completed(size=LARGE)]), {}),
    "after a mark": (b"\xef\xbb\xbf\n" + body_of([completed(size=LARGE)]), {}),
    "with an end of its own": (body_of([completed(size=LARGE), b"data: [DONE]\n\n"]), EVENTS),
    "without names": (b"data: " + json.dumps(completed(size=LARGE)).encode() + b"\n\n", {}),
    "responses events": (body_of(drawn(size=LARGE)), EVENTS),
    "responses events as JSON": (body_of(drawn(1, size=LARGE)), {}),
    "one event with an answer": (
        b"data: %s\n\n" % json.dumps(images(data=[{"b64_json": picture(LARGE)}])).encode(),
        EVENTS,
    ),
}


@pytest.mark.parametrize(("body", "headers"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", ["codex", "openai", "azure-v1"])
async def test_pictures_are_taken_out_of_events_where_an_answer_was_asked_for(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    kind: str,
    body: bytes,
    headers: dict[str, str],
) -> None:
    door = make_account(kind)
    upstream.script = answers(200, body, headers)
    status, named, told = await door.post(PROMPT)
    answer = json.loads(told)
    assert (status, named["content-type"]) == (200, "application/json")
    assert [each["b64_json"] for each in answer["data"]] == [picture(LARGE)]
    assert answer["size"] == "1024x1024"
    assert answer["usage"] == images()["usage"]
    record = await door.record()
    assert (record["error_code"], record["response_image_count"]) == (None, 1)
    assert (record["usage"], record["may_be_billed"]) == (USAGE, False)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "events",
    [
        [completed(size=LARGE), completed()],
        [b"data: " + json.dumps(images(2)).encode() + b"\n\n"],
        [partial(), completed(), partial(1), completed(), b"data: [DONE]\n\n"],
    ],
)
async def test_several_pictures_are_one_answer(
    make_account: MakeDoor, upstream: ScriptedUpstream, events: Sequence[Any]
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, body_of(events), EVENTS)
    status, _, told = await door.post(TWO)
    assert (status, len(json.loads(told)["data"])) == (200, 2)
    record = await door.record()
    assert (record["response_image_count"], record["error_code"]) == (2, None)


async def test_fewer_pictures_than_asked_for_are_delivered(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, body_of([completed()]), EVENTS)
    status, _, told = await door.post(TWO)
    assert (status, len(json.loads(told)["data"])) == (200, 1)
    assert (await door.record())["response_image_count"] == 1


async def test_pictures_become_urls_if_the_client_asks_for_them(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex")
    upstream.script = answers(200, body_of([completed(), at_address()]), EVENTS)
    _, _, told = await door.post(b'{"prompt": "a cat", "n": 2, "response_format": "url"}')
    first, second = json.loads(told)["data"]
    assert first == {"url": f"data:image/png;base64,{picture()}"}
    assert second == {"url": ADDRESS}


async def test_a_client_that_streams_gets_events_from_an_upstream_that_was_asked_for_none(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """Codex's direct route never streams."""
    for events in ([completed()], drawn()):
        door = make_account("codex")
        upstream.script = answers(200, body_of(events), EVENTS)
        status, _, told = await door.post(STREAM)
        assert status == 200
        [event] = frames_of(told)
        assert (event["type"], event["b64_json"]) == ("image_generation.completed", picture())
        assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize(
    "body",
    [b"data: {}\n\n", b": nothing\n\n", b"data: [DONE]\n\n", frame(partial()), b"event: x\n\n"],
)
async def test_events_without_a_picture_are_no_answer(
    make_account: MakeDoor, upstream: ScriptedUpstream, body: bytes
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, body, EVENTS)
    status, headers, told = await door.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    assert (await door.record())["may_be_billed"]


async def test_events_that_are_cut_are_an_unknown_outcome(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")

    async def cuts(call: Call) -> None:
        await call.head(200, {**EVENTS, "content-length": "10000"})
        await call.send(frame(partial()))

    upstream.script = cuts
    status, headers, told = await door.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(told, "outcome_unknown")
    assert (await door.record())["may_be_billed"]


async def test_an_error_event_is_the_error_that_it_says(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    event = {"type": "error", "error": {"code": "moderation_blocked", "message": "Why."}}
    upstream.script = streams([event])
    status, _, told = await door.post(PROMPT)
    assert (status, json.loads(told)["error"]["code"]) == (400, "moderation_blocked")
    assert (await door.record())["error_code"] == "moderation_blocked"


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "odd"])
@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["answer", "stream"])
async def test_responses_events_are_events_whatever_they_are_called(
    make_account: MakeDoor, upstream: ScriptedUpstream, media_type: str, body: bytes
) -> None:
    door = make_account("codex-responses")
    upstream.script = answers(200, body_of(drawn(size=LARGE)), {"content-type": media_type})
    status, _, told = await door.post(body)
    assert (status, picture(LARGE).encode() in told) == (200, True)
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("answer", [{}, b"", b"ok", b"["])
async def test_json_where_responses_events_were_asked_for_is_no_answer(
    make_account: MakeDoor, upstream: ScriptedUpstream, answer: Any
) -> None:
    door = make_account("codex-responses")
    upstream.script = answers(200, answer)
    status, headers, told = await door.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    assert (await door.record())["may_be_billed"]


# -- a plain answer where events were asked for ----------------------------------------------------


@pytest.mark.parametrize("kind", ["codex", "openai", "azure-v1"])
@pytest.mark.parametrize(
    "media_type",
    ["application/json", "text/plain", "text/event-stream", "application/octet-stream", "odd"],
)
async def test_a_plain_answer_becomes_events_whatever_it_is_called(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, media_type: str
) -> None:
    door = make_account(kind)
    upstream.script = answers(200, images(), {"content-type": media_type})
    status, headers, told = await door.post(STREAM)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    [event] = frames_of(told)
    assert (event["type"], event["usage"]) == ("image_generation.completed", images()["usage"])
    assert (await door.record())["response_image_count"] == 1


# -- pictures by their addresses -------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"", b"data: [DONE]\n\n"])
async def test_an_event_with_an_address_counts_and_ends_the_stream_well(
    make_account: MakeDoor, upstream: ScriptedUpstream, ending: bytes
) -> None:
    door = make_account("openai")
    upstream.script = streams([at_address(), ending])
    async with door.client() as client:
        stream = await client.images.generate(model="gpt-image-2", prompt="a cat", stream=True)
        events = [event async for event in stream]
    assert [(event.type, event.to_dict()["url"]) for event in events] == [
        ("image_generation.completed", ADDRESS)
    ]
    record = await door.record()
    assert (record["error_code"], record["response_image_count"]) == (None, 1)
    assert (record["usage"], record["may_be_billed"]) == (USAGE, False)


@pytest.mark.parametrize("body", [PROMPT, b'{"prompt": "a cat", "response_format": "url"}'])
async def test_an_address_in_an_answer_counts_and_stays_as_it_is(
    make_account: MakeDoor, upstream: ScriptedUpstream, body: bytes
) -> None:
    door = make_account("openai")
    answer = images(data=[{"url": ADDRESS, "revised_prompt": "a nicer cat"}])
    upstream.script = answers(200, answer)
    status, _, told = await door.post(body)
    assert (status, json.loads(told)) == (200, answer)
    assert (await door.record())["response_image_count"] == 1


async def test_an_address_in_an_answer_becomes_an_event(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    upstream.script = answers(200, images(data=[{"url": ADDRESS}]))
    [event] = frames_of((await door.post(STREAM))[2])
    assert (event["url"], "b64_json" in event) == (ADDRESS, False)
    assert (await door.record())["response_image_count"] == 1
