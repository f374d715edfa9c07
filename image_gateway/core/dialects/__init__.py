"""How each kind of upstream wants to be asked.

A dialect is one pure function, its ``encode``: it says what to send for a request on a route that
can do all of it (``core.routing.capability``).  Everything a call carries upstream stands there;
nothing passes through.
"""

from collections.abc import Callable, Mapping
from typing import Final

from image_gateway.core.dialects import (
    azure,
    codex_images,
    codex_intents,
    codex_responses,
    openai,
)
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.core.routing.capability import UpstreamRoute

__all__ = ["EncodeContext", "ExpectedResponse", "UpstreamRequest", "encode"]

_Encode = Callable[[ImageRequest, Account, Headers, EncodeContext], UpstreamRequest]

_IMAGES: Final[Mapping[UpstreamRoute, _Encode]] = {
    UpstreamRoute.CODEX_IMAGES: codex_images.encode,
    UpstreamRoute.CODEX_RESPONSES: codex_responses.encode,
    UpstreamRoute.AZURE: azure.encode,
    UpstreamRoute.OPENAI: openai.encode,
}


def encode(
    request: AnyRequest,
    route: UpstreamRoute,
    account: Account,
    client: Headers,
    context: EncodeContext,
) -> UpstreamRequest:
    """The call for a request on a route of an account; ``client`` holds the headers that came."""
    if isinstance(request, IntentRequest):
        return codex_intents.encode(request, account, client, context)
    return _IMAGES[route](request, account, client, context)
