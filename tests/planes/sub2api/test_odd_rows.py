"""Rows of sub2api with anything at all in them: they cost themselves, never a view."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.rows import RowError, account_from_row, key_from_row
from tests.parts.examples import scaled
from tests.planes.sub2api.plane import Sub2Api

pytestmark = pytest.mark.slow

TEXTS = st.text(
    # What Postgres itself refuses in a text.
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=20,
)
_WORDS = (
    "access_token api_key base_url model_mapping pool_mode pool_mode_retry_count * gpt-image-2 "
    "gpt-image-* quota_limit quota_used quota_daily_limit quota_daily_start quota_daily_reset_mode "
    "quota_daily_reset_at fixed codex_5h_used_percent codex_5h_reset_at codex_usage_updated_at "
    "codex_5h_reset_after_seconds model_rate_limits openai:image_generation rate_limit_reset_at "
    "2026-02-30T10:00:00Z 2026-11-28T20:00:00Z 9999-12-31T23:59:59Z 1e999 -5 NaN 7 https://a/v1"
)
WORDS = st.sampled_from(_WORDS.split()) | TEXTS
NUMBERS = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=8),
    max_leaves=12,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=8) | JSON
MONEY = st.decimals(-(10**11), 10**11, places=8) | st.just(Decimal("NaN"))
TIMES = (
    st.none()
    | st.sampled_from(["infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31"])
    | st.integers(-(10**5), 10**5).map(lambda days: datetime.now(UTC) + timedelta(days=days / 7))
)  # fmt: skip
INTEGERS = st.integers(-(2**31), 2**31 - 1)
STATUSES = st.sampled_from(["active", "disabled", "quota_exhausted", "", "x"])
STRATEGIES: Final[dict[str, dict[str, st.SearchStrategy[Any]]]] = {
    "api_keys": {
        "name": TEXTS, "status": STATUSES, "group_id": st.sampled_from([None, 1, 4, 6]),
        "ip_whitelist": JSON, "ip_blacklist": JSON, "quota": MONEY, "quota_used": MONEY,
        "expires_at": TIMES, "rate_limit_5h": MONEY, "rate_limit_7d": MONEY, "usage_5h": MONEY,
        "usage_7d": MONEY, "window_5h_start": TIMES, "window_7d_start": TIMES,
    },
    "users": {"balance": MONEY, "concurrency": INTEGERS, "status": STATUSES, "deleted_at": TIMES},
    "groups": {
        "platform": st.sampled_from(["openai", "", "gemini"]), "status": STATUSES,
        "daily_limit_usd": st.none() | MONEY, "monthly_limit_usd": st.none() | MONEY,
        "image_price_2k": st.none() | MONEY, "deleted_at": TIMES,
        "subscription_type": st.sampled_from(["standard", "subscription", ""]),
    },
    "user_subscriptions": {
        "expires_at": TIMES.filter(bool), "daily_window_start": TIMES, "daily_usage_usd": MONEY.map(
            lambda amount: amount / 100), "status": STATUSES, "deleted_at": TIMES,
    },
    "accounts": {
        "name": TEXTS, "type": st.sampled_from(["oauth", "apikey", "bedrock", ""]),
        "credentials": OBJECTS, "extra": OBJECTS, "concurrency": INTEGERS, "priority": INTEGERS,
        "status": STATUSES, "error_message": st.none() | TEXTS, "expires_at": TIMES,
        "rate_limit_reset_at": TIMES, "overload_until": TIMES, "temp_unschedulable_until": TIMES,
    },
    "proxies": {
        "protocol": st.sampled_from(["http", "SOCKS5", "", "ftp"]), "host": TEXTS, "port": INTEGERS,
        "username": st.none() | TEXTS, "password": st.none() | TEXTS, "expires_at": TIMES,
    },
}  # fmt: skip
JSON_COLUMNS: Final = ("ip_whitelist", "ip_blacklist", "credentials", "extra")
JUDGED: Final = ("credential", "base_url", "proxy_url", "proxy_username", "proxy_password")
ODD: Final = "WHERE id = 1"
"""Of each table the row that a test spoils; user 3 and his keys stay as they are."""


@pytest.fixture
def odd(fresh: Sub2Api) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to spoil rows by; roll it back."""
    with psycopg.connect(fresh.url, row_factory=dict_row) as connection:
        yield connection


@settings(max_examples=scaled(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {table: st.fixed_dictionaries(columns) for table, columns in STRATEGIES.items()}
    )
)
def test_no_row_makes_a_view_fail_or_costs_another_row(
    odd: "psycopg.Connection[dict[str, Any]]", rows: dict[str, dict[str, Any]]
) -> None:
    for table, columns in rows.items():
        names = ", ".join(f"{name} = %({name})s" for name in columns)
        values = {
            name: Jsonb(value) if name in JSON_COLUMNS else value for name, value in columns.items()
        }
        odd.execute(f"UPDATE {table} SET {names} {ODD}".encode(), values)
    accounts = {
        row["account_name"]: row
        for row in odd.execute(sql.query("daemon/accounts").encode()).fetchall()
    }
    assert account_from_row(accounts["2:codex-limited"]).status == "active"
    spoilt = accounts[f"1:{rows['accounts']['name']}"]
    if spoilt["status"] == "active":
        # What only the gateway can judge: letters in what is sent in a header or to a proxy.
        try:
            account = account_from_row(spoilt)
        except RowError as error:
            judged = str(error).partition(" ")[0]
        else:
            judged = "none" if account.credential is None else "credential"
        assert judged in JUDGED
    for (key_hash,) in _hashes(odd):
        [row] = odd.execute(sql.query("daemon/key").encode(), {"key_hash": key_hash}).fetchall()
        key_from_row(row)
    assert odd.execute("TABLE image_gateway.warnings").fetchall() != []
    _charge(odd, "sound", "8")
    odd.rollback()


def _hashes(odd: "psycopg.Connection[dict[str, Any]]") -> list[tuple[str]]:
    rows = odd.execute("SELECT key_hash FROM image_gateway.keys").fetchall()
    return [(row["key_hash"],) for row in rows]


def _charge(odd: "psycopg.Connection[dict[str, Any]]", request_id: str, key_id: str) -> None:
    """A call with the spoilt account, of a key with a subscription to a group that is not."""
    [row] = odd.execute(
        "SELECT image_gateway.charge(%s, %s, now(), 'm', '1:x', '{}', 1, 0.5) AS word",
        [request_id, key_id],
    ).fetchall()
    assert row["word"] == "charged"


def test_digits_of_other_scripts_are_no_number(server_url: str) -> None:
    """A database with ICU's collation, where the build has ICU, takes them for digits in a pattern,
    and no cast reads them.
    """
    made = Sub2Api(server_url)
    with psycopg.connect(server_url, autocommit=True) as connection:
        has_icu = connection.execute(
            "SELECT FROM pg_collation WHERE collname = 'en-x-icu'"
        ).rowcount
        provider = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'" if has_icu else ""
        connection.execute(
            f"CREATE DATABASE {made.name} TEMPLATE template0 {provider} LOCALE 'C'"
            " ENCODING 'UTF8'".encode()
        )
    try:
        made.create_tables()
        made.install()
        name = made.add_openai(1, extra={"quota_limit": "\u0661", "quota_used": "\uff19"})
        assert made.account(name).status == "active"
        call: dict[str, Any] = {
            "at": datetime.now(UTC),
            "model": "m",
            "tokens": "{}",
            "images": 1,
            "cost": 1,
        }
        assert made.charge(request_id="1", key_id="\u0661", account_name=name, **call) == (
            "unknown_key"
        )
        assert made.charge(request_id="1", key_id="1", account_name="\u0661:a", **call) == "charged"
    finally:
        made.drop()
