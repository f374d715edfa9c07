"""Clients that leave, at every point: what was bought is not lost, nothing stays behind.

By default a call goes on without its client (``WHEN_CLIENT_LEAVES=finish``).  Where the settings
say ``cancel`` it ends at once, and its slot comes back.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon.calls.parts import ask, error_code
from tests.daemon.conftest import Door, make_door, open_door
from tests.daemon.test_refusals import PROMPT
from tests.parts.eventually import eventually
from tests.parts.gateway import POOLED, Gateway, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    drawn,
    draws,
    frame,
    images,
    partial,
    streams,
)

PROMISED_SECONDS = 2.0
"""After the client left, its slot is free within this time."""


class Watched:
    """A script that goes so far and then waits for the gateway to hang up."""

    def __init__(self, *, head: bool = False, body: bytes = b"") -> None:
        self.head = head
        self.body = body
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        if self.head:
            await call.head(200, {"content-length": "100000"})
            await call.send(self.body)
        self.begun.set()
        await call.gone()
        self.ended.set()


OTHER = b'{"prompt": "a dog"}'
"""A call that is no retry of ``PROMPT``."""


async def slot_is_free(door: Door, upstream: ScriptedUpstream) -> None:
    """The account's one slot takes a call again, within the promised time."""
    upstream.script = draws

    async def is_served() -> bool:
        return (await door.post(OTHER))[0] == 200

    await eventually(is_served, PROMISED_SECONDS)


def narrow_door(gateway: Gateway, plane: Plane, upstream: ScriptedUpstream) -> Door:
    """A door with one slot."""
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    return door


@pytest.fixture
def narrow(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    """A door whose calls go on without their clients."""
    return narrow_door(gateway, shared_plane, upstream)


@pytest.fixture(scope="module")
def cancelling(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon that cancels the calls of clients that leave."""
    folder = tmp_path_factory.mktemp("cancelling")
    made = Gateway(folder, shared_plane.reader_url, when_client_leaves="cancel").start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
def strict(cancelling: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    """A door whose calls end with their clients."""
    return narrow_door(cancelling, shared_plane, upstream)


# -- a call goes on --------------------------------------------------------------------------------


class Held:
    """A script that waits for the test's word, and then answers."""

    def __init__(self, script: Script) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self._script = script

    async def __call__(self, call: Call) -> None:
        self.begun.set()
        await self.go.wait()
        await self._script(call)


async def test_a_call_goes_on_without_its_client_and_its_usage_is_recorded(
    narrow: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = script = Held(draws)
    _, writer = await narrow.gateway.connect()
    writer.write(post(narrow.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    writer.close()
    # Its slot is held for as long as the upstream works: that is the truth.
    assert (await narrow.post(OTHER))[0] == 429
    assert upstream.open_connections == 1
    script.go.set()
    record = await narrow.record(client_left=True)
    assert (record["status"], record["error_code"]) == (None, "client_left")
    assert record["response_image_count"] == 1
    assert record["usage"]["total_tokens"] == images()["usage"]["total_tokens"]
    assert record["may_be_billed"]
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"]
    await slot_is_free(narrow, upstream)


async def test_the_same_call_again_gets_the_picture_that_its_first_client_left(
    narrow: Door, upstream: ScriptedUpstream
) -> None:
    """As AI SDK and curl call again: without a word that it is a retry."""
    upstream.script = script = Held(draws)
    _, writer = await narrow.gateway.connect()
    writer.write(post(narrow.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    writer.close()

    again = asyncio.create_task(narrow.post(PROMPT))
    await asyncio.wait([again], timeout=0.2)
    script.go.set()
    status, headers, body = await again
    assert (status, headers["x-call-source"]) == (200, "taken-over")
    assert json.loads(body)["data"] == images()["data"]
    assert len(upstream.calls) == 1
    first, second = [await narrow.record(call_source=source) for source in ("made", "taken-over")]
    assert first["call_id"] == second["call_id"] == headers["x-call-id"]
    assert second["call_request_id"] == first["request_id"]
    assert (second["attempts"], second["usage"]) == ([], None)


async def test_a_call_that_waits_for_a_slot_ends_with_its_client(
    narrow: Door, plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    """Nothing was bought, so nothing is lost; and nobody waits behind one who is gone."""
    gateway = make_gateway(plane.reader_url, slot_wait_seconds=60).start()
    door = narrow_door(gateway, plane, upstream)
    upstream.script = script = Held(draws)
    first = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    _, writer = await gateway.connect()
    writer.write(post(door.secret, OTHER))

    async def waits() -> bool:
        status = json.loads((await gateway.ops("/status.json"))[2])
        return bool(status["waiting"]["calls"] == 1)

    await eventually(waits)
    writer.close()
    record = await door.record(client_left=True)
    assert (record["attempts"], record["may_be_billed"]) == ([], False)
    script.go.set()
    assert (await first)[0] == 200
    assert len(upstream.calls) == 1
    assert gateway.stop() == 0


# -- where the settings say cancel -----------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        Watched(),
        Watched(head=True),
        Watched(head=True, body=b'{"data": [{"b64_json": "A'),
    ],
    ids=["waiting for the answer", "before its first byte", "within its body"],
)
async def test_a_client_that_leaves_cancels_its_call_and_frees_the_slot(
    strict: Door, upstream: ScriptedUpstream, script: Watched
) -> None:
    script.begun, script.ended = asyncio.Event(), asyncio.Event()
    upstream.script = script
    _, writer = await strict.gateway.connect()
    writer.write(post(strict.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    assert (await strict.post(OTHER))[0] == 429
    writer.close()
    await asyncio.wait_for(script.ended.wait(), PROMISED_SECONDS)
    await slot_is_free(strict, upstream)
    record = await strict.record(client_left=True)
    assert record["status"] is None
    assert (record["error_code"], record["error_source"]) == ("client_left", "client")
    assert record["may_be_billed"]
    assert len(record["attempts"]) == 1
    assert len(upstream.calls) == 2
    answer = await ask(strict, f"/v1/images/calls/{record['call_id']}")
    assert (answer[0], error_code(answer)) == (409, "call_cancelled")


async def test_a_client_that_leaves_a_stream_cancels_its_call(
    cancelling: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    strict = open_door(cancelling, shared_plane, upstream, "openai")
    gone = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(partial(0)))
        await call.gone()
        gone.set()

    upstream.script = script
    reader, writer = await strict.gateway.connect()
    asked = {"prompt": "a cat", "stream": True, "partial_images": 1}
    writer.write(post(strict.secret, json.dumps(asked).encode()))
    await asyncio.wait_for(reader.readuntil(b"partial_image"), 10)
    writer.transport.abort()
    await asyncio.wait_for(gone.wait(), 20)
    record = await strict.record()
    assert record["client_left"]
    assert record["may_be_billed"]
    assert record["attempts"][0]["stage"] == "stream"


async def test_a_client_that_leaves_cancels_every_call_of_its_request(
    cancelling: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = open_door(cancelling, shared_plane, upstream, "codex-responses", image_max_concurrency=3)

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(drawn()[0]))
        await call.gone()

    upstream.script = script
    _, writer = await door.gateway.connect()
    writer.write(post(door.secret, b'{"prompt": "a cat", "n": 3}'))
    await eventually(lambda: len(upstream.calls) == 3)
    writer.transport.abort()
    record = await door.record()
    assert record["client_left"]
    assert len(record["attempts"]) == 3
    await eventually(lambda: upstream.open_connections == 0)
    upstream.script = streams(drawn())
    assert (await door.post(b'{"prompt": "a dog", "n": 3}'))[0] == 200


async def test_a_client_that_leaves_while_a_large_body_goes_upstream_frees_the_slot(
    strict: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    """The upstream reads nothing, so the bytes hang in the gateway's send buffer."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        where = {"account_name": strict.account}
        shared_plane.update("accounts", where, base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        body = json.dumps(
            {"prompt": "a", "images": ["data:image/png;base64," + "A" * 19_000_000]}
        ).encode()
        _, writer = await strict.gateway.connect()
        writer.write(post(strict.secret, body, "/v1/images/edits"))
        await writer.drain()
        loop = asyncio.get_running_loop()
        deaf.setblocking(False)
        accepted, _ = await asyncio.wait_for(loop.sock_accept(deaf), 20)
        with accepted:
            assert await asyncio.wait_for(loop.sock_recv(accepted, 1), 20) == b"P"
            writer.close()
            record = await strict.record(client_left=True)
            assert record["attempts"][0]["stage"] == "sent"
            assert record["may_be_billed"]
            shared_plane.update("accounts", where, base_url=upstream.url)
            await slot_is_free(strict, upstream)


# -- either way ------------------------------------------------------------------------------------


async def test_a_client_that_leaves_within_its_body_is_recorded_and_costs_nothing(
    narrow: Door, upstream: ScriptedUpstream
) -> None:
    _, writer = await narrow.gateway.connect()
    writer.write(post(narrow.secret, b'{"prompt"', headers={"content-length": "1000"}))
    await writer.drain()
    writer.close()
    record = await narrow.record(client_left=True)
    assert (record["status"], record["request_bytes"]) == (None, 9)
    assert not record["may_be_billed"]
    assert upstream.calls == []


async def test_bytes_behind_the_request_end_the_connection(
    strict: Door, upstream: ScriptedUpstream
) -> None:
    """They would hide that the client left, so a pipelining client is dropped at once."""
    upstream.script = script = Watched()
    reader, writer = await strict.gateway.connect()
    writer.write(post(strict.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    writer.write(post(strict.secret, PROMPT))
    await asyncio.wait_for(script.ended.wait(), PROMISED_SECONDS)
    assert await rest_of(reader) == b""
    writer.close()
    await slot_is_free(strict, upstream)
    assert (await strict.record(client_left=True))["may_be_billed"]


async def test_a_client_that_does_not_read_is_dropped(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, send_seconds=0.5).start()
    door = make_door(gateway, plane, upstream)
    large = json.dumps(images()).encode() + b" " * 30_000_000

    async def script(call: Call) -> None:
        await call.answer(200, large)

    upstream.script = script
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(client, post(door.secret, PROMPT))
        record = await door.record()
    assert record["client_left"]
    assert record["status"] == 200
    assert record["response_bytes"] < len(large)
    await eventually(lambda: upstream.open_connections == 0)
    assert gateway.stop() == 0


async def test_nothing_is_left_open_by_clients_that_leave(
    strict: Door, upstream: ScriptedUpstream
) -> None:
    assert (await strict.post(PROMPT))[0] == 200
    before = strict.gateway.descriptors()
    for head in (False, True):
        for _ in range(20):
            upstream.script = script = Watched(head=head, body=b"{")
            _, writer = await strict.gateway.connect()
            writer.write(post(strict.secret, PROMPT))
            await asyncio.wait_for(script.begun.wait(), 10)
            writer.close()
            await asyncio.wait_for(script.ended.wait(), 10)
            await slot_is_free(strict, upstream)
    await eventually(lambda: strict.gateway.descriptors() <= before + POOLED)
    assert (
        len(
            [
                r
                for r in strict.gateway.records()
                if r["key_id"] == strict.key_id and r["client_left"]
            ]
        )
        == 40
    )


async def test_a_client_that_is_refused_and_gone_is_recorded_at_once(door: Door) -> None:
    """With its body half sent: nothing may wait for somebody who is not there."""
    door.plane.update("keys", {"key_id": door.key_id}, image_enabled=False)
    request = post(door.secret, b"x" * 300_000)

    async def leave() -> None:
        _, writer = await door.gateway.connect()
        writer.write(request[:250_000])
        await asyncio.sleep(0)
        writer.transport.abort()

    count = 60
    await asyncio.gather(*(leave() for _ in range(count)))
    # Well under SEND_SECONDS, which is a minute.
    await eventually(
        lambda: sum(record["key_id"] == door.key_id for record in door.gateway.records()) == count
    )
