"""What calls used, in llm-access's own sums; what ``check`` says of it; removing the adapter."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
import pytest

from image_gateway import sql
from tests.parts.llm_access import TABLES, LlmAccess
from tests.planes.database import PlaneDatabase

pytestmark = pytest.mark.slow

IMAGE_COLUMNS: Final = (
    "codex_image_usage_tokens",
    "codex_image_usage_missing_events",
    "codex_image_last_used_at_ms",
)
DROPPED: Final = ", ".join(f"DROP {name}" for name in IMAGE_COLUMNS)
OLDER: Final = f"ALTER TABLE llm_key_usage_rollups {DROPPED}"
"""An llm-access before the migrations that count pictures."""
ADDED: Final = ", ".join(f"ADD {name} bigint NOT NULL DEFAULT 0" for name in IMAGE_COLUMNS)


class Plane(PlaneDatabase, LlmAccess):
    """An llm-access of which an adapter with all its roles is made."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "llm_access")
        self.create(TABLES)
        self.secret = ""

    def charge_call(self, request_id: str = "req_1", key_id: str = "k", **changes: Any) -> str:
        call = {
            "at": datetime.now(UTC),
            "model": "gpt-image-2",
            "account_name": "a",
            "tokens": {"total": 130, "input": 30, "cached_input": 10, "output": 100},
            "images": 1,
            "cost": None,
            **changes,
        }
        call["tokens"] = json.dumps(call["tokens"])
        return self.charge(request_id=request_id, key_id=key_id, **call)

    def sums(self, *names: str) -> tuple[Any, ...]:
        """Columns of the rollup of key k."""
        query = f"SELECT {', '.join(names)} FROM llm_key_usage_rollups WHERE key_id = 'k'"
        [row] = self.ask(query)
        found: tuple[Any, ...] = row
        return found

    def books(self) -> list[Any]:
        return self.ask("SELECT to_jsonb(u)::text FROM llm_key_usage_rollups u ORDER BY 1")


@pytest.fixture
def bare(server_url: str) -> Iterator[Plane]:
    made = Plane(server_url)
    yield made
    made.drop()


@pytest.fixture
def llm(bare: Plane) -> Plane:
    """One with a key that has used 7 tokens of its 1000."""
    bare.install()
    bare.secret = bare.add_llm_key("k", used=7)
    return bare


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_a_call_is_charged_where_llm_access_s_pages_show_it(llm: Plane) -> None:
    called_at = datetime.now(UTC) - timedelta(minutes=1)
    assert llm.charge_call(at=called_at) == "charged"
    assert llm.sums(
        "billable_tokens", "input_uncached_tokens", "input_cached_tokens", "output_tokens"
    ) == (137, 20, 10, 100)
    assert llm.sums(*IMAGE_COLUMNS) == (130, 0, milliseconds(called_at))
    assert llm.sums("last_used_at_ms") == (milliseconds(called_at),)
    assert llm.key(llm.secret).quota_remaining == 863
    # An older call leaves the time of the last one.
    assert llm.charge_call("req_2", at=called_at - timedelta(days=1)) == "charged"
    assert llm.sums("billable_tokens", "last_used_at_ms") == (267, milliseconds(called_at))


def test_a_key_that_was_never_used_gets_its_row(llm: Plane) -> None:
    secret = llm.add_llm_key("unused")
    assert llm.charge_call(key_id="unused") == "charged"
    assert llm.key(secret).quota_remaining == 870
    assert llm.ask(
        f"SELECT {', '.join(IMAGE_COLUMNS[:2])} FROM llm_key_usage_rollups WHERE key_id = 'unused'"
    ) == [(130, 0)]


@pytest.mark.parametrize("tokens", [{}, None, {"total": 0}, {"total": "7"}, [7]])
def test_a_call_that_names_no_tokens_is_counted(llm: Plane, tokens: Any) -> None:
    assert llm.charge_call(tokens=tokens, images=None) == "charged"
    assert llm.sums("billable_tokens", *IMAGE_COLUMNS[:2]) == (7, 0, 1)


def test_an_older_llm_access_is_charged_tokens_alone(bare: Plane) -> None:
    bare.execute(OLDER)
    bare.install()
    bare.add_llm_key("k", used=7)
    assert bare.charge_call() == "charged"
    assert bare.sums("billable_tokens", "output_tokens") == (137, 100)
    assert bare.warnings() == []
    # It is updated, and its new columns are charged without another installation.
    bare.execute(f"ALTER TABLE llm_key_usage_rollups {ADDED}")
    assert bare.charge_call("req_2") == "charged"
    assert bare.sums("billable_tokens", *IMAGE_COLUMNS[:2]) == (267, 130, 0)


def test_a_call_is_charged_once_also_by_two_at_once(llm: Plane) -> None:
    with ThreadPoolExecutor(8) as threads:
        words = list(threads.map(lambda each: llm.charge_call(f"req_{each % 4}"), range(16)))
    assert sorted(words) == ["charged"] * 4 + ["charged_before"] * 12
    assert llm.sums("billable_tokens", "codex_image_usage_tokens") == (527, 520)


def test_a_charge_adds_to_what_llm_access_adds_meanwhile(llm: Plane) -> None:
    with psycopg.connect(llm.url) as writer, ThreadPoolExecutor(1) as threads:
        writer.execute("UPDATE llm_key_usage_rollups SET billable_tokens = billable_tokens + 1")
        charging = threads.submit(llm.charge_call)
        while not llm.ask("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert not charging.done()
        writer.commit()
        assert charging.result() == "charged"
    assert llm.sums("billable_tokens") == (138,)


def test_nobody_is_charged_for_an_unknown_key_or_a_call_of_long_ago(llm: Plane) -> None:
    before = llm.books()
    assert llm.charge_call(key_id="unknown") == "unknown_key"
    assert llm.ask("TABLE image_adapter.charges") == []
    assert llm.charge_call(at=datetime.now(UTC) - timedelta(days=401)) == "too_old"
    assert llm.books() == before


def test_odd_numbers_charge_nothing_less_than_nothing(llm: Plane) -> None:
    tokens = {"total": -5, "input": 7, "cached_input": 1e300, "output": -1}
    assert llm.charge_call(tokens=tokens, images=-3, cost=Decimal("NaN")) == "charged"
    assert llm.charge_call("req_2", cost=Decimal(-1), model=None, account_name=None) == "charged"
    assert llm.sums(
        "billable_tokens", "input_uncached_tokens", "input_cached_tokens", "output_tokens"
    ) == (137, 20, 17, 100)


def test_a_sum_that_llm_access_cannot_hold_is_refused_as_a_whole(llm: Plane) -> None:
    llm.change("llm_key_usage_rollups", {"key_id": "k"}, billable_tokens=2**63 - 1)
    before = llm.books()
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        llm.charge_call()
    assert llm.books() == before
    assert llm.ask("TABLE image_adapter.charges") == []


def test_the_charger_can_charge_and_nothing_else(llm: Plane) -> None:
    with psycopg.connect(llm.charger_url, autocommit=True) as charger:
        for statement in (
            "TABLE public.llm_keys",
            "UPDATE public.llm_key_usage_rollups SET billable_tokens = 0",
            "TABLE image_gateway.keys",
            "TABLE image_adapter.charges",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                charger.execute(statement.encode())


def test_with_the_optional_triggers_a_charge_tells_only_the_end_of_a_quota(llm: Plane) -> None:
    llm.execute(sql.schema("llm_access_notify"))
    with psycopg.connect(llm.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        assert llm.charge_call() == "charged"
        assert llm.charge_call("req_2", tokens={"total": 900}) == "charged"
        assert llm.charge_call("req_3") == "charged"
        llm.execute("NOTIFY image_gateway_changed, 'the end'")
        heard = [each.payload for each in listener.notifies(timeout=20, stop_after=2)]
    assert heard == [f"key:{llm.key(llm.secret).key_hash}", "the end"]


def test_check_hears_that_llm_access_counts_pictures_of_its_own(llm: Plane) -> None:
    [warning] = llm.warnings()
    assert "llm_key_usage_rollups.codex_image_usage_tokens" in warning


@pytest.mark.parametrize("notifies", [True, False], ids=["notify", "plain"])
def test_removed_it_leaves_llm_access_as_it_was(bare: Plane, *, notifies: bool) -> None:
    bare.add_llm_key("k", used=7)
    bare.add_codex("a")
    bare.add_llm_group("g", ["a"])
    before = bare.of_the_plane()
    bare.install()
    if notifies:
        bare.execute(sql.schema("llm_access_notify"))
    assert bare.of_the_plane() != before
    for _ in range(2):
        bare.execute(sql.schema("llm_access_uninstall"))
        assert bare.of_the_plane() == before


def test_removed_and_installed_again_it_serves_and_knows_no_older_charge(llm: Plane) -> None:
    llm.add_llm_group("g", ["a"])
    assert llm.charge_call() == "charged"
    llm.execute(sql.schema("llm_access_uninstall"))
    with pytest.raises(psycopg.errors.InvalidSchemaName):
        llm.execute("SELECT image_gateway.contract_version()")
    llm.install()
    assert llm.key(llm.secret).quota_remaining == 863
    assert llm.ask("TABLE image_adapter.groups") == [("g", True)]
    assert llm.ask("TABLE image_adapter.charges") == []


def test_an_older_installation_takes_codex_accounts_of_its_own_from_now_on(bare: Plane) -> None:
    bare.install()
    bare.execute(
        "ALTER TABLE image_adapter.accounts DROP CONSTRAINT accounts_dialect_check,"
        " ADD CHECK (dialect IN ('azure', 'openai'))"
    )
    for _ in range(2):
        bare.install()
    bare.execute("INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('c', 'codex')")
    assert bare.accounts()["c"].dialect == "codex"
    with pytest.raises(psycopg.errors.CheckViolation):
        bare.execute("INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('x', 'x')")


def test_a_change_that_cannot_be_told_is_made_all_the_same(bare: Plane) -> None:
    bare.install()
    bare.execute(sql.schema("llm_access_notify"))
    bare.add_llm_key("k")
    bare.execute("UPDATE llm_keys SET key_hash = repeat('a', 9000) WHERE key_id = 'k'")
    assert bare.ask("SELECT length(key_hash) FROM llm_keys WHERE key_id = 'k'") == [(9000,)]
