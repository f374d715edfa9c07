"""How commands speak to who called them: exit codes, lines, tables and progress.

Exit codes follow sysexits(3): 0 done, 1 failed, 64 bad settings or usage, 69 the control plane
cannot be used.  Results go to stdout, complaints and progress to stderr.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from image_gateway import config

OK: Final = 0
FAILED: Final = 1
BAD_SETTINGS: Final = 64
CONTROL_PLANE_UNUSABLE: Final = 69


def say(line: str) -> None:
    """A line of the result."""
    print(line)


def complain(line: str) -> None:
    """A line about what is wrong, or what is going on."""
    print(f"image-gateway: {line}", file=sys.stderr)


def read(path: Path) -> str:
    """A file that a setting names."""
    return path.read_text("utf-8").strip()


def setting(name: str) -> Any:
    """One setting alone, for a command that needs no more; None where nothing gives it.

    Raises ``config.SettingsError``.
    """
    return config.parse_one(os.environ, read, name)


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
