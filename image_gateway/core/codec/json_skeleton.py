"""JSON without its long strings: the rest is small and gets parsed, the strings stay in the spool.

Each long string is "lifted" out of the text: a placeholder, NUL and a number, replaces it.  A
placeholder cannot be forged, and becomes the string again when a body is built from the parsed
value (``body_segments.from_json``), so no picture is ever held in memory.
"""

import codecs
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from image_gateway.core.codec import base64_text, json_scanner, text_position
from image_gateway.core.codec.json_escapes import Unescaper
from image_gateway.core.codec.text_position import TextPosition

LIFT_BYTES: Final = 4096
"""Value strings longer than this are lifted.  Long enough for any URL that a person writes."""


@dataclass(frozen=True, slots=True)
class LiftedString:
    """A long string outside the skeleton: bytes ``start`` to ``stop`` of the text, still escaped.

    ``head`` is its first bytes, enough to tell a data URL from a web address.  Of the text without
    its escapes, in UTF-8, ``tail`` is the last two bytes, where base64 has its padding,
    ``characters`` the length, and ``non_base64`` how many bytes are outside the base64 alphabet.
    ``written`` is the length as a person sees it in the text.  Only a strict skeleton sets these.
    ``digest`` is the SHA-256 of the bytes, empty if the skeleton takes none.
    """

    start: int
    stop: int
    head: bytes
    tail: bytes = b""
    characters: int = 0
    non_base64: int = 0
    written: int = 0
    digest: bytes = b""

    @property
    def length(self) -> int:
        """Bytes of JSON text, without the quotes."""
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<LiftedString {self.start}..{self.stop}>"


_CUT_OFF: Final = "unexpected end of data"
_REASONS: Final = frozenset(
    {
        "UTF-8 byte order mark (BOM) is not supported",
        "invalid escaped sequence in string",
        "invalid literal, expected 'false'",
        "invalid literal, expected 'null'",
        "invalid literal, expected 'true'",
        "no low surrogate in string",
        "number is infinity when parsed as double",
        "number with leading zero is not allowed",
        "trailing comma is not allowed",
        "unexpected character, expected ',' or ']'",
        "unexpected character, expected ',' or '}'",
        "unexpected character, expected ':' after key",
        "unexpected character, expected a JSON value",
        "unexpected character, expected a string key",
        "unexpected content after document",
        "unexpected control character in string",
    }
)
"""Words of the parser (yyjson's) that are known to hold nothing of the text."""
_CONTROL_FREE: Final = bytes(range(0x20, 0x100))
_HEAD_BYTES: Final = 64
_Utf8: Final = codecs.getincrementaldecoder("utf-8")
_TAIL_BYTES: Final = 2
_PLACEHOLDER: Final = "\0"
_PLACEHOLDER_TEXT: Final = b"\\u0000"
# A quote after a backslash is inside a string, and a quote before a colon ends a key: neither
# belongs to a placeholder.  The pattern begins with fixed bytes, so most of a text is skipped; to
# look behind each quote first takes 20 ms for each MB of a conversation.
_PLACEHOLDERS: Final = re.compile(rb'"\\u0000(?<!\\"\\u0000)(\d+)"(?!:)')


class JsonSkeleton:
    """Reads JSON text in chunks and keeps everything except the long strings.

    A placeholder, NUL and an index into ``lifted``, replaces each long string.  No other value
    string of the text may begin with NUL, so a placeholder cannot be forged.  A string whose path
    ``keep`` accepts stays in the skeleton up to ``keep_bytes``; use it for a text that must be
    read.  ``strict`` also refuses broken escapes, control characters and broken UTF-8 in lifted
    strings; it costs half as much as forwarding the picture, and is needed for strings that the
    gateway copies into a body that it builds.  ``mends``: half a surrogate pair, which JavaScript
    writes when it splits a text, is read as U+FFFD and copied unchanged, and so is broken UTF-8 in
    a lifted string; for answers that have been paid for and must not be lost because of it.
    ``digests``: each lifted string gets its SHA-256 while it is read.
    """

    def __init__(
        self,
        keep: Callable[[json_scanner.Path], bool] = lambda _: False,
        keep_bytes: int = LIFT_BYTES,
        *,
        limits: json_scanner.ScanLimits = json_scanner.IMAGES,
        strict: bool = True,
        mends: bool = False,
        digests: bool = False,
    ) -> None:
        self.lifted: list[LiftedString] = []
        self._scanner = json_scanner.Scanner(self, limits)
        self._max_bytes = limits.skeleton_bytes
        self._keep = keep
        self._strict = strict
        self._mends = mends
        self._digests = digests
        self._hash = hashlib.sha256()
        self._utf8 = _Utf8()
        self._keep_bytes = keep_bytes
        self._out = bytearray()
        self._text = bytearray()
        self._unescaper = Unescaper(mends=mends)
        self._start = 0
        self._length = 0
        self._limit = LIFT_BYTES
        self._tail = b""
        self._characters = 0
        self._non_base64 = 0
        self._written = 0

    def __repr__(self) -> str:
        return f"<JsonSkeleton of {len(self._out)} bytes, {len(self.lifted)} lifted>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the text; raises ``ScanError``."""
        self._scanner.feed(chunk)

    def close(self) -> object:
        """The parsed skeleton; raises ``ScanError`` if the text is not one complete JSON value."""
        try:
            return json_scanner.read(self._out, mends=self._mends)
        except orjson.JSONDecodeError as error:
            raise self._syntax_error(error) from None

    def _syntax_error(self, error: orjson.JSONDecodeError) -> json_scanner.ScanError:
        """The parser's error at its place in the text, and nothing of the text."""
        if not self._out.strip():
            return json_scanner.ScanError("The body is empty. Send a JSON object in it.")
        if error.msg == _CUT_OFF:
            found = json_scanner.ScanError(
                "The body is not valid JSON: it ends too early. Send it in full."
            )
            found.position = self._scanner.position
            return found
        reason = error.msg if error.msg in _REASONS else "check its syntax"
        found = json_scanner.ScanError(f"The body is not valid JSON: {reason}.")
        position = TextPosition().after(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        found.position = position._replace(column=position.column + self._lifted_before(error))
        return found

    def _lifted_before(self, error: orjson.JSONDecodeError) -> int:
        """How many characters of the error's line, before it, are not in the skeleton."""
        start = error.doc.rfind("\n", 0, error.pos) + 1
        line = error.doc[start : error.pos].encode("utf-8", "surrogatepass")
        return sum(
            self.lifted[int(match[1])].written - (len(match[0]) - len(b'""'))
            for match in _PLACEHOLDERS.finditer(line)
        )

    def structure(self, data: bytes) -> None:
        room = self._max_bytes - len(self._out)
        try:
            self._put(data)
        except json_scanner.ScanLimitError as error:
            error.offset = room
            raise

    def key(self, data: bytes) -> None:
        if data.startswith(b'"' + _PLACEHOLDER_TEXT):
            raise json_scanner.ScanError("A JSON key begins with a NUL character. Remove it.")
        self._put(data)

    def text_start(self, offset: int) -> None:
        self._start = offset
        self._length = self._characters = self._non_base64 = self._written = 0
        self._tail = b""
        self._utf8.reset()
        self._limit = self._keep_bytes if self._keep(self._scanner.path()) else LIFT_BYTES

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        is_held = len(self._text) == self._length
        self._length += stop - start
        if is_held and self._length <= self._limit:
            self._text += chunk[start:stop]
            return
        if is_held:
            # From here on the string is lifted; only its first bytes stay held.
            if self._strict:
                self._check_lifted(bytes(self._text))
            if self._digests:
                self._hash = hashlib.sha256(self._text)
            self._text += chunk[start : min(stop, start + _HEAD_BYTES)]
            del self._text[_HEAD_BYTES:]
        if self._strict:
            self._check_lifted(chunk[start:stop])
        if self._digests:
            self._hash.update(memoryview(chunk)[start:stop])

    def _check_lifted(self, part: bytes) -> None:
        """Checks what the parser does not see, because it goes upstream unchanged."""
        self._written += text_position.characters(part)
        if not self._mends:
            self._check_utf8(part)
        if b"\\" in part or self._unescaper.held:
            try:
                self._count(self._unescaper.feed(part))
            except ValueError:
                raise _broken_string(part) from None
        elif self._count(part).translate(None, _CONTROL_FREE):
            raise _broken_string(part)

    def _count(self, plain: bytes) -> bytes:
        """Counts characters; returns those that are not of base64, very few of a picture."""
        self._tail = (self._tail + plain[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        self._characters += len(plain)
        non_base64 = plain.translate(None, base64_text.ALPHABET)
        self._non_base64 += len(non_base64)
        return non_base64

    def _check_utf8(self, part: bytes, *, is_last: bool = False) -> None:
        # Base64 is ASCII, which takes no time to see.
        if not is_last and part.isascii() and self._utf8.getstate()[0] == b"":
            return
        try:
            self._utf8.decode(part, is_last)
        except UnicodeDecodeError:
            raise json_scanner.ScanError(
                "A JSON string is not valid UTF-8. Send the body in UTF-8."
            ) from None

    def text_stop(self) -> None:
        if self._length > self._limit:
            if self._strict and not self._mends:
                self._check_utf8(b"", is_last=True)
            try:
                self._count(self._unescaper.close())
            except ValueError:
                raise _broken_string(b"") from None
            stop = self._start + self._length
            self.lifted.append(
                LiftedString(
                    self._start,
                    stop,
                    bytes(self._text),
                    self._tail,
                    self._characters,
                    self._non_base64,
                    self._written,
                    self._hash.digest() if self._digests else b"",
                )
            )
            self._put(_PLACEHOLDER_TEXT + b"%d" % (len(self.lifted) - 1))
        elif self._text.startswith(_PLACEHOLDER_TEXT):
            raise json_scanner.ScanError("A JSON string begins with a NUL character. Remove it.")
        else:
            self._put(bytes(self._text))
        self._text.clear()

    def _put(self, data: bytes) -> None:
        self._out += data
        if len(self._out) > self._max_bytes:
            raise json_scanner.ScanLimitError(
                f"Without its long strings, the JSON is larger than {self._max_bytes // 1024} KiB. "
                "Send fewer values."
            )


def _broken_string(part: bytes) -> json_scanner.ScanError:
    """Why a part of a string is not valid JSON."""
    if part.translate(None, _CONTROL_FREE):
        return json_scanner.ScanError("A JSON string has a control character. Escape it.")
    return json_scanner.ScanError("A JSON string has an invalid escape sequence.")


def placeholder(number: int) -> str:
    """The text that replaces the lifted string of that number in a skeleton."""
    return f"{_PLACEHOLDER}{number}"


def is_placeholder(value: str) -> bool:
    """Whether a text begins like a placeholder."""
    return value.startswith(_PLACEHOLDER)


def contains_placeholder(value: object) -> bool:
    """Whether a parsed value contains a placeholder at any depth."""
    if isinstance(value, dict):
        return any(map(contains_placeholder, value.values()))
    if isinstance(value, list):
        return any(map(contains_placeholder, value))
    return isinstance(value, str) and is_placeholder(value)


def placeholder_number(value: str) -> int | None:
    """The number of the lifted string that ``value`` stands for, None for an ordinary string."""
    return int(value[1:]) if is_placeholder(value) else None


def split_placeholders(text: bytes) -> list[bytes]:
    """JSON text split at its placeholders: literal, number, literal, number, ..., literal.

    The quotes around a placeholder stay with the literals.
    """
    parts = _PLACEHOLDERS.split(text)
    for index in range(0, len(parts) - 1, 2):
        parts[index] += b'"'
        parts[index + 2] = b'"' + parts[index + 2]
    return parts
