"""The session by which processes share slots, for as long as there is one.

It is opened anew when it is lost, in a task of its own, so that nobody waits for a Postgres that
does not answer.  Three times follow a loss.  For a moment nobody is admitted, for the session may
be lost while Postgres is there.  Then, until it is back, each process goes by its own count.  And
once it is back nobody is admitted for a moment, in which other processes come back with their
running calls.  Only one task may use it (``edge.slots.broker``).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from image_gateway.core.model import Secret
from image_gateway.edge.slots.advisory_locks import LostSessionError, SlotSession

RETRY_SECONDS: Final = 1.0
"""Between two tries to reach Postgres again."""
ALONE_SECONDS: Final = 0.5
"""How long a lost session may be tried again before the process goes by its own count: other
processes hold slots in a Postgres that is there."""
SETTLE_SECONDS: Final = 2 * RETRY_SECONDS
"""How long nobody is admitted after a lost session was replaced: other processes come back too."""
HEARTBEAT_SECONDS: Final = 2.0
"""How often a session whose locks are in use is asked whether it is still there."""
IDLE_SECONDS: Final = 10.0
"""The same for one that holds none, so that the metrics tell the truth in quiet times, too."""

_NEVER: Final = float("inf")
_LONG_AGO: Final = float("-inf")

_log = logging.getLogger(__name__)


class SharedSlots:
    """One process's part in the shared slots; ``wake`` is called when there is something to tend.

    What uses the session raises ``LostSessionError``: with it every lock is gone.
    """

    def __init__(self, database: Secret, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        self._session: SlotSession | None = None
        self._opening: asyncio.Task[SlotSession] | None = None
        self._was_lost = False
        self._retry_at = _LONG_AGO
        self._heartbeat_at = _NEVER
        self._admits_at = _LONG_AGO

    def __repr__(self) -> str:
        return f"<SharedSlots {self._session or 'lost'}>"

    @property
    def is_open(self) -> bool:
        """Whether other processes see what this one takes."""
        return self._session is not None

    @property
    def admits(self) -> bool:
        """Whether calls may be let in, by the shared count or by the own one."""
        return time.monotonic() >= self._admits_at

    @property
    def due(self) -> float:
        """When it wants to be tended, on the monotonic clock."""
        return self._retry_at if self._session is None else self._heartbeat_at

    async def open(self) -> None:
        """Try once to open the session; where that fails it is tried again later."""
        self._begin()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        self._adopt()

    async def close(self) -> None:
        """End the session, which frees what it holds."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                with contextlib.suppress(LostSessionError):
                    await opening.result().close()
        if self._session is not None:
            await self._session.close()

    async def take(self, account_name: str, limit: int) -> int | None:
        """The number of a lock that is ours now, None where ``limit`` are taken."""
        session = self._held()
        self._watch()
        try:
            return await session.take(account_name, limit)
        except LostSessionError as error:
            await self._lose(error)
            raise

    async def give_back(self, account_name: str, lock: int) -> None:
        """Let go of a lock."""
        try:
            await self._held().give_back(account_name, lock)
        except LostSessionError as error:
            await self._lose(error)
            raise

    async def maintain(self, *, in_use: bool) -> None:
        """Open the session again where it is lost, else see whether it is still there."""
        if self._session is None:
            if self._opening is None and time.monotonic() >= self._retry_at:
                self._begin()
            if self._opening is not None and self._opening.done():
                self._adopt()
        elif time.monotonic() >= self._heartbeat_at:
            try:
                await self._session.check()
            except LostSessionError as error:
                await self._lose(error)
                raise
            pause = HEARTBEAT_SECONDS if in_use else IDLE_SECONDS
            self._heartbeat_at = time.monotonic() + pause

    def _watch(self) -> None:
        """From now on a loss matters: see to it that it is soon found."""
        self._heartbeat_at = min(self._heartbeat_at, time.monotonic() + HEARTBEAT_SECONDS)

    def _held(self) -> SlotSession:
        if self._session is None:
            raise LostSessionError("NoSession")
        return self._session

    def _begin(self) -> None:
        self._retry_at = _NEVER
        self._opening = asyncio.create_task(SlotSession.open(self._database))
        self._opening.add_done_callback(lambda _: self._wake())

    def _adopt(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        # Spread out, so that many instances do not come back in one moment.
        self._retry_at = time.monotonic() + RETRY_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        self._admits_at = _LONG_AGO
        try:
            self._session = opening.result()
        except LostSessionError as error:
            if not self._was_lost:
                self._tell(error)
            return
        self._heartbeat_at = time.monotonic()
        if self._was_lost:
            self._admits_at = time.monotonic() + SETTLE_SECONDS
            self._was_lost = False
            _log.info("slots are shared again")

    async def _lose(self, error: LostSessionError) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._retry_at = time.monotonic()
        self._admits_at = time.monotonic() + ALONE_SECONDS
        self._tell(error)

    def _tell(self, error: LostSessionError) -> None:
        self._was_lost = True
        _log.warning("slots are not shared: %s; each process goes by its own count", error)
