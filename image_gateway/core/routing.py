"""Which accounts can serve a request, in which order; or the refusal that says why none can.

A sieve of four: the accounts the key may use, that know the model, that can do what is asked, that
are usable now.  Where a sieve leaves nothing, its own refusal is the answer, so that a client with
an impossible wish hears what would work and a client with bad luck hears when to come back.  What
is left is ranked.  Pure and deterministic: the same state gives the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from image_gateway.core import capability
from image_gateway.core.capability import Gap
from image_gateway.core.errors import Refusal
from image_gateway.core.health import Health
from image_gateway.core.model import Account, Grant
from image_gateway.core.models import Catalogue
from image_gateway.core.request import ImageRequest

_DEFAULT_RETRY_SECONDS: Final = 30.0
"""Where nothing names a time: an operator has to act."""
BUSY_RETRY_SECONDS: Final = 5.0
"""All slots busy: a call takes about a minute, so with three slots one is free every 20 s or so."""
_LEAST_SHARE: Final = 0.01
"""A budget that is all but spent still ranks; zero would divide."""


@dataclass(frozen=True, slots=True)
class State:
    """What routing may know of the moment: loads, cooldowns, and the time by both clocks."""

    in_use: Callable[[str], int]
    health: Health
    now: float
    wall: datetime


def order(
    grant: Grant, request: ImageRequest, catalogue: Catalogue, state: State, threshold: float
) -> tuple[Account, ...]:
    """The accounts to try, best first; never empty.  Raises ``Refusal``.

    ``threshold`` is the spent share of a budget, in per cent, from which on an account comes last.
    """
    model = request.upstream_model
    reached = _reached(grant)
    knowing = [account for account in reached if knows(account, model, catalogue)]
    if reached and not knowing:
        raise Refusal(
            "model_not_found",
            "No account that this key may use serves the model asked for. A deployment in the path "
            "counts as the model.",
            param="model",
        )
    able = _able(request, knowing)
    usable = _usable(request, able, state)
    if grant.key.route_strategy == "fixed":
        return tuple(usable)
    given = {account.account_name: index for index, account in enumerate(usable)}
    given = given if grant.key.account_names is not None else {}

    def rank(account: Account) -> tuple[bool, float, int, str]:
        spent = _spent(account)
        share = max(1 - spent / 100, _LEAST_SHARE)
        capacity = account.image_max_concurrency * account.routing_weight * share
        load = (state.in_use(account.account_name) + 1) / capacity
        return spent >= threshold, load, given.get(account.account_name, 0), account.account_name

    return tuple(sorted(usable, key=rank))


def all_busy() -> Refusal:
    """Accounts would serve, but every slot of theirs is taken."""
    return Refusal(
        "account_concurrency",
        "Every account that can serve this is at its limit of image calls in flight. Try again.",
        retry_after=BUSY_RETRY_SECONDS,
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


def _able(request: ImageRequest, accounts: Sequence[Account]) -> list[Account]:
    ways = [(account, capability.choose(account, request)) for account in accounts]
    able = [account for account, way in ways if not isinstance(way, Gap)]
    gaps = [way for _, way in ways if isinstance(way, Gap)]
    if gaps and not able:
        raise Refusal(
            "unsupported_value",
            f"No account here can serve `{gaps[0].param}` as it was asked: {gaps[0].advice}",
            param=gaps[0].param,
        )
    return able


def _usable(request: ImageRequest, accounts: Sequence[Account], state: State) -> list[Account]:
    usable: list[Account] = []
    waits: list[float] = []
    bad_credentials = 0
    for account in accounts:
        wait = _wait(account, request.upstream_model, state)
        if wait is not None:
            waits.append(wait)
        elif not has_credential(account, state.wall):
            bad_credentials += 1
        else:
            usable.append(account)
    if usable:
        return usable
    if bad_credentials and not waits:
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
    wait = state.health.seconds_left(account.account_name, model, state.now, account.credential)
    if account.blocked_until is not None:
        wait = max(wait, (account.blocked_until - state.wall).total_seconds())
    return wait or None


def has_credential(account: Account, wall: datetime) -> bool:
    """Whether a call could be signed; a token past its own ``exp`` cannot."""
    credential = account.credential
    if credential is None:
        return False
    return credential.expires_at is None or credential.expires_at > wall.timestamp()


def _spent(account: Account) -> float:
    """The fuller of the two budgets, in per cent."""
    percents = (account.used_percent_primary or 0.0, account.used_percent_secondary or 0.0)
    return min(max(*percents, 0.0), 100.0)
