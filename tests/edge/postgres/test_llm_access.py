"""The llm_access adapter on real Postgres: what the gateway sees of an llm-access, and when."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.model import Account, Credential, Key, Proxy, Secret
from image_gateway.core.rows import RowError, account_from_row, key_from_row
from image_gateway.demo import postgres
from image_gateway.edge.postgres.contract import check
from tests.edge.conftest import OpenControl
from tests.edge.server import hurry
from tests.parts.eventually import eventually
from tests.parts.examples import scaled
from tests.parts.llm_access import ADAPTER, TABLES, LlmAccess
from tests.parts.packaged_postgres import packaged

pytestmark = pytest.mark.slow

BIGGEST: Final = 2**63 - 1


@pytest.fixture(scope="module", params=[15, 18], ids="postgres-{}".format)
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The oldest Postgres that the adapter promises, and the newest."""
    with packaged(15) if request.param == 15 else postgres.embedded(request.param) as url:
        hurry(url)
        yield url


@pytest.fixture
def llm(server_url: str) -> Iterator[LlmAccess]:
    """A fresh llm-access with the adapter installed."""
    made = LlmAccess(server_url)
    made.install()
    yield made
    made.drop()


@pytest.fixture(scope="module")
def still(server_url: str) -> Iterator[LlmAccess]:
    """One llm-access for all tests that only add keys, groups and accounts of their own."""
    made = LlmAccess(server_url)
    made.install()
    made.add_proxy("works", "http://proxy.example:8080", proxy_username="u", proxy_password="p")
    made.add_proxy("socks", " socks5h://proxy.example:1080 ", proxy_username="")
    made.add_proxy("off", "http://proxy.example:8080", status="disabled")
    made.add_proxy("blank", " ")
    yield made
    made.drop()


@pytest.fixture
def bare(server_url: str) -> Iterator[LlmAccess]:
    """A fresh llm-access without the adapter."""
    made = LlmAccess(server_url)
    made.create(TABLES)
    yield made
    made.drop()


async def key_of(llm: LlmAccess, open_control: OpenControl, secret: str) -> Key:
    async with open_control(llm.reader_url, listening=False) as control:
        key = await control.key(secret)
    assert key is not None
    return key


async def accounts_of(llm: LlmAccess, open_control: OpenControl) -> Mapping[str, Account]:
    secret = llm.add_llm_key()
    async with open_control(llm.reader_url, listening=False) as control:
        key = await control.key(secret)
        assert key is not None
        return (await control.grant(key)).accounts


# -- keys ------------------------------------------------------------------------------------------


async def test_a_key_of_llm_access_is_found_by_its_secret(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_llm_group("painters", ["b", "a"], on=True)
    secret = llm.add_llm_key(
        "k1",
        name="Ada",
        quota_billable_limit=10,
        used=3,
        route_strategy="auto",
        account_group_id="painters",
        auto_account_names_json=["not asked, as there is a group"],
        model_name_map_json={"pretty": "gpt-image-2"},
        request_max_concurrency=2,
        request_min_start_interval_ms=250,
    )
    llm.add_llm_key("k2")
    key = await key_of(llm, open_control, secret)
    assert key == Key(
        key_hash=key.key_hash,
        key_id="k1",
        key_name="Ada",
        status="active",
        image_enabled=True,
        group_id="painters",
        group_image_enabled=True,
        quota_remaining=7,
        max_concurrency=2,
        min_start_interval_ms=250,
        allowed_models=None,
        model_map={"pretty": "gpt-image-2"},
        account_names=("b", "a"),
        route_strategy="auto",
    )


async def test_a_key_without_routing_and_usage_has_what_llm_access_gives_by_default(
    still: LlmAccess, open_control: OpenControl
) -> None:
    """No row in either table: a missing switch is off; no group, no limits, all accounts."""
    key = await key_of(still, open_control, still.add_llm_key(quota_billable_limit=5))
    assert (key.image_enabled, key.group_id, key.group_image_enabled) == (False, None, True)
    assert (key.max_concurrency, key.min_start_interval_ms) == (None, None)
    assert (key.quota_remaining, key.account_names, key.route_strategy) == (5, None, "auto")
    assert (key.model_map, key.allowed_models) == ({}, None)


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "active"),
        ({"status": "disabled"}, "disabled"),
        ({"provider_type": "kiro", "protocol_family": "anthropic"}, "other_provider"),
        ({"provider_type": "kiro"}, "other_provider"),
        ({"protocol_family": "anthropic"}, "other_provider"),
        ({"provider_type": "kiro", "status": "disabled"}, "other_provider"),
    ],
)
async def test_keys_of_other_providers_are_known_and_refused(
    still: LlmAccess, open_control: OpenControl, columns: dict[str, Any], status: str
) -> None:
    assert (await key_of(still, open_control, still.add_llm_key(**columns))).status == status


@pytest.mark.parametrize(
    ("limit", "used", "remaining"),
    [
        (10, None, 10),
        (10, 4, 6),
        (10, 10, 0),
        (10, 25, -15),
        (0, None, 0),
        (0, 0, 0),
        (BIGGEST, 0, BIGGEST),
        (0, BIGGEST, -BIGGEST),
    ],
)
async def test_quota_is_the_limit_less_the_billable_tokens_and_0_is_no_quota(
    still: LlmAccess, open_control: OpenControl, limit: int, used: int | None, remaining: int
) -> None:
    secret = still.add_llm_key(quota_billable_limit=limit, used=used)
    assert (await key_of(still, open_control, secret)).quota_remaining == remaining


@pytest.mark.parametrize(
    ("given_number", "seen"), [(None, None), (0, None), (-1, None), (7, 7), (BIGGEST, 2**31 - 1)]
)
async def test_a_limit_of_nothing_is_none_and_no_number_is_too_big(
    still: LlmAccess, open_control: OpenControl, given_number: int | None, seen: int | None
) -> None:
    secret = still.add_llm_key(
        request_max_concurrency=given_number, request_min_start_interval_ms=given_number
    )
    key = await key_of(still, open_control, secret)
    assert (key.max_concurrency, key.min_start_interval_ms) == (seen, seen)


async def test_the_key_s_image_switch_is_llm_access_s_own(
    still: LlmAccess, open_control: OpenControl
) -> None:
    for switch in (True, False):
        secret = still.add_llm_key(codex_image_generation_enabled=switch)
        assert (await key_of(still, open_control, secret)).image_enabled is switch


@pytest.mark.parametrize(
    ("routing", "names", "strategy"),
    [
        ({}, None, "auto"),
        ({"route_strategy": "auto", "auto_account_names_json": ["b", "a"]}, ["b", "a"], "auto"),
        # llm-access takes an absent list and an empty one alike.
        ({"route_strategy": "auto", "auto_account_names_json": []}, None, "auto"),
        ({"auto_account_names_json": Jsonb(None)}, None, "auto"),
        ({"route_strategy": "", "auto_account_names_json": ["a"]}, ["a"], "auto"),
        ({"account_group_id": "two", "auto_account_names_json": ["x"]}, ["b", "a"], "auto"),
        ({"account_group_id": "none", "auto_account_names_json": ["x"]}, ["x"], "auto"),
        ({"account_group_id": "none"}, None, "auto"),
        ({"account_group_id": "gone", "auto_account_names_json": ["x"]}, [], "auto"),
        ({"account_group_id": "", "auto_account_names_json": ["x"]}, [], "auto"),
        ({"account_group_id": "theirs"}, [], "auto"),
        ({"route_strategy": "fixed", "fixed_account_name": "a"}, ["a"], "fixed"),
        ({"route_strategy": "fixed", "fixed_account_name": " "}, [], "fixed"),
        ({"route_strategy": "fixed", "auto_account_names_json": ["a"]}, [], "fixed"),
        (
            {"route_strategy": "fixed", "fixed_account_name": "x", "account_group_id": "two"},
            ["b", "a"],
            "fixed",
        ),
        (
            {"route_strategy": "fixed", "fixed_account_name": "x", "account_group_id": "none"},
            [],
            "fixed",
        ),
        (
            {"route_strategy": "fixed", "fixed_account_name": "x", "account_group_id": "gone"},
            [],
            "fixed",
        ),
        ({"route_strategy": "mystery", "auto_account_names_json": ["a"]}, [], "auto"),
        # What was meant to restrict and cannot be read restricts to nothing.
        ({"auto_account_names_json": {"a": 1}}, [], "auto"),
        ({"auto_account_names_json": Jsonb("a")}, [], "auto"),
        ({"auto_account_names_json": ["", 5, None, " "]}, [], "auto"),
        ({"auto_account_names_json": ["b", "", 5, ["c"], "a", "b"]}, ["b", "a"], "auto"),
        ({"account_group_id": "odd", "auto_account_names_json": ["x"]}, [], "auto"),
    ],
)
async def test_the_accounts_of_a_key_are_those_that_llm_access_would_route_to(
    still: LlmAccess,
    open_control: OpenControl,
    routing: dict[str, Any],
    names: list[str] | None,
    strategy: str,
) -> None:
    if not still.rows("SELECT 1 FROM llm_account_groups WHERE group_id = 'two'"):
        still.add_llm_group("two", ["b", "a"])
        still.add_llm_group("none", [])
        still.add_llm_group("odd", {"names": ["a"]})
        still.add_llm_group("theirs", ["k"], provider_type="kiro")
    key = await key_of(still, open_control, still.add_llm_key(**routing))
    assert key.account_names == (None if names is None else tuple(names))
    assert key.route_strategy == strategy


@pytest.mark.parametrize(
    ("given_map", "seen"),
    [
        (None, {}),
        ({"a": "b"}, {"a": "b"}),
        ({"a": "b", "c": 5, "d": None, "e": ""}, {"a": "b"}),
        (["a"], {}),
        (Jsonb("a"), {}),
    ],
)
async def test_of_a_model_map_counts_what_can_be_read(
    still: LlmAccess, open_control: OpenControl, given_map: Any, seen: dict[str, str]
) -> None:
    secret = still.add_llm_key(model_name_map_json=given_map)
    assert (await key_of(still, open_control, secret)).model_map == seen


# -- groups ----------------------------------------------------------------------------------------


async def test_groups_that_exist_at_the_first_run_keep_images_and_new_ones_start_without(
    bare: LlmAccess, open_control: OpenControl
) -> None:
    bare.add_llm_group("painters", ["a"])
    bare.add_llm_group("writers", ["a"])
    bare.add_llm_group("theirs", ["k"], provider_type="kiro")
    bare.execute(ADAPTER)

    def switches() -> dict[str, bool]:
        return dict(bare.rows("SELECT * FROM image_adapter.groups"))

    assert switches() == {"painters": True, "writers": True, "theirs": False}
    bare.change("image_adapter.groups", {"group_id": "writers"}, allow_image_generation=False)
    bare.add_llm_group("new", ["a"])
    secrets = {
        group_id: bare.add_llm_key(account_group_id=group_id)
        for group_id in ("painters", "writers", "new")
    }
    for _ in range(2):
        for group_id, secret in secrets.items():
            key = await key_of(bare, open_control, secret)
            assert key.group_image_enabled is (group_id == "painters"), group_id
        bare.execute(ADAPTER)
    assert switches() == {"painters": True, "writers": False, "theirs": False, "new": False}


async def test_the_first_run_counts_even_where_it_found_no_group(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_llm_group("new", ["a"])
    llm.execute(ADAPTER)
    key = await key_of(llm, open_control, llm.add_llm_key(account_group_id="new"))
    assert not key.group_image_enabled


async def test_a_group_that_is_gone_or_another_provider_s_makes_no_images(
    still: LlmAccess, open_control: OpenControl
) -> None:
    still.add("image_adapter.groups", group_id="deleted", allow_image_generation=True)
    still.add_llm_group("kiro", ["a"], provider_type="kiro", on=True)
    for group_id in ("deleted", "kiro", "never was"):
        key = await key_of(still, open_control, still.add_llm_key(account_group_id=group_id))
        assert (key.group_id, key.group_image_enabled) == (group_id, False)
        assert key.account_names == ()


async def test_a_group_s_keys_may_use_the_adapter_s_own_accounts_that_it_is_given(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    for name in ("west", "east", "elsewhere"):
        llm.add("image_adapter.accounts", account_name=name, dialect="openai")
    for group_id, names in (("two", ["b", "a"]), ("all", []), ("other", ["a"])):
        llm.add_llm_group(group_id, names, on=True)
    for group_id, name in (("two", "west"), ("two", "east"), ("all", "west"), ("gone", "west")):
        llm.add("image_adapter.group_accounts", group_id=group_id, account_name=name)
    wanted = {
        ("two", "auto"): ("b", "a", "east", "west"),
        ("two", "fixed"): ("b", "a", "east", "west"),
        ("all", "auto"): None,
        ("all", "fixed"): ("west",),
        ("other", "auto"): ("a",),
        ("gone", "auto"): (),
        (None, "auto"): None,
    }
    for (group, strategy), names_seen in wanted.items():
        secret = llm.add_llm_key(account_group_id=group, route_strategy=strategy)
        assert (await key_of(llm, open_control, secret)).account_names == names_seen
    # A key limited to some accounts, in a group that is not.
    secret = llm.add_llm_key(account_group_id="all", auto_account_names_json=["a", "west"])
    assert (await key_of(llm, open_control, secret)).account_names == ("a", "west")


# -- Codex accounts --------------------------------------------------------------------------------


async def test_a_codex_account_is_seen_with_all_that_llm_access_knows(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add(
        "llm_runtime_config",
        id="default",
        codex_client_version=" 0.144.1 ",
        codex_weight_plus=20,
    )
    llm.add_proxy(
        "p", "http://proxy.example:8080", proxy_username="user", proxy_password="password"
    )
    llm.see([{"name": "a", "primary_remaining_percent": 80, "secondary_remaining_percent": 5.5}])
    llm.add_codex(
        "a",
        {"tokens": {"access_token": "t", "account_id": "i"}, "is_fedramp_account": True},
        codex_image_generation_max_concurrency=5,
        proxy_mode="fixed",
        proxy_config_id="p",
        route_weight_tier="plus",
    )
    account = (await accounts_of(llm, open_control))["a"]
    assert account.blocked_until is None or account.blocked_until < datetime.now(UTC)
    assert replace(account, blocked_until=None) == Account(
        account_name="a",
        dialect="codex",
        status="active",
        image_enabled=True,
        image_max_concurrency=5,
        base_url=None,
        api_version=None,
        deployments=None,
        credential=Credential(Secret("t"), "access_token", "i", is_fedramp=True),
        client_version="0.144.1",
        responses_model=None,
        codex_route="direct",
        proxy=Proxy("http://proxy.example:8080", Secret("user"), Secret("password")),
        routing_weight=20.0,
        used_percent_primary=20.0,
        used_percent_secondary=94.5,
        same_account_retries=0,
        blocked_until=None,
    )


async def test_a_codex_account_without_settings_makes_no_images(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add("llm_codex_accounts", account_name="a", status="active", auth_json={}, settings_json={})
    account = (await accounts_of(llm, open_control))["a"]
    assert (account.image_enabled, account.image_max_concurrency) == (False, 3)
    assert (account.status, account.credential, account.proxy) == ("active", None, None)
    assert (account.client_version, account.routing_weight) == (None, 1.0)


@pytest.mark.parametrize("status", ["disabled", "unavailable"])
async def test_a_codex_account_that_is_off_there_is_off_here(
    llm: LlmAccess, open_control: OpenControl, status: str
) -> None:
    llm.add_codex("a", proxy_mode="fixed", proxy_config_id="missing")
    llm.change("llm_codex_accounts", {"account_name": "a"}, status=status)
    assert (await accounts_of(llm, open_control))["a"].status == status


@pytest.mark.parametrize(
    ("auth_json", "token", "account_id", "is_fedramp"),
    [
        ({"access_token": "t", "account_id": "i"}, "t", "i", False),
        ({"accessToken": " t ", "accountId": " i ", "isFedrampAccount": True}, "t", "i", True),
        ({"tokens": {"access_token": "t", "account_id": "i"}}, "t", "i", False),
        ({"tokens": {"accessToken": "t", "accountId": "i"}}, "t", "i", False),
        ({"tokens": {"access_token": "t"}, "account": {"id": "i"}}, "t", "i", False),
        ({"access_token": "t", "account": {"accountId": "i"}}, "t", "i", False),
        ({"access_token": "t"}, "t", "column", False),
        ({"access_token": "t", "account_id": 7, "is_fedramp_account": "yes"}, "t", "column", False),
        ({"access_token": "", "tokens": {"access_token": "t"}}, "t", "column", False),
        ({"access_token": 7}, None, None, False),
        ({"refresh_token": "r"}, None, None, False),
        ({}, None, None, False),
        (["access_token"], None, None, False),
        (Jsonb("t"), None, None, False),
        (Jsonb(None), None, None, False),
    ],
)
async def test_every_shape_of_auth_that_llm_access_writes_signs_a_call(
    llm: LlmAccess,
    open_control: OpenControl,
    auth_json: Any,
    token: str | None,
    account_id: str | None,
    is_fedramp: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    llm.add_codex("a", auth_json)
    llm.change("llm_codex_accounts", {"account_name": "a"}, account_id="column")
    credential = (await accounts_of(llm, open_control))["a"].credential
    if token is None:
        assert credential is None
    else:
        assert credential == Credential(
            Secret(token), "access_token", account_id, is_fedramp=is_fedramp
        )


def test_no_refresh_token_and_no_key_s_secret_can_be_read_by_the_gateway(llm: LlmAccess) -> None:
    llm.add_codex(
        "a", {"tokens": {"access_token": "t", "refresh_token": "PLANTED", "id_token": "PLANTED"}}
    )
    secret = llm.add_llm_key()
    seen = [
        str(llm.rows(f"TABLE image_gateway.{view}", llm.reader_url))
        for view in ("keys", "accounts")
    ]
    assert "PLANTED" not in seen[1]
    assert secret not in seen[0]


@pytest.mark.parametrize(
    ("value", "slots"),
    [
        (1, 1),
        (1024, 1024),
        (0, 1),
        (-4, 1),
        (1025, 1024),
        (1e300, 1024),
        (2.9, 2),
        ("7", 3),
        (None, 3),
        ([5], 3),
        (True, 3),
    ],
)
async def test_slots_are_always_a_number_that_the_gateway_can_count(
    llm: LlmAccess, open_control: OpenControl, value: Any, slots: int
) -> None:
    llm.add_codex("a", codex_image_generation_max_concurrency=value)
    assert (await accounts_of(llm, open_control))["a"].image_max_concurrency == slots


@pytest.mark.parametrize("value", [False, None, "true", 1, [True]])
async def test_only_true_switches_an_account_on(
    llm: LlmAccess, open_control: OpenControl, value: Any
) -> None:
    llm.add_codex("a", codex_image_generation_enabled=value)
    assert not (await accounts_of(llm, open_control))["a"].image_enabled


WORKS = Proxy("http://proxy.example:8080", Secret("u"), Secret("p"))
SOCKS = Proxy("socks5h://proxy.example:1080", None, None)


@pytest.mark.parametrize(
    ("chosen", "proxy"),
    [
        ({}, None),
        ({"proxy_mode": None}, None),
        ({"proxy_mode": "direct"}, None),
        ({"proxy_mode": "none", "proxy_config_id": "works"}, None),
        ({"proxy_mode": "inherit", "proxy_config_id": "works"}, None),
        ({"proxy_mode": "mystery"}, None),
        ({"proxy_mode": "fixed", "proxy_config_id": "works"}, WORKS),
        ({"proxy_mode": " Fixed ", "proxy_config_id": " works "}, WORKS),
        ({"proxy_mode": "fixed", "proxy_config_id": "socks"}, SOCKS),
    ],
)
async def test_an_account_goes_out_as_llm_access_lets_it_go_out(
    still: LlmAccess, open_control: OpenControl, chosen: dict[str, Any], proxy: Proxy | None
) -> None:
    name = json.dumps([chosen, "goes out"])
    still.add_codex(name, **chosen)
    account = (await accounts_of(still, open_control))[name]
    assert (account.status, account.proxy) == ("active", proxy)


@pytest.mark.parametrize(
    "chosen",
    [
        {"proxy_mode": "fixed"},
        {"proxy_mode": "fixed", "proxy_config_id": "missing"},
        {"proxy_mode": "fixed", "proxy_config_id": "off"},
        {"proxy_mode": "fixed", "proxy_config_id": "blank"},
        {"proxy_mode": "fixed", "proxy_config_id": 7},
        {"proxy_mode": 7},
        {"proxy_mode": {"fixed": True}, "proxy_config_id": "works"},
    ],
)
async def test_an_account_whose_proxy_is_missing_or_off_never_goes_out_directly(
    still: LlmAccess, open_control: OpenControl, chosen: dict[str, Any]
) -> None:
    name = json.dumps([chosen, "stays"])
    still.add_codex(name, **chosen)
    account = (await accounts_of(still, open_control))[name]
    assert (account.status, account.proxy) == ("proxy_unavailable", None)


async def test_inherit_follows_codex_s_binding(llm: LlmAccess, open_control: OpenControl) -> None:
    llm.add_proxy("works", WORKS.url, proxy_username="u", proxy_password="p")
    llm.add_proxy("kiro", "http://kiro.example:1")
    llm.add_codex("inherits", proxy_mode="inherit")
    llm.add_codex("says nothing")
    llm.add_codex("direct", proxy_mode="direct")
    llm.add("llm_proxy_bindings", provider_type="kiro", proxy_config_id="kiro")
    names = ("inherits", "says nothing", "direct")

    async def seen() -> list[tuple[str, Proxy | None]]:
        found = await accounts_of(llm, open_control)
        return [(found[name].status, found[name].proxy) for name in names]

    active: tuple[str, Proxy | None] = ("active", None)
    assert await seen() == [active] * 3
    llm.add("llm_proxy_bindings", provider_type="codex", proxy_config_id="works")
    assert await seen() == [("active", WORKS), ("active", WORKS), active]
    llm.change("llm_proxy_configs", {"proxy_config_id": "works"}, status="disabled")
    refused: tuple[str, Proxy | None] = ("proxy_unavailable", None)
    assert await seen() == [refused, refused, active]


async def test_an_account_weighs_what_llm_access_s_tiers_say(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    """The tier set by hand, else the plan that was seen, else free."""
    tiers = {"free": 2.0, "plus": 20.0, "pro5x": 70.0, "PRO20X ": 400.0}
    plans = {"free": 2.0, "Plus": 20.0, "pro": 70.0, "pro5x": 70.0, "pro20x": 400.0, "team": 2.0}
    wanted: dict[str, float] = {}
    snapshot: list[dict[str, Any]] = []
    for tier, weight in tiers.items():
        llm.add_codex(f"tier {tier}", route_weight_tier=tier)
        snapshot.append({"name": f"tier {tier}", "plan_type": "pro20x"})
        wanted[f"tier {tier}"] = weight
    for plan, weight in plans.items():
        for no_tier in ("auto", "mystery", 7, None):
            llm.add_codex(f"plan {plan} {no_tier}", route_weight_tier=no_tier)
            snapshot.append({"name": f"plan {plan} {no_tier}", "plan_type": plan})
            wanted[f"plan {plan} {no_tier}"] = weight
    llm.add_codex("unseen")
    wanted["unseen"] = 2.0
    llm.see(snapshot)
    llm.add(
        "llm_runtime_config",
        id="default",
        codex_client_version="0.144.1",
        codex_weight_free=2,
        codex_weight_plus=20,
        codex_weight_pro5x=70,
        codex_weight_pro20x=400,
    )
    found = await accounts_of(llm, open_control)
    assert {name: account.routing_weight for name, account in found.items()} == wanted
    llm.change("llm_runtime_config", {"id": "default"}, codex_weight_free=0, codex_weight_plus=-5)
    found = await accounts_of(llm, open_control)
    assert 0 < found["unseen"].routing_weight < 0.01
    assert 0 < found["tier plus"].routing_weight < 0.01
    llm.execute("DELETE FROM llm_runtime_config")
    found = await accounts_of(llm, open_control)
    assert [found[f"tier {tier}"].routing_weight for tier in tiers] == [1.0, 10.0, 50.0, 200.0]


@pytest.mark.parametrize(
    ("remaining", "used"),
    [
        (100, 0.0),
        (0, 100.0),
        (37.5, 62.5),
        (-3, 100.0),
        (250, 0.0),
        (1e300, 0.0),
        (1e-300, 100.0),
        ("50", None),
        (None, None),
        ([50], None),
        (True, None),
    ],
)
async def test_what_is_used_is_what_does_not_remain(
    llm: LlmAccess, open_control: OpenControl, remaining: Any, used: float | None
) -> None:
    llm.add_codex("a")
    llm.see([{"name": "a", "primary_remaining_percent": remaining}])
    account = (await accounts_of(llm, open_control))["a"]
    assert (account.used_percent_primary, account.used_percent_secondary) == (used, None)


async def test_a_budget_of_all_but_nothing_spent_is_a_number_like_any_other(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    """What is spent is then too small a number for a double precision, which Postgres refuses."""
    llm.add_codex("a")
    remaining = f"99.{'9' * 400}"
    llm.execute(
        "INSERT INTO llm_codex_status_cache VALUES ('default', '"
        f'{{"accounts": [{{"name": "a", "primary_remaining_percent": {remaining}}}]}}\', 1)'
    )
    assert (await accounts_of(llm, open_control))["a"].used_percent_primary == 0.0


@pytest.mark.parametrize(
    "snapshot",
    [None, 5, "x", {}, ["a", 5, None, {}, {"name": 5}, {"name": ""}, [{"name": "a"}]]],
)
async def test_an_odd_snapshot_costs_only_the_budgets(
    llm: LlmAccess, open_control: OpenControl, snapshot: Any
) -> None:
    llm.add_codex("a")
    llm.see(snapshot)
    assert (await accounts_of(llm, open_control))["a"].used_percent_primary is None


async def test_an_account_that_a_snapshot_names_twice_stays_one(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_codex("a")
    llm.see([{"name": "a", "primary_remaining_percent": each} for each in (10, 90, 40)])
    assert llm.rows("SELECT count(*) FROM image_gateway.accounts") == [(1,)]
    assert (await accounts_of(llm, open_control))["a"].used_percent_primary == 60.0


@pytest.mark.parametrize("version", ["", " ", "1\r\nx: y", "ü", "a" * 65, "0 1"])
async def test_a_client_version_that_no_header_should_carry_is_the_default(
    llm: LlmAccess, open_control: OpenControl, version: str
) -> None:
    llm.add_codex("a")
    llm.add("llm_runtime_config", id="default", codex_client_version=version)
    assert (await accounts_of(llm, open_control))["a"].client_version is None


async def test_one_row_holds_what_llm_access_does_not_say_of_codex_accounts(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_codex("a")
    llm.add_codex("b")
    llm.change(
        "image_adapter.codex_options",
        {"is_only": True},
        responses_model="gpt-5.4",
        codex_route="responses",
        same_account_retries=2,
    )
    llm.execute(ADAPTER)
    for account in (await accounts_of(llm, open_control)).values():
        assert (account.responses_model, account.codex_route) == ("gpt-5.4", "responses")
        assert account.same_account_retries == 2
    for values in ("(true)", "(false)"):
        with pytest.raises(psycopg.errors.IntegrityError):
            llm.execute(f"INSERT INTO image_adapter.codex_options (is_only) VALUES {values}")
    llm.execute("DELETE FROM image_adapter.codex_options")
    assert (await accounts_of(llm, open_control))["a"].codex_route == "direct"


# -- the adapter's own accounts --------------------------------------------------------------------


async def test_azure_and_openai_accounts_stand_beside_the_codex_ones(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_codex("codex")
    llm.add(
        "image_adapter.accounts",
        account_name="east",
        dialect="azure",
        base_url="https://east.openai.azure.com",
        api_version="2025-04-01-preview",
        deployments={"gpt-image-2": "mine"},
        credential={"api_key": "k"},
        image_max_concurrency=9,
        routing_weight=25,
    )
    llm.add("image_adapter.accounts", account_name="pool", dialect="openai", status="off")
    found = await accounts_of(llm, open_control)
    assert {name: account.dialect for name, account in found.items()} == {
        "codex": "codex",
        "east": "azure",
        "pool": "openai",
    }
    east = found["east"]
    assert (east.base_url, east.api_version) == (
        "https://east.openai.azure.com",
        "2025-04-01-preview",
    )
    assert (east.deployments, east.credential) == (
        {"gpt-image-2": "mine"},
        Credential(Secret("k"), "api_key"),
    )
    assert (east.image_max_concurrency, east.routing_weight, east.status) == (9, 25.0, "active")
    assert found["pool"].status == "off"


async def test_a_name_stands_for_one_account_and_llm_access_s_keeps_it(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_codex("taken")
    llm.add("image_adapter.accounts", account_name="later", dialect="openai")
    for statement in (
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('taken', 'openai')",
        "UPDATE image_adapter.accounts SET account_name = 'taken'",
    ):
        with pytest.raises(psycopg.errors.UniqueViolation, match='"taken" belongs to a Codex'):
            llm.execute(statement)
    llm.add_llm_group("g", ["taken"], on=True)
    llm.add("image_adapter.group_accounts", group_id="g", account_name="later")
    secret = llm.add_llm_key(account_group_id="g")
    assert (await key_of(llm, open_control, secret)).account_names == ("taken", "later")
    llm.add_codex("later")
    assert (await accounts_of(llm, open_control))["later"].dialect == "codex"
    assert llm.rows("SELECT count(*) FROM image_gateway.accounts") == [(2,)]
    # The group was given the account of that name that is hidden now, not a Codex account.
    assert (await key_of(llm, open_control, secret)).account_names == ("taken",)
    # It can still be switched off and renamed.
    llm.change("image_adapter.accounts", {"account_name": "later"}, status="off")
    llm.change("image_adapter.accounts", {"account_name": "later"}, account_name="renamed")
    assert (await key_of(llm, open_control, secret)).account_names == ("taken", "renamed")


BAD_ROWS: list[tuple[str, str]] = [
    ("accounts (account_name, dialect)", "('', 'openai')"),
    ("accounts (account_name, dialect)", "('a', 'azure')"),
    ("accounts (account_name, dialect, image_max_concurrency)", "('a', 'openai', 0)"),
    ("accounts (account_name, dialect, base_url)", "('a', 'openai', 'ftp://a')"),
    ("accounts (account_name, dialect, routing_weight)", "('a', 'openai', 0)"),
    ("group_accounts", "('g', 'no such account')"),
]


@pytest.mark.parametrize(("columns", "values"), BAD_ROWS)
def test_the_adapter_s_tables_refuse_rows_that_no_gateway_could_use(
    still: LlmAccess, columns: str, values: str
) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        still.execute(f"INSERT INTO image_adapter.{columns} VALUES {values}")


# -- anything at all in JSON -----------------------------------------------------------------------

_WORDS = (
    "access_token account account_id accounts codex_image_generation_enabled fixed id inherit name "
    "codex_image_generation_max_concurrency plan_type primary_remaining_percent proxy_config_id "
    "proxy_mode route_weight_tier tokens a"
)
WORDS = st.sampled_from([*_WORDS.split(), "", " ", "\t"]) | st.text(
    # What jsonb itself refuses.
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=8,
)
NUMBERS = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
)
COLUMNS = {
    "llm_codex_accounts": ("auth_json", "settings_json"),
    "llm_codex_status_cache": ("snapshot_json",),
    "llm_account_groups": ("account_names_json",),
    "llm_key_route_config": ("auto_account_names_json", "model_name_map_json"),
}


@settings(max_examples=scaled(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({name: JSON for names in COLUMNS.values() for name in names}))
def test_no_json_makes_a_view_fail_or_costs_another_row(
    odd: "psycopg.Connection[dict[str, Any]]", documents: dict[str, Any]
) -> None:
    for table, names in COLUMNS.items():
        for name in names:
            odd.execute(
                f"UPDATE {table} SET {name} = %s"
                + (" WHERE account_name = 'odd'" if table == "llm_codex_accounts" else ""),
                [Jsonb(documents[name])],
            )
    accounts = {
        row["account_name"]: row
        for row in odd.execute(sql.query("daemon/accounts").encode()).fetchall()
    }
    assert account_from_row(accounts["fine"]).image_enabled
    try:
        account = account_from_row(accounts["odd"])
    except RowError as error:
        said = str(error)
    else:
        said = "credential" if account.proxy is None else "proxy"
    # A token with any letters in it is the one thing that only the gateway can judge.
    assert "credential" in said
    for row in odd.execute(b"SELECT *, model_map::text FROM image_gateway.keys").fetchall():
        key_from_row(row)
    odd.rollback()


@pytest.fixture
def odd(llm: LlmAccess) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to an llm-access with one row of each kind to spoil; roll it back."""
    llm.add_codex("fine")
    llm.add_codex("odd")
    llm.see([])
    llm.add_llm_group("g", [], on=True)
    llm.add_llm_key(account_group_id="g")
    llm.add_llm_key(account_group_id=None, auto_account_names_json=[])
    with psycopg.connect(llm.url, row_factory=dict_row) as connection:
        yield connection


# -- older schemas, roles, running again -----------------------------------------------------------

SWITCHES = "Run llm-access's Postgres migrations 0030 to 0032, then this file again"
ALL = "run all of llm-access's Postgres migrations"


@pytest.mark.parametrize(
    ("change", "named", "cure"),
    [
        (
            "ALTER TABLE llm_key_route_config DROP codex_image_generation_enabled",
            ["column llm_key_route_config.codex_image_generation_enabled"],
            SWITCHES,
        ),
        (
            "ALTER TABLE llm_runtime_config DROP codex_weight_plus, DROP codex_weight_free",
            [
                "column llm_runtime_config.codex_weight_free",
                "column llm_runtime_config.codex_weight_plus",
            ],
            ALL,
        ),
        (
            "ALTER TABLE llm_key_route_config DROP codex_image_generation_enabled, DROP key_id",
            [
                "column llm_key_route_config.codex_image_generation_enabled",
                "column llm_key_route_config.key_id",
            ],
            ALL,
        ),
        ("DROP TABLE llm_keys CASCADE", ["table llm_keys"], ALL),
    ],
)
def test_an_older_llm_access_is_told_what_it_lacks_and_what_to_run(
    bare: LlmAccess, change: str, named: list[str], cure: str
) -> None:
    bare.execute(change)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        bare.execute(sql.schema("llm_access"))
    said = caught.value.diag.message_primary or ""
    assert f": {', '.join(named)}. " in said
    assert cure in said
    assert bare.rows("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'image%'") == []


async def test_a_role_without_more_than_it_needs_can_install_it(
    bare: LlmAccess, open_control: OpenControl
) -> None:
    role = f"installer_{bare.name}"
    bare.execute(f"CREATE ROLE {role} LOGIN")
    try:
        bare.execute(f'GRANT CREATE ON DATABASE "{bare.name}" TO {role}')
        every = "llm_account_groups, llm_codex_accounts, llm_codex_status_cache, "
        every += "llm_key_route_config, llm_key_usage_rollups, llm_keys, llm_proxy_bindings, "
        every += "llm_proxy_configs, llm_runtime_config"
        with psycopg.connect(make_conninfo(bare.url, user=role), autocommit=True) as installer:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                installer.execute(sql.schema("llm_access").encode())
            assert f"role {role} may not read {every}; " in str(caught.value)
            installer.rollback()
            bare.execute(f"GRANT SELECT ON {every} TO {role}")
            installer.execute(sql.schema("llm_access").encode())
        bare.execute(sql.schema("reader"))
        bare.add_codex("a")
        assert "a" in await accounts_of(bare, open_control)
        # llm-access's own role: it sees nothing of the adapter, and its writes go on.
        bare.execute(sql.schema("llm_access_notify"))
        bare.execute(f'REVOKE ALL ON DATABASE "{bare.name}" FROM {role}')
        bare.execute(f"GRANT INSERT, UPDATE, DELETE ON {every} TO {role}")
        bare.execute("ALTER SCHEMA image_adapter OWNER TO postgres")
        with psycopg.connect(make_conninfo(bare.url, user=role), autocommit=True) as writer:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("SELECT 1 FROM image_adapter.budgets")
            writer.execute("UPDATE llm_codex_accounts SET status = 'disabled'")
            writer.execute("UPDATE llm_key_usage_rollups SET billable_tokens = 10000")
            writer.execute("INSERT INTO llm_codex_status_cache VALUES ('default', '[]', 1)")
            writer.execute(
                "UPDATE llm_codex_status_cache SET snapshot_json = '{\"accounts\": [1]}'"
            )
            writer.execute("DELETE FROM llm_keys")
    finally:
        bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_the_reader_sees_the_contract_and_nothing_else(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    for _ in range(2):
        llm.execute(ADAPTER)
        llm.execute(sql.schema("llm_access_notify"))
    llm.add_codex("a")
    findings = await check(Secret(llm.reader_url))
    assert (findings.accounts, findings.broken_accounts, findings.writable) == (1, (), ())
    for table in ("public.llm_keys", "public.llm_codex_accounts", "image_adapter.accounts"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            llm.rows(f"TABLE {table}", llm.reader_url)


async def test_it_takes_the_place_of_the_standalone_control_plane(
    server_url: str, open_control: OpenControl
) -> None:
    llm = LlmAccess(server_url)
    llm.create()
    try:
        llm.execute(TABLES)
        llm.execute(sql.schema("llm_access"))
        key = await key_of(llm, open_control, llm.add_llm_key("k"))
        assert key.key_id == "k"
    finally:
        llm.drop()


# -- changes told at once --------------------------------------------------------------------------


async def test_changes_in_the_adapter_s_own_tables_are_heard(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.execute(ADAPTER)
    llm.add_llm_group("g", ["a"])
    secret = llm.add_llm_key(account_group_id="g")
    async with open_control(llm.reader_url) as control:
        key = await control.key(secret)
        assert key is not None
        assert not key.group_image_enabled
        llm.add("image_adapter.groups", group_id="g", allow_image_generation=True)
        await eventually(lambda: control.heard == ["keys"])
        key = await control.key(secret)
        assert key is not None
        assert key.group_image_enabled
        llm.add("image_adapter.accounts", account_name="own", dialect="openai")
        llm.add("image_adapter.group_accounts", group_id="g", account_name="own")
        llm.change("image_adapter.codex_options", {"is_only": True}, codex_route="responses")
        llm.change("image_adapter.accounts", {"account_name": "own"}, used_percent_primary=5)
        llm.change("image_adapter.accounts", {"account_name": "own"}, status="off")
        llm.change("image_adapter.accounts", {"account_name": "own"}, last_error="not read")
        llm.execute("NOTIFY image_gateway_changed, 'the end'")
        await eventually(lambda: "the end" in control.heard)
        assert control.heard == [
            "keys",
            "accounts",
            "keys",
            "accounts",
            "accounts",
            "account:own",
            "the end",
        ]
        assert (await control.grant(key)).accounts["own"].status == "off"


KEY = "key:HASH"
ROUTE = "llm_key_route_config"
ROLLUP = "llm_key_usage_rollups"
SEEN = "llm_codex_status_cache"
CACHE = "UPDATE llm_codex_status_cache SET updated_at_ms = updated_at_ms + 1, snapshot_json ="
TOLD: list[tuple[str, list[str]]] = [
    # Saved again with nothing changed, as llm-access saves whole rows.
    ("UPDATE llm_keys SET name = name, status = status, updated_at_ms = 5", []),
    ("UPDATE llm_keys SET secret = 'x', public_visible = true", []),
    ("UPDATE llm_keys SET status = 'disabled'", [KEY]),
    ("UPDATE llm_keys SET quota_billable_limit = 5", [KEY]),
    ("UPDATE llm_keys SET key_hash = 'new'", [KEY, "key:new"]),
    ("DELETE FROM llm_keys", [KEY]),
    ("TRUNCATE llm_keys CASCADE", ["keys"]),
    (f"UPDATE {ROUTE} SET codex_fast_enabled = false", []),
    (f"UPDATE {ROUTE} SET codex_image_generation_enabled = false", [KEY]),
    (f"UPDATE {ROUTE} SET auto_account_names_json = '[\"a\"]'", [KEY]),
    (f"DELETE FROM {ROUTE}", [KEY]),
    (f"TRUNCATE {ROUTE}", ["keys"]),
    # The limit is 1000, and 900 are used.
    (f"UPDATE {ROLLUP} SET input_uncached_tokens = 7, updated_at_ms = 7", []),
    (f"UPDATE {ROLLUP} SET billable_tokens = billable_tokens + 99", []),
    (f"UPDATE {ROLLUP} SET billable_tokens = billable_tokens + 100", [KEY]),
    (f"DELETE FROM {ROLLUP}", []),
    (f"DELETE FROM {ROLLUP}; INSERT INTO {ROLLUP} VALUES ('k', 0, 0, 0, 1000, 0, 0, 1, 1, 1)",
     [KEY]),
    (f"UPDATE {ROLLUP} SET billable_tokens = 2000; UPDATE {ROLLUP} SET billable_tokens = 3000",
     [KEY]),
    (f"UPDATE {ROLLUP} SET billable_tokens = 2000; DELETE FROM {ROLLUP}", [KEY, KEY]),
    ("INSERT INTO llm_keys VALUES ('new', '', '', 'hash', 'active', '', 'openai', true, 1, 1, 1)",
     ["key:hash"]),
    (f"DELETE FROM {ROUTE}; INSERT INTO {ROUTE} (key_id) VALUES ('k')", [KEY, KEY]),
    ("INSERT INTO llm_account_groups VALUES ('new', 'codex', '', '[]', 1, 1)", ["keys"]),
    ("INSERT INTO llm_codex_accounts VALUES ('n', '', '', 'active', '{}', '{}', 1, '', 1, 1)",
     ["accounts"]),
    ("UPDATE llm_account_groups SET name = 'renamed', updated_at_ms = 5", []),
    ("UPDATE llm_account_groups SET account_names_json = '[]'", ["keys"]),
    ("DELETE FROM llm_account_groups", ["keys"]),
    ("UPDATE llm_codex_accounts SET last_refresh_at_ms = 5, updated_at_ms = 5", []),
    ("UPDATE llm_codex_accounts SET auth_json = '{}'", ["account:a"]),
    ("UPDATE llm_codex_accounts SET status = 'unavailable'", ["account:a"]),
    ("DELETE FROM llm_codex_accounts", ["account:a"]),
    ("TRUNCATE llm_codex_accounts", ["accounts"]),
    ("DELETE FROM llm_proxy_bindings", ["accounts"]),
    ("UPDATE llm_proxy_configs SET status = 'disabled'", ["accounts"]),
    ("UPDATE llm_runtime_config SET updated_at_ms = 5", []),
    ("UPDATE llm_runtime_config SET codex_weight_plus = 11", ["accounts"]),
    ("UPDATE llm_runtime_config SET codex_client_version = '2'", ["accounts"]),
    (f"{CACHE} snapshot_json || '{{\"last_checked_at\": 5}}'", []),
    (f"{CACHE} jsonb_set(snapshot_json, '{{accounts,0,last_usage_checked_at}}', '5')", []),
    (f"{CACHE} jsonb_set(snapshot_json, '{{accounts,0,primary_remaining_percent}}', '5')",
     ["accounts"]),
    (f"{CACHE} jsonb_set(snapshot_json, '{{accounts,0,plan_type}}', '\"plus\"')", ["accounts"]),
    (f"{CACHE} '[5]'", ["accounts"]),
    ("DELETE FROM llm_codex_status_cache", ["accounts"]),
    (f"TRUNCATE {SEEN}; INSERT INTO {SEEN} VALUES ('default', '{{}}', 1)", ["accounts"]),
]  # fmt: skip


async def test_with_the_optional_triggers_what_changes_in_llm_access_is_heard(
    llm: LlmAccess,
) -> None:
    """One statement, one notification for each thing that is now seen differently; no others."""
    for _ in range(2):
        llm.execute(sql.schema("llm_access_notify"))
    llm.add_proxy("p", "http://proxy.example:1")
    llm.add("llm_proxy_bindings", provider_type="codex", proxy_config_id="p")
    llm.add("llm_runtime_config", id="default", codex_client_version="1")
    llm.add_codex("a")
    llm.see([{"name": "a", "primary_remaining_percent": 50}])
    llm.add_llm_group("g", ["a"])
    llm.add_llm_key("k", used=900, account_group_id="g")
    [(key_hash,)] = llm.rows("SELECT key_hash FROM llm_keys")
    with (
        psycopg.connect(llm.url, autocommit=True) as listener,
        psycopg.connect(llm.url, autocommit=True) as writer,
    ):
        writer.execute("CREATE SCHEMA saved")
        tables = [name for (name,) in llm.rows(_TABLE_NAMES)]
        for table in tables:
            writer.execute(f"CREATE TABLE saved.{table} AS TABLE public.{table}".encode())
        listener.execute("LISTEN image_gateway_changed")
        for statement, payloads in TOLD:
            # Triggers sleep while the tables are brought back to what they were.
            writer.execute("SET session_replication_role = replica")
            for table in tables:
                writer.execute(f"DELETE FROM {table}".encode())
                writer.execute(f"INSERT INTO {table} TABLE saved.{table}".encode())
            writer.execute("SET session_replication_role = origin")
            for each in statement.split("; "):
                writer.execute(each.encode())
            writer.execute("NOTIFY image_gateway_changed, 'the end'")
            heard = []
            for notification in listener.notifies(timeout=20):
                if notification.payload == "the end":
                    break
                heard.append(notification.payload)
            assert heard == [each.replace("HASH", key_hash) for each in payloads], statement


_TABLE_NAMES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


async def test_an_upsert_that_changes_nothing_is_not_told(llm: LlmAccess) -> None:
    llm.add_codex("a")
    llm.execute(sql.schema("llm_access_notify"))
    with psycopg.connect(llm.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        llm.execute(
            "INSERT INTO llm_codex_accounts TABLE llm_codex_accounts ON CONFLICT (account_name)"
            " DO UPDATE SET status = excluded.status, auth_json = excluded.auth_json"
        )
        llm.execute("NOTIFY image_gateway_changed, 'the end'")
        assert [each.payload for each in listener.notifies(timeout=20, stop_after=1)] == ["the end"]


async def test_a_gateway_sees_a_key_switched_off_at_once(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.execute(sql.schema("llm_access_notify"))
    secret = llm.add_llm_key("k", codex_image_generation_enabled=True)
    async with open_control(llm.reader_url) as control:
        key = await control.key(secret)
        assert key is not None
        assert key.image_enabled
        llm.change(ROUTE, {"key_id": "k"}, codex_image_generation_enabled=False)
        await eventually(lambda: len(control.heard) == 1)
        assert control.heard == [f"key:{key.key_hash}"]
        key = await control.key(secret)
        assert key is not None
        assert not key.image_enabled


def test_the_optional_triggers_need_the_adapter_and_go_without_a_trace(bare: LlmAccess) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="schema llm_access`"):
        bare.execute(sql.schema("llm_access_notify"))
    bare.execute(sql.schema("llm_access"))
    bare.execute(sql.schema("llm_access_notify"))
    triggers = (
        "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
        " AND tgrelid::regclass::text LIKE 'llm_%'"
    )
    assert bare.rows(triggers) > [(15,)]
    bare.execute("DROP SCHEMA image_adapter_notify CASCADE")
    assert bare.rows(triggers) == [(0,)]
    assert bare.rows("SELECT count(*) FROM image_gateway.accounts") == [(0,)]


def test_the_optional_triggers_do_not_queue_up_behind_a_long_write(bare: LlmAccess) -> None:
    bare.execute(sql.schema("llm_access"))
    patient = sql.schema("llm_access_notify")
    impatient = patient.replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    assert impatient != patient
    with psycopg.connect(bare.url) as writer:
        writer.execute("UPDATE llm_keys SET status = 'active'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            bare.execute(impatient)
    assert bare.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'image_adapter_notify'") == []


# -- many keys, many accounts ----------------------------------------------------------------------

MANY_KEYS = """
INSERT INTO llm_keys SELECT 'k' || n, 'name', 's', encode(sha256(n::text::bytea), 'hex'), 'active',
    'codex', 'openai', false, 1000, 1, 1 FROM generate_series(1, 5000) n;
INSERT INTO llm_key_route_config (key_id, account_group_id, auto_account_names_json)
    SELECT 'k' || n, 'g' || n % 50, '["a"]' FROM generate_series(1, 5000) n;
INSERT INTO llm_key_usage_rollups (key_id, billable_tokens, updated_at_ms)
    SELECT 'k' || n, 1, 1 FROM generate_series(1, 5000) n;
INSERT INTO llm_account_groups
    SELECT 'g' || n, 'codex', 'g', '["a", "b"]', 1, 1 FROM generate_series(0, 49) n;
ANALYZE;
"""
MANY_ACCOUNTS = """
INSERT INTO llm_codex_accounts (account_name, status, auth_json, settings_json, created_at_ms,
    updated_at_ms) SELECT 'a' || n, 'active', '{"access_token": "t"}',
    '{"proxy_mode": "fixed", "proxy_config_id": "p"}', 1, 1 FROM generate_series(1, %(count)s) n;
INSERT INTO llm_codex_status_cache SELECT 'default', jsonb_build_object('accounts', jsonb_agg(
    jsonb_build_object('name', 'a' || n, 'primary_remaining_percent', n %% 100))), 1
    FROM generate_series(1, %(count)s) n;
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def explained(llm: LlmAccess, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan that Postgres carried out for the gateway's role."""
    with psycopg.connect(llm.reader_url) as connection:
        [(found,)] = connection.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode(), values
        ).fetchall()
    return list(nodes(found[0]["Plan"]))


def test_a_key_is_found_by_the_index_on_its_hash_among_thousands(llm: LlmAccess) -> None:
    llm.execute(MANY_KEYS)
    secret = llm.add_llm_key("k", account_group_id="g7")
    [(key_hash,)] = llm.rows("SELECT key_hash FROM llm_keys WHERE key_id = 'k'")
    plan = explained(llm, sql.query("daemon/key"), {"key_hash": key_hash})
    assert "uq_llm_keys_key_hash" in [node.get("Index Name") for node in plan]
    scans = [
        node["Relation Name"]
        for node in plan
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in ("llm_keys", ROUTE, ROLLUP)
    ]
    assert scans == []
    assert secret


def test_the_accounts_cost_no_more_each_when_there_are_many(llm: LlmAccess) -> None:
    """The snapshot is read once, and the rows that meet in joins grow with the accounts."""
    llm.add_proxy("p", "http://proxy.example:1")

    def work(count: int) -> int:
        llm.execute("TRUNCATE llm_codex_accounts, llm_codex_status_cache")
        for statement in MANY_ACCOUNTS.split(";\n"):
            llm.execute(statement, {"count": count})
        plan = explained(llm, sql.query("daemon/accounts"), {})
        [reads] = [node for node in plan if node["Node Type"] == "Function Scan"]
        assert (reads["Actual Loops"], reads["Actual Rows"]) == (1, count)
        return sum(
            int(
                (node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0))
                * node["Actual Loops"]
            )
            for node in plan
        )

    assert work(2000) < 5 * work(500)


def test_a_new_adapter_is_not_taken_for_a_big_one(llm: LlmAccess) -> None:
    """At a cost of 100,000 Postgres would compile the query, which takes longer than to run it."""
    llm.add_codex("a")
    for name, values in (("accounts", {}), ("key", {"key_hash": "h"})):
        assert explained(llm, sql.query(f"daemon/{name}"), values)[0]["Total Cost"] < 10_000


async def test_many_accounts_are_loaded_in_good_time(
    llm: LlmAccess, open_control: OpenControl
) -> None:
    llm.add_proxy("p", "http://proxy.example:1")
    for statement in MANY_ACCOUNTS.split(";\n"):
        llm.execute(statement, {"count": 2000})
    async with asyncio.timeout(5):
        assert len(await accounts_of(llm, open_control)) == 2000
