"""What every collector works with, and the outcomes of an answer."""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, Self, TypeVar

from image_gateway.calls.answer import Answer, AnyBody
from image_gateway.calls.picture_urls import UrlAnswer
from image_gateway.core import dialects, errors
from image_gateway.core.calls.background import BackgroundResponse
from image_gateway.core.dialects import faults
from image_gateway.core.dialects.events import ParsedEvent
from image_gateway.core.errors import UpstreamError
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing.failover import AttemptOutcome, Stage
from image_gateway.core.scrubbing import Scrubber
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream.http_client import LostError, UnreadableError, UpstreamResponse


@dataclass(frozen=True, slots=True)
class Collected:
    """What ends a successful answer: the whole body, or the last frames of a stream.

    ``fields`` are headers of the upstream's response that go to the client.  ``urls`` is the same
    answer as ``body``, if its pictures are data URLs, for those who have addresses for them.
    """

    body: AnyBody | None = None
    frames: Sequence[AnyBody] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    urls: UrlAnswer | None = None

    @classmethod
    def of_urls(cls, urls: UrlAnswer, fields: Mapping[str, str] | None = None) -> Self:
        """An answer whose pictures go to the client as URLs."""
        return cls(urls.with_data_urls(), fields=fields or {}, urls=urls)


@dataclass(frozen=True)
class CollectContext:
    """Where the answer of a call goes.

    ``streams``: the client asked for a stream.  ``announce`` is called before an upstream is asked.
    ``idle_seconds`` is the longest silence within an
    upstream's answer that has begun.  ``scrubber`` is that of the account that answers.
    ``background``: what the response of a call in the background is called; None for other calls.
    """

    answer: Answer
    streams: bool
    announce: Callable[[], Awaitable[None]]
    record: RecordBuilder
    spools: Spools
    idle_seconds: float
    scrubber: Scrubber = field(default_factory=partial(Scrubber, ()))
    background: BackgroundResponse | None = None

    def first_seconds(self, until: float) -> float:
        """How long the first byte of a body may take after the head has arrived.

        A late head must not lose a picture that is on its way.
        """
        return max(until - time.monotonic(), self.idle_seconds)


_Request = TypeVar("_Request", ImageRequest, IntentRequest)


class Collector(ABC, Generic[_Request]):
    """Collects one upstream answer."""

    def __init__(self, context: CollectContext, request: _Request) -> None:
        self._context = context
        self._request: _Request = request
        self.collected: Collected | None = None
        """The end of the answer; the clients get it when the account's slot and connection are
        given back.  None if nothing was collected."""

    @abstractmethod
    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        """Collect an answer whose head has the right type; returns the outcome.

        ``until``, on the monotonic clock, is the deadline for the first bytes.
        """

    def salvage(self) -> Collected | None:
        """What there is of the answer after ``collect`` was cancelled; None if nothing."""
        return None


# -- outcomes of an answer -------------------------------------------------------------------------


def delivered(response: UpstreamResponse, dialect: str) -> AttemptOutcome:
    """The whole answer has arrived."""
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
    """The answer broke off; ``sent``: its picture has begun, or the client has some of it."""
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
