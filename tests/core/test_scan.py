"""The scanner: the same answer for any split, nothing lost, nothing forged, nothing held."""

import base64
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_gateway.core import body, encoding, events, scan
from tests.core.builders import play, split

# -- JSON text, as odd as it may legally be ----------------------------------------------------

_SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
_NUMBERS = st.sampled_from(["0", "-1", "1.50", "1e3", "12345678901", "true", "false", "null"])
_FRAGMENTS = st.sampled_from(
    [
        *"aZ0 7{}[],:/'",
        "é",
        "😀",
        "\x7f",
        '\\"',
        "\\\\",
        "\\/",
        "\\n",
        "\\u0041",
        "\\u0022",
        "\\u005c",
        "\\ud83d\\ude00",
        "b64_json",
        "data",
    ]
)
# What looks like a mark once it is parsed and written again.
_NUL_FRAGMENTS = st.sampled_from(["\\u0000", "\\u00000", '\\"\\u00000', '\\\\\\"\\u00001'])


def _text_of(fragments: Iterable[str]) -> str:
    return '"' + "".join(fragments) + '"'


def _stretched(inner: str, size: int) -> str:
    """``inner`` repeated to about ``size`` bytes of JSON text, escapes whole."""
    once = len(inner.encode())
    return inner * (size // once) + "x" * (size % once)


_SHORT = st.lists(_FRAGMENTS, max_size=6).map(_text_of)
_LONG = st.builds(
    lambda fragments, size: _text_of([_stretched("".join(fragments), size)]),
    st.lists(_FRAGMENTS, min_size=1, max_size=3),
    st.integers(scan.LIFT_BYTES - 2, scan.LIFT_BYTES + 40),
)
_STRINGS = st.one_of(_SHORT, _SHORT, _LONG)
_WITH_NUL = st.lists(st.one_of(_FRAGMENTS, _NUL_FRAGMENTS), max_size=6).map(
    lambda fragments: _text_of(["x", *fragments])
)


@st.composite
def _list_of(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(inner, max_size=4))
    padded = [draw(_SPACE) + item + draw(_SPACE) for item in items]
    return "[" + (",".join(padded) or draw(_SPACE)) + "]"


@st.composite
def _object_of(draw: st.DrawFn, inner: st.SearchStrategy[str], keys: st.SearchStrategy[str]) -> str:
    names = draw(st.lists(keys, max_size=4))
    members = [
        draw(_SPACE) + name + draw(_SPACE) + ":" + draw(_SPACE) + draw(inner) + draw(_SPACE)
        for name in names
    ]
    return "{" + (",".join(members) or draw(_SPACE)) + "}"


def _texts(
    strings: st.SearchStrategy[str], keys: st.SearchStrategy[str] = _SHORT
) -> st.SearchStrategy[bytes]:
    values = st.recursive(
        st.one_of(strings, _NUMBERS),
        lambda inner: st.one_of(_list_of(inner), _object_of(inner, keys)),
        max_leaves=8,
    )
    whole = st.builds(lambda before, value, after: before + value + after, _SPACE, values, _SPACE)
    return whole.map(str.encode)


JSON_TEXTS = _texts(_STRINGS)

_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"(\s*:)?', re.DOTALL)


def _value_strings(text: bytes) -> list[tuple[int, int]]:
    """Where the value strings of valid JSON stand, the quotes left out."""
    return [found.span(1) for found in _TOKEN.finditer(text) if found[2] is None]


# -- the scanner itself ----------------------------------------------------------------------


class _Events:
    """A sink that writes down what it is told, neighbouring pieces of one kind joined."""

    def __init__(self) -> None:
        self.scanner = scan.Scanner(self)
        self.events: list[tuple[str, bytes]] = []
        self.texts: list[tuple[scan.Path, int, bytes]] = []

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
@settings(max_examples=60)
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
    except scan.ScanError as error:
        return [], str(error)
    return events.events, None


_BROKEN = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"a", b"\xff", b"\0", b"1 "]),
    max_size=24,
).map(b"".join)


@given(st.one_of(_BROKEN, st.binary(max_size=40)), st.data())
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
        (start, text[start:stop]) for start, stop in _value_strings(text)
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
        assert _scan([opening * scan.IMAGES.depth]).texts == []
        with pytest.raises(scan.ScanError, match="deeper than 64"):
            _scan([opening * (scan.IMAGES.depth + 1)])


@pytest.mark.parametrize("step", [1000, 10**6])
@pytest.mark.parametrize("item", [b"1,", b'"x",', b'"k":1,'])
def test_values_and_brackets_may_be_20000_and_no_more(item: bytes, step: int) -> None:
    """Each costs time of the event loop; a body made of nothing else must end early."""
    opening = b"{" if b":" in item else b"["
    tokens = 1 + item.count(b'"') // 2

    def pieces(count: int) -> list[bytes]:
        text = opening + item * (count // tokens) + b"," * (count % tokens)
        return [text[at : at + step] for at in range(0, len(text), step)]

    chunks = pieces(scan.IMAGES.tokens - 1)
    assert _scan(chunks).bytes() == b"".join(chunks)
    with pytest.raises(scan.ScanError, match="more than 20000"):
        _scan(pieces(scan.IMAGES.tokens))


def test_what_stands_within_a_string_is_not_counted() -> None:
    text = b'["' + b"[{,}]" * 10_000 + b'"]'
    assert _scan([text]).bytes() == text


def test_closed_containers_do_not_count_as_depth() -> None:
    assert _scan([b"[" + b"[]," * 1000 + b"{}" + b"]"]).texts == []


@pytest.mark.parametrize("text", [b"]", b"}", b"[]]", b'{"a":1}}', b"[[]]]"])
def test_closing_more_than_was_opened_is_an_error(text: bytes) -> None:
    with pytest.raises(scan.ScanError, match="closes more"):
        _scan([text])


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_key_may_have_1024_bytes_and_no_more(step: int) -> None:
    def pieces(size: int) -> list[bytes]:
        text = b'{"' + b"k" * size + b'":1}'
        return [text[at : at + step] for at in range(0, len(text), step)]

    assert _scan(pieces(scan.IMAGES.key_bytes)).bytes() == b"".join(pieces(scan.IMAGES.key_bytes))
    with pytest.raises(scan.ScanError, match="longer than 1024 bytes"):
        _scan(pieces(scan.IMAGES.key_bytes + 1))


def test_a_key_that_never_ends_is_refused_while_it_comes() -> None:
    events = _Events()
    events.scanner.feed(b'{"' + b"k" * 1000)
    with pytest.raises(scan.ScanError, match="longer than"):
        events.scanner.feed(b"k" * 1000)


@pytest.mark.parametrize("key", [b"\\q", b"\\u12", b"\xff", b"a\nb"])
def test_a_broken_key_is_an_error(key: bytes) -> None:
    with pytest.raises(scan.ScanError, match="key in the JSON is broken"):
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


# -- the skeleton ----------------------------------------------------------------------------


def _skeleton(chunks: Iterable[bytes], **options: Any) -> tuple[object, list[scan.Lifted]]:
    skeleton = scan.Skeleton(**options)
    for chunk in chunks:
        skeleton.feed(chunk)
    return skeleton.close(), skeleton.lifted


def _without_long_strings(text: bytes) -> tuple[object, list[tuple[int, int]]]:
    """The skeleton by another way: long strings found by a regular expression."""
    spans = [(a, b) for a, b in _value_strings(text) if b - a > scan.LIFT_BYTES]
    out, at = b"", 0
    for number, (start, stop) in enumerate(spans):
        out += text[at:start] + b"\\u0000%d" % number
        at = stop
    return json.loads(out + text[at:]), spans


@given(JSON_TEXTS, st.data())
def test_a_skeleton_is_the_text_with_exactly_its_long_strings_lifted(
    text: bytes, data: st.DataObject
) -> None:
    expected, spans = _without_long_strings(text)
    value, lifted = _skeleton(data.draw(split(text)))
    assert value == expected
    assert [(each.start, each.stop) for each in lifted] == spans
    assert [each.head for each in lifted] == [text[start : start + 64] for start, _ in spans]
    assert [each.length for each in lifted] == [stop - start for start, stop in spans]


@given(JSON_TEXTS, st.data())
def test_a_body_made_of_a_skeleton_means_what_the_text_meant(
    text: bytes, data: st.DataObject
) -> None:
    value, lifted = _skeleton(data.draw(split(text)))
    made = body.from_json(value, events.texts(lifted))
    played = play(made, text)
    assert json.loads(played) == json.loads(text)
    assert body.length(made) == len(played)


@given(_texts(st.one_of(_WITH_NUL, _LONG), keys=_WITH_NUL))
@example(b'{"prompt":"a\\"\\u00000"}')
def test_no_value_and_no_key_can_forge_a_mark(text: bytes) -> None:
    """A client's own NUL and quotes stay what they are, wherever in a string they stand."""
    value, lifted = _skeleton([text])
    assert json.loads(play(body.from_json(value, events.texts(lifted)), text)) == json.loads(text)


def test_the_longest_string_that_stays_has_4096_bytes() -> None:
    stays, goes = b'["' + b"x" * 4096 + b'"]', b'["' + b"x" * 4097 + b'"]'
    assert _skeleton([stays]) == (["x" * 4096], [])
    assert _skeleton([goes]) == (["\x000"], [scan.Lifted(2, 4099, b"x" * 64, b"x" * 24, 4097)])


def test_the_limit_counts_bytes_of_text_not_characters() -> None:
    value, lifted = _skeleton(['["{}"]'.format("\\u00e9" * 683).encode()])
    assert value == ["\x000"]
    assert lifted[0].length == 683 * 6


def test_keys_are_never_lifted() -> None:
    assert _skeleton([b'{"' + b"k" * 1000 + b'":1}']) == ({"k" * 1000: 1}, [])


def test_a_kept_path_stays_up_to_its_own_limit() -> None:
    options = {"keep": lambda path: path == ("prompt",), "keep_bytes": 10_000}
    text = json.dumps({"prompt": "p" * 10_000, "other": ["o" * 5000, "x"]}).encode()
    value, lifted = _skeleton([text], **options)
    assert value == {"prompt": "p" * 10_000, "other": ["\x000", "x"]}
    assert len(lifted) == 1
    text = json.dumps({"prompt": "p" * 10_001, "x": {"prompt": "q" * 5000}}).encode()
    value, lifted = _skeleton([text], **options)
    assert value == {"prompt": "\x000", "x": {"prompt": "\x001"}}
    assert [each.length for each in lifted] == [10_001, 5000]


@pytest.mark.parametrize(
    "text",
    [b'"\\u0000"', b'["\\u00000"]', b'{"a":"\\u0000xyz"}', b'["' + b"x" * 5000 + b'","\\u00000"]'],
)
def test_a_value_that_begins_with_nul_is_refused(text: bytes) -> None:
    with pytest.raises(scan.ScanError, match="NUL"):
        _skeleton([text])


@pytest.mark.parametrize("key", [b"\\u0000", b"\\u00000", b"\\u0000x"])
def test_a_key_that_begins_with_nul_is_refused(key: bytes) -> None:
    with pytest.raises(scan.ScanError, match="NUL"):
        _skeleton([b'{"' + key + b'":1}'])
    assert _skeleton([b'{"x' + key + b'":1}'])[1] == []


def test_a_raw_nul_is_refused() -> None:
    with pytest.raises(scan.ScanError):
        _skeleton([b'["\x000"]'])


def test_a_long_string_may_begin_with_nul_because_it_is_lifted() -> None:
    value, lifted = _skeleton([b'["\\u0000' + b"x" * 5000 + b'"]'])
    assert value == ["\x000"]
    assert lifted[0].head.startswith(b"\\u0000x")


def test_nul_within_a_string_stays() -> None:
    assert _skeleton([b'["a\\u00000"]']) == (["a\x000"], [])


@given(
    st.sampled_from([b"\0", b"\n", b"\r", b"\t", b"\x1f"]),
    st.sampled_from([2, 60, 100, 4000, 4096, 4097, 5000]),
    st.integers(0, 5001),
    st.data(),
)
def test_a_control_character_in_a_string_is_refused_wherever_it_stands(
    control: bytes, size: int, at: int, data: st.DataObject
) -> None:
    at = min(at, size - 1)
    text = b'["' + b"x" * at + control + b"x" * (size - at - 1) + b'"]'
    with pytest.raises(scan.ScanError):
        _skeleton(data.draw(split(text)))


_ESCAPES = st.sampled_from(
    [
        "x",
        "\\n",
        '\\"',
        "\\/",
        "\\\\",
        "\\u00e9",
        "\\uD83D\\uDE00",
        "\\ud83d\\ude00",
        "\\u0000",
        "\\ud7ff",
        "\\ue000",
    ]
)
_BROKEN_ESCAPES = st.sampled_from(
    [
        "\\q",
        "\\x41",
        "\\N",
        "\\U0041",
        "\\u",
        "\\u12",
        "\\u123",
        "\\u12g4",
        "\\ud83d",
        "\\ud83d\\n",
        "\\ud83d\\u0041",
        "\\ud83d\\ud83d",
        "\\ude00",
        "\\uDBFF",
        "\\udfffx",
    ]
)


@given(
    st.lists(_ESCAPES, max_size=4),
    st.one_of(st.just(""), _BROKEN_ESCAPES),
    st.lists(_ESCAPES, max_size=4),
    st.sampled_from([0, 4080, 4096, 9000]),
    st.data(),
)
def test_a_lifted_string_is_as_valid_as_the_strict_parser_wants_it(
    before: list[str], broken: str, after: list[str], size: int, data: st.DataObject
) -> None:
    """It goes upstream as it came, so nobody else would notice; borders may cut any escape."""
    at = data.draw(st.integers(0, size))
    inner = "x" * at + "".join(before) + broken + "".join(after) + "x" * (size - at)
    text = f'["{inner}"]'.encode()
    near = [border for border in range(2 + at, 2 + at + 60) if border < len(text)]
    borders = sorted(data.draw(st.lists(st.sampled_from([*near, len(text)]), max_size=4)))
    chunks = [text[a:b] for a, b in pairwise([0, *borders, len(text)])]
    valid = True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        valid = False
    read = True
    try:
        _skeleton(chunks)
    except scan.ScanError:
        read = inner.startswith("\\u0000") and valid
    assert read is valid


@given(JSON_TEXTS, st.data())
@settings(max_examples=60)
def test_without_checks_a_valid_text_has_the_same_skeleton(
    text: bytes, data: st.DataObject
) -> None:
    value, lifted = _skeleton(data.draw(split(text)), strict=False)
    checked, found = _skeleton([text])
    assert value == checked
    places = [(each.start, each.stop, each.head) for each in found]
    assert [(each.start, each.stop, each.head) for each in lifted] == places


_BASE64_FRAGMENTS = st.sampled_from(
    ["AAAA", "a0Z", "/", "\\/", "\\u002f", "\\u002F", "+", "\\u002b", "\\u002B", "=", "\\u003d"]
)
_ODD_FRAGMENTS = st.sampled_from(
    [
        ":;,",
        "!",
        " ",
        "é",
        "\\n",
        '\\"',
        "\\\\",
        "\\u0041",
        "\\u002e",
        "\\ud83d\\ude00",
        "\\\\u002b",
    ]
)


def _borders(data: st.DataObject, at: int, size: int) -> list[int]:
    """Places to cut, most of them near ``at``."""
    near = st.integers(max(at - 20, 0), min(at + 80, size))
    return sorted(data.draw(st.lists(near, max_size=5)))


@given(
    st.lists(_BASE64_FRAGMENTS, max_size=8),
    st.sampled_from([0, 4090, 5000]),
    st.booleans(),
    st.data(),
)
def test_what_is_known_of_lifted_base64_is_that_of_its_characters(
    fragments: list[str], size: int, before: object, data: st.DataObject
) -> None:
    filler = "x" * size + "y" * max(0, scan.LIFT_BYTES + 1 - size)
    inner = filler + "".join(fragments) if before else "".join(fragments) + filler
    text = f'["{inner}"]'.encode()
    cuts = _borders(data, len(filler) if before else 0, len(text))
    _, [lifted] = _skeleton([text[a:b] for a, b in pairwise([0, *cuts, len(text)])])
    plain = json.loads(text)[0]
    assert lifted.characters == len(plain)
    assert lifted.odd == plain.count("=")
    assert inner.encode().endswith(lifted.tail)
    assert len(lifted.tail) == 24


@given(st.lists(st.one_of(_BASE64_FRAGMENTS, _ODD_FRAGMENTS), min_size=1, max_size=6), st.data())
def test_what_is_known_of_a_lifted_string_does_not_depend_on_how_it_came(
    fragments: list[str], data: st.DataObject
) -> None:
    """Where the chunks' borders lie is for the client to choose."""
    text = '["{}{}{}"]'.format("x" * 4095, "".join(fragments), "x" * 20).encode()
    cuts = _borders(data, 4097, len(text))
    _, [lifted] = _skeleton([text[a:b] for a, b in pairwise([0, *cuts, len(text)])])
    _, [whole] = _skeleton([text])
    assert (lifted.characters, lifted.tail) == (whole.characters, whole.tail)
    assert lifted.odd == whole.odd


@pytest.mark.parametrize("broken", [b"\\q", b"\\u12g", b"\\ud83d\\n", b"\\ude00", b"\\ud83dx"])
def test_a_broken_escape_is_refused_at_the_byte_that_breaks_it(broken: bytes) -> None:
    """Wherever the chunks' border lies, and not only once the string is over."""
    for border in range(len(broken)):
        skeleton = scan.Skeleton()
        skeleton.feed(b'["' + b"x" * 5000 + broken[:border])
        with pytest.raises(scan.ScanError, match="escape"):
            skeleton.feed(broken[border:])


@pytest.mark.parametrize("end", [b"\\", b"\\u", b"\\u00", b"\\ud83d", b"\\ud83d\\ude0"])
def test_a_lifted_string_cannot_end_within_an_escape(end: bytes) -> None:
    closing = b"" if end == b"\\" else b'"]'
    with pytest.raises(scan.ScanError):
        _skeleton([b'["' + b"x" * 5000 + end + closing])


@pytest.mark.parametrize("size", [10, 5000])
def test_space_and_what_lies_above_it_is_no_control_character(size: int) -> None:
    text = '["{}"]'.format(" \x7f\x80é" * size).encode()
    value, lifted = _skeleton([text])
    assert json.loads(play(body.from_json(value, events.texts(lifted)), text)) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1',
        b'{"a" 1}',
        b"[1,]",
        b"{} {}",
        b"[1 2]",
        b"NaN",
        b"[Infinity]",
        b'{"a":1]',
        b"'a'",
        b'"abc',
        b'["\\q"]',
        b'["\xff"]',
        b"\xef\xbb\xbf{}",
        b'["' + b"x" * 5000,
        b'["' + b"x" * 5000 + b'"',
        b'["' + b"x" * 5000 + b'"x]',
    ],
)
def test_what_is_not_one_whole_json_value_is_refused(text: bytes) -> None:
    with pytest.raises(scan.ScanError):
        _skeleton([text])


@given(st.one_of(_BROKEN, st.binary(max_size=60)), st.data())
def test_broken_text_ends_in_the_same_way_for_any_split_and_never_in_another_error(
    text: bytes, data: st.DataObject
) -> None:
    def outcome(chunks: list[bytes]) -> object:
        try:
            return _skeleton(chunks)
        except scan.ScanError:
            return None

    assert outcome(data.draw(split(text))) == outcome([text])


def test_a_skeleton_of_one_mebibyte_is_read_and_one_of_a_byte_more_is_not() -> None:
    text = b"[" + b" " * (scan.IMAGES.skeleton_bytes - 2) + b"]"
    assert _skeleton([text]) == ([], [])
    with pytest.raises(scan.ScanError, match="1024 KiB"):
        _skeleton([b" " + text])


def test_keys_and_short_strings_count_towards_the_limit() -> None:
    filler = b'"' + b"x" * 4000 + b'",'
    with pytest.raises(scan.ScanError, match="1024 KiB"):
        _skeleton([b"[" + filler * 263 + b"1]"])
    filler = b'"' + b"k" * 1000 + b'":1,'
    with pytest.raises(scan.ScanError, match="1024 KiB"):
        _skeleton([b"{" + filler * 1050 + b'"z":1}'])


def test_a_picture_of_megabytes_leaves_no_trace_in_a_skeleton() -> None:
    skeleton = scan.Skeleton()
    skeleton.feed(b'{"a":"')
    for _ in range(64):
        skeleton.feed(b"A" * 65_536)
    skeleton.feed(b'"}')
    assert repr(skeleton) == "<Skeleton of 15 bytes, 1 lifted>"
    assert skeleton.close() == {"a": "\x000"}
    size = 64 * 65_536
    assert skeleton.lifted == [scan.Lifted(6, 6 + size, b"A" * 64, b"A" * 24, size)]


def test_a_lifted_string_does_not_show_what_it_begins_with() -> None:
    assert repr(scan.Lifted(3, 9, b"data:image/png")) == "<Lifted 3..9>"


@pytest.mark.parametrize(
    ("value", "number"),
    [("\x000", 0), ("\x0017", 17), ("", None), ("0", None), ("a\x000", None)],
)
def test_only_a_mark_has_a_number(value: str, number: int | None) -> None:
    assert scan.lifted_number(value) == number


def test_marks_are_cut_out_with_their_quotes_left_behind() -> None:
    assert scan.split_marks(b'{"a":"\\u00000","b":["\\u000012"]}') == [
        b'{"a":"',
        b"0",
        b'","b":["',
        b"12",
        b'"]}',
    ]
    assert scan.split_marks(b'{"a":1}') == [b'{"a":1}']


# -- data URLs -------------------------------------------------------------------------------

_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1",
    "image/webp": b"RIFF\xff\xfb\xef\xbeWEBPVP8 ",
    "image/gif": b"GIF89a\1\0\1\0\x80\0\0",
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


def _picture(kind: str, tail: bytes) -> str:
    return base64.b64encode(_MAGIC[kind] + b"\xff\xfe" * 12 + tail).decode()


@st.composite
def _answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An answer's text, and the text it must become."""
    before: list[str] = []
    after: list[str] = []

    def put(text: str, other: str | None = None) -> None:
        before.append(text)
        after.append(text if other is None else other)

    def entry() -> None:
        kind = draw(st.sampled_from(sorted(_MAGIC)))
        picture = _picture(kind, draw(st.binary(max_size=120)))
        if draw(st.booleans()):
            picture = picture.replace("/", "\\/")
        if draw(st.booleans()):
            picture = picture.replace("+", draw(st.sampled_from(["\\u002b", "\\u002B"])))
        members = ["b64_json", *draw(st.lists(st.sampled_from(["text", "deep"]), max_size=2))]
        put("{")
        for index, member in enumerate(draw(st.permutations(members))):
            put("," + draw(_SPACE) if index else "")
            if member == "b64_json":
                spelt = draw(st.sampled_from(['"b64_json"', '"b64\\u005fjson"']))
                put(spelt, '"url"')
                put(draw(_SPACE) + ":" + draw(_SPACE))
                put(f'"{picture}"', f'"data:{kind};base64,{picture}"')
            elif member == "text":
                put(f'"revised_prompt{index}":' + draw(_STRINGS))
            else:
                put(f'"x{index}":{{"b64_json":"QUJD","url":null,"data":[{{"b64_json":"QQ"}}]}}')
        put("}")

    put("{" + draw(_SPACE))
    put(draw(st.sampled_from(["", '"created":1,', '"b64_json":"QUJD","url":null,'])))
    put('"data"' + draw(_SPACE) + ":" + draw(_SPACE) + "[")
    for index in range(draw(st.integers(0, 3))):
        put("," + draw(_SPACE) if index else "")
        entry()
    put("]")
    put(draw(st.sampled_from(["", ',"usage":{"data":[{"b64_json":"QQ"}]}', ',"size":"1x1"'])))
    put("}" + draw(_SPACE))
    return "".join(before).encode(), "".join(after).encode()


def _rewritten(chunks: Iterable[bytes]) -> bytes:
    urls = scan.DataUrls()
    return b"".join([urls.feed(chunk) for chunk in chunks])


@given(_answers(), st.data())
def test_pictures_become_data_urls_and_not_another_byte_changes(
    answer: tuple[bytes, bytes], data: st.DataObject
) -> None:
    text, expected = answer
    assert _rewritten(data.draw(split(text))) == expected


@given(_answers())
@settings(max_examples=40)
def test_bytes_one_by_one_become_the_same_data_urls(answer: tuple[bytes, bytes]) -> None:
    text, expected = answer
    assert _rewritten(text[at : at + 1] for at in range(len(text))) == expected


@given(JSON_TEXTS)
def test_an_answer_without_data_passes_byte_for_byte(text: bytes) -> None:
    assert _rewritten([b'{"x":' + text + b"}"]) == b'{"x":' + text + b"}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"one key twice: {names}"
    return dict(pairs)


_B64 = _picture("image/webp", b"")
_URL = f"data:image/webp;base64,{_B64}"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"b64_json": _B64}, {"url": _URL}),
        ({"b64_json": _B64, "url": None}, {"url": _URL, "b64_json": None}),
        ({"url": None, "b64_json": _B64}, {"url": _URL, "b64_json": None}),
        ({"url": None, "x": 1, "b64_json": _B64}, {"url": _URL, "b64_json": None, "x": 1}),
        ({"url": "https://example.com/a"}, {"url": "https://example.com/a"}),
        ({"url": ""}, {"url": ""}),
        ({"b64_json": ""}, {"url": "data:image/png;base64,"}),
        ({"b64_json": None}, {"b64_json": None}),
        ({"b64_json": 5}, {"b64_json": 5}),
        ({"b64_json": ["QUJD"], "url": "x"}, {"b64_json": ["QUJD"], "url": "x"}),
        ({"b64_json": {"url": "x", "b64_json": "y"}}, {"b64_json": {"url": "x", "b64_json": "y"}}),
        ({"url": {"url": "x"}, "b64_json": _B64}, {"url": _URL, "b64_json": {"url": "x"}}),
        ({"b64_json": _B64, "url": False}, {"url": _URL, "b64_json": False}),
        ({"revised_prompt": "b64_json"}, {"revised_prompt": "b64_json"}),
        ({}, {}),
    ],
)
def test_an_entry_has_its_picture_as_url_and_no_key_twice(
    entry: dict[str, Any], expected: dict[str, Any]
) -> None:
    for spaced in (None, 1):
        text = json.dumps({"data": [{"url": None}, entry, entry]}, indent=spaced).encode()
        for step in (1, 3, len(text)):
            out = _rewritten(text[at : at + step] for at in range(0, len(text), step))
            made = json.loads(out, object_pairs_hook=_unique)
            assert made["data"][1:] == [expected, expected]


@pytest.mark.parametrize(
    "entry",
    [
        {"b64_json": None, "url": "https://example.com/a.png"},
        {"url": "https://example.com/a.png", "b64_json": None},
    ],
)
def test_a_null_b64_json_takes_no_url_away(entry: dict[str, Any]) -> None:
    """SDK models write what is absent as null: the entry's own address must stay its only url."""
    out = _rewritten([json.dumps({"data": [entry]}).encode()])
    [made] = json.loads(out, object_pairs_hook=_unique)["data"]
    assert made["url"] == "https://example.com/a.png"


@pytest.mark.parametrize(
    "text",
    [
        b'{"data":{"b64_json":"QQ","url":null}}',
        b'{"data":{"0":{"b64_json":"QQ"}}}',
        b'[{"data":[{"b64_json":"QQ","url":null}]}]',
        b'{"data":[[{"b64_json":"QQ"}]]}',
        b'{"data":[{"data":[{"b64_json":"QQ","url":null}]}]}',
        b'{"x":{"data":[{"b64_json":"QQ"}]}}',
        b'{"b64_json":"QQ","url":null}',
        b'{"data":["b64_json"]}',
        b'{"data":[{"b64_jso":"QQ","B64_JSON":"QQ","b64_json ":"QQ"}]}',
    ],
)
def test_only_an_entry_of_data_is_rewritten(text: bytes) -> None:
    assert _rewritten([text]) == text


@pytest.mark.parametrize("kind", sorted(_MAGIC))
@pytest.mark.parametrize(
    ("character", "spelt"),
    [("/", "\\/"), ("/", "\\u002f"), ("/", "\\u002F"), ("+", "\\u002b"), ("+", "\\u002B")],
)
def test_the_type_is_seen_through_json_escapes(kind: str, character: str, spelt: str) -> None:
    picture = _picture(kind, b"").replace(character, spelt)
    out = json.loads(_rewritten([b'{"data":[{"b64_json":"' + picture.encode() + b'"}]}']))
    assert out["data"][0]["url"] == f"data:{kind};base64,{_picture(kind, b'')}"


def test_what_shows_no_type_is_called_a_png() -> None:
    for text in (b"", b"QUJDREVGRw==", b"!!!", b"Q", b"AAA!", b"A===", b"\\u00"):
        assert encoding.image_type_of_base64(text) is None
        answer = b'{"data":[{"b64_json":"' + text.replace(b"\\u00", b"") + b'"}]}'
        out = json.loads(_rewritten([answer]))
        assert out["data"][0]["url"].startswith("data:image/png;base64,")


def test_an_answer_that_is_no_json_raises() -> None:
    with pytest.raises(scan.ScanError):
        _rewritten([b"]"])


def test_a_data_url_leaves_while_its_picture_still_comes() -> None:
    urls = scan.DataUrls()
    urls.feed(b'{"data":[{"b64_json":"')
    sent = urls.feed(_picture("image/jpeg", bytes(600)).encode()[:400])
    assert sent.startswith(b"data:image/jpeg;base64,/9j/")
    assert urls.feed(b"A" * 70_000) == b"A" * 70_000
