"""How commands speak to who called them: exit codes, lines, tables, progress, and which log files
they are asked about.

Exit codes follow sysexits(3): 0 done, 1 failed, 64 bad settings or usage, 69 the control plane
cannot be used.  Results go to stdout, complaints and progress to stderr.  A command that tells what
came from outside shows it ``escaped``: whatever would move a terminal's cursor is not let through.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from image_gateway import config
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

OK: Final = 0
FAILED: Final = 1
BAD_SETTINGS: Final = 64
CONTROL_PLANE_UNUSABLE: Final = 69
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""What a shell makes of a command that SIGINT or SIGPIPE ended."""

INSTALLED: Final = Path("/var/log/image-gateway")
"""Where systemd keeps the logs of the installed instances, each in its own folder."""

_MIB: Final = 1024 * 1024
_QUIET_SECONDS: Final = 0.5
"""A reading that is done sooner shows no progress."""
_PROGRESS_SECONDS: Final = 0.25


class CommandError(Exception):
    """A command cannot do what it was asked; says why, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


# -- a command's life ------------------------------------------------------------------------------


def command(
    act: Callable[[argparse.Namespace], None],
) -> Callable[[argparse.Namespace], int]:
    """A command that does ``act`` and has every way to end early; gives the exit code."""

    def run(given: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding has not
        try:
            act(given)
            sys.stdout.flush()
        except CommandError as error:
            complain(str(error))
            return error.code
        except config.SettingsError as error:
            for mistake in error.mistakes:
                complain(mistake)
            return BAD_SETTINGS
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            # The interpreter flushes once more at its end, and would complain.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return PIPE_CLOSED
        except OSError as error:
            complain(f"{escaped(str(error.filename or 'the result'))}: {error.strerror}")
            return FAILED
        return OK

    return run


# -- lines -----------------------------------------------------------------------------------------


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


# -- settings --------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """A file that a setting names."""
    return path.read_text("utf-8").strip()


def setting(name: str) -> Any:
    """One setting alone, for a command that needs no more; None where nothing gives it.

    Raises ``config.SettingsError``.
    """
    return config.parse_one(os.environ, read, name)


# -- log files -------------------------------------------------------------------------------------

_UNSET: Final = config.parse_one({}, read, "LOG_DIR")


def add_dir(parser: argparse.ArgumentParser) -> None:
    """The option that ``find_files`` goes by."""
    parser.add_argument(
        "--dir",
        action="append",
        type=Path,
        default=[],
        help="a folder with log files, or one above; may be repeated; default: LOG_DIR",
    )


def find_files(given: argparse.Namespace) -> list[RecordFile]:
    """The record files, at least one.

    Raises ``CommandError`` where there is none, ``config.SettingsError``, and ``OSError``.
    """
    missing = [escaped(str(folder)) for folder in given.dir if not folder.is_dir()]
    if missing:
        raise CommandError(f"no such folder: {', '.join(missing)}")
    folders: list[Path] = given.dir or [_default_folder()]
    files = reader.find(folders)
    if not files:
        looked_in = ", ".join(escaped(str(folder)) for folder in folders)
        raise CommandError(f"no log files in {looked_in}, nor in a folder in it; see --dir")
    return files


def _default_folder() -> Path:
    folder: Path = setting("LOG_DIR")
    is_installed = folder == _UNSET and not folder.is_dir() and INSTALLED.is_dir()
    return INSTALLED if is_installed else folder


def complain_of(reading: Reading) -> None:
    """What of a reading was no record, or was gone."""
    if reading.skipped_lines:
        complain(f"{counted(reading.skipped_lines, 'line')} passed over that held no record")
    if reading.gone_files:
        complain(f"{counted(reading.gone_files)} not read: pruned since the command began")
