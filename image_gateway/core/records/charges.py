"""The charge of a call against its key's quotas: what its record says that it used.

Tokens are the ``total_tokens`` of ``usage`` and of ``usage_text``, or the sum of the parts if an
upstream reports only those.  Of a paid call whose usage is not known only the pictures are charged,
because any number of tokens would be wrong, and it is counted separately: where a call is broken
off because its client left, not even they are known.  A record without attempts costs nothing: it
was refused, or found a call that is charged to the request that started it.

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

    ``tokens`` is None if the usage is not known.  ``input``, ``cached_input`` (a part of it) and
    ``output`` are the tokens as far as the answer tells them apart: an upstream that reports only a
    total leaves them 0.  ``model`` is the one that the upstream was asked for.  ``cost`` is in USD;
    None: not known, as it never is for Codex.
    """

    request_id: str
    key_id: str
    tokens: int | None
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
    tokens = tokens_of(record)
    if not attempts_of(record):
        return Uncharged.NOTHING_MADE
    images = images_of(record)
    if tokens is None and not images:
        return Uncharged.WITHOUT_USAGE if is_paid(record) else Uncharged.NOTHING_MADE
    request_id, key_id = name_in(record, "request_id"), name_in(record, "key_id")
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
        model=model_of(record),
        account_name=name_in(record, "account_name"),
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


def images_of(record: Mapping[str, object]) -> int:
    """The pictures in an answer; 0 if their number is not known."""
    return untrusted.count(record.get("response_image_count"), MOST_IMAGES) or 0


def is_paid(record: Mapping[str, object]) -> bool:
    """Whether a request with attempts has bought something, or may have."""
    return (
        images_of(record) > 0
        or record.get("may_be_billed") is True
        or any(untrusted.mapping(each).get("action") in _PAID for each in attempts_of(record))
    )


def model_of(record: Mapping[str, object]) -> str | None:
    """The model that the upstream was asked for, as far as the record knows it."""
    return name_in(record, "upstream_model") or name_in(record, "model")


def name_in(record: Mapping[str, object], field: str) -> str | None:
    """An id or a name of a record; None if it is missing, or no database could hold it."""
    value = record.get(field)
    # A text in Postgres cannot hold a NUL.
    is_valid = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and "\0" not in value
    return value if isinstance(value, str) and is_valid else None
