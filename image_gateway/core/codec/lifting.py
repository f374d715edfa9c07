"""JSON without its long strings: what is left is small and parsed, what was long stays where it is.

A lifted string is replaced by a mark: NUL and its number.  A mark cannot be forged, and becomes the
string again wherever a body is made of what was parsed (``body.from_json``), so that no picture is
ever held.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from image_gateway.core.codec import encoding, scan

LIFT_BYTES: Final = 4096
"""Value strings longer than this are lifted out.  Holds any URL a person would write."""


@dataclass(frozen=True, slots=True)
class Lifted:
    """A long string that stays where it is: bytes ``start`` to ``stop`` of the text, still escaped.

    ``head`` and ``tail`` hold its first and last bytes, enough to tell a data URL from an address
    and to see its padding.  ``characters`` counts it without its escapes, and ``odd`` those that
    are none of base64's alphabet; both are known only where the skeleton is strict.
    """

    start: int
    stop: int
    head: bytes
    tail: bytes = b""
    characters: int = 0
    odd: int = 0

    @property
    def length(self) -> int:
        """Bytes of JSON text, the quotes not counted."""
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<Lifted {self.start}..{self.stop}>"


_CONTROL_FREE: Final = bytes(range(0x20, 0x100))
_HEAD_BYTES: Final = 64
_TAIL_BYTES: Final = 24
_ESCAPE: Final = re.compile(
    rb'\\(?:["\\/bfnrt]'
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})"
)
_PARTIAL_ESCAPE: Final = re.compile(
    rb"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?"
)
_MARK: Final = "\0"
_MARK_TEXT: Final = b"\\u0000"
# A quote behind a backslash is within a text, and one before a colon ends a key: neither is a mark.
_MARKED: Final = re.compile(rb'(?<!\\)"\\u0000(\d+)"(?!:)')


class Skeleton:
    """Reads JSON text in chunks and keeps all of it but the long strings.

    A lifted string is replaced by a mark: NUL and its number in ``lifted``.  No other value string
    of the text may begin with NUL, so a mark cannot be forged.  Strings at a path for which
    ``keep`` holds stay in the skeleton up to ``keep_bytes``; use it for a text that must be read.
    ``strict`` looks for broken escapes and control characters in lifted strings, too; that costs
    half of what passing a picture on costs, and is for what goes into a body of ours.
    """

    def __init__(
        self,
        keep: Callable[[scan.Path], bool] = lambda _: False,
        keep_bytes: int = LIFT_BYTES,
        *,
        limits: scan.ScanLimits = scan.IMAGES,
        strict: bool = True,
    ) -> None:
        self.lifted: list[Lifted] = []
        self._scanner = scan.Scanner(self, limits)
        self._most = limits.skeleton_bytes
        self._keep = keep
        self._strict = strict
        self._keep_bytes = keep_bytes
        self._out = bytearray()
        self._text = bytearray()
        self._carry = b""
        self._start = 0
        self._length = 0
        self._limit = LIFT_BYTES
        self._tail = b""
        self._characters = 0
        self._odd = 0

    def __repr__(self) -> str:
        return f"<Skeleton of {len(self._out)} bytes, {len(self.lifted)} lifted>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the text; raises ``ScanError``."""
        self._scanner.feed(chunk)

    def close(self, *, mend: bool = False) -> object:
        """The parsed skeleton; raises ``ScanError`` when the text is not one whole JSON value.

        ``mend``: half a surrogate pair, which JavaScript writes when it cuts a text in two, is read
        as U+FFFD; for what has been paid for and must not be lost to it.
        """
        try:
            return scan.read_mended(self._out) if mend else orjson.loads(self._out)
        except orjson.JSONDecodeError:
            raise scan.ScanError("The body is not valid JSON.") from None

    def structure(self, data: bytes) -> None:
        self._put(data)

    def key(self, data: bytes) -> None:
        if data.startswith(b'"' + _MARK_TEXT):
            raise scan.ScanError("A key in the JSON begins with a NUL character.")
        self._put(data)

    def text_start(self, offset: int) -> None:
        self._start = offset
        self._length = self._characters = self._odd = 0
        self._tail = b""
        self._limit = self._keep_bytes if self._keep(self._scanner.path()) else LIFT_BYTES

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        held = len(self._text) == self._length
        self._length += stop - start
        if held and self._length <= self._limit:
            self._text += chunk[start:stop]
            return
        if held:
            # From here on the string is lifted; what was held keeps its first bytes only.
            if self._strict:
                self._check_lifted(bytes(self._text))
            self._text += chunk[start : min(stop, start + _HEAD_BYTES)]
            del self._text[_HEAD_BYTES:]
        if self._strict:
            self._check_lifted(chunk[start:stop])

    def _check_lifted(self, part: bytes) -> None:
        """What the parser will not see must be valid all the same: it goes upstream as it is."""
        self._tail = (self._tail + part[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        part = self._carry + part
        self._carry = b""
        # One pass for all questions: of a picture next to nothing is left.
        odd = part.translate(None, encoding.ALPHABET)
        if odd.translate(None, _CONTROL_FREE):
            raise scan.ScanError("A string in the JSON holds a control character.")
        if b"\\" in odd:
            plain = _ESCAPE.sub(b" ", part)
            broken = plain.find(b"\\")
            if broken >= 0:
                # An escape may go on in the next piece.
                if not _PARTIAL_ESCAPE.fullmatch(plain, broken):
                    raise scan.ScanError("A string in the JSON holds a broken escape.")
                self._carry = plain[broken:]
                plain = plain[:broken]
                part = part[: len(part) - len(self._carry)]
            self._characters += len(plain)
            # An escaped backslash is odd, and would hide where the next escape begins.
            shown = part.replace(b"\\\\", b"\0")
            odd = encoding.unescape(shown).translate(None, encoding.ALPHABET)
        else:
            self._characters += len(part)
        self._odd += len(odd)

    def text_stop(self) -> None:
        if self._length > self._limit:
            if self._carry:
                raise scan.ScanError("A string in the JSON holds a broken escape.")
            stop = self._start + self._length
            self.lifted.append(
                Lifted(
                    self._start,
                    stop,
                    bytes(self._text),
                    self._tail,
                    self._characters,
                    self._odd,
                )
            )
            self._put(_MARK_TEXT + b"%d" % (len(self.lifted) - 1))
        elif self._text.startswith(_MARK_TEXT):
            raise scan.ScanError("A string in the JSON begins with a NUL character.")
        else:
            self._put(bytes(self._text))
        self._text.clear()

    def _put(self, data: bytes) -> None:
        self._out += data
        if len(self._out) > self._most:
            raise scan.ScanLimitError(
                f"The JSON holds more than {self._most // 1024} KiB beside its long texts."
            )


def mark(number: int) -> str:
    """What stands in a skeleton for the lifted string of that number."""
    return f"{_MARK}{number}"


def is_marked(value: str) -> bool:
    """Whether a text begins as marks do."""
    return value.startswith(_MARK)


def holds_mark(value: object) -> bool:
    """Whether a mark stands anywhere in a skeleton."""
    if isinstance(value, dict):
        return any(map(holds_mark, value.values()))
    if isinstance(value, list):
        return any(map(holds_mark, value))
    return isinstance(value, str) and is_marked(value)


def lifted_number(value: str) -> int | None:
    """The number of the lifted string that ``value`` stands for, None for an ordinary string."""
    return int(value[1:]) if is_marked(value) else None


def split_marks(text: bytes) -> list[bytes]:
    """JSON text cut at its marks: literal, number, literal, number, ..., literal.

    The quotes around a mark stay with the literals.
    """
    parts = _MARKED.split(text)
    for index in range(0, len(parts) - 1, 2):
        parts[index] += b'"'
        parts[index + 2] = b'"' + parts[index + 2]
    return parts
