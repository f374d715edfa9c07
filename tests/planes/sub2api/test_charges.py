"""What calls used, in the books of sub2api: each call once, and where its own pages show it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
import pytest

from tests.planes.sub2api.plane import Sub2Api, told

pytestmark = pytest.mark.slow

TOKENS: Final = {"total": 130, "input": 30, "cached_input": 10, "output": 100}
CALL: Final[dict[str, Any]] = {
    "request_id": "req_1",
    "key_id": "1",
    "at": datetime(2026, 11, 28, 12, tzinfo=UTC),
    "model": "gpt-image-2",
    "account_name": "1:codex-1",
    "tokens": TOKENS,
    "images": 2,
    "cost": Decimal("0.5"),
}


def charge(fresh: Sub2Api, **changes: Any) -> str:
    """Charge a call that came a moment ago, unless the changes say otherwise."""
    call = CALL | {"at": datetime.now(UTC) - timedelta(seconds=90)} | changes
    return fresh.charge(**call | {"tokens": json.dumps(call["tokens"])})


def one(fresh: Sub2Api, query: str) -> tuple[Any, ...]:
    [row] = fresh.ask(query)
    found: tuple[Any, ...] = row
    return found


def balance(fresh: Sub2Api, user: int = 1) -> Decimal:
    found: Decimal = one(fresh, f"SELECT balance FROM users WHERE id = {user}")[0]
    return found


def books(fresh: Sub2Api) -> list[Any]:
    """Everything that a charge may change."""
    tables = (
        "users", "api_keys", "user_subscriptions", "accounts", "usage_logs", "usage_billing_dedup",
        "scheduler_outbox",
    )  # fmt: skip
    return [fresh.ask(f"SELECT to_jsonb(t)::text FROM {name} t ORDER BY 1") for name in tables]


def price(fresh: Sub2Api, amount: str | None) -> None:
    """Let a picture of group 1 have a price in 2K, or none."""
    fresh.execute("UPDATE groups SET image_price_2k = %(amount)s WHERE id = 1", {"amount": amount})


def test_a_call_is_charged_where_sub2api_s_pages_show_it(fresh: Sub2Api) -> None:
    """Two pictures of 0.08; the key has a quota and windows besides."""
    fresh.execute(
        "UPDATE api_keys SET quota = 9, rate_limit_5h = 9, rate_limit_7d = 9,"
        " window_5h_start = now() - interval '1 hour', usage_5h = 1,"
        " window_1d_start = now() - interval '25 hours', usage_1d = 2 WHERE id = 1"
    )
    called_at = datetime.now(UTC) - timedelta(minutes=3)
    assert charge(fresh, at=called_at) == "charged"
    assert balance(fresh) == Decimal("19.84")
    assert one(
        fresh,
        "SELECT quota_used, usage_5h, usage_1d, usage_7d, status, window_1d_start, window_7d_start,"
        " window_5h_start < now() - interval '59 minutes' FROM api_keys WHERE id = 1",
    ) == (
        Decimal("3.16"),
        Decimal("1.16"),
        Decimal("0.16"),
        Decimal("0.16"),
        "active",
        *one(fresh, "SELECT date_trunc('day', now()), date_trunc('day', now())"),
        True,
    )
    assert one(
        fresh,
        "SELECT user_id, api_key_id, account_id, request_id, model, requested_model, group_id,"
        " subscription_id, input_tokens, cache_read_tokens, output_tokens, total_cost, actual_cost,"
        " rate_multiplier, billing_type, image_count, image_size, created_at FROM usage_logs",
    ) == (
        *(1, 1, 1, "image:req_1", "gpt-image-2", "gpt-image-2", 1),
        *(None, 20, 10, 100, Decimal("0.16"), Decimal("0.16")),
        *(Decimal(1), 0, 2, "2K", called_at),
    )
    assert one(fresh, "SELECT request_id, api_key_id FROM usage_billing_dedup") == (
        "image:req_1",
        1,
    )
    assert one(
        fresh, "SELECT key_id, tokens, images, cost, account_name FROM image_adapter.charges"
    ) == ("1", 130, 2, Decimal("0.5"), "1:codex-1")


def test_a_call_is_charged_once(fresh: Sub2Api) -> None:
    assert charge(fresh) == "charged"
    before = books(fresh)
    assert charge(fresh) == "charged_before"
    assert charge(fresh, key_id="2", images=9) == "charged_before"
    # The adapter is installed anew: sub2api's own record still knows the call, also archived.
    fresh.execute("TRUNCATE image_adapter.charges")
    assert charge(fresh) == "charged_before"
    assert books(fresh) == before
    fresh.execute(
        "INSERT INTO usage_billing_dedup_archive SELECT request_id, api_key_id,"
        " request_fingerprint, created_at FROM usage_billing_dedup;"
        "TRUNCATE usage_billing_dedup, image_adapter.charges, usage_logs"
    )
    assert charge(fresh) == "charged_before"
    assert balance(fresh) == Decimal("19.84")


def test_two_that_charge_at_once_charge_each_call_once(fresh: Sub2Api) -> None:
    with ThreadPoolExecutor(8) as threads:
        words = list(
            threads.map(lambda each: charge(fresh, request_id=f"req_{each % 4}"), range(16))
        )
    assert sorted(words) == ["charged"] * 4 + ["charged_before"] * 12
    assert balance(fresh) == Decimal("19.36")
    assert one(fresh, "SELECT count(*) FROM usage_logs") == (4,)


def test_a_charge_adds_to_what_sub2api_charges_meanwhile(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE api_keys SET quota = 9, rate_limit_7d = 9 WHERE id = 1")
    with psycopg.connect(fresh.url) as sub2api, ThreadPoolExecutor(1) as threads:
        sub2api.execute("UPDATE users SET balance = balance - 1 WHERE id = 1")
        sub2api.execute(
            "UPDATE api_keys SET quota_used = quota_used + 1, usage_7d = usage_7d + 1,"
            " window_7d_start = now() WHERE id = 1"
        )
        charging = threads.submit(charge, fresh)
        while not fresh.ask("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert not charging.done()
        sub2api.commit()
        assert charging.result() == "charged"
    assert balance(fresh) == Decimal("18.84")
    used = one(fresh, "SELECT quota_used, usage_7d FROM api_keys WHERE id = 1")
    assert used == (Decimal("4.16"), Decimal("1.16"))


@pytest.mark.parametrize("key_id", ["999", "", "one", "1.0", "-1", "9" * 30, "1\n"])
def test_a_call_of_an_unknown_key_is_charged_to_nobody(fresh: Sub2Api, key_id: str) -> None:
    before = books(fresh)
    assert charge(fresh, key_id=key_id) == "unknown_key"
    assert books(fresh) == before
    assert fresh.ask("TABLE image_adapter.charges") == []


def test_a_call_of_long_ago_is_not_charged(fresh: Sub2Api) -> None:
    before = books(fresh)
    assert charge(fresh, at=datetime.now(UTC) - timedelta(days=401)) == "too_old"
    assert books(fresh) == before


def test_a_call_that_is_older_than_a_window_leaves_it(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE api_keys SET rate_limit_5h = 9, rate_limit_7d = 9 WHERE id = 1")
    assert charge(fresh, at=datetime.now(UTC) - timedelta(hours=6)) == "charged"
    assert one(fresh, "SELECT usage_5h, window_5h_start, usage_7d FROM api_keys WHERE id = 1") == (
        0,
        None,
        Decimal("0.16"),
    )


def test_the_call_of_a_key_that_is_deleted_by_now_is_charged(fresh: Sub2Api) -> None:
    assert charge(fresh, key_id="3") == "charged"
    assert balance(fresh) == Decimal("19.84")


def test_long_ids_are_told_apart_in_sub2api(fresh: Sub2Api) -> None:
    """Its column has 64 characters, and a request id may have 256."""
    for last in "ab":
        assert charge(fresh, request_id="r" * 255 + last) == "charged"
    assert charge(fresh, request_id="r" * 58) == "charged"
    ids = [name for (name,) in fresh.ask("SELECT request_id FROM usage_logs")]
    assert len(set(ids)) == 3
    assert {len(name) for name in ids} == {64}


# -- what it costs ---------------------------------------------------------------------------------

INDEPENDENT: Final = "UPDATE groups SET image_rate_independent = true, image_rate_multiplier = 0.25"


@pytest.mark.parametrize(
    ("each", "cost", "total"),
    [
        ("0.08", "0.5", "0.16"),
        ("0.08", None, "0.16"),
        ("0", "0.5", "0"),
        ("-1", "0.5", "0"),
        (None, "0.5", "0.5"),
        (None, "-0.5", "0"),
        (None, "NaN", "0"),
        (None, None, "0"),
        ("NaN", "0.5", "0.5"),
    ],
)
def test_a_picture_costs_what_its_group_says_else_what_the_call_is_known_to_cost(
    fresh: Sub2Api, each: str | None, cost: str | None, total: str
) -> None:
    price(fresh, each)
    assert charge(fresh, cost=None if cost is None else Decimal(cost)) == "charged"
    assert balance(fresh) == 20 - Decimal(total)
    assert one(fresh, "SELECT total_cost, image_count, output_tokens FROM usage_logs") == (
        Decimal(total),
        2,
        100,
    )


@pytest.mark.parametrize(
    ("changes", "multiplier"),
    [
        ("UPDATE groups SET rate_multiplier = 0.5", "0.5"),
        ("UPDATE groups SET rate_multiplier = -2", "0"),
        ("INSERT INTO user_group_rate_multipliers VALUES (1, 1, 3)", "3"),
        ("INSERT INTO user_group_rate_multipliers VALUES (2, 1, 3)", "1"),
        (f"{INDEPENDENT}; INSERT INTO user_group_rate_multipliers VALUES (1, 1, 3)", "0.25"),
        (f"{INDEPENDENT}; UPDATE groups SET image_rate_multiplier = -1", "0"),
    ],
)
def test_the_balance_pays_with_the_multiplier_of_the_user_or_of_the_group(
    fresh: Sub2Api, changes: str, multiplier: str
) -> None:
    fresh.execute(changes)
    assert charge(fresh) == "charged"
    actual = Decimal("0.16") * Decimal(multiplier)
    assert balance(fresh) == 20 - actual
    assert one(fresh, "SELECT total_cost, actual_cost, rate_multiplier FROM usage_logs") == (
        Decimal("0.16"),
        actual,
        Decimal(multiplier),
    )


def test_an_older_sub2api_without_multipliers_of_pictures_charges_with_its_own(
    bare: Sub2Api,
) -> None:
    bare.execute("ALTER TABLE groups DROP image_rate_independent, DROP image_rate_multiplier")
    bare.install()
    bare.execute("UPDATE groups SET rate_multiplier = 2")
    assert charge(bare) == "charged"
    assert balance(bare) == Decimal("19.68")


def test_a_subscription_pays_in_place_of_the_balance(fresh: Sub2Api) -> None:
    """Without the multiplier, as in sub2api; a window that is over begins again."""
    fresh.execute(
        "UPDATE groups SET rate_multiplier = 3 WHERE id = 4;"
        "UPDATE user_subscriptions SET weekly_usage_usd = 4,"
        " weekly_window_start = now() - interval '6 days' WHERE id = 1"
    )
    assert charge(fresh, key_id="8") == "charged"
    assert one(
        fresh,
        "SELECT daily_usage_usd, daily_window_start = date_trunc('day', now()), weekly_usage_usd,"
        " weekly_window_start < now() - interval '5 days', monthly_usage_usd,"
        " monthly_window_start = date_trunc('day', now()) FROM user_subscriptions WHERE id = 1",
    ) == (Decimal("0.5"), True, Decimal("4.5"), True, Decimal("0.5"), True)
    assert balance(fresh, 3) == Decimal("-0.01")
    assert one(
        fresh, "SELECT subscription_id, billing_type, total_cost, actual_cost FROM usage_logs"
    ) == (1, 1, Decimal("0.5"), Decimal("1.5"))


def test_without_a_subscription_the_balance_pays(fresh: Sub2Api) -> None:
    fresh.execute("DELETE FROM user_subscriptions")
    assert charge(fresh, key_id="9") == "charged"
    assert balance(fresh) == Decimal("19.5")


def test_a_subscription_that_was_deleted_since_pays_for_its_calls(fresh: Sub2Api) -> None:
    """Unless there is a new one; the balance was never to pay."""
    fresh.execute("UPDATE user_subscriptions SET deleted_at = now() WHERE user_id = 1")
    assert charge(fresh, key_id="9") == "charged"
    assert balance(fresh) == 20
    old = "SELECT daily_usage_usd FROM user_subscriptions WHERE user_id = 1 AND id = 2"
    assert one(fresh, old) == (Decimal("5.51"),)
    day = timedelta(days=1)
    fresh.add(
        "user_subscriptions",
        user_id=1,
        group_id=4,
        starts_at=datetime.now(UTC) - day,
        expires_at=datetime.now(UTC) + day,
    )
    assert charge(fresh, key_id="9", request_id="req_2") == "charged"
    assert balance(fresh) == 20
    assert one(fresh, old) == (Decimal("5.51"),)


def test_a_quota_that_is_used_up_ends_the_key_as_in_sub2api(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE api_keys SET quota = 3.16 WHERE id = 1")
    assert charge(fresh) == "charged"
    assert one(fresh, "SELECT status FROM api_keys WHERE id = 1") == ("quota_exhausted",)
    assert told(fresh.key("sk-s2a-active")) == "insufficient_quota"
    fresh.execute("UPDATE api_keys SET quota = 1, status = 'disabled' WHERE id = 1")
    assert charge(fresh, request_id="req_2") == "charged"
    assert one(fresh, "SELECT status FROM api_keys WHERE id = 1") == ("disabled",)


def test_a_balance_may_fall_below_nothing(fresh: Sub2Api) -> None:
    price(fresh, "11")
    assert charge(fresh) == "charged"
    assert balance(fresh) == -2
    # A key without a quota counts nothing.
    assert one(fresh, "SELECT quota_used FROM api_keys WHERE id = 1") == (3,)
    assert told(fresh.key("sk-s2a-active")) == "insufficient_quota"


def test_an_account_s_own_quota_is_charged_and_its_end_told_to_sub2api(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE groups SET rate_multiplier = 5")  # the user's, not the account's
    weekly = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = fresh.add_openai(
        1,
        rate_multiplier=2,
        extra={
            "note": "stays", "quota_limit": 10, "quota_used": "9", "quota_daily_limit": 10,
            "quota_daily_used": 7, "quota_weekly_limit": 10, "quota_weekly_used": 7,
            "quota_weekly_start": weekly,
        },
    )  # fmt: skip
    number = int(name.partition(":")[0])

    def extra() -> dict[str, Any]:
        found = one(fresh, f"SELECT extra FROM accounts WHERE id = {number}")[0]
        assert isinstance(found, dict)
        return found

    assert charge(fresh, account_name=name) == "charged"
    began = datetime.fromisoformat(extra()["quota_daily_start"])
    assert abs(datetime.now(UTC) - began) < timedelta(minutes=5)
    assert {**extra(), "quota_daily_start": None} == {
        "note": "stays", "quota_limit": 10, "quota_used": 9.32, "quota_daily_limit": 10,
        "quota_daily_used": 0.32, "quota_daily_start": None, "quota_weekly_limit": 10,
        "quota_weekly_used": 7.32, "quota_weekly_start": weekly,
    }  # fmt: skip
    assert fresh.ask("TABLE scheduler_outbox") == []
    assert charge(fresh, account_name=name, request_id="req_2", images=6) == "charged"
    assert extra()["quota_used"] == 10.28
    assert one(fresh, "SELECT event_type, account_id FROM scheduler_outbox") == (
        "account_changed",
        number,
    )
    assert charge(fresh, account_name=name, request_id="req_3") == "charged"
    assert one(fresh, "SELECT count(*) FROM scheduler_outbox") == (1,)
    assert fresh.account(name).status == "quota_exhausted"


def test_an_account_without_a_quota_keeps_its_extra(fresh: Sub2Api) -> None:
    extras: list[Any] = [{"a": 1}, [], {"quota_limit": [5]}]
    for extra in extras:
        name = fresh.add_openai(1, extra=extra)
        number = int(name.partition(":")[0])
        assert charge(fresh, account_name=name, request_id=name) == "charged"
        assert one(fresh, f"SELECT extra FROM accounts WHERE id = {number}") == (extra,)


@pytest.mark.parametrize("name", ["azure-east", "999:gone", "", "9" * 30 + ":x"])
def test_a_call_that_no_account_of_sub2api_served_is_paid_and_not_listed(
    fresh: Sub2Api, name: str
) -> None:
    assert charge(fresh, account_name=name) == "charged"
    assert balance(fresh) == Decimal("19.84")
    assert fresh.ask("TABLE usage_logs") == []


def test_a_simple_sub2api_charges_no_money(fresh: Sub2Api) -> None:
    fresh.execute("UPDATE image_adapter.options SET run_mode = 'simple'")
    assert charge(fresh) == "charged"
    assert balance(fresh) == 20
    assert one(fresh, "SELECT image_count, output_tokens FROM usage_logs") == (2, 100)


def test_a_quota_of_pictures_is_charged(fresh: Sub2Api) -> None:
    fresh.execute(
        "INSERT INTO image_adapter.key_options (key_id, images_remaining)"
        " VALUES ('1', 3), ('2', NULL)"
    )
    for request_id, left in (("req_1", 1), ("req_2", -1)):
        assert charge(fresh, request_id=request_id) == "charged"
        assert fresh.key("sk-s2a-active").images_remaining == left
    assert told(fresh.key("sk-s2a-active")) == "insufficient_quota"
    assert charge(fresh, key_id="2", request_id="req_3") == "charged"
    assert fresh.key("sk-s2a-expired").images_remaining is None


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": {}, "images": -3},
        {"tokens": None, "images": None},
        {"tokens": [1], "images": 0},
        {"tokens": {"total": -5, "input": "7", "output": 1e300, "cached_input": 99}},
        {"model": "m" * 250, "account_name": None},
        {"model": None, "cost": Decimal(0)},
    ],
)
def test_odd_numbers_charge_nothing_less_than_nothing(
    fresh: Sub2Api, changes: dict[str, Any]
) -> None:
    assert charge(fresh, **changes) == "charged"
    assert balance(fresh) <= 20
    for row in fresh.ask("SELECT input_tokens, output_tokens, image_count FROM usage_logs"):
        assert min(row) >= 0


@pytest.mark.parametrize("cost", ["1e13", "Infinity"])
def test_a_sum_that_sub2api_cannot_hold_is_refused_as_a_whole(fresh: Sub2Api, cost: str) -> None:
    price(fresh, None)
    before = books(fresh)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        charge(fresh, cost=Decimal(cost))
    assert books(fresh) == before
    assert fresh.ask("TABLE image_adapter.charges") == []


def test_the_charger_can_charge_and_nothing_else(fresh: Sub2Api) -> None:
    with psycopg.connect(fresh.charger_url, autocommit=True) as charger:
        for statement in (
            "TABLE public.users",
            "UPDATE public.users SET balance = 99",
            "TABLE image_gateway.keys",
            "TABLE image_adapter.charges",
            "SELECT image_adapter.note_charge('r', '1', now(), 'm', 'a', '{}', 1, 1)",
            "SELECT image_adapter.charged_quota('{}', now(), 1)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                charger.execute(statement.encode())
    with (
        psycopg.connect(fresh.reader_url, autocommit=True) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute("SELECT image_gateway.charge('r', '1', now(), 'm', 'a', '{}', 1, 1)")
