"""Limits of keys and owners: reached at once, over all processes, and never held for too long."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest

from image_gateway.core.model import Account, Key
from image_gateway.core.routing.lock_names import LockKind
from image_gateway.core.routing.slots import WaitQueue
from image_gateway.edge.postgres.prepared import PreparedStatements
from image_gateway.edge.slots import advisory_locks, broker, shared_slots
from image_gateway.edge.slots.broker import SlotBroker
from image_gateway.edge.slots.claims import Claim, LimitError
from image_gateway.edge.slots.leases import BusyError, Lease
from tests.core import builders
from tests.edge.conftest import Watcher
from tests.edge.relay import Relay
from tests.edge.slots.conftest import Open
from tests.parts.eventually import BOUND_SECONDS, eventually

PATIENCE: Final = BOUND_SECONDS
MANY: Final = builders.account("many", image_max_concurrency=100)
ONE: Final = builders.account("one", image_max_concurrency=1)


def key(key_id: str = "k", **changes: Any) -> Key:
    return builders.key(key_id=key_id, **changes)


def owned(key_id: str, owner_limit: int | None, **changes: Any) -> Key:
    return key(key_id, owner_id="o", owner_max_concurrency=owner_limit, **changes)


@dataclass
class Running:
    """A call that has its slot."""

    claim: Claim
    lease: Lease

    def end(self) -> None:
        self.lease.release()
        self.claim.release()


async def begin(
    room: SlotBroker, by: Key, *accounts: Account, seconds: float = PATIENCE
) -> Running:
    """A call that starts, as ``calls`` starts one; raises ``LimitError`` and ``BusyError``."""
    with ExitStack() as held:
        claim = held.enter_context(room.claim(by))
        lease = await room.slot(by, accounts or (MANY,), seconds, claim=claim)
        held.pop_all()
    return Running(claim, lease)


async def refused(room: SlotBroker, by: Key, *accounts: Account) -> LockKind:
    """Which limit refuses a call, at once, though it would wait for a slot for long."""
    with pytest.raises(LimitError) as reached:
        await asyncio.wait_for(begin(room, by, *accounts), 5)
    return reached.value.kind


# -- this process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_process_refuses_at_once_what_it_knows_itself(
    open_room: Open, database: str, watcher: Watcher, *, is_shared: bool
) -> None:
    room = await open_room(database if is_shared else None)
    two, other = owned("k", 3, max_concurrency=2), owned("l", 3)
    with room.claim(two), room.claim(two):
        with pytest.raises(LimitError) as reached:
            room.claim(two)
        assert reached.value.kind is LockKind.KEY
        with room.claim(other):
            with pytest.raises(LimitError) as reached:
                room.claim(other)
            assert reached.value.kind is LockKind.OWNER
            room.claim(key("of nobody")).release()
        # A call that was refused for its owner holds no place of its key.
        with room.claim(other):
            pass
    assert watcher.locks() == [], "no statement for what no other process need be asked about"
    with room.claim(two), room.claim(two):
        pass


@pytest.mark.parametrize("limit", [None, 0])
async def test_no_limit_holds_no_lock(open_room: Open, watcher: Watcher, limit: int | None) -> None:
    room = await open_room()
    calls = [await begin(room, owned("k", limit, max_concurrency=limit)) for _ in range(3)]
    assert watcher.slots("many") == [0, 1, 2]
    assert len(watcher.locks()) == 3
    for call in calls:
        call.end()


async def test_more_places_than_a_name_has_are_counted_by_the_process_alone(
    open_room: Open, watcher: Watcher
) -> None:
    room, other = await open_room(), await open_room()
    large, largest = key("k", max_concurrency=1025), key("l", max_concurrency=1024)
    calls = [await begin(each, by) for each in (room, other) for by in (large, largest)]
    assert watcher.slots("k", LockKind.KEY) == []
    assert watcher.slots("l", LockKind.KEY) == [0, 1]
    for call in calls:
        call.end()


async def test_a_claim_released_twice_gives_back_one_place(open_room: Open) -> None:
    room = await open_room()
    two = key(max_concurrency=2)
    first, second = await begin(room, two), await begin(room, two)
    first.end()
    first.end()
    assert repr(first.claim).startswith("<Claim admitted")
    third = await begin(room, two)
    assert await refused(room, two) is LockKind.KEY
    second.end()
    third.end()


# -- all processes ---------------------------------------------------------------------------------


async def test_one_statement_takes_all_that_a_call_needs(
    open_room: Open, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
) -> None:
    """And a further slot of the same call takes nothing for its key and its owner."""
    room = await open_room()
    by = owned("k", 5, max_concurrency=5)
    (await begin(room, by)).end()
    await eventually(lambda: not watcher.locks())
    execute, asked = PreparedStatements.run, Counter[str]()

    async def counted(statements: PreparedStatements, name: str, values: Any = None) -> Any:
        asked[name] += name != "daemon/count_locks"
        return await execute(statements, name, values)

    monkeypatch.setattr(PreparedStatements, "run", counted)
    call = await begin(room, by)
    assert asked["daemon/take_locks"] == 1
    assert len(watcher.locks()) == 3
    with await room.slot(by, [MANY], 0), await room.slot(by, [MANY], 0, claim=call.claim):
        assert asked["daemon/take_locks"] == 3
        assert len(watcher.locks()) == 5
    call.end()
    await eventually(lambda: not watcher.locks())
    assert +asked == {
        "daemon/take_locks": 3,
        "daemon/give_back_locks": asked["daemon/give_back_locks"],
    }


async def test_a_key_has_one_limit_in_two_processes(open_room: Open, watcher: Watcher) -> None:
    rooms = [await open_room(), await open_room()]
    by = key(max_concurrency=3)
    calls = [await begin(rooms[number % 2], by) for number in range(3)]
    assert watcher.slots("k", LockKind.KEY) == [0, 1, 2]
    for room in rooms:
        assert await refused(room, by) is LockKind.KEY
    assert len(watcher.locks()) == 6, "a call that was refused left a lock behind"
    calls.pop().end()
    await eventually(lambda: len(watcher.locks()) == 4)
    calls.append(await begin(rooms[1], by))
    for call in calls:
        call.end()
    await eventually(lambda: not watcher.locks())


async def test_a_call_that_would_wait_for_a_slot_is_refused_at_once_all_the_same(
    open_room: Open, watcher: Watcher
) -> None:
    rooms = [await open_room(), await open_room()]
    by = owned("k", 2)
    holder = await begin(rooms[0], key("somebody"), ONE)
    waits = asyncio.create_task(begin(rooms[0], by, ONE))
    await eventually(lambda: rooms[0].waiting)
    # It counts while it waits.
    await eventually(lambda: watcher.slots("o", LockKind.OWNER) == [0])
    running = await begin(rooms[1], by)
    assert await refused(rooms[1], by, ONE) is LockKind.OWNER
    third = await open_room()
    assert await refused(third, by, ONE) is LockKind.OWNER
    assert await refused(third, by) is LockKind.OWNER
    holder.end()
    (await waits).end()
    running.end()
    await eventually(lambda: not watcher.locks())


async def test_a_call_that_waits_for_its_keys_interval_is_refused_at_once_all_the_same(
    open_room: Open,
) -> None:
    rooms = [await open_room(), await open_room()]
    slow = key(min_start_interval_ms=60_000, max_concurrency=1)
    running = await begin(rooms[0], slow)
    (await rooms[1].slot(slow, [MANY], 0, starts=True)).release()
    with rooms[1].claim(slow) as claim:
        call = rooms[1].slot(slow, [MANY], PATIENCE, starts=True, claim=claim)
        with pytest.raises(LimitError):
            await asyncio.wait_for(call, 5)
    running.end()


async def test_a_lowered_limit_counts_the_calls_beyond_it(
    open_room: Open, watcher: Watcher
) -> None:
    rooms = [await open_room(), await open_room()]
    calls = [await begin(rooms[0], key(max_concurrency=5)) for _ in range(4)]
    for call in calls[:2]:
        call.end()
    await eventually(lambda: watcher.slots("k", LockKind.KEY) == [2, 3])
    lowered = key(max_concurrency=2)
    assert await refused(rooms[1], lowered) is LockKind.KEY
    calls[2].end()
    await eventually(lambda: watcher.slots("k", LockKind.KEY) == [3])
    (await begin(rooms[1], lowered)).end()
    calls[3].end()
    await eventually(lambda: not watcher.locks())


async def test_a_lowered_limit_refuses_a_call_that_would_wait_for_a_slot(
    open_room: Open, watcher: Watcher
) -> None:
    """Though one statement finds the limit passed and the account full."""
    rooms = [await open_room(), await open_room()]
    holder = await begin(rooms[0], key("somebody"), ONE)
    calls = [await begin(rooms[0], key(max_concurrency=3)) for _ in range(3)]
    calls[0].end()
    await eventually(lambda: watcher.slots("k", LockKind.KEY) == [1, 2])
    assert await refused(rooms[1], key(max_concurrency=1), ONE) is LockKind.KEY
    for call in (holder, *calls[1:]):
        call.end()


async def test_the_queue_is_not_looked_through_once_for_each_of_many_claims(
    open_room: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand calls at once would take the event loop for a second."""
    room = await open_room(None, 1000)
    holder = await begin(room, key("somebody"), ONE)
    looks = 0
    look = WaitQueue.next

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(*arguments)

    monkeypatch.setattr(WaitQueue, "next", counted)
    with ExitStack() as held:
        claims = [
            held.enter_context(room.claim(key(f"k{n}", max_concurrency=1))) for n in range(200)
        ]
        calls = [
            asyncio.create_task(room.slot(key(f"k{n}"), [ONE], PATIENCE, claim=claim))
            for n, claim in enumerate(claims)
        ]
        await eventually(lambda: all(claim.is_decided for claim in claims))
        assert looks < 20
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    holder.end()


async def test_an_owner_of_two_keys_has_one_limit_in_three_processes_under_load(
    open_room: Open, watcher: Watcher
) -> None:
    """300 calls, some of which give up at some moment or wait for an account with one slot."""
    chance = random.Random(20261129)
    rooms = [await open_room() for _ in range(3)]
    keys = [owned("k", 4, max_concurrency=3), owned("l", 4)]
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    ends: Counter[str] = Counter()

    async def one() -> None:
        room, by = chance.choice(rooms), chance.choice(keys)
        account = ONE if chance.random() < 0.05 else MANY
        try:
            call = await begin(room, by, account, seconds=chance.choice([0, 0.2, PATIENCE]))
        except LimitError as reached:
            ends[reached.kind.name] += 1
            return
        except BusyError:
            ends["busy"] += 1
            return
        for name in (by.key_id, "o"):
            running[name] += 1
            most[name] = max(most[name], running[name])
        try:
            await asyncio.sleep(chance.random() * 0.05)
        finally:
            for name in (by.key_id, "o"):
                running[name] -= 1
            call.end()
        ends["served"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(300):
            task = group.create_task(one())
            if chance.random() < 0.2:
                asyncio.get_running_loop().call_later(chance.random() * 0.1, task.cancel)
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.02)
    assert most == {"k": 3, "l": 4, "o": 4}, "a limit was passed, or never reached"
    assert min(ends["served"], ends["OWNER"], ends["KEY"]) > 5, ends
    await eventually(lambda: not watcher.locks())
    for room in rooms:
        calls = [await begin(room, keys[1]) for _ in range(4)]
        assert await refused(room, keys[0]) is LockKind.OWNER
        for call in calls:
            call.end()
        await eventually(lambda: not watcher.locks())


async def test_a_call_cancelled_at_any_point_leaves_no_lock(
    open_room: Open, watcher: Watcher
) -> None:
    """After each number of turns of the loop, from before it began to after it was served."""
    room = await open_room()
    by = owned("k", 1, max_concurrency=1)
    were_served = set()
    # On a busy machine an answer of Postgres takes many turns.
    for turns in (*range(60), *(100 * 4**each for each in range(7))):
        call = asyncio.create_task(begin(room, by, ONE))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        [answer] = await asyncio.gather(call, return_exceptions=True)
        if isinstance(answer, Running):
            answer.end()
        were_served.add(isinstance(answer, Running))
        # Nothing of it stands in the way of the next.
        (await begin(room, by, ONE)).end()
    assert were_served == {False, True}, "the points do not reach from the one end to the other"
    await eventually(lambda: not watcher.locks())


async def test_what_was_released_is_free_for_others_when_that_is_told(
    open_room: Open, watcher: Watcher
) -> None:
    room = await open_room()
    calls = [await begin(room, owned("k", 2, max_concurrency=2)) for _ in range(2)]
    for left in (3, 0):
        calls.pop().end()
        await room.returned()
        assert len(watcher.locks()) == left
    await room.returned()


async def test_a_postgres_that_is_slow_to_take_locks_back_holds_nobody_up_for_long(
    open_room: Open, database: str
) -> None:
    async with Relay(database) as relay:
        room = await open_room(relay.url)
        call = await begin(room, key(max_concurrency=1))
        relay.stall()
        call.end()
        began = time.monotonic()
        await room.returned()
        seconds = time.monotonic() - began
        assert broker.RETURN_SECONDS - 0.01 < seconds < advisory_locks.ANSWER_SECONDS
        await eventually(lambda: not room.is_shared)
        await asyncio.wait_for(room.returned(), 5)


# -- an outage -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_small")
async def test_running_calls_take_their_locks_again_when_the_session_was_ended(
    open_room: Open, watcher: Watcher
) -> None:
    room, other = await open_room(), await open_room()
    by = owned("k", 4, max_concurrency=3)
    calls = [await begin(room, by) for _ in range(3)]
    assert len(watcher.locks()) == 9
    pids = watcher.sessions()
    watcher.end_sessions()
    await eventually(lambda: len(watcher.locks()) == 9 and not set(pids) & set(watcher.sessions()))
    await eventually(lambda: room.is_shared and other.is_shared and not room.alone)
    assert await refused(other, by) is LockKind.KEY
    for call in calls:
        call.end()
    await eventually(lambda: not watcher.locks())


@pytest.mark.usefixtures("in_small")
async def test_where_no_lock_can_be_taken_calls_are_admitted_all_the_same(
    open_room: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others may fill the lock table of a Postgres that answers; it is not asked in a circle."""
    monkeypatch.setattr(shared_slots, "IN_VAIN_SECONDS", 3.0)
    room = await open_room()
    calls = [await begin(room, key())]
    execute, fails = PreparedStatements.run, True

    async def failing(statements: PreparedStatements, name: str, values: Any = None) -> Any:
        if fails and name == "daemon/take_locks":
            raise psycopg.errors.OutOfMemory("out of shared memory")
        return await execute(statements, name, values)

    monkeypatch.setattr(PreparedStatements, "run", failing)
    calls += [await begin(room, key(f"k{number}", max_concurrency=1)) for number in range(2)]
    assert caplog.text.count("OutOfMemory") < 5
    fails = False
    await eventually(lambda: room.is_shared and not room.alone)
    for call in calls:
        call.end()


@pytest.mark.usefixtures("in_small")
async def test_calls_of_an_outage_count_beyond_the_limit_when_it_is_over(
    open_room: Open, database: str, watcher: Watcher
) -> None:
    """Each of two processes admitted as many as may be; until two are left nobody is admitted."""
    by = owned("k", 2)
    async with Relay(database) as way, Relay(database) as other_way:
        rooms = [await open_room(way.url), await open_room(other_way.url)]
        way.cut()
        other_way.cut()
        calls = [await begin(room, by) for room in rooms for _ in range(2)]
        for room in rooms:
            assert not room.is_shared
            assert room.alone == 4
            with pytest.raises(LimitError):
                room.claim(by)
        await way.open()
        await other_way.open()
        await eventually(lambda: watcher.slots("o", LockKind.OWNER) == [0, 1, 2, 3])
        await eventually(lambda: not any(room.alone for room in rooms))
        calls.pop(0).end()
        assert await refused(rooms[0], by) is LockKind.OWNER
        calls.pop(0).end()
        assert await refused(rooms[0], by) is LockKind.OWNER
        calls.pop(0).end()
        await eventually(lambda: len(watcher.slots("o", LockKind.OWNER)) == 1)
        calls.append(await begin(rooms[0], by))
        for call in calls:
            call.end()
        await eventually(lambda: not watcher.locks())


@pytest.mark.usefixtures("in_small")
@pytest.mark.parametrize("seed", range(1))
async def test_a_storm_with_lost_sessions_passes_no_room_s_limit_and_leaks_no_place(
    open_room: Open, watcher: Watcher, seed: int
) -> None:
    chance = random.Random(seed)
    rooms = [await open_room(), await open_room()]
    by = owned("k", 4, max_concurrency=3)
    running: Counter[int] = Counter()
    served = 0

    async def one(at: int) -> None:
        nonlocal served
        with contextlib.suppress(BusyError, LimitError):
            call = await begin(rooms[at], by, chance.choice([MANY, ONE]), seconds=3)
            running[at] += 1
            try:
                assert running[at] <= 3
                await asyncio.sleep(chance.random() * 0.05)
            finally:
                running[at] -= 1
                call.end()
            served += 1

    async def trouble() -> None:
        while True:
            await asyncio.sleep(chance.random() * 1.5)
            watcher.end_sessions()

    troubling = asyncio.create_task(trouble())
    async with asyncio.TaskGroup() as group:
        for _ in range(150):
            task = group.create_task(one(chance.randrange(2)))
            if chance.random() < 0.3:
                asyncio.get_running_loop().call_later(chance.random(), task.cancel)
            await asyncio.sleep(chance.random() * 0.04)
    troubling.cancel()
    await asyncio.gather(troubling, return_exceptions=True)
    assert served > 20
    await eventually(lambda: all(room.is_shared and not room.alone for room in rooms))
    await eventually(lambda: not watcher.locks())
    for room in rooms:
        calls = [await begin(room, by) for _ in range(3)]
        assert await refused(room, by) is LockKind.KEY
        for call in calls:
            call.end()
        await eventually(lambda: not watcher.locks())
