"""The answer of a call, from its first frame to its end, for everyone who waits for it.

A call writes its answer here and never waits for a client; each request that gets the answer reads
it at its own pace.  A plain answer can be read only once it is complete.  A stream has whole
frames, which can be read as soon as they are added.

Small frames are joined in one spool, because a text has thousands of them, and a spool of its own
would keep each in memory; larger ones stay in the spools of their events.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from image_gateway.core.calls.model import CallState
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.records.builder import Failure
from image_gateway.edge.kept.entry import KeptAnswer
from image_gateway.edge.spool import MEMORY_BYTES, JoinedBody, Spool, SpooledBody, Spools
from image_gateway.edge.upstream.http_client import LostError

AnyBody = SpooledBody | JoinedBody

_MOST_BYTES: Final = 2 * 1024 * 1024 * 1024
"""Of all frames of a stream; an upstream that sends no end must be stopped."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended: what its clients get, and what follows for a later request.

    ``body`` is the whole answer, or the JSON text of an error; None for a stream that ended well.
    ``failure`` is for the records of the clients; None if the answer is what was asked for.
    """

    state: CallState
    status: int
    fields: Mapping[str, str]
    body: AnyBody | KeptAnswer | bytes | None = field(repr=False)
    failure: Failure | None = None


@dataclass(slots=True)
class _Piece:
    """One frame, or small ones that follow each other in one spool; ``is_open``: more may."""

    body: AnyBody
    is_partial: bool
    is_open: bool


class Answer:
    """What a call has made so far; it is freed once nobody needs or reads it any more."""

    def __init__(self, spools: Spools, folder: Path | None = None) -> None:
        self._spools = spools
        self._folder = folder
        self.kept = ExitStack()
        """Closes the spools that hold the answer."""
        self.fields: Mapping[str, str] = {}
        """Headers of the upstream's response that go to the client."""
        self.frames = 0
        """Frames that were added; each has its number in the events of the Responses API."""
        self.sent_at: float | None = None
        """When the first upstream was asked, on the monotonic clock."""
        self.ending: Ending | None = None
        self._small = self.kept.enter_context(spools.open(paid=True))
        self._pieces: list[_Piece] = []
        self._size = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._readers = 0
        self._is_given_up = False
        self._adding = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Answer {self.frames} frames, {self.ending or 'open'}>"

    def spool(self) -> Spool:
        """A spool for the whole answer, in ``folder`` if that is given."""
        return self.kept.enter_context(self._spools.open(paid=True, folder=self._folder))

    # -- writing ---------------------------------------------------------------------------------

    def send(self) -> None:
        """An upstream is being asked; headers of an earlier one do not count any more."""
        self.fields = {}
        if self.sent_at is None:
            self.sent_at = time.monotonic()
        self.wake()

    async def add(
        self, frame: AnyBody, closing: ExitStack | None = None, *, is_partial: bool = False
    ) -> None:
        """Add a whole frame of a stream; raises ``LostError`` after too many bytes.

        ``closing`` closes the frame's spool, which stays open while the frame is not copied; None
        if something else keeps it open.  ``is_partial``: it holds a partial picture, which is of no
        use to a client that comes later.
        """
        length = frame.length
        self._size += length
        if self._size > _MOST_BYTES:
            raise LostError("AnswerTooLarge")
        with closing or ExitStack() as opened:
            async with self._adding:
                if length <= MEMORY_BYTES:
                    await self._add_small(frame, is_partial=is_partial)
                else:
                    self._pieces.append(_Piece(frame, is_partial, is_open=False))
                    self.kept.push(opened.pop_all())
                self.frames += 1
        self.wake()

    async def add_bytes(self, frame: bytes) -> None:
        """Add a whole frame that the gateway wrote itself."""
        await self.add(self.hold(frame))

    def hold(self, frame: bytes) -> SpooledBody:
        """A frame that the gateway wrote itself, without adding it."""
        return self._small.hold((frame,))

    async def _add_small(self, frame: AnyBody, *, is_partial: bool) -> None:
        start = self._small.size
        async for chunk in frame.play():
            await self._small.write(chunk)
        last = self._pieces[-1] if self._pieces else None
        # Between them may be what a writer that was cancelled has written of its frame.
        follows = last is not None and last.is_open and _span_of(last.body).stop == start
        if last is not None and follows and not is_partial:
            start = _span_of(last.body).start
            last.body = self._small.hold((Span(start, self._small.size),))
        else:
            body = self._small.hold((Span(start, self._small.size),))
            self._pieces.append(_Piece(body, is_partial, is_open=not is_partial))

    def end(self, ending: Ending) -> None:
        """The call has ended."""
        self.ending = ending
        self.wake()

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- reading ---------------------------------------------------------------------------------

    def parts(self) -> Sequence[SpooledBody]:
        """The frames of a stream that has ended, without partial pictures."""
        return [
            part
            for piece in self._pieces
            if not piece.is_partial
            for part in (piece.body.parts if isinstance(piece.body, JoinedBody) else (piece.body,))
        ]

    async def changed(self, seconds: float | None = None) -> bool:
        """Wait until something is added or the answer ends; whether that was within ``seconds``."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if seconds is None:
                await waiter
            else:
                async with asyncio.timeout(seconds):
                    await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def reader(self, *, is_late: bool) -> "AnswerReader":
        """A reader of the frames; ``is_late``: it gets no partial picture that came before it."""
        return AnswerReader(self, self._pieces, len(self._pieces) if is_late else 0)

    def __enter__(self) -> Self:
        """A client reads it: its spools stay open until the last one has left."""
        self._readers += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._readers -= 1
        self._close_unread()

    def give_up(self) -> None:
        """The call needs the answer no more; the clients that read it still do."""
        self._is_given_up = True
        self._close_unread()

    def _close_unread(self) -> None:
        if self._is_given_up and not self._readers:
            self.kept.close()


class AnswerReader:
    """One client's place in the frames of an answer."""

    def __init__(self, answer: Answer, pieces: Sequence[_Piece], skipped: int) -> None:
        self._answer = answer
        self._pieces = pieces
        self._skipped = skipped
        self._at = 0
        self._offset = 0

    def __repr__(self) -> str:
        return f"<AnswerReader at {self._at} of {len(self._pieces)}>"

    def next(self) -> AnyBody | None:
        """The frames behind those that were read, at least one; None if there are none yet."""
        while self._at < len(self._pieces):
            piece, length = self._pieces[self._at], self._pieces[self._at].body.length
            is_last = self._at == len(self._pieces) - 1
            if piece.is_partial and self._at < self._skipped:
                self._at += 1
            elif self._offset < length:
                body = _rest(piece.body, self._offset)
                self._offset = length
                return body
            elif is_last and piece.is_open:
                return None
            else:
                self._at, self._offset = self._at + 1, 0
        return None


def _rest(body: AnyBody, offset: int) -> AnyBody:
    """A body without its first bytes; only a span of small frames is ever read in parts."""
    if not offset:
        return body
    assert isinstance(body, SpooledBody)
    span = _span_of(body)
    return body.spool.hold((Span(span.start + offset, span.stop),))


def _span_of(body: AnyBody) -> Span:
    """The span of small frames in their spool."""
    assert isinstance(body, SpooledBody)
    span = body.body[0]
    assert isinstance(span, Span)
    return span
