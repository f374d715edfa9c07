"""Cooldowns: which accounts, or which model or endpoint of an account, get no calls for now.

Only image calls start cooldowns and only image calls respect them.  A cooldown is short by design:
it is capped, and after it the next call is the probe that either clears it or begins a longer one.
During a probe, routing prefers other accounts (``is_half_open``); if there are none, the account
serves other calls, too: a picture takes a minute, too long to hold all of them back.  Times are
seconds of a monotonic clock; the caller passes them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from image_gateway.core.model import Credential
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest

LONGEST_SECONDS: Final = 900.0
"""No cooldown is longer, even if an upstream asks for it: a reset may come early, and a probe costs
little."""

FIRST_BACKOFF_SECONDS: Final = 5.0
"""The first cooldown if the upstream names no time; it doubles with each failure in a row."""

_MOST_DOUBLINGS: Final = 8
_MOST_KEYS: Final = 10_000
"""Clients may name any number of models; beyond this many keys, expired cooldowns are dropped."""
_MOST_CREDENTIALS: Final = 8
"""Of one key; a control plane renews them every few hours."""


class Target(NamedTuple):
    """What a call asks of an account: a model, and the endpoint that makes pictures with it."""

    model: str
    endpoint: str

    @classmethod
    def of(cls, request: AnyRequest) -> "Target":
        """The target of a request."""
        endpoint = request.endpoint if isinstance(request, ImageRequest) else "responses"
        return cls(request.upstream_model, endpoint)


class Scope(StrEnum):
    """How much of an account cools down."""

    ACCOUNT = "account"
    MODEL = "model"
    ENDPOINT = "endpoint"
    """One endpoint of one model."""


CooldownKey = tuple[str, str | None, str | None]
"""An account's name; a model and an endpoint if the cooldown is for them only."""


@dataclass(frozen=True, slots=True)
class CooldownSpec:
    """A cooldown to begin.  ``seconds`` None: back off by the number of failures in a row."""

    seconds: float | None
    scope: Scope = Scope.ACCOUNT


@dataclass(frozen=True, slots=True)
class Cause:
    """The answer that began a cooldown: its status and its code, never its message.

    ``reason`` is the row that let another account be asked (``core.routing.failover``).
    """

    status: int | None
    code: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The remaining seconds of a cooldown, and the answer that began it."""

    seconds_left: float
    cause: Cause | None


@dataclass(frozen=True, eq=False, slots=True)
class _ActiveCooldown:
    """One cooldown: when it began, when it ends, and the failures in a row that led to it."""

    begun: float
    until: float
    failures: int
    cause: Cause | None = None


class CooldownTracker:
    """The cooldowns of one process, in memory."""

    def __init__(self) -> None:
        # By credential: a renewed credential may have repaired the account, and a late answer to
        # the old credential says nothing about the new one.
        self._cooldowns: dict[CooldownKey, dict[Credential | None, _ActiveCooldown]] = {}
        self._probes: Counter[_ActiveCooldown] = Counter()

    def __repr__(self) -> str:
        return f"<CooldownTracker of {len(self._cooldowns)} keys>"

    def trip(
        self,
        account_name: str,
        target: Target,
        spec: CooldownSpec,
        now: float,
        credential: Credential | None = None,
        cause: Cause | None = None,
    ) -> float:
        """Begin or lengthen a cooldown; returns its length in seconds.

        It applies to calls that are signed by ``credential``; None: to all calls.
        """
        key = _key(account_name, target, spec.scope)
        by_credential = self._cooldowns.setdefault(key, {})
        last = by_credential.get(credential, _ActiveCooldown(now, now, 0))
        seconds = spec.seconds
        if seconds is None:
            seconds = FIRST_BACKOFF_SECONDS * 2.0**last.failures
        seconds = min(max(seconds, 0.0), LONGEST_SECONDS)
        failures = min(last.failures + 1, _MOST_DOUBLINGS)
        until = now + seconds
        if until < last.until:
            until, cause = last.until, last.cause
        by_credential[credential] = _ActiveCooldown(now, until, failures, cause)
        if len(self._cooldowns) > _MOST_KEYS or len(by_credential) > _MOST_CREDENTIALS:
            self._drop_expired(now)
        return seconds

    def _drop_expired(self, now: float) -> None:
        for key, by_credential in list(self._cooldowns.items()):
            remaining = {
                credential: cooldown
                for credential, cooldown in by_credential.items()
                if cooldown.until > now
            }
            if remaining:
                self._cooldowns[key] = remaining
            else:
                del self._cooldowns[key]

    def succeed(self, account_name: str, target: Target, since: float) -> None:
        """A call that was sent at ``since`` was served: clear the cooldowns of account and target.

        A cooldown that began after ``since`` stays: a later call began it.
        """
        if not self._cooldowns:
            return
        for key in _keys(account_name, target):
            remaining = {
                credential: cooldown
                for credential, cooldown in self._cooldowns.get(key, {}).items()
                if cooldown.begun > since
            }
            if remaining:
                self._cooldowns[key] = remaining
            else:
                self._cooldowns.pop(key, None)

    def seconds_left(
        self, account_name: str, target: Target, now: float, credential: Credential | None = None
    ) -> float:
        """Seconds for which the account should get no such call; 0 if it may get one."""
        cooldowns = self._matching(account_name, target, credential)
        return max(
            (cooldown.until - now for cooldown in cooldowns if cooldown.until > now), default=0.0
        )

    def cooldown(
        self, account_name: str, now: float, credential: Credential | None = None
    ) -> Cooldown | None:
        """The cooldown of a whole account, None if there is none."""
        cooldowns = _signed_by(credential, self._cooldowns.get((account_name, None, None), {}))
        longest = max(cooldowns, key=lambda cooldown: cooldown.until, default=None)
        if longest is None or longest.until <= now:
            return None
        return Cooldown(longest.until - now, longest.cause)

    def models_cooling(
        self, credentials: Mapping[str, Credential | None], now: float
    ) -> Counter[str]:
        """The number of models with a cooldown of their own, or of one of their endpoints, per
        account; ``credentials`` are by account name.
        """
        cooling = set[tuple[str, str]]()
        for (name, model, _), by_credential in self._cooldowns.items():
            if model is not None and name in credentials:
                cooldowns = _signed_by(credentials[name], by_credential)
                if any(cooldown.until > now for cooldown in cooldowns):
                    cooling.add((name, model))
        return Counter(name for name, _ in cooling)

    @contextmanager
    def call(
        self, account_name: str, target: Target, now: float, credential: Credential | None = None
    ) -> Iterator[None]:
        """Wraps a call that begins at ``now``; it is the probe of every cooldown that is over."""
        cooldowns = self._matching(account_name, target, credential)
        due = Counter(cooldown for cooldown in cooldowns if cooldown.until <= now)
        self._probes += due
        try:
            yield
        finally:
            self._probes -= due

    def is_half_open(
        self, account_name: str, target: Target, credential: Credential | None = None
    ) -> bool:
        """Whether a probe is under way."""
        cooldowns = self._matching(account_name, target, credential)
        return any(cooldown in self._probes for cooldown in cooldowns)

    def _matching(
        self, account_name: str, target: Target, credential: Credential | None
    ) -> list[_ActiveCooldown]:
        """The cooldowns that apply to a call."""
        if not self._cooldowns:
            return []
        return [
            cooldown
            for key in _keys(account_name, target)
            for cooldown in _signed_by(credential, self._cooldowns.get(key, {}))
        ]


def _signed_by(
    credential: Credential | None, by_credential: Mapping[Credential | None, _ActiveCooldown]
) -> list[_ActiveCooldown]:
    """The cooldowns that apply to calls signed by a credential."""
    return [by_credential[signer] for signer in {None, credential} if signer in by_credential]


def _key(account_name: str, target: Target, scope: Scope) -> CooldownKey:
    match scope:
        case Scope.ACCOUNT:
            return account_name, None, None
        case Scope.MODEL:
            return account_name, target.model, None
        case Scope.ENDPOINT:
            return account_name, target.model, target.endpoint


def _keys(account_name: str, target: Target) -> list[CooldownKey]:
    return [_key(account_name, target, scope) for scope in Scope]
