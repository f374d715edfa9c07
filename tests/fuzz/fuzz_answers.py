"""Answers of upstreams: pictures and usage in JSON (``core.records.meter``) and in events
(``core.dialects.events``, ``response_events``, ``picture_events``, ``response_output``).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Body, Span
from image_gateway.core.codec.sse import EventSplitter
from image_gateway.core.dialects import events, response_output
from image_gateway.core.dialects.events import Event, EventKind, ParsedEvent, UrlEntry
from image_gateway.core.dialects.picture_events import PictureReader
from image_gateway.core.dialects.response_events import ResponseReader
from image_gateway.core.records import usage as usages
from image_gateway.core.records.builder import Made
from image_gateway.core.records.meter import AnswerMeter
from image_gateway.core.scrubbing import Scrubber
from tests.fuzz.accounts import ACCOUNTS
from tests.fuzz.values import Values, cut, stretched

SCRUBBER: Final = Scrubber.of(ACCOUNTS[0])


def meter(pieces: list[bytes]) -> object:
    """All that a meter says of an answer."""
    read = AnswerMeter()
    for piece in pieces:
        read.feed(piece)
    return read.may_have_picture, read.is_no_answer, read.close()


def check(data: bytes) -> None:
    """Nothing raises; any cut counts the same; what is written is JSON; usage is in bounds."""
    values = Values(data)
    seed = values.byte() or 1
    text = stretched(values.rest())
    whole = meter([text])
    assert meter(cut(text, seed)) == whole
    check_meter(text, whole)
    responses, pictures = ResponseReader(), PictureReader()
    for event, spooled in events_of(text):
        for parsed in (
            responses.read(event),
            pictures.read(event),
            events.read_image_event(event),
            events.read_conversation_event(event),
        ):
            check_event(parsed, event, spooled)
        check_output(event, spooled)


def check_meter(text: bytes, whole: object) -> None:
    """The counts of an answer, by those of a parser."""
    assert isinstance(whole, tuple)
    may_have_picture, _, (made, is_complete) = whole
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    assert is_complete
    if not isinstance(answer, dict) or made is None:
        return
    assert isinstance(made, Made)
    data = answer.get("data")
    entries = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    fields = ("b64_json", "url")
    assert made.pictures == sum(
        any(isinstance(each.get(name), str) and each[name] for name in fields) for each in entries
    )
    assert may_have_picture or not made.pictures
    for usage in (made.usage, made.usage_text, made.svg_usage):
        check_usage(usage)
    total = usages.total_of(answer.get("usage"))
    assert total is None or 0 <= total <= 2 * usages.MOST_TOKENS
    usages.cached_of(answer.get("usage"))


def check_usage(usage: Mapping[str, object] | None) -> None:
    """A usage as a record keeps it."""
    for name, value in (usage or {}).items():
        if isinstance(value, Mapping):
            check_usage(value)
        elif name == "model":
            assert isinstance(value, str)
        else:
            assert isinstance(value, int)
            assert 0 <= value <= usages.MOST_TOKENS


def events_of(text: bytes) -> Iterator[tuple[Event, bytes]]:
    """The events in a text with the data of each, read as ``edge.upstream.event_reader`` does."""
    splitter = EventSplitter()
    data = bytearray()
    for piece in (*splitter.feed(text), *splitter.close()):
        data += piece.data
        if not piece.ends:
            continue
        skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.ANSWER, mends=True)
        try:
            skeleton.feed(bytes(data))
            yield Event(piece.event, skeleton.close(), skeleton.lifted), bytes(data)
        except json_scanner.ScanError:
            yield Event(piece.event), bytes(data)
        data.clear()


def check_event(parsed: ParsedEvent, event: Event, data: bytes) -> None:
    """What is said of an event, and the events and entries that a client gets of it."""
    assert (400 <= parsed.status < 600) == (parsed.kind is EventKind.FAILURE)
    for usage in (parsed.usage, parsed.usage_text):
        events.add_usage(usage, usage)
        Made.of(1, usage, parsed.picture, None, usage)
    if parsed.kind is EventKind.FAILURE:
        SCRUBBER.clean_error(parsed.error)
    for picture in (parsed.picture, *parsed.others):
        if parsed.kind not in {EventKind.PICTURE, EventKind.PARTIAL} or not picture:
            continue
        framed = played(events.frame("edits", "completed", picture, event.lifted), data)
        assert isinstance(data_of(framed), dict)
        for as_url in (False, True):
            entry = events.entry(picture, event.lifted, as_url=as_url)
            parts: Body = entry if isinstance(entry, tuple) else pieces_of(entry)
            assert isinstance(loads(played(parts, data)), dict)
        before, after = events.answer_ends(picture, parsed.usage, 0)
        assert loads(before + after)["data"] == []


def data_of(frame: bytes) -> object:
    """The data of one frame, which is one line of JSON."""
    *before, data, end, rest = frame.split(b"\n")
    assert end == rest == b""
    assert all(line.startswith(b"event: ") for line in before)
    assert data.startswith(b"data: ")
    return loads(data.removeprefix(b"data: "))


def loads(text: bytes) -> Any:
    """JSON as a client reads it, which takes broken UTF-8 and half surrogate pairs: they were in a
    long string of an answer that is paid for, and are passed on.
    """
    return json_scanner.read_mended(text.decode("utf-8", "replace").encode())


def pieces_of(entry: UrlEntry) -> Body:
    """An entry with a data URL, in one."""
    return (*entry.before, entry.head, *entry.base64, *entry.after)


def check_output(event: Event, data: bytes) -> None:
    """What a client of the Responses API gets of an event."""
    for frame in (
        response_output.opening_frame(event),
        response_output.item_frame(event),
        response_output.failure_frame(event, SCRUBBER, is_quotable=False),
        response_output.failure_frame(event, SCRUBBER, is_quotable=True),
    ):
        if frame is not None:
            written = played(frame, data)
            assert isinstance(data_of(written), dict)
    response_output.is_empty(event)
    response = response_output.ended(event)
    if response is not None:
        before, after = response_output.response_ends(response, event.lifted)
        assert isinstance(loads(played((*before, *after), data)), dict)
        first, last = response_output.end_frame(event)
        written = played((*first, *before, *after, *last), data)
        assert isinstance(data_of(written), dict)
    whole = response_output.event_of(event.value, event.lifted)
    if whole is not None:
        ResponseReader().read(whole)


def played(body: Body, data: bytes) -> bytes:
    """A body's bytes on the wire."""
    written = bytearray()
    for part in body:
        assert isinstance(part, bytes | Span)
        written += part if isinstance(part, bytes) else data[part.start : part.stop]
    return bytes(written)
