"""The state at this moment, from the application's context: readiness, accounts, calls."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from image_gateway import __version__
from image_gateway.context import AppContext
from image_gateway.core.model import Account
from image_gateway.core.records.status import (
    AccountView,
    CallsView,
    CooldownView,
    Readiness,
    Status,
    WaitingView,
)
from image_gateway.core.routing import ranking
from image_gateway.edge.postgres.cache import UnavailableError


async def take(app: AppContext, *, accepting: bool) -> Status:
    """All facts of ``/status.json``; asks the control plane if what was read has expired."""
    ready = await readiness(app, accepting=accepting)
    wall, tracker = datetime.now(UTC), app.tracker
    accounts, _ = app.control_plane.known_accounts()
    waiting = app.slots.waiting
    return Status(
        time=wall,
        since=app.since,
        readiness=ready,
        accounts=_accounts(app, accounts),
        waiting=WaitingView(waiting, tracker.longest_wait() if waiting else None),
        in_flight=tracker.in_flight(),
        calls=calls(app),
        bytes_in_flight=app.spools.memory.used + app.spools.disk.used,
        loop_lag=app.loop_watch.longest(),
        log_records_lost=app.logs.lost,
        last_hour=tracker.last_hour(wall),
        last_errors=tracker.errors(),
        last_client_errors=tracker.client_errors(),
    )


def calls(app: AppContext) -> CallsView:
    """The calls that outlive their connections, at this moment."""
    running, left = app.tracker.calls()
    return CallsView(
        running, left, app.kept.kept_calls, app.kept.kept_bytes, app.tracker.purchases_saved
    )


async def readiness(app: AppContext, *, accepting: bool) -> Readiness:
    """Whether this instance can serve a call, or why not."""
    reasons = [] if accepting else ["this instance is stopping, or has not started yet"]
    reasons += await _missing(app)
    _, age = app.control_plane.known_accounts()
    host, port = app.settings.ops_bind
    return Readiness(
        ready=not reasons,
        reasons=tuple(reasons),
        version=__version__,
        instance=f"{host}:{port}",
        accepting=accepting,
        notify=app.control_plane.listening,
        changes_act_within_seconds=_change_seconds(app),
        slots_shared=app.slots.is_shared,
        grant_age_seconds=None if age is None else round(age, 3),
    )


def condition(app: AppContext, account: Account, state: ranking.State) -> ranking.Condition:
    """The condition of an account, with the slots of other processes considered."""
    own_condition = ranking.condition(account, state)
    is_usable = own_condition in {ranking.Condition.USABLE, ranking.Condition.OVER_BUDGET}
    # Other processes may hold the slots that this one was refused.
    if is_usable and app.slots.is_taken(account.account_name):
        return ranking.Condition.FULL
    return own_condition


def _change_seconds(app: AppContext) -> float | None:
    if app.control_plane.is_away:
        return None
    return 1.0 if app.control_plane.listening else app.settings.grant_ttl_seconds


async def _missing(app: AppContext) -> list[str]:
    try:
        accounts = await app.control_plane.accounts()
    except UnavailableError:
        return ["the control plane cannot be read, and what was read before has expired"]
    reasons = [] if await app.control_plane.keys_can_be_read() else ["keys cannot be read"]
    state = app.now()

    def serves(account: Account) -> bool:
        return ranking.condition(account, state) in ranking.SERVING

    if not any(map(serves, accounts.values())):
        reasons.append("no account is usable: off, blocked, cooling down or without a credential")
    return reasons


def _accounts(app: AppContext, accounts: Mapping[str, Account]) -> tuple[AccountView, ...]:
    state = app.now()
    models = state.cooldowns.models_cooling(
        {name: account.credential for name, account in accounts.items()}, state.now
    )
    return tuple(
        _account(app, account, state, models[name]) for name, account in sorted(accounts.items())
    )


def _account(
    app: AppContext, account: Account, state: ranking.State, models_cooling: int
) -> AccountView:
    name, blocked_until = account.account_name, account.blocked_until
    in_use = app.slots.in_use(name)
    spent = state.budgets.windows(account, state.now)
    failing = state.outliers.failing(account, state.now)
    return AccountView(
        account_name=name,
        dialect=account.dialect,
        condition=condition(app, account, state),
        slots_in_use=in_use,
        slots_limit=account.image_max_concurrency,
        taken_elsewhere=in_use < account.image_max_concurrency and app.slots.is_taken(name),
        budget_primary_percent=spent["primary"],
        budget_secondary_percent=spent["secondary"],
        cooldown=_cooldown(account, state),
        models_cooling=models_cooling,
        failures_in_a_row=0 if failing is None else failing.failures,
        blocked_until=(
            blocked_until if blocked_until is not None and blocked_until > state.wall else None
        ),
    )


def _cooldown(account: Account, state: ranking.State) -> CooldownView | None:
    cooldown = state.cooldowns.cooldown(account.account_name, state.now, account.credential)
    if cooldown is None:
        return None
    until = state.wall + timedelta(seconds=cooldown.seconds_left)
    status = code = None
    if cooldown.cause is not None:
        status, code = cooldown.cause.status, cooldown.cause.code
    return CooldownView(until, status, code)
