"""Open files of kept calls: a descriptor is closed only once no job uses it, for the kernel gives
its number to the next file.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from image_gateway.edge.disk_threads import DiskThreads

_READ_BYTES: Final = 192 * 1024

_T = TypeVar("_T")


class OpenFile:
    """A descriptor that jobs on threads use, and its only owner.

    Once it is closed, nothing is done with it: every use raises ``OSError`` (``EBADF``).
    """

    def __init__(self, threads: DiskThreads, number: int) -> None:
        self.number = number
        self._threads = threads
        self._users = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<OpenFile {self.number}{' closed' if self._is_closed else ''}>"

    async def run(self, job: Callable[[int], _T]) -> _T:
        """What ``job`` makes of the descriptor, on a thread."""
        self._begin_use()
        return await self._threads.run(partial(job, self.number), ended=self._end_use)

    async def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` to ``stop``; raises ``OSError``."""
        while start < stop:
            count = min(_READ_BYTES, stop - start)
            piece = await self.run(lambda number: os.pread(number, count, start))  # noqa: B023
            if not piece:
                raise OSError("a kept answer is shorter than it was")
            start += len(piece)
            yield piece

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """As ``FileSpan.send``."""
        return await self.run(lambda number: os.sendfile(descriptor, number, start, stop - start))

    async def lend(self, work: Callable[[int], Coroutine[Any, Any, _T]]) -> _T:
        """What others make of the descriptor; they go on if the caller is cancelled."""
        self._begin_use()
        task = self._threads.await_too(work(self.number))
        task.add_done_callback(lambda _: self._end_use())
        return await asyncio.shield(task)

    def _begin_use(self) -> None:
        # Before anything starts: the number may be another file's by now.
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._users += 1

    def _end_use(self) -> None:
        self._users -= 1
        self._close_unused()

    def close(self) -> None:
        """Close once no job uses it, which frees its locks; safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._is_closed and not self._users:
            os.close(self.number)
