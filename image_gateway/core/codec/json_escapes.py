r"""Takes the escapes out of a JSON string that arrives in pieces, and checks them.

The parser does the work, at a few nanoseconds for each byte: a step of Python for each escape would
take a hundred times as long, and a client may send megabytes of ``\/``.  So the only question here
is where a piece can be cut.
"""

import re
from typing import Final

from image_gateway.core.codec import json_scanner

_BACKSLASH: Final = b"\\"
_HIGH: Final = rb"[dD][89abAB][0-9a-fA-F]{2}"
"""The first half of a surrogate pair, without its ``\\u``."""
_CUT: Final = rb"(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z"
_PARTIAL: Final = re.compile(
    rb"(?:[^\\]|\\[^u]|\\u(?:(?!%(high)b)[0-9a-fA-F]{4}|%(high)b(?!%(cut)b)))*+"
    rb"(?P<partial>\\(?:u(?:[0-9a-fA-F]{0,3}|%(high)b(?:%(cut)b))?)?)\Z"
    % {b"high": _HIGH, b"cut": _CUT},
    re.DOTALL,
)
_LONGEST_PARTIAL: Final = len(r"\ud83d\ude0")
_HIGH_HALF: Final = re.compile(rb"\\u" + _HIGH)
_ASCII: Final = bytes(byte if byte < 0x80 else ord("?") for byte in range(256))


class Unescaper:
    """One string, without its quotes.  ``feed`` and ``close`` raise ``ValueError``.

    ``mends``: half of a surrogate pair, which JavaScript writes, is read as U+FFFD.
    """

    def __init__(self, *, mends: bool = False) -> None:
        self._mends = mends
        self._partial = b""

    def __repr__(self) -> str:
        return f"<Unescaper holding {self.held} bytes>"

    @property
    def held(self) -> int:
        """Bytes of an escape that is not complete yet."""
        return len(self._partial)

    def feed(self, part: bytes) -> bytes:
        """The text that is complete so far, in UTF-8.

        Of a part with escapes, each byte outside of ASCII is returned as ``?``: a part may end
        within a character.
        """
        text = self._partial + part
        if _BACKSLASH not in text:
            return text
        stop = _whole(text)
        self._partial = text[stop:]
        return self._plain(text[:stop])

    def close(self) -> bytes:
        """What is left at the end of the string."""
        text, self._partial = self._partial, b""
        if text and not (self._mends and _HIGH_HALF.fullmatch(text)):
            raise ValueError("the string ends within an escape")
        return self._plain(text)

    def _plain(self, text: bytes) -> bytes:
        quoted = b'"%b"' % text.translate(_ASCII)
        plain: str = json_scanner.read(quoted, mends=self._mends)
        return plain.encode()


def _whole(text: bytes) -> int:
    """Where the last complete escape or character of ``text`` ends."""
    start = max(len(text) - _LONGEST_PARTIAL, 0)
    # An odd number of backslashes before it: the last of them begins an escape.
    start -= (start - len(text[:start].rstrip(_BACKSLASH))) % 2
    partial = _PARTIAL.match(text, start)
    return len(text) if partial is None else partial.start("partial")
