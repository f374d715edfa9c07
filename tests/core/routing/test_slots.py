"""Slots never leak and never run over; starts keep their distance; waiting is fair."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from image_gateway.core.routing import slots
from image_gateway.core.routing.slots import (
    Candidate,
    HoldTime,
    Slot,
    SlotTable,
    StartClock,
    Waiter,
    WaitQueue,
)
from tests.parts.examples import scaled

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


SlotsMachine.TestCase.settings = settings(
    max_examples=scaled(100), stateful_step_count=40, deadline=None
)
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


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, 0, 125, 1000, 4000]),
        st.integers(0, 24),
    ),
    max_size=20,
)


@given(_STEPS)
def test_calls_after_the_returned_wait_are_admitted_and_never_too_close(
    calls: list[tuple[str, int | None, int]],
) -> None:
    """Eighths of a second, which are exact; each call starts when it was let in."""
    clock = StartClock()
    last: dict[str, float] = {}
    now = 0.0
    for key_id, interval, pause in calls:
        now += pause / 8
        wait = clock.admit(key_id, interval, now)
        if interval and key_id in last:
            assert wait == max(0.0, last[key_id] + interval / 1000 - now)
        else:
            assert wait == 0
        if wait:
            now += wait
            assert clock.admit(key_id, interval, now) == 0
        assert clock.seconds_until_due(key_id, interval, now) == 0
        clock.start(key_id, now)
        last[key_id] = now


def test_a_call_that_waits_for_its_slot_keeps_others_of_its_key_away_for_the_interval() -> None:
    clock = StartClock()
    assert clock.admit("a", 1000, 10.0) == 0
    assert clock.admit("a", 1000, 10.25) == 0.75
    assert clock.admit("a", 1000, 10.25) == 0.75, "a refused call moves nothing"
    assert clock.admit("b", 1000, 10.25) == 0
    assert clock.admit("a", None, 10.25) == 0
    assert clock.admit("a", 0, 10.25) == 0
    assert clock.admit("a", 1000, 11.0) == 0


def test_calls_that_were_let_in_apart_do_not_start_together() -> None:
    """They may all have waited for one slot."""
    clock = StartClock()
    assert [clock.admit("a", 1000, now) for now in (0.0, 1.0, 2.0)] == [0, 0, 0]
    assert clock.seconds_until_due("a", 1000, 9.0) == 0
    clock.start("a", 9.0)
    assert clock.seconds_until_due("a", 1000, 9.75) > 0
    assert clock.seconds_until_due("a", None, 9.75) == 0
    assert clock.seconds_until_due("a", 0, 9.75) == 0
    assert clock.seconds_until_due("b", 1000, 9.75) == 0
    assert clock.seconds_until_due("a", 1000, 10.0) == 0


def test_the_interval_is_counted_from_the_start_and_not_from_the_wait_before_it() -> None:
    clock = StartClock()
    clock.admit("a", 1000, 0.0)
    clock.start("a", 20.0)
    assert clock.admit("a", 1000, 20.25) == 0.75


def test_a_call_that_did_not_start_costs_its_key_nothing() -> None:
    clock = StartClock()
    clock.admit("a", 1000, 0.0)
    clock.withdraw("a", 0.0)
    assert clock.admit("a", 1000, 0.0) == 0
    clock.start("a", 0.0)
    clock.withdraw("a", 0.0)
    clock.withdraw("never seen", 0.0)
    assert clock.admit("a", 1000, 0.25) == 0.75, "a start is never taken back"


def test_a_call_that_gives_up_takes_nothing_from_the_one_let_in_after_it() -> None:
    clock = StartClock()
    assert clock.admit("a", 1000, 0.0) == 0
    assert clock.admit("a", 1000, 1.5) == 0
    clock.withdraw("a", 0.0)
    assert clock.admit("a", 1000, 1.75) == 0.75


def test_the_oldest_starts_are_forgotten_first_and_a_new_start_makes_young() -> None:
    clock = StartClock()
    clock.start("first", 0.0)
    clock.start("second", 0.0)
    clock.start("first", 1.0)
    for number in range(slots._MOST_CLOCKS - 2):
        clock.start(f"key-{number}", 1.0)
    assert repr(clock) == "<StartClock of 100000 keys>"
    assert clock.seconds_until_due("second", 60_000, 1.0) > 0
    clock.start("one more", 1.0)
    assert repr(clock) == "<StartClock of 100000 keys>"
    assert clock.seconds_until_due("second", 60_000, 1.0) == 0
    assert clock.seconds_until_due("first", 60_000, 1.0) > 0


def test_those_who_were_let_in_are_forgotten_as_well() -> None:
    clock = StartClock()
    for number in range(slots._MOST_CLOCKS + 1):
        clock.admit(f"key-{number}", 60_000, 1.0)
    assert len(clock._admitted) == slots._MOST_CLOCKS
    assert clock.admit("key-0", 60_000, 1.0) == 0
    assert clock.admit("key-2", 60_000, 1.0) == 60


# -- waiting ---------------------------------------------------------------------------------

_KEYS: Final = ("k", "l", "m", "n")
_ACCOUNTS: Final = ("a", "b", "c")
_SOME_ACCOUNTS = st.lists(st.sampled_from(_ACCOUNTS), min_size=1, max_size=3, unique=True)
_FULL = st.one_of(st.just(set[str]()), st.sets(st.sampled_from(_ACCOUNTS)))


def _waiter(key_id: str, *accounts: str, interval_ms: int | None = None) -> Waiter:
    return Waiter(key_id, [Candidate(name, 1) for name in accounts or ("a",)], interval_ms)


class WaitQueueMachine(RuleBasedStateMachine):
    """Calls come, go, are served and give back in any order, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.waiters: list[Waiter] = []
        self.gone: list[Waiter] = []
        self.held: list[str] = []
        self.servings: list[str] = []
        # Of each key that holds nothing: who was served in its stead since it waits.
        self.overtaken: dict[str, Counter[str]] = {}

    @initialize(most=st.integers(0, 12))
    def opens(self, most: int) -> None:
        self.most = most
        self.queue = WaitQueue(most)

    def _left(self, waiter: Waiter) -> None:
        self.waiters.remove(waiter)
        self.gone.append(waiter)
        if all(each.key_id != waiter.key_id for each in self.waiters):
            self.overtaken.pop(waiter.key_id, None)

    @rule(calls=st.lists(st.tuples(st.sampled_from(_KEYS), _SOME_ACCOUNTS), max_size=5))
    def join(self, calls: list[tuple[str, list[str]]]) -> None:
        for key_id, accounts in calls:
            waiter = _waiter(key_id, *accounts)
            self.queue.join(waiter)
            self.waiters.append(waiter)

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A call that was served or removed may still leave."""
        waiter = data.draw(st.sampled_from([*self.waiters, *self.gone[-3:]]))
        self.queue.leave(waiter)
        if waiter in self.waiters:
            self._left(waiter)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key_id = data.draw(st.sampled_from(self.held))
        self.queue.give_back(key_id)
        self.held.remove(key_id)

    @rule(full=_FULL)
    def serve_all(self, full: set[str]) -> None:
        while self._serve_next(full, set()):
            pass

    @precondition(lambda self: self.waiters)
    @rule(full=_FULL, data=st.data())
    def serve_one_of_those_who_may_start(self, full: set[str], data: st.DataObject) -> None:
        self._serve_next(full, data.draw(st.sets(st.sampled_from(self.waiters))))

    @rule()
    def serve_two(self) -> None:
        for _ in range(2):
            self._serve_next(set(), set())

    def _serve_next(self, full: set[str], late: set[Waiter]) -> bool:
        """Whether there was somebody to serve; ``late`` may not start yet."""

        def fits(waiter: Waiter) -> Candidate | None:
            if waiter in late:
                return None
            return next((each for each in waiter.candidates if each.account_name not in full), None)

        found = self.queue.next(full, lambda waiter: waiter not in late)
        assert self.queue.next(full, lambda waiter: waiter not in late) == found, (
            "asking moves nothing"
        )
        if found is None:
            assert not any(map(fits, self.waiters)), "somebody could have been served"
            return False
        waiter, candidate = found
        assert waiter in self.waiters
        assert candidate.account_name not in full
        assert candidate == fits(waiter), "the best of its accounts that is free"
        same = [each for each in self.waiters if each.key_id == waiter.key_id and fits(each)]
        assert waiter is same[0], "within a key first come, first served"
        keys = {each.key_id for each in self.waiters if fits(each)}
        least = min(self.held.count(key_id) for key_id in keys)
        fewest = {key_id for key_id in keys if self.held.count(key_id) == least}
        assert waiter.key_id in fewest
        assert self._last(waiter.key_id) == min(map(self._last, fewest))
        self._serve(waiter, candidate, {key_id for key_id in keys if key_id != waiter.key_id})
        return True

    def _last(self, key_id: str) -> int:
        return max((at for at, each in enumerate(self.servings) if each == key_id), default=-1)

    def _serve(self, waiter: Waiter, candidate: Candidate, others: set[str]) -> None:
        for key_id in others:
            wanted = {
                each.account_name
                for other in self.waiters
                if other.key_id == key_id
                for each in other.candidates
            }
            if key_id not in self.held and candidate.account_name in wanted:
                passed = self.overtaken.setdefault(key_id, Counter())
                passed[waiter.key_id] += 1
                assert passed[waiter.key_id] <= 1, "overtaken twice by the same key"
        self.queue.serve(waiter)
        self._left(waiter)
        self.held.append(waiter.key_id)
        self.servings.append(waiter.key_id)
        self.overtaken.pop(waiter.key_id, None)

    @rule()
    def settle(self) -> None:
        counts = Counter(waiter.key_id for waiter in self.waiters)
        left = self.queue.settle()
        assert len(left) == max(len(self.waiters) - self.most, 0), "as many as there is no room for"
        for waiter in left:
            same = [each for each in self.waiters if each.key_id == waiter.key_id]
            assert waiter is same[-1], "the newest of its key"
            assert counts[waiter.key_id] == max(counts.values()), "the key with the most"
            assert counts[waiter.key_id] > 1 or max(counts.values()) == 1, "nobody's only call"
            counts[waiter.key_id] -= 1
            self._left(waiter)
        assert all(waiter.waits for waiter in self.waiters)

    @invariant()
    def knows_who_waits_and_for_what(self) -> None:
        waiting = [waiter for waiter in self.waiters if waiter.waits]
        names = {
            waiter: {each.account_name for each in waiter.candidates} for waiter in self.waiters
        }
        assert self.queue.waiting == len(waiting)
        assert self.queue.wanted(lambda _: True) == set().union(
            *(names[waiter] for waiter in waiting)
        )
        for waiter in self.waiters:
            others = [each for each in waiting if each is not waiter]
            assert self.queue.ahead(waiter) == [
                each for each in others if names[waiter] & names[each]
            ]

    @invariant()
    def keeps_nothing_of_who_neither_holds_nor_waits(self) -> None:
        assert list(self.queue._waiters) == self.waiters, "in the order of arrival"
        assert self.queue._held == Counter(self.held)
        assert set(self.queue._held) == set(self.held)
        assert set(self.queue._served) == set(self.servings), "the clock, which is bounded"


WaitQueueMachine.TestCase.settings = settings(
    max_examples=scaled(150), stateful_step_count=40, deadline=None
)
TestWaitQueue = WaitQueueMachine.TestCase


_BEFORE = st.lists(st.sampled_from(["many", "one"]), max_size=10)


def test_a_waiting_call_has_its_place_among_those_that_want_the_same_accounts() -> None:
    queue = WaitQueue(9)
    for call_id, account in (("1", "a"), ("2", "b"), ("3", "a"), ("4", "c")):
        queue.join(Waiter("key", [Candidate(account, 1)], call_id=call_id))
    assert queue.position("3") is None, "it has not found every slot taken yet"
    queue.settle()
    assert [queue.position(call_id) for call_id in "1234"] == [1, 1, 2, 1]
    assert queue.position("5") is None


@given(
    before=_BEFORE,
    kept=st.lists(st.booleans(), min_size=10, max_size=10),
    queued=st.integers(0, 5),
)
def test_a_hundred_waiting_calls_delay_another_key_by_at_most_one(
    before: list[str], kept: list[bool], queued: int
) -> None:
    """Whatever both were served before, of which only the many still hold some."""
    queue = WaitQueue(1000)
    for key_id, keeps in zip(before, kept, strict=False):
        waiter = _waiter(key_id)
        queue.join(waiter)
        queue.serve(waiter)
        if key_id == "one" or not keeps:
            queue.give_back(key_id)
    for _ in range(100):
        queue.join(_waiter("many"))
    for _ in range(queued):
        found = queue.next(set(), lambda _: True)
        assert found is not None
        queue.serve(found[0])
    queue.join(_waiter("one"))
    served = []
    while "one" not in served:
        found = queue.next(set(), lambda _: True)
        assert found is not None
        queue.serve(found[0])
        served.append(found[0].key_id)
    assert len(served) <= 2


def test_who_holds_least_comes_before_who_was_served_longest_ago() -> None:
    queue = WaitQueue(10)
    for key_id in ("k", "k", "l"):
        waiter = _waiter(key_id)
        queue.join(waiter)
        queue.serve(waiter)
    queue.join(_waiter("k"))
    queue.join(_waiter("l"))
    found = queue.next(set(), lambda _: True)
    assert found is not None
    assert found[0].key_id == "l"


def test_of_those_who_hold_as_much_the_one_served_longest_ago_comes_first() -> None:
    queue = WaitQueue(10)
    for key_id in ("l", "k", "m"):
        waiter = _waiter(key_id)
        queue.join(waiter)
        queue.serve(waiter)
    for key_id in ("m", "k", "l"):
        queue.join(_waiter(key_id))
    served = []
    while (found := queue.next(set(), lambda _: True)) is not None:
        queue.serve(found[0])
        served.append(found[0].key_id)
    assert served == ["l", "k", "m"]


def test_each_of_many_keys_is_served_before_one_is_served_twice() -> None:
    queue = WaitQueue(1000)
    for key_id in (*["k"] * 5, "l", "l", "m"):
        queue.join(_waiter(key_id))
    served = []
    while (found := queue.next(set(), lambda _: True)) is not None:
        queue.serve(found[0])
        served.append(found[0].key_id)
    assert served == ["k", "l", "m", "k", "l", "k", "k", "k"]


def test_the_queue_s_memory_does_not_grow_with_the_keys_that_were_here() -> None:
    queue = WaitQueue(10)
    for number in range(slots._MOST_CLOCKS + 10):
        waiter = _waiter(f"key-{number}")
        queue.join(waiter)
        queue.serve(waiter)
        queue.give_back(waiter.key_id)
    assert (len(queue._waiters), len(queue._held), len(queue._served)) == (0, 0, slots._MOST_CLOCKS)
    assert repr(queue) == "<WaitQueue of 0, most 10>"


# -- slots, starts and waiting together ------------------------------------------------------

_INTERVALS: Final = {"k": None, "l": 125, "m": 1000, "n": 60_000}


class SchedulingMachine(RuleBasedStateMachine):
    """Accounts, slots and the queue together; the clock counts eighths of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.admitted: dict[Waiter, float] = {}
        self.now = 0.0
        self.table = SlotTable()
        self.clock = StartClock()
        self.queue = WaitQueue(5)
        self.limits = {"a": 1, "b": 2, "c": 1}
        self.waiting: list[Waiter] = []
        self.running: list[tuple[float, Waiter, Slot]] = []
        self.starts: dict[str, list[float]] = {key_id: [] for key_id in _KEYS}

    # What the gateway does.

    def _may_start(self, waiter: Waiter) -> bool:
        return not self.clock.seconds_until_due(waiter.key_id, waiter.interval_ms, self.now)

    def _grant(self) -> None:
        # With the limit that was met: calls that came before a change have another one.
        full: dict[str, int] = {}
        while (found := self.queue.next(full, self._may_start)) is not None:
            waiter, candidate = found
            slot = self.table.take(candidate.account_name, candidate.limit)
            if slot is None:
                full[candidate.account_name] = candidate.limit
                continue
            self._begun(waiter, candidate, slot)
            self.queue.serve(waiter)
            if waiter.interval_ms is not None:
                self.clock.start(waiter.key_id, self.now)
        for waiter in self.queue.settle():
            self.waiting.remove(waiter)
            self.clock.withdraw(waiter.key_id, self.admitted.pop(waiter, float("nan")))
        self._check_that_nothing_is_idle(full)

    def _begun(self, waiter: Waiter, candidate: Candidate, slot: Slot) -> None:
        assert self._count(candidate.account_name) < candidate.limit, "over its limit"
        assert slot.name == candidate.account_name
        if waiter.interval_ms:
            for start in self.starts[waiter.key_id][-1:]:
                assert self.now - start >= waiter.interval_ms / 1000, "too close to the one before"
            self.starts[waiter.key_id].append(self.now)
        self.waiting.remove(waiter)
        # Between a moment and a minute, and not the same for all.
        length = (7 * len(self.running) + 13 * len(self.waiting)) % 64 / 8 + 0.125
        self.running.append((self.now + length, waiter, slot))

    def _count(self, account_name: str) -> int:
        return sum(slot.name == account_name for _, _, slot in self.running)

    def _check_that_nothing_is_idle(self, full: dict[str, int]) -> None:
        for waiter in filter(self._may_start, self.waiting):
            for candidate in waiter.candidates:
                limit = min(candidate.limit, full.get(candidate.account_name, candidate.limit))
                assert self._count(candidate.account_name) >= limit, (
                    "a free slot that somebody wants"
                )

    def _give_back(self, at: int) -> None:
        _, waiter, slot = self.running.pop(at)
        slot.release()
        slot.release()
        self.queue.give_back(waiter.key_id)

    def _next_event(self) -> float:
        ends = [end for end, _, _ in self.running]
        starts = [
            self.starts[waiter.key_id][-1] + waiter.interval_ms / 1000
            for waiter in self.waiting
            if waiter.interval_ms and self.starts[waiter.key_id] and not self._may_start(waiter)
        ]
        return min([*ends, *starts], default=float("inf"))

    def _run_until(self, moment: float) -> None:
        while (event := self._next_event()) <= moment:
            self.now = max(self.now, event)
            for at in reversed(range(len(self.running))):
                if self.running[at][0] <= self.now:
                    self._give_back(at)
            self._grant()
        self.now = max(self.now, moment)

    # Events from outside.

    @rule(key_id=st.sampled_from(_KEYS), accounts=_SOME_ACCOUNTS)
    def a_call_comes(self, key_id: str, accounts: list[str]) -> None:
        interval = _INTERVALS[key_id]
        wait = self.clock.admit(key_id, interval, self.now)
        if wait > 0:
            assert interval is not None
            assert wait <= interval / 1000
            return
        candidates = [Candidate(name, self.limits[name]) for name in accounts]
        waiter = Waiter(key_id, candidates, interval)
        self.admitted[waiter] = self.now
        self.queue.join(waiter)
        self.waiting.append(waiter)
        self._grant()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), accounts=_SOME_ACCOUNTS)
    def a_running_call_wants_one_more_slot(self, data: st.DataObject, accounts: list[str]) -> None:
        """It does not count as a start of its key."""
        _, running, _ = data.draw(st.sampled_from(self.running))
        waiter = Waiter(running.key_id, [Candidate(name, self.limits[name]) for name in accounts])
        self.queue.join(waiter)
        self.waiting.append(waiter)
        self._grant()

    @rule(eighths=st.integers(1, 80))
    def time_passes(self, eighths: int) -> None:
        self._run_until(self.now + eighths / 8)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiting_client_leaves(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        self.queue.leave(waiter)
        self.clock.withdraw(waiter.key_id, self.admitted.pop(waiter, float("nan")))
        self._grant()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_running_call_is_cancelled(self, data: st.DataObject) -> None:
        self._give_back(data.draw(st.integers(0, len(self.running) - 1)))
        self._grant()

    @rule(account_name=st.sampled_from(_ACCOUNTS), limit=st.integers(1, 4))
    def the_control_plane_changes_a_limit(self, account_name: str, limit: int) -> None:
        """For calls that come from now on; calls in the queue keep the old limit."""
        self.limits[account_name] = limit

    @invariant()
    def counts_are_true_and_the_queue_is_bounded(self) -> None:
        for account_name in _ACCOUNTS:
            assert self.table.in_use(account_name) == self._count(account_name)
        assert self.queue.waiting == len(self.waiting) <= 5
        assert self.queue._held == Counter(waiter.key_id for _, waiter, _ in self.running)

    def teardown(self) -> None:
        for _ in range(100):
            if self.waiting or self.running:
                self._run_until(self._next_event())
        assert not self.waiting, "everybody is served in the end"
        assert repr(self.table) == "<SlotTable {}>", "everything is given back"
        assert (self.queue._held, self.queue._waiters) == (Counter(), {})


SchedulingMachine.TestCase.settings = settings(
    max_examples=scaled(150), stateful_step_count=40, deadline=None
)
TestScheduling = SchedulingMachine.TestCase


# -- when to come back -----------------------------------------------------------------------

_HELD_SECONDS = st.lists(st.floats(0, 1000), max_size=10)
_AGES = st.lists(st.floats(0, 1000), max_size=6)
_LIMIT = st.integers(1, 64)
_AHEAD = st.integers(0, 200)


def _hold_time(held: Sequence[float]) -> HoldTime:
    hold_time = HoldTime()
    for seconds in held:
        hold_time.note("a", seconds)
    return hold_time


@given(_HELD_SECONDS, _LIMIT, _AGES, _AHEAD)
def test_a_wait_is_more_than_nothing_and_less_than_all_who_are_ahead_could_take(
    held: list[float], limit: int, ages: list[float], ahead: int
) -> None:
    longest = max([slots.FIRST_HOLD_SECONDS, *held])
    wait = _hold_time(held).seconds_until_free(Candidate("a", limit), ages, ahead)
    rounds = ahead // max(limit, len(ages)) + 1
    assert 0 < wait <= longest * rounds * (1 + 1e-9)


@given(_HELD_SECONDS, _LIMIT, _AGES, _AHEAD)
def test_a_wait_grows_with_those_who_are_ahead(
    held: list[float], limit: int, ages: list[float], ahead: int
) -> None:
    hold_time, candidate = _hold_time(held), Candidate("a", limit)
    waits = [
        hold_time.seconds_until_free(candidate, ages, ahead + more) for more in (0, 1, limit + 7)
    ]
    assert waits[0] <= waits[1] * (1 + 1e-9)
    assert waits[0] < waits[2]


@given(_HELD_SECONDS, _LIMIT, _AGES, _AHEAD)
@example([], 64, [], 0)
def test_a_wait_is_never_less_than_a_second(
    held: list[float], limit: int, ages: list[float], ahead: int
) -> None:
    assert _hold_time(held).seconds_until_free(Candidate("a", limit), ages, ahead) >= 1


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=6), st.floats(0, 100), _AHEAD)
def test_the_longer_calls_are_under_way_the_sooner_they_end(
    ages: list[float], more: float, ahead: int
) -> None:
    candidate = Candidate("a", len(ages))
    wait = HoldTime().seconds_until_free(candidate, ages, ahead)
    assert HoldTime().seconds_until_free(candidate, [age + more for age in ages], ahead) <= wait


def test_a_wait_is_what_is_left_of_the_oldest_call() -> None:
    hold_time, candidate = HoldTime(), Candidate("a", 2)
    assert hold_time.seconds_until_free(candidate, [10.0, 45.0], 0) == 15
    assert hold_time.seconds_until_free(candidate, [10.0, 45.0], 1) == 50
    assert hold_time.seconds_until_free(candidate, [10.0, 45.0], 2) == 75
    assert hold_time.seconds_until_free(candidate, [10.0, 400.0], 0) == 1, (
        "it must end at any moment"
    )


def test_calls_of_other_processes_are_taken_to_end_one_by_one() -> None:
    assert HoldTime().seconds_until_free(Candidate("a", 1), [], 0) == 30
    assert [
        HoldTime().seconds_until_free(Candidate("a", 3), [0.0], ahead) for ahead in range(4)
    ] == [
        20,
        40,
        60,
        80,
    ]


@given(st.floats(0, 1000))
def test_a_steady_hold_time_is_learned_from_a_handful_of_calls(seconds: float) -> None:
    learned = _hold_time([seconds] * 15).seconds_until_free(Candidate("a", 1), [0.0], 0)
    assert learned == pytest.approx(max(seconds, 1), rel=0.05, abs=3)


def test_an_account_s_hold_time_is_its_own() -> None:
    hold_time = _hold_time([1.0] * 50)
    assert hold_time.seconds_until_free(Candidate("b", 1), [0.0], 0) == slots.FIRST_HOLD_SECONDS
    assert repr(hold_time) == "<HoldTime of 1 accounts>"
