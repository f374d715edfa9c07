"""What to send upstream, without holding it: a body is a tuple of segments.

A segment is literal bytes or a span of the spool, so a body of any size costs what its literals
cost; its exact length is known before the first byte is read.  The spool plays it, afresh for each
attempt (``edge.spool``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from image_gateway.core import scan


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``stop`` of the spool, sent as they are."""

    start: int
    stop: int


Segment = bytes | Span
Body = tuple[Segment, ...]


def length(body: Body) -> int:
    """Bytes on the wire."""
    return sum(
        segment.stop - segment.start if isinstance(segment, Span) else len(segment)
        for segment in body
    )


def from_json(value: object, lifted: Sequence[scan.Lifted]) -> Body:
    """JSON text of ``value``, in which marks of lifted strings become spans of the spool.

    The lifted text is sent as it was received, escapes and all: it stood between quotes and does
    so again.
    """
    parts = scan.split_marks(orjson.dumps(value))
    segments: list[Segment] = []
    for index, part in enumerate(parts):
        if index % 2:
            found = lifted[int(part)]
            segments.append(Span(found.start, found.stop))
        else:
            segments.append(part)
    return tuple(segments)
