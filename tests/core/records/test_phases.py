"""A request's phases: entered one after the other, and timed by that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records.phases import Phase, Timeline
from tests.core.builders import Clock


def test_a_request_is_in_no_phase_before_its_first() -> None:
    timeline = Timeline(Clock())
    assert timeline.phase is None
    assert repr(timeline) == "<Timeline new>"
    assert timeline.seconds(*Phase) is None


def test_a_request_is_in_the_phase_that_it_entered_last() -> None:
    timeline = Timeline(Clock())
    for phase in Phase:
        timeline.enter(phase)
        assert timeline.phase is phase
    assert repr(timeline) == "<Timeline recorded>"


def test_the_present_phase_goes_on_counting() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.enter(Phase.WAITING)
    clock.now += 2.5
    assert timeline.seconds(Phase.WAITING) == 2.5
    assert timeline.seconds(Phase.SENT) is None
    timeline.enter(Phase.WAITING)
    clock.now += 1.5
    assert timeline.seconds(Phase.WAITING) == 4.0
    assert timeline.milliseconds(Phase.WAITING, Phase.SENT) == 4000
    assert timeline.age() == 4.0


def test_a_span_ends_where_the_phase_was_last_entered() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    assert timeline.span_milliseconds(Phase.ARRIVING) is None
    timeline.enter(Phase.ARRIVING)
    assert timeline.span_milliseconds(Phase.ARRIVING) == 0
    for _ in range(2):
        clock.now += 1.5
        timeline.enter(Phase.ARRIVING)
    clock.now += 7
    timeline.enter(Phase.DELIVERED)
    assert timeline.span_milliseconds(Phase.ARRIVING) == 3000


@given(st.lists(st.tuples(st.sampled_from(Phase), st.integers(0, 1000))))
def test_the_times_of_all_phases_add_up_to_the_whole(steps: list[tuple[Phase, int]]) -> None:
    clock = Clock()
    timeline = Timeline(clock)
    spent = dict.fromkeys(Phase, 0)
    for phase, seconds in steps:
        timeline.enter(phase)
        clock.now += seconds
        spent[phase] += seconds
    entered = {phase for phase, _ in steps}
    for phase in Phase:
        assert timeline.seconds(phase) == (spent[phase] if phase in entered else None)
    assert (timeline.seconds(*Phase) or 0) == pytest.approx(timeline.age())
