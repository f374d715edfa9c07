"""Heads and trailers of upstreams that never end: bounded in bytes, and in time by the attempt."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import pytest

from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import LostError, UpstreamClient
from tests.edge.peer import Line, Peer, call
from tests.parts.eventually import BOUND_SECONDS

MIB = 1024 * 1024
STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@dataclass
class Flood:
    """Sends ``start``, and ``more`` again and again, for as long as the other end takes it."""

    start: bytes
    more: bytes
    sent: int = 0

    async def __call__(self, line: Line) -> None:
        await line.request()
        with contextlib.suppress(ConnectionError):
            await line.send(self.start)
            while True:
                await line.send(self.more * 10_000)
                self.sent += 10_000 * len(self.more)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (STATUS, b"a: b\r\n"),
        (STATUS, b"x-name"),
        (STATUS + b"x-name: ", b"value "),
        (STATUS + b"x-name: value", b"\r\n folded"),
        (STATUS, b"set-cookie: a=b\r\n"),
        (b"", b"\0"),
    ],
    ids=["reason", "fields", "name", "value", "folded value", "cookies", "no HTTP"],
)
async def test_a_head_without_end_loses_the_call_after_some_bytes(
    edge: UpstreamClient, spool: Spool, start: bytes, more: bytes
) -> None:
    flood = Flood(start, more)
    async with (
        Peer(flood) as peer,
        edge.connection(call(peer.url), spool, None) as attempt,
    ):
        with pytest.raises(LostError):
            await attempt.open(BOUND_SECONDS)
        # A hundred fields of 64 KiB, and what the kernel holds for both ends.
        assert flood.sent < 20 * MIB


async def test_trailers_without_end_lose_the_answer_after_some_bytes(
    edge: UpstreamClient, spool: Spool
) -> None:
    flood = Flood(CHUNKED, b"a: b\r\n")
    async with (
        Peer(flood) as peer,
        edge.connection(call(peer.url), spool, None) as attempt,
    ):

        async def read() -> None:
            response = await attempt.open(BOUND_SECONDS)
            async for _ in response.chunks(BOUND_SECONDS, BOUND_SECONDS):
                pass

        with pytest.raises(LostError):
            await read()
        assert flood.sent < 20 * MIB


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 ", STATUS, STATUS + b"x-name: v", b"HTTP/1.1 102 Processing\r\n\r\n" + STATUS],
)
async def test_a_head_that_trickles_loses_the_call_at_the_attempts_deadline(
    edge: UpstreamClient, spool: Spool, start: bytes
) -> None:
    """Each byte is a sign of life, and none of them counts."""

    ended = asyncio.Event()

    async def trickle(line: Line) -> None:
        await line.request()
        with contextlib.suppress(ConnectionError):
            await line.send(start)
            while not line.writer.is_closing():
                await line.send(b"H")
                await asyncio.sleep(0.02)
        ended.set()

    async with Peer(trickle) as peer:
        async with edge.connection(call(peer.url), spool, None) as attempt:
            began = time.monotonic()
            with pytest.raises(LostError, match="TimeoutError"):
                await attempt.open(0.3)
            assert time.monotonic() - began > 0.29  # the loop counts milliseconds
        await asyncio.wait_for(ended.wait(), BOUND_SECONDS)
