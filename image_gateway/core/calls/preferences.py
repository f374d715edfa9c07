"""The ``Prefer`` header (RFC 7240): what a client would like, and what was done of it.

A preference never makes a request fail: what is unknown, broken or too long is ignored.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

LONGEST_WAIT: Final = 60
"""Seconds; proxies cut connections that are silent for 100."""

_LONGEST: Final = 2048
"""Characters of all headers; more than that is ignored, as no client has so many preferences."""

# Repeats are possessive or cannot overlap, so that no text takes more than a few passes.
_WORD_CHARACTERS: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_ELEMENT: Final = re.compile(rf'(?:[^",]++|{_QUOTED})*', re.DOTALL)
"""A preference with its parameters: up to a comma outside of quotes."""
_PREFERENCE: Final = re.compile(
    rf"[ \t]*+({_WORD_CHARACTERS})[ \t]*+"
    rf"(?:=[ \t]*+({_WORD_CHARACTERS}|{_QUOTED})?[ \t]*+)?(?:;.*)?",
    re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_SECONDS: Final = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client would like, as far as the gateway knows it; or what was done of it.

    ``respond_async``: an answer at once, with the address of the result.  ``wait_seconds``: hold
    the answer for up to so many seconds, 0 to ``LONGEST_WAIT``; None: the client does not say.
    """

    respond_async: bool = False
    wait_seconds: int | None = None

    def header(self) -> str | None:
        """The value of ``Preference-Applied``, if this is what was done; None if nothing was."""
        applied = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None:
            applied.append(f"wait={self.wait_seconds}")
        return ", ".join(applied) or None


def read(values: Sequence[str]) -> Preferences:
    """The preferences in the values of all ``Prefer`` headers of a request, in their order.

    Of a preference that comes twice the first counts (RFC 7240, 2), even if it makes no sense.  A
    longer wait counts as the longest.
    """
    if sum(map(len, values)) > _LONGEST:
        return Preferences()
    first: dict[str, str] = {}
    for value in values:
        for name, word in _preferences(value):
            first.setdefault(name, word)
    wait = first.get("wait", "")
    return Preferences(
        # It has no value, and an empty one is none.
        respond_async=first.get("respond-async") == "",
        wait_seconds=min(int(wait), LONGEST_WAIT) if _SECONDS.fullmatch(wait) else None,
    )


def _preferences(value: str) -> Iterator[tuple[str, str]]:
    """Names in lower case with their values; the rest after a quote without its end is left out."""
    at = 0
    while at < len(value):
        element = _ELEMENT.match(value, at)
        assert element is not None
        at = element.end() + 1
        if element.end() < len(value) and value[element.end()] != ",":
            return
        preference = _PREFERENCE.fullmatch(element[0])
        if preference is not None:
            yield preference[1].lower(), _unquoted(preference[2] or "")


def _unquoted(word: str) -> str:
    return _ESCAPED.sub(r"\1", word[1:-1]) if word.startswith('"') else word
