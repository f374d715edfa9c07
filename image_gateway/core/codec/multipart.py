r"""Multipart bodies, both ways: taken apart while they come, put together anew.

Taking apart keeps fields, which are short, and hands out the data of files in order, to be laid
down somewhere; a file is then a span of what was laid down.  Nothing is decoded, merged or put in
another order.  Putting together writes part headers of our own around those spans: a name, a file
name and a type that nobody but us chose.

The state machine is python-multipart's; the bounds, and what a part may be, are ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from image_gateway.core.codec.body_segments import Body, Segment, Span
from image_gateway.core.errors import Refusal, wrong_value
from image_gateway.core.untrusted import shown_name

PICTURES: Final = frozenset({"image", "image[]", "mask", "mask[]", "markup", "markup[]"})
"""Names of parts that are pictures, whatever their headers say."""

LONGEST_PROMPT_BYTES: Final = 32_000 * 4
"""The longest legal prompt in UTF-8."""

_LONGEST_FIELD_BYTES: Final = 4096
_MOST_TEXT_BYTES: Final = 512 * 1024
"""All fields of a body, which are held in memory and charged to no budget."""
_HEAD_BYTES: Final = 32
_MOST_HEADERS: Final = 16
_LONGEST_HEADER: Final = 4096
_LONGEST_BOUNDARY: Final = 70
"""RFC 2046, 5.1.1."""
_LIKE_A_PICTURE: Final = re.compile(r"image|mask|markup")
_PLAIN_TRANSFERS: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class PartLimits:
    """Bounds: bytes of one part's data, parts of one body."""

    part_bytes: int
    parts: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part: a field with its ``text``, or a file whose ``data`` lies in the spool.

    ``head`` holds a file's first 32 bytes, ``declared`` the type that its headers claim.
    """

    name: str
    text: bytes | None = field(default=None, repr=False)
    data: Span | None = None
    head: bytes = field(default=b"", repr=False)
    declared: str = ""


def boundary(content_type: str | None) -> bytes:
    """The boundary that a content type names; raises ``Refusal``."""
    _, options = parse_options_header(content_type)
    found = options.get(b"boundary", b"")
    if not 0 < len(found) <= _LONGEST_BOUNDARY:
        raise _broken("Its content type names no boundary of 1 to 70 characters.")
    return found


class MultipartReader:
    """Takes a multipart body apart.  Every method raises ``Refusal``."""

    def __init__(self, boundary: bytes, limits: PartLimits) -> None:
        self._limits = limits
        self._parts: list[Part] = []
        self._out: list[bytes] = []
        self._laid_down = 0
        self._ended = False
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part = Part("")
        self._text = bytearray()
        self._text_bytes = 0
        self._start = 0
        self._head = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._read_name,
                "on_header_value": self._read_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._read_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )

    def __repr__(self) -> str:
        return f"<MultipartReader of {len(self._parts)} parts, {self._laid_down} bytes of files>"

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; gives the data of files in them, to be laid down in this order."""
        if self._ended:
            return []  # an epilogue (RFC 2046, 5.1.1): for nobody
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _broken("Its boundaries or part headers are broken.") from None
        out, self._out = self._out, []
        return out

    def close(self) -> tuple[Part, ...]:
        """The parts in the order of the wire."""
        if not self._ended:
            raise _broken("It ends before its last boundary.")
        return tuple(self._parts)

    def _begin(self) -> None:
        self._headers = {}

    def _read_name(self, data: bytes, start: int, stop: int) -> None:
        self._header_name += data[start:stop]

    def _read_value(self, data: bytes, start: int, stop: int) -> None:
        self._header_value += data[start:stop]

    def _end_header(self) -> None:
        self._headers.setdefault(self._header_name.lower(), self._header_value)
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        try:
            name = options.get(b"name", b"").decode()
        except UnicodeDecodeError:
            raise _broken("The name of a part is not UTF-8.") from None
        if kind != b"form-data" or not name:
            raise _broken("Each part needs `Content-Disposition: form-data` and a name.")
        if len(self._parts) >= self._limits.parts:
            raise _broken(f"It has more than {self._limits.parts} parts.", shown_name(name))
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_TRANSFERS:
            raise _broken("Send the part as it is, without a transfer encoding.", shown_name(name))
        if b"filename" in options and name not in PICTURES and _LIKE_A_PICTURE.match(name):
            raise Refusal(
                "unknown_parameter",
                f"`{shown_name(name)}` is not known here. Pictures are sent as `image` or "
                "`image[]`, `mask` and `markup`.",
                param=shown_name(name),
            )
        declared, _ = parse_options_header(self._headers.get(b"content-type"))
        self._part = Part(name, declared=declared.decode("latin-1"))
        self._text.clear()
        self._start = self._laid_down
        self._head = b""

    def _read_data(self, data: bytes, start: int, stop: int) -> None:
        name = self._part.name
        if name in PICTURES:
            if self._laid_down - self._start + stop - start > self._limits.part_bytes:
                raise Refusal(
                    "request_too_large",
                    f"`{name}` is larger than {self._limits.part_bytes} bytes.",
                    param=name,
                )
            piece = data[start:stop]
            if len(self._head) < _HEAD_BYTES:
                self._head += piece[: _HEAD_BYTES - len(self._head)]
            self._laid_down += len(piece)
            self._out.append(piece)
            return
        self._text += data[start:stop]
        self._text_bytes += stop - start
        longest = LONGEST_PROMPT_BYTES if name == "prompt" else _LONGEST_FIELD_BYTES
        if len(self._text) > longest:
            raise wrong_value(shown_name(name), f"is longer than {longest} bytes")
        if self._text_bytes > _MOST_TEXT_BYTES:
            most = _MOST_TEXT_BYTES
            raise wrong_value(shown_name(name), f"makes all fields longer than {most} bytes")

    def _end_part(self) -> None:
        part = self._part
        if part.name in PICTURES:
            span = Span(self._start, self._laid_down)
            part = Part(part.name, data=span, head=self._head, declared=part.declared)
        else:
            part = Part(part.name, text=bytes(self._text), declared=part.declared)
        self._parts.append(part)

    def _end(self) -> None:
        self._ended = True


def _broken(why: str, param: str | None = None) -> Refusal:
    return Refusal("invalid_body", f"The multipart body cannot be read. {why}", param=param)


# -- putting together ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file to be sent: its part's name, its MIME type, and its data."""

    name: str
    type: str
    data: Body = field(repr=False)


def form(fields: Sequence[tuple[str, str]], files: Sequence[FormFile], boundary: str) -> Body:
    """A body of ``fields`` and then ``files``.

    ``boundary`` must be unguessable: data that holds it could otherwise add parts of its own.
    """
    segments: list[Segment] = []
    text = bytearray()
    for name, value in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        text += head.encode()
        text += value.encode() + b"\r\n"
    for number, file in enumerate(files):
        extension = file.type.rpartition("/")[2]
        text += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{file.name}"; '
            f'filename="picture-{number}.{extension}"\r\nContent-Type: {file.type}\r\n\r\n'
        ).encode()
        segments += [bytes(text), *file.data]
        text = bytearray(b"\r\n")
    segments.append(bytes(text) + f"--{boundary}--\r\n".encode())
    return tuple(segments)


def _quoted(name: str) -> str:
    """A name for a part's header, which it must not end (WHATWG HTML, 4.10.21.8)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def form_type(boundary: str) -> str:
    """The content type of such a body."""
    return f"multipart/form-data; boundary={boundary}"
