"""Bodies that an upstream compressed although identity was asked for."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from image_gateway.core.codec.compression import PIECE_BYTES
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream import body
from image_gateway.edge.upstream.http_client import LostError, UnreadableError, UpstreamClient
from tests.edge.peer import Line, Peer, call, fetch, is_word
from tests.parts.eventually import BOUND_SECONDS

JSON = b'{"data": [{"b64_json": "%s"}]}' % (b"iVBORw0KGgo" * 40_000)
MIB = 1024 * 1024


def answer(data: bytes, encoding: str | None, *, length: bool = True) -> bytes:
    lines = [b"HTTP/1.1 200 OK"]
    if encoding is not None:
        lines.append(b"content-encoding: " + encoding.encode())
    if length:
        lines.append(b"content-length: %d" % len(data))
    return b"\r\n".join([*lines, b"", data])


def peer(data: bytes) -> Peer:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(data)

    return Peer(script)


COMPRESSED = {
    "gzip": (gzip.compress(JSON), "gzip"),
    "another spelling": (gzip.compress(JSON), "X-GZIP, identity"),
    "gzip that nobody names": (gzip.compress(JSON), None),
    "zstd": (zstd.compress(JSON), "zstd"),
    "zstd that nobody names": (zstd.compress(JSON), None),
    "deflate": (zlib.compress(JSON), "Deflate"),
    "deflate without a head": (zlib.compress(JSON, wbits=-15), "deflate"),
}


@pytest.mark.parametrize(("data", "encoding"), COMPRESSED.values(), ids=COMPRESSED)
@pytest.mark.parametrize("length", [True, False])
async def test_a_compressed_body_arrives_to_the_byte(
    edge: UpstreamClient, spool: Spool, data: bytes, encoding: str | None, *, length: bool
) -> None:
    async with (
        peer(answer(data, encoding, length=length)) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response, content = await fetch(attempt)
        assert content == JSON
        assert response.length is None
        assert not response.ends_by_close, "the compressed body itself says where it ends"


@pytest.mark.parametrize("data", [b"not gzip!", b"\x1f", b"(\xb5", b"", b"{}"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, br", "x", None])
async def test_a_body_that_is_not_compressed_arrives_whatever_its_head_says(
    edge: UpstreamClient, spool: Spool, data: bytes, encoding: str | None
) -> None:
    async with (
        peer(answer(data, encoding)) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response, content = await fetch(attempt)
        assert (content, response.length) == (data, len(data))


@pytest.mark.parametrize("data", [b"", b'{"data":[]}', b" \n{}", b"data: {}", b":", b"event: x"])
async def test_a_text_that_says_it_is_deflate_arrives(
    edge: UpstreamClient, spool: Spool, data: bytes
) -> None:
    async with (
        peer(answer(data, "deflate")) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response, content = await fetch(attempt)
        assert (content, response.length) == (data, len(data))


BROKEN = {
    "cut": (gzip.compress(JSON)[:-9], "gzip"),
    "a broken head": (gzip.compress(JSON)[:3] + b"\0" * 50, "gzip"),
    "noise within": (gzip.compress(JSON)[:200] + b"noise" * 50, None),
    "deflate, cut": (zlib.compress(JSON)[:-9], "deflate"),
    "zstd, cut": (zstd.compress(JSON)[:-9], "zstd"),
    "zstd with noise": (zstd.compress(JSON)[:5] + b"noise" * 50, None),
    "no deflate": (b"plain", "deflate"),
}


@pytest.mark.parametrize(("data", "encoding"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_body_is_unreadable(
    edge: UpstreamClient, spool: Spool, data: bytes, encoding: str | None
) -> None:
    async with (
        peer(answer(data, encoding)) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        with pytest.raises(UnreadableError) as caught:
            await fetch(attempt)
    assert is_word(str(caught.value))


async def test_a_bomb_ends_without_stalling_the_event_loop(
    edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "_MOST_BYTES", 32 * MIB)
    bomb = gzip.compress(b"\0" * (64 * MIB))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    size = 0
    async with (
        peer(answer(bomb, "gzip")) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response = await attempt.open(BOUND_SECONDS)
        ticks = 0

        async def read() -> None:
            nonlocal size
            async for chunk in response.chunks(BOUND_SECONDS, BOUND_SECONDS):
                size += len(chunk)

        with pytest.raises(LostError, match="TooLargeError"):
            await read()
    ticking.cancel()
    assert size <= 32 * MIB
    assert ticks >= size // PIECE_BYTES, "others have a turn after each piece"


async def test_an_error_that_is_compressed_is_read_within_its_bounds(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with (
        peer(answer(gzip.compress(b'{"error":' + b" " * (64 * MIB)), "gzip")) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response = await attempt.open(BOUND_SECONDS)
        content = await response.read(1000, BOUND_SECONDS)
    assert content == b'{"error":' + b" " * 991


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("text", [JSON, b"{", b""], ids=["long", "short", "empty"])
async def test_a_byte_order_mark_is_taken_off(
    edge: UpstreamClient, spool: Spool, packed: Callable[[bytes], bytes], text: bytes
) -> None:
    data = packed(MARK + text)

    async def script(line: Line) -> None:
        await line.request()
        head = answer(data, None)[: -len(data)]
        for piece in (head, data[:1], data[1:2], data[2:]):
            await line.send(piece)
            await asyncio.sleep(0.01)

    async with (
        Peer(script) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response, content = await fetch(attempt)
        assert content == text
        # The head's length is not that of what is left.
        assert response.length is None


@pytest.mark.parametrize("data", [MARK[:2], MARK[:1], b"{}", b"", b"\xef\xbb{}"])
async def test_what_only_begins_like_a_byte_order_mark_stays(
    edge: UpstreamClient, spool: Spool, data: bytes
) -> None:
    async with (
        peer(answer(data, None)) as there,
        edge.connection(call(there.url), spool, None) as attempt,
    ):
        response, content = await fetch(attempt)
        assert (content, response.length) == (data, len(data))
