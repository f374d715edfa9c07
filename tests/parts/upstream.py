"""An upstream on a real loopback socket that does what a test scripts, byte by byte."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 56


def picture(size: int = 64) -> str:
    """Base64 of ``size`` bytes that begin like a PNG."""
    return base64.b64encode(PNG + b"\0" * max(0, size - len(PNG))).decode()


def images(count: int = 1, **fields: Any) -> dict[str, Any]:
    """An answer in the Images shape."""
    return {
        "created": 1_700_000_000,
        "data": [{"b64_json": picture(), "generation_id": f"gen_{n}"} for n in range(count)],
        "background": "opaque",
        "output_format": "png",
        "quality": "medium",
        "size": "1024x1024",
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 5},
            "output_tokens": 7,
            "total_tokens": 12,
        },
        **fields,
    }


def times(usage: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The usage of so many calls."""
    return {
        name: times(value, count) if isinstance(value, Mapping) else count * value
        for name, value in usage.items()
    }


@dataclass
class Call:
    """One request that arrived, and the connection to answer it on."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)

    async def answer(
        self,
        status: int = 200,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A whole answer; a dict goes as JSON, bytes as they are."""
        data = (
            body
            if isinstance(body, bytes)
            else json.dumps(images() if body is None else body).encode()
        )
        await self.head(status, {"content-length": str(len(data)), **(headers or {})})
        await self.send(data)

    async def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Status line and headers only."""
        fields = {"content-type": "application/json", **(headers or {})}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        await self.send("\r\n".join(lines).encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Returns when the gateway has closed its end."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


def frame(event: Mapping[str, Any]) -> bytes:
    """One event, as OpenAI and Azure write it."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def partial(index: int = 0, kind: str = "image_generation", size: int = 64) -> dict[str, Any]:
    """A partial picture of the Images API."""
    return {
        "type": f"{kind}.partial_image",
        "b64_json": picture(size),
        "partial_image_index": index,
        **_SHARED,
    }


def completed(kind: str = "image_generation", size: int = 64) -> dict[str, Any]:
    """A finished picture of the Images API, with its usage."""
    return {
        "type": f"{kind}.completed",
        "b64_json": picture(size),
        **_SHARED,
        "usage": images()["usage"],
    }


_SHARED = {
    "background": "opaque",
    "created_at": 1_700_000_000,
    "output_format": "png",
    "quality": "medium",
    "size": "1024x1024",
}


def drawn(partials: int = 0, size: int = 64) -> list[dict[str, Any]]:
    """The events of the Responses API in which one picture is drawn, with ``partials`` before."""
    item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": picture(size),
        "revised_prompt": "a revised cat",
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    }
    return [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
        {"type": "response.image_generation_call.in_progress", "item_id": "ig_1"},
        *(
            {
                "type": "response.image_generation_call.partial_image",
                "item_id": "ig_1",
                "partial_image_index": index,
                "partial_image_b64": picture(size),
            }
            for index in range(partials)
        ),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {
            "type": "response.completed",
            "response": {
                "id": "resp_1",
                "output": [],
                "usage": {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
                "tool_usage": {"image_gen": images()["usage"]},
            },
        },
    ]


def codex_turn(partials: int = 0) -> list[dict[str, Any]]:
    """The events of one picture and a word about it, as Codex sends them: the picture's item ends
    while its status is still ``generating``, and the response ends with an empty ``output``.
    """
    return _turn("generating", partials, keeps_output=False)


def openai_turn(partials: int = 0) -> list[dict[str, Any]]:
    """The same as OpenAI and Azure send them, with the items again in the completed response."""
    return _turn("completed", partials, keeps_output=True)


def _turn(status: str, partials: int, *, keeps_output: bool) -> list[dict[str, Any]]:
    item = {"id": "ig_1", "type": "image_generation_call", "status": "in_progress"}
    looks = {
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "1024x1024",
    }
    made = {
        **item,
        **looks,
        "status": status,
        "action": "generate",
        "result": picture(),
        "revised_prompt": "a revised cat",
    }
    words = _words("Here is your cat.")
    place = {"item_id": "ig_1", "output_index": 0}
    call = "response.image_generation_call"
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress")},
        {"type": "response.in_progress", "response": _response("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"{call}.in_progress", **place},
        {"type": f"{call}.generating", **place},
        *(
            {
                "type": f"{call}.partial_image",
                **place,
                **looks,
                "partial_image_b64": picture(100 + index),
                "partial_image_index": index,
            }
            for index in range(partials)
        ),
        {"type": "response.output_item.done", "output_index": 0, "item": made},
        *words,
        {
            "type": "response.completed",
            "response": {
                **_response("completed"),
                "output": [made, words[-1]["item"]] if keeps_output else [],
                "usage": {
                    "input_tokens": 900,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": 90,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 990,
                },
                "tool_usage": {"image_gen": images()["usage"]},
            },
        },
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _words(text: str) -> list[dict[str, Any]]:
    """The events of a message after the picture."""
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress"}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    said = {"text": text, "logprobs": []}
    done = {**item, "status": "completed", "content": [part]}
    return [
        {"type": "response.output_item.added", "output_index": 1, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **place, **said},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 1, "item": done},
    ]


def _response(status: str) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Paint what you are asked for.",
        "max_output_tokens": None,
        "metadata": {},
        "model": "gpt-main",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [{"type": "image_generation"}],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


Script = Callable[[Call], Awaitable[None]]


async def draws(call: Call) -> None:
    """The script of an upstream that simply works."""
    is_json = call.headers.get("content-type") == "application/json"
    body = json.loads(call.body) if is_json and call.body else {}
    await call.answer(200, images(body.get("n", 1)))


def answers(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Script:
    """The script of an upstream that always answers the same."""

    async def script(call: Call) -> None:
        await call.answer(status, body, headers)

    return script


def streams(events: Iterable[Mapping[str, Any] | bytes]) -> Script:
    """The script of an upstream that answers with events; bytes go as they are."""
    found = [event if isinstance(event, bytes) else frame(event) for event in events]

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        for each in found:
            await call.send(each)

    return script


class ScriptedUpstream:
    """Counts its calls; ``script`` may be changed at any time; open it by ``async with``."""

    def __init__(self, script: Script = draws) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.connections = 0
        self.open_connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/codex"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            call = await _read(reader, writer)
            if call is not None:
                self.calls.append(call)
                await self.script(call)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open_connections -= 1
            self._tasks.discard(task)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in rest:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, target, headers, body, reader, writer)
