"""The lock on a name: one of several who come at once begins a call."""

import asyncio
from pathlib import Path

import pytest

from image_gateway.edge.kept import name_lock
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import tag

Stores = tuple[KeptCalls, KeptCalls]


async def test_a_name_is_held_by_one_at_a_time(stores: Stores) -> None:
    held = await stores[0].lock_name(tag("order"))
    waiting = [asyncio.create_task(store.lock_name(tag("order"))) for store in stores]
    other = await asyncio.wait_for(stores[1].lock_name(tag("another")), 5)
    other.release()
    assert not any(task.done() for task in waiting)
    held.release()
    held.release()
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(rest)) == (1, 1)
    done.pop().result().release()
    (await rest.pop()).release()


async def test_who_stops_waiting_for_a_name_holds_nothing(stores: Stores, keep_dir: Path) -> None:
    with await stores[0].lock_name(tag("order")):
        waiting = asyncio.create_task(stores[1].lock_name(tag("order")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    (await asyncio.wait_for(stores[1].lock_name(tag("order")), 5)).release()
    assert (keep_dir / "names.lock").stat().st_mode & 0o777 == 0o600


async def test_a_process_that_hangs_is_not_waited_for_without_end(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lock, "MOST_SECONDS", 0.05)
    with await stores[0].lock_name(tag("order")):
        later = await asyncio.wait_for(stores[1].lock_name(tag("order")), 5)
        assert repr(later) == "<NameLock released>"


async def test_a_folder_that_is_gone_locks_nothing(stores: Stores, keep_dir: Path) -> None:
    keep_dir.rename(keep_dir.with_name("away"))
    with await asyncio.wait_for(stores[0].lock_name(tag("order")), 5) as held:
        assert repr(held) == "<NameLock released>"
