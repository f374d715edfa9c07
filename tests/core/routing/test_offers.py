"""Which models a key may ask for, and what a client learns that asks for another one."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing import offers
from tests.core.builders import CATALOGUE, account, grant, key

TODAY = date(2026, 11, 29)


@pytest.mark.parametrize(
    ("allowed", "mapped", "expected"),
    [
        (None, {}, True),
        (None, {"public": "inner"}, True),
        ({"public"}, {}, True),
        ({"other"}, {}, False),
        (set(), {}, False),
        ({"public", "inner"}, {"public": "inner"}, True),
        ({"public"}, {"public": "inner"}, False),
        ({"inner"}, {"public": "inner"}, False),
        ({"public"}, {"other": "inner"}, True),
        ({"public"}, {"public": "public"}, True),
    ],
)
def test_the_name_asked_for_and_the_name_it_maps_to_must_both_be_allowed(
    allowed: set[str] | None, mapped: dict[str, str], *, expected: bool
) -> None:
    frozen = None if allowed is None else frozenset(allowed)
    names = ModelNames(key(allowed_models=frozen, model_map=mapped))
    assert offers.allows(names, "public") is expected


SPELLINGS = ("openai/gpt-image-2", "GPT-Image-2", " gpt-image-2", "Azure/openai/ GPT-IMAGE-2 ")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("own", "allowed"),
    [
        # What the operator wrote, and whether another spelling of gpt-image-2 is allowed by it.
        ({}, True),
        ({"allowed_models": frozenset({"gpt-image-2"})}, True),
        ({"allowed_models": frozenset({"gpt-image-1"})}, False),
        ({"model_map": {"gpt-image-2": "x"}, "allowed_models": frozenset({"gpt-image-2"})}, False),
        (
            {"model_map": {"gpt-image-2": "x"}, "allowed_models": frozenset({"gpt-image-2", "x"})},
            True,
        ),
    ],
)
def test_another_spelling_is_allowed_as_the_plain_one_is(
    own: dict[str, Any], spelling: str, *, allowed: bool
) -> None:
    names = ModelNames(key(**own))
    assert offers.allows(names, spelling) is offers.allows(names, "gpt-image-2") is allowed


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_that_an_account_deploys_is_a_model_of_its_own(spelling: str) -> None:
    """Permission for the plain model is none for that deployment."""
    names = ModelNames(key(allowed_models=frozenset({"gpt-image-2"})), frozenset({spelling}))
    assert not offers.allows(names, spelling)
    assert offers.allows(names, "gpt-image-2")


# -- what is offered -------------------------------------------------------------------------


CURRENT = (
    "gpt-image-2.6-sunburst",
    "gpt-image-2.6-flare",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-flare",
    "gpt-image-2",
    "chatgpt-image-latest",
    "gpt-image-1.5",
    "gpt-image-1-mini",
)


@pytest.mark.parametrize(
    ("accounts", "own", "expected"),
    [
        ([], {}, ()),
        ([account()], {}, ("gpt-image-2",)),
        ([account(dialect="openai")], {}, CURRENT),
        ([account(dialect="azure")], {}, CURRENT),
        ([account(dialect="openai", status="off")], {}, ()),
        ([account(dialect="openai", image_enabled=False)], {}, ()),
        ([account(deployments={"b": "x", "a": "y"})], {}, ("b", "a")),
        ([account(deployments={"gpt-image-1": "old"})], {}, ("gpt-image-1",)),
        ([account("a", deployments={"a": "x"}), account("b")], {}, ("a", "gpt-image-2")),
        (
            [account("a", deployments={"a": "x"}), account("b")],
            {"account_names": ("b",)},
            CURRENT[4:5],
        ),
        (
            [account(dialect="openai")],
            {"allowed_models": frozenset({"gpt-image-9", "gpt-image-2", "gpt-5"})},
            ("gpt-image-2", "gpt-image-9"),
        ),
        (
            [account()],
            {"model_map": {"painter": "gpt-image-2", "writer": "gpt-5"}},
            ("painter", "gpt-image-2"),
        ),
        (
            [account()],
            {
                "model_map": {"painter": "gpt-image-2"},
                "allowed_models": frozenset({"painter", "gpt-image-2"}),
            },
            ("painter", "gpt-image-2"),
        ),
        (
            [account()],
            {"model_map": {"painter": "gpt-image-2"}, "allowed_models": frozenset({"painter"})},
            (),
        ),
    ],
)
def test_a_key_is_offered_what_it_may_ask_for_and_an_account_serves(
    accounts: list[Account], own: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert offers.offered(grant(*accounts, **own), CATALOGUE, TODAY) == expected


@pytest.mark.parametrize(
    ("today", "offered"),
    [(date(2026, 11, 30), True), (date(2026, 12, 1), False), (date(2027, 1, 1), False)],
)
def test_a_model_is_offered_until_the_day_of_its_shutdown(today: date, *, offered: bool) -> None:
    found = offers.offered(grant(account(dialect="openai")), CATALOGUE, today)
    assert ("gpt-image-1.5" in found) is offered


_NAMES = st.sampled_from(["gpt-image-2", "GPT-Image-2", "gpt-image-2.5-flare", "own", "other"])
_KEYS = st.fixed_dictionaries(
    {},
    optional={
        "model_map": st.dictionaries(_NAMES, _NAMES, max_size=3),
        "allowed_models": st.frozensets(_NAMES, max_size=4),
    },
)
_ACCOUNTS = st.lists(
    st.builds(
        account,
        name=st.sampled_from(["a", "b", "c"]),
        dialect=st.sampled_from(["codex", "azure", "openai"]),
        status=st.sampled_from(["active", "off"]),
        deployments=st.none() | st.dictionaries(_NAMES, _NAMES, max_size=3),
    ),
    max_size=3,
)


@given(_ACCOUNTS, _KEYS, _NAMES)
def test_what_is_offered_can_be_asked_for_and_every_known_name_that_can_is_offered(
    accounts: list[Account], own: Mapping[str, Any], name: str
) -> None:
    one = grant(*accounts, **own)
    found = offers.offered(one, CATALOGUE, TODAY)
    assert len(set(found)) == len(found)
    assert all(offers.is_offered(one, each, CATALOGUE) for each in found)
    known = {*one.key.model_map, *(one.key.allowed_models or ()), *CATALOGUE.models}
    for each in one.accounts.values():
        known.update(each.deployments or ())
    shut = CATALOGUE.shutdown(name)
    if name in known and offers.is_offered(one, name, CATALOGUE) and shut is None:
        # Another spelling of an offered model is that model.
        assert name in found or ModelNames.of(one).requested(name) in found


# -- what a client learns --------------------------------------------------------------------


def _not_allowed(model: str, names: Sequence[str]) -> Refusal:
    return offers.not_allowed(model, names, key())


@pytest.mark.parametrize("refuse", [offers.not_found, _not_allowed])
@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        ("gpt-9", ("a", "b"), ["`gpt-9`", "may ask for `a`, `b`."]),
        (" gpt-9 ", (), ["`gpt-9`", "may ask for no model"]),
        ("openai/gpt-9", [f"m{at}" for at in range(10)], ["`openai/gpt-9`", "`m9`."]),
        ("x", [f"m{at}" for at in range(12)], ["`m9` and 2 more."]),
    ],
)
def test_a_refusal_names_the_model_and_at_most_ten_others(
    refuse: Any, model: str, names: list[str], words: list[str]
) -> None:
    refusal = refuse(model, names)
    assert refusal.param == "model"
    assert all(word in refusal.message for word in words)
    assert "`m10`" not in refusal.message


@pytest.mark.parametrize("model", ["a cat in the rain", "x" * 65, "<b>", "a\nb", "", "`x`"])
def test_what_is_no_name_is_not_repeated(model: str) -> None:
    for refusal in (offers.not_found(model, [model]), _not_allowed(model, [model])):
        assert not model or model not in refusal.message
        assert "the model of that name" in refusal.message


def test_a_key_whose_models_no_account_serves_is_told_which_were_meant_for_it() -> None:
    allowed = frozenset(f"m{at:02}" for at in range(12))
    refusal = offers.not_allowed("x", [], key(allowed_models=allowed))
    assert refusal.message.startswith("This key may not use `x`. It may use `m00`, `m01`, ")
    assert refusal.message.endswith(", `m09` and 2 more.")
    nothing = offers.not_allowed("x", [], key(allowed_models=frozenset()))
    assert "may ask for no model" in nothing.message
