"""Getting an account's slot: those who ask, and the one task that serves them.

Who is next is ``core.slots.Line``; this room holds the futures.  One task takes slots and gives
them back, for all, in rounds: a caller that is cancelled meanwhile leaves its turn, and a slot that
comes too late for it goes on to somebody else.

Slots count in this process, and, where a database is given, as locks in its Postgres for all
processes (``edge.slot_locks``).  While Postgres is away each process goes by its own count.  When
it is back, running calls take their locks before new ones are admitted, and new ones wait for a
moment, in which other processes come back with theirs.

A slot that is free again is not taken at once by those who wait here, but in their next round:
rounds come at random moments, so that of several processes each has its chance.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Final, Self

from image_gateway.core.model import MOST_SLOTS, Account, Key, Secret
from image_gateway.core.slots import Line, Pace, Place, Slot, SlotTable, StartClock, Turn
from image_gateway.edge.slot_locks import LostSessionError, SlotSession

ROUND_SECONDS: Final = 0.25
"""The mean time between two rounds while somebody waits; each is from half of it to one and a
half."""
RETRY_SECONDS: Final = 1.0
"""Between two tries to reach Postgres again."""
SETTLE_SECONDS: Final = 2 * RETRY_SECONDS
"""How long nobody is admitted after a lost session was replaced: other processes come back too."""
ALONE_SECONDS: Final = 0.5
"""How long a lost session may be tried again before the process goes by its own count: a session
may be lost while Postgres is there, and other processes hold slots in it."""
HEARTBEAT_SECONDS: Final = 2.0
"""How often a session whose locks are in use is asked whether it is still there."""
IDLE_SECONDS: Final = 10.0
"""The same for one that holds none, so that the metrics tell the truth in quiet times, too."""

_log = logging.getLogger(__name__)


class BusyError(Exception):
    """No slot within the time; one is likely to be free in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class EarlyError(BusyError):
    """A slot may be free, but the key may not start a call before ``seconds`` are over."""


class Lease:
    """One account's slot, held until ``release``; a context manager."""

    def __init__(self, room: "Waiting", turn: Turn, place: Place, slot: Slot) -> None:
        self._room: Waiting | None = room
        self.place = place
        self.key_id = turn.key_id
        self.slot = slot
        self.lock: int | None = None
        """The number of its lock, None where it is counted in this process alone."""
        self.since = time.monotonic()
        self._start_before: float | None = None

    def __repr__(self) -> str:
        state = "held" if self.is_held else "released"
        return f"<Lease {self.place.account_name!r} lock={self.lock} {state}>"

    @property
    def account_name(self) -> str:
        """Whose slot it is."""
        return self.place.account_name

    @property
    def is_held(self) -> bool:
        """Whether it was not given back yet."""
        return self._room is not None

    def start(self, starts: StartClock) -> None:
        """It is for a start of its key."""
        self._start_before = starts.start(self.key_id, self.since)

    def undo_start(self, starts: StartClock) -> None:
        """No call was made with it."""
        if self._start_before is not None:
            starts.undo(self.key_id, self.since, self._start_before)

    def release(self) -> None:
        """Give the slot back; the second time does nothing."""
        room, self._room = self._room, None
        if room is not None:
            room.give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Waiting:
    """All accounts' slots, and everybody who wants one; opened and closed by ``async with``.

    ``database`` None: slots count in this process alone.  ``most`` calls may wait.  ``limit`` gives
    an account's slots as they are now, which for a call that waits may have changed since it came.
    """

    def __init__(
        self,
        database: Secret | None,
        most: int,
        starts: StartClock,
        limit: Callable[[Place], int] = attrgetter("limit"),
    ) -> None:
        self._database = database
        self._starts = starts
        self._limit = limit
        self._table = SlotTable()
        self._line = Line(most)
        self._pace = Pace()
        self._futures: dict[Turn, asyncio.Future[Lease]] = {}
        self._leases: dict[Lease, None] = {}
        self._woken = asyncio.Event()
        self._server: asyncio.Task[None] | None = None
        self._round_at = float("inf")
        self._taken: frozenset[str] = frozenset()
        # What concerns the shared locks.
        self._session: SlotSession | None = None
        self._opening: asyncio.Task[SlotSession] | None = None
        self._retry_at = float("-inf")
        self._was_lost = False
        self._settled_at = float("-inf")
        self._alone_at = float("-inf")
        self._heartbeat_at = float("inf")
        self._returned: list[tuple[str, int]] = []

    def __repr__(self) -> str:
        shared = "shared" if self.is_shared else "process"
        return f"<Waiting {shared} {len(self._leases)} held, {self._line!r}>"

    async def __aenter__(self) -> Self:
        if self._database is not None:
            self._opening = asyncio.create_task(SlotSession.open(self._database))
            await asyncio.wait([self._opening])
            await self._adopt()
        self._server = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = [task for task in (self._server, self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._opening is not None and not self._opening.cancelled():
            with contextlib.suppress(LostSessionError):
                await self._opening.result().close()
        if self._session is not None:
            await self._session.close()

    # -- asking ----------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the slots that this one takes."""
        return self._session is not None

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return self._line.waiting

    def is_taken(self, account_name: str) -> bool:
        """Whether somebody waits, and found all slots of an account taken when he last tried."""
        return account_name in self._taken

    def in_use(self, account_name: str) -> int:
        """Slots that this process holds."""
        return self._table.in_use(account_name)

    async def slot(
        self, key: Key, accounts: Sequence[Account], seconds: float, *, starts: bool = False
    ) -> Lease:
        """A slot of one of the accounts, the best that is free; raises ``BusyError``.

        Waits for up to ``seconds``; at 0 it takes what is free or nothing.  ``starts``: the call is
        a start of its key, and waits for the key's interval, too.
        """
        turn = Turn(
            key.key_id,
            [Place(each.account_name, each.image_max_concurrency) for each in accounts],
            key.min_start_interval_ms if starts else None,
            seconds,
        )
        future = self._futures[turn] = asyncio.get_running_loop().create_future()
        self._line.join(turn)
        self._woken.set()
        lease: Lease | None = None
        try:
            async with asyncio.timeout(seconds if seconds > 0 else None):
                lease = await future
                return lease
        except TimeoutError:
            raise self._busy(turn) from None
        finally:
            self._line.leave(turn)
            del self._futures[turn]
            if lease is None and future.done() and not (future.cancelled() or future.exception()):
                # It came in the moment in which its caller gave up.
                future.result().undo_start(self._starts)
                future.result().release()

    def give_back(self, lease: Lease) -> None:
        """For ``Lease`` alone."""
        lease.slot.release()
        del self._leases[lease]
        self._line.give_back(lease.key_id)
        self._pace.note(lease.account_name, time.monotonic() - lease.since)
        if lease.lock is not None:
            self._returned.append((lease.account_name, lease.lock))
        self._woken.set()

    def _busy(self, turn: Turn) -> BusyError:
        early = self._seconds_until_due(turn)
        return EarlyError(early) if early else BusyError(self._seconds_until_free(turn))

    def _seconds_until_due(self, turn: Turn) -> float:
        return self._starts.seconds_until_due(turn.key_id, turn.interval_ms, time.monotonic())

    def _seconds_until_free(self, turn: Turn) -> float:
        now = time.monotonic()
        ahead = self._line.ahead(turn)
        return min(
            self._pace.seconds_until_free(
                Place(place.account_name, self._limit(place)),
                [
                    now - each.since
                    for each in self._leases
                    if each.account_name == place.account_name
                ],
                len(ahead) // len(turn.places),
                max((other.patience for other in ahead), default=0.0),
            )
            for place in turn.places
        )

    # -- serving ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            try:
                await self._wake()
                await self._tend()
                is_round = time.monotonic() >= self._round_at
                # Others wait for these already, and found them taken in the last round.
                full = (
                    self._line.wanted(self._may_start) if self.is_shared and not is_round else set()
                )
                await self._hand_out(full)
                if is_round or self._round_at == float("inf"):
                    self._round_at = self._next_round()
            except Exception:  # noqa: BLE001 - were this task to end, nobody got a slot any more
                _log.exception("slots: a round failed by a mistake of ours")
                await asyncio.sleep(ROUND_SECONDS)

    def _next_round(self) -> float:
        if not self._line.waiting:
            return float("inf")
        # Not for secrets, and tests do not depend on it.
        return time.monotonic() + ROUND_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311

    async def _wake(self) -> None:
        until = self._round_at
        if self._database is not None:
            until = min(until, self._retry_at if self._session is None else self._heartbeat_at)
        seconds = max(until - time.monotonic(), 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _hand_out(self, full: set[str]) -> None:
        """Serve whoever can be; the others have found everything taken."""
        while (found := self._line.next(full, self._may_start)) is not None:
            turn, place = found
            lease = await self._take(turn, place)
            if lease is None:
                full.add(place.account_name)
                continue
            future = self._futures.get(turn)
            if future is None or future.done():
                await self._undo(lease)
                continue
            self._line.serve(turn)
            if turn.interval_ms is not None:
                lease.start(self._starts)
            future.set_result(lease)
        left = self._line.settle()
        self._taken = frozenset(full) if self._line.waiting else frozenset()
        for turn in left:
            future = self._futures.get(turn)
            if future is not None and not future.done():
                future.set_exception(self._busy(turn))

    def _may_start(self, turn: Turn) -> bool:
        future = self._futures.get(turn)
        return future is not None and not future.done() and not self._seconds_until_due(turn)

    async def _take(self, turn: Turn, place: Place) -> Lease | None:
        if self._database is not None and time.monotonic() < self._alone_at:
            return None
        slot = self._table.take(place.account_name, self._limit(place))
        if slot is None:
            return None
        lease = Lease(self, turn, place, slot)
        if self._session is not None:
            try:
                is_ours = self._admits(place) and await self._lock(self._session, lease)
            except LostSessionError as error:
                await self._lose(error)
                is_ours = False
            if not is_ours:
                slot.release()
                return None
        self._leases[lease] = None
        self._heartbeat_at = min(self._heartbeat_at, time.monotonic() + HEARTBEAT_SECONDS)
        return lease

    async def _undo(self, lease: Lease) -> None:
        """Nobody is there any more to take it."""
        lease.slot.release()
        del self._leases[lease]
        if lease.lock is not None:
            self._returned.append((lease.account_name, lease.lock))
            await self._tend()

    def _admits(self, place: Place) -> bool:
        """Whether every running call has its lock again, here and, most likely, elsewhere."""
        return time.monotonic() >= self._settled_at and all(
            lease.lock is not None
            for lease in self._leases
            if lease.account_name == place.account_name
        )

    async def _lock(self, session: SlotSession, lease: Lease) -> bool:
        lease.lock = await session.take(lease.account_name, self._limit(lease.place))
        return lease.lock is not None

    # -- the shared locks ------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Give back, reconnect, and take the locks of running calls that have none."""
        if self._database is None:
            return
        if self._session is None:
            await self._reopen(self._database)
        session = self._session
        if session is None:
            return
        try:
            await self._return_locks()
            for lease in [each for each in self._leases if each.lock is None]:
                # It runs, so it is counted, were it beyond the limit.
                lease.lock = await session.take(lease.account_name, MOST_SLOTS)
                if not lease.is_held and lease.lock is not None:
                    self._returned.append((lease.account_name, lease.lock))
            seconds = HEARTBEAT_SECONDS if self._leases else IDLE_SECONDS
            if time.monotonic() >= self._heartbeat_at:
                await session.check()
                self._heartbeat_at = float("inf")
            self._heartbeat_at = min(self._heartbeat_at, time.monotonic() + seconds)
        except LostSessionError as error:
            await self._lose(error)

    async def _return_locks(self) -> None:
        while self._session is not None and self._returned:
            account_name, lock = self._returned.pop()
            await self._session.give_back(account_name, lock)

    async def _lose(self, error: LostSessionError) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        for lease in self._leases:
            lease.lock = None
        self._returned.clear()
        self._was_lost = True
        self._retry_at = time.monotonic()
        self._alone_at = time.monotonic() + ALONE_SECONDS
        _log.warning("slots are not shared: %s; each process goes by its own count", error)

    async def _reopen(self, database: Secret) -> None:
        # In a task of its own: nobody waits for a Postgres that does not answer.
        if self._opening is None and time.monotonic() >= self._retry_at:
            self._retry_at = float("inf")
            self._opening = asyncio.create_task(SlotSession.open(database))
            self._opening.add_done_callback(lambda _: self._woken.set())
        if self._opening is not None and self._opening.done():
            await self._adopt()

    async def _adopt(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        # Spread out, so that many instances do not come back in one moment.
        self._retry_at = time.monotonic() + RETRY_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        try:
            self._session = opening.result()
        except LostSessionError as error:
            self._alone_at = float("-inf")
            if not self._was_lost:
                self._was_lost = True
                _log.warning("slots are not shared: %s; each process goes by its own count", error)
            return
        self._alone_at = float("-inf")
        if self._was_lost:
            self._settled_at = time.monotonic() + SETTLE_SECONDS
            _log.info("slots are shared again")
        self._was_lost = False
        self._heartbeat_at = time.monotonic()
