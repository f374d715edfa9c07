"""From a spool's file to a client's socket by ``sendfile``: the bytes never enter this process.

asyncio owns the socket, and uvloop's transports cannot send files (0.23), so a duplicate of the
socket's descriptor is used while the transport has nothing to write.  The duplicate keeps the
connection open, so ``FileSending.wake`` must be called when the transport is aborted.
"""

import asyncio
import os
import socket
from typing import Self

from image_gateway.edge.file_span import FileSpan


class FileSending:
    """A block in which files go to one connection's socket.

    Enter it with an empty write buffer, and write nothing else inside.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._descriptor = -1
        self._sending: asyncio.Future[int] | None = None
        self._writable: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<FileSending {'blocked' if self._writable else 'open'}>"

    def __enter__(self) -> Self:
        client: socket.socket | None = self._transport.get_extra_info("socket")
        if client is None or self._transport.is_closing():
            raise ConnectionAbortedError
        self._descriptor = os.dup(client.fileno())
        return self

    def __exit__(self, *error: object) -> None:
        if self._sending is None or self._sending.done():
            os.close(self._descriptor)
        else:
            # A thread still uses it after a cancellation.
            self._sending.add_done_callback(self._close_late)

    def _close_late(self, sending: "asyncio.Future[int]") -> None:
        sending.exception()
        os.close(self._descriptor)

    async def send(self, span: FileSpan, start: int) -> int:
        """Send from ``start`` on what the socket takes, at least one byte; returns the count.

        Raises ``OSError``: that of a connection that is gone, or of the disk.
        """
        while True:
            if self._transport.is_closing():
                raise ConnectionAbortedError
            self._sending = asyncio.ensure_future(span.send(self._descriptor, start))
            try:
                return await asyncio.shield(self._sending)
            except BlockingIOError:
                await self._wait_writable()

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._writable = loop.create_future()
        loop.add_writer(self._descriptor, self.wake)
        try:
            await self._writable
        finally:
            loop.remove_writer(self._descriptor)
            self._writable = None

    def wake(self) -> None:
        """Go on: the socket can take more, or its transport was aborted."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
