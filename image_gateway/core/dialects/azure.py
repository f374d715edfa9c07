"""Azure OpenAI: deployments on the legacy path, or the model's name on the v1 path.

Source: README.md in this folder, "Azure OpenAI".  An account with an ``api_version`` is asked on
the legacy path, where the deployment stands in the path and ``model`` in the body would fail; one
without on the v1 path, where ``model`` is the deployment.  Edits are multipart only.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from image_gateway.core.dialects.dialect import Ability, Dialect, UpstreamRoute
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    UpstreamRequest,
    images_request,
    upstream_name,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest

HOSTS: Final = re.compile(
    r"(?:[a-z0-9-]+\.)+(?:openai\.azure|services\.ai\.azure|cognitiveservices\.azure)\.(?:com|us|cn)\.?"
)
"""Azure's own hosts, with the sovereign clouds; a base URL elsewhere is worth a warning."""

# What people paste as base URL may already lead to a deployment, or all the way to an endpoint.
_WHAT_WE_ADD: Final = re.compile(
    r"/openai(?:/v1(?:/images(?:/(?:generations|edits))?)?|/deployments(?:/.*)?)?/*\Z",
    re.IGNORECASE,
)
_FROM_CLIENT: Final = frozenset({"traceparent", "tracestate"})


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """The call; the account must have a credential and a base URL."""
    deployment = upstream_name(request, account)
    values = {"prompt": request.prompt, **request.parameters}
    if account.api_version is None:
        values["model"] = deployment
    credential = account.signed_by()
    token = credential.token.reveal()
    return images_request(
        url(account, deployment, request.endpoint),
        {
            **client.named(_FROM_CLIENT, ()),
            **(
                {"api-key": token}
                if credential.kind == "api_key"
                else {"authorization": f"Bearer {token}"}
            ),
        },
        values,
        request,
        context.boundary if request.endpoint == "edits" else None,
    )


def url(account: Account, deployment: str, endpoint: str) -> str:
    """Where to post; the base URL's own path and query are kept, ``api_version`` goes first."""
    parts = urlsplit(account.base_url or "")
    path = _WHAT_WE_ADD.sub("", parts.path).rstrip("/")
    query = parts.query
    if account.api_version is None:
        path += f"/openai/v1/images/{endpoint}"
    else:
        path += f"/openai/deployments/{quote(deployment, safe='')}/images/{endpoint}"
        others = [each for each in query.split("&") if each.partition("=")[0] != "api-version"]
        version = f"api-version={quote(account.api_version, safe='')}"
        query = "&".join([*filter(None, others), version])
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))


def doubts(account: Account) -> list[str]:
    """What looks like a mistake in an account that could work all the same, for an operator."""
    parts = urlsplit(account.base_url or "")
    found = []
    if HOSTS.fullmatch((parts.hostname or "").lower()) is None:
        found.append("base_url is no host of Azure's")
    _, named, rest = parts.path.partition("/deployments/")
    deployment = unquote(rest.partition("/")[0])
    if named and account.api_version is None:
        found.append("base_url leads to a deployment, which is used only with an api_version")
    elif named and deployment not in (account.deployments or {}).values():
        found.append(f"base_url names deployment {deployment!r}, and deployments does not")
    return found


def _has_one_route(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:  # noqa: ARG001
    return (ROUTE,)


ROUTE: Final = UpstreamRoute("azure", encode, frozenset({Ability.IMAGE_ADDRESS}))
DIALECT: Final = Dialect(
    name="azure",
    described="an Azure deployment",
    routes=(ROUTE,),
    routes_of=_has_one_route,
    base_url=None,
    attempt_seconds=540.0,
    credentials=frozenset({"api_key", "access_token"}),
    needed=("base_url", "deployments"),
    unused=frozenset({"responses_model", "codex_route"}),
    missing_model_codes=frozenset({"404"}),
    doubts=doubts,
)
