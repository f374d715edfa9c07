r"""One incremental JSON scanner for requests and answers alike.

It owns the question "where am I in this JSON text?" for bytes that come in pieces of any size, and
refuses to know what the text means.  Three rules:

- The events, put together again, are the input, byte for byte, whatever the splits.
- Nothing is held but the current key and a stack of ``Limits.depth`` places, so a picture of
  100 MB costs what one chunk costs.  A long string is passed over with ``bytes.find``; a regular
  expression is used only for pieces that hold a backslash (alone 0.7 s for 64 MiB of ``\"``).
- Whether the text is well formed is decided elsewhere: ``Skeleton`` takes long strings out and
  gives the rest, which is small, to a strict parser.

On top of it stand ``Skeleton``, which reads a body without holding its pictures, and ``DataUrls``,
which turns ``b64_json`` into ``url`` while an answer streams.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson

from image_gateway.core import encoding

LIFT_BYTES: Final = 4096
"""Value strings longer than this are lifted out.  Holds any URL a person would write."""


@dataclass(frozen=True, slots=True)
class Limits:
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


IMAGES: Final = Limits(64, 1024, 20_000, 1024 * 1024)
"""A legal body of the Images API has a depth of 5, keys of 21 bytes, some hundreds of tokens."""

CONVERSATION: Final = Limits(250, 64 * 1024, 1_000_000, 8 * 1024 * 1024)
"""A body of the Responses API: a million tokens of a model are about 5 MB of text.  Deeper than 254
levels orjson writes nothing."""

TEXT: Final = replace(CONVERSATION, depth=10_000)
"""One that is only looked through and goes on as it is."""

Path = tuple[str | int, ...]

_TOKEN: Final = re.compile(rb'["{}\[\],]')
_ESCAPED: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_CONTROL_FREE: Final = bytes(range(0x20, 0x100))
_QUOTE: Final = ord('"')
_OPEN: Final[dict[int, str | int]] = {ord("{"): "", ord("["): 0}
_CLOSE: Final = frozenset(b"}]")


class ScanError(ValueError):
    """The text is no JSON, or beyond the limits; the message is fit for a client."""


class ScanLimitError(ScanError):
    """The text is beyond the limits."""


class Sink(Protocol):
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
    """Feeds a ``Sink`` from chunks of JSON text.  Raises ``ScanError``."""

    def __init__(self, sink: Sink, limits: Limits = IMAGES) -> None:
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
            key = _loads(raw)
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


def _loads(text: bytes | bytearray) -> Any:
    """Parsed JSON in which half a surrogate pair is read as U+FFFD, as JavaScript lets it pass."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(_HALF_PAIR.sub(rb"\\ufffd", text))


# -- reading a body without its pictures -----------------------------------------------------------


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
_HALF_PAIR: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
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
        keep: Callable[[Path], bool] = lambda _: False,
        keep_bytes: int = LIFT_BYTES,
        *,
        limits: Limits = IMAGES,
        strict: bool = True,
    ) -> None:
        self.lifted: list[Lifted] = []
        self._scanner = Scanner(self, limits)
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
            return _loads(self._out) if mend else orjson.loads(self._out)
        except orjson.JSONDecodeError:
            raise ScanError("The body is not valid JSON.") from None

    def structure(self, data: bytes) -> None:
        self._put(data)

    def key(self, data: bytes) -> None:
        if data.startswith(b'"' + _MARK_TEXT):
            raise ScanError("A key in the JSON begins with a NUL character.")
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
            raise ScanError("A string in the JSON holds a control character.")
        if b"\\" in odd:
            plain = _ESCAPE.sub(b" ", part)
            broken = plain.find(b"\\")
            if broken >= 0:
                # An escape may go on in the next piece.
                if not _PARTIAL_ESCAPE.fullmatch(plain, broken):
                    raise ScanError("A string in the JSON holds a broken escape.")
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
                raise ScanError("A string in the JSON holds a broken escape.")
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
            raise ScanError("A string in the JSON begins with a NUL character.")
        else:
            self._put(bytes(self._text))
        self._text.clear()

    def _put(self, data: bytes) -> None:
        self._out += data
        if len(self._out) > self._most:
            raise ScanLimitError(
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


# -- pictures as data URLs -------------------------------------------------------------------------


class DataUrls:
    """Rewrites ``data[].b64_json`` to ``data[].url`` with a data URL while the answer streams.

    In an entry the text is called ``url`` and what is null ``b64_json``, whichever was which, so
    that a null of the one never hides the text of the other.  The type comes from the first bytes
    of each picture, because the format in an answer is what was asked for, not what was made.
    """

    def __init__(self) -> None:
        self._scanner = Scanner(self)
        self._out: list[bytes] = []
        self._after_key = False
        self._held = b""
        self._sniffing = False
        self._head = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to send for ``chunk``; raises ``ScanError`` where the answer is no JSON."""
        self._scanner.feed(chunk)
        out = b"".join(self._out)
        self._out.clear()
        return out

    def structure(self, data: bytes) -> None:
        if not self._after_key:
            self._out.append(data)
            return
        self._held += data
        value = self._held.lstrip(b" \t\r\n:")
        if value:
            self._out += [b'"url"' if value.startswith(b'"') else b'"b64_json"', self._held]
            self._after_key = False
            self._held = b""

    def key(self, data: bytes) -> None:
        match self._scanner.path():
            case ("data", int(), "b64_json" | "url"):
                self._after_key = True
            case _:
                self._out.append(data)

    def text_start(self, offset: int) -> None:  # noqa: ARG002 - the protocol's
        match self._scanner.path():
            case ("data", int(), "b64_json"):
                self._sniffing = True

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        if not self._sniffing:
            self._out.append(chunk[start:stop])
            return
        self._head += chunk[start:stop]
        if encoding.shows_type(bytes(self._head)):
            self._start_url()

    def text_stop(self) -> None:
        if self._sniffing:
            self._start_url()

    def _start_url(self) -> None:
        head = bytes(self._head)
        # What shows no type is called a PNG, the format an answer has unless asked.
        kind = encoding.image_type_of_base64(head) or "image/png"
        self._out += [f"data:{kind};base64,".encode(), head]
        self._head.clear()
        self._sniffing = False
