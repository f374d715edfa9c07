"""Places that several processes share: one Postgres session, one advisory lock for each place.

The server frees a lock when its session ends, so a process that dies gives its places back.  Only
one task may use a session (``edge.slots.places`` says which): when a query is cancelled, it is
unknown whether it took its lock (measured: of 200 cancelled queries 35 did).

Locks belong to one database: every process that reads the same control plane shares them.  The lock
table belongs to the whole server; how much of it is taken, and when it is counted, is
``core.routing.lock_table``'s.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

import psycopg

from image_gateway.core.model import Secret
from image_gateway.core.routing.lock_names import LockName
from image_gateway.core.routing.lock_table import LockTable, NameCount
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.prepared import PreparedStatements, Row

ANSWER_SECONDS: Final = 2.0
"""How long a statement may take until the session counts as lost; it takes 0.2 ms."""


class LostSessionError(Exception):
    """The session is gone, and with it every lock; the message is an exception's name."""


@dataclass(frozen=True, slots=True)
class Want:
    """A lock that is wanted under a name of which at most ``limit`` may be taken."""

    name: LockName
    limit: int


class NoLock(Enum):
    """Why there is no lock."""

    FULL = auto()
    """The name has no place left."""
    UNTRIED = auto()
    """A name before it has none, so it was not tried."""
    ALONE = auto()
    """There is no session, or no room in the lock table: the process counts by itself."""


class SlotSession:
    """One session and the locks it holds; closed by ``async with``.

    Every method raises ``LostSessionError``.
    """

    def __init__(self, connection: connections.AsyncConnection) -> None:
        self._connection = connection
        self._statements = PreparedStatements(connection, ANSWER_SECONDS)
        self._held: dict[int, set[int]] = {}
        """Locks, by the first one of their name."""
        self._table = LockTable(0)

    def __repr__(self) -> str:
        return f"<SlotSession {sum(map(len, self._held.values()))} locks>"

    @classmethod
    async def open(cls, database: Secret) -> Self:
        """Open a session; ``database`` must not lead through a transaction pooler."""
        try:
            async with asyncio.timeout(connections.CONNECT_SECONDS):
                connection = await connections.connect(database, autocommit=True)
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise LostSessionError(type(error).__name__) from error
        session = cls(connection)
        try:
            await session._query("slot_session")
            [[size]] = await session._query("lock_table")
            session._table = LockTable(size or 0)
            await session.count()
        except BaseException:
            await session.close()
            raise
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session, which frees its locks."""
        await self._connection.close()

    @property
    def table(self) -> LockTable:
        """The lock table as this session knows it."""
        return self._table

    async def take(self, wants: Sequence[Want]) -> list[int | NoLock]:
        """Take a lock under each name, in their order, until one has no place left.

        Each result is the number of a place, or why there is no lock.
        """
        if self._table.must_count_before(len(wants)):
            await self.count()
        results: list[int | NoLock] = [NoLock.ALONE] * len(wants)
        asked = self._affordable(wants)
        if not asked:
            return results
        for at, lock in zip(
            asked, await self._take_locks([wants[at] for at in asked]), strict=True
        ):
            results[at] = lock
        taken = [(at, place) for at, place in enumerate(results) if isinstance(place, int)]
        limits = [(wants[at].name.base, wants[at].limit) for at, _ in taken]
        # Counted after the lock is taken: of several sessions that take one under a name at the
        # same time at least one sees all.
        if taken and self._table.must_count_after(limits, time.monotonic()):
            await self.count()
            over = next((i for i, name in enumerate(limits) if self._table.is_over(*name)), None)
            if over is not None:
                await self.give_back([(wants[at].name, place) for at, place in taken[over:]])
                first = taken[over][0]
                results[first] = NoLock.FULL
                for at in asked[asked.index(first) + 1 :]:
                    # Also one that was found full: it stands behind the name that decides.
                    results[at] = NoLock.UNTRIED
        return results

    async def give_back(self, places: Sequence[tuple[LockName, int]]) -> None:
        """Release locks."""
        locks = []
        for name, place in places:
            base = name.base
            locks.append(base + place)
            self._held[base].discard(base + place)
            if not self._held[base]:
                del self._held[base]
        self._table.give_back(len(locks))
        await self._query("give_back_locks", {"locks": locks})

    async def count(self) -> None:
        """Count the locks of all sessions, which also shows that this one still exists."""
        locks = 0
        names = dict[int, NameCount]()
        for total, base, in_use, highest in await self._query("count_locks"):
            locks = total or 0
            if base is not None:
                names[base] = NameCount(in_use or 0, highest or 0)
        self._table.count(locks, names, time.monotonic())

    def _affordable(self, wants: Sequence[Want]) -> list[int]:
        """Which of the locks the budget has room for, by their numbers, in order."""
        room = self._table.grant(len(wants))
        by_rank = sorted(range(len(wants)), key=lambda at: wants[at].name.kind.rank)
        return sorted(by_rank[:room])

    async def _take_locks(self, wants: Sequence[Want]) -> list[int | NoLock]:
        bases = [want.name.base for want in wants]
        values = {
            "bases": bases,
            "limits": [want.limit for want in wants],
            "held": [lock for base in set(bases) for lock in self._held.get(base, ())],
        }
        results: list[int | NoLock] = [NoLock.UNTRIED] * len(wants)
        for at, (lock,) in enumerate(await self._query("take_locks", values)):
            if lock is None:
                results[at] = NoLock.FULL
            else:
                self._held.setdefault(bases[at], set()).add(lock)
                results[at] = lock - bases[at]
                self._table.take(1)
        return results

    async def _query(
        self, name: str, values: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[Row]:
        try:
            return await self._statements.run(f"daemon/{name}", values)
        except (psycopg.Error, OSError) as error:
            raise LostSessionError(type(error).__name__) from error
