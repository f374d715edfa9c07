"""Multipart bodies of clients (``core.codec.multipart``)."""

import hashlib
import logging

from image_gateway.core.codec import multipart
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.codec.multipart import FormFile, MultipartReader, Part, PartLimits
from image_gateway.core.errors import Refusal
from tests.fuzz.values import Values, cut

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # as in the daemon
LIMITS = PartLimits(part_bytes=512, parts=8)

Outcome = tuple[tuple[Part, ...], bytes] | tuple[str, str]


def read(boundary: bytes, pieces: list[bytes], limits: PartLimits = LIMITS) -> Outcome:
    """The parts and the bytes of all files, or the code and the words of the refusal."""
    reader = MultipartReader(boundary, limits)
    files = bytearray()
    try:
        for piece in pieces:
            for data in reader.feed(piece):
                files += data
        return reader.close(), bytes(files)
    except Refusal as refusal:
        refusal.body()
        return refusal.code, refusal.message


def check(data: bytes) -> None:
    """Any cut gives the same parts; only ``Refusal`` is raised; files and fields stay in bounds."""
    values = Values(data)
    seed = values.byte()
    content_type = b"multipart/form-data; boundary=" + (values.some() or b"B")
    body = values.rest()
    try:
        boundary = multipart.boundary(content_type.decode("latin-1"))
    except Refusal:
        return
    whole = read(boundary, [body])
    assert read(boundary, cut(body, seed)) == whole
    assert read(boundary, cut(body, 0)) == whole
    parts, files = whole
    if isinstance(files, str) or isinstance(parts, str):
        return
    assert len(parts) <= LIMITS.parts
    assert len(files) + sum(len(part.text or b"") for part in parts) <= len(body)
    at = 0
    for part in parts:
        if part.data is None:
            assert part.text is not None
            assert not part.kind
            continue
        assert part.data.start == at
        at = part.data.stop
        content = files[part.data.start : part.data.stop]
        assert len(content) <= LIMITS.part_bytes
        assert part.head == content[:32]
        assert part.digest == hashlib.sha256(content).digest()
    assert at == len(files)
    check_written(parts, files)


def check_written(parts: tuple[Part, ...], files: bytes) -> None:
    """A form that the gateway writes of these parts is read as the same parts."""
    fields = [
        (part.name, part.text.decode())
        for part in parts
        if part.text is not None and _is_utf8(part.text) and not set(part.name) & set('"\\\r\n')
    ]
    spans = [part.data for part in parts if part.data is not None]
    written = multipart.form(
        fields, [FormFile("image", "image/png", (span,)) for span in spans], "a" * 40
    )
    body = b"".join(
        files[each.start : each.stop] if isinstance(each, Span) else _literal(each)
        for each in written
    )
    if b"-" * 2 + b"a" * 40 in files or any("--" + "a" * 40 in text for _, text in fields):
        return  # a boundary that nobody can guess is the caller's promise
    again, data = read(b"a" * 40, [body], PartLimits(10_000, 16))
    assert not isinstance(again, str)
    assert data == files
    assert [(part.name, part.text.decode()) for part in again if part.text is not None] == fields
    assert [part.data for part in again if part.data is not None] == spans


def _literal(segment: object) -> bytes:
    assert isinstance(segment, bytes)
    return segment


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
