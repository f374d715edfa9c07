"""Real processes on one folder: what one of them leaves behind when it is killed, and what happens
when several do the same thing at the same moment.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import (
    KEY,
    answer,
    bytes_of,
    files,
    identity,
    is_found,
    one,
    open_files,
)
from tests.parts.eventually import eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


class Program:
    """A running ``tests.edge.kept.worker``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def start(self, *order: Any) -> None:
        """Send an order without waiting for what comes of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        assert line, "the program ended"
        return json.loads(line)

    async def do(self, *order: Any) -> Any:
        await self.start(*order)
        return await self.answer()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def programs(folder: Path, count: int, keep: float = 3600) -> AsyncIterator[list[Program]]:
    started: list[Program] = []
    try:
        for _ in range(count):
            pipe = asyncio.subprocess.PIPE
            module = "tests.edge.kept.worker"
            command = (sys.executable, "-m", module, str(folder), str(keep))
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, cwd=ROOT
            )
            started.append(Program(process))
        for program in started:
            assert await program.answer() == "ready"
        yield started
    finally:
        for program in started:
            await program.kill()


async def test_who_waits_for_another_process_reads_what_it_made(keep_dir: Path) -> None:
    async with (
        programs(keep_dir, 1) as [blue],
        KeptCalls(keep_dir, 3600, 1 << 30, time.time) as green,
    ):
        await blue.do("begin", 1)
        waiting = asyncio.create_task((await one(green, identity(1))).wait(60))
        await eventually(lambda: open_files(keep_dir))
        await blue.do("end", 1, 3_000_000)
        entry = await waiting
        assert entry is not None
        assert (entry.state, entry.has_clients) == (CallState.MADE, True)
        assert await bytes_of(entry) == answer(3_000_000)


async def test_a_killed_process_leaves_a_call_with_an_unknown_outcome(keep_dir: Path) -> None:
    async with (
        programs(keep_dir, 1) as [blue],
        KeptCalls(keep_dir, 3600, 1 << 30, time.time) as green,
    ):
        await blue.do("begin", 1)
        waiting = asyncio.create_task((await one(green, identity(1))).wait(60))
        await eventually(lambda: open_files(keep_dir))
        before = time.time()
        await blue.kill()
        entry = await waiting
        assert entry is not None
        assert (entry.state, entry.status, entry.was_left) == (CallState.UNKNOWN, None, True)
        assert entry.ended_at is not None
        assert entry.ended_at >= before


async def test_what_had_ended_outlives_a_killed_process(keep_dir: Path) -> None:
    """Also one that comes later finds it, and that nobody got it."""
    async with programs(keep_dir, 1) as [blue]:
        await blue.do("begin", 1)
        await blue.do("end", 1, 2_000_000)
        await blue.kill()
    async with KeptCalls(keep_dir, 3600, 1 << 30, time.time) as green:
        entry = await one(green, identity(1))
        assert (entry.state, entry.was_left) == (CallState.MADE, True)
        assert await bytes_of(entry) == answer(2_000_000)


async def test_a_process_killed_at_any_moment_leaves_nothing_that_is_half(keep_dir: Path) -> None:
    """Each call is whole, of unknown outcome, or not there; and all of it goes in its time."""
    now = time.time()
    async with KeptCalls(keep_dir, 3600, 1 << 30, lambda: now) as green:
        for first in range(0, 500, 100):
            async with programs(keep_dir, 1) as [blue]:
                await blue.start("churn", first, 100, 200_000)
                # Each time it is killed somewhere else in its work.
                started = identity(first + first // 50)
                await eventually(partial(is_found, green, started))
                await blue.kill()
        entries = await green.of_key(KEY, 1000)
        assert len(entries) >= 5
        for entry in entries:
            assert entry.state in {CallState.MADE, CallState.UNKNOWN}
            whole = b"" if entry.state is CallState.UNKNOWN else answer(200_000)
            assert await bytes_of(entry) == whole
        await green.sweep()
        now = time.time() + 3601
        await green.sweep()
        await green.sweep()
        left = files(keep_dir)
        index = [path for path in left if not path.startswith(("calls/", "answers/"))]
        assert left == index, "no call and no answer"
    async with KeptCalls(keep_dir, 3600, 1 << 30, lambda: now) as later:
        await later.sweep()
        assert files(keep_dir) == []


async def test_of_two_processes_that_claim_at_once_one_wins(keep_dir: Path) -> None:
    async with programs(keep_dir, 3) as [maker, *claimants]:
        for number in range(20):
            await maker.do("begin", number)
            await maker.do("end", number, 10)
            at = time.time() + 0.02
            for program in claimants:
                await program.start("claim", number, at)
            won = [await program.answer() for program in claimants]
            assert sorted(won) == [False, True]


async def test_a_killed_process_holds_no_claim(keep_dir: Path) -> None:
    async with programs(keep_dir, 2) as [blue, green]:
        await blue.do("begin", 1)
        await blue.do("end", 1, 10)
        assert await blue.do("claim", 1, 0)
        assert not await green.do("claim", 1, 0)
        await blue.kill()
        assert await green.do("claim", 1, 0)


async def test_processes_that_sweep_at_once_are_harmless(keep_dir: Path) -> None:
    """While they remove what is over, a third makes calls, and loses none."""
    async with programs(keep_dir, 2, keep=0.05) as sweepers, programs(keep_dir, 1) as [maker]:
        await maker.do("begin", 1)  # runs all the time
        for program in sweepers:
            await program.start("sweep", 60)
        await maker.do("churn", 1000, 150, 5000)
        for program in sweepers:
            await program.answer()
        await maker.do("end", 1, 10)
        assert await maker.do("state", 1) == "made"
        assert [path for path in files(keep_dir) if path.endswith(identity(1).call_id)]
        await asyncio.sleep(0.1)  # their time is over
        # One of them also has to find the entries of the index that a race may have left.
        assert [await program.do("sweep", 60) for program in sweepers] == [0, 0]
        assert files(keep_dir) == []
