"""Slots that never leak whatever a call meets, and Postgres killed and restarted under load."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest

from image_gateway.demo import postgres
from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post, unlike
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws

CALLS = 300
AT_ONCE = 12


async def cuts(call: Call) -> None:
    await call.head(200, {"content-length": "1000"})
    await call.send(b'{"data"')


async def resets(call: Call) -> None:
    call.writer.transport.abort()


async def hangs(call: Call) -> None:
    await call.gone()


@pytest.mark.parametrize("leaves", ["cancel", "finish"])
async def test_no_slot_leaks_whatever_happens_to_300_calls(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, leaves: str
) -> None:
    """A seeded mix of successes, failures at every stage, cancellations and clients that leave."""
    chance = random.Random(20261121)
    gateway = make_gateway(plane.reader_url, when_client_leaves=leaves).start()
    door = make_door(gateway, plane, upstream, max_concurrency=AT_ONCE)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=AT_ONCE)
    ends = [draws, cuts, resets, answers(400, b"{}"), answers(302, b""), answers(200, b"")]
    if leaves == "cancel":  # else nothing would end it
        ends.append(hangs)
    running = 0
    most = 0

    async def script(call: Call) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(chance.random() * 0.02)
            await chance.choice(ends)(call)
        finally:
            running -= 1

    upstream.script = script
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            reader, writer = await door.gateway.connect()
            with contextlib.suppress(TimeoutError, ConnectionError):
                asked = post(door.secret, unlike())
                writer.write(asked if chance.random() < 0.9 else asked[:-3])
                await asyncio.wait_for(reader.read(), chance.random() * 0.06)
            writer.close()

    await asyncio.gather(*(one() for _ in range(CALLS)))
    await eventually(lambda: upstream.open_connections == 0)
    # Every place is there again: as many calls as ever may run, and not one more.
    upstream.script = held = Held()
    calls = len(upstream.calls)
    last = [asyncio.create_task(door.post(unlike())) for _ in range(AT_ONCE)]
    for _ in last:
        await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await door.post(unlike()))[0] == 429
    held.let_go.set()
    assert {status for status, _, _ in await asyncio.gather(*last)} == {200}
    assert len(upstream.calls) == calls + AT_ONCE
    assert most <= AT_ONCE
    await eventually(
        lambda: (
            len([r for r in door.gateway.records() if r["key_id"] == door.key_id])
            == CALLS + AT_ONCE + 1
        )
    )


async def test_known_keys_go_on_while_postgres_is_killed_and_all_heals_after(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(plane.reader_url, grant_ttl_seconds=0.2).start()
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        server.kill()
        for _ in range(10):
            assert (await door.post(PROMPT))[0] == 200
            await asyncio.sleep(0.1)
        stranger = Door(gateway, plane, "none", "sk-stranger", "none")
        status, headers, body = await stranger.post(PROMPT)
        assert status == 503
        assert int(headers["retry-after"]) > 0
        check_error(body, "control_plane_unavailable")
        server.start()

        async def knows_strangers() -> bool:
            return (await stranger.post(PROMPT))[0] == 401

        await eventually(knows_strangers)
        plane.update("keys", {"key_id": door.key_id}, image_enabled=False)

        async def is_switched_off() -> bool:
            return (await door.post(PROMPT))[0] == 403

        await eventually(is_switched_off)
        assert gateway.stop() == 0
