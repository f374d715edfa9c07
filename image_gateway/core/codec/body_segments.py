"""What to send, without holding it: a body is a tuple of segments.

A segment is literal bytes or a span of a spool, so a body of any size costs what its literals cost.
A span goes out as it is, or through base64 on its way, in either direction; the exact length of the
whole is known before its first byte is read.  The spool plays it, afresh for each attempt
(``edge.spool``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from image_gateway.core.codec import json_skeleton


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``stop`` of the spool, sent as they are."""

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
    """A span of base64 as it stands in a JSON string, sent as the ``length`` bytes it is of."""

    span: Span
    length: int


Segment = bytes | Span | Encoded | Decoded
Body = tuple[Segment, ...]


def of_lifted(lifted: Sequence[json_skeleton.LiftedString]) -> tuple[Body, ...]:
    """What the placeholders of a skeleton stand for, by their numbers."""
    return tuple((Span(each.start, each.stop),) for each in lifted)


def length(body: Body) -> int:
    """Bytes on the wire."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in body)


def from_json(value: object, texts: Sequence[Body]) -> Body:
    """JSON text of ``value``, in which a placeholder (``json_skeleton.placeholder``) becomes the
    body of that number.

    Such a body stands between quotes, so it holds base64, an address, or JSON text with its
    escapes as it was received.
    """
    parts = json_skeleton.split_placeholders(orjson.dumps(value))
    segments: list[Segment] = []
    for index, part in enumerate(parts):
        if index % 2:
            segments += texts[int(part)]
        else:
            segments.append(part)
    return tuple(segments)
