"""Whatever codex-lb's columns hold, both views can be read."""

import re
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from image_gateway import sql
from image_gateway.core.rows import RowError, account_from_row, key_from_row
from tests.parts.examples import scaled
from tests.planes.codex_lb.database import KEYRING, TOKEN, CodexLb

pytestmark = pytest.mark.slow

WORDS = st.sampled_from(
    ["", " ", "[]", '["gpt-image-2"]', "{", "gpt-image-2", "gpt-5.5", "http", "socks5", "::1", "%"]
) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
INTS = st.none() | st.sampled_from([-(2**31), 0, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1)
BIGINTS = st.sampled_from([-(2**63), 0, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.sampled_from(
    ["infinity", "-infinity", "4713-01-01 BC", "294276-01-01", "2026-11-28 20:00", "2020-01-01"]
)
ODD: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "api_keys": {
        "name": WORDS,
        "allowed_models": st.none() | WORDS,
        "enforced_model": st.none() | WORDS,
        "expires_at": st.none() | MOMENTS,
        "is_active": st.booleans(),
    },
    "api_key_limits": {
        "limit_type": st.sampled_from(["total_tokens", "input_tokens", "cost_usd", "credits"]),
        "max_value": BIGINTS,
        "current_value": BIGINTS,
        "model_filter": st.none() | WORDS,
        "reset_at": MOMENTS,
    },
    "accounts": {
        "chatgpt_account_id": st.none() | WORDS,
        "access_token_encrypted": st.binary(max_size=8) | st.just(TOKEN.encode()),
        "routing_policy": WORDS,
        "status": st.sampled_from(["active", "rate_limited", "quota_exceeded", "paused"]),
        "reset_at": INTS,
        "blocked_at": INTS,
        "delete_requested_at": st.none() | MOMENTS,
    },
    "usage_history": {
        "used_percent": st.floats(),
        "reset_at": INTS,
        "recorded_at": MOMENTS,
        "window": st.none() | st.sampled_from(["primary", "secondary", "monthly", ""]),
    },
    "proxy_endpoints": {
        "scheme": WORDS,
        "host": WORDS,
        "port": st.integers(-(2**31), 2**31 - 1),
        "username": st.none() | WORDS,
        "password_encrypted": st.none() | st.binary(max_size=8),
        "is_active": st.booleans(),
    },
    "account_proxy_bindings": {"is_active": st.booleans()},
    "dashboard_settings": {
        "routing_strategy": st.sampled_from(["capacity_weighted", "single_account"]),
        "single_account_id": st.none() | WORDS,
        "upstream_proxy_routing_enabled": st.booleans(),
        "upstream_proxy_default_pool_id": st.none() | st.just("odd") | WORDS,
    },
}


@settings(max_examples=scaled(100))
@given(
    values=st.fixed_dictionaries(
        {table: st.fixed_dictionaries(columns) for table, columns in ODD.items()}
    ),
)
def test_no_value_makes_a_view_fail_or_costs_another_row(
    odd: "psycopg.Connection[dict[str, Any]]", values: dict[str, dict[str, Any]]
) -> None:
    with odd.transaction(force_rollback=True):
        for table, columns in values.items():
            changes = ", ".join(f'"{name}" = %({name})s' for name in columns)
            odd.execute(f"UPDATE {table} SET {changes} WHERE {ROWS[table]}".encode(), columns)
        rows = odd.execute(sql.query("daemon/accounts").encode()).fetchall()
        [key] = odd.execute(sql.query("daemon/key").encode(), {"key_hash": "odd"}).fetchall()
        odd.execute("TABLE image_gateway.warnings").fetchall()
        odd.execute("SELECT FROM image_gateway.keys").fetchall()
    key_from_row(key)
    accounts = {row["account_name"]: row for row in rows}
    assert account_from_row(accounts["fine"], KEYRING).image_max_concurrency == 3
    account = accounts["odd"]
    needs_proxy = (
        values["account_proxy_bindings"]["is_active"]
        or values["dashboard_settings"]["upstream_proxy_routing_enabled"]
    )
    # It never goes out without the proxy that codex-lb wants for it.
    assert account["proxy_url"] or account["status"] != "active" or not needs_proxy
    # What only the gateway can judge.
    assert re.match("$|proxy_|credential ", said_of(account))


def said_of(row: dict[str, Any]) -> str:
    """Why the gateway leaves an account out; nothing if it does not."""
    try:
        account_from_row(row, KEYRING)
    except RowError as error:
        return str(error)
    return ""


ROWS: Final = {
    "api_keys": "id = 'odd'",
    "api_key_limits": "api_key_id = 'odd'",
    "accounts": "id = 'odd'",
    "usage_history": "account_id = 'odd'",
    "proxy_endpoints": "id = 'odd'",
    "account_proxy_bindings": "id = 'odd'",
    "dashboard_settings": "id = 1",
}


@pytest.fixture(scope="module")
def odd(lb: CodexLb) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to a codex-lb with one row of each kind to spoil."""
    lb.add_lb_key("odd", key_hash="odd")
    lb.add_limit("odd", "total_tokens", 1, 1)
    lb.add_lb_account("odd")
    lb.add_lb_account("fine")
    lb.insert("usage_history", account_id="odd", used_percent=1)
    lb.add_pool("odd")
    lb.bind("odd", "odd")
    with psycopg.connect(lb.url, row_factory=dict_row, autocommit=True) as connection:
        yield connection
