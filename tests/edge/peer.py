"""Both ends of an upstream connection: real sockets that do what a test scripts, and a call."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from image_gateway.core.codec.body_segments import Body
from image_gateway.core.dialects import UpstreamRequest
from image_gateway.edge.upstream.http_client import UpstreamConnection, UpstreamResponse
from tests.parts.eventually import BOUND_SECONDS, eventually

TOKEN = "planted-token"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

T = TypeVar("T")


class Line:
    """One accepted connection: what came over it, and whether its other end is still there."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = bytearray()
        self.gone = False

    async def read(self, count: int = 65536) -> bytes:
        data = await self.reader.read(count)
        self.received += data
        return data

    async def exactly(self, count: int) -> bytes:
        data = await self.reader.readexactly(count)
        self.received += data
        return data

    async def head(self) -> bytes:
        """Up to the empty line, and no byte more."""
        data = await self.reader.readuntil(b"\r\n\r\n")
        self.received += data
        return data

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of a request that names its length."""
        head = await self.head()
        [length] = [
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        return head, await self.exactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing and read on, until the other end is gone."""
        with contextlib.suppress(ConnectionError):
            while await self.read():
                pass
        self.gone = True

    def reset(self) -> None:
        """End with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def relay(self, port: int) -> None:
        """Pass bytes both ways until either end is gone, as a proxy does behind a CONNECT."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def backward() -> None:
            try:
                while data := await reader.read(65536):
                    await self.send(data)
                self.writer.write_eof()
            except ConnectionError:
                self.reset()

        back = asyncio.create_task(backward())
        try:
            with contextlib.suppress(ConnectionError):
                while data := await self.read():
                    writer.write(data)
                    await writer.drain()
        finally:
            back.cancel()
            writer.transport.abort()
            await asyncio.gather(back, return_exceptions=True)


Script = Callable[[Line], Awaitable[None]]


class Peer:
    """Listens on loopback; each connection runs the script and is closed; use ``async with``."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.lines: list[Line] = []
        self._tls = tls
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}/codex"

    @property
    def received(self) -> bytes:
        """All that came, over all connections."""
        return b"".join(line.received for line in self.lines)

    async def first(self) -> Line:
        """The first connection, once there is one."""
        return (await eventually(lambda: self.lines))[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            await self.script(line)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)


# -- places where nobody answers -------------------------------------------------------------------


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses every connection and that nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        yield port


@contextlib.contextmanager
def unanswering() -> Iterator[int]:
    """A port whose queue is full: the kernel leaves further connects unanswered."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


# -- our own end -----------------------------------------------------------------------------------


def call(url: str, body: Body = (b'{"prompt":"a cat"}',), **headers: str) -> UpstreamRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamRequest(
        f"{url}/images/generations",
        {"content-type": "application/json", "authorization": f"Bearer {TOKEN}", **named},
        body,
    )


async def fetch(attempt: UpstreamConnection) -> tuple[UpstreamResponse, bytes]:
    """Open, and read to the end."""
    answer = await attempt.open(BOUND_SECONDS)
    chunks = [chunk async for chunk in answer.chunks(BOUND_SECONDS, BOUND_SECONDS)]
    return answer, b"".join(chunks)


def is_word(reason: str) -> bool:
    """One word: nothing that could hold an address, a header or a body."""
    return reason.isidentifier() and reason[0].isupper()


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """A task that does not outlive the block, however that is left."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def open_to(port: int) -> int:
    """Sockets to a loopback port that a process still holds, connected or connecting."""
    wanted = f"0100007F:{port:04X}"
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(1 for row in rows if row[2] == wanted and row[9] != "0")


def anonymous(purpose: int) -> ssl.SSLContext:
    """TLS without any certificate, for both ends; no key needs to be kept or made."""
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH:@SECLEVEL=0")
    return made


def pairs(head: bytes) -> list[tuple[str, str]]:
    """The headers of a head, as they stand there."""
    found: list[Any] = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]]
    return [(name, value) for name, value in found]
