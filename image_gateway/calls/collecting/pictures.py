"""Pictures out of events: of the Responses API, or where an Images answer was asked for.

On the Responses route one call makes one picture.
``PictureCollector.collect`` may run several times, in parallel or in turn.  A finished picture is
delivered even if its call, another call or the process ends before the request is done.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from image_gateway.calls.picture_urls import UrlAnswer, UrlPicture
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind
from image_gateway.core.dialects.picture_events import PictureReader
from image_gateway.core.dialects.response_events import ResponseReader
from image_gateway.core.records.builder import Made
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.spool import SpooledBody
from image_gateway.edge.upstream.event_reader import EventReader, Keep, SpooledEvent
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse
from image_gateway.edge.upstream.response_event_reader import ResponseEventReader

MOST_FURTHER: Final = 3
"""Pictures accepted from a call beyond those that it asked for."""


@dataclass(frozen=True)
class _Picture:
    """A picture that a call has made, and the event that holds it."""

    fields: Mapping[str, object]
    spooled: SpooledEvent

    def hold(self, body: Body) -> SpooledBody:
        return self.spooled.spool.hold(body)


class PictureCollector(Collector[ImageRequest]):
    """Collects the pictures of all calls for one request, on the Responses route."""

    makes_reader: type[ResponseReader] = ResponseReader

    def __init__(self, context: CollectContext, request: ImageRequest) -> None:
        super().__init__(context, request)
        self._pictures: list[_Picture] = []
        self._usage: Mapping[str, object] | None = None
        self._usage_text: Mapping[str, object] | None = None
        self._unsent: list[SpooledBody] = []
        self._wanted = 1
        """Pictures of one call."""

    def __repr__(self) -> str:
        return f"<PictureCollector {len(self._pictures)} of {self._request.count}>"

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        """Collect the pictures of one call."""
        context = self._context
        call = _Call(self, context, self.makes_reader(), self._wanted)
        try:
            with ResponseEventReader(
                response, context.spools, Keep.DATA, until, context.idle_seconds
            ) as reader:
                outcome = await call.read(reader, response, dialect)
        finally:
            # Cancelled or not: the pictures have been paid for.
            self._usage_text = events.add_usage(self._usage_text, call.usage_text)
            self._keep(call.made, call.usage)
        if not call.made:
            return outcome
        await self._send_finished()
        # A failure after a picture goes only into the record.
        return replace(delivered(response, dialect), reason=outcome.reason, error=outcome.error)

    def salvage(self) -> Collected | None:
        """What there is once all calls have ended or were cancelled: the pictures so far."""
        if not self._pictures:
            return None
        if self._context.streams:
            self.collected = Collected(frames=tuple(self._unsent))
        else:
            self.collected = Collected.of_urls(self._whole())
        return self.collected

    def _keep(self, made: list[_Picture], usage: Mapping[str, object] | None) -> None:
        record = self._context.record
        self._usage = events.add_usage(self._usage, usage)
        for picture in made:
            record.enter(Phase.ARRIVING)
            self._pictures.append(picture)
            fields = {
                "created_at": int(time.time()),
                **{name: v for name, v in picture.fields.items() if name != "revised_prompt"},
                # One call's usage covers all of its pictures.
                "usage": usage if picture is made[-1] else None,
            }
            lifted = picture.spooled.event.lifted
            frame = events.frame(self._request.endpoint, "completed", fields, lifted)
            self._unsent.append(picture.hold(frame))
        if self._pictures:
            record.made = Made.of(
                len(self._pictures),
                self._usage,
                self._pictures[0].fields,
                usage_text=self._usage_text,
            )

    async def _send_finished(self) -> None:
        """In a stream, send every finished picture except those that end it."""
        context = self._context
        while context.streams and self._unsent and len(self._pictures) < self._request.count:
            await context.answer.add(self._unsent.pop(0))

    async def send_partial(
        self, picture: Mapping[str, object], spooled: SpooledEvent, closing: ExitStack
    ) -> bool:
        """Send a partial picture if the client asked for them; returns whether it was sent."""
        context = self._context
        if not context.streams or not self._request.parameters.get("partial_images"):
            return False
        context.record.enter(Phase.ARRIVING)
        fields = {"created_at": int(time.time()), **picture}
        body = events.frame(self._request.endpoint, "partial_image", fields, spooled.event.lifted)
        await context.answer.add(spooled.spool.hold(body), closing.pop_all(), is_partial=True)
        return True

    def _whole(self) -> UrlAnswer:
        """The complete Images answer; each entry lies in a spool of its own."""
        before, after = events.answer_ends(self._pictures[0].fields, self._usage, int(time.time()))
        parts: list[SpooledBody | UrlPicture] = []
        hold = self._pictures[0].hold
        for picture in self._pictures:
            hold = picture.hold
            entry = events.entry(
                picture.fields,
                picture.spooled.event.lifted,
                as_url=self._request.answer_as_url,
            )
            between = b"," if parts else before
            if isinstance(entry, events.UrlEntry):
                url = UrlPicture(hold((entry.head, *entry.base64)), hold(entry.base64))
                parts += [hold((between, *entry.before)), url, hold(entry.after)]
            else:
                parts.append(hold((between, *entry)))
        return UrlAnswer([*parts, hold((after,))])


class EventPictures(PictureCollector):
    """The pictures of one call that was asked for an Images answer and sent events."""

    makes_reader = PictureReader

    def __init__(self, context: CollectContext, request: ImageRequest) -> None:
        super().__init__(context, request)
        self._wanted = request.count

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        outcome = await super().collect(response, dialect, until)
        self.salvage()
        return outcome


class _Call:
    """Reads the events of one call; ``wanted`` is the number of pictures that it was asked for."""

    def __init__(
        self,
        collector: PictureCollector,
        context: CollectContext,
        reader: ResponseReader,
        wanted: int,
    ) -> None:
        self._collector = collector
        self._kept = context.answer.kept
        self._reader = reader
        self._wanted = wanted
        self._sent = False
        self.made: list[_Picture] = []
        self.usage: Mapping[str, object] | None = None
        self.usage_text: Mapping[str, object] | None = None

    async def read(
        self, reader: EventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        """Read until the call ends; ``made`` holds its pictures, whatever the outcome."""
        try:
            return await self._read(reader, response, dialect)
        except LostError as error:
            return broken_off(response, dialect, error, sent=self._sent)

    async def _read(
        self, reader: EventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        while len(self.made) < self._wanted + MOST_FURTHER:
            spooled = await reader.next()
            if spooled is None:
                return self._ended(response, dialect)
            with ExitStack() as closing:
                closing.enter_context(spooled)
                event = self._reader.read(spooled.event)
                if event.kind is EventKind.PARTIAL:
                    self._sent |= await self._collector.send_partial(
                        event.picture, spooled, closing
                    )
                elif event.picture:
                    self._kept.push(closing.pop_all())
                    self.made += [
                        _Picture(each, spooled) for each in (event.picture, *event.others)
                    ]
                    if len(self.made) >= self._wanted:
                        # Only the usage is still to come.
                        reader.hurry()
                self.usage = events.add_usage(self.usage, event.usage)
                self.usage_text = events.add_usage(self.usage_text, event.usage_text)
                if event.kind is EventKind.FAILURE:
                    return failed(response, dialect, event, sent=self._sent)
                if event.kind is EventKind.END and not self.made:
                    return ended_empty(response, dialect, event.error, sent=self._sent)
                if event.kind is EventKind.END or self._is_complete:
                    break
        return delivered(response, dialect)

    @property
    def _is_complete(self) -> bool:
        """Whether nothing more can come: events of the Images API have their usage with them."""
        return len(self.made) >= self._wanted and not self._reader.has_end

    def _ended(self, response: UpstreamResponse, dialect: str) -> AttemptOutcome:
        """The events came to their end without an event that says so."""
        if self._reader.has_end or response.ends_by_close:
            return lost(dialect, "EndOfStream", sent=self._sent)
        if not self.made:
            return invalid(response, dialect)
        return delivered(response, dialect)
