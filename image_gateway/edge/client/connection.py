"""One client's connection, below HTTP: how it is aborted, how files go out, how it ends.

After the end of a response only the side that writes is closed.  What the client does then says
whether it has received the response: it closes, or its kernel resets the connection.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import Final, cast

import h11
from hypercorn.protocol.h11 import H11Protocol

from image_gateway.edge.client.file_sending import FileSending
from image_gateway.edge.file_span import FileSpan

_NO_LINGER: Final = struct.pack("ii", 1, 0)

_CLOSED: Final = 7
"""``TCP_CLOSE`` of Linux (``tcp_states.h``): both sides have sent a FIN and have it acknowledged,
or a reset came."""
_ALL_ACKNOWLEDGED: Final = 5
"""``TCP_FIN_WAIT2``: only the client's FIN is missing."""

_SHORTEST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks at the state.  The kernel reports its changes to nobody."""


class EndReason(Enum):
    """Why the listener ends a connection's exchange."""

    HIDDEN = "bytes follow the request, so that a disconnect would not be seen"
    DRAINED = "the drain deadline has passed"


class ClientConnection:
    """One client's connection: what an exchange may do with it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._transport = writer.transport
        self._http: H11Protocol | None = None
        self._file_sending: FileSending | None = None
        self._on_end: Callable[[EndReason], None] | None = None
        self._end: EndReason | None = None
        self._has_ended = False
        self._input_ended = asyncio.Event()
        self.stays_open = False
        """Whether the end of the response closes only the side that writes."""

    def __repr__(self) -> str:
        return f"<ClientConnection{f' ending: {self._end.name}' if self._end else ''}>"

    def abort(self) -> None:
        """Close it at once and drop unsent bytes; the client sees an end."""
        self._transport.abort()
        if self._file_sending is not None:
            self._file_sending.wake()

    def reset(self) -> None:
        """Close it so that the client sees an error (RST, by an SO_LINGER of zero)."""
        client = self._transport.get_extra_info("socket")
        if client is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    def attach(self, http: H11Protocol) -> None:
        """For the listener: what frames this connection's responses."""
        self._http = http

    @contextlib.asynccontextmanager
    async def sending_file(self, span: FileSpan) -> AsyncIterator[FileSending]:
        """A block that sends ``span`` as the next part of the response's body, all of it.

        Entering waits until what was sent before is written.  Raises ``OSError`` if the client is
        gone.
        """
        if self._transport.is_closing():
            raise ConnectionAbortedError
        # Hypercorn would copy the bytes; h11 frames them and only wants to know how many they are.
        assert self._http is not None  # a response has begun
        http = cast("h11.Connection", self._http.connection)
        data = h11.Data(data=cast("bytes", span))  # documented: anything with a length
        parts: list[bytes | FileSpan] = [*(http.send_with_data_passthrough(data) or ())]
        index = parts.index(span)
        self._writer.writelines(cast("list[bytes]", parts[:index]))
        await self._flush()
        with FileSending(self._transport) as sending:
            self._file_sending = sending
            try:
                yield sending
            finally:
                self._file_sending = None
        if not self._transport.is_closing():
            self._writer.writelines(cast("list[bytes]", parts[index + 1 :]))

    async def _flush(self) -> None:
        """Wait until the write buffer is empty."""
        self._transport.set_write_buffer_limits(high=0)
        try:
            await self._writer.drain()
        finally:
            if not self._transport.is_closing():
                self._transport.set_write_buffer_limits()

    @contextlib.contextmanager
    def staying_open(self) -> Iterator[None]:
        """A block that sends the end of the response and does not close the connection.

        The connection is closed when the exchange returns.
        """
        self.stays_open = True
        try:
            yield
        finally:
            self.stays_open = False

    async def end_output(self) -> None:
        """For the listener: send what is left and then a FIN.  Raises ``ConnectionError``."""
        if self._transport.is_closing():
            return
        await self._flush()
        if not self._transport.is_closing():
            self._has_ended = True
            self._transport.write_eof()

    def end_input(self) -> None:
        """For the listener: nothing more comes from the client, or an error came."""
        self._input_ended.set()

    def close(self) -> None:
        """For the listener: the exchange is over; close what it left open."""
        if self._has_ended:
            self._transport.close()

    async def delivered(self, seconds: float) -> bool:
        """Wait for the client to close after a whole response; whether it has received it.

        It has if its FIN came and it has acknowledged all bytes.  A client that does not close
        within ``seconds`` has if its kernel has acknowledged all and no reset came: it is slow to
        close, not gone.  It has not if its connection was reset: Linux does so when a process ends
        with unread bytes, other kernels may not.  A proxy answers for itself, not for its client.
        """
        if not self._has_ended:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._input_ended.wait()
                pause = _SHORTEST_PAUSE
                # The client's FIN may come before its last acknowledgement.
                while (state := self._tcp_state()) not in {None, _CLOSED}:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            return self._tcp_state() == _ALL_ACKNOWLEDGED
        return state is not None

    def _tcp_state(self) -> int | None:
        """The kernel's state of the connection; None after a reset."""
        client: socket.socket | None = self._transport.get_extra_info("socket")
        # uvloop closes the transport when a read fails.
        if client is None or self._transport.is_closing():
            return None
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._has_ended = False
            return None
        try:
            return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return _CLOSED  # a Unix socket: what was written has arrived

    @property
    def is_pipelined(self) -> bool:
        """Whether bytes have come behind the request."""
        return self._end is EndReason.HIDDEN

    def when_ending(self, callback: Callable[[EndReason], None] | None) -> None:
        """Call ``callback`` when the exchange must end, at once if it must already; None: never."""
        self._on_end = callback
        if self._end is not None and callback is not None:
            callback(self._end)

    def end(self, reason: EndReason) -> None:
        """For the listener: end the exchange, if there is one, or what it left to wait for."""
        self._end = reason
        if self._has_ended:
            self.abort()
        if self._on_end is not None:
            self._on_end(reason)
