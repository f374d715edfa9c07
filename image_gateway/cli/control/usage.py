"""Usage: what calls used, read from the log records and charged to their keys.

Every call is charged once, whatever happens: the control plane's ``image_gateway.charge`` marks its
``request_id`` and changes the key in one transaction.  So a run that was interrupted, a second run
at the same time, or a copy of a file charges nothing twice, and the next run charges what was left.
A sealed file that was read to its end is recorded, only to save reading it again.  The current file
of an instance is read each time, so that a quota is not a whole file behind.  A file that may be
incomplete is not recorded: a copy may have its size and its beginning before it has its end.  Nor
is one with a call at which the control plane fails: it keeps no other from being charged, and is
tried again by each run.
"""

import argparse
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from image_gateway.cli import log_files, output
from image_gateway.cli.control import arguments
from image_gateway.cli.exits import CommandError
from image_gateway.cli.log_files import complain_of, find_files
from image_gateway.cli.output import Progress, cell, complain, counted, escaped
from image_gateway.core.records import charges
from image_gateway.core.records.charges import Uncharged
from image_gateway.core.records.summary import Record
from image_gateway.edge.postgres.admin import AdminConnection
from image_gateway.edge.postgres.charging import Charged, ChargeError, Charging
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

_SAMPLE_BYTES: Final = 64 * 1024
_MOST_TOLD: Final = 10
"""Calls whose errors are told one by one; a plane may fail at all of them."""


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``usage`` on the command line."""
    usage = kinds.add_parser("usage", help="charge calls to their keys")
    commands = usage.add_subparsers(required=True, metavar="COMMAND")
    apply = arguments.add_command(
        commands, "apply", _apply, "charge the calls in the log records to their keys, once each"
    )
    log_files.add_dir(apply)


@dataclass(slots=True)
class _KeySums:
    """What was charged to a key, and its paid calls that have no usage."""

    calls: int = 0
    tokens: int = 0
    images: int = 0
    cost: Decimal = Decimal(0)
    without_usage: int = 0


@dataclass(slots=True)
class _Applied:
    """The counts of a run."""

    files: int = 0
    known_files: int = 0
    records: int = 0
    without_usage: int = 0
    unreadable: int = 0
    failed: int = 0
    charged: Counter[Charged] = field(default_factory=Counter)
    keys: defaultdict[str, _KeySums] = field(default_factory=lambda: defaultdict(_KeySums))


def _apply(admin: AdminConnection, args: argparse.Namespace) -> None:
    charging = Charging(admin)
    applied, reading = _Applied(), Reading()
    files = [(file, _digest(file)) for file in find_files(args)]
    new = [(file, digest) for file, digest in files if not (digest and charging.is_charged(digest))]
    applied.known_files = len(files) - len(new)
    newest_before = charging.newest_charged_file()
    unknown = _unknown_folders(files, new)
    with Progress(sum(file.size for file, _ in new)) as progress:
        for file, digest in new:
            gone_before, holes_before = reading.gone_files, reading.holes
            charged_before, failed_before = applied.charged[Charged.BEFORE], applied.failed
            for record in reader.read(file, reading):
                progress.show(reading.read_bytes)
                applied.records += 1
                _charge(charging, record, applied)
            if reading.gone_files == gone_before:
                applied.files += 1
                is_whole = reading.holes == holes_before and applied.failed == failed_before
                if digest is not None and is_whole:
                    charging.note_charged(digest, file.path.name)
            is_new = applied.charged[Charged.BEFORE] == charged_before
            if is_new and unknown.get(file.path.parent) is file:
                _complain_of_gap(file.path, newest_before)
    charging.forget_charges()
    complain_of(reading)
    _show_result(args, applied, reading)
    if applied.failed:
        raise CommandError(
            f"the control plane failed at {counted(applied.failed, 'call')}, which the next run "
            "tries again. The errors above come from its function image_gateway.charge"
        )


def _charge(charging: Charging, record: Record, applied: _Applied) -> None:
    charge = charges.of(record)
    if isinstance(charge, Uncharged):
        applied.unreadable += charge is Uncharged.UNREADABLE
        key_id = record.get("key_id")
        if charge is Uncharged.WITHOUT_USAGE:
            applied.without_usage += 1
            if isinstance(key_id, str):
                applied.keys[key_id].without_usage += 1
        return
    try:
        word = charging.charge(charge)
    except ChargeError as error:
        applied.failed += 1
        if applied.failed <= _MOST_TOLD:
            complain(escaped(str(error)))
        return
    applied.charged[word] += 1
    if charge.tokens is None:
        applied.without_usage += 1
        applied.keys[charge.key_id].without_usage += 1
    if word is Charged.CHARGED:
        sums = applied.keys[charge.key_id]
        sums.calls += 1
        sums.tokens += charge.tokens or 0
        sums.images += charge.images
        sums.cost += charge.cost or 0


_Files = Sequence[tuple[RecordFile, str | None]]


def _unknown_folders(files: _Files, new: _Files) -> dict[Path, RecordFile]:
    """The folders none of whose sealed files is known, each with its oldest sealed file.

    Older files are gone.  They leave a gap, unless they were charged, or a part of this file was
    charged while it was the current file.
    """
    unread = {file for file, _ in new}
    known = {file.path.parent for file, _ in files if file not in unread}
    oldest: dict[Path, RecordFile] = {}
    for file, _ in new:
        if file.is_sealed and file.path.parent not in known:
            oldest.setdefault(file.path.parent, file)
    return oldest


def _complain_of_gap(oldest: Path, newest_before: str | None) -> None:
    if newest_before is not None and oldest.name > newest_before:
        complain(
            f"{escaped(str(oldest))} is the oldest file in its folder, and newer than all files "
            "that were charged: records may have been pruned before they were charged. Run this "
            "command more often, or raise LOG_MAX_FILES"
        )


def _digest(file: RecordFile) -> str | None:
    """Identifies a sealed file by its size, its beginning and its end, both full of request ids.

    A copy that is still being written later has another size or another end.  None for a file that
    grows or is gone, which must not be recorded.
    """
    if not file.is_sealed:
        return None
    try:
        with file.path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            digest = hashlib.sha256(b"%d\n" % size)
            digest.update(source.read(_SAMPLE_BYTES))
            source.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(source.read(_SAMPLE_BYTES))
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _show_result(args: argparse.Namespace, applied: _Applied, reading: Reading) -> None:
    keys = [{"key_id": key_id, **asdict(sums)} for key_id, sums in sorted(applied.keys.items())]
    tokens = sum(sums.tokens for sums in applied.keys.values())
    images = sum(sums.images for sums in applied.keys.values())
    cost = sum((sums.cost for sums in applied.keys.values()), Decimal(0))
    calls = applied.charged[Charged.CHARGED]
    other_counts = {
        "charged_before": applied.charged[Charged.BEFORE],
        "without_usage": applied.without_usage,
        "unknown_key": applied.charged[Charged.UNKNOWN_KEY],
        "no_price": applied.charged[Charged.NO_PRICE],
        "too_old": applied.charged[Charged.TOO_OLD],
        "unreadable": applied.unreadable,
        "failed": applied.failed,
    }
    lines = [
        f"{counted(applied.files)} read, {cell(applied.known_files)} read before",
        f"{counted(applied.records, 'record')} read",
        ", ".join(
            (
                f"{counted(calls, 'call')} charged",
                counted(tokens, "token"),
                counted(images, "picture"),
                f"{cell(cost)} USD",
            )
        ),
        *(
            f"{counted(count, 'call')} {_LABELS[name]}"
            for name, count in other_counts.items()
            if count
        ),
    ]
    if keys:
        cells = [[cell(value) for value in row.values()] for row in keys]
        lines += ["", output.listed(_HEADINGS, cells)]
    output.show(
        args,
        {
            "files": applied.files,
            "known_files": applied.known_files,
            "gone_files": reading.gone_files,
            "skipped_lines": reading.skipped_lines,
            "records": applied.records,
            "charged": calls,
            "tokens": tokens,
            "images": images,
            "cost": cost,
            **other_counts,
            "keys": keys,
        },
        *lines,
    )


_HEADINGS: Final = ("key", "calls", "tokens", "pictures", "cost USD", "without usage")
_LABELS: Final = {
    "charged_before": "charged before",
    "without_usage": "without usage, charged for its pictures alone",
    "unknown_key": "of unknown keys, not charged",
    "no_price": "without a price, not charged",
    "too_old": "too old to be charged",
    "unreadable": "with usage but without a valid id, key or time, not charged",
    "failed": "at which the control plane failed, not charged",
}
