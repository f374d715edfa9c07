"""Calls end for everybody, in whichever order their clients leave and the process stops."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_gateway.calls import call as call_module
from image_gateway.calls.call import Call
from image_gateway.calls.registry import Calls
from image_gateway.core.calls.finding import Asking
from image_gateway.core.calls.model import CallState
from image_gateway.core.errors import Refusal
from image_gateway.core.records.builder import Arrival, RecordBuilder
from image_gateway.core.records.phases import Timeline
from image_gateway.core.routing.slots import StartClock
from image_gateway.edge.kept.store import KeptCalls
from image_gateway.edge.slots.broker import SlotBroker
from image_gateway.edge.slots.claims import Claim
from image_gateway.edge.spool import Spools


class RefusingDispatch:
    """Finds no account."""

    def __init__(self, *_: object) -> None:
        pass

    async def run(self) -> None:
        await asyncio.sleep(0)
        raise Refusal("overloaded", "No.")

    def salvage(self) -> None:
        return None


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What calls need of a gateway that keeps nothing."""
    monkeypatch.setattr(call_module, "Dispatch", RefusingDispatch)
    settings = SimpleNamespace(
        when_client_leaves="finish",
        upstream_idle_seconds=1.0,
        public_url=None,
        retry_guard_seconds=90.0,
    )
    with Spools(tmp_path, 1 << 20, 1 << 20) as spools:
        yield SimpleNamespace(
            settings=settings,
            spools=spools,
            kept=KeptCalls(tmp_path / "calls", 0, 0, time.time),
            prompt_key=b"k" * 32,
            slots=SlotBroker(None, 0, StartClock()),
        )


def begin(calls: Calls, resources: ExitStack) -> Call:
    record = RecordBuilder(Arrival(datetime.now(UTC), "req_1"), Timeline(time.monotonic))
    job: Any = SimpleNamespace(request=None, claim=Claim([]))
    asking = Asking("a" * 64, "b" * 64)
    return calls.start(asking, job, record, resources, streams=False, found=lambda: None)


async def test_the_last_client_may_leave_in_the_step_in_which_its_call_ends(app: Any) -> None:
    calls, errors = Calls(app), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    call = begin(calls, ExitStack())
    task = call._task
    assert task is not None
    with call:
        while not task.done():
            await asyncio.sleep(0)
    async with calls, asyncio.timeout(5):
        await calls.idle()
    await asyncio.sleep(0)
    assert errors == []
    assert repr(calls) == "<Calls 0 running, 1 remembered>"


async def test_a_call_that_is_drained_before_its_first_step_ends(app: Any) -> None:
    calls, closed = Calls(app), list[str]()
    resources = ExitStack()
    resources.callback(closed.append, "closed")
    call = begin(calls, resources)
    calls.drain()
    with call:
        assert await call.wait(5)
    assert call.ending is not None
    assert (call.ending.state, call.ending.status) == (CallState.NOTHING, 503)
    assert closed == ["closed"]
    async with asyncio.timeout(5):
        await calls.idle()
