"""A body of chunks of one byte: the same body, in few steps, and no faster than others bear."""

import asyncio
import itertools
import time

import pytest

from image_gateway.edge.client import downstream as downstream_module
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from tests.edge.client.stage import Stage
from tests.parts.gateway import parse, rest_of

HEAD = b"POST / HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


class Pieces:
    """Takes a body and keeps its pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def write(self, chunk: bytes) -> None:
        self.pieces.append(chunk)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def chunked(body: bytes, *sizes: int) -> bytes:
    """The body as chunks of these sizes, which repeat."""
    text, at = b"", 0
    for size in itertools.cycle(sizes):
        piece = body[at : at + size]
        if not piece:
            return text
        text += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += size
    raise AssertionError


async def read(*parts: bytes) -> tuple[Pieces, bytes, list[ClientLeftError]]:
    """What the application reads of a body that is sent in these parts, and the answer."""
    pieces = Pieces()
    errors: list[ClientLeftError] = []

    async def script(downstream: Downstream) -> None:
        try:
            await downstream.read_body(pieces)
        except ClientLeftError as error:
            errors.append(error)
            raise
        await downstream.answer(200, {}, b"read")

    async with Stage(script, reads=False).serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await rest_of(reader)
        writer.close()
    return pieces, answer, errors


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3), (255, 256, 257), (1, 10_000), (20_000,)])
async def test_chunks_of_any_size_are_the_same_body(sizes: tuple[int, ...]) -> None:
    body = bytes(index % 251 for index in range(5000))
    pieces, answer, errors = await read(HEAD + chunked(body, *sizes) + LAST)
    assert (pieces.body, parse(answer)[0], errors) == (body, 200, [])


@pytest.mark.parametrize("border", [1, 7, 100, 1001])
async def test_a_border_of_packets_may_cut_any_chunk(border: int) -> None:
    body = bytes(index % 251 for index in range(400))
    sent = HEAD + chunked(body, 1) + LAST
    parts = [sent[at : at + border] for at in range(0, len(sent), border)]
    pieces, answer, errors = await read(*parts)
    assert (pieces.body, parse(answer)[0], errors) == (body, 200, [])


async def test_small_chunks_that_came_together_are_read_in_few_steps() -> None:
    body = b"a" * 3000
    pieces, _, _ = await read(HEAD + chunked(body, 1) + LAST)
    assert pieces.body == body
    # 32 are joined; where packets end fewer are.
    assert len(pieces.pieces) < 300


@pytest.mark.parametrize("broken", [b"xyz\r\n", b"1\r\nab\r\n", b"1" * 40 + b"\r\n"])
async def test_a_broken_chunk_behind_good_ones_breaks_the_body(broken: bytes) -> None:
    pieces, answer, errors = await read(HEAD + chunked(b"a" * 50, 1) + broken + LAST)
    assert pieces.body.startswith(b"a" * 32)
    assert len(errors) == 1
    assert b"read" not in answer


async def test_a_body_that_goes_on_in_tiny_pieces_waits_after_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downstream_module, "MOST_TINY", 2)
    monkeypatch.setattr(downstream_module, "TINY_PAUSE_SECONDS", 0.05)
    began = time.monotonic()
    pieces, answer, _ = await read(HEAD + chunked(b"a" * 320, 1) + LAST)
    assert (pieces.body, parse(answer)[0]) == (b"a" * 320, 200)
    # Ten pieces or more; the loop counts milliseconds.
    assert time.monotonic() - began > (len(pieces.pieces) - 2) * 0.049
    assert len(pieces.pieces) >= 10


async def test_a_body_in_large_pieces_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream_module, "TINY_PAUSE_SECONDS", 1000)
    body = b"a" * 1_000_000
    pieces, answer, _ = await read(HEAD + chunked(body, len(body)) + LAST)
    assert (len(pieces.body), parse(answer)[0]) == (len(body), 200)
