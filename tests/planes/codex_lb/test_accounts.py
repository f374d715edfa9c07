"""Accounts of codex-lb as the gateway sees them: which are used, how they sign, through what."""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from image_gateway.core.model import Proxy, Secret
from tests.planes.codex_lb.database import FAR, PASSWORD, TOKEN, CodexLb

pytestmark = pytest.mark.slow

ACCOUNTS: dict[str, tuple[str, bool]] = {
    "a-active": ("active", False),
    "a-limited": ("active", True),
    "a-over": ("active", False),
    "a-quota": ("active", True),
    "a-paused": ("paused", False),
    "a-reauth": ("reauth_required", False),
    "a-deleting": ("deleting", False),
    "a-noid": ("proxy_unavailable", False),
}


def test_accounts_are_used_when_codex_lb_would_use_them(lb: CodexLb) -> None:
    found = lb.accounts()
    now = datetime.now(UTC)
    seen = {
        name: (found[name].status, (found[name].blocked_until or now) > now) for name in ACCOUNTS
    }
    assert seen == ACCOUNTS
    assert all(found[name].dialect == "codex" for name in ACCOUNTS)
    active = found["a-active"]
    assert (active.used_percent_primary, active.used_percent_secondary) == (12.5, 60.0)
    assert active.proxy == Proxy("socks5://10.0.0.9:1080", Secret("pu"), Secret("proxy-pass"))
    assert active.signed_by().token == Secret("plane-test-access-token")
    assert active.signed_by().account_id == "acc-1"
    assert active.routing_weight == 1.0
    assert (active.image_enabled, active.deployments, active.base_url) == (True, None, None)
    assert found["a-over"].used_percent_secondary == 0.0


@pytest.mark.parametrize(
    ("columns", "status", "until"),
    [
        ({"status": "active", "reset_at": FAR, "blocked_at": FAR}, "active", None),
        ({"status": "rate_limited", "reset_at": FAR}, "active", FAR),
        ({"status": "rate_limited", "reset_at": 0, "blocked_at": FAR}, "active", FAR + 30),
        ({"status": "rate_limited", "blocked_at": 2**31 - 1}, "active", 2**31 + 29),
        # Nothing says when these are used again.
        ({"status": "rate_limited", "reset_at": -5}, "rate_limited", None),
        ({"status": "quota_exceeded", "blocked_at": FAR}, "quota_exceeded", None),
        ({"status": "deactivated", "reset_at": FAR}, "deactivated", None),
        ({"status": "active", "delete_requested_at": "2026-11-28"}, "deleting", None),
        ({"access_token_encrypted": b""}, "no_credential", None),
        ({"status": "paused", "access_token_encrypted": b""}, "paused", None),
    ],
)
def test_an_account_that_is_limited_is_used_again_at_the_time_that_codex_lb_names(
    lb: CodexLb,
    request: pytest.FixtureRequest,
    columns: dict[str, Any],
    status: str,
    until: int | None,
) -> None:
    name = request.node.name
    lb.add_lb_account(name, **columns)
    view = "SELECT account_name, status, extract(epoch FROM blocked_until) FROM"
    assert (name, status, until) in lb.ask(f"{view} image_gateway.accounts")
    lb.accounts()


SEALED = {"encrypted": {"scheme": "fernet", "value": TOKEN}}


@pytest.mark.parametrize(
    ("token", "upstream_id", "credential"),
    [
        (TOKEN.encode(), "acc-1", SEALED | {"account_id": "acc-1"}),
        (TOKEN.encode(), None, SEALED),
        (TOKEN.encode(), " ", SEALED),
        (TOKEN.encode(), "email_0123", SEALED),
        (TOKEN.encode(), "local_0123", SEALED),
        (b"\xff\xfe", "acc-1", None),
        (b"gAAA\0", "acc-1", None),
        ("gAAAé".encode(), "acc-1", None),
        (b"gAAA\\", "acc-1", None),
        (b"gAAA\n", "acc-1", None),
        (b"", "acc-1", None),
    ],
)
def test_a_credential_stays_encrypted_and_bytes_that_are_none_are_no_error(
    lb: CodexLb,
    request: pytest.FixtureRequest,
    token: bytes,
    upstream_id: str | None,
    credential: dict[str, Any] | None,
) -> None:
    name = request.node.name
    lb.add_lb_account(name, access_token_encrypted=token, chatgpt_account_id=upstream_id)
    row = lb.account_rows()[name]
    found = row["credential"]
    assert (found and json.loads(found)) == credential
    assert row["status"] == ("no_credential" if credential is None else "active")
    assert "PLANTED" not in str(row)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ({}, "http://proxy:8080"),
        ({"scheme": " SOCKS5H", "host": " 10.0.0.9 ", "port": 1}, "socks5h://10.0.0.9:1"),
        ({"host": "fe80::1"}, "http://[fe80::1]:8080"),
        ({"host": "[fe80::1]"}, "http://[fe80::1]:8080"),
        ({"password_encrypted": PASSWORD.encode(), "username": "u"}, "http://proxy:8080"),
        ({"password_encrypted": b"\xff"}, None),
        ({"scheme": "ftp"}, None),
        ({"host": ""}, None),
        ({"host": "u:p@proxy"}, None),
        ({"host": "proxy/path"}, None),
        ({"host": "prøxy"}, None),
        ({"port": 0}, None),
        ({"port": 70_000}, None),
        ({"port": -1}, None),
        ({"is_active": False}, None),
    ],
)
def test_an_account_goes_through_the_proxy_that_it_is_bound_to_or_nowhere(
    lb: CodexLb, request: pytest.FixtureRequest, endpoint: dict[str, Any], url: str | None
) -> None:
    name = request.node.name
    lb.add_lb_account(name)
    lb.add_pool(name, **endpoint)
    lb.bind(name, name)
    row = lb.account_rows()[name]
    assert row["proxy_url"] == url
    assert row["status"] == ("active" if url else "proxy_unavailable")
    if "username" in endpoint:
        assert json.loads(row["proxy_password"]) == {
            "encrypted": {"scheme": "fernet", "value": PASSWORD}
        }
        assert row["proxy_username"] == "u"
    assert name in lb.accounts()


def test_accounts_that_are_not_bound_go_through_the_default_pool_once_it_is_switched_on(
    fresh: CodexLb,
) -> None:
    fresh.install()
    fresh.add_pool("default")
    fresh.add_lb_account("unbound")
    fresh.add_lb_account("no longer bound")
    fresh.bind("no longer bound", "default", is_active=False)
    fresh.add_lb_account("bound")
    fresh.add_pool("own", host="own")
    fresh.bind("bound", "own")

    def seen(change: str = "") -> list[str]:
        fresh.execute(change and f"UPDATE dashboard_settings SET {change}")
        rows = fresh.account_rows()
        names = ("unbound", "no longer bound", "bound")
        return [
            rows[name]["proxy_url"] or rows[name]["status"].replace("_unavailable", "")
            for name in names
        ]

    assert seen() == ["active", "active", "http://own:8080"]
    on = "upstream_proxy_routing_enabled = true"
    assert seen(on) == ["proxy", "proxy", "http://own:8080"]
    for nothing in ("''", "'gone'"):
        change = f"upstream_proxy_default_pool_id = {nothing}"
        assert seen(change) == ["proxy", "proxy", "http://own:8080"], nothing
    through = ["http://proxy:8080", "http://proxy:8080", "http://own:8080"]
    assert seen("upstream_proxy_default_pool_id = 'default'") == through
    fresh.execute("UPDATE proxy_pool_members SET is_active = false")
    assert seen() == ["proxy", "proxy", "proxy"]
    fresh.execute("DELETE FROM dashboard_settings")
    assert seen() == ["active", "active", "proxy"]


@pytest.mark.parametrize(
    ("windows", "used"),
    [
        ([], (None, None)),
        ([("primary", 30, None, "12:00")], (30.0, None)),
        ([("primary", 30, FAR, "12:00"), (None, 10, FAR, "13:00")], (10.0, None)),
        ([("primary", 30, 1_700_000_000, "12:00")], (0.0, None)),
        ([("monthly", 44, FAR, "12:00")], (None, 44.0)),
        ([("secondary", 99, FAR, "12:00"), ("monthly", 44, FAR, "13:00")], (None, 44.0)),
        ([("secondary", 99, FAR, "13:00"), ("monthly", 44, FAR, "12:00")], (None, 99.0)),
        ([("mystery", 99, FAR, "13:00")], (None, None)),
        ([("primary", "NaN", FAR, "12:00"), ("secondary", 1e308, FAR, "12:00")], (100.0, 100.0)),
        ([("primary", "-Infinity", -7, "12:00"), ("secondary", 1e-320, 7, "12:00")], (0.0, 0.0)),
    ],
)
def test_what_an_account_has_used_is_in_the_newest_row_of_its_window(
    lb: CodexLb,
    request: pytest.FixtureRequest,
    windows: list[tuple[str | None, float | str, int | None, str]],
    used: tuple[float | None, float | None],
) -> None:
    name = request.node.name
    lb.add_lb_account(name)
    for window, percent, reset_at, clock in windows:
        lb.insert(
            "usage_history",
            account_id=name,
            window=window,
            used_percent=percent,
            reset_at=reset_at,
            recorded_at=f"2026-11-28 {clock}",
        )
    account = lb.accounts()[name]
    assert (account.used_percent_primary, account.used_percent_secondary) == used


@pytest.mark.parametrize(
    ("policy", "weight"), [("normal", 1), ("burn_first", 100), ("preserve", 0.01), ("", 1)]
)
def test_a_policy_of_codex_lb_is_a_weight_that_an_option_replaces(
    lb: CodexLb, policy: str, weight: float
) -> None:
    name = f"policy {policy}"
    lb.add_lb_account(name, routing_policy=policy)
    assert lb.accounts()[name].routing_weight == weight
    lb.insert(
        "image_adapter.account_options",
        account_name=name,
        routing_weight=7,
        image_enabled=False,
        image_max_concurrency=9,
        responses_model="gpt-5.4",
        codex_route="responses",
        same_account_retries=2,
        fails_free=False,
    )
    account = lb.accounts()[name]
    assert (account.routing_weight, account.image_enabled) == (7, False)
    assert (account.image_max_concurrency, account.responses_model) == (9, "gpt-5.4")
    assert (account.codex_route, account.same_account_retries) == ("responses", 2)
    assert account.fails_free is False


def test_the_one_account_that_codex_lb_is_told_to_use_is_the_only_one_of_its_own(
    fresh: CodexLb,
) -> None:
    fresh.install()
    fresh.insert("image_adapter.accounts", account_name="own", dialect="openai")
    fresh.execute(
        "UPDATE dashboard_settings SET routing_strategy = 'single_account',"
        " single_account_id = 'a-over'"
    )
    active = {name for name, account in fresh.accounts().items() if account.status == "active"}
    assert active == {"a-over", "own"}
    fresh.execute("UPDATE dashboard_settings SET single_account_id = NULL")
    active = {name for name, account in fresh.accounts().items() if account.status == "active"}
    assert active == {"own"}


def test_a_name_that_an_account_of_codex_lb_has_is_refused(lb: CodexLb) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation, match='"a-over" is the id of an account'):
        lb.insert("image_adapter.accounts", account_name="a-over", dialect="openai")
