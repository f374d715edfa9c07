"""Grants slots of accounts to calls that wait for one.

``core.routing.slots.WaitQueue`` decides which call is next; this module holds the futures.  One
task takes slots and gives them back, for all calls, in rounds: a caller that is cancelled meanwhile
leaves the queue, and a slot that comes too late for it goes to another call.  With its first slot a
call's claim is decided (``edge.slots.claims``), whether or not there is a slot for it.  How all of
that is counted over all processes, and what an outage changes, is ``edge.slots.places``'s.

Calls that wait here do not take a shared slot as soon as it is free, but in their next round:
rounds come at random moments, so that each of several processes has its chance.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from image_gateway.edge.slots.claims import Claim, Claims, LimitError
from image_gateway.edge.slots.leases import BusyError, EarlyError, Lease
from image_gateway.edge.slots.places import Place, Places

ROUND_SECONDS: Final = 0.25
"""The mean time between two rounds while calls wait; each takes 0.5 to 1.5 times as long."""
RETURN_SECONDS: Final = 0.25
"""The longest wait for a Postgres that is slow to take locks back; it takes 0.2 ms."""
_TOGETHER: Final = 32
"""Claims that are decided until the queue is looked through again, which takes 1 ms for 1000 calls.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who waits for a slot, and the claim of its call."""

    future: asyncio.Future[Lease]
    claim: Claim | None

    @property
    def is_gone(self) -> bool:
        """Whether it has its answer, or gave up."""
        return self.future.done()

    @property
    def open_claim(self) -> Claim | None:
        """The claim of its call, if that is still to be decided."""
        is_open = self.claim is not None and not self.claim.is_decided and not self.is_gone
        return self.claim if is_open else None


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
        self._claims = Claims(self._places)
        self._starts = starts
        self._limit = limit
        self._table = SlotTable()
        self._queue = WaitQueue(max_waiting)
        self._hold_time = HoldTime()
        self._callers: dict[Waiter, _Caller] = {}
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
    def alone(self) -> int:
        """The places of running calls that other processes should see and do not."""
        return self._places.alone

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

    def claim(self, key: Key) -> Claim:
        """A place of the key, and one of its owner, for a call that starts.

        Raises ``LimitError`` if this process has as many calls of them as may be.
        """
        return self._claims.make(key)

    async def slot(
        self,
        key: Key,
        accounts: Sequence[Account],
        seconds: float,
        *,
        claim: Claim | None = None,
        starts: bool = False,
        call_id: str | None = None,
    ) -> Lease:
        """A slot of the best of the accounts that has one free; raises ``BusyError``.

        Waits for up to ``seconds``; at 0 it does not wait.  ``claim``: the call's; raises
        ``LimitError`` at once if another process has too many of its calls.  ``starts``: the call
        counts as a start of its key, and waits for the key's interval, too.  ``call_id`` is for
        ``position``.
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
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._callers[waiter] = _Caller(future, claim)
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
            del self._callers[waiter]
            if lease is None and future.done() and not (future.cancelled() or future.exception()):
                # The slot was granted in the moment in which the caller gave up.
                future.result().undo_start(self._starts)
                future.result().release()

    async def returned(self) -> None:
        """Wait until what was released just now is free for other processes, too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETURN_SECONDS):
                await self._places.returned()

    def _give_back(self, lease: Lease) -> None:
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
                if await self._decide_claims():
                    continue
                break
            waiter, candidate = match
            caller = self._callers[waiter]
            try:
                lease = await self._take(waiter, candidate, caller.open_claim)
            except LimitError as reached:
                self._refuse(waiter, reached)
                continue
            if lease is None:
                full.add(candidate.account_name)
                continue
            if caller.is_gone:
                self._undo(lease)
                continue
            self._queue.serve(waiter)
            if waiter.interval_ms is not None:
                lease.start(self._starts)
            caller.future.set_result(lease)
        rejected = self._queue.settle()
        self._full = frozenset(full) if self._queue.waiting else frozenset()
        for waiter in rejected:
            self._refuse(waiter, self._busy(waiter))

    async def _decide_claims(self) -> bool:
        """Decide claims of calls that get no slot now; False if there is none to decide."""
        waiting = [(w, caller) for w, caller in self._callers.items() if caller.open_claim]
        for waiter, caller in waiting[:_TOGETHER]:
            # What was released meanwhile must not stand in this one's way.
            await self._places.give_back()
            claim = caller.open_claim
            if claim is None:
                continue
            if not self._places.admits:
                return False
            try:
                claim.decide(await self._places.admit(claim.places))
            except LostSessionError:
                pass
            except LimitError as reached:
                self._refuse(waiter, reached)
        return bool(waiting)

    def _refuse(self, waiter: Waiter, error: Exception) -> None:
        self._queue.leave(waiter)
        caller = self._callers.get(waiter)
        if caller is not None and not caller.is_gone:
            caller.future.set_exception(error)

    def _may_start(self, waiter: Waiter) -> bool:
        caller = self._callers.get(waiter)
        return caller is not None and not caller.is_gone and not self._seconds_until_due(waiter)

    async def _take(
        self, waiter: Waiter, candidate: Candidate, claim: Claim | None
    ) -> Lease | None:
        """A slot, None if there is none; raises ``LimitError`` if the claim is refused."""
        if not self._places.admits:
            return None
        name, limit = candidate.account_name, self._limit(candidate)
        slot = self._table.take(name, limit)
        if slot is None:
            return None
        place = Place(self._places, slot, LockName(LockKind.ACCOUNT, name), limit)
        with ExitStack() as unless_taken:
            unless_taken.callback(place.release)
            try:
                full = await self._places.admit([*(claim.places if claim else ()), place])
            except LostSessionError:
                return None
            if claim is not None:
                claim.decide(full)
            if full is not None:
                return None
            unless_taken.pop_all()
        lease = Lease(waiter.key_id, name, place, time.monotonic(), self._give_back)
        self._leases[lease] = None
        return lease

    def _undo(self, lease: Lease) -> None:
        """Give back a lease whose caller is gone."""
        lease.place.release()
        del self._leases[lease]
