"""Opens compressed bodies in small pieces, so that a bomb costs neither memory nor the event loop.

A kilobyte of gzip can hold a megabyte.  A decoder therefore returns pieces of at most
``PIECE_BYTES``, one for each step of its iterator, and refuses a body that grows beyond a limit.
The caller decides what happens between two pieces.
"""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

PIECE_BYTES: Final = 64 * 1024
"""The most that one step returns: less than a millisecond of work."""

ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "zstd"})
"""The content codings that can be opened (RFC 9110, 8.4.1)."""

GZIP_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of gzip; neither JSON nor events can begin with them."""

_STEP_BYTES: Final = 16 * 1024
"""Compressed bytes for one step; zlib copies what is left of them for each piece."""
_MOST_MEMBERS: Final = 1000
"""Of a body of gzip or zstd.  Each costs some microseconds and can be empty."""
_ZSTD_OPTIONS: Final = {int(DecompressionParameter.window_log_max): 23}
"""A window of 8 MiB, the most that HTTP allows (RFC 9659)."""


class CompressionError(ValueError):
    """The body is not what its encoding says, or was cut off."""


class TooLargeError(CompressionError):
    """The body is larger than the limit once it is opened."""


class Decoder:
    """Opens one body; ``encoding`` is one of ``ENCODINGS``, ``most_bytes`` the limit of the result.

    ``deflate`` is read with zlib's header, as the standard has it, and without, as many send it.
    """

    def __init__(self, encoding: str, most_bytes: int) -> None:
        if encoding not in ENCODINGS:
            raise ValueError(f"no decoder for the content coding {encoding!r}")
        self._encoding = encoding.removeprefix("x-")
        self._most_bytes = most_bytes
        self._start = b""
        self._stream: _Stream | None = None
        self._members = 0
        self._size = 0
        self._is_over = False
        self.has_rest = False
        """Whether bytes that follow the body were ignored."""

    def __repr__(self) -> str:
        return f"<Decoder {self._encoding}, {self._size} bytes so far>"

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces in the next compressed bytes; read all of them before the next call.

        Raises ``CompressionError``.
        """
        for start in range(0, len(chunk), _STEP_BYTES):
            yield from self._open(chunk[start : start + _STEP_BYTES])

    def close(self) -> None:
        """The body has ended; raises ``CompressionError`` if it was cut off.

        No bytes at all are an empty body, whatever its encoding.
        """
        if self._stream is not None or (self._start and not self._members):
            raise CompressionError("the compressed body was cut off")
        self.has_rest |= bool(self._start)

    def _open(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        while data or is_full:
            if self._is_over:
                self.has_rest = True
                return
            if self._stream is None:
                self._start += data
                if len(self._start) < len(GZIP_MAGIC):
                    return
                data, self._start = self._start, b""
                self._stream = self._begin(data)
                continue
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except (zlib.error, ZstdError):
                raise CompressionError("the body is not compressed as its encoding says") from None
            self._size += len(piece)
            if self._size > self._most_bytes:
                raise TooLargeError(f"the body is larger than {self._most_bytes} bytes")
            # A full piece may leave output behind in the stream although all input has been read.
            data, is_full = self._stream.unconsumed_tail, len(piece) == PIECE_BYTES
            if self._stream.eof:
                data, is_full = self._stream.unused_data, False
                self._stream = None
                self._is_over = self._encoding == "deflate"
            if piece:
                yield piece

    def _begin(self, data: bytes) -> "_Stream | None":
        """A stream begins with ``data``; what follows a gzip body and is none is padding."""
        if self._encoding == "deflate":
            has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if self._encoding == "gzip" and self._members and not data.startswith(GZIP_MAGIC):
            self._is_over = True
            return None
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise TooLargeError(f"the body has more than {_MOST_MEMBERS} compressed members")
        return _ZstdStream() if self._encoding == "zstd" else zlib.decompressobj(_GZIP_BITS)


_GZIP_BITS: Final = zlib.MAX_WBITS + 16


class _Stream(Protocol):
    """One member of a body, with zlib's names."""

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _ZstdStream:
    """The same for zstd, which keeps by itself what a full piece left of its input."""

    unconsumed_tail = b""

    def __init__(self) -> None:
        self._decompressor = ZstdDecompressor(options=_ZSTD_OPTIONS)

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._decompressor.decompress(data, max_length)
