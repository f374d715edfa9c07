"""The collector of an Images answer, chosen by the first bytes of its body.

Heads are not to be trusted: relays name JSON text or nothing at all, and send events where an
answer was asked for, or an answer where events were.
"""

from collections.abc import Mapping
from typing import Final

from image_gateway.calls.collecting.context import (
    CollectContext,
    Collected,
    Collector,
    broken_off,
)
from image_gateway.calls.collecting.images import (
    ImageEvents,
    SyntheticEvents,
    WholeBody,
)
from image_gateway.calls.collecting.pictures import EventPictures
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing.failover import AttemptOutcome
from image_gateway.edge.upstream import event_reader
from image_gateway.edge.upstream.http_client import LostError, UpstreamResponse

_COLLECTORS: Final[Mapping[tuple[ExpectedResponse, bool, bool], type[Collector[ImageRequest]]]] = {
    (ExpectedResponse.JSON, False, False): WholeBody,
    (ExpectedResponse.JSON, False, True): EventPictures,
    (ExpectedResponse.JSON, True, False): SyntheticEvents,
    (ExpectedResponse.JSON, True, True): EventPictures,
    (ExpectedResponse.IMAGE_EVENTS, True, False): SyntheticEvents,
    (ExpectedResponse.IMAGE_EVENTS, True, True): ImageEvents,
}
"""By what was asked for, whether the client asked for a stream, and whether events came."""


class ByBody(Collector[ImageRequest]):
    """Waits for the first bytes of a body, and collects it as what it is."""

    def __init__(
        self, context: CollectContext, request: ImageRequest, expects: ExpectedResponse
    ) -> None:
        super().__init__(context, request)
        self._expects = expects
        self._chosen: Collector[ImageRequest] | None = None

    async def collect(
        self, response: UpstreamResponse, dialect: str, until: float
    ) -> AttemptOutcome:
        context = self._context
        try:
            has_events = await event_reader.has_events(
                response, context.first_seconds(until), context.idle_seconds
            )
        except LostError as error:
            return broken_off(response, dialect, error, sent=False)
        make = _COLLECTORS[self._expects, context.streams, has_events]
        self._chosen = make(context, self._request)
        outcome = await self._chosen.collect(response, dialect, until)
        self.collected = self._chosen.collected
        return outcome

    def salvage(self) -> Collected | None:
        return None if self._chosen is None else self._chosen.salvage()
