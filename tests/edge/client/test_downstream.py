"""Whole bodies on their way to a client: to the byte, from wherever they lie, and no longer than
the client takes them."""

import asyncio
import base64
import os
from typing import Any

import pytest

from image_gateway.core.codec.body_segments import Body, Encoded, Span
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.spool import JoinedBody, SpooledBody, Spools
from tests.edge.client.stage import LARGE, MIB, Client, Stage, client_of, kept, sockets
from tests.parts.eventually import eventually

CONTENT = os.urandom(3 * MIB)


class FileCalls:
    """Counts what ``sendfile`` has sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        real = os.sendfile

        def sendfile(*args: Any) -> int:
            count = real(*args)
            self.sent += count
            return count

        monkeypatch.setattr(os, "sendfile", sendfile)


@pytest.fixture
def file_calls(monkeypatch: pytest.MonkeyPatch) -> FileCalls:
    return FileCalls(monkeypatch)


async def answer(
    downstream: Downstream, body: SpooledBody | JoinedBody, *, framed: bool = True
) -> None:
    length = {"content-length": str(body.length)} if framed else {}
    await downstream.start(200, length)
    await downstream.send_body(body)
    await downstream.finish()


PLAIN: Body = (Span(0, len(CONTENT)),)
MIXED: Body = (
    b'{"a":"',
    Span(5, MIB + 5),
    b'","b":"',
    Encoded(Span(MIB, 2 * MIB)),
    b'","c":"',
    Span(2 * MIB, 2 * MIB + 9),
    b'","d":"',
    Span(2 * MIB - 1, 3 * MIB),
    b'"}',
)
MIXED_BYTES = b"".join(
    [
        b'{"a":"',
        CONTENT[5 : MIB + 5],
        b'","b":"',
        base64.b64encode(CONTENT[MIB : 2 * MIB]),
        b'","c":"',
        CONTENT[2 * MIB : 2 * MIB + 9],
        b'","d":"',
        CONTENT[2 * MIB - 1 :],
        b'"}',
    ]
)


@pytest.mark.parametrize(
    ("version", "framed"),
    [(b"1.1", True), (b"1.1", False), (b"1.0", True)],
    ids=["of known length", "chunked", "HTTP/1.0"],
)
@pytest.mark.parametrize(
    ("segments", "expected", "from_file"),
    [(PLAIN, CONTENT, len(CONTENT)), (MIXED, MIXED_BYTES, 2 * MIB + 1)],
    ids=["plain", "mixed"],
)
async def test_a_body_arrives_to_the_byte(
    spools: Spools,
    file_calls: FileCalls,
    version: bytes,
    segments: Body,
    expected: bytes,
    from_file: int,
    *,
    framed: bool,
) -> None:
    """Its large plain parts come from the file without having been read."""
    spool, _ = await kept(spools, CONTENT)
    seen: list[Downstream] = []

    async def sending(downstream: Downstream) -> None:
        seen.append(downstream)
        await answer(downstream, spool.hold(segments), framed=framed)

    with spool:
        async with client_of(Stage(sending), version) as client:
            got = await client.read()
    assert got.whole
    assert got.body == expected
    assert file_calls.sent == from_file
    assert seen[0].response_bytes == len(expected)


async def test_a_small_body_arrives_without_a_file(spools: Spools, file_calls: FileCalls) -> None:
    spool, body = await kept(spools, CONTENT[:MIB])

    async def sending(downstream: Downstream) -> None:
        await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending)) as client:
            got = await client.read()
    assert (got.whole, got.body) == (True, CONTENT[:MIB])
    assert file_calls.sent == 0


async def test_parts_in_several_spools_arrive_in_their_order(
    spools: Spools, file_calls: FileCalls
) -> None:
    first, _ = await kept(spools, CONTENT)
    second, _ = await kept(spools, CONTENT[::-1])
    body = JoinedBody([first.hold((b"<", *PLAIN)), second.hold((b"|", *PLAIN, b">"))])

    async def sending(downstream: Downstream) -> None:
        await answer(downstream, body)

    with first, second:
        async with client_of(Stage(sending)) as client:
            got = await client.read()
    assert got.whole
    assert got.body == b"<" + CONTENT + b"|" + CONTENT[::-1] + b">"
    assert file_calls.sent == 2 * len(CONTENT)


async def test_two_clients_read_one_body_at_once(spools: Spools) -> None:
    spool, body = await kept(spools, CONTENT)

    async def sending(downstream: Downstream) -> None:
        await answer(downstream, body)

    async def ask() -> bytes:
        async with client_of(Stage(sending)) as client:
            return (await client.read()).body

    with spool:
        assert set(await asyncio.gather(ask(), ask())) == {CONTENT}


async def test_a_client_that_pauses_gets_it_all(spools: Spools) -> None:
    """The socket takes nothing for a while, within the bound."""
    data = os.urandom(MIB) * (LARGE // MIB)
    spool, body = await kept(spools, data)
    blocked: list[Downstream] = []

    async def sending(downstream: Downstream) -> None:
        blocked.append(downstream)
        await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending)) as client:
            await until_blocked(client, blocked)
            assert spools.memory.used == 0, "a client that waits holds no memory"
            got = await client.read()
    assert got.whole
    assert got.body == data


async def until_blocked(client: Client, downstreams: list[Downstream]) -> int:
    """Wait until the kernel takes no more; returns what it took."""
    await client.read(lambda got: bool(got.body))
    last = -1

    async def is_blocked() -> bool:
        nonlocal last
        before, last = last, downstreams[0].response_bytes
        await asyncio.sleep(0.02)
        return 0 < last == before == downstreams[0].response_bytes

    await eventually(is_blocked)
    return last


async def test_a_client_that_takes_nothing_has_left(spools: Spools) -> None:
    spool, body = await kept(spools, bytes(LARGE))
    before = sockets()
    seen: list[Downstream] = []

    async def sending(downstream: Downstream) -> None:
        seen.append(downstream)
        with pytest.raises(ClientLeftError):
            await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending, send_seconds=0.2)) as client:
            await client.read(lambda got: bool(got.body))
        assert 0 < seen[0].response_bytes < LARGE
        await eventually(lambda: sockets() == before)


async def test_a_client_that_leaves_is_noticed_while_it_is_waited_for(spools: Spools) -> None:
    spool, body = await kept(spools, bytes(LARGE))
    before = sockets()
    seen: list[Downstream] = []

    async def sending(downstream: Downstream) -> None:
        seen.append(downstream)
        with pytest.raises(ClientLeftError):
            await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending)) as client:
            await until_blocked(client, seen)
            client.leave()
        await eventually(lambda: sockets() == before)


async def test_an_aborted_connection_ends_the_sending(spools: Spools) -> None:
    """A stop at the drain deadline does so; the duplicate of the socket would keep it open."""
    spool, body = await kept(spools, bytes(LARGE))
    before = sockets()
    seen: list[Downstream] = []

    async def sending(downstream: Downstream) -> None:
        seen.append(downstream)
        with pytest.raises(ClientLeftError):
            await answer(downstream, body)

    stage = Stage(sending)
    with spool:
        async with client_of(stage) as client:
            await until_blocked(client, seen)
            seen[0]._connection.abort()
            await stage.ended.wait()  # without a byte read
            assert not (await client.read()).whole
        await eventually(lambda: sockets() == before)


@pytest.mark.parametrize("framed", [True, False], ids=["of known length", "chunked"])
async def test_a_body_that_is_given_up_half_way_breaks_the_answer_off(
    spools: Spools, *, framed: bool
) -> None:
    spool, body = await kept(spools, bytes(LARGE))
    before = sockets()
    seen: list[Downstream] = []
    tasks: list[asyncio.Task[None]] = []

    async def sending(downstream: Downstream) -> None:
        seen.append(downstream)
        tasks.append(asyncio.create_task(answer(downstream, body, framed=framed)))
        await asyncio.wait(tasks)
        downstream.break_off()

    with spool:
        async with client_of(Stage(sending)) as client:
            await until_blocked(client, seen)
            tasks[0].cancel()
            got = await client.read()
        assert tasks[0].cancelled()
        assert not got.whole
        assert 0 < len(got.body) < LARGE
        await eventually(lambda: sockets() == before)


async def test_a_disk_that_fails_while_it_is_read_breaks_the_answer_off(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, body = await kept(spools, CONTENT)

    def failing(*args: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "sendfile", failing)

    async def sending(downstream: Downstream) -> None:
        with pytest.raises(OSError, match="Input/output"):
            await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending)) as client:
            got = await client.read()
    assert (got.status, got.whole, got.body) == (200, False, b"")


async def test_a_body_can_be_sent_before_the_request_was_read(spools: Spools) -> None:
    """Then the rest of the request is received meanwhile."""
    spool, body = await kept(spools, CONTENT)

    async def sending(downstream: Downstream) -> None:
        await answer(downstream, body)

    with spool:
        async with client_of(Stage(sending, reads=False)) as client:
            got = await client.read()
    assert (got.whole, got.body) == (True, CONTENT)
