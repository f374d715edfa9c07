"""The lock table is never filled, and counted only where that may tell something."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.routing import lock_table
from image_gateway.core.routing.lock_table import COUNT_SECONDS, LockTable, NameCount

ALPHA, BETA = 1024, 2048
NOBODY: Mapping[int, NameCount] = {}


def counted(size: int, locks: int, at: float = 0.0) -> LockTable:
    """A table that was counted at a time, with so many locks of others."""
    table = LockTable(size)
    table.count(locks, NOBODY, at)
    return table


# -- the budget ------------------------------------------------------------------------------------

PROCESSES = 8
_STEPS = st.lists(
    st.tuples(
        st.integers(0, PROCESSES - 1),
        st.sampled_from(["count", "take", "take", "take", "give back"]),
        st.integers(1, 3),
        st.integers(1, 40),
    ),
    min_size=20,
    max_size=120,
)


@given(st.integers(64, 400), _STEPS)
def test_eight_processes_cannot_fill_the_table_in_any_order_of_things(
    size: int, steps: list[tuple[int, str, int, int]]
) -> None:
    """A count may be old when the locks are taken, as far as a process lets it be."""
    tables = [LockTable(size) for _ in range(PROCESSES)]
    own = [0] * PROCESSES
    for table in tables:
        table.count(0, NOBODY, 0.0)
    for at, step, wanted, times in steps:
        table = tables[at]
        if step == "count":
            table.count(sum(own), NOBODY, 0.0)
        for _ in range(times if step != "count" else 0):
            if step == "give back":
                count = min(wanted, own[at])
                table.give_back(count)
                own[at] -= count
            elif not table.must_count_before(wanted):
                granted = table.grant(wanted)
                table.take(granted)
                own[at] += granted
        assert sum(own) <= size
        assert all(count <= lock_table.budget(size) for count in own)


def test_half_of_the_table_is_for_advisory_locks_of_whomever() -> None:
    assert lock_table.budget(6400) == 3200
    table = counted(6400, 3190)
    assert [(table.grant(3), table.is_short) for _ in range(2)] == [(3, False), (3, False)]
    table.take(9)
    assert (table.grant(3), table.is_short) == (1, True)
    table.take(1)
    assert table.grant(3) == 0


def test_a_shortage_is_over_when_an_eighth_of_the_budget_is_free() -> None:
    """Not with the first lock that is given back: the next call would begin it again."""
    table = counted(1600, 400)
    table.take(400)
    assert table.grant(1) == 0
    table.give_back(99)
    assert (table.grant(1), table.is_short) == (1, True)
    table.give_back(1)
    assert (table.grant(1), table.is_short) == (1, False)
    table.count(900, NOBODY, 1.0)
    assert (table.grant(1), table.is_short) == (0, True)
    table.count(700, NOBODY, 2.0)
    assert (table.grant(1), table.is_short) == (1, False)


def test_the_table_is_counted_anew_before_an_eighth_of_the_budget_is_taken() -> None:
    table = counted(1600, 0)
    table.take(98)
    assert not table.must_count_before(2)
    assert table.must_count_before(3)
    table.count(98, NOBODY, 1.0)
    assert not table.must_count_before(100)
    assert table.must_count_before(101)


def test_what_was_given_back_is_not_taken_again_without_a_count() -> None:
    """Somebody else may have taken it meanwhile."""
    table = counted(1600, 0)
    table.take(100)
    table.count(100, NOBODY, 1.0)
    table.give_back(100)
    assert not table.must_count_before(100)
    assert table.must_count_before(101)


# -- limits ----------------------------------------------------------------------------------------


def test_a_name_that_goes_on_as_it_was_is_counted_once_a_second_at_most() -> None:
    table = counted(6400, 0)
    assert table.must_count_after([(ALPHA, 2)], 0.1)
    for now in (0.2, 0.5, COUNT_SECONDS - 0.01):
        assert not table.must_count_after([(ALPHA, 2)], now)
    assert table.must_count_after([(ALPHA, 2)], COUNT_SECONDS)
    table.count(1, NOBODY, COUNT_SECONDS)
    assert not table.must_count_after([(ALPHA, 2)], 2 * COUNT_SECONDS - 0.01)


@pytest.mark.parametrize("limit", [1, 3])
def test_another_limit_is_counted_at_once(limit: int) -> None:
    table = counted(6400, 0)
    table.must_count_after([(ALPHA, 2), (BETA, 2)], 0.1)
    assert not table.must_count_after([(BETA, 2), (ALPHA, 2)], 0.2)
    assert table.must_count_after([(BETA, 2), (ALPHA, limit)], 0.3)
    assert not table.must_count_after([(ALPHA, limit)], 0.4)


def test_a_name_is_counted_each_time_while_a_lock_lies_at_its_limit() -> None:
    table = counted(6400, 0)
    table.must_count_after([(ALPHA, 2), (BETA, 2)], 0.1)
    table.count(2, {ALPHA: NameCount(2, 2), BETA: NameCount(2, 1)}, 0.1)
    assert table.must_count_after([(ALPHA, 2)], 0.2)
    assert table.must_count_after([(ALPHA, 2)], 0.3)
    assert not table.must_count_after([(BETA, 2)], 0.3)
    table.count(2, {BETA: NameCount(2, 1)}, 0.4)
    assert not table.must_count_after([(ALPHA, 2)], 0.5)


def test_what_counts_is_how_many_locks_there_are_wherever_they_lie() -> None:
    table = counted(6400, 0)
    table.count(5, {ALPHA: NameCount(3, 7), BETA: NameCount(2, 1)}, 0.1)
    assert [table.is_over(ALPHA, limit) for limit in (2, 3)] == [True, False]
    assert [table.is_over(BETA, limit) for limit in (1, 2)] == [True, False]
    assert not table.is_over(3072, 1), "one lock in the first place is within any limit"


def test_the_names_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_table, "_MOST_NAMES", 2)
    table = counted(6400, 0)
    for name in (ALPHA, BETA, ALPHA, 3072):
        table.must_count_after([(name, 1)], 0.1)
    assert not table.must_count_after([(ALPHA, 1)], 0.2)
    assert table.must_count_after([(BETA, 1)], 0.2)
