r"""One incremental JSON scanner for requests and answers alike.

It tracks the current position in a JSON text that comes in pieces of any size, and does not know
what the text means.  Three rules:

- The events, joined, are the input, byte for byte, however it was split.
- Only the current key and a stack of at most ``ScanLimits.depth`` keys and indices are held, so a
  picture of 100 MB takes no more memory than one chunk.  Strings are skipped with
  ``bytes.find``; a chunk with an escaped quote is searched once more without its escapes.
- It does not check that the text is well formed: ``json_skeleton`` removes long strings and gives
  the remaining text, which is small, to a strict parser.

Its users: ``json_skeleton`` reads a body without holding its pictures, ``data_urls`` turns
``b64_json`` into ``url`` while an answer streams, and ``intent`` looks for a few names.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, Protocol

import orjson

from image_gateway.core.codec.text_position import TextPosition


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """The limits of a text.

    ``depth``: containers inside each other.  ``key_bytes``: a key is held until it ends.
    ``tokens``: quotes, brackets and commas outside of strings; each costs about a microsecond of
    the event loop, so a body made of nothing else must be refused early.  ``skeleton_bytes``: the
    text without its long strings; bounds the work and memory of the parser.
    """

    depth: int
    key_bytes: int
    tokens: int
    skeleton_bytes: int


IMAGES: Final = ScanLimits(64, 1024, 20_000, 1024 * 1024)
"""A valid body of the Images API has a depth of 5, keys of 21 bytes, some hundreds of tokens."""

ANSWER: Final = replace(IMAGES, depth=250, tokens=IMAGES.skeleton_bytes)
"""An upstream's answer may hold more values than a client's body, and deeper ones, because it is
paid for.  The size of its skeleton still bounds their number."""

CONVERSATION: Final = ScanLimits(250, 64 * 1024, 1_000_000, 8 * 1024 * 1024)
"""A body of the Responses API: a million model tokens are about 5 MB of text.  orjson cannot write
more than 254 levels."""

INTENT: Final = replace(CONVERSATION, tokens=200_000)
"""The same of a client that asks for a picture: its values are looked through several times, half a
microsecond each."""

TEXT: Final = replace(CONVERSATION, depth=10_000)
"""A body of the Responses API that is only scanned, and forwarded unchanged."""

Path = tuple[str | int, ...]

_TOKEN: Final = re.compile(rb'["{}\[\],]')
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_MASK: Final = b"  "
_OPEN: Final[dict[int, str | int]] = {ord("{"): "", ord("["): 0}
_CLOSE: Final = frozenset(b"}]")
_HALF_PAIR: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class ScanError(ValueError):
    """The text is not JSON, or exceeds a limit; the message may be sent to a client.

    ``position`` is the mistake, or the start of the string with the mistake.  ``offset`` is the
    mistake's in the structure that a handler refuses.
    """

    position: TextPosition | None = None
    offset: int | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.position is None else f"{message} See {self.position}."


class ScanLimitError(ScanError):
    """The text exceeds a limit."""


class ScanDepthError(ScanLimitError):
    """The text is nested too deep."""


class ScanHandler(Protocol):
    """What a scanner calls, in the order of the text."""

    def structure(self, data: bytes) -> None:
        """Punctuation, white space, numbers and literals, and the quotes around value strings."""

    def key(self, data: bytes) -> None:
        """A complete key with its quotes and escapes, as written in the text."""

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        """``chunk[start:stop]`` is a part of the current value string."""

    def text_start(self, offset: int) -> None:
        """A value string begins; ``offset`` is in bytes from the start of the text."""

    def text_stop(self) -> None:
        """The value string ends; its closing quote follows as structure."""


class Scanner:
    """Feeds a ``ScanHandler`` from chunks of JSON text.  Raises ``ScanError``."""

    def __init__(self, handler: ScanHandler, limits: ScanLimits = IMAGES) -> None:
        self._handler = handler
        self._limits = limits
        # The current key of each open object, the current index of each open array.
        self._stack: list[str | int] = []
        self._expect_key = False
        self._in_key = False
        self._in_text = False
        self._escape = False
        # The current chunk without its escaped backslashes and quotes, once it is needed.
        self._masked = b""
        self._key = bytearray()
        self._offset = 0
        self._tokens = 0
        # Where the chunk begins, where in it the current token is, and, for a string that began
        # in an earlier chunk, where that was.
        self.position = TextPosition()
        self._token_at: int | None = 0
        self._structure_at = 0
        self._string_position = self.position

    def __repr__(self) -> str:
        return f"<Scanner at byte {self._offset}, depth {len(self._stack)}>"

    @property
    def depth(self) -> int:
        """The length of ``path``."""
        return len(self._stack)

    def path(self) -> Path:
        """The keys and indices that lead to the current value."""
        return tuple(self._stack)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the text."""
        position = 0
        end = len(chunk)
        self._masked = b""
        try:
            while position < end:
                if self._in_text:
                    position = self._read_text(chunk, position)
                elif self._in_key:
                    position = self._read_key(chunk, position)
                else:
                    position = self._read_structure(chunk, position)
        except ScanError as error:
            if error.offset is not None:
                self._token_at = self._structure_at + error.offset
            error.position = self._token_position(chunk)
            raise
        if self._in_text or self._in_key:
            self._string_position = self._token_position(chunk)
            self._token_at = None
        self.position = self.position.after(chunk)
        self._offset += end

    def _token_position(self, chunk: bytes) -> TextPosition:
        if self._token_at is None:
            return self._string_position
        return self.position.after(chunk[: self._token_at])

    def _read_structure(self, chunk: bytes, start: int) -> int:
        self._structure_at = start
        for token in _TOKEN.finditer(chunk, start):
            self._tokens += 1
            position = self._token_at = token.start()
            if self._tokens > self._limits.tokens:
                self._refuse(
                    chunk[start:position],
                    ScanLimitError(
                        f"The JSON has more than {self._limits.tokens} strings, brackets and "
                        "commas. Send fewer values."
                    ),
                )
            byte = chunk[position]
            if byte == _QUOTE:
                if self._expect_key:
                    self._handler.structure(chunk[start:position])
                    self._in_key = True
                    self._key += b'"'
                else:
                    self._handler.structure(chunk[start : position + 1])
                    self._in_text = True
                    self._handler.text_start(self._offset + position + 1)
                return position + 1
            if byte in _OPEN:
                if len(self._stack) >= self._limits.depth:
                    self._refuse(
                        chunk[start:position],
                        ScanDepthError(
                            f"The JSON is nested deeper than {self._limits.depth} levels. "
                            "Nest it less."
                        ),
                    )
                key_or_index = _OPEN[byte]
                self._stack.append(key_or_index)
                self._expect_key = key_or_index == ""
            elif byte in _CLOSE:
                if not self._stack:
                    self._refuse(
                        chunk[start:position],
                        ScanError("The JSON has a closing bracket without an opening one."),
                    )
                self._stack.pop()
                self._expect_key = False
            elif self._stack:
                key_or_index = self._stack[-1]
                if isinstance(key_or_index, int):
                    self._stack[-1] = key_or_index + 1
                else:
                    self._expect_key = True
        self._handler.structure(chunk[start:])
        return len(chunk)

    def _refuse(self, before: bytes, error: ScanError) -> NoReturn:
        """Raise an error; but a mistake that the handler sees in the structure before it comes
        first, as it would if that had come in a chunk of its own.
        """
        self._handler.structure(before)
        raise error

    def _read_key(self, chunk: bytes, start: int) -> int:
        stop = self._string_stop(chunk, start)
        self._key += chunk[start:stop]
        if len(self._key) > self._limits.key_bytes + len(b'"'):
            raise ScanLimitError(
                f"A JSON key is longer than {self._limits.key_bytes} bytes. Shorten it."
            )
        if stop == len(chunk):
            return stop
        self._key += b'"'
        raw = bytes(self._key)
        self._key.clear()
        try:
            key = read_mended(raw)
        except orjson.JSONDecodeError:
            raise ScanError("A JSON key is not a valid string.") from None
        self._stack[-1] = key
        self._in_key = False
        self._expect_key = False
        self._handler.key(raw)
        return stop + 1

    def _read_text(self, chunk: bytes, start: int) -> int:
        stop = self._string_stop(chunk, start)
        if stop > start:
            self._handler.text(chunk, start, stop)
        if stop == len(chunk):
            return stop
        self._in_text = False
        self._handler.text_stop()
        self._structure_at = stop
        self._handler.structure(b'"')
        return stop + 1

    def _string_stop(self, chunk: bytes, start: int) -> int:
        """The index of the closing quote, or the chunk's length if the string continues."""
        # A backslash at the end of the last chunk escapes the first byte of this one.
        begin = start + self._escape
        self._escape = False
        quote = chunk.find(b'"', begin)
        stop = len(chunk) if quote < 0 else quote
        if stop == begin or chunk[stop - 1] != _BACKSLASH:
            return stop
        if not self._masked:
            self._masked = chunk[:begin] + chunk[begin:].replace(rb"\\", _MASK).replace(
                rb"\"", _MASK
            )
        quote = self._masked.find(b'"', begin)
        if quote >= 0:
            return quote
        self._escape = self._masked[-1] == _BACKSLASH
        return len(chunk)


def read(text: bytes | bytearray, *, mends: bool) -> Any:
    """Parsed JSON; raises ``orjson.JSONDecodeError``.  ``mends``: as ``read_mended``."""
    return read_mended(text) if mends else orjson.loads(text)


def read_mended(text: bytes | bytearray) -> Any:
    """Parsed JSON; half a surrogate pair, which JavaScript accepts, is read as U+FFFD."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(_HALF_PAIR.sub(rb"\\ufffd", text))
