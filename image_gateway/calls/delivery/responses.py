"""Answers for clients of the Responses API itself: its events unchanged, or one response.

The upstream always streams.  The opening events of a stream (``response.created``) are held back
until another event follows, so that another account can still replace one that fails at once.
Events of any size lie in spools of their own (``edge.upstream.event_reader``).
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from image_gateway.calls.delivery.context import (
    Delivery,
    Finish,
    ResponseContext,
    delivered,
    failed,
    invalid,
    lost,
)
from image_gateway.core import headers
from image_gateway.core.codec import json_scanner
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.records.builder import Made
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.spool import SpooledBody
from image_gateway.edge.upstream.event_reader import (
    MOST_EVENTS_OF_TEXT,
    EventReader,
    Keep,
    SpooledEvent,
)
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse


class ResponseStreamPassthrough(Delivery[IntentRequest]):
    """The events, frame by frame, unchanged."""

    def __init__(self, context: ResponseContext, request: IntentRequest) -> None:
        super().__init__(context, request)
        self._stream = context.open_stream
        self._counts = _ResponseCounts(context)
        self._unsent: list[SpooledBody] = []
        self._has_begun = False

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, stream = self._context, self._stream
        stream.name_headers(headers.to_client(response.headers))
        with _reader(response, context, Keep.FRAME, until) as reader:
            while True:
                try:
                    spooled = await reader.next()
                except LostError as error:
                    return lost(dialect, str(error), sent=self._has_begun)
                if spooled is None:
                    return lost(dialect, "EndOfStream", sent=self._has_begun)
                event = events.read_conversation_event(spooled.event)
                self._counts.add(event)
                with ExitStack() as closing:
                    closing.enter_context(spooled)
                    if event.kind is EventKind.FAILURE and not self._has_begun:
                        return failed(response, dialect, event, sent=False)
                    if event.kind in {EventKind.OPENING, EventKind.FAILURE, EventKind.END}:
                        context.kept.push(closing.pop_all())
                        self._unsent.append(spooled.frame())
                    if event.kind is EventKind.OPENING:
                        continue
                    self._has_begun = True
                    context.record.enter(Phase.ARRIVING)
                    if event.kind is EventKind.FAILURE:
                        # Unchanged: this kind of client reads the upstream's own events.
                        self.finish = partial(stream.finish, *self._unsent)
                        return failed(response, dialect, event, sent=True)
                    if event.kind is EventKind.END:
                        self.finish = partial(stream.finish, *self._unsent)
                        return delivered(response, dialect)
                    await self._send(spooled.frame())

    async def _send(self, frame: SpooledBody) -> None:
        while self._unsent:
            await self._stream.send(self._unsent.pop(0))
        await self._stream.send(frame)


@dataclass(frozen=True)
class _Item:
    """One item of the output, and the event that holds it."""

    fields: Mapping[str, object]
    spooled: SpooledEvent


class AssembledResponse(Delivery[IntentRequest]):
    """One response, assembled from its events."""

    def __init__(self, context: ResponseContext, request: IntentRequest) -> None:
        super().__init__(context, request)
        self._counts = _ResponseCounts(context)
        self._items: list[_Item] = []
        self._response: _Item | None = None

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context = self._context
        with _reader(response, context, Keep.DATA, until) as reader:
            outcome = await self._read(reader, response, dialect)
        if self.finish is None and self.salvage() is not None:
            # The pictures have been paid for; a failure after them goes only into the record.
            return replace(delivered(response, dialect), reason=outcome.reason, error=outcome.error)
        return outcome

    async def _read(
        self, reader: EventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        while True:
            try:
                spooled = await reader.next()
            except LostError as error:
                return lost(dialect, str(error), sent=False)
            if spooled is None:
                return lost(dialect, "EndOfStream", sent=False)
            with ExitStack() as closing:
                closing.enter_context(spooled)
                event = events.read_conversation_event(spooled.event)
                self._counts.add(event)
                if event.kind is EventKind.FAILURE:
                    return failed(response, dialect, event, sent=False)
                self._context.record.enter(Phase.ARRIVING)
                if self._keep(event, spooled):
                    self._context.kept.push(closing.pop_all())
            if event.kind is EventKind.END:
                if self._response is None:
                    return invalid(response, dialect)
                self.finish = self._send_response
                return delivered(response, dialect)

    def _keep(self, event: ParsedEvent, spooled: SpooledEvent) -> bool:
        """Keep an event that is a part of the response; returns whether it is one."""
        fields = spooled.event.fields()
        item, response = fields.get("item"), fields.get("response")
        if spooled.event.kind() == "response.output_item.done" and isinstance(item, dict):
            self._items.append(_Item(item, spooled))
            return True
        if event.kind in {EventKind.OPENING, EventKind.END} and isinstance(response, dict):
            self._response = _Item(response, spooled)
            return True
        return False

    def salvage(self) -> Finish | None:
        """What can be sent if no end comes: an incomplete response, if it holds a picture."""
        if self.finish is not None or not self._counts.pictures:
            return self.finish
        broken = {"status": "incomplete", "incomplete_details": {"reason": "upstream_cut"}}
        if self._response is not None:
            fields = {**self._response.fields, **broken}
            self._response = _Item({**fields, "output": []}, self._response.spooled)
        else:
            self._response = _Item(broken, self._items[0].spooled)
        self.finish = self._send_response
        return self.finish

    async def _send_response(self) -> None:
        await self._context.send_json(self._parts())

    def _parts(self) -> list[SpooledBody]:
        """The response; its final output is often empty, because the items came before."""
        assert self._response is not None
        response, spooled = self._response.fields, self._response.spooled
        if response.get("output"):
            text = events.as_json(response, spooled.event.lifted)
            return [spooled.spool.hold(text)]
        before, after = events.response_ends(response, spooled.event.lifted)
        parts = [spooled.spool.hold(before)]
        for index, item in enumerate(self._items):
            text = events.as_json(item.fields, item.spooled.event.lifted)
            parts.append(item.spooled.spool.hold((b"," * bool(index), *text)))
        return [*parts, spooled.spool.hold(after)]


def _reader(
    response: UpstreamResponse, context: ResponseContext, keep: Keep, until: float
) -> EventReader:
    return EventReader(
        response,
        context.spools,
        keep,
        until,
        context.idle_seconds,
        most_events=MOST_EVENTS_OF_TEXT,
        # A response repeats the parameters of its request, above all its tools.
        limits=json_scanner.CONVERSATION,
    )


class _ResponseCounts:
    """Counts the pictures of a response, for the record."""

    def __init__(self, context: ResponseContext) -> None:
        self._record = context.record
        self._first: Mapping[str, object] = {}
        self.pictures = 0

    def add(self, event: ParsedEvent) -> None:
        if event.kind is EventKind.PICTURE:
            self.pictures += 1
        elif event.kind is EventKind.END and not self.pictures:
            self.pictures = event.pictures
        self._first = self._first or event.picture
        if event.kind in {EventKind.PICTURE, EventKind.END}:
            self._record.made = Made.of(self.pictures, event.usage, self._first)
