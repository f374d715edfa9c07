"""The composition root: owns every resource, and decides when to stop.

``serve`` opens resources in the order in which they are needed and closes them in reverse: the log
opens first and closes last, so that every record can be written.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

from image_gateway.calls.registry import Calls
from image_gateway.config import Settings, SettingsError
from image_gateway.context import AppContext
from image_gateway.core.encrypted import Keyring
from image_gateway.core.records import prices
from image_gateway.core.records.prices import Prices
from image_gateway.core.request import catalogue
from image_gateway.core.routing.slots import Candidate, StartClock
from image_gateway.edge import descriptors, systemd
from image_gateway.edge.client import listener
from image_gateway.edge.client.connections import Connections
from image_gateway.edge.client.listener import Listener
from image_gateway.edge.kept.folder import KeepFolderError
from image_gateway.edge.kept.store import KeptCalls
from image_gateway.edge.loop_watch import LoopWatch
from image_gateway.edge.metrics import Metrics
from image_gateway.edge.postgres import contract
from image_gateway.edge.postgres.cache import Freshness, UnavailableError
from image_gateway.edge.postgres.control_plane import ControlPlane
from image_gateway.edge.records import writer
from image_gateway.edge.records.writer import RequestLog, Rotation
from image_gateway.edge.slots.broker import SlotBroker
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream.http_client import UpstreamClient
from image_gateway.edge.upstream.text_api import TextApi
from image_gateway.exchange.routes import ImageApp
from image_gateway.ops import own_names
from image_gateway.ops import server as ops
from image_gateway.ops.server import OpsApp
from image_gateway.setting_values import Address

_SHORTEST_PROMPT_KEY: Final = 16
_STOP_SECONDS: Final = 30.0
"""The longest that a stop takes after the drain."""
_RETRY_POSTGRES_SECONDS: Final = 1.0
_PROMPT_KEY_FILE: Final = "prompt-hash-key"
_CONNECTIONS_REMEDY: Final = (
    "Raise MAX_CONNECTIONS, and LimitNOFILE with it, or find out who holds so many connections"
)

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The gateway cannot start; the message is for the operator."""


def load_catalogue(settings: Settings) -> catalogue.Catalogue:
    """The shipped catalogue with the models of the settings."""
    text = (
        resources.files("image_gateway.core.request").joinpath("catalogue.toml").read_text("utf-8")
    )
    return catalogue.parse(text, settings.models)


def load_prices(settings: Settings) -> Prices:
    """The shipped prices with those of the settings."""
    text = resources.files("image_gateway.core.records").joinpath("prices.toml").read_text("utf-8")
    return Prices({**prices.parse(tomllib.loads(text)), **settings.prices})


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises ``StartError``, ``SettingsError``, ``ContractError`` and ``UnavailableError``.  A second
    signal ends the process at once.
    """
    asyncio.get_running_loop().set_exception_handler(writer.report_loop_error)
    stop = asyncio.Event()
    keyring = Keyring(settings.credential_key)
    with _signals(stop) as on_hangup:
        await _wait_for_control_plane(settings, keyring, stop)
        if stop.is_set():
            return
        await _refuse_pooler(settings)
        async with AsyncExitStack() as stack:
            app = await _open_context(settings, keyring, stack)
            on_hangup(app.logs.reopen)
            await _read_accounts(app.control_plane)
            image_port: Listener | None = None
            is_up = False
            calls = await stack.enter_async_context(Calls(app))
            image_app = ImageApp(app, calls, lambda: image_port is not None and image_port.draining)
            image_port = Listener(
                image_app,
                _sockets(settings),
                settings.send_seconds,
                app.connections,
                _CONNECTIONS_REMEDY,
            )
            ops_names = await own_names.own_names(settings.ops_bind)
            ops_app = OpsApp(app, lambda: is_up and not stop.is_set(), ops_names)
            ops_port = Listener(
                ops_app,
                [_bind("OPS_BIND", settings.ops_bind)],
                ops.SEND_SECONDS,
                Connections(ops.MOST_CONNECTIONS),
                ops.CONNECTIONS_REMEDY,
            )
            await ops_port.start()
            stack.push_async_callback(ops_port.close)
            await image_port.start()
            is_up = True
            systemd.notify(os.environ, "READY=1")
            watchdog = asyncio.create_task(
                systemd.keep_watchdog(os.environ, partial(_status_line, image_port, stop))
            )
            stack.callback(watchdog.cancel)
            _log.info("accepting on %s:%d", *settings.bind)
            await stop.wait()
            # Whatever TimeoutStopSec the unit has, systemd must not kill calls that still run.
            seconds = settings.drain_seconds + _STOP_SECONDS
            systemd.notify(
                os.environ,
                f"STOPPING=1\nSTATUS=stopping, {image_port.connections} in flight\n"
                f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}",
            )
            _log.info(
                "stopping: %d calls in flight have %.0f s to end",
                image_port.connections,
                settings.drain_seconds,
            )
            await image_port.stop(settings.drain_seconds, calls)
    _log.info("stopped")


async def _open_context(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> AppContext:
    rotation = Rotation(
        settings.log_max_file_bytes, settings.log_max_file_seconds, settings.log_max_files
    )
    try:
        request_log = stack.enter_context(RequestLog(settings.log_dir, rotation, time.time))
    except OSError as error:
        raise StartError(
            f"LOG_DIR {settings.log_dir} is not a writable directory: {error.strerror}"
        ) from None
    prompt_key = load_prompt_key(settings)
    spools = stack.enter_context(
        Spools(settings.spool_dir, settings.memory_budget_bytes, settings.spool_budget_bytes)
    )
    if not settings.spool_dir.is_dir() or not os.access(settings.spool_dir, os.W_OK):
        raise StartError(f"SPOOL_DIR {settings.spool_dir} is not a writable directory")
    try:
        kept = await stack.enter_async_context(
            KeptCalls(
                settings.keep_dir, settings.keep_seconds, settings.keep_budget_bytes, time.time
            )
        )
    except KeepFolderError as error:
        raise StartError(str(error)) from None
    plane = await stack.enter_async_context(
        ControlPlane(
            settings.control_database_url,
            settings.direct_database_url,
            Freshness(settings.grant_ttl_seconds, settings.grant_max_stale_seconds),
            keyring,
        )
    )
    starts = StartClock()
    is_shared = settings.slots == "shared"
    slots = await stack.enter_async_context(
        SlotBroker(
            settings.direct_database_url if is_shared else None,
            settings.slot_queue,
            starts,
            partial(_current_slots, plane),
        )
    )
    text_api = None
    if settings.text_api_url is not None:
        text_api = TextApi(settings.text_api_url, settings.connect_seconds)
        await stack.enter_async_context(text_api)
    upstream = await stack.enter_async_context(UpstreamClient(settings.connect_seconds))
    app = AppContext(
        settings=settings,
        catalogue=load_catalogue(settings),
        prices=load_prices(settings),
        control_plane=plane,
        upstream=upstream,
        spools=spools,
        kept=kept,
        slots=slots,
        starts=starts,
        text_api=text_api,
        logs=request_log,
        connections=Connections(_connections_limit(settings)),
        # Nothing reads the gauges before the context exists.
        metrics=Metrics(lambda: ops.read_gauges(app)),
        loop_watch=stack.enter_context(LoopWatch()),
        prompt_key=prompt_key,
    )
    return app


def _connections_limit(settings: Settings) -> int:
    """MAX_CONNECTIONS, as far as this process may open files for so many."""
    allowed = descriptors.raise_limit()
    warning = descriptors.shortage(settings.max_connections, allowed)
    if warning is not None:
        _log.warning("%s", warning)
    return descriptors.fitting(settings.max_connections, allowed)


async def _read_accounts(plane: ControlPlane) -> None:
    """Let the ops port show accounts before the first call; calls do not depend on it."""
    with contextlib.suppress(UnavailableError):
        await plane.accounts()


def _status_line(image_port: Listener, stop: asyncio.Event) -> str:
    return f"{'stopping' if stop.is_set() else 'accepting'}, {image_port.connections} in flight"


def _current_slots(plane: ControlPlane, candidate: Candidate) -> int:
    """The slots of an account, as they were last read."""
    account = plane.known_accounts()[0].get(candidate.account_name)
    return candidate.limit if account is None else account.image_max_concurrency


async def _wait_for_control_plane(
    settings: Settings, keyring: Keyring, stop: asyncio.Event
) -> None:
    """Wait until Postgres answers, for up to ``START_WAIT_SECONDS``, and check the contract."""
    deadline = time.monotonic() + settings.start_wait_seconds
    while True:
        try:
            await contract.check(settings.control_database_url, keyring)
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
    """Through a pooler, locks would be taken and never released, and nobody would notice."""
    try:
        is_pooled = await contract.is_pooled(settings.direct_database_url)
    except UnavailableError as error:
        _log.warning("DIRECT_DATABASE_URL cannot be reached: %s", error)
        return
    if is_pooled:
        raise SettingsError([contract.POOLED])


def _sockets(settings: Settings) -> list[socket.socket]:
    inherited = systemd.inherited_sockets(os.environ)
    if inherited:
        return inherited
    return [_bind("BIND", settings.bind)]


def _bind(name: str, address: Address) -> socket.socket:
    try:
        return listener.bind(address)
    except OSError as error:
        raise StartError(
            f"cannot listen on {name} {address[0]}:{address[1]}: {error.strerror}"
        ) from None


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
    """The key that hashes prompts: the setting, else the one kept in STATE_DIR.

    Two instances that start at once agree on one key: it is written under another name and then
    linked to its final name, which only one of them can do.
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
        raise StartError(
            f"STATE_DIR {settings.state_dir} cannot be used: {error.strerror}"
        ) from None
    if len(key) < _SHORTEST_PROMPT_KEY:
        raise StartError(
            f"{path} holds a key of fewer than 16 bytes. Remove the file; the gateway then "
            "generates a key"
        )
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
