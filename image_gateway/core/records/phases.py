"""The phases of a request, and the time spent in each.

A request is in the phase that it entered last.  It may enter the phases from ``WAITING`` to
``ARRIVING`` several times, once for each account that is tried; the times of one phase add up.
This is the only source for the log record's times and the ops port's phases.
"""

from collections.abc import Callable
from enum import StrEnum


class Phase(StrEnum):
    """What has happened to a request, and so what happens next."""

    RECEIVED = "received"
    """Its head has arrived and its path is served; the key is looked up."""
    AUTHENTICATED = "authenticated"
    """The key passed the checks that need no body; the body is read."""
    READ = "read"
    """The body is parsed; the accounts are looked up."""
    ADMITTED = "admitted"
    """Some account can serve it, and the key may start a call."""
    JOINED = "joined"
    """It waits for a call that another request started."""
    WAITING = "waiting"
    """It waits for a slot of an account."""
    SENT = "sent"
    """The call was sent or is being sent upstream; no answer yet."""
    ANSWERED = "answered"
    """The head of the answer has arrived."""
    ARRIVING = "arriving"
    """The answer's body is arriving: its first byte or first event has come."""
    DELIVERED = "delivered"
    """The client's answer is known and goes out."""
    RECORDED = "recorded"
    """Its record is built."""


class Timeline:
    """One request's phases.  ``clock`` is monotonic and returns seconds; ``entered`` is called with
    each phase.

    A request that is refused for its path or method enters no phase before its refusal.
    """

    def __init__(
        self, clock: Callable[[], float], entered: Callable[[Phase], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._on_enter = entered
        self._began = self._entered = clock()
        self._seconds: dict[Phase, float] = {}
        self._spans: dict[Phase, tuple[float, float]] = {}
        self.phase: Phase | None = None

    def __repr__(self) -> str:
        return f"<Timeline {self.phase or 'new'}>"

    def enter(self, phase: Phase) -> None:
        """Leave the current phase for another one, or enter the current one again."""
        now = self._clock()
        first = self._spans[phase][0] if phase is self.phase else now
        self._spans[phase] = first, now
        if self.phase is not None:
            self._seconds[self.phase] += now - self._entered
        self._seconds.setdefault(phase, 0.0)
        self.phase, self._entered = phase, now
        self._on_enter(phase)

    def seconds(self, *phases: Phase) -> float | None:
        """The time spent in some phases so far; None if none of them was entered."""
        entered = [phase for phase in phases if phase in self._seconds]
        if not entered:
            return None
        current = self._clock() - self._entered if self.phase in entered else 0.0
        return current + sum(self._seconds[phase] for phase in entered)

    def milliseconds(self, *phases: Phase) -> int | None:
        """The same in whole milliseconds."""
        seconds = self.seconds(*phases)
        return None if seconds is None else round(seconds * 1000)

    def span_milliseconds(self, phase: Phase) -> int | None:
        """From the time that a phase was last begun to the time that it was last entered again.

        None if it was never entered.
        """
        if phase not in self._spans:
            return None
        first, last = self._spans[phase]
        return round((last - first) * 1000)

    def age(self) -> float:
        """Seconds since the request arrived."""
        return self._clock() - self._began
