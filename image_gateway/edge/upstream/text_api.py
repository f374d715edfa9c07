"""The text API behind the gateway: calls that do not ask for a picture go there unchanged.

Method, path, query, headers and body are passed on as received, and the response is passed back in
the same way, without a limit of length or time: the client decides how long it waits.  Only headers
of a single connection are removed (RFC 9110, 7.6.1).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from image_gateway.core.headers import RawHeaders
from image_gateway.edge.spool import SpooledBody
from image_gateway.edge.upstream.connectors import BoundedConnector
from image_gateway.edge.upstream.http_client import LostError, SpoolBody, UnsentError, open_session

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NEVER_REMOVED: Final = frozenset({b"authorization", b"content-type", b"cookie", b"host"})
_AUTOMATIC: Final = ("accept", "accept-encoding", "content-type", "user-agent")


class TextApi:
    """One base URL: scheme, host and port; opened and closed by ``async with``."""

    def __init__(self, base_url: str, connect_seconds: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<TextApi {self._base_url}>"

    async def __aenter__(self) -> Self:
        self._session = open_session(
            BoundedConnector(limit=0, force_close=True), self._connect_seconds, _AUTOMATIC
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def post(
        self, target: str, headers: RawHeaders, body: SpooledBody
    ) -> AsyncIterator["TextAnswer"]:
        """Send a body to ``target``, a path with its query; gives the response.

        Raises ``UnsentError``, also for a target that is no path, and ``LostError``.
        """
        if not target.startswith("/"):
            raise UnsentError("the target is no path, and could change the host")
        if self._session is None:
            raise RuntimeError("the session with the text API is not open")
        sent = CIMultiDict(
            (name.decode("latin-1"), _text(value))
            for name, value in passed(headers)
            if name != b"content-length"  # aiohttp sets it from the spool, also for a chunked body
        )
        try:
            response = await self._session.post(
                URL(self._base_url + target, encoded=True),
                headers=sent,
                data=SpoolBody(body.body, body.spool),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnsentError(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise LostError(type(error).__name__) from error
        try:
            yield TextAnswer(response)
        finally:
            response.close()


class TextAnswer:
    """Status, headers as received, and the body to come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = passed(response.raw_headers)

    def __repr__(self) -> str:
        return f"<TextAnswer {self.status}>"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; raises ``LostError`` if it is cut off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise LostError(type(error).__name__) from error


def _text(value: bytes) -> str:
    """A header's value as text; aiohttp writes it as UTF-8, so other bytes beyond ASCII change."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def passed(pairs: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers without those of the connection, names in lower case."""
    headers = [(name.lower(), value) for name, value in pairs]
    named = {
        option.strip().lower()
        for name, value in headers
        if name == b"connection"
        for option in value.split(b",")
    }
    # A client that names these in ``connection`` could hide from the text API what a proxy added.
    named = {name for name in named if name not in _NEVER_REMOVED and not _is_forwarded(name)}
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP | named]


def _is_forwarded(name: bytes) -> bool:
    return name == b"forwarded" or name.startswith(b"x-forwarded-")
