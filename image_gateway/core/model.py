"""The values of the control plane: keys, accounts, credentials; frozen, and valid once built.

``core.rows`` builds them from rows.  Secrets are wrapped: a ``Secret`` never appears in a ``repr``,
a log or an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

RouteStrategy = Literal["fixed", "auto"]

DEFAULT_SLOTS: Final = 3
"""Image calls in flight for an account without ``image_max_concurrency``."""
MOST_SLOTS: Final = 1024
HTTP_SCHEMES: Final = frozenset({"http", "https"})


class Secret:
    """A string that its ``repr`` does not contain."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """The value, for code that sends it, uses it as a key, or scrubs it from errors."""
        return self._value


@dataclass(frozen=True, slots=True)
class Key:
    """One API key: its identity and its permissions.

    ``expires_at`` and the fields after it came with version 2 of the contract.
    ``images_remaining`` and ``cost_remaining`` (USD) are quotas beside ``quota_remaining``, which
    counts tokens; ``quota_allows`` is the answer of a control plane that counts in its own way.
    An owner is a user who may have several keys.
    """

    key_hash: str = field(repr=False)
    key_id: str
    key_name: str
    status: str
    image_enabled: bool
    group_id: str | None
    group_image_enabled: bool
    quota_remaining: int | None
    max_concurrency: int | None
    min_start_interval_ms: int | None
    allowed_models: frozenset[str] | None
    model_map: Mapping[str, str]
    account_names: tuple[str, ...] | None
    route_strategy: RouteStrategy
    expires_at: datetime | None = None
    quota_allows: bool = True
    images_remaining: int | None = None
    cost_remaining: float | None = None
    owner_id: str | None = None
    owner_max_concurrency: int | None = None
    json_keepalive_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """Signs a call.  ``expires_at`` is the ``exp`` of the token in seconds since 1970."""

    token: Secret
    kind: Literal["access_token", "api_key"]
    account_id: str | None = field(default=None, repr=False)
    is_fedramp: bool = False
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy for all calls of an account."""

    url: str
    username: Secret | None = None
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream account or deployment; ``credential`` is None if it has no usable one.

    ``fails_free``: whether it bills nothing for an error answer (5xx) of its own; None: what its
    dialect usually does.
    """

    account_name: str
    dialect: str
    status: str
    image_enabled: bool
    image_max_concurrency: int
    base_url: str | None
    api_version: str | None
    deployments: Mapping[str, str] | None
    credential: Credential | None
    client_version: str | None
    responses_model: str | None
    codex_route: Literal["direct", "responses"]
    proxy: Proxy | None
    routing_weight: float
    used_percent_primary: float | None
    used_percent_secondary: float | None
    same_account_retries: int
    blocked_until: datetime | None
    fails_free: bool | None = None

    def signed_by(self) -> Credential:
        """The credential for a call; routing never selects an account without one."""
        if self.credential is None:
            raise ValueError("an account without a credential was selected for a call")
        return self.credential

    def secrets(self) -> list[str]:
        """The values of this account to scrub from errors."""
        values: list[str] = []
        if self.credential is not None:
            values.append(self.credential.token.reveal())
            if self.credential.account_id is not None:
                values.append(self.credential.account_id)
        if self.proxy is not None:
            values += [part.reveal() for part in (self.proxy.username, self.proxy.password) if part]
        return values


@dataclass(frozen=True, slots=True)
class Grant:
    """The key and accounts of one request, as they were when it started."""

    key: Key
    accounts: Mapping[str, Account]

    def allowed_accounts(self) -> list[Account]:
        """The accounts that the key may use, in its own order."""
        names = self.key.account_names
        if names is None:
            return [self.accounts[name] for name in sorted(self.accounts)]
        return [self.accounts[name] for name in dict.fromkeys(names) if name in self.accounts]
