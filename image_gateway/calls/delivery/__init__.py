"""How an upstream's answer reaches the client: six kinds of delivery, in one table.

| the upstream was asked for | the client asked for | what came | delivery |
|---|---|---|---|
| an Images answer | an answer | JSON | ``BodyPassthrough``: streamed through and counted |
| an Images answer | a stream | JSON | ``SyntheticStream``: one completed event for each picture |
| the Images API's events | a stream | events | ``StreamPassthrough``: frame by frame, unchanged |
| the Images API's events | a stream | JSON | ``SyntheticStream`` |
| Responses events, for a picture | either | events | ``PictureCollector``: pictures out of events |
| Responses events, for an intent | a stream | events | ``ResponseStreamPassthrough`` |
| Responses events, for an intent | an answer | events | ``AssembledResponse``: one JSON response |

Any media type but these and HTML counts as the expected one: the body shows what it is.  An answer
that is not in the table cannot be used.  A delivery sends what it can and returns the
outcome; ``core.routing.failover`` decides what follows.  It does not send the last bytes:
``finish`` sends them after slot, connection and spool have been given back.  If they were sent
before, a client that calls again at once could find its own slot taken.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from image_gateway.calls.delivery.context import Delivery, Finish, ResponseContext
from image_gateway.calls.delivery.images import (
    BodyPassthrough,
    StreamPassthrough,
    SyntheticStream,
)
from image_gateway.calls.delivery.pictures import PictureCollector
from image_gateway.calls.delivery.responses import AssembledResponse, ResponseStreamPassthrough
from image_gateway.core import headers
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.edge.upstream.http_client import UpstreamResponse

__all__ = ["AnyDelivery", "Finish", "PictureCollector", "ResponseContext", "choose"]

AnyDelivery = Delivery[ImageRequest] | Delivery[IntentRequest]

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})

MakeDelivery = Callable[[ResponseContext, Any], AnyDelivery]

_DELIVERIES: Final[Mapping[tuple[ExpectedResponse, bool, str], MakeDelivery]] = {
    (ExpectedResponse.JSON, False, _JSON): BodyPassthrough,
    (ExpectedResponse.JSON, True, _JSON): SyntheticStream,
    (ExpectedResponse.IMAGE_EVENTS, True, _EVENTS): StreamPassthrough,
    (ExpectedResponse.IMAGE_EVENTS, True, _JSON): SyntheticStream,
    (ExpectedResponse.RESPONSE_EVENTS, False, _EVENTS): PictureCollector,
    (ExpectedResponse.RESPONSE_EVENTS, True, _EVENTS): PictureCollector,
    (ExpectedResponse.RESPONSE, True, _EVENTS): ResponseStreamPassthrough,
    (ExpectedResponse.RESPONSE, False, _EVENTS): AssembledResponse,
}
"""By what the upstream was asked for, whether the client asked for a stream, and the media type."""


def choose(
    context: ResponseContext, expects: ExpectedResponse, response: UpstreamResponse
) -> MakeDelivery | None:
    """The delivery for an answer, by its head; None if the answer cannot be used."""
    if not (200 <= response.status < 300 and response.is_readable):
        return None
    media_type = headers.media_type(response.headers.get("content-type"))
    if media_type not in {_JSON, _EVENTS, *_PAGES}:
        media_type = _JSON if expects is ExpectedResponse.JSON else _EVENTS
    return _DELIVERIES.get((expects, context.stream is not None, media_type))
