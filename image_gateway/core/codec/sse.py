r"""Server-sent events, split into frames while the bytes arrive (WHATWG HTML, 9.2).

No frame is held, because one event may be 30 MB: its bytes are passed on in pieces, and the bytes
of its data field also on their own.  Comments are dropped, and every line end becomes ``\n``, so
the output does not depend on how the input was split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_LONGEST_NAME: Final = 256
"""Bytes of a line that are searched for an event's name; the rest is passed on unread."""

_BOM: Final = b"\xef\xbb\xbf"
_SPACE: Final = b" \t\r\n"
_STARTS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_MOST_SPACE: Final = 64 * 1024
"""Bytes of white space before the decision; some upstreams send spaces while they work."""
_DATA: Final = b"data:"
_EVENT: Final = b"event:"
_COMMENT: Final = b":"
_CR: Final = 13
_LF: Final = 10


def are_events(start: bytes) -> bool | None:
    """Whether a body that begins so has events; None if it could still be either."""
    if len(start) < len(_BOM) and _BOM.startswith(start):
        return None
    text = start.removeprefix(_BOM).lstrip(_SPACE)
    if text.startswith(_STARTS):
        return True
    may_be = not text or any(field.startswith(text) for field in _STARTS)
    return None if may_be and len(start) < _MOST_SPACE else False


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a frame: ``raw`` is to be forwarded, ``data`` is from its data field.

    A line that belongs to no frame is a piece without bytes, so that its reader can count its work.
    ``ends``: the frame is complete, with its blank line; ``event`` is then its name, if any.
    """

    raw: bytes = field(repr=False)
    data: bytes = field(default=b"", repr=False)
    ends: bool = False
    event: str | None = None


class EventSplitter:
    """Splits a stream of events into pieces of frames."""

    def __init__(self) -> None:
        self._start = b""
        self._started = False
        self._line = bytearray()  # the first bytes of the line
        self._field = b""  # data:, event:, a colon for a comment, else the first byte
        self._skip_space = False
        self._lines_of_data = 0
        self._after_cr = False
        self._event: str | None = None
        self._inside = False
        self.begun = False
        """Whether the name or the data of an event has begun."""
        self.lines = 0
        """Lines of the frame so far."""

    def __repr__(self) -> str:
        return f"<EventSplitter {'within an event' if self.begun else 'between events'}>"

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The pieces in the next bytes; read all of them before the next call."""
        if not self._started:
            self._start += chunk
            if len(self._start) < len(_BOM) and _BOM.startswith(self._start):
                return
            chunk, self._started = self._start.removeprefix(_BOM), True
        position = 0
        if self._after_cr and chunk:
            # A CRLF that was split in two is one line end.
            position = int(chunk[0] == _LF)
            self._after_cr = False
        lf = cr = -1
        while position < len(chunk):
            # Two searches at memory speed, each of which reads each byte once; a regular expression
            # takes ten times as long.
            lf = _find(chunk, b"\n", position, lf)
            cr = _find(chunk, b"\r", position, cr)
            stop = min(lf, cr)
            if stop > position:
                yield from self._read(chunk[position:stop])
            if stop == len(chunk):
                return
            position = stop + 1
            if chunk[stop] == _CR:
                self._after_cr = position == len(chunk)
                position += chunk[position : position + 1] == b"\n"
            yield from self._end_line()

    def close(self) -> Iterator[Piece]:
        """The end of a frame that the end of the stream cut off, as though it had arrived."""
        if self._line:
            yield from self._end_line()
        if self._inside:
            yield from self._end_line()

    def _read(self, part: bytes) -> Iterator[Piece]:
        """Some bytes of a line."""
        if self._field == _DATA:
            yield Piece(part, self._value(part))
        elif self._field:
            self._line += part[: max(_LONGEST_NAME - len(self._line), 0)]
            if self._field != _COMMENT:
                yield Piece(part)
        else:
            yield from self._begin_line(part)

    def _begin_line(self, part: bytes) -> Iterator[Piece]:
        """The first bytes of a line, until they show which field it is."""
        held = len(self._line)
        self._line += part
        if self._line.startswith(_COMMENT):
            self._field = _COMMENT
            return
        self._inside = True
        for field_name in (_DATA, _EVENT):
            if self._line.startswith(field_name):
                self._field = field_name
                self.begun = True
        if self._field == _DATA:
            self._lines_of_data += 1
            self._skip_space = True
            value = self._value(part[len(_DATA) - held :])
            # Lines of data are joined by a line feed.
            yield Piece(part, value if self._lines_of_data == 1 else b"\n" + value)
        else:
            if not (_DATA.startswith(self._line) or _EVENT.startswith(self._line)):
                self._field = self._field or bytes(self._line[:1])
            yield Piece(part)
        del self._line[_LONGEST_NAME:]

    def _value(self, part: bytes) -> bytes:
        """Data without the one space that may precede it."""
        if self._skip_space and part:
            self._skip_space = False
            return part.removeprefix(b" ")
        return part

    def _end_line(self) -> Iterator[Piece]:
        self.lines += 1
        if self._line:
            field_name, self._field = self._field, b""
            if field_name == _EVENT:
                name = self._line[len(_EVENT) :].removeprefix(b" ")
                self._event = name.decode("utf-8", "replace")
            self._line.clear()
            self._skip_space = False
            yield Piece(b"" if field_name == _COMMENT else b"\n")
        elif not self._inside:
            yield Piece(b"")
        else:
            event, self._event = self._event, None
            self._inside = self.begun = False
            self._lines_of_data = self.lines = 0
            yield Piece(b"\n", ends=True, event=event)


def _find(chunk: bytes, byte: bytes, start: int, last: int) -> int:
    """The next index of ``byte``, else the chunk's length; ``last`` is the previous result."""
    if last >= start:
        return last
    index = chunk.find(byte, start)
    return len(chunk) if index < 0 else index
