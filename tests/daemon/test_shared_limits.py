"""A limit of a key is one over all processes, whichever of them a call comes to."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.daemon.calls.parts import ask, ended, error_code, submit
from tests.daemon.conftest import Door, make_door
from tests.daemon.responses.calls import PATH
from tests.daemon.test_ops import metric
from tests.daemon.test_refusals import PROMPT, Held, check_error, check_refused
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

IN_BACKGROUND = json.dumps(
    {
        "model": "gpt-5",
        "input": "a cat",
        "tools": [{"type": "image_generation"}],
        "background": True,
    }
).encode()


def locks(plane: Plane) -> int:
    [(count,)] = plane.ask(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    assert isinstance(count, int)
    return count


@pytest.fixture
def doors(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> list[Door]:
    """One key that may have one call in flight, at each of two processes, where calls may wait."""
    gateways = [make_gateway(plane.reader_url, slot_wait_seconds=30).start() for _ in range(2)]
    first = make_door(gateways[0], plane, upstream, max_concurrency=1)
    return [first, replace(first, gateway=gateways[1])]


async def test_another_process_has_the_keys_one_call_and_it_is_told_at_once_however_one_asks(
    doors: list[Door], upstream: ScriptedUpstream
) -> None:
    here, there = doors
    here.plane.update("accounts", {"account_name": here.account}, responses_model="gpt-main")
    upstream.script = held = Held()
    running = asyncio.create_task(there.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    refused = await here.post(b'{"prompt": "a dog"}')
    await check_refused(here, refused, 429, "key_concurrency")
    message = "Concurrency limit reached: 1 call in flight for this key. Wait for one to end."
    assert check_error(refused[2], "key_concurrency")["message"] == message
    assert int(refused[1]["retry-after-ms"]) > 0
    # Nobody is given the id of a call that is not to be.
    submitted = await submit(here, b'{"prompt": "a horse"}')
    await check_refused(here, submitted, 429, "key_concurrency")
    assert "location" not in submitted[1]
    await check_refused(here, await here.post(IN_BACKGROUND, PATH), 429, "key_concurrency")
    for record in here.gateway.records():
        assert record["wait_ms"] < 10_000, "it waited for a slot"
    held.let_go.set()
    assert (await running)[0] == 200
    await eventually(lambda: locks(here.plane) == 0)
    # The retry of what was refused is a call of its own.
    again = await submit(here, b'{"prompt": "a horse"}', x_stainless_retry_count="1")
    assert again[0] == 202
    assert (await ended(here, again[1]["location"]))[0] == 200
    assert len(upstream.calls) == 2
    await eventually(lambda: locks(here.plane) == 0)
    assert [await metric(d.gateway, "image_gateway_slots_without_lock") for d in doors] == [0, 0]
    assert [door.gateway.stop() for door in doors] == [0, 0]


async def test_a_call_that_waits_for_a_slot_holds_its_keys_place_in_all_processes(
    doors: list[Door], upstream: ScriptedUpstream
) -> None:
    """And gives it back when it is given up."""
    here, there = doors
    here.plane.update("accounts", {"account_name": here.account}, image_max_concurrency=1)
    other = make_door(here.gateway, here.plane, upstream, account_names=[here.account])
    upstream.script = held = Held()
    running = asyncio.create_task(other.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    path = (await submit(there))[1]["location"]
    await eventually(lambda: locks(here.plane) == 2)
    assert error_code(await here.post(b'{"prompt": "a dog"}')) == "key_concurrency"
    assert (await ask(there, path, "DELETE"))[0] == 200
    await eventually(lambda: locks(here.plane) == 1)
    waits = asyncio.create_task(here.post(b'{"prompt": "a dog"}'))
    await eventually(lambda: locks(here.plane) == 2)
    held.let_go.set()
    assert [(await each)[0] for each in (running, waits)] == [200, 200]
    await eventually(lambda: locks(here.plane) == 0)
    assert [door.gateway.stop() for door in doors] == [0, 0]
