"""Answers for clients of the Responses API itself: its events, nearly unchanged, or one response.

The upstream always streams.  The opening events of a stream (``response.created``) are held back
until another event follows, so that another account can still replace one that fails at once.
Events of any size lie in spools of their own (``edge.upstream.event_reader``).
"""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from image_gateway.calls.collecting.context import (
    CollectContext,
    Collected,
    Collector,
    broken_off,
    delivered,
    ended_empty,
    failed,
    invalid,
    lost,
)
from image_gateway.calls.collecting.output import OutputItems, SpooledFields
from image_gateway.core import headers
from image_gateway.core.codec import json_scanner
from image_gateway.core.dialects import events, response_output
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.records import usage
from image_gateway.core.records.builder import Made
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.spool import JoinedBody, SpooledBody
from image_gateway.edge.upstream.event_reader import (
    MOST_EVENTS_OF_TEXT,
    Keep,
    SpooledEvent,
)
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse
from image_gateway.edge.upstream.response_event_reader import ResponseEventReader

_MOST_HELD_BACK: Final = 8
"""Opening events; there are three kinds of them."""
_MOST_CLEANED_BYTES: Final = 256 * 1024
"""Of an event, beside its long strings: each value in it is searched for secrets."""


class ResponseEvents(Collector[IntentRequest]):
    """The events, frame by frame.

    They stay as they are but for items with a picture and for the end
    (``core.dialects.response_output``).
    """

    def __init__(self, context: CollectContext, request: IntentRequest) -> None:
        super().__init__(context, request)
        self._answer = context.answer
        self._counts = ResponseCounts(context)
        self._items = OutputItems()
        self._unsent: list[SpooledBody | JoinedBody] = []
        self._has_begun = False

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context = self._context
        context.answer.fields = headers.to_client(response.headers)
        with response_reader(response, context, Keep.FRAME, until) as reader:
            try:
                return await self._read(reader, response, dialect)
            except LostError as error:
                return broken_off(response, dialect, error, sent=self._has_begun)

    async def _read(
        self, reader: ResponseEventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        context = self._context
        while True:
            spooled = await reader.next()
            if spooled is None:
                return lost(dialect, "EndOfStream", sent=self._has_begun)
            event = events.read_conversation_event(spooled.event)
            self._counts.add(event)
            with ExitStack() as closing:
                closing.enter_context(spooled)
                if spooled.event.value is None and event.kind is EventKind.OTHER:
                    continue  # not JSON: an SDK would fail on it and miss the events after it
                if event.kind is EventKind.FAILURE and not self._has_begun:
                    return failed(response, dialect, event, sent=False)
                if response_output.is_empty(spooled.event) and not self._has_begun:
                    return ended_empty(response, dialect, event.error, sent=False)
                if self._is_held_back(event):
                    context.answer.kept.push(closing.pop_all())
                    self._unsent.append(spooled.frame())
                    continue
                if event.kind is EventKind.END:
                    context.answer.kept.push(closing.pop_all())
                    self._open(spooled)
                    self._unsent.append(self._items.end(spooled))
                self._has_begun = True
                context.record.enter(Phase.ARRIVING)
                if event.kind is EventKind.FAILURE:
                    # The error follows as an event of ours: SDKs raise nothing for a flat one
                    # or for a failed response, and an agent asks again.
                    await self._send_failure(spooled)
                    return failed(response, dialect, event, sent=True)
                if event.kind is EventKind.END:
                    self.collected = Collected(frames=tuple(self._unsent))
                    return delivered(response, dialect)
                if self._items.add(spooled):
                    context.answer.kept.push(closing.pop_all())
                await self._send(spooled, closing, is_partial=event.kind is EventKind.PARTIAL)

    def _is_held_back(self, event: ParsedEvent) -> bool:
        is_first = not self._has_begun and len(self._unsent) < _MOST_HELD_BACK
        return event.kind is EventKind.OPENING and is_first

    def _open(self, spooled: SpooledEvent) -> None:
        """If a stream begins with its end, put an opening before it."""
        opening = response_output.opening_frame(spooled.event) if spooled.is_quotable else None
        if opening is not None and not (self._has_begun or self._unsent):
            self._unsent.append(spooled.spool.hold(opening))

    async def _send_failure(self, spooled: SpooledEvent) -> None:
        """Send the upstream's own event, without secrets, if it is more than the error.

        One with too many values is left out.
        """
        await self._send_held_back()
        if spooled.event.kind() == "error" or spooled.own_bytes > _MOST_CLEANED_BYTES:
            return
        changed = response_output.failure_frame(
            spooled.event, self._context.scrubber, is_quotable=spooled.is_quotable
        )
        await self._answer.add(spooled.frame() if changed is None else spooled.spool.hold(changed))

    async def _send_held_back(self) -> None:
        while self._unsent:
            await self._answer.add(self._unsent.pop(0))

    async def _send(self, spooled: SpooledEvent, closing: ExitStack, *, is_partial: bool) -> None:
        await self._send_held_back()
        changed = response_output.item_frame(spooled.event) if spooled.is_quotable else None
        frame = spooled.frame() if changed is None else spooled.spool.hold(changed)
        await self._answer.add(frame, closing.pop_all(), is_partial=is_partial)


class SalvagedResponse(Collector[IntentRequest]):
    """A response whose pictures are delivered even if its events break off."""

    has_begun = False
    """Whether the client may have some of it."""

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        with response_reader(response, self._context, Keep.DATA, until) as reader:
            try:
                outcome = await self._read(reader, response, dialect)
            except LostError as error:
                outcome = broken_off(response, dialect, error, sent=self.has_begun)
        if self.collected is None and self.salvage() is not None:
            # The pictures have been paid for; a failure after them goes only into the record.
            return replace(delivered(response, dialect), reason=outcome.reason, error=outcome.error)
        return outcome

    @abstractmethod
    async def _read(
        self, reader: ResponseEventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        """Read the events until the response ends; raises ``LostError``."""


class AssembledResponse(SalvagedResponse):
    """One response, assembled from its events."""

    def __init__(self, context: CollectContext, request: IntentRequest) -> None:
        super().__init__(context, request)
        self._counts = ResponseCounts(context)
        self._items = OutputItems()
        self._response: SpooledFields | None = None
        self._first_item: SpooledEvent | None = None

    async def _read(
        self, reader: ResponseEventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        while True:
            spooled = await reader.next()
            if spooled is None:
                return lost(dialect, "EndOfStream", sent=False)
            with ExitStack() as closing:
                closing.enter_context(spooled)
                event = events.read_conversation_event(spooled.event)
                self._counts.add(event)
                if event.kind is EventKind.FAILURE:
                    return failed(response, dialect, event, sent=False)
                if response_output.is_empty(spooled.event) and not len(self._items):
                    return ended_empty(response, dialect, event.error, sent=False)
                self._context.record.enter(Phase.ARRIVING)
                if self._keep(event, spooled):
                    self._context.answer.kept.push(closing.pop_all())
            if event.kind is EventKind.END:
                if self._response is None:
                    return invalid(response, dialect)
                self.collected = self._whole()
                return delivered(response, dialect)

    def _keep(self, event: ParsedEvent, spooled: SpooledEvent) -> bool:
        """Keep an event that is a part of the response; returns whether it is one."""
        response = spooled.event.fields().get("response")
        if self._items.add(spooled):
            self._first_item = self._first_item or spooled
            return True
        # The first opening tells enough for a response that has no end.
        is_wanted = event.kind is EventKind.END or (
            event.kind is EventKind.OPENING and self._response is None
        )
        if is_wanted and isinstance(response, dict):
            self._response = SpooledFields(response, spooled)
            return True
        return False

    def salvage(self) -> Collected | None:
        """What there is if no end comes: an incomplete response, if it holds a picture."""
        if self.collected is not None or not self._counts.pictures:
            return self.collected
        broken = {"status": "incomplete", "incomplete_details": {"reason": "upstream_cut"}}
        if self._response is not None:
            fields = {**self._response.fields, **broken, "output": []}
            self._response = SpooledFields(fields, self._response.spooled)
        else:
            assert self._first_item is not None  # it brought the picture
            self._response = SpooledFields(broken, self._first_item)
        self.collected = self._whole()
        return self.collected

    def _whole(self) -> Collected:
        assert self._response is not None
        return Collected(self._items.whole(self._response))


def response_reader(
    response: UpstreamResponse, context: CollectContext, keep: Keep, until: float
) -> ResponseEventReader:
    """A reader of the events of an answer."""
    return ResponseEventReader(
        response,
        context.spools,
        keep,
        until,
        context.idle_seconds,
        most_events=MOST_EVENTS_OF_TEXT,
        # A response repeats the parameters of its request, above all its tools.
        limits=json_scanner.CONVERSATION,
    )


class ResponseCounts:
    """Counts the pictures of a response, for the record."""

    def __init__(self, context: CollectContext) -> None:
        self._record = context.record
        self._first: Mapping[str, object] = {}
        self._svg_usage: usage.Usage | None = None
        self.pictures = 0

    def add(self, event: ParsedEvent) -> None:
        """Count an event."""
        if event.kind is EventKind.PICTURE:
            self.pictures += 1
            self._add_svg(event)
        elif event.kind is EventKind.END and not self.pictures:
            self.pictures = event.pictures
            self._add_svg(event)
        self._first = self._first or event.picture
        if event.kind in {EventKind.PICTURE, EventKind.END}:
            source = {**self._first, "svg_usage": self._svg_usage}
            self._record.made = Made.of(
                self.pictures, event.usage, source, usage_text=event.usage_text
            )

    def _add_svg(self, event: ParsedEvent) -> None:
        for each in event.svg_usages:
            self._svg_usage = events.add_usage(self._svg_usage, usage.read_svg(each))
