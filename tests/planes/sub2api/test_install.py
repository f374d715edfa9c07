"""Installing the adapter over a sub2api, again, as whom, and removing it."""

import re
from importlib import resources
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.edge.postgres.contract import check
from tests.planes.sub2api.plane import Sub2Api, told

pytestmark = pytest.mark.slow

CURE: Final = "run a sub2api of March 2026 or later"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE api_keys DROP rate_limit_5h, DROP ip_blacklist",
         ["column api_keys.ip_blacklist", "column api_keys.rate_limit_5h"]),
        ("ALTER TABLE accounts DROP extra; DROP TABLE scheduler_outbox, usage_billing_dedup",
         ["column accounts.extra", "table scheduler_outbox", "table usage_billing_dedup"]),
        ("DROP TABLE groups CASCADE", ["table groups"]),
    ],
)  # fmt: skip
def test_an_older_sub2api_is_told_all_that_it_lacks(
    bare: Sub2Api, change: str, named: list[str]
) -> None:
    bare.execute(change)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        bare.execute(sql.schema("sub2api"))
    said = caught.value.diag.message_primary or ""
    assert f": {', '.join(named)}. " in said
    assert CURE in said
    assert bare.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []
    assert bare.ask("SELECT 1 FROM pg_indexes WHERE indexname LIKE 'image%'") == []


def test_what_only_newer_versions_have_may_be_missing(bare: Sub2Api) -> None:
    bare.execute(
        "ALTER TABLE groups DROP allow_image_generation, DROP image_rate_independent,"
        " DROP image_rate_multiplier, DROP require_oauth_only, DROP require_privacy_set,"
        " DROP rpm_limit; ALTER TABLE proxies DROP expires_at, DROP fallback_mode,"
        " DROP backup_proxy_id; ALTER TABLE users DROP rpm_limit, DROP frozen_balance"
    )
    bare.install()
    assert told(bare.key("sk-s2a-active")) == "ok"
    assert bare.account("1:codex-1").proxy is not None
    assert len(bare.warnings()) == 3


def test_the_views_go_on_when_sub2api_adds_and_drops_columns_that_are_not_read(
    bare: Sub2Api,
) -> None:
    bare.install()
    for table in ("api_keys", "users", "groups", "user_subscriptions", "accounts", "proxies"):
        bare.execute(f"ALTER TABLE {table} ADD of_later int NOT NULL DEFAULT 7, DROP created_at")
    assert told(bare.key("sk-s2a-plan")) == "ok"
    assert len(bare.accounts()) == 7
    call: dict[str, Any] = {"request_id": "r", "key_id": "8", "at": "now", "model": "m"}
    call |= {"account_name": "1:codex-1", "tokens": "{}", "images": 1, "cost": 1}
    assert bare.charge(**call) == "charged"


def test_the_reader_sees_the_contract_and_nothing_else(bare: Sub2Api) -> None:
    for _ in range(2):
        bare.install()
        bare.execute(sql.schema("sub2api_notify"))
    assert len(bare.accounts()) == 7
    with psycopg.connect(bare.reader_url, autocommit=True) as reader:
        for table in ("public.api_keys", "public.accounts", "image_adapter.accounts"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"TABLE {table}".encode())


async def test_check_says_what_the_views_cannot_see(bare: Sub2Api) -> None:
    bare.install()
    findings = await check(Secret(bare.reader_url))
    assert (findings.version, findings.broken_accounts, findings.writable) == (2, (), ())
    assert any("serves no call: off" in idle for idle in findings.idle_accounts)
    counted, free, listed = sorted(findings.warnings, reverse=True)
    assert "in Redis" in counted
    assert free.endswith("because they have no image_price_2k: plan.")
    assert listed.startswith("Keys with lists of IP addresses: 1;")
    bare.execute("UPDATE users SET rpm_limit = 5 WHERE id = 4")
    assert [each for each in bare.warnings() if "rpm_limit" in each] != []


def test_only_the_owner_of_sub2api_s_tables_can_install_it(bare: Sub2Api) -> None:
    role = f"installer_{bare.name}"
    bare.execute(f'CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE "{bare.name}" TO {role}')
    tables = [name for (name,) in bare.ask(_TABLES)]

    def said() -> str:
        with psycopg.connect(make_conninfo(bare.url, user=role), autocommit=True) as installer:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                installer.execute(sql.schema("sub2api").encode())
            return str(caught.value)

    try:
        assert f"the role {role} may not read account_groups, accounts, " in said()
        bare.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        assert f"the role {role} may not index api_keys; " in said()
        for name in tables:
            bare.execute(f"ALTER TABLE {name} OWNER TO {role}")
        bare.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        with psycopg.connect(make_conninfo(bare.url, user=role), autocommit=True) as installer:
            for _ in range(2):
                installer.execute(sql.schema("sub2api").encode())
                installer.execute(sql.schema("sub2api_notify").encode())
        bare.execute(sql.schema("reader") + sql.schema("charger", "sub2api"))
        assert told(bare.key("sk-s2a-active")) == "ok"
        call: dict[str, Any] = {"request_id": "r", "key_id": "1", "at": "now", "model": "m"}
        call |= {"account_name": "1:codex-1", "tokens": "{}", "images": 1, "cost": 1}
        assert bare.charge(**call) == "charged"
    finally:
        bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def test_removed_it_leaves_sub2api_as_it_was(bare: Sub2Api) -> None:
    before = bare.of_the_plane()
    bare.install()
    bare.execute(sql.schema("sub2api_notify"))
    changed = bare.of_the_plane()
    # All that was added: an index, triggers, schemas.
    assert changed[0] == before[0]
    assert set(changed[1]) - set(before[1]) == {
        row for row in changed[1] if "image_adapter_key_hash" in row[1]
    }
    assert len(changed[2]) > 15
    assert changed[5:] == before[5:]
    for _ in range(2):
        bare.execute(sql.schema("sub2api_uninstall"))
        assert bare.of_the_plane() == before


def test_a_migration_goes_through_once_the_views_are_dropped_as_the_page_says(
    bare: Sub2Api,
) -> None:
    bare.install()
    bare.execute(sql.schema("sub2api_notify"))
    migration = (
        "ALTER TABLE users ALTER balance TYPE numeric(30, 10), ALTER status TYPE text;"
        "ALTER TABLE api_keys ALTER quota TYPE numeric(30, 10), ALTER usage_5h TYPE numeric(30, 9);"
        "ALTER TABLE user_subscriptions ALTER daily_usage_usd TYPE numeric(30, 12);"
        "ALTER TABLE groups ALTER daily_limit_usd TYPE numeric(30, 12);"
        "ALTER TABLE accounts ALTER name TYPE text; ALTER TABLE proxies ALTER host TYPE text"
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        bare.execute(migration)
    page = resources.files(sql).joinpath("planes/sub2api.md").read_text("utf-8")
    for statement in re.findall(r'-c "(DROP .*)"', page):
        bare.execute(statement)
    bare.execute(migration)
    bare.install()
    assert told(bare.key("sk-s2a-active")) == "ok"


def test_the_optional_triggers_need_the_adapter(bare: Sub2Api) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="schema sub2api`"):
        bare.execute(sql.schema("sub2api_notify"))


@pytest.mark.parametrize("name", ["sub2api", "sub2api_notify", "sub2api_uninstall"])
def test_nothing_queues_up_behind_a_long_write(bare: Sub2Api, name: str) -> None:
    if name != "sub2api":
        bare.install()
        bare.execute(sql.schema("sub2api_notify"))
    patient = sql.schema(name)
    impatient = patient.replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    assert impatient != patient
    with psycopg.connect(bare.url) as writer:
        writer.execute("UPDATE api_keys SET status = status")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            bare.execute(impatient)


def test_it_takes_the_place_of_the_standalone_control_plane(bare: Sub2Api) -> None:
    bare.execute(sql.schema("standalone"))
    bare.install()
    assert told(bare.key("sk-s2a-active")) == "ok"
    assert "1:codex-1" in bare.accounts()
