"""Codex, the Responses route for image intents: a client's Responses call, almost unchanged.

Only what the upstream would refuse is changed: it always streams and never stores, requires
instructions and a list as input, and has text models only, so a call for an image model goes to the
account's main model with the image tool.  Source: README.md in this folder, "Codex, Responses
route".
"""

from typing import Final

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects import codex_headers
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
    join,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import intent
from image_gateway.core.request.intent import IntentRequest

_FOR_IMAGE_MODELS: Final = "Make the picture the user asks for with the image generation tool."
_FOR_OTHERS: Final = "You are a helpful assistant."


def encode(
    request: IntentRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential and a main model."""
    payload = dict(request.body) | {"stream": True, "store": False}
    payload["model"] = (
        account.responses_model if request.is_for_image_model else request.upstream_model
    )
    if payload.get("instructions") is None:
        payload["instructions"] = _FOR_IMAGE_MODELS if request.is_for_image_model else _FOR_OTHERS
    text = payload.get("input")
    if isinstance(text, str):
        content = [{"type": "input_text", "text": text}]
        payload["input"] = [{"role": "user", "content": content}]
    tools = _tools(request, account)
    if tools:
        payload["tools"] = tools
    if request.is_for_image_model and payload.get("tool_choice") is None:
        payload["tool_choice"] = {"type": intent.TOOL}
    if not intent.signals_of(payload).show_intent({}):
        raise ValueError("an image intent was lost when it was rewritten")
    return UpstreamRequest(
        url=join(account.base_url or context.base_url, "/responses"),
        headers=codex_headers.headers(account, client, context, "text/event-stream"),
        body=body_segments.from_json(payload, request.texts),
        expects=ExpectedResponse.RESPONSE,
    )


def _tools(request: IntentRequest, account: Account) -> list[object]:
    """The client's tools, with the account's names for image models."""
    client_tools = request.body.get("tools")
    tools: list[object] = list(client_tools) if isinstance(client_tools, list) else []
    if request.is_for_image_model and not intent.image_tools(request.body):
        tools.append({"type": intent.TOOL})
    default = request.upstream_model if intent.is_image_model(request.upstream_model) else None
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != intent.TOOL:
            continue
        requested = tool.get("model")
        model = request.mapped(requested) if isinstance(requested, str) else default
        if model is not None:
            tools[index] = {**tool, "model": (account.deployments or {}).get(model, model)}
    return tools
