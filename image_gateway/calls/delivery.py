"""How an upstream's answer reaches the client: four ways, one for each pair of what came and what
was asked for.

| asked for | came | way |
|---|---|---|
| an answer | an Images answer | ``BodyPassthrough``: streamed through |
| a stream | the Images API's events | ``StreamPassthrough``: frame by frame, as they are |
| a stream | an Images answer | ``SyntheticStream``: one completed event for each picture |
| either | events of the Responses API | ``fan_out.FanOut``: pictures taken out of them |

``take`` delivers what can be delivered and says how it ended (``failover.AttemptOutcome``); what
follows from that is decided elsewhere.  The last bytes are not sent by it: they are left in
``finish``, for when slot, connection and spool are given back.  Were they sent before, a client
that calls again at once could find its own slot taken.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from image_gateway.core import headers
from image_gateway.core.codec import data_urls, json_scanner, json_skeleton
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.model import Dialect
from image_gateway.core.records import record
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome, Stage
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream.event_reader import MOST_BYTES, EventReader, Keep
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

Finish = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class ResponseContext:
    """What every way works with; ``stream`` is there if the client asked for one.

    ``kept`` closes what must outlive an attempt; ``idle_seconds`` is the longest silence within
    what has begun to come.
    """

    downstream: Downstream
    stream: EventStream | None
    record_builder: record.RecordBuilder
    spools: Spools
    kept: ExitStack
    idle_seconds: float

    @property
    def has_begun(self) -> bool:
        """Whether the client has some of an upstream's answer; comments don't count."""
        if self.stream is not None:
            return self.stream.frames > 0
        return self.downstream.status is not None


class Delivery(Protocol):
    """One of the four ways."""

    finish: Finish | None

    async def take(
        self, response: UpstreamResponse, dialect: Dialect, until: float
    ) -> AttemptOutcome:
        """Deliver an answer whose head promised the right thing; says how it ended.

        ``until``, on the monotonic clock, is when something must have come.  Raises
        ``ClientLeftError``.
        """


# -- how an answer ended ---------------------------------------------------------------------------


def delivered(response: UpstreamResponse, dialect: Dialect) -> AttemptOutcome:
    """All that was asked for is here, or on its way."""
    return AttemptOutcome(Stage.ANSWER, dialect, response.status, usable=True)


def invalid(response: UpstreamResponse, dialect: Dialect) -> AttemptOutcome:
    """It is not what its head promised, or holds no picture."""
    return AttemptOutcome(Stage.ANSWER, dialect, response.status)


def lost(dialect: Dialect, reason: str, *, sent: bool) -> AttemptOutcome:
    """It broke off; ``sent``: the client has seen some of it."""
    return AttemptOutcome(Stage.STREAM if sent else Stage.SENT, dialect, reason=reason)


def failed(
    response: UpstreamResponse, dialect: Dialect, found: ParsedEvent, *, sent: bool
) -> AttemptOutcome:
    """An event told of an error; before anything was sent it counts like an answer's status."""
    return AttemptOutcome(
        Stage.STREAM if sent else Stage.ANSWER,
        dialect,
        found.status,
        error=found.error,
        wait=headers.named_wait(
            response.headers, found.error, time.time(), limited=found.status == 429
        ),
    )


# -- three of the four -----------------------------------------------------------------------------


class AnswerTimer:
    """When an answer began and how long it took, for the record."""

    def __init__(self, record_builder: record.RecordBuilder) -> None:
        self._record = record_builder
        self._began: float | None = None

    @property
    def begun(self) -> bool:
        return self._began is not None

    def tick(self) -> None:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._record.stream_ms = round((now - self._began) * 1000)


class BodyPassthrough:
    """An Images answer, streamed through and counted on its way."""

    def __init__(self, context: ResponseContext, request: ImageRequest) -> None:
        self._context = context
        self._request = request
        self.finish: Finish | None = None

    async def take(
        self, response: UpstreamResponse, dialect: Dialect, until: float
    ) -> AttemptOutcome:
        context, downstream = self._context, self._context.downstream
        meter, timer = record.AnswerMeter(), AnswerTimer(context.record_builder)
        urls = data_urls.DataUrls() if self._request.answer_as_url else None
        left = headers.whole(response.headers.get("content-length"))
        sent = headers.to_client(response.headers)
        if urls is not None:
            sent.pop("content-length", None)
        last = b""
        try:
            async for chunk in response.chunks(
                _first_seconds(until, context), context.idle_seconds
            ):
                if not timer.begun:
                    await downstream.start(response.status, sent)
                timer.tick()
                meter.feed(chunk)
                left = None if left is None else left - len(chunk)
                out = chunk if urls is None else urls.feed(chunk)
                if left == 0:
                    last = out
                else:
                    await downstream.send(out)
        except (LostError, json_scanner.ScanError) as error:
            return lost(dialect, _reason(error), sent=timer.begun)
        finally:
            is_whole = meter.close(context.record_builder)
        if not timer.begun:
            return invalid(response, dialect)
        if not is_whole and response.ends_by_close:
            return lost(dialect, "CutAnswer", sent=True)

        async def finish() -> None:
            await downstream.send(last)
            await downstream.finish()

        self.finish = finish
        return delivered(response, dialect)


class StreamPassthrough:
    """The Images API's own events, frame by frame as they are."""

    def __init__(
        self, context: ResponseContext, stream: EventStream, request: ImageRequest
    ) -> None:
        self._context = context
        self._request = request
        self._stream = stream
        self._pictures = 0
        self._usage: Mapping[str, object] | None = None
        self._timer = AnswerTimer(context.record_builder)
        self.finish: Finish | None = None

    async def take(
        self, response: UpstreamResponse, dialect: Dialect, until: float
    ) -> AttemptOutcome:
        context, stream = self._context, self._stream
        stream.name_headers(headers.to_client(response.headers))
        with EventReader(
            response, context.spools, Keep.FRAME, until, context.idle_seconds
        ) as reader:
            while True:
                try:
                    spooled = await reader.next()
                except LostError as error:
                    return lost(dialect, str(error), sent=self._timer.begun)
                if spooled is None:
                    break
                with ExitStack() as closing:
                    closing.enter_context(spooled)
                    found = events.read_image_event(spooled.event)
                    if found.kind is EventKind.FAILURE:
                        return failed(response, dialect, found, sent=self._timer.begun)
                    if spooled.event.value is None and found.kind is EventKind.OTHER:
                        continue  # no JSON: an SDK would stumble over it, and miss what follows
                    self._note(found)
                    if self._pictures == self._request.count:
                        # All that was asked for is here: what it would still say is nothing.
                        context.kept.push(closing.pop_all())
                        self.finish = partial(stream.finish, spooled.frame())
                        return delivered(response, dialect)
                    await stream.send(spooled.frame())
        if not self._pictures or response.ends_by_close:
            return lost(dialect, "EndOfStream", sent=self._timer.begun)
        self.finish = stream.finish
        return delivered(response, dialect)

    def _note(self, found: ParsedEvent) -> None:
        self._timer.tick()
        if found.kind is EventKind.PICTURE:
            self._pictures += 1
            self._usage = events.add_usage(self._usage, found.usage)
            self._context.record_builder.record_answer(self._pictures, self._usage, found.picture)


class SyntheticStream:
    """A whole Images answer as a stream: one completed event for each of its pictures."""

    def __init__(
        self, context: ResponseContext, stream: EventStream, request: ImageRequest
    ) -> None:
        self._context = context
        self._request = request
        self._stream = stream
        self.finish: Finish | None = None

    async def take(
        self, response: UpstreamResponse, dialect: Dialect, until: float
    ) -> AttemptOutcome:
        context, stream = self._context, self._stream
        stream.name_headers(headers.to_client(response.headers))
        spool = context.kept.enter_context(context.spools.open(paid=True))
        skeleton, timer = json_skeleton.JsonSkeleton(), AnswerTimer(context.record_builder)
        try:
            async for chunk in response.chunks(
                _first_seconds(until, context), context.idle_seconds
            ):
                timer.tick()
                skeleton.feed(chunk)
                await spool.write(chunk)
                if spool.size > self._request.count * MOST_BYTES:
                    return lost(dialect, "AnswerTooLarge", sent=False)
            whole = skeleton.close(mend=True)
        except LostError as error:
            return lost(dialect, str(error), sent=False)
        except json_scanner.ScanError:
            return invalid(response, dialect)
        found, usage = events.completed_events(whole, int(time.time()))
        if not found:
            return invalid(response, dialect)
        context.record_builder.record_answer(len(found), usage, found[0])
        frames = [
            spool.hold(events.frame(self._request.endpoint, "completed", fields, skeleton.lifted))
            for fields in found
        ]
        self.finish = partial(stream.finish, *frames)
        return delivered(response, dialect)


def _first_seconds(until: float, context: ResponseContext) -> float:
    """Headers that came late must not cost a picture that is on its way."""
    return max(until - time.monotonic(), context.idle_seconds)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LostError) else type(error).__name__
