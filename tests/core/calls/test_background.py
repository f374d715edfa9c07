"""Responses in the background: their ids, their events, and how those are found again in bytes."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.responses import Response

from image_gateway.core.calls import background
from image_gateway.core.calls.background import BackgroundResponse, FramesAfter, LastResponse
from image_gateway.core.calls.model import CallIdentity
from image_gateway.core.dialects.events import Event

CALL_ID = f"call_{'ab' * 16}"
RESPONSE_ID = f"resp_ig_{'ab' * 16}"
RESPONSE = BackgroundResponse(RESPONSE_ID, "gpt-5", 1_800_000_000.5)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["response.output_text.delta", "response.x", "", "odd\nname", "n" * 600])
FIELDS = st.dictionaries(st.sampled_from(["delta", "response", "item", "a\n\nb"]), VALUES)
CUTS = st.lists(st.integers(0, 3000), max_size=8)


def test_a_response_has_the_id_of_its_call() -> None:
    assert background.response_id(CALL_ID) == RESPONSE_ID
    assert background.call_id(RESPONSE_ID) == CALL_ID
    identity = CallIdentity(CALL_ID, "req_1", "k", "f", None, "responses", 5.0, model="gpt-5")
    assert BackgroundResponse.of(identity) == BackgroundResponse(RESPONSE_ID, "gpt-5", 5.0)


@given(st.one_of(st.text(), st.text().map("resp_ig_".__add__), st.text().map("call_".__add__)))
@example(RESPONSE_ID.upper())
@example(RESPONSE_ID + "\n")
@example(CALL_ID)
@example("resp_ig_../../journals")
def test_no_other_text_is_a_response_id(text: str) -> None:
    assert background.call_id(text) is None or text == f"resp_ig_{text[8:]}"
    found = background.call_id(text)
    assert found is None or background.response_id(found) == text


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (RESPONSE.pending("queued"), "queued"),
        (RESPONSE.pending("in_progress"), "in_progress"),
        (RESPONSE.failed(b'{"error": {"message": "no", "code": "invalid_prompt"}}', "x"), "failed"),
        (RESPONSE.failed(b"", "call_cancelled"), "cancelled"),
    ],
    ids=["queued", "in progress", "failed", "cancelled"],
)
def test_the_sdks_types_know_a_response_in_every_state(text: bytes, status: str) -> None:
    response = Response.model_validate_json(text)
    assert (response.id, response.status, response.background) == (RESPONSE_ID, status, True)
    assert (response.model, response.created_at, response.output) == ("gpt-5", 1_800_000_000, [])


@given(st.one_of(st.binary(), VALUES.map(lambda value: json.dumps(value).encode())))
@example(b'{"error": {"message": 5, "code": null}}')
def test_any_error_has_a_code_and_a_message(body: bytes) -> None:
    error = json.loads(RESPONSE.failed(body, None))["error"]
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)


def frames_of(events: Sequence[tuple[str, dict[str, Any]]]) -> list[bytes]:
    made = []
    for number, (kind, fields) in enumerate(events):
        body = RESPONSE.frame(Event(kind, {**fields, "type": kind, "sequence_number": 7}), number)
        assert all(isinstance(part, bytes) for part in body)
        made.append(b"".join(part for part in body if isinstance(part, bytes)))
    return made


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    return [data[start:stop] for start, stop in itertools.pairwise(places)]


@given(st.lists(st.tuples(KINDS, FIELDS), max_size=6), CUTS, st.integers(-2, 8))
def test_the_events_after_a_number_are_whole_however_the_bytes_come(
    events: Sequence[tuple[str, dict[str, Any]]], cuts: Sequence[int], after: int
) -> None:
    frames = frames_of(events)
    wanted = b"".join(frame for number, frame in enumerate(frames) if number > after)
    frames_after = FramesAfter(after)
    got = b"".join(map(frames_after.feed, pieces_of(b"".join(frames), cuts)))
    assert got == wanted


@given(KINDS, FIELDS)
def test_an_event_keeps_what_it_says_and_gets_the_gateways_id(
    kind: str, fields: dict[str, Any]
) -> None:
    fields |= {"response_id": "resp_1"}
    [frame] = frames_of([(kind, fields)])
    *_, line, end, last = frame.decode().split("\n")
    assert (end, last) == ("", "")
    data = json.loads(line.removeprefix("data: "))
    assert (data.pop("sequence_number"), data.pop("response_id")) == (0, RESPONSE_ID)
    response = fields.get("response")
    if isinstance(response, dict):
        assert data["response"]["id"] == RESPONSE_ID
        own = {"id", "created_at", "background", "status"}
        assert {name: data["response"][name] for name in response.keys() - own} == {
            name: response[name] for name in response.keys() - own
        }
    for name in ("delta", "a\n\nb"):
        assert data.get(name) == fields.get(name)


@given(
    st.lists(st.tuples(KINDS, FIELDS), max_size=4),
    VALUES,
    st.sampled_from(["completed", "incomplete"]),
    CUTS,
)
def test_the_response_in_the_last_event_is_found(
    events: Sequence[tuple[str, dict[str, Any]]], value: Any, status: str, cuts: Sequence[int]
) -> None:
    before, after = RESPONSE.end_frame(status, len(events))
    whole = json.dumps({"output": value}).encode()
    data = b"".join((*frames_of(events), before, whole, after))
    last = LastResponse()
    for piece in pieces_of(data, cuts):
        last.feed(piece)
    assert data[last.start : last.stop] == whole
