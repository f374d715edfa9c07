"""Warnings about models that are shut down, by the day on which they are asked for."""

from datetime import date

import pytest

from image_gateway.core.model import Account
from image_gateway.core.routing import retirement
from image_gateway.core.routing.retirement import NamedByKeys
from tests.core.builders import CATALOGUE, account


def _said(
    *accounts: Account,
    named: tuple[NamedByKeys, ...] = (),
    default: str = "gpt-image-2",
    today: date = date(2026, 11, 29),
) -> list[str]:
    return list(retirement.warnings(accounts, named, default, CATALOGUE, today))


@pytest.mark.parametrize(
    ("today", "words"),
    [
        (date(2026, 11, 30), "which will be shut down on 2026-12-01"),
        (date(2026, 12, 1), "which was shut down on 2026-12-01"),
        (date(2027, 5, 5), "which was shut down on 2026-12-01"),
    ],
)
def test_a_warning_says_whether_the_day_has_come(today: date, words: str) -> None:
    [said] = _said(default="chatgpt-image-latest", today=today)
    assert said == f"DEFAULT_MODEL is chatgpt-image-latest, {words}"


@pytest.mark.parametrize(
    ("deployments", "model"),
    [
        (None, None),
        ({"gpt-image-2": "gpt-image-2"}, None),
        ({"gpt-image-1": "mine"}, "gpt-image-1"),
        ({"house": "gpt-image-1.5"}, "gpt-image-1.5"),
        ({"gpt-image-2": "OpenAI/GPT-Image-1-Mini"}, "OpenAI/GPT-Image-1-Mini"),
        # An operator moved it to a model that stays.
        ({"gpt-image-1": "gpt-image-2"}, None),
    ],
)
def test_an_account_is_named_that_draws_with_such_a_model(
    deployments: dict[str, str] | None, model: str | None
) -> None:
    said = _said(account("east", deployments=deployments))
    assert [line.partition(",")[0] for line in said] == (
        [] if model is None else [f"account east: deployments name {model}"]
    )


def test_keys_are_counted_and_one_is_named() -> None:
    named = tuple(NamedByKeys("gpt-image-1.5", count, "one") for count in (1, 2, 9))
    assert [line.partition(",")[0] for line in _said(named=named)] == [
        "key one names gpt-image-1.5",
        "key one and 1 other key name gpt-image-1.5",
        "key one and 8 other keys name gpt-image-1.5",
    ]
    # A pattern of SQL finds more than the model.
    assert _said(named=(NamedByKeys("gpt-image-1.5-turbo", 1, "one"),)) == []
