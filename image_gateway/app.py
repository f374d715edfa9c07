"""The composition root: owns every resource, knows every path, and decides when to stop.

``serve`` opens things in the order in which they are needed and closes them in the opposite one:
the log is the first to open and the last to close, so that every record finds it.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from starlette.routing import Route, Router

from image_gateway import ops
from image_gateway.config import Address, Settings, SettingsError
from image_gateway.core import headers, models, record
from image_gateway.core.errors import Refusal
from image_gateway.core.models import Endpoint
from image_gateway.core.slots import Place, StartClock
from image_gateway.edge import contract, listener, logs, supervisor
from image_gateway.edge.cache import Freshness, UnavailableError
from image_gateway.edge.control_plane import ControlPlane
from image_gateway.edge.downstream import ClientLeftError, Downstream, Limits
from image_gateway.edge.listener import Listener, Receive, Scope, Send
from image_gateway.edge.logs import RequestLog, Rotation
from image_gateway.edge.metrics import Metrics
from image_gateway.edge.spool import Spools
from image_gateway.edge.text_api import TextApi
from image_gateway.edge.upstream import Upstream
from image_gateway.edge.waiting import Waiting
from image_gateway.exchange import Exchange, Way, draining
from image_gateway.house import House
from image_gateway.ops import Ops

PREFIXES: Final = (
    "/v1/images",
    "/images",
    "/api/codex-gateway/images",
    "/api/codex-gateway/v1/images",
    "/api/llm-gateway/v1/images",
    "/backend-api/codex/images",
    "/openai/v1/images",
    "/openai/deployments/{deployment}/images",
)
"""Where ``generations`` and ``edits`` are served (API_CONTRACT section 1); exact paths only."""

ENDPOINTS: Final[tuple[Endpoint, ...]] = ("generations", "edits")

RESPONSES: Final = ("/v1/responses", "/responses", "/backend-api/codex/responses")
"""Where image intents are served; ``/responses/compact`` is text's."""

_SHORTEST_PROMPT_KEY: Final = 16
_OPS_SECONDS: Final = 10.0
"""The longest that a reader of the ops port may block its answer."""
_RETRY_POSTGRES_SECONDS: Final = 1.0
_PROMPT_KEY_FILE: Final = "prompt-hash-key"

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The gateway cannot start; the message is for the operator."""


def load_catalogue(settings: Settings) -> models.Catalogue:
    """The shipped catalogue with the settings' own models."""
    text = resources.files("image_gateway.core").joinpath("models.toml").read_text("utf-8")
    return models.parse(text, settings.models)


# -- paths -----------------------------------------------------------------------------------------


class Paths:
    """The ASGI application of the image port."""

    def __init__(self, house: House, is_draining: Callable[[], bool]) -> None:
        self._house = house
        self._is_draining = is_draining
        settings = house.settings
        self._limits = Limits(
            settings.max_request_bytes,
            settings.body_seconds,
            settings.body_idle_seconds,
            settings.send_seconds,
        )
        routes = [Route("/healthz", _Health(self._limits))]
        for endpoint in ENDPOINTS:
            handler = _Endpoint(self, endpoint)
            routes += [Route(f"{prefix}/{endpoint}", handler) for prefix in PREFIXES]
        routes += [Route(path, _Endpoint(self, "responses")) for path in RESPONSES]
        self._router = Router(routes, redirect_slashes=False, default=self._unknown)

    def __repr__(self) -> str:
        return f"<Paths {len(self._router.routes)} routes>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is not plain HTTP/1, then find the path as it was sent, not as it decodes."""
        # Hypercorn decodes ``path``; ``/v1/images/edi%74s`` is no path of ours.  A target may be a
        # whole URL (RFC 9112, 3.2.2), of which only the path counts here.
        target = scope["raw_path"].decode("latin-1")
        scope["path"] = target if target.startswith("/") else urlsplit(target).path or target
        upgrades = any(name == b"upgrade" for name, _ in scope["headers"])
        if upgrades or scope["http_version"] not in {"1.0", "1.1"}:
            await self.exchange(scope, receive, send, _unsupported_protocol())
            return
        await self._router(scope, receive, send)

    async def exchange(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        way: Way | Refusal,
        path_model: str | None = None,
        endpoint: Way | None = None,
    ) -> None:
        """One request, from here to its record; ``way`` is what its path and method lead to."""
        request_id = _request_id()
        downstream = Downstream(scope, receive, send, self._limits, request_id)
        draft = record.Draft(
            time=datetime.now(UTC),
            request_id=request_id,
            client_address=headers.client_address(
                downstream.peer, downstream.headers, self._house.settings.trusted_proxies
            ),
            endpoint=endpoint,
            path=scope["path"],
        )
        if self._is_draining():
            way = draining()
        await Exchange(self._house, downstream, draft).run(way, path_model)

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.exchange(scope, receive, send, _unknown_path(scope["path"]))


class _Health:
    """``/healthz``: the process answers; leaves no record."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        downstream = Downstream(scope, receive, send, self._limits, _request_id())
        with contextlib.suppress(ClientLeftError):
            await downstream.answer(200, {"content-type": "text/plain"}, b"ok\n")


class _Endpoint:
    """One of the image endpoints, under any of its paths."""

    def __init__(self, paths: Paths, endpoint: Way) -> None:
        self._paths = paths
        self._endpoint: Way = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deployment = scope["path_params"].get("deployment")
        await self._paths.exchange(
            scope,
            receive,
            send,
            self._endpoint if scope["method"] == "POST" else _method_not_allowed(),
            None if deployment is None else unquote(deployment),
            self._endpoint,
        )


def _request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


def _unknown_path(path: str) -> Refusal:
    if path.endswith("/images/variations"):
        return Refusal(
            "unknown_path",
            "Image variations are gone: the upstream retired them with dall-e-2. "
            "Use /v1/images/edits.",
        )
    return Refusal(
        "unknown_path",
        "This gateway serves images only: POST to /v1/images/generations or /v1/images/edits, or "
        "to /v1/responses. Paths are exact, without a slash at their end.",
    )


def _method_not_allowed() -> Refusal:
    return Refusal(
        "method_not_allowed", "Image calls are made with POST.", headers={"allow": "POST"}
    )


def _unsupported_protocol() -> Refusal:
    return Refusal(
        "unsupported_protocol",
        "Only plain HTTP/1.1 is spoken here: no Upgrade, HTTP/2 or websocket.",
    )


# -- life ------------------------------------------------------------------------------------------


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises ``StartError``, ``SettingsError``, ``ContractError`` and ``UnavailableError``.  A second
    signal ends the process at once.
    """
    asyncio.get_running_loop().set_exception_handler(logs.report_loop_error)
    stop = asyncio.Event()
    with _signals(stop) as on_hangup:
        await _wait_for_control_plane(settings, stop)
        if stop.is_set():
            return
        await _refuse_pooler(settings)
        async with AsyncExitStack() as stack:
            house = await _open_house(settings, stack)
            on_hangup(house.logs.reopen)
            port: Listener | None = None
            is_up = False
            paths = Paths(house, lambda: port is not None and port.draining)
            port = Listener(paths, _sockets(settings), settings.send_seconds)
            ops_page = Ops(house, lambda: is_up and not stop.is_set())
            ops_port = Listener(ops_page, [_bind("OPS_BIND", settings.ops_bind)], _OPS_SECONDS)
            await ops_port.start()
            stack.push_async_callback(ops_port.close)
            await port.start()
            is_up = True
            supervisor.notify(os.environ, "READY=1")
            watchdog = asyncio.create_task(
                supervisor.keep_watchdog(os.environ, partial(_in_a_line, port))
            )
            stack.callback(watchdog.cancel)
            _log.info("accepting on %s:%d", *settings.bind)
            await stop.wait()
            supervisor.notify(os.environ, "STOPPING=1")
            _log.info(
                "stopping: %d calls in flight have %.0f s",
                port.connections,
                settings.drain_seconds,
            )
            await port.stop(settings.drain_seconds)
    _log.info("stopped")


async def _open_house(settings: Settings, stack: AsyncExitStack) -> House:
    rotation = Rotation(
        settings.log_max_file_bytes, settings.log_max_file_seconds, settings.log_max_files
    )
    try:
        request_log = stack.enter_context(RequestLog(settings.log_dir, rotation, time.time))
    except OSError as error:
        raise StartError(f"LOG_DIR {settings.log_dir}: {error.strerror}") from None
    prompt_key = load_prompt_key(settings)
    spools = stack.enter_context(
        Spools(settings.spool_dir, settings.memory_budget_bytes, settings.spool_budget_bytes)
    )
    if not settings.spool_dir.is_dir() or not os.access(settings.spool_dir, os.W_OK):
        raise StartError(f"SPOOL_DIR {settings.spool_dir} is no folder that can be written")
    plane = await stack.enter_async_context(
        ControlPlane(
            settings.control_database_url,
            settings.direct_database_url,
            Freshness(settings.grant_ttl_seconds, settings.grant_max_stale_seconds),
        )
    )
    starts = StartClock()
    is_shared = settings.slots == "shared"
    slots = await stack.enter_async_context(
        Waiting(
            settings.direct_database_url if is_shared else None,
            settings.slot_queue,
            starts,
            partial(_slots_now, plane),
        )
    )
    text_api = None
    if settings.text_api_url is not None:
        text_api = TextApi(settings.text_api_url, settings.connect_seconds)
        await stack.enter_async_context(text_api)
    upstream = await stack.enter_async_context(Upstream(settings.connect_seconds))
    house = House(
        settings=settings,
        catalogue=load_catalogue(settings),
        control_plane=plane,
        upstream=upstream,
        spools=spools,
        slots=slots,
        starts=starts,
        text_api=text_api,
        logs=request_log,
        # Nobody looks before there is a house to look at.
        metrics=Metrics(lambda: ops.look(house)),
        prompt_key=prompt_key,
    )
    return house


def _in_a_line(port: Listener) -> str:
    return f"{'draining' if port.draining else 'accepting'}, {port.connections} in flight"


def _slots_now(plane: ControlPlane, place: Place) -> int:
    """An account's slots as they were read last."""
    account = plane.known_accounts()[0].get(place.account_name)
    return place.limit if account is None else account.image_max_concurrency


async def _wait_for_control_plane(settings: Settings, stop: asyncio.Event) -> None:
    """Until Postgres answers and holds the contract, or ``START_WAIT_SECONDS`` are over."""
    deadline = time.monotonic() + settings.start_wait_seconds
    while True:
        try:
            await contract.check(settings.control_database_url)
        except UnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            _log.warning("waiting for the control plane: %s", error)
        else:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_POSTGRES_SECONDS):
                await stop.wait()
                return


async def _refuse_pooler(settings: Settings) -> None:
    """Through a pooler locks would be taken and never given back, by nobody to be seen."""
    try:
        is_pooled = await contract.is_pooled(settings.direct_database_url)
    except UnavailableError as error:
        _log.warning("DIRECT_DATABASE_URL cannot be reached: %s", error)
        return
    if is_pooled:
        raise SettingsError([contract.POOLED])


def _sockets(settings: Settings) -> list[socket.socket]:
    inherited = supervisor.inherited_sockets(os.environ)
    if inherited:
        return inherited
    return [_bind("BIND", settings.bind)]


def _bind(name: str, address: Address) -> socket.socket:
    try:
        return listener.bind(address)
    except OSError as error:
        raise StartError(f"{name} {address[0]}:{address[1]}: {error.strerror}") from None


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[Callable[[Callable[[], None]], None]]:
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    hangup: list[Callable[[], None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: [action() for action in hangup])
    try:
        yield hangup.append
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def load_prompt_key(settings: Settings) -> bytes:
    """The prompts' hash key: the settings' own, else the one kept in STATE_DIR.

    Two instances that start at once agree on one: it is made under another name and linked to its
    own, which only one of them can do.
    """
    if settings.prompt_hash_key is not None:
        return settings.prompt_hash_key.reveal().encode()
    path = settings.state_dir / _PROMPT_KEY_FILE
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key_file(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise StartError(f"STATE_DIR {settings.state_dir}: {error.strerror}") from None
    if len(key) < _SHORTEST_PROMPT_KEY:
        raise StartError(f"{path} holds no key of 16 bytes or more; remove it to have one made")
    return key


def _make_key_file(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(file, secrets.token_hex(32).encode())
        os.fsync(file)
    finally:
        os.close(file)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
