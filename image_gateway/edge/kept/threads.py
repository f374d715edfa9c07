"""Disk work on threads, so that a slow disk never holds the event loop.

A caller that is cancelled leaves its job at work.  What the job then returns is given to ``undo``,
and a descriptor is closed only once no job uses it, for the kernel gives its number to the next
file.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

_THREADS: Final = 4
_READ_BYTES: Final = 192 * 1024

_T = TypeVar("_T")


class DiskThreads:
    """Threads of their own for one folder; ``close`` waits for all jobs."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="kept")
        self._jobs: set[asyncio.Future[Any]] = set()

    def __repr__(self) -> str:
        return f"<DiskThreads {len(self._jobs)} jobs>"

    async def run(self, job: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """What ``job`` returns, or its exception.

        ``undo`` gets the result, on a thread, if the caller was cancelled meanwhile.
        """
        future = self.start(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda done: self._undo(done, undo))
            raise

    def start(self, job: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Start a job that nobody need wait for."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, job)
        self._jobs.add(future)
        future.add_done_callback(self._end)
        return future

    def await_too(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Start work that ``close`` has to wait for as for the jobs."""
        task = asyncio.create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, future: "asyncio.Future[Any]") -> None:
        self._jobs.discard(future)
        if not future.cancelled():
            future.exception()  # Seen: its caller may be gone.

    def _undo(self, future: "asyncio.Future[_T]", undo: Callable[[_T], object]) -> None:
        if not future.cancelled() and future.exception() is None:
            result = future.result()
            self.start(lambda: undo(result))

    async def close(self) -> None:
        """Wait for all jobs, also for those that they start; then end the threads."""
        await asyncio.sleep(0)  # Callbacks of what is done already may start jobs, too.
        while self._jobs:
            await asyncio.wait(set(self._jobs))
            await asyncio.sleep(0)
        self._executor.shutdown()


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
        return await self._use(lambda: self._threads.start(lambda: job(self.number)))

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
        return await self._use(lambda: self._threads.await_too(work(self.number)))

    async def _use(self, start: "Callable[[], asyncio.Future[_T]]") -> _T:
        # Before anything starts: the number may be another file's by now.
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        future = start()
        self._users += 1
        future.add_done_callback(self._end_use)
        return await asyncio.shield(future)

    def _end_use(self, _: object) -> None:
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
