"""What a key may do, and which refusal comes first when it may not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key
from image_gateway.core.routing import admission
from tests.core.builders import key

_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"status": "suspended"}, "key_disabled"),
    ({"group_image_enabled": False}, "group_image_generation_disabled"),
    ({"image_enabled": False}, "key_image_generation_disabled"),
    ({"quota_remaining": 0}, "insufficient_quota"),
]


def _code(one: Key) -> str | None:
    try:
        admission.check_switches(one)
        admission.check_quota(one)
    except Refusal as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize(("change", "code"), _FAULTS)
def test_each_switch_alone_refuses_with_its_own_code(change: dict[str, Any], code: str) -> None:
    assert _code(key(**change)) == code


@given(st.sets(st.integers(0, 3)))
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
