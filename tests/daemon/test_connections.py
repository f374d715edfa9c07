"""Many connections and few descriptors: nobody is refused silently, and calls go before idlers."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_ops import metric, until_metric
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.parts.eventually import eventually
from tests.parts.gateway import POOLED, Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

IDLE = 'image_gateway_connections{state="idle"}'
BUSY = 'image_gateway_connections{state="busy"}'
LIMIT = 16
SERVED = 15


@pytest.fixture(scope="module")
def limited(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon with few connections, which the tests of this module share."""
    folder = tmp_path_factory.mktemp("limited")
    made = Gateway(folder, shared_plane.reader_url, max_connections=LIMIT).start()
    yield made
    assert made.stop() == 0, made.words()


@pytest.fixture
async def door(limited: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    await until_metric(limited, IDLE, 0)
    await until_metric(limited, BUSY, 0)
    made = make_door(limited, shared_plane, upstream)
    shared_plane.update("accounts", {"account_name": made.account}, image_max_concurrency=200)
    return made


def idlers(gateway: Gateway, count: int, stack: ExitStack) -> list[socket.socket]:
    """So many connections that send nothing."""
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        for _ in range(count)
    ]


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def ask(gateway: Gateway, request: bytes) -> bytes:
    """All that comes for a request, until the connection ends in whatever way."""
    reader, writer = await gateway.connect()
    writer.write(request)
    try:
        return await rest_of(reader)
    finally:
        writer.close()


async def test_idle_connections_give_way_the_oldest_first(door: Door) -> None:
    gateway = door.gateway
    with ExitStack() as stack:
        clients = idlers(gateway, LIMIT, stack)
        await until_metric(gateway, IDLE, LIMIT)
        for _ in range(3):
            assert (await door.post(PROMPT))[0] == 200
        # One made room; the others found the place of the call before them.
        await eventually(lambda: is_closed(clients[0]))
        assert not any(map(is_closed, clients[3:]))
    await until_metric(gateway, IDLE, 0)
    assert "the limit of 16 connections is reached" in gateway.words()
    assert "Raise MAX_CONNECTIONS, and LimitNOFILE with it" in gateway.words()
    assert await metric(gateway, "image_gateway_connections_limit") == LIMIT


async def test_300_idle_connections_do_not_keep_a_call_out(door: Door) -> None:
    with ExitStack() as stack:
        idlers(door.gateway, 300, stack)
        answers = await asyncio.gather(*(door.post(PROMPT) for _ in range(10)))
        assert [status for status, *_ in answers] == [200] * 10
    found = [record for record in door.gateway.records() if record["key_id"] == door.key_id]
    assert {record["status"] for record in found} == {200}
    # One line a minute, for 300 that were closed.
    assert 1 <= door.gateway.words().count("the limit of 16 connections is reached") < 10


async def test_when_all_have_a_request_new_ones_get_503(
    door: Door, upstream: ScriptedUpstream
) -> None:
    gateway = door.gateway
    upstream.script = held = Held()
    running = [asyncio.create_task(door.post(b'{"prompt": "cat %d"}' % n)) for n in range(SERVED)]
    for _ in running:
        await asyncio.wait_for(held.arrived.acquire(), 10)
    assert await metric(gateway, BUSY) == SERVED
    # The last connection is there to refuse.
    status, headers, body = await door.post(PROMPT)
    assert (status, int(headers["retry-after"]) > 0) == (503, True)
    check_error(body, "overloaded")
    record = await gateway.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_code"], record["attempts"]) == (503, "overloaded", [])
    assert len(upstream.calls) == SERVED
    held.let_go.set()
    assert [status for status, *_ in await asyncio.gather(*running)] == [200] * SERVED


async def test_when_even_the_last_is_busy_new_ones_are_refused_at_the_door(
    door: Door, upstream: ScriptedUpstream
) -> None:
    gateway = door.gateway
    # A body that is not whole keeps a connection busy, also one that refuses.
    partial = post(door.secret, b"", headers={"content-length": "10"})
    writers = []
    for count in range(LIMIT):
        _, writer = await gateway.connect()
        writers.append(writer)
        writer.write(partial)
        if count < SERVED:
            await until_metric(gateway, BUSY, count + 1)
    await until_metric(gateway, BUSY, LIMIT)
    try:
        status, headers, body = parse(await ask(gateway, post(door.secret, PROMPT)))
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        check_error(body, "overloaded")
    finally:
        for writer in writers:
            writer.transport.abort()
    await until_metric(gateway, BUSY, 0)
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.record(status=200))["attempts"][0]["status"] == 200


@pytest.mark.parametrize(
    ("sent", "leave"),
    [
        (b"", "close"),
        (b"", "reset"),
        (b"", "half"),
        (b"POST /v1/images/generations HT", "close"),
        (b"POST /v1/images/generations HTTP/1.1\r\nhost: a\r\n", "reset"),
        (b"POST /v1/images/generations HTTP/1.1\r\nhost: a\r\n", "half"),
    ],
)
async def test_who_leaves_without_a_request_leaves_no_descriptor(
    door: Door, sent: bytes, leave: str
) -> None:
    """At once, as long as HEAD_SECONDS has not passed by far: none is ever closed for another."""
    gateway = door.gateway
    before = gateway.descriptors()
    with ExitStack() as stack:
        for client in idlers(gateway, LIMIT - 1, stack):
            client.sendall(sent)
            if leave == "close":
                client.close()
            elif leave == "half":
                client.shutdown(socket.SHUT_WR)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
        # Far below the 10 s that a head may take.
        await eventually(lambda: gateway.descriptors() <= before + POOLED, bound=5)
    await until_metric(gateway, IDLE, 0)


async def test_without_a_descriptor_idle_connections_go_and_then_new_ones_get_503(
    make_gateway: Any, plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    upstream.script = held = Held()
    running = [asyncio.create_task(door.post(b'{"prompt": "cat %d"}' % n)) for n in range(3)]
    for _ in running:
        await asyncio.wait_for(held.arrived.acquire(), 10)
    hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)[1]
    writers = []
    with ExitStack() as stack:
        few = above_all(gateway) + 6
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (few, hard))
        clients = idlers(gateway, 20, stack)
        await eventually(lambda: all(map(is_closed, clients[:10])))
        await eventually(lambda: "Too many open files" in gateway.words())
        # Those with a request are not closed for others.
        for _ in range(40):
            _, writer = await gateway.connect()
            writers.append(writer)
            writer.write(post(door.secret, b"", headers={"content-length": "10"}))
        await eventually(lambda: gateway.descriptors() >= few)
        await until_closed(clients)
        for _ in range(5):
            status, _, body = parse(await ask(gateway, post(door.secret, PROMPT)))
            assert status == 503
            check_error(body, "overloaded")
        seconds = cpu_seconds(gateway)
        idlers(gateway, 40, stack)
        await asyncio.sleep(1)  # what would spin does it meanwhile
        assert cpu_seconds(gateway) - seconds < 0.5
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for writer in writers:
        writer.transport.abort()
    held.let_go.set()
    assert [status for status, *_ in await asyncio.gather(*running)] == [200] * 3
    assert (await door.post(PROMPT))[0] == 200
    assert "connections cannot be accepted (Too many open files)" in gateway.words()
    assert "Raise MAX_CONNECTIONS, and LimitNOFILE with it" in gateway.words()
    await eventually(lambda: sum(each["status"] == 200 for each in gateway.records()) == 4)
    assert gateway.stop() == 0


def above_all(gateway: Gateway) -> int:
    """A limit of open files that the daemon just reaches, if all lower numbers are taken."""
    return 1 + max(int(each.name) for each in Path(f"/proc/{gateway.pid}/fd").iterdir())


async def until_closed(clients: list[socket.socket]) -> None:
    await eventually(lambda: all(map(is_closed, clients)))


def cpu_seconds(gateway: Gateway) -> float:
    times = psutil.Process(gateway.pid).cpu_times()
    return float(times.user + times.system)


async def test_too_low_a_limit_of_open_files_is_raised_as_far_as_it_goes_and_told(
    make_gateway: Any, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """At 256 the gateway once refused 252 of 253 calls, silently, for 400 idle connections."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))

    gateway = make_gateway(plane.reader_url).start(preexec_fn=lower)
    assert await metric(gateway, "image_gateway_connections_limit") == 32
    assert gateway.words().count("this process may have 256: it accepts 32 connections") == 1
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=200)
    with ExitStack() as stack:
        idlers(gateway, 200, stack)
        gate = asyncio.Semaphore(20)

        async def call(number: int) -> int:
            async with gate:
                return (await door.post(b'{"prompt": "cat %d"}' % number))[0]

        assert await asyncio.gather(*map(call, range(40))) == [200] * 40
    assert len(upstream.calls) == 40
    await eventually(lambda: len(gateway.records()) == 40)
    assert gateway.stop() == 0
