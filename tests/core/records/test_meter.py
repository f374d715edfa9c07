"""Counting an answer on its way, whatever it holds and however it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records import usage
from image_gateway.core.records.builder import Made
from image_gateway.core.records.meter import AnswerMeter
from tests.core.builders import split


def metered(chunks: list[bytes]) -> Made | None:
    meter = AnswerMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter.close()[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"data": [{"b64_json": "x"}, {"url": "y"}]}, 2),
        ({"data": [{"url": "y"}], "n": 5}, 1),
        ({"data": [{}, {"b64_json": ""}, {"url": None}, {"url": 5}, "x", None]}, 0),
        ({"data": []}, 0),
        ({"data": {"0": {}}}, 0),
        ({"data": None}, 0),
        ({"data": "xx"}, 0),
        ({}, 0),
        ([], None),
        ([[1, 2]], None),
        (None, None),
        ("data", None),
    ],
)
def test_pictures_are_counted_not_believed(answer: object, expected: int | None) -> None:
    made = metered([json.dumps(answer).encode()])
    assert (None if made is None else made.pictures) == expected


_ANSWERS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(allow_nan=False, allow_infinity=False),  # JSON has neither
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["usage", "data", "input_tokens", "output_tokens", "total_tokens"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@given(_ANSWERS)
def test_no_answer_is_too_hostile_to_be_counted(answer: object) -> None:
    made = metered([json.dumps({"data": answer, "usage": answer}).encode()])
    if made is None:
        return
    assert made.usage == usage.read(answer)
    assert type(made.pictures) is int
    assert made.pictures >= 0


_ANSWER = {
    "data": [{"b64_json": "A" * 9000}, {"url": "https://hush.example/"}],
    "size": "1024x1536",
    "quality": "low",
    "background": "opaque",
    "usage": {
        "input_tokens": 1,
        "output_tokens": 2,
        "output_tokens_details": {"image_tokens": 2, "text_tokens": 0},
        "total_tokens": 3,
        "more": {"x": 4},
    },
    "svg_usage": {"model": "gpt-5.5", "input_tokens": 4, "reasoning_tokens": 5, "more": "x"},
}


@given(st.data())
def test_an_answer_is_counted_on_its_way_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    made = metered(data.draw(split(json.dumps(_ANSWER).encode())))
    assert made == Made(
        2,
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 2},
            "total_tokens": 3,
        },
        svg_usage={"model": "gpt-5.5", "input_tokens": 4, "reasoning_tokens": 5},
        size="1024x1536",
        quality="low",
        background="opaque",
    )


@pytest.mark.parametrize(
    "answer", [{}, {"size": None, "quality": 5}, {"size": "x" * 5000}, {"size": "a red cat"}]
)
def test_a_size_and_quality_that_an_answer_does_not_say_are_not_known(answer: Any) -> None:
    assert metered([json.dumps(answer).encode()]) == Made(0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"]",
        b"[]",
        b"null",
        b'{"data":[{}]',
        b'{"data":[1]} x',
        b'{"data":["\\u0000"]}',
        b"[" * 100,
        b'{"data":[1]}\xff',
    ],
)
def test_an_answer_that_cannot_be_read_passes_uncounted(text: bytes) -> None:
    for chunks in ([text], [text[at : at + 1] for at in range(len(text))], [text, b"more", b"}"]):
        assert metered(chunks) is None


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [(b'{"data":[{}]}', True), (b"[]", True), (b'{"data":[{}]', False), (b"", False)],
)
def test_an_answer_that_ends_too_early_is_not_whole(text: bytes, *, is_whole: bool) -> None:
    meter = AnswerMeter()
    meter.feed(text)
    assert meter.close()[1] is is_whole


@pytest.mark.parametrize(
    "more",
    [
        b'"revised_prompt":"cut \\ud83d"',
        b'"revised_prompt":"\\ude00 cut"',
        b'"cut \\ud83d":1',
        b'"values":[' + b"1," * 200_000 + b"1]",
    ],
)
def test_an_odd_answer_is_counted_as_far_as_it_can_be_read(more: bytes) -> None:
    """Half a surrogate pair, and more values than a client may send: paid for all the same."""
    text = b'{"data":[{"b64_json":"AA==",%b},{"url":"u"}],"usage":{"total_tokens":7}}' % more
    assert metered([text]) == Made(2, {"total_tokens": 7})


def test_an_answer_of_more_than_its_bound_is_not_held() -> None:
    chunk = b"1," * 8192
    meter = AnswerMeter()
    meter.feed(b'{"values":[')
    for _ in range(1024):
        meter.feed(chunk)
    assert repr(meter) == "<AnswerMeter blind>"
    assert meter.close() == (None, True)


@pytest.mark.parametrize("inside", [b"\n", b"\\q", b"\xff", b"\\ud800"])
def test_a_picture_is_only_counted_and_not_checked(inside: bytes) -> None:
    """It passes through unread; checking it would cost half of passing it on."""
    text = b'{"data":[{"b64_json":"' + b"A" * 9000 + inside + b'"},{"url":"u"}]}'
    assert metered([text]) == Made(2)
    assert metered([text[:5000], text[5000:]]) == Made(2)


def test_an_answer_that_was_broken_once_stays_uncounted() -> None:
    assert metered([b"]", b'{"data":[{}],"size":"1x1"}']) is None


@given(st.binary(max_size=40), _ANSWERS)
def test_no_answer_stops_the_meter(junk: bytes, answer: object) -> None:
    text = json.dumps(answer).encode()
    made = metered([text])
    if made is not None:
        assert isinstance(answer, dict)
        assert made.pictures == 0, "no entry has a picture under a known name"
    metered([junk, text])


@given(st.data())
def test_the_first_picture_is_noticed_when_it_begins(data: st.DataObject) -> None:
    """Not before: until then the answer may turn out to be an error."""
    before = b'{"created":1,"note":"b64_json","data":[{},{"b64_json":"","url":"'
    meter = AnswerMeter()
    for chunk in data.draw(split(before)):
        meter.feed(chunk)
        assert not meter.may_have_picture
    meter.feed(b"h")
    assert meter.may_have_picture
    assert not meter.is_no_answer


def test_a_picture_counts_although_what_follows_it_is_broken() -> None:
    """It is paid for, and came in the same chunk as the fault behind it."""
    meter = AnswerMeter()
    meter.feed(b'{"data":[{"b64_json":"AAAA"}]} broken ]')
    assert meter.may_have_picture
    assert not meter.is_no_answer
    assert meter.close()[0] is None


@pytest.mark.parametrize("text", [b"<html>", b" \n[", b"ok"])
def test_what_is_no_json_object_is_known_at_once(text: bytes) -> None:
    meter = AnswerMeter()
    meter.feed(text)
    assert meter.is_no_answer
    assert not meter.may_have_picture


def test_an_answer_that_is_too_large_to_read_may_hold_a_picture() -> None:
    meter = AnswerMeter()
    meter.feed(b'{"values":[' + b"1," * 1_000_000)
    assert meter.may_have_picture
    assert not meter.is_no_answer
