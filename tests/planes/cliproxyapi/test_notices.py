"""Changes in the store of CLIProxyAPI and in the adapter's own tables are told at once."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from tests.planes.cliproxyapi.database import Store
from tests.planes.notices import heard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(server_url: str) -> Iterator[Store]:
    """A store with the optional triggers."""
    made = Store(server_url)
    made.create_bare()
    made.install()
    for _ in range(2):
        made.execute(sql.schema("cliproxyapi_notify"))
    yield made
    made.drop()


A = "UPDATE auth_store SET content = content || '{}' WHERE id = 'codex-a.json'"
TOLD_A = ["account:codex-a.json"]
SAVE = """
    INSERT INTO auth_store (id, content) VALUES ('{}', '{}')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content, updated_at = now()
"""
TOLD: list[tuple[str, list[str]]] = [
    # A credential is saved whole, often with nothing that is read changed.
    ("UPDATE auth_store SET updated_at = now(), content = content", []),
    (A.format('{"last_refresh": "now", "refresh_token": "r"}'), []),
    (A.format('{"expired": "2099-01-01T00:00:00Z", "email": "b"}'), []),
    (A.format('{"access_token": "new"}'), TOLD_A),
    (A.format('{"disabled": true}'), TOLD_A),
    (A.format('{"proxy_url": "direct"}'), TOLD_A),
    (A.format('{"weight": 3}'), TOLD_A),
    (A.format('{"type": "claude"}'), TOLD_A),
    (A.format('{"access_token": "newer"}'), []),
    (A.format('{"type": "codex"}'), TOLD_A),
    (SAVE.format("codex-n.json", '{"type": "codex"}'), ["accounts"]),
    (SAVE.format("codex-n.json", '{"type": "codex"}'), []),
    (SAVE.format("codex-n.json", '["codex"]'), ["account:codex-n.json"]),
    (SAVE.format("gemini-n.json", '{"type": "gemini"}'), []),
    ("DELETE FROM auth_store WHERE id = 'gemini-n.json'", []),
    ("DELETE FROM auth_store WHERE id = 'codex-a.json'", TOLD_A),
    ("UPDATE config_store SET updated_at = now()", []),
    ("UPDATE config_store SET content = 'proxy-url: http://proxy:1'", ["accounts"]),
    ("DELETE FROM config_store", ["accounts"]),
    ("TRUNCATE auth_store", ["accounts"]),
    ("INSERT INTO cooldown_store (auth_id, content) VALUES ('a', '{}')", []),
    # The adapter's own tables.
    (
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('own', 'openai')",
        ["accounts"],
    ),
    ("INSERT INTO image_adapter.account_options (account_name) VALUES ('own')", ["accounts"]),
    (
        "INSERT INTO image_adapter.keys (key_id, key_hash) VALUES ('k', repeat('0', 64))",
        [f"key:{'0' * 64}"],
    ),
    ("UPDATE image_adapter.keys SET quota_used = 7", []),
    ("UPDATE image_adapter.keys SET status = 'off'", [f"key:{'0' * 64}"]),
]


def test_what_changes_is_told_and_what_is_saved_again_is_not(told: Store) -> None:
    """One statement after the other, each with what a gateway hears of it."""
    for statement, payloads in TOLD:
        assert heard(told, statement) == payloads, statement


def test_the_triggers_never_make_a_write_of_cliproxyapi_fail(fresh: Store) -> None:
    """Its role has no rights on the adapter, and an id may be of any length."""
    role = f"plane_{fresh.name}"
    fresh.install()
    fresh.execute(sql.schema("cliproxyapi_notify"))
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        writer = make_conninfo(fresh.url, user=role)
        with (
            psycopg.connect(writer) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("TABLE image_adapter.accounts")
        long = "UPDATE auth_store SET id = repeat('é', 2500) WHERE id = 'codex-a.json'"
        assert heard(fresh, long, writer) == ["account:codex-a.json"]
        gone = f"account:{'é' * (1900 - len('account:'))}"
        assert heard(fresh, "DELETE FROM auth_store WHERE id LIKE 'é%'", writer) == [gone]
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_the_triggers_need_the_adapter(fresh: Store) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="schema cliproxyapi`"):
        fresh.execute(sql.schema("cliproxyapi_notify"))
