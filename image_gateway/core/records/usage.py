"""The token counts that an answer reports, as far as a record keeps them.

An answer may report three usages: that of the pictures, that of the main model (Responses routes
only), and that of the model that writes an SVG.  They come from an upstream, so only whole numbers
under known names are kept.  Source: ``core/dialects/README.md``, "Images answers" and "Codex,
Responses route".
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from image_gateway.core import untrusted

Usage = Mapping[str, object]
"""Token counts by name; the value of a ``..._details`` is such a mapping, too."""

MOST_TOKENS: Final = 1_000_000_000
"""More than this in one call is an error, and the sum of many calls must fit in 64 bits."""

_Names = Mapping[str, "_Names"]
_COUNT: Final[_Names] = {}
_KINDS: Final[_Names] = {"text_tokens": _COUNT, "image_tokens": _COUNT}
# The Responses API reports cached tokens of pictures beside the details, others within them.
_CACHED: Final[_Names] = {"cached_tokens": _COUNT, "cached_tokens_details": _KINDS}
_NAMES: Final[_Names] = {
    "input_tokens": _COUNT,
    "input_tokens_details": {**_KINDS, **_CACHED, "cache_write_tokens": _COUNT},
    **_CACHED,
    "output_tokens": _COUNT,
    "output_tokens_details": {**_KINDS, "reasoning_tokens": _COUNT},
    "reasoning_tokens": _COUNT,
    "total_tokens": _COUNT,
}
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")


def read(value: object) -> Usage | None:
    """The known counts of a usage, in the order of its documentation; None if it has none."""
    return _read(value, _NAMES) or None


def read_svg(value: object) -> Usage | None:
    """The same of an ``svg_usage``, which also names its model."""
    counts = read(value)
    model = untrusted.text(untrusted.mapping(value).get("model"))
    if counts is None or model is None or not _MODEL.fullmatch(model):
        return counts
    return {"model": model, **counts}


def _read(value: object, names: _Names) -> dict[str, object]:
    fields = untrusted.mapping(value)
    counts: dict[str, object] = {}
    if not fields:
        return counts
    for name, inner in names.items():
        count = _read(fields.get(name), inner) if inner else count_of(fields, name)
        if count is not None and count != {}:
            counts[name] = count
    return counts


def count_of(usage: Usage, name: str) -> int | None:
    """One count of a usage; None if it is missing or is not a number of tokens."""
    return untrusted.count(usage.get(name), MOST_TOKENS)


def total_of(usage: object) -> int | None:
    """All tokens of a usage; None if it does not say.

    A total of 0 is ignored if the parts are not 0.
    """
    fields = untrusted.mapping(usage)
    total = count_of(fields, "total_tokens")
    if total:
        return total
    parts = [count_of(fields, name) for name in ("input_tokens", "output_tokens")]
    counts = [part for part in parts if part is not None]
    if len(counts) == len(parts):
        return sum(counts)
    return None if any(counts) else total


def cached_fields(usage: Usage) -> Usage:
    """The part of a usage that tells its cached tokens: itself, or the details of its tokens in."""
    if {"cached_tokens", "cached_tokens_details"} & usage.keys():
        return usage
    return untrusted.mapping(usage.get("input_tokens_details"))


def cached_of(usage: object) -> int | None:
    """How many of the tokens in were cached.

    None if the usage does not say, or says more than came in: cached tokens are cheap, so a
    number that cannot be right must not lower a bill.
    """
    fields = untrusted.mapping(usage)
    source = cached_fields(fields)
    cached = count_of(source, "cached_tokens")
    if cached is None:
        kinds = untrusted.mapping(source.get("cached_tokens_details"))
        counts = [count_of(kinds, name) for name in _KINDS]
        known = [count for count in counts if count is not None]
        cached = sum(known) if known else None
    came = count_of(fields, "input_tokens")
    return None if cached is None or came is None or cached > came else cached


class Kinds(NamedTuple):
    """Tokens of both kinds."""

    text: int
    image: int


def says_kinds(details: Usage) -> bool:
    """Whether details tell one kind of tokens from the other."""
    return not {"text_tokens", "image_tokens"}.isdisjoint(details)


def split(total: int | None, details: Usage) -> Kinds | None:
    """Tokens by kind; None if the details do not say, or contradict the total."""
    text, image = count_of(details, "text_tokens"), count_of(details, "image_tokens")
    if total is not None:
        text = total - image if text is None and image is not None else text
        image = total - text if image is None and text is not None else image
    if text is None or image is None:
        return Kinds(0, 0) if total == 0 else None
    is_sound = min(text, image) >= 0 and total in {None, text + image}
    return Kinds(text, image) if is_sound else None
