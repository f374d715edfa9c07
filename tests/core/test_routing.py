"""Which accounts serve a request, in which order, and why none does."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from image_gateway.core import routing
from image_gateway.core.errors import Refusal
from image_gateway.core.health import Cooling, Health
from image_gateway.core.model import Account, Credential, Grant, Secret
from image_gateway.core.pictures import Image
from image_gateway.core.request import ImageRequest
from tests.core.builders import CATALOGUE, account, grant, key

NOW = 1000.0
WALL = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)
MODEL = "gpt-image-2"


def _request(**changes: Any) -> ImageRequest:
    plain: dict[str, Any] = {
        "endpoint": "generations",
        "model": MODEL,
        "upstream_model": MODEL,
        "prompt": "a cat",
        "parameters": {},
    }
    return ImageRequest(**{**plain, **changes})


def _state(loads: Mapping[str, int] | None = None, health: Health | None = None) -> routing.State:
    found = loads or {}
    return routing.State(lambda name: found.get(name, 0), health or Health(), NOW, WALL)


def _order(
    one: Grant,
    request: ImageRequest | None = None,
    state: routing.State | None = None,
    threshold: float = 95.0,
) -> list[str]:
    found = routing.order(one, request or _request(), CATALOGUE, state or _state(), threshold)
    assert all(one.accounts[each.account_name] is each for each in found)
    return [each.account_name for each in found]


def _refusal(
    one: Grant, request: ImageRequest | None = None, state: routing.State | None = None
) -> Refusal:
    with pytest.raises(Refusal) as refused:
        _order(one, request, state)
    return refused.value


# -- the sieves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployments", "model", "expected"),
    [
        (None, "gpt-image-2", True),
        (None, "gpt-image-2-2026-04-21", True),
        (None, "unheard-of", False),
        ({"unheard-of": "x"}, "unheard-of", True),
        ({"unheard-of": "x"}, "gpt-image-2", False),
        ({"x": "gpt-image-2"}, "gpt-image-2", False),
        ({}, "gpt-image-2", False),
    ],
)
def test_an_account_knows_its_own_list_or_without_one_the_catalogue(
    deployments: dict[str, str] | None, model: str, *, expected: bool
) -> None:
    assert routing.knows(account(deployments=deployments), model, CATALOGUE) is expected


@pytest.mark.parametrize("dialect", ["codex", "azure", "openai"])
def test_every_dialect_is_spoken(dialect: str) -> None:
    one = account(dialect=dialect, base_url="https://up.example", deployments={MODEL: "d"})
    assert routing.knows(one, MODEL, CATALOGUE)
    assert _order(grant(one)) == ["alpha"]


def test_a_credential_is_there_and_not_over() -> None:
    assert routing.has_credential(account(), WALL) is True
    assert routing.has_credential(account(credential=None), WALL) is False


def test_a_model_that_no_account_knows_is_not_found() -> None:
    refusal = _refusal(grant(account()), _request(upstream_model="unheard-of"))
    assert (refusal.code, refusal.param) == ("model_not_found", "model")


def test_the_mapped_model_is_what_accounts_must_know() -> None:
    request = _request(model="public", upstream_model="inner")
    assert _order(grant(account(deployments={"inner": "d"})), request) == ["alpha"]
    assert _refusal(grant(account(deployments={"public": "d"})), request).code == "model_not_found"


def test_a_key_reaches_only_its_accounts() -> None:
    one = grant(account("a"), account("b"), account("c"), account_names=("c", "gone", "a"))
    assert sorted(_order(one)) == ["a", "c"]


@pytest.mark.parametrize("names", [(), ("gone",)])
def test_a_key_that_reaches_no_account_hears_that_none_is_available(names: tuple[str, ...]) -> None:
    refusal = _refusal(grant(account(), account_names=names))
    assert refusal.code == "no_account_available"
    assert refusal.retry_after == 30


def test_an_account_named_twice_is_tried_once() -> None:
    one = grant(account("a"), account("b"), account_names=("a", "b", "a"), route_strategy="fixed")
    assert _order(one) == ["a", "b"]


_PICTURE = Image("image[]", "data:", (b"abc",), "image/png", 3)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"stream": True, "parameters": {"partial_images": 1}}, "partial_images"),
        ({"endpoint": "edits", "images": (_PICTURE,), "mask": _PICTURE}, "mask"),
        ({"endpoint": "edits", "images": (_PICTURE,) * 6}, "images"),
    ],
)
def test_a_wish_that_no_account_can_fulfil_hears_which_one(
    changes: dict[str, Any], param: str
) -> None:
    refusal = _refusal(grant(account("a"), account("b")), _request(**changes))
    assert (refusal.code, refusal.param) == ("unsupported_value", param)
    assert refusal.kind.status == 400


def test_a_wish_is_served_by_whichever_account_can() -> None:
    """What one route cannot do another may; only the able ones are tried."""
    codex, azure = account("a"), account("b", dialect="azure", base_url="https://x.example")
    drawing = account("c", responses_model="gpt-5.5")
    masked = _request(endpoint="edits", images=(_PICTURE,), mask=_PICTURE)
    assert sorted(_order(grant(codex, azure, drawing), masked)) == ["b", "c"]
    address = Image("image[]", "https://example.com/a.png")
    linked = _request(endpoint="edits", images=(address,))
    assert sorted(_order(grant(codex, azure, drawing), linked)) == ["a", "c"]
    assert sorted(_order(grant(codex, azure, drawing), _request(stream=True))) == ["a", "b", "c"]


def test_a_wish_of_a_form_is_refused_by_the_name_of_its_part() -> None:
    wish = _request(endpoint="edits", images=(_PICTURE,) * 6, is_form=True)
    assert _refusal(grant(account()), wish).param == "image"


def test_an_impossible_wish_is_answered_before_bad_luck() -> None:
    """A client with an impossible wish must not be told to come back."""
    off = grant(account(status="disabled"))
    wish = _request(stream=True, parameters={"partial_images": 1})
    assert _refusal(off, wish).code == "unsupported_value"
    assert _refusal(off, _request(upstream_model="unheard-of")).code == "model_not_found"
    assert _refusal(off).code == "no_account_available"


_UNUSABLE: list[dict[str, Any]] = [
    {"status": "disabled"},
    {"status": ""},
    {"image_enabled": False},
    {"blocked_until": WALL + timedelta(seconds=40)},
    {"credential": None},
    {"credential": Credential(Secret("t"), "access_token", expires_at=WALL.timestamp())},
    {"credential": Credential(Secret("t"), "access_token", expires_at=WALL.timestamp() - 1)},
]


@pytest.mark.parametrize("changes", _UNUSABLE)
def test_an_account_that_cannot_be_used_now_is_left_out(changes: dict[str, Any]) -> None:
    assert _order(grant(account("bad", **changes), account("good"))) == ["good"]


@pytest.mark.parametrize(
    "changes",
    [
        {"blocked_until": WALL},
        {"blocked_until": WALL - timedelta(days=1)},
        {"credential": Credential(Secret("t"), "access_token", expires_at=WALL.timestamp() + 1)},
        {"credential": Credential(Secret("t"), "api_key")},
        {"last_error": "something"},
    ],
)
def test_what_is_over_or_only_remembered_keeps_no_account_out(changes: dict[str, Any]) -> None:
    assert _order(grant(account(**changes))) == ["alpha"]


def test_a_cooling_account_is_left_out_until_its_cooldown_is_over() -> None:
    health = Health()
    health.cool("bad", MODEL, Cooling(20.0), NOW - 5)
    one = grant(account("bad"), account("good"))
    assert _order(one, state=_state(health=health)) == ["good"]
    later = routing.State(lambda _: 0, health, NOW + 15, WALL)
    assert sorted(_order(one, state=later)) == ["bad", "good"]


def test_a_cooling_model_keeps_the_account_s_other_models() -> None:
    health = Health()
    health.cool("alpha", MODEL, Cooling(20.0, model_only=True), NOW)
    one = grant(account())
    assert _refusal(one, state=_state(health=health)).code == "no_account_available"
    other = _request(upstream_model="gpt-image-1")
    assert _order(one, other, _state(health=health)) == ["alpha"]


def test_the_wait_is_that_of_the_first_account_that_comes_back() -> None:
    health = Health()
    health.cool("cool", MODEL, Cooling(70.0), NOW)
    one = grant(
        account("cool"),
        account("blocked", blocked_until=WALL + timedelta(seconds=40)),
        account("off", status="disabled"),
        account("bare", credential=None),
    )
    refusal = _refusal(one, state=_state(health=health))
    assert (refusal.code, refusal.retry_after) == ("no_account_available", 40)
    assert refusal.kind.status == 503


def test_a_block_of_days_is_told_as_it_is() -> None:
    blocked = account(blocked_until=WALL + timedelta(days=2))
    assert _refusal(grant(blocked)).retry_after == 172_800


def test_a_wait_may_be_less_than_a_second() -> None:
    blocked = account(blocked_until=WALL + timedelta(seconds=0.5))
    assert _refusal(grant(blocked)).retry_after == 0.5


def test_only_bad_credentials_are_called_by_their_name() -> None:
    expired = Credential(Secret("t"), "access_token", expires_at=1.0)
    bad = grant(account("a", credential=None), account("b", credential=expired))
    assert _refusal(bad).code == "account_credentials"
    mixed = grant(account("a", credential=None), account("b", status="disabled"))
    assert _refusal(mixed).code == "no_account_available"


def test_the_refusals_made_elsewhere_have_their_codes_and_waits() -> None:
    assert routing.all_busy().code == "account_concurrency"
    assert "retry-after" in routing.all_busy().headers()
    assert routing.no_credentials().code == "account_credentials"


@for_all(
    dialect=st.sampled_from(["codex", "azure", "openai"]),
    model=st.sampled_from([MODEL, "unheard-of"]),
    deployments=st.sampled_from([None, {MODEL: "d"}, {}]),
    changes=st.sampled_from([{}, *_UNUSABLE]),
    stream=st.booleans(),
)
def test_an_order_is_never_empty(
    dialect: str,
    model: str,
    deployments: dict[str, str] | None,
    changes: dict[str, Any],
    *,
    stream: bool,
) -> None:
    one = grant(account(dialect=dialect, deployments=deployments, **changes))
    code = None
    try:
        found = _order(one, _request(upstream_model=model, stream=stream))
    except Refusal as refusal:
        code, found = refusal.code, ["alpha"]
    assert found == ["alpha"]
    assert code in {
        None,
        "model_not_found",
        "unsupported_value",
        "no_account_available",
        "account_credentials",
    }


# -- the ranking -----------------------------------------------------------------------------


def test_fixed_is_the_key_s_own_order_and_no_other_ranking() -> None:
    one = grant(
        account("a"),
        account("b", used_percent_primary=100.0),
        account("c", routing_weight=100.0),
        account_names=("b", "a", "c"),
        route_strategy="fixed",
    )
    assert _order(one, state=_state({"a": 3, "b": 2})) == ["b", "a", "c"]


def test_fixed_leaves_out_what_cannot_serve() -> None:
    one = grant(
        account("a"),
        account("b", status="disabled"),
        account_names=("b", "a"),
        route_strategy="fixed",
    )
    assert _order(one) == ["a"]


def test_fixed_without_a_list_goes_by_name() -> None:
    one = grant(account("c"), account("a"), account("b"), route_strategy="fixed")
    assert _order(one, state=_state({"a": 2})) == ["a", "b", "c"]


def test_the_least_loaded_goes_first() -> None:
    one = grant(account("a"), account("b"), account("c"))
    assert _order(one, state=_state({"a": 2, "b": 1, "c": 0})) == ["c", "b", "a"]


def test_load_is_by_slots() -> None:
    """(2 + 1) / 8 is less than (1 + 1) / 3, and not less than (0 + 1) / 3."""
    one = grant(account("a"), account("b", image_max_concurrency=8))
    assert _order(one, state=_state({"a": 1, "b": 2})) == ["b", "a"]
    assert _order(one, state=_state({"a": 0, "b": 2})) == ["a", "b"]


def test_load_is_by_weight() -> None:
    """(2 + 1) / (3 x 4) is less than (0 + 1) / 3, and (4 + 1) / (3 x 4) is not."""
    one = grant(account("a"), account("b", routing_weight=4.0))
    assert _order(one) == ["b", "a"]
    assert _order(one, state=_state({"b": 2})) == ["b", "a"]
    assert _order(one, state=_state({"b": 4})) == ["a", "b"]


def test_load_is_by_the_share_of_the_budget_that_is_left() -> None:
    one = grant(account("a", used_percent_primary=80.0), account("b", used_percent_secondary=20.0))
    assert _order(one) == ["b", "a"]
    assert _order(one, state=_state({"b": 2})) == ["b", "a"]
    assert _order(one, state=_state({"b": 4})) == ["a", "b"]


@pytest.mark.parametrize("column", ["used_percent_primary", "used_percent_secondary"])
def test_a_budget_that_nobody_named_is_whole(column: str) -> None:
    assert _order(grant(account("a", **{column: 0.5}), account("b"))) == ["b", "a"]


def test_the_fuller_of_the_two_budgets_counts() -> None:
    one = grant(
        account("a", used_percent_primary=10.0, used_percent_secondary=60.0),
        account("b", used_percent_primary=50.0, used_percent_secondary=0.0),
    )
    assert _order(one) == ["b", "a"]


@pytest.mark.parametrize(("spent", "first"), [(94.9, "a"), (95.0, "b"), (100.0, "b"), (150.0, "b")])
def test_an_account_at_the_threshold_comes_after_all_that_are_under_it(
    spent: float, first: str
) -> None:
    one = grant(
        account("a", used_percent_primary=spent, routing_weight=1000.0),
        account("b", used_percent_primary=94.0),
    )
    assert _order(one, state=_state({"b": 2}))[0] == first


def test_the_threshold_is_a_setting() -> None:
    one = grant(account("a", used_percent_primary=60.0, routing_weight=100.0), account("b"))
    assert _order(one, threshold=60.0) == ["b", "a"]
    assert _order(one, threshold=61.0) == ["a", "b"]


def test_a_budget_that_is_all_spent_still_ranks() -> None:
    one = grant(account("a", used_percent_primary=100.0), account("b", used_percent_primary=1e9))
    assert _order(one) == ["a", "b"]
    assert _order(grant(account("a", used_percent_primary=-5.0), account("b"))) == ["a", "b"]


def test_the_given_order_breaks_ties_then_the_name() -> None:
    accounts = (account("a"), account("b"), account("c"))
    assert _order(grant(*accounts, account_names=("c", "a", "b"))) == ["c", "a", "b"]
    assert _order(grant(*accounts)) == ["a", "b", "c"]
    assert _order(grant(*accounts, account_names=("c", "a", "b")), state=_state({"c": 1})) == [
        "a",
        "b",
        "c",
    ]


_ACCOUNTS = st.lists(
    st.builds(
        account,
        st.sampled_from(["a", "b", "c", "d"]),
        image_max_concurrency=st.integers(1, 5),
        routing_weight=st.sampled_from([0.5, 1.0, 2.0]),
        used_percent_primary=st.sampled_from([None, 0.0, 50.0, 95.0, 99.0]),
        image_enabled=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.account_name,
)
_LOADS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5))


@for_all(_ACCOUNTS, _LOADS, st.sampled_from(["auto", "fixed"]), st.randoms())
def test_the_same_state_gives_the_same_order_whatever_the_order_of_the_rows(
    accounts: list[Account], loads: dict[str, int], strategy: Any, random: Any
) -> None:
    shuffled = list(accounts)
    random.shuffle(shuffled)
    found = []
    for rows in (accounts, shuffled):
        one = Grant(key(route_strategy=strategy), {each.account_name: each for each in rows})
        try:
            found.append(_order(one, state=_state(loads)))
        except Refusal as refusal:
            found.append([refusal.code])
    assert found[0] == found[1]


@for_all(_ACCOUNTS, _LOADS)
def test_an_automatic_order_is_every_usable_account_by_budget_then_load(
    accounts: list[Account], loads: dict[str, int]
) -> None:
    usable = {each.account_name: each for each in accounts if each.image_enabled}
    one = Grant(key(), {each.account_name: each for each in accounts})
    if not usable:
        assert _refusal(one, state=_state(loads)).code == "no_account_available"
        return
    found = _order(one, state=_state(loads))
    assert sorted(found) == sorted(usable)

    def rank(name: str) -> tuple[bool, float]:
        one = usable[name]
        spent = one.used_percent_primary or 0.0
        slots = one.image_max_concurrency * one.routing_weight * (100 - spent) / 100
        return spent >= 95, (loads.get(name, 0) + 1) / slots

    for before, after in pairwise(found):
        (spent_before, load_before), (spent_after, load_after) = rank(before), rank(after)
        assert spent_before <= spent_after
        if spent_before == spent_after:
            assert load_before < load_after or load_before == pytest.approx(load_after)


def test_an_account_that_is_blocked_and_cools_names_the_longer_wait() -> None:
    state = _state()
    state.health.cool("a", "gpt-image-2", Cooling(600.0), state.now)
    blocked = account("a", blocked_until=state.wall + timedelta(seconds=60))
    with pytest.raises(Refusal) as refused:
        _order(grant(blocked), state=state)
    assert refused.value.code == "no_account_available"
    assert refused.value.retry_after == pytest.approx(600)
