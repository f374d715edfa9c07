"""JSON of clients and upstreams (``core.codec.json_scanner``, ``json_skeleton``, ``data_urls``)."""

from dataclasses import replace
from typing import Any

import orjson

from image_gateway.core.codec import body_segments, data_urls, json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.codec.json_scanner import ScanError
from tests.fuzz.values import Values, cut, stretched

LIMITS = replace(json_scanner.IMAGES, depth=12, key_bytes=64, tokens=400, skeleton_bytes=1500)


class Copy:
    """A handler that puts the events together again, with the path of each value string."""

    def __init__(self) -> None:
        self.scanner = json_scanner.Scanner(self, LIMITS)
        self.out = bytearray()
        self.strings: list[tuple[json_scanner.Path, int]] = []

    def structure(self, data: bytes) -> None:
        self.out += data

    def key(self, data: bytes) -> None:
        self.out += data

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        assert start < stop
        self.out += chunk[start:stop]

    def text_start(self, offset: int) -> None:
        assert offset == len(self.out)
        assert len(self.scanner.path()) == self.scanner.depth <= LIMITS.depth
        self.strings.append((self.scanner.path(), offset))

    def text_stop(self) -> None:
        pass


def scan(pieces: list[bytes]) -> object:
    """What a scanner gives out, or its error."""
    copy = Copy()
    try:
        for piece in pieces:
            copy.scanner.feed(piece)
    except ScanError as error:
        return type(error), error.position
    return bytes(copy.out), copy.strings


def skeleton(pieces: list[bytes], **options: Any) -> object:
    """A parsed skeleton with its lifted strings, or its error."""
    reader = json_skeleton.JsonSkeleton(limits=LIMITS, **options)
    try:
        for piece in pieces:
            reader.feed(piece)
        return reader.close(), reader.lifted
    except ScanError as error:
        # Of several mistakes in one string, any may be told.
        return type(error), error.position


def rewritten(pieces: list[bytes]) -> object:
    """An answer whose pictures became data URLs."""
    urls = data_urls.DataUrls()
    try:
        return b"".join(map(urls.feed, pieces)), urls.found
    except ScanError as error:
        return type(error), error.position


def check(data: bytes) -> None:
    """Any cut gives the same; only ``ScanError`` is raised; a skeleton is what it stands for."""
    values = Values(data)
    seed = values.byte() or 1
    text = stretched(values.rest())
    pieces = cut(text, seed)
    whole = scan([text])
    assert scan(pieces) == whole
    if isinstance(whole, tuple) and isinstance(whole[0], bytes):
        # A key is given out once it is complete.
        assert text.startswith(whole[0])
        assert len(text) - len(whole[0]) <= LIMITS.key_bytes + 1
    for options in ({"digests": True}, {"strict": False, "mends": True}, {"mends": True}):
        read = skeleton([text], **options)
        assert skeleton(pieces, **options) == read, options
    check_parsed(text)
    urls = rewritten([text])
    assert rewritten(pieces) == urls
    check_urls(text, urls)


def check_parsed(text: bytes) -> None:
    """A strict skeleton is taken if and only if the text is JSON within the limits; built again,
    it has the same value.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
        is_json = False
    else:
        is_json = True
    read = skeleton([text])
    assert isinstance(read, tuple)
    parsed, lifted = read
    if not isinstance(lifted, list):
        return  # refused: by the limits, for a NUL, or as the parser does
    assert is_json, "the skeleton takes what the parser refuses"
    body = body_segments.from_json(parsed, body_segments.of_lifted(lifted))
    written = b"".join(
        text[part.start : part.stop] if isinstance(part, Span) else part
        for part in body
        if isinstance(part, bytes | Span)
    )
    assert orjson.loads(written) == value
    assert body_segments.length(body) == len(written)


def check_urls(text: bytes, urls: object) -> None:
    """A rewritten answer is JSON where the answer is, and longer by no more than its new heads."""
    assert isinstance(urls, tuple)
    made, found = urls
    if not isinstance(made, bytes):
        return
    assert len(made) <= len(text) + text.count(b'"') * len(b"data:image/svg+xml;base64,")
    for url in found:
        assert made[url.start : url.base64_start].startswith(b"data:image/")
        assert made[url.stop : url.stop + 1] in {b'"', b""}
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    orjson.loads(made)
