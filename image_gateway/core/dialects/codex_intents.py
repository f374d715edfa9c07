"""Codex, the Responses route for image intents: a client's Responses call, almost unchanged.

Only what the upstream would refuse is changed: it never stores, requires instructions and a list as
input, knows developers instead of systems, and takes none of the parameters that only tune an
answer.  Source: README.md in this folder, "Codex, Responses route".
"""

from typing import Final

from image_gateway.core.dialects import codex_headers, intents
from image_gateway.core.dialects.upstream_request import EncodeContext, UpstreamRequest, join
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.intent import IntentRequest

_FOR_IMAGE_MODELS: Final = "Make the picture the user asks for with the image generation tool."
_FOR_OTHERS: Final = "You are a helpful assistant."
TUNING: Final = frozenset(
    {
        "context_management",
        "frequency_penalty",
        "max_completion_tokens",
        "max_output_tokens",
        "metadata",
        "presence_penalty",
        "prompt_cache_retention",
        "safety_identifier",
        "stream_options",
        "temperature",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
"""Parameters that Codex refuses and that do not change what is asked for."""
_STORING: Final = frozenset({"background", "conversation", "previous_response_id", "prompt"})
"""Parameters that Codex refuses even if they are false or null, and so ask for nothing."""


def encode(
    request: IntentRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential and a main model."""
    sent = {
        name: value
        for name, value in intents.fields(request, account).items()
        if name not in TUNING and not (name in _STORING and not value)
    }
    sent["store"] = False
    if sent.get("instructions") is None:
        sent["instructions"] = _FOR_IMAGE_MODELS if request.is_for_image_model else _FOR_OTHERS
    if "input" in sent:
        sent["input"] = _input(sent["input"])
    return intents.upstream_request(
        join(account.base_url or context.base_url, "/responses"),
        codex_headers.headers(account, client, context, "text/event-stream"),
        sent,
        request,
    )


def _input(value: object) -> object:
    """The input as a list of items, none of which has the role ``system``."""
    if isinstance(value, str):
        content = [{"type": "input_text", "text": value}]
        return [{"role": "user", "content": content}]
    if not isinstance(value, list):
        return value
    return [
        {**item, "role": "developer"}
        if isinstance(item, dict) and item.get("role") == "system"
        else item
        for item in value
    ]
