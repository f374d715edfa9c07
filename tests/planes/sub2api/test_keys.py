"""Keys of sub2api: who may call, and with which accounts."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.planes.sub2api.plane import Sub2Api, told

pytestmark = pytest.mark.slow

HOUR: Final = timedelta(hours=1)
SPENT: Final = "insufficient_quota"
PAINTERS: Final = ("2:codex-limited", "1:codex-1", "3:azure-like", "8:image-cooled")
"""The accounts of group 1, in the order of their priority in the group."""


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("active", "active", "ok"),
        ("expired", "active", "key_expired"),
        ("user-off", "user_inactive", "key_disabled"),
        ("user-gone", "user_inactive", "key_disabled"),
        ("text", "active", "group_image_generation_disabled"),
        ("quota", "active", SPENT),
        ("broke", "active", SPENT),
        ("window", "active", SPENT),
        ("plan", "active", "ok"),
        ("plan-full", "active", SPENT),
        ("ungrouped", "active", "ok"),
        ("claude", "other_provider", "key_disabled"),
        ("ip", "ip_restricted", "key_disabled"),
        ("paused", "group_disabled", "key_disabled"),
        ("vip", "group_not_allowed", "key_disabled"),
    ],
)
def test_a_key_may_do_here_what_it_may_do_in_sub2api(
    still: Sub2Api, name: str, status: str, code: str
) -> None:
    key = still.key(f"sk-s2a-{name}")
    assert (key.status, told(key)) == (status, code)


def test_a_key_that_was_deleted_in_sub2api_is_unknown(still: Sub2Api) -> None:
    assert still.key_row("sk-s2a-deleted") is None


def test_a_key_is_seen_with_all_that_sub2api_knows(still: Sub2Api) -> None:
    ends = ago(hours=-5)
    key = still.key(still.add_key(name="Ada", quota=7.5, quota_used=1.25, expires_at=ends))
    assert (key.key_name, key.group_id, key.owner_id) == ("Ada", "1", "1")
    assert (key.owner_max_concurrency, key.expires_at) == (5, ends)
    assert (key.cost_remaining, key.quota_remaining, key.images_remaining) == (6.25, None, None)
    assert (key.account_names, key.route_strategy) == (PAINTERS, "auto")
    assert (key.allowed_models, key.model_map) == (None, {})
    assert (key.image_enabled, key.group_image_enabled) == (True, True)
    assert (key.max_concurrency, key.min_start_interval_ms) == (None, None)


@pytest.mark.parametrize("secret", ["sk-\\101\\", "sk-é\u20ac", "sk-'\"%s", "ünï\\xff"])
def test_a_key_of_any_letters_is_found_by_its_secret(still: Sub2Api, secret: str) -> None:
    still.add_key(key=secret)
    assert told(still.key(secret)) == "ok"


def test_a_user_without_a_limit_of_calls_has_none_here(still: Sub2Api) -> None:
    for concurrency in (0, -1):
        user = still.add("users", email="x", password_hash="x", balance=1, concurrency=concurrency)
        assert still.key(still.add_key(user_id=user)).owner_max_concurrency is None


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({"status": "disabled"}, "disabled"),
        ({"status": "expired"}, "expired"),
        ({"status": ""}, ""),
        ({"ip_whitelist": []}, "active"),
        ({"ip_whitelist": Jsonb(None)}, "active"),
        ({"ip_whitelist": {}}, "ip_restricted"),
        ({"ip_whitelist": Jsonb("10.0.0.1")}, "ip_restricted"),
        ({"ip_blacklist": ["10.0.0.1"]}, "ip_restricted"),
        ({"group_id": 6}, "group_disabled"),
        ({"group_id": 5}, "active"),
        ({"group_id": 3, "status": "disabled"}, "other_provider"),
    ],
)
def test_whatever_keeps_a_key_from_calling_there_does_so_here(
    still: Sub2Api, columns: dict[str, Any], status: str
) -> None:
    assert still.key(still.add_key(**columns)).status == status


# -- money -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"quota": 2, "quota_used": 1.99999999}, "ok"),
        ({"quota": 2, "quota_used": 2}, SPENT),
        ({"quota": 0, "quota_used": 99}, "ok"),
        ({"quota": -1, "quota_used": 99}, "ok"),
        ({"quota": 2, "quota_used": "NaN"}, SPENT),
        ({"status": "quota_exhausted"}, SPENT),
        ({"rate_limit_5h": 1, "usage_5h": 1, "window_5h_start": ago(hours=4)}, SPENT),
        ({"rate_limit_5h": 1, "usage_5h": 1, "window_5h_start": ago(hours=6)}, "ok"),
        ({"rate_limit_5h": 1, "usage_5h": 1}, "ok"),
        ({"rate_limit_5h": 1, "usage_5h": 0.5, "window_5h_start": ago(hours=4)}, "ok"),
        ({"rate_limit_1d": 1, "usage_1d": 2, "window_1d_start": ago(hours=23)}, SPENT),
        ({"rate_limit_1d": 1, "usage_1d": 2, "window_1d_start": ago(hours=25)}, "ok"),
        ({"rate_limit_7d": 1, "usage_7d": 2, "window_7d_start": ago(days=6)}, SPENT),
        ({"rate_limit_7d": 1, "usage_7d": 2, "window_7d_start": ago(days=8)}, "ok"),
        ({"usage_7d": 2, "window_7d_start": ago(days=6)}, "ok"),
        ({"rate_limit_7d": 1, "usage_7d": 2, "window_7d_start": "infinity"}, SPENT),
        ({"rate_limit_7d": 1, "usage_7d": 2, "window_7d_start": "-infinity"}, "ok"),
    ],
)  # fmt: skip
def test_a_quota_or_a_window_that_is_used_up_refuses_until_it_is_over(
    still: Sub2Api, columns: dict[str, Any], code: str
) -> None:
    assert told(still.key(still.add_key(**columns))) == code


@pytest.mark.parametrize(
    ("balance", "code"),
    [("0.00000001", "ok"), ("0", SPENT), ("NaN", "insufficient_quota")],
)
def test_a_balance_must_be_above_nothing(still: Sub2Api, balance: str, code: str) -> None:
    user = still.add("users", email="x", password_hash="x", balance=balance)
    assert told(still.key(still.add_key(user_id=user))) == code


def test_the_least_of_quota_and_balance_is_what_is_left(still: Sub2Api) -> None:
    user = still.add("users", email="x", password_hash="x", balance=3)
    for quota, left in ((2, 2), (4, 3), (0, 3)):
        assert still.key(still.add_key(user_id=user, quota=quota)).cost_remaining == left


PLAN: Final = {"starts_at": ago(days=9), "expires_at": ago(days=-9), "status": "active"}


@pytest.mark.parametrize(
    ("plans", "code"),
    [
        ([], "key_disabled"),
        ([{"status": "suspended"}], "key_disabled"),
        ([{"deleted_at": ago(days=1)}], "key_disabled"),
        ([{"expires_at": ago(hours=1)}], "key_expired"),
        ([{"expires_at": ago(hours=1)}, {}], "ok"),
        ([{"starts_at": ago(days=-1)}], "ok"),
        ([{"expires_at": "infinity"}], "ok"),
        ([{"daily_usage_usd": 5, "daily_window_start": ago(hours=1)}], "ok"),
        ([{"daily_usage_usd": 5.0001, "daily_window_start": ago(hours=1)}], SPENT),
        ([{"daily_usage_usd": 6, "daily_window_start": ago(hours=25)}], "ok"),
        ([{"daily_usage_usd": 6}], "ok"),
        ([{"weekly_usage_usd": 7, "weekly_window_start": ago(days=6)}], SPENT),
        ([{"weekly_usage_usd": 7, "weekly_window_start": ago(days=8)}], "ok"),
        ([{"monthly_usage_usd": 99, "monthly_window_start": ago(days=1)}], "ok"),
    ],
)
def test_a_subscription_counts_in_place_of_the_balance(
    still: Sub2Api, plans: list[dict[str, Any]], code: str
) -> None:
    """At a limit itself a call is allowed, as it is there."""
    group = still.add(
        "groups",
        name=f"plan {still.number()}",
        platform="openai",
        allow_image_generation=True,
        subscription_type="subscription",
        # Who is in an exclusive group of subscriptions is said by the subscriptions alone.
        is_exclusive=True,
        daily_limit_usd=5,
        weekly_limit_usd=6,
        monthly_limit_usd=0,
    )
    for plan in plans:
        still.add("user_subscriptions", user_id=3, group_id=group, **PLAN | plan)
    key = still.key(still.add_key(user_id=3, group_id=group))
    assert (told(key), key.cost_remaining) == (code, None)


def test_a_key_ends_with_its_subscription_or_before(still: Sub2Api) -> None:
    [(plan_ends,)] = still.ask("SELECT expires_at FROM user_subscriptions WHERE id = 1")
    for ends, seen in (
        (None, plan_ends),
        (plan_ends - HOUR, plan_ends - HOUR),
        (plan_ends + HOUR, plan_ends),
    ):
        key = still.key(still.add_key(user_id=3, group_id=4, expires_at=ends))
        assert key.expires_at == seen


def test_a_simple_sub2api_has_no_money_and_all_accounts_for_each_key(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE image_adapter.options SET run_mode = 'simple'")
    for name in ("broke", "quota", "plan-full", "window", "ungrouped"):
        key = fresh.key(f"sk-s2a-{name}")
        assert (told(key), key.account_names, key.cost_remaining) == ("ok", None, None)
    fresh.execute("DELETE FROM user_subscriptions")
    assert told(fresh.key("sk-s2a-plan")) == "ok"
    # Lost, the row means what sub2api is without a word.
    fresh.execute("DELETE FROM image_adapter.options")
    assert fresh.key("sk-s2a-plan").status == "no_subscription"
    assert told(fresh.key("sk-s2a-broke")) == SPENT


# -- groups and their accounts ---------------------------------------------------------------------


def test_a_key_without_a_group_has_the_accounts_that_are_in_none(fresh: Sub2Api) -> None:
    for name in ("given", "lone"):
        fresh.execute(
            "INSERT INTO image_adapter.accounts (account_name, dialect)"
            " VALUES (%(name)s, 'openai')",
            {"name": name},
        )
    fresh.execute("INSERT INTO image_adapter.group_accounts VALUES ('1', 'given')")
    assert fresh.key("sk-s2a-ungrouped").account_names == ("5:expired", "7:codex-1", "lone")
    assert fresh.key("sk-s2a-active").account_names == (*PAINTERS, "given")
    fresh.execute("DELETE FROM image_adapter.group_accounts")
    assert fresh.key("sk-s2a-active").account_names == PAINTERS


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({}, ("login", "private", "key")),
        ({"require_oauth_only": True}, ("login", "private")),
        ({"require_privacy_set": True}, ("private",)),
    ],
)
def test_a_group_that_takes_fewer_accounts_does_so_here(
    still: Sub2Api, columns: dict[str, Any], wanted: tuple[str, ...]
) -> None:
    group = still.add(
        "groups",
        name=f"group {still.number()}",
        platform="openai",
        allow_image_generation=True,
        **columns,
    )
    still.add_codex(group, name="login")
    still.add_codex(group, name="private", extra={"privacy_mode": "training_off"})
    still.add_openai(group, name="key")
    still.add_codex(group, name="gone", deleted_at=ago(days=1))
    still.add_codex(group, name="other", platform="anthropic")
    names = still.key(still.add_key(group_id=group)).account_names or ()
    assert tuple(name.partition(":")[2] for name in names) == wanted


def test_groups_of_an_older_sub2api_keep_images_and_new_ones_start_without(bare: Sub2Api) -> None:
    bare.execute("ALTER TABLE groups DROP allow_image_generation, DROP require_oauth_only")
    bare.install()
    new = bare.add("groups", name="new", platform="openai")
    secrets = {"sk-s2a-active": True, "sk-s2a-text": True, bare.add_key(group_id=new): False}
    for _ in range(2):
        for secret, is_on in secrets.items():
            assert bare.key(secret).group_image_enabled is is_on
        bare.install()
    bare.execute("UPDATE image_adapter.groups SET allow_image_generation = group_id = '2'")
    assert bare.key("sk-s2a-text").group_image_enabled
    assert not bare.key("sk-s2a-active").group_image_enabled
    # sub2api is updated, and its own switch is the rule from then on.
    bare.execute("ALTER TABLE groups ADD allow_image_generation boolean NOT NULL DEFAULT false")
    bare.execute("UPDATE groups SET allow_image_generation = true WHERE id = 1")
    assert bare.key("sk-s2a-active").group_image_enabled
    assert not bare.key("sk-s2a-text").group_image_enabled


def test_the_adapter_s_own_options_hold_what_sub2api_does_not_say_of_a_key(
    fresh: Sub2Api,
) -> None:
    fresh.execute("INSERT INTO image_adapter.key_options VALUES ('1', false, 2, 250, 40, 15)")
    key = fresh.key("sk-s2a-active")
    assert (key.image_enabled, key.max_concurrency, key.min_start_interval_ms) == (False, 2, 250)
    assert (key.images_remaining, key.json_keepalive_seconds) == (40, 15)
    assert fresh.key("sk-s2a-text").image_enabled


def test_a_key_is_found_by_the_index_among_thousands(fresh: Sub2Api) -> None:
    fresh.execute(
        "INSERT INTO api_keys (user_id, key, name, group_id)"
        " SELECT 1, 'sk-many-' || n, 'many', 1 FROM generate_series(1, 10000) n"
    )
    fresh.execute("ANALYZE")
    plan = fresh.plan("daemon/key", {"key_hash": "0" * 64})
    assert "Index Scan using image_adapter_key_hash on api_keys" in plan
    assert "Seq Scan on api_keys" not in plan
    with psycopg.connect(fresh.reader_url) as reader:
        found = reader.execute("SELECT count(*) FROM image_gateway.keys").fetchone()
    assert found == (10015,)


def test_a_new_adapter_is_not_taken_for_a_big_one(fresh: Sub2Api) -> None:
    """At a cost of 100,000 Postgres would compile the query, which takes longer than to run it."""
    for name in ("accounts", "key"):
        plan = fresh.plan(f"daemon/{name}", {"key_hash": "0" * 64})
        cost = re.search(r"\.\.([\d.]+) ", plan)
        assert cost is not None
        assert float(cost[1]) < 10_000
