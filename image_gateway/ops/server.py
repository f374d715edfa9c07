"""The ops port: how the gateway is, for programs and people who watch it.

It has a listener of its own, so that a proxy which is steered wrongly can never show it to the
world.  It goes on until the last call has ended: a drain can be watched.  Who does not read is
dropped soon, and few can be connected: an answer is whole in memory, and those who watch are few.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
from starlette.routing import Route, Router

from image_gateway import __version__
from image_gateway.context import AppContext
from image_gateway.core.errors import Refusal
from image_gateway.edge import metrics
from image_gateway.edge.client.downstream import ClientLeftError, ClientLimits, Downstream
from image_gateway.edge.client.listener import Listener, Receive, Scope, Send
from image_gateway.edge.metrics import AccountGauges, GaugeValues
from image_gateway.ops import page, snapshot

SEND_SECONDS: Final = 10.0
"""The longest that a reader may block its answer."""
MOST_CONNECTIONS: Final = 32
"""A page for one person and a scrape need one at a time."""

_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"
_COMMON: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a page says."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def read_gauges(app: AppContext) -> GaugeValues:
    """What is at this moment, as far as it is known; asks nobody."""
    accounts, age = app.control_plane.known_accounts()
    state = app.now()
    return GaugeValues(
        version=__version__,
        since=app.since.timestamp(),
        accounts=tuple(
            AccountGauges(
                name,
                snapshot.condition(app, account, state),
                app.slots.in_use(name),
                account.image_max_concurrency,
            )
            for name, account in sorted(accounts.items())
        ),
        waiting=app.slots.waiting,
        phases=app.tracker.phases(),
        slots_shared=app.slots.is_shared,
        bytes_in_flight=app.spools.memory.used + app.spools.disk.used,
        control_plane_up=not app.control_plane.is_away,
        notify=app.control_plane.listening,
        grant_age_seconds=age,
        log_records_lost=app.logs.lost,
    )


class OpsListener(Listener):
    """The ops port's own: with ``MOST_CONNECTIONS`` open, whoever else comes is closed at once."""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connections >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        super()._accept(reader, writer)


class OpsApp:
    """The ASGI application of the ops port."""

    def __init__(self, app: AppContext, is_accepting: Callable[[], bool]) -> None:
        self._app = app
        self._is_accepting = is_accepting
        self._limits = ClientLimits(1, 1.0, 1.0, SEND_SECONDS)
        pages: Mapping[str, Callable[[], Awaitable[_Answer]]] = {
            "/metrics": self._metrics,
            "/readyz": self._ready,
            "/status": self._status,
            "/status.json": self._status_json,
        }
        self._paths = tuple(pages)
        self._router = Router(
            [Route(path, _Page(make, self._limits)) for path, make in pages.items()],
            redirect_slashes=False,
            default=_Page(self._unknown, self._limits),
        )

    def __repr__(self) -> str:
        return f"<OpsApp {len(self._router.routes)} routes>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def _metrics(self) -> _Answer:
        return _Answer(200, metrics.CONTENT_TYPE, self._app.metrics.text())

    async def _ready(self) -> _Answer:
        found = await snapshot.readiness(self._app, accepting=self._is_accepting())
        return _Answer(200 if found.ready else 503, _JSON, orjson.dumps(found))

    async def _status(self) -> _Answer:
        found = await snapshot.take(self._app, accepting=self._is_accepting())
        return _Answer(200, _HTML, page.page(found), page.HEADERS)

    async def _status_json(self) -> _Answer:
        found = await snapshot.take(self._app, accepting=self._is_accepting())
        return _Answer(200, _JSON, orjson.dumps(found, option=orjson.OPT_UTC_Z))

    async def _unknown(self) -> _Answer:
        *others, last = self._paths
        refusal = Refusal("unknown_path", f"The ops port has {', '.join(others)} and {last}.")
        return _Answer(404, _JSON, refusal.body())


class _Page:
    """One page: GET only."""

    def __init__(self, make: Callable[[], Awaitable[_Answer]], limits: ClientLimits) -> None:
        self._make = make
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        downstream = Downstream(scope, receive, send, self._limits, "ops")
        try:
            if scope["method"] not in {"GET", "HEAD"}:
                refusal = Refusal(
                    "method_not_allowed",
                    "Ops pages are read with GET.",
                    headers={"allow": "GET"},
                )
                await downstream.answer(
                    405, {**refusal.headers(), "content-type": _JSON}, refusal.body()
                )
                return
            made = await self._make()
            sent = {"content-type": made.content_type, **_COMMON, **made.headers}
            await downstream.answer(made.status, sent, made.body)
        except ClientLeftError:
            return
