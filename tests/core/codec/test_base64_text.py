"""Base64 inside JSON: the same bytes for any split and any escape, and what first bytes show."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import base64_text
from tests.core.builders import split
from tests.parts.examples import scaled

_SPELLINGS = {
    "/": ["/", "\\/", "\\u002f", "\\u002F"],
    "+": ["+", "\\u002b", "\\u002B"],
    "=": ["=", "\\u003d", "\\u003D"],
    "A": ["A", "A", "\\u0041"],
}


@st.composite
def _written(draw: st.DrawFn, data: bytes) -> bytes:
    """Base64 of ``data`` as some JSON writer may put it, padded or not."""
    plain = base64.b64encode(data).decode()
    if draw(st.booleans()):
        plain = plain.rstrip("=")
    spelt = {character: draw(st.sampled_from(ways)) for character, ways in _SPELLINGS.items()}
    return "".join(spelt.get(character, character) for character in plain).encode()


# What is rich in the characters that may be escaped.
_BYTES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\xfb\xef\xbe", b"\xff\xff\xff", b"a", b"\xfb"]), max_size=12).map(
        b"".join
    ),
)


def _decoded(pieces: list[bytes]) -> bytes:
    decoder = base64_text.Base64Decoder()
    return b"".join([decoder.feed(piece) for piece in pieces]) + decoder.close()


@given(_BYTES, st.data())
@settings(max_examples=scaled(300))
def test_any_split_of_any_spelling_gives_the_same_bytes(data: bytes, draw: st.DataObject) -> None:
    text = draw.draw(_written(data))
    assert _decoded(draw.draw(split(text))) == data


@given(_BYTES, st.data())
def test_one_byte_at_a_time_gives_the_same_bytes(data: bytes, draw: st.DataObject) -> None:
    text = draw.draw(_written(data))
    assert _decoded([text[at : at + 1] for at in range(len(text))]) == data


@pytest.mark.parametrize("escape", [b"\\n", b"\\u00e9", b"\\u002", b"\\x2f", b"\\", b"\\\\"])
def test_an_escape_of_another_character_is_no_base64(escape: bytes) -> None:
    for border in range(len(escape) + 1):
        with pytest.raises(ValueError):
            _decoded([b"AAAA" + escape[:border], escape[border:] + b"AAAA"])


@pytest.mark.parametrize(
    "text",
    [b"A", b"AAAAA", b"A===", b"A=A=", b"AA=A", b"====", b"!!!!", b"AA\nAA", b"QQ==QQ==", b"-_-_"],
)
def test_what_is_no_base64_is_an_error_and_never_other_bytes(text: bytes) -> None:
    with pytest.raises(ValueError):
        _decoded([text])


@given(st.text("AB/+\\u0023f!\n", max_size=12), st.integers(0, 4), st.data())
def test_what_is_decoded_is_what_was_written_or_an_error_of_value(
    inner: str, padding: int, draw: st.DataObject
) -> None:
    text = (inner + "=" * padding).encode()
    try:
        made = _decoded(draw.draw(split(text)))
    except ValueError:
        return
    plain = json.loads(b'"' + text + b'"').encode()
    assert made == base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)


def test_a_decoder_holds_next_to_nothing() -> None:
    decoder = base64_text.Base64Decoder()
    for _ in range(64):
        decoder.feed(b"A" * 65_537)
        held = repr(decoder)
        assert held in {f"<Base64Decoder holding {count} bytes>" for count in range(4)}
    decoder.feed(b"\\u002")
    assert "holding" in repr(decoder)


# -- sizes -----------------------------------------------------------------------------------


@given(st.integers(0, 3000))
def test_a_size_is_that_of_the_bytes_with_and_without_padding(count: int) -> None:
    text = base64.b64encode(bytes(count))
    bare = text.rstrip(b"=")
    assert base64_text.decoded_size(len(text), len(text) - len(bare)) == count
    assert base64_text.decoded_size(len(bare), 0) == count


@given(st.integers(0, 40), st.integers(0, 2))
def test_there_is_a_size_exactly_where_there_is_such_base64(plain: int, padding: int) -> None:
    text = b"A" * plain + b"=" * padding
    size: int | None = None
    if re.fullmatch(rb"(?:A{4})*(?:AA(?:==)?|AAA=?)?", text):
        size = len(base64.b64decode(text.rstrip(b"=") + b"=" * (-plain % 4)))
    assert base64_text.decoded_size(len(text), padding) == size


# -- what first bytes show -------------------------------------------------------------------

_SHOWN: list[tuple[bytes, str | None]] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\x89PNG\r\n\x1a", None),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\xff\xd8", None),
    (b"RIFF\0\0\0\0WEBP", "image/webp"),
    (b"RIFF\0\0\0\0WAVE", None),
    (b"RIFX\0\0\0\0WEBP", None),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"GIF88a", None),
    (b"<svg ", "image/svg+xml"),
    (b"\n <?xml version", "image/svg+xml"),
    (b"<html>", None),
    (b"", None),
]


@pytest.mark.parametrize(("first", "kind"), _SHOWN)
def test_the_first_bytes_tell_the_type(first: bytes, kind: str | None) -> None:
    assert base64_text.image_type(first) == kind


@given(st.sampled_from(_SHOWN), st.binary(min_size=24, max_size=40), st.data())
def test_base64_tells_the_type_that_its_bytes_tell(
    shown: tuple[bytes, str | None], tail: bytes, draw: st.DataObject
) -> None:
    first = (shown[0] + tail)[:24]
    text = draw.draw(_written(shown[0] + tail))
    assert base64_text.image_type_of_base64(text) == base64_text.image_type(first)
    assert base64_text.shows_type(text)


@given(st.sampled_from(_SHOWN), st.binary(min_size=24, max_size=40), st.data())
def test_what_is_seen_once_enough_is_here_does_not_depend_on_where_it_was_cut(
    shown: tuple[bytes, str | None], tail: bytes, draw: st.DataObject
) -> None:
    text = draw.draw(_written(shown[0] + tail))
    whole = base64_text.image_type_of_base64(text)
    for stop in range(len(text) + 1):
        if base64_text.shows_type(text[:stop]):
            assert base64_text.image_type_of_base64(text[:stop]) == whole


@pytest.mark.parametrize("count", [0, 31, 32, 33])
def test_32_characters_are_enough_however_they_are_written(count: int) -> None:
    for character in (b"A", b"\\/", b"\\u002b", b"\\u002F"):
        assert base64_text.shows_type(character * count) is (count >= 32)


@pytest.mark.parametrize("text", [b"", b"QUJDREVGRw==", b"!!!", b"Q", b"AAA!", b"A===", b"\\u00"])
def test_what_shows_nothing_known_has_no_type(text: bytes) -> None:
    assert base64_text.image_type_of_base64(text) is None


@given(st.one_of(st.binary(max_size=80), st.text("\\u0/A=", max_size=80).map(str.encode)))
def test_any_bytes_can_be_looked_at(text: bytes) -> None:
    found: Any = base64_text.image_type_of_base64(text)
    assert found is None or found.startswith("image/")
    assert base64_text.shows_type(text) in {True, False}
