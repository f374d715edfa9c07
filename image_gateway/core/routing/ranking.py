"""Which accounts can serve a request, in which order; or the refusal that says why none can.

Four filters in a row keep the accounts that the key may use, that serve the model, that can do all
that the request needs (``able``, once per request), and that are usable now (``usable``, before
each attempt).  A filter that leaves no account raises its own refusal, so that a client whose
request cannot be served learns what would work, and a client that meets busy accounts learns when
to retry.  ``order`` ranks the accounts that remain.  Pure and deterministic: the same state gives
the same order.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final

from image_gateway.core.errors import ERROR_SPECS, Refusal
from image_gateway.core.model import Account, Grant, Key
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import capability, failover, offers
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.capability import Gap
from image_gateway.core.routing.cooldowns import Cause, CooldownTracker, Target
from image_gateway.core.routing.outliers import OutlierTracker

_DEFAULT_RETRY_SECONDS: Final = 30.0
"""Where no account names a time: an operator has to act."""
_LEAST_SHARE: Final = 0.01
"""An account whose budget is nearly spent still ranks; zero would be divided by."""
_LEAST_CAPACITY: Final = 1e-300
"""An account with a tiny weight still ranks, whose product may underflow to zero."""


@dataclass(frozen=True, slots=True)
class State:
    """The present state that routing reads: loads, cooldowns, failures in a row, budgets, and the
    time by both clocks.

    An account that has spent ``threshold`` per cent of its budget or more comes last.
    """

    in_use: Callable[[str], int]
    cooldowns: CooldownTracker
    outliers: OutlierTracker
    budgets: Budgets
    threshold: float
    now: float
    wall: datetime


def able(
    grant: Grant, request: AnyRequest, catalogue: Catalogue, today: date
) -> tuple[Account, ...]:
    """The accounts that could serve a request, in the key's order; never empty.

    ``today`` decides which models a refusal may name.  Raises ``Refusal``.
    """
    allowed = grant.allowed_accounts()
    serving = [
        account
        for account in allowed
        if all(offers.serves(account, model, catalogue) for model in request.image_models)
    ]
    if allowed and not serving:
        missing = (
            name
            for model, name in request.image_models.items()
            if not any(offers.serves(account, model, catalogue) for account in allowed)
        )
        names = offers.offered(grant, catalogue, today)
        raise offers.not_found(next(missing, request.model), names)
    return _able(request, serving)


def order(
    accounts: Sequence[Account], key: Key, target: Target, state: State, session: str | None
) -> tuple[Account, ...]:
    """Usable accounts, best first; ``accounts`` come in the key's order.

    Accounts that have just failed come last.  The ``fixed`` strategy keeps the given order of the
    others.  Otherwise these come first, in this order: accounts under the budget threshold,
    accounts without a probe under way, the session's preferred account, the account with the least
    load for its capacity.
    """

    def has_failed(account: Account) -> bool:
        failing = state.outliers.failing(account, state.now)
        return failing is not None and failing.is_last

    if key.route_strategy == "fixed":
        return tuple(sorted(accounts, key=has_failed))
    is_named = key.account_names is not None
    positions = {account.account_name: is_named * at for at, account in enumerate(accounts)}
    spent = {account.account_name: state.budgets.spent(account, state.now) for account in accounts}
    preferred = None
    if session is not None:
        names = [name for name, percent in spent.items() if percent < state.threshold]
        preferred = _preferred(names, session)

    def rank(account: Account) -> tuple[bool, bool, bool, bool, float, int, str]:
        name = account.account_name
        share = max(1 - spent[name] / 100, _LEAST_SHARE)
        capacity = account.image_max_concurrency * account.routing_weight * share
        capacity = max(capacity, _LEAST_CAPACITY)
        return (
            has_failed(account),
            spent[name] >= state.threshold,
            state.cooldowns.is_half_open(name, target, account.credential),
            name != preferred,
            (state.in_use(name) + 1) / capacity,
            positions[name],
            name,
        )

    return tuple(sorted(accounts, key=rank))


def _preferred(names: Sequence[str], session: str) -> str | None:
    """A session's account among those under the threshold, by rendezvous hashing.

    Every process computes the same account without asking another.  When an account drops out, only
    its own sessions move, each to the next account in its ranking.
    """

    def score(name: str) -> tuple[bytes, str]:
        text = f"{session}\0{name}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).digest(), name

    return max(names, key=score, default=None)


class Condition(StrEnum):
    """The state of an account, for people; cooldowns of single models do not count."""

    USABLE = "usable"
    FULL = "full"
    OVER_BUDGET = "over_budget"
    COOLING = "cooling"
    FAILING = "failing"
    BLOCKED = "blocked"
    NO_CREDENTIAL = "no_credential"
    OFF = "off"


SERVING: Final = frozenset(
    {Condition.USABLE, Condition.FULL, Condition.OVER_BUDGET, Condition.FAILING}
)
"""An account in one of these conditions serves calls, now or soon; one that is failing is asked
where no other is left.
"""


def condition(account: Account, state: State) -> Condition:
    """The first thing that keeps an account from serving."""
    name = account.account_name
    blocked_until = account.blocked_until
    failing = state.outliers.failing(account, state.now)
    checks = (
        (account.status != "active" or not account.image_enabled, Condition.OFF),
        (not has_credential(account, state.wall), Condition.NO_CREDENTIAL),
        (blocked_until is not None and blocked_until > state.wall, Condition.BLOCKED),
        (
            state.cooldowns.cooldown(name, state.now, account.credential) is not None,
            Condition.COOLING,
        ),
        (failing is not None and failing.is_failing, Condition.FAILING),
        (state.in_use(name) >= account.image_max_concurrency, Condition.FULL),
        (state.budgets.spent(account, state.now) >= state.threshold, Condition.OVER_BUDGET),
    )
    return next((result for holds, result in checks if holds), Condition.USABLE)


def all_busy(seconds: float) -> Refusal:
    """Every slot of the accounts that could serve is in use; one is free in about ``seconds``."""
    return Refusal(
        "account_concurrency",
        "Concurrency limit reached: every account that can serve this call has as many image calls "
        "in flight as it may. Try again later.",
        retry_after=seconds,
    )


def _able(request: AnyRequest, accounts: Sequence[Account]) -> tuple[Account, ...]:
    routes = [(account, capability.choose(account, request)) for account in accounts]
    able_accounts = tuple(account for account, route in routes if not isinstance(route, Gap))
    gaps = [route for _, route in routes if isinstance(route, Gap)]
    if gaps and not able_accounts:
        # An account without any route for the request says the least of what would work.
        gap = next((gap for gap in gaps if gap != capability.NO_INTENTS), gaps[0])
        raise Refusal(
            "unsupported_value",
            f"No account can serve this value of `{gap.param}`: {gap.advice}",
            param=gap.param,
        )
    return able_accounts


def _is_usable(account: Account, target: Target, state: State) -> bool:
    return _wait(account, target, state) is None and has_credential(account, state.wall)


def usable(accounts: Sequence[Account], target: Target, state: State) -> tuple[Account, ...]:
    """The accounts that a call could go to now; never empty.  Raises ``Refusal``.

    Accounts that are out because they failed are left out, but never all of them: then the one
    that failed least is asked.
    """
    usable_accounts = [account for account in accounts if _is_usable(account, target, state)]
    working = tuple(account for account in usable_accounts if not _is_out(account, state))
    if working:
        return working
    if usable_accounts:
        return (min(usable_accounts, key=lambda account: _badness(account, state)),)
    if accounts and all(_wait(account, target, state) is None for account in accounts):
        raise no_credentials()
    seconds = soonest(accounts, target, state)
    limit = _limit(accounts, state)
    raise none_available(seconds) if limit is None else all_limited(seconds, limit.code)


def soonest(accounts: Sequence[Account], target: Target, state: State) -> float | None:
    """Seconds until the first of the accounts that wait may be asked; None if none waits."""
    waits = [_wait(account, target, state) for account in accounts]
    return min((wait for wait in waits if wait), default=None)


def _limit(accounts: Sequence[Account], state: State) -> Cause | None:
    """The answer of the first account that cools down because it has reached a limit."""
    cooldowns = [
        state.cooldowns.cooldown(account.account_name, state.now, account.credential)
        for account in accounts
    ]
    causes = [cooldown.cause for cooldown in cooldowns if cooldown is not None]
    return next((cause for cause in causes if cause and cause.reason == failover.LIMITED), None)


def all_limited(seconds: float | None, code: str | None) -> Refusal:
    """The accounts have reached limits of their upstreams; one may be asked in ``seconds``.

    The answer is about all of them: a client must not read one account's plan or its wait.
    ``code`` is an upstream's own, if it has one.
    """
    wait = _DEFAULT_RETRY_SECONDS if seconds is None else seconds
    return Refusal(
        code or "rate_limit_exceeded",
        "Every account that could serve this call has reached a limit of its upstream. Try again "
        "later.",
        # The wait as the upstream named it, not a millisecond less for the time since then.
        retry_after=math.ceil(wait * 10) / 10,
        spec=ERROR_SPECS["rate_limit_exceeded"],
    )


def none_available(seconds: float | None) -> Refusal:
    """No account may be asked now; one may be in ``seconds``, None if that is not known."""
    return Refusal(
        "no_account_available",
        "Every account that could serve this call is disabled, blocked or cooling down. Try again "
        "later.",
        retry_after=_DEFAULT_RETRY_SECONDS if seconds is None else seconds,
    )


def _is_out(account: Account, state: State) -> bool:
    failing = state.outliers.failing(account, state.now)
    return failing is not None and failing.is_out


def _badness(account: Account, state: State) -> tuple[int, float]:
    failing = state.outliers.failing(account, state.now)
    return (0, 0.0) if failing is None else (failing.failures, failing.seconds_left)


def no_credentials() -> Refusal:
    """Accounts exist, but their credentials are missing, expired or refused."""
    return Refusal(
        "account_credentials",
        "The accounts that could serve this call have no valid credentials. Ask the operator of "
        "this gateway to renew them.",
        retry_after=_DEFAULT_RETRY_SECONDS,
    )


def _wait(account: Account, target: Target, state: State) -> float | None:
    """Seconds until the account is usable (0: an operator must act), None when it is usable now."""
    if account.status != "active" or not account.image_enabled:
        return 0.0
    wait = state.cooldowns.seconds_left(account.account_name, target, state.now, account.credential)
    if account.blocked_until is not None:
        wait = max(wait, (account.blocked_until - state.wall).total_seconds())
    return wait or None


def has_credential(account: Account, wall: datetime) -> bool:
    """Whether the account can sign a call; a token past its own ``exp`` cannot."""
    credential = account.credential
    if credential is None:
        return False
    return credential.expires_at is None or credential.expires_at > wall.timestamp()
