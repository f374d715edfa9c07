"""How a client gets the answer of a call: when its 200 is given, where comments stand, how it ends.

The call is played by the test; the client is a real one on a socket.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h11
import orjson
import pytest

from image_gateway.calls.answer import Answer, Ending
from image_gateway.core.calls.model import CallState
from image_gateway.core.errors import Source
from image_gateway.core.records.builder import Arrival, Failure, RecordBuilder
from image_gateway.core.records.phases import Timeline
from image_gateway.edge.client import listener as listener_module
from image_gateway.edge.client.downstream import ClientLeftError, ClientLimits, Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.client.listener import Listener, Receive, Scope, Send, bind
from image_gateway.edge.spool import Spools
from image_gateway.exchange.delivery import Delivery, KeepAlive
from tests.edge.peer import running
from tests.parts.eventually import BOUND_SECONDS

MIB = 1024 * 1024
LARGE = 24 * MIB
"""More than the kernel's buffers of both ends take."""

COMMENT = b": keep-alive\n\n"
SHORT_SECONDS = 0.05
NEVER_SECONDS = 1000.0
ERROR = b'{"error":{"message":"no","type":"server_error","param":null,"code":"upstream_cut"}}'

Script = Callable[[Answer, Spools], Coroutine[Any, Any, None]]
"""What the call does."""


@dataclass
class Got:
    """What a client got: an answer, and whether it came to its end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False


class Client:
    """The other end of the connection, read by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="GET", target="/", headers=[("host", "gateway")]))
        self._http.send(h11.EndOfMessage())
        self.got = Got()

    async def read(self, done: Callable[[Got], bool] = lambda got: got.whole) -> Got:
        """Read on until that is so, or the answer is broken off."""
        while not done(self.got):
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    self._http.receive_data(await self._reader.read(65536))
                    event = self._http.next_event()
                except (h11.RemoteProtocolError, ConnectionError):
                    break
            if isinstance(event, h11.Response):
                self.got.status = event.status_code
                self.got.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                self.got.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.got.whole = True
            elif isinstance(event, h11.ConnectionClosed):
                break
        return self.got

    def leave(self) -> None:
        self._writer.transport.abort()


@dataclass
class Stage:
    """A listener that delivers the answer of one call, which ``script`` makes."""

    script: Script
    spools: Spools
    keepalive_seconds: float = NEVER_SECONDS
    json_seconds: float = 0.0
    send_seconds: float = BOUND_SECONDS
    streams: bool = True
    is_late: bool = False
    before: Script | None = None
    """What the call did before this client came."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None
    record: RecordBuilder = field(
        default_factory=lambda: RecordBuilder(
            Arrival(datetime.now(UTC), "req_1"), Timeline(time.monotonic)
        )
    )

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = ClientLimits(MIB, BOUND_SECONDS, BOUND_SECONDS, self.send_seconds)
        downstream = Downstream(scope, receive, send, limits, "req_1")
        await downstream.read_body(Nowhere())
        answer = Answer(self.spools)
        if self.before is not None:
            await self.before(answer, self.spools)
        stream = EventStream(downstream) if self.streams else None
        keep_alive = KeepAlive(self.keepalive_seconds, self.json_seconds)
        delivery = Delivery(downstream, self.record, stream, keep_alive)
        reader = answer.reader(is_late=self.is_late)
        try:
            with answer:
                async with running(self.script(answer, self.spools)) as script:
                    async with downstream.watch(drains=False):
                        ending = await delivery.follow(answer, reader)
                    await delivery.finish(answer, reader, ending)
                    await script
        except ClientLeftError as error:
            self.error = error
        finally:
            answer.give_up()
            self.ended.set()


class Nowhere:
    async def write(self, chunk: bytes) -> None:
        """Let it go."""


@asynccontextmanager
async def client_of(stage: Stage, version: bytes = b"1.1") -> AsyncIterator[Client]:
    """A client that has just asked; its buffers are small."""
    listener = Listener(stage.app, [bound := bind(("127.0.0.1", 0))], stage.send_seconds)
    port = bound.getsockname()[1]
    await listener.start()
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=65536)
    try:
        writer.write(b"GET / HTTP/%s\r\nhost: gateway\r\n\r\n" % version)
        async with asyncio.timeout(BOUND_SECONDS):
            yield Client(reader, writer)
            await stage.ended.wait()
    finally:
        writer.transport.abort()
        await listener.stop(0)


@pytest.fixture
def spools(tmp_path: Path) -> Iterator[Spools]:
    with Spools(tmp_path, 10 * MIB, 10 * MIB) as made:
        yield made


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "GRACE_SECONDS", 0.0)


async def add(answer: Answer, spools: Spools, text: bytes, *, is_partial: bool = False) -> None:
    """The call adds a frame from a spool of its own."""
    with ExitStack() as closing:
        spool = closing.enter_context(spools.open(paid=True))
        for start in range(0, len(text), MIB):
            await spool.write(text[start : start + MIB])
        await answer.add(spool.whole(), closing.pop_all(), is_partial=is_partial)


def frame(number: int, size: int = 10) -> bytes:
    return b'event: e\ndata: {"n":%d,"b64_json":"%s"}\n\n' % (number, b"A" * size)


def frames_of(body: bytes) -> list[bytes]:
    return [part + b"\n\n" for part in body.split(b"\n\n")[:-1]]


MADE = Ending(CallState.MADE, 200, {}, None)


def failed(status: int = 502) -> Ending:
    fields = {"content-type": "application/json"}
    failure = Failure("upstream_cut", Source.UPSTREAM)
    return Ending(CallState.UNKNOWN, status, fields, ERROR, failure)


# -- before anything was sent ----------------------------------------------------------------------


async def test_an_error_before_anything_was_sent_has_its_own_status(spools: Spools) -> None:
    async def script(answer: Answer, _: Spools) -> None:
        answer.send()
        answer.end(failed(429))

    stage = Stage(script, spools)
    async with client_of(stage) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (429, ERROR, True)
    assert got.headers["content-type"] == "application/json"
    assert stage.record.failure == Failure("upstream_cut", Source.UPSTREAM)


async def test_nothing_is_said_before_an_upstream_was_asked(spools: Spools) -> None:
    """Silence begins to count with the first call upstream, not with the request."""
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        await go.wait()
        answer.send()
        answer.end(failed(503))

    async with client_of(Stage(script, spools, SHORT_SECONDS)) as client:
        reading = asyncio.ensure_future(client.read())
        done, _ = await asyncio.wait([reading], timeout=4 * SHORT_SECONDS)
        assert not done
        go.set()
        assert (await reading).status == 503


async def test_an_answer_that_is_no_stream_waits_until_it_is_whole(spools: Spools) -> None:
    go = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        spool = answer.kept.enter_context(spools.open(paid=True))
        await spool.write(b'{"data": [')
        await go.wait()
        await spool.write(b"]}")
        fields = {"content-type": "application/json", "x-own": "1"}
        answer.end(Ending(CallState.MADE, 200, fields, spool.whole()))

    async with client_of(Stage(script, spools, SHORT_SECONDS, streams=False)) as client:
        reading = asyncio.ensure_future(client.read(lambda got: bool(got.status)))
        done, _ = await asyncio.wait([reading], timeout=4 * SHORT_SECONDS)
        assert not done
        go.set()
        await reading
        got = await client.read()
    assert (got.status, got.body, got.whole) == (200, b'{"data": []}', True)
    assert got.headers["content-length"] == "12"
    assert got.headers["x-own"] == "1"
    assert spools.memory.used == spools.disk.used == 0


async def test_spaces_stand_before_json_that_takes_long(spools: Spools) -> None:
    """For clients that can neither poll nor stream, behind a proxy that cuts silent calls."""
    go = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await go.wait()
        spool = answer.kept.enter_context(spools.open(paid=True))
        await spool.write(b'{"data": []}')
        answer.end(Ending(CallState.MADE, 200, {}, spool.whole()))

    stage = Stage(script, spools, streams=False, json_seconds=SHORT_SECONDS)
    async with client_of(stage) as client:
        got = await client.read(lambda got: len(got.body) >= 2)
        assert (got.status, got.headers["content-type"]) == (200, "application/json")
        assert got.body.strip() == b""
        go.set()
        got = await client.read()
    assert got.whole
    assert orjson.loads(got.body) == {"data": []}


async def test_an_error_behind_spaces_breaks_the_answer_off(spools: Spools) -> None:
    """The client asks again, and then gets the error with its own status."""
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        answer.send()
        await go.wait()
        answer.end(failed())

    stage = Stage(script, spools, streams=False, json_seconds=SHORT_SECONDS)
    async with client_of(stage) as client:
        await client.read(lambda got: bool(got.body))
        go.set()
        got = await client.read()
    assert not got.whole
    assert got.body.strip() == b""
    assert stage.record.failure == Failure("upstream_cut", Source.UPSTREAM)


# -- comments --------------------------------------------------------------------------------------


async def test_a_comment_after_silence_commits_a_200(spools: Spools) -> None:
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        answer.send()
        await go.wait()
        answer.end(MADE)

    async with client_of(Stage(script, spools, SHORT_SECONDS)) as client:
        got = await client.read(lambda got: got.body.startswith(COMMENT))
        assert got.status == 200
        assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert got.headers["cache-control"] == "no-cache"
        assert got.headers["x-request-id"] == "req_1"
        assert "content-length" not in got.headers
        go.set()
        got = await client.read()
    assert got.whole
    assert set(frames_of(got.body)) == {COMMENT}


async def test_each_silence_has_its_comment_however_often_an_upstream_is_asked(
    spools: Spools,
) -> None:
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        while not go.is_set():
            answer.send()
            await asyncio.sleep(SHORT_SECONDS / 5)
        answer.end(MADE)

    async with client_of(Stage(script, spools, 4 * SHORT_SECONDS)) as client:
        clock = asyncio.get_running_loop().time
        began = clock()
        got = await client.read(lambda got: got.body.count(COMMENT) >= 3)
        comments = frames_of(got.body)
        assert set(comments) == {COMMENT}
        assert len(comments) <= (clock() - began) / (4 * SHORT_SECONDS) + 0.1
        go.set()


@pytest.mark.slow
async def test_frames_put_the_next_comment_off(spools: Spools) -> None:
    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        for number in range(10):
            await asyncio.sleep(2 * SHORT_SECONDS)
            await add(answer, spools, frame(number))
        answer.end(MADE)

    async with client_of(Stage(script, spools, 15 * SHORT_SECONDS)) as client:
        got = await client.read()
    assert got.body == b"".join(frame(number) for number in range(10))


async def test_a_comment_stands_between_frames(spools: Spools) -> None:
    commented = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1))
        await commented.wait()
        await add(answer, spools, frame(2))
        answer.end(MADE)

    async with client_of(Stage(script, spools, SHORT_SECONDS)) as client:
        await client.read(lambda got: COMMENT in got.body)
        commented.set()
        got = await client.read()
    parts = frames_of(got.body)
    assert [part for part in parts if part != COMMENT] == [frame(1), frame(2)]
    assert parts[0] == frame(1)
    assert COMMENT in parts[1:-1]


@pytest.mark.slow
async def test_no_comment_stands_within_a_frame(spools: Spools) -> None:
    """A client that reads slowly: the frame takes many times as long as a silence may."""
    text = frame(1, LARGE)

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, text)
        await add(answer, spools, frame(2))
        answer.end(MADE)

    async with client_of(Stage(script, spools, SHORT_SECONDS)) as client:
        await client.read(lambda got: b"event: e" in got.body)
        for share in (0.1, 0.3, 0.6):
            await asyncio.sleep(3 * SHORT_SECONDS)
            await client.read(lambda got, size=LARGE * share: len(got.body) >= size)  # type: ignore[misc]  # a default binds the loop's value
        got = await client.read()
    parts = frames_of(got.body)
    assert [len(part) for part in parts if part != COMMENT] == [len(text), len(frame(2))]
    assert text in parts
    assert got.whole


# -- frames ----------------------------------------------------------------------------------------


async def test_the_first_frame_commits_a_200_with_the_upstreams_headers(spools: Spools) -> None:
    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        answer.fields = {"x-old": "gone"}
        answer.send()
        answer.fields = {"openai-version": "2020", "content-length": "5", "content-type": "a/b"}
        await add(answer, spools, frame(1))
        answer.end(MADE)

    async with client_of(Stage(script, spools)) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (200, frame(1), True)
    assert got.headers["openai-version"] == "2020"
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert not {"content-length", "x-old"} & set(got.headers)


async def test_a_frame_reaches_the_client_at_once(spools: Spools) -> None:
    seen = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1))
        await seen.wait()
        answer.end(MADE)

    async with client_of(Stage(script, spools)) as client:
        await client.read(lambda got: got.body == frame(1))
        seen.set()
        assert (await client.read()).whole


@pytest.mark.parametrize("size", [10, 2 * MIB], ids=["small", "large"])
async def test_frames_come_in_their_order_whatever_their_size(spools: Spools, size: int) -> None:
    texts = [frame(0), frame(1, size), frame(2), frame(3), frame(4, size), frame(5, size)]

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        for text in texts:
            await add(answer, spools, text)
        answer.end(MADE)

    async with client_of(Stage(script, spools)) as client:
        got = await client.read()
    assert frames_of(got.body) == texts
    assert got.whole
    assert spools.memory.used == spools.disk.used == 0


async def test_a_call_does_not_wait_for_a_client_that_reads_slowly(spools: Spools) -> None:
    over = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1, LARGE))
        await add(answer, spools, frame(2))
        answer.end(MADE)
        over.set()

    async with client_of(Stage(script, spools)) as client:
        await over.wait()
        assert len(client.got.body) == 0
        got = await client.read()
    assert frames_of(got.body) == [frame(1, LARGE), frame(2)]


async def test_a_client_that_comes_late_gets_no_partial_picture_of_before(spools: Spools) -> None:
    async def before(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1, 2 * MIB), is_partial=True)
        await add(answer, spools, frame(2))

    async def script(answer: Answer, spools: Spools) -> None:
        await add(answer, spools, frame(3), is_partial=True)
        await add(answer, spools, frame(4))
        answer.end(MADE)

    stage = Stage(script, spools, before=before, is_late=True)
    async with client_of(stage) as client:
        got = await client.read()
    assert frames_of(got.body) == [frame(2), frame(3), frame(4)]


async def test_a_client_that_takes_nothing_has_left(spools: Spools) -> None:
    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1, LARGE))
        answer.end(MADE)

    stage = Stage(script, spools, send_seconds=0.3)
    async with client_of(stage) as client:
        await client.read(lambda got: b"event: e" in got.body)
        await stage.ended.wait()
    assert isinstance(stage.error, ClientLeftError)
    assert spools.memory.used == spools.disk.used == 0


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["frame", "comment"])
async def test_an_error_after_the_200_is_the_last_event(spools: Spools, begin: str) -> None:
    """Nested and without a name of its own, which is how SDKs see that it is one."""
    go = asyncio.Event()

    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        if begin == "frame":
            await add(answer, spools, frame(1))
        await go.wait()
        answer.end(failed())

    stage = Stage(script, spools, SHORT_SECONDS)
    async with client_of(stage) as client:
        await client.read(lambda got: COMMENT in got.body)
        go.set()
        got = await client.read()
    assert got.whole
    last = frames_of(got.body)[-1]
    assert b"event:" not in last
    assert last.count(b"\n") == 2
    value = orjson.loads(last.removeprefix(b"data: "))
    assert value == {"type": "error", "error": orjson.loads(ERROR)["error"]}
    others = {part for part in frames_of(got.body)[:-1] if part != COMMENT}
    assert others == ({frame(1)} if begin == "frame" else set())
    assert stage.record.failure == Failure("upstream_cut", Source.UPSTREAM)
