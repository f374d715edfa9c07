"""The paths of the image port: the operation for a request's path and method.

The paths of the Images API match exactly, as they were sent and before any decoding; those of the
Responses API in any spelling, because text calls go on to a server that may be lenient.  An unknown
path gets an error of the usual shape and a record, like every other request.  Only addresses of
pictures have no record, because they hold a secret (``picture_files``).
"""

import contextlib
import posixpath
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from starlette.routing import Route, Router

from image_gateway.calls import conclusion
from image_gateway.calls.registry import Calls
from image_gateway.context import AppContext
from image_gateway.core import headers
from image_gateway.core.calls import addresses
from image_gateway.core.errors import Refusal
from image_gateway.core.records.builder import Arrival, RecordBuilder
from image_gateway.core.records.phases import Timeline
from image_gateway.core.records.record import CALLS_ENDPOINT
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.intent import BACKGROUND_ID
from image_gateway.edge.client import acceptor
from image_gateway.edge.client.downstream import ClientLeftError, ClientLimits, Downstream
from image_gateway.edge.client.listener import Receive, Scope, Send
from image_gateway.exchange import call_pages
from image_gateway.exchange.background import StoredResponse
from image_gateway.exchange.call_pages import CallPage
from image_gateway.exchange.cors import Cors
from image_gateway.exchange.exchange import AnyOperation, Exchange, Models, Operation, Preflight
from image_gateway.exchange.picture_files import PictureFiles

PREFIXES: Final = (
    "/v1/images",
    "/images",
    "/api/codex-gateway/images",
    "/api/codex-gateway/v1/images",
    "/api/llm-gateway/v1/images",
    "/backend-api/codex/images",
    "/openai/v1/images",
    "/openai/images",
    "/openai/deployments/{deployment}/images",
)
"""Where ``generations`` and ``edits`` are served; exact paths only.

Source: ``core/dialects/README.md``, "What clients send".
"""

ENDPOINTS: Final[tuple[Endpoint, ...]] = ("generations", "edits")

RESPONSES: Final = (
    "/v1/responses",
    "/responses",
    "/backend-api/codex/responses",
    "/openai/v1/responses",
    "/openai/responses",
)
"""Where image intents are served; ``/responses/compact`` belongs to the text API."""

MODELS: Final = ("/v1/models", "/openai/v1/models", "/openai/models")
"""Where the models are listed that the key may ask for; one of them by its name behind a slash."""


_Action = Literal["retrieve", "cancel", "delete"]
_ACTIONS: Final[Mapping[str, _Action]] = {"GET": "retrieve", "DELETE": "delete"}
_CANCEL: Final[Mapping[str, _Action]] = {"POST": "cancel"}


class ImageApp:
    """The ASGI application of the image port."""

    def __init__(self, app: AppContext, calls: Calls, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._calls = calls
        self._is_draining = is_draining
        settings = app.settings
        self._limits = ClientLimits(
            settings.max_request_bytes,
            settings.body_seconds,
            settings.body_idle_seconds,
            settings.send_seconds,
        )
        routes = [Route("/healthz", _HealthCheck(self._limits))]
        for endpoint in ENDPOINTS:
            handler = _Endpoint(self, endpoint)
            routes += [Route(f"{prefix}/{endpoint}", handler) for prefix in PREFIXES]
        pages = _CallPages(self)
        for prefix in PREFIXES:
            routes += [Route(f"{prefix}/calls", pages), Route(f"{prefix}/calls/{{call_id}}", pages)]
        self._responses = _Endpoint(self, "responses")
        routes += [Route(path, self._responses) for path in RESPONSES]
        stored, cancel = _StoredResponse(self), _StoredResponse(self, cancels=True)
        for path in RESPONSES:
            routes.append(Route(f"{path}/{{response_id}}", stored))
            routes.append(Route(f"{path}/{{response_id}}/cancel", cancel))
        lists = _Models(self)
        for path in MODELS:
            routes += [Route(path, lists), Route(f"{path}/{{name}}", lists)]
        self.cors = Cors(settings.cors_origins) if settings.cors_origins else None
        self._pictures = PictureFiles(app)
        self._router = Router(routes, redirect_slashes=False, default=self.unknown)

    def __repr__(self) -> str:
        return f"<ImageApp {len(self._router.routes)} routes>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse all but plain HTTP/1.1, then route by the path as it was sent, not decoded."""
        if self.cors is not None:
            send = self.cors.wrap(scope, send)
        # Hypercorn decodes ``path``; ``/v1/images/edi%74s`` is not a path here.
        scope["path"] = _path(scope["raw_path"].decode("latin-1"))
        refusal = None
        if any(name == b"upgrade" for name, _ in scope["headers"]):
            refusal = _upgrade_required()
        elif scope["http_version"] not in {"1.0", "1.1"}:
            refusal = _unsupported_protocol()
        if scope["path"].startswith(addresses.PATH):
            downstream = Downstream(scope, receive, send, self._limits, _request_id())
            await self._pictures.serve(scope["method"], scope["path"], downstream, refusal)
        elif refusal is not None:
            await self.exchange(scope, receive, send, refusal)
        else:
            await self._router(scope, receive, send)

    async def exchange(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        operation: AnyOperation,
        path_model: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        """Serve one request until its record; ``operation`` belongs to its path and method."""
        request_id = _request_id()
        downstream = Downstream(scope, receive, send, self._limits, request_id)
        arrival = Arrival(
            time=datetime.now(UTC),
            request_id=request_id,
            client_address=headers.client_address(
                downstream.peer, downstream.headers, self._app.settings.trusted_proxies
            ),
            endpoint=endpoint,
            # One that is almost the address of a picture may hold its token.
            path=addresses.hide(scope["path"]),
            user_agent=headers.user_agent(downstream.headers),
        )
        record = RecordBuilder(arrival, Timeline(time.monotonic, self._app.loop_watch.entered))
        if self._is_draining():
            operation = conclusion.draining()
        elif self._app.connections.is_over:
            operation = acceptor.full()
        await Exchange(self._app, self._calls, downstream, record).run(operation, path_model)

    async def unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a path that nothing else serves."""
        path = scope["path"]
        # What is no path must not be appended to the text API's address: ``@host/../v1/responses``
        # would make that a user's name, and lead to another host.
        if path.startswith("/") and _meant_path(path) in RESPONSES:
            await self._responses(scope, receive, send)
        else:
            await self.exchange(scope, receive, send, _unknown_path(path))


class _HealthCheck:
    """``/healthz``: shows that the process answers; leaves no record."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        downstream = Downstream(scope, receive, send, self._limits, _request_id())
        with contextlib.suppress(ClientLeftError):
            await downstream.answer(200, {"content-type": "text/plain"}, b"ok\n")


class _Endpoint:
    """One of the image endpoints, under any of its paths."""

    def __init__(self, paths: ImageApp, endpoint: Operation) -> None:
        self._paths = paths
        self._endpoint: Operation = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deployment = scope.get("path_params", {}).get("deployment")
        operation: Operation | Preflight | Refusal = self._endpoint
        if scope["method"] == "OPTIONS" and self._paths.cors is not None:
            operation = Preflight("POST")
        elif scope["method"] != "POST":
            operation = _method_not_allowed("POST")
        await self._paths.exchange(
            scope,
            receive,
            send,
            operation,
            None if deployment is None else unquote(deployment),
            self._endpoint,
        )


class _Models:
    """The models that the key may ask for."""

    def __init__(self, paths: ImageApp) -> None:
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"].get("name")
        operation: Models | Preflight | Refusal = Models(None if name is None else unquote(name))
        if scope["method"] == "OPTIONS" and self._paths.cors is not None:
            operation = Preflight("GET, HEAD")
        elif scope["method"] not in {"GET", "HEAD"}:
            operation = _method_not_allowed("GET")
        await self._paths.exchange(scope, receive, send, operation)


class _StoredResponse:
    """A response in the background, by its id; other ids are the text API's."""

    def __init__(self, paths: ImageApp, *, cancels: bool = False) -> None:
        self._paths = paths
        self._actions: Mapping[str, _Action] = _CANCEL if cancels else _ACTIONS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response_id, method = scope["path_params"]["response_id"], scope["method"]
        if not response_id.startswith(BACKGROUND_ID):
            await self._paths.unknown(scope, receive, send)
            return
        methods = ", ".join(self._actions)
        operation: AnyOperation
        if method == "OPTIONS" and self._paths.cors is not None:
            operation = Preflight(methods)
        elif (action := self._actions.get(method)) is None:
            operation = _method_not_allowed(methods)
        else:
            operation = StoredResponse(action, response_id)
        await self._paths.exchange(scope, receive, send, operation, endpoint="responses")


class _CallPages:
    """The key's own calls, under any of the prefixes."""

    def __init__(self, paths: ImageApp) -> None:
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call_id = scope["path_params"].get("call_id")
        methods = call_pages.LIST_METHODS if call_id is None else call_pages.METHODS
        method = scope["method"]
        page: CallPage | Preflight | Refusal = _method_not_allowed(methods)
        if method == "OPTIONS" and self._paths.cors is not None:
            page = Preflight(methods)
        elif method in methods.split(", "):
            page = CallPage(method, call_id)
        await self._paths.exchange(scope, receive, send, page, endpoint=CALLS_ENDPOINT)


def _request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


def _path(target: str) -> str:
    """The path of a request's target, which may be a whole URL (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target
    try:
        return urlsplit(target).path or target
    except ValueError:  # a bracket where an address is expected
        return target


def _meant_path(path: str) -> str:
    """The path that a lenient server reads in this one: ``/v1/responses`` in ``//v1/%52esponses/``.

    A text API may be such a server, so a picture must not pass the switches in another spelling.
    """
    return posixpath.normpath("/" + unquote(path).lower().lstrip("/"))


def _unknown_path(path: str) -> Refusal:
    if path.endswith("/images/variations"):
        return Refusal(
            "unknown_path",
            "Image variations are not available: OpenAI retired them with dall-e-2. "
            "Use /v1/images/edits.",
        )
    return Refusal(
        "unknown_path",
        "Unknown path. This gateway serves images only: POST to /v1/images/generations, "
        "/v1/images/edits or /v1/responses. Paths must match exactly, without a slash at the end.",
    )


def _method_not_allowed(method: str) -> Refusal:
    return Refusal(
        "method_not_allowed", f"Unsupported method. Use {method}.", headers={"allow": method}
    )


def _unsupported_protocol() -> Refusal:
    return Refusal("unsupported_protocol", "Unsupported protocol. Use HTTP/1.1.")


def _upgrade_required() -> Refusal:
    """For websockets and HTTP/2; Codex CLI posts at once after a 426, but a 400 ends its turn."""
    return Refusal(
        "upgrade_required",
        "This gateway does not upgrade connections. Send the call as a POST over plain HTTP/1.1, "
        "without an Upgrade header.",
        headers={"upgrade": "HTTP/1.1"},
    )
