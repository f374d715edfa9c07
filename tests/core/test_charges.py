"""What a record charges, whatever a file may hold."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import charges
from image_gateway.core.charges import MOST_TOKENS, Charge, Uncharged


def record(**fields: Any) -> dict[str, Any]:
    """A call that made a picture."""
    return {
        "time": "2026-11-21T20:00:00.000Z",
        "request_id": "req_1",
        "key_id": "key-1",
        "attempts": [{"account_name": "one"}],
        "response_image_count": 2,
        "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        "may_be_billed": False,
        **fields,
    }


def test_a_call_charges_the_tokens_of_its_usage() -> None:
    moment = datetime(2026, 11, 21, 20, tzinfo=UTC)
    assert charges.of(record()) == Charge("req_1", "key-1", 12, 2, moment)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 0}, 0),
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
    "usage", [None, {}, {"input_tokens": 5}, {"total_tokens": True}, {"total_tokens": -1}, [12]]
)
def test_pictures_without_a_known_usage_charge_nothing_and_are_told_apart(usage: Any) -> None:
    assert charges.of(record(usage=usage)) is Uncharged.WITHOUT_USAGE
    left = record(usage=usage, response_image_count=None, may_be_billed=True)
    assert charges.of(left) is Uncharged.WITHOUT_USAGE
    failed = record(usage=usage, response_image_count=None)
    assert charges.of(failed) is Uncharged.NOTHING_MADE


@pytest.mark.parametrize("attempts", [[], None, "one"])
def test_a_refused_call_is_never_charged(attempts: Any) -> None:
    assert charges.of(record(attempts=attempts)) is Uncharged.NOTHING_MADE


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": None},
        {"request_id": ""},
        {"request_id": "a\0b"},
        {"key_id": None},
        {"key_id": "\0"},
        {"time": None},
        {"time": "yesterday"},
        {"time": "2026-11-21T20:00:00"},
    ],
)
def test_a_record_that_cannot_be_told_from_others_charges_nothing(fields: dict[str, Any]) -> None:
    assert charges.of(record(**fields)) is Uncharged.UNREADABLE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {}, optional={name: JSON | st.just(value) for name, value in record().items()}
    )
)
def test_any_record_gives_a_charge_that_a_database_can_hold_or_says_why_not(
    odd: dict[str, Any],
) -> None:
    found = charges.of(odd)
    if isinstance(found, Charge):
        assert 0 <= found.tokens <= 2 * MOST_TOKENS
        assert 0 <= found.images <= charges.MOST_IMAGES
        assert found.called_at.tzinfo is not None
        assert "\0" not in found.request_id + found.key_id
