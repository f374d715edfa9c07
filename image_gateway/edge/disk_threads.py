"""Disk work on threads, so that a slow disk never holds the event loop.

One thread does all jobs while the disk is fast: a job takes some microseconds, and each further
thread that wakes for one fights for the interpreter (measured: with four threads the small jobs of
a call cost 0.4 ms more).  If a job has waited, others help until none waits any more.

A caller that is cancelled leaves its job at work; what the job then returns is given to ``undo``.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

_HELPERS: Final = 3
_HELP_SECONDS: Final = 0.05
"""How long a job waits until a further thread helps."""

_T = TypeVar("_T")


class _Job:
    """One piece of work and what came of it."""

    __slots__ = ("_function", "ended", "error", "future", "result", "since", "undo")

    def __init__(
        self,
        function: Callable[[], Any],
        future: "asyncio.Future[Any]",
        undo: Callable[[Any], object] | None,
        ended: Callable[[], object] | None,
        since: float,
    ) -> None:
        self._function = function
        self.future = future
        self.undo = undo
        self.ended = ended
        self.since = since
        self.result: Any = None
        self.error: BaseException | None = None

    def do(self) -> None:
        """Do it, on a thread."""
        try:
            self.result = self._function()
        except BaseException as error:  # noqa: BLE001 - its caller gets it
            self.error = error


class DiskThreads:
    """Threads of their own; ``close`` waits for all jobs."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._is_called = False
        """Whether the event loop is about to look at the jobs that are done."""
        self._jobs: dict[_Job, None] = {}
        """Those that are not done, the oldest one first."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._thread: Thread | None = None
        self._helpers: list[Thread] = []
        self._watch: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<DiskThreads {len(self._jobs) + len(self._tasks)} jobs>"

    async def run(
        self,
        job: Callable[[], _T],
        undo: Callable[[_T], object] | None = None,
        ended: Callable[[], object] | None = None,
    ) -> _T:
        """What ``job`` returns, or its exception.

        ``undo`` gets the result, on a thread, if the caller was cancelled meanwhile.  ``ended`` is
        called when the job is done, whether or not the caller was cancelled.
        """
        future = self._start(job, undo, ended)
        try:
            return await future
        except asyncio.CancelledError:
            if undo is not None and not future.cancelled() and future.exception() is None:
                self.start(partial(undo, future.result()))
            raise

    def start(self, job: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Start a job for which nobody need wait."""
        return self._start(job)

    def await_too(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Start work that ``close`` has to wait for as for the jobs."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)
        return task

    async def close(self) -> None:
        """Wait for all jobs, also for those that they start; then end the threads."""
        await asyncio.sleep(0)  # Callbacks of what is done already may start jobs, too.
        while self._jobs or self._tasks:
            self._ended.clear()
            await self._ended.wait()
            await asyncio.sleep(0)
        self.end()

    def end(self) -> None:
        """End the threads once they have done the jobs; waits for that, and blocks meanwhile."""
        if self._watch is not None:
            self._watch.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    # -- on the event loop -------------------------------------------------------------------------

    def _start(
        self,
        function: Callable[[], _T],
        undo: Callable[[_T], object] | None = None,
        ended: Callable[[], object] | None = None,
    ) -> "asyncio.Future[_T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        job = _Job(function, future, undo, ended, loop.time())
        self._jobs[job] = None
        self._queue.put(job)
        if self._thread is None:
            self._thread = self._new_thread(self._work, loop)
        if self._watch is None:
            self._watch = loop.call_later(_HELP_SECONDS, self._help, loop)
        return future

    def _help(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start another thread if a job has waited for too long; look again while any is there."""
        self._watch = None
        oldest = next(iter(self._jobs), None)
        if oldest is None:
            return
        self._helpers = [thread for thread in self._helpers if thread.is_alive()]
        has_waited = not self._queue.empty() and loop.time() - oldest.since >= _HELP_SECONDS
        if has_waited and len(self._helpers) < _HELPERS:
            self._helpers.append(self._new_thread(self._work_off, loop))
        self._watch = loop.call_later(_HELP_SECONDS, self._help, loop)

    def _end_jobs(self) -> None:
        self._is_called = False  # First: a job that is done from now on calls again.
        while self._done:
            job = self._done.popleft()
            del self._jobs[job]
            if job.ended is not None:
                job.ended()
            if job.future.cancelled():
                if job.undo is not None and job.error is None:
                    self.start(partial(job.undo, job.result))
            elif job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
                job.future.exception()  # Seen: nobody may wait for it.
        self._ended.set()

    def _end_task(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        self._ended.set()
        if not task.cancelled():
            task.exception()  # Seen: its caller may be gone.

    # -- on the threads ----------------------------------------------------------------------------

    def _new_thread(
        self, work: Callable[[asyncio.AbstractEventLoop], None], loop: asyncio.AbstractEventLoop
    ) -> Thread:
        thread = Thread(target=work, args=(loop,), name="kept", daemon=True)
        thread.start()
        return thread

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._queue.get()) is not None:
            self._do(job, loop)

    def _work_off(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(Empty):
            while (job := self._queue.get_nowait()) is not None:
                self._do(job, loop)

    def _do(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        job.do()
        self._done.append(job)
        # One call for all that is done until the loop comes to it: each one wakes the loop.
        if not self._is_called:
            self._is_called = True
            loop.call_soon_threadsafe(self._end_jobs)
