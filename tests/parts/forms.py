"""Multipart bodies, built by hand and read by somebody else's parser."""

import base64
import email.parser
import email.policy
from dataclasses import dataclass, field

from tests.parts.upstream import Call

BOUNDARY = "test-boundary-7d1f"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Piece:
    """One part of a body."""

    name: str
    data: bytes = field(repr=False)
    filename: str | None = None
    type: str | None = None


def body(*pieces: Piece | tuple[str, str]) -> bytes:
    """A body with these parts; a pair is a text field."""
    out = b""
    for each in pieces:
        piece = Piece(each[0], each[1].encode()) if isinstance(each, tuple) else each
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{piece.name}"'.encode()
        if piece.filename is not None:
            out += f'; filename="{piece.filename}"'.encode()
        if piece.type is not None:
            out += f"\r\nContent-Type: {piece.type}".encode()
        out += b"\r\n\r\n" + piece.data + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


def pieces(call: Call) -> list[Piece]:
    """The parts of a call that arrived, read by the standard library's parser of mail."""
    head = f"content-type: {call.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + call.body)
    assert message.is_multipart(), call.headers["content-type"]
    found = []
    for part in message.iter_parts():
        disposition = part["content-disposition"]
        assert disposition.content_disposition == "form-data"
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        filename = disposition.params.get("filename")
        kind = part.get_content_type() if filename is not None else None
        found.append(Piece(disposition.params["name"], data, filename, kind))
    return found


def data_url(data: bytes, kind: str = "png") -> str:
    """A picture as JSON carries it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
