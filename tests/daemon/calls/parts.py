"""What the tests of calls have in common: an upstream that waits, and clients that leave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.daemon.conftest import Door
from tests.parts.eventually import eventually
from tests.parts.gateway import parse, post
from tests.parts.upstream import Call, Script, ScriptedUpstream, draws

CAT = b'{"prompt": "a cat"}'
DOG = b'{"prompt": "a dog"}'
RETRY = {"x-stainless-retry-count": "1"}
"""How the official SDKs say that they call again."""


class Held:
    """A script that waits for the test's word, and then answers."""

    def __init__(self, script: Script = draws) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self._script = script

    async def __call__(self, call: Call) -> None:
        self.begun.set()
        await self.go.wait()
        await self._script(call)


def hold(upstream: ScriptedUpstream, script: Script = draws) -> Held:
    """Let an upstream wait before it answers."""
    upstream.script = held = Held(script)
    return held


@asynccontextmanager
async def asking(
    door: Door, body: bytes = CAT, headers: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.Task[Any]]:
    """A client that has asked, and its answer; it leaves at the end of the block."""
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, body, headers=dict(headers or {})))
    answer = asyncio.create_task(reader.read())
    try:
        yield answer
    finally:
        answer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answer
        writer.close()


async def leave(door: Door, held: Held, body: bytes = CAT, **headers: str) -> None:
    """A client asks, and leaves when its call is at the upstream."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with asking(door, body, named):
        await asyncio.wait_for(held.begun.wait(), 20)


async def in_phase(door: Door, phase: str, count: int = 1) -> None:
    """Wait until so many requests of the key are in a phase."""

    async def is_so() -> bool:
        status = json.loads((await door.gateway.ops("/status.json"))[2])
        calls = status["in_flight"]["oldest"]
        own = [call for call in calls if call["key_id"] == door.key_id]
        return sum(1 for call in own if call["phase"] == phase) == count

    await eventually(is_so)


def answer_of(data: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    status, headers, body = parse(data)
    return status, headers, json.loads(body)
