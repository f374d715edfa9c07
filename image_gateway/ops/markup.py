"""Markup by templates that escape: what is not ``Html`` already is text, and shown as text.

Account names, key ids and codes come from outside; here they cannot become tags or attributes,
whoever forgets to think of it.
"""

from collections.abc import Iterable
from html import escape
from string import Formatter
from typing import Any, Final

NOTHING: Final = "\N{EN DASH}"
"""Stands where there is nothing to tell."""


class Html(str):
    """Text that is markup."""

    __slots__ = ()


class _Escaping(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return text if isinstance(value, Html) else escape(text)


_formatter = _Escaping()


def fill(template: str, /, **values: object) -> Html:
    """A template of ours with values in its ``{names}``, escaped unless they are ``Html``."""
    return Html(_formatter.vformat(template, (), values))


def joined(parts: Iterable[Html], between: str = "") -> Html:
    """Markup one after the other."""
    return Html(between.join(parts))
