"""What is known of the control plane, for how long, and what happens while nobody can be asked.

An ``Entry`` holds one value.  It is fresh for ``ttl_seconds``; then it is loaded anew, once for all
who ask, in a task of its own, so that a caller who is cancelled takes nothing from the others.
While an ``Outage`` is on it is served for up to ``max_stale_seconds``.  Four rules make a change
act at once and for good:

- Each change detaches the load under way: its answer is given to those who asked before the change
  and is not fresh for anybody else.
- A dropped entry is gone: it is never served stale, for somebody said that it changed.
- An expired entry is loaded before its next use, and what is held stays as a last resort.
- A revised entry is an expired one of which a part is gone.

What was known before a drop or a revision never comes back: a load that began before is not held.
One that began before the entry expired is as good a last resort as what was held, and newer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

LOAD_SECONDS: Final = 4.0
"""The longest a request waits for a load; a look-up takes a millisecond."""
AWAY_SECONDS: Final = 1.0
"""After a failed look-up, how long further ones fail at once, so that an outage makes no queue."""

_T = TypeVar("_T")


class UnavailableError(Exception):
    """The source cannot be asked, and nothing known will do."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long what was read counts, in seconds."""

    ttl_seconds: float
    max_stale_seconds: float


class Outage:
    """Whether the source could be asked the last time; shared by all entries of one source."""

    def __init__(self) -> None:
        self.is_on = False
        self._is_doubted = False
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Outage {'on' if self.is_on else 'off'}>"

    @property
    def is_quiet(self) -> bool:
        """Whether it began, or went on, so recently that asking again is pointless."""
        return self.is_on and time.monotonic() < self._quiet_until

    def note(self) -> None:
        """The source could not be asked."""
        self.is_on = True
        self._is_doubted = False
        self._quiet_until = time.monotonic() + AWAY_SECONDS

    def end(self) -> None:
        """The source answered."""
        self.is_on = self._is_doubted = False

    def doubt(self) -> None:
        """The source was heard of: ask again before old values are served, unless that just
        failed.
        """
        self._is_doubted = not self.is_quiet

    @property
    def serves_stale(self) -> bool:
        """Whether old values are served without waiting for an answer of the source."""
        return self.is_on and not self._is_doubted


class Entry(Generic[_T]):
    """One value that is loaded on demand.

    ``load`` raises ``UnavailableError``; ``settled`` hears of each value that came to be held,
    ``failed`` of each load that brought none.  Both hear it whether or not anybody still waits.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[_T]],
        freshness: Freshness,
        outage: Outage,
        settled: Callable[[_T], None] = lambda _: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        self._load = load
        self._freshness = freshness
        self._outage = outage
        self._settled = settled
        self._failed = failed
        self._value: _T | None = None
        self._known_at: float | None = None
        """When the load of what is held began, by the monotonic clock."""
        self._expired = True
        self._generation = 0
        """Raised by each drop and revision."""
        self._flight: asyncio.Task[_T] | None = None
        self._flight_began = float("-inf")

    def __repr__(self) -> str:
        return f"<Entry {'empty' if self._known_at is None else 'known'}>"

    def expire(self) -> None:
        """Load before the next use; what is held stays as a last resort."""
        self._expired = True
        self._flight = None

    def expire_older(self, moment: float) -> None:
        """Load before the next use, unless that began, or what is held was loaded, since then."""
        if self._known_at is not None and self._known_at >= moment:
            return
        if self._flight is not None and self._flight_began >= moment:
            self._expired = True
        else:
            self.expire()

    def drop(self) -> None:
        """Forget: what is held is known to be wrong."""
        self.expire()
        self._generation += 1
        self._value = self._known_at = None

    def revise(self, change: Callable[[_T], _T]) -> None:
        """Load before the next use; ``change`` gives what may stay as a last resort."""
        self.expire()
        self._generation += 1
        if self._known_at is not None:
            self._value = change(self._held())

    def peek(self) -> tuple[_T, float] | None:
        """What is held and its age in seconds, whatever it is worth; asks nobody."""
        if self._known_at is None:
            return None
        return self._held(), self._age(time.monotonic())

    async def get(self) -> _T:
        """The value, fresh or, in an outage, old; raises ``UnavailableError``."""
        now = time.monotonic()
        if not self._expired and self._age(now) <= self._freshness.ttl_seconds:
            return self._held()
        flight = self._flight
        if flight is None:
            flight = self._flight = asyncio.create_task(self._fly(now))
            self._flight_began = now
            flight.add_done_callback(_retrieve)
        if self._outage.serves_stale and self._age(now) <= self._freshness.max_stale_seconds:
            # The load goes on by itself and costs no request a wait.
            return self._held()
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await asyncio.shield(flight)
        except TimeoutError:
            self._outage.note()
            self._give_up(flight)
        except UnavailableError:
            pass
        if self._age(time.monotonic()) > self._freshness.max_stale_seconds:
            raise UnavailableError
        return self._held()

    async def _fly(self, began: float) -> _T:
        flight, generation = asyncio.current_task(), self._generation
        try:
            value = await self._load()
        except BaseException:
            self._give_up(flight)
            raise
        is_own = self._land(flight)
        is_newer = self._known_at is None or began > self._known_at
        if is_own or (is_newer and generation == self._generation):
            self._value = value
            self._known_at = began
        if is_own:
            self._expired = False
            self._settled(value)
        return value

    def _give_up(self, flight: "asyncio.Task[_T] | None") -> None:
        if self._land(flight):
            self._failed()

    def _land(self, flight: "asyncio.Task[_T] | None") -> bool:
        """Whether it was still the entry's own flight, and not detached."""
        if self._flight is not flight:
            return False
        self._flight = None
        return True

    def _age(self, now: float) -> float:
        return float("inf") if self._known_at is None else now - self._known_at

    def _held(self) -> _T:
        return self._value  # type: ignore[return-value]  # known: its age is finite


def _retrieve(task: "asyncio.Task[object]") -> None:
    """A load that everybody stopped waiting for may fail unheard."""
    if not task.cancelled():
        task.exception()
