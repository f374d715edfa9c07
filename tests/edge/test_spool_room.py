"""Budgets and disks that are full: who is refused, and what was paid for finds room."""

import asyncio
import base64
import os
import subprocess
import sys
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import pytest

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.body_segments import Encoded, Span
from image_gateway.edge.spool import (
    CROWDED_BYTES,
    MEMORY_BYTES,
    SpoolFullError,
    Spools,
)
from tests.edge.spooling import (
    MIB,
    NOTHING,
    ROOM,
    FailingDisk,
    SlowDisk,
    fill,
    held,
    joined,
    pattern,
    turns,
)

# -- no room ---------------------------------------------------------------------------------------


async def test_more_than_the_memory_budget_is_refused(tmp_path: Path) -> None:
    with Spools(tmp_path, 1000, ROOM) as spools:
        with spools.open() as first, spools.open() as second:
            await first.write(pattern(600))
            await second.write(pattern(400))
            for spool in (first, second):
                with pytest.raises(SpoolFullError):
                    await spool.write(b"x")
            second.close()
            await first.write(pattern(400, 600))
            assert await joined(first.play((Span(0, 1000),))) == pattern(1000)
        assert held(spools) == NOTHING


async def test_more_than_the_disk_budget_is_refused(tmp_path: Path) -> None:
    limit = 2 * MIB + 2
    with Spools(tmp_path, ROOM, limit) as spools:
        with spools.open() as first:
            await first.write(pattern(MIB + 1))
            with spools.open() as second:
                await second.write(pattern(MIB + 1))
                with pytest.raises(SpoolFullError):
                    await second.write(pattern(MIB + 1))
            assert spools.disk.used == MIB + 1
            assert await joined(first.play((Span(0, MIB + 1),))) == pattern(MIB + 1)
            await first.write(pattern(MIB + 1))
            assert spools.disk.used == limit
        assert held(spools) == NOTHING


@pytest.mark.parametrize("folder", ["/proc/tty", "/nonexistent", "/dev/null"])
async def test_a_folder_that_takes_no_files_is_a_full_spool(folder: str) -> None:
    with Spools(Path(folder), ROOM, ROOM) as spools:
        with spools.open() as spool:
            await spool.write(pattern(MIB))
            with pytest.raises(SpoolFullError):
                await spool.write(b"x")
        assert held(spools) == NOTHING


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from image_gateway.core.codec.body_segments import Decoded, Encoded, Span
from image_gateway.edge.spool import Spools, SpoolFullError

MIB = 1024 * 1024
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB // 2, 3 * MIB // 2))

async def main(folder):
    with Spools(Path(folder), 64 * MIB, 64 * MIB) as spools:
        with spools.open() as spool:
            await spool.write(b"a" * (MIB + 1))
            try:
                await spool.write(b"b" * (MIB + 1))
            except SpoolFullError:
                print("full")
        with spools.open() as spool:
            await spool.write(b"a" * (MIB + 1))
            async for piece in spool.play((Span(MIB, MIB + 1),)):
                print(piece)
        print(spools.memory.used, spools.disk.used)

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_is_a_full_spool_and_costs_the_next_body_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().splitlines() == ["full", "b'a'", "0 0"]
    [words] = done.stderr.splitlines()
    assert words.startswith(b"a body cannot be written to disk: File too large. ")
    assert list(tmp_path.iterdir()) == []


# -- what was paid for finds room ------------------------------------------------------------------


async def test_what_was_paid_for_finds_room_when_both_budgets_are_used_up(tmp_path: Path) -> None:
    data = pattern(5 * MIB + 7)
    with Spools(tmp_path, 100, 100) as spools:
        spools.memory.take(100)
        spools.disk.take(100)
        with spools.open(paid=True) as spool:
            await fill(spool, data, 70_001)
            assert spool.size == len(data)
            assert await joined(spool.play((Span(0, len(data)),))) == data
            assert spools.memory.used + spools.disk.used == 200 + len(data), "charged all the same"
            assert spools.memory.used <= 100 + MEMORY_BYTES
            with spools.open() as another, pytest.raises(SpoolFullError):
                await another.write(b"x")
        assert held(spools) == (100, 100, [])


async def test_what_was_paid_for_takes_room_from_requests_and_gives_it_back(tmp_path: Path) -> None:
    with Spools(tmp_path, 1000, ROOM) as spools, spools.open() as request:
        with spools.open(paid=True) as answer:
            await answer.write(pattern(900))
            with pytest.raises(SpoolFullError):
                await request.write(pattern(101))
        await request.write(pattern(1000))
        assert await joined(request.play((Span(0, 1000),))) == pattern(1000)


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 1000, MIB + 1, MIB + 2, 2 * MIB, 3 * MIB])
@pytest.mark.parametrize("piece", [65536, MIB + 1])
async def test_what_was_paid_for_outlives_a_disk_that_becomes_full(
    spools: Spools, monkeypatch: pytest.MonkeyPatch, room: int, piece: int
) -> None:
    """Even within a piece of which some is written already."""
    disk = FailingDisk(room)
    monkeypatch.setattr(os, "pwritev", disk.pwritev)
    data = pattern(4 * MIB + 5)
    with spools.open(paid=True) as spool:
        await fill(spool, data, piece)
        assert disk.refused == 1, "asked no more once it has failed"
        assert spool.size == len(data)
        assert spools.memory.used + spools.disk.used == len(data)
        for _ in range(2):
            assert await joined(spool.play((Span(0, len(data)),))) == data
        segments: body_segments.Body = (Span(MIB - 9, 3 * MIB), Encoded(Span(MIB // 2, 3 * MIB)))
        expected = data[MIB - 9 : 3 * MIB] + base64.b64encode(data[MIB // 2 : 3 * MIB])
        assert await joined(spool.play(segments)) == expected
    assert held(spools) == NOTHING


@pytest.mark.parametrize("folder", ["/proc/tty", "/nonexistent", "/dev/null"])
async def test_what_was_paid_for_needs_no_folder(folder: str) -> None:
    data = pattern(3 * MIB + 5)
    with Spools(Path(folder), 100, 100) as spools:
        with spools.open(paid=True) as spool:
            await fill(spool, data, 70_001)
            assert (spools.memory.used, spools.disk.used) == (len(data), 0)
            assert await joined(spool.play((Span(0, len(data)),))) == data
        assert held(spools) == NOTHING


async def test_what_was_paid_for_outlives_a_folder_that_was_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    data = pattern(3 * MIB)
    with Spools(folder, ROOM, ROOM) as spools:
        with spools.open(paid=True) as first, spools.open(paid=True) as second:
            await fill(first, data, 65536)
            folder.rmdir()
            await fill(second, data, 65536)
            for spool in (first, second):
                assert await joined(spool.play((Span(0, len(data)),))) == data
        assert held(spools) == NOTHING


async def test_a_full_disk_is_still_a_full_spool_for_what_nobody_has_paid_for(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", FailingDisk(1000).pwritev)
    with spools.open() as spool, pytest.raises(SpoolFullError):
        await fill(spool, pattern(2 * MIB), 65536)
    assert held(spools) == NOTHING


async def test_cancelled_while_the_disk_fails_all_is_given_back(
    spools: Spools, slow_disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", FailingDisk(0).pwritev)

    async def write_paid() -> None:
        with spools.open(paid=True) as spool:
            await spool.write(pattern(MIB + 1))

    writing = asyncio.create_task(write_paid())
    write = await slow_disk.job()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    write()
    await turns()
    assert held(spools) == NOTHING


async def test_what_a_spool_shows_of_itself_holds_no_bytes_of_the_body(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(b"a picture")
        assert repr(spool) == "<Spool 9 bytes, memory>"
        await spool.write(pattern(MIB))
        assert repr(spool) == f"<Spool {MIB + 9} bytes, file>"


# -- many bodies at once ---------------------------------------------------------------------------


async def test_many_bodies_at_once_hold_little_memory_each(tmp_path: Path) -> None:
    """200 answers that arrive together do not hold a MiB each."""
    with Spools(tmp_path, 1024 * MIB, 1024 * MIB) as spools, ExitStack() as closing:
        bodies = [closing.enter_context(spools.open(paid=True)) for _ in range(200)]
        peak = 0
        for start in range(0, MIB, 65536):
            for spool in bodies:
                await spool.write(pattern(65536, start))
                peak = max(peak, spools.memory.used)
        assert CROWDED_BYTES < peak < CROWDED_BYTES + 200 * 3 * 65536
        for spool in bodies[::50]:
            assert await joined(spool.whole().play()) == pattern(MIB)


async def test_a_body_that_comes_byte_by_byte_costs_its_bytes(spools: Spools) -> None:
    data = pattern(100_000)
    with spools.open() as spool:
        tracemalloc.start()
        await fill(spool, data, 1)
        memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert memory < 2 * len(data)
        assert await joined(spool.whole().play()) == data
