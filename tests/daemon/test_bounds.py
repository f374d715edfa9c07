"""Memory and descriptors: what hostile or merely large calls may cost.

Resident memory is read from /proc; the bounds are promises of core/README.md, not measurements.
"""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import Held, check_error
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import POOLED, Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, images

MIB = 1024 * 1024


def draws_mb(count: int) -> Script:
    """One picture of so many MiB, made of pieces so that this process does not hold it either."""

    async def script(call: Call) -> None:
        piece = b"A" * MIB
        start, end = b'{"data": [{"b64_json": "', b'"}]}'
        await call.head(200, {"content-length": str(len(start) + count * MIB + len(end))})
        await call.send(start)
        for _ in range(count):
            await call.send(piece)
        await call.send(end)

    return script


async def read_slowly(gateway: Gateway, request: bytes) -> int:
    """Read an answer with a pause after each bite of 64 KiB; gives the bytes that came."""
    reader, writer = await gateway.connect()
    writer.write(request)
    count = 0
    while chunk := await reader.read(65536):
        count += len(chunk)
        await asyncio.sleep(0.001)
    writer.close()
    return count


@pytest.mark.parametrize("form", ["", ', "response_format": "url"'], ids=["as it is", "as url"])
async def test_a_picture_of_100_mb_and_a_slow_reader_cost_one_mib(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, form: str
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    request = post(door.secret, b'{"prompt": "a"%b}' % form.encode())
    upstream.script = draws_mb(16)
    for _ in range(3):
        assert await read_slowly(gateway, request) > 16 * MIB
    before = gateway.memory("VmHWM")
    upstream.script = draws_mb(100)
    assert await read_slowly(gateway, request) > 100 * MIB
    assert gateway.memory("VmHWM") - before <= MIB
    await eventually(lambda: len(gateway.records()) == 4)
    assert {record["response_image_count"] for record in gateway.records()} == {1}
    assert gateway.stop() == 0


async def test_an_edit_of_20_mb_is_not_held_in_memory(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    url = "data:image/png;base64," + "A" * (20 * 1000 * 1000)
    body = json.dumps({"prompt": "a", "images": [{"image_url": url}]}).encode()
    for _ in range(2):
        assert (await door.post(body, "/v1/images/edits"))[0] == 200
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert (await door.post(body, "/v1/images/edits"))[0] == 200
    # Not once, let alone three times: a piece in the air, a piece for the disk.
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    assert upstream.calls[-1].json()["images"][0]["image_url"] == url
    assert list((gateway.folder / "spool").iterdir()) == []
    assert gateway.stop() == 0


async def test_200_posts_of_20_mb_with_a_bad_key_leave_nothing(
    plane: Plane, make_gateway: Any
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    request = post("sk-nobody", b"x" * (20 * 1000 * 1000))

    async def refused() -> int:
        reader, writer = await gateway.connect()
        sending = asyncio.create_task(_send(writer, request))
        status, _, body = parse(await rest_of(reader))
        check_error(body, "invalid_api_key")
        await sending
        writer.close()
        return status

    async def burst(count: int, at_once: int) -> list[int]:
        gate = asyncio.Semaphore(at_once)

        async def one() -> int:
            async with gate:
                return await refused()

        return await asyncio.gather(*(one() for _ in range(count)))

    assert await burst(200, 20) == [401] * 200
    descriptors, memory = gateway.descriptors(), gateway.memory()
    assert await burst(200, 20) == [401] * 200
    await eventually(lambda: gateway.descriptors() <= descriptors + POOLED)
    # A buffer of 64 KiB lost with each post would be 13 MB.
    assert gateway.memory() - memory <= 4 * MIB
    await eventually(lambda: len(gateway.records()) == 400)
    assert {record["error_code"] for record in gateway.records()} == {"invalid_api_key"}
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("settings", "pause"),
    [({"max_request_bytes": MIB}, 0), ({"body_seconds": 1}, 0.02)],
    ids=["bytes", "seconds"],
)
async def test_who_is_refused_and_sends_without_end_is_told_and_dropped(
    plane: Plane, make_gateway: Any, settings: dict[str, float], pause: float
) -> None:
    """Neither bytes that go on coming nor a trickle of them hold a connection."""
    gateway = make_gateway(plane.reader_url, **settings).start()
    reader, writer = await gateway.connect()
    writer.write(post("sk-nobody", b"", headers={"content-length": str(2**40)}))
    sent = 0

    async def send() -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
                await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    answer = await rest_of(reader)
    await asyncio.wait_for(sending, BOUND_SECONDS)
    writer.close()
    status, headers, body = parse(answer)
    assert (status, len(body)) == (401, int(headers["content-length"]))
    check_error(body, "invalid_api_key")
    # Three times the largest body, and what the kernel holds for both sides.
    assert sent < 20 * MIB
    assert (await gateway.record())["error_code"] == "invalid_api_key"
    # It waits for every connection, far longer than this for one that it still had.
    assert gateway.stop() == 0


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send all of it, as far as the other side takes it."""
    try:
        for start in range(0, len(data), MIB):
            writer.write(data[start : start + MIB])
            await writer.drain()
    except ConnectionError:
        pass


async def test_200_calls_in_flight_do_not_hold_200_pictures(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=200)
    whole = json.dumps(images()).encode()[:-1] + b', "pad": "' + b"A" * 6_000_000 + b'"}'
    gate = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def script(call: Call) -> None:
        await call.head(200, {"content-length": str(len(whole))})
        begun.release()
        await gate.wait()
        await call.send(whole)

    upstream.script = script
    request = post(door.secret, b'{"prompt": "a"}')
    running = [asyncio.create_task(read_slowly(gateway, request)) for _ in range(200)]
    for _ in running:
        await asyncio.wait_for(begun.acquire(), 30)
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    gate.set()
    assert min(await asyncio.gather(*running)) > len(whole)
    # 1.2 GB went through; a call may hold its buffers, never its picture of 6 MB.  They are 1.3 to
    # 1.5 MiB on a quiet machine, and more where the client is slower.
    assert gateway.memory("VmHWM") - before <= 400 * MIB
    assert gateway.stop() == 0


async def test_past_the_memory_budget_new_calls_are_told_to_come_again(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, memory_budget_bytes=1_500_000).start()
    door = make_door(gateway, plane, upstream)
    upstream.script = held = Held()
    filling = b'{"prompt": "a", "images": ["data:image/png;base64,' + b"A" * 900_000 + b'"]}'
    first = asyncio.create_task(door.post(filling, "/v1/images/edits"))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    status, headers, body = await door.post(filling, "/v1/images/edits")
    assert (status, int(headers["retry-after"]) > 0) == (503, True)
    check_error(body, "overloaded")
    held.let_go.set()
    assert (await first)[0] == 200
    assert (await door.post(filling, "/v1/images/edits"))[0] == 200
    assert len(upstream.calls) == 2
    assert gateway.stop() == 0


async def test_past_the_spool_budget_new_calls_are_told_to_come_again(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, spool_budget_bytes=3_000_000).start()
    door = make_door(gateway, plane, upstream)
    large = b'{"prompt": "a", "images": ["data:image/png;base64,' + b"A" * 5_000_000 + b'"]}'
    status, _, body = await door.post(large, "/v1/images/edits")
    assert status == 503
    check_error(body, "overloaded")
    small = large.replace(b"A" * 3_500_000, b"")
    for _ in range(3):
        assert (await door.post(small, "/v1/images/edits"))[0] == 200
    assert gateway.stop() == 0


async def test_a_call_that_waits_for_its_answer_outlives_every_body_deadline(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    """Deadlines for a body are no deadlines for an answer: a picture takes minutes."""
    gateway = make_gateway(
        plane.reader_url, body_seconds=0.5, body_idle_seconds=0.5, send_seconds=0.5
    ).start()
    door: Door = make_door(gateway, plane, upstream)

    async def thinks(call: Call) -> None:
        await asyncio.sleep(2)
        await call.answer(200, images())

    upstream.script = thinks
    assert (await door.post(b'{"prompt": "a"}'))[0] == 200
    assert gateway.stop() == 0
