"""The head of a request is bounded in time and bytes, and its bound is nobody else's."""

import asyncio
import contextlib
import time

import pytest

from image_gateway.edge.client import listener
from image_gateway.edge.client.downstream import Downstream
from tests.edge.client.stage import Stage
from tests.parts.eventually import BOUND_SECONDS
from tests.parts.gateway import rest_of

HEAD = b"GET / HTTP/1.1\r\nhost: gateway\r\n"


async def greets(downstream: Downstream) -> None:
    await downstream.answer(200, {}, b"hello")


@pytest.mark.parametrize("begin", [b"", b"G", HEAD, HEAD + b"x-name: "])
async def test_a_head_that_trickles_ends_its_connection_and_no_other(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """Each byte is a sign of life, and none of them counts (slowloris)."""
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.5)
    stage = Stage(greets)
    async with stage.serving() as port:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)

        async def trickle() -> None:
            while begin:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        other, asking = await asyncio.open_connection("127.0.0.1", port)
        asking.write(HEAD + b"\r\n")
        assert b"hello" in await rest_of(other)
        asking.close()
        assert await rest_of(reader) == b""
        assert time.monotonic() - began >= 0.5
        trickling.cancel()
        writer.close()


@pytest.mark.parametrize("more", [b"x", b"a: b\r\n", b" folded\r\n"])
async def test_a_head_without_end_is_refused_after_some_bytes(more: bytes) -> None:
    stage = Stage(greets)
    async with stage.serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                while not writer.is_closing():
                    writer.write(more * 1000)
                    sent += 1000 * len(more)
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        answer = await rest_of(reader)
        await asyncio.wait_for(flooding, BOUND_SECONDS)
        writer.close()
        assert not stage.ended.is_set()
        # A reset may overtake the answer.
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        assert sent < 20 * 1024 * 1024


async def test_a_call_may_take_longer_than_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.2)

    async def thinks(downstream: Downstream) -> None:
        await asyncio.sleep(0.6)  # the deadline of the head must not count here
        await downstream.answer(200, {}, b"hello")

    async with Stage(thinks).serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        assert b"hello" in await rest_of(reader)
        writer.close()
