"""What a call costs its key's quota: the tokens that its record tells.

The unit is the token, all that the call used: ``usage.total_tokens``, or where an upstream names
only its parts, their sum.  A call that was paid for and whose usage is not known costs nothing, for
no number would be true, and is counted apart: a client that leaves early sees to it that its usage
is never known.  A call that nobody was asked for costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from image_gateway.core import untrusted
from image_gateway.core.routing.failover import Action

MOST_TOKENS: Final = 1_000_000_000
"""A call that says more than this cannot be right, and the sum of a batch must fit 64 bits."""
MOST_IMAGES: Final = 1_000_000
LONGEST_TEXT: Final = 256
"""Characters of an id: a record holds no longer one (``core.records.record``), and an index could
not.
"""

_PAID: Final = (Action.DELIVER, Action.END)
"""What was done with an answer that came: an upstream made something, known or not."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One call to be charged; ``called_at`` is when it came."""

    request_id: str
    key_id: str
    tokens: int
    images: int
    called_at: datetime


class Uncharged(StrEnum):
    """Why a record charges nothing."""

    NOTHING_MADE = "nothing_made"
    WITHOUT_USAGE = "without_usage"
    UNREADABLE = "unreadable"


def of(record: Mapping[str, object]) -> Charge | Uncharged:
    """What a log record charges; total over whatever a file may hold."""
    attempts = record.get("attempts")
    images = untrusted.count(record.get("response_image_count"), MOST_IMAGES) or 0
    tokens = tokens_of(record)
    if not (isinstance(attempts, list) and attempts):
        return Uncharged.NOTHING_MADE
    if tokens is None:
        is_paid = images > 0 or record.get("may_be_billed") is True or any(map(_is_paid, attempts))
        return Uncharged.WITHOUT_USAGE if is_paid else Uncharged.NOTHING_MADE
    request_id, key_id = _text(record.get("request_id")), _text(record.get("key_id"))
    called_at = untrusted.moment(record.get("time"))
    if request_id is None or key_id is None or called_at is None:
        return Uncharged.UNREADABLE
    return Charge(request_id, key_id, tokens, images, called_at)


def tokens_of(record: Mapping[str, object]) -> int | None:
    """All tokens that a call used; None where its record does not tell.

    A total of 0 beside parts that are not is no total.
    """
    usage = untrusted.mapping(record.get("usage"))
    total = untrusted.count(usage.get("total_tokens"), MOST_TOKENS)
    if total:
        return total
    parts = [
        untrusted.count(usage.get(name), MOST_TOKENS) for name in ("input_tokens", "output_tokens")
    ]
    known = [part for part in parts if part is not None]
    if len(known) == len(parts):
        return sum(known)
    return None if any(known) else total


def _is_paid(attempt: object) -> bool:
    return untrusted.mapping(attempt).get("action") in _PAID


def _text(value: object) -> str | None:
    # Postgres has no room for a NUL in a text.
    is_sound = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and "\0" not in value
    return value if isinstance(value, str) and is_sound else None
