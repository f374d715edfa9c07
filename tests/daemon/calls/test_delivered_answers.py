"""A client without a proxy that did not get its whole answer finds it again: that can be known."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.daemon.calls.parts import CAT, answer_of, asking, hold, submit
from tests.daemon.conftest import Door, make_door, open_door
from tests.daemon.responses.calls import INTENT, PATH
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, codex_turn, images, picture, streams

BACKGROUND = INTENT.removesuffix(b"}") + b',"background":true}'
LARGE = json.dumps(images(data=[{"b64_json": picture(12_000_000)}])).encode()


async def draws_large(call: Call) -> None:
    await call.answer(200, LARGE)


@pytest.fixture(scope="module")
def direct(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon whose clients come without a proxy."""
    folder = tmp_path_factory.mktemp("direct")
    made = Gateway(folder, shared_plane.reader_url, trusted_proxies="192.0.2.0/24").start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
def door(direct: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    return make_door(direct, shared_plane, upstream)


async def test_a_client_that_read_it_all_has_it(door: Door, upstream: ScriptedUpstream) -> None:
    upstream.script = draws_large
    for _ in range(2):
        status, headers, body = await door.post(CAT)
        assert (status, headers["x-call-source"], body) == (200, "made", LARGE)
    assert len(upstream.calls) == 2


async def leave_half_way(door: Door) -> None:
    """Ask, and be killed when the answer has begun to come."""
    with socket.create_connection(("127.0.0.1", door.gateway.port)) as client:
        client.sendall(post(door.secret, CAT))
        got = await asyncio.to_thread(client.recv, 65536)
        assert got.startswith(b"HTTP/1.1 200")


async def test_a_client_that_was_killed_half_way_finds_its_answer_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Also after a second one that was killed, to which the answer came from the disk."""
    upstream.script = draws_large
    for source in ("made", "taken-over"):
        await leave_half_way(door)
        record = await door.record(call_source=source)
        assert (record["status"], record["client_left"]) == (200, True)
        assert record["error_code"] == "client_left"
    _, headers, body = await door.post(CAT)
    assert (headers["x-call-source"], body) == ("taken-over", LARGE)
    assert len(upstream.calls) == 1


# A buffer of a fixed size: one that grows may take all of the answer.
READER = """
import socket, sys, time
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
client.connect(("127.0.0.1", int(sys.argv[1])))
client.sendall(sys.stdin.buffer.read())
print(client.recv(12), flush=True)
time.sleep(60)
"""


async def test_a_process_that_is_killed_while_it_reads_finds_its_answer_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Its kernel has taken megabytes of it, which are not to have it."""
    upstream.script = draws_large
    reader = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        READER,
        str(door.gateway.port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        reader.stdin.write(post(door.secret, CAT))
        reader.stdin.write_eof()
        async with asyncio.timeout(BOUND_SECONDS):
            assert b"HTTP/1.1 200" in await reader.stdout.readline()
    finally:
        reader.kill()
        await reader.wait()
    await door.record(client_left=True)
    _, headers, body = await door.post(CAT)
    assert (headers["x-call-source"], body) == ("taken-over", LARGE)
    assert len(upstream.calls) == 1


async def test_a_retry_may_come_while_the_refused_try_is_still_open(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """A client need not close a connection before it asks again; its next retry finds the last."""
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    held = hold(upstream)
    running = asyncio.create_task(door.post(CAT))
    await asyncio.wait_for(held.begun.wait(), 20)
    async with asking(door) as refused:
        assert answer_of(await refused)[0] == 429
        held.go.set()
        await running
        for source in ("made", "replayed"):
            status, headers, _ = await door.post(CAT, x_stainless_retry_count="1")
            assert (status, headers["x-call-source"]) == (200, source)
    assert len(upstream.calls) == 2


# -- ids -------------------------------------------------------------------------------------------


@asynccontextmanager
async def not_reading(door: Door, body: bytes, path: str, **headers: str) -> AsyncIterator[None]:
    """A client that asks and is killed at the end of the block, before it has read anything."""
    with socket.create_connection(("127.0.0.1", door.gateway.port)) as client:
        client.sendall(post(door.secret, body, path, headers=headers))
        yield


async def test_an_id_that_came_from_the_disk_and_was_lost_is_given_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    async with asking(door, CAT, {"Prefer": "respond-async, wait=20"}):
        await asyncio.wait_for(held.begun.wait(), 20)
    held.go.set()
    await door.record(client_left=True)
    async with not_reading(door, CAT, "/v1/images/generations", Prefer="respond-async"):
        await door.record(status=202)
    for source in ("taken-over", "made"):
        status, headers, _ = await submit(door)
        assert (status, headers["x-call-source"]) == (202, source)
    await eventually(lambda: len(upstream.calls) == 2)


async def test_a_lost_response_in_the_background_is_given_to_one_request_alone(
    direct: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = open_door(direct, shared_plane, upstream, "codex-responses")
    held = hold(upstream, streams(codex_turn()))
    async with not_reading(door, BACKGROUND, PATH):
        await asyncio.wait_for(held.begun.wait(), 20)
    held.go.set()
    await door.record(status=200)
    found = [json.loads((await door.post(BACKGROUND, PATH))[2]) for _ in range(2)]
    assert [each["status"] for each in found] == ["completed", "queued"]
    assert found[0]["id"] != found[1]["id"]
    await eventually(lambda: len(upstream.calls) == 2)
