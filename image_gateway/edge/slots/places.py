"""The places that calls hold: counted in this process, and over all processes by locks.

A place is one call in flight under a name: its account's, its key's or its owner's.  This process
counts it from the moment in which it is made (``core.routing.slots``); it counts for all once
``Places.admit`` has found a lock for it.  ``release`` is synchronous, so that a ``finally`` can
always do it; the lock follows, and ``returned`` waits for that.

One task alone awaits the methods of ``Places``, but for ``returned``, because only one may use the
session.  A call may therefore release its place while the lock is being taken: such a late lock is
given back.

Two things leave a running call without a lock.  If the session is lost, every lock is gone, and
until it is back the process counts by itself; then running calls take their locks again, even
beyond the limit, because they run, and before any new call is admitted.  And if the lock table has
no room for further locks, new calls are counted by their process alone; they take their locks as
soon as there is room, the accounts' first.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from image_gateway.core.model import MOST_SLOTS, Secret
from image_gateway.core.routing.lock_names import LockName
from image_gateway.core.routing.slots import Slot
from image_gateway.edge.slots.advisory_locks import LostSessionError, NoLock, Want
from image_gateway.edge.slots.shared_slots import SharedSlots

_TOGETHER: Final = 64
"""Locks of running calls that one statement takes; it takes 1 ms for them."""


class Place:
    """One place under a name, held until ``release``.

    ``slot`` is that of this process.  ``limit`` is for all processes; None: it is not counted over
    them.
    """

    __slots__ = ("_places", "limit", "lock", "name", "slot")

    def __init__(self, places: "Places", slot: Slot, name: LockName, limit: int | None) -> None:
        self._places: Places | None = places
        self.slot = slot
        self.name = name
        self.limit = limit
        self.lock: int | None = None
        """The number of its lock, None if it is counted in this process alone."""

    def __repr__(self) -> str:
        state = "held" if self.is_held else "released"
        return f"<Place of {self.name.kind.name.lower()} lock={self.lock} {state}>"

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._places is not None

    def release(self) -> None:
        """Give the place back; a second call does nothing."""
        places, self._places = self._places, None
        if places is not None:
            self.slot.release()
            places.drop(self)


class Places:
    """The places of running calls, and their locks.

    ``database`` None: this process counts alone.  ``wake`` is called when ``maintain`` is due.
    """

    def __init__(self, database: Secret | None, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._shared = None if database is None else SharedSlots(database, wake)
        self._admitted: dict[Place, None] = {}
        """Those that are to have a lock."""
        self._alone: dict[Place, None] = {}
        """Those of them that have none."""
        self._returned: list[tuple[LockName, int]] = []
        """Locks whose places were released."""
        self._watchers: list[asyncio.Future[None]] = []
        """Those who wait until they are given back."""

    def __repr__(self) -> str:
        return f"<Places {len(self._admitted)} admitted, {len(self._alone)} without a lock>"

    async def open(self) -> None:
        """Try once to open the session; if that fails, ``maintain`` tries again."""
        if self._shared is not None:
            await self._shared.open()

    async def close(self) -> None:
        """End the session, which frees its locks."""
        if self._shared is not None:
            await self._shared.close()
            self._forget_locks()

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the places that calls take here."""
        return self._shared is not None and self._shared.is_open

    @property
    def admits(self) -> bool:
        """Whether calls may be admitted, by the count of all processes or by the own one."""
        return self._shared is None or self._shared.admits

    @property
    def alone(self) -> int:
        """The number of places that other processes should see and do not."""
        return len(self._alone)

    @property
    def due(self) -> float:
        """When ``maintain`` must be called, on the monotonic clock."""
        return float("inf") if self._shared is None else self._shared.due

    async def admit(self, places: Sequence[Place]) -> Place | None:
        """Let places count over all processes, in their order; the first that finds its name full.

        Those before it are admitted, and those behind it are not.  Raises ``LostSessionError``:
        then none was admitted.
        """
        wanted = [place for place in places if place.limit is not None]
        wants = [Want(place.name, place.limit) for place in places if place.limit is not None]
        if self._shared is None or not wanted:
            return None
        taken: Sequence[int | NoLock] = [NoLock.ALONE] * len(wanted)
        if self._shared.is_open:
            taken = await self._take(self._shared, wants)
        return self._note(wanted, taken)

    def drop(self, place: Place) -> None:
        """For ``Place`` alone."""
        self._admitted.pop(place, None)
        self._alone.pop(place, None)
        if place.lock is not None:
            self._returned.append((place.name, place.lock))
            self._wake()

    async def returned(self) -> None:
        """Wait until nobody finds a lock any more of a place that was released just now."""
        if self._returned:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    async def give_back(self) -> None:
        """Give back the locks whose places were released."""
        while self._shared is not None and self._shared.is_open and self._returned:
            returned, self._returned = self._returned, []
            watchers, self._watchers = self._watchers, []
            try:
                await self._shared.give_back(returned)
            except LostSessionError:
                self._forget_locks()
            finally:
                _wake(watchers)

    async def maintain(self) -> None:
        """Maintain the session, and take locks for running calls that have none."""
        shared = self._shared
        if shared is None:
            return
        await self.give_back()
        try:
            await shared.maintain(in_use=bool(self._admitted))
        except LostSessionError:
            self._forget_locks()
        if shared.is_open and not shared.is_short and self._alone:
            with contextlib.suppress(LostSessionError):
                await self._take_again(shared)

    async def _take_again(self, shared: SharedSlots) -> None:
        while self._alone and not shared.is_short:
            by_rank = sorted(self._alone, key=lambda place: place.name.kind.rank)
            batch = by_rank[:_TOGETHER]
            # They run, so they count even beyond their limits.
            taken = await self._take(shared, [Want(place.name, MOST_SLOTS) for place in batch])
            full = self._note(batch, taken)
            if full is not None:
                # With 1024 calls in flight; it stays without a lock to its end.
                self._alone.pop(full, None)

    async def _take(self, shared: SharedSlots, wants: Sequence[Want]) -> Sequence[int | NoLock]:
        try:
            return await shared.take(wants)
        except LostSessionError:
            self._forget_locks()
            raise

    def _note(self, places: Sequence[Place], taken: Sequence[int | NoLock]) -> Place | None:
        full: Place | None = None
        for place, lock in zip(places, taken, strict=True):
            match lock:
                case NoLock.FULL:
                    full = place
                case NoLock.UNTRIED:
                    pass
                case NoLock.ALONE if place.is_held:
                    self._admitted[place] = self._alone[place] = None
                case int() if place.is_held:
                    place.lock = lock
                    self._admitted[place] = None
                    self._alone.pop(place, None)
                case int():
                    self._returned.append((place.name, lock))
        return full

    def _forget_locks(self) -> None:
        for place in self._admitted:
            place.lock = None
        self._alone = dict(self._admitted)
        self._returned.clear()
        _wake(self._watchers)
        self._watchers.clear()


def _wake(watchers: Sequence[asyncio.Future[None]]) -> None:
    for watcher in watchers:
        if not watcher.done():
            watcher.set_result(None)
