"""The events of the Responses API, whatever form the response came in.

Events are always asked for.  An upstream that sends the whole response as JSON instead has drawn
the picture all the same: such a body counts as the event that ends the response.
"""

from typing import Final

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.dialects import response_output
from image_gateway.edge import turns
from image_gateway.edge.upstream import event_reader
from image_gateway.edge.upstream.event_reader import EventReader, SpooledEvent
from image_gateway.edge.upstream.http_client import LostError, UnreadableError

_NOT_A_RESPONSE: Final = "NotAResponse"


class ResponseEventReader(EventReader):
    """The events of one response; close it by ``with``."""

    _is_begun = False
    _is_over = False

    async def next(self) -> SpooledEvent | None:
        """The next event, None at the end of the response.

        Raises ``LostError``, and its ``UnreadableError`` for a body that is not a response.
        """
        if not self._is_begun:
            self._is_begun = True
            seconds = self._seconds()
            if not await event_reader.has_events(self._response, seconds, self._idle_seconds):
                self._is_over = True
                return await self._whole(seconds)
        return None if self._is_over else await super().next()

    async def _whole(self, seconds: float) -> SpooledEvent:
        self._spooled = spooled = SpooledEvent(self._spools.open(paid=True))
        skeleton = json_skeleton.JsonSkeleton(limits=self._limits, mends=True)
        try:
            async for chunk in self._response.chunks(seconds, self._idle_seconds):
                await spooled.spool.write(chunk)
                if spooled.spool.size > event_reader.MOST_BYTES:
                    raise LostError("ResponseTooLarge")
                for piece in turns.pieces(chunk):
                    skeleton.feed(piece)
                    await self._turns.give()
            event = response_output.event_of(skeleton.close(), skeleton.lifted)
        except json_scanner.ScanError:
            event = None
        if event is None:
            raise UnreadableError(_NOT_A_RESPONSE)
        self._spooled = None
        spooled.event, spooled.has_frame = event, False
        return spooled
