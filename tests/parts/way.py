"""A way of a client to the gateway, on which the first connection may meet with an accident."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

Passing = Callable[["Passage"], Awaitable[None]]
"""What happens to a connection once it is open on both sides."""


@dataclass(frozen=True)
class Passage:
    """One connection: the client's side and the gateway's."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    gateway: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    begins: Callable[[], None]
    """Called for each request."""

    async def up(self) -> None:
        """Pass on what the client sends, until it sends no more."""
        await _pump(self.client[0], self.gateway[1], begins=self.begins)

    async def down(self, most: int | None = None) -> None:
        """Pass on what the gateway sends: all of it, or so many bytes."""
        await _pump(self.gateway[0], self.client[1], most)

    async def arrived(self) -> None:
        """Wait until all that was passed on has reached the client's machine."""
        link: socket.socket = self.client[1].get_extra_info("socket")
        while self.client[1].transport.get_write_buffer_size() or unsent(link):
            await asyncio.sleep(0.01)

    def reset(self) -> None:
        """Both sides see a reset, and what has not arrived is lost."""
        for _, writer in (self.client, self.gateway):
            link: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


def unsent(link: socket.socket) -> int:
    """Bytes that the other side's kernel has not taken (tcp(7), SIOCOUTQ)."""
    count: int = struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, b"\0" * 4))[0]
    return count


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    most: int | None = None,
    begins: Callable[[], None] = lambda: None,
) -> None:
    left = most
    while left is None or left > 0:
        data = await reader.read(65536 if left is None else min(left, 65536))
        if not data:
            break
        # The client has had its answer before it sends another request on the connection.
        if data.startswith(b"POST "):
            begins()
        writer.write(data)
        await writer.drain()
        left = None if left is None else left - len(data)
    if left is None and writer.can_write_eof():
        writer.write_eof()


async def passes(passage: Passage) -> None:
    """Nothing happens; the end of either side ends both."""
    sending = asyncio.create_task(passage.up())
    receiving = asyncio.create_task(passage.down())
    # A client's end is passed on, so that the gateway sees it leave; its answer may still come.
    await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
    if not receiving.done() and passage.client[0].at_eof():
        passage.gateway[1].close()
    await asyncio.gather(sending, receiving, return_exceptions=True)


class Way:
    """Passes requests on to a port of the loopback, and counts them; open it by ``async with``.

    ``first`` is what happens to the first connection.
    """

    def __init__(self, port: int, first: Passing = passes) -> None:
        self.requests = 0
        self.again = asyncio.Event()
        """A second request has come."""
        self._connections = 0
        self._target = port
        self._first = first
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        happens = self._first if self._connections == 1 else passes
        inner = None
        try:
            inner = await asyncio.open_connection("127.0.0.1", self._target)
            await happens(Passage((reader, writer), inner, self._begin))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, inner[1] if inner else writer):
                each.close()

    def _begin(self) -> None:
        self.requests += 1
        if self.requests > 1:
            self.again.set()
