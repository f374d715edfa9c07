"""Strict parsers for rows of the contract's views.

``key_from_row`` and ``account_from_row`` take a row of the views (``sql/README.md``, "The
contract") and raise ``RowError`` if it breaks the contract, so no other module has to check its
values again.  The record of each dialect says what its accounts need.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from math import isnan
from typing import Final, Literal, cast
from urllib.parse import unquote, urlsplit

import orjson

from image_gateway.core import untrusted
from image_gateway.core.dialects import DIALECTS, Dialect
from image_gateway.core.encrypted import WITHOUT_KEY, CannotOpenError, Keyring
from image_gateway.core.model import (
    DEFAULT_SLOTS,
    HTTP_SCHEMES,
    MOST_SLOTS,
    Account,
    Credential,
    Key,
    Proxy,
    RouteStrategy,
    Secret,
)

MOST_RETRIES: Final = 10
"""Retries on one account per request; a larger number counts as this one."""
PROXY_SCHEMES: Final = frozenset({"http", "https", "socks5", "socks5h"})
_LONGEST_SOCKS_TEXT: Final = 255
"""RFC 1929, 2."""
_LATER_THAN_PYTHON: Final = re.compile(r"\d{5,}-")
"""A text in which Postgres writes a year that a ``datetime`` does not have."""


class RowError(ValueError):
    """A row breaks the contract; the message names the column, never the value."""


ViewRow = Mapping[str, object]


def key_from_row(row: ViewRow) -> Key:
    """A key from a row of ``image_gateway.keys``; raises ``RowError``."""
    strategy = _optional_text(row, "route_strategy") or "auto"
    if strategy not in {"fixed", "auto"}:
        raise RowError("route_strategy must be fixed or auto")
    allowed = _optional_texts(row, "allowed_models")
    accounts = _optional_texts(row, "account_names")
    # What a view of an older contract lacks is null.
    row = {**(_optional_object(row, "contract_2") or {}), **row}
    return Key(
        key_hash=_text(row, "key_hash"),
        key_id=_text(row, "key_id"),
        key_name=_optional_text(row, "key_name") or "",
        status=_optional_text(row, "status") or "",
        image_enabled=_flag(row, "image_enabled"),
        group_id=_optional_text(row, "group_id"),
        group_image_enabled=_flag(row, "group_image_enabled"),
        quota_remaining=_optional_integer(row, "quota_remaining"),
        max_concurrency=_optional_limit(row, "max_concurrency"),
        min_start_interval_ms=_optional_limit(row, "min_start_interval_ms"),
        allowed_models=None if allowed is None else frozenset(allowed),
        model_map=_optional_names(row, "model_map") or {},
        account_names=None if accounts is None else tuple(accounts),
        route_strategy=cast("RouteStrategy", strategy),
        expires_at=_optional_moment(row, "expires_at"),
        quota_allows=_optional_flag(row, "quota_allows") is not False,
        images_remaining=_optional_integer(row, "images_remaining"),
        cost_remaining=_optional_number(row, "cost_remaining"),
        owner_id=_optional_text(row, "owner_id"),
        owner_max_concurrency=_optional_limit(row, "owner_max_concurrency"),
        json_keepalive_seconds=_optional_keepalive(row, "json_keepalive_seconds"),
    )


def account_from_row(row: ViewRow, keyring: Keyring = WITHOUT_KEY) -> Account:
    """An account from a row of ``image_gateway.accounts``; raises ``RowError``.

    ``keyring`` opens what the control plane keeps encrypted.
    """
    dialect = DIALECTS.get(_text(row, "dialect"))
    if dialect is None:
        raise RowError(f"dialect must be one of {', '.join(DIALECTS)}")
    slots = _optional_integer(row, "image_max_concurrency")
    slots = DEFAULT_SLOTS if slots is None else slots
    if not 1 <= slots <= MOST_SLOTS:
        raise RowError(f"image_max_concurrency must be from 1 to {MOST_SLOTS}")
    base_url = _optional_text(row, "base_url")
    if base_url is None and dialect.base_url is None:
        raise RowError(f"base_url is missing: {dialect.described} needs one")
    if base_url is not None:
        require_url(base_url, "base_url", HTTP_SCHEMES)
        if not {".", ".."}.isdisjoint(unquote(urlsplit(base_url).path).split("/")):
            raise RowError("base_url must not have . or .. in its path")
    route = _optional_text(row, "codex_route") or "direct"
    if route not in {"direct", "responses"}:
        raise RowError("codex_route must be direct or responses")
    client_version = _optional_text(row, "client_version")
    weight = _optional_number(row, "routing_weight")
    weight = 1.0 if weight is None else weight
    if not 0 < weight < float("inf"):
        raise RowError("routing_weight must be above 0 and finite")
    blocked = row.get("blocked_until")
    if blocked is not None and not (isinstance(blocked, datetime) and blocked.tzinfo is not None):
        raise RowError("blocked_until must be a timestamp with time zone")
    account = Account(
        account_name=_text(row, "account_name"),
        dialect=dialect.name,
        status=_optional_text(row, "status") or "",
        image_enabled=_flag(row, "image_enabled"),
        image_max_concurrency=slots,
        base_url=base_url,
        api_version=_optional_text(row, "api_version"),
        deployments=_optional_names(row, "deployments"),
        credential=_credential(row, dialect, keyring),
        client_version=client_version and _header_safe(client_version, "client_version"),
        responses_model=_optional_text(row, "responses_model"),
        codex_route=cast("Literal['direct', 'responses']", route),
        proxy=_proxy(row, keyring),
        routing_weight=weight,
        used_percent_primary=_optional_number(row, "used_percent_primary"),
        used_percent_secondary=_optional_number(row, "used_percent_secondary"),
        same_account_retries=min(
            max(0, _optional_integer(row, "same_account_retries") or 0), MOST_RETRIES
        ),
        blocked_until=blocked,
        fails_free=_optional_flag(row, "fails_free"),
    )
    if not all(dialect.can_send(account, name) for name in (account.deployments or {}).values()):
        raise RowError(
            "deployments has the name of a deployment that cannot stand in a path (with "
            "api_version: . or .., or one with / \\ % ? # ; or a control character) or in a header "
            "(with responses_model: one that is not printable ASCII). Rename that deployment"
        )
    return account


def _credential(row: ViewRow, dialect: Dialect, keyring: Keyring) -> Credential | None:
    """Accepts three shapes: flat, camelCase, or nested under ``tokens`` and ``account``; each of
    them, or the token alone, may be encrypted.
    """
    value = _optional_object(row, "credential")
    if value is None:
        return None
    if _ENCRYPTED in value:
        text = _opened(value[_ENCRYPTED], "credential", keyring)
        token = "api_key" if "api_key" in dialect.credentials else "access_token"
        fields = _json_object(text)
        value = {**value, **({token: text} if fields is None else fields)}
    tokens = untrusted.mapping(value.get("tokens"))
    account = untrusted.mapping(value.get("account"))
    access_token = _first_text(
        value.get("access_token"),
        value.get("accessToken"),
        tokens.get("access_token"),
        tokens.get("accessToken"),
    )
    account_id = _first_text(
        value.get("account_id"),
        value.get("accountId"),
        tokens.get("account_id"),
        tokens.get("accountId"),
        account.get("id"),
    )
    api_key = _first_text(value.get("api_key"), value.get("apiKey"))
    if access_token is not None:
        return Credential(
            token=Secret(_header_safe(access_token, "credential")),
            kind="access_token",
            account_id=None if account_id is None else _header_safe(account_id, "credential"),
            is_fedramp=value.get("is_fedramp") is True or value.get("isFedramp") is True,
            expires_at=token_expiry(access_token),
        )
    if api_key is not None:
        return Credential(token=Secret(_header_safe(api_key, "credential")), kind="api_key")
    return None


_ENCRYPTED: Final = "encrypted"


def _opened(sealed: object, column: str, keyring: Keyring) -> str:
    try:
        return keyring.open(sealed)
    except CannotOpenError as error:
        raise RowError(f"{column} {error}") from None


def _json_object(text: str) -> Mapping[str, object] | None:
    """The fields if the text is a JSON object, else None: it is the secret itself."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _header_safe(text: str, column: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise RowError(f"{column} must be printable ASCII, because it is sent in a header")
    return text


def token_expiry(token: str) -> float | None:
    """The ``exp`` of a JWT in seconds since 1970, None if the token is not a JWT (RFC 7519)."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    payload = parts[1]
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    return float(expiry) if isinstance(expiry, int | float) else None


def _proxy(row: ViewRow, keyring: Keyring) -> Proxy | None:
    url = _optional_text(row, "proxy_url")
    if url is None:
        return None
    require_url(url, "proxy_url", PROXY_SCHEMES)
    username = _optional_text(row, "proxy_username")
    if username is not None and ":" in username:
        raise RowError(
            "proxy_username must not contain a colon, which separates it from the password"
        )
    password = _optional_text(row, "proxy_password")
    sealed = None if password is None else _json_object(password)
    if sealed is not None and _ENCRYPTED in sealed:
        password = _opened(sealed[_ENCRYPTED], "proxy_password", keyring) or None
    if username is not None and not url.startswith(tuple(HTTP_SCHEMES)):
        for column, value in (("proxy_username", username), ("proxy_password", password or "")):
            if not (value.isascii() and 1 <= len(value) <= _LONGEST_SOCKS_TEXT):
                raise RowError(
                    f"{column} of a SOCKS proxy must be 1 to {_LONGEST_SOCKS_TEXT} ASCII characters"
                )
    return Proxy(
        url=url,
        username=None if username is None else Secret(username),
        password=None if password is None else Secret(password),
    )


def require_url(text: str, column: str, schemes: frozenset[str]) -> None:
    """Requires a URL with a host, a valid port, no user and no password; raises ``RowError``."""
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    else:
        if parts.username is not None or parts.password is not None:
            raise RowError(
                f"{column} must not contain a user name or password; they have their own columns"
            )
    if not is_valid or not text.isascii() or not text.isprintable() or " " in text:
        raise RowError(f"{column} must be a valid {' or '.join(sorted(schemes))} URL")


def _first_text(*values: object) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)


def _flag(row: ViewRow, column: str) -> bool:
    return row.get(column) is True


def _optional_flag(row: ViewRow, column: str) -> bool | None:
    value = row.get(column)
    if value is None or isinstance(value, bool):
        return value
    raise RowError(f"{column} must be a boolean")


def _text(row: ViewRow, column: str) -> str:
    value = _optional_text(row, column)
    if not value:
        raise RowError(f"{column} must not be empty")
    return value


def _optional_text(row: ViewRow, column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value or None
    raise RowError(f"{column} must be text")


def _optional_texts(row: ViewRow, column: str) -> Sequence[str] | None:
    value = row.get(column)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RowError(f"{column} must be an array of text")
    return value


def _optional_names(row: ViewRow, column: str) -> Mapping[str, str] | None:
    value = _optional_object(row, column)
    if value is not None and not all(isinstance(item, str) for item in value.values()):
        raise RowError(f"{column} must be a JSON object whose values are strings")
    return cast("Mapping[str, str] | None", value)


def _optional_object(row: ViewRow, column: str) -> Mapping[str, object] | None:
    """A jsonb column, read as text, so that malformed JSON in one row affects no other row."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowError(f"{column} must be valid JSON") from None
    if value is not None and not isinstance(value, Mapping):
        raise RowError(f"{column} must be a JSON object")
    return value


def _optional_integer(row: ViewRow, column: str) -> int | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(f"{column} must be an integer")
    return value


def _optional_limit(row: ViewRow, column: str) -> int | None:
    """A limit; null and 0 mean no limit and give None."""
    value = _optional_integer(row, column)
    if value is not None and value < 0:
        raise RowError(f"{column} must be at least 0")
    return value or None


def _optional_number(row: ViewRow, column: str) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or isnan(value):
        raise RowError(f"{column} must be a number")
    return float(value)


def _optional_moment(row: ViewRow, column: str) -> datetime | None:
    """A time; None for null and for Postgres's ``infinity``.  JSON holds it as a text."""
    value = row.get(column)
    if isinstance(value, str):
        value = _moment(value, column)
    if value is None:
        return None
    if not (isinstance(value, datetime) and value.tzinfo is not None):
        raise RowError(f"{column} must be a timestamp with time zone")
    return value


def _moment(text: str, column: str) -> datetime | None:
    if text == "infinity" or _LATER_THAN_PYTHON.match(text):
        return None
    if text == "-infinity" or text.endswith(" BC"):
        return datetime.min.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise RowError(f"{column} must be a timestamp with time zone") from None


def _optional_keepalive(row: ViewRow, column: str) -> int | None:
    """Seconds; 0 switches keep-alives off, and so differs from null."""
    value = _optional_integer(row, column)
    if value is not None and value < 0:
        raise RowError(f"{column} must be at least 0")
    return value
