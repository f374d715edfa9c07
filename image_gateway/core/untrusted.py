"""Reading values that somebody else wrote: JSON of upstreams, records in a file, names in a body.

Each function takes whatever there may be and gives a value of the wanted type, or None: what is not
of its type is not known.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}(?:\[[A-Za-z0-9_]{0,32}\]){0,2}")
_NAMELESS: Final = "(a name that is none)"


def mapping(value: object) -> Mapping[str, object]:
    """The fields of a JSON object; none where it is not one."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """A text."""
    return value if isinstance(value, str) else None


def count(value: object, most: int | None = None) -> int | None:
    """A whole number from 0 on, up to ``most``; true and false are not numbers."""
    if type(value) is not int or value < 0:
        return None
    return value if most is None or value <= most else None


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def moment(value: object, *, assume_utc: bool = False) -> datetime | None:
    """A time in ISO 8601, in UTC; one without an offset counts only where UTC is assumed."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        if found is None:
            return None
        if found.tzinfo is None:
            return found.replace(tzinfo=UTC) if assume_utc else None
        return found.astimezone(UTC)  # Postgres does not know an offset of 16 hours
    except (ValueError, OverflowError):
        return None


def shown_name(name: str) -> str:
    """A parameter's name for a message.

    What does not look like a name may be content that slipped out of its quotes: it is not
    repeated.
    """
    return name if _NAME.fullmatch(name) else _NAMELESS
