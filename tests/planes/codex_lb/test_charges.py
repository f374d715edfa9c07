"""Calls charged to codex-lb's limits, once each, and shown in its log of requests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.planes.codex_lb.database import CodexLb

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)
IN_UTC = NOW.replace(tzinfo=None)
TOKENS = {"total": 300, "input": 100, "cached_input": 40, "output": 200}


@pytest.fixture(scope="module")
def books(server_url: str) -> Iterator[CodexLb]:
    """One codex-lb for tests that charge keys of their own."""
    made = CodexLb(server_url)
    made.create_bare()
    made.install()
    yield made
    made.drop()


def charge(books: CodexLb, request_id: str, key_id: str, **changed: Any) -> str:
    """A call with one picture of gpt-image-2, unless changed."""
    call = {
        "request_id": request_id,
        "key_id": key_id,
        "at": NOW,
        "model": "gpt-image-2",
        "account_name": "a-active",
        "tokens": Jsonb(TOKENS),
        "images": 1,
        "cost": Decimal("0.0123456"),
        **changed,
    }
    return books.charge(**call)


def used(books: CodexLb, key_id: str) -> list[int]:
    """What is used of a key's limits, in the order in which they were made."""
    rows = books.ask(
        f"SELECT current_value FROM api_key_limits WHERE api_key_id = '{key_id}' ORDER BY id"
    )
    return [value for (value,) in rows]


def test_a_call_is_charged_once_to_each_limit_in_its_own_unit(books: CodexLb) -> None:
    secret = books.add_lb_key("units")
    for kind in ("total_tokens", "input_tokens", "output_tokens", "cost_usd", "credits"):
        books.add_limit("units", kind, 1_000_000, 7)
    assert charge(books, "units 1", "units") == "charged"
    counted = [307, 107, 207, 12352, 7]
    assert used(books, "units") == counted
    assert charge(books, "units 1", "units", tokens=Jsonb({"total": 9})) == "charged_before"
    assert used(books, "units") == counted
    key = books.key(secret)
    assert (key.quota_remaining, key.cost_remaining) == (1_000_000 - 307, 0.987648)


def test_a_call_stands_in_codex_lb_s_log_of_requests(books: CodexLb) -> None:
    books.add_lb_key("logged")
    books.insert("image_adapter.accounts", account_name="own", dialect="openai")
    assert charge(books, "logged 1", "logged") == "charged"
    assert charge(books, "logged 2", "logged", account_name="own", cost=None) == "charged"
    rows = books.ask(
        "SELECT request_id, account_id, model, status, useragent, input_tokens, output_tokens,"
        " cached_input_tokens, cost_usd, requested_at FROM request_logs"
        " WHERE api_key_id = 'logged' ORDER BY 1"
    )
    same = ("gpt-image-2", "success", "image-gateway", 100, 200, 40)
    assert rows == [
        ("logged 1", "a-active", *same, 0.0123456, IN_UTC),
        # (100 - 40) * 5 + 40 * 2 + 200 * 30 USD per million tokens, as codex-lb has it.
        ("logged 2", None, *same, 0.00638, IN_UTC),
    ]


@pytest.mark.parametrize(
    ("limit", "charged"),
    [
        ({"model_filter": "gpt-image-2"}, 300),
        ({"model_filter": "gpt-image-1.5"}, 0),
        ({"model_filter": "gpt-5.5"}, 0),
        # codex-lb sets it to 0 when it next looks at it.
        ({"reset_at": IN_UTC - timedelta(hours=1)}, 0),
        # The call was three hours ago: before the window began, or in it.
        ({"limit_window": "5h", "reset_at": IN_UTC + timedelta(hours=4)}, 0),
        ({"limit_window": "5h", "reset_at": IN_UTC + timedelta(hours=1)}, 300),
        ({"limit_window": "daily", "reset_at": IN_UTC + timedelta(hours=22)}, 0),
        ({"limit_window": "daily", "reset_at": IN_UTC + timedelta(hours=20)}, 300),
        ({"limit_window": "weekly", "reset_at": IN_UTC + timedelta(days=7, hours=-1)}, 0),
        ({"limit_window": "7d", "reset_at": IN_UTC + timedelta(days=6)}, 300),
        ({"limit_window": "monthly", "reset_at": IN_UTC + timedelta(days=30, hours=-1)}, 0),
        ({"limit_window": "monthly", "reset_at": IN_UTC + timedelta(days=29)}, 300),
        # No window of codex-lb is so long.
        ({"limit_window": "daily", "reset_at": "2099-01-01"}, 300),
    ],
)
def test_a_call_counts_for_the_limits_of_its_model_and_of_its_time(
    books: CodexLb, request: pytest.FixtureRequest, limit: dict[str, Any], charged: int
) -> None:
    key_id = request.node.name
    books.add_lb_key(key_id)
    books.add_limit(key_id, "total_tokens", 1000, 0, **limit)
    assert charge(books, key_id, key_id, at=NOW - timedelta(hours=3)) == "charged"
    assert used(books, key_id) == [charged]


def test_a_key_that_is_gone_and_a_call_that_is_too_old_are_charged_nothing(books: CodexLb) -> None:
    books.add_lb_key("old")
    assert charge(books, "gone 1", "gone") == "unknown_key"
    assert charge(books, "old 1", "old", at=NOW - timedelta(days=401)) == "too_old"
    assert books.ask("SELECT 1 FROM image_adapter.charges WHERE key_id IN ('gone', 'old')") == []


@pytest.mark.parametrize(
    "odd",
    [
        {"tokens": None},
        {"tokens": Jsonb([1])},
        {"tokens": Jsonb({"total": -5, "input": "7", "output": None})},
        {"cost": Decimal("NaN"), "tokens": None},
        {"cost": Decimal(-3)},
        {"cost": Decimal("1e-400")},
        {"cost": None, "tokens": None},
        {"images": -1},
        {"images": None},
        {"model": None},
        {"account_name": None},
    ],
)
def test_odd_numbers_are_charged_as_nothing(
    books: CodexLb, request: pytest.FixtureRequest, odd: dict[str, Any]
) -> None:
    key_id = request.node.name
    books.add_lb_key(key_id)
    books.add_limit(key_id, "total_tokens", 1000, 0)
    books.add_limit(key_id, "cost_usd", 1000, 0)
    cost = {"cost": Decimal(0)} if "cost" not in odd else {}
    assert charge(books, key_id, key_id, **cost, **odd) == "charged"
    total, money = used(books, key_id)
    assert money == 0
    assert total in (0, 300)


def test_a_call_without_a_price_costs_what_codex_lb_would_charge(books: CodexLb) -> None:
    books.add_lb_key("unpriced")
    books.add_limit("unpriced", "cost_usd", 1_000_000, 0)
    assert charge(books, "unpriced 1", "unpriced", cost=None) == "charged"
    assert used(books, "unpriced") == [6380]
    cached = Jsonb({"total": 60, "input": 10, "cached_input": 50, "output": 0})
    assert charge(books, "unpriced 2", "unpriced", cost=None, tokens=cached) == "charged"
    assert used(books, "unpriced") == [6380 + 100]
    for request_id, unknown in (("unpriced 3", {"model": "x"}), ("unpriced 4", {"tokens": None})):
        assert charge(books, request_id, "unpriced", cost=None, **unknown) == "charged"
    assert used(books, "unpriced") == [6380 + 100]
    logged = books.ask("SELECT cost_usd FROM request_logs WHERE api_key_id = 'unpriced'")
    assert sorted(str(cost) for (cost,) in logged) == ["0.0001", "0.00638", "None", "None"]


def test_an_infinite_price_is_a_big_one(books: CodexLb) -> None:
    books.add_lb_key("dear")
    books.add_limit("dear", "cost_usd", 1000, 0)
    assert charge(books, "dear 1", "dear", cost=Decimal("Infinity")) == "charged"
    assert used(books, "dear") == [10**12]


def test_a_number_that_codex_lb_cannot_hold_is_an_error_that_charges_nothing(
    books: CodexLb,
) -> None:
    books.add_lb_key("full")
    books.add_limit("full", "total_tokens", 1, 2**63 - 1)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        charge(books, "full 1", "full")
    assert books.ask("SELECT 1 FROM image_adapter.charges WHERE key_id = 'full'") == []


def test_two_that_charge_at_once_charge_each_call_once(books: CodexLb) -> None:
    books.add_lb_key("busy")
    for kind in ("total_tokens", "input_tokens"):
        books.add_limit("busy", kind, 1_000_000, 0)
    calls = [f"busy {number % 20}" for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        words = list(threads.map(lambda each: charge(books, each, "busy"), calls))
    assert sorted(words) == ["charged"] * 20 + ["charged_before"] * 20
    assert used(books, "busy") == [20 * 300, 20 * 100]


def test_pictures_count_down_where_the_key_has_a_quota_of_them(books: CodexLb) -> None:
    secret = books.add_lb_key("pictures")
    books.insert("image_adapter.key_options", key_id="pictures", images_remaining=3)
    assert charge(books, "pictures 1", "pictures", images=2) == "charged"
    assert books.key(secret).images_remaining == 1


def test_the_charger_can_charge_and_nothing_else(books: CodexLb) -> None:
    books.add_lb_key("role")
    assert charge(books, "role 1", "role") == "charged"
    for statement in (
        "TABLE public.api_keys",
        "UPDATE public.api_key_limits SET current_value = 0",
        "TABLE image_adapter.charges",
        "TABLE image_gateway.keys",
    ):
        with (
            psycopg.connect(books.charger_url) as charger,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            charger.execute(statement.encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        charge(books, "role 2", "role", url=books.reader_url)
