"""One range of bytes of a file (RFC 9110, 14): what a ``Range`` header asks for.

Only ``bytes`` and only one range at a time; anything else, and anything broken, gets the whole
file, as the RFC allows.  Only a GET may ask for a range; that is the caller's business.
"""

import re
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,100})-([0-9]{0,100})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Selection:
    """The bytes from ``start`` to before ``stop``, and the answer's status and ``Content-Range``.

    200: the whole file.  206: a part of it.  416: there are no such bytes; the range is empty.
    """

    status: int
    start: int
    stop: int
    content_range: str | None = None


def select(length: int, wanted: str | None, if_range: str | None, etag: str) -> Selection:
    """The bytes of a file of ``length`` that a request asks for.

    ``wanted`` and ``if_range`` are the values of ``Range`` and ``If-Range``; None: not sent.
    ``etag`` is the file's own with its quotes; a range with another one in ``If-Range``, a weak one
    or a date, gets the whole file.
    """
    whole = Selection(200, 0, length)
    match = _RANGE.fullmatch(wanted or "")
    is_other = if_range is not None and (if_range != etag or if_range.startswith("W/"))
    if match is None or is_other:
        return whole
    first, last = match[1], match[2]
    if first:
        start, stop = int(first), min(int(last) + 1, length) if last else length
        if last and int(last) < start:
            return whole  # not a range at all
    elif last:
        start, stop = length - min(int(last), length), length
    else:
        return whole
    if start < stop:
        return Selection(206, start, stop, f"bytes {start}-{stop - 1}/{length}")
    return Selection(416, 0, 0, f"bytes */{length}")
