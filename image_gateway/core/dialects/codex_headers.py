"""The headers of every route of a Codex account: who calls, and few of the client's headers.

Source: README.md in this folder, "Codex, both routes"; measured with the Codex command line.
"""

from typing import Final

from image_gateway.core.dialects.upstream_request import EncodeContext
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account

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


def headers(
    account: Account, client: Headers, context: EncodeContext, accept: str
) -> dict[str, str]:
    """The headers of a call; the account must have a credential."""
    credential = account.signed_by()
    version = account.client_version or context.client_version
    result = client.named(_FROM_CLIENT, _FROM_CLIENT_PREFIXES)
    result |= {
        "authorization": f"Bearer {credential.token.reveal()}",
        "originator": _ORIGINATOR,
        "user-agent": f"{_ORIGINATOR}/{version}",
        "version": version,
        "content-type": "application/json",
        "accept": accept,
    }
    if credential.account_id is not None:
        result["chatgpt-account-id"] = credential.account_id
    if credential.is_fedramp:
        result["x-openai-fedramp"] = "true"
    if (client.get("originator") or "").startswith("codex_"):
        result |= client.named(frozenset({"originator", "user-agent"}), ())
    return result
