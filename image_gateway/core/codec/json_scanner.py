r"""One incremental JSON scanner for requests and answers alike.

It owns the question "where am I in this JSON text?" for bytes that come in pieces of any size, and
refuses to know what the text means.  Three rules:

- The events, put together again, are the input, byte for byte, whatever the splits.
- Nothing is held but the current key and a stack of ``ScanLimits.depth`` places, so a picture of
  100 MB costs what one chunk costs.  A long string is passed over with ``bytes.find``; a regular
  expression is used only for pieces that hold a backslash (alone 0.7 s for 64 MiB of ``\"``).
- Whether the text is well formed is decided elsewhere: ``json_skeleton`` takes long strings out and
gives
  the rest, which is small, to a strict parser.

On top of it stand ``json_skeleton``, which reads a body without holding its pictures,
``data_urls``, which turns ``b64_json`` into ``url`` while an answer streams, and ``intent``, which
looks for a few names.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a text may have.

    ``depth``: containers inside each other.  ``key_bytes``: a key is held until it ends.
    ``tokens``: quotes, brackets and commas outside of strings; each costs about a microsecond of
    the event loop, so a body made of nothing else must end early.  ``skeleton_bytes``: what may
    remain once long strings are lifted out; bounds the parser's work and memory.
    """

    depth: int
    key_bytes: int
    tokens: int
    skeleton_bytes: int


IMAGES: Final = ScanLimits(64, 1024, 20_000, 1024 * 1024)
"""A legal body of the Images API has a depth of 5, keys of 21 bytes, some hundreds of tokens."""

CONVERSATION: Final = ScanLimits(250, 64 * 1024, 1_000_000, 8 * 1024 * 1024)
"""A body of the Responses API: a million tokens of a model are about 5 MB of text.  Deeper than 254
levels orjson writes nothing."""

TEXT: Final = replace(CONVERSATION, depth=10_000)
"""One that is only looked through and goes on as it is."""

Path = tuple[str | int, ...]

_TOKEN: Final = re.compile(rb'["{}\[\],]')
_ESCAPED: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_QUOTE: Final = ord('"')
_OPEN: Final[dict[int, str | int]] = {ord("{"): "", ord("["): 0}
_CLOSE: Final = frozenset(b"}]")
_HALF_PAIR: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class ScanError(ValueError):
    """The text is no JSON, or beyond the limits; the message is fit for a client."""


class ScanLimitError(ScanError):
    """The text is beyond the limits."""


class ScanHandler(Protocol):
    """What a scanner calls, in the order of the text."""

    def structure(self, data: bytes) -> None:
        """Punctuation, white space, numbers and literals, and the quotes around value strings."""

    def key(self, data: bytes) -> None:
        """A whole key with its quotes, as it stands in the text."""

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        """``chunk[start:stop]`` is a part of the value string that began last."""

    def text_start(self, offset: int) -> None:
        """A value string begins; ``offset`` counts from the first byte that was ever fed."""

    def text_stop(self) -> None:
        """The value string has ended; its closing quote comes as structure."""


class Scanner:
    """Feeds a ``ScanHandler`` from chunks of JSON text.  Raises ``ScanError``."""

    def __init__(self, sink: ScanHandler, limits: ScanLimits = IMAGES) -> None:
        self._sink = sink
        self._limits = limits
        # An object's place is its current key, an array's the current index.
        self._stack: list[str | int] = []
        self._expect_key = False
        self._in_key = False
        self._in_text = False
        self._escape = False
        self._key = bytearray()
        self._offset = 0
        self._tokens = 0

    def __repr__(self) -> str:
        return f"<Scanner at byte {self._offset}, depth {len(self._stack)}>"

    @property
    def depth(self) -> int:
        """The length of ``path``."""
        return len(self._stack)

    def path(self) -> Path:
        """The keys and indices that lead to the value at hand."""
        return tuple(self._stack)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the text."""
        position = 0
        end = len(chunk)
        while position < end:
            if self._in_text:
                position = self._read_text(chunk, position)
            elif self._in_key:
                position = self._read_key(chunk, position)
            else:
                position = self._read_structure(chunk, position)
        self._offset += end

    def _read_structure(self, chunk: bytes, start: int) -> int:
        for token in _TOKEN.finditer(chunk, start):
            self._tokens += 1
            if self._tokens > self._limits.tokens:
                raise ScanLimitError(
                    f"The JSON holds more than {self._limits.tokens} values and brackets."
                )
            position = token.start()
            byte = chunk[position]
            if byte == _QUOTE:
                if self._expect_key:
                    self._sink.structure(chunk[start:position])
                    self._in_key = True
                    self._key += b'"'
                else:
                    self._sink.structure(chunk[start : position + 1])
                    self._in_text = True
                    self._sink.text_start(self._offset + position + 1)
                return position + 1
            if byte in _OPEN:
                if len(self._stack) >= self._limits.depth:
                    raise ScanLimitError(
                        f"The JSON is nested deeper than {self._limits.depth} levels."
                    )
                place = _OPEN[byte]
                self._stack.append(place)
                self._expect_key = place == ""
            elif byte in _CLOSE:
                if not self._stack:
                    raise ScanError("The JSON closes more than it opens.")
                self._stack.pop()
                self._expect_key = False
            elif self._stack:
                place = self._stack[-1]
                if isinstance(place, int):
                    self._stack[-1] = place + 1
                else:
                    self._expect_key = True
        self._sink.structure(chunk[start:])
        return len(chunk)

    def _read_key(self, chunk: bytes, start: int) -> int:
        stop = self._string_stop(chunk, start)
        self._key += chunk[start:stop]
        if len(self._key) > self._limits.key_bytes + len(b'"'):
            raise ScanLimitError(
                f"A key in the JSON is longer than {self._limits.key_bytes} bytes."
            )
        if stop == len(chunk):
            return stop
        self._key += b'"'
        raw = bytes(self._key)
        self._key.clear()
        try:
            key = read_mended(raw)
        except orjson.JSONDecodeError:
            raise ScanError("A key in the JSON is broken.") from None
        self._stack[-1] = key
        self._in_key = False
        self._expect_key = False
        self._sink.key(raw)
        return stop + 1

    def _read_text(self, chunk: bytes, start: int) -> int:
        stop = self._string_stop(chunk, start)
        if stop > start:
            self._sink.text(chunk, start, stop)
        if stop == len(chunk):
            return stop
        self._in_text = False
        self._sink.text_stop()
        self._sink.structure(b'"')
        return stop + 1

    def _string_stop(self, chunk: bytes, start: int) -> int:
        """The index of the closing quote, or the chunk's length when the string goes on."""
        if not self._escape:
            quote = chunk.find(b'"', start)
            stop = len(chunk) if quote < 0 else quote
            if chunk.find(b"\\", start, stop) < 0:
                return stop
        # A backslash at the end of the last chunk escapes this one's first byte.
        match = _ESCAPED.match(chunk, start + self._escape)
        stop = match.end() if match else len(chunk)
        self._escape = stop == len(chunk) - 1 and chunk[stop] != _QUOTE
        return len(chunk) if self._escape else stop


def read_mended(text: bytes | bytearray) -> Any:
    """Parsed JSON in which half a surrogate pair is read as U+FFFD, as JavaScript lets it pass."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(_HALF_PAIR.sub(rb"\\ufffd", text))
