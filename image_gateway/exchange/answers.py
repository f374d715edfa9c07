"""What a client gets where it does not get a picture: refusals, and upstreams' errors passed on.

An error that comes before the answer has begun has its HTTP status; one that comes in a stream is
its last event.  An upstream's error goes on in its own words, without credentials, account names or
content (``core.errors.scrub``).
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

from image_gateway.calls.attempt import AttemptResult
from image_gateway.calls.delivery import Finish
from image_gateway.core import errors, headers
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.records import record
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream

_UNAVAILABLE_RETRY_SECONDS: Final = 5.0
_DRAIN_RETRY_SECONDS: Final = 1.0


class Answers:
    """The errors of one request; ``stream`` is set once the client is known to want one."""

    def __init__(self, downstream: Downstream, record: RecordBuilder) -> None:
        self._downstream = downstream
        self._record = record
        self.stream: EventStream | None = None

    def __repr__(self) -> str:
        return f"<Answers {self._downstream!r}>"

    async def refuse(self, refusal: Refusal) -> None:
        """An answer of ours; an answer that has begun and is no stream can only break off."""
        self._record.fail(refusal.code, refusal.spec.source)
        self._record.enter(Phase.DELIVERED)
        if self.stream is None and self._downstream.status is not None:
            self._downstream.break_off()
            return
        await self._send(refusal.spec.status, refusal.headers(), refusal.body())

    def pass_on(self, result: AttemptResult) -> Finish:
        """An upstream's error in its own words; gives what sends it."""
        outcome, account = result.outcome, result.account
        status = outcome.status or 502
        body = errors.scrub(
            errors.passed_on(status, result.body, outcome.error),
            [*account.secrets(), account.account_name],
        )
        sent = headers.to_client_with_error(result.headers)
        if outcome.wait is not None and not headers.RETRY & set(sent):
            sent |= errors.retry_headers(outcome.wait)
        if not result.step.retry:
            sent["x-should-retry"] = "false"
        self.record_failure(result)
        return partial(self._send, status, sent, body)

    def record_failure(self, result: AttemptResult) -> None:
        """The request fails by an upstream's error."""
        outcome = result.outcome
        code = record.upstream_code(outcome.error) or f"upstream_{outcome.status or 502}"
        self._record.fail(code, Source.UPSTREAM)

    async def _send(self, status: int, sent: Mapping[str, str], body: bytes) -> None:
        if self.stream is not None:
            self.stream.quiet()
            if self.stream.committed:
                await self.stream.fail(body)
                return
        await self._downstream.answer(status, {**sent, "content-type": "application/json"}, body)


def draining() -> Refusal:
    """This instance stops; another one, or the next, is there for the call."""
    return Refusal(
        "draining",
        "This instance is stopping. Send the call again.",
        retry_after=_DRAIN_RETRY_SECONDS,
    )


def not_an_image_request(*, is_encoded: bool) -> Refusal:
    """A call on a Responses path that asks for no picture, where there is no text API."""
    if is_encoded:
        return errors.encoded_body()
    return Refusal(
        "not_an_image_request",
        "This gateway serves calls that ask for a picture: by a model `gpt-image-*`, an "
        "`image_generation` tool, or a `tool_choice` that selects it. Send others to the text API.",
    )


def control_plane_unavailable() -> Refusal:
    """Postgres cannot be asked, and the key is not known."""
    return Refusal(
        "control_plane_unavailable",
        "The gateway cannot look up API keys right now. Try again in a moment.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )
