"""What commands print: lines, tables, results for people or programs, progress.

Results go to stdout, errors, warnings and progress to stderr.  Data from outside is shown
``escaped``, because control characters could move a terminal's cursor.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Self

_MIB: Final = 1024 * 1024
_QUIET_SECONDS: Final = 0.5
"""Reading that ends sooner shows no progress."""
_PROGRESS_SECONDS: Final = 0.25


def say(line: str) -> None:
    """Print a line of the result."""
    print(line)


def complain(line: str) -> None:
    """Print an error or a warning."""
    print(f"image-gateway: {line}", file=sys.stderr)


def say_json(document: object) -> None:
    """Print a result for programs, in which a sum of money is a number."""
    say(json.dumps(document, indent=2, default=_json))


def say_csv(rows: Iterable[Sequence[str | int | Decimal | None]]) -> None:
    """Print rows for programs and spreadsheets, as RFC 4180 has it; None is an empty cell.

    Data from outside must not become a formula in a spreadsheet.  So a text that begins like one,
    or with an apostrophe, gets an apostrophe in front, which spreadsheets take for the mark of a
    text; a program takes one away, and has the text.
    """
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerows([_csv_cell(value) for value in row] for row in rows)


def _csv_cell(value: str | int | Decimal | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = escaped(value)  # a tab in front, too, would begin a formula
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


_FORMULA: Final = ("=", "+", "-", "@", "'")


def escaped(text: str) -> str:
    """Text with its characters that cannot be printed replaced by their escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(number: int, noun: str = "file") -> str:
    """A number with its noun: ``1 file``, ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """A number of bytes as a person reads it: ``512 B``, ``1.5 MiB``."""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; columns of numbers are aligned to the right."""
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
    """How much of ``total_bytes`` is read, on stderr if it is a terminal; erased at the end."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._is_wanted = sys.stderr.isatty()
        self._is_shown = False
        self._next = time.monotonic() + _QUIET_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def show(self, done: int) -> None:
        """Show that ``done`` bytes are read, at most every ``_PROGRESS_SECONDS``."""
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
    """Print a result: ``value`` as JSON for a program, or ``lines`` for a person.

    The caller escapes ``lines``.
    """
    if args.json:
        say_json(value)
    else:
        for line in lines:
            say(line)


def fields(row: Mapping[str, object]) -> str:
    """The fields of a row, one on each line."""
    return listed(("field", "value"), [(key, cell(value)) for key, value in row.items()])


def listed(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or ``none`` if it has no rows."""
    return table(heads, rows) if rows else "none"


def cell(value: object) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(key)}={cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, int | Decimal):
        return f"{value:,}" if isinstance(value, int) else f"{value.normalize():,f}"
    return escaped(_plain(value))


def _json(value: object) -> object:
    """A float has all the digits of a cost up to some billions."""
    return float(value) if isinstance(value, Decimal) else _plain(value)


def _plain(value: object) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
