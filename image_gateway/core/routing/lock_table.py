"""What one process knows of Postgres's lock table, and what follows from it.

Advisory locks stand in a table in shared memory, which the whole server has in common.  When it is
full, plain queries of others fail ("out of shared memory"), so all gateways together take at most
a part of it (``budget``).  Nobody keeps a common count: each process counts the locks that it finds
there, remembers those of others, and adds what it takes itself.  It counts anew before its own
locks have grown by an eighth of the budget since the last count, so that up to eight processes
cannot fill the table even if all of them count in one moment: it holds seven sixteenths then, and
each takes one more.

A count reads the whole table and takes the longer the more locks there are (3 ms for 2000), so it
is rare.  A take finds the lowest free place under a name, which is enough while no lock lies at or
beyond the limit.  One may after the limit was lowered, and after an outage.  So the locks are
counted after a take if one may be there: under a name that was not taken before, or with another
limit; if the last count found one; and in any case if it is a second old, because another process
may have known the old limit for longer.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.5
"""The part of the lock table for advisory locks; the rest is for everybody's tables."""
COUNT_SECONDS: Final = 1.0
"""How old a count may be when a lock is taken."""
_GROWTH: Final = 8
"""A process counts anew when its locks have grown by this part of the budget."""
_EASE: Final = 7 / 8
"""The part of the budget at which a shortage is over; at the budget itself each call would end one
and begin the next."""
_MOST_NAMES: Final = 10_000
"""Names whose last limit is remembered; the one that was taken longest ago is dropped first."""


def budget(size: int) -> int:
    """The most advisory locks in a table of ``size`` locks."""
    return int(size * SHARE)


@dataclass(frozen=True, slots=True)
class NameCount:
    """The locks under one name, of all processes: how many, and the highest place."""

    in_use: int
    highest: int


class LockTable:
    """The lock table of the server as one session knows it.

    Names are numbers: the first lock of each.  Times are seconds of any monotonic clock.
    """

    def __init__(self, size: int) -> None:
        self.budget = budget(size)
        self.is_short = False
        """Whether fewer locks were granted than wanted, and there are not many fewer since."""
        self._own = 0
        self._least = 0
        """The fewest own locks since the last count; what was given back may be others' now."""
        self._others = 0
        self._counted_at = float("-inf")
        self._names: Mapping[int, NameCount] = {}
        self._limits: OrderedDict[int, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<LockTable {self._own} own, {self._others} others of {self.budget}>"

    def count(self, locks: int, names: Mapping[int, NameCount], now: float) -> None:
        """The table was counted: all advisory locks, and names with a place beyond the first."""
        self._others = max(locks - self._own, 0)
        self._least = self._own
        self._names = names
        self._counted_at = now
        self._ease()

    # -- the budget ------------------------------------------------------------------------------

    def must_count_before(self, wanted: int) -> bool:
        """Whether the table must be counted before so many locks are taken."""
        return self._own + wanted - self._least > self.budget // _GROWTH

    def grant(self, wanted: int) -> int:
        """How many of the locks that are wanted may be taken."""
        room = max(self.budget - self._others - self._own, 0)
        if room < wanted:
            self.is_short = True
        return min(room, wanted)

    def take(self, count: int) -> None:
        """So many locks were taken."""
        self._own += count

    def give_back(self, count: int) -> None:
        """So many locks were given back."""
        self._own -= count
        self._least = min(self._least, self._own)
        self._ease()

    def _ease(self) -> None:
        if self._others + self._own <= self.budget * _EASE:
            self.is_short = False

    # -- limits ----------------------------------------------------------------------------------

    def must_count_after(self, taken: Sequence[tuple[int, int]], now: float) -> bool:
        """Whether the table must be counted after a take.

        ``taken`` are the names under which there is a new lock, with their limits.
        """
        is_due = now - self._counted_at >= COUNT_SECONDS
        for name, limit in taken:
            is_due |= self._limits.get(name) != limit
            self._limits[name] = limit
            self._limits.move_to_end(name)
            counted = self._names.get(name)
            is_due |= counted is not None and counted.highest >= limit
        while len(self._limits) > _MOST_NAMES:
            self._limits.popitem(last=False)
        return is_due

    def is_over(self, name: int, limit: int) -> bool:
        """Whether the last count found more locks under the name than may be."""
        counted = self._names.get(name)
        return counted is not None and counted.in_use > limit
