"""The scanner: the same events for any split, nothing lost, nothing held."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import json_scanner
from tests.core.builders import split
from tests.core.json_texts import BROKEN, JSON_TEXTS, value_strings
from tests.parts.examples import scaled


class _Events:
    """A sink that writes down what it is told, neighbouring pieces of one kind joined."""

    def __init__(self) -> None:
        self.scanner = json_scanner.Scanner(self)
        self.events: list[tuple[str, bytes]] = []
        self.texts: list[tuple[json_scanner.Path, int, bytes]] = []

    def structure(self, data: bytes) -> None:
        self._add("structure", data)

    def key(self, data: bytes) -> None:
        self.events.append(("key", data))

    def text_start(self, offset: int) -> None:
        self.events.append(("start", b""))
        self.texts.append((self.scanner.path(), offset, b""))

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        self._add("text", chunk[start:stop])
        path, offset, before = self.texts.pop()
        self.texts.append((path, offset, before + chunk[start:stop]))

    def text_stop(self) -> None:
        self.events.append(("stop", b""))

    def _add(self, kind: str, data: bytes) -> None:
        if self.events and self.events[-1][0] == kind:
            self.events[-1] = (kind, self.events[-1][1] + data)
        elif data:
            self.events.append((kind, data))

    def bytes(self) -> bytes:
        return b"".join(data for _, data in self.events)


def _scan(chunks: Iterable[bytes]) -> _Events:
    events = _Events()
    for chunk in chunks:
        events.scanner.feed(chunk)
    return events


@given(JSON_TEXTS, st.data())
def test_any_split_gives_the_same_events(text: bytes, data: st.DataObject) -> None:
    whole = _scan([text])
    pieces = _scan(data.draw(split(text)))
    assert pieces.events == whole.events
    assert pieces.texts == whole.texts


@given(JSON_TEXTS)
@settings(max_examples=scaled(60))
def test_bytes_one_by_one_give_the_same_events(text: bytes) -> None:
    single = _scan(text[index : index + 1] for index in range(len(text)))
    assert single.events == _scan([text]).events


@given(JSON_TEXTS)
def test_the_events_put_together_are_the_text_byte_for_byte(text: bytes) -> None:
    assert _scan([text]).bytes() == text


def _outcome(chunks: Iterable[bytes]) -> tuple[list[tuple[str, bytes]], str | None]:
    events = _Events()
    try:
        for chunk in chunks:
            events.scanner.feed(chunk)
    except json_scanner.ScanError as error:
        return [], str(error)
    return events.events, None


@given(st.one_of(BROKEN, st.binary(max_size=40)), st.data())
def test_broken_text_gives_the_same_events_or_the_same_error_for_any_split(
    text: bytes, data: st.DataObject
) -> None:
    events, error = _outcome([text])
    assert _outcome(data.draw(split(text))) == (events, error)
    if error is None:
        assert text.startswith(b"".join(each for _, each in events))


@given(JSON_TEXTS)
def test_text_events_are_exactly_the_value_strings_with_their_offsets(text: bytes) -> None:
    assert [(offset, inner) for _, offset, inner in _scan([text]).texts] == [
        (start, text[start:stop]) for start, stop in value_strings(text)
    ]


def test_keys_are_keys_and_nothing_else_is() -> None:
    text = b'{"a" : "b", "c":{"d":["e",{"f":"g"}],"h":{}}, "i":"j"}'
    events = _scan([text])
    assert [data for kind, data in events.events if kind == "key"] == [
        b'"a"',
        b'"c"',
        b'"d"',
        b'"f"',
        b'"h"',
        b'"i"',
    ]
    assert [inner for _, _, inner in events.texts] == [b"b", b"e", b"g", b"j"]


@pytest.mark.parametrize("text", [b'[{},"x"]', b'[{"a":1},"x"]', b'[[],"x"]', b'[{"a":{}},"x"]'])
def test_a_text_behind_a_closed_object_is_no_key(text: bytes) -> None:
    assert _scan([text]).texts == [((1,), len(text) - 3, b"x")]


def test_a_path_tells_keys_and_indices() -> None:
    text = b'{"a":["w",["x"],{},{"b":"y","c":[1,2,"z"]}],"d":"e"}'
    assert [(path, inner) for path, _, inner in _scan([text]).texts] == [
        (("a", 0), b"w"),
        (("a", 1, 0), b"x"),
        (("a", 3, "b"), b"y"),
        (("a", 3, "c", 2), b"z"),
        (("d",), b"e"),
    ]


def test_a_value_outside_every_container_has_an_empty_path() -> None:
    assert _scan([b'"x"']).texts == [((), 1, b"x")]


def test_a_key_is_known_by_its_meaning_not_by_its_spelling() -> None:
    assert _scan([b'{"b64\\u005fjson":"x"}']).texts[0][0] == ("b64_json",)


@pytest.mark.parametrize(
    "inner",
    [
        b'a\\"b',
        b"a\\\\",
        b'\\\\\\"',
        b"\\u0022",
        b"\\\\\\\\",
        b'\\"\\"',
        b"\\/",
        b'{\\"a\\":[1,2]}',
    ],
)
def test_an_escape_may_lie_on_any_border(inner: bytes) -> None:
    text = b'["' + inner + b'", "next"]'
    for border in range(len(text) + 1):
        found = _scan([text[:border], text[border:]])
        assert [value for _, _, value in found.texts] == [inner, b"next"]


@pytest.mark.parametrize("inner", [b'a\\"b', b"a\\\\", b"\\u0041"])
def test_an_escape_in_a_key_may_lie_on_any_border(inner: bytes) -> None:
    text = b'{"' + inner + b'":"x"}'
    for border in range(len(text) + 1):
        found = _scan([text[:border], text[border:]])
        assert found.texts[0][0] == (json.loads(b'"' + inner + b'"'),)


def test_containers_may_be_64_deep_and_no_deeper() -> None:
    for opening in (b"[", b'{"a":'):
        assert _scan([opening * json_scanner.IMAGES.depth]).texts == []
        with pytest.raises(json_scanner.ScanError, match="deeper than 64"):
            _scan([opening * (json_scanner.IMAGES.depth + 1)])


@pytest.mark.parametrize("step", [1000, 10**6])
@pytest.mark.parametrize("item", [b"1,", b'"x",', b'"k":1,'])
def test_values_and_brackets_may_be_20000_and_no_more(item: bytes, step: int) -> None:
    """Each costs time of the event loop; a body made of nothing else must end early."""
    opening = b"{" if b":" in item else b"["
    tokens = 1 + item.count(b'"') // 2

    def pieces(count: int) -> list[bytes]:
        text = opening + item * (count // tokens) + b"," * (count % tokens)
        return [text[at : at + step] for at in range(0, len(text), step)]

    chunks = pieces(json_scanner.IMAGES.tokens - 1)
    assert _scan(chunks).bytes() == b"".join(chunks)
    with pytest.raises(json_scanner.ScanError, match="more than 20000"):
        _scan(pieces(json_scanner.IMAGES.tokens))


def test_what_stands_within_a_string_is_not_counted() -> None:
    text = b'["' + b"[{,}]" * 10_000 + b'"]'
    assert _scan([text]).bytes() == text


def test_closed_containers_do_not_count_as_depth() -> None:
    assert _scan([b"[" + b"[]," * 1000 + b"{}" + b"]"]).texts == []


@pytest.mark.parametrize("text", [b"]", b"}", b"[]]", b'{"a":1}}', b"[[]]]"])
def test_closing_more_than_was_opened_is_an_error(text: bytes) -> None:
    with pytest.raises(json_scanner.ScanError, match="closing bracket without"):
        _scan([text])


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_key_may_have_1024_bytes_and_no_more(step: int) -> None:
    def pieces(size: int) -> list[bytes]:
        text = b'{"' + b"k" * size + b'":1}'
        return [text[at : at + step] for at in range(0, len(text), step)]

    assert _scan(pieces(json_scanner.IMAGES.key_bytes)).bytes() == b"".join(
        pieces(json_scanner.IMAGES.key_bytes)
    )
    with pytest.raises(json_scanner.ScanError, match="longer than 1024 bytes"):
        _scan(pieces(json_scanner.IMAGES.key_bytes + 1))


def test_a_key_that_never_ends_is_refused_while_it_comes() -> None:
    events = _Events()
    events.scanner.feed(b'{"' + b"k" * 1000)
    with pytest.raises(json_scanner.ScanError, match="longer than"):
        events.scanner.feed(b"k" * 1000)


@pytest.mark.parametrize("key", [b"\\q", b"\\u12", b"\xff", b"a\nb"])
def test_a_broken_key_is_an_error(key: bytes) -> None:
    with pytest.raises(json_scanner.ScanError, match="key is not a valid string"):
        _scan([b'{"' + key + b'":1}'])


def test_half_a_surrogate_pair_in_a_key_is_read_as_javascript_does() -> None:
    """What stands behind it must not go unseen; a strict parser has the last word."""
    assert _scan([b'{"\\ud800":"x"}']).texts == [(("\ufffd",), 11, b"x")]


def test_a_scanner_tells_where_it_is() -> None:
    events = _scan([b'{"a":', b'["x'])
    assert repr(events.scanner) == "<Scanner at byte 8, depth 2>"


def test_megabytes_of_escapes_are_read_in_pieces_without_growing_slow() -> None:
    """Quadratic work here would run into the time-out of every test."""
    chunk = b'\\"' * 32_768
    events = _Events()
    events.scanner.feed(b'["')
    for _ in range(64):
        events.scanner.feed(chunk)
        events.events.clear()
        events.texts[-1] = ((0,), 2, b"")
    events.scanner.feed(b'","end"]')
    assert events.texts[-1][2] == b"end"
