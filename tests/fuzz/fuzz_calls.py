"""Which call a request finds (``core.calls.finding``)."""

from dataclasses import replace

from image_gateway.core.calls import finding
from image_gateway.core.calls.finding import (
    Asking,
    CallView,
    Join,
    RefuseName,
    RefuseRepeated,
    Replay,
    Start,
    TakeOver,
)
from image_gateway.core.calls.model import CallIdentity, CallState
from tests.fuzz.values import Values

NOW = 1000.0
NAMES = (None, "n", "m")
PRINTS = ("f", "g", "")
MOMENTS = (NOW, NOW - 1, NOW - 89, NOW - 119, NOW - 121, NOW - 1e6, NOW + 5, 0.0)


def view(values: Values, number: int) -> CallView:
    """A call of six bytes."""
    who, flags, more = values.byte(), values.byte(), values.byte()
    state = values.one_of(tuple(CallState))
    identity = CallIdentity(
        call_id=f"call-{number}",
        request_id="req",
        key_tag="kl"[who & 1],
        fingerprint=PRINTS[(who >> 1) % 3],
        name=NAMES[(who >> 3) % 3],
        endpoint="edits",
        created_at=values.one_of(MOMENTS),
        has_id=bool(who & 64),
    )
    return CallView(
        identity,
        state,
        ended_at=None if state is CallState.RUNNING else values.one_of((*MOMENTS, None)),
        is_kept=bool(flags & 1),
        clients=(flags >> 1) % 3,
        was_left=bool(flags & 8),
        was_delivered=bool(flags & 16),
        is_claimed=bool(flags & 32),
        told_repeated=bool(flags & 64),
        used_up=bool(flags & 128),
        gave_id=bool(more & 1),
    )


def check(data: bytes) -> None:
    """Every request is decided, by its own calls alone, in whatever order they are; and each
    decision can be carried out once.
    """
    values = Values(data)
    who = values.byte()
    asking = Asking(
        key_tag="kl"[who & 1],
        fingerprint=PRINTS[(who >> 1) % 2],
        name=NAMES[(who >> 2) % 3],
        is_sure_retry=bool(who & 16),
        wants_id=bool(who & 32),
    )
    guard = values.one_of((90.0, 0.0, 1e9))
    calls: list[CallView] = []
    while not values.is_empty and len(calls) < 12:
        calls.append(view(values, len(calls)))
    decision = finding.find(asking, calls, NOW, guard)
    assert finding.find(asking, reversed(calls), NOW, guard) == decision
    own = [call for call in calls if call.identity.key_tag == asking.key_tag]
    assert finding.find(asking, own, NOW, guard) == decision
    row = next(row for row in finding.TABLE if row.name == decision.row)
    assert row.asks(asking)
    call_id = decision.uses_up if isinstance(decision, Start) else decision.call_id
    if call_id is not None:
        check_decision(asking, decision, next(c for c in own if c.identity.call_id == call_id))
        check_progress(asking, decision, calls, guard)


def check_decision(asking: Asking, decision: finding.Decision, call: CallView) -> None:
    """A request gets only what it may."""
    identity = call.identity
    assert identity.name == asking.name
    assert identity.fingerprint
    assert (identity.fingerprint != asking.fingerprint) == isinstance(decision, RefuseName)
    if asking.name is None:
        assert identity.has_id == asking.wants_id
    match decision:
        case Start():
            assert call.state is CallState.NOTHING
            assert not call.used_up
        case Join():
            assert call.is_running
        case Replay():
            assert call.has_answer
        case TakeOver():
            assert call.is_lost
            assert call.state is not CallState.UNKNOWN
        case RefuseRepeated():
            assert call.state is CallState.UNKNOWN
            assert not call.told_repeated
        case RefuseName():
            assert asking.name is not None


def check_progress(
    asking: Asking, decision: finding.Decision, calls: list[CallView], guard: float
) -> None:
    """Once the caller has done what was decided, an equal request does not get the same again, if
    only one may have it.
    """
    match decision:
        case Start(uses_up=str(call_id)):
            changes: dict[str, bool] = {"used_up": True}
        case TakeOver(call_id=call_id):
            changes = {"is_claimed": True}
        case RefuseRepeated(call_id=call_id):
            changes = {"told_repeated": True}
        case _:
            return
    after = [
        replace(call, **changes) if call.identity.call_id == call_id else call  # type: ignore[arg-type]  # only flags
        for call in calls
    ]
    assert finding.find(asking, after, NOW, guard) != decision
