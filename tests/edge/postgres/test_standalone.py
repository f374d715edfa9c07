"""The standalone tables over a real Postgres: what is charged once, and who may see what."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.records import charges
from image_gateway.core.records.charges import Charge
from image_gateway.core.rows import RowError
from image_gateway.edge.postgres import standalone
from image_gateway.edge.postgres.standalone import (
    KEEP_DAYS,
    Charged,
    InUseError,
    NotThereError,
    Standalone,
    TakenError,
    UnusableError,
)
from tests.parts.charged import odd_records
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.examples import scaled
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
        "DROP FUNCTION image_control.schema_version();"
        "ALTER TABLE image_control.keys DROP CONSTRAINT keys_key_id_check"
    )


# -- the tables ------------------------------------------------------------------------------------


def test_an_older_installation_is_told_the_cure_and_cured_by_it(plane: Plane) -> None:
    plane.add_key(key_id="a", quota_used=7)
    older(plane)
    plane.add_key(key_id="b" * 300)
    with (
        pytest.raises(UnusableError, match=CURE),
        standalone.connected(Secret(plane.url)),
    ):
        pass
    plane.execute(sql.schema("standalone"))
    with standalone.connected(Secret(plane.url)) as tables:
        assert [row["quota_used"] for row in tables.list_keys()] == [7, 0]
        tables.change_key("b" * 300, lambda row: {**row, "status": "disabled"})
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
        plane.execute(sql.schema("standalone"))
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
    with pytest.raises(TakenError, match="key a exists already"):
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


def test_what_is_removed_is_given_as_it_was_and_is_there_no_more(tables: Standalone) -> None:
    tables.add_key(key_row(key_name="first"))
    assert tables.remove_key("a")["key_name"] == "first"
    assert tables.list_keys() == []
    with pytest.raises(NotThereError, match="there is no key a"):
        tables.remove_key("a")
    with pytest.raises(NotThereError, match="there is no group a"):
        tables.remove_group("a")
    with pytest.raises(NotThereError, match="there is no account a"):
        tables.remove_account("a")


async def test_a_group_is_kept_for_a_key_that_is_just_being_made(plane: Plane) -> None:
    """By somebody whose transaction is open when the removal begins, with SQL of their own."""
    plane.add_group("g", image_enabled=True)

    def remove() -> None:
        with standalone.connected(Secret(plane.url)) as own:
            own.remove_group("g")

    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'image-gateway control'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(plane.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute(
            "INSERT INTO image_control.keys (key_id, key_hash, group_id)"
            " VALUES ('k', repeat('0', 64), 'g')"
        )
        removal = pool.submit(remove)
        await eventually(lambda: ask(plane, waiting))
        other.commit()
        with pytest.raises(InUseError, match="keys belong to group g"):
            removal.result(BOUND_SECONDS)
    assert ask(plane, "SELECT group_id FROM image_control.keys") == [("g",)]


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


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01"])
def test_an_account_that_is_blocked_for_ever_is_told_like_any_other(
    tables: Standalone, plane: Plane, moment: str
) -> None:
    plane.add_account("one", None)
    plane.update("accounts", {"account_name": "one"}, blocked_until=moment)
    assert tables.account("one")["blocked_until"].year in {1970, 9000}
    assert [row["account_name"] for row in tables.list_accounts()] == ["one"]
    tables.change_account("one", lambda row: {**row, "status": "disabled"})
    found = ask(plane, "SELECT blocked_until::text, status FROM image_control.accounts")
    assert found[0][1] == "disabled"
    assert found[0][0].startswith(moment)


def test_a_key_whose_id_no_log_record_can_hold_is_refused(plane: Plane) -> None:
    with (
        pytest.raises(RowError, match="key_id"),
        standalone.connected(Secret(plane.url)) as tables,
    ):
        tables.add_key(key_row(key_id="x" * (charges.LONGEST_TEXT + 1)))
    with standalone.connected(Secret(plane.url)) as tables:
        tables.add_key(key_row(key_id="\U0001f58c" * charges.LONGEST_TEXT))


# -- waiting ---------------------------------------------------------------------------------------


def test_nothing_waits_for_ever_for_what_somebody_holds(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a look nor a change nor a charge; nothing is done then."""
    monkeypatch.setattr(standalone, "LOCK_SECONDS", 0.2)
    plane.add_key(key_id="a")
    acts: list[Callable[[Standalone], object]] = [
        lambda tables: tables.key("a"),
        lambda tables: tables.change_key("a", lambda row: {**row, "status": "disabled"}),
        lambda tables: tables.charge([call(1)]),
    ]
    with psycopg.connect(plane.url) as holder:
        holder.execute("SELECT FROM image_control.keys FOR UPDATE")
        for act in acts:
            with (
                pytest.raises(UnusableError, match=r"held .* the change was not made"),
                standalone.connected(Secret(plane.url)) as tables,
            ):
                act(tables)
    assert ask(plane, "SELECT status, quota_used FROM image_control.keys") == [("active", 0)]


def test_no_statement_takes_for_ever(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standalone, "STATEMENT_SECONDS", 0.2)
    plane.execute(
        "CREATE FUNCTION pg_temp_wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';"
        "CREATE TRIGGER wait BEFORE INSERT ON image_control.keys"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp_wait()"
    )
    with (
        pytest.raises(UnusableError, match="the change was not made"),
        standalone.connected(Secret(plane.url)) as tables,
    ):
        tables.add_key(key_row())


def test_the_bounds_of_waiting_end_with_their_transaction(tables: Standalone) -> None:
    """Behind a transaction pooler others use the same session next."""
    tables.list_keys()
    rows = tables._connection.execute("SHOW lock_timeout").fetchall()
    assert rows == [{"lock_timeout": "0"}]


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


@contextmanager
def listening(plane: Plane) -> Iterator[list[str]]:
    """What running gateways were told within the block, once it is over."""
    told: list[str] = []
    with psycopg.connect(plane.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        yield told
        listener.execute("NOTIFY image_gateway_changed, 'the end'")
        for each in listener.notifies(timeout=BOUND_SECONDS):
            if each.payload == "the end":
                return
            told.append(each.payload)
    pytest.fail("the end was never told")


def test_an_account_s_last_error_is_no_change(plane: Plane) -> None:
    """The gateway does not read it, so a row that only says why it failed costs no call."""
    plane.add_account("a", None)
    where = {"account_name": "a"}
    with listening(plane) as told:
        plane.update("accounts", where, last_error="usage limit")
    assert told == []
    with listening(plane) as told:
        plane.update("accounts", where, last_error="blocked", status="off")
    assert told == ["account:a"]


def hash_of(plane: Plane, key_id: str) -> str:
    hashes = dict(ask(plane, "SELECT key_id, key_hash FROM image_control.keys"))
    found: str = hashes[key_id]
    return found


def test_charges_that_leave_something_are_told_to_no_running_gateway(
    tables: Standalone, plane: Plane
) -> None:
    """Told of each charge it would forget 200 keys, just before Postgres goes away perhaps."""
    for number in range(200):
        plane.add_key(key_id=f"k{number}", quota_limit=None if number % 2 else 100)
    with listening(plane) as told:
        charged = tables.charge([call(number, f"k{number}") for number in range(200)])
    assert sum(each.calls for each in charged) == 200
    assert set(used(plane).values()) == {10}
    assert told == []


def test_a_quota_that_ends_or_begins_again_is_told_by_its_key(
    tables: Standalone, plane: Plane
) -> None:
    """Used up is what is used to the last token; what is used beyond that changes nothing."""
    plane.add_key(key_id="a", quota_limit=30)
    by_key = f"key:{hash_of(plane, 'a')}"
    for number, heard in ((1, []), (2, []), (3, [by_key]), (4, [])):
        with listening(plane) as told:
            tables.charge([call(number)])
        assert told == heard, number
    with listening(plane) as told:
        plane.update("keys", {"key_id": "a"}, quota_used=0)
    assert set(told) == {by_key}


@pytest.mark.parametrize(
    "columns",
    [
        {"quota_limit": 50},
        {"quota_limit": None},
        {"status": "disabled"},
        {"status": "disabled", "quota_used": 1},
        {"model_map": {"a": "b"}},
        {"account_names": ["one"]},
    ],
)
def test_whatever_else_changes_of_a_key_is_told(plane: Plane, columns: dict[str, Any]) -> None:
    plane.add_key(key_id="a", quota_limit=30)
    with listening(plane) as told:
        plane.update("keys", {"key_id": "a"}, **columns)
    assert set(told) == {f"key:{hash_of(plane, 'a')}"}


def test_a_key_that_gets_another_secret_is_told_by_the_old_one_and_the_new(
    tables: Standalone, plane: Plane
) -> None:
    plane.add_key(key_id="a")
    before = hash_of(plane, "a")
    with listening(plane) as told:
        tables.change_key("a", lambda row: {**row, "key_hash": "0" * 64})
    assert set(told) == {f"key:{before}", f"key:{'0' * 64}"}


@given(drawn=st.lists(odd_records(), max_size=5))
@settings(max_examples=scaled(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_may_hold_the_calls_around_it_are_charged(
    tables: Standalone, plane: Plane, drawn: list[dict[str, Any]]
) -> None:
    """What has a charge, the database can hold, whatever its time and its names."""
    plane.execute("TRUNCATE image_control.keys, image_control.charges CASCADE")
    odd = [found for found in map(charges.of, drawn) if isinstance(found, Charge)]
    for key_id in {"sound", *(charge.key_id for charge in odd)}:
        plane.add_key(key_id=key_id)
    sound = Charge("req_sound", "sound", 10, 1, NOW)
    charged = {each.key_id: each for each in tables.charge([*odd, sound])}
    assert charged.keys() == {"sound", *(charge.key_id for charge in odd)}
    assert used(plane)["sound"] >= 10
    assert sum(each.tokens for each in charged.values()) == sum(used(plane).values())


def test_the_newest_charged_file_goes_by_the_daemons_names(tables: Standalone) -> None:
    assert tables.newest_charged_file() is None
    for number, day in enumerate(("20261120", "20261122", "20261121")):
        tables.note_charged(str(number) * 64, f"requests-{day}T000000Z-0001.jsonl")
    tables.note_charged("9" * 64, "requests-old.jsonl")
    assert tables.newest_charged_file() == "requests-20261122T000000Z-0001.jsonl"
