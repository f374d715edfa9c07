"""``image-gateway logs``: what the log records tell, over all files of all instances.

Nothing here needs the daemon, its settings (but ``LOG_DIR``) or the control plane; files are only
read.  What stands in a record is data from outside, so people are shown it with whatever would
move a terminal's cursor escaped.
"""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from image_gateway import config, terminal
from image_gateway.core import record, summary
from image_gateway.core.summary import KeyUsage, Record, Summary, Table, Tally
from image_gateway.edge import record_files
from image_gateway.edge.record_files import Reading, RecordFile
from image_gateway.terminal import BAD_SETTINGS, FAILED, OK, complain, say

INSTALLED: Final = Path("/var/log/image-gateway")
"""Where systemd keeps the logs of the installed instances, each in its own folder."""
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""What a shell makes of a command that SIGINT or SIGPIPE ended."""

_UNSET: Final = config.parse_one({}, terminal.read, "LOG_DIR")
_MIB: Final = 1024 * 1024
_QUIET_SECONDS: Final = 0.5
"""A reading that is done sooner shows no progress."""
_PROGRESS_SECONDS: Final = 0.25
_HEADS: Final = (
    "calls",
    "errors",
    *(f"p{percent} s" for percent in summary.PERCENTS),
    "bytes in",
    "bytes out",
    "tokens in",
    "tokens out",
    "tokens",
    "images",
)
_ATTEMPT: Final = tuple(item.name for item in fields(record.Attempt))

Report = Callable[[argparse.Namespace], None]


class ReportError(Exception):
    """There is nothing to report from; says why, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``logs`` on the command line."""
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--dir",
        action="append",
        type=Path,
        default=[],
        help="a folder with log files, or one above; may be repeated; default: LOG_DIR",
    )
    places.add_argument("--json", action="store_true", help="one JSON document, for programs")
    window = argparse.ArgumentParser(add_help=False)
    for name, which in (("--since", "from then on"), ("--until", "before then")):
        window.add_argument(
            name,
            type=_moment,
            metavar="T",
            help=f"calls that came {which}: a time (UTC without an offset), or 90m, 24h, 7d ago",
        )

    kinds = commands.add_parser("logs", help="tell what the log records hold").add_subparsers(
        dest="report", required=True, metavar="REPORT"
    )
    summed = kinds.add_parser(
        "summary", parents=[window, places], help="counts, latencies, bytes, tokens and images"
    )
    summed.add_argument(
        "--by",
        nargs="+",
        action="extend",
        choices=summary.DIMENSIONS,
        help="one table for each; default: all",
    )
    summed.set_defaults(run=command(_summary))
    found = kinds.add_parser("find", parents=[places], help="the record of one request")
    found.add_argument("request_id", metavar="REQUEST_ID")
    found.set_defaults(run=command(_find))
    used = kinds.add_parser(
        "usage", parents=[window, places], help="what each key used, for other control planes"
    )
    used.set_defaults(run=command(_usage))


def _moment(text: str) -> datetime:
    try:
        return summary.moment(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command(report: Report) -> Callable[[argparse.Namespace], int]:
    """The command that gives the report; it has every way to end early."""

    def run(given: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding has not
        try:
            report(given)
            sys.stdout.flush()
        except ReportError as error:
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
            complain(f"{error.filename or 'the result'}: {error.strerror}")
            return FAILED
        return OK

    return run


# -- summary ---------------------------------------------------------------------------------------


def _summary(given: argparse.Namespace) -> None:
    summed = Summary(list(dict.fromkeys(given.by or summary.DIMENSIONS)))
    count = _read_all(given, summed.add)
    if given.json:
        _say_json(
            {
                **_window_json(given, count),
                "first": _rfc3339(summed.first),
                "last": _rfc3339(summed.last),
                "total": _tally_json(summed.total),
                "tables": {table.dimension: _table_json(table) for table in summed.tables},
            }
        )
        return
    say(_headline(summed))
    for table in summed.tables if summed.total.calls else ():
        say("")
        say(_table_text(table, summed.total))


def _headline(summed: Summary) -> str:
    if summed.first is None or summed.last is None:
        return "no calls"
    calls = counted(summed.total.calls, "call")
    errors = counted(summed.total.errors, "error")
    return (
        f"{calls}, {errors}, from {summed.first:%Y-%m-%d %H:%M:%S} to "
        f"{summed.last:%Y-%m-%d %H:%M:%S} UTC"
    )


def _table_text(table: Table, total: Tally) -> str:
    is_keys = table.dimension == "key"
    rows = [
        [
            "(none)" if name is None else escaped(name),
            *([escaped(table.label(name) or "-")] if is_keys else []),
            *_cells(tally),
        ]
        for name, tally in table.rows()
    ]
    label = ["-"] if is_keys else []
    if table.others is not None:
        rows.append(["(others)", *label, *_cells(table.others)])
    rows.append(["(all)", *label, *_cells(total)])
    return terminal.table([table.dimension, *(["name"] if is_keys else []), *_HEADS], rows)


def _cells(tally: Tally) -> list[str]:
    seconds = ["-" if taken is None else f"{taken / 1000:,.1f}" for taken in tally.percentiles()]
    return [f"{tally.calls:,}", f"{tally.errors:,}", *seconds, *(f"{n:,}" for n in tally.sums)]


def _table_json(table: Table) -> dict[str, object]:
    rows: list[dict[str, object]] = []
    for name, tally in table.rows():
        row: dict[str, object] = {"name": name}
        if table.dimension == "key":
            row = {"name": name, "key_name": table.label(name)}
        rows.append(row | _tally_json(tally))
    return {"rows": rows, "others": None if table.others is None else _tally_json(table.others)}


def _tally_json(tally: Tally) -> dict[str, object]:
    taken = zip(summary.PERCENTS, tally.percentiles(), strict=True)
    return {
        "calls": tally.calls,
        "errors": tally.errors,
        **{f"p{percent}_ms": value for percent, value in taken},
        **dict(zip(summary.SUMS, tally.sums, strict=True)),
    }


# -- usage -----------------------------------------------------------------------------------------


def _usage(given: argparse.Namespace) -> None:
    totals: dict[str | None, KeyUsage] = {}
    count = _read_all(given, lambda read, _: summary.add_usage(totals, read))
    keys = [
        {"key_id": key_id, **asdict(usage)}
        for key_id, usage in sorted(totals.items(), key=lambda row: (row[0] is None, row[0] or ""))
    ]
    if given.json:
        _say_json({**_window_json(given, count), "keys": keys})
    elif keys:
        rows = [[_shown(value) for value in row.values()] for row in keys]
        say(terminal.table([name.replace("_", " ") for name in keys[0]], rows))
    else:
        say("no usage")


# -- find ------------------------------------------------------------------------------------------


def _find(given: argparse.Namespace) -> None:
    files = find_files(given)
    reading = Reading()
    found = _look_for(given.request_id, files, reading)
    complain_of(reading)
    if found is None:
        raise ReportError(f"no record of {escaped(given.request_id)} in {counted(len(files))}")
    if given.json:
        _say_json(found)
    else:
        _say_record(found)


def _look_for(request_id: str, files: Sequence[RecordFile], reading: Reading) -> Record | None:
    with Progress(files) as progress:
        for file in reversed(files):  # the newest: whoever asks, asks about a call of today
            for found in record_files.read(file, reading):
                progress.show(reading.read_bytes)
                if found.get("request_id") == request_id:
                    return found
    return None


def _say_record(found: Record) -> None:
    known = {
        name: value for name, value in found.items() if value is not None and name != "attempts"
    }
    width = max(len(escaped(name)) for name in known)
    for name, value in known.items():
        say(f"{escaped(name):<{width}}  {_shown(value)}")
    attempts = found.get("attempts")
    if isinstance(attempts, list) and attempts:
        rows = [
            [_shown(attempt.get(name)) for name in _ATTEMPT]
            for attempt in attempts
            if isinstance(attempt, dict)
        ]
        say("")
        say("attempts")
        say(terminal.table(_ATTEMPT, rows))


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Count:
    """What was read."""

    files: int
    skipped_lines: int


def _read_all(given: argparse.Namespace, take: Callable[[Record, datetime], None]) -> _Count:
    """Hand over each record of the window with its time.  Raises ``ReportError``."""
    if given.since is not None and given.until is not None and given.since >= given.until:
        raise ReportError("--since must be before --until", BAD_SETTINGS)
    files = [file for file in find_files(given) if file.may_hold(given.since)]
    reading = Reading()
    with Progress(files) as progress:
        for file in files:
            for read in record_files.read(file, reading):
                progress.show(reading.read_bytes)
                came = summary.time_of(read)
                if came is None:
                    reading.skipped_lines += 1
                elif (given.since is None or came >= given.since) and (
                    given.until is None or came < given.until
                ):
                    take(read, came)
    complain_of(reading)
    return _Count(len(files) - reading.gone_files, reading.skipped_lines)


def find_files(given: argparse.Namespace) -> list[RecordFile]:
    """The record files, at least one.  Raises ``ReportError``."""
    missing = [str(folder) for folder in given.dir if not folder.is_dir()]
    if missing:
        raise ReportError(f"no such folder: {', '.join(missing)}")
    folders: list[Path] = given.dir or [_default_folder()]
    files = record_files.find(folders)
    if not files:
        looked_in = ", ".join(map(str, folders))
        raise ReportError(f"no log files in {looked_in}, nor in a folder in it; see --dir")
    return files


def _default_folder() -> Path:
    folder: Path = terminal.setting("LOG_DIR")
    is_installed = folder == _UNSET and not folder.is_dir() and INSTALLED.is_dir()
    return INSTALLED if is_installed else folder


def complain_of(reading: Reading) -> None:
    """What of a reading was no record, or was gone."""
    if reading.skipped_lines:
        complain(f"{counted(reading.skipped_lines, 'line')} passed over that held no record")
    if reading.gone_files:
        complain(f"{counted(reading.gone_files)} not read: pruned since the command began")


class Progress:
    """How far a reading is, on stderr where that is a terminal; gone when it is over."""

    def __init__(self, files: Sequence[RecordFile]) -> None:
        self._total = sum(file.size for file in files)
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


# -- what is shown ---------------------------------------------------------------------------------


def _say_json(document: object) -> None:
    say(json.dumps(document, indent=2))


def _window_json(given: argparse.Namespace, count: _Count) -> dict[str, object]:
    return {
        "since": _rfc3339(given.since),
        "until": _rfc3339(given.until),
        "files": count.files,
        "skipped_lines": count.skipped_lines,
    }


def counted(number: int, what: str = "file") -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def escaped(text: str) -> str:
    """Text with whatever is no letter, sign or space as its escape."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{escaped(name)} {_shown(item)}" for name, item in value.items())
    return escaped(json.dumps(value))
