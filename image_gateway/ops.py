"""The ops port: how the gateway is, for programs that watch it.

It has a listener of its own, so that a proxy which is steered wrongly can never show it to the
world.  It goes on until the last call has ended: a drain can be watched.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from starlette.routing import Route, Router

from image_gateway import __version__
from image_gateway.core import routing
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account
from image_gateway.edge import metrics
from image_gateway.edge.cache import UnavailableError
from image_gateway.edge.downstream import ClientLeftError, Downstream, Limits
from image_gateway.edge.listener import Receive, Scope, Send
from image_gateway.edge.metrics import AccountNow, Now
from image_gateway.house import House

_JSON: Final = "application/json"

_Answer = tuple[int, str, bytes]
"""Status, content type, body."""


def look(house: House) -> Now:
    """What is at this moment, as far as it is known; asks nobody."""
    accounts, age = house.control_plane.known_accounts()
    state = house.now()
    return Now(
        accounts=tuple(
            AccountNow(
                name,
                _condition(house, account, state),
                house.slots.in_use(name),
                account.image_max_concurrency,
            )
            for name, account in sorted(accounts.items())
        ),
        waiting=house.slots.waiting,
        slots_shared=house.slots.is_shared,
        bytes_in_flight=house.spools.memory.used + house.spools.disk.used,
        grant_age_seconds=age,
        log_records_lost=house.logs.lost,
    )


def _condition(house: House, account: Account, state: routing.State) -> routing.Condition:
    found = routing.condition(account, state)
    is_usable = found in {routing.Condition.USABLE, routing.Condition.OVER_BUDGET}
    # Other processes may hold what this one was refused.
    if is_usable and house.slots.is_taken(account.account_name):
        return routing.Condition.FULL
    return found


class Ops:
    """The ASGI application of the ops port."""

    def __init__(self, house: House, is_accepting: Callable[[], bool]) -> None:
        self._house = house
        self._is_accepting = is_accepting
        settings = house.settings
        self._limits = Limits(1, 1.0, 1.0, settings.send_seconds)
        self._router = Router(
            [
                Route("/metrics", _Page(self._metrics, self._limits)),
                Route("/readyz", _Page(self._ready, self._limits)),
            ],
            redirect_slashes=False,
            default=_Page(_unknown, self._limits),
        )

    def __repr__(self) -> str:
        return f"<Ops {len(self._router.routes)} routes>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def _metrics(self) -> _Answer:
        return 200, metrics.CONTENT_TYPE, self._house.metrics.text()

    async def _ready(self) -> _Answer:
        reasons = [] if self._is_accepting() else ["this instance is stopping, or not up yet"]
        reasons += await self._accounts_missing()
        house = self._house
        _, age = house.control_plane.known_accounts()
        host, port = house.settings.ops_bind
        body: Mapping[str, object] = {
            "ready": not reasons,
            "reasons": reasons,
            "version": __version__,
            "instance": f"{host}:{port}",
            "accepting": self._is_accepting(),
            "notify": house.control_plane.listening,
            "changes_act_within_seconds": self._change_seconds(),
            "slots_shared": house.slots.is_shared,
            "grant_age_seconds": None if age is None else round(age, 3),
        }
        return 503 if reasons else 200, _JSON, orjson.dumps(body)

    def _change_seconds(self) -> float | None:
        """None: not before Postgres can be read."""
        if self._house.control_plane.is_away:
            return None
        is_told = self._house.control_plane.listening
        return 1.0 if is_told else self._house.settings.grant_ttl_seconds

    async def _accounts_missing(self) -> list[str]:
        try:
            accounts = await self._house.control_plane.accounts()
        except UnavailableError:
            return ["the control plane cannot be read, and nothing is known that still counts"]
        state = self._house.now()

        def serves(account: Account) -> bool:
            return routing.condition(account, state) in routing.SERVING

        if any(map(serves, accounts.values())):
            return []
        return ["no account is usable: off, blocked, cooling down or without a credential"]


class _Page:
    """One page: GET only."""

    def __init__(self, make: Callable[[], Awaitable[_Answer]], limits: Limits) -> None:
        self._make = make
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        downstream = Downstream(scope, receive, send, self._limits, "ops")
        try:
            if scope["method"] not in {"GET", "HEAD"}:
                refusal = Refusal(
                    "method_not_allowed", "Ops pages are read with GET.", headers={"allow": "GET"}
                )
                await downstream.answer(
                    405, {**refusal.headers(), "content-type": _JSON}, refusal.body()
                )
                return
            status, content_type, body = await self._make()
            sent = {"content-type": content_type, "cache-control": "no-store"}
            await downstream.answer(status, sent, body)
        except ClientLeftError:
            return


async def _unknown() -> _Answer:
    refusal = Refusal("unknown_path", "The ops port has /metrics and /readyz.")
    return 404, _JSON, refusal.body()
