"""Azure OpenAI: deployments on the legacy path, or the model's name on the v1 path.

Source: README.md in this folder, "Azure OpenAI".  A call for an account with
an ``api_version`` goes to the legacy path, which names the deployment and fails with ``model`` in
the body; a call for any other account goes to the v1 path, where ``model`` is the deployment.
Edits are multipart only.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from image_gateway.core.dialects.dialect import Ability, Dialect, UpstreamRoute
from image_gateway.core.dialects.faults import Fault, KnownError, phrase
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
"""Azure's own hosts, with the sovereign clouds; any other host gets a warning."""

# An operator may paste a base URL that already leads to a deployment or an endpoint.
_ADDED_PATH: Final = re.compile(
    r"/openai(?:/v1(?:/images(?:/(?:generations|edits))?)?|/deployments(?:/.*)?)?/*\Z",
    re.IGNORECASE,
)
_FROM_CLIENT: Final = frozenset({"traceparent", "tracestate"})


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential and a base URL."""
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
    """The URL of a call.  Keeps the path and query of the base URL; ``api_version`` overrides its
    ``api-version``.
    """
    parts = urlsplit(account.base_url or "")
    path = _ADDED_PATH.sub("", parts.path).rstrip("/")
    query = parts.query
    if account.api_version is None:
        path += f"/openai/v1/images/{endpoint}"
    else:
        path += f"/openai/deployments/{quote(deployment, safe='')}/images/{endpoint}"
        pairs = [pair for pair in query.split("&") if pair.partition("=")[0] != "api-version"]
        version = f"api-version={quote(account.api_version, safe='')}"
        query = "&".join([*filter(None, pairs), version])
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))


def doubts(account: Account) -> list[str]:
    """Warnings for an operator about settings that may be mistakes, although they could work."""
    parts = urlsplit(account.base_url or "")
    warnings = []
    if HOSTS.fullmatch((parts.hostname or "").lower()) is None:
        warnings.append("base_url is not an Azure host")
    _, separator, rest = parts.path.partition("/deployments/")
    deployment = unquote(rest.partition("/")[0])
    if separator and account.api_version is None:
        warnings.append("base_url names a deployment, which is ignored without an api_version")
    elif separator and deployment not in (account.deployments or {}).values():
        warnings.append(f"base_url names deployment {deployment!r}, which is not in deployments")
    return warnings


def _has_one_route(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:  # noqa: ARG001
    return (ROUTE,)


KNOWN_ERRORS: Final[Sequence[KnownError]] = (
    KnownError(
        "resource_blocked",
        Fault.ACCOUNT,
        "the Azure resource is temporarily blocked",
        codes=frozenset({"resourceblocked", "userblocked"}),
        phrase=phrase(r"(?:your|the) resource has been (?:temporarily )?blocked"),
    ),
    # Azure's own front door knows the deployment's path, but not this operation of it: as a rule
    # the API version is too old.
    KnownError(
        "path_unknown",
        Fault.ENDPOINT,
        "the account's api_version or deployment does not have this endpoint",
        statuses=frozenset({404}),
        codes=frozenset({"404"}),
    ),
)

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
    known_errors=KNOWN_ERRORS,
    doubts=doubts,
)
