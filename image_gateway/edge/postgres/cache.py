"""A cache of what was read from the control plane, which outlives an outage.

An ``Entry`` holds one value.  It is fresh for ``ttl_seconds``; then it is loaded again, once for
all callers, in a task of its own, so that a caller that is cancelled does not cancel the load for
the others.  During an ``Outage`` it is served for up to ``max_stale_seconds``.  Four rules make a
change act at once and for good:

- Each change detaches the running load: its value is given to callers that asked before the change
  and is not fresh for any other.
- A dropped entry is empty: it is never served stale, because its value changed.
- An expired entry is loaded before its next use; its value stays as a last resort.
- A revised entry is an expired one from whose value a part is removed.

A value from before a drop or a revision never comes back: a load that started before is not kept.
A load that started before the entry expired is as good a last resort as the old value, and newer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

LOAD_SECONDS: Final = 4.0
"""The longest a request waits for a load; a look-up takes a millisecond."""
AWAY_SECONDS: Final = 1.0
"""After a failed look-up, how long others fail at once, so that none queue up in an outage."""

_T = TypeVar("_T")


class UnavailableError(Exception):
    """The source cannot be read, and no cached value may be used."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long a value may be used, in seconds: without asking, and in an outage."""

    ttl_seconds: float
    max_stale_seconds: float


class Outage:
    """Whether the last read of the source failed; shared by all entries of one source."""

    def __init__(self) -> None:
        self.is_on = False
        self._is_doubted = False
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Outage {'on' if self.is_on else 'off'}>"

    @property
    def is_quiet(self) -> bool:
        """Whether a read failed so recently that another try is pointless."""
        return self.is_on and time.monotonic() < self._quiet_until

    def note(self) -> None:
        """Note that a read failed."""
        self.is_on = True
        self._is_doubted = False
        self._quiet_until = time.monotonic() + AWAY_SECONDS

    def end(self) -> None:
        """Note that a read succeeded."""
        self.is_on = self._is_doubted = False

    def doubt(self) -> None:
        """Note a sign of life: try again before old values are served, unless a try just failed."""
        self._is_doubted = not self.is_quiet

    @property
    def serves_stale(self) -> bool:
        """Whether old values are served without waiting for another read."""
        return self.is_on and not self._is_doubted


class Entry(Generic[_T]):
    """One value that is loaded on demand.

    ``load`` raises ``UnavailableError``.  ``settled`` is called with each value that becomes fresh,
    ``failed`` after each load that failed, whether or not a caller still waits.
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
        self._loaded_at: float | None = None
        """When the load of the value started, by the monotonic clock; None while it is empty."""
        self._expired = True
        self._generation = 0
        """Counts drops and revisions."""
        self._loading: asyncio.Task[_T] | None = None
        self._loading_since = float("-inf")

    def __repr__(self) -> str:
        return f"<Entry {'empty' if self._loaded_at is None else 'known'}>"

    def expire(self) -> None:
        """Load before the next use; the value stays as a last resort."""
        self._expired = True
        self._loading = None

    def expire_older(self, moment: float) -> None:
        """Load before the next use, unless the value's load, or a running one, started since
        ``moment``.
        """
        if self._loaded_at is not None and self._loaded_at >= moment:
            return
        if self._loading is not None and self._loading_since >= moment:
            self._expired = True
        else:
            self.expire()

    def drop(self) -> None:
        """Forget the value: it is known to be wrong."""
        self.expire()
        self._generation += 1
        self._value = self._loaded_at = None

    def revise(self, change: Callable[[_T], _T]) -> None:
        """Load before the next use; ``change`` makes the value that stays as a last resort."""
        self.expire()
        self._generation += 1
        if self._loaded_at is not None:
            self._value = change(self._cached())

    def peek(self) -> tuple[_T, float] | None:
        """The value and its age in seconds, however old; never loads."""
        if self._loaded_at is None:
            return None
        return self._cached(), self._age(time.monotonic())

    async def get(self) -> _T:
        """The value, fresh or, in an outage, old; raises ``UnavailableError``."""
        now = time.monotonic()
        if not self._expired and self._age(now) <= self._freshness.ttl_seconds:
            return self._cached()
        loading = self._loading
        if loading is None:
            loading = self._loading = asyncio.create_task(self._load_value(now))
            self._loading_since = now
            loading.add_done_callback(_retrieve)
        if self._outage.serves_stale and self._age(now) <= self._freshness.max_stale_seconds:
            # The load continues in its task, and no request waits for it.
            return self._cached()
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await asyncio.shield(loading)
        except TimeoutError:
            self._outage.note()
            self._give_up(loading)
        except UnavailableError:
            pass
        if self._age(time.monotonic()) > self._freshness.max_stale_seconds:
            raise UnavailableError
        return self._cached()

    async def _load_value(self, started_at: float) -> _T:
        loading, generation = asyncio.current_task(), self._generation
        try:
            value = await self._load()
        except BaseException:
            self._give_up(loading)
            raise
        is_current = self._end_loading(loading)
        is_newer = self._loaded_at is None or started_at > self._loaded_at
        if is_current or (is_newer and generation == self._generation):
            self._value = value
            self._loaded_at = started_at
        if is_current:
            self._expired = False
            self._settled(value)
        return value

    def _give_up(self, loading: "asyncio.Task[_T] | None") -> None:
        if self._end_loading(loading):
            self._failed()

    def _end_loading(self, loading: "asyncio.Task[_T] | None") -> bool:
        """End a load; False if it was detached."""
        if self._loading is not loading:
            return False
        self._loading = None
        return True

    def _age(self, now: float) -> float:
        return float("inf") if self._loaded_at is None else now - self._loaded_at

    def _cached(self) -> _T:
        return self._value  # type: ignore[return-value]  # set: its age is finite


def _retrieve(task: "asyncio.Task[object]") -> None:
    """Mark the error of a load as seen: its callers may all be gone."""
    if not task.cancelled():
        task.exception()
