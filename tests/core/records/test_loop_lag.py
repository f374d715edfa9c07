"""The longest lags of the last minute: none is shown too long, none is lost too soon."""

from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records.loop_lag import OTHER, PHASES, WINDOW_SECONDS, LagWindow, LoopLag

_LAGS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 9), st.sampled_from(PHASES)), max_size=30
)


@given(_LAGS, st.integers(0, 100))
def test_what_is_shown_is_the_longest_of_the_last_minute(
    lags: list[tuple[int, int, str]], later: int
) -> None:
    window, now, added = LagWindow(), 0, []
    for pause, seconds, phase in lags:
        now += pause
        window.add(LoopLag(seconds, phase), now)
        added.append((now, seconds, phase))
    now += later
    recent = [(seconds, phase) for at, seconds, phase in added if at > now - WINDOW_SECONDS]
    assert window.by_phase(now) == {
        phase: max((seconds for seconds, of in recent if of == phase), default=0)
        for phase in PHASES
    }
    assert window.longest(now).seconds == max((seconds for seconds, _ in recent), default=0)


def test_every_phase_is_there_from_the_start() -> None:
    assert set(LagWindow().by_phase(0.0)) == set(PHASES)
    assert LagWindow().longest(0.0) == LoopLag(0.0, OTHER, None)


def test_lags_that_are_equal_take_no_room() -> None:
    window = LagWindow()
    for second in range(1000):
        window.add(LoopLag(0.001), second / 100)
    assert repr(window) == "<LagWindow of 1 lags>"
