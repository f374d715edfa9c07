"""The records that a report is on: those of a window of time, read from all files."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from image_gateway.cli.exits import BAD_SETTINGS, CommandError
from image_gateway.cli.log_files import complain_of, find_files
from image_gateway.cli.output import Progress
from image_gateway.core.records import summary
from image_gateway.core.records.summary import Record
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``read`` reads, beside those of ``log_files``."""
    for name, which in (("--since", "at T or later"), ("--until", "before T")):
        parser.add_argument(
            name,
            type=_moment,
            metavar="T",
            help=f"only calls that came {which}; T is a time (UTC without an offset), or a span "
            "back from now such as 90m, 24h, 7d",
        )


def _moment(text: str) -> datetime:
    try:
        return summary.moment(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """How much was read."""

    files: int
    skipped_lines: int


def read(args: argparse.Namespace, add: Callable[[Record, datetime], None]) -> ReadCounts:
    """Call ``add`` with each record of the window and its time.  Raises ``CommandError``."""
    if args.since is not None and args.until is not None and args.since >= args.until:
        raise CommandError("--since must be before --until", BAD_SETTINGS)
    files = [file for file in find_files(args) if file.may_hold(args.since)]
    reading = Reading()
    with Progress(sum(file.size for file in files)) as progress:
        for file in files:
            for record in reader.read(file, reading):
                progress.show(reading.read_bytes)
                arrived = summary.time_of(record)
                if arrived is None:
                    reading.skipped_lines += 1
                elif (args.since is None or arrived >= args.since) and (
                    args.until is None or arrived < args.until
                ):
                    add(record, arrived)
    complain_of(reading)
    return ReadCounts(len(files) - reading.gone_files, reading.skipped_lines)


def as_json(args: argparse.Namespace, counts: ReadCounts) -> dict[str, object]:
    """What the document of a report begins with."""
    return {
        "since": rfc3339(args.since),
        "until": rfc3339(args.until),
        "files": counts.files,
        "skipped_lines": counts.skipped_lines,
    }


def rfc3339(moment: datetime | None) -> str | None:
    """A time as programs read it."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
