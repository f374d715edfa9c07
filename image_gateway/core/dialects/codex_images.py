"""Codex, the direct route: JSON in, JSON out, as the Codex command line sends it.

Source: README.md in this folder, "Codex, direct route".  The route never streams; an edit takes
JSON only.
"""

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects import codex_headers
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    UpstreamRequest,
    join,
    pictures,
    upstream_name,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential."""
    payload: dict[str, object] = {
        "prompt": request.prompt,
        "model": upstream_name(request, account),
        **pictures(request),
        **request.parameters,
    }
    payload.pop("partial_images", None)  # it is 0: this route lacks PARTIAL_IMAGES
    return UpstreamRequest(
        url=join(account.base_url or context.base_url, f"/images/{request.endpoint}"),
        headers={
            # Codex CLI has sent one for each call since 0.171.0; a client's own passes on.
            "x-codex-image-turn-id": context.call_id,
            **codex_headers.headers(account, client, context, "application/json"),
        },
        body=body_segments.from_json(payload, request.texts),
    )
