"""Values that somebody else wrote: what is not of its type is not known."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import untrusted

_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("value", "most", "expected"),
    [
        (0, None, 0),
        (7, 7, 7),
        (8, 7, None),
        (-1, None, None),
        (True, None, None),
        (1.0, None, None),
        ("1", None, None),
        (None, None, None),
        (2**80, None, 2**80),
    ],
)
def test_a_count_is_a_whole_number_from_0_on(
    value: object, most: int | None, expected: int | None
) -> None:
    assert untrusted.count(value, most) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (-2.5, -2.5), (True, None), ("1", None), (float("inf"), None), (None, None)],
)
def test_a_number_is_finite(value: object, expected: float | None) -> None:
    assert untrusted.number(value) == expected


@pytest.mark.parametrize(
    ("value", "assume_utc", "expected"),
    [
        ("2026-11-21T08:00:00Z", False, datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("2026-11-21T08:00:00+02:00", False, datetime(2026, 11, 21, 6, tzinfo=UTC)),
        ("2026-11-21T08:00:00", False, None),
        ("2026-11-21T08:00:00", True, datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("2026-11-21", True, datetime(2026, 11, 21, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", True, None),
        ("soon", True, None),
        (5, True, None),
        (None, True, None),
    ],
)
def test_a_moment_is_in_utc(value: object, expected: datetime | None, *, assume_utc: bool) -> None:
    assert untrusted.moment(value, assume_utc=assume_utc) == expected


@given(_ANYTHING)
def test_nothing_is_too_odd_to_be_read(value: Any) -> None:
    assert untrusted.text(value) in {value if isinstance(value, str) else None, None}
    assert untrusted.mapping(value) == (value if isinstance(value, dict) else {})
    count = untrusted.count(value)
    assert count is None or count >= 0
    assert untrusted.number(value) is None or isinstance(untrusted.number(value), float)
    assert untrusted.moment(value) is None or isinstance(value, str)


@pytest.mark.parametrize("name", ["n", "svg[model]", "svg[reasoning][effort]", "a.b", "image[]"])
def test_a_name_is_shown(name: str) -> None:
    assert untrusted.shown_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a cat on a mat", "x" * 65, "é", "a\tb", "9", "a[b", "\u202ea"]
)
def test_what_does_not_look_like_a_name_is_not_repeated(name: str) -> None:
    """It may be content that slipped out."""
    assert untrusted.shown_name(name) == "(a name that is none)"


def _nested(depth: int) -> object:
    value: object = 1
    for index in range(depth):
        value = {"a": value} if index % 2 else [value, 2]
    return value


@pytest.mark.parametrize("depth", [0, 1, untrusted.MOST_DEPTH])
def test_json_that_is_not_too_deep_stays_as_it_is(depth: int) -> None:
    assert not untrusted.is_deep(_nested(depth))
    assert untrusted.pruned(_nested(depth)) == _nested(depth)


@pytest.mark.parametrize("depth", [untrusted.MOST_DEPTH + 1, 490, 5000])
def test_json_that_is_too_deep_is_cut_to_what_is_not(depth: int) -> None:
    assert untrusted.is_deep(_nested(depth))
    assert not untrusted.is_deep(untrusted.pruned(_nested(depth)))
