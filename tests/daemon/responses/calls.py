"""Calls of the Responses API, the text API behind the gateway, and how a key is asked with."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Self

from image_gateway.core.codec import json_scanner
from tests.daemon.conftest import Door
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    drawn,
    streams,
)

PATHS = (
    "/v1/responses",
    "/responses",
    "/backend-api/codex/responses",
    "/openai/v1/responses",
    "/openai/responses",
)
PATH = PATHS[0]
TOOL: Any = {"type": "image_generation"}
TEXT = b' {\n"model" : "gpt-5",\t"input":"caf\xc3\xa9 \\u00e9 1.50", "temperature":1.50} \r\n'
INTENT = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}]}'
STREAM = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}],"stream":true}'
BEYOND = b"[" * (json_scanner.TEXT.depth + 1)
MIB = 1024 * 1024

CREATED, DRAWING, ITEM, COMPLETED = drawn()


class TextApi(ScriptedUpstream):
    """A text API on a port that is known before it listens; keeps the heads as they came."""

    def __init__(self, port: int) -> None:
        super().__init__(answers(200, b'{"id": "resp_text"}', {"x-request-id": "req-of-text"}))
        self._port = port
        self.heads: list[list[tuple[bytes, bytes]]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=2**20)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            head = [(name.lower(), value.strip(b" ")) for name, _, value in map(field_of, lines)]
            self.heads.append(head)
            named = {name.decode(): value.decode("latin-1") for name, value in head}
            body = await reader.readexactly(int(named["content-length"]))
            method, target, _ = first.decode().split(" ")
            call = Call(method, target, named, body, reader, writer)
            self.calls.append(call)
            await self.script(call)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open_connections -= 1
            self._tasks.discard(task)


def field_of(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


def with_second(door: Door, other: ScriptedUpstream, strategy: str = "fixed") -> str:
    """A second account for the key, at another upstream; gives its name."""
    second = f"{door.account}-b"
    door.plane.add_account(
        second, other.url, responses_model="gpt-main", credential={"access_token": "token-2"}
    )
    door.plane.update(
        "keys",
        {"key_id": door.key_id},
        account_names=[door.account, second],
        route_strategy=strategy,
    )
    return second


async def ask(door: Door, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return await door.post(body, PATH, **headers)


async def bounded(waiting: Awaitable[bytes]) -> bytes:
    return await asyncio.wait_for(waiting, 20)


def records_of(door: Door) -> list[dict[str, Any]]:
    return [record for record in door.gateway.records() if record["key_id"] == door.key_id]


class Drawing:
    """A script that holds its calls until they are let go, and then draws."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        self.arrived.release()
        await self.let_go.wait()
        await streams(drawn())(call)
