"""Locks beyond the gateway's part of Postgres's lock table are not taken, and it is said."""

import asyncio
from collections.abc import Callable

import pytest

from image_gateway.core.model import Account, Secret
from image_gateway.core.routing import lock_table
from image_gateway.core.routing.lock_names import LockKind, LockName
from image_gateway.edge.slots import places
from image_gateway.edge.slots.advisory_locks import NoLock, SlotSession, Want
from image_gateway.edge.slots.broker import SlotBroker
from image_gateway.edge.slots.claims import Claim, LimitError
from image_gateway.edge.slots.leases import BusyError, Lease
from tests.core import builders
from tests.edge.conftest import Watcher
from tests.edge.slots.conftest import Open
from tests.parts.eventually import BOUND_SECONDS, eventually

TEN = builders.account("ten", image_max_concurrency=10)
ONE = builders.account("one", image_max_concurrency=1)
BY = builders.key(max_concurrency=8, owner_id="o", owner_max_concurrency=8)
SHORT = "has no room for more than"
OVER = "has room again"

SetBudget = Callable[[int], None]


@pytest.fixture
def set_budget(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> SetBudget:
    """Sets the number of locks for all: the table itself needs a restart to be another."""
    [(per_session, sessions, prepared)] = watcher.ask(
        "SELECT current_setting('max_locks_per_transaction')::int,"
        " current_setting('max_connections')::int,"
        " current_setting('max_prepared_transactions')::int"
    )
    size = per_session * (sessions + prepared)

    def set_to(count: int) -> None:
        monkeypatch.setattr(lock_table, "SHARE", (count + 0.5) / size)

    return set_to


def wants(*names: tuple[LockKind, str]) -> list[Want]:
    return [Want(LockName(kind, name), 9) for kind, name in names]


async def begin(room: SlotBroker, account: Account = TEN) -> tuple[Lease, Claim]:
    claim = room.claim(BY)
    return await room.slot(BY, [account], BOUND_SECONDS, claim=claim), claim


def end(*calls: tuple[Lease, Claim]) -> None:
    for lease, claim in calls:
        lease.release()
        claim.release()


async def test_a_session_knows_the_size_of_the_table(database: str, watcher: Watcher) -> None:
    [(settings,)] = watcher.ask("SELECT current_setting('max_locks_per_transaction')::int")
    [(connections,)] = watcher.ask("SELECT current_setting('max_connections')::int")
    async with await SlotSession.open(Secret(database)) as session:
        assert session.table.budget == settings * connections // 2


@pytest.mark.parametrize("theirs", [0, 3])
async def test_accounts_get_scarce_locks_first_then_keys_then_owners(
    database: str, watcher: Watcher, set_budget: SetBudget, theirs: int
) -> None:
    """Others' advisory locks, in whatever database and form, stand in the same table."""
    watcher.ask("SELECT pg_advisory_lock(1, n) FROM generate_series(1, %s) n", theirs)
    all_three = wants((LockKind.OWNER, "o"), (LockKind.KEY, "k"), (LockKind.ACCOUNT, "a"))
    expected: list[list[int | NoLock]] = [
        [NoLock.ALONE, NoLock.ALONE, NoLock.ALONE],
        [NoLock.ALONE, NoLock.ALONE, 0],
        [NoLock.ALONE, 0, 0],
        [0, 0, 0],
    ]
    for room, taken in enumerate(expected):
        set_budget(theirs + room)
        async with await SlotSession.open(Secret(database)) as session:
            assert await session.take(all_three) == taken
            assert session.table.is_short is (room < 3)
        await eventually(lambda: len(watcher.locks()) == 0)


async def test_locks_that_others_took_meanwhile_are_seen(
    database: str, watcher: Watcher, set_budget: SetBudget
) -> None:
    """Before a process has taken an eighth of the budget more than when it counted last."""
    set_budget(16)
    async with await SlotSession.open(Secret(database)) as session:
        watcher.ask("SELECT pg_advisory_lock(1, n) FROM generate_series(1, 15) n")
        names = [(LockKind.ACCOUNT, name) for name in "abc"]
        assert await session.take(wants(*names)) == [0, NoLock.ALONE, NoLock.ALONE]


async def test_without_room_calls_are_counted_by_their_process_and_it_is_said_once(
    open_room: Open, watcher: Watcher, set_budget: SetBudget, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    set_budget(7)
    room, other = await open_room(), await open_room()
    calls = [await begin(room) for _ in range(8)]
    assert len(watcher.locks()) == 7
    assert len(watcher.slots("ten")) == 3
    assert room.alone == 3 * 8 - 7
    assert room.is_shared
    assert caplog.text.count(SHORT) == 1
    with pytest.raises(LimitError):
        room.claim(BY)
    # The other process knows nothing of most of them, and goes by its own count.
    theirs = [await begin(other) for _ in range(8)]
    assert len(watcher.locks()) == 7
    with pytest.raises(LimitError):
        other.claim(BY)
    assert caplog.text.count(SHORT) == 2
    assert OVER not in caplog.text
    end(*theirs, *calls)
    await eventually(lambda: not watcher.locks())
    assert (room.alone, other.alone) == (0, 0)
    end(await begin(room))
    assert caplog.text.count(OVER) >= 1
    assert caplog.text.count(SHORT) == 2


async def test_an_accounts_own_limit_holds_in_a_process_without_room(
    open_room: Open, watcher: Watcher, set_budget: SetBudget
) -> None:
    set_budget(0)
    room = await open_room()
    call = await begin(room, ONE)
    assert watcher.locks() == []
    with pytest.raises(BusyError):
        await room.slot(BY, [ONE], 0)
    waits = asyncio.create_task(begin(room, ONE))
    await eventually(lambda: room.waiting)
    end(call)
    end(await asyncio.wait_for(waits, 5))


async def test_a_call_without_a_lock_does_not_stand_in_the_way_of_the_next_one(
    open_room: Open, watcher: Watcher, set_budget: SetBudget
) -> None:
    """Once there is room again, what runs takes its lock, and what comes takes its own."""
    set_budget(9)
    room, other = await open_room(), await open_room()
    theirs = [await begin(other) for _ in range(3)]
    alone = await begin(room)
    assert alone[0].place.lock is None
    end(theirs.pop())
    await eventually(lambda: len(watcher.locks()) == 6)
    locked = await begin(room)
    assert locked[0].place.lock is not None
    end(*theirs)
    await eventually(lambda: alone[0].place.lock is not None)
    await eventually(lambda: not room.alone and len(watcher.locks()) == 6)
    end(alone, locked)
    await eventually(lambda: not watcher.locks())


@pytest.mark.usefixtures("in_small")
async def test_after_an_outage_accounts_take_scarce_locks_again_first(
    open_room: Open,
    watcher: Watcher,
    set_budget: SetBudget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "_TOGETHER", 2)  # in several statements
    set_budget(30)
    room = await open_room()
    calls = [await begin(room) for _ in range(4)]
    assert len(watcher.locks()) == 12
    set_budget(6)
    watcher.end_sessions()
    await eventually(lambda: len(watcher.locks()) == 6)
    await eventually(lambda: room.is_shared and room.alone == 6)
    assert len(watcher.slots("ten")) == 4
    assert len(watcher.slots("key-1", LockKind.KEY)) == 2
    # Nobody waits for locks that are not to be had.
    calls.append(await begin(room))
    end(*calls)
    await eventually(lambda: not watcher.locks())
