"""Fixtures of the edge's tests: a clock to turn, a view of a control plane, a way upstream."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp.connector
import psycopg
import pytest
import uvloop

from image_gateway.core.model import Secret
from image_gateway.core.routing.lock_names import LockKind, LockName
from image_gateway.edge.postgres import cache, control_plane
from image_gateway.edge.postgres.cache import Freshness
from image_gateway.edge.postgres.control_plane import ControlPlane
from image_gateway.edge.spool import Spool, Spools
from image_gateway.edge.upstream.http_client import UpstreamClient
from tests.edge.peer import anonymous
from tests.edge.spooling import SlowDisk
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.plane import Plane

ROOM = 64 * 1024 * 1024
TTL_SECONDS = 60.0
MAX_STALE_SECONDS = 600.0


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's own loop; where connections matter also the one that aiohttp is written for."""
    if item.path.name in {"test_upstream.py", "test_socks.py"}:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


class Clock:
    """The monotonic clock of the control plane's edge: it runs, and a test may turn it on."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def turn_on(self, seconds: float) -> None:
        self._ahead += seconds


class Attentive(ControlPlane):
    """A control plane that notes what it was told by NOTIFY once it has acted on it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heard: list[str] = []

    def changed(self, payload: str) -> None:
        super().changed(payload)
        self.heard.append(payload)


OpenControl = Callable[..., AbstractAsyncContextManager[Attentive]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    # The module's own name only: the event loop goes on by the real clock.
    for module in (cache, control_plane):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture
def open_control(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> OpenControl:
    """Opens control planes; they listen already when ``direct`` leads to Postgres."""
    monkeypatch.setattr(control_plane, "_LISTEN_RETRY_SECONDS", 0.1)
    # Over a Unix socket a connect takes a millisecond; every outage below waits this long once.
    monkeypatch.setattr(control_plane, "POOL_SECONDS", 0.5)

    @asynccontextmanager
    async def opened(
        url: str, direct: str | None = None, *, listening: bool = True
    ) -> AsyncIterator[Attentive]:
        freshness = Freshness(TTL_SECONDS, MAX_STALE_SECONDS)
        async with Attentive(Secret(url), Secret(direct or url), freshness) as control:
            if listening:
                await eventually(lambda: control.listening)
            yield control

    return opened


# -- a way upstream --------------------------------------------------------------------------------


@pytest.fixture
async def edge() -> AsyncIterator[UpstreamClient]:
    async with UpstreamClient(BOUND_SECONDS) as made:
        yield made


@pytest.fixture
async def hasty_edge() -> AsyncIterator[UpstreamClient]:
    """One that soon gives up to connect."""
    async with UpstreamClient(0.3) as made:
        yield made


@pytest.fixture
def spools(tmp_path: Path) -> Iterator[Spools]:
    with Spools(tmp_path, ROOM, ROOM) as made:
        yield made


@pytest.fixture
def slow_disk(spools: Spools) -> SlowDisk:
    made = SlowDisk()
    spools.threads = made
    return made


@pytest.fixture
def spool(spools: Spools) -> Iterator[Spool]:
    with spools.open() as made:
        yield made


@pytest.fixture
def anonymous_tls(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The client trusts TLS without certificates; gives the server's side of it."""
    monkeypatch.setattr(
        aiohttp.connector, "_SSL_CONTEXT_VERIFIED", anonymous(ssl.PROTOCOL_TLS_CLIENT)
    )
    return anonymous(ssl.PROTOCOL_TLS_SERVER)


# -- locks in Postgres -----------------------------------------------------------------------------


class Watcher:
    """Somebody who looks at ``pg_locks``, as an operator does."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def ask(self, statement: str, *values: Any) -> list[Any]:
        return self._connection.execute(statement.encode(), values).fetchall()

    def locks(self) -> list[int]:
        """The advisory locks of this database, as the signed numbers that were asked for."""
        found = self.ask(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks"
            " WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
        )
        return [number for (number,) in found]

    def slots(self, name: str, kind: LockKind = LockKind.ACCOUNT) -> list[int]:
        """The taken places under one name."""
        base = LockName(kind, name).base
        return [lock - base for lock in self.locks() if 0 <= lock - base < 1024]

    def sessions(self) -> list[int]:
        """The server's processes that serve a gateway."""
        found = self.ask(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'image-gateway'"
            " AND datname = current_database()"
        )
        return [pid for (pid,) in found]

    def end_sessions(self) -> None:
        for pid in self.sessions():
            self.ask("SELECT pg_terminate_backend(%s)", pid)


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """An empty database: the locks need nothing in it."""
    plane = Plane(postgres_url)
    plane.create("")
    yield plane.url
    plane.drop()


@pytest.fixture
def watcher(database: str) -> Iterator[Watcher]:
    with closing(Watcher(database)) as made:
        yield made
