"""A text without its long strings: nothing lost, nothing forged, nothing held."""

import hashlib
import json
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments, json_scanner, json_skeleton
from tests.core.builders import play, split
from tests.core.json_texts import BROKEN, JSON_TEXTS, LONG, WITH_NUL, texts, value_strings
from tests.parts.examples import scaled


def _skeleton(
    chunks: Iterable[bytes], **options: Any
) -> tuple[object, list[json_skeleton.LiftedString]]:
    skeleton = json_skeleton.JsonSkeleton(**options)
    for chunk in chunks:
        skeleton.feed(chunk)
    return skeleton.close(), skeleton.lifted


def _without_long_strings(text: bytes) -> tuple[object, list[tuple[int, int]]]:
    """The skeleton by another way: long strings found by a regular expression."""
    spans = [(a, b) for a, b in value_strings(text) if b - a > json_skeleton.LIFT_BYTES]
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


@given(text=JSON_TEXTS, data=st.data(), strict=st.booleans())
def test_a_lifted_string_has_the_digest_of_its_bytes_however_they_came(
    text: bytes, data: st.DataObject, *, strict: bool
) -> None:
    """What the bytes are, with their escapes, is what a retry sends again."""
    _, lifted = _skeleton(data.draw(split(text)), digests=True, strict=strict)
    assert [each.digest for each in lifted] == [
        hashlib.sha256(text[each.start : each.stop]).digest() for each in lifted
    ]


@given(JSON_TEXTS)
def test_who_asks_for_no_digests_pays_for_none(text: bytes) -> None:
    _, lifted = _skeleton([text])
    assert {each.digest for each in lifted} <= {b""}


@given(JSON_TEXTS, st.data())
def test_a_body_made_of_a_skeleton_means_what_the_text_meant(
    text: bytes, data: st.DataObject
) -> None:
    value, lifted = _skeleton(data.draw(split(text)))
    made = body_segments.from_json(value, body_segments.of_lifted(lifted))
    played = play(made, text)
    assert json.loads(played) == json.loads(text)
    assert body_segments.length(made) == len(played)


@given(texts(st.one_of(WITH_NUL, LONG), keys=WITH_NUL))
@example(b'{"prompt":"a\\"\\u00000"}')
def test_no_value_and_no_key_can_forge_a_mark(text: bytes) -> None:
    """A client's own NUL and quotes stay what they are, wherever in a string they stand."""
    value, lifted = _skeleton([text])
    assert json.loads(
        play(body_segments.from_json(value, body_segments.of_lifted(lifted)), text)
    ) == json.loads(text)


def test_the_longest_string_that_stays_has_4096_bytes() -> None:
    stays, goes = b'["' + b"x" * 4096 + b'"]', b'["' + b"x" * 4097 + b'"]'
    assert _skeleton([stays]) == (["x" * 4096], [])
    assert _skeleton([goes]) == (
        ["\x000"],
        [json_skeleton.LiftedString(2, 4099, b"x" * 64, b"xx", 4097, written=4097)],
    )


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
    with pytest.raises(json_scanner.ScanError, match="NUL"):
        _skeleton([text])


@pytest.mark.parametrize("key", [b"\\u0000", b"\\u00000", b"\\u0000x"])
def test_a_key_that_begins_with_nul_is_refused(key: bytes) -> None:
    with pytest.raises(json_scanner.ScanError, match="NUL"):
        _skeleton([b'{"' + key + b'":1}'])
    assert _skeleton([b'{"x' + key + b'":1}'])[1] == []


def test_a_raw_nul_is_refused() -> None:
    with pytest.raises(json_scanner.ScanError):
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
    with pytest.raises(json_scanner.ScanError):
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
    except json_scanner.ScanError:
        read = inner.startswith("\\u0000") and valid
    assert read is valid


@pytest.mark.parametrize(
    "broken",
    [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\x80", b"\xc3("],
)
def test_a_lifted_string_is_utf8_as_every_other(broken: bytes) -> None:
    """What a model is sent must not be text for one reader and broken for the next."""
    for before, after in ((b"x" * 9000, b""), (b"x" * 4090, "é€".encode() * 2000)):
        text = b'["' + before + broken + after + b'"]'
        valid = b'["' + before + "é".encode() + after + b'"]'
        for cut in (len(text), 4096, len(before) + 3, len(before) + 4):
            with pytest.raises(json_scanner.ScanError, match="not valid UTF-8"):
                _skeleton([text[:cut], text[cut:]])
            assert _skeleton([valid[:cut], valid[cut:]])


@given(JSON_TEXTS, st.data())
@settings(max_examples=scaled(60))
def test_without_checks_a_valid_text_has_the_same_skeleton(
    text: bytes, data: st.DataObject
) -> None:
    value, lifted = _skeleton(data.draw(split(text)), strict=False)
    checked, found = _skeleton([text])
    assert value == checked
    places = [(each.start, each.stop, each.head) for each in found]
    assert [(each.start, each.stop, each.head) for each in lifted] == places


_BASE64_FRAGMENTS = st.sampled_from(
    ["AAAA", "a0Z", "\\u0041", "/", "\\/", "\\u002F", "+", "\\u002b", "\\u002B", "=", "\\u003d"]
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
    filler = "x" * size + "y" * max(0, json_skeleton.LIFT_BYTES + 1 - size)
    inner = filler + "".join(fragments) if before else "".join(fragments) + filler
    text = f'["{inner}"]'.encode()
    cuts = _borders(data, len(filler) if before else 0, len(text))
    _, [lifted] = _skeleton([text[a:b] for a, b in pairwise([0, *cuts, len(text)])])
    plain = json.loads(text)[0]
    assert lifted.characters == len(plain)
    assert lifted.non_base64 == plain.count("=")
    assert lifted.tail == plain[-2:].encode()


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
    assert lifted.non_base64 == whole.non_base64


@pytest.mark.parametrize("broken", [b"\\q", b"\\u12g", b"\\ud83d\\n", b"\\ude00", b"\\ud83dx"])
def test_a_broken_escape_is_refused_at_the_byte_that_breaks_it(broken: bytes) -> None:
    """Wherever the chunks' border lies, and not only once the string is over."""
    for border in range(len(broken)):
        skeleton = json_skeleton.JsonSkeleton()
        skeleton.feed(b'["' + b"x" * 5000 + broken[:border])
        with pytest.raises(json_scanner.ScanError, match="escape"):
            skeleton.feed(broken[border:])


@pytest.mark.parametrize("end", [b"\\", b"\\u", b"\\u00", b"\\ud83d", b"\\ud83d\\ude0"])
def test_a_lifted_string_cannot_end_within_an_escape(end: bytes) -> None:
    closing = b"" if end == b"\\" else b'"]'
    with pytest.raises(json_scanner.ScanError):
        _skeleton([b'["' + b"x" * 5000 + end + closing])


@pytest.mark.parametrize("size", [10, 5000])
def test_space_and_what_lies_above_it_is_no_control_character(size: int) -> None:
    text = '["{}"]'.format(" \x7f\x80é" * size).encode()
    value, lifted = _skeleton([text])
    assert json.loads(
        play(body_segments.from_json(value, body_segments.of_lifted(lifted)), text)
    ) == json.loads(text)


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
    with pytest.raises(json_scanner.ScanError):
        _skeleton([text])


@given(st.one_of(BROKEN, st.binary(max_size=60)), st.data())
def test_broken_text_ends_in_the_same_way_for_any_split_and_never_in_another_error(
    text: bytes, data: st.DataObject
) -> None:
    def outcome(chunks: list[bytes]) -> object:
        try:
            return _skeleton(chunks)
        except json_scanner.ScanError:
            return None

    assert outcome(data.draw(split(text))) == outcome([text])


def test_a_skeleton_of_one_mebibyte_is_read_and_one_of_a_byte_more_is_not() -> None:
    text = b"[" + b" " * (json_scanner.IMAGES.skeleton_bytes - 2) + b"]"
    assert _skeleton([text]) == ([], [])
    with pytest.raises(json_scanner.ScanError, match="1024 KiB"):
        _skeleton([b" " + text])


def test_keys_and_short_strings_count_towards_the_limit() -> None:
    filler = b'"' + b"x" * 4000 + b'",'
    with pytest.raises(json_scanner.ScanError, match="1024 KiB"):
        _skeleton([b"[" + filler * 263 + b"1]"])
    filler = b'"' + b"k" * 1000 + b'":1,'
    with pytest.raises(json_scanner.ScanError, match="1024 KiB"):
        _skeleton([b"{" + filler * 1050 + b'"z":1}'])


def test_a_picture_of_megabytes_leaves_no_trace_in_a_skeleton() -> None:
    skeleton = json_skeleton.JsonSkeleton()
    skeleton.feed(b'{"a":"')
    for _ in range(64):
        skeleton.feed(b"A" * 65_536)
    skeleton.feed(b'"}')
    assert repr(skeleton) == "<JsonSkeleton of 15 bytes, 1 lifted>"
    assert skeleton.close() == {"a": "\x000"}
    size = 64 * 65_536
    assert skeleton.lifted == [
        json_skeleton.LiftedString(6, 6 + size, b"A" * 64, b"AA", size, written=size)
    ]


def _seconds(text: bytes) -> float:
    """The least processor time of three for a body of a long string."""
    times = []
    for _ in range(3):
        skeleton = json_skeleton.JsonSkeleton()
        began = time.process_time()
        skeleton.feed(b'["')
        for _ in range(64):
            skeleton.feed(text)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("escape", [b"\\/", b"\\u0041", b"\\n", b"\\\\", b'\\"', b"\\ud83d\\ude00"])
def test_a_string_of_escapes_costs_little_more_than_one_without(escape: bytes) -> None:
    """A step of Python for each escape costs 40 times as much; without it it is 2 to 7 times."""
    count = 65_536 // len(escape)
    assert _seconds(escape * count) < 20 * _seconds(b"A" * (count * len(escape)))


def test_a_lifted_string_does_not_show_what_it_begins_with() -> None:
    assert repr(json_skeleton.LiftedString(3, 9, b"data:image/png")) == "<LiftedString 3..9>"


@pytest.mark.parametrize(
    ("value", "number"),
    [("\x000", 0), ("\x0017", 17), ("", None), ("0", None), ("a\x000", None)],
)
def test_only_a_mark_has_a_number(value: str, number: int | None) -> None:
    assert json_skeleton.placeholder_number(value) == number


def test_marks_are_cut_out_with_their_quotes_left_behind() -> None:
    assert json_skeleton.split_placeholders(b'{"a":"\\u00000","b":["\\u000012"]}') == [
        b'{"a":"',
        b"0",
        b'","b":["',
        b"12",
        b'"]}',
    ]
    assert json_skeleton.split_placeholders(b'{"a":1}') == [b'{"a":1}']
