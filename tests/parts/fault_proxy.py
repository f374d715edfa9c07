"""A relay that does one thing wrong, at a chosen byte of what goes through it.

It stands between the gateway and a server: an upstream (``FaultProxy``) or Postgres (``Relay`` in
``tests/edge/relay.py``).  Its faults are those of a way, not of a server: what a server says that
is wrong, ``ScriptedUpstream`` says.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from tests.parts.way import unsent

GARBAGE = b"\x00\xff\x16\x03\x01 neither of the two says this \x00\r\n"
DRIP_SECONDS = 0.2
_STEP_SECONDS = 0.01

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Kind(StrEnum):
    """What goes wrong."""

    DELAY = "delay"
    """Nothing for ``DELAY_SECONDS``, then all goes on."""
    RESET = "reset"
    """Both sides see a reset."""
    HALF_CLOSE = "half-close"
    """The receiver sees an end; the other direction goes on."""
    TRUNCATE = "truncate"
    """Both sides see an end."""
    DRIP = "drip"
    """From then on one byte every ``DRIP_SECONDS``."""
    GARBAGE = "garbage"
    """Bytes that the sender never sent, then all goes on."""
    SWALLOW = "swallow"
    """From then on nothing goes through either way, and nobody sees an end until it is healed."""


DELAY_SECONDS = 0.3


class Toward(StrEnum):
    """Which of the two directions counts."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class Fault:
    """What goes wrong once ``after`` bytes went ``toward`` a side, counted on each connection from
    the moment when the fault was set.
    """

    kind: Kind
    toward: Toward = Toward.CLIENT
    after: int = 0
    at_end: bool = False
    """It does not wait for the byte after these."""


class _Connection:
    """One connection through the relay."""

    def __init__(self, proxy: "FaultProxy", client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._sides = {Toward.CLIENT: client, Toward.SERVER: server}
        self._swallows = False

    async def run(self) -> None:
        pumps = [asyncio.create_task(self._pump(toward)) for toward in Toward]
        try:
            await asyncio.gather(*pumps)
        except ConnectionError:
            self.reset()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, toward: Toward) -> None:
        source = Toward.CLIENT if toward is Toward.SERVER else Toward.SERVER
        reader, writer = self._sides[source][0], self._sides[toward][1]
        fault, passed, has_fired = self._proxy.fault, 0, False
        while data := await reader.read(65536):
            self._proxy.sees(data)
            await self._proxy.flowing.wait()
            if fault is not self._proxy.fault:
                fault, passed, has_fired = self._proxy.fault, 0, False
            if has_fired and fault is not None and fault.kind is Kind.DRIP:
                await self._drip(writer, data)
                continue
            if fault is None or fault.toward is not toward or has_fired:
                await self._send(writer, data)
                continue
            room = fault.after - passed
            passed += len(data)
            if passed < fault.after or (passed == fault.after and not fault.at_end):
                await self._send(writer, data)
                continue
            await self._send(writer, data[:room])
            has_fired = True
            self._proxy.fired += 1
            if not await self._fire(fault.kind, writer, data[room:]):
                return
        while self._swallows and fault is self._proxy.fault:
            await asyncio.sleep(_STEP_SECONDS)
        if self._swallows:
            # What a host answers to a connection that the other side no longer has.
            raise ConnectionResetError
        # An end is passed on as one, so that the other direction may go on.
        if not writer.transport.is_closing():
            writer.write_eof()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self._swallows:
            writer.write(data)
            await writer.drain()

    async def _drip(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        fault = self._proxy.fault
        for position in range(len(data)):
            if fault is not self._proxy.fault:
                await self._send(writer, data[position:])
                return
            await self._send(writer, data[position : position + 1])
            await asyncio.sleep(DRIP_SECONDS)

    async def _fire(self, kind: Kind, writer: asyncio.StreamWriter, rest: bytes) -> bool:
        """Whether the direction goes on by itself afterwards."""
        match kind:
            case Kind.DELAY:
                await asyncio.sleep(DELAY_SECONDS)
            case Kind.GARBAGE:
                writer.write(GARBAGE)
            case Kind.SWALLOW:
                self._swallows = True
            case Kind.HALF_CLOSE:
                writer.write_eof()
                return False
            case Kind.RESET:
                await _arrived(writer)
                raise ConnectionResetError
            case Kind.TRUNCATE:
                self.end()
                return False
            case Kind.DRIP:
                await self._drip(writer, rest)
                return True
        await self._send(writer, rest)
        return True

    def reset(self) -> None:
        """Both sides see a reset, and what has not arrived is lost."""
        for _, writer in self._sides.values():
            link: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def end(self) -> None:
        for _, writer in self._sides.values():
            writer.close()

    def abort(self) -> None:
        for _, writer in self._sides.values():
            writer.transport.abort()


async def _arrived(writer: asyncio.StreamWriter) -> None:
    """Wait until all that was written has reached the receiver's machine."""
    link: socket.socket = writer.get_extra_info("socket")
    while writer.transport.get_write_buffer_size() or unsent(link):
        await asyncio.sleep(_STEP_SECONDS)


class FaultProxy:
    """Passes connections on to a port of the loopback; open it by ``async with``.

    ``fault`` may be set at any time, and None heals it.  ``cut``: nobody listens, and who was
    connected is thrown out; ``open`` ends that.  ``stall``: all is accepted, and nothing is passed
    on.
    """

    def __init__(self, port: int, fault: Fault | None = None) -> None:
        self._target = port
        self.fault = fault
        self.fired = 0
        """How often the faults happened."""
        self.flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Let everything through from now on, but for ``fault``."""
        self.flowing.set()
        if self._server is None:
            self._server = await self._listen()

    def stall(self) -> None:
        self.flowing.clear()

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.abort()
        for task in self._tasks:
            task.cancel()

    def sees(self, data: bytes) -> None:
        """Called with all that comes, before it is passed on."""

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection: _Connection | None = None
        try:
            await self.flowing.wait()
            server = await self._connect()
            connection = _Connection(self, (reader, writer), server)
            self._connections.add(connection)
            await connection.run()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            if connection is not None:
                self._connections.discard(connection)
                connection.end()


@contextmanager
def refuses_connects() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def swallows_connects() -> Iterator[int]:
    """A port that answers no connect: its queue is full, and nobody accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            waiting.append(client)
        try:
            yield listener.getsockname()[1]
        finally:
            for client in waiting:
                client.close()
