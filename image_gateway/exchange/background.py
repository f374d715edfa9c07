"""Responses in the background: a client starts one, and comes back for it by its id.

A response is found here if this process works on its call, else in the kept folder, where the calls
of the other processes on this machine lie, too.  Only the key that started it finds it.  What it
looks like is ``core.calls.background``'s.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

import orjson

from image_gateway.calls import conclusion
from image_gateway.calls.answer import Answer, AnyBody, Ending
from image_gateway.calls.call import Call
from image_gateway.calls.registry import Calls
from image_gateway.calls.search import FoundKept
from image_gateway.context import AppContext
from image_gateway.core import errors
from image_gateway.core.calls import background, names
from image_gateway.core.calls.background import BackgroundResponse, FramesAfter, LastResponse
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key
from image_gateway.core.records.builder import FoundCall, RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.core.routing import admission
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EVENTS_TYPE, EventStream, Playable
from image_gateway.edge.kept.entry import KeptAnswer, KeptEntry
from image_gateway.exchange.call_lookup import poll_place
from image_gateway.exchange.delivery import Delivery, KeepAlive

_JSON: Final = {"content-type": "application/json"}
_MOST_ERROR_BYTES: Final = 1024 * 1024
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}
_DIGITS: Final = 18
_WAIT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A request about a response by its id, which may be any text."""

    action: Literal["retrieve", "cancel", "delete"]
    response_id: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """A response whose call has ended; ``frames`` None: it was made without a stream."""

    response: BackgroundResponse
    ending: Ending
    frames: Playable | None

    @property
    def is_failed(self) -> bool:
        return self.ending.failure is not None

    async def error(self) -> bytes:
        """The error of a call that failed, as JSON text."""
        body = self.ending.body
        if body is None or isinstance(body, bytes):
            return body or b""
        if body.length > _MOST_ERROR_BYTES:
            return b""
        return b"".join([piece async for piece in body.play()])


class BackgroundResponses:
    """What one request wants of a response; every method raises ``ClientLeftError``."""

    def __init__(
        self, app: AppContext, calls: Calls, downstream: Downstream, record: RecordBuilder
    ) -> None:
        self._app = app
        self._calls = calls
        self._downstream = downstream
        self._record = record

    def __repr__(self) -> str:
        return f"<BackgroundResponses {self._downstream!r}>"

    def check_possible(self) -> None:
        """Refuse a call that nobody could come back for; raises ``Refusal``."""
        if not self._app.settings.keep_seconds:
            raise Refusal(
                "unsupported_value",
                "Image calls cannot run in the background here, because this gateway keeps no "
                "answers (KEEP_SECONDS is 0). Leave out `background` and wait for the answer, or "
                "ask for a stream.",
                param="background",
            )

    # -- beginning one: the methods of a ``handover.Submission`` ----------------------------------

    async def wait(self, call: Call) -> bool:
        # A call that a request in the foreground began can only be waited for; and a limit is told
        # as one of this process is.
        return call.identity.has_id and await call.begin_keeping() and await call.may_go_on()

    async def give_id(self, call: Call) -> None:
        await self._send_call(call)

    async def give_kept_id(self, found: FoundKept) -> bool:
        if not found.identity.has_id:
            return False
        if found.entry.ended_at is None:
            await self._send_entry(found.entry)
        else:
            await self._send_ended(_of_kept(found.entry, found.answer))
        return True

    # -- a request about one ---------------------------------------------------------------------

    async def serve(self, asked: StoredResponse, key: Key) -> None:
        """Answer a request about a response; raises ``Refusal``."""
        await self._downstream.skip_body()
        found = await self._find(asked.response_id, key)
        identity = found.identity
        # Without a source: the request bought nothing, and saved no purchase either.
        self._record.found_call = FoundCall(identity.call_id, None, identity.request_id)
        self._downstream.own_headers = {"x-call-id": identity.call_id}
        match asked.action:
            case "delete":
                await found.forget()
                deleted = {
                    "id": asked.response_id,
                    "object": "response.deleted",
                    "deleted": True,
                }
                await self._send_json(orjson.dumps(deleted))
            case "cancel":
                if isinstance(found, Call):
                    await self._cancel(found)
                else:
                    await self._send_entry(found)
            case "retrieve":
                streams, after = self._query()
                if streams:
                    await self._stream_events(found, key, after)
                elif isinstance(found, Call):
                    await self._send_call(found)
                else:
                    await self._send_entry(found)

    async def _find(self, response_id: str, key: Key) -> Call | KeptEntry:
        """The response's call, of this process or kept; raises ``Refusal``."""
        key_tag = names.key_tag(names.CallSecrets.of(self._app.prompt_key), key.key_id)
        call_id = background.call_id(response_id)
        call = None if call_id is None else self._calls.get(call_id)
        if call is not None and _is_response_of(call, key_tag):
            if call.is_forgotten:
                raise errors.call_not_found()
            return call
        entry = None if call_id is None else await self._app.kept.call(key_tag, call_id)
        if entry is None or not _is_response_of(entry, key_tag):
            raise errors.call_not_found()
        return entry

    def _query(self) -> tuple[bool, int]:
        """Whether a stream is asked for, and the number after which it begins."""
        query = parse_qs(urlsplit(self._downstream.target).query)
        streams = _BOOLEANS.get(query.get("stream", ["false"])[-1].lower())
        if streams is None:
            raise errors.wrong_type("stream", "true or false")
        after = query.get("starting_after", ["-1"])[-1]
        digits = after.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS):
            raise errors.wrong_type("starting_after", "the sequence number of an event")
        return streams, int(after)

    # -- without a stream ------------------------------------------------------------------------

    async def _send_call(self, call: Call) -> None:
        response = BackgroundResponse.of(call.identity)
        if call.ending is None:
            status = "queued" if call.answer.sent_at is None else "in_progress"
            await self._send_json(response.pending(status))
            return
        with call:
            frames = _Frames(call.answer) if call.streams else None
            await self._send_ended(_Ended(response, call.ending, frames))

    async def _send_entry(self, entry: KeptEntry) -> None:
        if entry.ended_at is None:
            response = BackgroundResponse.of(entry.identity)
            await self._send_json(response.pending("in_progress"))
            return
        with ExitStack() as opened:
            await self._send_ended(await _opened(entry, opened))
            await entry.note_sent()

    async def _send_ended(self, ended: _Ended) -> None:
        self._record.enter(Phase.DELIVERED)
        body = ended.ending.body
        if ended.is_failed:
            failure = ended.ending.failure
            assert failure is not None
            await self._send_json(ended.response.failed(await ended.error(), failure.code))
        elif ended.frames is not None:
            await self._send_last(ended.frames)
        elif isinstance(body, bytes):
            await self._send_json(body)
        else:
            assert body is not None  # only a stream has none
            await self._downstream.start(200, {**_JSON, "content-length": str(body.length)})
            await self._downstream.send_body(body)
            await self._downstream.finish()

    async def _send_last(self, frames: Playable) -> None:
        """Send the response in the last event of a stream."""
        last = LastResponse()
        async for chunk in frames.play():
            last.feed(chunk)
        length = last.stop - last.start
        await self._downstream.start(200, {**_JSON, "content-length": str(length)})
        position = 0
        async for chunk in frames.play():
            part = chunk[max(last.start - position, 0) : max(last.stop - position, 0)]
            position += len(chunk)
            if part:
                await self._downstream.send(part)
        await self._downstream.finish()

    async def _send_json(self, body: bytes) -> None:
        await self._downstream.answer(200, _JSON, body)

    # -- with a stream ---------------------------------------------------------------------------

    async def _stream_events(self, found: Call | KeptEntry, key: Key, after: int) -> None:
        place = poll_place(self._app, key)
        if place is None:
            raise admission.too_many(key)
        with place:
            if isinstance(found, Call):
                await self._follow(found, after)
            else:
                await self._replay(found, after)

    def _stream(self, after: int) -> EventStream:
        return EventStream(self._downstream, numbered=True, change=FramesAfter(after).feed)

    async def _follow(self, call: Call, after: int) -> None:
        """Send the events of a call of this process, those to come as they come."""
        stream = self._stream(after)
        self._record.enter(Phase.JOINED)
        with call:
            if not call.streams:
                async with self._downstream.watch(drains=False):
                    ending = await self._silent(call.answer, stream)
                ended = _Ended(BackgroundResponse.of(call.identity), ending, None)
                await self._send_events(ended, stream, after)
                return
            reader = call.answer.reader(is_late=False)
            keep_alive = KeepAlive(self._app.settings.keepalive_seconds, 0)
            delivery = Delivery(self._downstream, self._record, stream, keep_alive)
            async with self._downstream.watch(drains=False):
                ending = await delivery.follow(call.answer, reader)
            await delivery.finish(call.answer, reader, ending)

    async def _silent(self, answer: Answer, stream: EventStream) -> Ending:
        """Wait for the end of an answer that has no events."""
        while answer.ending is None:
            seconds = self._app.settings.keepalive_seconds or None
            if not await answer.changed(seconds):
                await stream.comment({})
        return answer.ending

    async def _replay(self, entry: KeptEntry, after: int) -> None:
        """Send the events of a call of another process once it has ended, or of a kept one."""
        stream = self._stream(after)
        deadline = time.monotonic() + self._app.settings.total_seconds
        async with self._downstream.watch():
            while entry.ended_at is None:
                now = await entry.wait(self._app.settings.keepalive_seconds or _WAIT_SECONDS)
                if now is None:
                    raise errors.call_not_found()
                entry = now
                if entry.ended_at is None:
                    if time.monotonic() > deadline:
                        raise errors.call_not_found()
                    await stream.comment({})
        with ExitStack() as opened:
            await self._send_events(await _opened(entry, opened), stream, after)
            await entry.note_sent()

    async def _send_events(self, ended: _Ended, stream: EventStream, after: int) -> None:
        """Send the events of a response that has ended, those after a number."""
        self._record.enter(Phase.DELIVERED)
        first, before, behind = background.whole_frames(ended.response)
        if ended.is_failed:
            await stream.send(_Bytes(first), {})
            await stream.fail(await ended.error(), max(after + 1, 1))
            return
        if ended.frames is not None:
            await stream.send(ended.frames, {})
        else:
            await stream.send(_Bytes(first), {})
            for part in (_Bytes(before), ended.ending.body, _Bytes(behind)):
                assert part is not None
                await stream.send(_Bytes(part) if isinstance(part, bytes) else part, {})
        await stream.finish({})

    # -- ending a call ---------------------------------------------------------------------------

    async def _cancel(self, call: Call) -> None:
        """Cancel a call; one whose picture would be paid for goes on, and its status says so."""
        with call:
            if call.ending is None and call.cancel():
                async with self._downstream.watch(drains=False):
                    while call.ending is None:
                        await call.answer.changed()
            await self._send_call(call)


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A part of a stream that is in memory."""

    data: bytes

    async def play(self) -> AsyncIterator[bytes]:
        yield self.data


@dataclass(frozen=True, slots=True)
class _Frames:
    """The frames of a stream that has ended, without its partial pictures."""

    answer: Answer

    async def play(self) -> AsyncIterator[bytes]:
        reader = self.answer.reader(is_late=True)
        body: AnyBody | None
        while (body := reader.next()) is not None:
            async for chunk in body.play():
                yield chunk


def _is_response_of(call: Call | KeptEntry, key_tag: str) -> bool:
    identity = call.identity
    is_response = identity.has_id and identity.endpoint == "responses"
    return is_response and identity.key_tag == key_tag


def _of_kept(entry: KeptEntry, answer: KeptAnswer | None) -> _Ended:
    ending = conclusion.of_kept(entry, answer)
    has_events = entry.headers.get("content-type") == EVENTS_TYPE
    frames = answer if has_events and ending.failure is None else None
    return _Ended(BackgroundResponse.of(entry.identity), ending, frames)


async def _opened(entry: KeptEntry, opened: ExitStack) -> _Ended:
    """A kept response with its answer; raises ``Refusal`` if the answer is gone."""
    answer = None
    if entry.status is not None:
        answer = await entry.open_answer()
        if answer is None:
            raise errors.call_not_found()
        opened.enter_context(answer)
    return _of_kept(entry, answer)
