"""Interim responses (1xx): a bounded number, whatever way the connection goes."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest

from image_gateway.core.model import Proxy
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream import connectors
from image_gateway.edge.upstream.http_client import LostError, UpstreamClient
from tests.edge.peer import OK, Line, Peer, call, fetch
from tests.edge.socks import Socks
from tests.parts.eventually import BOUND_SECONDS

HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
SHORTEST = b"HTTP/1.1 102 \r\n\r\n"


def sends(data: bytes, count: int, then: bytes = b"") -> Callable[[Line], Awaitable[None]]:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(data * count + then)
        await line.silence()

    return script


async def floods(line: Line) -> None:
    await line.request()
    while True:
        await line.send(SHORTEST * 10_000)


@pytest.mark.parametrize("interim", [HINTS, SHORTEST, b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("count", [1, 30, connectors.MOST_INTERIM])
async def test_a_few_interim_responses_are_skipped(
    edge: UpstreamClient, spool: Spool, interim: bytes, count: int
) -> None:
    async with (
        Peer(sends(interim, count, OK)) as peer,
        edge.connection(call(peer.url), spool, None) as attempt,
    ):
        response, body = await fetch(attempt)
    assert (response.status, body) == (200, b"{}")


@pytest.mark.parametrize("interim", [HINTS, SHORTEST])
async def test_one_more_than_the_bound_loses_the_call(
    edge: UpstreamClient, spool: Spool, interim: bytes
) -> None:
    async with (
        Peer(sends(interim, connectors.MOST_INTERIM + 1, OK)) as peer,
        edge.connection(call(peer.url), spool, None) as attempt,
    ):
        with pytest.raises(LostError, match="TooManyInterimError"):
            await attempt.open(BOUND_SECONDS)
        assert attempt.connected


async def test_an_endless_flood_neither_stalls_the_event_loop_nor_goes_on(
    edge: UpstreamClient, spool: Spool
) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    async with Peer(floods) as peer, edge.connection(call(peer.url), spool, None) as attempt:
        with pytest.raises(LostError, match="TooManyInterimError"):
            await attempt.open(BOUND_SECONDS)
    watching.cancel()
    assert longest < 2


async def test_a_flood_through_a_socks_proxy_is_bounded_too(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with Peer(floods) as peer, Peer(Socks(peer.port)) as proxy:
        way = Proxy(f"socks5h://127.0.0.1:{proxy.port}")
        async with edge.connection(call(peer.url), spool, way) as attempt:
            with pytest.raises(LostError, match="TooManyInterimError"):
                await attempt.open(BOUND_SECONDS)


async def test_a_flood_over_tls_is_bounded_too(
    edge: UpstreamClient, spool: Spool, anonymous_tls: ssl.SSLContext
) -> None:
    async with (
        Peer(floods, anonymous_tls) as peer,
        edge.connection(call(peer.url), spool, None) as attempt,
    ):
        with pytest.raises(LostError, match="TooManyInterimError"):
            await attempt.open(BOUND_SECONDS)
