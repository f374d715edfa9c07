"""Codex, the direct route: JSON in, JSON out, as the Codex command line sends it.

Source: API_CONTRACT section 4.  An edit takes at most five pictures and no mask; the route never
streams.
"""

from typing import Final

from image_gateway.core import body
from image_gateway.core.dialects.call import Call, Defaults, Gap, join
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import ImageRequest

MOST_IMAGES: Final = 5
_ORIGINATOR: Final = "codex_cli_rs"
_FROM_CLIENT: Final = frozenset(
    {
        "openai-beta",
        "x-openai-subagent",
        "session-id",
        "thread-id",
        "traceparent",
        "tracestate",
        "baggage",
    }
)
_FROM_CLIENT_PREFIXES: Final = ("x-codex-",)


def gap(request: ImageRequest) -> Gap | None:
    """What the direct route cannot do."""
    if request.stream:
        return Gap("stream", "accounts of this kind do not stream. Leave out `stream`.")
    if request.mask is not None:
        return Gap("mask", "accounts of this kind take no mask. Leave out `mask`.")
    if request.markup is not None:
        return Gap("markup", "accounts of this kind take no markup. Leave out `markup`.")
    if len(request.images) > MOST_IMAGES:
        return Gap("images", f"accounts of this kind take at most {MOST_IMAGES} pictures.")
    return None


def encode(request: ImageRequest, account: Account, client: Headers, defaults: Defaults) -> Call:
    """The call; the account must have a credential."""
    model = request.upstream_model
    payload: dict[str, object] = {
        "prompt": request.prompt,
        "model": (account.deployments or {}).get(model, model),
    }
    if request.images:
        payload["images"] = [{"image_url": image.text} for image in request.images]
    payload |= request.parameters
    return Call(
        url=join(account.base_url or defaults.codex_base_url, f"/images/{request.endpoint}"),
        headers=headers(account, client, defaults),
        body=body.from_json(payload, request.lifted),
    )


def headers(account: Account, client: Headers, defaults: Defaults) -> dict[str, str]:
    """Who we are for Codex, and the little it may know of the client."""
    credential = account.credential
    if credential is None:
        raise ValueError("an account without a credential was asked to sign a call")
    version = account.client_version or defaults.codex_client_version
    sent = client.named(_FROM_CLIENT, _FROM_CLIENT_PREFIXES)
    sent |= {
        "authorization": f"Bearer {credential.token.reveal()}",
        "originator": _ORIGINATOR,
        "user-agent": f"{_ORIGINATOR}/{version}",
        "version": version,
        "content-type": "application/json",
        "accept": "application/json",
    }
    if credential.account_id is not None:
        sent["chatgpt-account-id"] = credential.account_id
    if credential.is_fedramp:
        sent["x-openai-fedramp"] = "true"
    if (client.get("originator") or "").startswith("codex_"):
        sent |= client.named(frozenset({"originator", "user-agent"}), ())
    return sent
