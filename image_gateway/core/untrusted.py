"""Readers for untrusted values: JSON of upstreams, records in a file, names in a body.

Each function takes any value and returns it if it has the expected type, else None (``mapping``: an
empty one).
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}(?:\[[A-Za-z0-9_]{0,32}\]){0,2}")
_NAMELESS: Final = "(a name that is none)"
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,63}")


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


MOST_DEPTH: Final = 32
"""Levels of JSON that are passed on; real errors have three.  Python and orjson give up after some
hundreds."""


def is_deep(value: object) -> bool:
    """Whether parsed JSON is nested deeper than ``MOST_DEPTH``; it may be as deep as it likes."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
    return any(isinstance(value, dict | list) for value in level)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def pruned(value: object, depth: int = MOST_DEPTH) -> object:
    """Parsed JSON with null in place of what is nested deeper."""
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return None
    if isinstance(value, dict):
        return {key: pruned(inner, depth - 1) for key, inner in value.items()}
    return [pruned(inner, depth - 1) for inner in value]


def shown_name(name: str) -> str:
    """A parameter name that is safe in a message.

    A text that does not look like a name may be content, for example after a missing quote, so it
    is not repeated.
    """
    return name if _NAME.fullmatch(name) else _NAMELESS


def shown_model(name: str) -> str:
    """A model's name, quoted for a message.

    A text that does not look like a name may be content and is not repeated.
    """
    text = name.strip()
    return f"`{text}`" if _MODEL.fullmatch(text) else "the model of that name"
