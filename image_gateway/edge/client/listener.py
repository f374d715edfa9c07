"""Sockets that clients connect to: Hypercorn's protocol under a life of our own.

``hypercorn.asyncio.serve`` closes a connection that was accepted just before a stop without an
answer, waits without bound on Python 3.12 and later, and tells nobody when it accepts (measured on
0.18).  So each accepted connection gets Hypercorn's ``TCPServer`` with a context of its own, and
starting, stopping and aborting are done here.  It relies on ``TCPServer``, ``WorkerContext``,
``H11Protocol`` and on ``can_read`` being cleared when a client sends bytes behind its request; the
version is pinned.

One connection carries one request: every answer says ``connection: close``
(``edge.client.downstream``). A call takes a minute, a connect a millisecond; in return a stop never
meets an idle connection that a client is about to use again.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from enum import Enum
from typing import Any, Final

import h11
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol

from image_gateway.core.errors import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GRACE_SECONDS: Final = 1.0
"""After a stop, how long a connection that was accepted before it may take to send its request."""

HEAD_SECONDS: Final = 10.0
"""From the connect to the end of the request's head."""

_BACKLOG: Final = 4096
_QUEUED_CHUNKS: Final = 2
_LONGEST_HEAD: Final = 32 * 1024
_LAST_WORDS_SECONDS: Final = 3.0
"""At the drain deadline, how long an exchange may take to tell its client that it ends."""
_ABORT_SECONDS: Final = 5.0
_NO_LINGER: Final = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


class EndReason(Enum):
    """Why a connection's exchange has to end, told from below."""

    HIDDEN = "bytes stand behind the request, so that nobody could see the client leave"
    DRAINED = "the drain deadline is over"


class ClientConnection:
    """One client's connection, as far as an exchange may act on it."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._on_end: Callable[[EndReason], None] | None = None
        self._end: EndReason | None = None

    def __repr__(self) -> str:
        return f"<ClientConnection{f' ending: {self._end.name}' if self._end else ''}>"

    def abort(self) -> None:
        """Drop it at once, whatever is still to be sent; the client sees an end."""
        self._transport.abort()

    def reset(self) -> None:
        """Drop it so that the client sees an error and no end (RST, by SO_LINGER of zero)."""
        item = self._transport.get_extra_info("socket")
        if item is not None:
            item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def when_ending(self, callback: Callable[[EndReason], None] | None) -> None:
        """Call back when the exchange has to end, now if that was said before; None: no more."""
        self._on_end = callback
        if self._end is not None and callback is not None:
            callback(self._end)

    def end(self, reason: EndReason) -> None:
        """For the listener: tell the exchange, if there is one."""
        self._end = reason
        if self._on_end is not None:
            self._on_end(reason)


class _CanRead(EventWrapper):
    """Hypercorn's flag for "go on reading"; it is cleared only for bytes behind a request."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self._connection = connection

    async def clear(self) -> None:
        await super().clear()
        self._connection.end(EndReason.HIDDEN)


class _Context(WorkerContext):
    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(max_requests=None)
        # Hypercorn calls ``event_class()`` once for each connection, for ``can_read``.
        self.event_class = lambda: _CanRead(connection)  # type: ignore[assignment]


class _PlainHttp(H11Protocol):
    """HTTP/1 and nothing else: what asks for HTTP/2 or a websocket is a request like any other.

    The application refuses it, in words; Hypercorn would have switched before it could.
    """

    async def _check_protocol(self, event: h11.Request) -> None:
        """No HTTP/2, by upgrade or by prior knowledge."""

    async def _create_stream(self, request: h11.Request) -> None:
        """No websocket: the header that would make one is hidden from Hypercorn's own look."""
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[item for item in request.headers if item[0] != b"connection"],
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """What is no HTTP at all gets an answer in the same shape as everything else."""
        refusal = Refusal("unsupported_protocol", "This is not HTTP/1.1 as it has to be.")
        body = refusal.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Server(TCPServer):
    """Hypercorn's connection with our protocol in it."""

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, made: ProtocolWrapper) -> None:
        made.protocol = _PlainHttp(
            made.app,
            made.config,
            made.context,
            made.task_group,
            made.state,
            made.ssl,
            made.client,
            made.server,
            made.send,
        )
        self._protocol = made

    async def _close(self) -> None:
        """Hypercorn's own, but what was aborted gets no orderly end on top.

        uvloop would send it, and a client of HTTP/1.0 takes that for the end of its answer.
        """
        if not self.writer.transport.is_closing():
            await super()._close()
            return
        try:
            with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):
                await self.writer.wait_closed()
        finally:
            await self.idle_task.stop()


class Listener:
    """Accepts on ``sockets`` and runs ``app`` for every request, until ``stop``."""

    def __init__(self, app: App, sockets: Sequence[socket.socket], send_seconds: float) -> None:
        self._app = app
        self._sockets = sockets
        self._send_seconds = send_seconds
        self._config = _config()
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.Task[None], tuple[ClientConnection, _Context]] = {}
        self.draining = False

    def __repr__(self) -> str:
        state = "draining" if self.draining else "accepting" if self._servers else "closed"
        return f"<Listener {state}, {len(self._open)} connections>"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def start(self) -> None:
        """Accept from now on; once this returns a client can connect and is answered."""
        for item in self._sockets:
            # Our own descriptor is duplicated, so that what waits in the kernel's queue when we
            # stop can still be accepted after asyncio has closed its one.
            server = await asyncio.start_server(self._accept, sock=item.dup(), backlog=_BACKLOG)
            self._servers.append(server)

    async def close(self) -> None:
        """End at once, whoever is connected: for a port that nobody's call depends on."""
        for server in self._servers:
            server.close()
        for connection, _ in list(self._open.values()):
            connection.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=_ABORT_SECONDS)

    async def stop(self, drain_seconds: float) -> None:
        """Accept no more, answer whoever is connected, give up after ``drain_seconds``."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for item in self._sockets:
            await self._accept_rest(item)
            item.close()
        # What asyncio has accepted and not told us of yet is told meanwhile, so the grace is given
        # even when nobody seems to be here.
        await asyncio.sleep(GRACE_SECONDS)
        self.draining = True
        for _, context in list(self._open.values()):
            await context.terminated.set()
        if self._open:
            await asyncio.wait(self._open, timeout=drain_seconds)
        if self._open:
            _log.error("stopped with %d calls in flight at the drain deadline", len(self._open))
            for connection, _ in list(self._open.values()):
                connection.end(EndReason.DRAINED)
            await asyncio.wait(self._open, timeout=_LAST_WORDS_SECONDS)
            for connection, _ in list(self._open.values()):
                connection.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=_ABORT_SECONDS)

    async def _accept_rest(self, item: socket.socket) -> None:
        """Take over what had connected before the stop and was not accepted yet."""
        loop = asyncio.get_running_loop()
        item.setblocking(False)
        while True:
            try:
                accepted, _ = item.accept()
            except OSError:
                return
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader, self._accept)
            await loop.connect_accepted_socket(lambda: protocol, accepted)  # noqa: B023 - used at once

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Know of a connection from its first moment: a stop must not overlook it."""
        connection = ClientConnection(writer.transport)
        context = _Context(connection)
        task = asyncio.create_task(self._serve(reader, writer, connection, context))
        self._open[task] = connection, context
        task.add_done_callback(self._open.pop)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: ClientConnection,
        context: _Context,
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline: asyncio.TimerHandle | None = None

        async def app(scope: Scope, receive: Receive, send: Send, *_: object) -> None:
            nonlocal deadline
            try:
                await self._app(scope, receive, send)
            finally:
                # What is left in the buffers goes out behind our back, and a client that does not
                # read could hold the connection for ever.
                deadline = loop.call_later(self._send_seconds, connection.abort)

        try:
            await _Server(
                app,  # type: ignore[arg-type]  # Hypercorn types its wrapper, not what it calls
                loop,
                self._config,
                context,
                {"connection": connection},
                reader,
                writer,
            )
        except Exception:  # noqa: BLE001 - whatever Hypercorn lets out, one connection pays
            _log.exception("a connection ended with an error of ours")
            connection.abort()
        finally:
            if deadline is not None:
                deadline.cancel()


def _config() -> Config:
    config = Config()
    config.include_server_header = False
    # ``edge.client.downstream`` gives a date to answers of ours; one that is passed on has its own.
    config.include_date_header = False
    config.keep_alive_timeout = HEAD_SECONDS
    config.max_app_queue_size = _QUEUED_CHUNKS
    config.h11_max_incomplete_size = _LONGEST_HEAD
    config.errorlog = logging.getLogger("image_gateway.hypercorn")
    return config


def bind(address: tuple[str, int]) -> socket.socket:
    """A listening socket; raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    item = socket.socket(family, socket.SOCK_STREAM)
    try:
        item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind(address)
        item.listen(_BACKLOG)
    except OSError:
        item.close()
        raise
    item.setblocking(False)
    return item
