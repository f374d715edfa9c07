"""A body to send, as a tuple of segments, without holding it in memory.

A segment is literal bytes or a span of a spool, so a body of any size takes only the memory of its
literals.  A span is sent unchanged, or encoded to base64 or decoded from it while it is sent; the
exact length of the body is known before its first byte is read.  The spool reads the body again
for each attempt (``edge.spool``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from image_gateway.core.codec import json_skeleton


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``stop`` of the spool, sent unchanged."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Encoded:
    """A span of bytes, sent as base64."""

    span: Span

    @property
    def length(self) -> int:
        return (self.span.length + 2) // 3 * 4


@dataclass(frozen=True, slots=True)
class Decoded:
    """A span of base64 as written in a JSON string, sent as the ``length`` bytes it encodes."""

    span: Span
    length: int


Segment = bytes | Span | Encoded | Decoded
Body = tuple[Segment, ...]


def of_lifted(lifted: Sequence[json_skeleton.LiftedString]) -> tuple[Body, ...]:
    """The bodies that replace the placeholders of a skeleton, by number."""
    return tuple((Span(string.start, string.stop),) for string in lifted)


def length(body: Body) -> int:
    """Bytes on the wire."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in body)


def from_json(value: object, texts: Sequence[Body]) -> Body:
    """JSON text of ``value``, in which the body of the same number replaces each placeholder
    (``json_skeleton.placeholder``).

    Such a body stands between quotes, so it must be base64, a URL, or the content of a JSON string
    with its escapes as received.
    """
    parts = json_skeleton.split_placeholders(orjson.dumps(value))
    segments: list[Segment] = []
    for index, part in enumerate(parts):
        if index % 2:
            segments += texts[int(part)]
        else:
            segments.append(part)
    return tuple(segments)
