"""How an upstream's answer reaches the client: seven kinds of delivery, in one table.

| the upstream was asked for | the client asked for | what came | delivery |
|---|---|---|---|
| an Images answer | an answer | JSON | ``BodyPassthrough``: streamed through and counted |
| an Images answer | either | events | ``EventPictures``: pictures out of events |
| an Images answer | a stream | JSON | ``SyntheticStream``: one completed event for each picture |
| the Images API's events | a stream | events | ``StreamPassthrough``: frame by frame, unchanged |
| the Images API's events | a stream | JSON | ``SyntheticStream`` |
| Responses events, for a picture | either | events | ``PictureCollector``: pictures out of events |
| Responses events, for an intent | a stream | events | ``ResponseStreamPassthrough`` |
| Responses events, for an intent | an answer | events | ``AssembledResponse``: one JSON response |

The body shows what it is (``by_body``), whatever its media type; only HTML is never an answer.  A
response as JSON counts as the event that ends it (``edge.upstream.response_event_reader``).  A
delivery sends what it can and returns the outcome; ``core.routing.failover`` decides what follows.
It does not send the last bytes: ``finish`` sends them after slot, connection and spool have been
given back.  If they were sent before, a client that calls again at once could find its own slot
taken.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from image_gateway.calls.delivery.by_body import ByBody
from image_gateway.calls.delivery.context import Delivery, Finish, ResponseContext
from image_gateway.calls.delivery.pictures import PictureCollector
from image_gateway.calls.delivery.responses import AssembledResponse, ResponseStreamPassthrough
from image_gateway.core import headers
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.edge.upstream.http_client import UpstreamResponse

__all__ = ["AnyDelivery", "Finish", "PictureCollector", "ResponseContext", "choose"]

AnyDelivery = Delivery[ImageRequest] | Delivery[IntentRequest]

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})

MakeDelivery = Callable[[ResponseContext, Any], AnyDelivery]

_OF_RESPONSES: Final[Mapping[tuple[ExpectedResponse, bool], MakeDelivery]] = {
    (ExpectedResponse.RESPONSE_EVENTS, False): PictureCollector,
    (ExpectedResponse.RESPONSE_EVENTS, True): PictureCollector,
    (ExpectedResponse.RESPONSE, True): ResponseStreamPassthrough,
    (ExpectedResponse.RESPONSE, False): AssembledResponse,
}
"""By what the upstream was asked for, and whether the client asked for a stream."""


def choose(
    context: ResponseContext, expects: ExpectedResponse, response: UpstreamResponse
) -> MakeDelivery | None:
    """The delivery for an answer, by its head; None if the answer cannot be used."""
    media_type = headers.media_type(response.headers.get("content-type"))
    if not 200 <= response.status < 300 or media_type in _PAGES:
        return None
    if expects in {ExpectedResponse.JSON, ExpectedResponse.IMAGE_EVENTS}:
        return partial(ByBody, expects=expects)
    return _OF_RESPONSES[expects, context.stream is not None]
