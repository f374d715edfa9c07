"""The litellm adapter's triggers on real Postgres: each change is told, counters are not."""

from typing import Any, Final

import psycopg
import pytest

from image_gateway import sql
from tests.planes.litellm.rows import (
    ACCESS_GROUP,
    ALIASES,
    BUDGET,
    CREDENTIAL,
    KEY,
    MEMBER,
    MODEL,
    OLD_KEY,
    ORGANIZATION,
    PROJECT,
    TEAM,
    USER,
    LiteLlm,
    hashed,
)

pytestmark = pytest.mark.slow

ACTIVE: Final = hashed("sk-ll-active")
OLD: Final = hashed("sk-ll-old")
SPENT: Final = hashed("sk-ll-spent")
TIER: Final = hashed("sk-ll-tier")
BOTH: Final = sorted([f"key:{ACTIVE}", f"key:{OLD}"])
ONE: Final = f"WHERE token = '{ACTIVE}'"
NEW: Final = "0" * 64

TOLD: Final[list[tuple[str, list[str]]]] = [
    # LiteLLM writes what was spent every few seconds.
    (f'UPDATE "{KEY}" SET spend = spend + 1, total_spend = 5, last_active = now() {ONE}', []),
    (f'UPDATE "{KEY}" SET models = models, updated_at = now(), tpm_limit = 5 {ONE}', []),
    (f'UPDATE "{KEY}" SET metadata = \'{{"tags": []}}\' {ONE}', []),
    (f'UPDATE "{KEY}" SET blocked = true {ONE}', BOTH),
    (f"UPDATE \"{KEY}\" SET models = '{{a}}' {ONE}", BOTH),
    (f'UPDATE "{KEY}" SET expires = now() {ONE}', BOTH),
    (f'UPDATE "{KEY}" SET max_budget = 100 {ONE}', BOTH),
    (f'UPDATE "{KEY}" SET metadata = \'{{"temp_budget_increase": 5}}\' {ONE}', BOTH),
    (f"UPDATE \"{KEY}\" SET token = '{NEW}' {ONE}", sorted([*BOTH, f"key:{NEW}"])),
    (f'DELETE FROM "{KEY}" {ONE}', BOTH),
    (f"INSERT INTO \"{KEY}\" (token) VALUES ('{NEW}')", [f"key:{NEW}"]),
    (f'TRUNCATE "{KEY}"', ["keys"]),
    # One budget of 1 is used up, and one of 2 in a budget row.
    (f"UPDATE \"{KEY}\" SET spend = 0.5 WHERE token = '{SPENT}'", [f"key:{SPENT}"]),
    (f"UPDATE \"{KEY}\" SET spend = 3 WHERE token = '{SPENT}'", []),
    (f"UPDATE \"{KEY}\" SET spend = 0 WHERE token = '{TIER}'", [f"key:{TIER}"]),
    (f'UPDATE "{OLD_KEY}" SET revoke_at = now()', [f"key:{OLD}"]),
    (f'DELETE FROM "{OLD_KEY}"', [f"key:{OLD}"]),
    (
        f"INSERT INTO \"{OLD_KEY}\" VALUES ('d2', '{NEW}', '{ACTIVE}', now())",
        [f"key:{NEW}"],
    ),
    (f"UPDATE \"{TEAM}\" SET spend = spend + 1 WHERE team_id = 't1'", []),
    (f"UPDATE \"{TEAM}\" SET spend = spend + 1 WHERE team_id = 't-spent'", []),
    (f"UPDATE \"{TEAM}\" SET spend = 0 WHERE team_id = 't-spent'", ["keys"]),
    (f"UPDATE \"{TEAM}\" SET team_alias = 'renamed', metadata = metadata || '{{\"a\": 1}}'", []),
    (f"UPDATE \"{TEAM}\" SET blocked = true WHERE team_id = 't1'", ["keys"]),
    (f'UPDATE "{TEAM}" SET metadata = \'{{"team_member_budget_id": "b"}}\'', ["keys"]),
    (f"INSERT INTO \"{TEAM}\" (team_id) VALUES ('new')", ["keys"]),
    (f"UPDATE \"{ALIASES}\" SET aliases = '{{}}'", ["keys"]),
    (f"UPDATE \"{USER}\" SET spend = spend + 1 WHERE user_id = 'u1'", []),
    (f"UPDATE \"{USER}\" SET spend = 0 WHERE user_id = 'u-spent'", ["keys"]),
    (f"UPDATE \"{USER}\" SET max_parallel_requests = 5 WHERE user_id = 'u1'", ["keys"]),
    (f'UPDATE "{USER}" SET metadata = \'{{"scim_active": false}}\'', ["keys"]),
    (f"INSERT INTO \"{USER}\" (user_id) VALUES ('without a key')", []),
    (f"DELETE FROM \"{USER}\" WHERE user_id = 'u1'", ["keys"]),
    (f"INSERT INTO \"{USER}\" (user_id) VALUES ('to come')", ["keys"]),
    # The member's budget is 10, of which 9 are spent; another has the team's, 5, and spent 4.
    (f"UPDATE \"{MEMBER}\" SET spend = 9.5, total_spend = 20 WHERE user_id = 'u1'", []),
    (f"UPDATE \"{MEMBER}\" SET spend = 10 WHERE user_id = 'u1'", ["keys"]),
    (f"UPDATE \"{MEMBER}\" SET spend = 4.5 WHERE user_id = 'u-spent'", []),
    (f"UPDATE \"{MEMBER}\" SET spend = 5 WHERE user_id = 'u-spent'", ["keys"]),
    (f'UPDATE "{MEMBER}" SET budget_id = NULL', ["keys"]),
    (f'UPDATE "{ORGANIZATION}" SET spend = 99', []),
    (f'UPDATE "{ORGANIZATION}" SET spend = 100', ["keys"]),
    (f'UPDATE "{PROJECT}" SET spend = 1', []),
    (f'UPDATE "{PROJECT}" SET blocked = true', ["keys"]),
    (f'UPDATE "{BUDGET}" SET budget_reset_at = now(), updated_at = now()', []),
    (f'UPDATE "{BUDGET}" SET max_budget = 7', ["keys"]),
    (f"UPDATE \"{BUDGET}\" SET allowed_models = '{{a}}'", ["keys"]),
    (f"UPDATE \"{ACCESS_GROUP}\" SET access_group_name = 'renamed'", []),
    (f"UPDATE \"{ACCESS_GROUP}\" SET access_model_names = '{{}}'", ["keys"]),
    (f"UPDATE \"{MODEL}\" SET model_info = '{{}}', updated_at = now()", []),
    (f"UPDATE \"{MODEL}\" SET blocked = true WHERE model_id = 'm1'", ["account:by model"]),
    (f"UPDATE \"{MODEL}\" SET blocked = true WHERE model_id = 'm2'", []),
    (f'UPDATE "{MODEL}" SET litellm_params = \'{{"api_key": "k"}}\'', ["account:by model"]),
    (f'DELETE FROM "{MODEL}"', ["account:by model"]),
    (
        f'UPDATE "{CREDENTIAL}" SET credential_values = \'{{"api_key": "k"}}\'',
        ["account:by model", "account:by name"],
    ),
    (f"UPDATE \"{CREDENTIAL}\" SET credential_info = '{{}}'", []),
    (f'TRUNCATE "{CREDENTIAL}"', ["accounts"]),
]


@pytest.fixture
def told(litellm: LiteLlm) -> LiteLlm:
    """A LiteLLM with the triggers, and a row of each kind."""
    litellm.change(
        MODEL, {"model_id": "m1"}, litellm_params={"litellm_credential_name": "shared-openai"}
    )
    litellm.add_own_account("by model", {"litellm_model": "m1"})
    litellm.add_own_account("by name", {"litellm_credential": "shared-openai"})
    litellm.add_own_account("its own", {"api_key": "k"})
    litellm.change(TEAM, {"team_id": "t1"}, metadata={"team_member_budget_id": "b-members"})
    litellm.add(BUDGET, budget_id="b-members", max_budget=5)
    litellm.add(BUDGET, budget_id="b-member", max_budget=10)
    litellm.add(MEMBER, user_id="u1", team_id="t1", budget_id="b-member", spend=9)
    litellm.add(MEMBER, user_id="u-spent", team_id="t1", spend=4)
    litellm.add_project(budget_id="b-tier")
    litellm.add_token(user_id="to come")
    for _ in range(2):
        litellm.execute(sql.schema("litellm_notify"))
    return litellm


def heard(listener: psycopg.Connection[Any], writer: psycopg.Connection[Any]) -> list[str]:
    """What was told until now, sorted: Postgres itself tells the same but once."""
    writer.execute("NOTIFY image_gateway_changed, 'the end'")
    payloads = []
    for notification in listener.notifies(timeout=20):
        if notification.payload == "the end":
            break
        payloads.append(notification.payload)
    return sorted(payloads)


def test_each_change_of_a_grant_is_told_and_no_counter(told: LiteLlm) -> None:
    with (
        psycopg.connect(told.url, autocommit=True) as listener,
        psycopg.connect(told.url, autocommit=True) as writer,
    ):
        writer.execute("CREATE SCHEMA saved")
        tables = [name for (name,) in told.ask(_TABLES)]
        for table in tables:
            writer.execute(f'CREATE TABLE saved."{table}" AS TABLE public."{table}"'.encode())
        listener.execute("LISTEN image_gateway_changed")
        for statement, payloads in TOLD:
            # Triggers sleep while the tables are brought back to what they were.
            writer.execute("SET session_replication_role = replica")
            for table in tables:
                writer.execute(f'DELETE FROM "{table}"'.encode())
                writer.execute(f'INSERT INTO "{table}" TABLE saved."{table}"'.encode())
            writer.execute("SET session_replication_role = origin")
            writer.execute(statement.encode())
            assert heard(listener, writer) == payloads, statement


EACH: Final = ["account:by model", "account:by name", "account:its own"]
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def test_changes_in_the_adapter_s_own_tables_are_told(told: LiteLlm) -> None:
    told.add("image_adapter.key_options", key_id=ACTIVE, images_remaining=5)
    with (
        psycopg.connect(told.url, autocommit=True) as listener,
        psycopg.connect(told.url, autocommit=True) as writer,
    ):
        listener.execute("LISTEN image_gateway_changed")
        for statement, payloads in (
            ("INSERT INTO image_adapter.image_models (model) VALUES ('acme')", ["keys"]),
            ("UPDATE image_adapter.key_options SET images_remaining = 3", []),
            ("UPDATE image_adapter.key_options SET images_remaining = 0", ["keys"]),
            ("UPDATE image_adapter.key_options SET image_enabled = false", ["keys"]),
            ("UPDATE image_adapter.accounts SET status = account_name", EACH),
            ("DELETE FROM image_adapter.key_options", ["keys"]),
        ):  # fmt: skip
            writer.execute(statement.encode())
            assert heard(listener, writer) == payloads, statement


def test_a_key_that_is_regenerated_keeps_its_options(told: LiteLlm) -> None:
    told.add("image_adapter.key_options", key_id=ACTIVE, image_enabled=False)
    told.change(KEY, {"token": ACTIVE}, token=hashed("sk-regenerated"))
    assert not told.key("sk-regenerated").image_enabled
    # A row that somebody made for the new id already stays.
    told.add("image_adapter.key_options", key_id=NEW, images_remaining=5)
    told.change(KEY, {"key_alias": "active"}, token=NEW)
    assert told.ask(
        "SELECT key_id, image_enabled, images_remaining FROM image_adapter.key_options ORDER BY 1"
    ) == sorted([(NEW, True, 5), (hashed("sk-regenerated"), False, None)])


def test_litellm_s_own_writes_go_on_whatever_becomes_of_the_adapter(told: LiteLlm) -> None:
    """Its role may do nothing in the adapter's schemas, and they may even be gone."""
    role = f"litellm_{told.name}"
    told.execute(f"CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        url = told.url.replace("//postgres:@", f"//{role}:@", 1)
        with psycopg.connect(url, autocommit=True) as writer:
            for gone in (False, True):
                if gone:
                    told.execute("DROP SCHEMA image_gateway, image_adapter CASCADE")
                for statement, _ in TOLD:
                    writer.execute("BEGIN")
                    writer.execute(statement.encode())
                    writer.execute("ROLLBACK")
    finally:
        told.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_triggers_want_the_adapter_first(bare: LiteLlm) -> None:
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="the litellm adapter is not installed"
    ):
        bare.execute(sql.schema("litellm_notify"))
