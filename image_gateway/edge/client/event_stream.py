"""A client's stream of events: a 200 that is given late, whole frames, comments between them.

The status is committed by the first frame or the first comment, whichever comes first: before that
an error still has its HTTP status, afterwards it is an event.  Comments keep intermediaries from
cutting a connection on which nothing moves for minutes; they never stand within a frame.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from image_gateway.core.dialects import events
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.spool import SpooledBody

_COMMENT: Final = b": keep-alive\n\n"
_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
}


class EventStream:
    """The answer to a call that asked for a stream."""

    def __init__(self, downstream: Downstream, keepalive_seconds: float) -> None:
        self._downstream = downstream
        self._keepalive_seconds = keepalive_seconds
        self._headers: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._beat: asyncio.Task[None] | None = None
        self._moved = 0.0
        self._within = False
        self.frames = 0
        """Frames that went out whole or in part; comments are none."""

    def __repr__(self) -> str:
        return f"<EventStream {'committed' if self.committed else 'open'}, {self.frames} frames>"

    @property
    def committed(self) -> bool:
        """Whether the status is out."""
        return self._downstream.status is not None

    def keep_alive(self) -> None:
        """From now on, a comment after each silence; a second call changes nothing."""
        if self._beat is None:
            self._moved = time.monotonic()
            self._beat = asyncio.create_task(self._keep_alive())

    def quiet(self) -> None:
        """No more comments."""
        if self._beat is not None:
            self._beat.cancel()

    def name_headers(self, headers: Mapping[str, str]) -> None:
        """Headers of an upstream's answer, for as long as ours are not out."""
        self._headers = {
            name: value
            for name, value in headers.items()
            if name not in {"content-length", "content-type"}
        }

    async def send(self, frame: SpooledBody) -> None:
        """A whole frame; raises ``ClientLeftError``, as all that follows."""
        async with self._lock:
            await self._commit()
            self.frames += 1
            self._within = True
            async for piece in frame.play():
                await self._downstream.send(piece)
            self._within = False
            self._moved = time.monotonic()

    async def fail(self, body: bytes) -> None:
        """An error, whose JSON text in OpenAI's shape is ``body``, as the last event.

        Where a frame was given up half way nothing can be said any more: the answer breaks off.
        """
        self.quiet()
        async with self._lock:
            if self._within:
                self._downstream.break_off()
                return
            await self._downstream.send(events.error_frame(body))
            await self._downstream.finish()

    async def finish(self, *frames: SpooledBody) -> None:
        """The last frames, and the end of the answer; a frame given up half way breaks it off."""
        self.quiet()
        if self._within:
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
                await asyncio.sleep(self._moved + self._keepalive_seconds - time.monotonic())
                async with self._lock:
                    if self._within:
                        return  # a frame was given up half way: a comment would end it
                    if time.monotonic() < self._moved + self._keepalive_seconds:
                        continue
                    await self._commit()
                    await self._downstream.send(_COMMENT)
                    self._moved = time.monotonic()
