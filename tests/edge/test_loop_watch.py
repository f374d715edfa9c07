"""The watch of the event loop: it sees that the loop is held, for which phase, and by what."""

import asyncio
import logging
import threading
import time

import pytest

from image_gateway.core.records.loop_lag import OTHER
from image_gateway.core.records.phases import Phase
from image_gateway.edge.loop_watch import LoopWatch
from tests.parts.eventually import eventually


def _hold(seconds: float) -> None:
    """Give nobody else a turn; a pause, because only the clock can say how late the loop is."""
    time.sleep(seconds)


async def _held_by_request(watch: LoopWatch, phase: Phase, seconds: float) -> None:
    watch.entered(phase)
    _hold(seconds)


async def test_a_hold_is_shown_with_the_phase_of_its_request_and_its_function() -> None:
    with LoopWatch() as watch:

        async def hold() -> bool:
            # Where the machine is busy, the watch may ask only when a hold is almost over.
            await asyncio.create_task(_held_by_request(watch, Phase.AUTHENTICATED, 0.4))
            return watch.by_phase()[Phase.AUTHENTICATED] >= 0.2

        await eventually(hold)
        lag = watch.longest()
        assert (lag.phase, lag.seconds >= 0.2) == ("authenticated", True)
        # A test is no module of the gateway, so it is the innermost function.
        assert lag.place == f"{__name__}._hold"


async def test_a_hold_outside_of_any_request_has_no_phase() -> None:
    with LoopWatch() as watch:
        await asyncio.create_task(_held_by_request(watch, Phase.READ, 0))

        async def hold() -> bool:
            _hold(0.4)
            return watch.by_phase()[OTHER] >= 0.2

        await eventually(hold)
        assert watch.by_phase()[Phase.READ] == 0


async def test_a_long_hold_is_a_warning_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with LoopWatch() as watch:

        async def hold() -> bool:
            _hold(1.3)
            return bool(caplog.records)

        await eventually(hold)
        await hold()
        await eventually(lambda: watch.longest().seconds >= 1)
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    text = warning.getMessage()
    assert "every call had to wait for " in text
    assert "the event loop computed 0." in text  # it slept
    assert f"at work was {__name__}._hold, for a request in the phase other" in text


async def test_a_watch_ends_with_its_block_also_while_the_loop_is_held() -> None:
    with LoopWatch():
        _hold(0.3)  # it asks, and waits for a turn that comes only after the block
        assert "loop-watch" in {thread.name for thread in threading.enumerate()}
    assert "loop-watch" not in {thread.name for thread in threading.enumerate()}
