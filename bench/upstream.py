"""The upstream of all peers: it counts what is bought, and answers at the price of a few writes.

It speaks plain HTTP/1 and keeps a connection alive unless it is asked not to.  A request counts as
a purchase once it has arrived whole.
"""

import asyncio
import re
from types import TracebackType
from typing import Final, Self, cast

from bench.works import MARK, PROMPT, Answer, Work

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSES: Final = re.compile(rb"(?i)HTTP/1\.0\r\n|\r\nconnection: *close")
_PROMPT: Final = re.compile(b"cat [0-9a-f]{%d}" % (len(PROMPT) - 4))


class Upstream:
    """Answers every request with the answer of the work that it serves; open it by ``async with``.

    ``delay`` may be changed at any time; ``purchases`` counts from the start.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.purchases = 0
        self._answer = Answer((), is_stream=False)
        self._arrivals: dict[bytes, asyncio.Event] | None = None
        self._server: asyncio.Server | None = None

    def serve(self, work: Work) -> None:
        """Answer as this work has it from here on, at first without its delay."""
        self.delay = 0.0
        self._answer = work.answer()
        self._arrivals = {} if work.is_retried else None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        make = lambda: _Connection(self)  # noqa: E731 - create_server wants a factory
        self._server = await loop.create_server(make, "127.0.0.1", 0, backlog=4096)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def arrival(self, prompt: bytes) -> None:
        """Returns once a call with this prompt has arrived whole."""
        assert self._arrivals is not None
        await self._arrivals.setdefault(prompt, asyncio.Event()).wait()

    def buy(self, beginning: bytes) -> int:
        """The number of the purchase that this body makes."""
        self.purchases += 1
        if self._arrivals is not None and (found := _PROMPT.search(beginning)):
            self._arrivals.setdefault(found[0], asyncio.Event()).set()
        return self.purchases

    def bytes_of(self, purchase: int, head: bytes) -> list[bytes | memoryview]:
        """The answer as the client with this head can read it."""
        closes = b"connection: close\r\n" if _CLOSES.search(head) else b""
        if not self._answer.is_stream:
            [body] = self._answer.pieces
            first = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b" % closes
            length = b"content-length: %d\r\n\r\n" % len(body)
            before, after = self._halves()
            return [first + length + before + b"MARK%08d" % purchase, after]
        first = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b" % closes
        if b" HTTP/1.0\r\n" in head:
            return [first + b"\r\n", *self._answer.pieces]
        framed: list[bytes | memoryview] = [first + b"transfer-encoding: chunked\r\n\r\n"]
        for piece in self._answer.pieces:
            framed += [b"%x\r\n" % len(piece), piece, b"\r\n"]
        return [*framed, b"0\r\n\r\n"]

    def _halves(self) -> tuple[bytes, memoryview]:
        """The body before and after the mark; the large half is not copied."""
        [body] = self._answer.pieces
        at = body.index(MARK)
        return body[:at], memoryview(body)[at + len(MARK) :]


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._head: bytes | None = None
        self._remaining = 0
        self._beginning = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = b""
            self._head = head + b"\r\n"
            if not self._head.startswith(b"POST "):
                # LiteLLM asks for a list of models when it starts.
                self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                self._head = None
                return
            found = _LENGTH.search(self._head)
            # No peer sends chunks; one that did would get no answer, which is seen as errors.
            self._remaining = int(found[1]) if found else -1
            self._beginning = b""
        self._remaining -= len(data)
        if len(self._beginning) < len(MARK) * 100:
            self._beginning += data[:4096]
        if self._remaining == 0:
            purchase, head = self._upstream.buy(self._beginning), self._head
            self._head = None
            loop = asyncio.get_running_loop()
            if self._upstream.delay:
                loop.call_later(self._upstream.delay, self._reply, purchase, head)
            else:
                self._reply(purchase, head)

    def _reply(self, purchase: int, head: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.writelines(self._upstream.bytes_of(purchase, head))
        if _CLOSES.search(head):
            self._transport.close()
