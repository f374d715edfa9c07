"""Requests that two servers may read differently, for the daemon alone and behind Caddy.

Each has the prompt ``outer``.  What it hides, or has in another reading, has the prompt ``hidden``.
"""

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Final

from tests.parts.gateway import rest_of

OUTER: Final = b'{"prompt": "outer"}'
LENGTH: Final = len(OUTER)
CHUNKED: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (LENGTH, OUTER)
PATH: Final = b"/v1/images/generations"
TE: Final = b"Transfer-Encoding: "
CL: Final = b"Content-Length: "


SAME: Final = 0
"""Behind Caddy as without it."""

REFUSED: Final = frozenset({400, 405, 408, 411, 413, 414, 417, 426, 431, 501, 505})


@dataclass(frozen=True)
class Raw:
    """One request: its first line, its headers and what follows them.

    ``answer`` is the status of its answer, None for any of ``REFUSED`` or the connection's end.
    Only with 200 an upstream may get anything, and then the outer prompt.  ``proxied`` is the
    status behind Caddy, which reads a request in its own way and sends what it has read.
    ``ends``: the client sends a FIN behind it, where it would have to send more.
    """

    name: str
    headers: bytes = b""
    body: bytes = b""
    answer: int | None = None
    proxied: int | None = SAME
    line: bytes = b"POST " + PATH + b" HTTP/1.1"
    host: bytes = b"Host: gateway\r\n"
    end: bytes = b"\r\n"
    ends: bool = False

    def data(self, secret: str, extra: bytes = b"") -> bytes:
        """Its bytes; ``extra`` are lines of headers."""
        key = b"Authorization: Bearer " + secret.encode() + b"\r\n"
        kind = b"Content-Type: application/json\r\n"
        hidden = b'{"prompt": "hidden"}'
        first = b"POST " + PATH + b" HTTP/1.1\r\nHost: gateway\r\n" + key + kind
        inner = first + CL + b"%d\r\n\r\n" % len(hidden) + hidden
        head = self.line + b"\r\n" + self.host + key + extra + kind + self.headers
        return (head + self.end + self.body).replace(b"<hidden>", inner)


def _chunked(name: str, coding: bytes, answer: int | None = None) -> Raw:
    return Raw(name, TE + coding + b"\r\n", CHUNKED, answer)


def _lengths(
    name: str, *values: bytes, answer: int | None = None, proxied: int | None = SAME
) -> Raw:
    return Raw(name, b"".join(CL + each + b"\r\n" for each in values), OUTER, answer, proxied)


N: Final = b"%d" % LENGTH
FRAMING: Final = (
    Raw("length and chunks", CL + b"5\r\n" + TE + b"chunked\r\n", CHUNKED, 200),
    Raw("chunks and length", TE + b"chunked\r\n" + CL + b"5\r\n", CHUNKED, 200),
    Raw("length 0 and chunks", CL + b"0\r\n" + TE + b"chunked\r\n", CHUNKED, 200),
    Raw(
        "a request behind the chunks",
        CL + b"400\r\n" + TE + b"chunked\r\n",
        CHUNKED + b"<hidden>",
        proxied=200,
    ),
    _chunked("chunked", b"chunked", 200),
    _chunked("CHUNKED", b"CHUNKED", 200),
    _chunked("a tab before it", b"\tchunked", 200),
    _chunked("spaces before it", b"  chunked", 200),
    _chunked("a space behind it", b"chunked ", 200),
    _chunked("chunked, identity", b"chunked, identity"),
    _chunked("identity, chunked", b"identity, chunked"),
    _chunked("gzip, chunked", b"gzip, chunked"),
    _chunked("chunked, chunked", b"chunked, chunked"),
    _chunked("xchunked", b"xchunked"),
    _chunked("chunkedx", b"chunkedx"),
    _chunked("quoted", b'"chunked"'),
    _chunked("a vertical tab", b"\x0bchunked"),
    _chunked("a parameter", b"chunked;q=1"),
    _chunked("none", b""),
    _chunked("two codings", b"chunked\r\nTransfer-Encoding: identity"),
    _chunked("twice", b"chunked\r\nTransfer-Encoding: chunked"),
    # Both join a line that begins with a space to the one before (RFC 9112, 5.2).
    _chunked("folded", b"\r\n chunked", 200),
    Raw("a space before the colon", b"Transfer-Encoding : chunked\r\n" + CL + N + b"\r\n", OUTER),
    Raw(
        "a space before the name", b" Transfer-Encoding: chunked\r\n" + CL + N + b"\r\n", OUTER, 415
    ),
    Raw("another name", b"Transfer_Encoding: chunked\r\n" + CL + N + b"\r\n", OUTER, 200),
    Raw("a NUL in the name", b"Transfer-Encoding\0: chunked\r\n" + CL + N + b"\r\n", OUTER),
    _lengths("equal lengths", N, N, answer=200),
    _lengths("equal lengths in one line", N + b", " + N, answer=200, proxied=None),
    _lengths("different lengths", N, b"5"),
    _lengths("different lengths in one line", N + b",5"),
    _lengths("a length with a plus", b"+" + N),
    _lengths("a length with a minus", b"-" + N),
    _lengths("a length in hex", b"0x13"),
    _lengths("a length with spaces around", b"  " + N + b"  ", answer=200),
    _lengths("a length with a space inside", b"1 9"),
    _lengths("a length with an underscore", b"1_9"),
    _lengths("a length with zeros", b"00" + N, answer=200),
    _lengths("a length of 40 digits", b"9" * 40),
    _lengths("a length of nothing", b""),
    _lengths("a length in other digits", "\u0661\u0669".encode()),
    Raw("a shorter length", CL + b"0\r\n", OUTER, None),
    Raw("a request behind the length", CL + N + b"\r\n", OUTER + b"<hidden>", proxied=200),
    Raw("a request in no body", b"", b"<hidden>", None),
)


def _body(name: str, body: bytes, answer: int | None = None, *, ends: bool = False) -> Raw:
    # Caddy has sent the head when it meets a broken chunk, and cuts its own request off.
    proxied = 502 if answer is None else SAME
    return Raw(name, TE + b"chunked\r\n", body, answer, proxied, ends=ends)


CHUNKS: Final = (
    _body("a negative chunk", b"-13\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a chunk with a plus", b"+13\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a chunk with 0x", b"0x13\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a chunk of 17 digits", b"10000000000000013\r\n" + OUTER + b"\r\n0\r\n\r\n", ends=True),
    _body("a chunk of 40 digits", b"0" * 38 + b"13\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a chunk with a space before", b" 13\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a chunk of no size", b"\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a longer chunk than said", b"5\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("an extension", b"13;a=b\r\n" + OUTER + b"\r\n0\r\n\r\n", 200),
    _body("a long extension", b"13;" + b"a" * 70_000 + b"\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("an extension with a line feed", b"13;a\nb\r\n" + OUTER + b"\r\n0\r\n\r\n"),
    _body("a trailer", b"13\r\n" + OUTER + b"\r\n0\r\nX-A: b\r\n\r\n", 200),
    _body("a trailer with framing", b"13\r\n" + OUTER + b"\r\n0\r\nContent-Length: 9\r\n\r\n", 200),
    _body("many trailers", b"13\r\n" + OUTER + b"\r\n0\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n"),
)
LINES: Final = (
    Raw("line feeds alone", CL + N + b"\n", OUTER, 200, end=b"\n"),
    Raw("a header behind a line feed", b"X-A: b\n" + CL + N + b"\r\n", OUTER, 200),
    Raw("a bare carriage return", b"X-A: b\r" + CL + N + b"\r\n" + CL + N + b"\r\n", OUTER),
    Raw("a NUL in a value", b"X-A: b\0c\r\n" + CL + N + b"\r\n", OUTER),
    Raw("a folded value", b"X-A: b\r\n c\r\n" + CL + N + b"\r\n", OUTER, 200),
    Raw("a line without a colon", b"X-A\r\n" + CL + N + b"\r\n", OUTER),
    Raw("a line of spaces", b" \r\n" + CL + N + b"\r\n", OUTER, 200),
    Raw("a name of nothing", b": b\r\n" + CL + N + b"\r\n", OUTER, None, 200),
    Raw("a name with a space", b"X A: b\r\n" + CL + N + b"\r\n", OUTER),
    Raw("two hosts", b"Host: other\r\n" + CL + N + b"\r\n", OUTER),
    Raw("no host", CL + N + b"\r\n", OUTER, host=b""),
    Raw("many headers", b"X-A: b\r\n" * 20_000 + CL + N + b"\r\n", OUTER),
    Raw("a long header", b"X-A: " + b"b" * 2_000_000 + b"\r\n" + CL + N + b"\r\n", OUTER),
)


def _target(name: str, target: bytes, answer: int | None, proxied: int | None = SAME) -> Raw:
    line = b"POST " + target + b" HTTP/1.1"
    return Raw(name, CL + N + b"\r\n", OUTER, answer, proxied, line=line)


TARGETS: Final = (
    _target("a whole URL", b"http://other" + PATH, 200),
    _target("a URL of another scheme", b"https://other" + PATH, 200),
    # What is not the gateway's goes to the text API, and there is none.
    _target("an authority", b"gateway:443", 404, 502),
    _target("an asterisk", b"*", 404, 502),
    _target("no slash", PATH[1:], 404, None),
    _target("encoded dots", b"/v1/x/%2e%2e/images/generations", 404),
    _target("dots", b"/v1/x/../images/generations", 404),
    _target("a dot", b"/v1/./images/generations", 404),
    _target("an encoded slash", b"/v1%2fimages/generations", 404),
    _target("two slashes", b"//v1/images/generations", 404),
    _target("two slashes inside", b"/v1//images/generations", 404),
    _target("an encoded letter", b"/v1/images/%67enerations", 404),
    _target("an encoded NUL", PATH + b"%00", 404),
    _target("an encoded line break", PATH + b"%0d%0aX:%20y", 404),
    _target("a deployment of dots", b"/openai/deployments/%2e%2e/images/generations", 404),
    _target("a deployment with a slash", b"/openai/deployments/a%2fb/images/generations", 404),
    _target("a NUL", PATH + b"\0", None),
    _target("a tab", PATH + b"\t", None),
    _target("a space", PATH + b" x", None),
    _target("a fragment", PATH + b"#x", 404),
    _target("a long target", PATH + b"?" + b"a" * 2_000_000, None),
)


def _line(name: str, line: bytes, answer: int | None, proxied: int | None = SAME) -> Raw:
    return Raw(name, CL + N + b"\r\n", OUTER, answer, proxied, line=line)


PROTOCOLS: Final = (
    _line("HTTP/1.0", b"POST " + PATH + b" HTTP/1.0", 200),
    _line("HTTP/0.9", b"POST " + PATH, None),
    _line("HTTP/1.2", b"POST " + PATH + b" HTTP/1.2", None, 200),
    _line("HTTP/2.0", b"POST " + PATH + b" HTTP/2.0", None),
    _line("HTTP/11", b"POST " + PATH + b" HTTP/11", None),
    _line("http/1.1", b"POST " + PATH + b" http/1.1", None),
    _line("two spaces", b"POST  " + PATH + b" HTTP/1.1", None),
    _line("a method of two words", b"PO ST " + PATH + b" HTTP/1.1", None),
    _line("CONNECT", b"CONNECT gateway:443 HTTP/1.1", 404, 502),
    _line("TRACE", b"TRACE " + PATH + b" HTTP/1.1", 405),
    _line("prior knowledge", b"PRI * HTTP/2.0", None, 502),
    Raw(
        "an upgrade to HTTP/2",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n" + CL + N + b"\r\n",
        OUTER,
        426,
    ),
    Raw(
        "an upgrade to a websocket",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + CL + N + b"\r\n",
        OUTER,
        426,
    ),
    Raw("a compressed body", b"Content-Encoding: gzip\r\n" + CL + N + b"\r\n", OUTER, 415),
    Raw("an expectation", b"Expect: 100-continue\r\n" + CL + N + b"\r\n", OUTER, 200),
    Raw("another expectation", b"Expect: a picture\r\n" + CL + N + b"\r\n", OUTER, 200, 417),
    Raw(
        "a hop that takes the key",
        b"Connection: close, Authorization\r\n" + CL + N + b"\r\n",
        OUTER,
        200,
        401,
    ),
    Raw(
        "a hop that takes the framing",
        b"Connection: close, Content-Length\r\n" + CL + N + b"\r\n",
        OUTER,
        200,
    ),
)
TABLE: Final = {
    "framing": FRAMING,
    "chunks": CHUNKS,
    "lines": LINES,
    "targets": TARGETS,
    "protocols": PROTOCOLS,
}


async def ask(port: int, data: bytes, *, ends: bool) -> bytes:
    """Send it, and give back what comes until the end, without answers such as 100."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(_send(writer, data, ends=ends))
    try:
        answer = await rest_of(reader)
    finally:
        await sending
        writer.close()
    while answer.startswith(b"HTTP/1.1 1"):
        answer = answer.partition(b"\r\n\r\n")[2]
    return answer


async def _send(writer: asyncio.StreamWriter, data: bytes, *, ends: bool) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
        if ends:
            writer.write_eof()


def status_of(answer: bytes) -> int | None:
    """The status of the one answer, None where the connection ended without one."""
    if not answer:
        return None
    assert len(re.findall(rb"^HTTP/1\.[01] \d{3}", answer, re.MULTILINE)) == 1, answer[:1000]
    return int(answer.split(b" ", 2)[1])
