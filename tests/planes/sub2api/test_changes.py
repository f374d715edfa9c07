"""Changes in sub2api and in the adapter's own tables, told to running gateways."""

import hashlib
from collections.abc import Iterator
from typing import Final

import psycopg
import pytest

from image_gateway import sql
from tests.planes.sub2api.plane import Sub2Api

pytestmark = pytest.mark.slow


def key(name: str) -> str:
    return f"key:{hashlib.sha256(f'sk-s2a-{name}'.encode()).hexdigest()}"


def keys(names: str) -> list[str]:
    return sorted(map(key, names.split()))


OF_ONE: Final = keys("active expired text quota plan-full ungrouped claude ip window paused")
"""The keys of user 1 that are not deleted."""
ONE: Final = "WHERE id = 1"
EXTRA: Final = "UPDATE accounts SET updated_at = now(), extra = extra ||"
AZURE: Final = "WHERE id = 3"
TOLD: list[tuple[str, list[str]]] = [
    # Saved again with nothing changed, as sub2api saves whole rows.
    ("UPDATE api_keys SET status = status, key = key, updated_at = now()", []),
    (f"UPDATE api_keys SET last_used_at = now() {ONE}", []),
    (f"UPDATE api_keys SET status = 'disabled' {ONE}", keys("active")),
    (f"UPDATE api_keys SET deleted_at = now() {ONE}", keys("active")),
    (f"UPDATE api_keys SET key = 'sk-s2a-new' {ONE}", keys("active new")),
    (f"UPDATE api_keys SET ip_whitelist = '[\"10.0.0.1\"]' {ONE}", keys("active")),
    (f"UPDATE api_keys SET expires_at = now() {ONE}", keys("active")),
    (f"UPDATE api_keys SET group_id = NULL {ONE}", keys("active")),
    (f"DELETE FROM api_keys {ONE}", keys("active")),
    ("INSERT INTO api_keys (user_id, key, name) VALUES (1, 'sk-s2a-new', 'n')", keys("new")),
    ("TRUNCATE api_keys CASCADE", ["keys"]),
    # What a key has used changes with every call; only its end is told, and its return.
    (f"UPDATE api_keys SET quota_used = 99, usage_1d = 99 {ONE}", []),
    ("UPDATE api_keys SET quota = 9 WHERE id = 6", keys("quota")),
    ("UPDATE api_keys SET quota_used = 1 WHERE id = 6", keys("quota")),
    ("UPDATE api_keys SET quota_used = 9 WHERE id = 6", []),
    ("UPDATE api_keys SET usage_1d = 0.5 WHERE id = 13", keys("window")),
    ("UPDATE api_keys SET usage_1d = 5, usage_7d = 1 WHERE id = 13", []),
    ("UPDATE api_keys SET window_1d_start = now() - interval '2 days' WHERE id = 13",
     keys("window")),
    ("UPDATE users SET updated_at = now(), email = 'new' || id", []),
    (f"UPDATE users SET balance = balance - 19.9 {ONE}", []),
    (f"UPDATE users SET balance = balance - 20 {ONE}", OF_ONE),
    ("UPDATE users SET balance = 1 WHERE id = 3", keys("broke plan vip")),
    ("UPDATE users SET status = 'active' WHERE id = 2", keys("user-off")),
    ("UPDATE users SET concurrency = 9 WHERE id = 2", keys("user-off")),
    ("UPDATE users SET deleted_at = NULL WHERE id = 4", keys("user-gone")),
    ("DELETE FROM users WHERE id = 2", keys("user-off")),
    ("UPDATE groups SET updated_at = now()", []),
    (f"UPDATE groups SET allow_image_generation = false {ONE}", ["keys"]),
    (f"UPDATE groups SET status = 'disabled' {ONE}", ["keys"]),
    ("INSERT INTO user_allowed_groups VALUES (3, 5)", keys("vip")),
    ("INSERT INTO user_allowed_groups VALUES (3, 1)", keys("broke")),
    ("DELETE FROM user_allowed_groups", []),
    ("TRUNCATE user_allowed_groups", ["keys"]),
    ("UPDATE user_subscriptions SET updated_at = now()", []),
    ("UPDATE user_subscriptions SET daily_usage_usd = 99", []),
    ("UPDATE user_subscriptions SET daily_usage_usd = 4 WHERE user_id = 1", keys("plan-full")),
    ("UPDATE user_subscriptions SET daily_window_start = now() WHERE user_id = 3", keys("plan")),
    ("UPDATE user_subscriptions SET status = 'suspended' WHERE user_id = 3", keys("plan")),
    ("UPDATE user_subscriptions SET expires_at = now() WHERE user_id = 3", keys("plan")),
    ("UPDATE user_subscriptions SET user_id = 3 WHERE user_id = 1", keys("plan plan-full")),
    ("DELETE FROM user_subscriptions WHERE user_id = 3", keys("plan")),
    ("TRUNCATE user_subscriptions CASCADE", ["keys"]),
    ("UPDATE accounts SET last_used_at = now(), updated_at = now(), error_message = 'x'", []),
    (f"{EXTRA} '{{\"codex_5h_used_percent\": 99, \"codex_usage_updated_at\": \"x\"}}' {ONE}", []),
    (f"UPDATE accounts SET credentials = '{{}}' {ONE}", ["account:1:codex-1"]),
    (f"UPDATE accounts SET schedulable = false {ONE}", ["account:1:codex-1"]),
    (f"UPDATE accounts SET rate_limit_reset_at = now() {ONE}", ["account:1:codex-1"]),
    (f"UPDATE accounts SET name = 'renamed' {ONE}", ["account:1:codex-1", "accounts", "keys"]),
    (f"UPDATE accounts SET priority = 77 {ONE}", ["accounts", "keys"]),
    (f"{EXTRA} '{{\"privacy_mode\": \"training_off\"}}' {ONE}", ["accounts", "keys"]),
    (f"{EXTRA} '{{\"model_rate_limits\": {{\"openai:image_generation\": 5}}}}' {ONE}",
     ["account:1:codex-1"]),
    (f"{EXTRA} '{{\"model_rate_limits\": {{\"gpt-5.5\": 5}}}}' {ONE}", []),
    # Its quota is used up.
    (f"{EXTRA} '{{\"quota_used\": 11}}' {AZURE}", []),
    (f"{EXTRA} '{{\"quota_used\": 9}}' {AZURE}", ["account:3:azure-like"]),
    ("UPDATE accounts SET status = 'error' WHERE id = 6", []),
    ("UPDATE accounts SET platform = 'openai' WHERE id = 6", ["accounts", "keys"]),
    ("INSERT INTO accounts (name, platform, type) VALUES ('n', 'openai', 'oauth')",
     ["accounts", "keys"]),
    ("INSERT INTO accounts (name, platform, type) VALUES ('n', 'gemini', 'oauth')", []),
    ("DELETE FROM accounts WHERE id = 7", ["account:7:codex-1", "keys"]),
    ("TRUNCATE accounts CASCADE", ["accounts", "keys"]),
    ("UPDATE account_groups SET priority = 1 WHERE account_id = 1", ["keys"]),
    ("DELETE FROM account_groups WHERE account_id = 1", ["keys"]),
    ("INSERT INTO account_groups VALUES (5, 1)", ["keys"]),
    ("UPDATE proxies SET updated_at = now(), name = 'renamed'", []),
    ("UPDATE proxies SET status = 'disabled'", ["accounts"]),
    ("UPDATE proxies SET expires_at = now()", ["accounts"]),
    ("INSERT INTO proxies (name, protocol, host, port) VALUES ('n', 'http', 'h', 1)", []),
    # The adapter's own tables.
    ("INSERT INTO image_adapter.key_options (key_id, images_remaining) VALUES ('1', 5)", ["keys"]),
    ("UPDATE image_adapter.key_options SET images_remaining = 4", []),
    ("UPDATE image_adapter.key_options SET images_remaining = 0", ["keys"]),
    ("UPDATE image_adapter.key_options SET images_remaining = -1", []),
    ("UPDATE image_adapter.key_options SET images_remaining = 7", ["keys"]),
    ("UPDATE image_adapter.key_options SET images_remaining = 6, image_enabled = false", ["keys"]),
    ("UPDATE image_adapter.key_options SET images_remaining = NULL", ["keys"]),
    ("DELETE FROM image_adapter.key_options", ["keys"]),
    ("TRUNCATE image_adapter.key_options", ["keys"]),
    ("INSERT INTO image_adapter.account_options (account_name) VALUES ('1:x')", ["accounts"]),
    ("INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('own', 'openai')",
     ["accounts", "keys"]),
    ("INSERT INTO image_adapter.group_accounts VALUES ('1', 'own')", ["keys"]),
    ("UPDATE image_adapter.accounts SET status = 'off'", ["account:own"]),
    ("INSERT INTO image_adapter.groups VALUES ('1', false)", ["keys"]),
    ("INSERT INTO image_adapter.image_models VALUES ('draw')", ["accounts"]),
    ("UPDATE image_adapter.options SET run_mode = 'simple'", ["keys"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def telling(server_url: str) -> Iterator[Sub2Api]:
    """One with the optional triggers."""
    made = Sub2Api(server_url)
    made.create_bare()
    made.install()
    for _ in range(2):
        made.execute(sql.schema("sub2api_notify"))
    made.save()
    yield made
    made.drop()


def test_what_changes_is_told_and_nothing_else(telling: Sub2Api) -> None:
    """One statement, one notification for each thing that is now seen differently."""
    with (
        psycopg.connect(telling.url, autocommit=True) as listener,
        psycopg.connect(telling.url, autocommit=True) as writer,
    ):
        listener.execute("LISTEN image_gateway_changed")
        for statement, payloads in TOLD:
            if "image_adapter" not in statement:
                telling.restore()
            writer.execute(statement.encode())
            writer.execute("NOTIFY image_gateway_changed, 'the end'")
            heard = []
            for notification in listener.notifies(timeout=20):
                if notification.payload == "the end":
                    break
                heard.append(notification.payload)
            assert sorted(heard) == sorted(payloads), statement


def test_a_charge_tells_only_that_nothing_is_left(telling: Sub2Api) -> None:
    telling.restore()
    telling.execute(
        "UPDATE groups SET image_price_2k = 8;"
        "INSERT INTO image_adapter.key_options (key_id, images_remaining) VALUES ('1', 9)"
    )
    with psycopg.connect(telling.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        for number in range(4):
            call = {"request_id": f"req_{number}", "key_id": "1", "at": "now", "model": "m"}
            call |= {"account_name": "1:codex-1", "tokens": "{}"}
            assert telling.charge(**call, images=1, cost=None) == "charged"
            telling.execute("NOTIFY image_gateway_changed, 'the end'")
        heard = [each.payload for each in listener.notifies(timeout=20, stop_after=14)]
    assert heard[:3] == ["the end"] * 2 + [heard[2]]
    assert sorted(heard) == sorted([*OF_ONE, *["the end"] * 4])


def test_a_trigger_that_fails_lets_sub2api_s_write_go_on(bare: Sub2Api) -> None:
    bare.install()
    bare.execute(sql.schema("sub2api_notify"))
    bare.execute("DROP SCHEMA image_gateway, image_adapter CASCADE")
    for statement, _ in TOLD:
        if "image_adapter" not in statement:
            with psycopg.connect(bare.url) as writer:
                writer.execute(statement.encode())
                writer.rollback()


def test_a_role_of_sub2api_without_rights_on_the_adapter_writes_as_before(bare: Sub2Api) -> None:
    role = f"sub2api_{bare.name}"
    bare.install()
    bare.execute(sql.schema("sub2api_notify"))
    bare.execute(f"CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    bare.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    try:
        with psycopg.connect(bare.url) as writer:
            writer.execute(f"SET ROLE {role}".encode())
            for statement, _ in TOLD:
                if "image_adapter" not in statement:
                    writer.execute("SAVEPOINT before")
                    writer.execute(statement.encode())
                    writer.execute("ROLLBACK TO before")
    finally:
        bare.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
