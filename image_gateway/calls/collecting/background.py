"""Answers for calls in the background: their events are written anew (``core.calls.background``).

The gateway itself has sent the opening events when the call began, so those of the upstream are
left out: several accounts may be asked, and the client sees one response.  Pictures that came are
never lost: if no end comes, the response ends as incomplete.
"""

from contextlib import ExitStack

from image_gateway.calls.collecting.context import (
    CollectContext,
    Collected,
    delivered,
    ended_empty,
    failed,
    lost,
)
from image_gateway.calls.collecting.output import OutputItems, SpooledFields
from image_gateway.calls.collecting.responses import (
    AssembledResponse,
    ResponseCounts,
    SalvagedResponse,
)
from image_gateway.core import headers
from image_gateway.core.calls import background
from image_gateway.core.calls.background import BackgroundResponse
from image_gateway.core.dialects import events, response_output
from image_gateway.core.dialects.events import EventKind
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.spool import JoinedBody
from image_gateway.edge.upstream.event_reader import SpooledEvent
from image_gateway.edge.upstream.http_client import UpstreamResponse
from image_gateway.edge.upstream.response_event_reader import ResponseEventReader


class BackgroundAssembled(AssembledResponse):
    """One response with the gateway's id, assembled from its events."""

    def _whole(self) -> Collected:
        assert self._response is not None
        response, spooled = self._response.fields, self._response.spooled
        named = _response_of(self._context).of_upstream(response, "completed")
        return Collected(self._items.whole(SpooledFields(named, spooled)))


class BackgroundEvents(SalvagedResponse):
    """The events of a response with the gateway's id, frame by frame."""

    def __init__(self, context: CollectContext, request: IntentRequest) -> None:
        super().__init__(context, request)
        self._answer = context.answer
        self._response = _response_of(context)
        self._counts = ResponseCounts(context)
        self._items = OutputItems()
        self._last_item: SpooledEvent | None = None

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        self._answer.fields = headers.to_client(response.headers)
        return await super().collect(response, dialect, until)

    async def _read(
        self, reader: ResponseEventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        while True:
            spooled = await reader.next()
            if spooled is None:
                return lost(dialect, "EndOfStream", sent=self.has_begun)
            event = events.read_conversation_event(spooled.event)
            self._counts.add(event)
            with ExitStack() as closing:
                closing.enter_context(spooled)
                if spooled.event.value is None and event.kind is EventKind.OTHER:
                    continue  # not JSON
                if event.kind is EventKind.OPENING:
                    continue
                if event.kind is EventKind.FAILURE:
                    return failed(response, dialect, event, sent=self.has_begun)
                if response_output.is_empty(spooled.event) and not self.has_begun:
                    return ended_empty(response, dialect, event.error, sent=False)
                await self._begin()
                if event.kind is EventKind.END:
                    self._answer.kept.push(closing.pop_all())
                    fields = response_output.ended(spooled.event) or {}
                    status = background.end_status(spooled.event)
                    self.collected = self._ended(SpooledFields(fields, spooled), status)
                    return delivered(response, dialect)
                frame = spooled.spool.hold(self._response.frame(spooled.event, self._answer.frames))
                if self._items.add(spooled):
                    self._last_item = spooled
                    self._answer.kept.push(closing.pop_all())
                await self._answer.add(
                    frame, closing.pop_all(), is_partial=event.kind is EventKind.PARTIAL
                )

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._context.record.enter(Phase.ARRIVING)
            await self._answer.add_bytes(self._response.started_frame(self._answer.frames))

    def _ended(self, response: SpooledFields, status: str) -> Collected:
        """The last frame, with the items that came."""
        hold = response.spooled.spool.hold
        before, after = self._response.end_frame(status, self._answer.frames)
        named = self._response.of_upstream(response.fields, status)
        whole = self._items.whole(SpooledFields(named, response.spooled))
        return Collected(frames=(JoinedBody([hold((before,)), *whole.parts, hold((after,))]),))

    def salvage(self) -> Collected | None:
        """What there is if no end comes: an incomplete response, if it holds a picture."""
        if self.collected is None and self._counts.pictures and self._last_item is not None:
            broken = {"status": "incomplete", "incomplete_details": {"reason": "upstream_cut"}}
            self.collected = self._ended(SpooledFields(broken, self._last_item), "incomplete")
        return self.collected


def _response_of(context: CollectContext) -> BackgroundResponse:
    assert context.background is not None  # such a collector is chosen for it
    return context.background
