"""A client's event stream: a 200 that is sent late, whole frames, comments between them.

The first frame or the first comment commits the status: before that an error has its own HTTP
status, afterwards it is an event.  One task sends all of it, so a comment is never sent within a
frame.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Protocol

from image_gateway.core.dialects import events
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.spool import JoinedBody, SpooledBody

_COMMENT: Final = b": keep-alive\n\n"
EVENTS_TYPE: Final = "text/event-stream; charset=utf-8"
_HEADERS: Final = {
    "content-type": EVENTS_TYPE,
    "cache-control": "no-cache",
}
_NOT_OF_STREAMS: Final = frozenset({"content-length", "content-type"})


class Playable(Protocol):
    """Bytes that need not be in memory."""

    def play(self) -> AsyncIterator[bytes]:
        """The bytes, from the first one."""


class EventStream:
    """The response to a call that asks for a stream; every method raises ``ClientLeftError``.

    ``numbered``: its events have sequence numbers, as those of the Responses API have.
    ``change`` gets all bytes of frames in their order and gives those to send; None: all of them.
    """

    def __init__(
        self,
        downstream: Downstream,
        *,
        numbered: bool = False,
        change: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._downstream = downstream
        self._numbered = numbered
        self._change = change

    def __repr__(self) -> str:
        return f"<EventStream {'committed' if self.committed else 'open'}>"

    @property
    def committed(self) -> bool:
        """Whether the status was sent."""
        return self._downstream.status is not None

    async def send(self, frames: Playable, fields: Mapping[str, str]) -> None:
        """Send whole frames; ``fields`` are headers for a response that has not begun."""
        await self._commit(fields)
        if self._change is None and isinstance(frames, SpooledBody | JoinedBody):
            await self._downstream.send_body(frames)
            return
        async for piece in frames.play():
            changed = piece if self._change is None else self._change(piece)
            if changed:
                await self._downstream.send(changed)

    async def comment(self, fields: Mapping[str, str]) -> None:
        """Send a comment, which keeps intermediaries from closing a silent connection."""
        await self._commit(fields)
        await self._downstream.send(_COMMENT)

    async def fail(self, body: bytes, frames: int) -> None:
        """Send an error behind ``frames`` as the last event.

        ``body`` is its JSON text in OpenAI's shape.
        """
        # Numbers begin at 0, with one for each frame.
        number = frames if self._numbered else None
        await self._downstream.send(events.error_frame(body, number))
        await self._downstream.finish()

    async def finish(self, fields: Mapping[str, str]) -> None:
        """Send the end."""
        await self._commit(fields)
        await self._downstream.finish()

    async def _commit(self, fields: Mapping[str, str]) -> None:
        if not self.committed:
            own = {name: value for name, value in fields.items() if name not in _NOT_OF_STREAMS}
            await self._downstream.start(200, {**_HEADERS, **own})
