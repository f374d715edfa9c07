"""An answer with addresses in place of its pictures, and the pictures behind it."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from image_gateway.calls.picture_urls import UrlAnswer, UrlPicture
from image_gateway.core.codec.body_segments import Span
from image_gateway.edge.spool import JoinedBody, Spool, SpooledBody, Spools

PNG = b"\x89PNG\r\n\x1a\n"
HEAD = b"data:image/png;base64,"


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    with Spools(tmp_path, 1 << 30, 1 << 30) as spools, spools.open(paid=True) as opened:
        yield opened


async def bytes_of(body: SpooledBody | JoinedBody) -> bytes:
    return b"".join([piece async for piece in body.play()])


async def spooled(spool: Spool, text: bytes) -> UrlPicture:
    """A picture whose data URL lies in the spool."""
    start = spool.size
    await spool.write(HEAD + text)
    span = Span(start + len(HEAD), spool.size)
    return UrlPicture(spool.hold((Span(start, spool.size),)), spool.hold((span,)))


def literal(spool: Spool, text: bytes) -> UrlPicture:
    """A small picture, which is held in memory."""
    return UrlPicture(spool.hold((HEAD, text)), spool.hold((text,)))


def answer(spool: Spool, *pictures: UrlPicture) -> UrlAnswer:
    parts: list[SpooledBody | UrlPicture] = []
    for picture in pictures:
        parts += [spool.hold((b'["' if not parts else b'","',)), picture]
    return UrlAnswer([*parts, spool.hold((b'"]',))])


def address(index: int, extension: str) -> str:
    return f"https://example.com/{index}.{extension}"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100, 700_001], ids=str)
@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "without padding"])
async def test_a_picture_is_played_as_the_bytes_that_it_is(
    spool: Spool, size: int, *, is_padded: bool
) -> None:
    data = PNG + bytes(255 - index % 256 for index in range(size))
    text = base64.b64encode(data)
    if not is_padded:
        text = text.rstrip(b"=")
    escaped = text.replace(b"/", b"\\/").replace(b"+", b"\\u002b")
    made = answer(spool, await spooled(spool, text), await spooled(spool, escaped))
    whole = await made.with_addresses(address)
    assert whole is not None
    assert json.loads(await bytes_of(whole.answer)) == [address(0, "png"), address(1, "png")]
    assert [await bytes_of(picture) for picture in whole.pictures] == [data, data]
    assert whole.sizes == (len(data), len(data))
    assert whole.joined().length == len(await bytes_of(whole.joined()))


async def test_a_picture_in_memory_is_one_too(spool: Spool) -> None:
    whole = await answer(spool, literal(spool, b"R0lGODlh")).with_addresses(address)
    assert whole is not None
    assert json.loads(await bytes_of(whole.answer)) == [address(0, "gif")]
    assert await bytes_of(whole.pictures[0]) == b"GIF89a"


@pytest.mark.parametrize("text", [b"", b"A", b"!" * 40, b"QUJD" * 80_000 + b"*"], ids=len)
async def test_what_is_no_base64_keeps_its_data_url(spool: Spool, text: bytes) -> None:
    broken, fine = await spooled(spool, text), literal(spool, b"R0lGODlh")
    whole = await answer(spool, broken, fine, broken).with_addresses(address)
    assert whole is not None
    url = (HEAD + text).decode()
    assert json.loads(await bytes_of(whole.answer)) == [url, address(0, "gif"), url]
    assert len(whole.pictures) == 1
    assert await answer(spool, broken).with_addresses(address) is None


async def test_data_urls_go_out_where_there_are_no_addresses(spool: Spool) -> None:
    made = answer(spool, await spooled(spool, b"QUJD"), literal(spool, b"R0lGODlh"))
    urls = [(HEAD + text).decode() for text in (b"QUJD", b"R0lGODlh")]
    assert json.loads(await bytes_of(made.with_data_urls())) == urls


async def test_an_address_is_written_as_json(spool: Spool) -> None:
    whole = await answer(spool, literal(spool, b"QUJD")).with_addresses(lambda _, __: 'x"\\y')
    assert whole is not None
    assert json.loads(await bytes_of(whole.answer)) == ['x"\\y']
