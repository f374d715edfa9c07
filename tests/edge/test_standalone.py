"""The standalone tables over a real Postgres: what is charged once, and who may see what."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from image_gateway import sql
from image_gateway.core.charges import Charge
from image_gateway.core.model import RowError, Secret
from image_gateway.edge import standalone
from image_gateway.edge.standalone import (
    KEEP_DAYS,
    Charged,
    NotThereError,
    Standalone,
    TakenError,
    UnusableError,
)
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.plane import Plane

CURE = re.escape('image-gateway schema standalone | psql "$ADMIN_URL"')
NOW = datetime.now(UTC)


@pytest.fixture
def tables(plane: Plane) -> Iterator[Standalone]:
    with standalone.connected(Secret(plane.url)) as made:
        yield made


def ask(plane: Plane, statement: str) -> list[Any]:
    with psycopg.connect(plane.url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def used(plane: Plane) -> dict[str, int]:
    return dict(ask(plane, "SELECT key_id, quota_used FROM image_control.keys"))


def call(number: int, key_id: str = "a", tokens: int = 10, days: float = 0) -> Charge:
    return Charge(f"req_{number}", key_id, tokens, 1, NOW - timedelta(days=days))


def older(plane: Plane) -> None:
    """As the first release left the database."""
    plane.execute(
        "DROP TABLE image_control.charges, image_control.charged_files;"
        "DROP FUNCTION image_control.schema_version()"
    )


# -- the tables ------------------------------------------------------------------------------------


def test_an_older_installation_is_told_the_cure_and_cured_by_it(plane: Plane) -> None:
    plane.add_key(key_id="a", quota_used=7)
    older(plane)
    with (
        pytest.raises(UnusableError, match=CURE),
        standalone.connected(Secret(plane.url)),
    ):
        pass
    plane.execute(sql.text("standalone"))
    with standalone.connected(Secret(plane.url)) as tables:
        assert [row["quota_used"] for row in tables.list_keys()] == [7]
        assert tables.charge([call(1)]) == [Charged("a", 1, 10, 1, 0)]


def test_a_database_without_the_tables_is_told_the_cure(postgres_url: str) -> None:
    with (
        pytest.raises(UnusableError, match=CURE),
        standalone.connected(Secret(postgres_url)),
    ):
        pass


def test_the_schema_may_be_run_again_and_keeps_what_was_charged(plane: Plane) -> None:
    plane.add_key(key_id="a")
    with standalone.connected(Secret(plane.url)) as tables:
        tables.charge([call(1)])
        plane.execute(sql.text("standalone"))
        tables.charge([call(1)])
    assert used(plane) == {"a": 10}


def test_the_reader_has_no_right_on_any_table_of_the_control_plane(plane: Plane) -> None:
    rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    found = ask(
        plane,
        "SELECT c.relname, has_schema_privilege('image_gateway_reader', c.relnamespace, 'USAGE'),"
        f" has_table_privilege('image_gateway_reader', c.oid, '{rights}'),"
        " has_any_column_privilege('image_gateway_reader', c.oid, 'SELECT, INSERT, UPDATE')"
        " FROM pg_class c WHERE c.relnamespace = 'image_control'::regnamespace"
        " AND c.relkind IN ('r', 'p', 'v', 'S')",
    )
    assert {name for name, *_ in found} >= {"keys", "groups", "accounts", "charges"}
    assert [row for row in found if any(row[1:])] == []


def test_a_role_that_may_not_write_is_told_so_and_a_password_is_never_quoted(plane: Plane) -> None:
    with (
        pytest.raises(UnusableError, match="may not do this"),
        standalone.connected(Secret(plane.reader_url)),
    ):
        pass
    with (
        pytest.raises(UnusableError) as told,
        standalone.connected(Secret("postgresql://me:hush@127.0.0.1:1/db")),
    ):
        pass
    assert "cannot be reached" in str(told.value)
    assert "hush" not in str(told.value)


def test_the_session_has_its_own_name(tables: Standalone, plane: Plane) -> None:
    tables.list_keys()
    found = ask(plane, "SELECT application_name FROM pg_stat_activity WHERE datname IS NOT NULL")
    assert ("image-gateway control",) in found


# -- rows ------------------------------------------------------------------------------------------


def key_row(**columns: Any) -> dict[str, Any]:
    return {
        "key_id": "a",
        "key_name": "",
        "key_hash": "0" * 64,
        "status": "active",
        "image_enabled": True,
        "group_id": None,
        "quota_limit": None,
        "max_concurrency": None,
        "min_start_interval_ms": None,
        "allowed_models": None,
        "model_map": None,
        "account_names": None,
        "route_strategy": "auto",
        **columns,
    }


def test_what_is_there_already_is_not_made_again(tables: Standalone, plane: Plane) -> None:
    tables.add_key(key_row(key_name="first"))
    with pytest.raises(TakenError, match="key a is there already"):
        tables.add_key(key_row(key_name="second", key_hash="1" * 64))
    assert [row["key_name"] for row in tables.list_keys()] == ["first"]


def test_a_key_names_only_what_is_there(tables: Standalone) -> None:
    with pytest.raises(NotThereError, match="there is no group g"):
        tables.add_key(key_row(group_id="g"))
    with pytest.raises(NotThereError, match="there is no account x, y"):
        tables.add_key(key_row(account_names=["y", "x"]))
    assert tables.list_keys() == []
    tables.add_key(key_row())
    with pytest.raises(NotThereError, match="there is no group g"):
        tables.change_key("a", lambda row: {**row, "group_id": "g", "status": "disabled"})
    assert tables.key("a")["status"] == "active"


def test_a_change_holds_its_row_so_that_none_is_lost(tables: Standalone, plane: Plane) -> None:
    """Twenty at once, each on what the one before left."""
    tables.add_key(key_row(max_concurrency=0))

    def add_one(_: int) -> None:
        with standalone.connected(Secret(plane.url)) as own:
            own.change_key("a", lambda row: {**row, "max_concurrency": row["max_concurrency"] + 1})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(add_one, range(20)))
    assert tables.key("a")["max_concurrency"] == 20


def test_what_only_the_tables_refuse_is_a_mistake_and_quotes_no_value(plane: Plane) -> None:
    with (
        pytest.raises(RowError) as told,
        standalone.connected(Secret(plane.url)) as tables,
    ):
        tables.add_key(key_row(key_hash="hush"))
    assert "key_hash" in str(told.value)
    assert "hush" not in str(told.value)


# -- charges ---------------------------------------------------------------------------------------


def test_a_call_is_charged_once_within_a_batch_and_over_batches(
    tables: Standalone, plane: Plane
) -> None:
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    batch = [call(1), call(1), call(2, "b", 5), call(3)]
    assert sorted(tables.charge(batch), key=lambda each: each.key_id) == [
        Charged("a", 2, 20, 2, 0),
        Charged("b", 1, 5, 1, 0),
    ]
    assert tables.charge([call(3), call(4)]) == [Charged("a", 1, 10, 1, 0)]
    assert tables.charge([call(4)]) == [Charged("a", 0, 0, 0, 0)]
    assert used(plane) == {"a": 30, "b": 5}


def test_a_key_that_is_not_there_is_charged_nothing(tables: Standalone, plane: Plane) -> None:
    plane.add_key(key_id="a")
    assert tables.charge([call(1, "gone"), call(2)]) == [Charged("a", 1, 10, 1, 0)]
    assert tables.charge([call(3, "gone")]) == []
    assert ask(plane, "SELECT request_id FROM image_control.charges") == [("req_2",)]


async def test_two_who_charge_the_same_calls_in_opposite_order_never_wait_in_a_circle(
    plane: Plane,
) -> None:
    """Both begin while the call in the middle of both is just being charged by a third."""
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    calls = [call(1), call(2, "b"), call(3), call(4, "b"), call(5)]

    def charge(mine: list[Charge]) -> int:
        with standalone.connected(Secret(plane.url)) as own:
            return sum(each.calls for each in own.charge(mine))

    def waiting() -> bool:
        found = ask(
            plane,
            "SELECT FROM pg_stat_activity WHERE application_name = 'image-gateway control'"
            " AND datname = current_database() AND wait_event_type = 'Lock'",
        )
        return len(found) == 2

    with psycopg.connect(plane.url) as third:
        third.execute(
            "INSERT INTO image_control.charges (request_id, key_id, tokens, images, called_at)"
            " VALUES ('req_3', 'a', 10, 1, now())"
        )
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(charge, mine) for mine in (calls, calls[::-1])]
            try:
                await eventually(waiting)
            finally:
                third.rollback()
            assert sorted(each.result(BOUND_SECONDS) for each in both) == [0, 5]
    assert used(plane) == {"a": 30, "b": 20}


def test_charges_are_forgotten_only_when_their_calls_could_not_be_charged_again(
    tables: Standalone, plane: Plane
) -> None:
    """On either side of the limit, and after it too."""
    plane.add_key(key_id="a")
    assert tables.charge([call(1, days=KEEP_DAYS - 1), call(2, days=KEEP_DAYS + 0.1)]) == [
        Charged("a", 1, 10, 1, 1)
    ]
    tables.note_charged("0" * 64, "requests-1.jsonl")
    tables.forget_charges()
    assert ask(plane, "SELECT request_id FROM image_control.charges") == [("req_1",)]
    assert tables.is_charged("0" * 64)
    plane.execute("UPDATE image_control.charges SET called_at = called_at - interval '1 day'")
    tables.forget_charges()
    assert len(ask(plane, "SELECT FROM image_control.charges")) == 1, "a day of grace"
    for table, column in (("charges", "called_at"), ("charged_files", "charged_at")):
        plane.execute(f"UPDATE image_control.{table} SET {column} = now() - interval '402 days'")
    tables.forget_charges()
    assert ask(plane, "SELECT FROM image_control.charges") == []
    assert not tables.is_charged("0" * 64)
    assert tables.charge([call(1, days=KEEP_DAYS + 2)]) == [Charged("a", 0, 0, 0, 1)]
    assert used(plane) == {"a": 10}


def test_a_charge_is_told_to_running_gateways_by_its_key(tables: Standalone, plane: Plane) -> None:
    """One that charges nothing is told to nobody."""
    plane.add_key(key_id="a")
    tables.charge([call(1)])
    [(key_hash,)] = ask(plane, "SELECT key_hash FROM image_control.keys")
    with psycopg.connect(plane.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        tables.charge([call(1)])
        tables.charge([call(2, tokens=0)])
        tables.charge([call(3)])
        listener.execute("NOTIFY image_gateway_changed, 'the end'")
        told = []
        for each in listener.notifies(timeout=20):
            if each.payload == "the end":
                break
            told.append(each.payload)
    assert told == [f"key:{key_hash}"]
