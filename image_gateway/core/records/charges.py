"""The charge of a call against its key's quota: the tokens in its record.

The unit is the token: ``total_tokens`` of ``usage`` and of ``usage_text``, or the sum of the parts
if an upstream reports only those.  A paid call whose usage is not known costs nothing, because any
number would be wrong, and is counted separately: where a call is broken off because its client
left, the usage is never known.  A record without attempts costs nothing: it was refused, or found a
call that is charged to the request that started it.

A charge also says what a control plane with prices, or with accounts of its own, needs: the model,
the account, the kinds of the tokens and the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from image_gateway.core import untrusted
from image_gateway.core.records import prices, usage
from image_gateway.core.routing.failover import Action

MOST_IMAGES: Final = 1_000_000
LONGEST_TEXT: Final = 256
"""Characters of an id or a name: a record holds no longer one (``core.records.record``), and an
index could not hold one.
"""

_PAID: Final = (Action.DELIVER, Action.END)
"""The actions after which an upstream has made a picture, or may have."""
_USAGES: Final = ("usage", "usage_text")
"""The tokens that are charged: those of the pictures, and those of the main model."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One call to charge; ``called_at`` is its arrival.

    ``input``, ``cached_input`` (a part of it) and ``output`` are the tokens as far as the answer
    tells them apart: an upstream that reports only a total leaves them 0.  ``model`` is the one
    that the upstream was asked for.  ``cost`` is in USD; None: not known, as it never is for Codex.
    """

    request_id: str
    key_id: str
    tokens: int
    images: int
    called_at: datetime
    model: str | None = None
    account_name: str | None = None
    input: int = 0
    cached_input: int = 0
    output: int = 0
    cost: Decimal | None = None


class Uncharged(StrEnum):
    """Why a record charges nothing."""

    NOTHING_MADE = "nothing_made"
    WITHOUT_USAGE = "without_usage"
    UNREADABLE = "unreadable"


def of(record: Mapping[str, object]) -> Charge | Uncharged:
    """The charge of a log record; accepts any content that a file may hold."""
    attempts = attempts_of(record)
    images = untrusted.count(record.get("response_image_count"), MOST_IMAGES) or 0
    tokens = tokens_of(record)
    if not attempts:
        return Uncharged.NOTHING_MADE
    if tokens is None:
        is_paid = images > 0 or record.get("may_be_billed") is True or any(map(_is_paid, attempts))
        return Uncharged.WITHOUT_USAGE if is_paid else Uncharged.NOTHING_MADE
    request_id, key_id = _text(record.get("request_id")), _text(record.get("key_id"))
    called_at = untrusted.moment(record.get("time"))
    if request_id is None or key_id is None or called_at is None:
        return Uncharged.UNREADABLE
    usages = [untrusted.mapping(record.get(name)) for name in _USAGES]
    return Charge(
        request_id,
        key_id,
        tokens,
        images,
        called_at,
        model=_text(record.get("upstream_model")) or _text(record.get("model")),
        account_name=_text(record.get("account_name")),
        input=sum(usage.count_of(each, "input_tokens") or 0 for each in usages),
        cached_input=sum(usage.cached_of(each) or 0 for each in usages),
        output=sum(usage.count_of(each, "output_tokens") or 0 for each in usages),
        cost=prices.usd(record.get("cost_usd")),
    )


def attempts_of(record: Mapping[str, object]) -> Sequence[object]:
    """The attempts of a record; empty if the request bought nothing itself."""
    attempts = record.get("attempts")
    return attempts if isinstance(attempts, list) else ()


def tokens_of(record: Mapping[str, object]) -> int | None:
    """The tokens of a call's pictures and of its main model; None if its record has neither."""
    totals = [usage.total_of(record.get(name)) for name in _USAGES]
    known = [total for total in totals if total is not None]
    return sum(known) if known else None


def _is_paid(attempt: object) -> bool:
    return untrusted.mapping(attempt).get("action") in _PAID


def _text(value: object) -> str | None:
    # A text in Postgres cannot hold a NUL.
    is_valid = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and "\0" not in value
    return value if isinstance(value, str) and is_valid else None
