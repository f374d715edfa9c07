"""What a key may do, and which refusal comes first when it may not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key
from image_gateway.core.routing import admission
from image_gateway.core.routing.lock_names import LockKind
from tests.core.builders import key

NOW = datetime(2026, 11, 29, tzinfo=UTC)

_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"status": "suspended"}, "key_disabled"),
    ({"expires_at": NOW}, "key_expired"),
    ({"group_image_enabled": False}, "group_image_generation_disabled"),
    ({"image_enabled": False}, "key_image_generation_disabled"),
    ({"quota_remaining": 0}, "insufficient_quota"),
]


def _code(one: Key) -> str | None:
    return _code_at(one, NOW)


def _code_at(one: Key, moment: datetime) -> str | None:
    try:
        admission.check_switches(one, moment)
        admission.check_quota(one)
    except Refusal as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize(("change", "code"), _FAULTS)
def test_each_switch_alone_refuses_with_its_own_code(change: dict[str, Any], code: str) -> None:
    assert _code(key(**change)) == code


@given(st.sets(st.integers(0, len(_FAULTS) - 1)))
def test_the_first_fault_in_the_promised_order_is_the_answer(faults: set[int]) -> None:
    changes: dict[str, Any] = {}
    for fault in faults:
        changes |= _FAULTS[fault][0]
    assert _code(key(**changes)) == (_FAULTS[min(faults)][1] if faults else None)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("active", None),
        ("other_provider", "key_disabled"),
        ("", "key_disabled"),
        ("Active", "key_disabled"),
    ],
)
def test_only_an_active_key_may_do_anything(status: str, code: str | None) -> None:
    assert _code(key(status=status)) == code


@pytest.mark.parametrize(
    ("quota", "code"),
    [(None, None), (1, None), (0, "insufficient_quota"), (-5, "insufficient_quota")],
)
def test_a_quota_of_zero_or_less_refuses_and_none_is_unlimited(
    quota: int | None, code: str | None
) -> None:
    assert _code(key(quota_remaining=quota)) == code


@pytest.mark.parametrize(
    "change",
    [
        {"images_remaining": 0},
        {"images_remaining": -1},
        {"cost_remaining": 0.0},
        {"cost_remaining": -0.01},
        {"quota_allows": False},
    ],
)
def test_each_quota_alone_refuses(change: dict[str, Any]) -> None:
    assert _code(key(**change)) == "insufficient_quota"


def test_a_key_is_good_until_the_second_in_which_it_expires() -> None:
    one = key(expires_at=NOW)
    assert _code_at(one, NOW - timedelta(seconds=1)) is None
    assert _code_at(one, NOW) == "key_expired"


def test_a_key_that_has_expired_may_not_even_ask_what_costs_nothing() -> None:
    one = key(expires_at=NOW, image_enabled=False)
    admission.check_active(one, NOW - timedelta(seconds=1))
    with pytest.raises(Refusal) as refused:
        admission.check_active(one, NOW)
    assert refused.value.code == "key_expired"


@given(st.integers(-3, 10), st.integers(1, 10))
def test_a_call_may_not_ask_for_more_pictures_than_are_left(left: int, asked: int) -> None:
    one = key(images_remaining=left)
    if asked <= left:
        admission.check_count(one, asked)
        return
    with pytest.raises(Refusal) as refused:
        admission.check_count(one, asked)
    assert (refused.value.code, refused.value.param) == ("insufficient_quota", "n")
    assert f"{asked} pictures" in refused.value.message
    assert f"has {max(left, 0)} left" in refused.value.message


def test_without_a_quota_of_pictures_a_call_may_ask_for_any_number() -> None:
    admission.check_count(key(), 10)


@pytest.mark.parametrize(
    ("limit", "calls"),
    [(1, "1 call in flight"), (4, "4 calls in flight")],
)
def test_a_limit_that_is_reached_is_told_with_its_number_and_no_name(
    limit: int, calls: str
) -> None:
    """Whose the keys are is the operator's business."""
    one = key(max_concurrency=limit, owner_id="somebody", owner_max_concurrency=limit)
    of_key = admission.too_many(one)
    of_owner = admission.too_many(one, LockKind.OWNER)
    assert (of_key.code, of_owner.code) == ("key_concurrency", "owner_concurrency")
    start, end = f"Concurrency limit reached: {calls} for", "Wait for one to end."
    assert of_key.message == f"{start} this key. {end}"
    assert of_owner.message == f"{start} all keys of this owner. {end}"
    assert of_key.headers() == of_owner.headers() == {"retry-after": "1", "retry-after-ms": "1000"}
