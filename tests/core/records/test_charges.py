"""What a record charges, whatever a file may hold."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from image_gateway.core.records import charges
from image_gateway.core.records.charges import LONGEST_TEXT, Charge, Uncharged
from image_gateway.core.records.prices import MOST_USD
from image_gateway.core.records.usage import MOST_TOKENS
from tests.parts.charged import odd_records, record

MOMENT = datetime(2026, 11, 21, 20, tzinfo=UTC)
SOUND = Charge("req_1", "key-1", 12, 2, MOMENT, "gpt-image-2", "one", 5, 0, 7)


def test_a_call_charges_the_tokens_of_its_usage() -> None:
    assert charges.of(record()) == SOUND


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 0}, 0),
        ({"total_tokens": 0, "input_tokens": 0, "output_tokens": 0}, 0),
        ({"total_tokens": 0, "input_tokens": 5, "output_tokens": 7}, 12),
        ({"input_tokens": 0, "output_tokens": 0}, 0),
        ({"total_tokens": 20, "input_tokens": 1, "output_tokens": 2}, 20),
        ({"input_tokens": 5, "output_tokens": 7}, 12),
        ({"total_tokens": MOST_TOKENS}, MOST_TOKENS),
        ({"total_tokens": MOST_TOKENS + 1, "input_tokens": 5, "output_tokens": 7}, 12),
    ],
)
def test_the_unit_is_the_token_and_where_only_parts_are_told_their_sum(
    usage: dict[str, int], tokens: int
) -> None:
    found = charges.of(record(usage=usage))
    assert isinstance(found, Charge)
    assert found.tokens == tokens


@pytest.mark.parametrize(
    ("usage", "usage_text", "tokens"),
    [
        ({"total_tokens": 12}, {"total_tokens": 990}, 1002),
        ({"total_tokens": 12}, {"input_tokens": 900, "output_tokens": 90}, 1002),
        ({"total_tokens": 0}, {"total_tokens": 990}, 990),
        (None, {"total_tokens": 990}, 990),
        ({"total_tokens": 12}, {"output_tokens": 90}, 12),
        ({"total_tokens": 12}, "990", 12),
    ],
)
def test_the_main_model_s_tokens_are_charged_as_well(
    usage: Any, usage_text: Any, tokens: int
) -> None:
    found = charges.of(record(usage=usage, usage_text=usage_text))
    assert isinstance(found, Charge)
    assert found.tokens == tokens


def charge_of(**fields: Any) -> Charge:
    found = charges.of(record(**fields))
    assert isinstance(found, Charge)
    return found


@pytest.mark.parametrize(
    ("usage", "usage_text", "parts"),
    [
        ({"total_tokens": 12}, None, (0, 0, 0)),
        ({"input_tokens": 5, "output_tokens": 7}, None, (5, 0, 7)),
        (
            {"input_tokens": 5, "cached_tokens": 3, "output_tokens": 7},
            {
                "input_tokens": 900,
                "input_tokens_details": {"cached_tokens": 800},
                "output_tokens": 90,
            },
            (905, 803, 97),
        ),
        ({"total_tokens": 12}, {"input_tokens": 9, "output_tokens": "90"}, (9, 0, 0)),
        ({"total_tokens": 12, "input_tokens": 5, "cached_tokens": 6}, None, (5, 0, 0)),
    ],
)
def test_tokens_in_cached_and_out_are_those_of_the_pictures_and_of_the_main_model(
    usage: Any, usage_text: Any, parts: tuple[int, int, int]
) -> None:
    found = charge_of(usage=usage, usage_text=usage_text)
    assert (found.input, found.cached_input, found.output) == parts


@pytest.mark.parametrize(
    ("names", "model"),
    [
        ({"model": "draw", "upstream_model": "gpt-image-2"}, "gpt-image-2"),
        ({"model": "draw"}, "draw"),
        ({"model": "draw", "upstream_model": ""}, "draw"),
        ({"model": "a\0b", "upstream_model": 5}, None),
        ({"model": None}, None),
    ],
)
def test_the_model_is_the_one_that_the_upstream_was_asked_for(
    names: dict[str, Any], model: str | None
) -> None:
    assert charge_of(**names).model == model


@pytest.mark.parametrize("name", [None, 5, "", "a\0b", "x" * (LONGEST_TEXT + 1)])
def test_a_call_without_an_account_that_decided_is_charged_all_the_same(name: Any) -> None:
    found = charge_of(account_name=name)
    assert (found.account_name, found.tokens) == (None, 12)


@pytest.mark.parametrize(
    ("cost_usd", "cost"),
    [
        (0.1, Decimal("0.1")),
        (0, Decimal(0)),
        (-0.0, Decimal(0)),
        (None, None),
        (-0.1, None),
        (True, None),
        ("0.1", None),
        (MOST_USD + 1, None),
    ],
)
def test_the_cost_is_exact_or_not_known(cost_usd: Any, cost: Decimal | None) -> None:
    found = charge_of(cost_usd=cost_usd).cost
    assert found == cost
    assert "-" not in str(found)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": 5},
        {"input_tokens": 0},
        {"total_tokens": 0, "input_tokens": 5},
        {"total_tokens": True},
        {"total_tokens": -1},
        [12],
    ],
)
def test_pictures_without_a_known_usage_are_charged_without_tokens(usage: Any) -> None:
    found = charges.of(record(usage=usage))
    assert isinstance(found, Charge)
    assert (found.tokens, found.images) == (None, 2)
    left = record(usage=usage, response_image_count=None, may_be_billed=True)
    assert charges.of(left) is Uncharged.WITHOUT_USAGE
    failed = record(usage=usage, response_image_count=None)
    assert charges.of(failed) is Uncharged.NOTHING_MADE


@pytest.mark.parametrize("action", ["deliver", "end"])
def test_an_answer_that_came_is_paid_for_though_nothing_is_known_of_it(action: str) -> None:
    """A whole answer that could not be read, or one whose client left in the midst of it."""
    attempts = [{"action": "next"}, {"account_name": "one", "action": action}]
    unread = record(attempts=attempts, usage=None, response_image_count=None)
    assert charges.of(unread) is Uncharged.WITHOUT_USAGE


@pytest.mark.parametrize("action", ["next", "return", None, [], {}, "delivered"])
def test_an_attempt_that_made_nothing_is_not_paid_for(action: Any) -> None:
    failed = record(attempts=[{"action": action}, "odd"], usage=None, response_image_count=None)
    assert charges.of(failed) is Uncharged.NOTHING_MADE


def test_a_call_that_was_finished_without_its_client_is_charged() -> None:
    """Its usage is known, and its pictures are kept for a retry."""
    left = record(status=None, error_code="client_left", client_left=True, call_source="made")
    assert charges.of(left) == SOUND


@pytest.mark.parametrize("source", ["joined", "taken-over", "replayed"])
def test_a_request_that_found_a_call_is_not_charged(source: str) -> None:
    """Even if its record told the pictures and the usage of the call."""
    found = record(request_id="req_2", call_source=source, call_request_id="req_1", attempts=[])
    assert charges.of(found) is Uncharged.NOTHING_MADE


@pytest.mark.parametrize("attempts", [[], None, "one"])
def test_a_refused_call_is_never_charged(attempts: Any) -> None:
    assert charges.of(record(attempts=attempts)) is Uncharged.NOTHING_MADE


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": None},
        {"request_id": ""},
        {"request_id": "a\0b"},
        {"request_id": "x" * (LONGEST_TEXT + 1)},
        {"key_id": "x" * (LONGEST_TEXT + 1)},
        {"key_id": None},
        {"key_id": "\0"},
        {"time": None},
        {"time": "yesterday"},
        {"time": "2026-11-21T20:00:00"},
        {"time": "0001-01-01T00:00:00+14:00"},
        {"time": "9999-12-31T23:59:59-14:00"},
    ],
)
def test_a_record_that_cannot_be_told_from_others_charges_nothing(fields: dict[str, Any]) -> None:
    assert charges.of(record(**fields)) is Uncharged.UNREADABLE


def test_a_moment_is_told_in_utc_whatever_its_offset() -> None:
    found = charges.of(record(time="2026-11-21T00:00:00+23:59"))
    assert isinstance(found, Charge)
    assert found.called_at.isoformat() == "2026-11-20T00:01:00+00:00"


@given(odd_records())
def test_any_record_gives_a_charge_or_says_why_not(non_base64: dict[str, Any]) -> None:
    found = charges.of(non_base64)
    if isinstance(found, Charge):
        assert 0 <= (found.tokens or 0) <= 4 * MOST_TOKENS
        assert 0 <= found.images <= charges.MOST_IMAGES
        assert 0 <= found.cached_input <= found.input <= 2 * MOST_TOKENS
        assert 0 <= found.output <= 2 * MOST_TOKENS
        assert found.cost is None or 0 <= found.cost <= MOST_USD
        assert found.called_at.tzinfo is UTC
        for name in (found.request_id, found.key_id, found.model, found.account_name):
            assert name is None or (0 < len(name) <= LONGEST_TEXT and "\0" not in name)
