"""What a request that wants the id of its call finds, and what it does not."""

import pytest

from image_gateway.core.calls.finding import (
    Asking,
    CallView,
    Decision,
    Join,
    RefuseRepeated,
    Replay,
    Start,
    TakeOver,
    find,
)
from image_gateway.core.calls.model import CallIdentity, CallState

NOW = 1000.0


def view(call_id: str = "call_1", *, has_id: bool = True, **facts: object) -> CallView:
    """A call that ended a second ago and is kept, unless ``facts`` say otherwise."""
    at = {"state": CallState.MADE, "ended_at": NOW - 1, "is_kept": True, **facts}
    identity = CallIdentity(call_id, "req", "key", "same", None, "generations", NOW - 9, has_id)
    return CallView(identity, **at)  # type: ignore[arg-type]


def asked(*calls: CallView, is_sure_retry: bool = False, wants_id: bool = True) -> Decision:
    asking = Asking("key", "same", None, is_sure_retry, wants_id)
    return find(asking, calls, NOW, 90)


@pytest.mark.parametrize("is_sure_retry", [False, True], ids=["any", "sure-retry"])
@pytest.mark.parametrize("wants_id", [False, True], ids=["plain", "submission"])
@pytest.mark.parametrize("state", list(CallState))
def test_submissions_and_other_calls_are_apart(
    state: CallState, *, wants_id: bool, is_sure_retry: bool
) -> None:
    other = view(has_id=not wants_id, state=state, was_left=True)
    assert isinstance(asked(other, is_sure_retry=is_sure_retry, wants_id=wants_id), Start)


@pytest.mark.parametrize("state", list(CallState))
def test_once_its_client_has_the_id_an_equal_submission_is_a_new_call(state: CallState) -> None:
    assert asked(view(state=state, gave_id=True)) == Start("new")


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (CallState.RUNNING, Join("retry", "call_1")),
        (CallState.MADE, Replay("retry", "call_1")),
        (CallState.FAULT, Replay("retry", "call_1")),
        (CallState.UNKNOWN, Replay("retry", "call_1")),
        (CallState.NOTHING, Start("new")),
    ],
)
def test_a_sure_retry_gets_the_id_again_so_that_nothing_is_bought_twice(
    state: CallState, wanted: Decision
) -> None:
    assert asked(view(state=state, gave_id=True), is_sure_retry=True) == wanted


def test_a_sure_retry_gets_the_id_that_was_certainly_lost_before_its_equals() -> None:
    lost = view("call_1", was_left=True)
    newer = view("call_2", gave_id=True)
    assert asked(lost, newer, is_sure_retry=True) == Replay("retry", "call_1")


def test_an_id_that_was_certainly_lost_is_given_to_the_next() -> None:
    assert asked(view(was_left=True)) == TakeOver("abandoned", "call_1")


def test_a_refused_submission_has_its_retry() -> None:
    refused = view(state=CallState.NOTHING, is_kept=False)
    assert asked(refused, is_sure_retry=True) == Start("nothing_made", "call_1")


def test_a_submission_that_was_answered_at_once_warns_like_a_plain_call() -> None:
    """Its client waited and never had the id, so its own retries may come."""
    assert isinstance(asked(view(state=CallState.UNKNOWN)), RefuseRepeated)
