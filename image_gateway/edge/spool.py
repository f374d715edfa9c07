"""Bodies that wait: in memory up to 1 MiB, beyond that in unnamed files.

A file never has a name (``O_TMPFILE``), so the kernel frees it however the process ends.  Disk work
runs on threads of its own.  Memory is held as the chunks that came: nothing is joined or copied on
its way to the disk.  A body is written in pieces of 1 MiB, or smaller ones while many answers
arrive at once, and read in pieces of 192 KiB; a plain span of a file can go to a socket without
being read (``FileSpan``).  Bytes are charged to two budgets, memory and disk, as they arrive.

One task writes; any number read meanwhile what was written so far.

A request's body is refused once a budget is used up.  An upstream's response is always accepted, in
memory if the disk fails: it has been paid for.
"""

import asyncio
import base64
import errno
import logging
import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.base64_text import Base64Decoder
from image_gateway.core.codec.body_segments import Body, Decoded, Encoded, Span
from image_gateway.edge import file_span
from image_gateway.edge.disk_threads import DiskThreads
from image_gateway.edge.file_span import FileSpan

MEMORY_BYTES: Final = 1024 * 1024
"""A request's body up to this size never touches the disk."""

CROWDED_BYTES: Final = 16 * 1024 * 1024
"""While all spools together hold more memory than this, an answer holds ``_CROWDED_PIECE``: 200
that arrive together would hold a MiB each."""

_CROWDED_PIECE: Final = 128 * 1024

_SMALL_BYTES: Final = 16 * 1024
"""Chunks are joined up to this size, so that a body that comes byte by byte is no long list."""

_READ_BYTES: Final = 192 * 1024
"""A multiple of three, so that the base64 of the pieces joins to the base64 of the body."""
_MOST_VECTORS: Final = 1024
"""``IOV_MAX`` of Linux."""

_WARNING_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class SpoolFullError(Exception):
    """Nothing more can be spooled: a budget is used up or the disk is full."""


class ByteBudget:
    """Bytes that all calls together may hold."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __repr__(self) -> str:
        return f"<ByteBudget {self.used} of {self.limit}>"

    def take(self, count: int, *, must: bool = False) -> None:
        """Charge ``count`` bytes; raises ``SpoolFullError`` past the limit, but not if ``must``."""
        if self.used + count > self.limit and not must:
            raise SpoolFullError
        self.used += count

    def give_back(self, count: int) -> None:
        """Return ``count`` bytes that were taken."""
        self.used -= count


class Spools:
    """What all spools share: folder, budgets, threads."""

    def __init__(self, folder: Path, memory_bytes: int, disk_bytes: int) -> None:
        self.folder = folder
        self.memory = ByteBudget(memory_bytes)
        self.disk = ByteBudget(disk_bytes)
        self.threads = DiskThreads()
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Spools memory={self.memory} disk={self.disk}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.threads.end()

    def open(self, *, paid: bool = False, folder: Path | None = None) -> "Spool":
        """An empty spool; close it by ``with``.

        ``paid``: it ignores the budgets' limits.  ``folder``: where its file lies if not with the
        others.
        """
        return Spool(self, folder or self.folder, paid=paid)

    def report(self, error: BaseException) -> None:
        """Warn that the disk failed, once a minute: to clients it looks like a full budget."""
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + _WARNING_SECONDS
        _log.warning(
            "a body cannot be written to disk: %s. Requests over 1 MiB get 503 and answers stay in "
            "memory until it can. Check that SPOOL_DIR is there and that its disk has room",
            getattr(error, "strerror", None) or type(error).__name__,
        )


class Spool:
    """One body, written once from front to back, played any number of times."""

    def __init__(self, spools: Spools, folder: Path, *, paid: bool = False) -> None:
        self._spools = spools
        self._folder = folder
        self._paid = paid
        self._disk_failed = False
        self._chunks: list[bytes] = []
        """What comes after the file's part, and where in the body each chunk starts."""
        self._starts: list[int] = []
        self._size = 0
        self._file: int | None = None
        self._on_disk = 0
        self._writing: asyncio.Future[int] | None = None
        self._charged_to_disk = 0
        self._jobs = 0
        """Jobs that use the file."""
        self._closed = False

    def __repr__(self) -> str:
        place = "memory" if self._file is None else "file"
        return f"<Spool {self.size} bytes, {place}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._size

    async def write(self, chunk: bytes) -> None:
        """Append; raises ``SpoolFullError``, but not in a spool that is ``paid``."""
        self._spools.memory.take(len(chunk), must=self._paid)
        is_small = self._chunks and len(self._chunks[-1]) + len(chunk) <= _SMALL_BYTES
        # A thread may be at work with the chunks of a writer that was cancelled.
        if is_small and self._writing is None:
            self._chunks[-1] += chunk
        elif chunk:
            self._chunks.append(chunk)
            self._starts.append(self._size)
        self._size += len(chunk)
        if self._size - self._on_disk > self._most_in_memory():
            if self._paid and self._disk_failed:
                return
            try:
                await self._flush()
            except OSError as error:
                if not self._paid:
                    raise SpoolFullError from error

    def _most_in_memory(self) -> int:
        is_crowded = self._paid and self._spools.memory.used > CROWDED_BYTES
        return min(_CROWDED_PIECE, MEMORY_BYTES) if is_crowded else MEMORY_BYTES

    async def to_file(self) -> int:
        """Give all that was written a file, whatever its size; its descriptor.

        The spool owns the descriptor: it is valid while the spool is open.  ``name_file`` gives
        such a file a name.  Raises ``SpoolFullError`` if the disk takes no more; nothing is lost
        then.
        """
        try:
            while self._file is None or self._on_disk < self._size:
                await self._flush()
        except OSError as error:
            raise SpoolFullError from error
        return self._file

    async def _flush(self) -> None:
        """Move what memory holds to the file; raises ``SpoolFullError`` and ``OSError``."""
        if self._closed:
            raise ValueError("the spool is closed")
        if self._writing is not None:
            # Another reader's, or that of a writer that was cancelled.
            await asyncio.wait([self._writing])
            return
        if self._disk_failed:
            raise OSError(errno.EIO, "the disk has failed before")
        chunks, count = tuple(self._chunks), self._size - self._on_disk
        self._spools.disk.take(count, must=self._paid)
        self._charged_to_disk += count
        file, folder, offset = self._file, self._folder, self._on_disk
        common = self._spools.folder
        self._jobs += 1
        self._writing = self._spools.threads.start(
            lambda: _write_out(file, (folder, common), chunks, offset)
        )
        self._writing.add_done_callback(lambda job: self._end_writing(job, len(chunks), count))
        await asyncio.shield(self._writing)

    def _end_writing(self, job: "asyncio.Future[int]", chunks: int, count: int) -> None:
        # As a callback, because the writer may have been cancelled meanwhile.
        self._writing = None
        error = job.exception()
        if error is None:
            self._file = job.result()
            if not self._closed:
                self._spools.memory.give_back(count)
                self._on_disk += count
                del self._chunks[:chunks], self._starts[:chunks]
        else:
            self._spools.report(error)
            self._disk_failed = True
            if not self._closed:
                self._spools.disk.give_back(count)
                self._charged_to_disk -= count
        self._end_job()

    def whole(self) -> "SpooledBody":
        """All that was written, as a body."""
        return self.hold((Span(0, self.size),))

    def hold(self, segments: Body) -> "SpooledBody":
        """A body whose spans are in this spool, together with the spool."""
        return SpooledBody(self, segments)

    async def outgoing(self, segments: Body) -> AsyncIterator[bytes | FileSpan]:
        """As ``play``, but a large plain span that lies in the file comes as its place there.

        What is still in memory of a body that has a file is written to it first: a client that
        reads slowly then holds no memory.
        """
        for segment in segments:
            is_large = isinstance(segment, Span) and file_span.is_large(segment.length)
            if not isinstance(segment, Span) or not is_large or self._file is None:
                async for piece in self.play((segment,)):
                    yield piece
                continue
            if segment.stop > self._on_disk:
                with suppress(SpoolFullError):
                    await self.to_file()
            middle = min(max(segment.start, self._on_disk), segment.stop)
            if middle > segment.start:
                yield FileSpan(self, segment.start, middle)
            async for piece in self.pieces(middle, segment.stop):
                yield piece

    async def play(self, segments: Body) -> AsyncIterator[bytes]:
        """The bytes of a body whose spans are in this spool."""
        for segment in segments:
            if isinstance(segment, bytes):
                yield segment
            elif isinstance(segment, Span):
                async for piece in self.pieces(segment.start, segment.stop):
                    yield piece
            elif isinstance(segment, Encoded):
                async for piece in self.pieces(segment.span.start, segment.span.stop):
                    yield base64.b64encode(piece)
            else:
                async for piece in self._decoded(segment):
                    yield piece

    async def _decoded(self, segment: Decoded) -> AsyncIterator[bytes]:
        decoder = Base64Decoder()
        async for piece in self.pieces(segment.span.start, segment.span.stop):
            yield decoder.feed(piece)
        yield decoder.close()

    async def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` to ``stop``, wherever they are."""
        while start < stop:
            end = min(stop, start + _READ_BYTES)
            yield await self._read(start, end)
            start = end

    async def _read(self, start: int, stop: int) -> bytes:
        # Memory first: while a thread reads, what is there may move to the file.
        pieces = self._from_memory(start, stop)
        if start < self._on_disk and self._file is not None:
            file, count = self._file, min(stop, self._on_disk) - start
            pieces.insert(0, await self._run(lambda: os.pread(file, count, start)))
        return b"".join(pieces)

    def _from_memory(self, start: int, stop: int) -> list[bytes]:
        pieces: list[bytes] = []
        start = max(start, self._on_disk)
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            first = start - self._starts[index]
            piece = self._chunks[index][first : first + stop - start]
            pieces.append(piece)
            start += len(piece)
            index += 1
        return pieces

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """As ``FileSpan.send``."""
        file = self._file
        if file is None:
            raise RuntimeError("the spool has no file")
        return await self._run(lambda: os.sendfile(descriptor, file, start, stop - start))

    async def _run(self, job: Callable[[], _T]) -> _T:
        # A caller that is cancelled leaves the thread at work.  The descriptor must not be closed
        # meanwhile, or the kernel gives it to another file: ``_close_file`` waits for all jobs.
        self._jobs += 1
        return await self._spools.threads.run(job, ended=self._end_job)

    def _end_job(self) -> None:
        self._jobs -= 1
        self._close_file()

    def close(self) -> None:
        """Free memory, disk and descriptor; safe to call twice and while threads work."""
        self._spools.memory.give_back(self._size - self._on_disk)
        self._spools.disk.give_back(self._charged_to_disk)
        self._chunks, self._starts = [], []
        self._size = self._on_disk = self._charged_to_disk = 0
        self._closed = True
        self._close_file()

    def _close_file(self) -> None:
        if self._closed and not self._jobs and self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True, slots=True)
class SpooledBody:
    """A body and the spool that holds its spans."""

    spool: Spool
    body: Body

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return body_segments.length(self.body)

    @property
    def is_whole(self) -> bool:
        """Whether it is all that its spool holds, unchanged."""
        return self.body == (Span(0, self.spool.size),)

    def play(self) -> AsyncIterator[bytes]:
        """The bytes; may be called again while the spool is open."""
        return self.spool.play(self.body)

    def outgoing(self) -> AsyncIterator[bytes | FileSpan]:
        """The bytes, or where they lie; see ``Spool.outgoing``."""
        return self.spool.outgoing(self.body)


@dataclass(frozen=True, slots=True)
class JoinedBody:
    """A body whose parts lie in several spools."""

    parts: Sequence[SpooledBody]

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return sum(part.length for part in self.parts)

    async def play(self) -> AsyncIterator[bytes]:
        """The bytes; may be called again while all of the spools are open."""
        for part in self.parts:
            async for piece in part.play():
                yield piece

    async def outgoing(self) -> AsyncIterator[bytes | FileSpan]:
        """The bytes, or where they lie; see ``Spool.outgoing``."""
        for part in self.parts:
            async for piece in part.outgoing():
                yield piece


def _unnamed_file(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except IsADirectoryError:
        pass  # A kernel that does not know O_TMPFILE sees only its O_DIRECTORY bit.
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a file system without O_TMPFILE
            raise
    file, name = tempfile.mkstemp(prefix="image-gateway-", dir=folder)
    os.unlink(name)  # noqa: PTH108 - mkstemp gives a str
    return file


def name_file(file: int, path: Path) -> None:
    """Give an unnamed file a name in its file system; blocks.

    Raises ``OSError``, ``FileNotFoundError`` also where the file system knows no ``O_TMPFILE``.
    """
    # ``os.link`` follows a symbolic link only if it is given a folder (Python 3.11 to 3.13); the
    # folder itself does not matter, as the path is absolute.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{file}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _write_out(
    file: int | None, folders: tuple[Path, Path], chunks: Sequence[bytes], offset: int
) -> int:
    """Write the chunks, to a new file if there is none; the file.

    A new one lies in the first of the folders, or in the second if the first cannot be used.
    """
    if file is None:
        first, second = folders
        if first != second:
            with suppress(OSError):
                return _write_new(first, chunks)
        return _write_new(second, chunks)
    _write_all(file, chunks, offset)
    return file


def _write_new(folder: Path, chunks: Sequence[bytes]) -> int:
    descriptor = _unnamed_file(folder)
    try:
        _write_all(descriptor, chunks, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(file: int, chunks: Sequence[bytes], offset: int) -> None:
    for first in range(0, len(chunks), _MOST_VECTORS):
        group: list[bytes | memoryview] = list(chunks[first : first + _MOST_VECTORS])
        while group:
            count = os.pwritev(file, group, offset)
            offset += count
            while group and count >= len(group[0]):
                count -= len(group.pop(0))
            if group:
                group[0] = memoryview(group[0])[count:]
