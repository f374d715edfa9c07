"""Counts of whole milliseconds in buckets, and percentiles of them, in bounded memory.

A bucket holds the values that share their leading ``bits`` bits: those below ``2**bits`` have a
bucket each, above it a bucket is at most ``1 / 2**(bits - 1)`` of its values wide.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """The values from ``start`` on, ``width`` of them."""

    start: int
    width: int

    @property
    def middle(self) -> int:
        """What stands for any of its values with the least error."""
        return self.start + self.width // 2

    @property
    def last(self) -> int:
        """The largest of its values."""
        return self.start + self.width - 1


class Histogram:
    """Values of one kind; two that are merged have as many bits."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.counts: Counter[int] = Counter()
        """Values by the least value of their bucket."""

    def __repr__(self) -> str:
        return f"<Histogram of {self.total} values in {len(self.counts)} buckets>"

    def __len__(self) -> int:
        """How many buckets hold a value."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """How many values there are."""
        return self.counts.total()

    def add(self, value: int) -> None:
        """Count a value from 0 on."""
        shift = self._shift(value)
        self.counts[value >> shift << shift] += 1

    def merge(self, other: "Histogram") -> None:
        """Count the other's values as well."""
        self.counts.update(other.counts)

    def percentiles(self, percents: Sequence[int]) -> list[Bucket | None]:
        """For each of ``percents``, in rising order, the bucket of the least value that so many
        values do not exceed; None where there is no value.
        """
        total = self.total
        if not total:
            return [None] * len(percents)
        ranks = [-(-percent * total // 100) for percent in percents]
        found: list[Bucket | None] = []
        passed = 0
        for start, count in sorted(self.counts.items()):
            passed += count
            while len(found) < len(ranks) and ranks[len(found)] <= passed:
                found.append(Bucket(start, 1 << self._shift(start)))
        return found

    def _shift(self, value: int) -> int:
        return max(0, value.bit_length() - self._bits)
