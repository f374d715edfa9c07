"""The delivery of an Images answer, chosen by the first bytes of its body.

Heads are not to be trusted: relays name JSON text or nothing at all, and send events where an
answer was asked for, or an answer where events were.
"""

from collections.abc import Mapping
from typing import Final

from image_gateway.calls.delivery.context import (
    Delivery,
    Finish,
    ResponseContext,
    broken_off,
)
from image_gateway.calls.delivery.images import (
    BodyPassthrough,
    StreamPassthrough,
    SyntheticStream,
)
from image_gateway.calls.delivery.pictures import EventPictures
from image_gateway.core import headers
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

_DELIVERIES: Final[Mapping[tuple[ExpectedResponse, bool, bool], type[Delivery[ImageRequest]]]] = {
    (ExpectedResponse.JSON, False, False): BodyPassthrough,
    (ExpectedResponse.JSON, False, True): EventPictures,
    (ExpectedResponse.JSON, True, False): SyntheticStream,
    (ExpectedResponse.JSON, True, True): EventPictures,
    (ExpectedResponse.IMAGE_EVENTS, True, False): SyntheticStream,
    (ExpectedResponse.IMAGE_EVENTS, True, True): StreamPassthrough,
}
"""By what was asked for, whether the client asked for a stream, and whether events came."""

_SPACE: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_MOST_BYTES: Final = 64 * 1024
"""Bytes of white space before the decision; some upstreams send spaces while they work."""


def are_events(start: bytes) -> bool | None:
    """Whether a body that begins so has events; None if it could still be either."""
    if len(start) < len(_BOM) and _BOM.startswith(start):
        return None
    text = start.removeprefix(_BOM).lstrip(_SPACE)
    if text.startswith(_FIELDS):
        return True
    may_be = not text or any(field.startswith(text) for field in _FIELDS)
    return None if may_be and len(start) < _MOST_BYTES else False


class ByBody(Delivery[ImageRequest]):
    """Waits for the first bytes of a body, and delivers it as what it is."""

    def __init__(
        self, context: ResponseContext, request: ImageRequest, expects: ExpectedResponse
    ) -> None:
        super().__init__(context, request)
        self._expects = expects
        self._chosen: Delivery[ImageRequest] | None = None

    async def deliver(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context = self._context
        try:
            has_events = await self._has_events(response, until)
        except LostError as error:
            return broken_off(response, dialect, error, sent=False)
        make = _DELIVERIES[self._expects, context.stream is not None, has_events]
        self._chosen = make(context, self._request)
        outcome = await self._chosen.deliver(response, dialect, until)
        self.finish = self._chosen.finish
        return outcome

    def salvage(self) -> Finish | None:
        return None if self._chosen is None else self._chosen.salvage()

    async def _has_events(self, response: UpstreamResponse, until: float) -> bool:
        start = b""
        seconds = self._context.first_seconds(until)
        while (decided := are_events(start)) is None:
            chunk = await response.chunk(seconds)
            if not chunk:
                break
            start += chunk
            seconds = self._context.idle_seconds
        response.unread(start)
        if decided is None:
            media_type = headers.media_type(response.headers.get("content-type"))
            return media_type == "text/event-stream"
        return decided
