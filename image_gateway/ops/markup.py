"""Templates that escape: every value that is not ``Html`` is text, and is shown as text.

Account names, key ids and error codes come from outside; even if a template's author forgets it,
they cannot become tags or attributes.
"""

from collections.abc import Iterable
from html import escape
from string import Formatter
from typing import Any, Final

NOTHING: Final = "\N{EN DASH}"
"""Shown where there is no value."""


class Html(str):
    """Text that is markup, and is not escaped."""

    __slots__ = ()


class _Escaping(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return text if isinstance(value, Html) else escape(text)


_formatter = _Escaping()


def fill(template: str, /, **values: object) -> Html:
    """A template with values for its ``{names}``, escaped unless they are ``Html``."""
    return Html(_formatter.vformat(template, (), values))


def joined(parts: Iterable[Html], between: str = "") -> Html:
    """Pieces of markup as one."""
    return Html(between.join(parts))
