"""Readers for untrusted values: JSON of upstreams, records in a file, names in a body.

Each function takes any value and returns it if it has the expected type, else None (``mapping``: an
empty one).
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}(?:\[[A-Za-z0-9_]{0,32}\]){0,2}")
_NAMELESS: Final = "(a name that is none)"


def mapping(value: object) -> Mapping[str, object]:
    """The fields of a JSON object; empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """A string."""
    return value if isinstance(value, str) else None


def count(value: object, maximum: int | None = None) -> int | None:
    """A whole number from 0 to ``maximum``; true and false are not numbers."""
    if type(value) is not int or value < 0:
        return None
    return value if maximum is None or value <= maximum else None


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def moment(value: object, *, assume_utc: bool = False) -> datetime | None:
    """An ISO 8601 time, converted to UTC; without an offset only if ``assume_utc``."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        if time is None:
            return None
        if time.tzinfo is None:
            return time.replace(tzinfo=UTC) if assume_utc else None
        return time.astimezone(UTC)  # Postgres refuses an offset of 16 hours or more
    except (ValueError, OverflowError):
        return None


def shown_name(name: str) -> str:
    """A parameter name that is safe in a message.

    A text that does not look like a name may be content, for example after a missing quote, so it
    is not repeated.
    """
    return name if _NAME.fullmatch(name) else _NAMELESS
