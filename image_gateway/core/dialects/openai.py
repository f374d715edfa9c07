"""OpenAI and compatible upstreams: ``/images/*`` and ``/responses`` after a base URL that ends in
``/v1``.

An edit keeps the form in which it came: JSON may name https addresses, which only this kind of
account fetches itself, and multipart takes its pictures from the spool without re-encoding.
"""

from collections.abc import Sequence
from typing import Final

from image_gateway.core.dialects import intents
from image_gateway.core.dialects.dialect import Dialect, UpstreamRoute
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    UpstreamRequest,
    images_request,
    join,
    upstream_name,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest

_FROM_CLIENT: Final = frozenset({"traceparent", "tracestate"})
_TOOL_MODEL: Final = "gpt-image-2.6-sunburst"
"""The model of an image tool that names none (README.md in this folder, "Codex, Responses
route")."""


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential."""
    is_form = request.is_form and request.endpoint == "edits"
    return images_request(
        join(account.base_url or context.base_url, f"/images/{request.endpoint}"),
        _headers(account, client),
        {
            "prompt": request.prompt,
            "model": upstream_name(request, account),
            **request.parameters,
        },
        request,
        context.boundary if is_form else None,
    )


def encode_intent(
    request: IntentRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode an image intent; the account must have a credential and a main model."""
    models = request.image_models or {_TOOL_MODEL}
    return intents.upstream_request(
        join(account.base_url or context.base_url, "/responses"),
        {**_headers(account, client), **intents.EVENTS_HEADERS},
        intents.fields(request, account),
        request,
        min(models) if len(models) == 1 else None,
    )


def _headers(account: Account, client: Headers) -> dict[str, str]:
    return {
        **client.named(_FROM_CLIENT, ()),
        "authorization": f"Bearer {account.signed_by().token.reveal()}",
    }


def _has_one_route(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:  # noqa: ARG001
    return (ROUTE,)


ROUTE: Final = UpstreamRoute("openai", encode)
INTENTS: Final = UpstreamRoute("openai_intents", encode_intent)
DIALECT: Final = Dialect(
    name="openai",
    described="an OpenAI-compatible account",
    routes=(ROUTE,),
    routes_of=_has_one_route,
    base_url="https://api.openai.com/v1",
    attempt_seconds=540.0,
    credentials=frozenset({"api_key"}),
    unused=frozenset({"api_version", "codex_route"}),
    intent_route=INTENTS,
)
