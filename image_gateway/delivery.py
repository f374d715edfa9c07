"""How an upstream's answer reaches the client: four ways, one for each pair of what came and what
was asked for.

| asked for | came | way |
|---|---|---|
| an answer | an Images answer | ``Whole``: streamed through |
| a stream | the Images API's events | ``Relayed``: frame by frame, as they are |
| a stream | an Images answer | ``Drawn``: one completed event for each picture |
| either | events of the Responses API | ``Gathered``: pictures taken out, over several calls |

``take`` delivers what can be delivered and says how it ended (``failover.Outcome``); what follows
from that is decided elsewhere.  The last bytes are not sent by it: they are left in ``rest``, for
when slot, connection and spool are given back.  Were they sent before, a client that calls again at
once could find its own slot taken.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from image_gateway.core import events, headers, record, scan
from image_gateway.core.body import Body
from image_gateway.core.events import Happening, Kind, ResponseReader
from image_gateway.core.failover import Outcome, Stage
from image_gateway.core.model import Dialect
from image_gateway.core.request import ImageRequest
from image_gateway.edge.downstream import Downstream
from image_gateway.edge.event_reader import Arrived, EventReader, Keep
from image_gateway.edge.event_stream import EventStream
from image_gateway.edge.spool import Held, Spools
from image_gateway.edge.upstream import Answer, LostError

Rest = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Desk:
    """What every way works with; ``stream`` is there if the client asked for one.

    ``kept`` closes what must outlive an attempt; ``idle_seconds`` is the longest silence within
    what has begun to come.
    """

    request: ImageRequest
    downstream: Downstream
    stream: EventStream | None
    draft: record.Draft
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

    rest: Rest | None

    async def take(self, answer: Answer, dialect: Dialect, until: float) -> Outcome:
        """Deliver an answer whose head promised the right thing; says how it ended.

        ``until``, on the monotonic clock, is when something must have come.  Raises
        ``ClientLeftError``.
        """


def _delivered(answer: Answer, dialect: Dialect) -> Outcome:
    return Outcome(Stage.ANSWER, dialect, answer.status, usable=True)


def _invalid(answer: Answer, dialect: Dialect) -> Outcome:
    return Outcome(Stage.ANSWER, dialect, answer.status)


def _lost(dialect: Dialect, reason: str, *, sent: bool) -> Outcome:
    """It broke off; ``sent``: the client has seen some of it."""
    return Outcome(Stage.STREAM if sent else Stage.SENT, dialect, reason=reason)


def _failed(answer: Answer, dialect: Dialect, found: Happening, *, sent: bool) -> Outcome:
    """An event told of an error; before anything was sent it counts like an answer's status."""
    return Outcome(
        Stage.STREAM if sent else Stage.ANSWER,
        dialect,
        found.status,
        error=found.error,
        wait=headers.named_wait(
            answer.headers, found.error, time.time(), limited=found.status == 429
        ),
    )


class _Clock:
    """When an answer began and how long it took, for the record."""

    def __init__(self, draft: record.Draft) -> None:
        self._draft = draft
        self._began: float | None = None

    @property
    def begun(self) -> bool:
        return self._began is not None

    def tick(self) -> None:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._draft.stream_ms = round((now - self._began) * 1000)


class Whole:
    """An Images answer, streamed through and counted on its way."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.rest: Rest | None = None

    async def take(self, answer: Answer, dialect: Dialect, until: float) -> Outcome:
        desk, downstream = self._desk, self._desk.downstream
        meter, clock = record.Meter(), _Clock(desk.draft)
        urls = scan.DataUrls() if desk.request.answer_as_url else None
        left = headers.whole(answer.headers.get("content-length"))
        sent = headers.to_client(answer.headers)
        if urls is not None:
            sent.pop("content-length", None)
        last = b""
        # Headers that came late must not cost a picture that is on its way.
        first_seconds = max(until - time.monotonic(), desk.idle_seconds)
        try:
            async for chunk in answer.chunks(first_seconds, desk.idle_seconds):
                if not clock.begun:
                    await downstream.start(answer.status, sent)
                clock.tick()
                meter.feed(chunk)
                left = None if left is None else left - len(chunk)
                out = chunk if urls is None else urls.feed(chunk)
                if left == 0:
                    last = out
                else:
                    await downstream.send(out)
        except (LostError, scan.ScanError) as error:
            return _lost(dialect, _reason(error), sent=clock.begun)
        finally:
            is_whole = meter.close(desk.draft)
        if not clock.begun:
            return _invalid(answer, dialect)
        if not is_whole and left is None and "transfer-encoding" not in answer.headers:
            # It ends with its connection, and no end of that shows whether it was a good one.
            return _lost(dialect, "CutAnswer", sent=True)

        async def rest() -> None:
            await downstream.send(last)
            await downstream.finish()

        self.rest = rest
        return _delivered(answer, dialect)


class Relayed:
    """The Images API's own events, frame by frame as they are."""

    def __init__(self, desk: Desk, stream: EventStream) -> None:
        self._desk = desk
        self._stream = stream
        self._pictures = 0
        self._usage: Mapping[str, object] | None = None
        self._clock = _Clock(desk.draft)
        self.rest: Rest | None = None

    async def take(self, answer: Answer, dialect: Dialect, until: float) -> Outcome:
        desk, stream = self._desk, self._stream
        stream.name_headers(headers.to_client(answer.headers))
        with EventReader(answer, desk.spools, Keep.FRAME, until, desk.idle_seconds) as reader:
            while True:
                try:
                    arrived = await reader.next()
                except LostError as error:
                    return _lost(dialect, str(error), sent=self._clock.begun)
                if arrived is None:
                    break
                with ExitStack() as closing:
                    closing.enter_context(arrived)
                    found = events.read_image_event(arrived.event)
                    if found.kind is Kind.FAILURE:
                        return _failed(answer, dialect, found, sent=self._clock.begun)
                    if arrived.event.value is None:
                        continue  # no JSON: an SDK would stumble over it, and miss what follows
                    self._note(found)
                    if self._pictures == desk.request.count:
                        # All that was asked for is here: what it would still say is nothing.
                        desk.kept.push(closing.pop_all())
                        self.rest = partial(stream.finish, arrived.frame())
                        return _delivered(answer, dialect)
                    await stream.send(arrived.frame())
        if not self._pictures:
            return _lost(dialect, "EndOfStream", sent=self._clock.begun)
        self.rest = stream.finish
        return _delivered(answer, dialect)

    def _note(self, found: Happening) -> None:
        self._clock.tick()
        if found.kind is Kind.PICTURE:
            self._pictures += 1
            self._usage = events.add_usage(self._usage, found.usage)
            self._desk.draft.note_answer(self._pictures, self._usage, found.picture)


class Drawn:
    """A whole Images answer as a stream: one completed event for each of its pictures."""

    def __init__(self, desk: Desk, stream: EventStream) -> None:
        self._desk = desk
        self._stream = stream
        self.rest: Rest | None = None

    async def take(self, answer: Answer, dialect: Dialect, until: float) -> Outcome:
        desk, stream = self._desk, self._stream
        stream.name_headers(headers.to_client(answer.headers))
        spool = desk.kept.enter_context(desk.spools.open(paid=True))
        skeleton, clock = scan.Skeleton(), _Clock(desk.draft)
        first_seconds = max(until - time.monotonic(), desk.idle_seconds)
        try:
            async for chunk in answer.chunks(first_seconds, desk.idle_seconds):
                clock.tick()
                skeleton.feed(chunk)
                await spool.write(chunk)
            whole = skeleton.close()
        except LostError as error:
            return _lost(dialect, str(error), sent=False)
        except scan.ScanError:
            return _invalid(answer, dialect)
        found, usage = events.completed_events(whole, int(time.time()))
        if not found:
            return _invalid(answer, dialect)
        desk.draft.note_answer(len(found), usage, found[0])
        frames = [
            spool.hold(events.frame(desk.request.endpoint, "completed", fields, skeleton.lifted))
            for fields in found
        ]
        self.rest = partial(stream.finish, *frames)
        return _delivered(answer, dialect)


@dataclass(frozen=True)
class _Picture:
    """A picture that a call has made, and the event that it lies in."""

    fields: Mapping[str, object]
    arrived: Arrived

    def hold(self, body: Body) -> Held:
        return self.arrived.spool.hold(body)


class Gathered:
    """Pictures out of the events of the Responses API, over as many calls as pictures are wanted.

    ``take`` may run several times, at once or in turn.  A picture that was made is delivered, even
    when its call, or another one, failed after it.  ``conclude`` leaves the rest.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pictures: list[_Picture] = []
        self._usage: Mapping[str, object] | None = None
        self._clock = _Clock(desk.draft)
        self._last: list[Held] = []
        self.rest: Rest | None = None

    @property
    def pictures(self) -> int:
        """Made so far."""
        return len(self._pictures)

    async def take(self, answer: Answer, dialect: Dialect, until: float) -> Outcome:
        desk = self._desk
        call = _GatheredCall(self, desk)
        with EventReader(answer, desk.spools, Keep.DATA, until, desk.idle_seconds) as reader:
            outcome = await call.read(reader, answer, dialect)
        if not call.made:
            return outcome
        await self._add(call.made, call.usage)
        # What broke after that is for the record alone.
        return replace(_delivered(answer, dialect), reason=outcome.reason, error=outcome.error)

    async def _add(self, made: list[_Picture], usage: Mapping[str, object] | None) -> None:
        desk = self._desk
        self._usage = events.add_usage(self._usage, usage)
        for picture in made:
            self._clock.tick()
            self._pictures.append(picture)
            desk.draft.note_answer(len(self._pictures), self._usage, self._pictures[0].fields)
            if desk.stream is None:
                continue
            fields = {
                "created_at": int(time.time()),
                **{name: v for name, v in picture.fields.items() if name != "revised_prompt"},
                # One call's usage is for all that it made.
                "usage": usage if picture is made[-1] else None,
            }
            lifted = picture.arrived.event.lifted
            frame = picture.hold(events.frame(desk.request.endpoint, "completed", fields, lifted))
            if len(self._pictures) >= desk.request.count:
                self._last.append(frame)
            else:
                with picture.arrived:
                    await desk.stream.send(frame)

    async def show(self, picture: Mapping[str, object], arrived: Arrived) -> bool:
        """A partial picture: sent on, and True, if the client asked for such."""
        desk = self._desk
        if desk.stream is None or not desk.request.parameters.get("partial_images"):
            return False
        self._clock.tick()
        fields = {"created_at": int(time.time()), **picture}
        body = events.frame(desk.request.endpoint, "partial_image", fields, arrived.event.lifted)
        await desk.stream.send(arrived.spool.hold(body))
        return True

    def conclude(self) -> None:
        """All calls have ended, and at least one picture is here."""
        stream = self._desk.stream
        if stream is not None:
            self.rest = partial(stream.finish, *self._last)
            return
        parts = self._answer()
        length = sum(part.length for part in parts)
        downstream = self._desk.downstream

        async def rest() -> None:
            await downstream.start(
                200, {"content-type": "application/json", "content-length": str(length)}
            )
            for part in parts:
                async for piece in part.play():
                    await downstream.send(piece)
            await downstream.finish()

        self.rest = rest

    def _answer(self) -> list[Held]:
        """The whole Images answer; its entries lie in spools of their own."""
        before, behind = events.answer_ends(self._pictures[0].fields, self._usage, int(time.time()))
        parts: list[Held] = []
        for picture in self._pictures:
            entry = events.entry(
                picture.fields,
                picture.arrived.event.lifted,
                as_url=self._desk.request.answer_as_url,
            )
            parts.append(picture.hold((b"," if parts else before, *entry)))
        last = parts[-1]
        parts[-1] = replace(last, body=(*last.body, behind))
        return parts


class _GatheredCall:
    """The events of one call, until it ends."""

    def __init__(self, gathered: Gathered, desk: Desk) -> None:
        self._gathered = gathered
        self._desk = desk
        self._shown = False
        self.made: list[_Picture] = []
        self.usage: Mapping[str, object] | None = None

    async def read(self, reader: EventReader, answer: Answer, dialect: Dialect) -> Outcome:
        """How it ended; what it made is in ``made`` whatever that was."""
        responses = ResponseReader()
        while True:
            try:
                arrived = await reader.next()
            except LostError as error:
                return _lost(dialect, str(error), sent=self._shown)
            if arrived is None:
                return _lost(dialect, "EndOfStream", sent=self._shown)
            with ExitStack() as closing:
                closing.enter_context(arrived)
                found = responses.read(arrived.event)
                if found.picture and found.kind is not Kind.PARTIAL:
                    self._desk.kept.push(closing.pop_all())
                    self.made.append(_Picture(found.picture, arrived))
                if found.kind is Kind.PARTIAL:
                    self._shown |= await self._gathered.show(found.picture, arrived)
                elif found.kind is Kind.FAILURE:
                    return _failed(answer, dialect, found, sent=self._shown)
                elif found.kind is Kind.END:
                    self.usage = found.usage
                    return _invalid(answer, dialect)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LostError) else type(error).__name__
