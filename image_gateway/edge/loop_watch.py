"""Watches how late the event loop is, and who holds it.

A thread asks the loop for a turn ten times a second and measures how long it takes.  While the turn
is overdue the thread looks once at what the loop is doing: which task, and so which request's
phase, and which function.  Nothing is added to the loop's own steps, so

- a lag is seen without the part of it that lies before the question, up to ``_PAUSE_SECONDS``;
- many small steps that make one long lag are represented by the one that was seen;
- a processor that is busy with other processes makes the loop late, too: the log says how much of
  the time the loop computed.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Final, Self
from weakref import WeakKeyDictionary

from image_gateway.core.records.loop_lag import OTHER, LagWindow, LoopLag
from image_gateway.core.records.phases import Phase

_PAUSE_SECONDS: Final = 0.1
_OVERDUE_SECONDS: Final = 0.05
_WARN_SECONDS: Final = 1.0
"""Other calls notice so long a lag."""
_WARN_EVERY_SECONDS: Final = 60.0
_OWN: Final = "image_gateway."
_LOOP_MODULES: Final = frozenset({"asyncio.runners", "asyncio.base_events", "asyncio.events"})
"""What runs the steps of the loop and is itself no step."""

_log = logging.getLogger(__name__)


class LoopWatch:
    """The watch of the running loop, from ``with`` to its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._phases: WeakKeyDictionary[asyncio.Task[object], Phase] = WeakKeyDictionary()
        self._window = LagWindow()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._turn = threading.Event()
        self._computed = time.thread_time()
        self._warned: float | None = None
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    def __repr__(self) -> str:
        return f"<LoopWatch {self._window!r}>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._turn.set()
        self._thread.join()

    def entered(self, phase: Phase) -> None:
        """The request of the current task has entered a phase."""
        task = asyncio.current_task()
        if task is not None:
            self._phases[task] = phase

    def by_phase(self) -> Mapping[str, float]:
        """The longest lag of the last minute in seconds, by phase."""
        with self._lock:
            return self._window.by_phase(time.monotonic())

    def longest(self) -> LoopLag:
        """The longest lag of the last minute."""
        with self._lock:
            return self._window.longest(time.monotonic())

    # -- in the thread -----------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopped.wait(_PAUSE_SECONDS):
            asked, computed = time.monotonic(), self._computed
            self._turn.clear()
            self._loop.call_soon_threadsafe(self._take_turn)
            phase, place = OTHER, None
            if not self._turn.wait(_OVERDUE_SECONDS):
                phase, place = self._look()
                self._turn.wait()
            if self._stopped.is_set():
                return
            now = time.monotonic()
            lag = LoopLag(now - asked, phase, place)
            with self._lock:
                self._window.add(lag, now)
            self._warn(lag, self._computed - computed, now)

    def _take_turn(self) -> None:
        self._computed = time.thread_time()
        self._turn.set()

    def _look(self) -> tuple[str, str | None]:
        """The phase and the function at work; what it reads may change meanwhile."""
        task = asyncio.current_task(self._loop)
        phase = None if task is None else self._phases.get(task)
        return OTHER if phase is None else phase.value, self._place()

    def _place(self) -> str | None:
        """The innermost function of the gateway's own, else of a library; None: the loop waits."""
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        innermost: str | None = None
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module in _LOOP_MODULES:
                break
            name = f"{module}.{frame.f_code.co_qualname}"
            if module.startswith(_OWN):
                return name
            innermost = innermost or name
            frame = frame.f_back
        return innermost

    def _warn(self, lag: LoopLag, computed: float, now: float) -> None:
        if lag.seconds < _WARN_SECONDS:
            return
        if self._warned is not None and now < self._warned + _WARN_EVERY_SECONDS:
            return
        self._warned = now
        _log.warning(
            "every call had to wait for %.1f s, of which the event loop computed %.1f s; at work "
            "was %s, for a request in the phase %s",
            lag.seconds,
            min(computed, lag.seconds),
            lag.place or "nothing of the gateway",
            lag.phase,
        )
