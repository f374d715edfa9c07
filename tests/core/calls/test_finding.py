"""The table of finding: each row with what fits it, and the neighbours that must not."""

import itertools
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls import finding
from image_gateway.core.calls.finding import (
    TABLE,
    Asking,
    CallView,
    Decision,
    Join,
    RefuseName,
    RefuseRepeated,
    Replay,
    Start,
    TakeOver,
)
from image_gateway.core.calls.model import CallIdentity, CallState
from tests.core.calls.views import GUARD, NOW, asking, view

RUNNING, MADE, FAULT, UNKNOWN, NOTHING = CallState
LEFT: Final[dict[str, Any]] = {"was_left": True}


def _find(request: Asking, *calls: CallView, guard: float = GUARD) -> Decision:
    return finding.find(request, calls, NOW, guard)


# Each row: a request, the calls that it meets, what follows.
_FITS: Final[dict[str, list[tuple[Asking, list[CallView], Decision]]]] = {
    "name_reused": [
        (asking("n"), [view(state, name="n", fingerprint="other")], RefuseName("", "call-1"))
        for state in CallState
    ],
    "name_running": [
        (asking("n"), [view(RUNNING, name="n")], Join("", "call-1")),
        (asking("n", sure=True), [view(RUNNING, name="n", clients=1)], Join("", "call-1")),
        (asking("n"), [view(RUNNING, name="n", has_id=True)], Join("", "call-1")),
        (asking("n"), [view(RUNNING, name="n", is_claimed=True)], Join("", "call-1")),
    ],
    "name_answered": [
        (asking("n"), [view(state, name="n", **changes)], Replay("", "call-1"))
        for state in (MADE, FAULT, UNKNOWN)
        for changes in (
            {},
            LEFT,
            {"was_delivered": True},
            {"told_repeated": True},
            {"clients": 1},
            {"has_id": True},
        )
    ],
    "name_unknown": [
        (
            asking("n"),
            [view(UNKNOWN, name="n", is_kept=False)],
            RefuseRepeated("", "call-1", NOW - 60),
        ),
    ],
    "name_new": [
        (asking("n"), [], Start("")),
        (asking("n"), [view(NOTHING, name="n")], Start("")),
        (asking("n"), [view(MADE, name="n", is_kept=False)], Start("")),
        (asking("n"), [view(FAULT, name="n", is_kept=False)], Start("")),
        (asking("n"), [view(UNKNOWN, name="n", is_kept=False, told_repeated=True)], Start("")),
        (asking("n"), [view(UNKNOWN, name="n", is_kept=False, ended_at=NOW - GUARD)], Start("")),
        (asking("n"), [view(RUNNING, name="m", fingerprint="other")], Start("")),
        *((asking("n", sure=True), [view(state, **LEFT)], Start("")) for state in CallState),
    ],
    "nothing_made": [
        (asking(sure=True), [view(NOTHING)], Start("", "call-1")),
        (asking(sure=True), [view(NOTHING, is_kept=False)], Start("", "call-1")),
        (asking(sure=True), [view(NOTHING, ended_at=NOW - 119.9)], Start("", "call-1")),
        (asking(sure=True), [view(NOTHING), view(RUNNING, "call-2")], Start("", "call-1")),
        (asking(sure=True), [view(NOTHING), view(UNKNOWN, "call-2", **LEFT)], Start("", "call-1")),
    ],
    "retry": [
        (asking(sure=True), [view(RUNNING, clients=1)], Join("", "call-1")),
        (asking(sure=True), [view(RUNNING, **LEFT)], Join("", "call-1")),
        (asking(sure=True), [view(RUNNING, is_claimed=True)], Join("", "call-1")),
        (asking(sure=True), [view(NOTHING), view(RUNNING, "b", **LEFT)], Join("", "b")),
        (asking(sure=True), [view(NOTHING), view(MADE, "b", **LEFT)], Replay("", "b")),
        *(
            (asking(sure=True), [view(state, **changes)], Replay("", "call-1"))
            for state in (MADE, FAULT, UNKNOWN)
            for changes in (
                {},
                LEFT,
                {"was_delivered": True},
                {"is_claimed": True, **LEFT},
                {"clients": 1},
                {"told_repeated": True},
                {"ended_at": NOW - 3000},
            )
        ),
        (asking(sure=True), [view(NOTHING, used_up=True), view(MADE, "b")], Replay("", "b")),
        (asking(sure=True), [view(NOTHING, ended_at=NOW - 120), view(MADE, "b")], Replay("", "b")),
    ],
    "abandoned": [
        (asking(), [view(RUNNING, **LEFT)], TakeOver("", "call-1")),
        (asking(), [view(MADE, **LEFT)], TakeOver("", "call-1")),
        (asking(), [view(FAULT, **LEFT)], TakeOver("", "call-1")),
        (asking(), [view(MADE, ended_at=NOW - 3000, **LEFT)], TakeOver("", "call-1")),
        (asking(), [view(UNKNOWN), view(MADE, "call-2", **LEFT)], TakeOver("", "call-2")),
    ],
    "repeated": [
        *(
            (asking(), [view(UNKNOWN, **changes)], RefuseRepeated("", "call-1", NOW - 60))
            for changes in (
                {},
                LEFT,
                {"was_delivered": True},
                {"is_kept": False},
                {"ended_at": NOW - GUARD + 0.1},
                # Who keeps a connection asks again before it is seen to have the answer.
                {"clients": 1},
            )
        ),
        (
            asking(sure=True),
            [view(UNKNOWN, is_kept=False)],
            RefuseRepeated("", "call-1", NOW - 60),
        ),
    ],
    "new": [
        (asking(), [], Start("")),
        (asking(sure=True), [], Start("")),
        (asking(), [view(NOTHING)], Start("")),
        (asking(sure=True), [view(NOTHING, used_up=True)], Start("")),
        (asking(sure=True), [view(NOTHING, ended_at=NOW - 120)], Start("")),
        (asking(sure=True), [view(MADE, is_kept=False, **LEFT)], Start("")),
        (asking(), [view(RUNNING, clients=1)], Start("")),
        (asking(), [view(RUNNING)], Start("")),
        (asking(), [view(RUNNING, clients=1, **LEFT)], Start("")),
        (asking(), [view(RUNNING, is_claimed=True, **LEFT)], Start("")),
        (asking(), [view(MADE)], Start("")),
        (asking(), [view(MADE, was_delivered=True)], Start("")),
        (asking(), [view(MADE, was_delivered=True, **LEFT)], Start("")),
        (asking(), [view(MADE, is_claimed=True, **LEFT)], Start("")),
        (asking(), [view(MADE, clients=1, **LEFT)], Start("")),
        (asking(), [view(MADE, is_kept=False, **LEFT)], Start("")),
        (asking(), [view(UNKNOWN, told_repeated=True, **LEFT)], Start("")),
        (asking(), [view(UNKNOWN, ended_at=NOW - GUARD, **LEFT)], Start("")),
    ],
}


def _cases() -> list[Any]:
    return [
        pytest.param(row, *case, id=f"{row}-{number}")
        for row, cases in _FITS.items()
        for number, case in enumerate(cases)
    ]


def test_every_row_has_its_cases_in_the_order_of_the_table() -> None:
    assert [row.name for row in TABLE] == list(_FITS)


@pytest.mark.parametrize(("row", "request_", "calls", "expected"), _cases())
def test_the_first_row_that_fits_decides(
    row: str, request_: Asking, calls: list[CallView], expected: Decision
) -> None:
    assert _find(request_, *calls) == replace(expected, row=row)


# -- what a request never finds --------------------------------------------------------------------


@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize(
    "changes",
    [
        {"key_tag": "other"},
        {"fingerprint": "other"},
        {"fingerprint": ""},
        {"name": "n"},
        {"has_id": True},
        {"name": "n", "has_id": True},
    ],
    ids=["other_key", "other_request", "no_fingerprint", "named", "by_id", "named_by_id"],
)
def test_a_request_without_a_name_never_finds(changes: dict[str, Any], state: CallState) -> None:
    """A program repeats the name of a call in each of its tries, so who has no name is no try of a
    named call.
    """
    call = view(state, **LEFT, **changes)
    assert [_find(asking(sure=sure), call) for sure in (False, True)] == [Start("new")] * 2


@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n", "key_tag": "other"},
        {"name": "n", "key_tag": "other", "fingerprint": "other"},
        {"name": "m"},
        {"name": "m", "fingerprint": "other"},
        {"name": None},
        {"name": "n", "fingerprint": ""},
    ],
    ids=["other_key", "other_key_and_request", "other_name", "all_other", "unnamed", "unread"],
)
def test_a_request_with_a_name_never_finds(changes: dict[str, Any], state: CallState) -> None:
    call = view(state, **LEFT, **changes)
    decided = [_find(asking("n", sure=sure), call) for sure in (False, True)]
    assert decided == [Start("name_new")] * 2


def test_a_request_without_a_fingerprint_finds_nothing() -> None:
    calls = [view(state, fingerprint="", **LEFT) for state in CallState]
    assert _find(asking(fingerprint="", sure=True), *calls) == Start("new")


def test_a_name_reused_is_refused_even_if_its_own_call_is_there_too() -> None:
    own, other = view(RUNNING, "own", name="n"), view(NOTHING, "b", name="n", fingerprint="other")
    assert _find(asking("n"), own, other) == RefuseName("name_reused", "b")


# -- which of several ------------------------------------------------------------------------------


def test_a_retry_gets_the_newest_answer() -> None:
    calls = [
        view(MADE, "b", created_at=2, was_delivered=True),
        view(RUNNING, "c", created_at=3, clients=1),
        view(FAULT, "a", created_at=1, was_delivered=True),
    ]
    assert _find(asking(sure=True), *calls) == Join("retry", "c")
    assert _find(asking(sure=True), calls[0], calls[2]) == Replay("retry", "b")


def test_a_retry_gets_an_answer_that_nobody_has_before_a_newer_one() -> None:
    """So ten equal calls whose clients all timed out give their ten retries ten pictures."""
    calls = [
        view(MADE, "served", created_at=3, was_delivered=True),
        view(MADE, "lost", created_at=1, ended_at=4, **LEFT),
        view(UNKNOWN, "unknown", created_at=2, ended_at=3, **LEFT),
    ]
    assert _find(asking(sure=True), *calls) == Replay("retry", "unknown")
    assert _find(asking(sure=True), *calls[:2]) == Replay("retry", "lost")


def test_the_first_to_have_ended_is_taken_over_first_and_one_that_runs_last() -> None:
    calls = [
        view(RUNNING, "a", created_at=1, **LEFT),
        view(MADE, "b", created_at=3, ended_at=4, **LEFT),
        view(MADE, "c", created_at=2, ended_at=5, **LEFT),
    ]
    assert _find(asking(), *calls) == TakeOver("abandoned", "b")
    assert _find(asking(), calls[0]) == TakeOver("abandoned", "a")


@pytest.mark.parametrize(
    ("state", "request_"),
    [(NOTHING, asking(sure=True)), (UNKNOWN, asking())],
    ids=["nothing_made", "repeated"],
)
def test_what_time_takes_away_first_is_used_first(state: CallState, request_: Asking) -> None:
    began_and_ended = {
        "b": (NOW - 30, NOW - 10),
        "a": (NOW - 20, NOW - 15),
        "c": (NOW - 9, NOW - 8),
    }
    calls = [
        view(state, call_id, created_at=began, ended_at=ended)
        for call_id, (began, ended) in began_and_ended.items()
    ]
    found = _find(request_, *calls)
    assert "a" in {getattr(found, "uses_up", None), getattr(found, "call_id", None)}


def test_ids_decide_between_calls_of_one_moment() -> None:
    calls = [view(MADE, call, created_at=1, was_delivered=True) for call in ("b", "c", "a")]
    for order in itertools.permutations(calls):
        assert _find(asking(sure=True), *order) == Replay("retry", "c")


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended_at", [NOW + 3600, NOW, None], ids=["set_back", "now", "unset"])
def test_a_clock_that_was_set_back_makes_no_call_old(ended_at: float | None) -> None:
    found = _find(asking(), view(UNKNOWN, ended_at=ended_at))
    assert found == RefuseRepeated("repeated", "call-1", NOW - 60)
    found = _find(asking(sure=True), view(NOTHING, ended_at=ended_at))
    assert found == Start("nothing_made", "call-1")


@pytest.mark.parametrize("ended_at", [NOW + 3600, NOW], ids=["set_back", "now"])
def test_a_guard_of_0_never_warns(ended_at: float) -> None:
    assert _find(asking(), view(UNKNOWN, ended_at=ended_at), guard=0) == Start("new")


# -- any calls at all ------------------------------------------------------------------------------

_FLAGS = st.booleans()
_TIMES = st.sampled_from([-1e9, 0.0, NOW - 200, NOW - 119, NOW - 91, NOW - 1, NOW, NOW + 1, 1e300])
_IDENTITIES = st.builds(
    CallIdentity,
    call_id=st.sampled_from([f"call-{number}" for number in range(50)]),
    request_id=st.just("req"),
    key_tag=st.sampled_from(["k", "l"]),
    fingerprint=st.sampled_from(["f", "g", ""]),
    name=st.sampled_from([None, "n", "m"]),
    endpoint=st.just("edits"),
    created_at=_TIMES,
    has_id=_FLAGS,
)
_VIEWS = st.builds(
    CallView,
    identity=_IDENTITIES,
    state=st.sampled_from(CallState),
    ended_at=st.none() | _TIMES,
    is_kept=_FLAGS,
    clients=st.integers(0, 2),
    was_left=_FLAGS,
    was_delivered=_FLAGS,
    is_claimed=_FLAGS,
    told_repeated=_FLAGS,
    used_up=_FLAGS,
)
_CALLS = st.lists(_VIEWS, max_size=8, unique_by=lambda call: call.identity.call_id)
_ASKINGS = st.builds(
    Asking,
    key_tag=st.sampled_from(["k", "l"]),
    fingerprint=st.sampled_from(["f", "g"]),
    name=st.sampled_from([None, "n", "m"]),
    is_sure_retry=_FLAGS,
)
_GUARDS = st.sampled_from([0.0, 90.0, 1e9])


def _concerns(request: Asking, call: CallView) -> bool:
    identity = call.identity
    if identity.key_tag != request.key_tag or not identity.fingerprint:
        return False
    if request.name is not None:
        return identity.name == request.name
    is_free = identity.name is None and not identity.has_id
    return is_free and identity.fingerprint == request.fingerprint


@given(_ASKINGS, _CALLS, _TIMES, _GUARDS)
def test_every_request_is_decided_and_gets_only_what_it_may(
    request: Asking, calls: list[CallView], now: float, guard: float
) -> None:
    found = finding.find(request, calls, now, guard)
    by_id = {call.identity.call_id: call for call in calls}
    row = next(row for row in TABLE if row.name == found.row)
    assert row.asks(request)
    match found:
        case Start(uses_up=None):
            return
        case Start(uses_up=call_id) | Join(call_id=call_id) | Replay(call_id=call_id):
            pass
        case TakeOver(call_id=call_id) | RefuseName(call_id=call_id):
            pass
        case RefuseRepeated(call_id=call_id):
            pass
    assert call_id is not None
    call = by_id[call_id]
    assert _concerns(request, call)
    is_equal = call.identity.fingerprint == request.fingerprint
    assert is_equal == (not isinstance(found, RefuseName))
    match found:
        case Start():
            assert call.state is NOTHING
            assert not call.used_up
        case Join():
            assert call.state is RUNNING
        case Replay():
            assert call.state in {MADE, FAULT, UNKNOWN}
            assert call.is_kept
        case TakeOver():
            assert call.state in {RUNNING, MADE, FAULT}
            assert call.was_left
            assert not call.was_delivered
            assert not call.is_claimed
            assert call.clients == 0
        case RefuseRepeated():
            assert call.state is UNKNOWN
            assert not call.told_repeated
            assert found.created_at == call.identity.created_at
        case RefuseName():
            assert request.name is not None


@given(_ASKINGS, _CALLS, _TIMES, _GUARDS, st.randoms(use_true_random=False))
def test_neither_the_order_of_the_calls_nor_those_of_others_count(
    request: Asking, calls: list[CallView], now: float, guard: float, random: Any
) -> None:
    own = [call for call in calls if _concerns(request, call)]
    random.shuffle(own)
    assert finding.find(request, own, now, guard) == finding.find(request, calls, now, guard)


@given(_ASKINGS, _CALLS, _TIMES)
def test_a_purchase_that_may_have_made_a_picture_is_never_passed_over_by_a_sure_retry(
    request: Asking, calls: list[CallView], now: float
) -> None:
    """Unless the retry is that of an equal call that certainly made nothing."""
    request = replace(request, name=None, is_sure_retry=True)
    found = finding.find(request, calls, now, GUARD)
    may_exist = [
        call
        for call in calls
        if _concerns(request, call)
        and (call.is_running or (call.is_kept and call.state in {MADE, UNKNOWN}))
    ]
    if may_exist and isinstance(found, Start):
        assert found.uses_up is not None


# -- ten equal calls -------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 119)), max_size=10),
    st.randoms(use_true_random=False),
)
def test_equal_calls_of_which_some_were_refused_and_retried_are_as_many_purchases(
    plans: list[tuple[bool, float, float]], random: Any
) -> None:
    """Each plan: whether the call meets a full pool, when, and how much later its retry comes."""
    events: list[tuple[float, int, str]] = []
    calls: dict[str, CallView] = {}
    for number, (is_refused, ended_at, wait) in enumerate(plans):
        call_id = f"call-{number}"
        # They began in any order, for a refused one may have waited for its refusal.
        calls[call_id] = view(RUNNING, call_id, created_at=random.uniform(-50, 0), clients=1)
        if is_refused:
            events += [(ended_at, 0, call_id), (ended_at + wait, 1, f"retry-{number}")]
    for now, is_retry, call_id in sorted(events):
        if not is_retry:
            calls[call_id] = replace(calls[call_id], state=NOTHING, ended_at=now, clients=0)
            continue
        found = finding.find(asking(sure=True), calls.values(), now, GUARD)
        assert isinstance(found, Start), f"{call_id} at {now} got {found}"
        assert found.uses_up is not None
        calls[found.uses_up] = replace(calls[found.uses_up], used_up=True)
        calls[call_id] = view(RUNNING, call_id, created_at=now, clients=1)
    assert len([call for call in calls.values() if call.is_running]) == len(plans)
