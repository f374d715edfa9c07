"""What kept calls cost in memory: answers wait on the disk, whoever is slow or gone.

Resident memory is read from /proc.  The bounds are those of ``tests/daemon/test_bounds.py``.
"""

import asyncio
import json
from collections.abc import Callable

from tests.daemon.conftest import make_door
from tests.daemon.test_bounds import MIB, read_slowly
from tests.daemon.test_ops import until_metric
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, images

CALLS = 200
MOST_MEMORY = 400 * MIB
"""What 200 calls in flight may add, as clients that read do; their answers together are as much."""
ANSWER = json.dumps(images()).encode()[:-1] + b', "pad": "' + b"A" * 2_000_000 + b'"}'
PATIENCE_SECONDS = 60.0


async def test_200_calls_whose_clients_left_wait_on_the_disk_until_they_are_fetched(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=CALLS)
    gate = asyncio.Event()

    async def script(call: Call) -> None:
        await gate.wait()
        await call.answer(200, ANSWER)

    upstream.script = script
    bodies = [json.dumps({"prompt": f"cat {number}"}).encode() for number in range(CALLS)]
    writers = [(await gateway.connect())[1] for _ in bodies]
    for writer, body in zip(writers, bodies, strict=True):
        writer.write(post(door.secret, body))
    await eventually(lambda: len(upstream.calls) == CALLS, PATIENCE_SECONDS)
    for writer in writers:
        writer.close()

    async def fetch(body: bytes) -> str:
        reader, writer = await gateway.connect()
        writer.write(post(door.secret, body))
        status, headers, answer = parse(await rest_of(reader))
        writer.close()
        assert (status, len(answer)) == (200, len(ANSWER))
        return headers["x-call-source"]

    await until_metric(gateway, 'image_gateway_calls{state="left"}', CALLS)
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    gate.set()
    await eventually(lambda: len(gateway.records()) == CALLS, PATIENCE_SECONDS)
    assert gateway.memory("VmHWM") - before <= MOST_MEMORY
    assert all(record["client_left"] and record["usage"] for record in gateway.records())
    gateway.forget_peak()
    waiting = asyncio.Semaphore(20)

    async def fetched(body: bytes) -> str:
        async with waiting:
            return await fetch(body)

    assert await asyncio.gather(*map(fetched, bodies)) == ["taken-over"] * CALLS
    assert gateway.memory("VmHWM") - before <= MOST_MEMORY
    assert len(upstream.calls) == CALLS
    assert gateway.stop() == 0


async def test_200_slow_readers_of_kept_answers_hold_no_pictures(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)

    async def script(call: Call) -> None:
        await call.answer(200, ANSWER)

    upstream.script = script
    headers = {"Idempotency-Key": "order-1"}
    request = post(door.secret, b'{"prompt": "a"}', headers=headers)
    assert await read_slowly(gateway, request) > len(ANSWER)
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    read = await asyncio.gather(*(read_slowly(gateway, request) for _ in range(CALLS)))
    assert min(read) > len(ANSWER)
    assert gateway.memory("VmHWM") - before <= MOST_MEMORY / 2
    assert len(upstream.calls) == 1
    assert gateway.stop() == 0
