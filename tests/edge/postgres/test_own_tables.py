"""The gateway's own tables over a real Postgres: who may change and see what, and who hears."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.records import charges
from image_gateway.core.rows import RowError
from image_gateway.edge.postgres import admin
from image_gateway.edge.postgres.admin import UnusableError
from image_gateway.edge.postgres.own_tables import (
    InUseError,
    NotThereError,
    OwnTables,
    TakenError,
)
from tests.edge.postgres.listening import listening
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.pages import PROJECT
from tests.parts.plane import Plane

CURE = re.escape('image-gateway schema NAME | psql "$ADMIN_URL"')
OLDER = PROJECT.joinpath("tests/planes/standalone_contract_1.sql").read_text("utf-8")


@contextmanager
def opened(url: str) -> Iterator[OwnTables]:
    """The tables over a connection of their own."""
    with admin.connected(Secret(url)) as connection:
        yield OwnTables(connection)


@pytest.fixture
def tables(plane: Plane) -> Iterator[OwnTables]:
    with opened(plane.url) as made:
        yield made


def ask(plane: Plane, statement: str) -> list[Any]:
    with psycopg.connect(plane.url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def used(plane: Plane) -> dict[str, int]:
    return dict(ask(plane, "SELECT key_id, quota_used FROM image_control.keys"))


# -- the tables ------------------------------------------------------------------------------------


@pytest.fixture
def older(postgres_url: str) -> Iterator[Plane]:
    """A database as the release before left it."""
    made = Plane(postgres_url)
    made.create(OLDER)
    yield made
    made.drop()


def test_an_older_installation_is_told_the_cure_and_cured_by_it(older: Plane) -> None:
    older.add_key(key_id="a", quota_used=7)
    with pytest.raises(UnusableError, match=CURE), opened(older.url):
        pass
    older.execute(sql.schema("standalone"))
    with opened(older.url) as tables:
        assert [row["quota_used"] for row in tables.list_keys()] == [7]
        changed = tables.change_key("a", lambda row: {**row, "image_limit": 5})
        assert (changed["quota_used"], changed["image_limit"]) == (7, 5)


def test_an_account_for_which_nobody_chose_fails_as_its_dialect_does(older: Plane) -> None:
    """The column could not hold null before, so its false said nothing."""
    older.add_account("a", None)
    older.add_account("b", None, fails_free=True)
    older.execute(sql.schema("standalone"))
    with opened(older.url) as tables:
        tables.change_account("b", lambda row: {**row, "fails_free": False})
        older.execute(sql.schema("standalone"))
        found = {row["account_name"]: row["fails_free"] for row in tables.list_accounts()}
    assert found == {"a": None, "b": False}


def test_a_database_without_the_tables_is_told_the_cure(postgres_url: str) -> None:
    with (
        pytest.raises(UnusableError, match=CURE),
        opened(postgres_url),
    ):
        pass


def test_the_schema_may_be_run_again_and_keeps_what_was_charged(plane: Plane) -> None:
    plane.add_key(key_id="a", image_limit=5)
    charge = "SELECT image_gateway.charge('r', 'a', now(), null, null, '{\"total\": 10}', 1, 1)"
    assert ask(plane, charge) == [("charged",)]
    plane.execute(sql.schema("standalone"))
    assert ask(plane, charge) == [("charged_before",)]
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
        opened(plane.reader_url),
    ):
        pass
    with (
        pytest.raises(UnusableError) as told,
        opened("postgresql://me:hush@127.0.0.1:1/db"),
    ):
        pass
    assert "cannot be reached" in str(told.value)
    assert "hush" not in str(told.value)


def test_the_session_has_its_own_name(tables: OwnTables, plane: Plane) -> None:
    tables.list_keys()
    found = ask(plane, "SELECT application_name FROM pg_stat_activity WHERE datname IS NOT NULL")
    assert ("image-gateway control",) in found


# -- rows ------------------------------------------------------------------------------------------


NULLABLE = (
    *("group_id", "owner_id", "expires_at", "quota_limit", "image_limit", "image_limit_day"),
    *("image_limit_month", "cost_limit", "cost_limit_day", "cost_limit_month", "max_concurrency"),
    *("min_start_interval_ms", "json_keepalive_seconds", "allowed_models", "model_map"),
    "account_names",
)


def key_row(**columns: Any) -> dict[str, Any]:
    return {
        "key_id": "a",
        "key_name": "",
        "key_hash": "0" * 64,
        "status": "active",
        "image_enabled": True,
        **dict.fromkeys(NULLABLE),
        "route_strategy": "auto",
        **columns,
    }


def test_what_is_there_already_is_not_made_again(tables: OwnTables, plane: Plane) -> None:
    tables.add_key(key_row(key_name="first"))
    with pytest.raises(TakenError, match="key a exists already"):
        tables.add_key(key_row(key_name="second", key_hash="1" * 64))
    assert [row["key_name"] for row in tables.list_keys()] == ["first"]


def test_a_key_names_only_what_is_there(tables: OwnTables) -> None:
    with pytest.raises(NotThereError, match="there is no group g"):
        tables.add_key(key_row(group_id="g"))
    with pytest.raises(NotThereError, match="there is no owner o"):
        tables.add_key(key_row(owner_id="o"))
    with pytest.raises(NotThereError, match="there is no account x, y"):
        tables.add_key(key_row(account_names=["y", "x"]))
    assert tables.list_keys() == []
    tables.add_key(key_row())
    with pytest.raises(NotThereError, match="there is no group g"):
        tables.change_key("a", lambda row: {**row, "group_id": "g", "status": "disabled"})
    assert tables.key("a")["status"] == "active"


def test_what_is_removed_is_given_as_it_was_and_is_there_no_more(tables: OwnTables) -> None:
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
        with opened(plane.url) as own:
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


def test_a_change_holds_its_row_so_that_none_is_lost(tables: OwnTables, plane: Plane) -> None:
    """Twenty at once, each on what the one before left."""
    tables.add_key(key_row(max_concurrency=0))

    def add_one(_: int) -> None:
        with opened(plane.url) as own:
            own.change_key("a", lambda row: {**row, "max_concurrency": row["max_concurrency"] + 1})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(add_one, range(20)))
    assert tables.key("a")["max_concurrency"] == 20


def test_what_only_the_tables_refuse_is_a_mistake_and_quotes_no_value(plane: Plane) -> None:
    with (
        pytest.raises(RowError) as told,
        opened(plane.url) as tables,
    ):
        tables.add_key(key_row(key_hash="hush"))
    assert "key_hash" in str(told.value)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01"])
def test_an_account_that_is_blocked_for_ever_is_told_like_any_other(
    tables: OwnTables, plane: Plane, moment: str
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
        opened(plane.url) as tables,
    ):
        tables.add_key(key_row(key_id="x" * (charges.LONGEST_TEXT + 1)))
    with opened(plane.url) as tables:
        tables.add_key(key_row(key_id="\U0001f58c" * charges.LONGEST_TEXT))


# -- waiting ---------------------------------------------------------------------------------------


def test_nothing_waits_for_ever_for_what_somebody_holds(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a look nor a change; nothing is done then."""
    monkeypatch.setattr(admin, "LOCK_SECONDS", 0.2)
    plane.add_key(key_id="a")
    acts: list[Callable[[OwnTables], object]] = [
        lambda tables: tables.key("a"),
        lambda tables: tables.change_key("a", lambda row: {**row, "status": "disabled"}),
    ]
    with psycopg.connect(plane.url) as holder:
        holder.execute("SELECT FROM image_control.keys FOR UPDATE")
        for act in acts:
            with (
                pytest.raises(UnusableError, match=r"held .* the change was not made"),
                opened(plane.url) as tables,
            ):
                act(tables)
    assert ask(plane, "SELECT status, quota_used FROM image_control.keys") == [("active", 0)]


def test_no_statement_takes_for_ever(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "STATEMENT_SECONDS", 0.2)
    plane.execute(
        "CREATE FUNCTION pg_temp_wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';"
        "CREATE TRIGGER wait BEFORE INSERT ON image_control.keys"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp_wait()"
    )
    with (
        pytest.raises(UnusableError, match="the change was not made"),
        opened(plane.url) as tables,
    ):
        tables.add_key(key_row())


def test_the_bounds_of_waiting_end_with_their_transaction(tables: OwnTables) -> None:
    """Behind a transaction pooler others use the same session next."""
    tables.list_keys()
    rows = tables._admin._connection.execute("SHOW lock_timeout").fetchall()
    assert rows == [{"lock_timeout": "0"}]


# -- notifications ---------------------------------------------------------------------------------


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
    tables: OwnTables, plane: Plane
) -> None:
    plane.add_key(key_id="a")
    before = hash_of(plane, "a")
    with listening(plane) as told:
        tables.change_key("a", lambda row: {**row, "key_hash": "0" * 64})
    assert set(told) == {f"key:{before}", f"key:{'0' * 64}"}
