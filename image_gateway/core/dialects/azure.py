"""Azure OpenAI: deployments on the legacy path, or the model's name on the v1 path.

Source: README.md in this folder, "Azure OpenAI".  A call for an account with an ``api_version``
goes to the legacy path, which names the deployment and fails with ``model`` in the body; a call for
any other account goes to the v1 path, where ``model`` is the deployment.  Edits are multipart only.
Image intents always go to the v1 path.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from image_gateway.core.dialects import intents
from image_gateway.core.dialects.dialect import Ability, Dialect, UpstreamRoute
from image_gateway.core.dialects.faults import Fault, KnownError, phrase
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    UpstreamRequest,
    images_request,
    upstream_name,
)
from image_gateway.core.headers import Headers, is_sendable
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.intent_signals import TOOL
from image_gateway.core.request.model_names import is_image_model

HOSTS: Final = re.compile(
    r"(?:[a-z0-9-]+\.)+(?:openai\.azure|services\.ai\.azure|cognitiveservices\.azure)\.(?:com|us|cn)\.?"
)
"""Azure's own hosts, with the sovereign clouds; any other host gets a warning."""

# An operator may paste a base URL that already leads to a deployment or an endpoint.
_ADDED_PATH: Final = re.compile(
    r"/openai(?:/v1(?:/images(?:/(?:generations|edits))?|/responses)?|/deployments(?:/.*)?)?/*\Z",
    re.IGNORECASE,
)
_FROM_CLIENT: Final = frozenset({"traceparent", "tracestate"})
_DRAWING: Final = "x-ms-oai-image-generation-deployment"


def encode(
    request: ImageRequest, account: Account, client: Headers, context: EncodeContext
) -> UpstreamRequest:
    """Encode a call; the account must have a credential and a base URL."""
    deployment = upstream_name(request, account)
    values = {"prompt": request.prompt, **request.parameters}
    if account.api_version is None:
        values["model"] = deployment
    return images_request(
        url(account, deployment, request.endpoint),
        _headers(account, client),
        values,
        request,
        context.boundary if request.endpoint == "edits" else None,
    )


def encode_intent(
    request: IntentRequest,
    account: Account,
    client: Headers,
    context: EncodeContext,  # noqa: ARG001 - the signature of an encoder
) -> UpstreamRequest:
    """Encode an image intent; the account must have a credential, a base URL and a main model.

    A header names the deployment that draws, so the tools name no model.  A client that names no
    image model gets the first deployment of one.
    """
    sent = intents.fields(request, account)
    tools = sent.get("tools")
    if isinstance(tools, list):
        sent["tools"] = [_without_model(tool) for tool in tools]
    known = filter(is_image_model, account.deployments or {})
    model = min(request.image_models, default=None) or next(known, None)
    drawing = {} if model is None else {_DRAWING: intents.account_name(model, account)}
    return intents.upstream_request(
        _v1_url(account, "/responses"),
        {**_headers(account, client), **intents.EVENTS_HEADERS, **drawing},
        sent,
        request,
        model,
    )


def _without_model(tool: object) -> object:
    if not isinstance(tool, dict) or tool.get("type") != TOOL:
        return tool
    return {name: value for name, value in tool.items() if name != "model"}


def _headers(account: Account, client: Headers) -> dict[str, str]:
    credential = account.signed_by()
    token = credential.token.reveal()
    return {
        **client.named(_FROM_CLIENT, ()),
        **(
            {"api-key": token}
            if credential.kind == "api_key"
            else {"authorization": f"Bearer {token}"}
        ),
    }


def url(account: Account, deployment: str, endpoint: str) -> str:
    """The URL of a call.  Keeps the path and query of the base URL; ``api_version`` overrides its
    ``api-version``.
    """
    if account.api_version is None:
        return _v1_url(account, f"/images/{endpoint}")
    path = f"/openai/deployments/{quote(deployment, safe='')}/images/{endpoint}"
    return _url(account, path, f"api-version={quote(account.api_version, safe='')}")


_MEANS_MORE: Final = frozenset("/\\%?#;")
"""Characters that a server or a proxy may read as more than a part of a name, once it has decoded
them, or twice."""


def can_send(account: Account, name: str) -> bool:
    """Whether an account's calls can name a deployment so, in a path (legacy) or a header
    (intents).

    Azure's own names have letters, digits, ``-``, ``_`` and ``.``; other servers have more.
    """
    if account.responses_model is not None and not is_sendable(name):
        return False
    if account.api_version is None:
        return True
    return name.isprintable() and not _MEANS_MORE & {*name} and name not in {"", ".", ".."}


def _v1_url(account: Account, path: str) -> str:
    return _url(account, f"/openai/v1{path}", None)


def _url(account: Account, path: str, version: str | None) -> str:
    parts = urlsplit(account.base_url or "")
    path = _ADDED_PATH.sub("", parts.path).rstrip("/") + path
    query = parts.query
    if version is not None:
        pairs = [pair for pair in query.split("&") if pair.partition("=")[0] != "api-version"]
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
INTENTS: Final = UpstreamRoute("azure_intents", encode_intent, frozenset({Ability.IMAGE_ADDRESS}))
DIALECT: Final = Dialect(
    name="azure",
    described="an Azure deployment",
    routes=(ROUTE,),
    routes_of=_has_one_route,
    base_url=None,
    attempt_seconds=540.0,
    credentials=frozenset({"api_key", "access_token"}),
    needed=("base_url",),
    unused=frozenset({"codex_route"}),
    intent_route=INTENTS,
    known_errors=KNOWN_ERRORS,
    doubts=doubts,
    can_send=can_send,
)
