"""A client's event stream: a 200 that is sent late, whole frames, comments between them.

The first frame or the first comment commits the status: before that an error has its own HTTP
status, afterwards it is an event.  Comments keep intermediaries from closing a connection that is
silent for minutes; a comment is never sent within a frame.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from image_gateway.core.dialects import events
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.spool import JoinedBody, SpooledBody

_COMMENT: Final = b": keep-alive\n\n"
_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
}


class EventStream:
    """The response to a call that asks for a stream.

    ``numbered``: its events have sequence numbers, as those of the Responses API have.
    """

    def __init__(
        self, downstream: Downstream, keepalive_seconds: float, *, numbered: bool = False
    ) -> None:
        self._downstream = downstream
        self._keepalive_seconds = keepalive_seconds
        self._numbered = numbered
        self._headers: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._keepalive_task: asyncio.Task[None] | None = None
        self._last_sent = 0.0
        self._in_frame = False
        self.frames = 0
        """Frames that were sent, whole or in part; comments do not count."""

    def __repr__(self) -> str:
        return f"<EventStream {'committed' if self.committed else 'open'}, {self.frames} frames>"

    @property
    def committed(self) -> bool:
        """Whether the status was sent."""
        return self._downstream.status is not None

    def keep_alive(self) -> None:
        """Send a comment after each silence from now on; a second call does nothing."""
        if self._keepalive_task is None:
            self._last_sent = time.monotonic()
            self._keepalive_task = asyncio.create_task(self._keep_alive())

    def quiet(self) -> None:
        """Send no more comments."""
        if self._keepalive_task is not None:
            self._keepalive_task.cancel()

    def name_headers(self, headers: Mapping[str, str]) -> None:
        """Set headers of an upstream's response; without effect once headers were sent."""
        self._headers = {
            name: value
            for name, value in headers.items()
            if name not in {"content-length", "content-type"}
        }

    async def send(self, frame: SpooledBody | JoinedBody) -> None:
        """Send a whole frame; raises ``ClientLeftError``, as ``fail`` and ``finish`` do."""
        async with self._lock:
            await self._commit()
            self.frames += 1
            self._in_frame = True
            async for piece in frame.play():
                await self._downstream.send(piece)
            self._in_frame = False
            self._last_sent = time.monotonic()

    async def fail(self, body: bytes) -> None:
        """Send an error as the last event; ``body`` is its JSON text in OpenAI's shape.

        After a frame that was sent in part no event can follow: the response is cut off.
        """
        self.quiet()
        async with self._lock:
            if self._in_frame:
                self._downstream.break_off()
                return
            # Numbers begin at 0, with one for each frame.
            number = self.frames if self._numbered else None
            await self._downstream.send(events.error_frame(body, number))
            await self._downstream.finish()

    async def finish(self, *frames: SpooledBody | JoinedBody) -> None:
        """Send the last frames and the end; cuts off after a frame that was sent in part."""
        self.quiet()
        if self._in_frame:
            self._downstream.break_off()
            return
        for frame in frames:
            await self.send(frame)
        await self._downstream.finish()

    async def _commit(self) -> None:
        if not self.committed:
            await self._downstream.start(200, {**_HEADERS, **self._headers})

    async def _keep_alive(self) -> None:
        with contextlib.suppress(ClientLeftError):
            while True:
                await asyncio.sleep(self._last_sent + self._keepalive_seconds - time.monotonic())
                async with self._lock:
                    if self._in_frame:
                        return  # a frame was sent in part: a comment would end it
                    if time.monotonic() < self._last_sent + self._keepalive_seconds:
                        continue
                    await self._commit()
                    await self._downstream.send(_COMMENT)
                    self._last_sent = time.monotonic()
