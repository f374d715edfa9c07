"""Error answers of the gateway to a request that has no call, or whose call cannot be delivered.

An error before the answer has begun has its HTTP status; an error in a stream is its last event.
Errors of upstreams are endings of calls (``calls.conclusion``).
"""

from typing import Final

from image_gateway.calls import conclusion
from image_gateway.core.errors import Refusal
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream

_UNAVAILABLE_RETRY_SECONDS: Final = 5.0


async def refuse(downstream: Downstream, record: RecordBuilder, refusal: Refusal) -> None:
    """Send a refusal; an answer that has begun is broken off instead."""
    record.fail(refusal.code, refusal.spec.source)
    record.enter(Phase.DELIVERED)
    if downstream.status is not None:
        downstream.break_off()
        return
    fields = {**refusal.headers(), **conclusion.advice(record), "content-type": "application/json"}
    await downstream.answer(refusal.spec.status, fields, refusal.body())


def not_an_image_request() -> Refusal:
    """A call on a Responses path that does not ask for a picture, when no text API is set."""
    return Refusal(
        "not_an_image_request",
        "This gateway serves only calls for pictures: with a model `gpt-image-*`, an "
        "`image_generation` tool, or a `tool_choice` that selects it. Send others to the text API.",
    )


def kept_unavailable() -> Refusal:
    """The disk failed, so it is not known whether a call is there, or it could not be removed."""
    return Refusal(
        "overloaded",
        "The gateway cannot reach its kept calls at the moment, because their disk fails. Ask for "
        "the call again later; it is not lost.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )


def control_plane_unavailable() -> Refusal:
    """Postgres cannot be queried, and the key is not in the cache."""
    return Refusal(
        "control_plane_unavailable",
        "The gateway cannot look up API keys at the moment. Try again later.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )
