"""The log records, read back from their files: which files there are, and what they hold.

A daemon goes on writing while somebody reads: it renames its current file when it seals it, and
removes the oldest ones.  So ``find`` takes down which file it saw behind each name, and ``read``
reads that one: a current file that was sealed since is followed to its new name, a pruned one is
told as gone, and no file is read twice.  Files are read line by line; a line that holds no record
is passed over and counted, whatever it is.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from image_gateway.edge.logs import CURRENT, SEALED

LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024
"""A record has a few KiB; what is longer than this is none."""
_CLOCK_STEP: Final = timedelta(hours=1)
"""How far a daemon's clock may have been set back between a call and the sealing of its file."""
_STAMP: Final = re.compile(r"requests-(\d{8}T\d{6}Z)-")


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One file as ``find`` saw it: ``size`` in bytes, ``identity`` its device and inode."""

    path: Path
    is_sealed: bool
    size: int
    identity: tuple[int, int]

    def may_hold(self, since: datetime | None) -> bool:
        """Whether a record from ``since`` on may be in it; a sealed file's name tells its end."""
        stamp = _STAMP.match(self.path.name)
        if since is None or not self.is_sealed or stamp is None:
            return True
        try:
            sealed = datetime.strptime(stamp[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:  # no such day: nobody's clock wrote that name
            return True
        return sealed + _CLOCK_STEP >= since


@dataclass(slots=True)
class Reading:
    """What a reading came across; one may serve many files."""

    read_bytes: int = 0
    skipped_lines: int = 0
    """Lines that hold no record: cut, broken, or too long."""
    gone_files: int = 0
    """Files that were there when looked for, and pruned before they were opened."""


def find(folders: Iterable[Path]) -> list[RecordFile]:
    """The record files in each folder and in its direct subfolders; each file once.

    In a folder sealed ones come first, oldest first.  A folder that is not there holds none.
    Raises ``OSError`` for one that cannot be read.
    """
    found: dict[tuple[int, int], RecordFile] = {}
    for folder in folders:
        for each in (folder, *_subfolders(folder)):
            for file in _files(each):
                found.setdefault(file.identity, file)
    return list(found.values())


def read(file: RecordFile, reading: Reading | None = None) -> Iterator[dict[str, Any]]:
    """The records of a file, in its order.  Raises ``OSError`` when it cannot be read.

    ``reading`` is told how far it came and what it passed over.
    """
    reading = reading or Reading()
    opened = _open(file)
    if opened is None:
        reading.gone_files += 1
        return
    with opened as source:
        while line := source.readline(LONGEST_LINE_BYTES):
            reading.read_bytes += len(line)
            if not line.endswith(b"\n") and len(line) == LONGEST_LINE_BYTES:
                _pass_over_rest(source, reading)
                reading.skipped_lines += 1
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                record = None
            if isinstance(record, dict):
                yield record
            else:
                reading.skipped_lines += 1


def _subfolders(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return []


def _files(folder: Path) -> list[RecordFile]:
    # The current file is looked at before the others are listed: one that is sealed in between is
    # then seen twice rather than not at all, and its identity tells.
    current = _look(folder / CURRENT, is_sealed=False)
    names: list[str] = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if fnmatch.fnmatchcase(entry.name, SEALED))
    looked = [_look(folder / name, is_sealed=True) for name in names]
    files = [file for file in looked if file is not None]
    return files if current is None else [*files, current]


def _look(path: Path, *, is_sealed: bool) -> RecordFile | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return RecordFile(path, is_sealed, state.st_size, (state.st_dev, state.st_ino))


def _open(file: RecordFile) -> BinaryIO | None:
    """The very file that was found, under its new name if it was sealed since."""
    opened = _open_if_same(file.path, file.identity)
    if opened is None and not file.is_sealed:
        for other in _files(file.path.parent):
            if other.is_sealed and other.identity == file.identity:
                return _open_if_same(other.path, file.identity)
    return opened


def _open_if_same(path: Path, identity: tuple[int, int]) -> BinaryIO | None:
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return None
    state = os.fstat(opened.fileno())
    if (state.st_dev, state.st_ino) == identity:
        return opened
    opened.close()
    return None


def _pass_over_rest(source: BinaryIO, reading: Reading) -> None:
    while line := source.readline(LONGEST_LINE_BYTES):
        reading.read_bytes += len(line)
        if line.endswith(b"\n"):
            return
