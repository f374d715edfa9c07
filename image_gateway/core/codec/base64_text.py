r"""Base64 of pictures inside JSON, and the image type that the first bytes of a picture show.

JSON writers escape three characters of base64: ``/`` (PHP), ``+`` (.NET), ``=`` (Gson), and may
escape any.  Escapes are understood wherever base64 is read.
"""

import base64
import binascii
import re
from typing import Final

from image_gateway.core.codec.json_escapes import Unescaper

ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""The characters of base64, without the padding (RFC 4648, 4)."""

SNIFF_CHARACTERS: Final = 32
"""Base64 of the first 24 bytes; the longest signature, that of WEBP, ends at byte 12."""

_LONGEST_ESCAPE: Final = len("\\u002B")
_CUT_ESCAPE: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_ESCAPED_ASCII: Final = re.compile(rb"\\u00([0-7][0-9a-fA-F])")


class Base64Decoder:
    """Decodes base64 from a JSON text, in pieces of any size.

    The text must be checked before (``json_skeleton.LiftedString.non_base64``); padding may be
    missing.
    """

    def __init__(self) -> None:
        self._unescaper = Unescaper()
        self._pending = b""

    def __repr__(self) -> str:
        return f"<Base64Decoder holding {len(self._pending) + self._unescaper.held} bytes>"

    def feed(self, text: bytes) -> bytes:
        """The bytes that can be decoded so far; raises ``ValueError`` if the text is not base64."""
        plain = self._pending + self._unescaper.feed(text)
        stop = len(plain) // 4 * 4
        self._pending = plain[stop:]
        return base64.b64decode(plain[:stop], validate=True)

    def close(self) -> bytes:
        """The last bytes; raises ``ValueError``."""
        text = self._pending + self._unescaper.close()
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def decoded_size(characters: int, padding: int) -> int | None:
    """The number of bytes in base64 of this length; None if no base64 has this length.

    ``padding`` is how many of the characters are ``=``: the right number, or 0.
    """
    unpadded = characters - padding
    if unpadded % 4 == 1 or (padding and characters % 4):
        return None
    return unpadded * 3 // 4


def image_type(first: bytes) -> str | None:
    """The MIME type by the first 16 bytes of a picture; None if they show no type known here."""
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if first.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "image/webp"
    if first.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if first.lstrip().startswith((b"<svg", b"<?xml")):
        return "image/svg+xml"
    return None


def shows_type(text: bytes) -> bool:
    """Whether the text is long enough for ``image_type_of_base64``; it may hold escapes."""
    return len(_first_characters(text)) >= SNIFF_CHARACTERS


def image_type_of_base64(text: bytes) -> str | None:
    """The MIME type of a picture by the start of its base64, which may hold escapes."""
    first = _first_characters(text)[:SNIFF_CHARACTERS]
    try:
        return image_type(base64.b64decode(first[: len(first) // 4 * 4]))
    except binascii.Error:
        return None


def _first_characters(text: bytes) -> bytes:
    """Leaves out an incomplete escape at the end, so the result does not depend on splits."""
    first = _CUT_ESCAPE.sub(b"", text[: SNIFF_CHARACTERS * _LONGEST_ESCAPE]).replace(b"\\/", b"/")
    return _ESCAPED_ASCII.sub(lambda match: bytes([int(match[1], 16)]), first)
