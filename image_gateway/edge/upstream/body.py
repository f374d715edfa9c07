"""The bytes of a response's body, opened if the upstream compressed them.

Identity is asked for, but some relays compress all the same, name an encoding that they have
already taken off, or take off its name and not the encoding.  So the first bytes decide whether a
body is gzip or zstd; only deflate, which cannot be told by them, goes by its name, unless they are
text.  What nobody can open, such as brotli, is no JSON and has no events, if it is what its name
says.  A byte order mark, which some relays write before their JSON, is taken off.
"""

from collections.abc import Iterator
from typing import Final

import aiohttp

from image_gateway.core.codec import sse
from image_gateway.core.codec.compression import GZIP_MAGIC, Decoder

_MOST_BYTES: Final = 256 * 1024 * 1024
"""Of a body that was compressed; the largest legal picture is under 150 MB in base64."""

_IDENTITY: Final = "identity"
_DEFLATE: Final = "deflate"
_MAGIC: Final = {"gzip": GZIP_MAGIC, "zstd": b"\x28\xb5\x2f\xfd"}
"""How a body begins; neither JSON nor events can begin so."""
_MARK: Final = b"\xef\xbb\xbf"
"""Says that a text is UTF-8; JSON must not have it (RFC 8259, 8.1)."""


def encoding_of(value: str | None) -> str:
    """The content coding in a ``content-encoding``; ``identity`` where there is none."""
    codings = [part.strip().lower() for part in (value or "").split(",")]
    applied = [coding for coding in codings if coding not in {"", _IDENTITY}]
    return ",".join(applied) or _IDENTITY


class ResponseBody:
    """The body of one response, piece by piece."""

    def __init__(self, content: aiohttp.StreamReader, encoding: str) -> None:
        self._content = content
        self._may_be_deflate = encoding == _DEFLATE
        self._decoder: Decoder | None = None
        self._start = b""
        self._has_begun = False
        self._pieces: Iterator[bytes] = iter(())
        self._has_mark: bool | None = None
        """None: the first bytes have not come yet."""

    def __repr__(self) -> str:
        return f"<ResponseBody {self._decoder or 'plain'}>"

    @property
    def is_opened(self) -> bool:
        """Whether the body came compressed; known once its first piece was read."""
        return self._decoder is not None

    @property
    def is_as_sent(self) -> bool:
        """Whether no byte was changed or left out; known once its first piece was read."""
        return not (self.is_opened or self._has_mark)

    async def next(self) -> bytes:
        """The next bytes, at least one; empty at the end.

        Raises what aiohttp raises, and ``CompressionError``.
        """
        piece = await self._next()
        if self._has_mark is None:
            start = piece
            while piece and len(start) < len(_MARK) and _MARK.startswith(start):
                piece = await self._next()
                start += piece
            self._has_mark = start.startswith(_MARK)
            piece = start.removeprefix(_MARK)
            if self._has_mark and not piece:
                piece = await self._next()
        return piece

    async def _next(self) -> bytes:
        """The same with a byte order mark."""
        while True:
            piece = next(self._pieces, None)
            if piece is not None:
                return piece
            chunk = await self._content.readany()
            if not self._has_begun:
                self._start += chunk
                if chunk and self._may_be_compressed():
                    continue
                self._begin()
                chunk, self._start = self._start, b""
            if self._decoder is None:
                return chunk
            if not chunk:
                self._decoder.close()
                return b""
            self._pieces = self._decoder.feed(chunk)

    def _may_be_compressed(self) -> bool:
        """Whether the start is too short to tell."""
        if self._may_be_deflate and sse.are_events(self._start) is None:
            return True
        return any(
            magic.startswith(self._start) and magic != self._start for magic in _MAGIC.values()
        )

    def _begin(self) -> None:
        self._has_begun = True
        # Deflated text begins with other bytes.
        is_json = self._start.removeprefix(_MARK).lstrip().startswith(b"{")
        is_text = is_json or sse.are_events(self._start)
        if self._may_be_deflate and self._start and not is_text:
            self._decoder = Decoder(_DEFLATE, _MOST_BYTES)
        for encoding, magic in _MAGIC.items():
            if self._start.startswith(magic):
                self._decoder = Decoder(encoding, _MOST_BYTES)
