"""What the tests of calls have in common: an upstream that waits, and clients that leave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.daemon.conftest import Door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
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


async def until_left(gateway: Gateway) -> None:
    """Wait until one call of the gateway runs on without its client."""

    async def is_so() -> bool:
        status = json.loads((await gateway.ops("/status.json"))[2])
        return bool(status["calls"]["left"] == 1)

    await eventually(is_so)


def answer_of(data: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    status, headers, body = parse(data)
    return status, headers, json.loads(body)


# -- calls that are asked for by their ids ---------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


async def submit(
    door: Door, body: bytes = CAT, prefer: str = "respond-async", **headers: str
) -> Answer:
    """A POST that wants an id."""
    return await door.post(body, Prefer=prefer, **headers)


async def submitted(door: Door, body: bytes = CAT, **headers: str) -> str:
    """The address of a call that was submitted."""
    status, fields, _ = await submit(door, body, **headers)
    assert status == 202
    return fields["location"]


async def ask(
    door: Door, path: str, method: str = "GET", gateway: Gateway | None = None, **headers: str
) -> Answer:
    """A request without a body, with the key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    close = {"connection": "close"}  # else the gateway would wait for the next request
    fields = {"host": "gateway", "authorization": f"Bearer {door.secret}", **close, **named}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return parse(await (gateway or door.gateway).raw("\r\n".join([*lines, "", ""]).encode()))


async def ended(door: Door, path: str, gateway: Gateway | None = None) -> Answer:
    """The answer of a call, once it is there."""
    found = await ask(door, path, gateway=gateway, Prefer="wait=20")
    assert found[0] != 202
    return found


async def has_status(door: Door, path: str, status: str, gateway: Gateway | None = None) -> None:
    """Wait until a call's page says that it is so far."""

    async def is_so() -> bool:
        page = json.loads((await ask(door, path, gateway=gateway))[2])
        return bool(page["status"] == status)

    await eventually(is_so)


def error_code(answer: Answer) -> str:
    code: str = json.loads(answer[2])["error"]["code"]
    return code


async def submission_record(door: Door) -> dict[str, Any]:
    return await door.record(call_source="made")
