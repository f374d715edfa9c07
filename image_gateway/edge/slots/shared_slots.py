"""The session by which processes count calls together, and what happens while it is lost.

A lost session is opened again in a task of its own, so that no call waits for a Postgres that does
not answer.  A loss has three phases.  For ``ALONE_SECONDS`` at most no call is admitted: the
session may be lost while Postgres is up.  Then, until the session is back, each process counts its
own calls.  Once it is back, no call is admitted for ``SETTLE_SECONDS``, in which other processes
take the locks of their running calls again.  Only one task may use it (``edge.slots.places``).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from image_gateway.core.model import Secret
from image_gateway.core.routing.lock_names import LockName
from image_gateway.edge.slots.advisory_locks import LostSessionError, NoLock, SlotSession, Want

RETRY_SECONDS: Final = 1.0
"""Between two attempts to reach Postgres again."""
IN_VAIN_SECONDS: Final = 5.0
"""The same where sessions open and take no lock, as when others' locks fill the lock table.  The
next session would fail at once, too; until then each process counts alone and admits calls."""
ALONE_SECONDS: Final = 0.5
"""The longest that no call is admitted after a loss, until the process counts alone: Postgres may
be up, and other processes may hold slots there."""
SETTLE_SECONDS: Final = 2 * RETRY_SECONDS
"""How long no call is admitted after a lost session was replaced: other processes return, too."""
HEARTBEAT_SECONDS: Final = 2.0
"""How often a session that holds locks is checked, and the lock table counted."""
IDLE_SECONDS: Final = 10.0
"""The same for one that holds none, so that the metrics are right in quiet times, too."""

_NEVER: Final = float("inf")
_LONG_AGO: Final = float("-inf")

_log = logging.getLogger(__name__)


class SharedSlots:
    """One process's session for the shared locks; ``wake`` is called when ``maintain`` is due.

    ``take``, ``give_back`` and ``maintain`` raise ``LostSessionError``: then every lock is gone.
    """

    def __init__(self, database: Secret, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        self._session: SlotSession | None = None
        self._opening: asyncio.Task[SlotSession] | None = None
        self._was_lost = False
        self._was_short = False
        self._in_vain = 0
        """Takes that lost their session since the last one that did not."""
        self._retry_at = _LONG_AGO
        self._heartbeat_at = _NEVER
        self._admits_at = _LONG_AGO

    def __repr__(self) -> str:
        return f"<SharedSlots {self._session or 'lost'}>"

    @property
    def is_open(self) -> bool:
        """Whether other processes see the places that this one takes."""
        return self._session is not None

    @property
    def is_short(self) -> bool:
        """Whether the lock table has no room for the locks of calls that run."""
        return self._session is not None and self._session.table.is_short

    @property
    def admits(self) -> bool:
        """Whether calls may be admitted, by the shared count or by the own one."""
        return time.monotonic() >= self._admits_at

    @property
    def due(self) -> float:
        """When ``maintain`` must be called, on the monotonic clock."""
        return self._retry_at if self._session is None else self._heartbeat_at

    async def open(self) -> None:
        """Try once to open the session; if that fails, ``maintain`` tries again."""
        self._start_opening()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        self._finish_opening()

    async def close(self) -> None:
        """End the session, which frees its locks."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                with contextlib.suppress(LostSessionError):
                    await opening.result().close()
        if self._session is not None:
            await self._session.close()

    async def take(self, wants: Sequence[Want]) -> list[int | NoLock]:
        """Take a lock under each name, in their order, until one has no place left."""
        session = self._open_session()
        # A loss matters from now on, so find it soon.
        self._heartbeat_at = min(self._heartbeat_at, time.monotonic() + HEARTBEAT_SECONDS)
        try:
            taken = await session.take(wants)
        except LostSessionError as error:
            self._in_vain += 1
            await self._lose(error)
            raise
        self._in_vain = 0
        self._tell_shortage()
        return taken

    async def give_back(self, places: Sequence[tuple[LockName, int]]) -> None:
        """Release locks."""
        try:
            await self._open_session().give_back(places)
        except LostSessionError as error:
            await self._lose(error)
            raise

    async def maintain(self, *, in_use: bool) -> None:
        """Open the session again if it is lost, else check it when that is due."""
        if self._session is None:
            if self._opening is None and time.monotonic() >= self._retry_at:
                self._start_opening()
            if self._opening is not None and self._opening.done():
                self._finish_opening()
        elif time.monotonic() >= self._heartbeat_at:
            try:
                await self._session.count()
            except LostSessionError as error:
                await self._lose(error)
                raise
            self._tell_shortage()
            pause = HEARTBEAT_SECONDS if in_use else IDLE_SECONDS
            self._heartbeat_at = time.monotonic() + pause

    def _open_session(self) -> SlotSession:
        if self._session is None:
            raise LostSessionError("NoSession")
        return self._session

    def _start_opening(self) -> None:
        self._retry_at = _NEVER
        self._opening = asyncio.create_task(SlotSession.open(self._database))
        self._opening.add_done_callback(lambda _: self._wake())

    def _finish_opening(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        # Spread out, so that many instances do not return at the same moment.
        self._retry_at = time.monotonic() + RETRY_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        self._admits_at = _LONG_AGO
        try:
            self._session = opening.result()
        except LostSessionError as error:
            if not self._was_lost:
                self._warn(error)
            return
        self._heartbeat_at = time.monotonic()
        if self._was_lost:
            self._admits_at = time.monotonic() + SETTLE_SECONDS
            self._was_lost = False
            _log.info("slots and limits are shared with the other processes again")

    async def _lose(self, error: LostSessionError) -> None:
        session, self._session = self._session, None
        self._was_short = False
        if session is not None:
            await session.close()
        # The first loss may be chance.  If the next session is lost at its first take, too, another
        # one would not last either.
        pause = IN_VAIN_SECONDS * random.uniform(0.5, 1.0) if self._in_vain > 1 else 0.0  # noqa: S311
        self._retry_at = time.monotonic() + pause
        self._admits_at = time.monotonic() + ALONE_SECONDS
        self._warn(error)

    def _warn(self, error: LostSessionError) -> None:
        self._was_lost = True
        _log.warning(
            "slots are not shared: %s; until Postgres is back each process counts its own, and its "
            "own calls of each key and owner. Check DIRECT_DATABASE_URL if this lasts",
            error,
        )

    def _tell_shortage(self) -> None:
        if self._session is None or self.is_short is self._was_short:
            return
        self._was_short = self.is_short
        if self._was_short:
            _log.warning(
                "the lock table of Postgres has no room for more than %d advisory locks: until "
                "there are fewer, each process counts new calls by itself. Raise "
                "max_locks_per_transaction",
                self._session.table.budget,
            )
        else:
            _log.info("the lock table of Postgres has room again: new calls are counted together")
