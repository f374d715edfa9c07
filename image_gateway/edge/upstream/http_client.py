"""Calls to upstream accounts, with certainty about whether each was sent.

aiohttp's exceptions stop here.  ``open`` raises ``UnsentError`` if the connection was never
established, so that nothing was sent, and ``LostError`` for every later error: a call counts as
sent once it is connected.  No connection is reused: an error on a reused one would be ambiguous.

Leaving an ``UpstreamConnection`` aborts the connection and waits until it is closed, cancelled or
not, because an account's slot must not be given to another call before that.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

from image_gateway.core import headers
from image_gateway.core.codec import body_segments
from image_gateway.core.codec.compression import CompressionError
from image_gateway.core.dialects import UpstreamRequest
from image_gateway.core.model import HTTP_SCHEMES, Proxy
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream import body, connectors
from image_gateway.edge.upstream.body import ResponseBody
from image_gateway.edge.upstream.connectors import ConnectionState, DirectConnector

CLOSE_SECONDS: Final = 2.0
"""How long a slot waits for its aborted connection; an abort takes one pass of the event loop."""

LONGEST_HEADER: Final = 64 * 1024
"""Codex sends state in headers that are longer than aiohttp's default of 8 KiB."""

_log = logging.getLogger(__name__)


class UnsentError(Exception):
    """The connection was never established; the message is an exception's name for the log."""


class LostError(Exception):
    """The call was or may have been sent, and its response will not come, or not all of it."""


class UnreadableError(LostError):
    """The response came, but its body is not what its encoding says."""


def open_session(
    connector: aiohttp.TCPConnector, connect_seconds: float, automatic: Iterable[str] = ()
) -> aiohttp.ClientSession:
    """A session that adds nothing to a call: no cookies, no environment, no decompression.

    ``automatic`` names headers that aiohttp must not add.
    """
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # A proxy that accepts and never answers CONNECT escapes ``sock_connect``.
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds, sock_read=None),
        trust_env=False,
        auto_decompress=False,
        skip_auto_headers=automatic,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )


class UpstreamClient:
    """The session of all calls except those through SOCKS; opened and closed by ``async with``."""

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<UpstreamClient {'open' if self._session else 'closed'}>"

    async def __aenter__(self) -> Self:
        self._session = open_session(
            DirectConnector(limit=0, force_close=True), self._connect_seconds
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()

    def connection(
        self, request: UpstreamRequest, spool: Spool, proxy: Proxy | None
    ) -> "UpstreamConnection":
        """The connection of one attempt, for ``async with``; nothing is sent before ``open``."""
        if self._session is None:
            raise RuntimeError("the upstream session is not open")
        if proxy is not None and urlsplit(proxy.url).scheme not in HTTP_SCHEMES:
            session = open_session(connectors.through_socks(proxy), self._connect_seconds)
            return UpstreamConnection(session, request, spool, None, owns_session=True)
        return UpstreamConnection(self._session, request, spool, proxy)


class UpstreamConnection:
    """One POST and its response."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        request: UpstreamRequest,
        spool: Spool,
        proxy: Proxy | None,
        *,
        owns_session: bool = False,
    ) -> None:
        self._session = session
        self._owns_session = owns_session
        self._request = request
        self._spool = spool
        self._proxy = proxy
        self._state = ConnectionState()
        self._response: aiohttp.ClientResponse | None = None

    def __repr__(self) -> str:
        status = self._response.status if self._response else None
        return f"<UpstreamConnection {self._state!r} status={status}>"

    async def __aenter__(self) -> Self:
        return self

    @property
    def connected(self) -> bool:
        """Whether the connection was established, so that the call counts as sent."""
        return self._state.transport is not None

    async def open(self, seconds: float) -> "UpstreamResponse":
        """Send the call and wait for status and headers.

        Raises ``UnsentError`` and ``LostError``, the latter also after ``seconds``.
        """
        connectors.state.set(self._state)
        proxy_headers = _proxy_headers(self._proxy)
        is_tunnel = urlsplit(self._request.url).scheme == "https"
        extra_headers = {} if is_tunnel else proxy_headers
        try:
            async with asyncio.timeout(seconds):
                self._response = await self._session.post(
                    URL(self._request.url, encoded=True),
                    headers={
                        "accept-encoding": "identity",
                        **self._request.headers,
                        **extra_headers,
                    },
                    data=SpoolBody(self._request.body, self._spool),
                    allow_redirects=False,
                    skip_auto_headers={"user-agent", "accept"},
                    proxy=None if self._proxy is None else URL(self._proxy.url),
                    # A copy: aiohttp changes it.
                    proxy_headers=dict(proxy_headers),
                )
        except (
            aiohttp.ClientError,
            *connectors.SOCKS_ERRORS,
            TimeoutError,
            OSError,
            ssl.SSLError,
            ValueError,
        ) as error:
            reason = _reason(error)
            if not self.connected:
                raise UnsentError(reason) from error
            raise LostError(reason) from error
        return UpstreamResponse(self._response)

    async def __aexit__(self, *error: object) -> None:
        if self._response is not None:
            self._response.close()
        closing = asyncio.ensure_future(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as cancellation:
                # The slot waits for the close; the cancellation is raised after it.
                cancelled = cancellation
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        if self._state.transport is not None and self._state.closed is not None:
            # Python 3.11.2, as in Debian 12: a TLS transport closed twice has lost its protocol.
            with suppress(AttributeError):
                self._state.transport.abort()
            await _wait_closed(self._state.closed)
        if self._owns_session:
            await self._session.close()


async def _wait_closed(closed: Awaitable[None]) -> None:
    with suppress(aiohttp.ClientError, OSError):
        done, _ = await asyncio.wait([asyncio.ensure_future(closed)], timeout=CLOSE_SECONDS)
        if not done:
            _log.error(
                "an aborted upstream connection did not close within %s s; its slot is given to "
                "the next call",
                CLOSE_SECONDS,
            )
        for future in done:
            future.exception()


class UpstreamResponse:
    """Status and headers of a response, and its body to come.

    A body that an upstream compressed is opened (``body``).
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }
        encoding = body.encoding_of(self.headers.get("content-encoding"))
        self._body = ResponseBody(response.content, encoding)
        self._unread = b""
        self._is_framed = bool({"content-length", "transfer-encoding"} & self.headers.keys())
        self.deadline = float("inf")
        """When the body must have ended, on the monotonic clock: bytes that drip never pause."""

    def __repr__(self) -> str:
        return f"<UpstreamResponse {self.status}>"

    @property
    def ends_by_close(self) -> bool:
        """Whether the body ends with the connection, so that a cut looks like an end."""
        return not (self._is_framed or self._body.is_opened)

    @property
    def length(self) -> int | None:
        """Bytes of the body by its head, None if unknown; counts once the first chunk was read."""
        if not self._body.is_as_sent:
            return None
        return headers.whole(self.headers.get("content-length"))

    async def chunks(self, first_seconds: float, idle_seconds: float) -> AsyncIterator[bytes]:
        """The body as it arrives; raises ``LostError`` if it is cut off or falls silent.

        Some upstreams send their headers at once and work then, so the first chunk has a time-out
        of its own.
        """
        seconds = first_seconds
        while chunk := await self.chunk(seconds):
            yield chunk
            seconds = idle_seconds

    async def chunk(self, seconds: float) -> bytes:
        """The next bytes of the body, at least one; empty at its end.

        Raises ``LostError`` if it is cut off, nothing arrives for ``seconds`` or ``deadline`` is
        over, and its ``UnreadableError``.
        """
        if self._unread:
            chunk, self._unread = self._unread, b""
            return chunk
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise LostError(TimeoutError.__name__)
        try:
            async with asyncio.timeout(min(seconds, left)):
                chunk = await self._body.next()
        except CompressionError as error:
            raise UnreadableError(_reason(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LostError(_reason(error)) from error
        if self._body.is_opened:
            # A few bytes can hold thousands of pieces, which never wait for the network.
            await asyncio.sleep(0)
        return chunk

    def unread(self, chunk: bytes) -> None:
        """Put bytes back, to be read once more by the next ``chunk``."""
        self._unread = chunk + self._unread

    async def read(self, limit: int, seconds: float) -> bytes:
        """At most ``limit`` bytes of an error's body: those that arrive within ``seconds``."""
        content = bytearray()
        with suppress(LostError, TimeoutError):
            async with asyncio.timeout(seconds):
                async for chunk in self.chunks(seconds, seconds):
                    content += chunk
                    if len(content) >= limit:
                        break
        return bytes(content[:limit])


class SpoolBody(Payload):
    """A body of segments for aiohttp: of known length, read from the spool."""

    def __init__(self, segments: body_segments.Body, spool: Spool) -> None:
        super().__init__(segments, content_type="application/octet-stream")
        self._segments = segments
        self._spool = spool
        self._size = body_segments.length(segments)

    def __repr__(self) -> str:
        return f"<SpoolBody {self._size} bytes>"

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        raise TypeError("a spooled body cannot be decoded to text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        async for piece in self._spool.play(self._segments):
            await writer.write(piece)


def _proxy_headers(proxy: Proxy | None) -> dict[str, str]:
    """The proxy's credentials as headers; with a tunnel only the CONNECT carries them."""
    if proxy is None or proxy.username is None:
        return {}
    authorization = aiohttp.encode_basic_auth(proxy.username.reveal(), connectors.password(proxy))
    return {"proxy-authorization": authorization}


def _reason(error: BaseException) -> str:
    """The exception's name: its message may hold an address or a header."""
    return type(error).__name__
