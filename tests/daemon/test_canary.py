"""Nobody stalls the others: small calls succeed beside each attack, and the loop keeps turning.

What bounds the work of one step is tested where it is done, by counting; here all of it runs
together.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.daemon.conftest import Door, open_door
from tests.parts.canary import Canary, longest_lag
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.forms import BOUNDARY, FORM
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, completed, frame, images

MIB = 1024 * 1024
LONGEST_LAG_SECONDS = 2.0
"""Generous: on a quiet machine it is below 0.05, and a machine that is busy makes it late, too."""

EDITS = "/v1/images/edits"
PROMPT = b'{"prompt": "a"}'


@pytest.fixture(scope="module")
def attacked(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon that gives up bodies that pause."""
    made = Gateway(
        tmp_path_factory.mktemp("attacked"), shared_plane.reader_url, body_idle_seconds=1
    ).start()
    yield made
    assert made.stop() == 0, made.words()
    assert "every call had to wait" not in made.words()


@pytest.fixture
async def canary(attacked: Gateway, shared_plane: Plane) -> AsyncIterator[Canary]:
    """Small calls to an upstream of their own, until the test ends."""
    async with ScriptedUpstream() as calm:
        door = open_door(attacked, shared_plane, calm, "openai")
        async with Canary(attacked, door.secret) as singing:
            yield singing
        lags = await longest_lag(attacked)
        assert max(lags.values()) < LONGEST_LAG_SECONDS, lags


@pytest.fixture
def door(attacked: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    return open_door(attacked, shared_plane, upstream, "openai", image_max_concurrency=100)


def _data_url(text: bytes, size: int) -> bytes:
    """An edit whose picture is written so; 16 characters of base64 are zeros of its signature."""
    start = b'{"prompt": "a", "images": [{"image_url": "data:image\\/png;base64,iVBORw0KGgoA'
    return start + text * (size // len(text) // 4 * 4) + b'"}]}'


def _part(name: bytes, data: bytes) -> bytes:
    head = b'--%b\r\ncontent-disposition: form-data; name="%b"; filename="x.png"\r\n\r\n'
    return head % (BOUNDARY.encode(), name) + data + b"\r\n"


_BODIES: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    "escaped slashes": (EDITS, _data_url(b"\\/", 16 * MIB), {}, 200),
    "escaped letters": (EDITS, _data_url(b"\\u0041", 24 * MIB), {}, 200),
    "escaped quotes": ("", b'{"prompt": "' + b'\\"' * 8 * MIB + b'"}', {}, 400),
    "values": ("", b'{"prompt": "a", "x": [' + b"1," * 4 * MIB + b"1]}", {}, 400),
    "depth": ("", b"[" * 4 * MIB, {}, 400),
    "digits": ("", b'{"prompt": "a", "n": ' + b"1" * 1_000_000 + b"}", {}, 400),
    "parts": (EDITS, _part(b"image", b"x") * 50_000, {"content-type": FORM}, 400),
    "line ends": (EDITS, _part(b"image", b"\r\n" * 8 * MIB), {"content-type": FORM}, 400),
}


@pytest.mark.parametrize("name", _BODIES)
async def test_beside_a_hostile_body(canary: Canary, door: Door, name: str) -> None:
    path, body, headers, wanted = _BODIES[name]
    status, _, answer = await door.post(body, path or "/v1/images/generations", **headers)
    assert (status, len(canary.seconds) > 0) == (wanted, True), answer
    assert (await door.record())["request_bytes"] <= len(body)


async def test_beside_intents_of_very_many_items(
    canary: Canary, attacked: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = open_door(attacked, shared_plane, upstream, "codex-responses")
    items = ['{"role": "user", "content": "a"}'] * 18_000
    body = '{"model": "gpt-image-2", "tools": [{"type": "image_generation"}], "input": [%s]}'
    text = (body % ", ".join(items)).encode()
    await asyncio.gather(*(door.post(text, "/v1/responses") for _ in range(3)))
    assert repr(canary)
    assert len(await _records(attacked, door, 3)) == 3


async def test_beside_a_body_of_chunks_of_one_byte(canary: Canary, door: Door) -> None:
    head = post(door.secret, b"", headers={"transfer-encoding": "chunked"})
    head = head.replace(b"content-length: 0\r\n", b"")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in PROMPT) + b"1\r\n \r\n" * 5_000
    answer = await door.gateway.raw(head + chunks + b"0\r\n\r\n")
    assert parse(answer)[0] == 200
    assert repr(canary)


async def test_beside_slow_heads_and_slow_bodies(canary: Canary, door: Door) -> None:
    """slowhttptest's first two modes: each connection sends a byte now and then."""
    begun = post(door.secret, b"", headers={"content-length": "1000"})

    async def drip(start: bytes) -> None:
        reader, writer = await door.gateway.connect()
        writer.write(start)
        dripping = asyncio.create_task(_drip(writer))
        try:
            await asyncio.wait_for(reader.read(1), BOUND_SECONDS)
        finally:
            dripping.cancel()
            writer.transport.abort()

    heads, bodies = (
        [asyncio.create_task(drip(start)) for start in starts for _ in range(50)]
        for starts in ((begun[:-2] + b"x-more: ", b"P"), (begun, begun + b"{"))
    )
    await canary.sings()
    await asyncio.wait_for(asyncio.gather(*bodies), BOUND_SECONDS)
    for head in heads:
        head.cancel()  # its deadline is tested in tests/edge/client/test_slow_heads.py
    await asyncio.gather(*heads, return_exceptions=True)
    records = await _records(door.gateway, door, len(bodies))
    assert {record["error_code"] for record in records} == {"request_timeout"}


async def _drip(writer: asyncio.StreamWriter) -> None:
    """Some bytes, more often than a time-out for silence allows; silence then."""
    with contextlib.suppress(ConnectionError, RuntimeError):
        for _ in range(5):
            writer.write(b"x")
            await asyncio.sleep(0.2)


async def test_beside_readers_that_do_not_read(
    canary: Canary, door: Door, upstream: ScriptedUpstream
) -> None:
    # More than the kernel's buffers of both ends take.
    whole = json.dumps(images()).encode()[:-1] + b', "pad": "' + b"A" * 24 * MIB + b'"}'
    sent = 0

    async def large(call: Call) -> None:
        nonlocal sent
        await call.answer(200, whole)
        sent += 1

    upstream.script = large
    writers = []
    for _ in range(10):
        _, writer = await door.gateway.connect()
        writer.write(post(door.secret, _unlike()))
        writers.append(writer)
    await eventually(lambda: sent == len(writers))
    await canary.sings()
    for writer in writers:
        writer.transport.abort()
    records = await _records(door.gateway, door, len(writers))
    assert {record["client_left"] for record in records} == {True}


async def test_beside_2000_wrong_keys(canary: Canary, attacked: Gateway) -> None:
    gate = asyncio.Semaphore(50)

    async def guess() -> int:
        async with gate:
            answer = await attacked.raw(post(f"sk-{secrets.token_hex(16)}", PROMPT))
            return parse(answer)[0]

    before = attacked.memory()
    statuses = await asyncio.gather(*(guess() for _ in range(2000)))
    # 503: more look-ups than may wait for Postgres.
    assert set(statuses) <= {401, 503}
    assert statuses.count(401) > 1000
    assert attacked.memory() - before < 32 * MIB
    assert repr(canary)


def _flood(start: bytes, more: bytes, count: int) -> Script:
    """Sends raw bytes, a head and what follows it."""

    async def script(call: Call) -> None:
        await call.send(start)
        for _ in range(count):
            await call.send(more)

    return script


async def _trickles(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nx-name: ")
    while True:
        await call.send(b"a")
        await asyncio.sleep(0.01)


_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
_PICTURE = json.dumps(images()["data"][0]).encode()
_FLOODS: dict[str, Script] = {
    "interim responses": _flood(b"", b"HTTP/1.1 102 P\r\n\r\n" * 10_000, 100),
    "fields of a head": _flood(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000, 100),
    "a head that trickles": _trickles,
    "tiny events": _flood(_EVENTS, b'data: {"type": "x"}\n\n' * 9_900 + frame(completed()), 1),
    "comments": _flood(_EVENTS, b":\n" * 100_000, 20),
    "lines without data": _flood(_EVENTS, b"data:\n" * 100_000, 20),
    "values": _flood(_JSON, b'{"data": [%b], "x": [%b0]}' % (_PICTURE, b"0," * 500_000), 1),
    "entries": _flood(_JSON, b'{"data": [%b%b]}' % (b'{"a": 1},' * 90_000, _PICTURE), 1),
    "escapes": _flood(_JSON, b'{"data": [{"b64_json": "iVBO%b"}]}' % (b"\\/" * 8 * MIB), 1),
}


@pytest.mark.parametrize("name", _FLOODS)
@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["plain", "stream"])
async def test_beside_an_upstream_that_sends_a_flood(
    canary: Canary, door: Door, upstream: ScriptedUpstream, name: str, asked: dict[str, bool]
) -> None:
    upstream.script = _FLOODS[name]
    calling = asyncio.create_task(door.gateway.raw(post(door.secret, _unlike(**asked))))
    await canary.sings()
    if name == "a head that trickles":
        # The attempt's deadline is minutes away.
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        return
    status, _, body = parse(await calling)
    assert status in {200, 502, 504}, body
    assert (await door.record())["status"] == status


def _unlike(**parameters: bool) -> bytes:
    return json.dumps({"prompt": secrets.token_hex(8), **parameters}).encode()


async def _records(gateway: Gateway, door: Door, count: int) -> list[dict[str, object]]:
    """So many records of a key, once they are written."""

    def look() -> list[dict[str, object]]:
        return [record for record in gateway.records() if record["key_id"] == door.key_id]

    await eventually(lambda: len(look()) >= count)
    return look()
