"""The log records, read back from their files: which files there are, and what they hold.

A daemon goes on writing while somebody reads: it renames its current file when it seals it, and
removes the oldest ones.  So ``find`` takes down which file it saw behind each name, and ``read``
reads that one: a current file that was sealed since is followed to its new name, a pruned one is
told as gone, and no file is read twice.  Files are read line by line; a line that holds no record
is passed over and counted, whatever it is.  A link that leads nowhere, or in a circle, is no file.
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
"""A record has a few KiB; what is longer than this is none."""
DEEPEST: Final = 16
"""A record is three levels deep; whoever walks one must not run out of stack."""
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
    """Lines that hold no record: cut, broken, too long, or too deep."""
    holes: int = 0
    """Those of them that hold NULs or are too long: so looks a file that is not all there yet."""
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
        inner = (each.values() if isinstance(each, dict) else each for each in level)
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
    # The current file is looked at before the others are listed: one that is sealed in between is
    # then seen twice rather than not at all, and its identity tells.
    current = _look(folder / CURRENT, is_sealed=False)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if fnmatch.fnmatchcase(entry.name, SEALED)]
    except OSError as error:
        _refuse_unless_absent(error)
        names = []
    looked = [_look(folder / name, is_sealed=True) for name in sorted(names)]
    files = [file for file in looked if file is not None]
    return files if current is None else [*files, current]


def _look(path: Path, *, is_sealed: bool) -> RecordFile | None:
    try:
        state = path.stat()
    except OSError as error:
        _refuse_unless_absent(error)
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return RecordFile(path, is_sealed, state.st_size, (state.st_dev, state.st_ino))


def _refuse_unless_absent(error: OSError) -> None:
    """Raises an error that does not say: not there, or a link that leads in a circle."""
    if error.errno not in {errno.ENOENT, errno.ELOOP}:
        raise error


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
    except OSError as error:
        _refuse_unless_absent(error)
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
