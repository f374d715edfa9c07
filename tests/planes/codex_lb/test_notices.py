"""Changes in codex-lb's tables and the adapter's own are told at once, and counters are not."""

from collections.abc import Iterator
from hashlib import sha256

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from tests.planes.codex_lb.database import CodexLb
from tests.planes.notices import heard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(server_url: str) -> Iterator[CodexLb]:
    """A codex-lb with the optional triggers."""
    made = CodexLb(server_url)
    made.create_bare()
    made.install()
    for _ in range(2):
        made.execute(sql.schema("codex_lb_notify"))
    yield made
    made.drop()


LIMITED = f"key:{sha256(b'sk-clb-limited').hexdigest()}"
SCOPED = f"key:{sha256(b'sk-clb-scoped').hexdigest()}"
LIMITS = "UPDATE api_key_limits SET current_value"
OF_WEEK = "WHERE limit_window = 'weekly'"
NEW_ACCOUNT = """
    INSERT INTO accounts (id, codex_installation_id, email, plan_type, access_token_encrypted,
                          refresh_token_encrypted, id_token_encrypted, last_refresh, status)
    VALUES ('new', 'i', 'e', 'p', 't', 't', 't', now(), 'active')
"""
NEW_KEY = """
    INSERT INTO api_keys (id, name, key_hash, key_prefix, is_active)
    VALUES ('n', 'n', 'hash', 'p', true)
"""
TOLD: list[tuple[str, list[str]]] = [
    ("UPDATE api_keys SET last_used_at = now(), traffic_class = 'x' WHERE id = 'limited'", []),
    ("UPDATE api_keys SET is_active = is_active WHERE id = 'limited'", []),
    ("UPDATE api_keys SET is_active = false WHERE id = 'limited'", [LIMITED]),
    ("UPDATE api_keys SET allowed_models = '[]' WHERE id = 'limited'", [LIMITED]),
    ("UPDATE api_keys SET expires_at = now() WHERE id = 'limited'", [LIMITED]),
    ("UPDATE api_keys SET key_hash = 'new' WHERE id = 'limited'", [LIMITED, "key:new"]),
    (f"UPDATE api_keys SET key_hash = '{LIMITED[4:]}' WHERE id = 'limited'", ["key:new", LIMITED]),
    (NEW_KEY, ["key:hash"]),
    ("DELETE FROM api_keys WHERE id = 'n'", ["key:hash"]),
    # The limit is 100000, and 40000 are used.
    (f"{LIMITS} = current_value + 50000 {OF_WEEK}", []),
    (f"{LIMITS} = current_value + 10000 {OF_WEEK}", [LIMITED]),
    (f"{LIMITS} = current_value + 10000 {OF_WEEK}", []),
    (f"{LIMITS} = 0, reset_at = '2099-01-08' {OF_WEEK}", [LIMITED]),
    (f"UPDATE api_key_limits SET max_value = 5 {OF_WEEK}", [LIMITED]),
    (f"DELETE FROM api_key_limits {OF_WEEK}", [LIMITED]),
    ("TRUNCATE api_key_limits CASCADE", ["keys"]),
    ("DELETE FROM api_key_accounts WHERE account_id = 'a-noid'", [SCOPED]),
    ("INSERT INTO api_key_accounts VALUES ('scoped', 'a-over')", [SCOPED]),
    ("TRUNCATE api_key_accounts", ["keys"]),
    ("UPDATE accounts SET last_refresh = now(), refresh_token_encrypted = 'x'", []),
    ("UPDATE accounts SET deactivation_reason = 'x', plan_type = 'pro'", []),
    (
        "UPDATE accounts SET access_token_encrypted = 'x' WHERE id LIKE 'a-o%'",
        ["account:a-over"],
    ),
    ("UPDATE accounts SET status = 'paused' WHERE id = 'a-over'", ["account:a-over"]),
    ("UPDATE accounts SET blocked_at = 7 WHERE id = 'a-over'", ["account:a-over"]),
    # Its binding goes with it.
    ("DELETE FROM accounts WHERE id = 'a-over'", ["account:a-over", "accounts"]),
    (
        NEW_ACCOUNT,
        ["accounts"],
    ),
    ("UPDATE accounts SET id = repeat('é', 5000) WHERE id = 'new'", ["account:new"]),
    (
        "DELETE FROM accounts WHERE id LIKE 'é%'",
        [f"account:{'é' * (1900 - len('account:'))}", "accounts"],
    ),
    ("INSERT INTO usage_history (account_id, used_percent) VALUES ('a-active', 5)", []),
    ("UPDATE proxy_endpoints SET updated_at = now()", []),
    ("UPDATE proxy_endpoints SET is_active = true WHERE id = 'e2'", ["accounts"]),
    ("UPDATE proxy_pool_members SET weight = 5", []),
    ("UPDATE proxy_pool_members SET sort_order = 5", ["accounts"]),
    ("UPDATE proxy_pools SET name = 'x'", []),
    ("UPDATE proxy_pools SET is_active = false", ["accounts"]),
    ("DELETE FROM account_proxy_bindings", ["accounts"]),
    ("UPDATE dashboard_settings SET api_key_auth_enabled = false", []),
    ("UPDATE dashboard_settings SET upstream_proxy_routing_enabled = true", ["accounts"]),
    ("UPDATE dashboard_settings SET routing_strategy = 'single_account'", ["accounts"]),
    ("INSERT INTO request_logs (request_id, model, status) VALUES ('r', 'm', 'success')", []),
    # The adapter's own tables.
    (
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('own', 'openai')",
        ["accounts"],
    ),
    ("INSERT INTO image_adapter.key_accounts VALUES ('scoped', 'own')", ["keys"]),
    (
        "INSERT INTO image_adapter.key_options (key_id, images_remaining) VALUES ('limited', 5)",
        ["keys"],
    ),
    ("UPDATE image_adapter.key_options SET images_remaining = 1", []),
    ("UPDATE image_adapter.key_options SET images_remaining = 0", ["keys"]),
    ("UPDATE image_adapter.key_options SET images_remaining = -1", []),
    ("UPDATE image_adapter.key_options SET image_enabled = false", ["keys"]),
    ("INSERT INTO image_adapter.account_options (account_name) VALUES ('own')", ["accounts"]),
]


def test_what_changes_is_told_and_what_is_counted_is_not(told: CodexLb) -> None:
    """One statement after the other, each with what a gateway hears of it."""
    for statement, payloads in TOLD:
        assert heard(told, statement) == payloads, statement


def test_the_triggers_never_make_a_write_of_codex_lb_fail(fresh: CodexLb) -> None:
    """Its role has no rights on the adapter, and the functions may meet anything."""
    role = f"plane_{fresh.name}"
    fresh.install()
    fresh.execute(sql.schema("codex_lb_notify"))
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        writer = make_conninfo(fresh.url, user=role)
        with (
            psycopg.connect(writer) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("TABLE image_adapter.key_options")
        change = "UPDATE api_key_limits SET max_value = 1 WHERE limit_window = 'weekly'"
        assert heard(fresh, change, writer) == [LIMITED]
        # What the function for limits reads is gone.
        fresh.execute("ALTER TABLE api_keys RENAME key_hash TO hash")
        assert heard(fresh, change.replace("= 1", "= 2"), writer) == []
        assert heard(
            fresh, "UPDATE accounts SET status = 'paused' WHERE id = 'a-over'", writer
        ) == ["account:a-over"]
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_the_triggers_need_the_adapter_and_wait_for_no_long_write(fresh: CodexLb) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="schema codex_lb`"):
        fresh.execute(sql.schema("codex_lb_notify"))
    fresh.install()
    patient = sql.schema("codex_lb_notify")
    impatient = patient.replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    assert impatient != patient
    with psycopg.connect(fresh.url) as writer:
        writer.execute("UPDATE api_keys SET last_used_at = now()")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fresh.execute(impatient)
    assert fresh.ask("SELECT 1 FROM pg_namespace WHERE nspname = 'image_adapter_notify'") == []
