"""What a body is, by its first bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import sse


@pytest.mark.parametrize(
    "start",
    [
        b"data: {}",
        b"data:",
        b"event: image_generation.completed",
        b"id: 1",
        b"retry: 5",
        b": wait",
        b"\n\n  data: {}",
        b"\xef\xbb\xbfevent: a",
    ],
)
def test_events_begin_with_a_field_or_a_comment(start: bytes) -> None:
    assert sse.are_events(start) is True


@pytest.mark.parametrize(
    "start", [b"{", b" [", b'"data: "', b"<html>", b"database", b"ok", b"\xff", b"\xef\xbb\xbf{"]
)
def test_anything_else_has_no_events(start: bytes) -> None:
    assert sse.are_events(start) is False


@pytest.mark.parametrize(
    "start", [b"", b"  \n", b"d", b"dat", b"event", b"i", b"\xef\xbb\xbf r", b"\xef"]
)
def test_what_could_still_be_either_is_not_decided(start: bytes) -> None:
    assert sse.are_events(start) is None


def test_endless_white_space_is_decided() -> None:
    assert sse.are_events(b" " * 100_000) is False


_STARTS = st.lists(
    st.sampled_from([b"\xef\xbb\xbf", b" ", b"\n", b"data:", b"event:", b"id:", b"{"])
)


@given(st.one_of(st.binary(max_size=20), _STARTS.map(b"".join)), st.binary(max_size=5))
def test_more_bytes_never_change_a_decision(start: bytes, more: bytes) -> None:
    decided = sse.are_events(start)
    assert decided is None or sse.are_events(start + more) is decided
