"""What calls used, summed by key, owner, group, model, account or day: what somebody may bill from.

The totals of one record can be added to those of any others, in any order, and sums are exact; so
however records are grouped, the sum over all rows is the same.  ``core.records.charges`` decides
what a call is and what it is charged: ``total_tokens`` is the sum of the charges, and of the calls
that cannot be charged because their records lack an id.

A record comes from a file, so it may hold anything.  What a call does not tell adds nothing, and is
never guessed: a figure that no call tells is None, and a call that was paid for without a known
usage, or without a known cost, is counted.  Memory is bounded, because clients choose some names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, Self

from image_gateway.core import untrusted
from image_gateway.core.records import charges, prices, usage
from image_gateway.core.records.bounded import Bounded, Name, order

Dimension = Literal["key", "owner", "group", "model", "account", "day"]
DIMENSIONS: Final[Mapping[Dimension, str]] = {
    "key": "key_id",
    "owner": "owner_id",
    "group": "group_id",
    "model": "model",
    "account": "account_name",
    "day": "day",
}
"""What calls can be summed by, and what programs call it."""
MOST_ROWS: Final = 100_000
"""A thousand keys for a quarter of a year by day; about 1 KiB each."""


@dataclass(slots=True)
class Totals:
    """Sums over calls; the names are those of the JSON and of the CSV.

    ``input_tokens_text`` and ``..._image`` add up to ``input_tokens`` as far as the answers tell
    them apart; ``..._cached`` tokens are counted there, too.  ``text_...`` is what main models
    used, ``svg_...`` what the models used that wrote SVGs, which ``total_tokens`` is without.
    """

    calls: int = 0
    requests_with_images: int = 0
    images: int = 0
    input_tokens: int = 0
    input_tokens_text: int | None = None
    input_tokens_image: int | None = None
    input_tokens_cached: int | None = None
    output_tokens: int = 0
    text_input_tokens: int = 0
    text_input_tokens_cached: int | None = None
    text_output_tokens: int = 0
    svg_input_tokens: int | None = None
    svg_output_tokens: int | None = None
    svg_total_tokens: int | None = None
    total_tokens: int = 0
    cost_usd: Decimal | None = None
    may_be_billed: int = 0
    without_usage: int = 0
    without_cost: int = 0

    @classmethod
    def of(cls, record: Mapping[str, object]) -> Self | None:
        """The totals of a record; None if it used nothing.

        So every refused call, and a request that got the answer of a call of another one.
        """
        if not charges.attempts_of(record):
            return None
        pictures, main, svg = (
            untrusted.mapping(record.get(name)) for name in ("usage", "usage_text", "svg_usage")
        )
        images, tokens = charges.images_of(record), charges.tokens_of(record)
        cost_usd = prices.usd(record.get("cost_usd"))
        is_paid = charges.is_paid(record)
        came = usage.count_of(pictures, "input_tokens")
        details = untrusted.mapping(pictures.get("input_tokens_details"))
        kinds = None if came is None else usage.split(came, details)
        found = cls(
            images=images,
            input_tokens=came or 0,
            input_tokens_text=None if kinds is None else kinds.text,
            input_tokens_image=None if kinds is None else kinds.image,
            input_tokens_cached=usage.cached_of(pictures),
            output_tokens=usage.count_of(pictures, "output_tokens") or 0,
            text_input_tokens=usage.count_of(main, "input_tokens") or 0,
            text_input_tokens_cached=usage.cached_of(main),
            text_output_tokens=usage.count_of(main, "output_tokens") or 0,
            svg_input_tokens=usage.count_of(svg, "input_tokens"),
            svg_output_tokens=usage.count_of(svg, "output_tokens"),
            svg_total_tokens=usage.total_of(svg),
            total_tokens=tokens or 0,
            cost_usd=cost_usd,
        )
        if found == cls() and not is_paid and tokens is None:
            return None
        found.calls = 1
        found.requests_with_images = int(images > 0)
        found.may_be_billed = int(record.get("may_be_billed") is True)
        found.without_usage = int(tokens is None and is_paid)
        found.without_cost = int(cost_usd is None and (is_paid or bool(tokens)))
        return found

    def merge(self, other: Self) -> None:
        """Add the totals of other calls."""
        for name in FIGURES:
            setattr(self, name, _added(getattr(self, name), getattr(other, name)))


FIGURES: Final = tuple(item.name for item in fields(Totals))
"""The columns, in order."""


class TotalsTable:
    """The totals of each combination of the names that were asked for.

    ``by`` has no dimension twice.
    """

    def __init__(self, by: Sequence[Dimension], most_rows: int) -> None:
        self.by = by
        self._rows = Bounded(Totals, most_rows)

    def __repr__(self) -> str:
        return f"<TotalsTable by {', '.join(self.by)}: {self._rows!r}>"

    def add(self, record: Mapping[str, object], time: datetime) -> None:
        """Count a record; ``time`` is when its request arrived, in UTC."""
        found = Totals.of(record)
        if found is not None:
            name = tuple(_name_of(record, time, dimension) for dimension in self.by)
            self._rows.row(name).merge(found)

    def rows(self) -> list[tuple[Name, Totals]]:
        """The rows, sorted by their names; a name that is not known is None and comes last."""
        return sorted(self._rows.rows.items(), key=lambda row: order(row[0]))

    @property
    def others(self) -> Totals | None:
        """The totals of all combinations beyond the limit; None if there are none."""
        return self._rows.others

    def total(self) -> Totals:
        """The totals of all calls."""
        total = Totals()
        for row in (*self._rows.rows.values(), self.others or Totals()):
            total.merge(row)
        return total


def _name_of(record: Mapping[str, object], time: datetime, dimension: Dimension) -> str | None:
    if dimension == "day":
        return time.date().isoformat()
    if dimension == "model":
        return charges.model_of(record)
    return charges.name_in(record, DIMENSIONS[dimension])


def _added(so_far: Any, more: Any) -> Any:
    """The sum of two figures, of which either may not be known."""
    if so_far is None or more is None:
        return more if so_far is None else so_far
    return so_far + more
