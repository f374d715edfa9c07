"""An upstream's events, one after the other, each spooled whole before it is used.

An event of 30 MB needs no more memory than a chunk: its bytes go into a spool of its own as they
arrive, and only its JSON skeleton is parsed.  An event is sent on only once it is complete, so for
the client a stream that is cut within an event is cut between two.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum, auto
from typing import Final, Self

from image_gateway.core import headers
from image_gateway.core.codec import json_scanner, json_skeleton, sse
from image_gateway.core.codec.sse import EventSplitter, Piece
from image_gateway.core.dialects.events import Event
from image_gateway.edge import turns
from image_gateway.edge.spool import Spool, SpooledBody, Spools
from image_gateway.edge.turns import Turns
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

MOST_BYTES: Final = 256 * 1024 * 1024
"""Of one event; the largest legal one is under 150 MB (ten megapixels, uncompressed, in base64)."""

_MOST_LINES: Final = 10_000
_MOST_EVENTS: Final = 10_000
"""Lines of one event and events of one response: each costs some microseconds of the event loop, so
an upstream that sends nothing else must be stopped."""

MOST_EVENTS_OF_TEXT: Final = 1_000_000
"""Events of a response in which a model may also think and write text: each word is an event."""


class Keep(Enum):
    """What of an event is spooled."""

    FRAME = auto()
    """All of it, to be sent on unchanged; long strings can be used if ``is_quotable``."""
    DATA = auto()
    """Only its data, for code that uses the long strings in it."""


class SpooledEvent:
    """One whole event and the spool that holds it; close it by ``with`` or ``close``."""

    def __init__(self, spool: Spool) -> None:
        self.event = Event(None)
        self.spool = spool
        self.is_quotable = True
        """Whether the event's long strings are spans of the spool.  They are not if the data of a
        whole frame (``Keep.FRAME``) has several lines."""
        self.has_frame = True
        """Whether the event came as one (``response_event_reader``)."""

    def __repr__(self) -> str:
        return f"<SpooledEvent {self.event.kind()!r} in {self.spool!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def own_bytes(self) -> int:
        """Bytes of the event beside its long strings."""
        return self.spool.size - sum(string.length for string in self.event.lifted)

    def close(self) -> None:
        """Free the bytes; safe to call twice."""
        self.spool.close()

    def frame(self) -> SpooledBody:
        """The event as received (``Keep.FRAME``)."""
        return self.spool.whole()


async def has_events(response: UpstreamResponse, first_seconds: float, idle_seconds: float) -> bool:
    """Whether a body has events, by its first bytes, which stay unread; else by its media type.

    Raises ``LostError``.
    """
    start, deadline = b"", time.monotonic() + first_seconds
    while (decided := sse.are_events(start)) is None:
        # White space does not count: some upstreams send it for as long as they work.
        seconds = max(deadline - time.monotonic(), 0)
        chunk = await response.chunk(min(seconds, idle_seconds) if start.strip() else seconds)
        if not chunk:
            break
        start += chunk
    response.unread(start)
    if decided is None:
        media_type = headers.media_type(response.headers.get("content-type"))
        return media_type == "text/event-stream"
    return decided


class EventReader:
    """The events of one response; close it by ``with``.

    ``deadline`` is when the next event must have started, on the monotonic clock; within an event
    ``idle_seconds`` is the longest silence.  Events without data, such as comments, are skipped.
    """

    def __init__(  # noqa: PLR0913 - callers choose each of them
        self,
        response: UpstreamResponse,
        spools: Spools,
        keep: Keep,
        deadline: float,
        idle_seconds: float,
        *,
        most_events: int = _MOST_EVENTS,
        limits: json_scanner.ScanLimits = json_scanner.ANSWER,
    ) -> None:
        self._response = response
        self._spools = spools
        self._keep = keep
        self._deadline = deadline
        self._idle_seconds = idle_seconds
        self._splitter = EventSplitter()
        self._pieces: Iterator[Piece] = iter(())
        self._skeleton: json_skeleton.JsonSkeleton | None = None
        self._has_data = False
        self._data_start = 0
        self._events = 0
        self._most_events = most_events
        self._limits = limits
        self._turns = Turns()
        self._spooled: SpooledEvent | None = None

    def __repr__(self) -> str:
        return f"<EventReader {self._splitter!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._spooled is not None:
            self._spooled.close()

    def hurry(self) -> None:
        """The pictures have arrived: the next event must start within ``idle_seconds``."""
        self._deadline = min(self._deadline, time.monotonic() + self._idle_seconds)

    async def next(self) -> SpooledEvent | None:
        """The next event, None at the end of the response; raises ``LostError``."""
        while True:
            for piece in self._pieces:
                # A chunk may hold thousands of lines and events, which never wait.
                await self._turns.give()
                spooled = await self._take(piece)
                if spooled is not None:
                    return spooled
            if self._splitter.lines > _MOST_LINES:
                raise LostError("TooManyLines")
            chunk = await self._response.chunk(self._seconds())
            if chunk:
                self._pieces = self._splitter.feed(chunk)
            elif self._splitter.begun:
                # Only its last blank line may be missing.
                self._pieces = self._splitter.close()
                return await self._last()
            else:
                return None

    def _seconds(self) -> float:
        if self._splitter.begun:
            return self._idle_seconds
        return max(self._deadline - time.monotonic(), 0)

    async def _last(self) -> SpooledEvent | None:
        for piece in self._pieces:
            spooled = await self._take(piece)
            if spooled is not None:
                if spooled.event.value is not None:
                    return spooled
                spooled.close()
                raise LostError("CutEvent")
        return None

    async def _take(self, piece: Piece) -> SpooledEvent | None:
        if not piece.raw:
            return None
        if self._spooled is None:
            self._begin_event()
            self._spooled = SpooledEvent(self._spools.open(paid=True))
            self._skeleton = json_skeleton.JsonSkeleton(
                limits=self._limits, strict=self._keep is Keep.DATA, mends=True
            )
            self._has_data = False
            self._data_start = 0
        spooled = self._spooled
        if piece.data and self._keep is Keep.FRAME:
            # Only the first piece of a line has more than its data: the field's name.
            if self._has_data:
                spooled.is_quotable &= piece.raw == piece.data
            else:
                self._data_start = spooled.spool.size + len(piece.raw) - len(piece.data)
        await spooled.spool.write(piece.raw if self._keep is Keep.FRAME else piece.data)
        if spooled.spool.size > MOST_BYTES:
            raise LostError("EventTooLarge")
        if piece.data:
            self._has_data = True
            await self._scan(piece.data)
        if not piece.ends:
            return None
        self._spooled = None
        if not self._has_data:
            spooled.close()
            return None
        spooled.event = self._event(piece.event)
        return spooled

    def _begin_event(self) -> None:
        """Enforce the limits of events that follow each other without a pause."""
        self._events += 1
        if self._events > self._most_events:
            raise LostError("TooManyEvents")
        if time.monotonic() > self._deadline + self._idle_seconds:
            raise LostError("TimeoutError")

    async def _scan(self, data: bytes) -> None:
        for piece in turns.pieces(data):
            if self._skeleton is None:
                return
            try:
                self._skeleton.feed(piece)
            except json_scanner.ScanError:
                self._skeleton = None
            await self._turns.give()

    def _event(self, name: str | None) -> Event:
        if self._skeleton is None:
            return Event(name)
        try:
            value = self._skeleton.close()
        except json_scanner.ScanError:
            return Event(name)
        at = self._data_start
        lifted = [
            replace(string, start=string.start + at, stop=string.stop + at)
            for string in self._skeleton.lifted
        ]
        return Event(name, value, lifted)
