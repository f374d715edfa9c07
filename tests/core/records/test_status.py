"""The live status is true, bounded, and shows no more than it may."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.model import Credential, Secret
from image_gateway.core.records.builder import Arrival, Asked, Called, RecordBuilder, Sent
from image_gateway.core.records.phases import Phase, Timeline
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.records.status import (
    BLOCK_MINUTES,
    BLOCKS,
    MOST_ERRORS,
    MOST_LISTED,
    CallTracker,
    InFlightCall,
    PhaseLabel,
    RequestOutcome,
    outcome,
)
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.cooldowns import (
    Cause,
    Cooldown,
    CooldownSpec,
    CooldownTracker,
    Scope,
    Target,
)
from tests.core import builders
from tests.core.builders import PRICES, Clock

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FIRST = datetime(2026, 11, 21, 11, 5, tzinfo=UTC)
"""Where the hour begins that ends in the block of noon."""


def ended_record(**facts: Any) -> Record:
    """A record of which only these facts are known."""
    return Record(NOON, facts.pop("request_id", "req_1"), **facts)


def coming(request_id: str = "req_1", clock: Clock | None = None, **facts: Any) -> RecordBuilder:
    """A request that has come, with these facts of its head."""
    return RecordBuilder(Arrival(NOON, request_id, **facts), Timeline(clock or Clock()))


def ended(board: CallTracker, wall: datetime = NOON, **facts: Any) -> None:
    """A call that came and went; it was served, unless the facts say otherwise."""
    facts = {"status": 200, "total_ms": 1000, "call_source": "made", **facts}
    board.end(board.begin(coming()), ended_record(**facts), wall)


# -- phases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "label"),
    [
        (None, PhaseLabel.AUTH),
        (Phase.RECEIVED, PhaseLabel.AUTH),
        (Phase.AUTHENTICATED, PhaseLabel.BODY),
        (Phase.READ, PhaseLabel.AUTH),
        (Phase.ADMITTED, PhaseLabel.AUTH),
        (Phase.WAITING, PhaseLabel.WAITING),
        (Phase.JOINED, PhaseLabel.JOINED),
        (Phase.SENT, PhaseLabel.UPSTREAM),
        (Phase.ANSWERED, PhaseLabel.STREAM),
        (Phase.ARRIVING, PhaseLabel.STREAM),
        (Phase.DELIVERED, PhaseLabel.STREAM),
        (Phase.RECORDED, PhaseLabel.STREAM),
    ],
)
def test_a_call_is_shown_at_the_phase_that_it_entered_last(
    phase: Phase | None, label: PhaseLabel
) -> None:
    call = coming()
    if phase is not None:
        call.enter(phase)
    assert InFlightCall(call).label is label


def test_every_phase_has_a_label() -> None:
    for phase in Phase:
        call = coming()
        call.enter(phase)
        assert InFlightCall(call).label in PhaseLabel


def test_the_phases_of_all_calls_are_counted() -> None:
    board = CallTracker()
    for phases in ([], [Phase.AUTHENTICATED], [Phase.AUTHENTICATED]):
        call = coming()
        for phase in phases:
            call.enter(phase)
        board.begin(call)
    assert board.phases() == {PhaseLabel.AUTH: 1, PhaseLabel.BODY: 2}


def test_the_longest_wait_is_that_of_a_call_that_waits() -> None:
    """Over all of its waits; a call that is served waits no more."""
    board, clock = CallTracker(), Clock()
    assert board.longest_wait() is None
    first, second = coming(clock=clock), coming(clock=clock)
    for call in (first, second):
        board.begin(call)
    first.enter(Phase.RECEIVED)
    assert board.longest_wait() is None
    first.enter(Phase.WAITING)
    clock.now = 7.0
    second.enter(Phase.WAITING)
    clock.now = 10.0
    assert board.longest_wait() == 10.0
    first.enter(Phase.SENT)
    assert board.longest_wait() == 3.0
    clock.now = 30.0
    first.enter(Phase.WAITING)
    second.enter(Phase.SENT)
    clock.now = 34.0
    assert board.longest_wait() == 14.0
    first.enter(Phase.DELIVERED)
    assert board.longest_wait() is None


# -- in flight -------------------------------------------------------------------------------------


def test_a_call_is_listed_from_its_beginning_to_its_record() -> None:
    board, clock = CallTracker(), Clock(100.0)
    call = coming("req_a", clock, endpoint="edits")
    in_flight = board.begin(call)
    call.key, call.asked = builders.key(key_id="key-1"), Asked(model="gpt-image-2")
    call.enter(Phase.AUTHENTICATED)
    call.attempt(AttemptRecord("alpha", "codex"), Called("/path"))
    clock.now = 103.5
    [view] = board.in_flight().oldest
    assert dataclasses.asdict(view) == {
        "request_id": "req_a",
        "key_id": "key-1",
        "endpoint": "edits",
        "model": "gpt-image-2",
        "account_name": "alpha",
        "phase": "body",
        "age_seconds": 3.5,
    }
    board.end(in_flight, call.build(Sent(200), PRICES), NOON)
    assert board.in_flight().total == 0
    assert board.in_flight().oldest == ()


def test_of_many_calls_the_oldest_are_listed_and_all_are_counted() -> None:
    board = CallTracker()
    calls = [board.begin(coming(f"req_{n}")) for n in range(MOST_LISTED + 50)]
    board.end(calls[0], ended_record(status=200), NOON)
    found = board.in_flight()
    assert found.total == MOST_LISTED + 49
    assert [each.request_id for each in found.oldest] == [
        f"req_{n}" for n in range(1, MOST_LISTED + 1)
    ]


def test_a_model_name_that_a_client_made_long_is_cut() -> None:
    board, call = CallTracker(), coming()
    call.asked = Asked(model="m" * 30_000)
    board.begin(call)
    [view] = board.in_flight().oldest
    assert view.model == "m" * 64


# -- outcomes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "how"),
    [
        ({"status": 200}, RequestOutcome.OK),
        ({"status": 400, "error_code": "invalid_value", "error_source": "client"}, "client_error"),
        ({"status": 503, "error_code": "overloaded", "error_source": "gateway"}, "gateway_error"),
        ({"status": 400, "error_code": "moderated", "error_source": "upstream"}, "upstream_error"),
        ({"status": 200, "error_code": "cut", "error_source": "upstream"}, "upstream_error"),
        ({"status": None, "client_left": True, "error_code": "client_left"}, "client_left"),
        ({"status": 200, "client_left": True, "error_code": "upstream_cut"}, "client_left"),
        # The text API's own, which has no code here.
        ({"status": 404}, "client_error"),
        ({"status": 500}, "upstream_error"),
    ],
)
def test_a_call_ended_as_its_record_says(facts: Mapping[str, Any], how: str) -> None:
    assert outcome(ended_record(**facts)) == how


@pytest.mark.parametrize("code", errors.ERROR_SPECS)
def test_every_error_of_ours_is_counted_as_its_source_says(code: str) -> None:
    kind = errors.ERROR_SPECS[code]
    found = outcome(ended_record(status=kind.status, error_code=code, error_source=kind.source))
    assert found == f"{kind.source}_error"


# -- the last hour ---------------------------------------------------------------------------------


def test_an_hour_is_sixty_minutes_in_blocks_that_stand_on_the_clock() -> None:
    board = CallTracker()
    for wall in (NOON, NOON + timedelta(minutes=4, seconds=59)):
        hour = board.last_hour(wall)
        assert [each.start for each in hour.blocks] == [
            FIRST + timedelta(minutes=BLOCK_MINUTES * at) for at in range(BLOCKS)
        ]
        assert hour.minutes[0].start == FIRST
        assert hour.minutes[-1].start == wall.replace(second=0)
        assert hour.whole.start == FIRST


def test_calls_are_counted_in_the_minute_in_which_they_ended() -> None:
    board = CallTracker()
    ended(board, NOON - timedelta(seconds=1))
    ended(board, NOON)
    ended(board, NOON + timedelta(seconds=59), status=503, error_code="overloaded")
    hour = board.last_hour(NOON + timedelta(minutes=1))
    counts = {f"{each.start:%H:%M}": each.outcomes for each in hour.minutes}
    assert (counts["11:59"]["ok"], counts["11:59"]["gateway_error"]) == (1, 0)
    assert (counts["12:00"]["ok"], counts["12:00"]["gateway_error"]) == (1, 1)
    assert hour.whole.outcomes == {
        "ok": 2,
        "client_error": 0,
        "gateway_error": 1,
        "upstream_error": 0,
        "client_left": 0,
    }
    assert hour.blocks[-1].outcomes["ok"] == 1
    assert hour.blocks[-2].outcomes["ok"] == 1


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    board = CallTracker()
    ended(board, NOON)
    assert board.last_hour(NOON + timedelta(minutes=59)).whole.outcomes["ok"] == 1
    assert board.last_hour(NOON + timedelta(minutes=60)).whole.outcomes["ok"] == 0
    ended(board, NOON + timedelta(minutes=60))
    assert board.last_hour(NOON + timedelta(minutes=60)).whole.outcomes["ok"] == 1
    assert board.last_hour(NOON + timedelta(days=2)).whole.outcomes["ok"] == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * 3600), st.sampled_from([200, 400, 503]), st.integers(0, 10**7))
    )
)
def test_an_hour_tells_what_a_list_of_all_calls_would(calls: list[tuple[int, int, int]]) -> None:
    """Against a model that forgets nothing; the clock goes forward, as it does."""
    board = CallTracker()
    calls.sort()
    sources = {400: "client", 503: "gateway"}
    for seconds, status, total in calls:
        source = sources.get(status)
        ended(
            board,
            NOON + timedelta(seconds=seconds),
            status=status,
            total_ms=total,
            error_code=source,
            error_source=source,
        )
    now = NOON + timedelta(seconds=calls[-1][0] if calls else 0)
    hour = board.last_hour(now)
    recent = [
        (status, total)
        for seconds, status, total in calls
        if NOON + timedelta(seconds=seconds) >= hour.whole.start
    ]
    counted = Counter(status for status, _ in recent)
    assert hour.whole.outcomes["ok"] == counted[200]
    assert hour.whole.outcomes["client_error"] == counted[400]
    assert hour.whole.outcomes["gateway_error"] == counted[503]
    assert sum(sum(each.outcomes.values()) for each in hour.minutes) == len(recent)
    assert sum(sum(each.outcomes.values()) for each in hour.blocks) == len(recent)
    assert sum(each.latency.calls for each in hour.blocks) == counted[200]


@given(st.lists(st.integers(1, 1_500_000), min_size=1))
def test_a_percentile_is_at_most_a_sixteenth_above_the_truth(times: list[int]) -> None:
    board = CallTracker()
    for milliseconds in times:
        ended(board, total_ms=milliseconds)
    found = board.last_hour(NOON).whole.latency
    assert found.calls == len(times)
    ranked = sorted(times)
    for percentile, share in ((found.p50, 50), (found.p90, 90), (found.p99, 99)):
        true = ranked[-(-len(times) * share // 100) - 1] / 1000
        assert percentile is not None
        assert true - 0.001 <= percentile <= true * (1 + 1 / 16) + 0.001


def test_only_served_pictures_tell_how_long_a_picture_takes() -> None:
    board = CallTracker()
    ended(board, total_ms=1, status=401, error_code="invalid_api_key", error_source="client")
    text = board.begin(coming())
    text.is_text = True
    board.end(text, ended_record(status=200, total_ms=5), NOON)
    ended(board, total_ms=5, status=202, endpoint="calls", call_source=None)
    hour = board.last_hour(NOON)
    assert hour.whole.outcomes["ok"] == 2
    assert dataclasses.astuple(hour.whole.latency) == (0, None, None, None)


# -- errors ----------------------------------------------------------------------------------------


def test_the_last_errors_are_listed_newest_first_with_ids_and_codes_only() -> None:
    board = CallTracker()
    facts = {"error_source": "upstream", "account_name": "alpha", "key_id": "key-1", "model": "m"}
    for number in range(MOST_ERRORS + 5):
        wall = NOON + timedelta(seconds=number)
        ended(board, wall, request_id=f"req_{number}", status=502, error_code="odd", **facts)
    found = board.errors()
    assert len(found) == MOST_ERRORS
    assert dataclasses.asdict(found[0]) == {
        "time": NOON + timedelta(seconds=MOST_ERRORS + 4),
        "request_id": f"req_{MOST_ERRORS + 4}",
        "status": 502,
        "error_code": "odd",
        "error_source": "upstream",
        "account_name": "alpha",
    }
    assert found[-1].request_id == "req_5"
    assert board.client_errors() == ()


def test_a_failure_that_no_account_answered_names_the_one_that_was_tried_last() -> None:
    board = CallTracker()
    tried = (AttemptRecord("alpha", "codex"), AttemptRecord("beta", "azure"))
    failed: dict[str, Any] = {"status": 502, "error_code": "upstream_unreachable"}
    ended(board, attempts=tried, **failed)
    ended(board, attempts=tried, account_name="alpha", **failed)
    ended(board, **failed)
    assert [each.account_name for each in reversed(board.errors())] == ["beta", "alpha", None]


def test_a_flood_of_clients_mistakes_pushes_out_no_error_of_others() -> None:
    board = CallTracker()
    ended(board, request_id="req_ours", status=500, error_code="internal_error")
    for _ in range(1000):
        ended(board, status=401, error_code="invalid_api_key", error_source="client")
    ended(board, status=None, client_left=True, error_code="client_left", error_source="client")
    assert [each.request_id for each in board.errors()] == ["req_ours"]
    assert len(board.client_errors()) == MOST_ERRORS
    assert board.client_errors()[0].error_code == "client_left"


# -- accounts --------------------------------------------------------------------------------------

OLD = Credential(Secret("one"), "api_key", None)
NEW = Credential(Secret("two"), "api_key", None)


def test_a_cooldown_tells_what_is_left_of_it_and_the_answer_behind_it() -> None:
    health = CooldownTracker()
    assert health.cooldown("alpha", 0.0) is None
    health.trip(
        "alpha", Target("m", "edits"), CooldownSpec(60.0), 100.0, OLD, Cause(429, "slow_down")
    )
    assert health.cooldown("alpha", 110.0, OLD) == Cooldown(50.0, Cause(429, "slow_down"))
    assert health.cooldown("alpha", 110.0, NEW) is None
    assert health.cooldown("beta", 110.0, OLD) is None
    assert health.cooldown("alpha", 160.0, OLD) is None


def test_the_answer_behind_a_cooldown_is_the_one_that_holds_longest() -> None:
    health = CooldownTracker()
    health.trip("alpha", Target("m", "edits"), CooldownSpec(60.0), 0.0, cause=Cause(429, None))
    health.trip("alpha", Target("m", "edits"), CooldownSpec(10.0), 1.0, cause=Cause(403, None))
    assert health.cooldown("alpha", 2.0) == Cooldown(58.0, Cause(429, None))
    health.trip("alpha", Target("m", "edits"), CooldownSpec(300.0), 3.0, OLD, Cause(401, None))
    assert health.cooldown("alpha", 3.0, OLD) == Cooldown(300.0, Cause(401, None))


def test_models_that_cool_down_are_counted_apart_from_their_account() -> None:
    health = CooldownTracker()
    for model in ("m", "n"):
        health.trip("alpha", Target(model, "edits"), CooldownSpec(60.0, Scope.MODEL), 0.0, OLD)
    health.trip("alpha", Target("o", "edits"), CooldownSpec(60.0, Scope.MODEL), 0.0, NEW)
    health.trip("beta", Target("m", "edits"), CooldownSpec(60.0), 0.0, OLD)
    known = {"alpha": OLD, "beta": OLD}
    assert health.models_cooling(known, 1.0) == {"alpha": 2}
    assert health.models_cooling({"alpha": NEW}, 1.0) == {"alpha": 1}
    assert not health.models_cooling(known, 60.0).total()
    assert health.cooldown("alpha", 1.0, OLD) is None


def test_a_budget_is_what_was_learned_else_what_was_said_else_not_known() -> None:
    budgets = Budgets()
    account = builders.account("alpha", used_percent_secondary=30.0)
    assert budgets.windows(account, 0.0) == {"primary": None, "secondary": 30.0}
    headers = {
        "x-codex-primary-used-percent": "97",
        "x-codex-primary-reset-after-seconds": "60",
        "x-codex-secondary-used-percent": "41",
    }
    budgets.learn(account, headers, 0.0, 0.0)
    assert budgets.windows(account, 59.0) == {"primary": 97.0, "secondary": 41.0}
    assert budgets.windows(account, 60.0) == {"primary": 0.0, "secondary": 41.0}
    assert budgets.windows(account, 4000.0) == {"primary": 0.0, "secondary": 30.0}


# -- bounds ----------------------------------------------------------------------------------------


def test_what_is_kept_does_not_grow_with_the_calls() -> None:
    board = CallTracker()
    texts = {"model": "m" * 1000, "path": "p" * 1000, "key_name": "a name", "prompt_hmac": "ab"}

    def kept(calls: int) -> int:
        for number in range(calls):
            code = None if number % 2 else f"code_{number % 10}"
            wall = NOON + timedelta(seconds=number % 3600)
            ended(board, wall, error_code=code, total_ms=number % 999_983, **texts)
        hour = board.last_hour(NOON + timedelta(minutes=59))
        return len(orjson.dumps((hour, board.errors(), board.client_errors())))

    before = kept(4000)
    assert kept(4000) < before + 2000
    assert sum(len(each.latencies) for each in board._minutes) <= 60 * 288
    assert len(board._calls) == 0


def test_the_status_holds_only_ids_codes_and_times() -> None:
    """Every other text of a record stays away, whatever stands in it."""
    board = CallTracker()
    texts = {"request_id", "key_id", "endpoint", "model", "account_name", "error_code"}
    facts: dict[str, Any] = {
        item.name: "hidden"
        for item in dataclasses.fields(Record)
        if item.type == "str | None" or item.type == (str | None)
    }
    assert {"prompt_hmac", "key_name", "client_address"} <= set(facts)
    facts |= dict.fromkeys(texts & set(facts), "shown")
    facts["error_source"] = "upstream"
    call = coming("shown", client_address="hidden", path="hidden", endpoint="shown")
    call.key = builders.key(key_id="shown", key_name="hidden", group_id="hidden")
    call.asked = Asked(model="shown", upstream_model="hidden", prompt_hmac="hidden", size="hidden")
    call.attempt(AttemptRecord("shown", "hidden", "hidden", error_code="hidden"), Called("hidden"))
    board.begin(call)
    ended(board, **facts, status=502)
    text = orjson.dumps((board.in_flight(), board.last_hour(NOON), board.errors()))
    assert b"shown" in text
    assert b"hidden" not in text
