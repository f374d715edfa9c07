"""The log records, read back from their files: which files exist, and what they hold.

A daemon writes during the read: it renames its current file when it seals it, and removes the
oldest ones.  So ``find`` notes the inode behind each name, and ``read`` reads that file: a current
file that was sealed since is followed to its new name, a removed one is counted as gone, and no
file is read twice.  Files are read line by line; a line that does not hold a record is skipped and
counted.  A symbolic link that leads nowhere or in a circle does not count as a file.
"""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from image_gateway.edge.records.writer import CURRENT, SEALED

LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024
"""A record has a few KiB; a longer line is not a record."""
DEEPEST: Final = 16
"""A record is four levels deep; code that walks one must not run out of stack."""
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
        """Whether it may hold a record from ``since`` on; a sealed file's name gives its end."""
        stamp = _STAMP.match(self.path.name)
        if since is None or not self.is_sealed or stamp is None:
            return True
        try:
            sealed = datetime.strptime(stamp[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:  # no such date: the daemon did not write that name
            return True
        return sealed + _CLOCK_STEP >= since


@dataclass(slots=True)
class Reading:
    """Counts of what was read; one object may count for many files."""

    read_bytes: int = 0
    skipped_lines: int = 0
    """Lines that do not hold a record: cut, broken, too long, or too deep."""
    holes: int = 0
    """Those of them that hold NULs or are too long, as in a file that is still being copied."""
    gone_files: int = 0
    """Files that ``find`` saw and that were removed before they were opened."""


def find(folders: Iterable[Path]) -> list[RecordFile]:
    """The record files in each folder and in its direct subfolders; each file once.

    In each folder sealed ones come first, oldest first.  A folder that does not exist holds none.
    Raises ``OSError`` for one that cannot be read.
    """
    by_identity: dict[tuple[int, int], RecordFile] = {}
    for parent in folders:
        for folder in (parent, *_subfolders(parent)):
            for file in _files(folder):
                by_identity.setdefault(file.identity, file)
    return list(by_identity.values())


def read(file: RecordFile, reading: Reading | None = None) -> Iterator[dict[str, Any]]:
    """The records of a file, in its order.  Raises ``OSError`` when it cannot be read.

    ``reading`` counts the bytes read and the lines skipped.
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
                _skip_rest_of_line(source, reading)
                reading.skipped_lines += 1
                reading.holes += 1
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                record = None
            if isinstance(record, dict) and _is_flat(line, record):
                yield record
            else:
                reading.skipped_lines += 1
                reading.holes += b"\0" in line


def _is_flat(line: bytes, record: dict[str, Any]) -> bool:
    """Whether a record is at most ``DEEPEST`` levels deep; most lines lack the brackets."""
    if line.count(b"[") + line.count(b"{") <= DEEPEST:
        return True
    level: list[Any] = [record]
    for _ in range(DEEPEST):
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    return not level


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if _is_folder(entry))
    except OSError as error:
        _refuse_unless_absent(error)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        _refuse_unless_absent(error)
        return False


def _files(folder: Path) -> list[RecordFile]:
    # The current file before the sealed ones: a file that is sealed in between is then seen twice
    # rather than not at all, and its identity shows it.
    current = _stat(folder / CURRENT, is_sealed=False)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if fnmatch.fnmatchcase(entry.name, SEALED)]
    except OSError as error:
        _refuse_unless_absent(error)
        names = []
    sealed = [_stat(folder / name, is_sealed=True) for name in sorted(names)]
    return [file for file in (*sealed, current) if file is not None]


def _stat(path: Path, *, is_sealed: bool) -> RecordFile | None:
    try:
        state = path.stat()
    except OSError as error:
        _refuse_unless_absent(error)
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return RecordFile(path, is_sealed, state.st_size, (state.st_dev, state.st_ino))


def _refuse_unless_absent(error: OSError) -> None:
    """Raise the error unless it means: does not exist, or a symbolic link in a circle."""
    if error.errno not in {errno.ENOENT, errno.ELOOP}:
        raise error


def _open(file: RecordFile) -> BinaryIO | None:
    """The file that ``find`` saw, under its new name if it was sealed since; None if it is gone."""
    opened = _open_if_same(file.path, file.identity)
    if opened is None and not file.is_sealed:
        for sibling in _files(file.path.parent):
            if sibling.is_sealed and sibling.identity == file.identity:
                return _open_if_same(sibling.path, file.identity)
    return opened


def _open_if_same(path: Path, identity: tuple[int, int]) -> BinaryIO | None:
    try:
        opened = path.open("rb")
    except OSError as error:
        _refuse_unless_absent(error)
        return None
    state = os.fstat(opened.fileno())
    if (state.st_dev, state.st_ino) == identity:
        return opened
    opened.close()
    return None


def _skip_rest_of_line(source: BinaryIO, reading: Reading) -> None:
    while line := source.readline(LONGEST_LINE_BYTES):
        reading.read_bytes += len(line)
        if line.endswith(b"\n"):
            return
