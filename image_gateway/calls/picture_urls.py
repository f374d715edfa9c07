"""An Images answer whose pictures go to the client as URLs: data URLs, or addresses to fetch them.

An answer is collected with data URLs, which always work.  Once all pictures are there, each can get
an address instead; the answer is then kept with the pictures behind it, as the bytes that they are,
so that a part of one can be read without decoding the rest.

This module does not know when an address is of use (``call``), nor who fetches the picture
(``exchange.picture_files``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from image_gateway.core.calls.journal import MOST_PICTURES
from image_gateway.core.codec import base64_text
from image_gateway.core.codec.base64_text import Base64Decoder
from image_gateway.core.codec.body_segments import Decoded, Segment, Span
from image_gateway.edge.kept.call import AnswerWithPictures
from image_gateway.edge.spool import JoinedBody, SpooledBody

_EXTENSIONS: Final[Mapping[str | None, str]] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/svg+xml": "svg",
    None: "bin",
}
_HEAD_BYTES: Final = 256

MakeAddress = Callable[[int, str], str]
"""The address of a picture, by its index from 0 and the extension of its type."""


@dataclass(frozen=True, slots=True)
class UrlPicture:
    """A picture in an answer: a data URL, without its quotes, and the base64 in it, one segment."""

    url: SpooledBody
    base64: SpooledBody


@dataclass(frozen=True, slots=True)
class UrlAnswer:
    """The JSON text of an answer, with its pictures in their places."""

    parts: Sequence[SpooledBody | UrlPicture]

    def with_data_urls(self) -> JoinedBody:
        """The answer with data URLs."""
        return JoinedBody(
            [part.url if isinstance(part, UrlPicture) else part for part in self.parts]
        )

    async def with_addresses(self, make: MakeAddress) -> AnswerWithPictures | None:
        """The answer with addresses; None if none of its pictures can have one.

        Each of its pictures is decoded while it is played.  One that is empty or no base64 keeps
        its data URL.  Raises ``OSError``.
        """
        parts: list[SpooledBody] = []
        pictures: list[SpooledBody] = []
        for part in self.parts:
            if isinstance(part, SpooledBody):
                parts.append(part)
                continue
            decoded = await _decoded(part.base64) if len(pictures) < MOST_PICTURES else None
            if decoded is None:
                parts.append(part.url)
                continue
            address = make(len(pictures), _EXTENSIONS[base64_text.image_type(decoded.head)])
            parts.append(part.url.spool.hold((orjson.dumps(address)[1:-1],)))
            pictures.append(part.base64.spool.hold((decoded.segment,)))
        return AnswerWithPictures(JoinedBody(parts), pictures) if pictures else None


@dataclass(frozen=True, slots=True)
class _DecodedPicture:
    """A picture's first bytes, and the segment that plays all of them."""

    head: bytes
    segment: Segment


async def _decoded(text: SpooledBody) -> _DecodedPicture | None:
    """Decodes a picture once, to check it and to learn its size; None if it is none."""
    [segment] = text.body
    decoder, size, head = Base64Decoder(), 0, b""
    try:
        async for piece in text.play():
            part = decoder.feed(piece)
            size += len(part)
            head += part[: _HEAD_BYTES - len(head)]
        part = decoder.close()
    except ValueError:
        return None
    size += len(part)
    head += part[: _HEAD_BYTES - len(head)]
    if not size:
        return None
    if isinstance(segment, Span):
        return _DecodedPicture(head, Decoded(segment, size))
    assert isinstance(segment, bytes)  # the literal of a small picture
    whole = Base64Decoder()
    return _DecodedPicture(head, whole.feed(segment) + whole.close())
