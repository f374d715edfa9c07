"""Sockets that clients connect to: Hypercorn's protocol with a start and stop of our own.

``hypercorn.asyncio.serve`` closes a connection that was accepted just before a stop without a
response, waits without bound on Python 3.12 and later, and does not report when it accepts
(measured on 0.18).  So each accepted connection gets Hypercorn's ``TCPServer`` with its own
context, and this module starts, stops and aborts.  It relies on ``TCPServer``, ``WorkerContext``,
``H11Protocol`` and on ``can_read`` being cleared when a client sends bytes behind its request; the
version is pinned.

One connection carries one request: every response says ``connection: close``
(``edge.client.downstream``). A call takes a minute, a connect a millisecond; in return a stop never
meets an idle connection that a client is about to use again.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Protocol

import h11
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol

from image_gateway.core.errors import Refusal
from image_gateway.edge.client.acceptor import BACKLOG, Acceptor
from image_gateway.edge.client.connection import ClientConnection, EndReason
from image_gateway.edge.client.connections import Connections

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]

GRACE_SECONDS: Final = 1.0
"""After a stop, how long a connection that was accepted before it may take to send its request."""

HEAD_SECONDS: Final = 10.0
"""From the connect to the end of the request's headers."""

_QUEUED_CHUNKS: Final = 2
_LONGEST_HEAD: Final = 32 * 1024
_LAST_RESPONSE_SECONDS: Final = 3.0
"""How long an exchange may take, after the drain deadline, to send its client an error."""
_ABORT_SECONDS: Final = 5.0
_SMALL_CHUNK: Final = 256
_MOST_JOINED: Final = 32
"""Chunks in one step of the loop: 0.2 ms.  A small call takes some seventy turns of the loop."""

_log = logging.getLogger(__name__)


class Drained(Protocol):
    """What may outlive its connections, and a stop waits for."""

    @property
    def running(self) -> int:
        """How many still run."""

    async def idle(self) -> None:
        """Wait until none runs."""

    def drain(self) -> None:
        """End all of them."""


class _CanRead(EventWrapper):
    """Hypercorn's flag for "continue reading"; it is cleared only for bytes behind a request."""

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


class _JoiningConnection(h11.Connection):
    """Joins small chunks of a body that have arrived together.

    A client may send a body as chunks of one byte.  Each event takes Hypercorn and the application
    two turns of the loop and 30 us, the parser 5.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)
        self._ahead: list[_Event | h11.RemoteProtocolError] = []

    def next_event(self) -> _Event:
        if self._ahead:
            event = self._ahead.pop()
            if isinstance(event, h11.RemoteProtocolError):
                raise event
            return event
        event = super().next_event()
        if not isinstance(event, h11.Data) or len(event.data) > _SMALL_CHUNK:
            return event
        chunks = [event.data]
        while len(chunks) < _MOST_JOINED:
            try:
                event = super().next_event()
            except h11.RemoteProtocolError as error:
                self._ahead.append(error)
                break
            if not isinstance(event, h11.Data):
                if event is not h11.NEED_DATA and event is not h11.PAUSED:
                    self._ahead.append(event)
                break
            chunks.append(event.data)
        return h11.Data(data=b"".join(chunks))


class _PlainHttp(H11Protocol):
    """HTTP/1 only: a request for HTTP/2 or a websocket is handled like any other.

    The application refuses it with an error; Hypercorn would switch protocols before that.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = _JoiningConnection(self.config)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Never switch to HTTP/2, by upgrade or by prior knowledge."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Never switch to a websocket: drop the ``connection`` header that Hypercorn checks."""
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[pair for pair in request.headers if pair[0] != b"connection"],
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """Answer bytes that are not HTTP with an error in the usual shape."""
        refusal = Refusal(
            "unsupported_protocol", "The request is not valid HTTP/1.1. Send it as HTTP/1.1."
        )
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
    """Hypercorn's connection, with ``_PlainHttp`` as its protocol."""

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        protocol = _PlainHttp(
            wrapper.app,
            wrapper.config,
            wrapper.context,
            wrapper.task_group,
            wrapper.state,
            wrapper.ssl,
            wrapper.client,
            wrapper.server,
            wrapper.send,
        )
        wrapper.protocol = protocol
        self._connection.attach(protocol)
        self._protocol = wrapper

    @property
    def _connection(self) -> ClientConnection:
        connection: ClientConnection = self.state["connection"]
        return connection

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._connection.end_input()
            # Else a client that leaves without a request is waited for until ``HEAD_SECONDS``.
            await self.idle_task.stop()

    async def _close(self) -> None:
        """As Hypercorn's, with two exceptions.

        After a whole response only the side that writes is closed, so that the client's end can be
        seen.  An aborted connection is not closed in an orderly way as well: uvloop would send a
        FIN, which an HTTP/1.0 client takes as the end of its response.
        """
        if self._connection.stays_open:
            with contextlib.suppress(ConnectionError):
                await self._connection.end_output()
            return
        if not self.writer.transport.is_closing():
            await super()._close()
            return
        try:
            with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):
                await self.writer.wait_closed()
        finally:
            await self.idle_task.stop()


class _Client:
    """An accepted connection; the loop takes it over, and gives it the rest, a turn later."""

    def __init__(self) -> None:
        self.context: _Context | None = None
        self.connection: ClientConnection | None = None

    def abort(self) -> None:
        """Close it at once."""
        if self.connection is not None:
            self.connection.abort()

    def end(self, reason: EndReason) -> None:
        """End its exchange."""
        if self.connection is not None:
            self.connection.end(reason)


class Listener:
    """Accepts on ``sockets`` and runs ``app`` for every request, until ``stop``.

    ``connections`` has the limit; ``remedy`` is what an operator can do when it is reached.
    """

    def __init__(
        self,
        app: App,
        sockets: Sequence[socket.socket],
        send_seconds: float,
        connections: Connections,
        remedy: str,
    ) -> None:
        self._app = app
        self._send_seconds = send_seconds
        self._connections = connections
        self._acceptor = Acceptor(sockets, connections, self._begin, remedy)
        self._config = _config()
        self._open: dict[asyncio.Task[None], _Client] = {}
        self.draining = False

    def __repr__(self) -> str:
        state = "draining" if self.draining else "accepting" if self._acceptor.is_open else "closed"
        return f"<Listener {state}, {len(self._open)} connections>"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    async def start(self) -> None:
        """Accept from now on; once this returns a client can connect and gets a response."""
        self._acceptor.start()

    async def close(self) -> None:
        """Stop at once and abort all connections: for the ops port, which carries no calls."""
        self._acceptor.stop(takes_queued=False)
        for client in list(self._open.values()):
            client.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=_ABORT_SECONDS)

    async def stop(self, drain_seconds: float, calls: Drained | None = None) -> None:
        """Accept no more, finish open connections and ``calls``, give up after ``drain_seconds``.

        At the deadline the calls are ended before the connections, which so get their answers.
        """
        self._acceptor.stop(takes_queued=True)
        await asyncio.sleep(GRACE_SECONDS)
        self.draining = True
        for client in list(self._open.values()):
            if client.context is not None:
                await client.context.terminated.set()
        if not await self._drained(drain_seconds, calls):
            _log.error(
                "%d connections and %d calls are ended at the drain deadline; raise DRAIN_SECONDS "
                "if calls take longer",
                len(self._open),
                0 if calls is None else calls.running,
            )
            if calls is not None:
                calls.drain()
            for client in list(self._open.values()):
                client.end(EndReason.DRAINED)
            await self._drained(_LAST_RESPONSE_SECONDS, calls)
            for client in list(self._open.values()):
                client.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=_ABORT_SECONDS)

    async def _drained(self, seconds: float, calls: Drained | None) -> bool:
        """Wait until all connections and calls have ended; whether they have, within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._open:
                    await asyncio.wait(self._open)
                if calls is not None:
                    await calls.idle()
                return True
        return False

    def _begin(self, accepted: socket.socket) -> _Client:
        """Register a connection as soon as it is accepted: a stop must not miss it."""
        client = _Client()
        task = asyncio.create_task(self._serve(accepted, client))
        self._open[task] = client

        def end(task: asyncio.Task[None]) -> None:
            del self._open[task]
            self._connections.remove(client)

        task.add_done_callback(end)
        return client

    async def _serve(self, accepted: socket.socket, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError as error:
            _log.warning("a connection was lost at its start: %s", error.strerror)
            accepted.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = client.connection = ClientConnection(writer)
        context = client.context = _Context(connection)
        deadline: asyncio.TimerHandle | None = None

        async def app(scope: Scope, receive: Receive, send: Send, *_: object) -> None:
            nonlocal deadline
            self._connections.begin(client)
            try:
                await self._app(scope, receive, send)
            finally:
                connection.close()
                # The buffers are sent after this, and a client that does not read could keep the
                # connection open for ever.
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
        except Exception:  # noqa: BLE001 - an error in Hypercorn must end one connection only
            _log.exception("an unexpected error aborted a connection; please report this line")
            connection.abort()
        finally:
            if deadline is not None:
                deadline.cancel()


def _config() -> Config:
    config = Config()
    config.include_server_header = False
    # ``edge.client.downstream`` adds a date to the gateway's responses; the text API's have one.
    config.include_date_header = False
    config.keep_alive_timeout = HEAD_SECONDS
    config.max_app_queue_size = _QUEUED_CHUNKS
    config.h11_max_incomplete_size = _LONGEST_HEAD
    config.errorlog = logging.getLogger("image_gateway.hypercorn")
    return config


def bind(address: tuple[str, int]) -> socket.socket:
    """A listening socket; raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening
