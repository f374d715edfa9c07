"""The codex_lb adapter comes, stays within its rights, and goes."""

import re
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.edge.postgres import contract
from tests.parts.pages import Page
from tests.planes.codex_lb.database import CodexLb

pytestmark = pytest.mark.slow

PAGE = Page("image_gateway/sql/planes/codex_lb.md")


def test_words_that_a_newer_codex_lb_adds_to_its_enums_are_no_error(fresh: CodexLb) -> None:
    fresh.install()
    fresh.execute("ALTER TYPE account_status ADD VALUE 'resting'")
    fresh.execute("ALTER TYPE limit_type ADD VALUE 'pictures'")
    fresh.execute("ALTER TYPE limit_window ADD VALUE 'yearly'")
    fresh.execute("UPDATE accounts SET status = 'resting' WHERE id = 'a-over'")
    assert fresh.accounts()["a-over"].status == "resting"
    fresh.add_limit("active", "pictures", 5, 4, limit_window="yearly")
    assert fresh.key("sk-clb-active").quota_allows
    fresh.execute("UPDATE api_key_limits SET current_value = 5 WHERE limit_type = 'pictures'")
    assert not fresh.key("sk-clb-active").quota_allows


def test_an_older_codex_lb_is_told_all_that_it_lacks_and_what_to_do(fresh: CodexLb) -> None:
    fresh.execute(
        "DROP TABLE account_proxy_bindings; ALTER TABLE accounts DROP blocked_at;"
        " ALTER TABLE api_keys DROP enforced_model"
    )
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        fresh.execute(sql.schema("codex_lb"))
    said = caught.value.diag.message_primary or ""
    named = "column accounts.blocked_at, column api_keys.enforced_model, "
    assert f": {named}table account_proxy_bindings. In the Postgres of a codex-lb" in said
    assert "update codex-lb and start it once" in said
    assert fresh.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []


def test_a_role_without_more_than_it_needs_can_install_it(fresh: CodexLb) -> None:
    role = f"installer_{fresh.name}"
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(f'GRANT CREATE ON DATABASE "{fresh.name}" TO {role}')
        every = "account_proxy_bindings, accounts, api_firewall_allowlist, api_key_accounts, "
        every += "api_key_limits, api_keys, dashboard_settings, proxy_endpoints, "
        every += "proxy_pool_members, proxy_pools, request_logs, usage_history"
        with psycopg.connect(make_conninfo(fresh.url, user=role), autocommit=True) as installer:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                installer.execute(sql.schema("codex_lb").encode())
            assert f"role {role} may not read {every}; " in str(caught.value)
            installer.rollback()
            fresh.execute(f"GRANT SELECT ON {every} TO {role}")
            installer.execute(sql.schema("codex_lb").encode())
        fresh.execute(sql.schema("reader"))
        assert fresh.key("sk-clb-active").key_id == "active"
        assert len(fresh.accounts()) == 8
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_the_reader_sees_the_contract_and_nothing_else(lb: CodexLb) -> None:
    found = await contract.check(Secret(lb.reader_url))
    assert (found.version, found.writable) == (2, ())
    for table in ("public.api_keys", "public.accounts", "image_adapter.accounts"):
        with (
            psycopg.connect(lb.reader_url) as reader,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            reader.execute(f"TABLE {table}".encode())


def test_it_takes_the_place_of_the_standalone_control_plane(fresh: CodexLb) -> None:
    fresh.execute(sql.schema("standalone"))
    fresh.install()
    assert fresh.key("sk-clb-active").key_id == "active"


def test_what_the_views_cannot_see_is_told(fresh: CodexLb) -> None:
    fresh.install()
    [of_limits] = fresh.warnings()
    assert of_limits.endswith("API keys with such limits: 1")
    fresh.execute("DELETE FROM api_key_limits")
    assert fresh.warnings() == []
    fresh.execute("UPDATE dashboard_settings SET api_key_auth_enabled = false")
    fresh.insert("api_firewall_allowlist", ip_address="10.0.0.1")
    of_keys, of_addresses = fresh.warnings()
    assert "listed addresses only (1 of them)" in of_addresses
    assert "without a key" in of_keys


def test_the_sql_of_its_page_runs(fresh: CodexLb) -> None:
    fresh.install()
    blocks = re.findall(
        r"^ {4}(?:INSERT|UPDATE).*?;$(?!\n {4})", PAGE.text, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 4
    for block in blocks:
        fresh.execute(block)


def test_a_migration_goes_through_once_views_and_triggers_are_dropped(fresh: CodexLb) -> None:
    migration = "ALTER TABLE api_keys ALTER name TYPE text"
    fresh.install()
    fresh.execute(sql.schema("codex_lb_notify"))
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        fresh.execute(migration)
    drop = re.findall(r'-c "(DROP [^"]*)"', PAGE.text)
    assert len(drop) == 2
    for statement in drop:
        fresh.execute(statement)
    fresh.execute(migration)
    fresh.install()


def test_it_goes_without_a_trace(fresh: CodexLb) -> None:
    def traces() -> list[Any]:
        return fresh.ask(
            "SELECT c.oid, c.relname, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid),"
            " (SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid) FROM pg_class c"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ) + fresh.ask("SELECT nspname FROM pg_namespace ORDER BY 1")

    before = traces()
    fresh.install()
    fresh.execute(sql.schema("codex_lb_notify"))
    assert traces() != before
    for _ in range(2):
        fresh.execute(sql.schema("codex_lb_uninstall"))
    assert traces() == before


def test_keys_and_budgets_are_found_by_codex_lb_s_indexes_among_thousands(fresh: CodexLb) -> None:
    fresh.install()
    fresh.execute(
        """
        INSERT INTO api_keys (id, name, key_hash, key_prefix, is_active)
        SELECT 'k' || n, 'k', 'hash' || n, 'k', true FROM generate_series(1, 10000) n;
        INSERT INTO api_key_limits
            (api_key_id, limit_type, limit_window, max_value, current_value, reset_at)
        SELECT 'k' || n, 'total_tokens', 'daily', 9, 1, '2099-01-01'
        FROM generate_series(1, 10000) n;
        INSERT INTO usage_history (account_id, recorded_at, "window", used_percent)
        SELECT 'a-over', '2026-11-29'::timestamp + n * interval '1 minute', kind, n % 100
        FROM generate_series(1, 5000) n, (VALUES ('primary'), ('secondary')) AS kinds (kind);
        ANALYZE;
        """
    )
    plan = fresh.plan("daemon/key", {"key_hash": "hash7"})
    assert "key_hash" in plan
    assert "Seq Scan on api_keys" not in plan
    assert "Seq Scan on api_key_limits" not in plan
    plan = fresh.plan("daemon/accounts")
    assert plan.count("Index Scan using idx_usage_window_account_latest") == 2
    assert "Seq Scan on usage_history" not in plan


def test_a_new_adapter_is_not_taken_for_a_big_one(lb: CodexLb) -> None:
    """At a cost of 100,000 Postgres would compile the query, which takes longer than to run it."""
    for name in ("key", "accounts"):
        plan = lb.plan(f"daemon/{name}", {"key_hash": "h"})
        assert float(plan.split("..", 1)[1].split(" ", 1)[0]) < 50_000, plan
