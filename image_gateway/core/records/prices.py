"""What a call costs: the tokens that its answer reports, at the prices of its models.

The prices are data (``prices.toml``); the setting ``PRICES`` adds to them.  The arithmetic is
exact: a price in USD for a million tokens is one in micro-dollars for a token.  A cost is never
guessed: it is None if a price is not known, or if the answer does not say what kind of tokens it
counts and the call leaves more than one kind possible.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from image_gateway.core import untrusted
from image_gateway.core.records.usage import (
    Kinds,
    Usage,
    cached_fields,
    count_of,
    says_kinds,
    split,
)

MOST_USD: Final = 1_000_000_000
"""More than this is not the price of a million tokens, and not the cost of a call."""
_LONGEST_NAME: Final = 256
_MICRO: Final = Decimal("0.000001")


class PriceError(ValueError):
    """A table of prices is not valid; the message says where."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens of each kind; None: the model has none, or its price is unknown."""

    text_in: Decimal | None = None
    cached_text_in: Decimal | None = None
    image_in: Decimal | None = None
    cached_image_in: Decimal | None = None
    text_out: Decimal | None = None
    image_out: Decimal | None = None


_KINDS: Final = tuple(item.name for item in fields(Price))


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call is billed for: the usages of its answer, and the models that used them.

    ``only_text_in``: the call had no pictures in, so all tokens in are text.
    """

    pictures: int
    usage: Usage | None = None
    model: str | None = None
    only_text_in: bool = False
    usage_text: Usage | None = None
    main_model: str | None = None
    svg_usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of all known models, by name."""

    models: Mapping[str, Price]

    def of(self, model: str | None) -> Price:
        """The price of a model, or of the longest beginning of its name that is listed.

        So a dated snapshot has the price of its model, and a model that of its family.  A vendor
        before a slash, spaces and case do not count, unless they are listed.  An unknown model has
        a price in which nothing is known.
        """
        if model is None or len(model) > _LONGEST_NAME:
            return Price()
        for name in (model, model.strip().lower().rpartition("/")[2]):
            beginning = name
            while beginning:
                if beginning in self.models:
                    return self.models[beginning]
                beginning = beginning.rpartition("-")[0]
        return Price()

    def cost_usd(self, bill: Bill) -> float | None:
        """The cost of a call in USD, to the micro-dollar; None if any part of it is not known."""
        parts: list[Decimal | None] = []
        if bill.usage is not None or bill.pictures:
            parts.append(_of_pictures(bill, self.of(bill.model)))
        if bill.usage_text is not None:
            parts.append(_of_text(bill.usage_text, self.of(bill.main_model)))
        if bill.svg_usage is not None:
            model = untrusted.text(bill.svg_usage.get("model"))
            parts.append(_of_text(bill.svg_usage, self.of(model)))
        total = _sum(*parts)
        if total is None or not parts:
            return None
        return int(total.quantize(Decimal(1), ROUND_HALF_EVEN)) / 1_000_000


def parse(tables: Mapping[str, object]) -> dict[str, Price]:
    """Prices by model, from their tables; raises ``PriceError``."""
    return {name: _price(name, table) for name, table in tables.items()}


def usd(value: object) -> Decimal | None:
    """The cost in a record of a file, which may hold anything; None if it holds no cost."""
    number = untrusted.number(value)
    if number is None or not 0 <= number <= MOST_USD:
        return None
    return abs(Decimal(str(number)).quantize(_MICRO))  # -0.0 is 0, and is written without a sign


def _price(name: str, table: object) -> Price:
    if not isinstance(table, Mapping):
        raise PriceError(f"{name} must be a table")
    unknown = sorted(set(table) - set(_KINDS))
    if unknown or not table:
        what = f"{name}.{unknown[0]} is unknown" if unknown else f"{name} is empty"
        raise PriceError(f"{what}; the table of a model may hold {', '.join(_KINDS)}")
    return Price(**{kind: _amount(value, f"{name}.{kind}") for kind, value in table.items()})


def _amount(value: object, where: str) -> Decimal:
    number = untrusted.number(value)
    if number is None or not 0 <= number <= MOST_USD:
        raise PriceError(f"{where} must be USD for a million tokens, such as 1.25")
    # As it is written: 0.1 is a tenth, and not the float beside it.
    return Decimal(str(value))


# -- one usage -------------------------------------------------------------------------------------


def _of_pictures(bill: Bill, price: Price) -> Decimal | None:
    """Micro-dollars for the tokens of pictures."""
    if bill.usage is None:
        return None
    came, went = _came(bill.usage, only_text=bill.only_text_in), _went(bill.usage, price)
    cached = None if came is None else _cached(bill.usage, came)
    if came is None or cached is None or went is None:
        return None
    return _sum(
        _times(came.text - cached.text, price.text_in),
        _times(cached.text, price.cached_text_in),
        _times(came.image - cached.image, price.image_in),
        _times(cached.image, price.cached_image_in),
        _times(went.text, price.text_out),
        _times(went.image, price.image_out),
    )


def _of_text(usage: Usage, price: Price) -> Decimal | None:
    """Micro-dollars for the tokens of a text model, of which only the cached ones differ."""
    came, went = count_of(usage, "input_tokens"), count_of(usage, "output_tokens")
    cached = count_of(untrusted.mapping(usage.get("input_tokens_details")), "cached_tokens") or 0
    if came is None or went is None or cached > came:
        return None
    return _sum(
        _times(came - cached, price.text_in),
        _times(cached, price.cached_text_in),
        _times(went, price.text_out),
    )


def _came(usage: Usage, *, only_text: bool) -> Kinds | None:
    details = untrusted.mapping(usage.get("input_tokens_details"))
    if only_text and not says_kinds(details):
        details = {"image_tokens": 0}
    return split(count_of(usage, "input_tokens"), details)


def _went(usage: Usage, price: Price) -> Kinds | None:
    details = untrusted.mapping(usage.get("output_tokens_details"))
    if price.text_out is None and not says_kinds(details):
        details = {"text_tokens": 0}  # a model without a price for text out makes pictures only
    return split(count_of(usage, "output_tokens"), details)


def _cached(usage: Usage, came: Kinds) -> Kinds | None:
    """How many of the tokens that came were cached; none of them if the answer reports none."""
    source = cached_fields(usage)
    total = count_of(source, "cached_tokens")
    kinds = untrusted.mapping(source.get("cached_tokens_details"))
    if not says_kinds(kinds):
        total = total or 0
        # The kinds are certain where only one came, and where all tokens were cached.
        if came.image == 0 or came.text == 0:
            kinds = {"image_tokens" if came.image == 0 else "text_tokens": 0}
        elif total == sum(came):
            kinds = {"text_tokens": came.text, "image_tokens": came.image}
    cached = split(total, kinds)
    is_part = cached is not None and cached.text <= came.text and cached.image <= came.image
    return cached if is_part else None


def _times(count: int, price: Decimal | None) -> Decimal | None:
    if count == 0:
        return Decimal(0)
    return None if price is None else count * price


def _sum(*parts: Decimal | None) -> Decimal | None:
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if len(known) == len(parts) else None
