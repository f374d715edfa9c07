"""The cliproxyapi adapter comes, finds the store, stays within its rights, and goes."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.edge.postgres import contract
from tests.parts.pages import Page
from tests.planes.cliproxyapi.database import Store
from tests.planes.notices import heard

pytestmark = pytest.mark.slow

PAGE = Page("image_gateway/sql/planes/cliproxyapi.md")


@pytest.fixture
def elsewhere(server_url: str) -> Iterator[Store]:
    """A store in a schema of its own."""
    made = Store(server_url)
    made.create_elsewhere("pgstore Eins")
    yield made
    made.drop()


def refused(attempt: Callable[[], None]) -> str:
    """What somebody is told whose installation is refused, and leaves nothing behind."""
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        attempt()
    return caught.value.diag.message_primary or ""


def test_the_store_is_found_on_the_search_path_and_remembered(elsewhere: Store) -> None:
    said = refused(elsewhere.install)
    assert (
        'search_path ("$user", public) has the table auth_store and the table config_store' in said
    )
    assert "PGOPTIONS='-c search_path=NAME' psql" in said
    assert elsewhere.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []
    elsewhere.install_from("pgstore Eins")
    assert "codex-a.json" in elsewhere.accounts()
    # A later run, and the triggers, need no search_path.
    elsewhere.install()
    assert "codex-a.json" in elsewhere.accounts()
    elsewhere.execute(sql.schema("cliproxyapi_notify"))
    change = "UPDATE \"pgstore Eins\".auth_store SET content = '{}' WHERE id = 'codex-a.json'"
    assert heard(elsewhere, change) == ["account:codex-a.json"]


def test_another_store_takes_the_place_of_the_first(elsewhere: Store) -> None:
    elsewhere.install_from("pgstore Eins")
    elsewhere.execute(
        "CREATE TABLE auth_store (id varchar(9) PRIMARY KEY, content jsonb);"
        " CREATE TABLE config_store (id text, content text);"
        """ INSERT INTO auth_store VALUES ('new', '{"type": "codex"}')"""
    )
    elsewhere.install()
    assert set(elsewhere.accounts()) == {"new"}


def test_a_store_that_lacks_a_column_is_told_so(fresh: Store) -> None:
    fresh.execute("ALTER TABLE auth_store DROP content; ALTER TABLE config_store DROP id")
    said = refused(fresh.install)
    lacking = "the column content of auth_store, the column id of config_store"
    assert f"lacks {lacking}. Update CLIProxyAPI" in said


def test_a_role_without_more_than_it_needs_can_install_it(fresh: Store) -> None:
    role = f"installer_{fresh.name}"
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(f'GRANT CREATE ON DATABASE "{fresh.name}" TO {role}')
        with psycopg.connect(make_conninfo(fresh.url, user=role), autocommit=True) as installer:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                installer.execute(sql.schema("cliproxyapi").encode())
            assert f"role {role} may not read auth_store, config_store; " in str(caught.value)
            installer.rollback()
            fresh.execute(f"GRANT SELECT ON auth_store, config_store TO {role}")
            installer.execute(sql.schema("cliproxyapi").encode())
        fresh.execute(sql.schema("reader"))
        assert len(fresh.accounts()) == 7
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_the_reader_sees_the_contract_and_nothing_else(store: Store) -> None:
    found = await contract.check(Secret(store.reader_url))
    assert (found.version, found.writable) == (2, ())
    for table in ("public.auth_store", "public.config_store", "image_adapter.auth_store"):
        with (
            psycopg.connect(store.reader_url) as reader,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            reader.execute(f"TABLE {table}".encode())


def test_it_takes_the_place_of_the_standalone_control_plane(fresh: Store) -> None:
    fresh.execute(sql.schema("standalone"))
    fresh.install()
    assert "codex-a.json" in fresh.accounts()


def test_the_sql_of_its_page_runs(fresh: Store) -> None:
    fresh.install()
    blocks = re.findall(r"(?ms)^ {4}INSERT.*?;$(?!\n {4})", PAGE.text)
    assert len(blocks) == 1
    for block in blocks:
        fresh.execute(block)


def test_a_migration_goes_through_once_views_and_triggers_are_dropped(fresh: Store) -> None:
    migration = "ALTER TABLE auth_store ALTER id TYPE varchar"
    fresh.install()
    fresh.execute(sql.schema("cliproxyapi_notify"))
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        fresh.execute(migration)
    drop = re.findall(r'-c "(DROP [^"]*)"', PAGE.text)
    assert len(drop) == 2
    for statement in drop:
        fresh.execute(statement)
    fresh.execute(migration)
    fresh.install()


def test_it_goes_without_a_trace(fresh: Store) -> None:
    def traces() -> list[Any]:
        return fresh.ask(
            "SELECT c.oid, c.relname, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid)"
            " FROM pg_class c WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ) + fresh.ask("SELECT nspname FROM pg_namespace ORDER BY 1")

    before = traces()
    fresh.install()
    fresh.execute(sql.schema("cliproxyapi_notify"))
    assert traces() != before
    for _ in range(2):
        fresh.execute(sql.schema("cliproxyapi_uninstall"))
    assert traces() == before


def test_a_key_is_found_by_its_index_among_thousands(fresh: Store) -> None:
    fresh.install()
    fresh.execute(
        """
        INSERT INTO image_adapter.keys (key_id, key_hash)
        SELECT 'k' || n, encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 10000) n;
        ANALYZE;
        """
    )
    plan = fresh.plan("daemon/key", {"key_hash": "h"})
    assert "using keys_key_hash_key" in plan
    assert "Seq Scan on keys" not in plan
