"""``image-gateway logs``: what the log records tell, over all files of all instances.

Nothing here needs the daemon, its settings (but ``LOG_DIR``) or the control plane; files are only
read.  What stands in a record is data from outside, so people are shown it with whatever would
move a terminal's cursor escaped.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from image_gateway.cli import log_files, output
from image_gateway.cli.exits import BAD_SETTINGS, CommandError, handled
from image_gateway.cli.log_files import complain_of, find_files
from image_gateway.cli.output import Progress, counted, escaped, say
from image_gateway.core.records import record, summary
from image_gateway.core.records.summary import KeyUsage, Record, Summary, Table, Tally
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

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
_ATTEMPT: Final = tuple(item.name for item in fields(record.AttemptRecord))


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``logs`` on the command line."""
    places = argparse.ArgumentParser(add_help=False)
    log_files.add_dir(places)
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
    summed.set_defaults(run=handled(_summary))
    found = kinds.add_parser("find", parents=[places], help="the record of one request")
    found.add_argument("request_id", metavar="REQUEST_ID")
    found.set_defaults(run=handled(_find))
    used = kinds.add_parser(
        "usage", parents=[window, places], help="what each key used, for other control planes"
    )
    used.set_defaults(run=handled(_usage))


def _moment(text: str) -> datetime:
    try:
        return summary.moment(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# -- summary ---------------------------------------------------------------------------------------


def _summary(args: argparse.Namespace) -> None:
    summed = Summary(list(dict.fromkeys(args.by or summary.DIMENSIONS)))
    count = _read_all(args, summed.add)
    if args.json:
        _say_json(
            {
                **_window_json(args, count),
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
    return output.table([table.dimension, *(["name"] if is_keys else []), *_HEADS], rows)


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


def _usage(args: argparse.Namespace) -> None:
    totals: dict[str | None, KeyUsage] = {}
    count = _read_all(args, lambda read, _: summary.add_usage(totals, read))
    keys = [
        {"key_id": key_id, **asdict(usage)}
        for key_id, usage in sorted(totals.items(), key=lambda row: (row[0] is None, row[0] or ""))
    ]
    if args.json:
        _say_json({**_window_json(args, count), "keys": keys})
    elif keys:
        rows = [[_shown(value) for value in row.values()] for row in keys]
        say(output.table([name.replace("_", " ") for name in keys[0]], rows))
    else:
        say("no usage")


# -- find ------------------------------------------------------------------------------------------


def _find(args: argparse.Namespace) -> None:
    files = find_files(args)
    reading = Reading()
    found = _look_for(args.request_id, files, reading)
    complain_of(reading)
    if found is None:
        raise CommandError(f"no record of {escaped(args.request_id)} in {counted(len(files))}")
    if args.json:
        _say_json(found)
    else:
        _say_record(found)


def _look_for(request_id: str, files: Sequence[RecordFile], reading: Reading) -> Record | None:
    with Progress(sum(file.size for file in files)) as progress:
        for file in reversed(files):  # the newest: whoever asks, asks about a call of today
            for found in reader.read(file, reading):
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
        say(output.table(_ATTEMPT, rows))


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Count:
    """What was read."""

    files: int
    skipped_lines: int


def _read_all(args: argparse.Namespace, take: Callable[[Record, datetime], None]) -> _Count:
    """Hand over each record of the window with its time.  Raises ``CommandError``."""
    if args.since is not None and args.until is not None and args.since >= args.until:
        raise CommandError("--since must be before --until", BAD_SETTINGS)
    files = [file for file in find_files(args) if file.may_hold(args.since)]
    reading = Reading()
    with Progress(sum(file.size for file in files)) as progress:
        for file in files:
            for read in reader.read(file, reading):
                progress.show(reading.read_bytes)
                came = summary.time_of(read)
                if came is None:
                    reading.skipped_lines += 1
                elif (args.since is None or came >= args.since) and (
                    args.until is None or came < args.until
                ):
                    take(read, came)
    complain_of(reading)
    return _Count(len(files) - reading.gone_files, reading.skipped_lines)


# -- what is shown ---------------------------------------------------------------------------------


def _say_json(document: object) -> None:
    say(json.dumps(document, indent=2))


def _window_json(args: argparse.Namespace, count: _Count) -> dict[str, object]:
    return {
        "since": _rfc3339(args.since),
        "until": _rfc3339(args.until),
        "files": count.files,
        "skipped_lines": count.skipped_lines,
    }


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


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
