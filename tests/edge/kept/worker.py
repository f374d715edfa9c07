"""One process on a folder of kept calls, as a program: a line of JSON per order and per answer.

    python -m tests.edge.kept.worker FOLDER KEEP_SECONDS

An order is a list: its name and its arguments (``Worker``).  Answers are the values they return.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept.call import KeptCall
from image_gateway.edge.kept.entry import Claim
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import HEADERS, KEY, answer, identity, one


class Worker:
    """What the program can be ordered to do; calls go by their numbers."""

    def __init__(self, store: KeptCalls) -> None:
        self.store = store
        self.calls: dict[int, KeptCall] = {}
        self.claims: list[Claim] = []

    async def begin(self, number: int) -> bool:
        self.calls[number] = await self.store.begin(identity(number))
        return self.calls[number].is_kept

    async def end(self, number: int, size: int) -> None:
        await self.calls[number].end(CallState.MADE, 200, HEADERS, answer(size))

    async def churn(self, first: int, count: int, size: int) -> None:
        """Whole calls, one after the other."""
        for number in range(first, first + count):
            await self.begin(number)
            await self.end(number, size)
            self.calls.pop(number).close()

    async def state(self, number: int) -> str | None:
        found = await self.store.call(KEY, identity(number).call_id)
        return None if found is None else found.state

    async def claim(self, number: int, at: float) -> bool:
        """Whether this process got the claim that it tried to get at a moment."""
        entry = await one(self.store, identity(number))
        await asyncio.sleep(at - time.time())
        claim = await entry.try_claim()
        if claim is not None:
            self.claims.append(claim)
        return claim is not None

    async def sweep(self, count: int) -> int:
        for _ in range(count):
            await self.store.sweep()
        return self.store.kept_bytes


async def _main(folder: str, keep_seconds: str) -> None:
    async with KeptCalls(Path(folder), float(keep_seconds), 1 << 30, time.time) as store:
        await store.sweep()
        worker = Worker(store)
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *arguments = json.loads(line)
            result: Any = await getattr(worker, name)(*arguments)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
