"""``image-gateway logs``: reports on the log records of all files of all instances.

The report on usage is in ``logs_usage``, the list of kept calls in ``kept_calls``.

The commands need no daemon, no control plane and no setting but ``LOG_DIR``, and only read files.
Records hold data from outside, so people see it with control characters escaped.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any, Final

from image_gateway.cli import kept_calls, log_files, log_window, logs_usage, output
from image_gateway.cli.exits import CommandError, handled
from image_gateway.cli.log_files import complain_of, find_files
from image_gateway.cli.output import Progress, counted, escaped, say
from image_gateway.core import untrusted
from image_gateway.core.records import summary
from image_gateway.core.records.record import AttemptRecord
from image_gateway.core.records.summary import Record, Summary, Table, Tally
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

_HEADINGS: Final = (
    "calls",
    "errors",
    *(f"p{percent} s" for percent in summary.PERCENTS),
    "bytes in",
    "bytes out",
    "tokens in",
    "tokens out",
    "text in",
    "text out",
    "tokens",
    "images",
    "cost USD",
)
_ATTEMPT_FIELDS: Final = tuple(item.name for item in fields(AttemptRecord))


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``logs`` on the command line."""
    source = argparse.ArgumentParser(add_help=False)
    log_files.add_dir(source)
    source.add_argument("--json", action="store_true", help="print one JSON document")
    window = argparse.ArgumentParser(add_help=False)
    log_window.add_options(window)

    reports = commands.add_parser(
        "logs", help="report on the log records, list kept calls"
    ).add_subparsers(dest="report", required=True, metavar="REPORT")
    summary_parser = reports.add_parser(
        "summary",
        parents=[window, source],
        help="sum up calls, latencies, bytes, tokens, images, cost",
    )
    summary_parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        choices=summary.DIMENSIONS,
        help="print only these tables (default: all)",
    )
    summary_parser.set_defaults(run=handled(_summary))
    find_parser = reports.add_parser(
        "find",
        parents=[source],
        help="show the record of one request, and of the one that started its call",
    )
    find_parser.add_argument(
        "id",
        metavar="ID",
        help="the id of a request, or of a call, which finds one of its requests",
    )
    find_parser.set_defaults(run=handled(_find))
    logs_usage.add_report(reports)
    kept_calls.add_report(reports)


# -- summary ---------------------------------------------------------------------------------------


def _summary(args: argparse.Namespace) -> None:
    result = Summary(list(dict.fromkeys(args.by or summary.DIMENSIONS)))
    counts = log_window.read(args, result.add)
    if args.json:
        output.say_json(
            {
                **log_window.as_json(args, counts),
                "first": log_window.rfc3339(result.first),
                "last": log_window.rfc3339(result.last),
                "already_paid": result.already_paid,
                "total": _tally_json(result.total),
                "tables": {table.dimension: _table_json(table) for table in result.tables},
            }
        )
        return
    say(_headline(result))
    if result.already_paid:
        say(_already_paid(result.already_paid))
    for table in result.tables if result.total.calls else ():
        say("")
        say(_table_text(table, result.total))


def _headline(result: Summary) -> str:
    if result.first is None or result.last is None:
        return "no calls"
    calls = counted(result.total.calls, "call")
    errors = counted(result.total.errors, "error")
    return (
        f"{calls}, {errors}, from {result.first:%Y-%m-%d %H:%M:%S} to "
        f"{result.last:%Y-%m-%d %H:%M:%S} UTC"
    )


def _already_paid(count: int) -> str:
    calls = "a call that was" if count == 1 else "calls that were"
    return f"{counted(count, 'request')} came to {calls} already paid for"


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
    return output.table([table.dimension, *(["name"] if is_keys else []), *_HEADINGS], rows)


def _cells(tally: Tally) -> list[str]:
    seconds = [
        "-" if milliseconds is None else f"{milliseconds / 1000:,.1f}"
        for milliseconds in tally.percentiles()
    ]
    counts = (f"{count:,}" for count in tally.sums)
    return [f"{tally.calls:,}", f"{tally.errors:,}", *seconds, *counts, _text(tally.cost_usd)]


def _table_json(table: Table) -> dict[str, object]:
    rows: list[dict[str, object]] = []
    for name, tally in table.rows():
        row: dict[str, object] = {"name": name}
        if table.dimension == "key":
            row = {"name": name, "key_name": table.label(name)}
        rows.append(row | _tally_json(tally))
    return {"rows": rows, "others": None if table.others is None else _tally_json(table.others)}


def _tally_json(tally: Tally) -> dict[str, object]:
    percentiles = zip(summary.PERCENTS, tally.percentiles(), strict=True)
    return {
        "calls": tally.calls,
        "errors": tally.errors,
        **{f"p{percent}_ms": value for percent, value in percentiles},
        **dict(zip(summary.SUMS, tally.sums, strict=True)),
        "cost_usd": tally.cost_usd,
    }


# -- find ------------------------------------------------------------------------------------------


def _find(args: argparse.Namespace) -> None:
    files = find_files(args)
    reading = Reading()
    record = _search(args.id, ("request_id", "call_id"), files, reading)
    starter_id = None if record is None else _starter_id(record)
    starter = None
    if starter_id is not None:
        again = Reading()
        starter = _search(starter_id, ("request_id",), files, again)
        if starter is None:  # every file was read to its end, perhaps more than before
            reading = again
    complain_of(reading)
    if record is None:
        raise CommandError(f"no record of {escaped(args.id)} in {counted(len(files))}")
    if args.json:
        output.say_json(record if starter_id is None else {**record, "call_request": starter})
        return
    _say_record(record)
    if starter_id is not None:
        say("")
        name = escaped(starter_id)
        if starter is None:
            say(f"its call was started by {name}, which has no record yet, or none any more")
        else:
            say(f"its call was started by {name}, and was paid for there:")
            say("")
            _say_record(starter)


def _starter_id(record: Record) -> str | None:
    """The request that started the call of a record; None if that is the record's own."""
    request_id = untrusted.text(record.get("call_request_id"))
    return None if request_id == record.get("request_id") else request_id


def _search(
    wanted: str, names: Sequence[str], files: Sequence[RecordFile], reading: Reading
) -> Record | None:
    """A record that has this id in one of these fields."""
    with Progress(sum(file.size for file in files)) as progress:
        for file in reversed(files):  # the newest first: most searches are for recent calls
            for record in reader.read(file, reading):
                progress.show(reading.read_bytes)
                if any(record.get(name) == wanted for name in names):
                    return record
    return None


def _say_record(record: Record) -> None:
    values = {
        name: value for name, value in record.items() if value is not None and name != "attempts"
    }
    width = max(len(escaped(name)) for name in values)
    for name, value in values.items():
        say(f"{escaped(name):<{width}}  {_text(value)}")
    attempts = record.get("attempts")
    if isinstance(attempts, list) and attempts:
        rows = [
            [_text(attempt.get(name)) for name in _ATTEMPT_FIELDS]
            for attempt in attempts
            if isinstance(attempt, dict)
        ]
        say("")
        say("attempts")
        say(output.table(_ATTEMPT_FIELDS, rows))


# -- values ----------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float | Decimal):
        return f"{Decimal(str(value)):,f}"
    if isinstance(value, dict):
        return ", ".join(f"{escaped(name)} {_part(item)}" for name, item in value.items())
    return escaped(json.dumps(value))


def _part(value: object) -> str:
    return f"({_text(value)})" if isinstance(value, dict) else _text(value)
