"""Compressed bodies: the same bytes for any split, in small pieces, and no more than the limit."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import compression
from tests.core.builders import split

MIB = 1024 * 1024


def _raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def _in_members(data: bytes) -> bytes:
    return gzip.compress(data[:5]) + gzip.compress(b"") + gzip.compress(data[5:])


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "several members": ("gzip", _in_members),
    "padded with zeros": ("gzip", lambda data: gzip.compress(data) + b"\0" * 7),
    "followed by other bytes": ("gzip", lambda data: gzip.compress(data) + b"rest"),
    "zstd": ("zstd", zstd.compress),
    "several zstd frames": ("zstd", lambda data: zstd.compress(data[:5]) + zstd.compress(data[5:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", _raw_deflate),
}
ways = pytest.mark.parametrize("way", WAYS)


def _opened(encoding: str, parts: Iterable[bytes], most: int = MIB) -> bytes:
    decoder = compression.Decoder(encoding, most)
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    decoder.close()
    assert all(0 < len(piece) <= compression.PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@ways
@given(st.binary(max_size=2000), st.data())
def test_any_split_gives_the_same_bytes(way: str, data: bytes, draw: st.DataObject) -> None:
    encoding, compress = WAYS[way]
    assert _opened(encoding, draw.draw(split(compress(data)))) == data


@ways
@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 200_000, MIB])
def test_a_large_body_comes_whole_in_small_pieces(way: str, length: int) -> None:
    encoding, compress = WAYS[way]
    data = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    assert _opened(encoding, [compress(data)]) == data


@ways
def test_a_bomb_is_refused_after_the_limit(way: str) -> None:
    encoding, compress = WAYS[way]
    bomb = compress(b"\0" * (64 * MIB))
    pieces: list[bytes] = []
    with pytest.raises(compression.TooLargeError):
        pieces.extend(compression.Decoder(encoding, MIB).feed(bomb))
    assert sum(map(len, pieces)) <= MIB


def test_a_body_of_the_limit_is_opened() -> None:
    assert len(_opened("gzip", [gzip.compress(b"\0" * MIB)], MIB)) == MIB


@pytest.mark.parametrize(("encoding", "empty"), [("gzip", gzip), ("zstd", zstd)])
def test_endless_empty_members_are_refused(encoding: str, empty: Any) -> None:
    with pytest.raises(compression.TooLargeError):
        _opened(encoding, [empty.compress(b"")] * 2000)


def test_a_window_that_would_take_much_memory_is_refused() -> None:
    level = zstd.CompressionParameter.window_log
    wide = zstd.compress(b"a" * MIB * 20, options={level: 27})
    with pytest.raises(compression.CompressionError):
        _opened("zstd", [wide], 64 * MIB)


@pytest.mark.parametrize(
    ("encoding", "body", "has_rest"),
    [
        ("gzip", gzip.compress(b"a"), False),
        ("gzip", gzip.compress(b"a") + b"\0", True),
        ("gzip", gzip.compress(b"a") + b"\0" + gzip.compress(b"b"), True),
        ("deflate", zlib.compress(b"a"), False),
        ("deflate", zlib.compress(b"a") + zlib.compress(b"b"), True),
        ("zstd", zstd.compress(b"a"), False),
    ],
    ids=["gzip", "gzip, padded", "two of gzip", "deflate", "two of deflate", "zstd"],
)
def test_bytes_behind_the_body_are_noted(encoding: str, body: bytes, *, has_rest: bool) -> None:
    decoder = compression.Decoder(encoding, MIB)
    assert b"".join(decoder.feed(body)) == b"a"
    decoder.close()
    assert decoder.has_rest is has_rest


@ways
@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_cut_body_is_an_error(way: str, data: bytes, draw: st.DataObject) -> None:
    encoding, compress = WAYS[way]
    whole = compress(data)
    # After its first member, or within padding, a body may end.
    first = {
        "several members": data[:5],
        "padded with zeros": data,
        "followed by other bytes": data,
        "several zstd frames": data[:5],
    }
    shrink = zstd.compress if "zstd" in way else gzip.compress
    needed = len(shrink(first[way])) if way in first else len(whole)
    cut = draw.draw(st.integers(1, needed - 1))
    with pytest.raises(compression.CompressionError):
        _opened(encoding, [whole[:cut]])


@pytest.mark.parametrize("encoding", sorted(compression.ENCODINGS))
@given(st.binary(min_size=2, max_size=300))
def test_any_bytes_end_in_a_body_or_in_an_error(encoding: str, data: bytes) -> None:
    try:
        _opened(encoding, [data])
    except compression.CompressionError:
        return


@pytest.mark.parametrize("encoding", sorted(compression.ENCODINGS))
def test_no_bytes_are_an_empty_body(encoding: str) -> None:
    assert _opened(encoding, []) == b""


@pytest.mark.parametrize("data", [b'{"data": []}', b"<html>", b"\0\0\0\0"])
def test_a_body_that_is_not_gzip_is_an_error(data: bytes) -> None:
    with pytest.raises(compression.CompressionError):
        _opened("gzip", [data])


def test_an_unknown_encoding_has_no_decoder() -> None:
    with pytest.raises(ValueError, match="'br'"):
        compression.Decoder("br", MIB)


def test_the_repr_has_no_content() -> None:
    decoder = compression.Decoder("gzip", MIB)
    assert list(decoder.feed(gzip.compress(b"a cat"))) == [b"a cat"]
    assert repr(decoder) == "<Decoder gzip, 5 bytes so far>"
