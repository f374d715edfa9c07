"""Delivers the answer of a call to one client.

The client reads at its own pace: neither the account's slot nor the upstream's connection waits for
it.  A stream is sent frame by frame while the call runs, everything else once it is whole.
"""

import time
from dataclasses import dataclass
from typing import Final

from image_gateway.calls.answer import Answer, AnswerReader, Ending
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream

_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """After how many seconds of silence a client is sent something that says nothing.

    ``stream_seconds`` is for a comment in a stream, ``json_seconds`` for a space before the JSON of
    another answer; 0: never.
    """

    stream_seconds: float
    json_seconds: float


class Delivery:
    """One client's side of an answer; every method raises ``ClientLeftError``.

    ``stream`` None: the client did not ask for a stream.
    """

    def __init__(
        self,
        downstream: Downstream,
        record: RecordBuilder,
        stream: EventStream | None,
        keep_alive: KeepAlive,
    ) -> None:
        self._downstream = downstream
        self._record = record
        self._stream = stream
        self._silence_seconds = (
            keep_alive.json_seconds if stream is None else keep_alive.stream_seconds
        )

    def __repr__(self) -> str:
        return f"<Delivery to {self._downstream!r}>"

    async def follow(self, answer: Answer, reader: AnswerReader) -> Ending:
        """Wait for the end of an answer, and send the frames of a stream as they come."""
        last_sent = 0.0
        while answer.ending is None:
            frames = None if self._stream is None else reader.next()
            if self._stream is not None and frames is not None:
                await self._stream.send(frames, answer.fields)
                last_sent = time.monotonic()
            elif not (self._silence_seconds and self._is_under_way(answer)):
                await answer.changed()
            else:
                silent_since = max(last_sent, answer.sent_at or 0.0)
                seconds = silent_since + self._silence_seconds - time.monotonic()
                if not await answer.changed(max(seconds, 0)):
                    await self._break_silence(answer)
                    last_sent = time.monotonic()
        return answer.ending

    def _is_under_way(self, answer: Answer) -> bool:
        """Whether silence is worth breaking: an upstream works, or the client has read a status."""
        is_begun = self._stream is not None and self._stream.committed
        return answer.sent_at is not None or is_begun

    async def _break_silence(self, answer: Answer) -> None:
        """Send what says nothing; the first time it commits a 200, whatever comes."""
        if self._stream is not None:
            await self._stream.comment(answer.fields)
            return
        if self._downstream.status is None:
            await self._downstream.start(200, _JSON)
        await self._downstream.send(b" ")

    async def finish(self, answer: Answer, reader: AnswerReader, ending: Ending) -> None:
        """Send the rest of an answer that has ended."""
        self._enter(ending)
        if self._stream is not None:
            while (frames := reader.next()) is not None:
                await self._stream.send(frames, answer.fields)
            if ending.failure is None:
                await self._stream.finish(answer.fields)
                return
            if self._stream.committed:
                assert isinstance(ending.body, bytes)
                await self._stream.fail(ending.body, answer.frames)
                return
        await self._send_whole(ending)

    async def replay(self, ending: Ending) -> None:
        """Send an answer that is kept; that of a stream is whole, too."""
        self._enter(ending)
        await self._send_whole(ending)

    async def replay_head(self, ending: Ending) -> None:
        """Send the head alone of an answer that is kept."""
        self._enter(ending)
        assert ending.body is not None  # a kept one is whole
        body = ending.body
        length = len(body) if isinstance(body, bytes) else body.length
        await self._downstream.start(
            ending.status, {**ending.fields, "content-length": str(length)}
        )
        await self._downstream.finish()

    def _enter(self, ending: Ending) -> None:
        self._record.enter(Phase.DELIVERED)
        if ending.failure is not None:
            self._record.fail(ending.failure.code, ending.failure.source)

    async def _send_whole(self, ending: Ending) -> None:
        body = ending.body
        if self._downstream.status is not None:
            await self._send_behind_spaces(ending)
            return
        if isinstance(body, bytes):
            await self._downstream.answer(ending.status, ending.fields, body)
            return
        assert body is not None  # only a stream has none
        fields = {**ending.fields, "content-length": str(body.length)}
        await self._downstream.start(ending.status, fields)
        await self._downstream.send_body(body)
        await self._downstream.finish()

    async def _send_behind_spaces(self, ending: Ending) -> None:
        """Send JSON whose 200 is out; an error is cut off, so that the client asks again for it."""
        body = ending.body
        if ending.failure is not None or body is None or isinstance(body, bytes):
            self._downstream.break_off()
            return
        await self._downstream.send_body(body)
        await self._downstream.finish()
