"""Calls charged to keys, users and channels of new-api, once each, and noted in its log."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.planes.new_api.database import UNIT, NewApi, secret_of

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC).replace(microsecond=0)
TOKENS = {"total": 300, "input": 100, "cached_input": 40, "output": 200}


@pytest.fixture(scope="module")
def books(server_url: str) -> Iterator[NewApi]:
    """One new-api for tests that charge keys and users of their own."""
    made = NewApi(server_url)
    made.create_bare()
    made.install()
    yield made
    made.drop()


def charge(books: NewApi, request_id: str, key_id: str, **changed: Any) -> str:
    """A call with one picture of gpt-image-2 for 0.04 USD over channel 1, unless changed."""
    call = {
        "request_id": request_id,
        "key_id": key_id,
        "at": NOW,
        "model": "gpt-image-2",
        "account_name": "1",
        "tokens": Jsonb(TOKENS),
        "images": 1,
        "cost": Decimal("0.04"),
        **changed,
    }
    return books.charge(**call)


def payer(books: NewApi, name: str, *, group: str = "default", **token: Any) -> tuple[str, int]:
    """A key of a new user who has 10 USD: its id and the user's."""
    user = books.add_user(group=group)
    secret = books.add_token(
        name, user_id=user, **{"unlimited_quota": False, "remain_quota": UNIT, **token}
    )
    return books.key(secret).key_id, user


def of_token(books: NewApi, key_id: str) -> tuple[int, int]:
    """What a key has left and has used."""
    [row] = books.ask(f"SELECT remain_quota, used_quota FROM tokens WHERE id = {key_id}")
    return row  # type: ignore[no-any-return]


def of_user(books: NewApi, user: int) -> tuple[int, int, int]:
    """What a user has left and has used, and for how many calls."""
    [row] = books.ask(f"SELECT quota, used_quota, request_count FROM users WHERE id = {user}")
    return row  # type: ignore[no-any-return]


def of_channel(books: NewApi, channel: str) -> int:
    [(used,)] = books.ask(f"SELECT used_quota FROM channels WHERE id = {channel}")
    assert isinstance(used, int)
    return used


def test_a_call_is_charged_once_to_its_key_its_user_and_its_channel(books: NewApi) -> None:
    key_id, user = payer(books, "Once")
    before = of_channel(books, "3")
    for word in ("charged", "charged_before"):
        assert charge(books, "once", key_id, account_name="3") == word
        assert of_token(books, key_id) == (480_000, 20_000)
        assert of_user(books, user) == (4_980_000, 20_000, 1)
        assert of_channel(books, "3") == before + 20_000
    assert books.ask(f"SELECT accessed_time FROM tokens WHERE id = {key_id}") == [
        (int(NOW.timestamp()),)
    ]
    assert books.key(secret_of("Once")).cost_remaining == 0.96
    assert charge(books, "another", key_id, cost=Decimal(1)) == "charged"
    # A key can be overdrawn, as in new-api.
    assert of_token(books, key_id) == (-20_000, 520_000)
    assert books.key(secret_of("Once")).cost_remaining == -0.04


def test_a_call_stands_in_new_api_s_log(books: NewApi) -> None:
    key_id, user = payer(books, "Logged", group="vip")
    at = NOW - timedelta(hours=3)
    charge(books, "logged", key_id, at=at, account_name="2#1", model="gpt-image-1")
    columns = (
        "user_id, created_at, type, username, token_name, model_name, quota, prompt_tokens,"
        " completion_tokens, is_stream, channel_id, token_id"
    )
    [row] = books.ask(
        f'SELECT {columns}, "group", content, other FROM logs WHERE token_id={key_id}'
    )
    assert row[:-1] == (
        user, int(at.timestamp()), 2, f"user {user}", "Logged", "gpt-image-1", 10_000, 100, 200,
        False, 2, int(key_id), "vip", "image gateway: logged",
    )  # fmt: skip
    assert json.loads(row[-1]) == {"model_price": 0.04, "group_ratio": 0.5}


def test_two_who_charge_the_same_call_charge_it_once(books: NewApi) -> None:
    key_id, user = payer(books, "Race")
    requests = [f"race {number % 10}" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        words = list(pool.map(lambda request_id: charge(books, request_id, key_id), requests))
    assert sorted(words) == ["charged"] * 10 + ["charged_before"] * 30
    assert of_user(books, user) == (4_800_000, 200_000, 10)


def test_calls_of_one_user_s_keys_wait_for_each_other_and_never_lock_up(books: NewApi) -> None:
    one, user = payer(books, "LockA")
    books.add_token("LockB", user_id=user)
    two = books.key(secret_of("LockB")).key_id
    with ThreadPoolExecutor(4) as pool:
        words = pool.map(
            lambda number: charge(
                books,
                f"lock {number}",
                (one, two)[number % 2],
                account_name=("1", "3")[number // 2 % 2],
            ),
            range(40),
        )
    assert set(words) == {"charged"}
    assert of_user(books, user) == (5_000_000 - 40 * 20_000, 40 * 20_000, 40)


def test_a_call_of_an_unknown_key_is_not_charged_before_the_key_is_there(books: NewApi) -> None:
    for key_id in ("987654", "x", "", "1e3", "9" * 30, "-1"):
        assert charge(books, "unknown", key_id) == "unknown_key"
    user = books.add_user()
    books.add_token("Later", id=987654, user_id=user)
    assert charge(books, "unknown", "987654") == "charged"


def test_a_call_of_a_key_or_user_that_is_deleted_since_is_charged(books: NewApi) -> None:
    key_id, user = payer(books, "Gone", deleted_at=None)
    books.execute(f"UPDATE tokens SET deleted_at = now() WHERE id = {key_id}")
    books.execute(f"UPDATE users SET deleted_at = now() WHERE id = {user}")
    assert charge(books, "gone", key_id) == "charged"
    assert of_user(books, user) == (4_980_000, 20_000, 1)
    books.execute(f"DELETE FROM users WHERE id = {user}")
    assert charge(books, "gone too", key_id) == "charged"
    assert of_token(books, key_id) == (460_000, 40_000)


def test_a_call_from_long_ago_is_not_charged(books: NewApi) -> None:
    key_id, _ = payer(books, "Old")
    assert charge(books, "old", key_id, at=NOW - timedelta(days=401)) == "too_old"
    assert of_token(books, key_id) == (UNIT, 0)


# -- prices ----------------------------------------------------------------------------------------


def test_a_call_without_a_cost_has_new_api_s_price_for_each_picture(books: NewApi) -> None:
    """As a call over a Codex subscription has."""
    key_id, user = payer(books, "Priced")
    assert charge(books, "priced", key_id, cost=None, images=3) == "charged"
    assert of_user(books, user) == (4_940_000, 60_000, 1)
    assert books.ask("SELECT cost FROM image_adapter.charges WHERE request_id = 'priced'") == [
        (Decimal("0.12"),)
    ]


@pytest.mark.parametrize("cost", [None, Decimal("NaN"), Decimal("Infinity")])
def test_a_call_without_any_price_is_left_until_it_has_one(
    books: NewApi, cost: Decimal | None
) -> None:
    key_id, user = payer(books, f"Free{cost}")
    call = f"without a price {cost}"
    for _ in range(2):
        assert charge(books, call, key_id, cost=cost, model="gpt-image-9") == "no_price"
    assert of_user(books, user) == (5_000_000, 0, 0)
    assert charge(books, call, key_id, model="gpt-image-9") == "charged"
    assert of_user(books, user) == (4_980_000, 20_000, 1)


@pytest.mark.parametrize(
    ("changed", "units"),
    [
        ({"cost": Decimal(-5)}, 0),
        ({"cost": Decimal(0)}, 0),
        ({"cost": Decimal("0.000001")}, 1),
        ({"cost": Decimal("0.0000009")}, 0),
        ({"cost": Decimal("12.3456789")}, 6_172_839),
        ({"cost": None, "images": -4}, 0),
        ({"cost": None, "images": 0}, 0),
        ({"images": None, "tokens": None}, 20_000),
        ({"model": None, "account_name": None}, 20_000),
        ({"tokens": Jsonb({"input": -5, "output": "x", "total": 1e300})}, 20_000),
    ],
)
def test_odd_numbers_are_no_error_and_never_give_money_back(
    books: NewApi, request: pytest.FixtureRequest, changed: dict[str, Any], units: int
) -> None:
    name = request.node.callspec.id
    key_id, user = payer(books, f"Odd {name}")
    assert charge(books, f"odd {name}", key_id, **changed) == "charged"
    assert of_user(books, user) == (5_000_000 - units, units, 1)


def test_a_charge_that_new_api_s_columns_cannot_hold_is_an_error_and_can_come_again(
    books: NewApi,
) -> None:
    key_id, user = payer(books, "Overflow")
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        charge(books, "overflow", key_id, cost=Decimal("1e30"))
    assert of_user(books, user) == (5_000_000, 0, 0)
    assert charge(books, "overflow", key_id) == "charged"


# -- groups ----------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_group_whose_channel_served(books: NewApi) -> None:
    def units(key_id: str, **changed: Any) -> int:
        before = of_token(books, key_id)[1]
        assert charge(books, f"ratio {key_id} {changed}", key_id, **changed) == "charged"
        return of_token(books, key_id)[1] - before

    own, _ = payer(books, "RatioOwn", group="vip")
    named, _ = payer(books, "RatioNamed", group="default")
    books.execute(f"UPDATE tokens SET \"group\" = 'vip' WHERE id = {named}")
    auto, _ = payer(books, "RatioAuto", group="default")
    books.execute(f"UPDATE tokens SET \"group\" = 'auto' WHERE id = {auto}")
    other, _ = payer(books, "RatioOther", group="of no ratio")
    assert (units(own), units(named), units(other)) == (10_000, 10_000, 20_000)
    assert units(auto, account_name="4") == 10_000
    assert units(auto, account_name="3") == 20_000
    books.insert("image_adapter.accounts", account_name="own", dialect="openai")
    books.insert("image_adapter.group_accounts", group_id="vip", account_name="own")
    assert units(auto, account_name="own") == 10_000
    # An account that no group has any more: the user's own group.
    assert units(auto, account_name="removed") == 20_000
    groups = dict(books.ask("SELECT content, \"group\" FROM logs WHERE token_name = 'RatioAuto'"))
    assert list(groups.values()) == ["vip", "default", "vip", "default"]


def test_a_group_of_users_may_have_a_ratio_of_its_own_in_a_group(fresh: NewApi) -> None:
    fresh.install()
    fresh.set_option("GroupGroupRatio", '{"vip": {"default": 0.25, "vip": -2}, "svip": 5}')
    assert charge(fresh, "r", "12") == "charged"
    fresh.execute("UPDATE tokens SET \"group\" = 'default' WHERE id = 12")
    assert charge(fresh, "s", "12") == "charged"
    assert of_user(fresh, 5) == (5_000_000 - 5_000, 5_000, 2)
    fresh.set_option("QuotaPerUnit", "1000")
    assert charge(fresh, "t", "12") == "charged"
    assert of_user(fresh, 5) == (5_000_000 - 5_010, 5_010, 3)


# -- what else is counted --------------------------------------------------------------------------


def test_pictures_of_the_gateway_s_own_quota_are_counted_down(books: NewApi) -> None:
    key_id, _ = payer(books, "Pictures")
    books.insert("image_adapter.key_options", key_id=key_id, images_remaining=5)
    charge(books, "pictures", key_id, images=3)
    charge(books, "pictures", key_id, images=3)
    assert books.key(secret_of("Pictures")).images_remaining == 2


def test_a_new_api_without_a_log_here_is_charged_all_the_same(fresh: NewApi) -> None:
    fresh.install()
    fresh.set_option("LogConsumeEnabled", "false")
    assert charge(fresh, "off", "1") == "charged"
    assert fresh.ask("SELECT count(*) FROM logs") == [(0,)]
    fresh.set_option("LogConsumeEnabled", "true")
    fresh.execute("ALTER TABLE logs RENAME other TO elsewhere")
    assert charge(fresh, "older", "1") == "charged"
    assert fresh.ask("SELECT count(*) FROM logs") == [(0,)]
    fresh.execute("DROP TABLE logs")
    assert charge(fresh, "none", "1") == "charged"
    assert of_user(fresh, 1) == (4_940_000, 60_000, 3)


def test_the_charger_may_charge_and_nothing_else(books: NewApi) -> None:
    for statement in (
        "TABLE public.tokens",
        "TABLE image_adapter.charges",
        "UPDATE public.users SET quota = 0",
        "SELECT image_adapter.note_charge('r', '1', now(), 'm', 'a', '{}', 1, 1)",
        "SELECT image_adapter.has_logs()",
    ):
        with (
            psycopg.connect(books.charger_url) as charger,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            charger.execute(statement.encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        charge(books, "reader", "1", url=books.reader_url)
