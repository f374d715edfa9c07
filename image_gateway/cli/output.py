"""What commands print: lines, tables, results for people or programs, progress.

Results go to stdout, complaints and progress to stderr.  A command that shows what came from
outside shows it ``escaped``: whatever would move a terminal's cursor is not let through.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Self

_MIB: Final = 1024 * 1024
_QUIET_SECONDS: Final = 0.5
"""A reading that is done sooner shows no progress."""
_PROGRESS_SECONDS: Final = 0.25


def say(line: str) -> None:
    """A line of the result."""
    print(line)


def complain(line: str) -> None:
    """A line about what is wrong, or what is going on."""
    print(f"image-gateway: {line}", file=sys.stderr)


def escaped(text: str) -> str:
    """Text with whatever is no letter, sign or space as its escape."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def counted(number: int, what: str = "file") -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; what is a number stands to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    right = [
        bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(heads))
    ]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        ).rstrip()

    return "\n".join(map(line, [heads, *rows]))


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).removesuffix("%").isdigit()


class Progress:
    """How far a reading of so many bytes is, on stderr where that is a terminal; gone when it is
    over.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._is_wanted = sys.stderr.isatty()
        self._is_shown = False
        self._next = time.monotonic() + _QUIET_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def show(self, done: int) -> None:
        """Tell that so many bytes are read, but not too often."""
        if not self._is_wanted or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._is_shown = True
        # Files grow while they are read.
        total = max(self._total, done)
        sys.stderr.write(f"\rreading: {done / _MIB:,.0f} of {total / _MIB:,.0f} MiB\033[K")
        sys.stderr.flush()


# -- results ---------------------------------------------------------------------------------------


def show(args: argparse.Namespace, value: object, *lines: str) -> None:
    """A result: ``value`` for a program, ``lines`` for a person, who sees no control character."""
    if args.json:
        say(json.dumps(value, indent=2, default=_plain))
    else:
        for line in lines:
            say(line)


def fields(row: Mapping[str, object]) -> str:
    """One thing's fields, a line each."""
    return listed(("field", "value"), [(key, cell(value)) for key, value in row.items()])


def listed(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or a word where it would have no line."""
    return table(heads, rows) if rows else "none"


def cell(value: object) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(one)}={cell(other)}" for one, other in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, int):
        return f"{value:,}"
    return escaped(_plain(value))


def _plain(value: object) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
