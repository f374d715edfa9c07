"""The server of the ops port: state pages for people and programs.

It has a listener of its own, so that a wrongly configured proxy cannot expose it to the world, and
answers to its own names only, so that a page of the web cannot read it through somebody's browser.
It runs until the last call has ended, so that a drain can be watched.  A client that does not read
is dropped soon, and only few may be connected, because answers are held in memory.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
from starlette.routing import Route, Router

from image_gateway import __version__
from image_gateway.context import AppContext
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.edge import metrics
from image_gateway.edge.client.downstream import ClientLeftError, ClientLimits, Downstream
from image_gateway.edge.client.listener import Receive, Scope, Send
from image_gateway.edge.metrics import AccountGauges, CallGauges, ConnectionGauges, GaugeValues
from image_gateway.ops import own_names, page, snapshot

SEND_SECONDS: Final = 10.0
"""How long a client may block its answer."""
MOST_CONNECTIONS: Final = 32
"""A status page and a scraper each use one at a time."""
CONNECTIONS_REMEDY: Final = "Find out who reads the ops port (OPS_BIND) so often"

_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"
_COMMON: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer of a page."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def read_gauges(app: AppContext) -> GaugeValues:
    """The gauges at this moment, from known facts only; does no IO."""
    accounts, age = app.control_plane.known_accounts()
    state, calls = app.now(), snapshot.calls(app)
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
        slots_without_lock=app.slots.alone,
        bytes_in_flight=app.spools.memory.used + app.spools.disk.used,
        control_plane_up=not app.control_plane.is_away,
        notify=app.control_plane.listening,
        grant_age_seconds=age,
        log_records_lost=app.logs.lost,
        connections=ConnectionGauges(
            app.connections.idle, app.connections.busy, app.connections.limit
        ),
        calls=CallGauges(calls.running, calls.left, calls.kept, calls.kept_bytes),
        loop_lags=app.loop_watch.by_phase(),
    )


class OpsApp:
    """The ASGI application of the ops port."""

    def __init__(
        self, app: AppContext, is_accepting: Callable[[], bool], names: Collection[str]
    ) -> None:
        self._app = app
        self._is_accepting = is_accepting
        self._names = names
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
        if own_names.is_own(Headers(scope["headers"]).get("host"), self._names):
            await self._router(scope, receive, send)
        else:
            await _Page(self._misdirected, self._limits)(scope, receive, send)

    async def _metrics(self) -> _Answer:
        return _Answer(200, metrics.CONTENT_TYPE, self._app.metrics.text())

    async def _ready(self) -> _Answer:
        readiness = await snapshot.readiness(self._app, accepting=self._is_accepting())
        return _Answer(200 if readiness.ready else 503, _JSON, orjson.dumps(readiness))

    async def _status(self) -> _Answer:
        status = await snapshot.take(self._app, accepting=self._is_accepting())
        return _Answer(200, _HTML, page.page(status), page.HEADERS)

    async def _status_json(self) -> _Answer:
        status = await snapshot.take(self._app, accepting=self._is_accepting())
        return _Answer(200, _JSON, orjson.dumps(status, option=orjson.OPT_UTC_Z))

    async def _unknown(self) -> _Answer:
        *others, last = self._paths
        refusal = Refusal("unknown_path", f"The ops port has {', '.join(others)} and {last}.")
        return _Answer(404, _JSON, refusal.body())

    async def _misdirected(self) -> _Answer:
        names = "".join(f" or {name}" for name in sorted(self._names) if "." in name)
        refusal = Refusal(
            "misdirected_request",
            "The ops port does not answer to the name in the Host header. Ask by its IP address, "
            f"by localhost{names}; let a proxy send one of these as the Host header.",
        )
        return _Answer(421, _JSON, refusal.body())


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
                    "The pages of the ops port are read with GET.",
                    headers={"allow": "GET"},
                )
                await downstream.answer(
                    405, {**refusal.headers(), "content-type": _JSON}, refusal.body()
                )
                return
            answer = await self._make()
            headers = {"content-type": answer.content_type, **_COMMON, **answer.headers}
            await downstream.answer(answer.status, headers, answer.body)
        except ClientLeftError:
            return
