"""Escapes taken out of a string in pieces: the same text for any cut, the same errors."""

import json
from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec.json_escapes import Unescaper
from tests.core.builders import split
from tests.parts.examples import scaled

_ESCAPED = st.sampled_from(
    [*"aZ0u/+=dD8", "\\/", "\\n", '\\"', "\\\\", "\\u0041", "\\u002f", "\\ud7ff", "\\uD83D\\uDE00"]
)
_BROKEN = st.sampled_from(
    ["\\q", "\\u12g4", "\\ud83d", "\\ude00", "\\ud83d\\u0041", "\\ud83d\\", "\\u", "\\", "\n"]
)


def _plain(parts: Iterable[bytes], *, mends: bool = False) -> bytes | None:
    """What the parts of a string say; None if they are not valid."""
    unescaper = Unescaper(mends=mends)
    try:
        return b"".join([unescaper.feed(part) for part in parts]) + unescaper.close()
    except ValueError:
        return None


@given(st.lists(_ESCAPED, max_size=12).map("".join), st.data())
@settings(max_examples=scaled(300))
def test_any_cut_of_an_escaped_string_gives_the_text_without_escapes(
    text: str, data: st.DataObject
) -> None:
    plain = json.loads(f'"{text}"').encode()
    for mends in (False, True):
        assert _plain(data.draw(split(text.encode())), mends=mends) == plain
        assert _plain([text[at : at + 1].encode() for at in range(len(text))], mends=mends) == plain


@given(st.lists(_ESCAPED | _BROKEN, max_size=8).map("".join), st.data())
@settings(max_examples=scaled(300))
def test_any_cut_of_a_string_is_as_valid_as_the_whole_is_to_a_parser(
    text: str, data: st.DataObject
) -> None:
    if "\\" not in text:
        text += "\\/"  # without an escape nothing is checked
    try:
        plain = orjson.loads(f'"{text}"').encode()
    except orjson.JSONDecodeError:
        plain = None
    parts = data.draw(split(text.encode()))
    if any(b"\n" in part and b"\\" not in part for part in parts):
        return  # the caller's to check
    assert _plain(parts) == plain


@pytest.mark.parametrize("run", range(30))
@pytest.mark.parametrize("end", [b"", b"/", b"u0041", b"ud83d\\ude00"])
def test_a_run_of_backslashes_may_be_cut_anywhere(run: int, end: bytes) -> None:
    text = b"\\" * run + end
    try:
        plain = orjson.loads(b'"%b"' % text).encode()
    except orjson.JSONDecodeError:
        plain = None
    for border in range(len(text) + 1):
        assert _plain([text[:border], text[border:]]) == plain


@given(
    st.lists(st.sampled_from(["x", "\\ud83d", "\\ude00", "\\n"]), max_size=8).map("".join),
    st.data(),
)
def test_half_a_pair_is_mended_in_the_same_way_for_any_cut(text: str, data: st.DataObject) -> None:
    parts = data.draw(split(text.encode()))
    assert _plain(parts, mends=True) == _plain([text.encode()], mends=True)
    assert _plain(parts, mends=True) is not None


def test_a_character_that_is_cut_is_one_question_mark_for_each_byte() -> None:
    assert _plain(["\\né".encode()[:-1], "é".encode()[-1:] + b"\\n"]) == b"\n??\n"


def test_little_is_held_of_any_piece() -> None:
    unescaper = Unescaper()
    for part in (b"\\/" * 32_768 + b"\\", b"\\" * 65_537, b"\\ud83d\\ude0"):
        unescaper.feed(part)
        assert unescaper.held <= 11
    assert repr(unescaper) == "<Unescaper holding 11 bytes>"
