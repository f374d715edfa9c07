"""Slots: how many calls may be in flight for a name, when one may start, and who waits next.

One mechanism serves keys and accounts.  A ``Slot`` is a context manager; giving it back is
synchronous and may be done twice, so a ``finally`` can always do it, cancelled or not.  The counts
are this process's own; what several processes share is ``edge.slots.advisory_locks``.

``WaitQueue`` is the policy of waiting for an account's slot.  It is fair between keys: first comes
the key that holds the fewest slots, of those the one that was served longest ago.  So a key with a
hundred waiting calls delays a key with one by a single call, and a key that holds nothing is
overtaken by each other key at most once.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_MOST_CLOCKS: Final = 100_000
"""Keys whose last start is remembered; the oldest start is forgotten first."""


class Slot:
    """One place in a table, held until ``release``."""

    __slots__ = ("_table", "name")

    def __init__(self, table: "SlotTable", name: str) -> None:
        self._table: SlotTable | None = table
        self.name = name

    def __repr__(self) -> str:
        return f"<Slot {self.name!r} {'held' if self._table else 'released'}>"

    def release(self) -> None:
        """Give the place back; the second time does nothing."""
        table, self._table = self._table, None
        if table is not None:
            table.give_back(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class SlotTable:
    """Counts per name.  A limit is given with each take, because the control plane may change it;
    a lowered limit takes nothing away from who is inside.
    """

    def __init__(self) -> None:
        self._in_use: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<SlotTable {self._in_use}>"

    def in_use(self, name: str) -> int:
        """Places taken now."""
        return self._in_use.get(name, 0)

    def take(self, name: str, limit: int | None) -> Slot | None:
        """A slot, or None when ``limit`` are taken; no limit is never full."""
        taken = self.in_use(name)
        if limit is not None and taken >= limit:
            return None
        self._in_use[name] = taken + 1
        return Slot(self, name)

    def give_back(self, name: str) -> None:
        """For ``Slot`` alone."""
        left = self._in_use[name] - 1
        if left:
            self._in_use[name] = left
        else:
            del self._in_use[name]


class StartClock:
    """When each key last started a call, and when it was last let in to wait for its start.

    Times are seconds of any clock that only goes forward.
    """

    def __init__(self) -> None:
        self._starts: OrderedDict[str, float] = OrderedDict()
        self._admitted: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<StartClock of {len(self._starts)} keys>"

    def admit(self, key_id: str, interval_ms: int | None, now: float) -> float:
        """Let a call in, which gives 0; else the seconds until one may come.

        A call that waits for its slot keeps others of its key away for the interval, so that they
        are refused at once rather than queued behind a limit of their own.
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
        """A call that was let in at ``admitted`` did not start: it costs its key nothing."""
        if _at(self._admitted, key_id) == admitted:
            del self._admitted[key_id]

    def seconds_until_due(self, key_id: str, interval_ms: int | None, now: float) -> float:
        """When a call that was let in may start; 0 when it may now."""
        if not interval_ms:
            return 0.0
        return max(_at(self._starts, key_id) + interval_ms / 1000 - now, 0.0)

    def start(self, key_id: str, now: float) -> float:
        """A call of this key got its slot; gives the start before it, for ``undo``."""
        before = _at(self._starts, key_id)
        _mark(self._starts, key_id, now)
        return before

    def undo(self, key_id: str, start: float, before: float) -> None:
        """The call that got its slot at ``start`` was not made after all."""
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
    """An account as the line sees it."""

    account_name: str
    limit: int


@dataclass(eq=False, slots=True)
class Waiter:
    """One call in the line.

    ``candidates`` are the accounts it takes, best first; ``interval_ms`` is its key's start
    interval, None for a call that is no start.  It waits for up to ``timeout`` seconds; without any
    it is hasty, and takes what nobody waits for, or nothing.  ``waits`` turns true once it has
    found everything taken.
    """

    key_id: str
    candidates: Sequence[Candidate]
    interval_ms: int | None = None
    timeout: float = float("inf")
    waits: bool = False

    @property
    def no_wait(self) -> bool:
        """Whether it does not wait."""
        return self.timeout <= 0


class WaitQueue:
    """Who waits, and who is next.

    Slots are taken and given back elsewhere; of them the line knows how many each key holds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # In the order of arrival.
        self._waiters: dict[Waiter, None] = {}
        self._held: Counter[str] = Counter()
        self._served: OrderedDict[str, float] = OrderedDict()
        self._servings = 0.0

    def __repr__(self) -> str:
        return f"<WaitQueue of {len(self._waiters)}, most {self._most}>"

    @property
    def waiting(self) -> int:
        """Calls that have found everything taken and wait."""
        return sum(waiter.waits for waiter in self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Put a call at the end."""
        self._waiters[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """It does not wait any more; safe for one that is not here."""
        self._waiters.pop(waiter, None)

    def serve(self, waiter: Waiter) -> None:
        """It gets a slot, held until ``give_back``."""
        del self._waiters[waiter]
        self._held[waiter.key_id] += 1
        self._servings += 1
        _mark(self._served, waiter.key_id, self._servings)

    def give_back(self, key_id: str) -> None:
        """A slot that this key held is free."""
        self._held[key_id] -= 1
        if not self._held[key_id]:
            del self._held[key_id]

    def next(
        self, full: Collection[str], is_due: Callable[[Waiter], bool]
    ) -> tuple[Waiter, Candidate] | None:
        """The call that should get a slot next, and the best account for it that is not ``full``.

        Calls whose key may not start yet (``is_due``) are passed over.
        """
        found: dict[tuple[bool, str], tuple[Waiter, Candidate]] = {}
        for waiter in self._waiters:
            rank = waiter.no_wait, waiter.key_id
            if rank in found:
                continue
            candidate = next(
                (each for each in waiter.candidates if each.account_name not in full), None
            )
            if candidate is not None and is_due(waiter):
                found[rank] = waiter, candidate
        first = min(
            found,
            key=lambda rank: (rank[0], self._held[rank[1]], _at(self._served, rank[1])),
            default=None,
        )
        return None if first is None else found[first]

    def wanted(self, is_due: Callable[[Waiter], bool]) -> set[str]:
        """Accounts that somebody waits for who could have them."""
        return {
            candidate.account_name
            for waiter in self._waiters
            if waiter.waits and is_due(waiter)
            for candidate in waiter.candidates
        }

    def ahead(self, waiter: Waiter) -> list[Waiter]:
        """The other calls that wait for accounts which this one takes, too."""
        names = {candidate.account_name for candidate in waiter.candidates}
        return [
            other
            for other in self._waiters
            if other is not waiter
            and other.waits
            and any(candidate.account_name in names for candidate in other.candidates)
        ]

    def settle(self) -> list[Waiter]:
        """Everybody here has found everything taken; gives those for whom there is no room.

        They leave: the hasty, and where more wait than may, the newest of the key with the most
        waiting calls, so a key that fills the line does not keep the others out.
        """
        by_key: dict[str, list[tuple[int, Waiter]]] = {}
        left = [waiter for waiter in self._waiters if waiter.no_wait]
        for waiter in left:
            del self._waiters[waiter]
        for number, waiter in enumerate(self._waiters):
            waiter.waits = True
            by_key.setdefault(waiter.key_id, []).append((number, waiter))
        while len(self._waiters) > self._most:
            # Of keys with as many the one that came last.
            longest = max(
                by_key.values(),
                key=lambda waiters: (len(waiters), waiters[-1][0] if waiters else -1),
            )
            left.append(longest.pop()[1])
            del self._waiters[left[-1]]
        return left


FIRST_HOLD_SECONDS: Final = 60.0
"""How long a slot is held, until it was seen: a picture usually takes 60 to 120 s."""
_LEAST_HOLD_SECONDS: Final = 1.0
_WEIGHT: Final = 0.2
"""Of the newest call in the mean; a handful of calls tell it."""


class HoldTime:
    """How long an account's slots are held, and so when one will be free."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<HoldTime of {len(self._means)} accounts>"

    def note(self, account_name: str, seconds: float) -> None:
        """A slot was held for so long."""
        mean = self._means.get(account_name, FIRST_HOLD_SECONDS)
        self._means[account_name] = mean + (seconds - mean) * _WEIGHT

    def seconds_until_free(
        self, candidate: Candidate, ages: Sequence[float], ahead: int, timeout: float = float("inf")
    ) -> float:
        """When one of an account's slots is likely to be free, for a call with ``ahead`` before it.

        Those ahead wait for ``timeout`` seconds, so what is free after that is not theirs.

        ``ages`` are the seconds for which this process's own calls have held theirs; of those that
        other processes hold it is only known that they are there.
        """
        mean = max(self._means.get(candidate.account_name, FIRST_HOLD_SECONDS), _LEAST_HOLD_SECONDS)
        others = max(candidate.limit - len(ages), 0)
        left = [max(mean - age, _LEAST_HOLD_SECONDS) for age in ages]
        left += [mean * (at + 1) / (others + 1) for at in range(others)]
        left.sort()
        for number in range(ahead + 1):
            seconds = left[number % len(left)] + mean * (number // len(left))
            if seconds >= timeout:
                break
        return max(seconds, _LEAST_HOLD_SECONDS)
