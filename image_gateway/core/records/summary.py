"""Summaries of many records: counts, percentiles and sums, in bounded memory and in any order.

A record comes from a file, so it may hold anything: a value of the wrong type counts as not known.
Sums are exact.  Latencies fall into buckets that are exact below 128 ms and at most 1/64 of their
value wide above, so a percentile is off by at most 1/128 (0.8 %); up to ten minutes there are about
900 buckets, for any number of calls.  A table holds at most ``MOST_NAMES`` names, because clients
choose some of them.

A record without attempts is a call like any other, but tokens, pictures and cost come from records
with attempts only: of several requests that get the answer of one call, one has bought it.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from image_gateway.core import untrusted
from image_gateway.core.records import charges, prices
from image_gateway.core.records.bounded import Bounded, order
from image_gateway.core.records.histogram import Histogram
from image_gateway.core.records.record import saves_purchase

Dimension = Literal["key", "account", "model", "outcome"]
DIMENSIONS: Final[Sequence[Dimension]] = ("key", "account", "model", "outcome")
PERCENTS: Final = (50, 90, 99)
SUMS: Final = (
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "text_input_tokens",
    "text_output_tokens",
    "total_tokens",
    "images",
)
"""The columns that are summed, in order: the tokens of pictures, those of main models (``text_``),
and both.
"""
MOST_NAMES: Final = 10_000
"""Names in one table; all further names share one row."""

_LATENCY_BITS: Final = 7
"""A percentile is off by at most 1/128."""
_SPAN: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Record = Mapping[str, object]


def moment(text: str, now: datetime) -> datetime:
    """Parse a time on the command line: a span back from ``now`` (``90m``, ``24h``, ``7d``), or an
    ISO 8601 date or time, in UTC where it has no offset.  Raises ``ValueError``.
    """
    span = _SPAN.fullmatch(text)
    result = untrusted.moment(text, assume_utc=True)
    if span is not None:
        with contextlib.suppress(OverflowError):
            result = now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    if result is None:
        raise ValueError(
            "must be a time such as 2026-11-21 or 2026-11-21T08:00:00Z, or a span back from now "
            "such as 90m, 24h or 7d"
        )
    return result


def time_of(record: Record) -> datetime | None:
    """When the request arrived; None if the record does not say."""
    return untrusted.moment(record.get("time"), assume_utc=True)


def outcome_of(record: Record) -> str | None:
    """``ok``, the error's code, or the status if an error has no code."""
    code, status = untrusted.text(record.get("error_code")), untrusted.count(record.get("status"))
    if code is not None:
        return code
    if status is None:
        return None
    return "ok" if status < 400 else f"status {status}"


@dataclass(frozen=True, slots=True)
class Facts:
    """The values of one record that are counted; ``sums`` has the order of ``SUMS``."""

    time: datetime
    names: Mapping[Dimension, str | None]
    key_name: str | None
    is_error: bool
    total_ms: int | None
    sums: Sequence[int]
    cost_usd: Decimal | None
    is_saved: bool
    """The request found a call that was paid for already."""

    @classmethod
    def of(cls, record: Record, time: datetime) -> "Facts":
        """Read a record whose ``time_of`` is known."""
        outcome = outcome_of(record)
        return cls(
            time=time,
            names={
                "key": untrusted.text(record.get("key_id")),
                "account": untrusted.text(record.get("account_name")),
                "model": untrusted.text(record.get("model")),
                "outcome": outcome,
            },
            key_name=untrusted.text(record.get("key_name")),
            is_error=outcome != "ok",
            total_ms=untrusted.count(record.get("total_ms")),
            sums=(
                untrusted.count(record.get("request_bytes")) or 0,
                untrusted.count(record.get("response_bytes")) or 0,
                *_tokens(record),
                _images(record),
            ),
            cost_usd=_cost_usd(record),
            is_saved=saves_purchase(record.get("call_source"), record.get("error_source")),
        )


def _images(record: Record) -> int:
    images = untrusted.count(record.get("response_image_count")) or 0
    return images if charges.attempts_of(record) else 0


def _cost_usd(record: Record) -> Decimal | None:
    return prices.usd(record.get("cost_usd")) if charges.attempts_of(record) else None


def _tokens(record: Record) -> list[int]:
    """Tokens in and out of pictures, tokens in and out of main models, and all that is charged."""
    if not charges.attempts_of(record):
        return [0] * 5
    parts = [
        untrusted.count(untrusted.mapping(record.get(usage)).get(name)) or 0
        for usage in ("usage", "usage_text")
        for name in ("input_tokens", "output_tokens")
    ]
    return [*parts, charges.tokens_of(record) or 0]


def _added(so_far: Decimal | None, more: Decimal | None) -> Decimal | None:
    return more if so_far is None else so_far + (more or 0)


class Tally:
    """Counts, sums and latencies of some calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.sums = [0] * len(SUMS)
        self.cost_usd: Decimal | None = None
        """Of the calls whose cost is known; None if there are none."""
        self.latencies = Histogram(_LATENCY_BITS)

    def __repr__(self) -> str:
        return f"<Tally calls={self.calls} errors={self.errors}>"

    def add(self, facts: Facts) -> None:
        """Count one more call."""
        self.calls += 1
        self.errors += facts.is_error
        self.sums = [so_far + more for so_far, more in zip(self.sums, facts.sums, strict=True)]
        self.cost_usd = _added(self.cost_usd, facts.cost_usd)
        if facts.total_ms is not None:
            self.latencies.add(facts.total_ms)

    def merge(self, other: "Tally") -> None:
        """Add the calls of another tally."""
        self.calls += other.calls
        self.errors += other.errors
        self.sums = [so_far + more for so_far, more in zip(self.sums, other.sums, strict=True)]
        self.cost_usd = _added(self.cost_usd, other.cost_usd)
        self.latencies.merge(other.latencies)

    def percentiles(self) -> list[int | None]:
        """For each of ``PERCENTS``, the time in ms within which that share of the calls ended.

        None if no call has a time.
        """
        buckets = self.latencies.percentiles(PERCENTS)
        return [None if bucket is None else bucket.middle for bucket in buckets]


class _NamedTally(Tally):
    """The tally of a name; ``label`` is what its newest record calls its key, and when."""

    label: tuple[datetime, str] | None = None


class Table:
    """Tallies by name, of which most are kept (``core.records.bounded``)."""

    def __init__(self, dimension: Dimension, most_names: int = MOST_NAMES) -> None:
        self.dimension = dimension
        self._tallies = Bounded(_NamedTally, most_names)

    def __repr__(self) -> str:
        return f"<Table by {self.dimension}: {self._tallies!r}>"

    @property
    def others(self) -> Tally | None:
        """The calls of all names beyond the limit; None if there are none."""
        return self._tallies.others

    def add(self, facts: Facts) -> None:
        """Count a call under its name."""
        tally = self._tallies.row((facts.names[self.dimension],))
        tally.add(facts)
        if self.dimension == "key" and facts.key_name is not None:
            label = (facts.time, facts.key_name)
            tally.label = max(tally.label or label, label)

    def rows(self) -> list[tuple[str | None, Tally]]:
        """Names with their tallies, most calls first; the name None is for calls without one."""
        rows = [(name, tally) for (name,), tally in self._tallies.rows.items()]
        return sorted(rows, key=lambda row: (-row[1].calls, order((row[0],))))

    def label(self, name: str | None) -> str | None:
        """The name of the key with this id, from its newest record."""
        tally = None if name is None else self._tallies.rows.get((name,))
        return None if tally is None or tally.label is None else tally.label[1]


class Summary:
    """A tally of all calls, and a table for each requested dimension."""

    def __init__(self, by: Sequence[Dimension], most_names: int = MOST_NAMES) -> None:
        self.total = Tally()
        self.tables = [Table(dimension, most_names) for dimension in by]
        self.already_paid = 0
        """Answers that came from calls of earlier requests."""
        self.first: datetime | None = None
        self.last: datetime | None = None

    def __repr__(self) -> str:
        return f"<Summary {self.total!r} {self.tables!r}>"

    def add(self, record: Record, time: datetime) -> None:
        """Count a record; ``time`` is its ``time_of``."""
        facts = Facts.of(record, time)
        self.first = min(self.first or time, time)
        self.last = max(self.last or time, time)
        self.already_paid += facts.is_saved
        self.total.add(facts)
        for table in self.tables:
            table.add(facts)
