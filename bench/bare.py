"""A bare pass-through as one writes it with Starlette, Hypercorn and aiohttp: what a gateway on
these libraries costs before it does anything.

    python -m bench.bare PORT UPSTREAM keeping|closing

``keeping``: connections stay alive on both sides.  ``closing``: each carries one call.
"""

import sys
from collections.abc import AsyncIterator
from typing import Final, cast

import aiohttp
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_UP: Final = ("authorization", "content-type")
_DOWN: Final = ("content-length", "content-type")


class PassThrough:
    """The one endpoint, with one session of connections."""

    def __init__(self, upstream: str, *, closes: bool) -> None:
        self._upstream = upstream
        self._closes = closes
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, request: Request) -> Response:
        """Send the call on as it came, and its answer as it comes."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=self._closes)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None)
            )
        answer = await self._session.post(
            self._upstream + request.url.path,
            data=await request.body(),
            headers={name: request.headers[name] for name in _UP},
        )
        headers = {name: answer.headers[name] for name in _DOWN if name in answer.headers}
        if self._closes:
            headers["connection"] = "close"
        return StreamingResponse(_chunks(answer), answer.status, headers)


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:
        async for chunk in answer.content.iter_any():
            yield chunk


def main() -> None:
    port, upstream, form = sys.argv[1:]
    endpoint = PassThrough(upstream, closes=form == "closing")
    app = Starlette(routes=[Route("/{path:path}", endpoint.__call__, methods=["POST"])])
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = 4096
    uvloop.run(serve(cast(Framework, app), config))


if __name__ == "__main__":
    main()
