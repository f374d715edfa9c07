"""Codex's budget windows, and the wait that one names which is used up."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import dialects
from image_gateway.core.dialects import codex
from image_gateway.core.dialects.dialect import BudgetWindow
from image_gateway.core.errors import UpstreamError
from image_gateway.core.headers import LONGEST_WAIT

NOW = 1_800_000_000.0

_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "retry-after",
            "retry-after-ms",
            *(
                f"x-codex-{window}-{name}"
                for window in ("primary", "secondary")
                for name in ("used-percent", "reset-after-seconds", "reset-at")
            ),
        ]
    ),
    st.one_of(st.text(max_size=8), st.floats().map(str), st.integers().map(str)),
)


def window(name: str, percent: str, seconds: str | None = None) -> dict[str, str]:
    """The headers of one window."""
    found = {f"x-codex-{name}-used-percent": percent}
    if seconds is not None:
        found[f"x-codex-{name}-reset-after-seconds"] = seconds
    return found


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ({}, {}),
        (window("primary", "12", "60"), {"primary": BudgetWindow(12.0, 60.0)}),
        (window("secondary", "150"), {"secondary": BudgetWindow(100.0, None)}),
        (window("primary", "soon", "60"), {}),
        (
            {**window("primary", "5"), "x-codex-primary-reset-at": str(NOW + 9)},
            {"primary": BudgetWindow(5.0, 9.0)},
        ),
        (
            {**window("primary", "5"), "x-codex-primary-reset-at": str(NOW - 9)},
            {"primary": BudgetWindow(5.0, 0.0)},
        ),
        (window("tertiary", "5", "60"), {}),
    ],
)
def test_an_answer_s_windows_are_read(
    upstream: Mapping[str, str], expected: Mapping[str, BudgetWindow]
) -> None:
    assert codex.budget_windows(upstream, NOW) == expected


@pytest.mark.parametrize(
    ("upstream", "error", "expected"),
    [
        (window("primary", "1e2", "60"), UpstreamError(), 60.0),
        (window("secondary", "101", "7"), UpstreamError(), 7.0),
        (
            {**window("primary", "99.9", "60"), **window("secondary", "100", "7")},
            UpstreamError(),
            7,
        ),
        (window("primary", "99.9", "60"), UpstreamError(), None),
        (window("primary", "100"), UpstreamError(), None),
        ({"x-codex-primary-reset-after-seconds": "60"}, UpstreamError(), None),
        (window("primary", "100", "60"), UpstreamError(resets_at=NOW + 5), 5.0),
        ({**window("primary", "100", "60"), "retry-after": "2"}, UpstreamError(), 2.0),
        (window("primary", "100", "1e300"), UpstreamError(), LONGEST_WAIT),
    ],
)
def test_a_window_that_is_used_up_names_a_wait_where_nothing_else_does(
    upstream: Mapping[str, str], error: UpstreamError, expected: float | None
) -> None:
    assert dialects.named_wait(upstream, error, NOW, limited=True) == expected
    exact = error != UpstreamError() or "retry-after" in upstream
    assert dialects.named_wait(upstream, error, NOW, limited=False) == (expected if exact else None)


@pytest.mark.parametrize("name", ["azure", "openai"])
def test_other_upstreams_tell_no_budget(name: str) -> None:
    assert dialects.DIALECTS[name].budget_windows(window("primary", "97", "60"), NOW) == {}


@given(_HEADERS)
def test_a_wait_is_from_nothing_to_a_week_whatever_an_upstream_writes(
    upstream: dict[str, str],
) -> None:
    wait = dialects.named_wait(upstream, UpstreamError(), NOW, limited=True)
    assert wait is None or 0 <= wait <= LONGEST_WAIT
