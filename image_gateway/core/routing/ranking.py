"""Which accounts can serve a request, in which order; or the refusal that says why none can.

A sieve of four: the accounts the key may use, that know the model, that can do what is asked
(``able``, for the whole of a request), that are usable now (``usable``, before each attempt).
Where a sieve leaves nothing, its own refusal is the answer, so that a client with an impossible
wish hears what would work and a client with bad luck hears when to come back.  What is left is
ranked (``order``).  Pure and deterministic: the same state gives the same order.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account, Grant, Key
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import capability
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.capability import Gap
from image_gateway.core.routing.cooldowns import CooldownTracker

_DEFAULT_RETRY_SECONDS: Final = 30.0
"""Where nothing names a time: an operator has to act."""
_LEAST_SHARE: Final = 0.01
"""A budget that is all but spent still ranks; zero would divide."""
_LEAST_CAPACITY: Final = 1e-300
"""So does a weight next to nothing, which times anything may be zero."""


@dataclass(frozen=True, slots=True)
class State:
    """What routing may know of the moment: loads, cooldowns, budgets, and the time by both clocks.

    ``threshold`` is the spent share of a budget, in per cent, from which on an account comes last.
    """

    in_use: Callable[[str], int]
    cooldowns: CooldownTracker
    budgets: Budgets
    threshold: float
    now: float
    wall: datetime


def able(grant: Grant, request: AnyRequest, catalogue: Catalogue) -> tuple[Account, ...]:
    """The accounts that could serve a request, in the key's order; never empty.

    Raises ``Refusal``.
    """
    reached = _reached(grant)
    knowing = [
        account
        for account in reached
        if all(knows(account, model, catalogue) for model in request.image_models)
    ]
    if reached and not knowing:
        raise Refusal(
            "model_not_found",
            "No account that this key may use serves the model asked for. A deployment in the path "
            "counts as the model.",
            param="model",
        )
    return _able(request, knowing)


def order(
    accounts: Sequence[Account], key: Key, model: str, state: State, session: str | None
) -> tuple[Account, ...]:
    """Usable accounts, best first; ``accounts`` come in the key's order.

    A fixed strategy keeps it.  Else: those under the budget threshold, those that nobody is just
    probing, the session's own, the least loaded by capacity.
    """
    if key.route_strategy == "fixed":
        return tuple(accounts)
    is_named = key.account_names is not None
    given = {account.account_name: is_named * at for at, account in enumerate(accounts)}
    spent = {account.account_name: state.budgets.spent(account, state.now) for account in accounts}
    own = None
    if session is not None:
        own = _own([name for name, percent in spent.items() if percent < state.threshold], session)

    def rank(account: Account) -> tuple[bool, bool, bool, float, int, str]:
        name = account.account_name
        share = max(1 - spent[name] / 100, _LEAST_SHARE)
        capacity = account.image_max_concurrency * account.routing_weight * share
        capacity = max(capacity, _LEAST_CAPACITY)
        return (
            spent[name] >= state.threshold,
            state.cooldowns.is_half_open(name, model, account.credential),
            name != own,
            (state.in_use(name) + 1) / capacity,
            given[name],
            name,
        )

    return tuple(sorted(accounts, key=rank))


def _own(names: Sequence[str], session: str) -> str | None:
    """A session's account among those under the threshold, by rendezvous hashing.

    Every process finds the same one without asking another, and where it drops out only its own
    sessions move, each to the next of its list.
    """

    def score(name: str) -> tuple[bytes, str]:
        text = f"{session}\0{name}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).digest(), name

    return max(names, key=score, default=None)


class Condition(StrEnum):
    """What an account is at a moment, for people; what a single model makes of it is not told."""

    USABLE = "usable"
    FULL = "full"
    OVER_BUDGET = "over_budget"
    COOLING = "cooling"
    BLOCKED = "blocked"
    NO_CREDENTIAL = "no_credential"
    OFF = "off"


SERVING: Final = frozenset({Condition.USABLE, Condition.FULL, Condition.OVER_BUDGET})
"""An account in one of these serves, now or soon."""


def condition(account: Account, state: State) -> Condition:
    """The first thing that keeps an account from serving."""
    name = account.account_name
    blocked_until = account.blocked_until
    found = (
        (account.status != "active" or not account.image_enabled, Condition.OFF),
        (not has_credential(account, state.wall), Condition.NO_CREDENTIAL),
        (blocked_until is not None and blocked_until > state.wall, Condition.BLOCKED),
        (
            state.cooldowns.seconds_left(name, "", state.now, account.credential) > 0,
            Condition.COOLING,
        ),
        (state.in_use(name) >= account.image_max_concurrency, Condition.FULL),
        (state.budgets.spent(account, state.now) >= state.threshold, Condition.OVER_BUDGET),
    )
    return next((each for holds, each in found if holds), Condition.USABLE)


def all_busy(seconds: float) -> Refusal:
    """Accounts would serve, but every slot of theirs is taken; one is free in ``seconds`` or so."""
    return Refusal(
        "account_concurrency",
        "Every account that can serve this is at its limit of image calls in flight. Try again.",
        retry_after=seconds,
    )


def knows(account: Account, model: str, catalogue: Catalogue) -> bool:
    """Whether an account serves a model: its own list, or without one the catalogue."""
    if account.deployments is not None:
        return model in account.deployments
    return catalogue.rules(model) is not None


def _reached(grant: Grant) -> list[Account]:
    names = grant.key.account_names
    if names is None:
        return [grant.accounts[name] for name in sorted(grant.accounts)]
    return [grant.accounts[name] for name in dict.fromkeys(names) if name in grant.accounts]


def _able(request: AnyRequest, accounts: Sequence[Account]) -> tuple[Account, ...]:
    ways = [(account, capability.choose(account, request)) for account in accounts]
    found = tuple(account for account, way in ways if not isinstance(way, Gap))
    gaps = [way for _, way in ways if isinstance(way, Gap)]
    if gaps and not found:
        raise Refusal(
            "unsupported_value",
            f"No account here can serve `{gaps[0].param}` as it was asked: {gaps[0].advice}",
            param=gaps[0].param,
        )
    return found


def is_usable(account: Account, model: str, state: State) -> bool:
    """Whether an account could be asked at this moment."""
    return _wait(account, model, state) is None and has_credential(account, state.wall)


def usable(accounts: Sequence[Account], model: str, state: State) -> tuple[Account, ...]:
    """Those that could be asked at this moment; never empty.  Raises ``Refusal``."""
    found = tuple(account for account in accounts if is_usable(account, model, state))
    if found:
        return found
    all_waits = [_wait(account, model, state) for account in accounts]
    waits = [wait for wait in all_waits if wait is not None]
    if accounts and not waits:
        raise no_credentials()
    raise Refusal(
        "no_account_available",
        "No account that could serve this is usable right now: switched off, blocked or cooling "
        "down. Try again later.",
        retry_after=min((wait for wait in waits if wait > 0), default=_DEFAULT_RETRY_SECONDS),
    )


def no_credentials() -> Refusal:
    """Accounts exist, and what signs their calls is missing, expired or refused."""
    return Refusal(
        "account_credentials",
        "The accounts that could serve this have no valid credentials. Whoever runs the gateway "
        "has to renew them.",
        retry_after=_DEFAULT_RETRY_SECONDS,
    )


def _wait(account: Account, model: str, state: State) -> float | None:
    """Seconds until the account is usable (0: somebody must act), None when it is now."""
    if account.status != "active" or not account.image_enabled:
        return 0.0
    wait = state.cooldowns.seconds_left(account.account_name, model, state.now, account.credential)
    if account.blocked_until is not None:
        wait = max(wait, (account.blocked_until - state.wall).total_seconds())
    return wait or None


def has_credential(account: Account, wall: datetime) -> bool:
    """Whether a call could be signed; a token past its own ``exp`` cannot."""
    credential = account.credential
    if credential is None:
        return False
    return credential.expires_at is None or credential.expires_at > wall.timestamp()
