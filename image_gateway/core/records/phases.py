"""The phases of a request: named, entered one after the other, and timed by that.

A request is in the phase that it entered last.  It may enter the phases from ``WAITING`` to
``ARRIVING`` several times, once for each account that is asked; the times of one phase add up.
Nothing else tells what a request is at: the log record's times and the ops port's phases come from
here.
"""

from collections.abc import Callable
from enum import StrEnum


class Phase(StrEnum):
    """What a request has passed, and so what it is busy with."""

    RECEIVED = "received"
    """Its head is here and its path is served; the key is looked up."""
    AUTHENTICATED = "authenticated"
    """The key may call, as far as that shows without the body; the body is read."""
    READ = "read"
    """What is asked for is known; the accounts are looked up."""
    ADMITTED = "admitted"
    """Some account can serve it, and the key may start a call."""
    WAITING = "waiting"
    """It waits for a slot of an account."""
    SENT = "sent"
    """An upstream has it, or is getting it; no answer is here."""
    ANSWERED = "answered"
    """An answer's head is here."""
    ARRIVING = "arriving"
    """The answer's body comes in: its first byte, or its first event that says something."""
    DELIVERED = "delivered"
    """What the client gets is known and goes out."""
    RECORDED = "recorded"
    """Its record is built."""


class Timeline:
    """One request's phases.  ``clock`` gives seconds and only goes forward.

    Before its first phase a request is refused for its path or method, or is about to enter one.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._entered = clock()
        self._seconds: dict[Phase, float] = {}
        self._spans: dict[Phase, tuple[float, float]] = {}
        self.phase: Phase | None = None

    def __repr__(self) -> str:
        return f"<Timeline {self.phase or 'new'}>"

    def enter(self, phase: Phase) -> None:
        """Leave the present phase for another one, or say again that the request is in it."""
        now = self._clock()
        first = self._spans[phase][0] if phase is self.phase else now
        self._spans[phase] = first, now
        if self.phase is not None:
            self._seconds[self.phase] += now - self._entered
        self._seconds.setdefault(phase, 0.0)
        self.phase, self._entered = phase, now

    def seconds(self, *phases: Phase) -> float | None:
        """The time spent in some phases so far; None where none of them was entered."""
        entered = [phase for phase in phases if phase in self._seconds]
        if not entered:
            return None
        present = self._clock() - self._entered if self.phase in entered else 0.0
        return present + sum(self._seconds[phase] for phase in entered)

    def milliseconds(self, *phases: Phase) -> int | None:
        """The same in whole milliseconds."""
        seconds = self.seconds(*phases)
        return None if seconds is None else round(seconds * 1000)

    def span_milliseconds(self, phase: Phase) -> int | None:
        """From the last time that a phase was entered to the last time that this was said again."""
        if phase not in self._spans:
            return None
        first, last = self._spans[phase]
        return round((last - first) * 1000)

    def age(self) -> float:
        """Seconds since the request came."""
        return self._clock() - self._began
