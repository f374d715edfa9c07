"""Accounts that fail in a row come last, then get no calls, and a probe lets them back."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.model import Proxy, RouteStrategy
from image_gateway.core.routing import ranking
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.cooldowns import CooldownSpec, CooldownTracker, Target
from image_gateway.core.routing.outliers import (
    FAILURES_TO_LEAVE,
    FIRST_SECONDS,
    LONGEST_SECONDS,
    Failing,
    OutlierTracker,
)
from image_gateway.core.routing.ranking import Condition
from tests.core.builders import account, key

ONE, OTHER = account("one"), account("other")


def _fail_in_a_row(tracker: OutlierTracker, times: int, at: float = 0.0) -> float:
    """Fails as often, each time when the last pause is over; returns the end of the last one."""
    for _ in range(times):
        at += tracker.fail(ONE, at, at).seconds_left
    return at


def test_an_account_that_never_failed_is_as_any_other() -> None:
    assert OutlierTracker().failing(ONE, 0.0) is None


def test_one_failure_may_be_chance() -> None:
    tracker = OutlierTracker()
    assert tracker.fail(ONE, 0.0, 1.0) == Failing(1, FIRST_SECONDS, is_last=True)
    assert tracker.failing(ONE, 2.0) == Failing(1, FIRST_SECONDS - 1, is_last=True)
    assert tracker.failing(ONE, 1.0 + FIRST_SECONDS) == Failing(1, 0.0, is_last=False)
    assert tracker.failing(OTHER, 2.0) is None


def test_further_failures_send_it_out_for_a_time_that_doubles() -> None:
    tracker = OutlierTracker()
    at, pauses = 0.0, []
    for _ in range(12):
        failing = tracker.fail(ONE, at, at)
        pauses.append(failing.seconds_left)
        assert failing.is_out is (failing.failures >= FAILURES_TO_LEAVE)
        at += failing.seconds_left
    assert pauses == [5, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]
    assert (FIRST_SECONDS, LONGEST_SECONDS) == (5, 900)


def test_calls_that_fail_together_count_once() -> None:
    """Their upstream broke once, however many it served."""
    tracker = OutlierTracker()
    first = tracker.fail(ONE, 0.0, 10.0)
    for _ in range(20):
        assert tracker.fail(ONE, 9.0, 10.0) == first
    assert tracker.fail(ONE, 10.0, 11.0).failures == 2


def test_an_answer_lets_it_back_at_once() -> None:
    tracker = OutlierTracker()
    end = _fail_in_a_row(tracker, 5)
    tracker.succeed(ONE, end)
    assert tracker.failing(ONE, end) is None
    assert tracker.fail(ONE, end, end).failures == 1


def test_an_answer_to_a_call_from_before_the_failure_says_nothing_of_it() -> None:
    tracker = OutlierTracker()
    tracker.fail(ONE, 5.0, 10.0)
    tracker.succeed(ONE, 9.0)
    assert tracker.failing(ONE, 11.0) is not None


@pytest.mark.parametrize("failures", [1, 4])
def test_while_a_probe_is_under_way_others_go_elsewhere(failures: int) -> None:
    tracker = OutlierTracker()
    end = _fail_in_a_row(tracker, failures)
    due = Failing(failures, 0.0, is_last=False)
    assert tracker.failing(ONE, end) == due
    with tracker.call(ONE, end):
        assert tracker.failing(ONE, end + 1) == Failing(failures, 0.0, is_last=True)
    assert tracker.failing(ONE, end + 1) == due


def test_a_probe_that_fails_sends_it_out_again_and_one_that_breaks_off_does_not() -> None:
    tracker = OutlierTracker()
    end = _fail_in_a_row(tracker, 2)
    with pytest.raises(KeyboardInterrupt), tracker.call(ONE, end):
        raise KeyboardInterrupt
    assert tracker.failing(ONE, end) == Failing(2, 0.0, is_last=False)
    with tracker.call(ONE, end):
        assert tracker.fail(ONE, end, end + 1) == Failing(3, 10.0, is_last=True)
    assert tracker.failing(ONE, end + 2) == Failing(3, 9.0, is_last=True)


def test_a_call_that_is_made_although_the_account_is_out_is_no_probe() -> None:
    """No other account was left."""
    tracker = OutlierTracker()
    end = _fail_in_a_row(tracker, 3)
    with tracker.call(ONE, end - 1):
        assert tracker.failing(ONE, end) == Failing(3, 0.0, is_last=False)


def test_an_account_that_moved_begins_anew() -> None:
    tracker = OutlierTracker()
    _fail_in_a_row(tracker, 5)
    for moved in (
        replace(ONE, base_url="https://elsewhere.example"),
        replace(ONE, proxy=Proxy("http://proxy.example")),
    ):
        assert tracker.failing(moved, 0.0) is None
        assert tracker.fail(moved, 0.0, 0.0).failures == 1
    assert repr(tracker) == "<OutlierTracker of 1 accounts>"


@given(st.lists(st.tuples(st.sampled_from("fscw"), st.integers(0, 400)), max_size=60))
def test_in_any_order_a_pause_is_bounded_and_nothing_stays_behind(
    steps: Sequence[tuple[str, int]],
) -> None:
    tracker, now = OutlierTracker(), 0.0
    with ExitStack() as calls:
        for kind, eighths in steps:
            now += eighths / 8
            if kind == "f":
                assert tracker.fail(ONE, now, now).seconds_left <= LONGEST_SECONDS
            elif kind == "s":
                tracker.succeed(ONE, now)
                assert tracker.failing(ONE, now) is None
            elif kind == "c":
                calls.enter_context(tracker.call(ONE, now))
            failing = tracker.failing(ONE, now)
            assert failing is None or 0 <= failing.seconds_left <= LONGEST_SECONDS
    tracker.succeed(ONE, now)
    assert repr(tracker) == "<OutlierTracker of 0 accounts>"
    assert not tracker._probes


# -- in routing ------------------------------------------------------------------------------

TARGET = Target("gpt-image-2", "generations")


def _state(cooldowns: CooldownTracker | None = None, **failures: int) -> ranking.State:
    """Accounts that failed so often in a row, the last time just now."""
    tracker = OutlierTracker()
    for name, times in failures.items():
        for turn in range(times):
            tracker.fail(account(name), turn, turn)
    wall = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)
    return ranking.State(
        lambda _: 0, cooldowns or CooldownTracker(), tracker, Budgets(), 95.0, 3.0, wall
    )


def _order(state: ranking.State, strategy: RouteStrategy = "auto") -> list[str]:
    accounts = ranking.usable([*map(account, "abc")], TARGET, state)
    ranked = ranking.order(accounts, key(route_strategy=strategy), TARGET, state, None)
    return [one.account_name for one in ranked]


@pytest.mark.parametrize("strategy", ["auto", "fixed"])
def test_an_account_that_just_failed_comes_last(strategy: RouteStrategy) -> None:
    assert _order(_state(a=1), strategy) == ["b", "c", "a"]


@pytest.mark.parametrize("strategy", ["auto", "fixed"])
def test_an_account_that_failed_again_gets_no_calls(strategy: RouteStrategy) -> None:
    state = _state(a=2, b=1)
    assert _order(state, strategy) == ["c", "b"]
    assert ranking.condition(account("a"), state) is Condition.FAILING
    assert ranking.condition(account("b"), state) is Condition.USABLE


def test_where_all_failed_the_least_bad_one_is_asked() -> None:
    assert _order(_state(a=4, b=2, c=3)) == ["b"]


def test_an_account_that_failed_is_better_than_none() -> None:
    cooldowns = CooldownTracker()
    cooldowns.trip("b", TARGET, CooldownSpec(60.0), 0.0)
    assert _order(_state(cooldowns, a=4, c=3)) == ["c"]
