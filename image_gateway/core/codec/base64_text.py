r"""Pictures as text and back: base64 inside JSON, and what a picture's first bytes show.

JSON writers may escape three characters of base64: ``/`` (PHP), ``+`` (.NET), ``=`` (Gson).  Their
escapes are understood wherever base64 is read; any other escape is none of base64's.
"""

import base64
import binascii
import re
from typing import Final

ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""The characters of base64 but for its padding (RFC 4648, 4)."""

SNIFF_CHARACTERS: Final = 32
"""Base64 of the first 24 bytes; the last sign of a type, WEBP's, ends at the twelfth."""

_LONGEST_ESCAPE: Final = len("\\u002B")
_CUT_ESCAPE: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_ESCAPED_ASCII: Final = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
_ESCAPES: Final = (
    (b"\\/", b"/"),
    (b"\\u002F", b"/"),
    (b"\\u002f", b"/"),
    (b"\\u002B", b"+"),
    (b"\\u002b", b"+"),
    (b"\\u003D", b"="),
    (b"\\u003d", b"="),
)


def unescape(text: bytes) -> bytes:
    """Base64 without the escapes that JSON writers put into it; other escapes stay."""
    if b"\\" in text:
        for escape, character in _ESCAPES:
            text = text.replace(escape, character)
    return text


class Base64Decoder:
    """Base64 of a JSON text to bytes, for pieces of any size.

    For text that was checked before (``json_skeleton.LiftedString.non_base64``); padding may be
    left out.
    """

    def __init__(self) -> None:
        self._rest = b""

    def __repr__(self) -> str:
        return f"<Base64Decoder holding {len(self._rest)} bytes>"

    def feed(self, text: bytes) -> bytes:
        """The bytes that the text so far makes up; raises ``ValueError`` where it is no base64."""
        text = self._rest + text
        cut = _CUT_ESCAPE.search(text, max(0, len(text) - _LONGEST_ESCAPE))
        held = text[cut.start() :] if cut else b""
        plain = unescape(text[: cut.start()] if cut else text)
        whole = len(plain) // 4 * 4
        self._rest = plain[whole:] + held
        return base64.b64decode(plain[:whole], validate=True)

    def close(self) -> bytes:
        """The last bytes; raises ``ValueError``."""
        return base64.b64decode(self._rest + b"=" * (-len(self._rest) % 4), validate=True)


def decoded_size(characters: int, padding: int) -> int | None:
    """Bytes that base64 of so many characters stands for, None where there is no such base64.

    ``padding`` of the characters are ``=``; none at all is as good as the right number.
    """
    plain = characters - padding
    if plain % 4 == 1 or (padding and characters % 4):
        return None
    return plain * 3 // 4


def image_type(first: bytes) -> str | None:
    """The MIME type that a picture's first 16 bytes show, None when they show none we know."""
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
    """Whether the text, escapes allowed, is long enough for ``image_type_of_base64``."""
    return len(_first_characters(text)) >= SNIFF_CHARACTERS


def image_type_of_base64(text: bytes) -> str | None:
    """The MIME type of a picture from the first characters of its base64, escapes allowed."""
    first = _first_characters(text)[:SNIFF_CHARACTERS]
    try:
        return image_type(base64.b64decode(first[: len(first) // 4 * 4]))
    except binascii.Error:
        return None


def _first_characters(text: bytes) -> bytes:
    """An escape that is not whole yet is left out: what is seen does not depend on splits."""
    first = _CUT_ESCAPE.sub(b"", text[: SNIFF_CHARACTERS * _LONGEST_ESCAPE]).replace(b"\\/", b"/")
    return _ESCAPED_ASCII.sub(lambda match: bytes([int(match[1], 16)]), first)
