"""The client's side of one request: read its body, notice that it leaves, answer it.

It hides what Hypercorn makes hard: a body that nobody reads keeps its connection for ever, a client
that leaves before the answer is not reported, a client that does not read blocks for ever.

An answer may come before its request's body has ended: a refusal that needs no body.  Many clients
first send and then read, the Python SDK among them, so the rest of the body is received, within
bounds, and meanwhile the answer's last byte is held back.  For a proxy in between that has the
whole answer takes the call for done: Caddy 2.6.2 then hangs up on a client that is still sending,
within half a second (Go's ``net/http``, ``rstAvoidanceDelay``).
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
from image_gateway.edge.client.listener import (
    ClientConnection,
    EndReason,
    Message,
    Receive,
    Scope,
    Send,
)

HOLD_SECONDS: Final = 30.0
"""How long an early answer waits for the end of the body, where a body may take as long at all."""

HOLD_IDLE_SECONDS: Final = 2.0
"""Without a byte for so long, the sender is taken for one that has stopped and reads."""

LINGER_SECONDS: Final = 30.0
"""After an early answer's end, how long the rest of the body is still received, so that a client
which first sends and then reads gets to read (nginx's ``lingering_time`` is the same); where a
body may take as long at all."""

LINGER_IDLE_SECONDS: Final = 5.0


class ClientLeftError(Exception):
    """Nobody is there to answer."""


class DrainedError(Exception):
    """The process has to end before the exchange could."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what a client may take: bytes and seconds."""

    max_request_bytes: int
    body_seconds: float
    body_idle_seconds: float
    send_seconds: float


class BodySink(Protocol):
    """Takes a body's chunks as they come."""

    async def write(self, chunk: bytes) -> None:
        """The next bytes."""


class Downstream:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: ClientLimits, request_id: str
    ) -> None:
        self.headers = Headers(scope["headers"])
        self.pairs: list[tuple[bytes, bytes]] = list(scope["headers"])
        """The headers as they came."""
        self.peer: str | None = (scope.get("client") or (None,))[0]
        self.request_bytes = 0
        self.response_bytes = 0
        self.status: int | None = None
        """The status of the answer that was begun, None before."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._request_id = request_id
        self._connection: ClientConnection = scope["state"]["connection"]
        query: bytes = scope.get("query_string", b"")
        self.target: str = scope["path"] + ("?" + query.decode("latin-1") if query else "")
        """The path and query as they came."""
        self._ends_by_close = scope["http_version"] == "1.0"
        self._body_done = False
        self._left = False

    def __repr__(self) -> str:
        return (
            f"<Downstream status={self.status} in={self.request_bytes} out={self.response_bytes}>"
        )

    # -- reading ---------------------------------------------------------------------------------

    def check_size(self) -> None:
        """Refuse a body that says itself that it is too large; raises ``Refusal`` (413)."""
        announced = content_length(self.headers)
        if announced is not None and announced > self._limits.max_request_bytes:
            raise self._too_large()

    async def read_body(self, sink: BodySink) -> None:
        """The whole body into ``sink``; raises ``Refusal`` (413, 408) and ``ClientLeftError``."""
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

    async def _next_chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left = self._body_done = True
            raise ClientLeftError
        self._body_done = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self.request_bytes += len(chunk)
        return chunk

    def _too_large(self) -> Refusal:
        limit = self._limits.max_request_bytes
        return Refusal("request_too_large", f"The request body is larger than {limit} bytes.")

    def watch(self) -> "ClientWatch":
        """A block that ends with ``ClientLeftError`` as soon as the client leaves, and with
        ``DrainedError`` when the process has to end.

        For use once the body is read; an answer is finished outside of it.
        """
        return ClientWatch(self._receive, self._connection)

    # -- answering -------------------------------------------------------------------------------

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer; what is left of the request's body is received and thrown away.

        Its last byte waits for the end of that body, within bounds.
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
        """Status and headers."""
        pairs = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]
        pairs.append((b"x-request-id", self._request_id.encode()))
        pairs.append((b"date", formatdate(usegmt=True).encode()))
        await self.pass_on(status, pairs)

    async def pass_on(self, status: int, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Status and headers that somebody else has given."""
        pairs = [*pairs, (b"connection", b"close")]
        self.status = status
        await self._put({"type": "http.response.start", "status": status, "headers": pairs})

    async def send(self, chunk: bytes) -> None:
        """Some of the answer's body; returns when the client has room for more."""
        self.response_bytes += len(chunk)
        await self._put({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        """The end of the answer."""
        if self._body_done or await self._linger():
            await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    def break_off(self) -> None:
        """Let the answer end so that the client sees that it is broken: without its last chunk.

        For HTTP/1.0 any end is a good one, so there the connection is reset.
        """
        if self._ends_by_close:
            self._connection.reset()

    async def _put(self, message: Mapping[str, object]) -> None:
        if self._left:
            raise ClientLeftError
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                if self._body_done:
                    await self._send(dict(message))
                else:
                    await self._send_past_body(dict(message))
        except TimeoutError:
            self._left = True
            self._connection.abort()
            raise ClientLeftError from None

    async def _send_past_body(self, message: Message) -> None:
        """Send, and meanwhile throw away what still comes of the body.

        A client that is gone makes Hypercorn's writer tell us so, by way of the queue that its
        reader has filled with the body: were nobody to empty it, the writer would wait for ever.
        """
        receiving = asyncio.create_task(self._throw_away())
        try:
            await self._send(message)
        finally:
            receiving.cancel()

    async def _throw_away(self) -> None:
        with contextlib.suppress(ClientLeftError):
            while not self._body_done:
                await self._next_chunk()

    async def _hold(self) -> bool:
        """Receive the rest of the body ahead of the answer's end; whether the client is there."""
        # A body that is too large by little is received whole, so that its sender reads why.
        return await self._receive_rest(
            min(HOLD_SECONDS, self._limits.body_seconds),
            HOLD_IDLE_SECONDS,
            2 * self._limits.max_request_bytes,
        )

    async def _linger(self) -> bool:
        """Receive what comes of the body past the answer's end; whether its end was reached."""
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
        """Receive and throw away, to the body's end or to one of the bounds; whether the client is
        still there.

        The answer is out already, all or all but a byte, so a client that leaves now has not been
        let down.
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
        """Abort the connection and let go of it.

        Hypercorn's reader waits for a place in a queue that we empty; were we to return before it
        has seen the end of the stream, it would wait for ever.
        """
        self._connection.abort()
        self._left = True
        while not self._body_done:
            try:
                await self._next_chunk()
            except ClientLeftError:
                return


class ClientWatch:
    """Cancels the task inside it when the client leaves, and says why by an error of its own.

    Like ``asyncio.timeout``, whose way of telling its own cancellation from another's it follows.
    """

    def __init__(self, receive: Receive, connection: ClientConnection) -> None:
        self._receive = receive
        self._connection = connection
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
            ours = self._task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self._ending from error

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel(ClientLeftError)

    def _end(self, reason: EndReason) -> None:
        if reason is EndReason.DRAINED:
            self._cancel(DrainedError)
        else:
            self._connection.abort()
            self._cancel(ClientLeftError)

    def _cancel(self, ending: type[ClientLeftError | DrainedError]) -> None:
        if self._ending is None and self._task is not None:
            self._ending = ending
            self._task.cancel()
