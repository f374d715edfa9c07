"""Slots: how many calls may be in flight for a name, when one may start, and who waits next.

One mechanism serves keys and accounts.  A ``Slot`` is a context manager; releasing it is
synchronous and idempotent, so a ``finally`` can always do it, cancelled or not.  The counts are
this process's own; ``edge.slots.places`` counts over all processes.

``WaitQueue`` decides which waiting call gets an account's slot.  It is fair between keys: it serves
the key that holds the fewest slots, and among equals the key that was served longest ago.  So a key
with a hundred waiting calls delays a key with one by a single call, and each other key overtakes a
key that holds nothing at most once.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Self

_MOST_CLOCKS: Final = 100_000
"""The number of keys whose last start is remembered; the oldest start is dropped first."""


class Slot:
    """One slot of a table, held until ``release``."""

    __slots__ = ("_table", "name")

    def __init__(self, table: "SlotTable", name: str) -> None:
        self._table: SlotTable | None = table
        self.name = name

    def __repr__(self) -> str:
        return f"<Slot {self.name!r} {'held' if self._table else 'released'}>"

    def release(self) -> None:
        """Give the slot back; a second call does nothing."""
        table, self._table = self._table, None
        if table is not None:
            table.give_back(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class SlotTable:
    """Counts the slots in use per name.  Each ``take`` gets the limit, because the control plane
    may change it; a lowered limit does not revoke slots that are in use.
    """

    def __init__(self) -> None:
        self._in_use: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<SlotTable {self._in_use}>"

    def in_use(self, name: str) -> int:
        """The number of slots in use."""
        return self._in_use.get(name, 0)

    def take(self, name: str, limit: int | None) -> Slot | None:
        """A slot, or None when ``limit`` slots are in use; ``limit`` None means no limit."""
        in_use = self.in_use(name)
        if limit is not None and in_use >= limit:
            return None
        self._in_use[name] = in_use + 1
        return Slot(self, name)

    def give_back(self, name: str) -> None:
        """Only for ``Slot``."""
        remaining = self._in_use[name] - 1
        if remaining:
            self._in_use[name] = remaining
        else:
            del self._in_use[name]


class StartClock:
    """When each key last started a call, and when its last call was admitted to wait for a start.

    Times are seconds of any monotonic clock.
    """

    def __init__(self) -> None:
        self._starts: OrderedDict[str, float] = OrderedDict()
        self._admitted: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<StartClock of {len(self._starts)} keys>"

    def admit(self, key_id: str, interval_ms: int | None, now: float) -> float:
        """Admit a call and return 0, or return the seconds until the key may send one.

        A call that waits for its slot blocks other calls of its key for the interval, so that they
        are refused at once rather than queued behind their own limit.
        """
        if not interval_ms:
            return 0.0
        last = max(_at(self._starts, key_id), _at(self._admitted, key_id))
        wait = last + interval_ms / 1000 - now
        if wait > 0:
            return wait
        _mark(self._admitted, key_id, now)
        return 0.0

    def withdraw(self, key_id: str, admitted: float) -> None:
        """A call that was admitted at ``admitted`` did not start: it does not count for its key."""
        if _at(self._admitted, key_id) == admitted:
            del self._admitted[key_id]

    def seconds_until_due(self, key_id: str, interval_ms: int | None, now: float) -> float:
        """Seconds until an admitted call may start; 0 when it may start now."""
        if not interval_ms:
            return 0.0
        return max(_at(self._starts, key_id) + interval_ms / 1000 - now, 0.0)

    def start(self, key_id: str, now: float) -> float:
        """A call of this key got its slot; returns the start before it, for ``undo``."""
        before = _at(self._starts, key_id)
        _mark(self._starts, key_id, now)
        return before

    def undo(self, key_id: str, start: float, before: float) -> None:
        """The call that got its slot at ``start`` was not sent."""
        if _at(self._starts, key_id) == start:
            _mark(self._starts, key_id, before)


def _at(times: OrderedDict[str, float], key_id: str) -> float:
    return times.get(key_id, float("-inf"))


def _mark(times: OrderedDict[str, float], key_id: str, now: float) -> None:
    times[key_id] = now
    times.move_to_end(key_id)
    if len(times) > _MOST_CLOCKS:
        times.popitem(last=False)


# -- waiting for an account's slot -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account as the queue sees it."""

    account_name: str
    limit: int


@dataclass(eq=False, slots=True)
class Waiter:
    """One call in the queue.

    ``candidates`` are the accounts that can serve it, best first; ``interval_ms`` is its key's
    start interval, None for a call that does not count as a start.  It waits for up to ``timeout``
    seconds; with a timeout of 0 it takes a free slot that no other call waits for, or none.
    ``waits`` becomes true once the call has found every slot taken.  ``call_id`` is for
    ``WaitQueue.position``.
    """

    key_id: str
    candidates: Sequence[Candidate]
    interval_ms: int | None = None
    timeout: float = float("inf")
    waits: bool = False
    call_id: str | None = None

    @property
    def no_wait(self) -> bool:
        """Whether the call takes a free slot or none."""
        return self.timeout <= 0


class WaitQueue:
    """The waiting calls, and which of them is next.

    Slots are taken and given back elsewhere; the queue only counts how many each key holds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # In order of arrival.
        self._waiters: dict[Waiter, None] = {}
        self._held: Counter[str] = Counter()
        self._served: OrderedDict[str, float] = OrderedDict()
        self._servings = 0.0

    def __repr__(self) -> str:
        return f"<WaitQueue of {len(self._waiters)}, most {self._most}>"

    @property
    def waiting(self) -> int:
        """The number of calls that have found every slot taken."""
        return sum(waiter.waits for waiter in self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Add a call at the end."""
        self._waiters[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """Remove a call; does nothing for a call that is not in the queue."""
        self._waiters.pop(waiter, None)

    def serve(self, waiter: Waiter) -> None:
        """The call gets a slot, which its key holds until ``give_back``."""
        del self._waiters[waiter]
        self._held[waiter.key_id] += 1
        self._servings += 1
        _mark(self._served, waiter.key_id, self._servings)

    def give_back(self, key_id: str) -> None:
        """A slot that this key held is free again."""
        self._held[key_id] -= 1
        if not self._held[key_id]:
            del self._held[key_id]

    def next(
        self, full: Collection[str], is_due: Callable[[Waiter], bool]
    ) -> tuple[Waiter, Candidate] | None:
        """The call that should get a slot next, and its best account that is not ``full``.

        Calls whose key may not start yet (``is_due``) are skipped.
        """
        firsts: dict[tuple[bool, str], tuple[Waiter, Candidate]] = {}
        for waiter in self._waiters:
            rank = waiter.no_wait, waiter.key_id
            if rank in firsts:
                continue
            candidate = next(
                (
                    candidate
                    for candidate in waiter.candidates
                    if candidate.account_name not in full
                ),
                None,
            )
            if candidate is not None and is_due(waiter):
                firsts[rank] = waiter, candidate
        best = min(
            firsts,
            key=lambda rank: (rank[0], self._held[rank[1]], _at(self._served, rank[1])),
            default=None,
        )
        return None if best is None else firsts[best]

    def wanted(self, is_due: Callable[[Waiter], bool]) -> set[str]:
        """The accounts that a waiting call could use now."""
        return {
            candidate.account_name
            for waiter in self._waiters
            if waiter.waits and is_due(waiter)
            for candidate in waiter.candidates
        }

    def position(self, call_id: str) -> int | None:
        """The place of a waiting call among those that wait for any of the same accounts.

        1 for the first; None if it does not wait.  It counts who came before: a key that holds
        fewer slots is served sooner than its place says, another one later.
        """
        earlier: list[Waiter] = []
        for waiter in self._waiters:
            if waiter.call_id == call_id:
                rivals = self.ahead(waiter)
                return 1 + sum(other in rivals for other in earlier) if waiter.waits else None
            earlier.append(waiter)
        return None

    def ahead(self, waiter: Waiter) -> list[Waiter]:
        """The other calls that wait for any of the same accounts."""
        names = {candidate.account_name for candidate in waiter.candidates}
        return [
            other
            for other in self._waiters
            if other is not waiter
            and other.waits
            and any(candidate.account_name in names for candidate in other.candidates)
        ]

    def settle(self) -> list[Waiter]:
        """Every call in the queue has found every slot taken; removes and returns the surplus.

        These are the calls that do not wait, and where more wait than may, the newest calls of the
        key with the most waiting calls, so a key that fills the queue does not keep the others out.
        """
        by_key: dict[str, list[tuple[int, Waiter]]] = {}
        removed = [waiter for waiter in self._waiters if waiter.no_wait]
        for waiter in removed:
            del self._waiters[waiter]
        for number, waiter in enumerate(self._waiters):
            waiter.waits = True
            by_key.setdefault(waiter.key_id, []).append((number, waiter))
        while len(self._waiters) > self._most:
            # Among keys with equally many, the key of the newest call.
            longest = max(
                by_key.values(),
                key=lambda waiters: (len(waiters), waiters[-1][0] if waiters else -1),
            )
            removed.append(longest.pop()[1])
            del self._waiters[removed[-1]]
        return removed


FIRST_HOLD_SECONDS: Final = 60.0
"""The assumed hold time before the first measurement: a picture usually takes 60 to 120 s."""
_LEAST_HOLD_SECONDS: Final = 1.0
_WEIGHT: Final = 0.2
"""Share of the newest call in the moving mean; the mean adapts within a handful of calls."""


class HoldTime:
    """How long an account's slots are held, to estimate when one will be free."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<HoldTime of {len(self._means)} accounts>"

    def note(self, account_name: str, seconds: float) -> None:
        """A slot was held for ``seconds``."""
        mean = self._means.get(account_name, FIRST_HOLD_SECONDS)
        self._means[account_name] = mean + (seconds - mean) * _WEIGHT

    def seconds_until_free(
        self, candidate: Candidate, ages: Sequence[float], ahead: int, timeout: float = float("inf")
    ) -> float:
        """Seconds until an account likely has a free slot for a call with ``ahead`` before it.

        The calls ahead wait for ``timeout`` seconds at most, so a slot that is free after that is
        not theirs.  ``ages`` are the seconds for which this process's own calls have held their
        slots; how long other processes have held the rest is not known.
        """
        mean = max(self._means.get(candidate.account_name, FIRST_HOLD_SECONDS), _LEAST_HOLD_SECONDS)
        others = max(candidate.limit - len(ages), 0)
        remaining = [max(mean - age, _LEAST_HOLD_SECONDS) for age in ages]
        remaining += [mean * (at + 1) / (others + 1) for at in range(others)]
        remaining.sort()
        for number in range(ahead + 1):
            seconds = remaining[number % len(remaining)] + mean * (number // len(remaining))
            if seconds >= timeout:
                break
        return max(seconds, _LEAST_HOLD_SECONDS)
