"""How connections to upstreams are made: direct, through an HTTP proxy, or through SOCKS.

A connector reports each connection to the attempt that it is for, because "connected" is the
boundary between "not sent" and "sent".  A response on it may be announced by a bounded number of
interim responses only.
"""

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from aiohttp_socks import (
    ProxyConnectionError,
    ProxyConnector,
    ProxyError,
    ProxyTimeoutError,
)

from image_gateway.core.model import Proxy

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MOST_INTERIM: Final = 100
"""Responses 1xx before the final one.  An upstream that sends a 102 every ten seconds, as a sign of
life, sends 60 in the longest call."""

_HEAD_BYTES: Final = 4096
"""Bytes of a head that are parsed at once: 200 of the shortest interim responses."""

_SWITCHING_PROTOCOLS: Final = 101
_SOCKS_PORT: Final = 1080

SOCKS_ERRORS: Final = (ProxyConnectionError, ProxyError, ProxyTimeoutError, EOFError)
"""Errors of a SOCKS proxy, without a common base; one that disconnects is an ``EOFError``."""


class TooManyInterimError(aiohttp.ClientConnectionError):
    """The upstream sent too many responses 1xx."""


class _BoundedHandler(ResponseHandler):
    """aiohttp's protocol, which would skip interim responses in a loop for as long as they come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._interim = 0
        self._has_final = False
        self.replaced: ResponseHandler | None = None
        """Kept alive, because what it holds closes the connection when it is collected."""

    def data_received(self, data: bytes) -> None:
        position = 0
        while not self._has_final and position < len(data):
            super().data_received(data[position : position + _HEAD_BYTES])
            position += _HEAD_BYTES
            if self._interim > MOST_INTERIM:
                if self.transport is not None:
                    self.transport.abort()
                self.set_exception(TooManyInterimError())
            if self.exception() is not None:
                return
        if position < len(data) or not data:
            super().data_received(data[position:])

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        code = data[0].code
        if 100 <= code < 200 and code != _SWITCHING_PROTOCOLS:
            # Only the final response is of interest.
            self._interim += 1
        elif self._interim <= MOST_INTERIM:
            self._has_final = True
            super().feed_data(data, size)


class BoundedConnector(aiohttp.TCPConnector):
    """Makes connections on which interim responses are bounded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(  # type: ignore[assignment]  # partial is invariant
            _BoundedHandler, loop=self._loop
        )


class ConnectionState:
    """One attempt's connection: whether it was established, and when it is closed."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed: Awaitable[None] | None = None

    def __repr__(self) -> str:
        return f"<ConnectionState {'connected' if self.transport else 'not connected'}>"

    def connected(self, protocol: "ResponseHandler | None") -> None:
        if protocol is not None:
            self.transport = protocol.transport
            self.closed = protocol.closed


state: ContextVar[ConnectionState] = ContextVar("state")
"""The connection of the attempt that this task makes."""


class ReportingConnector(BoundedConnector):
    """Reports each connection to the attempt that it is for.

    ``connect`` returns only after TLS and a proxy's handshake, which is the boundary between "not
    sent" and "sent".
    """

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> "Connection":
        connection = await super().connect(req, traces, timeout)
        state.get().connected(connection.protocol)
        return connection


class DirectConnector(ReportingConnector):
    """The connector of all calls but those through SOCKS."""

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[Any], **options: Any
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        """As the base's, but without a race where there is a single address.

        aiohttp's race connects by ``sock_connect``, for which uvloop looks the address up once
        more, on a thread: 0.1 ms of CPU (uvloop 0.23).
        """
        if len(addr_infos) > 1 or addr_infos[0][0] != socket.AF_INET:
            return await super()._wrap_create_connection(*args, addr_infos=addr_infos, **options)
        host, port = addr_infos[0][4][:2]
        return await self._wrap_existing_connection(*args, host=host, port=port, **options)


class _SocksConnector(ReportingConnector, ProxyConnector):
    """The same through a SOCKS proxy; aiohttp itself would send it HTTP, with the credentials.

    Each attempt makes one: a cache of them by proxy and credentials would save 0.015 ms (measured).
    """

    async def _connect_via_proxy(
        self,
        host: str,
        port: int,
        ssl: ssl.SSLContext | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - aiohttp-socks' signature
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        """As the base's, but for TLS: python-socks waits for ever if the handshake is cut off."""
        transport, own = await super()._connect_via_proxy(host, port, None, timeout)
        protocol = _BoundedHandler(self._loop)
        protocol.replaced = own
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if ssl is None:
            return transport, protocol
        try:
            tls = await self._loop.start_tls(transport, protocol, ssl, server_hostname=host)
        except BaseException:
            transport.abort()
            raise
        assert tls is not None  # it is None only for a transport that is closing
        protocol.connection_made(tls)
        return tls, protocol


def through_socks(proxy: Proxy) -> _SocksConnector:
    """The connector of one attempt through a SOCKS proxy.

    With ``socks5h`` the proxy resolves names, with ``socks5`` the gateway does (as in curl).
    """
    parts = urlsplit(proxy.url)
    return _SocksConnector(
        host=parts.hostname or "",
        port=parts.port or _SOCKS_PORT,
        username=None if proxy.username is None else proxy.username.reveal(),
        password=None if proxy.username is None else password(proxy),
        rdns=parts.scheme == "socks5h",
        limit=0,
        force_close=True,
    )


def password(proxy: Proxy) -> str:
    """The proxy's password; empty if it has none."""
    return "" if proxy.password is None else proxy.password.reveal()
