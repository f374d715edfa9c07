"""What is over is removed, in its order, and nothing that somebody needs."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept import locks
from image_gateway.edge.kept import sweep as sweep_module
from image_gateway.edge.kept.folder import taken
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import (
    HEADERS,
    KEY,
    NOW,
    Clock,
    answer,
    bytes_of,
    files,
    identity,
    is_found,
    keep,
    one,
    opened,
    tag,
)
from tests.parts.eventually import eventually
from tests.parts.examples import scaled

Stores = tuple[KeptCalls, KeptCalls]
BLOCK = 4096


async def kept_numbers(store: KeptCalls, numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if await is_found(store, identity(number))]


# -- time ------------------------------------------------------------------------------------------


async def test_a_call_is_kept_for_its_time_after_its_end(
    stores: Stores, clock: Clock, keep_dir: Path
) -> None:
    call = identity(name=tag("name"))
    with await stores[0].begin(call) as working:
        clock.now += 5000
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
    clock.now += 3599
    await stores[0].sweep()
    assert await is_found(stores[1], call)
    clock.now += 1
    assert not await is_found(stores[1], call)
    for by in ({"fingerprint": call.fingerprint}, {"name": call.name}):
        assert await stores[1].find(KEY, **by) == [], "over, though no sweep has come yet"
    assert await stores[1].of_key(KEY, 10) == []
    await stores[1].sweep()
    assert files(keep_dir) == []
    assert not await stores[0].has_any(KEY)


@pytest.mark.parametrize(
    ("jump", "kept"),
    [(-3601.0, True), (-86400.0, True), (-86401.0, False), (-1e9, False), (3601.0, False)],
)
async def test_a_clock_that_jumps_keeps_calls_for_hours_more_and_not_for_years(
    stores: Stores, clock: Clock, keep_dir: Path, jump: float, *, kept: bool
) -> None:
    """One that was set to the right year after a start in a later one would keep it for years."""
    call = identity()
    await keep(stores[0], call)
    clock.now += jump
    assert await is_found(stores[1], call) == kept
    await stores[0].sweep()
    assert bool(files(keep_dir)) == kept
    assert await is_found(stores[1], call) == kept


async def test_a_call_may_have_a_shorter_time_of_its_own_but_no_longer_one(
    stores: Stores, clock: Clock
) -> None:
    await keep(stores[0], identity(1), state=CallState.NOTHING, body=b"", seconds=120)
    await keep(stores[0], identity(2), seconds=1e9)
    clock.now += 119
    assert await kept_numbers(stores[1], (1, 2)) == [1, 2]
    clock.now += 1
    assert await kept_numbers(stores[1], (1, 2)) == [2]
    clock.now += 3600
    assert await kept_numbers(stores[1], (1, 2)) == []


async def test_a_call_of_unknown_outcome_goes_its_time_after_it_was_seen(
    stores: Stores, clock: Clock, keep_dir: Path
) -> None:
    (await stores[0].begin(identity())).close()
    clock.now += 100
    await stores[1].sweep()
    clock.now += 3599
    assert (await one(stores[0], identity())).ended_at == NOW + 100
    clock.now += 1
    await stores[1].sweep()
    assert files(keep_dir) == []


async def test_what_is_in_use_outlives_its_time_on_the_disk(
    stores: Stores, clock: Clock, keep_dir: Path
) -> None:
    for number in (1, 2, 3, 4):
        await keep(stores[0], identity(number), answer(100), sent=False)
    entries = [await one(stores[0], identity(number)) for number in (1, 2, 3, 4)]
    claim = await entries[0].try_claim()
    reading = await entries[1].open_answer()
    with await stores[0].begin(identity(5)):
        clock.now += 3600
        await stores[1].sweep()
        left = {path for path in files(keep_dir) if path.startswith("calls/")}
        assert left == {f"calls/{identity(number).call_id}" for number in (1, 2, 5)}
        assert (await one(stores[1], identity(5))).state is CallState.RUNNING
        assert claim is not None
        assert reading is not None
        claim.release()
        reading.close()
        await stores[1].sweep()
        left = {path for path in files(keep_dir) if path.startswith("calls/")}
        assert left == {f"calls/{identity(5).call_id}"}


# -- the budget ------------------------------------------------------------------------------------


async def test_over_the_budget_delivered_calls_go_first_then_the_oldest(
    keep_dir: Path, clock: Clock
) -> None:
    size = BLOCK + taken(50_000)
    async with opened(keep_dir, clock) as maker:
        for number in range(6):
            clock.now += 1
            await keep(maker, identity(number), answer(50_000))
        for number in (2, 4):
            await (await one(maker, identity(number))).note_delivered()
        for left, room in (
            ([0, 1, 2, 3, 4, 5], 6),
            ([0, 1, 3, 4, 5], 5),
            ([0, 1, 3, 5], 4),
            ([1, 3, 5], 3),
            ([5], 1),
            ([], 0),
        ):
            async with opened(keep_dir, clock, budget=size * room + BLOCK // 2) as other:
                assert await kept_numbers(maker, range(6)) == left
                assert other.kept_bytes == size * len(left)


async def test_over_the_budget_errors_go_before_pictures(keep_dir: Path, clock: Clock) -> None:
    """They are many where a client's calls are refused, and cost nothing to get again."""
    states = [CallState.MADE, CallState.FAULT, CallState.UNKNOWN, CallState.NOTHING]
    async with opened(keep_dir, clock) as maker:
        for number, state in enumerate(states):
            clock.now += 1
            with await maker.begin(identity(number)) as working:
                await working.end(state, 200, HEADERS, answer(50_000))
        room = 2 * (BLOCK + taken(50_000)) + BLOCK // 2
        async with opened(keep_dir, clock, budget=room):
            assert await kept_numbers(maker, range(4)) == [0, 2]


async def test_what_runs_is_claimed_or_read_stays_whatever_the_budget(
    keep_dir: Path, clock: Clock
) -> None:
    async with opened(keep_dir, clock) as maker:
        for number in range(4):
            await keep(maker, identity(number), answer(9000), sent=False)
        claim = await (await one(maker, identity(1))).try_claim()
        reading = await (await one(maker, identity(2))).open_answer()
        assert claim is not None
        assert reading is not None
        with claim, reading, await maker.begin(identity(4)) as working:
            async with opened(keep_dir, clock, budget=0):
                assert await kept_numbers(maker, range(5)) == [1, 2, 4]
                assert await bytes_of(await one(maker, identity(1))) == answer(9000)
            await working.end(CallState.MADE, 200, HEADERS, b"")
        async with opened(keep_dir, clock, budget=0):
            assert await kept_numbers(maker, range(5)) == []


async def test_there_are_not_more_calls_than_a_process_can_remember(
    keep_dir: Path, clock: Clock
) -> None:
    async with opened(keep_dir, clock) as maker:
        for number in range(5):
            clock.now += 1
            await keep(maker, identity(number))
        with mock.patch.object(sweep_module, "MOST_CALLS", 3):
            await maker.sweep()
        assert await kept_numbers(maker, range(5)) == [2, 3, 4]


@pytest.mark.slow
async def test_room_is_made_soon_after_the_budget_is_used_up(keep_dir: Path, clock: Clock) -> None:
    async with opened(keep_dir, clock, budget=100_000) as store:
        await keep(store, identity(1), answer(90_000))
        assert store.kept_bytes == BLOCK + taken(90_000)
        await keep(store, identity(2), answer(90_000))
        await eventually(lambda: store.kept_bytes <= 100_000)
        assert await kept_numbers(store, (1, 2)) in ([1], [2])


@given(
    calls=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 20_000))),
    room=st.integers(0, 100_000),
)
@settings(max_examples=scaled(40))
def test_a_sweep_removes_what_must_go_and_no_more(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[tuple[bool, int, int]],
    room: int,
) -> None:
    """Each call: was it delivered, when did it end, how many bytes has its answer."""

    async def run() -> None:
        folder = tmp_path_factory.mktemp("keep") / "calls"
        clock = Clock(NOW)
        async with opened(folder, clock) as maker:
            for number, (was_delivered, second, size) in enumerate(calls):
                clock.now = NOW + second
                with await maker.begin(identity(number)) as working:
                    await working.end(CallState.MADE, 200, {}, answer(size))
                    if was_delivered:
                        await working.note_delivered()
            async with opened(folder, clock, budget=room):
                left = await kept_numbers(maker, range(len(calls)))
        sizes = [BLOCK + taken(size) for *_, size in calls]
        gone = sorted(set(range(len(calls))) - set(left))
        assert sum(sizes[number] for number in left) <= room
        rank = [(not was_delivered, second) for was_delivered, second, _ in calls]
        if gone:
            last = max(rank[number] for number in gone)
            assert all(rank[number] >= last for number in left), "the order"
            least = min(sizes[number] for number in gone if rank[number] == last)
            most = max(sizes[number] for number in gone if rank[number] == last)
            assert sum(sizes[number] for number in left) + max(least, most) > room, "no more"

    asyncio.run(run())


# -- leftovers -------------------------------------------------------------------------------------


def write(folder: Path, path: str, data: bytes = b"") -> None:
    file = folder / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)


async def test_what_a_crash_left_behind_is_removed_at_the_start(
    keep_dir: Path, clock: Clock
) -> None:
    call = identity(9)
    async with opened(keep_dir, clock) as store:
        await keep(store, call)
    whole = files(keep_dir)
    write(keep_dir, f"answers/{identity(1).call_id}", b"no journal has this")
    for index in ("keys", "fingerprints", "names"):
        write(keep_dir, f"{index}/00/{tag('')[:32]}.018bcfe568c8.{identity(1).call_id}")
        write(keep_dir, f"{index}/00/anything")
    async with opened(keep_dir, clock) as store:
        assert files(keep_dir) == whole
        assert await bytes_of(await one(store, call)) == b"picture"


async def test_a_journal_that_says_nothing_goes_with_the_second_sweep(
    stores: Stores, keep_dir: Path
) -> None:
    """With the first it might be one that is just being made."""
    write(keep_dir, f"calls/{identity(1).call_id}")
    write(keep_dir, f"calls/{identity(2).call_id}", b"\0" * 500)
    write(keep_dir, f"answers/{identity(2).call_id}", b"x")
    await keep(stores[0], identity(3))
    (keep_dir / "calls" / identity(3).call_id).rename(keep_dir / "calls" / "call_another")
    assert await stores[0].call(KEY, "call_another") is None
    assert await kept_numbers(stores[0], (1, 2, 3)) == []
    await stores[0].sweep()
    assert len([path for path in files(keep_dir) if path.startswith("calls/")]) == 3
    await stores[0].sweep()
    assert [path for path in files(keep_dir) if path.startswith(("calls/", "answers/"))] == []


@pytest.mark.parametrize(
    "text", [b"", b'\n{"version":2}\n'], ids=["no-line-yet", "a-later-version"]
)
async def test_a_journal_that_says_nothing_stays_while_a_process_works_on_it(
    stores: Stores, keep_dir: Path, text: bytes
) -> None:
    path = keep_dir / "calls" / identity(1).call_id
    path.write_bytes(text)
    file = os.open(path, os.O_RDWR)
    assert locks.try_lock(file, Part.WORK)
    for _ in range(3):
        await stores[0].sweep()
    assert path.exists()
    os.close(file)
    await stores[0].sweep()
    assert not path.exists()


async def test_strange_things_in_the_folder_are_neither_followed_nor_in_the_way(
    stores: Stores, keep_dir: Path, tmp_path: Path, clock: Clock
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a photo")
    await keep(stores[0], identity(1))
    (keep_dir / "calls" / identity(2).call_id).symlink_to(keep_dir / "calls" / identity(1).call_id)
    (keep_dir / "calls" / identity(3).call_id).mkdir()
    (keep_dir / "calls" / "odd name").write_text("")
    path = keep_dir / "answers" / identity(1).call_id
    path.unlink()
    path.symlink_to(secret)
    assert len(secret.read_bytes()) == (await one(stores[0], identity(1))).length
    assert await kept_numbers(stores[0], (1, 2, 3)) == [1]
    assert await (await one(stores[0], identity(1))).open_answer() is None
    clock.now += 3600
    for _ in range(3):
        await stores[0].sweep()
    assert secret.read_text() == "a photo"
    assert files(keep_dir) == ["calls/odd name"]


async def test_an_answer_that_is_not_as_long_as_its_journal_says_is_gone(
    stores: Stores, keep_dir: Path
) -> None:
    """A power loss may keep the journal and lose the answer's last bytes."""
    await keep(stores[0], identity(), answer(10_000))
    os.truncate(keep_dir / "answers" / identity().call_id, 8192)
    assert await (await one(stores[1], identity())).open_answer() is None


# -- several at once -------------------------------------------------------------------------------


async def test_sweeps_at_once_remove_each_call_once(
    stores: Stores, clock: Clock, keep_dir: Path
) -> None:
    for number in range(300):
        await keep(stores[0], identity(number))
    clock.now += 3600
    await asyncio.gather(*(store.sweep() for store in (*stores, *stores)))
    assert files(keep_dir) == []
    # One counts what the other is just removing, until its next sweep.
    for store in stores:
        await store.sweep()
        assert store.kept_bytes == 0


async def test_a_later_sweep_sees_what_became_of_a_call(keep_dir: Path, clock: Clock) -> None:
    """A sweep remembers what the one before has read."""
    async with opened(keep_dir, clock, budget=3 * BLOCK) as store:
        for number in (1, 2):
            clock.now += 1
            await keep(store, identity(number), b"", sent=False)
        await store.sweep()
        await (await one(store, identity(2))).note_delivered()
        with await store.begin(identity(3)) as working:
            await working.end(CallState.MADE, 200, HEADERS, answer(BLOCK))
        await store.sweep()
        assert await kept_numbers(store, (1, 2, 3)) == [1, 3]


# -- off -------------------------------------------------------------------------------------------


async def test_nothing_is_kept_for_zero_seconds(keep_dir: Path, clock: Clock) -> None:
    async with opened(keep_dir, clock, seconds=0) as store:
        with await store.begin(identity()) as working:
            assert not working.is_kept
            assert not await is_found(store, identity())
            assert not await store.has_any(KEY)
            working.note_left()
            await working.end(CallState.MADE, 200, HEADERS, answer(2_000_000))
            await working.note_delivered()
            assert not await working.is_forgotten()
        await (await store.begin(identity())).abandon()
        assert store.lost == 0
        assert not keep_dir.exists()


async def test_what_was_kept_goes_once_nothing_is_to_be_kept(keep_dir: Path, clock: Clock) -> None:
    async with opened(keep_dir, clock) as store:
        await keep(store, identity(1))
        (await store.begin(identity(2))).close()
        with await store.begin(identity(3)):
            async with opened(keep_dir, clock, seconds=0) as off:
                assert await off.call(KEY, identity(3).call_id) is None
            assert await kept_numbers(store, (1, 2, 3)) == [3], "another process works on it"
