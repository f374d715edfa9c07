"""Image intents as calls of the Responses API: what is the same for every upstream of that API.

A client's call goes upstream almost unchanged, always as a stream, and with the account's names for
models.  The API has text models only, so a call for an image model goes to the account's main model
with the image tool.  Each dialect adds what its own upstream needs.  Source: README.md in this
folder, "Image intents on /v1/responses".
"""

from collections.abc import Mapping
from typing import Final

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects.upstream_request import ExpectedResponse, UpstreamRequest
from image_gateway.core.model import Account
from image_gateway.core.request import intent
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.intent_signals import TOOL, signals_of
from image_gateway.core.request.model_names import is_image_model

EVENTS_HEADERS: Final[Mapping[str, str]] = {
    "accept": "text/event-stream",
    "content-type": "application/json",
}


def fields(request: IntentRequest, account: Account) -> dict[str, object]:
    """The fields of the call's body; the account must have a main model."""
    sent = dict(request.body) | {"stream": True}
    if request.background:
        del sent["background"]  # the gateway itself lets the client go
    sent["model"] = (
        account.responses_model
        if request.is_for_image_model
        else account_name(request.upstream_model, account)
    )
    tools = _tools(request, account)
    if tools:
        sent["tools"] = tools
    if request.is_for_image_model and sent.get("tool_choice") is None:
        sent["tool_choice"] = {"type": TOOL}
    return sent


def upstream_request(
    url: str,
    headers: Mapping[str, str],
    sent: Mapping[str, object],
    request: IntentRequest,
    picture_model: str | None = None,
) -> UpstreamRequest:
    """The call itself."""
    if not signals_of(sent).show_intent({}):
        raise ValueError("an image intent was lost when it was rewritten")
    return UpstreamRequest(
        url=url,
        headers=headers,
        body=body_segments.from_json(sent, request.texts),
        expects=ExpectedResponse.RESPONSE,
        picture_model=picture_model,
    )


def _tools(request: IntentRequest, account: Account) -> list[object]:
    """The client's tools, with the account's names for image models."""
    client_tools = request.body.get("tools")
    tools: list[object] = list(client_tools) if isinstance(client_tools, list) else []
    if request.is_for_image_model and not intent.image_tools(request.body):
        tools.append({"type": TOOL})
    default = request.upstream_model if is_image_model(request.upstream_model) else None
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != TOOL:
            continue
        requested = tool.get("model")
        model = request.mapped(requested) if isinstance(requested, str) else default
        if model is not None:
            tools[index] = {**tool, "model": account_name(model, account)}
    return tools


def account_name(model: str, account: Account) -> str:
    """The account's name for a model."""
    return (account.deployments or {}).get(model, model)
