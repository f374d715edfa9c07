"""A listener whose calls a test scripts, and a client that reads the answer by hand."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h11

from image_gateway.core.codec.body_segments import Span
from image_gateway.edge.client.connections import Connections
from image_gateway.edge.client.downstream import ClientLimits, Downstream
from image_gateway.edge.client.listener import Listener, Receive, Scope, Send, bind
from image_gateway.edge.spool import Spool, SpooledBody, Spools
from tests.parts.eventually import BOUND_SECONDS

MIB = 1024 * 1024
LARGE = 24 * MIB
"""More than the kernel's buffers of both ends take."""

SHORT_SECONDS = 0.05
NEVER_SECONDS = 1000.0

Script = Callable[[Downstream], Awaitable[None]]


@dataclass
class Got:
    """What a client got: an answer, and whether it came to its end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        self.pieces = [b"".join(self.pieces)]
        return self.pieces[0]


class Client:
    """The other end of the connection, read by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="GET", target="/", headers=[("host", "gateway")]))
        self._http.send(h11.EndOfMessage())
        self.got = Got()

    async def read(self, done: Callable[[Got], bool] = lambda got: got.whole) -> Got:
        """Read on until that is so, or the answer is broken off."""
        while not done(self.got):
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    self._http.receive_data(await self._reader.read(65536))
                    event = self._http.next_event()
                except (h11.RemoteProtocolError, ConnectionError):
                    break
            if isinstance(event, h11.Response):
                self.got.status = event.status_code
                self.got.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                self.got.pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.got.whole = True
            elif isinstance(event, h11.ConnectionClosed):
                break
        return self.got

    def leave(self) -> None:
        self._writer.transport.abort()


@dataclass
class Stage:
    """A listener whose every call runs ``script``."""

    script: Script
    send_seconds: float = BOUND_SECONDS
    limit: int = 64
    """How many connections there may be."""
    reads: bool = True
    """Whether the request is read before ``script`` runs."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    listener: Listener | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """A block in which the listener accepts; its port."""
        self.listener = Listener(
            self.app,
            [bound := bind(("127.0.0.1", 0))],
            self.send_seconds,
            Connections(self.limit),
            "Have a larger stage",
        )
        port: int = bound.getsockname()[1]
        await self.listener.start()
        try:
            yield port
        finally:
            if not self.listener.draining:
                await self.listener.stop(0)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = ClientLimits(MIB, BOUND_SECONDS, BOUND_SECONDS, self.send_seconds)
        downstream = Downstream(scope, receive, send, limits, "req_1")
        if self.reads:
            await downstream.read_body(Nowhere())
        try:
            await self.script(downstream)
        finally:
            self.ended.set()


class Nowhere:
    async def write(self, chunk: bytes) -> None:
        """Let it go."""


@asynccontextmanager
async def client_of(stage: Stage, version: bytes = b"1.1") -> AsyncIterator[Client]:
    """A client that has just asked; its buffers are small."""
    async with stage.serving() as port:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=65536)
        try:
            writer.write(b"GET / HTTP/%s\r\nhost: gateway\r\n\r\n" % version)
            async with asyncio.timeout(BOUND_SECONDS):
                yield Client(reader, writer)
                await stage.ended.wait()
        finally:
            writer.transport.abort()


async def kept(spools: Spools, text: bytes) -> tuple[Spool, SpooledBody]:
    spool = spools.open(paid=True)
    for start in range(0, len(text), MIB):
        await spool.write(text[start : start + MIB])
    return spool, spool.hold((Span(0, len(text)),))


def sockets() -> list[str]:
    """The sockets that this process has open."""
    found = []
    for item in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(item.readlink()))
    return sorted(name for name in found if name.startswith("socket:"))
