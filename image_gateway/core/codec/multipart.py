r"""Multipart bodies: read while they arrive, and built anew for upstreams.

The reader keeps fields, which are short, and returns the data of files in order, for the caller to
spool; a file is then a span of the spool.  Nothing is decoded, merged or reordered.  The builder
writes its own part headers around those spans: the gateway chooses name, file name and type.

python-multipart parses; this module sets the limits and decides which parts are allowed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from image_gateway.core.codec.body_segments import Body, Segment, Span
from image_gateway.core.errors import Refusal, wrong_value
from image_gateway.core.untrusted import shown_name

_PICTURE: Final = re.compile(r"(image|mask|markup)(?:\[([0-9]{0,3})\])?")
"""Names of parts that are pictures, whatever their headers claim: PHP numbers them."""

LONGEST_PROMPT_BYTES: Final = 32_000 * 4
"""The longest allowed prompt, in UTF-8."""

_LONGEST_FIELD_BYTES: Final = 4096
_MOST_TEXT_BYTES: Final = 512 * 1024
"""All fields of a body; they are held in memory outside of any budget."""
_HEAD_BYTES: Final = 32
_MOST_HEADERS: Final = 16
_LONGEST_HEADER: Final = 4096
_LONGEST_BOUNDARY: Final = 70
"""RFC 2046, 5.1.1."""
_LIKE_A_PICTURE: Final = re.compile(r"image|mask|markup", re.IGNORECASE)
_PLAIN_TRANSFERS: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class PartLimits:
    """Limits: bytes of data per part, parts per body."""

    part_bytes: int
    parts: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part: a field with its ``text``, or a file with its ``data`` in the spool.

    ``head`` is the first 32 bytes of a file, ``digest`` the SHA-256 of all, ``declared`` the MIME
    type in its headers.  A file's ``kind`` is ``image``, ``mask`` or ``markup``, its ``index`` the
    number in its name, if any.
    """

    name: str
    text: bytes | None = field(default=None, repr=False)
    data: Span | None = None
    head: bytes = field(default=b"", repr=False)
    declared: str = ""
    kind: str = ""
    index: int | None = None
    digest: bytes = b""


def boundary(content_type: str | None) -> bytes:
    """The boundary in a content type; raises ``Refusal``."""
    _, options = parse_options_header(content_type)
    value = options.get(b"boundary", b"")
    if not 0 < len(value) <= _LONGEST_BOUNDARY:
        raise _broken(
            f"Its content type must name a boundary of 1 to {_LONGEST_BOUNDARY} characters."
        )
    return value


class MultipartReader:
    """Reads a multipart body in chunks.  Every method raises ``Refusal``."""

    def __init__(self, boundary: bytes, limits: PartLimits) -> None:
        self._limits = limits
        self._parts: list[Part] = []
        self._out: list[bytes] = []
        self._file_bytes = 0
        self._ended = False
        self._has_begun = False
        self._is_empty = True
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part = Part("")
        self._text = bytearray()
        self._text_bytes = 0
        self._start = 0
        self._head = b""
        self._hash = hashlib.sha256()
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
        return f"<MultipartReader of {len(self._parts)} parts, {self._file_bytes} bytes of files>"

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; returns the data of files in them, to be spooled in this order."""
        if self._ended:
            return []  # an epilogue, to be ignored (RFC 2046, 5.1.1)
        if not self._has_begun:
            # The parser passes over line ends and, as far as the same chunk reaches, over anything
            # after them: what it takes would depend on how the body was split.
            chunk = chunk.lstrip(b"\r\n")
            self._has_begun = bool(chunk)
        self._is_empty = self._is_empty and not chunk.strip()
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _broken("A boundary or part header is malformed.") from None
        out, self._out = self._out, []
        return out

    def close(self) -> tuple[Part, ...]:
        """The parts in the order in which they arrived."""
        if self._is_empty:
            raise Refusal("invalid_body", "The body is empty. Send a form in it.")
        if not self._ended:
            raise _broken("It ends before its closing boundary. Send it in full.")
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
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        try:
            name = options.get(b"name", b"").decode()
        except UnicodeDecodeError:
            raise _broken("A part has a name that is not valid UTF-8.") from None
        if disposition != b"form-data" or not name:
            raise _broken("Each part needs `Content-Disposition: form-data` and a name.")
        if len(self._parts) >= self._limits.parts:
            raise _broken(
                f"It has more than {self._limits.parts} parts. Send fewer.", shown_name(name)
            )
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_TRANSFERS:
            raise _broken(
                f"`{shown_name(name)}` has a transfer encoding. Send it unencoded.",
                shown_name(name),
            )
        picture = _PICTURE.fullmatch(name)
        declared, _ = parse_options_header(self._headers.get(b"content-type"))
        is_like_picture = declared.startswith(b"image/") or _LIKE_A_PICTURE.match(name)
        if b"filename" in options and picture is None and is_like_picture:
            raise Refusal(
                "unknown_parameter",
                f"Unknown parameter `{shown_name(name)}`. Send pictures as `image`, `image[]` or "
                "`image[0]`, `image[1]`, ..., and as `mask` and `markup`.",
                param=shown_name(name),
            )
        kind, index = ("", None) if picture is None else picture.groups()
        self._part = Part(
            name,
            declared=declared.decode("latin-1"),
            kind=kind,
            index=int(index) if index else None,
        )
        self._text.clear()
        self._start = self._file_bytes
        self._head = b""
        self._hash = hashlib.sha256()

    def _read_data(self, data: bytes, start: int, stop: int) -> None:
        name = self._part.name
        if self._part.kind:
            if self._file_bytes - self._start + stop - start > self._limits.part_bytes:
                raise Refusal(
                    "request_too_large",
                    f"`{name}` is larger than {self._limits.part_bytes} bytes. Send a smaller one.",
                    param=name,
                )
            piece = data[start:stop]
            if len(self._head) < _HEAD_BYTES:
                self._head += piece[: _HEAD_BYTES - len(self._head)]
            self._file_bytes += len(piece)
            self._hash.update(piece)
            self._out.append(piece)
            return
        self._text += data[start:stop]
        self._text_bytes += stop - start
        longest = LONGEST_PROMPT_BYTES if name == "prompt" else _LONGEST_FIELD_BYTES
        if len(self._text) > longest:
            raise wrong_value(shown_name(name), f"must be at most {longest} bytes long")
        if self._text_bytes > _MOST_TEXT_BYTES:
            raise wrong_value(
                shown_name(name),
                f"exceeds the limit of {_MOST_TEXT_BYTES} bytes for all text fields together",
            )

    def _end_part(self) -> None:
        part = self._part
        if part.kind:
            data = Span(self._start, self._file_bytes)
            part = replace(part, data=data, head=self._head, digest=self._hash.digest())
        else:
            part = replace(part, text=bytes(self._text))
        self._parts.append(part)

    def _end(self) -> None:
        self._ended = True


def _broken(reason: str, param: str | None = None) -> Refusal:
    return Refusal("invalid_body", f"Invalid multipart body. {reason}", param=param)


# -- building --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file to send: the name of its part, its MIME type, and its data."""

    name: str
    type: str
    data: Body = field(repr=False)


def form(fields: Sequence[tuple[str, str]], files: Sequence[FormFile], boundary: str) -> Body:
    """A body of ``fields`` followed by ``files``.

    ``boundary`` must be unguessable: otherwise data that contains it could add parts.
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
    """A name escaped for a part header (WHATWG HTML, 4.10.21.8)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def form_type(boundary: str) -> str:
    """The content type of a multipart body."""
    return f"multipart/form-data; boundary={boundary}"
