"""The litellm adapter on real Postgres: installing it, its roles, and rows of any kind at all."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql as composing
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.rows import account_from_row, key_from_row
from image_gateway.edge.postgres.contract import check
from tests.parts.examples import scaled
from tests.planes.litellm.rows import (
    ACCESS_GROUP,
    ALIASES,
    BUDGET,
    CREDENTIAL,
    KEY,
    MEMBER,
    MODEL,
    ORGANIZATION,
    PROJECT,
    SPEND_LOG,
    TEAM,
    USER,
    LiteLlm,
    hashed,
)

pytestmark = pytest.mark.slow

THEIRS: Final = (
    "SELECT table_name, column_name, data_type, column_default, is_nullable"
    " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position"
)
OBJECTS: Final = (
    "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal UNION ALL"
    " SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (f'ALTER TABLE "{KEY}" DROP allowed_routes', f"column {KEY}.allowed_routes"),
        (
            f'ALTER TABLE "{TEAM}" DROP metadata, DROP blocked; DROP TABLE "{PROJECT}"',
            f"column {TEAM}.blocked, column {TEAM}.metadata, table {PROJECT}",
        ),
        (f'ALTER TABLE "{SPEND_LOG}" DROP "startTime"', f"column {SPEND_LOG}.startTime"),
    ],
)
def test_an_older_litellm_is_told_all_that_it_lacks(bare: LiteLlm, change: str, named: str) -> None:
    bare.execute(change)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        bare.execute(sql.schema("litellm"))
    said = caught.value.diag.message_primary or ""
    assert f"of LiteLLM: {named}. In the database" in said
    assert "upgrade LiteLLM to a version of March 2026 or later" in said
    assert bare.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []


def test_a_role_that_may_not_read_litellm_s_tables_is_told_so(bare: LiteLlm) -> None:
    role = f"installer_{bare.name}"
    bare.execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {bare.name} TO {role}")
    try:
        with (
            psycopg.connect(make_conninfo(bare.url, user=role), autocommit=True) as installer,
            pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught,
        ):
            installer.execute(sql.schema("litellm").encode())
        assert f"the role {role} may not read LiteLLM_AccessGroupTable, " in str(caught.value)
    finally:
        bare.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_reader_sees_the_contract_and_nothing_else(litellm: LiteLlm) -> None:
    litellm.install()
    litellm.execute(sql.schema("litellm_notify") * 2)
    findings = await check(Secret(litellm.reader_url))
    assert (findings.broken_accounts, findings.writable) == ((), ())
    for table in (f'public."{KEY}"', f'public."{CREDENTIAL}"', "image_adapter.accounts"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            litellm.read(f"TABLE {table}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        litellm.charge(url=litellm.reader_url, **CALL)


CALL: Final[dict[str, Any]] = {
    "request_id": "r",
    "key_id": "k",
    "at": datetime.now(UTC),
    "model": "gpt-image-2",
    "account_name": "a",
    "tokens": Jsonb({}),
    "images": 1,
    "cost": None,
}


def test_the_charger_charges_and_nothing_else(litellm: LiteLlm) -> None:
    assert litellm.charge(**CALL) == "unknown_key"
    with psycopg.connect(litellm.charger_url, autocommit=True) as charger:
        for statement in (
            f'UPDATE public."{KEY}" SET spend = 0',
            f'TABLE public."{SPEND_LOG}"',
            "TABLE image_adapter.charges",
            "TABLE image_gateway.keys",
            "SELECT image_adapter.add_spend('', '', '', '', '', 1)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                charger.execute(statement.encode())


def test_installed_again_it_keeps_what_was_in_its_tables(litellm: LiteLlm) -> None:
    litellm.add_own_account("pool", {"api_key": "k"})
    litellm.add("image_adapter.image_models", model="acme-draw")
    litellm.change("image_adapter.image_models", {"model": "gpt-image-2"}, provider="acme")
    litellm.add("image_adapter.key_options", key_id="k", images_remaining=5)
    litellm.install()
    assert "pool" in litellm.accounts()
    assert litellm.ask(
        "SELECT model, provider FROM image_adapter.image_models"
        " WHERE provider IS DISTINCT FROM 'openai' ORDER BY model"
    ) == [("acme-draw", None), ("gpt-image-2", "acme")]
    assert litellm.ask("SELECT images_remaining FROM image_adapter.key_options") == [(5,)]


def test_uninstalled_it_leaves_litellm_as_it_was(bare: LiteLlm) -> None:
    before = bare.ask(THEIRS), bare.ask(OBJECTS), bare.ask(f'TABLE "{KEY}"')
    bare.install()
    bare.execute(sql.schema("litellm_notify"))
    assert bare.ask(OBJECTS) != before[1]
    bare.execute(sql.schema("litellm_uninstall"))
    assert (bare.ask(THEIRS), bare.ask(OBJECTS), bare.ask(f'TABLE "{KEY}"')) == before
    assert bare.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []


# -- its page --------------------------------------------------------------------------------------

PAGE: Final = resources.files(sql).joinpath("planes/litellm.md").read_text("utf-8")


def test_the_page_s_examples_do_what_it_says(litellm: LiteLlm) -> None:
    for example in re.findall(r"^    (INSERT[^;]+;)$", PAGE, re.MULTILINE):
        litellm.execute(example.replace("'ALIAS'", "'star'").replace("MODEL_ID", "m2"))
    key = litellm.key("sk-ll-star")
    assert (key.images_remaining, key.min_start_interval_ms) == (100, 1000)
    assert litellm.allowed(litellm.add_token(models=["acme-draw"])) == {"acme-draw"}
    statuses = {name: row["status"] for name, row in litellm.account_rows().items()}
    assert statuses == dict.fromkeys(("openai-1", "azure-1", "relay-1"), "active")
    assert litellm.warnings() == []


def test_a_migration_of_litellm_goes_on_once_the_views_are_dropped(litellm: LiteLlm) -> None:
    litellm.execute(sql.schema("litellm_notify"))
    migration = f'ALTER TABLE "{KEY}" ALTER spend TYPE numeric, ALTER token TYPE text COLLATE "C"'
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        litellm.execute(migration)
    [drop] = re.findall(r'-c "(DROP VIEW [^"]+)"', PAGE)
    litellm.execute(drop)
    litellm.execute(migration)
    litellm.install()
    litellm.execute(sql.schema("litellm_notify"))
    assert litellm.key("sk-ll-spent").cost_remaining == 0
    assert litellm.charge(**{**CALL, "key_id": hashed("sk-ll-active")}) == "charged"


# -- anything at all -------------------------------------------------------------------------------

_WORDS = (
    "access_group_ids api_key gpt-image-2 gpt-image-* * all-team-models no-default-models a"
    " scim_active litellm_credential_name temp_budget_increase temp_budget_expiry"
    " team_member_budget_id user_id"
    " 2026-01-01T00:00:00 2999-01-01T00:00:00Z 2999-99-99T99:99:99 /v1/images/* openai_routes"
)
WORDS = st.sampled_from([*_WORDS.split(), "", " ", "\t", "\\", "%", "*" * 50]) | st.text(
    # What Postgres itself refuses.
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=8,
)
NUMBERS = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
).map(Jsonb)
NAMES = st.none() | st.lists(st.none() | WORDS, max_size=4)
MONEY = st.none() | st.floats()
SPENT = st.floats()
COUNT = st.none() | st.integers(-(2**31), 2**31 - 1)
TIME = st.none() | st.sampled_from(
    ["infinity", "-infinity", "4713-01-01 BC", "294276-01-01", "9999-12-31", "2026-01-01"]
)
FLAG = st.none() | st.booleans()
COLUMNS: Final[dict[str, dict[str, st.SearchStrategy[Any]]]] = {
    KEY: {
        "key_alias": st.none() | WORDS,
        "expires": TIME,
        "models": NAMES,
        "aliases": DOCUMENTS,
        "metadata": DOCUMENTS,
        "max_parallel_requests": COUNT,
        "blocked": FLAG,
        "max_budget": MONEY,
        "spend": SPENT,
        "allowed_routes": NAMES,
        "access_group_ids": NAMES,
        "budget_limits": st.none() | DOCUMENTS,
        "model_max_budget": DOCUMENTS,
    },
    TEAM: {
        "max_budget": MONEY,
        "spend": SPENT,
        "models": NAMES,
        "blocked": st.booleans(),
        "access_group_ids": NAMES,
        "metadata": DOCUMENTS,
        "members_with_roles": DOCUMENTS,
    },
    USER: {
        "max_budget": MONEY,
        "spend": SPENT,
        "models": NAMES,
        "max_parallel_requests": COUNT,
        "metadata": DOCUMENTS,
    },
    ALIASES: {"aliases": st.none() | DOCUMENTS},
    MEMBER: {"spend": SPENT},
    ORGANIZATION: {"spend": SPENT},
    PROJECT: {"models": NAMES, "spend": SPENT},
    BUDGET: {
        "max_budget": MONEY,
        "allowed_models": NAMES,
        "temp_budget_increase": MONEY,
        "temp_budget_expiry": TIME,
    },
    ACCESS_GROUP: {
        "access_model_names": NAMES,
        "assigned_team_ids": NAMES,
        "assigned_key_ids": NAMES,
    },
    MODEL: {"litellm_params": DOCUMENTS},
    CREDENTIAL: {"credential_values": DOCUMENTS},
}


@pytest.fixture
def odd(litellm: LiteLlm) -> Iterator[psycopg.Connection[DictRow]]:
    """A connection to a LiteLLM whose one key of everything is there to spoil; roll it back."""
    team = litellm.add_team(aliases={})
    litellm.change(ACCESS_GROUP, {"access_group_id": "ag1"}, access_group_id="gpt-image-2")
    litellm.add(MEMBER, user_id="u1", team_id=team, budget_id=litellm.add_budget(1))
    project = litellm.add_project(team_id=team, budget_id=litellm.add_budget(1))
    litellm.execute(
        f"UPDATE \"{KEY}\" SET user_id = 'u1', team_id = '{team}', project_id = '{project}',"
        f" organization_id = 'o1', budget_id = 'b-tier' WHERE key_alias = 'active';"
        f"UPDATE \"{KEY}\" SET user_id = 'u1' WHERE key_alias = 'star'"
    )
    litellm.add_own_account("fine", {"api_key": "k"})
    litellm.add_own_account("odd", {"litellm_model": "m1"})
    litellm.add_own_account("odder", {"litellm_credential": "shared-openai"})
    litellm.execute(sql.schema("litellm_notify"))
    with psycopg.connect(litellm.url, row_factory=dict_row) as connection:
        yield connection


@settings(max_examples=scaled(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({name: st.fixed_dictionaries(all_) for name, all_ in COLUMNS.items()}))
def test_no_row_makes_a_view_fail_or_costs_another_row(
    odd: psycopg.Connection[DictRow], rows: dict[str, dict[str, Any]]
) -> None:
    for table, columns in rows.items():
        odd.execute(
            composing.SQL("UPDATE {} SET {}").format(
                composing.Identifier(table),
                composing.SQL(", ").join(
                    composing.SQL("{} = {}").format(
                        composing.Identifier(name), composing.Placeholder(name)
                    )
                    for name in columns
                ),
            ),
            columns,
        )
    accounts = {
        row["account_name"]: row
        for row in odd.execute(sql.query("daemon/accounts").encode()).fetchall()
    }
    assert account_from_row(accounts["fine"]).image_enabled
    for name in ("odd", "odder"):
        # Whether a secret opens, only the gateway can judge.
        account_from_row({**accounts[name], "credential": None})
    for secret in ("sk-ll-active", "sk-ll-old", "sk-ll-star"):
        values = {"key_hash": hashed(secret)}
        [row] = odd.execute(sql.query("daemon/key").encode(), values).fetchall()
        key_from_row(row)
    odd.execute(sql.query("daemon/warnings").encode())
    odd.execute(sql.query("daemon/models_of_keys").encode(), {"patterns": ["gpt-image-1%"]})
    odd.rollback()
