"""A limit of a key or an owner is one over all processes, whichever of them a call comes to."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.daemon.calls.parts import ask, ended, error_code, submit
from tests.daemon.conftest import Door, make_door
from tests.daemon.responses.calls import PATH
from tests.daemon.test_contention import Tally, body_of, start, stop
from tests.daemon.test_ops import metric
from tests.daemon.test_refusals import PROMPT, Held, check_error, check_refused
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, unlike
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


async def test_a_client_that_calls_again_at_once_finds_its_own_place_free_at_another_process(
    doors: list[Door],
) -> None:
    """One call at a time; the last byte comes after its locks were given back."""
    statuses = [(await doors[number % 2].post(unlike()))[0] for number in range(100)]
    assert set(statuses) == {200}
    assert [door.gateway.stop() for door in doors] == [0, 0]


async def test_an_owner_of_two_keys_has_one_limit_at_three_processes(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    """In a burst exactly as many calls as may be are served, and under load never more."""
    gateways = [make_gateway(plane.reader_url, slot_wait_seconds=30) for _ in range(3)]
    start(gateways)
    plane.execute("INSERT INTO image_control.owners VALUES ('the-owner', 'The owner', 4)")
    first = make_door(gateways[0], plane, upstream, owner_id="the-owner")
    plane.update("accounts", {"account_name": first.account}, image_max_concurrency=10)
    second = make_door(
        gateways[0], plane, upstream, owner_id="the-owner", account_names=[first.account]
    )
    doors = [replace(door, gateway=gateway) for gateway in gateways for door in (first, second)]
    upstream.script = held = Held()
    burst = [asyncio.create_task(door.post(unlike())) for door in doors for _ in range(4)]
    await eventually(lambda: sum(each.done() for each in burst) == 20)
    refused = [each.result() for each in burst if each.done()]
    for status, headers, body in refused:
        assert status == 429
        assert check_error(body, "owner_concurrency")["message"] == (
            "Concurrency limit reached: 4 calls in flight for all keys of this owner. Wait for one "
            "to end."
        )
        assert int(headers["retry-after-ms"]) > 0
        assert "the-owner" not in f"{headers}"
    await eventually(lambda: len(upstream.calls) == 4)
    assert locks(plane) == 8
    held.let_go.set()
    answers = await asyncio.gather(*burst)
    assert Counter(status for status, _, _ in answers) == {200: 4, 429: 20}
    await eventually(lambda: locks(plane) == 0)

    upstream.script = tally = Tally(random.Random(20261129), 0.05)
    statuses: Counter[int] = Counter()

    async def load(at: int, door: Door) -> None:
        for number in range(20):
            statuses[(await door.post(body_of(f"daemon-{at} {door.key_id} {number}")))[0]] += 1

    await asyncio.gather(*(load(at, door) for at, door in enumerate(doors)))
    assert tally.most == {first.account: 4}, "the limit was passed, or never reached"
    assert set(statuses) == {200, 429}
    await eventually(lambda: locks(plane) == 0)
    assert stop(gateways) == [0, 0, 0]  # records are written behind the answers
    records = [record for gateway in gateways for record in gateway.records()]
    assert Counter(record["status"] for record in records) == statuses + Counter({200: 4, 429: 20})
    for record in records:
        if record["status"] == 429:
            assert (record["error_code"], record["error_source"]) == ("owner_concurrency", "client")
            assert (record["attempts"], record["may_be_billed"]) == ([], False)
            assert (record["wait_ms"] or 0) < 10_000, "it waited for a slot"
