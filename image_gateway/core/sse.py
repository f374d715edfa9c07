r"""Server-sent events, cut into frames while the bytes come (WHATWG HTML, 9.2).

A frame is held by nobody here, for one event may be 30 MB: its bytes are handed on in pieces, and
told apart into what is its data and what is not.  Every end of a line becomes ``\n``, so that what
comes out does not depend on how the bytes came in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_LONGEST_NAME: Final = 256
"""Bytes of a line that are looked at for an event's name; the rest is passed on unread."""

_DATA: Final = b"data:"
_EVENT: Final = b"event:"
_CR: Final = 13
_LF: Final = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a frame: ``raw`` as they go on, ``data`` those of its data field.

    ``ends``: the frame is complete, blank line and all; ``event`` then is its name, if it has one.
    """

    raw: bytes = field(repr=False)
    data: bytes = field(default=b"", repr=False)
    ends: bool = False
    event: str | None = None


def _find(chunk: bytes, byte: bytes, start: int, known: int) -> int:
    """Where ``byte`` comes next, the chunk's length where it does not; ``known`` from before."""
    if known >= start:
        return known
    found = chunk.find(byte, start)
    return len(chunk) if found < 0 else found


class Splitter:
    """Cuts a stream of events into pieces of frames."""

    def __init__(self) -> None:
        self._line = bytearray()  # the line's first bytes
        self._in_data = False
        self._decided = False
        self._skip_space = False
        self._lines_of_data = 0
        self._after_cr = False
        self._event: str | None = None
        self.inside = False
        """Whether a frame has begun and not ended."""

    def __repr__(self) -> str:
        return f"<Splitter {'inside a frame' if self.inside else 'between frames'}>"

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The pieces in the next bytes; use them up before the next call."""
        position = 0
        if self._after_cr and chunk:
            # A CRLF that was cut in two is one end of a line.
            position = int(chunk[0] == _LF)
            self._after_cr = False
        lf = cr = -1
        while position < len(chunk):
            # Two searches at memory speed, each once for every byte; a regular expression takes
            # ten times as long.
            lf = _find(chunk, b"\n", position, lf)
            cr = _find(chunk, b"\r", position, cr)
            stop = min(lf, cr)
            if stop > position:
                yield self._read(chunk[position:stop])
            if stop == len(chunk):
                return
            position = stop + 1
            if chunk[stop] == _CR:
                self._after_cr = position == len(chunk)
                position += chunk[position : position + 1] == b"\n"
            yield from self._end_line()

    def close(self) -> Iterator[Piece]:
        """What a frame lacks that was cut by the end of the stream, as though it had come."""
        if self._line:
            yield from self._end_line()
        if self.inside:
            yield from self._end_line()

    def _read(self, part: bytes) -> Piece:
        """Some bytes of a line."""
        self.inside = True
        if self._in_data:
            return Piece(part, self._value(part))
        if self._decided:
            self._line += part[: max(_LONGEST_NAME - len(self._line), 0)]
            return Piece(part)
        self._line += part
        if not self._line.startswith(_DATA):
            self._decided = not _DATA.startswith(self._line)
            del self._line[_LONGEST_NAME:]
            return Piece(part)
        self._decided = self._in_data = self._skip_space = True
        self._lines_of_data += 1
        value = self._value(bytes(self._line[len(_DATA) :]))
        del self._line[len(_DATA) :]
        # Lines of data are joined by a line feed.
        return Piece(part, value if self._lines_of_data == 1 else b"\n" + value)

    def _value(self, part: bytes) -> bytes:
        """Data without the one space that may stand before it."""
        if self._skip_space and part:
            self._skip_space = False
            return part.removeprefix(b" ")
        return part

    def _end_line(self) -> Iterator[Piece]:
        if self._line:
            if self._line.startswith(_EVENT):
                name = self._line[len(_EVENT) :].removeprefix(b" ")
                self._event = name.decode("utf-8", "replace")
            self._line.clear()
            self._decided = self._in_data = self._skip_space = False
            yield Piece(b"\n")
        elif self.inside:
            event, self._event = self._event, None
            self.inside = False
            self._lines_of_data = 0
            yield Piece(b"\n", ends=True, event=event)
