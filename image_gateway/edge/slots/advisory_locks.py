"""Slots that several processes share: one Postgres session, one advisory lock for each slot.

The server frees a lock when its session ends, so a process that dies gives its slots back.  Only
one task may use a session (``edge.slots.broker`` owns it): when a query is cancelled, it is unknown
whether it took its lock (measured: of 200 cancelled queries 35 did).

Locks belong to one database: every process that reads the same control plane shares them.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Self

import psycopg

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.edge.postgres import connections

ANSWER_SECONDS: Final = 2.0
"""How long a statement may take until the session counts as lost; it takes 0.1 ms."""

_SLOT_BITS: Final = 10
_HASH_BITS: Final = 54


class LostSessionError(Exception):
    """The session is gone, and with it every lock; the message is an exception's name."""


class SlotSession:
    """One session and the locks it holds; closed by ``async with``.

    Every method raises ``LostSessionError``.
    """

    def __init__(self, connection: connections.AsyncConnection) -> None:
        self._connection = connection
        self._held: dict[str, set[int]] = {}

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

    async def take(self, account_name: str, limit: int) -> int | None:
        """Take a slot and give its number; None if ``limit`` slots are taken."""
        held = self._held.get(account_name, set())
        if len(held) >= limit:
            return None
        values = {"base": lock_key(account_name), "limit": limit, "held": list(held)}
        row = await self._query("take_slot", values)
        if row is None:
            return None
        slot: int = row["slot"]
        self._held.setdefault(account_name, set()).add(slot)
        if row["in_use"] > limit:
            await self.give_back(account_name, slot)
            return None
        return slot

    async def give_back(self, account_name: str, slot: int) -> None:
        """Release a slot."""
        self._held[account_name].discard(slot)
        if not self._held[account_name]:
            del self._held[account_name]
        await self._query("give_back_slot", {"base": lock_key(account_name), "slot": slot})

    async def check(self) -> None:
        """Check that the session still exists."""
        await self._query("slot_alive")

    async def _query(
        self, name: str, values: Mapping[str, object] | None = None
    ) -> dict[str, Any] | None:
        query = asyncio.create_task(self._execute(name, values))
        try:
            done, _ = await asyncio.wait([query], timeout=ANSWER_SECONDS)
            if not done:
                raise LostSessionError("TimeoutError")
            return query.result()
        except (psycopg.Error, OSError) as error:
            raise LostSessionError(type(error).__name__) from error
        finally:
            if not query.done():
                connections.hang_up(self._connection)
                await asyncio.wait([query])
                query.exception()  # expected: nobody waits for the result any more

    async def _execute(
        self, name: str, values: Mapping[str, object] | None
    ) -> dict[str, Any] | None:
        cursor = await self._connection.execute(sql.query(f"daemon/{name}").encode(), values)
        return await cursor.fetchone() if cursor.description else None


def lock_key(account_name: str) -> int:
    """The lock of an account's first slot, a signed bigint; the next 1023 are its others.

    54 bits of SHA-256(``image-gateway:`` + name), times 1024.  It must not change: operators read
    it in ``pg_locks``, and other versions of the gateway run beside this one.
    """
    digest = hashlib.sha256(b"image-gateway:" + account_name.encode("utf-8", "surrogatepass"))
    first = int.from_bytes(digest.digest()[:8], "big") >> (64 - _HASH_BITS)
    unsigned = first << _SLOT_BITS
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
