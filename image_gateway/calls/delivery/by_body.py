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
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.upstream import event_reader
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
            has_events = await event_reader.has_events(
                response, context.first_seconds(until), context.idle_seconds
            )
        except LostError as error:
            return broken_off(response, dialect, error, sent=False)
        make = _DELIVERIES[self._expects, context.stream is not None, has_events]
        self._chosen = make(context, self._request)
        outcome = await self._chosen.deliver(response, dialect, until)
        self.finish = self._chosen.finish
        return outcome

    def salvage(self) -> Finish | None:
        return None if self._chosen is None else self._chosen.salvage()
