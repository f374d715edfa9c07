"""The client's side of one request: read its body, notice a disconnect, send the response.

It hides what Hypercorn makes hard: an unread body keeps its connection open for ever, a client that
leaves before the response is not reported, a client that does not read blocks for ever.

A response may start before the request's body ends: a refusal that does not need the body.  Many
clients, the Python SDK among them, send the whole body before they read.  So the rest of the body
is received, within bounds, and the last byte of the response is held back meanwhile.  Otherwise a
proxy in between that has the whole response takes the call as done: Caddy 2.6.2 then closes the
connection of a client that is still sending, within half a second (Go's ``net/http``,
``rstAvoidanceDelay``).
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import Final, Protocol, Self

from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers, content_length
from image_gateway.edge.client.connection import ClientConnection, EndReason
from image_gateway.edge.client.listener import Message, Receive, Scope, Send
from image_gateway.edge.file_span import FileSpan, Outgoing

HOLD_SECONDS: Final = 30.0
"""How long an early response waits for the end of the body; ``body_seconds`` if that is less."""

HOLD_IDLE_SECONDS: Final = 2.0
"""After this silence the client is taken as one that stopped sending and reads."""

LINGER_SECONDS: Final = 30.0
"""How long the rest of the body is received after the end of an early response, so that a client
that sends before it reads gets to read (as nginx's ``lingering_time``); ``body_seconds`` if that is
less."""

LINGER_IDLE_SECONDS: Final = 5.0

TINY_BYTES: Final = 1024
MOST_TINY: Final = 64
TINY_PAUSE_SECONDS: Final = 0.01
"""A body that goes on in pieces this small, although the listener joins what came together, is made
of chunks of some bytes each.  It waits after each further piece, so that it takes a fortieth of the
processor instead of all that others leave."""


class ClientLeftError(Exception):
    """The client has disconnected or stopped reading."""


class DrainedError(Exception):
    """The process stops before the exchange ended."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits for one client: bytes and seconds."""

    max_request_bytes: int
    body_seconds: float
    body_idle_seconds: float
    send_seconds: float


class BodySink(Protocol):
    """Takes a body's chunks as they arrive."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""


class Downstream:
    """One request and its response."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: ClientLimits, request_id: str
    ) -> None:
        self.headers = Headers(scope["headers"])
        self.pairs: list[tuple[bytes, bytes]] = list(scope["headers"])
        """The headers as received: in order, with repeated names."""
        self.peer: str | None = (scope.get("client") or (None,))[0]
        self.request_bytes = 0
        self.response_bytes = 0
        self.status: int | None = None
        """The status of the response, None before it starts."""
        self.own_headers: Mapping[str, str] = {}
        """Headers of every response to this request, whatever it is."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._request_id = request_id
        self._connection: ClientConnection = scope["state"]["connection"]
        query: bytes = scope.get("query_string", b"")
        self.target: str = scope["path"] + ("?" + query.decode("latin-1") if query else "")
        """The path and query as received."""
        self._ends_by_close = scope["http_version"] == "1.0"
        self._body_done = False
        self._tiny_pieces = 0
        self._left = False

    def __repr__(self) -> str:
        return (
            f"<Downstream status={self.status} in={self.request_bytes} out={self.response_bytes}>"
        )

    # -- reading ---------------------------------------------------------------------------------

    @property
    def has_no_body(self) -> bool:
        """Whether the request's head says that no byte of a body follows (RFC 9112, 6.3)."""
        is_chunked = self.headers.get("transfer-encoding") is not None
        return not is_chunked and not content_length(self.headers)

    def check_size(self) -> None:
        """Refuse a body whose Content-Length is too large; raises ``Refusal`` (413)."""
        length = content_length(self.headers)
        if length is not None and length > self._limits.max_request_bytes:
            raise self._too_large()

    async def read_body(self, sink: BodySink) -> None:
        """Read the whole body into ``sink``.

        Raises ``Refusal`` (413, 408, and 400 if more than one request was sent at once) and
        ``ClientLeftError``.
        """
        deadline = time.monotonic() + self._limits.body_seconds
        while not self._body_done:
            seconds = min(self._limits.body_idle_seconds, deadline - time.monotonic())
            try:
                async with asyncio.timeout(max(seconds, 0)):
                    chunk = await self._next_chunk()
            except TimeoutError:
                raise Refusal(
                    "request_timeout",
                    "The request body came too slowly. Send it again over a faster connection.",
                ) from None
            if self.request_bytes > self._limits.max_request_bytes:
                raise self._too_large()
            if chunk:
                await sink.write(chunk)
        if self._connection.is_pipelined:
            raise Refusal(
                "unsupported_protocol",
                "Bytes follow the request. Send one request on a connection, and nothing behind "
                "its body.",
            )

    async def skip_body(self) -> None:
        """Read a body that nobody needs, so that the client can be watched; raises as
        ``read_body``.
        """
        await self.read_body(_Nowhere())

    async def _next_chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left = self._body_done = True
            raise ClientLeftError
        self._body_done = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self.request_bytes += len(chunk)
        if len(chunk) < TINY_BYTES and not self._body_done:
            self._tiny_pieces += 1
            if self._tiny_pieces > MOST_TINY:
                await asyncio.sleep(TINY_PAUSE_SECONDS)
        return chunk

    def _too_large(self) -> Refusal:
        limit = self._limits.max_request_bytes
        return Refusal(
            "request_too_large",
            f"The request body is larger than {limit} bytes. Send a smaller one.",
        )

    def watch(self, *, drains: bool = True) -> "ClientWatch":
        """A block that raises ``ClientLeftError`` as soon as the client disconnects, and, if it
        ``drains``, ``DrainedError`` when the process must stop.

        Enter it after the body is read, and finish the response outside of it.
        """
        assert self._body_done  # else the response would wait for an end that the watch has taken
        return ClientWatch(self._receive, self._connection, drains=drains)

    # -- answering -------------------------------------------------------------------------------

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response; the rest of the request's body is received and dropped.

        The last byte waits for the end of that body, within bounds.
        """
        await self.start(status, {**headers, "content-length": str(len(body))})
        if not self._body_done:
            await self.send(body[:-1])
            body = body[-1:]
            if not await self._hold():
                return
        await self.send(body)
        await self.finish()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers, with request id, date and ``own_headers``."""
        pairs = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in {**headers, **self.own_headers}.items()
        ]
        pairs.append((b"x-request-id", self._request_id.encode()))
        pairs.append((b"date", formatdate(usegmt=True).encode()))
        await self.pass_on(status, pairs)

    async def pass_on(self, status: int, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Send status and these headers, and ``connection: close``."""
        pairs = [*pairs, (b"connection", b"close")]
        self.status = status
        await self._put({"type": "http.response.start", "status": status, "headers": pairs})

    async def send(self, chunk: bytes) -> None:
        """Send some of the response's body; returns when the client can take more."""
        self.response_bytes += len(chunk)
        await self._put({"type": "http.response.body", "body": chunk, "more_body": True})

    async def send_body(self, body: Outgoing) -> None:
        """Send a body, or the next part of one.

        What lies in a file goes from there to the socket.  Each step waits for the client for
        ``send_seconds`` at most; raises ``ClientLeftError``.
        """
        async for part in body.outgoing():
            if isinstance(part, bytes):
                await self.send(part)
            elif self._body_done:
                await self._send_file(part)
            else:
                async for piece in part.play():
                    await self.send(piece)

    async def _send_file(self, span: FileSpan) -> None:
        if self._left:
            raise ClientLeftError
        seconds = self._limits.send_seconds
        try:
            async with asyncio.timeout(seconds) as bound, self._connection.sending_file(span) as to:
                start = span.start
                while start < span.stop:
                    count = await to.send(span, start)
                    start += count
                    self.response_bytes += count
                    bound.reschedule(asyncio.get_running_loop().time() + seconds)
        except (TimeoutError, ConnectionError):
            self._stop_sending()
            raise ClientLeftError from None

    async def finish(self) -> None:
        """Send the end of the response."""
        if self._body_done or await self._linger():
            with self._connection.staying_open():
                await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def delivered(self) -> bool:
        """Whether the client has received the response, after ``finish``.

        Waits until the client closes the connection, for ``send_seconds`` at most; the client has
        the response already and waits for nothing.  See ``ClientConnection.delivered``.
        """
        return await self._connection.delivered(self._limits.send_seconds)

    def break_off(self) -> None:
        """End the response without its last chunk, so that the client sees that it is cut off.

        In HTTP/1.0 a close ends every response, so there the connection is reset.
        """
        if self._ends_by_close:
            self._connection.reset()

    async def _put(self, message: Mapping[str, object]) -> None:
        if self._left:
            raise ClientLeftError
        # A timer, not a time-out that cancels: it costs a tenth, and an aborted connection ends
        # the sending just as well.
        too_late = asyncio.get_running_loop().call_later(
            self._limits.send_seconds, self._stop_sending
        )
        try:
            if self._body_done:
                await self._send(dict(message))
            else:
                await self._send_past_body(dict(message))
        finally:
            too_late.cancel()
        if self._left:
            raise ClientLeftError

    def _stop_sending(self) -> None:
        self._left = True
        self._connection.abort()

    async def _send_past_body(self, message: Message) -> None:
        """Send, and meanwhile drop what still arrives of the body.

        When the client is gone, Hypercorn's writer puts a disconnect into the queue that its reader
        has filled with the body: the writer waits for ever unless the queue is emptied.
        """
        receiving = asyncio.create_task(self._discard_body())
        try:
            await self._send(message)
        finally:
            receiving.cancel()

    async def _discard_body(self) -> None:
        with contextlib.suppress(ClientLeftError):
            while not self._body_done:
                await self._next_chunk()

    async def _hold(self) -> bool:
        """Receive the rest of the body before the response ends; False if the client left."""
        # A body that is not much too large is received whole, so that its client reads why.
        return await self._receive_rest(
            min(HOLD_SECONDS, self._limits.body_seconds),
            HOLD_IDLE_SECONDS,
            2 * self._limits.max_request_bytes,
        )

    async def _linger(self) -> bool:
        """Receive the rest of the body after the response; whether its end was reached."""
        if not await self._receive_rest(
            min(LINGER_SECONDS, self._limits.body_seconds),
            LINGER_IDLE_SECONDS,
            self._limits.max_request_bytes,
        ):
            return False
        if not self._body_done:
            await self.drop()
            return False
        return True

    async def _receive_rest(self, seconds: float, idle_seconds: float, size: int) -> bool:
        """Receive and drop, up to the body's end or one of the bounds; False if the client left.

        The response is sent, all or all but a byte, so a client that leaves now has got it.
        """
        bound = self.request_bytes + size
        try:
            async with asyncio.timeout(seconds):
                while not self._body_done and self.request_bytes <= bound:
                    async with asyncio.timeout(idle_seconds):
                        await self._next_chunk()
        except TimeoutError:
            pass
        except ClientLeftError:
            return False
        return True

    async def drop(self) -> None:
        """Abort the connection and empty Hypercorn's queue.

        Hypercorn's reader waits for a free place in this queue; it would wait for ever if nobody
        took its messages up to the disconnect.
        """
        self._connection.abort()
        self._left = True
        while not self._body_done:
            try:
                await self._next_chunk()
            except ClientLeftError:
                return


class _Nowhere:
    """Takes a body that nobody needs."""

    async def write(self, chunk: bytes) -> None:
        """Drop some bytes."""


class ClientWatch:
    """Cancels its task when the client disconnects, and raises an error that says why.

    It works as ``asyncio.timeout`` does, also in how it knows its own cancellation from another's.
    """

    def __init__(self, receive: Receive, connection: ClientConnection, *, drains: bool) -> None:
        self._receive = receive
        self._connection = connection
        self._drains = drains
        self._ending: type[ClientLeftError | DrainedError] | None = None
        self._cancelling = 0
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ClientWatch {self._ending.__name__ if self._ending else 'present'}>"

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._watcher = asyncio.create_task(self._wait())
        self._connection.when_ending(self._end)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.when_ending(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._ending is not None and self._task is not None:
            is_own = self._task.uncancel() <= self._cancelling
            if is_own and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self._ending from error

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel(ClientLeftError)

    def _end(self, reason: EndReason) -> None:
        if reason is EndReason.DRAINED:
            if self._drains:
                self._cancel(DrainedError)
        else:
            self._connection.abort()
            self._cancel(ClientLeftError)

    def _cancel(self, ending: type[ClientLeftError | DrainedError]) -> None:
        if self._ending is None and self._task is not None:
            self._ending = ending
            self._task.cancel()
