"""Counts of whole milliseconds in buckets, and their percentiles, in bounded memory.

A bucket holds the values that share their leading ``bits`` bits: each value below ``2**bits`` has
its own bucket; a bucket above is at most ``1 / 2**(bits - 1)`` of its values wide.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """A range of ``width`` values from ``start`` on."""

    start: int
    width: int

    @property
    def middle(self) -> int:
        """The value that represents the bucket with the smallest error."""
        return self.start + self.width // 2

    @property
    def last(self) -> int:
        """The largest of its values."""
        return self.start + self.width - 1


class Histogram:
    """Counted values; merge only histograms with the same ``bits``."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.counts: Counter[int] = Counter()
        """Number of values by the start of their bucket."""

    def __repr__(self) -> str:
        return f"<Histogram of {self.total} values in {len(self.counts)} buckets>"

    def __len__(self) -> int:
        """The number of buckets that hold a value."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """The number of values."""
        return self.counts.total()

    def add(self, value: int) -> None:
        """Count a value of 0 or more."""
        shift = self._shift(value)
        self.counts[value >> shift << shift] += 1

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram."""
        self.counts.update(other.counts)

    def percentiles(self, percents: Sequence[int]) -> list[Bucket | None]:
        """The bucket of each percentile; ``percents`` must ascend.

        A percentile is the smallest value that so many per cent of the values do not exceed; None
        if there are no values.
        """
        total = self.total
        if not total:
            return [None] * len(percents)
        ranks = [-(-percent * total // 100) for percent in percents]
        buckets: list[Bucket | None] = []
        passed = 0
        for start, count in sorted(self.counts.items()):
            passed += count
            while len(buckets) < len(ranks) and ranks[len(buckets)] <= passed:
                buckets.append(Bucket(start, 1 << self._shift(start)))
        return buckets

    def _shift(self, value: int) -> int:
        return max(0, value.bit_length() - self._bits)
