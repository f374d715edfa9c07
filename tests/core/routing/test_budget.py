"""Budgets: an answer's word counts until somebody knows better, whatever it says."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.model import Account
from image_gateway.core.routing import budget
from image_gateway.core.routing.budget import Budgets
from tests.core.builders import account

NOW: Final = 1000.0
WALL: Final = 1_800_000_000.0
NEVER: Final = 1e300
WINDOWS: Final = ("primary", "secondary")

_WINDOW = st.sampled_from(WINDOWS)
_SAID = st.one_of(st.none(), st.floats(0, 100))
_PERCENT = st.floats(0, 100)


def _account(window: str = "primary", said: float | None = None, name: str = "a") -> Account:
    return account(name, **{f"used_percent_{window}": said})


def _headers(window: str, percent: object, **resets: object) -> dict[str, str]:
    found = {f"x-codex-{window}-used-percent": str(percent)}
    for name, value in resets.items():
        found[f"x-codex-{window}-{name.replace('_', '-')}"] = str(value)
    return found


def _taught(account: Account, headers: dict[str, str]) -> Budgets:
    budgets = Budgets()
    budgets.learn(account, headers, NOW, WALL)
    return budgets


# -- who is believed -------------------------------------------------------------------------


@given(_SAID, _SAID)
def test_until_an_answer_said_something_the_control_plane_is_believed(
    primary: float | None, secondary: float | None
) -> None:
    """The fuller of the two windows counts; a figure that is not known counts as 0."""
    one = account(used_percent_primary=primary, used_percent_secondary=secondary)
    assert Budgets().spent(one, NOW) == max(primary or 0.0, secondary or 0.0)


@pytest.mark.parametrize(
    ("said", "expected"), [(-5.0, 0), (150.0, 100), (1e308, 100), (float("inf"), 100)]
)
def test_a_control_plane_s_figure_is_from_nothing_to_all(said: float, expected: float) -> None:
    one = account(used_percent_primary=said, used_percent_secondary=said)
    assert Budgets().spent(one, NOW) == expected


@given(_WINDOW, _SAID, _PERCENT, st.floats(0, 3599))
def test_an_answer_is_believed_while_the_control_plane_says_what_it_said_before(
    window: str, said: float | None, percent: float, later: float
) -> None:
    one = _account(window, said)
    budgets = _taught(one, _headers(window, percent))
    assert budgets.spent(one, NOW + later) == percent
    assert budgets.spent(_account(window, said), NOW + later) == percent, "a newer row, the same"


@given(_WINDOW, _SAID, _SAID, _PERCENT)
def test_a_new_figure_of_the_control_plane_wins(
    window: str, said: float | None, newer: float | None, percent: float
) -> None:
    budgets = _taught(_account(window, said), _headers(window, percent, reset_after_seconds=60))
    expected = percent if newer == said else newer or 0.0
    assert budgets.spent(_account(window, newer), NOW) == expected


def test_the_control_plane_is_compared_with_what_it_said_when_the_call_was_made() -> None:
    """A call takes a minute: what was asked meanwhile is newer than its answer."""
    budgets = _taught(_account(said=10.0), _headers("primary", 12.0))
    assert budgets.spent(_account(said=20.0), NOW) == 20.0


def test_what_the_control_plane_has_overruled_once_does_not_come_back() -> None:
    """An upstream may empty a window early: then the control plane says what it said at first."""
    budgets = _taught(_account(said=0.0), _headers("primary", 97, reset_after_seconds=600_000))
    assert budgets.spent(_account(said=98.0), NOW + 300) == 98.0
    assert budgets.spent(_account(said=0.0), NOW + 600) == 0.0


@given(_PERCENT, _PERCENT, _SAID)
def test_a_later_answer_replaces_an_earlier_one(
    first: float, second: float, said: float | None
) -> None:
    budgets = _taught(_account(said=said), _headers("primary", first, reset_after_seconds=60))
    budgets.learn(_account(said=said), _headers("primary", second), NOW + 1, WALL + 1)
    assert budgets.spent(_account(said=said), NOW + 120) == second


@given(_SAID, _SAID, _PERCENT, _WINDOW)
def test_an_answer_about_one_window_says_nothing_of_the_other(
    primary: float | None, secondary: float | None, percent: float, window: str
) -> None:
    one = account(used_percent_primary=primary, used_percent_secondary=secondary)
    other = secondary if window == "primary" else primary
    budgets = _taught(one, _headers(window, percent))
    assert budgets.spent(one, NOW) == max(percent, other or 0.0)


def test_the_windows_are_learned_one_by_one_and_the_fuller_counts() -> None:
    one = _account()
    budgets = _taught(one, _headers("primary", 30) | _headers("secondary", 60))
    assert budgets.spent(one, NOW) == 60
    budgets.learn(one, _headers("secondary", 10), NOW, WALL)
    assert budgets.spent(one, NOW) == 30
    budgets.learn(one, {"content-type": "application/json"}, NOW, WALL)
    assert budgets.spent(one, NOW) == 30, "an answer that says nothing changes nothing"


def test_accounts_do_not_learn_from_each_other() -> None:
    budgets = _taught(_account(name="a"), _headers("primary", 99))
    assert budgets.spent(_account(name="b"), NOW) == 0


# -- the window's end ------------------------------------------------------------------------


@given(
    window=_WINDOW,
    said=_SAID,
    percent=_PERCENT,
    left=st.integers(0, 10**6),
    by_moment=st.booleans(),
)
def test_a_window_that_has_begun_anew_is_empty(
    window: str, said: float | None, percent: float, left: int, *, by_moment: bool
) -> None:
    """By either header; the control plane's figure is then as old as the answer's was."""
    resets = {"reset_at": WALL + left} if by_moment else {"reset_after_seconds": left}
    one = _account(window, said)
    budgets = _taught(one, _headers(window, percent, **resets))
    if left:
        assert budgets.spent(one, NOW + left - 0.5) == percent
    assert budgets.spent(one, NOW + left) == 0
    assert budgets.spent(one, NOW + left + 1e6) == 0


def test_seconds_are_taken_before_a_moment() -> None:
    """They need no clock to be right."""
    one = _account()
    headers = _headers("primary", 50, reset_after_seconds=10, reset_at=WALL + 99)
    assert _taught(one, headers).spent(one, NOW + 9) == 50
    assert _taught(one, headers).spent(one, NOW + 10) == 0


def test_a_moment_counts_where_the_seconds_make_no_sense() -> None:
    one = _account()
    headers = _headers("primary", 50, reset_after_seconds="soon", reset_at=WALL + 99)
    assert _taught(one, headers).spent(one, NOW + 98) == 50
    assert _taught(one, headers).spent(one, NOW + 99) == 0


def test_a_moment_that_is_over_is_a_window_that_has_begun_anew() -> None:
    one = _account(said=40.0)
    assert _taught(one, _headers("primary", 50, reset_at=WALL - 5)).spent(one, NOW) == 0


def test_a_figure_without_its_windows_end_counts_for_an_hour_and_then_the_control_planes() -> None:
    one = _account(said=40.0)
    budgets = _taught(one, _headers("primary", 50))
    assert budgets.spent(one, NOW + 3599) == 50
    assert budgets.spent(one, NOW + 3600) == 40


def test_each_window_ends_by_itself() -> None:
    one = _account()
    headers = _headers("primary", 90, reset_after_seconds=10)
    headers |= _headers("secondary", 30, reset_after_seconds=100)
    budgets = _taught(one, headers)
    assert [budgets.spent(one, NOW + after) for after in (9, 10, 100)] == [90, 30, 0]


# -- whatever an upstream writes -------------------------------------------------------------

_HOSTILE = st.one_of(
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-inf",
            "-1",
            "-0",
            "1e308",
            "1e999",
            "0x10",
            "1_0",
            "9" * 400,
            "%",
            " 7",
        ]
    ),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"x-codex-{window}-{what}"
                for window in WINDOWS
                for what in ("used-percent", "reset-after-seconds", "reset-at")
            ]
        ),
        _HOSTILE,
    ),
    st.one_of(st.none(), st.floats(allow_nan=False)),
    st.floats(0, 1e12),
)
def test_no_header_makes_a_budget_of_less_than_nothing_or_more_than_all(
    headers: dict[str, str], said: float | None, later: float
) -> None:
    one = _account(said=said)
    budgets = _taught(one, headers)
    for each in (one, _account(said=50.0), _account("secondary", said)):
        for now in (NOW, NOW + later, NEVER):
            assert 0 <= budgets.spent(each, now) <= 100


@pytest.mark.parametrize("value", ["", "nan", "inf", "-inf", "-1", "1e999", "much", "50 %"])
def test_what_is_no_percentage_is_not_learned(value: str) -> None:
    one = _account(said=20.0)
    budgets = _taught(one, _headers("primary", value, reset_after_seconds=0))
    assert budgets.spent(one, NOW) == 20
    assert repr(budgets) == "<Budgets of 0 accounts>"


@pytest.mark.parametrize("value", ["100.1", "250", "1e308", "9" * 300])
def test_more_than_all_is_all(value: str) -> None:
    one = _account()
    assert _taught(one, _headers("primary", value)).spent(one, NOW) == 100


# -- memory ----------------------------------------------------------------------------------


def test_what_was_learned_first_is_forgotten_before_the_accounts_grow_without_end() -> None:
    budgets = Budgets()
    headers = _headers("primary", 50)
    for number in range(budget._MOST_ACCOUNTS):
        budgets.learn(_account(name=f"account-{number}"), headers, NOW, WALL)
    budgets.learn(_account(name="account-0"), headers, NOW, WALL)
    budgets.learn(_account(name="one more"), headers, NOW, WALL)
    assert repr(budgets) == "<Budgets of 10000 accounts>"
    spent = [budgets.spent(_account(name=f"account-{number}"), NOW) for number in range(3)]
    assert spent == [50, 0, 50], "what was learned again is young again"


def test_an_answer_that_says_nothing_takes_no_memory() -> None:
    assert repr(_taught(_account(), {})) == "<Budgets of 0 accounts>"
