"""Where a JSON text is broken: the line and column that a person would find, in any split."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.codec import json_scanner, json_skeleton, text_position
from image_gateway.core.codec.text_position import TextPosition
from image_gateway.core.request.intent_signals import IntentSignalReader
from tests.core.builders import split


@given(st.text(st.sampled_from("ab\n\ré€\U0001f408"), max_size=30), st.data())
def test_a_position_is_that_of_the_text_before_it(text: str, data: st.DataObject) -> None:
    position = TextPosition()
    for piece in data.draw(split(text.encode())):
        position = position.after(piece)
    lines = text.split("\n")
    assert position == (len(lines), len(lines[-1]) + 1)


@given(st.text())
def test_characters_are_those_of_the_text(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    assert text_position.characters(raw) == len(text)


def _error(text: bytes, chunks: list[bytes] | None = None) -> json_scanner.ScanError | None:
    skeleton = json_skeleton.JsonSkeleton()
    try:
        for chunk in [text] if chunks is None else chunks:
            skeleton.feed(chunk)
        skeleton.close()
    except json_scanner.ScanError as error:
        return error
    return None


def _place_of(text: bytes) -> tuple[int, int] | None:
    """Where a parser of the whole text finds a mistake."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.lineno, error.colno
    return None


_LONG = ["x" * 5000, "é" * 3000, "data:image/png;base64," + "A" * 9000, "\\" * 4500]
_VALUES = st.recursive(
    st.sampled_from([1, True, None, "a", "é\n", 'q"\\', *_LONG]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcé"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    _VALUES,
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from(["", ",", "}", "]", "x", "'", "NaN", "\n,", "é", ":", "tru", " "]),
    st.data(),
)
@example({"prompt": "x"}, None, False, ",", None)
@example('q"\\', None, False, ",", 5)
def test_a_mistake_is_where_a_parser_of_the_whole_text_finds_it(
    value: Any, indent: int | None, ascii_only: Any, mistake: str, data: st.DataObject | int | None
) -> None:
    """However long the strings before it are, which the skeleton does not hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if isinstance(data, st.DataObject):
        at = data.draw(st.integers(0, len(text)))
    else:
        at = len(text) - 1 if data is None else data
    broken = (text[:at] + mistake + text[at:]).encode()
    chunks = data.draw(split(broken)) if isinstance(data, st.DataObject) else [broken]
    found = _error(broken, chunks)
    wanted = _place_of(broken)
    assert (found is None) == (wanted is None)
    # The scanner sees only brackets and long strings, and finds these at its own time.
    if found is None or not found.args[0].startswith("The body is not valid JSON"):
        return
    if "ends too early" in found.args[0]:
        # A string that has no end may have another mistake, too.
        assert found.position == TextPosition().after(broken)
    else:
        assert found.position == wanted


CASES: list[tuple[bytes, str, tuple[int, int] | None]] = [
    (b"", "The body is empty. Send a JSON object in it.", None),
    (b" \r\n\t", "The body is empty. Send a JSON object in it.", None),
    (b'{"prompt": "x",}', "trailing comma is not allowed", (1, 15)),
    (b"{'prompt': 'x'}", "expected a string key", (1, 2)),
    (b'{"prompt": "x"} {}', "unexpected content after document", (1, 17)),
    (b'{"n": NaN}', "expected a JSON value", (1, 7)),
    (b'{"prompt": "x"', "it ends too early", (1, 15)),
    (b'{"prompt": "x', "it ends too early", (1, 14)),
    (b'{"prompt": "' + b"x" * 5000, "it ends too early", (1, 5013)),
    (b'{\n  "prompt": "x"\n  "n": 1\n}', "expected ',' or '}'", (3, 3)),
    (b"\xef\xbb\xbf{}", "byte order mark", (1, 1)),
    (b'{"a": "\xc3\xa9\xe2\x82\xac" 1}', "expected ',' or '}'", (1, 12)),
    (b'{"a": "\t"}', "unexpected control character in string", (1, 8)),
    (b'{\n"a": "' + b"x" * 5000 + b'\t"}', "has a control character", (2, 6)),
    (b'{"a": ["' + b"x" * 5000 + b'\\x"]}', "invalid escape sequence", (1, 8)),
    (b'{"\\x": 1}', "A JSON key is not a valid string", (1, 2)),
    (b'{"a": 1}}', "closing bracket without an opening one", (1, 9)),
    (b"\n" + b"[" * 70, "nested deeper than 64 levels", (2, 65)),
    (b'{"a": "\\u0000"}', "begins with a NUL character", (1, 7)),
    (b"[" + b"1,\n" * 20_001, "more than 20000 strings, brackets and commas", (20_000, 2)),
]


@pytest.mark.parametrize(("text", "words", "position"), CASES)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_an_error_says_what_is_wrong_and_where(
    text: bytes, words: str, position: tuple[int, int] | None, size: int
) -> None:
    error = _error(text, [text[at : at + size] for at in range(0, len(text), size)])
    assert error is not None
    assert words in str(error)
    assert error.position == position
    if position is not None:
        assert str(error).endswith(f" See line {position[0]}, column {position[1]}.")


@given(st.text(st.sampled_from('{}[]:,"x\n'), max_size=20))
def test_an_error_repeats_nothing_of_the_text(secret: str) -> None:
    text = json.dumps({"prompt": "a-secret-cat", "x": secret})[:-1] + ', "a-secret-cat" }'
    error = _error(text.encode())
    assert error is not None
    assert "secret" not in str(error)


def _place(chunks: list[bytes], read: Callable[[], Any]) -> tuple[str, TextPosition | None]:
    """The words and the place of the error that a reader raises."""
    reader = read()
    with pytest.raises(json_scanner.ScanError) as raised:
        list(map(reader.feed, chunks))
    return raised.value.args[0], raised.value.position


def _small() -> json_skeleton.JsonSkeleton:
    return json_skeleton.JsonSkeleton(limits=replace(json_scanner.IMAGES, skeleton_bytes=20))


@pytest.mark.parametrize(
    ("text", "read", "words", "column"),
    [
        (b"{'model': 'gpt-image-2'}", IntentSignalReader, "characters that JSON", 2),
        (b'{"a": [1, /* x */ 2]}', IntentSignalReader, "characters that JSON", 11),
        (b'{"a": 1} # x ]]', IntentSignalReader, "characters that JSON", 10),
        (b'{"a": 1}]', IntentSignalReader, "without an opening one", 9),
        (b'{"a": 1,       "b": 2222222, "c": 3}', _small, "the JSON is larger", 21),
        (b'{"a": "b",                  "c": 3}', _small, "the JSON is larger", 21),
    ],
)
def test_a_mistake_between_strings_is_at_its_own_place_for_any_split(
    text: bytes, read: Callable[[], Any], words: str, column: int
) -> None:
    """Not at the bracket that was read last, nor where the chunk begins."""
    whole = _place([text], read)
    assert words in whole[0]
    assert whole[1] == (1, column)
    for size in (1, 2, 3, 5, 7, 11):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        assert _place(chunks, read) == whole, size
