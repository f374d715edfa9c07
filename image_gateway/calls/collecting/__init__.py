"""How an upstream's answer is collected: ten kinds of collectors, in one table.

| the upstream was asked for | the client asked for | what came | collector |
|---|---|---|---|
| an Images answer | an answer | JSON | ``WholeBody``: kept unchanged and counted |
| an Images answer | either | events | ``EventPictures``: pictures out of events |
| an Images answer | a stream | JSON | ``SyntheticEvents``: one completed event for each picture |
| the Images API's events | a stream | events | ``ImageEvents``: frame by frame, unchanged |
| the Images API's events | a stream | JSON | ``SyntheticEvents`` |
| Responses events, for a picture | either | events | ``PictureCollector``: pictures out of events |
| Responses events, for an intent | a stream | events | ``ResponseEvents``: nearly unchanged |
| Responses events, for an intent | an answer | events | ``AssembledResponse``: one JSON response |
| the same, in the background | either | events | ``background``: with the gateway's id |

The body shows what it is (``by_body``), whatever its media type; only HTML is never an answer.  A
response as JSON counts as the event that ends it (``edge.upstream.response_event_reader``).  A
collector puts frames into the call's ``Answer`` and returns the outcome;
``core.routing.failover`` decides what follows.  Clients get the end of an answer
(``Collector.collected``) only after slot, connection and spool have been given back: a client that
calls again at once could otherwise find its own slot taken.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from image_gateway.calls.collecting.background import BackgroundAssembled, BackgroundEvents
from image_gateway.calls.collecting.by_body import ByBody
from image_gateway.calls.collecting.context import CollectContext, Collected, Collector
from image_gateway.calls.collecting.pictures import PictureCollector
from image_gateway.calls.collecting.responses import AssembledResponse, ResponseEvents
from image_gateway.core import headers
from image_gateway.core.dialects import ExpectedResponse
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.edge.upstream.http_client import UpstreamResponse

__all__ = ["AnyCollector", "CollectContext", "Collected", "PictureCollector", "choose"]

AnyCollector = Collector[ImageRequest] | Collector[IntentRequest]

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})

MakeCollector = Callable[[CollectContext, Any], AnyCollector]

_OF_RESPONSES: Final[Mapping[tuple[ExpectedResponse, bool], MakeCollector]] = {
    (ExpectedResponse.RESPONSE_EVENTS, False): PictureCollector,
    (ExpectedResponse.RESPONSE_EVENTS, True): PictureCollector,
    (ExpectedResponse.RESPONSE, True): ResponseEvents,
    (ExpectedResponse.RESPONSE, False): AssembledResponse,
}
"""By what the upstream was asked for, and whether the client asked for a stream."""


def choose(
    context: CollectContext, expects: ExpectedResponse, response: UpstreamResponse
) -> MakeCollector | None:
    """The collector for an answer, by its head; None if the answer cannot be used."""
    media_type = headers.media_type(response.headers.get("content-type"))
    if not 200 <= response.status < 300 or media_type in _PAGES:
        return None
    if expects in {ExpectedResponse.JSON, ExpectedResponse.IMAGE_EVENTS}:
        return partial(ByBody, expects=expects)
    if context.background is not None:
        return BackgroundEvents if context.streams else BackgroundAssembled
    return _OF_RESPONSES[expects, context.streams]
