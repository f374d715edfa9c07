"""Answers of the Images API: kept whole, frame by frame, or turned into a stream."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from image_gateway.calls.collecting.context import (
    CollectContext,
    Collected,
    Collector,
    broken_off,
    delivered,
    failed,
    invalid,
    lost,
    without_picture,
)
from image_gateway.calls.picture_urls import UrlAnswer, UrlPicture
from image_gateway.core import errors, headers
from image_gateway.core.codec import data_urls, json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.codec.data_urls import DataUrl
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.records.builder import Made
from image_gateway.core.records.meter import AnswerMeter
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge import turns
from image_gateway.edge.spool import Spool, SpooledBody
from image_gateway.edge.turns import Turns
from image_gateway.edge.upstream.event_reader import MOST_BYTES, EventReader, Keep
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

_MOST_ERROR_BYTES: Final = 64 * 1024


class WholeBody(Collector[ImageRequest]):
    """An Images answer, kept unchanged until it is whole.

    A success without a picture is none, and another account may be asked if the answer says so.
    """

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, meter = self._context, AnswerMeter()
        spool = context.answer.spool()
        urls = data_urls.DataUrls() if self._request.answer_as_url else None
        try:
            await self._read(response, spool, meter, urls, until)
        except LostError as error:
            return broken_off(response, dialect, error, sent=meter.may_have_picture)
        except json_scanner.ScanError as error:
            return lost(dialect, type(error).__name__, sent=meter.may_have_picture)
        finally:
            made, is_complete = meter.close()
            context.record.made = made
            # An answer that the meter could not read may hold pictures.
            context.record.may_be_billed |= meter.may_have_picture and made is None
        if not is_complete and (meter.may_have_picture or response.ends_by_close):
            return lost(dialect, "CutAnswer", sent=meter.may_have_picture)
        if not meter.may_have_picture:
            told = errors.read_upstream_error(await _head(spool))
            return without_picture(response, dialect, told, self._request)
        # The body has shown what it is, whatever the upstream's head says.
        fields = headers.to_client(response.headers)
        if urls is None:
            self.collected = Collected(spool.whole(), fields=fields)
        else:
            self.collected = Collected.of_urls(_of_data_urls(spool, urls.found), fields)
        return delivered(response, dialect)

    async def _read(
        self,
        response: UpstreamResponse,
        spool: Spool,
        meter: AnswerMeter,
        urls: data_urls.DataUrls | None,
        until: float,
    ) -> None:
        context, work = self._context, Turns()
        first_seconds = context.first_seconds(until)
        async for chunk in response.chunks(first_seconds, context.idle_seconds):
            context.record.enter(Phase.ARRIVING)
            for piece in turns.pieces(chunk):
                meter.feed(piece)
                await spool.write(piece if urls is None else urls.feed(piece))
                await work.give()
            if meter.is_no_answer:
                break
            if spool.size > self._request.count * MOST_BYTES:
                raise LostError("AnswerTooLarge")


def _of_data_urls(spool: Spool, found: Sequence[DataUrl]) -> UrlAnswer:
    """The answer in a spool, which has data URLs already."""
    parts: list[SpooledBody | UrlPicture] = []
    position = 0
    for each in found:
        parts.append(spool.hold((Span(position, each.start),)))
        url = spool.hold((Span(each.start, each.stop),))
        parts.append(UrlPicture(url, spool.hold((Span(each.base64_start, each.stop),))))
        position = each.stop
    return UrlAnswer([*parts, spool.hold((Span(position, spool.size),))])


async def _head(spool: Spool) -> bytes:
    span = Span(0, min(spool.size, _MOST_ERROR_BYTES))
    return b"".join([chunk async for chunk in spool.play((span,))])


class ImageEvents(Collector[ImageRequest]):
    """The Images API's own events, frame by frame, unchanged."""

    def __init__(self, context: CollectContext, request: ImageRequest) -> None:
        super().__init__(context, request)
        self._pictures = 0
        self._usage: Mapping[str, object] | None = None
        self._has_begun = False

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context = self._context
        context.answer.fields = headers.to_client(response.headers)
        with EventReader(
            response, context.spools, Keep.FRAME, until, context.idle_seconds
        ) as reader:
            try:
                return await self._read(reader, response, dialect)
            except LostError as error:
                return broken_off(response, dialect, error, sent=self._has_begun)

    async def _read(
        self, reader: EventReader, response: UpstreamResponse, dialect: str
    ) -> AttemptOutcome:
        answer = self._context.answer
        while (spooled := await reader.next()) is not None:
            with ExitStack() as closing:
                closing.enter_context(spooled)
                event = events.read_image_event(spooled.event)
                if event.kind is EventKind.FAILURE:
                    return failed(response, dialect, event, sent=self._has_begun)
                if spooled.event.value is None and event.kind is EventKind.OTHER:
                    continue  # not JSON: an SDK would fail on it and miss the events after it
                self._count(event)
                if self._pictures == self._request.count:
                    # All requested pictures have arrived: the rest does not matter.
                    answer.kept.push(closing.pop_all())
                    self.collected = Collected(frames=[spooled.frame()])
                    return delivered(response, dialect)
                is_partial = event.kind is EventKind.PARTIAL
                await answer.add(spooled.frame(), closing.pop_all(), is_partial=is_partial)
        if not self._pictures or response.ends_by_close:
            return lost(dialect, "EndOfStream", sent=self._has_begun)
        self.collected = Collected()
        return delivered(response, dialect)

    def _count(self, event: ParsedEvent) -> None:
        record = self._context.record
        self._has_begun = True
        record.enter(Phase.ARRIVING)
        if event.kind is EventKind.PICTURE:
            self._pictures += 1
            self._usage = events.add_usage(self._usage, event.usage)
            record.made = Made.of(self._pictures, self._usage, event.picture, record.made)


class SyntheticEvents(Collector[ImageRequest]):
    """A complete Images answer as a stream: one completed event for each picture."""

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, work = self._context, Turns()
        spool = context.answer.kept.enter_context(context.spools.open(paid=True))
        skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.ANSWER, mends=True)
        try:
            first_seconds = context.first_seconds(until)
            async for chunk in response.chunks(first_seconds, context.idle_seconds):
                context.record.enter(Phase.ARRIVING)
                for piece in turns.pieces(chunk):
                    skeleton.feed(piece)
                    await work.give()
                await spool.write(chunk)
                if spool.size > self._request.count * MOST_BYTES:
                    return lost(dialect, "AnswerTooLarge", sent=False)
            answer = skeleton.close()
        except LostError as error:
            return broken_off(response, dialect, error, sent=False)
        except json_scanner.ScanError:
            return invalid(response, dialect)
        await work.give()
        pictures, usage = events.completed_events(answer, int(time.time()))
        if not pictures:
            told = errors.from_value(answer)
            return without_picture(response, dialect, told, self._request)
        context.record.made = Made.of(len(pictures), usage, pictures[0])
        frames = []
        for fields in pictures:
            frame = events.frame(self._request.endpoint, "completed", fields, skeleton.lifted)
            frames.append(spool.hold(frame))
            await work.give()
        self.collected = Collected(frames=frames, fields=headers.to_client(response.headers))
        return delivered(response, dialect)
