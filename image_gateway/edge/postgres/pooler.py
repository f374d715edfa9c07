"""Detects whether a database URL leads through a transaction pooler, where LISTEN silently fails.

It does not decide what follows from the result.  It goes by what a pooler does, because one that
speaks the protocol well does not say that it is a pooler.

The technique: Postgres runs a session in one server process, from its login to its end, and no
other session in that process.  LISTEN and session advisory locks depend on that.  A pooler in
transaction or statement mode takes the process away at the end of each transaction.  So two
sessions ask repeatedly which process serves them, and a result that Postgres itself cannot give
proves a pooler: one session in two processes, or two sessions in one.  Which of the two happens
depends on what the pooler does with a process that is given back, so each is provoked:

- It lends the last process first (PgBouncer's default), or has only one: a session asks and gives
  its process back, and the other session, opening a transaction, gets the same one.
- It lends them in turn (``server_round_robin``): a session that asks twice gets two processes.
- Other clients use it: they take the process between two questions.  While the other session
  holds its transaction, the process it was lent is not free.
- Other clients' transactions fill it: a session that was served before now waits, and so does the
  other, while a third can log in.  Postgres starts a process for a login, which is more work than
  an answer, so a Postgres that does the first and for a second not the other is not expected.
- It lends for one statement (``pool_mode = statement``): PgBouncer refuses to open a transaction.

So True is certain, except with a full pool where all sessions wait: there it is a very good guess.
False means "not seen": a pooler is missed if it gives each session its last process back as long as
it can and has processes to spare, or if traffic of other clients happens to hide every sign.  A
pooler in session mode behaves like Postgres, LISTEN works through it, and False is right.  A pool
that is full from the start answers nothing in either mode: that is a ``TimeoutError``.

It takes two or three connections for a moment, and at most one read-only transaction for a few
round trips.  It sets and locks nothing that outlives a transaction: behind a pooler, that would
stay with another client.
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
"""How often all signs are provoked.

An idle pool shows in the first round, a busy one by chance, least of all one that has two processes
that are never idle.
"""
_STEP_SECONDS: Final = 0.001
"""How much each pause between rounds grows, so as not to fall into step with other clients."""
_ROUNDS_SECONDS: Final = 1.0
"""No further round starts after this: over a slow network a few must do.

If a session had to wait for an answer there is doubt, and all rounds are run.
"""
_ANSWER_SECONDS: Final = 0.5
"""How long an answer may take until its session counts as waiting for a process.

An answer takes a round trip, and through an empty pool a login by the pooler.
"""
_WHICH_PROCESS: Final = (
    b"SELECT pg_backend_pid(), extract(epoch FROM pg_postmaster_start_time())::text"
)
"""A process id is unique on one server only, and a URL may lead to several."""
_NO_TRANSACTIONS: Final = "statement pooling"
"""Part of PgBouncer's error.  Its code, 08P01, is the one of all errors of PgBouncer."""

_Process: TypeAlias = tuple[object, ...]
"""A server process: its id, and when its server started."""


async def is_pooled(database: Secret) -> bool:
    """Whether sessions of this URL share server processes, so that LISTEN cannot work.

    False may be wrong, True is not: see above.  Takes some round trips, and ``LOAD_SECONDS`` at
    most.  Raises ``psycopg.Error`` or ``OSError`` if Postgres cannot be reached, and
    ``TimeoutError`` if it does not answer in time, or if other clients use all of a pool.
    """
    async with (
        asyncio.timeout(LOAD_SECONDS),
        _open(database, autocommit=True) as watched,
        _open(database, autocommit=False) as holder,
    ):
        await watched.ask(LOAD_SECONDS)
        end = asyncio.get_running_loop().time() + _ROUNDS_SECONDS
        result: bool | None = None
        for number in range(_ROUNDS):
            await asyncio.sleep(number * _STEP_SECONDS)
            result = await _provoke(database, watched, holder)
            is_late = asyncio.get_running_loop().time() > end and not watched.has_waited
            if result is not None or is_late:
                break
        # A pooler ends a process whose client leaves within a transaction.
        await holder.let_go()
        return bool(result)


async def _provoke(database: Secret, watched: "_Session", holder: "_Session") -> bool | None:
    """One round: the result, or None if another round may find more."""
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
    # A session waits while one that asked later is served: that is not a pooler's queue.
    return False if holder.is_waiting else None


async def _judge_silence(database: Secret, watched: "_Session", holder: "_Session") -> bool | None:
    """The result of a round in which the watched session waits, though it was served before."""
    while True:
        # Both wait in the pooler's queue, and a process that one of them was lent goes back there.
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
        # While only one of them waits its connection may be lost: then the time-out ends this loop.
    async with _open(database, autocommit=True):
        if await watched.ask(0):
            return _is_proof(watched, holder) or None
        return True


def _is_proof(watched: "_Session", holder: "_Session") -> bool:
    """Whether these sessions, both open, got a result that Postgres itself cannot give."""
    return (
        len(watched.processes) > 1
        or len(holder.processes) > 1
        or not watched.processes.isdisjoint(holder.processes)
        or holder.is_refused
    )


class _Session:
    """One session with Postgres, or with a pooler.

    A task of its own sends each statement, and may stay without an answer: cancelling psycopg
    during a statement waits for the server, for up to 10 s.
    """

    def __init__(self, connection: connections.AsyncConnection) -> None:
        self._connection = connection
        self._work: asyncio.Task[None] | None = None
        self.processes: set[_Process] = set()
        """The processes that served it."""
        self.is_refused = False
        """Whether it may not open a transaction."""
        self.has_waited = False
        """Whether an answer did not come in time."""

    def __repr__(self) -> str:
        return f"<_Session {len(self.processes)} processes>"

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is outstanding."""
        return self._work is not None

    async def ask(self, seconds: float | None = None) -> bool:
        """Ask for the process; whether it answers within ``seconds``, else the query goes on.

        None is ``_ANSWER_SECONDS``.  Without autocommit the answer leaves a transaction open.
        """
        return await self._finish(self._ask, _ANSWER_SECONDS if seconds is None else seconds)

    async def hold(self, seconds: float | None = None) -> bool:
        """``ask``, where an error counts as no answer: no process is available."""
        try:
            return await self.ask(seconds)
        except psycopg.Error as error:
            self.is_refused = _NO_TRANSACTIONS in str(error)
            return False

    async def let_go(self) -> None:
        """End the transaction, if there is one."""
        if self._work is None:
            # If the rollback fails, the transaction has ended with its connection.
            with contextlib.suppress(psycopg.Error):
                await self._finish(self._let_go, LOAD_SECONDS)

    async def close(self) -> None:
        try:
            if self._work is not None:
                connections.hang_up(self._connection)
                await asyncio.wait([self._work])
                if not self._work.cancelled():
                    self._work.exception()  # expected: nobody waits for the result any more
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
        """Whether the statement under way, or else ``work``, ends within ``seconds``."""
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
    """A new session; without autocommit its transactions are read-only."""
    session = _Session(await connections.connect(database, autocommit=autocommit))
    try:
        yield session
    finally:
        await session.close()
