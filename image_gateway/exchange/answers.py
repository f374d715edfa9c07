"""Error answers for clients: refusals of the gateway, and errors passed on from upstreams.

An error before the answer has begun has its HTTP status; an error in a stream is its last event.
An upstream's error keeps its message, without credentials, account names or content
(``core.scrubbing``).
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

from image_gateway.calls.attempt import AttemptResult
from image_gateway.calls.delivery import Finish
from image_gateway.core import errors, headers
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream

_UNAVAILABLE_RETRY_SECONDS: Final = 5.0
_DRAIN_RETRY_SECONDS: Final = 1.0


class Answers:
    """The error answers of one request; ``stream`` is set if the client asked for a stream."""

    def __init__(self, downstream: Downstream, record: RecordBuilder) -> None:
        self._downstream = downstream
        self._record = record
        self.stream: EventStream | None = None

    def __repr__(self) -> str:
        return f"<Answers {self._downstream!r}>"

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal; an answer that has begun and is not a stream is broken off instead."""
        self._record.fail(refusal.code, refusal.spec.source)
        self._record.enter(Phase.DELIVERED)
        if self.stream is None and self._downstream.status is not None:
            self._downstream.break_off()
            return
        await self._send(refusal.spec.status, refusal.headers() | self._advice(), refusal.body())

    def pass_on(self, result: AttemptResult) -> Finish:
        """Pass on an upstream's error; returns a function that sends it."""
        outcome = result.outcome
        status = outcome.status or 502
        body = result.scrubber.clean_json(errors.passed_on(status, result.body, outcome.error))
        fields = headers.to_client_with_error(result.headers)
        if outcome.wait is not None and not headers.RETRY & set(fields):
            fields |= errors.retry_headers(outcome.wait)
        if not result.step.retry:
            fields["x-should-retry"] = "false"
        self.record_failure(result)
        return partial(self._send, status, fields | self._advice(), body)

    def record_failure(self, result: AttemptResult) -> None:
        """Record that an upstream's error failed the request."""
        outcome = result.outcome
        code = errors.shown_code(outcome.error) or f"upstream_{outcome.status or 502}"
        self._record.fail(code, Source.UPSTREAM)

    def _advice(self) -> dict[str, str]:
        """Forbids a retry if a picture may exist, whichever of the attempts may have made it."""
        return {"x-should-retry": "false"} if self._record.may_be_billed else {}

    async def _send(self, status: int, fields: Mapping[str, str], body: bytes) -> None:
        if self.stream is not None:
            self.stream.quiet()
            if self.stream.committed:
                await self.stream.fail(body)
                return
        await self._downstream.answer(status, {**fields, "content-type": "application/json"}, body)


def draining() -> Refusal:
    """This instance is stopping; another instance, or the next one, can serve the call."""
    return Refusal(
        "draining",
        "This instance is stopping. Send the call again.",
        retry_after=_DRAIN_RETRY_SECONDS,
    )


def not_an_image_request() -> Refusal:
    """A call on a Responses path that does not ask for a picture, when no text API is set."""
    return Refusal(
        "not_an_image_request",
        "This gateway serves only calls for pictures: with a model `gpt-image-*`, an "
        "`image_generation` tool, or a `tool_choice` that selects it. Send others to the text API.",
    )


def control_plane_unavailable() -> Refusal:
    """Postgres cannot be queried, and the key is not in the cache."""
    return Refusal(
        "control_plane_unavailable",
        "The gateway cannot look up API keys at the moment. Try again later.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )
