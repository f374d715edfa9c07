"""Faults of the ways to Postgres, that of the look-ups and that of the locks; many keys at once."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_ops import metric, ready, until_metric
from tests.daemon.test_refusals import Held, check_error
from tests.edge.relay import Relay
from tests.parts.eventually import eventually
from tests.parts.fault_proxy import Fault, Kind
from tests.parts.gateway import Gateway, parse, unlike
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, draws

Maker = Callable[..., Gateway]
MIB = 1024 * 1024
KINDS = (Kind.RESET, Kind.GARBAGE, Kind.DRIP, Kind.SWALLOW)
OF_LOCKS = (Kind.RESET, Kind.GARBAGE, Kind.SWALLOW)
WITHIN_AN_ANSWER = 7
"""Bytes of an answer of Postgres that come before the fault."""


@contextlib.contextmanager
def broken(relay: Relay, kind: Kind) -> Iterator[None]:
    """The fault meets each answer of Postgres until the block is left, and all is healed."""
    relay.fired, relay.fault = 0, Fault(kind, after=WITHIN_AN_ANSWER)
    try:
        yield
        assert relay.fired, kind
    finally:
        relay.fault = None


async def test_a_known_key_is_served_through_every_fault_of_the_look_ups(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """An unknown one is told to come again, and told the truth once the way is healed."""
    async with Relay(plane.reader_url) as relay:
        gateway = make_gateway(
            relay.url, direct_database_url=plane.reader_url, grant_ttl_seconds=0.2
        )
        await asyncio.to_thread(gateway.start)
        door = make_door(gateway, plane, upstream)
        assert (await door.post(unlike()))[0] == 200

        async def stranger() -> tuple[int, dict[str, str], bytes]:
            """Always another one: it is remembered for a moment that a key does not exist."""
            secret = f"sk-{secrets.token_hex(8)}"
            return await Door(gateway, plane, "none", secret, "none").post(unlike())

        async def knows_strangers() -> bool:
            return (await stranger())[0] == 401

        for kind in KINDS:
            await eventually(knows_strangers)
            with broken(relay, kind):
                await asyncio.sleep(0.3)  # what was read is no longer fresh
                assert (await door.post(unlike()))[0] == 200, kind
                status, headers, body = await stranger()
                assert (status, int(headers["retry-after"]) > 0) == (503, True), kind
                check_error(body, "control_plane_unavailable")
                assert (await door.post(unlike()))[0] == 200, kind
        await eventually(knows_strangers)
        assert len(upstream.calls) == 1 + 2 * len(KINDS)
        assert await metric(gateway, "image_gateway_slots_shared") == 1, "its way had no fault"
        assert await asyncio.to_thread(gateway.stop) == 0
    statuses = [record["status"] for record in gateway.records() if record["key_id"]]
    assert statuses == [200] * len(upstream.calls)


async def test_slots_are_counted_through_every_fault_of_the_locks(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """By this process alone, which says so; healed, the running call has its lock again."""
    async with Relay(plane.reader_url) as relay:
        gateway = make_gateway(
            plane.reader_url, direct_database_url=relay.url, slot_wait_seconds=20
        )
        await asyncio.to_thread(gateway.start)
        door = make_door(gateway, plane, upstream)
        plane.update("accounts", {"account_name": door.account}, image_max_concurrency=2)
        await until_metric(gateway, "image_gateway_slots_shared", 1)
        for number, kind in enumerate(OF_LOCKS, 1):
            upstream.script = held = Held()
            running = [asyncio.create_task(door.post(unlike()))]
            await asyncio.wait_for(held.arrived.acquire(), 20)
            with broken(relay, kind):
                running.append(asyncio.create_task(door.post(unlike())))
                await asyncio.wait_for(held.arrived.acquire(), 20)
                await until_metric(gateway, "image_gateway_slots_shared", 0)
            await until_metric(gateway, "image_gateway_slots_shared", 1)
            await eventually(lambda: plane.locks() == 2)
            held.let_go.set()
            assert [(await each)[0] for each in running] == [200, 200], kind
            await eventually(lambda: plane.locks() == 0)
            assert gateway.words().count("slots are not shared") == number, kind
        # LISTEN goes by the same way.
        await eventually(lambda: listens(gateway))
        assert await asyncio.to_thread(gateway.stop) == 0
    assert [record["status"] for record in gateway.records()] == [200] * 2 * len(OF_LOCKS)


async def listens(gateway: Gateway) -> bool:
    """Whether notifications arrive."""
    return bool((await ready(gateway))[1]["notify"])


REVOKED = 5000
USED = 250
"""Of those, keys that the daemon has in its cache."""


async def test_5000_keys_are_revoked_at_once_while_another_is_served(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """By the notifications alone: without them the cache would be asked for ten minutes."""
    gateway = make_gateway(plane.reader_url, grant_ttl_seconds=600).start()
    door = make_door(gateway, plane, upstream)
    mark = secrets.token_hex(8)
    plane.execute(
        "INSERT INTO image_control.keys (key_id, key_hash) SELECT 'revoked-' || n,"
        f" encode(sha256(('{mark}-' || n)::bytea), 'hex') FROM generate_series(1, {REVOKED}) n"
    )
    upstream.script = draws
    turns = asyncio.Semaphore(16)

    async def status_of(number: int) -> int:
        async with turns:
            head = f"GET /v1/models HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {mark}-{number}"
            return parse(await gateway.raw(f"{head}\r\n\r\n".encode()))[0]

    used = range(1, USED + 1)
    assert set(await asyncio.gather(*map(status_of, used))) == {200}
    served: list[int] = []
    is_over = False

    async def canary() -> None:
        while not is_over:
            served.append((await door.post(unlike()))[0])

    singing = asyncio.create_task(canary())
    await eventually(lambda: served)
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    await asyncio.to_thread(
        plane.execute,
        "UPDATE image_control.keys SET status = 'disabled' WHERE key_id LIKE 'revoked-%'",
    )

    async def last_is_refused() -> bool:
        return await status_of(USED) == 403

    await eventually(last_is_refused, bound=5)
    sample: Any = [*used, *range(REVOKED - 50, REVOKED + 1)]
    assert set(await asyncio.gather(*map(status_of, sample))) == {403}
    seen = len(served)
    await eventually(lambda: len(served) > seen)
    is_over = True
    await singing
    assert set(served) == {200}
    assert gateway.memory("VmHWM") - before <= 16 * MIB
    assert gateway.stop() == 0
    refused = [r for r in gateway.records() if r["error_code"] == "key_disabled"]
    assert len(refused) >= len(sample)
