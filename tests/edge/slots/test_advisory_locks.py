"""Slots as advisory locks: whose they are, what they are called, when they are free again."""

import asyncio
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any, Final

import psycopg
import pytest

from image_gateway.core.model import Secret
from image_gateway.core.routing import lock_table
from image_gateway.core.routing.lock_names import LockKind, LockName
from image_gateway.demo import postgres
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.prepared import PreparedStatements
from image_gateway.edge.slots import advisory_locks
from image_gateway.edge.slots.advisory_locks import LostSessionError, NoLock, SlotSession, Want
from tests.edge.conftest import Watcher
from tests.edge.relay import Relay
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.plane import Plane

GRACE_SECONDS: Final = 1.0
"""What a busy machine may add to a bound."""

Open = Callable[..., Awaitable[SlotSession]]


@pytest.fixture
async def open_session(database: str) -> AsyncIterator[Open]:
    """Opens sessions on the database."""
    async with AsyncExitStack() as stack:

        async def opened(url: str = database) -> SlotSession:
            return await stack.enter_async_context(await SlotSession.open(Secret(url)))

        yield opened


def account(name: str) -> LockName:
    return LockName(LockKind.ACCOUNT, name)


async def take(session: SlotSession, account_name: str, limit: int) -> int | None:
    """A slot of an account, None if all are taken."""
    [taken] = await session.take([Want(account(account_name), limit)])
    assert taken is NoLock.FULL or isinstance(taken, int)
    return taken if isinstance(taken, int) else None


async def give_back(session: SlotSession, account_name: str, slot: int) -> None:
    await session.give_back([(account(account_name), slot)])


# -- what a lock is called -------------------------------------------------------------------------


@pytest.mark.parametrize("is_negative", [False, True])
async def test_postgres_shows_the_key_in_classid_and_objid(
    open_session: Open, watcher: Watcher, *, is_negative: bool
) -> None:
    """For ten names, so that of each sign some have a high bit in their lower half, too."""
    session = await open_session()
    names = [name for name in map(str, range(60)) if (account(name).base < 0) is is_negative][:10]
    assert {account(name).base >> 31 & 1 for name in names} == {0, 1}
    for name in names:
        assert [await take(session, name, 2), await take(session, name, 2)] == [0, 1]
        shown = watcher.ask(
            "SELECT classid::bigint, objid::bigint, objsubid, mode FROM pg_locks"
            " WHERE locktype = 'advisory' ORDER BY objid::bigint"
        )
        unsigned = account(name).base % 2**64
        assert shown == [
            (unsigned >> 32, unsigned % 2**32 + slot, 1, "ExclusiveLock") for slot in (0, 1)
        ]
        assert await take(session, name, 2) is None
        for slot in (0, 1):
            await give_back(session, name, slot)
        assert watcher.locks() == []


async def test_the_largest_limit_is_1024_and_touches_no_neighbour(
    open_session: Open, watcher: Watcher
) -> None:
    session = await open_session()
    first = account("alpha").base
    watcher.ask("SELECT pg_advisory_lock(%s::bigint + n) FROM generate_series(0, 1022) n", first)
    assert await take(session, "alpha", 1023) is None
    assert await take(session, "alpha", 1024) == 1023
    assert await take(session, "alpha", 1024) is None
    assert watcher.slots("alpha") == list(range(1024))
    assert len(watcher.locks()) == 1024


# -- never over the limit --------------------------------------------------------------------------


async def test_sessions_that_take_at_random_never_hold_more_than_the_limit(
    open_session: Open, watcher: Watcher
) -> None:
    """Six sessions in one storm; what each holds is counted here, not asked of the server."""
    chance = random.Random(20261121)
    limits = {"alpha": 3, "beta": 1}
    sessions = [await open_session() for _ in range(6)]
    holders: Counter[str] = Counter()
    most: Counter[str] = Counter()
    slots: set[tuple[str, int]] = set()
    served = [0] * len(sessions)

    async def storm(number: int, session: SlotSession) -> None:
        mine: list[tuple[str, int]] = []
        for _ in range(120):
            if mine and chance.random() < 0.5:
                name, slot = mine.pop(chance.randrange(len(mine)))
                holders[name] -= 1
                slots.remove((name, slot))
                await give_back(session, name, slot)
                continue
            name = chance.choice(list(limits))
            taken = await take(session, name, limits[name])
            if taken is None:
                continue
            assert (name, taken) not in slots, "one slot, two holders"
            holders[name] += 1
            most[name] = max(most[name], holders[name])
            slots.add((name, taken))
            mine.append((name, taken))
            served[number] += 1
        for name, slot in mine:
            holders[name] -= 1
            slots.remove((name, slot))
            await give_back(session, name, slot)

    await asyncio.gather(*(storm(number, each) for number, each in enumerate(sessions)))
    assert dict(most) == limits
    assert all(served)
    assert watcher.locks() == []


async def test_one_session_never_counts_a_slot_twice(open_session: Open, watcher: Watcher) -> None:
    """Postgres lets a session take its own lock again, and wants it back as many times."""
    session = await open_session()
    assert [await take(session, "alpha", 3) for _ in range(5)] == [0, 1, 2, None, None]
    assert repr(session) == "<SlotSession 3 locks>"
    await give_back(session, "alpha", 1)
    assert watcher.slots("alpha") == [0, 2]
    assert await take(session, "alpha", 3) == 1
    for slot in (2, 0, 1):
        await give_back(session, "alpha", slot)
    assert watcher.locks() == []
    assert repr(session) == "<SlotSession 0 locks>"


async def test_a_lowered_limit_counts_the_slots_beyond_it(
    open_session: Open, watcher: Watcher
) -> None:
    first, second = await open_session(), await open_session()
    assert [await take(first, "alpha", 3) for _ in range(3)] == [0, 1, 2]
    for slot in (0, 1):
        assert await take(second, "alpha", 1) is None
        await give_back(first, "alpha", slot)
    # Slot 0 is free, and yet as many are held as may be.
    assert await take(second, "alpha", 1) is None
    assert watcher.slots("alpha") == [2], "a try that failed left a lock behind"
    assert await take(first, "alpha", 1) is None
    await give_back(first, "alpha", 2)
    assert await take(second, "alpha", 1) == 0


async def test_a_lowered_limit_holds_when_many_ask_at_once(
    open_session: Open, watcher: Watcher
) -> None:
    """One slot beyond the limit of two is held: of five that ask at once one may be admitted."""
    holder = await open_session()
    for _ in range(4):
        await take(holder, "alpha", 4)
    for slot in (0, 1, 2):
        await give_back(holder, "alpha", slot)
    others = [await open_session() for _ in range(5)]
    admitted = 0
    for _ in range(60):
        taken = await asyncio.gather(*(take(each, "alpha", 2) for each in others))
        found = [(each, slot) for each, slot in zip(others, taken, strict=True) if slot is not None]
        assert len(found) <= 1
        assert len(watcher.slots("alpha")) == 1 + len(found)
        admitted += len(found)
        for each, slot in found:
            await give_back(each, "alpha", slot)
    # None at all in one try or another is right: each saw the others' tries.
    assert admitted
    assert await take(others[0], "alpha", 2) == 0


async def test_a_limit_that_moves_under_load_is_never_passed_by_who_knows_it(
    open_session: Open, watcher: Watcher
) -> None:
    chance = random.Random(7)
    sessions = [await open_session() for _ in range(4)]
    limits = cycle((2, 5, 1, 4, 3))
    limit = 4
    holders = asking = 0
    is_known = asyncio.Event()
    is_known.set()
    admitted: Counter[int] = Counter()

    async def load(session: SlotSession) -> None:
        nonlocal holders, asking, limit
        for _ in range(150):
            if chance.random() < 0.05 and is_known.is_set():
                # Whoever asks by the old limit is not who knows the new one.
                is_known.clear()
                while asking:
                    await asyncio.sleep(0)
                limit = next(limits)
                is_known.set()
            await is_known.wait()
            asking += 1
            slot = await take(session, "alpha", limit)
            asking -= 1
            if slot is None:
                continue
            assert holders < limit, "admitted while too many are held"
            holders += 1
            admitted[limit] += 1
            await asyncio.sleep(chance.random() * 0.004)
            holders -= 1
            await give_back(session, "alpha", slot)

    await asyncio.gather(*(load(each) for each in sessions))
    assert len(admitted) == 5, admitted
    assert watcher.locks() == []


async def test_a_raised_limit_admits_more_at_once(open_session: Open) -> None:
    first, second = await open_session(), await open_session()
    assert await take(first, "alpha", 1) == 0
    assert await take(second, "alpha", 1) is None
    assert await take(second, "alpha", 3) == 1
    assert await take(first, "alpha", 3) == 2
    assert await take(second, "alpha", 3) is None


async def test_accounts_do_not_share_slots(open_session: Open) -> None:
    first, second = await open_session(), await open_session()
    assert await take(first, "alpha", 1) == 0
    assert await take(second, "beta", 1) == 0
    assert await take(second, "alpha", 1) is None


async def test_locks_of_others_do_not_count(
    open_session: Open, watcher: Watcher, database: str, postgres_url: str
) -> None:
    """Of another form, of another database, of another program: none is one of our slots."""
    session = await open_session()
    first = account("alpha").base
    unsigned = first % 2**64
    halves = [
        number - 2**32 if number >= 2**31 else number
        for number in (unsigned >> 32, unsigned % 2**32)
    ]
    for offset in range(3):
        # Two keys of 32 bits stand in the same columns, and differ by objsubid alone.
        watcher.ask("SELECT pg_advisory_lock(%s::int, %s::int)", halves[0], halves[1] + offset)
    for number in (*range(10), first - 1, first + 1024):
        watcher.ask("SELECT pg_advisory_lock(%s::bigint)", number)
    elsewhere = Plane(postgres_url)
    elsewhere.create("")
    try:
        other = await open_session(elsewhere.url)
        assert [await take(other, "alpha", 3) for _ in range(4)] == [0, 1, 2, None]
        assert [await take(session, "alpha", 2) for _ in range(3)] == [0, 1, None]
        await other.close()
    finally:
        elsewhere.drop()


async def test_who_only_waits_for_a_lock_does_not_count(
    open_session: Open, watcher: Watcher, database: str
) -> None:
    """A curious operator's blocked pg_advisory_lock takes no slot away."""
    session = await open_session()
    assert await take(session, "alpha", 2) == 0
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        blocked = asyncio.create_task(
            other.execute("SELECT pg_advisory_lock(%s::bigint)", [account("alpha").base])
        )
        await eventually(lambda: watcher.ask("SELECT 1 FROM pg_locks WHERE NOT granted"))
        assert await take(session, "alpha", 2) == 1
        await give_back(session, "alpha", 0)
        await blocked


async def test_a_role_without_privileges_may(plane: Plane) -> None:
    """The control plane's reader, which may not write; nor could its session if it might."""
    async with (
        await SlotSession.open(Secret(plane.reader_url)) as first,
        await SlotSession.open(Secret(plane.reader_url)) as second,
    ):
        assert await take(first, "alpha", 1) == 0
        assert await take(second, "alpha", 1) is None
        await give_back(first, "alpha", 0)
        assert await take(second, "alpha", 1) == 0
        await second.count()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await second._connection.execute("CREATE TABLE image_gateway.mine ()")


# -- several at once -------------------------------------------------------------------------------


def wants(*limits: tuple[str, int]) -> list[Want]:
    return [Want(account(name), limit) for name, limit in limits]


async def test_one_statement_takes_a_lock_under_each_name(
    open_session: Open, watcher: Watcher
) -> None:
    session = await open_session()
    assert await session.take(wants(("alpha", 2), ("beta", 1), ("gamma", 3))) == [0, 0, 0]
    assert await session.take(wants(("alpha", 2), ("gamma", 3))) == [1, 1]
    assert [watcher.slots(name) for name in ("alpha", "beta", "gamma")] == [[0, 1], [0], [0, 1]]
    await session.give_back([(account("alpha"), 0), (account("gamma"), 1), (account("beta"), 0)])
    assert [watcher.slots(name) for name in ("alpha", "beta", "gamma")] == [[1], [], [0]]


async def test_where_a_name_is_full_those_behind_it_are_not_tried(
    open_session: Open, watcher: Watcher
) -> None:
    first, second = await open_session(), await open_session()
    await take(first, "beta", 1)
    taken = await second.take(wants(("alpha", 1), ("beta", 1), ("gamma", 1)))
    assert taken == [0, NoLock.FULL, NoLock.UNTRIED]
    assert [watcher.slots(name) for name in ("alpha", "gamma")] == [[0], []]


async def test_a_name_twice_gets_two_places(open_session: Open, watcher: Watcher) -> None:
    first, second = await open_session(), await open_session()
    await take(first, "alpha", 4)
    taken = await second.take(wants(("alpha", 4), ("alpha", 4), ("alpha", 4), ("alpha", 4)))
    assert taken == [1, 2, 3, NoLock.FULL]
    assert watcher.slots("alpha") == [0, 1, 2, 3]


async def test_what_is_over_a_lowered_limit_goes_back_with_all_behind_it(
    open_session: Open, watcher: Watcher
) -> None:
    first, second = await open_session(), await open_session()
    await first.take(wants(("beta", 2), ("beta", 2)))
    await give_back(first, "beta", 0)
    taken = await second.take(wants(("alpha", 1), ("beta", 1), ("gamma", 1)))
    assert taken == [0, NoLock.FULL, NoLock.UNTRIED]
    assert [watcher.slots(name) for name in ("alpha", "beta", "gamma")] == [[0], [1], []]


async def test_of_a_name_over_its_limit_and_a_full_one_behind_it_the_first_is_full(
    open_session: Open,
) -> None:
    first, second = await open_session(), await open_session()
    await first.take(wants(("beta", 2), ("beta", 2), ("gamma", 1)))
    await give_back(first, "beta", 0)
    assert await second.take(wants(("beta", 1), ("gamma", 1))) == [NoLock.FULL, NoLock.UNTRIED]


async def test_takes_in_a_row_read_the_lock_table_once(
    open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it takes milliseconds where there are many locks."""
    monkeypatch.setattr(lock_table, "COUNT_SECONDS", float("inf"))
    execute, asked = PreparedStatements.run, Counter[str]()

    async def counted(statements: PreparedStatements, name: str, values: Any = None) -> Any:
        asked[name] += 1
        return await execute(statements, name, values)

    monkeypatch.setattr(PreparedStatements, "run", counted)
    session = await open_session()
    asked.clear()
    for _ in range(10):
        await session.take(wants(("alpha", 3), ("beta", 3), ("gamma", 3)))
        await session.give_back([(account(name), 0) for name in ("alpha", "beta", "gamma")])
    assert asked == {
        "daemon/take_locks": 10,
        "daemon/give_back_locks": 10,
        "daemon/count_locks": 1,
    }


# -- when they are free again ----------------------------------------------------------------------


async def test_a_closed_session_holds_nothing(open_session: Open, watcher: Watcher) -> None:
    first, second = await open_session(), await open_session()
    for _ in range(3):
        await take(first, "alpha", 3)
    assert await take(second, "alpha", 3) is None
    await first.close()
    await eventually(lambda: not watcher.locks())
    assert await take(second, "alpha", 3) == 0


async def test_a_session_that_the_server_ended_holds_nothing_and_says_so(
    open_session: Open, watcher: Watcher
) -> None:
    first = await open_session()
    for _ in range(3):
        await take(first, "alpha", 3)
    watcher.end_sessions()
    await eventually(lambda: not watcher.locks())
    second = await open_session()
    assert [await take(second, "alpha", 3) for _ in range(4)] == [0, 1, 2, None]
    with pytest.raises(LostSessionError):
        await take(first, "alpha", 4)


async def test_a_session_that_opens_as_it_is_cancelled_is_closed(
    database: str, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = PreparedStatements.run

    async def answered(statements: PreparedStatements, name: str, values: Any = None) -> Any:
        answer = await execute(statements, name, values)
        opening.cancel()
        return answer

    monkeypatch.setattr(PreparedStatements, "run", answered)
    opening = asyncio.create_task(SlotSession.open(Secret(database)))
    await asyncio.wait([opening])
    assert opening.cancelled()
    await eventually(lambda: watcher.sessions() == [])


Ask = Callable[[SlotSession], Awaitable[Any]]
ASKS: Final[dict[str, Ask]] = {
    "take": lambda session: take(session, "alpha", 2),
    "give back": lambda session: give_back(session, "alpha", 0),
    "count": lambda session: session.count(),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
async def test_a_lost_session_is_told_by_whatever_is_asked(
    open_session: Open, watcher: Watcher, ask: Ask
) -> None:
    session = await open_session()
    await take(session, "alpha", 2)
    watcher.end_sessions()
    with pytest.raises(LostSessionError) as lost:
        await ask(session)
    assert str(lost.value).isidentifier(), "one word for the log"
    with pytest.raises(LostSessionError):
        await session.count()


@pytest.mark.slow
async def test_a_killed_server_is_told_and_a_new_one_knows_no_locks() -> None:
    with Server(postgres.VERSION) as server:
        async with await SlotSession.open(Secret(server.url)) as session:
            assert await take(session, "alpha", 1) == 0
            server.kill()
            with pytest.raises(LostSessionError):
                await take(session, "alpha", 2)
            with pytest.raises(LostSessionError):
                await SlotSession.open(Secret(server.url))
            server.start()
            with pytest.raises(LostSessionError):
                await session.count()
            async with await SlotSession.open(Secret(server.url)) as other:
                assert await take(other, "alpha", 1) == 0


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds on a silent server in small."""
    monkeypatch.setattr(advisory_locks, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)


@pytest.mark.usefixtures("soon")
async def test_a_server_that_falls_silent_is_lost_within_the_bound(database: str) -> None:
    """Whoever wants a slot waits for this answer, whatever lies on the way to Postgres."""
    async with Relay(database) as relay, await SlotSession.open(Secret(relay.url)) as session:
        assert await take(session, "alpha", 2) == 0
        relay.stall()
        began = time.monotonic()
        with pytest.raises(LostSessionError):
            await take(session, "alpha", 2)
        assert time.monotonic() - began < advisory_locks.ANSWER_SECONDS + GRACE_SECONDS


@pytest.mark.usefixtures("soon")
async def test_a_stopped_server_process_is_lost_within_the_bound(
    open_session: Open, watcher: Watcher
) -> None:
    """The server itself is well, and takes the request to cancel the statement."""
    session = await open_session()
    assert await take(session, "alpha", 2) == 0
    [pid] = watcher.sessions()
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(LostSessionError):
            await take(session, "alpha", 2)
        assert time.monotonic() - began < advisory_locks.ANSWER_SECONDS + GRACE_SECONDS
        await session.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    # It wakes up, finds nobody there, and lets go of all, the lock of the late statement too.
    await eventually(lambda: not watcher.locks())


@pytest.mark.usefixtures("soon")
async def test_a_silent_server_cannot_be_opened_and_that_is_told_within_the_bound(
    database: str,
) -> None:
    async with Relay(database) as relay:
        relay.stall()
        began = time.monotonic()
        with pytest.raises(LostSessionError):
            await SlotSession.open(Secret(relay.url))
        assert time.monotonic() - began < connections.CONNECT_SECONDS + GRACE_SECONDS


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@/none?host=/nowhere",
        "postgresql://nobody@127.0.0.1:1/none",
        "postgresql://nobody@nowhere.invalid/none",
        "no url at all",
    ],
)
async def test_a_server_that_is_not_there_is_told_as_lost(url: str) -> None:
    with pytest.raises(LostSessionError):
        await SlotSession.open(Secret(url))


async def test_a_database_that_is_not_there_is_told_as_lost(database: str) -> None:
    with pytest.raises(LostSessionError):
        await SlotSession.open(Secret(f"{database}?{secrets.token_hex(4)}=1"))
