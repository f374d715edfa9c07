"""One range of bytes is what RFC 9110 says it is, and whatever else is asked for is the whole."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.codec import byte_range
from image_gateway.core.codec.byte_range import Selection

ETAG = '"c0ffee"'
WHOLE = Selection(200, 0, 10)
NOTHING = Selection(416, 0, 0, "bytes */10")


def select(wanted: str | None, length: int = 10, if_range: str | None = None) -> Selection:
    return byte_range.select(length, wanted, if_range, ETAG)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-4", 0, 5),
        ("bytes=5-", 5, 10),
        ("bytes=0-", 0, 10),
        ("bytes=0-9", 0, 10),
        ("bytes=9-9", 9, 10),
        ("bytes=2-99999999999999999999999999", 2, 10),
        ("bytes=-1", 9, 10),
        ("bytes=-10", 0, 10),
        ("bytes=-99999999999999999999999999", 0, 10),
        ("Bytes=0-4", 0, 5),
        ("bytes= 0-4 ", 0, 5),
        ("bytes=00-04", 0, 5),
    ],
)
def test_one_range_is_a_part_of_the_file(wanted: str, start: int, stop: int) -> None:
    assert select(wanted) == Selection(206, start, stop, f"bytes {start}-{stop - 1}/10")


@pytest.mark.parametrize(
    "wanted", ["bytes=10-", "bytes=10-20", "bytes=" + "9" * 99 + "-", "bytes=-0"]
)
def test_a_range_behind_the_end_is_refused_with_the_length(wanted: str) -> None:
    assert select(wanted) == NOTHING


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=4",
        "bytes=4-2",
        "bytes=0-1,3-4",
        "bytes=0-1,",
        "bytes=a-b",
        "bytes=0-b",
        "bytes=0x1-2",
        "bytes=0--1",
        "bytes=--1",
        "bytes=+0-1",
        "bytes=0 - 1",
        "bytes =0-1",
        "bytes:0-1",
        "bytes=\u0660-\u0661",
        "bytes=0-1\n",
        "bytes=" + "0" * 101 + "-",
        "items=0-1",
        "0-1",
    ],
    ids=lambda value: repr(value)[:30],
)
def test_anything_else_gets_the_whole_file(wanted: str | None) -> None:
    assert select(wanted) == WHOLE


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        (ETAG, 206),
        ('"other"', 200),
        ("c0ffee", 200),
        (f"W/{ETAG}", 200),
        ("Sun, 29 Nov 2026 12:00:00 GMT", 200),
        ("", 200),
    ],
)
def test_a_range_of_a_file_that_has_changed_is_the_whole_file(if_range: str, status: int) -> None:
    assert select("bytes=0-4", if_range=if_range).status == status
    # Also in place of a refusal.
    assert select("bytes=10-", if_range=if_range).status == (416 if status == 206 else 200)


def test_a_weak_etag_never_allows_a_range() -> None:
    assert byte_range.select(10, "bytes=0-4", 'W/"x"', 'W/"x"').status == 200


LENGTHS = st.integers(0, 40)
NUMBERS = st.integers(0, 50)


@given(st.binary(max_size=40), NUMBERS, NUMBERS)
def test_the_bytes_are_those_from_first_to_last(content: bytes, first: int, last: int) -> None:
    found = select(f"bytes={first}-{last}", len(content))
    if first > last:
        assert found.status == 200
    elif first >= len(content):
        assert found == Selection(416, 0, 0, f"bytes */{len(content)}")
    else:
        assert found.status == 206
        assert content[found.start : found.stop] == content[first : last + 1]


@given(st.binary(min_size=1, max_size=40), st.integers(1, 50))
def test_a_suffix_is_the_last_bytes(content: bytes, count: int) -> None:
    found = select(f"bytes=-{count}", len(content))
    assert found.status == 206
    assert content[found.start : found.stop] == content[-count:]


@given(st.binary(min_size=1, max_size=40), st.integers(1, 10))
def test_a_file_can_be_read_piece_by_piece(content: bytes, size: int) -> None:
    """As a download that was cut goes on."""
    read = b""
    while len(read) < len(content):
        found = select(f"bytes={len(read)}-{len(read) + size - 1}", len(content))
        assert found.content_range == f"bytes {len(read)}-{found.stop - 1}/{len(content)}"
        read += content[found.start : found.stop]
    assert read == content
    assert select(f"bytes={len(read)}-", len(content)).status == 416


@given(
    LENGTHS,
    st.none() | st.text() | st.from_regex(r"bytes=[0-9,\- ]{0,8}"),
    st.none() | st.text() | st.just(ETAG),
)
@example(0, "bytes=-1", None)
@example(0, "bytes=0-", None)
def test_any_request_gets_a_part_that_is_there(
    length: int, wanted: str | None, if_range: str | None
) -> None:
    found = select(wanted, length, if_range)
    assert 0 <= found.start <= found.stop <= length
    if found.status == 200:
        assert found == Selection(200, 0, length)
    elif found.status == 206:
        assert found.content_range == f"bytes {found.start}-{found.stop - 1}/{length}"
        assert found.start < found.stop
    else:
        assert found == Selection(416, 0, 0, f"bytes */{length}")
