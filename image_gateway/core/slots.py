"""Slots: how many calls may be in flight for a name, and when one may start.

One mechanism serves keys and accounts.  A ``Slot`` is a context manager; giving it back is
synchronous and may be done twice, so a ``finally`` can always do it, cancelled or not.  The counts
are this process's own.
"""

from collections import OrderedDict
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
    """When each key last started a call; times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._starts: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<StartClock of {len(self._starts)} keys>"

    def wait(self, key_id: str, interval_ms: int | None, now: float) -> float:
        """Seconds until the key may start; 0 when it may now."""
        last = self._starts.get(key_id)
        if last is None or not interval_ms:
            return 0.0
        return max(0.0, last + interval_ms / 1000 - now)

    def start(self, key_id: str, now: float) -> None:
        """A call of this key was admitted."""
        self._starts[key_id] = now
        self._starts.move_to_end(key_id)
        if len(self._starts) > _MOST_CLOCKS:
            self._starts.popitem(last=False)
