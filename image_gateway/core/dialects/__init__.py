"""How each kind of upstream wants to be asked.

A dialect is one pure function: ``encode`` says what to send for a request on a route that can do
all of it (``core.capability``).  Everything a call carries upstream stands there; nothing passes
through.
"""

from collections.abc import Callable, Mapping
from typing import Final

from image_gateway.core.capability import Route
from image_gateway.core.dialects import azure, codex_images, codex_responses, openai
from image_gateway.core.dialects.call import Answers, Call, Context
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import ImageRequest

__all__ = ["ENCODE", "Answers", "Call", "Context"]

Encode = Callable[[ImageRequest, Account, Headers, Context], Call]

ENCODE: Final[Mapping[Route, Encode]] = {
    Route.CODEX_IMAGES: codex_images.encode,
    Route.CODEX_RESPONSES: codex_responses.encode,
    Route.AZURE: azure.encode,
    Route.OPENAI: openai.encode,
}
"""``encode(request, account, client, context)``; ``client`` holds the headers that came."""
