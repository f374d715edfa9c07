"""How an upstream's answer reaches the client: six ways, in one table.

| the upstream was asked for | the client asked for | what came | way |
|---|---|---|---|
| an Images answer | an answer | JSON | ``BodyPassthrough``: streamed through, counted on its way |
| an Images answer | a stream | JSON | ``SyntheticStream``: one completed event for each picture |
| the Images API's events | a stream | events | ``StreamPassthrough``: frame by frame, as they came
|
| the Images API's events | a stream | JSON | ``SyntheticStream`` |
| Responses events, for a picture | either | events | ``PictureCollector``: pictures out of events |
| Responses events, for an intent | a stream | events | ``ResponseStreamPassthrough`` |
| Responses events, for an intent | an answer | events | ``AssembledResponse``: one JSON response |

Whatever the table does not name is an answer that cannot be used.  A way delivers what can be
delivered and says how it ended; what follows from that is decided elsewhere
(``core.routing.failover``).  It does not send the last bytes: it leaves them in ``finish``, for
when slot, connection and spool are given back.  Were they sent before, a client that calls again at
once could find its own slot taken.
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

Way = Callable[[ResponseContext, Any], AnyDelivery]

_WAYS: Final[Mapping[tuple[ExpectedResponse, bool, str], Way]] = {
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
) -> Way | None:
    """The way for an answer, by its head; None where that does not promise what was asked for."""
    is_plain = response.headers.get("content-encoding", "identity").lower() == "identity"
    if not (200 <= response.status < 300 and is_plain):
        return None
    media_type = headers.media_type(response.headers.get("content-type"))
    return _WAYS.get((expects, context.stream is not None, media_type))
