"""Rows by name in bounded memory: of more names than a limit, all further ones share one row.

The last names in the alphabet stay, a rule that does not depend on the order in which they come.  A
removed name never comes back, because only later names stay; so every row that is kept is complete.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, Self, TypeVar

Name = tuple[str | None, ...]
"""The parts of a row's name; None, for a part that is not known, comes after all texts."""


class Row(Protocol):
    """What rows are made of: sums that can be added to each other."""

    def merge(self, other: Self) -> None:
        """Add the sums of another row."""


_Row = TypeVar("_Row", bound=Row)


def order(name: Name) -> tuple[tuple[bool, str], ...]:
    """Sorts names."""
    return tuple((part is None, part or "") for part in name)


class Bounded(Generic[_Row]):
    """At most ``most`` rows; ``others`` is that of all further names, None if there are none."""

    def __init__(self, make_row: Callable[[], _Row], most: int) -> None:
        self.others: _Row | None = None
        self._make_row = make_row
        self._most = most
        self._rows: dict[Name, _Row] = {}
        self._first: list[tuple[tuple[tuple[bool, str], ...], Name]] = []
        """A heap with the first name on top, which is the next to go."""

    def __repr__(self) -> str:
        return f"<Bounded {len(self._rows)} of {self._most} rows>"

    @property
    def rows(self) -> Mapping[Name, _Row]:
        """The rows that are kept, in no order."""
        return self._rows

    def row(self, name: Name) -> _Row:
        """The row to add to: that of a name, or of the others."""
        row = self._rows.get(name)
        return self._admit(name) if row is None else row

    def _admit(self, name: Name) -> _Row:
        if len(self._rows) < self._most:
            heapq.heappush(self._first, (order(name), name))
        else:
            _, removed = heapq.heappushpop(self._first, (order(name), name))
            if self.others is None:
                self.others = self._make_row()
            if removed == name:
                return self.others
            self.others.merge(self._rows.pop(removed))
        row = self._rows[name] = self._make_row()
        return row
