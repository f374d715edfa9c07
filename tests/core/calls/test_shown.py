"""What a client reads of its call: where it is, and nothing of its content."""

import pytest

from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.core.calls.shown import ShownCall, deleted

IDENTITY = CallIdentity("call_1", "req_1", "key", "print", "name", "edits", 1000.7, True)


@pytest.mark.parametrize(
    ("state", "was_asked", "status"),
    [
        (CallState.RUNNING, False, "queued"),
        (CallState.RUNNING, True, "in_progress"),
        (CallState.MADE, True, "completed"),
        (CallState.FAULT, True, "failed"),
        (CallState.NOTHING, False, "failed"),
        (CallState.UNKNOWN, True, "unknown"),
    ],
)
def test_every_state_has_a_status(state: CallState, status: str, *, was_asked: bool) -> None:
    shown = ShownCall(IDENTITY, state, was_asked).fields(1003.0)
    expected = {
        "id": "call_1",
        "object": "image.call",
        "status": status,
        "created_at": 1000,
        "endpoint": "edits",
    }
    assert shown == expected | ({"age_seconds": 2} if state is CallState.RUNNING else {})


def test_a_call_that_waits_says_where() -> None:
    shown = ShownCall(IDENTITY, CallState.RUNNING, was_asked=False, queue_position=3)
    assert shown.fields(0.0)["queue_position"] == 3


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    assert ShownCall(IDENTITY, CallState.RUNNING, was_asked=True).fields(0.0)["age_seconds"] == 0


def test_what_was_forgotten_is_named() -> None:
    assert deleted("call_1") == {"id": "call_1", "object": "image.call.deleted", "deleted": True}
