"""Cooldowns are short, grow, end, and stay where they belong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.health import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_SECONDS,
    Cooling,
    Health,
)
from image_gateway.core.model import Credential, Secret

_SECONDS = st.one_of(st.none(), st.floats(-10, 1e9))


def test_an_account_that_never_failed_need_not_be_left_alone() -> None:
    assert Health().seconds_left("a", "m", 100.0) == 0


def test_a_cooldown_runs_down_and_ends_by_itself() -> None:
    """Once it is over the next call is the probe: nothing else has to happen first."""
    health = Health()
    assert health.cool("a", "m", Cooling(60.0), 100.0) == 60
    assert health.seconds_left("a", "m", 100.0) == 60
    assert health.seconds_left("a", "m", 150.0) == 10
    assert health.seconds_left("a", "m", 160.0) == 0
    assert health.seconds_left("a", "m", 170.0) == 0


def test_a_cooldown_of_the_account_holds_for_every_model() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0)
    assert health.seconds_left("a", "other", 0.0) == 60
    assert health.seconds_left("b", "m", 0.0) == 0


def test_a_missing_model_costs_the_account_no_other_model() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0, model_only=True), 0.0)
    assert health.seconds_left("a", "m", 0.0) == 60
    assert health.seconds_left("a", "other", 0.0) == 0
    assert health.seconds_left("b", "m", 0.0) == 0


def test_the_longer_of_two_cooldowns_holds() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0)
    health.cool("a", "m", Cooling(90.0, model_only=True), 0.0)
    assert health.seconds_left("a", "m", 0.0) == 90
    assert health.seconds_left("a", "other", 0.0) == 60


def test_a_shorter_cooldown_does_not_shorten_a_longer_one() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0)
    health.cool("a", "m", Cooling(1.0), 0.0)
    assert health.seconds_left("a", "m", 0.0) == 60


@given(_SECONDS, st.integers(0, 20))
def test_no_cooldown_is_longer_than_15_minutes_or_shorter_than_nothing(
    seconds: float | None, failures: int
) -> None:
    """Whatever an upstream names: 12 hours for a 404 were seen elsewhere."""
    health = Health()
    for _ in range(failures):
        health.cool("a", "m", Cooling(None), 0.0)
    length = health.cool("a", "m", Cooling(seconds), 0.0)
    assert 0 <= length <= LONGEST_SECONDS == 900
    assert health.seconds_left("a", "m", 0.0) <= 900
    if seconds is not None:
        assert length == min(max(seconds, 0), 900)


def test_without_a_named_time_the_wait_doubles_with_each_failure_in_a_row() -> None:
    health = Health()
    lengths = [health.cool("a", "m", Cooling(None), 1000.0 * turn) for turn in range(11)]
    assert FIRST_BACKOFF_SECONDS == 5
    assert lengths == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]


def test_one_account_s_failures_do_not_lengthen_another_s_wait() -> None:
    health = Health()
    health.cool("a", "m", Cooling(None), 0.0)
    assert health.cool("b", "m", Cooling(None), 0.0) == 5
    assert health.cool("a", "m", Cooling(None, model_only=True), 0.0) == 5


def test_a_row_of_failures_is_remembered_once_its_cooldown_is_over() -> None:
    """The probe that fails begins a longer one, whatever other accounts did meanwhile."""
    health = Health()
    health.cool("a", "m", Cooling(None), 0.0)
    health.cool("b", "m", Cooling(None), 1000.0)
    assert health.cool("a", "m", Cooling(None), 2000.0) == 10


@pytest.mark.parametrize("model_only", [False, True])
def test_a_success_ends_the_cooldown_and_the_row_of_failures(*, model_only: bool) -> None:
    health = Health()
    for _ in range(3):
        health.cool("a", "m", Cooling(None, model_only), 0.0)
    health.succeed("a", "m", 0.0)
    assert health.seconds_left("a", "m", 0.0) == 0
    assert health.cool("a", "m", Cooling(None, model_only), 0.0) == 5
    assert repr(health) == "<Health of 1 places>"


def test_a_success_says_nothing_of_another_model_or_account() -> None:
    health = Health()
    health.cool("a", "gone", Cooling(60.0, model_only=True), 0.0)
    health.cool("b", "m", Cooling(60.0), 0.0)
    health.succeed("a", "m", 0.0)
    assert health.seconds_left("a", "gone", 0.0) == 60
    assert health.seconds_left("b", "m", 0.0) == 60


def test_a_success_says_nothing_of_what_was_learned_after_it_began() -> None:
    """A call of a minute that ends well must not undo the limit that another one met meanwhile."""
    health = Health()
    health.cool("a", "m", Cooling(600.0), 30.0)
    health.succeed("a", "m", 10.0)
    assert health.seconds_left("a", "m", 30.0) == 600
    health.succeed("a", "m", 31.0)
    assert health.seconds_left("a", "m", 31.0) == 0


def test_what_is_well_takes_no_memory() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0)
    health.cool("a", "m", Cooling(60.0, model_only=True), 0.0)
    assert repr(health) == "<Health of 2 places>"
    health.succeed("a", "m", 0.0)
    assert repr(health) == "<Health of 0 places>"


def test_two_cooldowns_that_are_over_leave_nothing() -> None:
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0)
    health.cool("a", "m", Cooling(30.0, model_only=True), 0.0)
    assert health.seconds_left("a", "m", 100.0) == 0


def test_a_cooldown_begins_with_the_clock() -> None:
    health = Health()
    health.cool("a", "m", Cooling(0.25), 0.0)
    assert health.seconds_left("a", "m", 0.0) == 0.25


def test_what_is_over_is_forgotten_before_the_places_grow_without_end() -> None:
    """Clients may name as many models as they like."""
    health = Health()
    for number in range(10_000):
        health.cool("a", f"model-{number}", Cooling(10.0, model_only=True), 0.0)
    health.cool("a", "still", Cooling(60.0, model_only=True), 5.0)
    assert repr(health) == "<Health of 10001 places>"
    health.cool("a", "one more", Cooling(None, model_only=True), 20.0)
    assert repr(health) == "<Health of 2 places>"
    assert health.seconds_left("a", "still", 20.0) == 45
    assert health.cool("a", "one more", Cooling(None, model_only=True), 20.0) == 10
    assert health.cool("a", "model-1", Cooling(None, model_only=True), 20.0) == 5


def test_thousands_of_failures_in_a_row_are_still_a_wait() -> None:
    health = Health()
    for _ in range(3000):
        length = health.cool("a", "m", Cooling(None), 0.0)
    assert length == 900


def test_a_cooldown_ends_with_the_credential_that_it_is_of() -> None:
    old, new = (Credential(Secret(token), "api_key") for token in ("old", "new"))
    health = Health()
    health.cool("a", "m", Cooling(60.0), 0.0, old)
    assert health.seconds_left("a", "m", 10.0, old) == 50.0
    assert health.seconds_left("a", "m", 10.0, new) == 0.0
    health.cool("a", "m", Cooling(60.0), 10.0, new)
    assert health.seconds_left("a", "m", 10.0, new) == 60.0
    health.cool("b", "m", Cooling(60.0), 0.0)
    assert health.seconds_left("b", "m", 0.0, new) == 60.0
