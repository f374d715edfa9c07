"""Bodies in memory and in unnamed files: played as they were written."""

import asyncio
import base64
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.body_segments import Decoded, Encoded, Span
from image_gateway.edge import spool as spool_module
from image_gateway.edge.spool import (
    MEMORY_BYTES,
    Spools,
)
from tests.edge.spooling import (
    MIB,
    NOTHING,
    ROOM,
    fill,
    held,
    joined,
    pattern,
)
from tests.parts.examples import scaled

# -- what is played --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "piece", "on_disk"),
    [
        (0, 1, 0),
        (1, 1, 0),
        (MEMORY_BYTES, 65536, 0),
        (MEMORY_BYTES + 1, 65536, 1),
        (MEMORY_BYTES + 1, MEMORY_BYTES + 1, 1),
        (3 * MIB + 12345, 70_001, 1),
        (5 * MIB, 5 * MIB, 1),
    ],
)
async def test_a_body_is_played_as_it_was_written(
    spools: Spools, size: int, piece: int, on_disk: int
) -> None:
    data = pattern(size)
    with spools.open() as spool:
        await fill(spool, data, piece)
        assert spool.size == size
        assert await joined(spool.play((Span(0, size),))) == data
        assert await joined(spool.play((Span(0, size),))) == data, "any number of times"
        assert len(held(spools)[2]) == on_disk
        assert spools.memory.used + spools.disk.used == size, "charged as it is held"
        assert spools.memory.used <= MEMORY_BYTES
    assert held(spools) == NOTHING


async def test_segments_are_played_in_their_order_each_as_often_as_it_stands_there(
    spools: Spools,
) -> None:
    data = pattern(2 * MIB + 100)
    segments: tuple[bytes | Span, ...] = (
        b"",
        b'{"a":"',
        Span(MIB - 3, MIB + 70_000),
        b'","b":"',
        Span(2 * MIB + 50, 2 * MIB + 100),
        Span(7, 7),
        Span(0, 5),
        Span(MIB - 3, MIB + 70_000),
        b'"}',
    )
    expected = b"".join(
        data[item.start : item.stop] if isinstance(item, Span) else item for item in segments
    )
    with spools.open() as spool:
        await fill(spool, data, 99_999)
        assert len(expected) == body_segments.length(segments)
        assert await joined(spool.play(segments)) == expected


async def test_a_large_span_is_read_in_small_pieces(spools: Spools) -> None:
    """A call's memory must not grow with its pictures."""
    with spools.open() as spool:
        await fill(spool, pattern(4 * MIB), 65536)
        sizes = [len(piece) async for piece in spool.play((Span(0, 4 * MIB),))]
    assert sum(sizes) == 4 * MIB
    assert max(sizes) <= 256 * 1024


async def test_two_plays_at_once_do_not_disturb_each_other(spools: Spools) -> None:
    data = pattern(3 * MIB)
    with spools.open() as spool:
        await fill(spool, data, 65536)
        spans = [Span(start, start + 2 * MIB) for start in range(0, MIB, MIB // 4)]
        played = await asyncio.gather(*(joined(spool.play((span,))) for span in spans))
        assert played == [data[span.start : span.stop] for span in spans]


@st.composite
def written_and_asked(draw: st.DrawFn) -> tuple[int, list[int], list[bytes | tuple[int, int]]]:
    """A size, the places where it is split, and segments within it."""
    size = draw(st.integers(0, 400))
    splits = draw(st.lists(st.integers(0, size), max_size=8))
    offset = st.integers(0, size)
    span = st.tuples(offset, offset).map(lambda it: (min(it), max(it)))
    segments = draw(st.lists(st.one_of(st.binary(max_size=9), span), max_size=8))
    return size, sorted(splits), segments


@given(case=written_and_asked())
@settings(max_examples=scaled(150))
def test_any_body_in_any_pieces_is_played_to_the_byte(
    case: tuple[int, list[int], list[bytes | tuple[int, int]]],
) -> None:
    """With the limits of memory and of a read made small, so that every edge is met."""
    size, splits, asked = case
    data = pattern(size)
    segments = tuple(item if isinstance(item, bytes) else Span(*item) for item in asked)
    expected = b"".join(
        data[item.start : item.stop] if isinstance(item, Span) else item for item in segments
    )

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                for start, stop in zip([0, *splits], [*splits, size], strict=True):
                    await spool.write(data[start:stop])
                assert spool.size == size
                for _ in range(2):
                    assert await joined(spool.play(segments)) == expected
                assert spools.memory.used <= 64
                assert spools.memory.used + spools.disk.used == size
            assert held(spools) == NOTHING
            assert list(folder.iterdir()) == []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool_module, "MEMORY_BYTES", 64)
        patch.setattr(spool_module, "_READ_BYTES", 17)
        asyncio.run(run(Path(folder)))


# -- through base64 --------------------------------------------------------------------------------

READ_BYTES = 192 * 1024


@st.composite
def size_near(draw: st.DrawFn, *borders: int) -> int:
    """A tiny size, or one beside a border."""
    border = draw(st.sampled_from([0, *borders]))
    return max(0, border + draw(st.integers(-5, 5)))


def encoded_size() -> st.SearchStrategy[int]:
    return size_near(READ_BYTES, 2 * READ_BYTES, MIB, MIB + READ_BYTES, 2 * MIB)


@given(
    size=encoded_size(),
    before=st.sampled_from([0, 1, 7, MIB - 2, MIB]),
    piece=st.sampled_from([65536, 100_001, MIB, 3 * MIB]),
)
@settings(max_examples=scaled(60))
def test_bytes_go_out_as_their_base64_and_of_the_length_that_was_promised(
    size: int, before: int, piece: int
) -> None:
    """Wherever they lie, on disk, in memory or in both."""
    data = pattern(before + size + 9)
    segments: body_segments.Body = (b'"', Encoded(Span(before, before + size)), b'"')

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, data, piece)
                held_body = spool.hold(segments)
                for _ in range(2):
                    played = await joined(held_body.play())
                    assert played == b'"%s"' % base64.b64encode(data[before : before + size])
                    assert held_body.length == body_segments.length(segments) == len(played)
            assert held(spools) == NOTHING

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


ESCAPES = {
    "as it is": {},
    "slashes": {b"/": b"\\/"},
    "all by number": {b"/": b"\\u002F", b"+": b"\\u002b", b"=": b"\\u003d"},
}


@given(
    size=encoded_size(),
    before=st.sampled_from([0, 1, MIB - 2, MIB]),
    piece=st.sampled_from([65536, 100_001, MIB, 3 * MIB]),
    escapes=st.sampled_from(sorted(ESCAPES)),
    padded=st.booleans(),
)
@settings(max_examples=scaled(60))
def test_base64_goes_out_as_its_bytes_and_of_the_length_that_was_promised(
    size: int, before: int, piece: int, escapes: str, *, padded: bool
) -> None:
    """``size`` of text, or as near to it as base64 comes; JSON's escapes are none of its bytes."""
    # Bytes of which every base64 holds slashes and pluses.
    data = (b"\xff\xef\xbe" * (size // 4 + 1))[: size * 3 // 4]
    text = base64.b64encode(data) if padded else base64.b64encode(data).rstrip(b"=")
    for character, escape in ESCAPES[escapes].items():
        text = text.replace(character, escape)
    segments: body_segments.Body = (
        b"(",
        Decoded(Span(before, before + len(text)), len(data)),
        b")",
    )

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, b"." * before + text + b'","', piece)
                for _ in range(2):
                    played = await joined(spool.play(segments))
                    assert played == b"(%s)" % data
                    assert body_segments.length(segments) == len(played)
            assert held(spools) == NOTHING

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@given(
    data=st.binary(max_size=300),
    before=st.integers(0, 70),
    read=st.integers(1, 40),
    escapes=st.sampled_from(sorted(ESCAPES)),
)
@settings(max_examples=scaled(150))
def test_where_a_read_ends_leaves_no_trace_in_what_is_encoded_or_decoded(
    data: bytes, before: int, read: int, escapes: str
) -> None:
    """With the limits made small: every read ends within an escape or a quartet somewhere."""
    text = base64.b64encode(data)
    for character, escape in ESCAPES[escapes].items():
        text = text.replace(character, escape)
    whole = pattern(before) + text + data
    decoded = Decoded(Span(before, before + len(text)), len(data))
    encoded = Encoded(Span(before + len(text), len(whole)))

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, whole, 50)
                assert await joined(spool.play((decoded,))) == data
                assert await joined(spool.play((encoded,))) == base64.b64encode(data)
            assert held(spools) == NOTHING

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool_module, "MEMORY_BYTES", 64)
        # Whoever reads in pieces that are no multiple of three cannot encode them one by one.
        patch.setattr(spool_module, "_READ_BYTES", read * 3)
        asyncio.run(run(Path(folder)))


async def test_what_is_no_base64_is_not_sent_on_as_though_it_were(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(b"abc$defg")
        with pytest.raises(ValueError):
            await joined(spool.play((Decoded(Span(0, 8), 6),)))


async def test_a_held_body_is_its_bytes_and_its_length_for_whoever_does_not_know_the_spool(
    spools: Spools,
) -> None:
    data = pattern(2 * MIB)
    with spools.open() as spool:
        await fill(spool, data, 65536)
        kept = spool.hold((b"<", Span(5, MIB + 5), Encoded(Span(0, 4)), b">"))
        expected = b"<" + data[5 : MIB + 5] + base64.b64encode(data[:4]) + b">"
        assert kept.length == len(expected)
        for _ in range(2):
            assert await joined(kept.play()) == expected
        assert spool.hold(()).length == 0
        assert await joined(spool.hold(()).play()) == b""
    assert held(spools) == NOTHING
