"""What every delivery works with, and the outcomes of an answer."""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from image_gateway.core import dialects, errors
from image_gateway.core.dialects import faults
from image_gateway.core.dialects.events import ParsedEvent
from image_gateway.core.errors import UpstreamError
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing.failover import AttemptOutcome, Stage
from image_gateway.core.scrubbing import Scrubber
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.spool import JoinedBody, Spools
from image_gateway.edge.upstream.http_client import LostError, UnreadableError, UpstreamResponse

Finish = Callable[[], Awaitable[None]]
"""Sends the last bytes of an answer."""


@dataclass(frozen=True)
class ResponseContext:
    """The client's side of one request; ``stream`` is None unless the client asked for a stream.

    ``kept`` closes what must outlive an attempt; ``idle_seconds`` is the longest silence within an
    answer that has begun.  ``scrubber`` is that of the account that answers.
    """

    downstream: Downstream
    stream: EventStream | None
    record: RecordBuilder
    spools: Spools
    kept: ExitStack
    idle_seconds: float
    scrubber: Scrubber = field(default_factory=partial(Scrubber, ()))

    @property
    def has_begun(self) -> bool:
        """Whether the client has some of an upstream's answer; comments do not count."""
        if self.stream is not None:
            return self.stream.frames > 0
        return self.downstream.status is not None

    @property
    def open_stream(self) -> EventStream:
        """The stream of a client that asked for one."""
        if self.stream is None:
            raise TypeError("the client did not ask for a stream")
        return self.stream

    def first_seconds(self, until: float) -> float:
        """How long the first byte of a body may take after the head has arrived.

        A late head must not lose a picture that is on its way.
        """
        return max(until - time.monotonic(), self.idle_seconds)

    async def send_json(self, body: JoinedBody) -> None:
        """A whole JSON answer whose parts lie in spools."""
        fields = {"content-type": "application/json", "content-length": str(body.length)}
        await self.downstream.start(200, fields)
        async for chunk in body.play():
            await self.downstream.send(chunk)
        await self.downstream.finish()


_Request = TypeVar("_Request", ImageRequest, IntentRequest)


class Delivery(ABC, Generic[_Request]):
    """Delivers one upstream answer to the client."""

    def __init__(self, context: ResponseContext, request: _Request) -> None:
        self._context = context
        self._request: _Request = request
        self.finish: Finish | None = None
        """Sends the rest of the answer; called when the account's slot, connection and spool are
        given back.  None if nothing can be delivered."""

    @abstractmethod
    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        """Deliver an answer whose head has the right type; returns the outcome.

        ``until``, on the monotonic clock, is the deadline for the first bytes.  Raises
        ``ClientLeftError``.
        """

    def salvage(self) -> Finish | None:
        """What can still be sent after ``deliver`` was cancelled; None if nothing can."""
        return None


# -- outcomes of an answer -------------------------------------------------------------------------


def delivered(response: UpstreamResponse, dialect: str) -> AttemptOutcome:
    """The whole answer has arrived, or is on its way to the client."""
    return AttemptOutcome(Stage.ANSWER, dialect, response.status, usable=True)


def invalid(response: UpstreamResponse, dialect: str) -> AttemptOutcome:
    """The answer is not of the type in its head, or holds no picture."""
    return AttemptOutcome(Stage.ANSWER, dialect, response.status)


def ended_empty(
    response: UpstreamResponse, dialect: str, error: UpstreamError, *, sent: bool
) -> AttemptOutcome:
    """The answer came to its end and says that no picture was made; ``error`` has its words.

    ``sent``: the client has received partial pictures.
    """
    stage, status = (Stage.STREAM, None) if sent else (Stage.ANSWER, response.status)
    return AttemptOutcome(stage, dialect, status, error=error, ended_empty=True)


def without_picture(
    response: UpstreamResponse, dialect: str, error: UpstreamError, request: ImageRequest
) -> AttemptOutcome:
    """A success by its status that holds no picture; an error in it counts by its own words.

    Relays answer 200 for the errors of their upstreams.  An error that nobody knows says nothing
    of whether a picture was made.
    """
    error = replace(error, shaped=False)
    rows, by_codes = dialects.DIALECTS[dialect].known_errors, errors.status_of(error)
    known = [each for each in (by_codes, 400) if faults.find(rows, each, error, request)]
    if not known and by_codes >= 500:
        return replace(invalid(response, dialect), error=error)
    status = known[0] if known else by_codes
    wait = dialects.named_wait(response.headers, error, time.time(), limited=status == 429)
    return AttemptOutcome(Stage.ANSWER, dialect, status, error=error, wait=wait)


def lost(dialect: str, reason: str, *, sent: bool) -> AttemptOutcome:
    """The answer broke off; ``sent``: the client has received some of it."""
    return AttemptOutcome(Stage.STREAM if sent else Stage.SENT, dialect, reason=reason)


def broken_off(
    response: UpstreamResponse, dialect: str, error: LostError, *, sent: bool
) -> AttemptOutcome:
    """The same for an error of the edge; a body that cannot be opened is an invalid answer."""
    if isinstance(error, UnreadableError) and not sent:
        return invalid(response, dialect)
    return lost(dialect, str(error), sent=sent)


def failed(
    response: UpstreamResponse, dialect: str, event: ParsedEvent, *, sent: bool
) -> AttemptOutcome:
    """An event reported a failure; if nothing was sent yet, its status counts as the answer's."""
    return AttemptOutcome(
        Stage.STREAM if sent else Stage.ANSWER,
        dialect,
        event.status,
        error=event.error,
        wait=dialects.named_wait(
            response.headers, event.error, time.time(), limited=event.status == 429
        ),
    )
