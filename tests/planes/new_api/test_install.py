"""The new_api adapter comes, stays within its rights, and goes."""

import re
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.edge.postgres import contract
from tests.parts.pages import Page
from tests.planes.new_api.database import NewApi, secret_of

pytestmark = pytest.mark.slow

PAGE = Page("image_gateway/sql/planes/new_api.md")


def test_an_older_new_api_is_told_all_that_it_lacks_and_what_to_do(fresh: NewApi) -> None:
    fresh.execute(
        "DROP TABLE options; ALTER TABLE channels DROP channel_info;"
        ' ALTER TABLE tokens DROP "group"'
    )
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        fresh.execute(sql.schema("new_api"))
    said = caught.value.diag.message_primary or ""
    named = "column channels.channel_info, column tokens.group, table options"
    assert f": {named}. In the database of a new-api" in said
    assert "update new-api and start it once" in said
    assert fresh.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []


def test_the_owner_of_new_api_s_tables_can_install_it(fresh: NewApi) -> None:
    role = f"installer_{fresh.name}"
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(
            f'GRANT CREATE ON DATABASE "{fresh.name}" TO {role};'
            f" GRANT CREATE ON SCHEMA public TO {role}; ALTER TABLE tokens OWNER TO {role}"
        )
        every = "abilities, channels, options, users"
        with psycopg.connect(make_conninfo(fresh.url, user=role), autocommit=True) as installer:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                installer.execute(sql.schema("new_api").encode())
            assert f"role {role} may not read {every}; " in str(caught.value)
            installer.rollback()
            fresh.execute(f"GRANT SELECT ON {every} TO {role}")
            installer.execute(sql.schema("new_api").encode())
        fresh.execute(sql.schema("reader"))
        assert fresh.key(secret_of("Active")).key_id == "1"
        assert len(fresh.accounts()) == 7
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_the_reader_sees_the_contract_and_nothing_else(api: NewApi) -> None:
    found = await contract.check(Secret(api.reader_url))
    assert (found.version, found.accounts, found.writable) == (2, 7, ())
    assert found.broken_accounts == ()
    for table in ("public.tokens", "public.channels", "image_adapter.accounts"):
        with (
            psycopg.connect(api.reader_url) as reader,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            reader.execute(f"TABLE {table}".encode())


def test_columns_may_have_the_types_of_other_versions(fresh: NewApi) -> None:
    fresh.execute(
        """
        ALTER TABLE tokens ALTER "key" TYPE char(48), ALTER status TYPE int,
            ALTER remain_quota TYPE int, ALTER user_id TYPE int;
        ALTER TABLE users ALTER status TYPE int, ALTER quota TYPE int, ALTER used_quota TYPE int;
        ALTER TABLE channels ALTER channel_info TYPE text, ALTER type TYPE int,
            ALTER status TYPE int, ALTER weight TYPE int, ALTER models TYPE varchar(5000),
            ALTER model_mapping TYPE varchar(1024), ALTER base_url TYPE varchar(191);
        ALTER TABLE options ALTER value TYPE varchar(5000);
        """
    )
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    key = fresh.key(secret_of("Active"))
    assert (key.account_names, key.cost_remaining) == (("3", "1", "2#0", "2#2", "5"), 10)
    assert len(fresh.accounts()) == 7
    assert fresh.accounts()["1"].status == "active"


def test_it_takes_the_place_of_the_standalone_control_plane(fresh: NewApi) -> None:
    fresh.execute(sql.schema("standalone"))
    fresh.install()
    assert fresh.key(secret_of("Active")).key_id == "1"


def test_what_the_views_cannot_see_is_told(fresh: NewApi) -> None:
    fresh.install()
    [of_addresses] = fresh.warnings()
    assert of_addresses.endswith("cannot check it: 1")
    fresh.execute("UPDATE tokens SET allow_ips = NULL")
    assert fresh.warnings() == []
    gemini = fresh.add_channel("default", type=24)
    fresh.add_channel("default", type=24, models="text")
    fresh.execute("UPDATE channels SET param_override = '{\"a\": 1}' WHERE id = 1")
    fresh.execute("UPDATE channels SET open_ai_organization = 'org' WHERE id = 3")
    fresh.execute("UPDATE channels SET header_override = ' {} ' WHERE id = 4")
    fresh.set_option("ModelRequestRateLimitEnabled", "true")
    partly = fresh.add_channel("default", models="gpt-image-1,gpt-image-2")
    fresh.execute(
        f"UPDATE abilities SET enabled = false WHERE channel_id = {partly}"
        " AND model = 'gpt-image-1'"
    )
    fresh.execute("CREATE TABLE user_subscriptions (id int)")
    assert not any("subscriptions" in each for each in fresh.warnings())
    fresh.execute("INSERT INTO user_subscriptions VALUES (1)")
    # A channel for text.
    fresh.execute("UPDATE channels SET param_override = '{\"a\": 1}' WHERE id = 7")
    of_abilities, of_types, of_rates, of_subscriptions, of_changes = fresh.warnings()
    assert of_abilities.endswith(f"for the group: {partly} (default)")
    assert of_types.endswith(f"left out: {gemini}")
    assert "ModelRequestRateLimitEnabled" in of_rates
    assert "only their quota counts" in of_subscriptions
    assert of_changes.endswith("by the gateway: 1, 3")


def test_what_json_may_hold_and_jsonb_may_not_hides_no_warning(fresh: NewApi) -> None:
    fresh.install()
    before = fresh.warnings()
    fresh.execute('UPDATE channels SET channel_info = \'{"a": "\\u0000"}\' WHERE id = 1')
    assert fresh.warnings() == before != []


def test_the_sql_of_its_page_runs(fresh: NewApi) -> None:
    fresh.install()
    blocks = re.findall(
        r"^ {4}(?:INSERT|UPDATE).*?;$(?!\n {4})", PAGE.text, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 4
    for block in blocks:
        fresh.execute(block)


def test_a_migration_goes_through_once_views_and_triggers_are_dropped(fresh: NewApi) -> None:
    migration = 'ALTER TABLE tokens ALTER "key" TYPE text'
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        fresh.execute(migration)
    drop = re.findall(r'-c "(DROP [^"]*)"', PAGE.text)
    assert len(drop) == 2
    for statement in drop:
        fresh.execute(statement)
    fresh.execute(migration)
    fresh.install()


def test_it_goes_without_a_trace(fresh: NewApi) -> None:
    def traces() -> list[Any]:
        return fresh.ask(
            "SELECT c.oid, c.relname, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid),"
            " (SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid) FROM pg_class c"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ) + fresh.ask("SELECT nspname FROM pg_namespace ORDER BY 1")

    before = traces()
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    assert traces() != before
    for _ in range(2):
        fresh.execute(sql.schema("new_api_uninstall"))
    assert traces() == before


def test_removing_it_gives_up_before_it_holds_new_api_up(fresh: NewApi) -> None:
    """Behind a long transaction, such as a backup's, it would make every later one wait."""
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    removal = sql.schema("new_api_uninstall")
    assert "lock_timeout = '5s'" in removal
    with psycopg.connect(fresh.url) as backup:
        backup.execute("SELECT count(*) FROM channels")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fresh.execute(removal.replace("lock_timeout = '5s'", "lock_timeout = '50ms'"))
        backup.execute("SELECT count(*) FROM tokens")
    fresh.execute(removal)


MANY = """
    INSERT INTO channels (id, type, "key", name, models, "group", setting, model_mapping)
    SELECT n, 1, 'k' || n, 'c', 'text-a,gpt-image-2', 'default,g' || n % 10,
           '{"proxy": "http://u:p@p.test:' || n || '"}', '{"gpt-image-2": "m' || n || '"}'
    FROM generate_series(1000, 1999) n;
    INSERT INTO abilities ("group", model, channel_id, enabled)
    SELECT of.name, listed.model, c.id, true
    FROM channels c, unnest(string_to_array(c."group", ',')) AS of (name),
         unnest(string_to_array(c.models, ',') || ARRAY['text-b', 'text-c']) AS listed (model)
    WHERE c.id >= 1000;
    INSERT INTO tokens (id, user_id, "key", "group", unlimited_quota)
    SELECT n, 1, 'key' || n, 'default', true FROM generate_series(1000, 10999) n;
    ANALYZE;
"""


def test_a_key_and_its_channels_are_found_by_indexes_among_thousands(fresh: NewApi) -> None:
    fresh.install()
    fresh.execute(MANY)
    secret = fresh.add_token("Few", user_id=fresh.add_user(group="g7"))
    key = fresh.key(secret)
    assert key.account_names is not None
    assert len(key.account_names) == 100
    plan = fresh.plan("daemon/key", {"key_hash": key.key_hash})
    assert "Index Scan using image_adapter_token_hash on tokens" in plan
    for table in ("tokens", "abilities", "channels"):
        assert f"Seq Scan on {table}" not in plan, plan


def test_a_thousand_channels_are_read_without_compiling_the_query(fresh: NewApi) -> None:
    """At a cost of 100,000 Postgres would compile the query, which takes longer than to run it."""
    fresh.install()
    for name in ("key", "accounts"):
        assert cost(fresh.plan(f"daemon/{name}", {"key_hash": "h"})) < 50_000
    fresh.execute(MANY)
    for name in ("key", "accounts"):
        assert cost(fresh.plan(f"daemon/{name}", {"key_hash": "h"})) < 50_000
    assert len(fresh.accounts()) == 1007


def cost(plan: str) -> float:
    return float(plan.split("..", 1)[1].split(" ", 1)[0])
