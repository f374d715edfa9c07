"""The litellm adapter on real Postgres: what LiteLLM's keys may do here."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, Final

import pytest
from psycopg.types.json import Jsonb

from image_gateway.core.model import Key
from tests.planes.litellm.rows import (
    ACCESS_GROUP,
    ALIASES,
    BUDGET,
    KEY,
    MEMBER,
    MODEL,
    MODELS,
    OLD_KEY,
    READER_ZONE,
    TEAM,
    USER,
    LiteLlm,
    hashed,
)

pytestmark = pytest.mark.slow

GPT_IMAGES: Final = MODELS - {"chatgpt-image-latest"}
INFINITY: Final = float("inf")

ALL: Final[dict[str, Any]] = {}
"""A key that may do all: what the rows of ``litellm.sql`` differ in."""

EXPECTED: Final[dict[str, dict[str, Any]]] = {
    "active": {"max_concurrency": 4, "owner_id": "u1"},
    "expired": {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)},
    "blocked": {"status": "blocked"},
    "spent": {"cost_remaining": 0.0},
    "tier": {"cost_remaining": -0.5},
    "star": {"allowed_models": MODELS},
    "text": {"allowed_models": frozenset()},
    "none": {"allowed_models": frozenset()},
    "group": {"allowed_models": frozenset({"gpt-5.5", "gpt-image-2"})},
    "team": {
        "group_id": "t1",
        "allowed_models": frozenset({"gpt-image-2", "draw", "pictures"}),
        "model_map": {"draw": "gpt-image-2", "pictures": "gpt-image-2"},
    },
    "team-off": {"group_id": "t-blocked", "status": "team_blocked"},
    "team-over": {"group_id": "t-spent", "cost_remaining": 0.0},
    "user-over": {"owner_id": "u-spent", "cost_remaining": 0.0},
    "routes": {"image_enabled": False},
}


@pytest.mark.parametrize("alias", EXPECTED)
def test_each_kind_of_key_has_here_what_litellm_gives_it(still: LiteLlm, alias: str) -> None:
    secret = f"sk-ll-{alias}"
    plain = Key(
        key_hash=hashed(secret),
        key_id=hashed(secret),
        key_name=alias,
        status="active",
        image_enabled=True,
        group_id=None,
        group_image_enabled=True,
        quota_remaining=None,
        max_concurrency=None,
        min_start_interval_ms=None,
        allowed_models=None,
        model_map={},
        account_names=None,
        route_strategy="auto",
    )
    assert still.key(secret) == replace(plain, **EXPECTED[alias])


def test_an_old_secret_has_its_successor_s_rights_until_it_is_revoked(still: LiteLlm) -> None:
    old = still.key("sk-ll-old")
    active = still.key("sk-ll-active")
    assert old == replace(
        active, key_hash=hashed("sk-ll-old"), expires_at=datetime(2099, 1, 1, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("expires", "revoke_at", "seen"),
    [
        (None, "2026-05-01 10:00", datetime(2026, 5, 1, 10, tzinfo=UTC)),
        ("2026-04-01", "2026-05-01", datetime(2026, 4, 1, tzinfo=UTC)),
        ("2026-06-01", "2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("infinity", "2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("infinity", "infinity", None),
    ],
)
def test_an_old_secret_ends_with_the_first_of_both(
    still: LiteLlm, expires: str | None, revoke_at: str, seen: datetime | None
) -> None:
    new = still.add_token(expires=expires)
    old = f"old of {new}"
    still.add(OLD_KEY, id=old, token=hashed(old), active_token_id=hashed(new), revoke_at=revoke_at)
    assert still.key(old).expires_at == seen


def test_while_litellm_replaces_a_secret_it_is_found_once(still: LiteLlm) -> None:
    """LiteLLM writes the old secret down before it changes the key's own."""
    secret = still.add_token()
    successor = hashed("sk-to-come")
    still.add(
        OLD_KEY,
        id=secret,
        token=hashed(secret),
        active_token_id=successor,
        revoke_at="2026-05-01",
    )
    assert still.key(secret).expires_at is None
    still.change(KEY, {"token": hashed(secret)}, token=successor)
    assert still.key(secret).key_id == successor
    still.execute(f"DELETE FROM \"{KEY}\" WHERE token = '{successor}'")
    assert still.key_row(secret) is None


# -- models ----------------------------------------------------------------------------------------


def test_the_names_of_image_models_are_the_catalogue_s(still: LiteLlm) -> None:
    catalogue = resources.files("image_gateway.core.request").joinpath("catalogue.toml")
    assert set(tomllib.loads(catalogue.read_text("utf-8"))["models"]) == MODELS
    assert {name for (name,) in still.ask("SELECT model FROM image_adapter.image_models")} >= MODELS


@pytest.mark.parametrize(
    ("models", "seen"),
    [
        (None, None),
        ([], None),
        (["*"], None),
        (["gpt-5.5", "all-proxy-models"], None),
        (["all-team-models"], None),
        (["gpt-image-2"], {"gpt-image-2"}),
        (["gpt-image-2", "gpt-5.5", None, ""], {"gpt-image-2", "gpt-5.5"}),
        (["gpt-image-2", "dall-*"], {"gpt-image-2"}),
        (["gpt-image-*"], GPT_IMAGES),
        (["*image-1.5"], {"gpt-image-1.5"}),
        (["gpt-*-mini"], {"gpt-image-1-mini"}),
        (["openai/*"], MODELS),
        # As LiteLLM does it: a wildcard meets the provider's name, too.
        (["o*"], MODELS),
        (["openai/gpt-image-1*"], {name for name in MODELS if name.startswith("gpt-image-1")}),
        (["azure/*"], set()),
        (["openai/gpt-image-2"], {"openai/gpt-image-2", "gpt-image-2"}),
        (["azure/gpt-image-2"], {"azure/gpt-image-2"}),
        (["GPT-IMAGE-*"], set()),
        (["gpt_image_2", "gpt%", "gpt-image-\\*", "(gpt", "["], set()),
        (["no-default-models"], set()),
        ([None], set()),
        (Jsonb(["x"]), set()),
    ],
)
def test_a_list_of_models_allows_the_image_models_that_it_names(
    still: LiteLlm, models: Any, seen: set[str] | None
) -> None:
    """A name that is no image model is for the main model of a call of the Responses API."""
    if isinstance(models, Jsonb):
        secret = still.add_token()
        still.execute(
            f"UPDATE \"{KEY}\" SET models = '{{{{a,b}}}}' WHERE token = '{hashed(secret)}'"
        )
    else:
        secret = still.add_token(models=models)
    assert still.allowed(secret) == seen


def test_an_operator_adds_names_of_their_own(still: LiteLlm) -> None:
    still.add("image_adapter.image_models", model="acme-draw", provider=None)
    for models, seen in (
        (["acme-*"], {"acme-draw"}),
        (["acme-draw"], {"acme-draw"}),
        (["openai/acme*"], set[str]()),
    ):
        assert still.allowed(still.add_token(models=models)) == seen
    still.install()
    assert still.allowed(still.add_token(models=["acme-*"])) == {"acme-draw"}


def test_each_list_that_holds_for_a_key_limits_it(still: LiteLlm) -> None:
    wanted = ["gpt-image-2", "gpt-image-1"]
    team = still.add_team(models=wanted)
    user = still.add_user(models=["gpt-image-1.5"])
    project = still.add_project(team_id=team, models=["gpt-image-1*"])
    still.add(
        MEMBER,
        user_id=user,
        team_id=team,
        budget_id=still.add_budget(None, allowed_models=["gpt-image-1", "gpt-image-1-mini"]),
    )

    def allowed(**columns: Any) -> set[str] | None:
        return still.allowed(still.add_token(**columns))

    assert allowed(team_id=team) == set(wanted)
    assert allowed(team_id=team, models=["all-team-models"]) == set(wanted)
    assert allowed(team_id=team, models=["gpt-image-2", "gpt-image-1.5"]) == {"gpt-image-2"}
    # A user's own list is for personal keys.
    assert allowed(team_id=team, user_id=user) == {"gpt-image-1"}
    assert allowed(user_id=user) == {"gpt-image-1.5"}
    assert allowed(user_id=user, models=["gpt-image-2"]) == set()
    assert allowed(user_id="nobody") is None
    assert allowed(project_id=project) == {"gpt-image-1", "gpt-image-1.5", "gpt-image-1-mini"}
    assert allowed(team_id=team, project_id=project) == {"gpt-image-1"}
    for models in (["no-default-models", "gpt-image-2"], ["all-team-models"]):
        assert allowed(user_id=still.add_user(models=models)) == set()
    everything = still.add_team(models=["all-team-models"])
    assert allowed(team_id=everything) is None


def test_access_groups_give_models_beyond_a_list(still: LiteLlm) -> None:
    key_group = still.add_access_group(["gpt-image-2"])
    team_group = still.add_access_group(["gpt-image-1", "gpt-image-1.5"])
    team = still.add_team(models=["gpt-5.5"], access_group_ids=[team_group])

    def allowed(**columns: Any) -> set[str] | None:
        models = still.allowed(still.add_token(**columns))
        return models and models & MODELS

    assert allowed(models=["gpt-5.5"], access_group_ids=[key_group]) == {"gpt-image-2"}
    assert allowed(access_group_ids=[key_group]) is None
    assert allowed(team_id=team) == {"gpt-image-1", "gpt-image-1.5"}
    assert allowed(team_id=team, models=["gpt-image-1", "gpt-image-2"]) == {"gpt-image-1"}
    # A group of the key's counts against the team's list only if it was given to one of them.
    assert allowed(team_id=team, access_group_ids=[key_group]) == {"gpt-image-1", "gpt-image-1.5"}
    given = still.add_access_group(["gpt-image-2"], assigned_team_ids=[team])
    assert allowed(team_id=team, models=["gpt-5.5"], access_group_ids=[given]) == {"gpt-image-2"}
    gone = still.add_token(models=["gpt-5.5"], access_group_ids=["gone"])
    assert still.allowed(gone) == set()


@pytest.mark.parametrize(
    ("team_aliases", "key_aliases", "models", "allowed", "model_map"),
    [
        (None, {"draw": "gpt-image-2"}, [], None, {"draw": "gpt-image-2"}),
        # LiteLLM checks where a key's alias leads to.
        (
            None,
            {"draw": "gpt-image-2"},
            ["gpt-image-2"],
            {"draw", "gpt-image-2"},
            {"draw": "gpt-image-2"},
        ),
        (None, {"draw": "gpt-image-2"}, ["draw"], set(), {"draw": "gpt-image-2"}),
        (
            None,
            {"a": "b", "b": "gpt-image-2"},
            ["gpt-image-2"],
            {"a", "b", "gpt-image-2"},
            {"a": "gpt-image-2", "b": "gpt-image-2"},
        ),
        # A team's alias is allowed by itself.
        (
            {"draw": "gpt-image-2"},
            {},
            ["gpt-5.5"],
            {"draw", "gpt-image-2", "gpt-5.5"},
            {"draw": "gpt-image-2"},
        ),
        (
            {"draw": "b"},
            {"b": "gpt-image-2"},
            ["gpt-image-2"],
            {"draw", "b", "gpt-image-2"},
            {"draw": "gpt-image-2", "b": "gpt-image-2"},
        ),
        (None, {"a": 5, "b": "", "c": None, "": "d", "e": "e"}, [], None, {}),
        (["a"], {}, ["gpt-image-2"], {"gpt-image-2"}, {}),
        ("gpt-image-2", {}, ["gpt-image-2"], {"gpt-image-2"}, {}),
    ],
)
def test_aliases_of_the_team_come_before_those_of_the_key(
    still: LiteLlm,
    team_aliases: Any,
    key_aliases: dict[str, Any],
    models: list[str],
    allowed: set[str] | None,
    model_map: dict[str, str],
) -> None:
    team = None if team_aliases is None else still.add_team(aliases=team_aliases)
    secret = still.add_token(team_id=team, aliases=key_aliases, models=models)
    assert still.key(secret).model_map == model_map
    assert still.allowed(secret) == allowed


def test_an_alias_for_a_deployment_of_the_team_permits_the_public_name(still: LiteLlm) -> None:
    team = still.add_team(models=["gpt-5.5"])
    still.add(ALIASES, id=7, aliases={"gpt-image-2": f"model_name_{team}_0a1b"})
    still.change(TEAM, {"team_id": team}, model_id=7)
    secret = still.add_token(team_id=team)
    assert still.key(secret).model_map == {}
    assert still.allowed(secret) == {"gpt-image-2", "gpt-5.5"}


# -- switches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "enabled"),
    [
        (None, True),
        ([], True),
        (["openai_routes"], True),
        (["info_routes", "llm_api_routes"], True),
        (["llm_api_routes_without_mcp"], True),
        (["/v1/images/generations", "/images/edits"], True),
        (["/v1/images/*"], True),
        (["/v1"], True),
        (["*"], True),
        # The gateway has one switch for both.
        (["/v1/images/generations"], False),
        (["/v1/chat/completions", "management_routes"], False),
        (["/v1/images/gen*"], False),
        (["v1/images/*", "/v1/image", None], False),
    ],
)
def test_a_key_makes_images_if_its_routes_let_it_make_and_edit_them(
    still: LiteLlm,
    routes: list[str] | None,
    enabled: bool,  # noqa: FBT001 - a column of the table
) -> None:
    secret = still.add_token(allowed_routes=routes)
    assert still.key(secret).image_enabled is enabled


def test_key_options_hold_what_litellm_has_no_column_for(still: LiteLlm) -> None:
    secret = still.add_token(max_parallel_requests=5)
    still.add(
        "image_adapter.key_options",
        key_id=hashed(secret),
        image_enabled=False,
        max_concurrency=3,
        min_start_interval_ms=250,
        images_remaining=7,
        json_keepalive_seconds=0,
    )
    key = still.key(secret)
    assert (key.image_enabled, key.max_concurrency, key.min_start_interval_ms) == (False, 3, 250)
    assert (key.images_remaining, key.json_keepalive_seconds) == (7, 0)
    still.change("image_adapter.key_options", {"key_id": hashed(secret)}, max_concurrency=0)
    assert still.key(secret).max_concurrency == 5


def test_what_litellm_refuses_is_refused(still: LiteLlm) -> None:
    off = still.add_project(blocked=True)
    gone = still.add_user(metadata={"scim_active": False})
    busy = still.add_user(max_parallel_requests=0)
    for columns, status in (
        ({"blocked": False}, "active"),
        ({"team_id": "litellm-dashboard"}, "team_missing"),
        ({"project_id": off}, "project_blocked"),
        ({"project_id": "gone"}, "project_missing"),
        ({"user_id": gone}, "user_inactive"),
        # In the contract 0 would be no limit.
        ({"max_parallel_requests": 0}, "no_parallel_requests"),
        ({"max_parallel_requests": -1}, "no_parallel_requests"),
        ({"user_id": busy}, "no_parallel_requests"),
    ):
        assert still.key(still.add_token(**columns)).status == status, columns


def test_the_owner_of_a_key_is_its_user(still: LiteLlm) -> None:
    user = still.add_user(max_parallel_requests=6)
    key = still.key(still.add_token(user_id=user))
    assert (key.owner_id, key.owner_max_concurrency) == (user, 6)
    key = still.key(still.add_token(user_id="default_user_id"))
    assert (key.owner_id, key.owner_max_concurrency) == ("default_user_id", None)


# -- budgets ---------------------------------------------------------------------------------------


def test_the_least_of_all_budgets_that_hold_for_a_key_is_what_is_left(still: LiteLlm) -> None:
    user = still.add_user(max_budget=8, spend=1)
    organization = still.add_organization(60, 1)
    other = still.add_organization(5.5, 1)
    team = still.add_team(max_budget=100, spend=1, organization_id=organization)
    project = still.add_project(team_id=team, budget_id=still.add_budget(50), spend=1)
    budget = still.add_budget(40)

    def left(**columns: Any) -> float | None:
        return still.key(still.add_token(**columns)).cost_remaining

    assert left() is None
    assert left(max_budget=3, spend=1) == 2
    assert left(budget_id=budget, spend=1) == 39
    # Its own budget counts alone, as in LiteLLM.
    assert left(budget_id=budget, max_budget=70, spend=1) == 69
    assert left(user_id=user, max_budget=70) == 7
    # The user's budget is for personal keys.
    assert left(user_id=user, team_id=team, max_budget=70) == 59
    assert left(project_id=project) == 49
    assert left(project_id=project, team_id=team, organization_id=other) == 4.5
    still.add(MEMBER, user_id=user, team_id=team, budget_id=still.add_budget(12), spend=1)
    assert left(user_id=user, team_id=team) == 11


def test_a_team_s_budget_for_members_is_for_those_who_have_none(still: LiteLlm) -> None:
    team = still.add_team(metadata={"team_member_budget_id": still.add_budget(9)})
    with_one, without, new = (still.add_user() for _ in range(3))
    still.add(MEMBER, user_id=with_one, team_id=team, budget_id=still.add_budget(20), spend=1)
    still.add(MEMBER, user_id=without, team_id=team, spend=2)
    keys = [still.add_token(team_id=team, user_id=user) for user in (with_one, without, new, None)]
    assert [still.key(secret).cost_remaining for secret in keys] == [19, 7, 9, None]


@pytest.mark.parametrize(
    ("budget", "spend", "left"),
    [
        (None, 5, None),
        (0, 0, 0),
        (0.3, 0.1, 0.2),
        (1, 1.5, -0.5),
        (INFINITY, 5, None),
        (-INFINITY, 5, None),
        (float("nan"), 5, None),
        (5, INFINITY, 0),
        (5, float("nan"), 0),
        (5, -INFINITY, 1e12),
        (1e308, -1e308, 1e12),
        (-1e308, 1e308, -1e12),
        (5e-324, 0, 0),
    ],
)
def test_no_number_breaks_a_budget(
    still: LiteLlm, budget: float | None, spend: float, left: float | None
) -> None:
    secret = still.add_token(max_budget=budget, spend=spend)
    assert still.key(secret).cost_remaining == (left if left is None else pytest.approx(left))


def expiry(hours: int, form: str) -> str:
    """A time so many hours from now: ``aware`` or ``naive``, which LiteLLM takes as UTC."""
    moment = datetime.now(UTC) + timedelta(hours=hours)
    return (moment if form == "aware" else moment.replace(tzinfo=None)).isoformat()


@pytest.mark.parametrize(
    ("increase", "until", "left"),
    [
        (5, (1, "aware"), 15),
        (5, (1, "naive"), 15),
        (5, (-1, "aware"), 10),
        (5, (-1, "naive"), 10),
        (5, None, 10),
        (5, "soon", 10),
        (5, 7, 10),
        ("5", (1, "aware"), 10),
        (None, (1, "aware"), 10),
        (1e300, (1, "aware"), 1e12),
    ],
)
def test_a_budget_is_raised_while_litellm_raises_it(
    still: LiteLlm, increase: Any, until: Any, left: float
) -> None:
    """The time zone of the session, which is not UTC here, plays no part."""
    assert still.read("SHOW timezone") == [{"TimeZone": READER_ZONE}]
    metadata = {
        "temp_budget_increase": increase,
        "temp_budget_expiry": expiry(*until) if isinstance(until, tuple) else until,
    }
    secret = still.add_token(max_budget=10, metadata=metadata)
    assert still.key(secret).cost_remaining == left


def test_a_member_s_budget_is_raised_as_well(still: LiteLlm) -> None:
    budget = still.add_budget(10, temp_budget_increase=5, temp_budget_expiry=expiry(1, "naive"))
    team, user = still.add_team(), still.add_user()
    still.add(MEMBER, user_id=user, team_id=team, budget_id=budget)
    assert still.key(still.add_token(team_id=team, user_id=user)).cost_remaining == 15


# -- reading it ------------------------------------------------------------------------------------


def test_a_key_is_found_by_an_index_among_ten_thousand(litellm: LiteLlm) -> None:
    litellm.execute(
        f'INSERT INTO "{KEY}" (token, user_id) SELECT md5(i::text), md5(i::text)'
        f" FROM generate_series(1, 10000) i;"
        f'INSERT INTO "{OLD_KEY}" (id, token, active_token_id, revoke_at)'
        f" SELECT i, md5('old' || i), md5(i::text), now() FROM generate_series(1, 10000) i;"
        f'INSERT INTO "{USER}" (user_id) SELECT md5(i::text) FROM generate_series(1, 10000) i;'
        "ANALYZE"
    )
    plan = litellm.plan("daemon/key", {"key_hash": hashed("sk-ll-active")})
    for table in (KEY, OLD_KEY, USER):
        assert f'Seq Scan on "{table}"' not in plan, plan


def test_columns_that_came_later_may_be_missing(litellm: LiteLlm) -> None:
    for table, columns in {
        KEY: ["total_spend", "last_active", "project_id", "access_group_ids", "budget_limits"],
        TEAM: ["access_group_ids", "budget_limits", "model_max_budget"],
        BUDGET: ["allowed_models", "temp_budget_increase", "temp_budget_expiry"],
        MEMBER: ["total_spend"],
        ACCESS_GROUP: ["access_model_names", "assigned_team_ids"],
        MODEL: ["blocked"],
    }.items():
        for column in columns:
            litellm.execute(f'ALTER TABLE "{table}" DROP {column} CASCADE')
    litellm.install()
    assert litellm.allowed("sk-ll-team") == {"gpt-image-2", "draw", "pictures"}
    assert litellm.allowed("sk-ll-group") == set()
    assert litellm.key("sk-ll-tier").cost_remaining == -0.5
