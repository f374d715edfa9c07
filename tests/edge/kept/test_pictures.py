"""Pictures that are kept behind the answer with their addresses."""

import os
from pathlib import Path

import pytest

from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.kept.call import AnswerWithPictures
from image_gateway.edge.kept.store import KeptCalls
from image_gateway.edge.spool import JoinedBody, Spools
from tests.edge.kept.parts import (
    HEADERS,
    NOW,
    Clock,
    answer,
    bytes_of,
    files,
    identity,
    is_found,
    joined,
    keep,
    one,
    open_files,
)
from tests.parts.eventually import eventually

Stores = tuple[KeptCalls, KeptCalls]
TEXT = b'{"data":[{"url":"..."},{"url":"..."}]}'


async def keep_pictures(
    store: KeptCalls, spool_dir: Path, *sizes: int, call: CallIdentity | None = None
) -> bool:
    """A call whose answer is ``TEXT``, with pictures of these sizes; whether it is kept."""
    with Spools(spool_dir, 1 << 30, 1 << 30) as spools, spools.open() as spool:
        texts = JoinedBody([spool.hold((TEXT[:9],)), spool.hold((TEXT[9:],))])
        pictures = [spool.hold((answer(size, size),)) for size in sizes]
        with await store.begin(call or identity()) as working:
            body = AnswerWithPictures(texts, pictures)
            return await working.end(CallState.MADE, 200, HEADERS, body)


@pytest.mark.parametrize("size", [1, 1000, 3_000_001], ids=str)
async def test_answer_and_pictures_are_read_apart(
    stores: Stores, tmp_path: Path, keep_dir: Path, size: int
) -> None:
    assert await keep_pictures(stores[0], tmp_path, size, size + 7)
    entry = await one(stores[1], identity())
    assert (entry.length, entry.pictures) == (len(TEXT), (size, size + 7))
    assert await bytes_of(entry) == TEXT
    for index, length in enumerate((size, size + 7)):
        opened = await stores[1].picture(identity().call_id, index)
        assert opened is not None
        with opened:
            whole = answer(length, length)
            assert (opened.length, opened.head) == (length, whole[:256])
            assert opened.expires_at == NOW + 3600
            assert await joined(opened.part(0, length).play()) == whole
            assert (
                await joined(opened.part(length // 3, length // 2).play())
                == (whole[length // 3 : length // 2])
            )
            assert await joined(opened.part(length, length).play()) == b""
    assert open_files(keep_dir) == []


async def test_there_is_no_picture_of_another_number_or_call(
    stores: Stores, tmp_path: Path
) -> None:
    await keep_pictures(stores[0], tmp_path, 5)
    await keep(stores[0], identity(2))
    with await stores[0].begin(identity(3)):
        for call_id, index in (
            (identity().call_id, 1),
            (identity(2).call_id, 0),
            (identity(3).call_id, 0),
            (identity(4).call_id, 0),
            ("../calls", 0),
        ):
            assert await stores[1].picture(call_id, index) is None, call_id


async def test_a_picture_ends_with_its_call(
    stores: Stores, tmp_path: Path, clock: Clock, keep_dir: Path
) -> None:
    await keep_pictures(stores[0], tmp_path, 5)
    clock.now = NOW + 3599.9
    opened = await stores[1].picture(identity().call_id, 0)
    assert opened is not None
    clock.now = NOW + 3600
    assert await stores[1].picture(identity().call_id, 0) is None
    await stores[0].sweep()
    assert files(keep_dir) == []
    with opened:  # One that is being read is read to its end.
        assert await joined(opened.part(0, 5).play()) == answer(5, 5)


async def test_a_forgotten_call_has_no_picture(stores: Stores, tmp_path: Path) -> None:
    await keep_pictures(stores[0], tmp_path, 5)
    await (await one(stores[1], identity())).forget()
    assert await stores[0].picture(identity().call_id, 0) is None


async def test_a_call_that_is_forgotten_while_it_runs_says_so_at_its_end(
    stores: Stores, keep_dir: Path
) -> None:
    with await stores[0].begin(identity()) as working:
        assert await (await one(stores[1], identity())).forget()
        assert not await working.end(CallState.MADE, 200, HEADERS, b"picture")
    assert files(keep_dir) == []


async def test_a_call_that_cannot_be_kept_says_so_at_its_end(
    stores: Stores, tmp_path: Path, keep_dir: Path
) -> None:
    (keep_dir / "answers").rmdir()
    (keep_dir / "answers").write_bytes(b"")
    assert not await keep_pictures(stores[0], tmp_path, 5)
    assert stores[0].lost == 1


async def test_an_answer_that_was_cut_off_on_the_disk_has_no_picture(
    stores: Stores, tmp_path: Path, keep_dir: Path
) -> None:
    await keep_pictures(stores[0], tmp_path, 5)
    os.truncate(keep_dir / "answers" / identity().call_id, len(TEXT) + 4)
    assert await stores[1].picture(identity().call_id, 0) is None
    assert open_files(keep_dir) == []


async def test_what_has_addresses_goes_as_late_as_what_was_not_delivered(
    keep_dir: Path, tmp_path: Path, clock: Clock
) -> None:
    """A client that has the answer has not the picture yet."""
    async with KeptCalls(keep_dir, 3600, 40_000, clock) as store:
        await store.sweep()
        await keep_pictures(store, tmp_path, 9000)
        await (await one(store, identity())).note_delivered()
        clock.now += 1
        await keep(store, identity(2), answer(9000))
        await (await one(store, identity(2))).note_delivered()
        clock.now += 1
        await keep(store, identity(3), answer(9000))

        async def second_is_gone() -> bool:
            await store.sweep()
            return not await is_found(store, identity(2))

        await eventually(second_is_gone)
        assert await store.picture(identity().call_id, 0) is not None
