"""Which accounts serve a request, in which order, and why none does."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account, Credential, Grant, Secret
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.images import Image
from image_gateway.core.routing import offers, ranking
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.cooldowns import CooldownSpec, CooldownTracker, Scope, Target
from image_gateway.core.routing.outliers import OutlierTracker
from tests.core.builders import CATALOGUE, account, grant, key

NOW = 1000.0
WALL = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)
MODEL = "gpt-image-2"
TARGET = Target(MODEL, "generations")


def _request(**changes: Any) -> ImageRequest:
    plain: dict[str, Any] = {
        "endpoint": "generations",
        "model": MODEL,
        "upstream_model": MODEL,
        "prompt": "a cat",
        "parameters": {},
    }
    return ImageRequest(**{**plain, **changes})


def _state(
    loads: Mapping[str, int] | None = None,
    cooldowns: CooldownTracker | None = None,
    budgets: Budgets | None = None,
    threshold: float = 95.0,
    outliers: OutlierTracker | None = None,
) -> ranking.State:
    found = loads or {}
    return ranking.State(
        lambda name: found.get(name, 0),
        cooldowns or CooldownTracker(),
        outliers or OutlierTracker(),
        budgets or Budgets(),
        threshold,
        NOW,
        WALL,
    )


def _order(
    one: Grant,
    request: ImageRequest | None = None,
    state: ranking.State | None = None,
    session: str | None = None,
) -> list[str]:
    asked, moment = request or _request(), state or _state()
    able = ranking.able(one, asked, CATALOGUE, WALL.date())
    usable = ranking.usable(able, Target.of(asked), moment)
    found = ranking.order(usable, one.key, Target.of(asked), moment, session)
    assert all(one.accounts[each.account_name] is each for each in found)
    return [each.account_name for each in found]


def _refusal(
    one: Grant, request: ImageRequest | None = None, state: ranking.State | None = None
) -> Refusal:
    with pytest.raises(Refusal) as refused:
        _order(one, request, state)
    return refused.value


# -- the filters -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["codex", "azure", "openai"])
@pytest.mark.parametrize(
    ("deployments", "model", "expected"),
    [
        ({"unheard-of": "x"}, "unheard-of", True),
        ({"unheard-of": "x"}, "gpt-image-2", False),
        ({"x": "gpt-image-2"}, "gpt-image-2", False),
        ({}, "gpt-image-2", False),
    ],
)
def test_an_account_knows_its_own_list(
    dialect: str, deployments: dict[str, str], model: str, *, expected: bool
) -> None:
    one = account(dialect=dialect, deployments=deployments)
    assert offers.serves(one, model, CATALOGUE) is expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-image-2", {"codex", "azure", "openai"}),
        ("gpt-image-2-2026-04-21", {"azure", "openai"}),
        ("gpt-image-1.5", {"azure", "openai"}),
        ("gpt-image-2.5-flare", {"azure", "openai"}),
        ("gpt-image-3-that-nobody-knows", {"azure", "openai"}),
        ("chatgpt-image-latest", {"azure", "openai"}),
        ("gpt-5", set()),
        ("unheard-of", set()),
    ],
)
def test_without_a_list_codex_knows_its_one_model_and_the_others_every_image_model(
    model: str, expected: set[str]
) -> None:
    dialects = ("codex", "azure", "openai")
    found = {each for each in dialects if offers.serves(account(dialect=each), model, CATALOGUE)}
    assert found == expected


@pytest.mark.parametrize("dialect", ["codex", "azure", "openai"])
def test_every_dialect_is_spoken(dialect: str) -> None:
    one = account(dialect=dialect, base_url="https://up.example", deployments={MODEL: "d"})
    assert offers.serves(one, MODEL, CATALOGUE)
    assert _order(grant(one)) == ["alpha"]


def test_a_credential_is_there_and_not_over() -> None:
    assert ranking.has_credential(account(), WALL) is True
    assert ranking.has_credential(account(credential=None), WALL) is False


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


_PICTURE = Image("data:", (b"abc",), "image/png", 3)


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
    assert refusal.spec.status == 400


def test_a_wish_is_served_by_whichever_account_can() -> None:
    """What one route cannot do another may; only the able ones are tried."""
    codex, azure = account("a"), account("b", dialect="azure", base_url="https://x.example")
    drawing = account("c", responses_model="gpt-5.5")
    masked = _request(endpoint="edits", images=(_PICTURE,), mask=_PICTURE)
    assert sorted(_order(grant(codex, azure, drawing), masked)) == ["b", "c"]
    address = Image("https://example.com/a.png")
    linked = _request(endpoint="edits", images=(address,))
    fetching = account("d", dialect="openai")
    assert sorted(_order(grant(codex, azure, drawing, fetching), linked)) == ["d"]
    assert sorted(_order(grant(codex, azure, drawing), _request(stream=True))) == ["a", "b", "c"]


def test_a_wish_of_a_form_is_refused_by_the_name_of_its_part() -> None:
    wish = _request(endpoint="edits", images=(_PICTURE,) * 6, is_form=True)
    assert _refusal(grant(account()), wish).param == "image"


def test_an_impossible_wish_is_answered_before_bad_luck() -> None:
    """A client whose request cannot be served must not be asked to retry."""
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
    ],
)
def test_what_is_over_keeps_no_account_out(changes: dict[str, Any]) -> None:
    assert _order(grant(account(**changes))) == ["alpha"]


def test_a_cooling_account_is_left_out_until_its_cooldown_is_over() -> None:
    tracker = CooldownTracker()
    tracker.trip("bad", TARGET, CooldownSpec(20.0), NOW - 5)
    one = grant(account("bad"), account("good"))
    assert _order(one, state=_state(cooldowns=tracker)) == ["good"]
    later = replace(_state(cooldowns=tracker), now=NOW + 15)
    assert sorted(_order(one, state=later)) == ["bad", "good"]


def test_a_cooling_model_keeps_the_account_s_other_models() -> None:
    tracker = CooldownTracker()
    tracker.trip("alpha", TARGET, CooldownSpec(20.0, Scope.MODEL), NOW)
    one = grant(account(dialect="openai"))
    assert _refusal(one, state=_state(cooldowns=tracker)).code == "no_account_available"
    other = _request(upstream_model="gpt-image-2.5-flare")
    assert _order(one, other, _state(cooldowns=tracker)) == ["alpha"]


def test_the_wait_is_that_of_the_first_account_that_comes_back() -> None:
    tracker = CooldownTracker()
    tracker.trip("cool", TARGET, CooldownSpec(70.0), NOW)
    one = grant(
        account("cool"),
        account("blocked", blocked_until=WALL + timedelta(seconds=40)),
        account("off", status="disabled"),
        account("bare", credential=None),
    )
    refusal = _refusal(one, state=_state(cooldowns=tracker))
    assert (refusal.code, refusal.retry_after) == ("no_account_available", 40)
    assert refusal.spec.status == 503


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
    busy = ranking.all_busy(7.5)
    assert (busy.code, busy.retry_after) == ("account_concurrency", 7.5)
    assert "retry-after" in busy.headers()
    assert ranking.no_credentials().code == "account_credentials"


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
    assert _order(one, state=_state(threshold=60.0)) == ["b", "a"]
    assert _order(one, state=_state(threshold=61.0)) == ["a", "b"]


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


@for_all(
    _ACCOUNTS,
    _LOADS,
    st.sampled_from(["auto", "fixed"]),
    st.sampled_from([None, "one", "two"]),
    st.randoms(),
)
def test_the_same_state_gives_the_same_order_whatever_the_order_of_the_rows(
    accounts: list[Account],
    loads: dict[str, int],
    strategy: Any,
    session: str | None,
    random: Any,
) -> None:
    shuffled = list(accounts)
    random.shuffle(shuffled)
    found = []
    for rows in (accounts, shuffled):
        one = Grant(key(route_strategy=strategy), {each.account_name: each for each in rows})
        try:
            found.append(_order(one, state=_state(loads), session=session))
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
    state.cooldowns.trip("a", TARGET, CooldownSpec(600.0), state.now)
    blocked = account("a", blocked_until=state.wall + timedelta(seconds=60))
    with pytest.raises(Refusal) as refused:
        _order(grant(blocked), state=state)
    assert refused.value.code == "no_account_available"
    assert refused.value.retry_after == pytest.approx(600)


_ODD_ROWS = st.lists(
    st.builds(
        account,
        st.sampled_from("abcd"),
        image_enabled=st.booleans(),
        status=st.sampled_from(["active", "disabled"]),
        credential=st.sampled_from([None, Credential(Secret("t"), "api_key")]),
        deployments=st.sampled_from([None, {MODEL: "d"}, {}]),
        used_percent_primary=st.sampled_from([None, 96.0]),
    ),
    max_size=4,
    unique_by=lambda each: each.account_name,
)


@for_all(
    _ODD_ROWS,
    st.one_of(st.none(), st.lists(st.sampled_from("abcde"), max_size=6).map(tuple)),
    st.sampled_from(["auto", "fixed"]),
    st.sampled_from([None, "one"]),
)
def test_each_filter_only_removes_and_only_the_ranking_reorders(
    accounts: list[Account],
    names: tuple[str, ...] | None,
    strategy: Any,
    session: str | None,
) -> None:
    """What a request needs does not depend on the moment, and both keep the key's order."""
    one = grant(*accounts, account_names=names, route_strategy=strategy)
    reached = sorted(one.accounts) if names is None else list(dict.fromkeys(names))
    knowing = [
        one.accounts[name]
        for name in reached
        if name in one.accounts and one.accounts[name].deployments != {}
    ]
    if not knowing:
        return
    able = ranking.able(one, _request(), CATALOGUE, WALL.date())
    assert list(able) == knowing
    working = [
        each
        for each in able
        if each.status == "active" and each.image_enabled and each.credential is not None
    ]
    if not working:
        with pytest.raises(Refusal):
            ranking.usable(able, TARGET, _state())
        return
    usable = ranking.usable(able, TARGET, _state())
    assert list(usable) == working
    ranked = ranking.order(usable, one.key, TARGET, _state(), session)
    assert sorted(each.account_name for each in ranked) == sorted(
        each.account_name for each in usable
    )
    if strategy == "fixed":
        assert ranked == usable


@for_all(
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.sampled_from([None, 50.0, 100.0]),
)
def test_any_weight_that_the_control_plane_may_name_ranks(
    weight: float, spent: float | None
) -> None:
    one = grant(account("a", routing_weight=weight, used_percent_primary=spent), account("b"))
    assert sorted(_order(one)) == ["a", "b"]


# -- sessions --------------------------------------------------------------------------------

_NAMES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
_SESSIONS = st.text(st.characters(), min_size=1, max_size=12)
_MANY_SESSIONS = [f"session-{number}" for number in range(600)]


@for_all(_NAMES, _SESSIONS, st.lists(st.integers(0, 9), min_size=12, max_size=12), st.randoms())
def test_a_session_stays_with_its_account_whatever_the_rows_order_and_the_loads(
    names: list[str], session: str, loads: list[int], random: Any
) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    found = set()
    for order, given in ((names, None), (shuffled, None), (names, names), (shuffled, shuffled)):
        one = grant(
            *[account(name) for name in order],
            account_names=None if given is None else tuple(given),
        )
        for part in (loads[:6], loads[6:]):
            state = _state(dict(zip(names, part, strict=False)))
            found.add(_order(one, state=state, session=session)[0])
    assert len(found) == 1, "every process finds the same account, without asking another"


def _cooled() -> CooldownTracker:
    tracker = CooldownTracker()
    tracker.trip("a", TARGET, CooldownSpec(60.0), NOW)
    return tracker


def _learned(spent: str) -> Budgets:
    budgets = Budgets()
    budgets.learn(account("a"), {"x-codex-primary-used-percent": spent}, NOW, WALL.timestamp())
    return budgets


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"used_percent_primary": 95.0}, _state()),
        ({}, _state(budgets=_learned("97"))),
        ({}, _state(cooldowns=_cooled())),
        ({"status": "disabled"}, _state()),
        ({"credential": None}, _state()),
        ({"blocked_until": WALL + timedelta(minutes=1)}, _state()),
        ({"image_enabled": False}, _state()),
    ],
    ids=["spent", "learned", "cooling", "disabled", "bare", "blocked", "off"],
)
def test_where_an_account_drops_out_only_its_own_sessions_move_and_they_return(
    changes: dict[str, Any], state: ranking.State
) -> None:
    """Each goes where it would belong if the account had never been there."""
    others = [account(name) for name in "bcd"]
    whole, lacking = grant(account("a"), *others), grant(account("a", **changes), *others)

    def homes(one: Grant, moment: ranking.State) -> dict[str, str]:
        return {each: _order(one, state=moment, session=each)[0] for each in _MANY_SESSIONS}

    before, meanwhile, without = homes(whole, _state()), homes(lacking, state), grant(*others)
    moved = {each for each in before if before[each] != meanwhile[each]}
    assert moved == {each for each in before if before[each] == "a"}
    assert meanwhile == homes(without, _state())
    assert {meanwhile[each] for each in moved} == {"b", "c", "d"}, "not all to one"
    assert homes(whole, _state()) == before


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_sessions_spread_over_the_accounts(count: int) -> None:
    one = grant(*[account(f"account-{number}") for number in range(count)])
    homes = Counter(_order(one, session=each)[0] for each in _MANY_SESSIONS)
    fair = len(_MANY_SESSIONS) / count
    assert len(homes) == count
    assert all(fair * 0.7 < homes[name] < fair * 1.3 for name in homes), homes


@for_all(_ACCOUNTS, _LOADS, _SESSIONS)
def test_a_session_moves_its_account_to_the_front_and_nothing_else(
    accounts: list[Account], loads: dict[str, int], session: str
) -> None:
    """Without one, or where every budget is spent, it is the least loaded that comes first."""
    usable = [each for each in accounts if each.image_enabled]
    if not usable:
        return
    one, state = grant(*usable), _state(loads)
    plain, found = _order(one, state=state), _order(one, state=state, session=session)
    under = [name for name in plain if (one.accounts[name].used_percent_primary or 0) < 95]
    if not under:
        assert found == plain
        return
    own = found[0]
    assert own in under, "over the threshold an account has no privilege"
    assert found == [own, *[name for name in plain if name != own]]
    assert _order(grant(*[one.accounts[name] for name in under]), session=session)[0] == own


@for_all(_SESSIONS)
def test_a_fixed_strategy_knows_no_session_no_budget_and_no_probe(session: str) -> None:
    one = grant(
        account("a"),
        account("b", used_percent_primary=100.0),
        account("c"),
        account_names=("b", "a", "c"),
        route_strategy="fixed",
    )
    with _probe("c") as tracker:
        state = _state({"b": 3}, tracker, _learned("99"))
        assert _order(one, state=state, session=session) == ["b", "a", "c"]


# -- what was learned, and probes ------------------------------------------------------------


def test_a_budget_that_an_answer_told_counts_in_the_load_and_at_the_threshold() -> None:
    one = grant(account("a"), account("b"))
    assert _order(one) == ["a", "b"]
    assert _order(one, state=_state(budgets=_learned("40"))) == ["b", "a"]
    assert _order(one, state=_state({"b": 1}, budgets=_learned("40"))) == ["a", "b"]
    assert _order(one, state=_state({"b": 9}, budgets=_learned("95"))) == ["b", "a"]


def test_what_an_answer_told_counts_until_the_control_plane_says_something_else() -> None:
    newer = grant(account("a", used_percent_primary=3.0), account("b", used_percent_primary=4.0))
    assert _order(newer, state=_state(budgets=_learned("97"))) == ["a", "b"]


@contextmanager
def _probe(name: str, scope: Scope = Scope.ACCOUNT) -> Iterator[CooldownTracker]:
    """A call that is just finding out whether an account that cooled down is well again."""
    tracker = CooldownTracker()
    tracker.trip(name, TARGET, CooldownSpec(10.0, scope), NOW - 60)
    with tracker.call(name, TARGET, NOW - 50):
        yield tracker


def test_an_account_that_is_just_probed_comes_after_the_others_of_its_kind() -> None:
    one = grant(account("a"), account("b"), account("c", used_percent_primary=99.0))
    with _probe("a") as tracker:
        assert _order(one, state=_state({"b": 3}, tracker)) == ["b", "a", "c"]
    assert _order(one, state=_state({"b": 3}, tracker)) == ["a", "b", "c"]


def test_a_probed_account_is_offered_where_there_is_no_other() -> None:
    with _probe("a") as tracker:
        assert _order(grant(account("a")), state=_state(cooldowns=tracker)) == ["a"]


def test_a_session_does_not_wait_for_the_probe_of_its_own_account() -> None:
    one = grant(*[account(name) for name in "abc"])
    with _probe("a") as tracker:
        for session in _MANY_SESSIONS[:50]:
            found = _order(one, state=_state(cooldowns=tracker), session=session)
            home = _order(one, session=session)[0]
            assert found[-1] == "a"
            assert home in (found[0], "a")


def test_a_probed_model_keeps_the_account_s_other_models() -> None:
    one = grant(account("a", dialect="openai"), account("b", dialect="openai"))
    with _probe("a", Scope.MODEL) as tracker:
        state = _state(cooldowns=tracker)
        assert _order(one, state=state) == ["b", "a"]
        assert _order(one, _request(upstream_model="gpt-image-2.5-flare"), state) == ["a", "b"]
