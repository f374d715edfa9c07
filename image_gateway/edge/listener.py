"""Sockets that clients connect to: Hypercorn's protocol under a life of our own.

``hypercorn.asyncio.serve`` closes a connection that was accepted just before a stop without an
answer, waits without bound on Python 3.12 and later, and tells nobody when it accepts (measured on
0.18).  So each accepted connection gets Hypercorn's ``TCPServer`` with a context of its own, and
starting, stopping and aborting are done here.  It relies on ``TCPServer``, ``WorkerContext`` and on
``can_read`` being cleared when a client sends bytes behind its request; the version is pinned.

One connection carries one request: every answer says ``connection: close`` (``edge.downstream``).
A call takes a minute, a connect a millisecond; in return a stop never meets an idle connection that
a client is about to use again.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config

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
_ABORT_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Connection:
    """One client's connection, as far as an exchange may act on it."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._on_hidden: Callable[[], None] | None = None
        self._hidden = False

    def __repr__(self) -> str:
        return f"<Connection{' hidden' if self._hidden else ''}>"

    def abort(self) -> None:
        """Drop it at once, whatever is still to be sent."""
        self._transport.abort()

    def when_hidden(self, callback: Callable[[], None] | None) -> None:
        """Call back once nothing can tell any more that the client has left.

        That is so when bytes stand behind the request: they are not read, and so the end of the
        stream behind them is not seen.
        """
        self._on_hidden = callback
        if self._hidden and callback is not None:
            callback()

    def hide(self) -> None:
        """For the protocol: bytes arrived behind the request."""
        self._hidden = True
        if self._on_hidden is not None:
            self._on_hidden()


class _CanRead(EventWrapper):
    """Hypercorn's flag for "go on reading"; it is cleared only for bytes behind a request."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def clear(self) -> None:
        await super().clear()
        self._connection.hide()


class _Context(WorkerContext):
    def __init__(self, connection: Connection) -> None:
        super().__init__(max_requests=None)
        # Hypercorn calls ``event_class()`` once for each connection, for ``can_read``.
        self.event_class = lambda: _CanRead(connection)  # type: ignore[assignment]


class Listener:
    """Accepts on ``sockets`` and runs ``app`` for every request, until ``stop``."""

    def __init__(self, app: App, sockets: Sequence[socket.socket], send_seconds: float) -> None:
        self._app = app
        self._sockets = sockets
        self._send_seconds = send_seconds
        self._config = _config()
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.Task[None], tuple[Connection, _Context]] = {}
        self.draining = False

    def __repr__(self) -> str:
        state = "draining" if self.draining else "accepting" if self._servers else "closed"
        return f"<Listener {state}, {len(self._open)} connections>"

    async def start(self) -> None:
        """Accept from now on; once this returns a client can connect and is answered."""
        for item in self._sockets:
            # Our own descriptor is duplicated, so that what waits in the kernel's queue when we
            # stop can still be accepted after asyncio has closed its one.
            server = await asyncio.start_server(self._serve, sock=item.dup(), backlog=_BACKLOG)
            self._servers.append(server)

    async def stop(self, drain_seconds: float) -> None:
        """Accept no more, answer whoever is connected, give up after ``drain_seconds``."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for item in self._sockets:
            await self._accept_rest(item)
            item.close()
        if self._open:
            await asyncio.wait(self._open, timeout=GRACE_SECONDS)
        self.draining = True
        for _, context in self._open.values():
            await context.terminated.set()
        if self._open:
            await asyncio.wait(self._open, timeout=drain_seconds)
        if self._open:
            _log.error("stopped with %d calls in flight at the drain deadline", len(self._open))
            for connection, _ in self._open.values():
                connection.abort()
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
            protocol = asyncio.StreamReaderProtocol(reader, self._serve)
            await loop.connect_accepted_socket(lambda: protocol, accepted)  # noqa: B023 - used at once

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        connection = Connection(writer.transport)
        context = _Context(connection)
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = connection, context
        # Hypercorn itself closes a connection that stays silent, but not one that speaks HTTP/2 and
        # then asks for nothing.
        deadline = loop.call_later(HEAD_SECONDS + 1, connection.abort)

        async def app(scope: Scope, receive: Receive, send: Send, *_: object) -> None:
            nonlocal deadline
            deadline.cancel()
            try:
                await self._app(scope, receive, send)
            finally:
                # What is left in the buffers goes out behind our back, and a client that does not
                # read could hold the connection for ever; so could one that was refused in HTTP/2.
                is_plain = scope.get("http_version") in {"1.0", "1.1"}
                seconds = self._send_seconds if is_plain else GRACE_SECONDS
                deadline = loop.call_later(seconds, connection.abort)

        try:
            await TCPServer(
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
            deadline.cancel()
            del self._open[task]


def _config() -> Config:
    config = Config()
    config.include_server_header = False
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
