"""The text API behind us: what turns out to be none of ours goes there untouched.

Method, path, query, headers and body go on as they came, the answer comes back the same way, of any
length and as slowly as it likes: whoever asked decides when it is enough.  Only what belongs to one
connection alone is left out (RFC 9110, 7.6.1).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from image_gateway.core.codec.body_segments import Span
from image_gateway.core.headers import RawHeaders
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import LostError, SpoolBody, UnsentError, open_session

_OF_CONNECTION: Final = frozenset(
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
_NEVER_LEFT_OUT: Final = frozenset({b"authorization", b"content-type", b"cookie", b"host"})
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
            aiohttp.TCPConnector(limit=0, force_close=True), self._connect_seconds, _AUTOMATIC
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def post(
        self, target: str, headers: RawHeaders, spool: Spool
    ) -> AsyncIterator["TextAnswer"]:
        """Send a spooled body to ``target``, a path with its query; gives the answer.

        Raises ``UnsentError`` and ``LostError``.
        """
        if self._session is None:
            raise RuntimeError("the session with the text API is not open")
        sent = CIMultiDict(
            (name.decode("latin-1"), _text(value))
            for name, value in passed(headers)
            if name != b"content-length"  # that of the body as it lies here, were it chunked before
        )
        try:
            response = await self._session.post(
                URL(self._base_url + target, encoded=True),
                headers=sent,
                data=SpoolBody((Span(0, spool.size),), spool),
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
    """Status, headers as they came, and the body to come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = passed(response.raw_headers)

    def __repr__(self) -> str:
        return f"<TextAnswer {self.status}>"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises ``LostError`` where it breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise LostError(type(error).__name__) from error


def _text(value: bytes) -> str:
    """A header's value as aiohttp takes it: it writes UTF-8, so other bytes beyond ASCII change."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def passed(pairs: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Headers without those of the connection."""
    found = [(name.lower(), value) for name, value in pairs]
    named = {
        word.strip().lower()
        for name, value in found
        if name == b"connection"
        for word in value.split(b",")
    }
    # Whoever names them so would take from the text API what a proxy has told it.
    named = {name for name in named if name not in _NEVER_LEFT_OUT and not _is_forwarded(name)}
    return [(name, value) for name, value in found if name not in _OF_CONNECTION | named]


def _is_forwarded(name: bytes) -> bool:
    return name == b"forwarded" or name.startswith(b"x-forwarded-")
