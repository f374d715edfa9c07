"""Usage: what calls cost, read from the log records and charged to their keys' quotas.

Every call is charged once, whatever happens.  Its ``request_id`` is the primary key of the charges,
and the quota changes in the statement that inserts it; so a run that ended in the midst, a second
one at the same time, or a copy of a file charges nothing twice, and what was not charged is charged
by the next run.  A sealed file that was read to its end is noted, only to save reading it again.
The current file of an instance is read each time, so that a quota is not a whole file behind.
"""

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from image_gateway import terminal
from image_gateway.control import telling
from image_gateway.control.telling import cell
from image_gateway.core import charges
from image_gateway.core.charges import Charge, Uncharged
from image_gateway.edge import record_files
from image_gateway.edge.record_files import Reading, RecordFile
from image_gateway.edge.standalone import Standalone
from image_gateway.terminal import Progress, complain_of, counted, find_files

_BATCH: Final = 1000
"""Calls of one transaction: it holds their keys' rows for some milliseconds."""
_SAMPLE_BYTES: Final = 64 * 1024


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``usage`` on the command line."""
    usage = kinds.add_parser("usage", help="what calls cost")
    commands = usage.add_subparsers(required=True, metavar="COMMAND")
    apply = telling.add_command(
        commands, "apply", _apply, "charge the tokens of the log records to their keys, each once"
    )
    terminal.add_dir(apply)


@dataclass(slots=True)
class _Applied:
    """What a run did."""

    files: int = 0
    known_files: int = 0
    records: int = 0
    uncharged: Counter[Uncharged] = field(default_factory=Counter)
    charged: int = 0
    charged_before: int = 0
    unknown_key: int = 0
    too_old: int = 0
    keys: dict[str, list[int]] = field(default_factory=dict)
    """Of each key that was charged: calls, tokens, pictures."""


def _apply(plane: Standalone, given: argparse.Namespace) -> None:
    applied, reading = _Applied(), Reading()
    files = [(file, _digest(file)) for file in find_files(given)]
    new = [(file, digest) for file, digest in files if not (digest and plane.is_charged(digest))]
    applied.known_files = len(files) - len(new)
    with Progress(sum(file.size for file, _ in new)) as progress:
        for file, digest in new:
            gone_before = reading.gone_files
            for batch in _batches(file, reading, applied):
                _charge(plane, batch, applied)
                progress.show(reading.read_bytes)
            if reading.gone_files == gone_before:
                applied.files += 1
                if digest is not None:
                    plane.note_charged(digest, file.path.name)
    plane.forget_charges()
    complain_of(reading)
    _tell(given, applied, reading)


def _batches(file: RecordFile, reading: Reading, applied: _Applied) -> Iterator[list[Charge]]:
    """The charges of a file; the last batch may be empty."""
    batch: list[Charge] = []
    for record in record_files.read(file, reading):
        applied.records += 1
        found = charges.of(record)
        if isinstance(found, Uncharged):
            applied.uncharged[found] += 1
        else:
            batch.append(found)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _charge(plane: Standalone, batch: Sequence[Charge], applied: _Applied) -> None:
    if not batch:
        return
    known = plane.charge(batch)
    for each in known:
        applied.charged += each.calls
        applied.too_old += each.old_calls
        if each.calls:
            sums = applied.keys.setdefault(each.key_id, [0, 0, 0])
            for at, number in enumerate((each.calls, each.tokens, each.images)):
                sums[at] += number
    names = {each.key_id for each in known}
    unknown = sum(charge.key_id not in names for charge in batch)
    applied.unknown_key += unknown
    applied.charged_before += (
        len(batch) - unknown - sum(each.calls + each.old_calls for each in known)
    )


def _digest(file: RecordFile) -> str | None:
    """What tells a sealed file from all others: its size and its beginning, full of requests' ids.

    A copy that is still being written has another size later.  None for a file that grows or is
    gone: it is not to be noted.
    """
    if not file.is_sealed:
        return None
    try:
        with file.path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            found = hashlib.sha256(b"%d\n" % size)
            found.update(source.read(_SAMPLE_BYTES))
    except FileNotFoundError:
        return None
    return found.hexdigest()


def _tell(given: argparse.Namespace, applied: _Applied, reading: Reading) -> None:
    keys = [
        {"key_id": key_id, "calls": calls, "tokens": tokens, "images": images}
        for key_id, (calls, tokens, images) in sorted(applied.keys.items())
    ]
    tokens = sum(row[1] for row in applied.keys.values())
    apart = {
        "charged_before": applied.charged_before,
        "without_usage": applied.uncharged[Uncharged.WITHOUT_USAGE],
        "unknown_key": applied.unknown_key,
        "too_old": applied.too_old,
        "unreadable": applied.uncharged[Uncharged.UNREADABLE],
    }
    lines = [
        f"{counted(applied.files)} read, {cell(applied.known_files)} known already",
        f"{counted(applied.records, 'record')} read",
        f"{counted(applied.charged, 'call')} charged, {counted(tokens, 'token')}",
        *(f"{counted(count, 'call')} {_WORDS[name]}" for name, count in apart.items() if count),
    ]
    if keys:
        shown = [[cell(value) for value in row.values()] for row in keys]
        lines += ["", telling.listed(("key", "calls", "tokens", "images"), shown)]
    telling.tell(
        given,
        {
            "files": applied.files,
            "known_files": applied.known_files,
            "gone_files": reading.gone_files,
            "skipped_lines": reading.skipped_lines,
            "records": applied.records,
            "charged": applied.charged,
            "tokens": tokens,
            **apart,
            "keys": keys,
        },
        *lines,
    )


_WORDS: Final = {
    "charged_before": "charged before",
    "without_usage": "without usage, charged nothing",
    "unknown_key": "of keys that are not there, charged to nobody",
    "too_old": "too old to be charged",
    "unreadable": "with usage, but without an id, a key or a time",
}
