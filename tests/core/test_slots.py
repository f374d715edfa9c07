"""Slots never leak and never run over; start clocks keep their distance."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from image_gateway.core import slots
from image_gateway.core.slots import Slot, SlotTable, StartClock

_NAMES = st.sampled_from(["a", "b", "c"])
_LIMITS = st.one_of(st.none(), st.integers(-1, 3))


class SlotsMachine(RuleBasedStateMachine):
    """Takes and releases in any order, against a plain count of what is held."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable()
        self.counts = {"a": 0, "b": 0, "c": 0}
        self.open: list[Slot] = []

    def _closed(self, slot: Slot) -> None:
        if slot in self.open:
            self.open.remove(slot)
            self.counts[slot.name] -= 1

    @rule(target=held, name=_NAMES)
    def take_without_limit(self, name: str) -> Slot:
        slot = self.table.take(name, None)
        assert slot is not None
        assert slot.name == name
        self.counts[name] += 1
        self.open.append(slot)
        return slot

    @rule(name=_NAMES, limit=_LIMITS)
    def take(self, name: str, limit: int | None) -> None:
        before = self.counts[name]
        slot = self.table.take(name, limit)
        if limit is not None and before >= limit:
            assert slot is None, "over the limit at the moment of the take"
            return
        assert slot is not None, "refused although a place was free"
        self.counts[name] += 1
        self.open.append(slot)

    @rule(slot=held)
    def release_first_or_again(self, slot: Slot) -> None:
        slot.release()
        self._closed(slot)

    @rule()
    def release_the_oldest(self) -> None:
        if self.open:
            slot = self.open[0]
            slot.release()
            self._closed(slot)

    @rule(name=_NAMES, limit=_LIMITS, fails=st.booleans(), early=st.booleans())
    def hold_for_a_block(self, name: str, limit: int | None, *, fails: bool, early: bool) -> None:
        slot = self.table.take(name, limit)
        if slot is None:
            return
        try:
            with slot as entered:
                assert entered is slot
                assert self.table.in_use(name) == self.counts[name] + 1
                if early:
                    slot.release()
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        else:
            assert not fails, "the block swallowed an exception"

    @invariant()
    def counts_what_is_held(self) -> None:
        for name, count in self.counts.items():
            assert self.table.in_use(name) == count

    def teardown(self) -> None:
        for slot in self.open:
            slot.release()
            slot.release()
        assert [self.table.in_use(name) for name in self.counts] == [0, 0, 0]
        assert repr(self.table) == "<SlotTable {}>", "an idle table holds nothing"


SlotsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase


def test_a_limit_of_n_admits_exactly_n() -> None:
    table = SlotTable()
    taken = [table.take("a", 3) for _ in range(5)]
    assert [slot is None for slot in taken] == [False, False, False, True, True]


def test_names_do_not_share_places() -> None:
    table = SlotTable()
    assert table.take("a", 1) is not None
    assert table.take("b", 1) is not None


def test_a_lowered_limit_takes_nothing_away() -> None:
    table = SlotTable()
    first, second = table.take("a", 2), table.take("a", 2)
    assert first is not None
    assert second is not None
    assert table.take("a", 1) is None
    assert table.in_use("a") == 2
    first.release()
    assert table.take("a", 1) is None
    second.release()
    assert table.take("a", 1) is not None


def test_a_slot_released_twice_gives_back_one_place() -> None:
    table = SlotTable()
    first, second = table.take("a", 2), table.take("a", 2)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    assert table.in_use("a") == 1


def test_a_slot_tells_whether_it_is_held() -> None:
    slot = SlotTable().take("a", 1)
    assert slot is not None
    assert repr(slot) == "<Slot 'a' held>"
    slot.release()
    assert repr(slot) == "<Slot 'a' released>"


# -- the distance between starts -------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.one_of(st.none(), st.integers(0, 5000)),
            st.integers(0, 3000),
        ),
        max_size=20,
    )
)
def test_starts_that_wait_as_told_are_never_too_close(
    calls: list[tuple[str, int | None, int]],
) -> None:
    clock = StartClock()
    last: dict[str, float] = {}
    now = 0.0
    for key_id, interval, pause in calls:
        now += pause / 1000
        wait = clock.wait(key_id, interval, now)
        if interval and key_id in last:
            assert wait == pytest.approx(max(0.0, last[key_id] + interval / 1000 - now))
        else:
            assert wait == 0
        now += wait
        clock.start(key_id, now)
        last[key_id] = now


def test_asking_does_not_move_a_clock() -> None:
    clock = StartClock()
    clock.start("a", 10.0)
    assert clock.wait("a", 1000, 10.25) == 0.75
    assert clock.wait("a", 1000, 10.25) == 0.75
    assert clock.wait("a", 1000, 11.0) == 0
    assert clock.wait("b", 1000, 10.25) == 0
    assert clock.wait("a", None, 10.25) == 0
    assert clock.wait("a", 0, 10.25) == 0


def test_the_oldest_starts_are_forgotten_first_and_a_new_start_makes_young() -> None:
    clock = StartClock()
    clock.start("first", 0.0)
    clock.start("second", 0.0)
    clock.start("first", 1.0)
    for number in range(slots._MOST_CLOCKS - 2):
        clock.start(f"key-{number}", 1.0)
    assert repr(clock) == "<StartClock of 100000 keys>"
    assert clock.wait("second", 60_000, 1.0) > 0
    clock.start("one more", 1.0)
    assert repr(clock) == "<StartClock of 100000 keys>"
    assert clock.wait("second", 60_000, 1.0) == 0
    assert clock.wait("first", 60_000, 1.0) == 60
