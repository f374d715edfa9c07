"""Codex, the Responses route: a text model is asked to make one picture with the image tool.

Source: README.md in this folder, "Codex, Responses route".  It always streams, and one call makes
one picture: a request for more becomes several calls.  ``core.dialects.response_events`` reads its
events.
"""

from typing import Final

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects import codex_headers
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
    join,
    upstream_name,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest

_INSTRUCTIONS: Final = (
    "Make exactly one picture with the image generation tool. Use the user's text as the tool's "
    "prompt, word for word, and answer with nothing else."
)


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call for one picture; the account must have a credential and a main model."""
    content: list[dict[str, object]] = [{"type": "input_text", "text": request.prompt}]
    content += [{"type": "input_image", "image_url": image.text} for image in request.images]
    tool: dict[str, object] = {
        "type": "image_generation",
        "action": "edit" if request.endpoint == "edits" else "generate",
        "model": upstream_name(request, account),
        **request.parameters,
    }
    tool.pop("n", None)
    if request.mask is not None:
        tool["input_image_mask"] = {"image_url": request.mask.text}
    payload = {
        "model": account.responses_model,
        "instructions": _INSTRUCTIONS,
        "input": [{"role": "user", "content": content}],
        "tools": [tool],
        "tool_choice": {"type": "image_generation"},
        "stream": True,
        "store": False,
    }
    return UpstreamRequest(
        url=join(account.base_url or context.base_url, "/responses"),
        headers=codex_headers.headers(account, client, context, "text/event-stream"),
        body=body_segments.from_json(payload, request.texts),
        expects=ExpectedResponse.RESPONSE_EVENTS,
    )
