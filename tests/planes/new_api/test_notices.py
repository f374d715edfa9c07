"""Changes in new-api's tables and the adapter's own are told at once, and counters are not."""

from collections.abc import Iterator
from hashlib import sha256

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_gateway import sql
from tests.planes.new_api.database import NewApi, secret_of
from tests.planes.notices import heard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(server_url: str) -> Iterator[NewApi]:
    """A new-api with the optional triggers."""
    made = NewApi(server_url)
    made.create_bare()
    made.install()
    for _ in range(2):
        made.execute(sql.schema("new_api_notify"))
    yield made
    made.drop()


def payload(secret: str) -> str:
    return f"key:{sha256(secret.encode()).hexdigest()}"


EMPTY = payload(secret_of("Empty"))
VIP = payload(secret_of("Vip"))
OF_VIP = "UPDATE tokens SET {} WHERE id = 12"
OF_USER = "UPDATE users SET {} WHERE id = 5"
OF_MULTI = "UPDATE channels SET {} WHERE id = 2"
POLLED = """channel_info = '{"is_multi_key": true, "multi_key_size": 3, "multi_key_status_list":
    {"1": 3}, "multi_key_polling_index": 2, "multi_key_mode": "polling"}'"""
MULTI = ["account:2#0", "account:2#1", "account:2#2"]
TOLD: list[tuple[str, list[str]]] = [
    # 500000 units are left of the key, and 5000000 of its user.
    (OF_VIP.format("accessed_time = 5, used_quota = 5, remain_quota = 1"), []),
    (OF_VIP.format("status = status, name = name"), []),
    (OF_VIP.format("remain_quota = 0"), [VIP]),
    (OF_VIP.format("remain_quota = -5"), []),
    (OF_VIP.format("remain_quota = 5"), [VIP]),
    (OF_VIP.format("status = 2"), [VIP]),
    (OF_VIP.format("status = 1"), [VIP]),
    (OF_VIP.format("model_limits = 'x', model_limits_enabled = true"), [VIP]),
    (OF_VIP.format("allow_ips = '10.0.0.1'"), [VIP]),
    (OF_VIP.format("expired_time = 5"), [VIP]),
    (OF_VIP.format("\"group\" = 'auto'"), [VIP]),
    (OF_VIP.format("\"key\" = 'new'"), [VIP, payload("sk-new")]),
    (OF_VIP.format(f"\"key\" = '{secret_of('Vip')[3:]}'"), [payload("sk-new"), VIP]),
    (OF_VIP.format("deleted_at = now()"), [VIP]),
    (OF_VIP.format("deleted_at = NULL"), [VIP]),
    ("INSERT INTO tokens (id, user_id, \"key\") VALUES (99, 5, 'n')", [payload("sk-n")]),
    ("DELETE FROM tokens WHERE id = 99", [payload("sk-n")]),
    (OF_USER.format("quota = 5, used_quota = 5, request_count = 5, setting = '{}'"), []),
    (OF_USER.format("quota = -1"), [VIP]),
    (OF_USER.format("quota = -2"), []),
    (OF_USER.format("quota = 5"), [VIP]),
    (OF_USER.format("status = 2"), [VIP]),
    (OF_USER.format("\"group\" = 'default'"), [VIP]),
    (OF_USER.format("deleted_at = now()"), [VIP]),
    ("INSERT INTO users (id, password) VALUES (99, 'x')", []),
    ("DELETE FROM users WHERE id = 3", [EMPTY]),
    ("UPDATE channels SET used_quota = 5, balance = 5, test_time = 5, response_time = 5", []),
    ("UPDATE channels SET name = 'x', remark = 'x', other_info = 'x'", []),
    (OF_MULTI.format(POLLED), []),
    (OF_MULTI.format("weight = 5"), MULTI),
    (OF_MULTI.format("channel_info = '{\"is_multi_key\": true}'"), [*MULTI, "keys"]),
    (OF_MULTI.format("\"key\" = 'one'"), [*MULTI, "keys"]),
    (OF_MULTI.format("channel_info = NULL"), ["account:2#0", "keys"]),
    (OF_MULTI.format("status = 3"), ["account:2"]),
    ("UPDATE channels SET setting = '{}', model_mapping = NULL WHERE id = 1", ["account:1"]),
    ("UPDATE channels SET type = 24 WHERE id = 1", ["account:1", "keys"]),
    # One without an image model, before it gets one.
    ("UPDATE channels SET status = 2, base_url = 'x' WHERE id = 7", []),
    ("UPDATE channels SET models = 'gpt-image-2' WHERE id = 7", ["account:7"]),
    (
        "INSERT INTO channels (id, \"key\", models) VALUES (99, 'k', 'gpt-image-2')",
        ["accounts", "keys"],
    ),
    ("INSERT INTO channels (id, \"key\", models) VALUES (98, 'k', 'text')", []),
    ("DELETE FROM channels WHERE id > 90", ["account:99", "keys"]),
    ("UPDATE abilities SET tag = 'x'", []),
    ("UPDATE abilities SET enabled = false WHERE model = 'gpt-5.5'", []),
    ("UPDATE abilities SET enabled = false WHERE channel_id = 3", ["keys"]),
    ("DELETE FROM abilities WHERE model = 'gpt-5.5'", []),
    ("DELETE FROM abilities WHERE channel_id = 3", ["keys"]),
    ("INSERT INTO abilities VALUES ('g', 'gpt-image-2', 3, true)", ["keys"]),
    ("UPDATE options SET value = value", []),
    ("UPDATE options SET value = '{}' WHERE key = 'ModelPrice'", []),
    ("UPDATE options SET value = '[]' WHERE key = 'AutoGroups'", ["keys"]),
    ("INSERT INTO options VALUES ('SystemName', 'x')", ["keys"]),
    ("INSERT INTO logs (user_id) VALUES (1)", []),
    # The adapter's own tables.
    (
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('own', 'openai')",
        ["accounts"],
    ),
    ("INSERT INTO image_adapter.group_accounts VALUES ('g', 'own')", ["keys"]),
    ("INSERT INTO image_adapter.account_options (account_name) VALUES ('own')", ["accounts"]),
    ("INSERT INTO image_adapter.image_models VALUES ('flux')", ["all"]),
    ("INSERT INTO abilities VALUES ('g', 'flux', 3, true)", ["keys"]),
    ("UPDATE channels SET models = 'flux' WHERE id = 6", ["account:6"]),
    ("UPDATE channels SET base_url = 'x' WHERE id = 6", ["account:6"]),
    ("TRUNCATE tokens", ["keys"]),
    ("TRUNCATE users", ["keys"]),
    ("TRUNCATE channels", ["accounts"]),
    ("TRUNCATE abilities", ["keys"]),
    ("TRUNCATE options", ["keys"]),
]


def test_what_changes_is_told_and_what_is_counted_is_not(told: NewApi) -> None:
    """One statement after the other, each with what a gateway hears of it."""
    for statement, payloads in TOLD:
        assert heard(told, statement) == payloads, statement


def test_a_key_s_own_groups_are_told_where_new_api_has_them(fresh: NewApi) -> None:
    fresh.execute("ALTER TABLE tokens ADD auto_groups text")
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    auto = payload(secret_of("Auto"))
    assert heard(fresh, "UPDATE tokens SET auto_groups = '[\"vip\"]'") == [auto]


def test_a_user_s_change_is_told_of_each_of_the_user_s_keys(fresh: NewApi) -> None:
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    secrets = {secret_of("Vip"), fresh.add_token("Second", user_id=5)}
    fresh.add_token("Third", user_id=5, deleted_at="2026-01-01")
    told = heard(fresh, OF_USER.format("status = 2"))
    assert sorted(told) == sorted(map(payload, secrets))


def test_a_charge_is_told_when_it_leaves_nothing(fresh: NewApi) -> None:
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    charge = "SELECT image_gateway.charge('{}', '12', now(), 'gpt-image-2', '4', '{{}}', 1, {})"
    assert heard(fresh, charge.format("a", 1), fresh.charger_url) == []
    assert heard(fresh, charge.format("b", 1), fresh.charger_url) == [VIP]
    assert heard(fresh, charge.format("c", 1), fresh.charger_url) == []


def test_the_triggers_never_make_a_write_of_new_api_fail(fresh: NewApi) -> None:
    """Its role has no rights on the adapter, and the functions may meet anything."""
    role = f"plane_{fresh.name}"
    fresh.install()
    fresh.execute(sql.schema("new_api_notify"))
    fresh.execute(f"CREATE ROLE {role} LOGIN")
    try:
        fresh.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        writer = make_conninfo(fresh.url, user=role)
        with (
            psycopg.connect(writer) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("TABLE image_adapter.key_options")
        assert heard(fresh, OF_USER.format("status = 2"), writer) == [VIP]
        # The index on the hash is kept by its writes, too.
        assert heard(
            fresh, "INSERT INTO tokens (id, user_id, \"key\") VALUES (99, 5, 'n')", writer
        ) == [payload("sk-n")]
        # What the functions read is gone.
        fresh.execute("ALTER TABLE tokens RENAME user_id TO owner")
        fresh.execute("DROP TABLE image_adapter.image_models CASCADE")
        assert heard(fresh, OF_USER.format("status = 1"), writer) == []
        assert heard(fresh, "UPDATE channels SET base_url = 'x', models = 'y'", writer) == []
        assert heard(fresh, OF_VIP.format("status = 2"), writer) == [VIP]
    finally:
        fresh.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_the_triggers_need_the_adapter_and_wait_for_no_long_write(fresh: NewApi) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="schema new_api`"):
        fresh.execute(sql.schema("new_api_notify"))
    fresh.install()
    patient = sql.schema("new_api_notify")
    impatient = patient.replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    assert impatient != patient
    with psycopg.connect(fresh.url) as writer:
        writer.execute("UPDATE tokens SET accessed_time = 5")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fresh.execute(impatient)
    assert fresh.ask("SELECT 1 FROM pg_namespace WHERE nspname = 'image_adapter_notify'") == []
