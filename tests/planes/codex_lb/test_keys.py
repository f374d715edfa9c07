"""Keys of codex-lb as the gateway sees them: who may call, for what, on which accounts."""

from datetime import UTC, datetime
from typing import Any, Final

import pytest

from tests.planes.codex_lb.database import CodexLb

pytestmark = pytest.mark.slow

BIGGEST: Final = 2**63 - 1
PAST: Final = "2020-01-01"
IMAGES: Final = {"gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2"}


KEYS: dict[str, dict[str, Any]] = {
    "active": {"quota_allows": True},
    "expired": {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)},
    "off": {"status": "disabled"},
    "models": {"allowed_models": {"gpt-image-2", "gpt-5.5"}},
    "empty": {},
    "badjson": {},
    "scoped": {"account_names": ("a-active", "a-noid")},
    "scoped-0": {"account_names": ()},
    "pinned": {"allowed_models": set()},
    "limited": {"quota_remaining": 60_000, "cost_remaining": 2.0},
}


@pytest.mark.parametrize(("key_id", "differing"), KEYS.items(), ids=KEYS)
def test_a_key_of_codex_lb_is_found_by_its_secret(
    lb: CodexLb, key_id: str, differing: dict[str, Any]
) -> None:
    """What is not told of a key is the default: active, with pictures, no limits, all accounts."""
    key = lb.key(f"sk-clb-{key_id}")
    seen = {name: getattr(key, name) for name in KEY_DEFAULTS}
    assert seen == {**KEY_DEFAULTS, **differing}
    assert (key.key_id, key.key_name, key.route_strategy) == (key_id, key_id, "auto")


KEY_DEFAULTS: Final = {
    "status": "active",
    "image_enabled": True,
    "group_id": None,
    "group_image_enabled": True,
    "quota_remaining": None,
    "quota_allows": True,
    "images_remaining": None,
    "cost_remaining": None,
    "allowed_models": None,
    "model_map": {},
    "account_names": None,
    "expires_at": None,
    "max_concurrency": None,
    "owner_id": None,
}


def test_an_unknown_secret_has_no_row(lb: CodexLb) -> None:
    assert lb.key_row("sk-clb-unknown") is None


LIMITS: list[tuple[list[dict[str, Any]], tuple[int | None, float | None, bool]]] = [
    ([{"limit_type": "total_tokens", "most": 10, "used": 4}], (6, None, True)),
    ([{"limit_type": "input_tokens", "most": 10, "used": 25}], (-15, None, True)),
    (
        [
            {"limit_type": "output_tokens", "most": 10, "used": 4},
            {"limit_type": "total_tokens", "most": 10, "used": 8},
        ],
        (2, None, True),
    ),
    ([{"limit_type": "total_tokens", "most": 10, "used": 10, "reset_at": PAST}], (10, None, True)),
    ([{"limit_type": "cost_usd", "most": 2_500_000, "used": 2_000_000}], (None, 0.5, True)),
    ([{"limit_type": "cost_usd", "most": 1, "used": 2}], (None, -0.000001, True)),
    ([{"limit_type": "credits", "most": 10, "used": 10}], (None, None, False)),
    ([{"limit_type": "credits", "most": 10, "used": 10, "reset_at": PAST}], (None, None, True)),
    (
        [
            {"limit_type": "total_tokens", "most": 10, "used": 9, "model_filter": model}
            for model in ("gpt-5.5", "", "dall-e-3", "not-gpt-image-2")
        ],
        (None, None, True),
    ),
    (
        [
            {"limit_type": "total_tokens", "most": 10, "used": 3, "model_filter": "gpt-image-1.5"},
            {"limit_type": "cost_usd", "most": 9, "used": 9, "model_filter": "chatgpt-image-9"},
        ],
        (7, 0, True),
    ),
    (
        [{"limit_type": "total_tokens", "most": BIGGEST, "used": -BIGGEST}],
        (BIGGEST, None, True),
    ),
    (
        [{"limit_type": "total_tokens", "most": -BIGGEST, "used": BIGGEST}],
        (-BIGGEST - 1, None, True),
    ),
]


@pytest.mark.parametrize(("limits", "wanted"), LIMITS)
def test_what_a_key_has_left_is_what_its_limits_for_pictures_leave(
    lb: CodexLb,
    request: pytest.FixtureRequest,
    limits: list[dict[str, Any]],
    wanted: tuple[int | None, float | None, bool],
) -> None:
    key_id = request.node.name
    secret = lb.add_lb_key(key_id)
    for limit in limits:
        lb.add_limit(key_id, **limit)
    key = lb.key(secret)
    assert (key.quota_remaining, key.cost_remaining, key.quota_allows) == wanted


@pytest.mark.parametrize(
    ("allowed", "enforced", "models", "model_map"),
    [
        ('["gpt-image-2"]', None, {"gpt-image-2"}, {}),
        ("null", None, None, {}),
        # What is no JSON fails in codex-lb; a list in which no name can be read allows none.
        ("[", None, set(), {}),
        ("", None, set(), {}),
        ('["\\u0000"]', None, set(), {}),
        ("[7, null]", None, set(), {}),
        (None, "gpt-5.5", set(), {}),
        (None, "", set(), {}),
        (None, "gpt-image-2", IMAGES, dict.fromkeys(IMAGES - {"gpt-image-2"}, "gpt-image-2")),
        ('["gpt-image-1"]', "gpt-image-2", set(), {}),
        (
            '["gpt-image-9", "gpt-5.5"]',
            "gpt-image-9",
            IMAGES | {"gpt-image-9"},
            dict.fromkeys(IMAGES, "gpt-image-9"),
        ),
    ],
)
def test_an_enforced_model_takes_the_place_of_every_other_if_it_makes_pictures(
    lb: CodexLb,
    request: pytest.FixtureRequest,
    allowed: str | None,
    enforced: str | None,
    models: set[str] | None,
    model_map: dict[str, str],
) -> None:
    key_id = request.node.name
    key = lb.key(lb.add_lb_key(key_id, allowed_models=allowed, enforced_model=enforced))
    assert key.allowed_models == models
    assert key.model_map == model_map


def test_a_key_with_assigned_accounts_may_use_the_adapter_s_own_that_it_is_given(
    lb: CodexLb,
) -> None:
    for name in ("west", "east"):
        lb.insert("image_adapter.accounts", account_name=name, dialect="openai")
    secret = lb.add_lb_key("given", account_assignment_scope_enabled=True)
    unlimited = lb.add_lb_key("unlimited")
    lb.insert("api_key_accounts", api_key_id="given", account_id="a-over")
    for key_id in ("given", "unlimited"):
        for name in ("west", "east"):
            lb.insert("image_adapter.key_accounts", key_id=key_id, account_name=name)
    assert lb.key(secret).account_names == ("a-over", "east", "west")
    assert lb.key(unlimited).account_names is None
    assert {"east", "west"} <= set(lb.accounts())
    # codex-lb takes the name: the key was given the other account.
    lb.add_lb_account("east")
    assert lb.key(secret).account_names == ("a-over", "west")
    assert lb.accounts()["east"].dialect == "codex"


def test_what_codex_lb_has_no_column_for_is_an_option_of_the_key(lb: CodexLb) -> None:
    secret = lb.add_lb_key("options")
    lb.insert(
        "image_adapter.key_options",
        key_id="options",
        image_enabled=False,
        max_concurrency=2,
        min_start_interval_ms=250,
        images_remaining=7,
        json_keepalive_seconds=0,
    )
    key = lb.key(secret)
    assert (key.image_enabled, key.max_concurrency, key.min_start_interval_ms) == (False, 2, 250)
    assert (key.images_remaining, key.json_keepalive_seconds) == (7, 0)
