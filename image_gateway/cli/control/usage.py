"""Usage: the tokens of calls, read from the log records and charged to the quotas of their keys.

Every call is charged once, whatever happens.  Its ``request_id`` is the primary key of the charges,
and the statement that inserts the charge also changes the quota.  So a run that was interrupted, a
second run at the same time, or a copy of a file charges nothing twice, and the next run charges
what was left.  A sealed file that was read to its end is recorded, only to save reading it again.
The current file of an instance is read each time, so that a quota is not a whole file behind.  A
file that may be incomplete is not recorded: a copy may have its size and its beginning before it
has its end.
"""

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from image_gateway.cli import log_files, output
from image_gateway.cli.control import arguments
from image_gateway.cli.log_files import complain_of, find_files
from image_gateway.cli.output import Progress, cell, complain, counted, escaped
from image_gateway.core.records import charges
from image_gateway.core.records.charges import Charge, Uncharged
from image_gateway.edge.postgres.standalone import Standalone
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

_BATCH: Final = 1000
"""Calls in one transaction, which locks the rows of their keys for some milliseconds."""
_SAMPLE_BYTES: Final = 64 * 1024


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``usage`` on the command line."""
    usage = kinds.add_parser("usage", help="charge calls to quotas")
    commands = usage.add_subparsers(required=True, metavar="COMMAND")
    apply = arguments.add_command(
        commands, "apply", _apply, "charge the tokens in the log records to their keys, once each"
    )
    log_files.add_dir(apply)


@dataclass(slots=True)
class _Applied:
    """The counts of a run."""

    files: int = 0
    known_files: int = 0
    records: int = 0
    uncharged: Counter[Uncharged] = field(default_factory=Counter)
    charged: int = 0
    charged_before: int = 0
    unknown_key: int = 0
    too_old: int = 0
    keys: dict[str, list[int]] = field(default_factory=dict)
    """For each key: calls, tokens and pictures charged, and calls read that have no usage."""

    def of_key(self, key_id: str) -> list[int]:
        """The sums of a key, which start at zero."""
        return self.keys.setdefault(key_id, [0, 0, 0, 0])


def _apply(plane: Standalone, args: argparse.Namespace) -> None:
    applied, reading = _Applied(), Reading()
    files = [(file, _digest(file)) for file in find_files(args)]
    new = [(file, digest) for file, digest in files if not (digest and plane.is_charged(digest))]
    applied.known_files = len(files) - len(new)
    newest_before = plane.newest_charged_file()
    unknown = _unknown_folders(files, new)
    with Progress(sum(file.size for file, _ in new)) as progress:
        for file, digest in new:
            gone_before, holes_before = reading.gone_files, reading.holes
            charged_before = applied.charged_before
            for batch in _batches(file, reading, applied, progress):
                _charge(plane, batch, applied)
            if reading.gone_files == gone_before:
                applied.files += 1
                if digest is not None and reading.holes == holes_before:
                    plane.note_charged(digest, file.path.name)
            if unknown.get(file.path.parent) is file and applied.charged_before == charged_before:
                _complain_of_gap(file.path, newest_before)
    plane.forget_charges()
    complain_of(reading)
    _show_row(args, applied, reading)


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


def _batches(
    file: RecordFile, reading: Reading, applied: _Applied, progress: Progress
) -> Iterator[list[Charge]]:
    """The charges of a file; the last batch may be empty."""
    batch: list[Charge] = []
    for record in reader.read(file, reading):
        progress.show(reading.read_bytes)
        applied.records += 1
        charge = charges.of(record)
        if isinstance(charge, Uncharged):
            applied.uncharged[charge] += 1
            key_id = record.get("key_id")
            if charge is Uncharged.WITHOUT_USAGE and isinstance(key_id, str):
                applied.of_key(key_id)[-1] += 1
        else:
            batch.append(charge)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _charge(plane: Standalone, batch: Sequence[Charge], applied: _Applied) -> None:
    if not batch:
        return
    keys = plane.charge(batch)
    for key in keys:
        applied.charged += key.calls
        applied.too_old += key.old_calls
        if key.calls:
            sums = applied.of_key(key.key_id)
            for index, number in enumerate((key.calls, key.tokens, key.images)):
                sums[index] += number
    key_ids = {key.key_id for key in keys}
    unknown = sum(charge.key_id not in key_ids for charge in batch)
    applied.unknown_key += unknown
    applied.charged_before += len(batch) - unknown - sum(key.calls + key.old_calls for key in keys)


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


def _show_row(args: argparse.Namespace, applied: _Applied, reading: Reading) -> None:
    keys = [
        {"key_id": key_id, **dict(zip(_SUMS, sums, strict=True))}
        for key_id, sums in sorted(applied.keys.items())
    ]
    tokens = sum(row[1] for row in applied.keys.values())
    other_counts = {
        "charged_before": applied.charged_before,
        "without_usage": applied.uncharged[Uncharged.WITHOUT_USAGE],
        "unknown_key": applied.unknown_key,
        "too_old": applied.too_old,
        "unreadable": applied.uncharged[Uncharged.UNREADABLE],
    }
    lines = [
        f"{counted(applied.files)} read, {cell(applied.known_files)} read before",
        f"{counted(applied.records, 'record')} read",
        f"{counted(applied.charged, 'call')} charged, {counted(tokens, 'token')}",
        *(
            f"{counted(count, 'call')} {_LABELS[name]}"
            for name, count in other_counts.items()
            if count
        ),
    ]
    if keys:
        cells = [[cell(value) for value in row.values()] for row in keys]
        headings = ("key", *(name.replace("_", " ") for name in _SUMS))
        lines += ["", output.listed(headings, cells)]
    output.show(
        args,
        {
            "files": applied.files,
            "known_files": applied.known_files,
            "gone_files": reading.gone_files,
            "skipped_lines": reading.skipped_lines,
            "records": applied.records,
            "charged": applied.charged,
            "tokens": tokens,
            **other_counts,
            "keys": keys,
        },
        *lines,
    )


_SUMS: Final = ("calls", "tokens", "images", "without_usage")
_LABELS: Final = {
    "charged_before": "charged before",
    "without_usage": "without usage, charged nothing",
    "unknown_key": "of unknown keys, not charged",
    "too_old": "too old to be charged",
    "unreadable": "with usage but without a valid id, key or time, not charged",
}
