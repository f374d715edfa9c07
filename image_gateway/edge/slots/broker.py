"""Grants slots of accounts to calls that wait for one.

``core.routing.slots.WaitQueue`` decides which call is next; this module holds the futures.  One
task takes slots and gives them back, for all calls, in rounds: a caller that is cancelled meanwhile
leaves the queue, and a slot that comes too late for it goes to another call.  How slots are counted
over all processes, and what an outage changes, is ``edge.slots.places``'s.

Calls that wait here do not take a shared slot as soon as it is free, but in their next round:
rounds come at random moments, so that each of several processes has its chance.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Self

from image_gateway.core.model import Account, Key, Secret
from image_gateway.core.routing.lock_names import LockKind, LockName
from image_gateway.core.routing.slots import (
    Candidate,
    HoldTime,
    SlotTable,
    StartClock,
    Waiter,
    WaitQueue,
)
from image_gateway.edge.slots.advisory_locks import LostSessionError
from image_gateway.edge.slots.places import Place, Places

ROUND_SECONDS: Final = 0.25
"""The mean time between two rounds while calls wait; each takes 0.5 to 1.5 times as long."""

_log = logging.getLogger(__name__)


class BusyError(Exception):
    """No slot was free in time; one is likely to be free in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class EarlyError(BusyError):
    """A slot may be free, but the key may not start a call for another ``seconds``."""


class Lease:
    """One account's slot, held until ``release``; a context manager."""

    def __init__(
        self, broker: "SlotBroker", waiter: Waiter, candidate: Candidate, place: Place
    ) -> None:
        self._broker: SlotBroker | None = broker
        self.candidate = candidate
        self.key_id = waiter.key_id
        self.place = place
        self.since = time.monotonic()
        self._start_before: float | None = None

    def __repr__(self) -> str:
        state = "held" if self.is_held else "released"
        return f"<Lease {self.candidate.account_name!r} lock={self.place.lock} {state}>"

    @property
    def account_name(self) -> str:
        """The account of the slot."""
        return self.candidate.account_name

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._broker is not None

    def start(self, starts: StartClock) -> None:
        """Note that its key starts a call."""
        self._start_before = starts.start(self.key_id, self.since)

    def undo_start(self, starts: StartClock) -> None:
        """Take the start back: no call was made."""
        if self._start_before is not None:
            starts.undo(self.key_id, self.since, self._start_before)

    def release(self) -> None:
        """Give the slot back; a second call does nothing."""
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class SlotBroker:
    """The slots of all accounts and the calls that wait for them; used by ``async with``.

    ``database`` None: this process counts alone.  At most ``max_waiting`` calls wait.  ``limit``
    gives an account's slots as they are now: they may change while a call waits.
    """

    def __init__(
        self,
        database: Secret | None,
        max_waiting: int,
        starts: StartClock,
        limit: Callable[[Candidate], int] = attrgetter("limit"),
    ) -> None:
        self._woken = asyncio.Event()
        self._places = Places(database, self._woken.set)
        self._starts = starts
        self._limit = limit
        self._table = SlotTable()
        self._queue = WaitQueue(max_waiting)
        self._hold_time = HoldTime()
        self._futures: dict[Waiter, asyncio.Future[Lease]] = {}
        self._leases: dict[Lease, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._round_at = float("inf")
        self._full: frozenset[str] = frozenset()
        """Accounts without a free slot, while calls wait."""
        self._freed: set[str] = set()
        """Accounts of which a slot was given back."""

    def __repr__(self) -> str:
        shared = "shared" if self.is_shared else "process"
        return f"<SlotBroker {shared} {len(self._leases)} held, {self._queue!r}>"

    async def __aenter__(self) -> Self:
        await self._places.open()
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._places.close()

    # -- asking ----------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the slots that this one takes."""
        return self._places.is_shared

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return self._queue.waiting

    def is_taken(self, account_name: str) -> bool:
        """Whether calls wait and the last try found all slots of the account taken."""
        return account_name in self._full

    def in_use(self, account_name: str) -> int:
        """The account's slots that this process holds."""
        return self._table.in_use(account_name)

    def position(self, call_id: str) -> int | None:
        """The place of a call in the queue, 1 for the first; None if it does not wait."""
        return self._queue.position(call_id)

    async def slot(
        self,
        key: Key,
        accounts: Sequence[Account],
        seconds: float,
        *,
        starts: bool = False,
        call_id: str | None = None,
    ) -> Lease:
        """A slot of the best of the accounts that has one free; raises ``BusyError``.

        Waits for up to ``seconds``; at 0 it does not wait.  ``starts``: the call counts as a start
        of its key, and waits for the key's interval, too.  ``call_id`` is for ``position``.
        """
        waiter = Waiter(
            key.key_id,
            [
                Candidate(account.account_name, account.image_max_concurrency)
                for account in accounts
            ],
            key.min_start_interval_ms if starts else None,
            seconds,
            call_id=call_id,
        )
        future = self._futures[waiter] = asyncio.get_running_loop().create_future()
        self._queue.join(waiter)
        self._woken.set()
        lease: Lease | None = None
        try:
            async with asyncio.timeout(seconds if seconds > 0 else None):
                lease = await future
                return lease
        except TimeoutError:
            raise self._busy(waiter) from None
        finally:
            self._queue.leave(waiter)
            del self._futures[waiter]
            if lease is None and future.done() and not (future.cancelled() or future.exception()):
                # The slot was granted in the moment in which the caller gave up.
                future.result().undo_start(self._starts)
                future.result().release()

    def give_back(self, lease: Lease) -> None:
        """For ``Lease`` alone."""
        lease.place.release()
        del self._leases[lease]
        self._queue.give_back(lease.key_id)
        self._freed.add(lease.account_name)
        self._hold_time.note(lease.account_name, time.monotonic() - lease.since)
        self._woken.set()

    def _busy(self, waiter: Waiter) -> BusyError:
        early = self._seconds_until_due(waiter)
        return EarlyError(early) if early else BusyError(self._seconds_until_free(waiter))

    def _seconds_until_due(self, waiter: Waiter) -> float:
        return self._starts.seconds_until_due(waiter.key_id, waiter.interval_ms, time.monotonic())

    def _seconds_until_free(self, waiter: Waiter) -> float:
        now = time.monotonic()
        ahead = self._queue.ahead(waiter)
        return min(
            self._hold_time.seconds_until_free(
                Candidate(candidate.account_name, self._limit(candidate)),
                [
                    now - lease.since
                    for lease in self._leases
                    if lease.account_name == candidate.account_name
                ],
                len(ahead) // len(waiter.candidates),
                max((waiter_ahead.timeout for waiter_ahead in ahead), default=0.0),
            )
            for candidate in waiter.candidates
        )

    # -- serving ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            try:
                await self._wake()
                await self._places.maintain()
                is_round = time.monotonic() >= self._round_at
                # Between rounds, accounts that calls already wait for count as full.
                skips = self.is_shared and not is_round
                await self._grant(self._queue.wanted(self._may_start) if skips else set())
                if is_round or self._round_at == float("inf"):
                    self._round_at = self._next_round()
            except Exception:  # noqa: BLE001 - if this task ended, no call would get a slot again
                _log.exception("an unexpected error in the slot broker; please report this line")
                await asyncio.sleep(ROUND_SECONDS)

    def _next_round(self) -> float:
        if not self._queue.waiting:
            return float("inf")
        # No secret depends on it.
        return time.monotonic() + ROUND_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311

    async def _wake(self) -> None:
        seconds = max(min(self._round_at, self._places.due) - time.monotonic(), 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _grant(self, skipped: set[str]) -> None:
        """Grant slots until every call that waits found its accounts full.

        Accounts in ``skipped`` count as full without a try.  Calls come and go meanwhile, so under
        load this may take long: each slot given back goes to the next call.
        """
        full = set(skipped)
        while True:
            await self._places.give_back()
            full -= self._freed - skipped
            self._freed.clear()
            match = self._queue.next(full, self._may_start)
            if match is None:
                break
            waiter, candidate = match
            lease = await self._take(waiter, candidate)
            if lease is None:
                full.add(candidate.account_name)
                continue
            future = self._futures.get(waiter)
            if future is None or future.done():
                self._undo(lease)
                continue
            self._queue.serve(waiter)
            if waiter.interval_ms is not None:
                lease.start(self._starts)
            future.set_result(lease)
        rejected = self._queue.settle()
        self._full = frozenset(full) if self._queue.waiting else frozenset()
        for waiter in rejected:
            future = self._futures.get(waiter)
            if future is not None and not future.done():
                future.set_exception(self._busy(waiter))

    def _may_start(self, waiter: Waiter) -> bool:
        future = self._futures.get(waiter)
        return future is not None and not future.done() and not self._seconds_until_due(waiter)

    async def _take(self, waiter: Waiter, candidate: Candidate) -> Lease | None:
        if not self._places.admits:
            return None
        name, limit = candidate.account_name, self._limit(candidate)
        slot = self._table.take(name, limit)
        if slot is None:
            return None
        place = Place(self._places, slot, LockName(LockKind.ACCOUNT, name), limit)
        try:
            full = await self._places.admit([place])
        except LostSessionError:
            full = place
        if full is not None:
            place.release()
            return None
        lease = Lease(self, waiter, candidate, place)
        self._leases[lease] = None
        return lease

    def _undo(self, lease: Lease) -> None:
        """Give back a lease whose caller is gone."""
        lease.place.release()
        del self._leases[lease]
