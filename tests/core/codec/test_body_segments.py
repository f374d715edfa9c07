"""A body's segments: their exact length, and the text they stand for once they are played."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments, json_skeleton
from tests.core.builders import play

_SPOOL = bytes(range(250)) * 2 + b"YQ==YWIYWJjYWJjZA"
_BASE64 = [
    # a place in the spool, and how many bytes it stands for
    (body_segments.Span(500, 500), 0),
    (body_segments.Span(500, 504), 1),
    (body_segments.Span(504, 507), 2),
    (body_segments.Span(507, 511), 3),
    (body_segments.Span(511, 517), 4),
]
_SEGMENTS = st.one_of(
    st.binary(max_size=20),
    st.tuples(st.integers(0, 500), st.integers(0, 500)).map(
        lambda ends: body_segments.Span(min(ends), max(ends))
    ),
    st.tuples(st.integers(0, 500), st.integers(0, 500)).map(
        lambda ends: body_segments.Encoded(body_segments.Span(min(ends), max(ends)))
    ),
    st.sampled_from(_BASE64).map(lambda found: body_segments.Decoded(*found)),
)


@given(st.lists(_SEGMENTS, max_size=8).map(tuple))
def test_the_length_is_that_of_the_bytes_played(segments: body_segments.Body) -> None:
    assert body_segments.length(segments) == len(play(segments, _SPOOL))


@given(st.binary(max_size=40))
def test_a_span_goes_out_as_base64_and_back(data: bytes) -> None:
    span = body_segments.Span(0, len(data))
    encoded = play((body_segments.Encoded(span),), data)
    assert encoded == base64.b64encode(data)
    back = body_segments.Decoded(body_segments.Span(0, len(encoded)), len(data))
    assert play((back,), encoded) == data


def test_an_empty_body_has_no_length() -> None:
    assert body_segments.length(()) == 0


@given(st.lists(st.one_of(st.integers(0, 4), st.text(max_size=4).map("t".__add__)), max_size=8))
def test_each_mark_becomes_the_span_of_its_own_number(items: list[int | str]) -> None:
    """In whatever order, and as often, as the marks stand in the value."""
    spool = b"".join(b"<%d>" % number * 10 for number in range(5))
    texts = [(body_segments.Span(30 * number, 30 * number + 30),) for number in range(5)]
    value = [f"\0{item}" if isinstance(item, int) else item for item in items]
    played = json.loads(play(body_segments.from_json(value, texts), spool))
    assert played == [f"<{item}>" * 10 if isinstance(item, int) else item for item in items]


def test_numbers_of_two_digits_are_read_whole() -> None:
    texts = [(body_segments.Span(number, number + 1),) for number in range(12)]
    assert body_segments.from_json({"a": "\x0011"}, texts) == (
        b'{"a":"',
        body_segments.Span(11, 12),
        b'"}',
    )


def test_a_body_without_long_strings_is_one_literal() -> None:
    assert body_segments.from_json({"prompt": "é", "n": 2}, []) == (
        '{"prompt":"é","n":2}'.encode(),
    )


def test_lifted_text_is_sent_with_the_escapes_it_came_with() -> None:
    text = b'["' + b"\\/\\u002b" * 1000 + b'"]'
    skeleton = json_skeleton.JsonSkeleton()
    skeleton.feed(text)
    value = skeleton.close()
    made = body_segments.from_json({"image": value}, body_segments.of_lifted(skeleton.lifted))
    assert play(made, text) == b'{"image":%b}' % text


@pytest.mark.parametrize(
    "value",
    [
        'a"\x000',
        "\x000 at its front and more",
        '\\"\x000',
        'x"\x000"',
        {'a"\x000': 1},
        {"\x000": "x"},
        [{"k": ["\x00"]}, 'y\\\\"\x000'],
    ],
)
def test_only_a_whole_value_can_be_a_mark(value: Any) -> None:
    """A mark's text inside another string, or as a key, is the client's own."""
    texts = [(body_segments.Span(0, 6),)]
    assert json.loads(play(body_segments.from_json(value, texts), b"forged")) == value
