"""Answers of the Images API: streamed through, frame by frame, or turned into a stream."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from image_gateway.calls.delivery.context import (
    Delivery,
    ResponseContext,
    broken_off,
    delivered,
    failed,
    invalid,
    lost,
    without_picture,
)
from image_gateway.core import errors, headers
from image_gateway.core.codec import data_urls, json_scanner, json_skeleton
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.records.builder import Made
from image_gateway.core.records.meter import AnswerMeter
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.upstream.event_reader import MOST_BYTES, EventReader, Keep
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

_MOST_HELD_BYTES: Final = 2 * 1024 * 1024
"""No Images answer has so much before its first picture."""


class BodyPassthrough(Delivery[ImageRequest]):
    """An Images answer, streamed through and counted.

    Its first bytes are held back until its first picture begins: a success without a picture is
    none, and another account may be asked if the answer says so.
    """

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, downstream = self._context, self._context.downstream
        meter, has_begun = AnswerMeter(), False
        held: list[bytes] = []
        urls = data_urls.DataUrls() if self._request.answer_as_url else None
        received = 0
        last = b""
        try:
            first_seconds = context.first_seconds(until)
            async for chunk in response.chunks(first_seconds, context.idle_seconds):
                context.record.enter(Phase.ARRIVING)
                meter.feed(chunk)
                received += len(chunk)
                out = chunk if urls is None else urls.feed(chunk)
                if not has_begun:
                    held.append(out)
                    if meter.is_no_answer or sum(map(len, held)) > _MOST_HELD_BYTES:
                        break
                    if not meter.may_have_picture:
                        continue
                    out = b"".join(held)
                    held.clear()
                    await downstream.start(response.status, self._headers(response))
                    has_begun = True
                if received == response.length:
                    last = out
                else:
                    await downstream.send(out)
        except LostError as error:
            return broken_off(response, dialect, error, sent=has_begun)
        except json_scanner.ScanError as error:
            return lost(dialect, type(error).__name__, sent=has_begun)
        finally:
            made, is_complete = meter.close()
            context.record.made = made
            # An answer that the meter could not read may hold pictures.
            context.record.may_be_billed |= has_begun and made is None
        if not is_complete and response.ends_by_close:
            return lost(dialect, "CutAnswer", sent=has_begun)
        if not has_begun:
            told = errors.read_upstream_error(b"".join(held))
            return without_picture(response, dialect, told, self._request)

        async def finish() -> None:
            await downstream.send(last)
            await downstream.finish()

        self.finish = finish
        return delivered(response, dialect)

    def _headers(self, response: UpstreamResponse) -> dict[str, str]:
        """The head for the client; the body has shown what it is, whatever the upstream's says."""
        sent = headers.to_client(response.headers) | {"content-type": "application/json"}
        if self._request.answer_as_url or response.length is None:
            sent.pop("content-length", None)
        return sent


class StreamPassthrough(Delivery[ImageRequest]):
    """The Images API's own events, frame by frame, unchanged."""

    def __init__(self, context: ResponseContext, request: ImageRequest) -> None:
        super().__init__(context, request)
        self._pictures = 0
        self._usage: Mapping[str, object] | None = None
        self._has_begun = False

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, stream = self._context, self._context.open_stream
        stream.name_headers(headers.to_client(response.headers))
        with EventReader(
            response, context.spools, Keep.FRAME, until, context.idle_seconds
        ) as reader:
            while True:
                try:
                    spooled = await reader.next()
                except LostError as error:
                    return broken_off(response, dialect, error, sent=self._has_begun)
                if spooled is None:
                    break
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
                        context.kept.push(closing.pop_all())
                        self.finish = partial(stream.finish, spooled.frame())
                        return delivered(response, dialect)
                    await stream.send(spooled.frame())
        if not self._pictures or response.ends_by_close:
            return lost(dialect, "EndOfStream", sent=self._has_begun)
        self.finish = stream.finish
        return delivered(response, dialect)

    def _count(self, event: ParsedEvent) -> None:
        record = self._context.record
        self._has_begun = True
        record.enter(Phase.ARRIVING)
        if event.kind is EventKind.PICTURE:
            self._pictures += 1
            self._usage = events.add_usage(self._usage, event.usage)
            record.made = Made.of(self._pictures, self._usage, event.picture, record.made)


class SyntheticStream(Delivery[ImageRequest]):
    """A complete Images answer as a stream: one completed event for each picture."""

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context, stream = self._context, self._context.open_stream
        stream.name_headers(headers.to_client(response.headers))
        spool = context.kept.enter_context(context.spools.open(paid=True))
        skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.ANSWER, mends=True)
        try:
            first_seconds = context.first_seconds(until)
            async for chunk in response.chunks(first_seconds, context.idle_seconds):
                context.record.enter(Phase.ARRIVING)
                skeleton.feed(chunk)
                await spool.write(chunk)
                if spool.size > self._request.count * MOST_BYTES:
                    return lost(dialect, "AnswerTooLarge", sent=False)
            answer = skeleton.close()
        except LostError as error:
            return broken_off(response, dialect, error, sent=False)
        except json_scanner.ScanError:
            return invalid(response, dialect)
        pictures, usage = events.completed_events(answer, int(time.time()))
        if not pictures:
            told = errors.from_value(answer)
            return without_picture(response, dialect, told, self._request)
        context.record.made = Made.of(len(pictures), usage, pictures[0])
        frames = [
            spool.hold(events.frame(self._request.endpoint, "completed", fields, skeleton.lifted))
            for fields in pictures
        ]
        self.finish = partial(stream.finish, *frames)
        return delivered(response, dialect)
