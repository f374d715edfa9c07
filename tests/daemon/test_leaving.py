"""Clients that leave, at every point: the call ends, its slot comes back, the record says so."""

import asyncio
import json
import socket
from typing import Any

import pytest

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import PROMPT
from tests.parts.eventually import eventually
from tests.parts.gateway import POOLED, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, draws, images

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


async def slot_is_free(door: Door, upstream: ScriptedUpstream) -> None:
    """The account's one slot takes a call again, within the promised time."""
    upstream.script = draws

    async def is_served() -> bool:
        return (await door.post(PROMPT))[0] == 200

    await eventually(is_served, PROMISED_SECONDS)


@pytest.fixture
def narrow(door: Door, shared_plane: Plane) -> Door:
    """A door with one slot."""
    shared_plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    return door


@pytest.mark.parametrize(
    ("script", "answered"),
    [
        (Watched(), False),
        (Watched(head=True), False),
        (Watched(head=True, body=b'{"data": [{"b64_json": "A'), True),
    ],
    ids=["waiting for the answer", "before its first byte", "within its body"],
)
async def test_a_client_that_leaves_cancels_its_call_and_frees_the_slot(
    narrow: Door, upstream: ScriptedUpstream, script: Watched, *, answered: bool
) -> None:
    script.begun, script.ended = asyncio.Event(), asyncio.Event()
    upstream.script = script
    reader, writer = await narrow.gateway.connect()
    writer.write(post(narrow.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    if answered:
        await asyncio.wait_for(reader.readuntil(b"["), 10)
    assert (await narrow.post(PROMPT))[0] == 429
    writer.close()
    await asyncio.wait_for(script.ended.wait(), PROMISED_SECONDS)
    await slot_is_free(narrow, upstream)
    record = await narrow.record(client_left=True)
    assert record["status"] == (200 if answered else None)
    assert (record["error_code"], record["error_source"]) == ("client_left", "client")
    assert record["may_be_billed"]
    assert len(record["attempts"]) == 1
    assert len(upstream.calls) == 2


async def test_a_client_that_leaves_while_a_large_body_goes_upstream_frees_the_slot(
    narrow: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    """The upstream reads nothing, so the bytes hang in the gateway's send buffer."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        where = {"account_name": narrow.account}
        shared_plane.update("accounts", where, base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        body = json.dumps(
            {"prompt": "a", "images": ["data:image/png;base64," + "A" * 19_000_000]}
        ).encode()
        _, writer = await narrow.gateway.connect()
        writer.write(post(narrow.secret, body, "/v1/images/edits"))
        await writer.drain()
        loop = asyncio.get_running_loop()
        deaf.setblocking(False)
        accepted, _ = await asyncio.wait_for(loop.sock_accept(deaf), 20)
        with accepted:
            assert await asyncio.wait_for(loop.sock_recv(accepted, 1), 20) == b"P"
            writer.close()
            record = await narrow.record(client_left=True)
            assert record["attempts"][0]["stage"] == "sent"
            assert record["may_be_billed"]
            shared_plane.update("accounts", where, base_url=upstream.url)
            await slot_is_free(narrow, upstream)


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
    narrow: Door, upstream: ScriptedUpstream
) -> None:
    """They would hide that the client left, so a pipelining client is dropped at once."""
    upstream.script = script = Watched()
    reader, writer = await narrow.gateway.connect()
    writer.write(post(narrow.secret, PROMPT))
    await asyncio.wait_for(script.begun.wait(), 10)
    writer.write(post(narrow.secret, PROMPT))
    await asyncio.wait_for(script.ended.wait(), PROMISED_SECONDS)
    assert await rest_of(reader) == b""
    writer.close()
    await slot_is_free(narrow, upstream)
    assert (await narrow.record(client_left=True))["may_be_billed"]


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
    narrow: Door, upstream: ScriptedUpstream
) -> None:
    assert (await narrow.post(PROMPT))[0] == 200
    before = narrow.gateway.descriptors()
    for head in (False, True):
        for _ in range(20):
            upstream.script = script = Watched(head=head, body=b"{")
            _, writer = await narrow.gateway.connect()
            writer.write(post(narrow.secret, PROMPT))
            await asyncio.wait_for(script.begun.wait(), 10)
            writer.close()
            await asyncio.wait_for(script.ended.wait(), 10)
            await slot_is_free(narrow, upstream)
    await eventually(lambda: narrow.gateway.descriptors() <= before + POOLED)
    assert (
        len(
            [
                r
                for r in narrow.gateway.records()
                if r["key_id"] == narrow.key_id and r["client_left"]
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
