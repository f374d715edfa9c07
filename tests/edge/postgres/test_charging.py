"""Charges of calls over a real Postgres: each once, whoever charges and however often."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.records import charges
from image_gateway.core.records.charges import Charge
from image_gateway.edge.postgres import admin
from image_gateway.edge.postgres.admin import UnusableError
from image_gateway.edge.postgres.charging import Charged, Charging
from tests.edge.postgres.listening import listening
from tests.parts.charged import odd_records
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.examples import scaled
from tests.parts.plane import Plane

KEEP_DAYS = 400
"""How long a charge is kept, to recognise its call; an older call is never charged."""


@contextmanager
def opened(url: str) -> Iterator[Charging]:
    """The charges over a connection of their own."""
    with admin.connected(Secret(url)) as connection:
        yield Charging(connection)


@pytest.fixture
def charging(plane: Plane) -> Iterator[Charging]:
    with opened(plane.url) as made:
        yield made


def used(plane: Plane) -> dict[str, int]:
    return dict(plane.ask("SELECT key_id, quota_used FROM image_control.keys"))


def remaining(plane: Plane) -> Any:
    [row] = plane.ask("SELECT images_remaining, cost_remaining FROM image_gateway.keys")
    return row


def call(number: int, key_id: str = "a", tokens: int = 10, days: float = 0) -> Charge:
    return Charge(f"req_{number}", key_id, tokens, 1, datetime.now(UTC) - timedelta(days=days))


def test_a_call_is_charged_once(charging: Charging, plane: Plane) -> None:
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    asked = [call(1), call(1), call(2, "b", 5), call(3)]
    assert [charging.charge(each) for each in asked] == [
        Charged.CHARGED,
        Charged.BEFORE,
        Charged.CHARGED,
        Charged.CHARGED,
    ]
    assert used(plane) == {"a": 20, "b": 5}


def test_a_charge_tells_what_was_called_where_and_what_it_cost(
    charging: Charging, plane: Plane
) -> None:
    plane.add_key(key_id="a")
    charging.charge(
        replace(call(1), model="gpt-image-2", account_name="east", cost=Decimal("0.04"))
    )
    assert plane.ask(
        "SELECT model, account_name, tokens, images, cost FROM image_control.charges"
    ) == [("gpt-image-2", "east", 10, 1, Decimal("0.04"))]


def test_a_key_that_is_not_there_is_charged_nothing_and_may_be_charged_once_it_is(
    charging: Charging, plane: Plane
) -> None:
    assert charging.charge(call(1, "gone")) is Charged.UNKNOWN_KEY
    assert plane.ask("SELECT FROM image_control.charges") == []
    plane.add_key(key_id="gone")
    assert charging.charge(call(1, "gone")) is Charged.CHARGED


async def test_two_who_charge_the_same_calls_in_opposite_order_charge_each_once(
    plane: Plane,
) -> None:
    """Both begin while the call in the middle of both is just being charged by a third."""
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    calls = [call(1), call(2, "b"), call(3), call(4, "b"), call(5)]

    def charge(mine: list[Charge]) -> int:
        with opened(plane.url) as own:
            return sum(own.charge(each) is Charged.CHARGED for each in mine)

    def waiting() -> bool:
        found = plane.ask(
            "SELECT FROM pg_stat_activity WHERE application_name = 'image-gateway control'"
            " AND datname = current_database() AND wait_event_type = 'Lock'",
        )
        return len(found) == 2

    with psycopg.connect(plane.url) as third:
        third.execute("SELECT image_gateway.charge('req_3', 'a', now(), null, null, '{}', 1, 1)")
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(charge, mine) for mine in (calls, calls[::-1])]
            try:
                await eventually(waiting)
            finally:
                third.rollback()
            assert sum(each.result(BOUND_SECONDS) for each in both) == len(calls)
    assert used(plane) == {"a": 30, "b": 20}


def test_charges_are_forgotten_only_when_their_calls_could_not_be_charged_again(
    charging: Charging, plane: Plane
) -> None:
    """On either side of the limit, and after it too."""
    plane.add_key(key_id="a")
    assert charging.charge(call(1, days=KEEP_DAYS - 1)) is Charged.CHARGED
    assert charging.charge(call(2, days=KEEP_DAYS + 0.1)) is Charged.TOO_OLD
    charging.note_charged("0" * 64, "requests-1.jsonl")
    charging.forget_charges()
    assert plane.ask("SELECT request_id FROM image_control.charges") == [("req_1",)]
    assert charging.is_charged("0" * 64)
    plane.execute("UPDATE image_control.charges SET called_at = called_at - interval '1 day'")
    charging.forget_charges()
    assert len(plane.ask("SELECT FROM image_control.charges")) == 1, "a day of grace"
    for table, column in (("charges", "called_at"), ("charged_files", "charged_at")):
        plane.execute(f"UPDATE image_control.{table} SET {column} = now() - interval '402 days'")
    charging.forget_charges()
    assert plane.ask("SELECT FROM image_control.charges") == []
    assert not charging.is_charged("0" * 64)
    assert charging.charge(call(1, days=KEEP_DAYS + 2)) is Charged.TOO_OLD
    assert used(plane) == {"a": 10}


def test_the_newest_charged_file_goes_by_the_daemons_names(charging: Charging) -> None:
    assert charging.newest_charged_file() is None
    for number, day in enumerate(("20261120", "20261122", "20261121")):
        charging.note_charged(str(number) * 64, f"requests-{day}T000000Z-0001.jsonl")
    charging.note_charged("9" * 64, "requests-old.jsonl")
    assert charging.newest_charged_file() == "requests-20261122T000000Z-0001.jsonl"


# -- who may charge, and where ---------------------------------------------------------------------


def test_the_charger_charges_and_can_do_nothing_else(plane: Plane) -> None:
    plane.execute(sql.schema("charger", "standalone"))
    plane.add_key(key_id="a")
    url = plane.url.replace("//postgres:@", "//image_gateway_charger:@", 1)
    with opened(url) as charging:
        assert charging.charge(call(1)) is Charged.CHARGED
        charging.note_charged("0" * 64, "requests-1.jsonl")
        assert charging.is_charged("0" * 64)
        charging.forget_charges()
    rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    found = plane.ask(
        "SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'v')"
        " AND c.relnamespace IN ('image_control'::regnamespace, 'image_gateway'::regnamespace)"
        f" AND has_table_privilege('image_gateway_charger', c.oid, '{rights}')"
    )
    assert found == [("charged_files",)]


def test_the_reader_may_not_charge(plane: Plane) -> None:
    plane.add_key(key_id="a")
    with (
        psycopg.connect(plane.reader_url) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute("SELECT image_gateway.charge('r', 'a', now(), null, null, '{}', 1, 1)")


def test_a_control_plane_without_a_charge_is_told_so(plane: Plane) -> None:
    plane.execute("DROP FUNCTION image_gateway.charge")
    with (
        pytest.raises(UnusableError, match=r"no function image_gateway\.charge"),
        opened(plane.url),
    ):
        pass


def test_a_charge_of_another_version_of_the_plane_is_told_with_the_cure(
    charging: Charging, plane: Plane
) -> None:
    plane.add_key(key_id="another")
    plane.execute("ALTER TABLE image_control.charges RENAME COLUMN model TO models")
    with pytest.raises(UnusableError, match=r"\"model\" .* does not exist\. .*schema NAME"):
        charging.charge(call(1, "another"))


def test_a_control_plane_of_ones_own_charges_without_any_table_of_the_gateway(
    plane: Plane,
) -> None:
    """Then no file is remembered, and each is read again."""
    plane.execute(
        "DROP SCHEMA image_control CASCADE; DROP FUNCTION image_gateway.own_schema;"
        "CREATE OR REPLACE FUNCTION image_gateway.charge(request_id text, key_id text,"
        " at timestamptz, model text, account_name text, tokens jsonb, images integer,"
        " cost numeric) RETURNS text LANGUAGE sql AS $$ SELECT key_id $$"
    )
    with opened(plane.url) as charging:
        assert charging.charge(call(1, "charged")) is Charged.CHARGED
        charging.note_charged("0" * 64, "requests-1.jsonl")
        assert not charging.is_charged("0" * 64)
        assert charging.newest_charged_file() is None
        charging.forget_charges()
        with pytest.raises(UnusableError, match="answered 'a'"):
            charging.charge(call(2, "a"))


# -- pictures and money ----------------------------------------------------------------------------


def test_each_charge_takes_from_every_quota_and_the_least_is_what_remains(
    charging: Charging, plane: Plane
) -> None:
    plane.add_key(
        key_id="a",
        image_limit=10,
        image_limit_day=3,
        image_limit_month=5,
        cost_limit=1,
        cost_limit_day=2,
    )
    assert remaining(plane) == (3, 1)
    charging.charge(replace(call(1), images=2, cost=Decimal("0.25")))
    assert remaining(plane) == (1, Decimal("0.75"))
    charging.charge(replace(call(2), images=4, cost=None))
    assert remaining(plane) == (-3, Decimal("0.75"))


def test_a_call_of_a_day_that_is_over_counts_for_the_total_and_not_for_today(
    charging: Charging, plane: Plane
) -> None:
    """A log may be applied days later, and a call of last year is of no month that counts."""
    plane.add_key(key_id="a", image_limit=10, image_limit_day=3, image_limit_month=5)
    charging.charge(call(1))
    charging.charge(call(2, days=70))
    [row] = plane.ask(
        "SELECT images_used, images_used_day, images_used_month FROM image_control.key_used"
    )
    assert row == (2, 1, 1)


def test_a_new_day_begins_with_nothing_used(charging: Charging, plane: Plane) -> None:
    plane.add_key(key_id="a", image_limit=10, image_limit_day=1)
    charging.charge(call(1, days=1))
    assert remaining(plane)[0] == 1
    charging.charge(call(2))
    assert remaining(plane)[0] == 0


def test_a_call_from_a_clock_that_is_ahead_counts_for_today(
    charging: Charging, plane: Plane
) -> None:
    """Not for its own day, until which no other call would count."""
    plane.add_key(key_id="a", image_limit_day=3, image_limit_month=5)
    charging.charge(call(1, days=-400))
    charging.charge(call(2))
    assert remaining(plane)[0] == 1


@pytest.mark.parametrize(
    ("images", "cost"), [(-2, Decimal(-1)), (0, Decimal("NaN")), (0, Decimal("Infinity"))]
)
def test_odd_numbers_charge_nothing_and_the_call_is_noted(
    charging: Charging, plane: Plane, images: int, cost: Decimal
) -> None:
    plane.add_key(key_id="a", image_limit=10, cost_limit=1)
    odd = replace(call(1), images=images, cost=cost)
    assert [charging.charge(odd), charging.charge(odd)] == [Charged.CHARGED, Charged.BEFORE]
    assert remaining(plane) == (10, 1)


# -- what running gateways hear --------------------------------------------------------------------


def hash_of(plane: Plane, key_id: str) -> str:
    hashes = dict(plane.ask("SELECT key_id, key_hash FROM image_control.keys"))
    found: str = hashes[key_id]
    return found


def test_charges_that_leave_something_are_told_to_no_running_gateway(
    charging: Charging, plane: Plane
) -> None:
    """Told of each charge it would forget 200 keys, just before Postgres goes away perhaps."""
    for number in range(200):
        plane.add_key(key_id=f"k{number}", quota_limit=None if number % 2 else 100, image_limit=9)
    with listening(plane) as told:
        words = {charging.charge(call(number, f"k{number}")) for number in range(200)}
    assert words == {Charged.CHARGED}
    assert set(used(plane).values()) == {10}
    assert told == []


@pytest.mark.parametrize("limit", [{"quota_limit": 30}, {"image_limit": 3}, {"cost_limit_day": 3}])
def test_a_quota_that_ends_is_told_by_its_key(
    charging: Charging, plane: Plane, limit: dict[str, int]
) -> None:
    """Used up is what is used to the last; what is used beyond that changes nothing."""
    plane.add_key(key_id="a", **limit)
    by_key = f"key:{hash_of(plane, 'a')}"
    for number, heard in ((1, []), (2, []), (3, [by_key]), (4, [])):
        with listening(plane) as told:
            charging.charge(replace(call(number), cost=Decimal(1)))
        assert told == heard, number
    with listening(plane) as told:
        plane.update("keys", {"key_id": "a"}, **dict.fromkeys(limit, 50))
    assert set(told) == {by_key}


@given(drawn=st.lists(odd_records(), max_size=5))
@settings(max_examples=scaled(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_may_hold_the_calls_around_it_are_charged(
    charging: Charging, plane: Plane, drawn: list[dict[str, Any]]
) -> None:
    """What has a charge, the database can hold, whatever its time and its names."""
    plane.execute("TRUNCATE image_control.keys, image_control.charges CASCADE")
    odd = [found for found in map(charges.of, drawn) if isinstance(found, Charge)]
    for key_id in {"sound", *(charge.key_id for charge in odd)}:
        plane.add_key(key_id=key_id)
    sound = Charge("req_sound", "sound", 10, 1, datetime.now(UTC))
    words = [(charge, charging.charge(charge)) for charge in (*odd, sound)]
    assert words[-1][1] is Charged.CHARGED
    charged = sum(charge.tokens or 0 for charge, word in words if word is Charged.CHARGED)
    assert charged == sum(used(plane).values())
