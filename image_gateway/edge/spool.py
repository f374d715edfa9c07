"""Bodies that wait: in memory up to 1 MiB, beyond that in unnamed files.

A file never has a name (``O_TMPFILE``), so the kernel frees it however the process ends.  Disk work
runs on threads of its own; a body is written in pieces of 1 MiB and read in pieces of 192 KiB.
Bytes are charged to two budgets, memory and disk, as they arrive.

A request's body is refused once a budget is used up.  An upstream's response is always accepted, in
memory if the disk fails: it has been paid for.
"""

import asyncio
import base64
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.base64_text import Base64Decoder
from image_gateway.core.codec.body_segments import Body, Decoded, Encoded, Span

MEMORY_BYTES: Final = 1024 * 1024
"""A body up to this size never touches the disk."""

_READ_BYTES: Final = 192 * 1024
"""A multiple of three, so that the base64 of the pieces joins to the base64 of the body."""
_THREADS: Final = 4

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
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")

    def __repr__(self) -> str:
        return f"<Spools memory={self.memory} disk={self.disk}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.threads.shutdown()

    def open(self, *, paid: bool = False) -> "Spool":
        """An empty spool; close it by ``with``.  ``paid``: it ignores the budgets' limits."""
        return Spool(self, paid=paid)


class Spool:
    """One body, written once from front to back, played any number of times."""

    def __init__(self, spools: Spools, *, paid: bool = False) -> None:
        self._spools = spools
        self._paid = paid
        self._disk_failed = False
        self._memory = bytearray()
        self._file: int | None = None
        self._on_disk = 0
        self._jobs: set[asyncio.Future[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        place = "memory" if self._file is None else "file"
        return f"<Spool {self.size} bytes, {place}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._on_disk + len(self._memory)

    async def write(self, chunk: bytes) -> None:
        """Append; raises ``SpoolFullError``, but not in a spool that is ``paid``."""
        self._spools.memory.take(len(chunk), must=self._paid)
        self._memory += chunk
        if len(self._memory) > MEMORY_BYTES and not self._disk_failed:
            await self._flush()

    async def _flush(self) -> None:
        piece = bytes(self._memory)
        self._spools.disk.take(len(piece), must=self._paid)
        offset, self._on_disk = self._on_disk, self._on_disk + len(piece)
        self._memory.clear()
        try:
            if self._file is None:
                await self._run(lambda: _unnamed_file(self._spools.folder), self._keep_file)
            file = self._file
            if file is not None:
                await self._run(lambda: _write_all(file, piece, offset))
        except OSError as error:
            if not self._paid:
                raise SpoolFullError from error
            self._disk_failed = True
            self._on_disk = offset
            self._spools.disk.give_back(len(piece))
            self._spools.memory.take(len(piece), must=True)
            self._memory[:0] = piece
        finally:
            self._spools.memory.give_back(len(piece))

    def whole(self) -> "SpooledBody":
        """All that was written, as a body."""
        return self.hold((Span(0, self.size),))

    def hold(self, segments: Body) -> "SpooledBody":
        """A body whose spans are in this spool, together with the spool."""
        return SpooledBody(self, segments)

    async def play(self, segments: Body) -> AsyncIterator[bytes]:
        """The bytes of a body whose spans are in this spool."""
        for segment in segments:
            if isinstance(segment, bytes):
                yield segment
            elif isinstance(segment, Span):
                async for piece in self._pieces(segment):
                    yield piece
            elif isinstance(segment, Encoded):
                async for piece in self._pieces(segment.span):
                    yield base64.b64encode(piece)
            else:
                async for piece in self._decoded(segment):
                    yield piece

    async def _decoded(self, segment: Decoded) -> AsyncIterator[bytes]:
        decoder = Base64Decoder()
        async for piece in self._pieces(segment.span):
            yield decoder.feed(piece)
        yield decoder.close()

    async def _pieces(self, span: Span) -> AsyncIterator[bytes]:
        position = span.start
        while position < span.stop:
            stop = min(span.stop, position + _READ_BYTES)
            yield await self._read(position, stop)
            position = stop

    async def _read(self, start: int, stop: int) -> bytes:
        pieces: list[bytes] = []
        if start < self._on_disk and self._file is not None:
            file, count = self._file, min(stop, self._on_disk) - start
            pieces.append(await self._run(lambda: os.pread(file, count, start)))
        if stop > self._on_disk:
            first = max(start - self._on_disk, 0)
            pieces.append(bytes(self._memory[first : stop - self._on_disk]))
        return b"".join(pieces)

    def _keep_file(self, opened: "asyncio.Future[int]") -> None:
        if not opened.cancelled() and opened.exception() is None:
            self._file = opened.result()

    async def _run(
        self, job: Callable[[], _T], done: Callable[[asyncio.Future[_T]], None] | None = None
    ) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._spools.threads, job)
        self._jobs.add(future)
        if done is not None:
            future.add_done_callback(done)
        future.add_done_callback(self._end_job)
        # A caller that is cancelled leaves the thread at work.  The descriptor must not be closed
        # meanwhile, or the kernel gives it to another file: ``_close_file`` waits for all jobs.
        return await asyncio.shield(future)

    def _end_job(self, job: "asyncio.Future[Any]") -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            job.exception()
        self._close_file()

    def close(self) -> None:
        """Free memory, disk and descriptor; safe to call twice and while threads work."""
        self._spools.memory.give_back(len(self._memory))
        self._spools.disk.give_back(self._on_disk)
        self._memory = bytearray()
        self._on_disk = 0
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

    def play(self) -> AsyncIterator[bytes]:
        """The bytes; may be called again while the spool is open."""
        return self.spool.play(self.body)


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


def _write_all(file: int, piece: bytes, offset: int) -> None:
    remaining = memoryview(piece)
    while remaining:
        count = os.pwrite(file, remaining, offset)
        remaining, offset = remaining[count:], offset + count
