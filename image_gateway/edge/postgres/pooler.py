"""Whether a database URL leads through a transaction pooler, where LISTEN silently hears nothing.

It owns the question and the sessions it is asked by.  It refuses to know what follows from the
answer, and goes by what a pooler does: one that speaks the protocol well says nothing of itself.

The technique: a session of Postgres is one server process, from its login to its end, and no other
session ever is in that process.  LISTEN and session advisory locks rest on exactly that.  A pooler
in transaction or statement mode takes the process away at the end of each transaction.  So two
sessions ask again and again which process answers them, and an answer that Postgres itself cannot
give proves a pooler: one session in two processes, or two sessions in one.  Which of the two comes
depends on what the pooler does with a process that is given back, so each is provoked:

- It lends the last one first (PgBouncer as it comes), or has only one: a session asks and gives
  its process back, and the other one, opening a transaction, is lent the same.
- It lends them in turn (``server_round_robin``): a session that asks twice in a row is passed on.
- Others are using it, too: they take the process between two questions.  While the other session
  holds its transaction, the one it was lent is not to be had again.
- It is full of others' transactions: a session that was answered before is now left waiting, and so
  is the other, while a third is let in.  Postgres starts a process for a login, which is more work
  than an answer, so a Postgres that does the one and for a second not the other is not expected.
- It lends for one statement (``pool_mode = statement``): PgBouncer refuses to open a transaction.

So True is certain; only where a full pool keeps everybody waiting it is a very good guess.  False
is the word for "not seen": a pooler is missed if it gives each session its last process back as
long as it can and has processes to spare, or if, by chance, others' traffic hides every move.  A
pooler in session mode behaves like Postgres, LISTEN works through it, and False is right.  A pool
that is full from the beginning answers nothing in either mode: that is a ``TimeoutError``.

It costs two or three connections, for a moment, and at most one transaction, read-only, held for a
few round trips.  Nothing that outlives a transaction is set or locked: where the answer is True it
would be left to a stranger.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import psycopg

from image_gateway.core.model import Secret
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.cache import LOAD_SECONDS

_ROUNDS: Final = 12
"""How often everything is provoked.

An idle pool shows itself in the first round, a busy one by luck; the least where it has two
processes that are never idle.
"""
_STEP_SECONDS: Final = 0.001
"""How much longer the pause before each further round is, not to fall into step with others."""
_ROUNDS_SECONDS: Final = 1.0
"""No further round begins after this, for over a slow way a few must do.

Where a session had to wait for its answer there is doubt, and all the time is taken.
"""
_PATIENCE_SECONDS: Final = 0.5
"""How long a session may be without an answer until it counts as waiting for a process.

An answer takes a round trip, and in front of an empty pool a login of the pooler's.
"""
_WHICH_PROCESS: Final = (
    b"SELECT pg_backend_pid(), extract(epoch FROM pg_postmaster_start_time())::text"
)
"""A process id means something on one server only, and a URL may lead to several."""
_NO_TRANSACTIONS: Final = "statement pooling"
"""Of PgBouncer's refusal.  Its code, 08P01, goes with everything that PgBouncer itself says."""

_Process: TypeAlias = tuple[object, ...]
"""A server process: its id, and when its server started."""


async def is_pooled(database: Secret) -> bool:
    """Whether sessions of this URL share server processes, so that LISTEN cannot work.

    False may be wrong, True is not: see above.  Takes some round trips, and ``LOAD_SECONDS`` at
    most.  Raises ``psycopg.Error`` or ``OSError`` where there is no way to Postgres, and
    ``TimeoutError`` where it does not answer in time, or where all of a pool is taken by others.
    """
    async with (
        asyncio.timeout(LOAD_SECONDS),
        _open(database, autocommit=True) as watched,
        _open(database, autocommit=False) as holder,
    ):
        await watched.ask(LOAD_SECONDS)
        end = asyncio.get_running_loop().time() + _ROUNDS_SECONDS
        found: bool | None = None
        for before in range(_ROUNDS):
            await asyncio.sleep(before * _STEP_SECONDS)
            found = await _provoke(database, watched, holder)
            is_late = asyncio.get_running_loop().time() > end and not watched.has_waited
            if found is not None or is_late:
                break
        # A pooler throws away a process whose client leaves in the midst of a transaction.
        await holder.let_go()
        return bool(found)


async def _provoke(database: Secret, watched: "_Session", holder: "_Session") -> bool | None:
    """One round: the answer, or None where a further round may bring another one."""
    if not await watched.ask():
        return await _judge_silence(database, watched, holder)
    if _is_proof(watched, holder):
        return True
    await holder.hold()
    if _is_proof(watched, holder):
        return True
    if not await watched.ask():
        return await _judge_silence(database, watched, holder)
    if _is_proof(watched, holder):
        return True
    await holder.let_go()
    # A session that goes on waiting while one that asked later is served: that one needs no queue.
    return False if holder.is_waiting else None


async def _judge_silence(database: Secret, watched: "_Session", holder: "_Session") -> bool | None:
    """What it means that the watched session waits, though it was answered before."""
    while True:
        # Both wait in the queue, and what one of them was lent goes back to it.
        await holder.let_go()
        await holder.hold(0)
        is_answered = await watched.ask()
        is_held = await holder.hold(0)
        if _is_proof(watched, holder):
            return True
        if is_answered:
            return None
        if not is_held:
            break
        # As long as only one of them waits that may be a connection lost on the way: then time
        # runs out here.
    async with _open(database, autocommit=True):
        if await watched.ask(0):
            return _is_proof(watched, holder) or None
        return True


def _is_proof(watched: "_Session", holder: "_Session") -> bool:
    """Whether these sessions, both open, were answered as Postgres itself cannot answer."""
    return (
        len(watched.processes) > 1
        or len(holder.processes) > 1
        or not watched.processes.isdisjoint(holder.processes)
        or holder.is_refused
    )


class _Session:
    """One session with Postgres, or what seems to be one.

    What it sends is sent by a task of its own, which may stay behind without an answer: to cancel
    psycopg in the midst of a statement is to wait for the server, for up to 10 s.
    """

    def __init__(self, connection: connections.AsyncConnection) -> None:
        self._connection = connection
        self._work: asyncio.Task[None] | None = None
        self.processes: set[_Process] = set()
        """Where its questions were answered."""
        self.is_refused = False
        """Whether it may not open a transaction."""
        self.has_waited = False
        """Whether an answer did not come within the time it was given."""

    def __repr__(self) -> str:
        return f"<_Session {len(self.processes)} processes>"

    @property
    def is_waiting(self) -> bool:
        """Whether it is without its answer."""
        return self._work is not None

    async def ask(self, seconds: float | None = None) -> bool:
        """Whether it is answered within ``seconds``; if not the question stays asked.

        None is ``_PATIENCE_SECONDS``.  Without autocommit the answer leaves a transaction open.
        """
        return await self._finish(self._ask, _PATIENCE_SECONDS if seconds is None else seconds)

    async def hold(self, seconds: float | None = None) -> bool:
        """``ask``, where an error is as good as no answer: there is no process to be had."""
        try:
            return await self.ask(seconds)
        except psycopg.Error as error:
            self.is_refused = _NO_TRANSACTIONS in str(error)
            return False

    async def let_go(self) -> None:
        """End the transaction, if there is one."""
        if self._work is None:
            # What cannot be ended has ended with its connection.
            with contextlib.suppress(psycopg.Error):
                await self._finish(self._let_go, LOAD_SECONDS)

    async def close(self) -> None:
        try:
            if self._work is not None:
                connections.hang_up(self._connection)
                await asyncio.wait([self._work])
                if not self._work.cancelled():
                    self._work.exception()  # expected: nobody waits for the answer any more
        finally:
            await self._connection.close()

    async def _ask(self) -> None:
        cursor = await self._connection.execute(_WHICH_PROCESS)
        self.processes.update(tuple(row.values()) for row in await cursor.fetchall())

    async def _let_go(self) -> None:
        await self._connection.rollback()

    async def _finish(
        self, work: Callable[[], Coroutine[object, object, None]], seconds: float
    ) -> bool:
        """Whether what is under way, or else ``work``, ends within ``seconds``."""
        if self._work is None:
            self._work = asyncio.create_task(work())
        done, _ = await asyncio.wait([self._work], timeout=seconds)
        if not done:
            self.has_waited = True
            return False
        ended, self._work = self._work, None
        ended.result()
        return True


@asynccontextmanager
async def _open(database: Secret, *, autocommit: bool) -> AsyncIterator[_Session]:
    """One session of its own; without autocommit its transactions are read-only."""
    session = _Session(await connections.connect(database, autocommit=autocommit))
    try:
        yield session
    finally:
        await session.close()
