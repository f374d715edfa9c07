"""Frames of events: the same for any split and any end of line, and none of them lost."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_gateway.core.codec.sse import EventSplitter, Piece
from tests.core.builders import split
from tests.parts.examples import scaled


@dataclass(frozen=True)
class _Frame:
    """One frame: its bytes as they go on, its data, its name; ``cut`` where its end is missing."""

    raw: bytes
    data: bytes
    event: str | None
    cut: bool = False


def _frames(chunks: Iterable[bytes], *, close: bool = True) -> list[_Frame]:
    splitter = EventSplitter()
    frames: list[_Frame] = []
    raw, data = bytearray(), bytearray()

    def take(pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            raw.extend(piece.raw)
            data.extend(piece.data)
            if piece.ends:
                frames.append(_Frame(bytes(raw), bytes(data), piece.event))
                raw.clear()
                data.clear()

    for chunk in chunks:
        take(splitter.feed(chunk))
        assert not (splitter.begun and not raw)
    if close:
        take(splitter.close())
        assert not splitter.begun
    if raw or data:
        frames.append(_Frame(bytes(raw), bytes(data), None, cut=True))
    return frames


def _naive(text: bytes) -> list[_Frame]:
    """The same by the book (WHATWG HTML, 9.2), from the whole text; comments are left out."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    frames: list[_Frame] = []
    held: list[bytes] = []
    for line in [*lines, b""]:
        if line.startswith(b":"):
            continue
        if line:
            held.append(line)
            continue
        if not held:
            continue
        data: list[bytes] = []
        event: str | None = None
        for each in held:
            name, _, value = each.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode("utf-8", "replace")
        frames.append(_Frame(b"\n".join(held) + b"\n\n", b"\n".join(data), event))
        held = []
    return frames


_LINES = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data:  three",
        b"data:",
        b"data: ",
        b'data: {"a":"data: x"}',
        b"data: \xf0\x9f\x98\x80 \xff",
        b"data::",
        b"event: image_edit.completed",
        b"event:x",
        b"event: ",
        b"event: \xff",
        b"Data: x",
        b" data: x",
        b"dataset: x",
        b"dat",
        b"events: x",
        b": keep-alive",
        b":",
        b"id: 7",
        b"retry: 5",
        b"x" * 300,
        b"event: " + b"y" * 100,
        b"",
        b"",
        b"",
    ]
)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
_STARTS = st.sampled_from([b"", b"\xef\xbb\xbf"])
_TEXTS = st.tuples(_STARTS, st.lists(st.tuples(_LINES, _ENDS), max_size=14)).map(
    lambda text: text[0] + b"".join(line + end for line, end in text[1])
)
_TAILS = st.one_of(st.just(b""), _LINES)


@given(_TEXTS, _TAILS, st.data())
@settings(max_examples=scaled(300))
def test_any_split_gives_the_frames_of_the_book(
    text: bytes, tail: bytes, data: st.DataObject
) -> None:
    """A last frame that lacks its blank line comes by ``close``."""
    assert _frames(data.draw(split(text + tail))) == _naive(text + tail)


@given(_TEXTS, _TAILS)
@settings(max_examples=scaled(60))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", b"")
@example(b"data: a\r\rdata: b\r\r", b"")
def test_bytes_one_by_one_give_the_same_frames(text: bytes, tail: bytes) -> None:
    whole = text + tail
    assert _frames(whole[at : at + 1] for at in range(len(whole))) == _naive(whole)


@given(st.lists(st.tuples(_LINES, st.none()), max_size=10), st.lists(_ENDS, min_size=3, max_size=3))
def test_the_end_of_a_line_changes_nothing(
    lines: list[tuple[bytes, None]], ends: list[bytes]
) -> None:
    texts = [b"".join(line + end for line, _ in lines) for end in ends]
    assert _frames([texts[0]]) == _frames([texts[1]]) == _frames([texts[2]])


@given(st.text("dat: e\r\nvn{}", max_size=60).map(str.encode), st.data())
def test_any_text_gives_the_same_frames_for_any_split(text: bytes, data: st.DataObject) -> None:
    one = _frames([text])
    assert _frames(data.draw(split(text))) == one
    assert all(frame.raw.endswith(b"\n\n") for frame in one)
    assert b"\r" not in b"".join(frame.raw for frame in one)


@given(_TEXTS)
def test_frames_that_went_on_are_read_again_as_themselves(text: bytes) -> None:
    frames = _frames([text])
    assert _frames([b"".join(frame.raw for frame in frames)]) == frames


def test_a_frame_ends_with_its_blank_line_and_not_before() -> None:
    assert _frames([b"data: a\n"], close=False) == [_Frame(b"data: a\n", b"a", None, cut=True)]
    assert _frames([b"data: a\n\n"], close=False) == [_Frame(b"data: a\n\n", b"a", None)]
    # The blank line's own LF may still come, but it belongs to nobody.
    assert _frames([b"data: a\r\n\r"], close=False) == [_Frame(b"data: a\n\n", b"a", None)]
    assert _frames([b"data: a\r\n\r", b"\ndata: b\n\n"], close=False) == [
        _Frame(b"data: a\n\n", b"a", None),
        _Frame(b"data: b\n\n", b"b", None),
    ]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data:\ndata: b\n\n", b"\nb"),
        (b"data: a\ndata:\ndata:b\n\n", b"a\n\nb"),
        (b"data: a\nid: 5\ndata: b\n\n", b"a\nb"),
        (b"data:   a \n\n", b"  a "),
        (b"data: data: a\n\n", b"data: a"),
        (b"event: x\n\n", b""),
    ],
)
def test_lines_of_data_are_joined_and_nothing_else_is_data(text: bytes, data: bytes) -> None:
    for step in (1, 2, 3, len(text)):
        [frame] = _frames(text[at : at + step] for at in range(0, len(text), step))
        assert (frame.data, frame.raw) == (data, text)


@pytest.mark.parametrize(
    ("text", "event"),
    [
        (b"event: a\ndata: x\n\n", "a"),
        (b"data: x\nevent:a\n\n", "a"),
        (b"event: a\nevent: b\ndata: x\n\n", "b"),
        (b"event:  a\ndata: x\n\n", " a"),
        (b"data: x\n\n", None),
        (b"events: a\ndata: event: b\n\n", None),
    ],
)
def test_an_event_s_name_is_its_own(text: bytes, event: str | None) -> None:
    first, second = _frames([text + b"data: y\n\n"])
    assert first.event == event
    assert second.event is None


@pytest.mark.parametrize("step", [1, 2, 100])
def test_comments_are_left_out_and_begin_nothing(step: int) -> None:
    text = b": a\n\n:\ndata: x\n: b\nid: 5\r\n:c\r\n\n: d\n\n"
    assert _frames(text[at : at + step] for at in range(0, len(text), step)) == [
        _Frame(b"data: x\nid: 5\n\n", b"x", None)
    ]


@pytest.mark.parametrize("line", [b": ping\n", b"retry: 3000\n", b"id: 7\n", b"event"])
def test_only_a_name_or_data_begin_an_event(line: bytes) -> None:
    splitter = EventSplitter()
    list(splitter.feed(line))
    assert not splitter.begun
    list(splitter.feed(b"\ndata:"))
    assert splitter.begun


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n", b"\n\n\n\r\r", b": x\n\n"])
def test_blank_lines_are_no_frames(text: bytes) -> None:
    assert _frames([text]) == []
    assert _frames([text, b"data: a\n\n", text]) == [_Frame(b"data: a\n\n", b"a", None)]


@pytest.mark.parametrize("cut", [b"data: a", b"data: a\n", b"data: a\r", b"data: a\r\n"])
def test_a_last_frame_that_was_cut_is_completed_by_the_end(cut: bytes) -> None:
    """Its blank line may be all that it lacks; whether its data is whole is for others to see."""
    assert _frames([b"event: x\n" + cut]) == [_Frame(b"event: x\ndata: a\n\n", b"a", "x")]


def test_closing_twice_gives_nothing_more() -> None:
    splitter = EventSplitter()
    list(splitter.feed(b"data: a"))
    assert [piece.ends for piece in splitter.close()] == [False, True]
    assert list(splitter.close()) == []


def test_megabytes_of_one_line_come_out_as_they_come_in() -> None:
    splitter = EventSplitter()
    list(splitter.feed(b'data: {"b64_json":"'))
    for _ in range(64):
        [piece] = splitter.feed(b"A" * 65_536)
        assert piece == Piece(b"A" * 65_536, b"A" * 65_536)
    list(splitter.feed(b'"}\n\nx'))
    for _ in range(64):
        [piece] = splitter.feed(b"A" * 65_536)
        assert piece == Piece(b"A" * 65_536)
    assert len(splitter._line) <= 256


def test_a_splitter_tells_where_it_is_and_pieces_do_not_show_what_they_hold() -> None:
    splitter = EventSplitter()
    assert repr(splitter) == "<EventSplitter between events>"
    [piece] = splitter.feed(b"data: hush")
    assert repr(splitter) == "<EventSplitter within an event>"
    assert "hush" not in repr(piece)
