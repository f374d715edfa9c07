"""A picture that is kept behind the answer that has its address; it can be read without a key."""

import os
from dataclasses import dataclass
from typing import Final, Self

from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.kept.disk import Disk
from image_gateway.edge.kept.entry import KeptEntry
from image_gateway.edge.kept.open_file import OpenFile

_HEAD_BYTES: Final = 256
"""More than any signature of a picture has."""


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """An open picture; ``close`` it, or use ``with``.

    It is readable even if its call is forgotten meanwhile.  ``length`` is its size in bytes,
    ``head`` its first ones.  ``expires_at``, in seconds since 1970, is when its call is not kept
    any more.
    """

    length: int
    head: bytes
    expires_at: float
    _start: int
    _file: OpenFile

    def __repr__(self) -> str:
        return f"<KeptPicture {self.length} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def part(self, start: int, stop: int) -> FileSpan:
        """The bytes from ``start`` to before ``stop``."""
        return FileSpan(self._file, self._start + start, self._start + stop)

    def close(self) -> None:
        """Free the descriptor; safe to call twice."""
        self._file.close()


def open_picture(disk: Disk, entry: KeptEntry, index: int) -> KeptPicture | None:
    """A picture of a call, blocking; None if there is none of this index.  Raises ``OSError``."""
    if entry.ended_at is None or index >= len(entry.pictures):
        return None
    call_id, sizes = entry.identity.call_id, entry.pictures
    file = disk.folder.open_answer(call_id, entry.length + sum(sizes))
    if file is None:
        return None
    start = entry.length + sum(sizes[:index])
    try:
        head = os.pread(file, min(_HEAD_BYTES, sizes[index]), start)
    except BaseException:
        os.close(file)
        raise
    expires_at = entry.ended_at + disk.keep_seconds
    return KeptPicture(sizes[index], head, expires_at, start, OpenFile(disk.threads, file))


def close(picture: KeptPicture | None) -> None:
    """Close what nobody waits for any more."""
    if picture is not None:
        picture.close()
