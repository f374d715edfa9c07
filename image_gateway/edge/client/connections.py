"""The open connections of one port: how many there may be, and which is closed for a new one.

A connection is idle until the head of its request has arrived, and busy from then to its end.  When
all of them are taken, the oldest idle one is closed for the next: it has sent no request, so its
client loses nothing that it waits for.  A connection has a moment to send its request before that;
until then new ones wait in the kernel's queue.  If all are busy, new ones are refused.

A few connections are not for calls: a request that comes beyond the others is read and answered
with 503, as any refusal, with its record.
"""

from enum import Enum, auto
from typing import Final, Protocol

YOUNG_SECONDS: Final = 0.1
"""How long a connection may be idle before it can be closed for another: for the way of a request
whose client connects and sends at once.  So the default limit takes 20,000 connects a second."""

_SHARE_FOR_REFUSALS: Final = 16
_MOST_FOR_REFUSALS: Final = 64
"""A refusal takes a millisecond, so a few connections refuse thousands of requests a second."""


class Abortable(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Close it at once."""


class Room(Enum):
    """Where the next connection has its place."""

    FREE = auto()
    """Some places are free."""
    OF_OLDEST = auto()
    """In the place of the oldest idle one, which must be closed."""
    LATER = auto()
    """The oldest idle one is still young: the next waits for ``YOUNG_SECONDS``."""
    NONE = auto()
    """Nowhere: every connection has a request."""


class Connections:
    """The open connections of one port, at most ``limit``; times are those of one clock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._serving = limit - min(_MOST_FOR_REFUSALS, limit // _SHARE_FOR_REFUSALS)
        self._idle: dict[Abortable, float] = {}
        """Since when they are open; the oldest first."""
        self._busy: set[Abortable] = set()

    def __repr__(self) -> str:
        return f"<Connections {self.idle} idle, {self.busy} busy, limit {self.limit}>"

    @property
    def idle(self) -> int:
        """How many have sent no request yet."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """How many have a request in progress."""
        return len(self._busy)

    @property
    def is_over(self) -> bool:
        """Whether so many requests are in progress that the latest must be refused."""
        return self.busy > self._serving

    def room(self, now: float) -> Room:
        """Where the next connection has its place."""
        if self.idle + self.busy < self.limit:
            return Room.FREE
        opened = next(iter(self._idle.values()), None)
        if opened is None:
            return Room.NONE
        return Room.OF_OLDEST if now - opened >= YOUNG_SECONDS else Room.LATER

    def add(self, connection: Abortable, now: float) -> None:
        """Count a connection that was just accepted."""
        self._idle[connection] = now

    def begin(self, connection: Abortable) -> None:
        """The head of its request has arrived."""
        self._idle.pop(connection, None)
        self._busy.add(connection)

    def remove(self, connection: Abortable) -> None:
        """It has ended; safe to call twice."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def close_oldest(self, now: float) -> bool:
        """Close the oldest idle one, which counts no more from now on; False if none is old enough
        for that.
        """
        connection, opened = next(iter(self._idle.items()), (None, now))
        if connection is None or now - opened < YOUNG_SECONDS:
            return False
        del self._idle[connection]
        connection.abort()
        return True
