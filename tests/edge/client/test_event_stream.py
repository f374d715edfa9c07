"""A client's stream of events: when its 200 is given, where comments stand, and how it can end."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import orjson
import pytest

from image_gateway.core.codec.body_segments import Span
from image_gateway.edge.client import listener as listener_module
from image_gateway.edge.client.downstream import ClientLeftError, ClientLimits, Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.client.listener import Listener, Receive, Scope, Send, bind
from image_gateway.edge.spool import Spool, SpooledBody, Spools
from tests.edge.peer import running
from tests.parts.eventually import BOUND_SECONDS, eventually

MIB = 1024 * 1024
LARGE = 24 * MIB
"""More than the kernel's buffers of both ends take."""

COMMENT = b": keep-alive\n\n"
SHORT_SECONDS = 0.05
NEVER_SECONDS = 1000.0
ERROR = b'{"error":{"message":"no","type":"server_error","param":null,"code":"upstream_cut"}}'

Script = Callable[[Downstream, EventStream], Awaitable[None]]


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
    """A listener whose every call runs ``script`` with a stream of its own."""

    script: Script
    port: int = 0
    keepalive_seconds: float = NEVER_SECONDS
    send_seconds: float = BOUND_SECONDS
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    streams: list[EventStream] = field(default_factory=list)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = ClientLimits(MIB, BOUND_SECONDS, BOUND_SECONDS, self.send_seconds)
        downstream = Downstream(scope, receive, send, limits, "req_1")
        await downstream.read_body(Nowhere())
        stream = EventStream(downstream, self.keepalive_seconds)
        self.streams.append(stream)
        try:
            await self.script(downstream, stream)
        finally:
            stream.quiet()
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


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "GRACE_SECONDS", 0.0)


async def kept(spools: Spools, text: bytes) -> tuple[Spool, SpooledBody]:
    spool = spools.open(paid=True)
    for start in range(0, len(text), MIB):
        await spool.write(text[start : start + MIB])
    return spool, spool.hold((Span(0, len(text)),))


def frame(number: int, size: int = 10) -> bytes:
    return b'event: e\ndata: {"n":%d,"b64_json":"%s"}\n\n' % (number, b"A" * size)


async def send(stream: EventStream, spools: Spools, text: bytes) -> None:
    spool, held = await kept(spools, text)
    with spool:
        await stream.send(held)


def frames_of(body: bytes) -> list[bytes]:
    return [part + b"\n\n" for part in body.split(b"\n\n")[:-1]]


# -- before anything was sent ----------------------------------------------------------------------


async def test_an_error_before_anything_was_sent_has_its_own_status() -> None:
    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        assert not stream.committed
        stream.quiet()
        await downstream.answer(429, {"content-type": "application/json"}, ERROR)

    async with client_of(Stage(script)) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (429, ERROR, True)
    assert got.headers["content-type"] == "application/json"


async def test_nothing_is_committed_before_the_silence_was_long_enough() -> None:
    go = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        await go.wait()
        assert not stream.committed
        assert repr(stream) == "<EventStream open, 0 frames>"
        await downstream.answer(502, {}, ERROR)

    async with client_of(Stage(script, keepalive_seconds=NEVER_SECONDS)) as client:
        reading = asyncio.ensure_future(client.read())
        done, _ = await asyncio.wait([reading], timeout=3 * SHORT_SECONDS)
        assert not done
        go.set()
        assert (await reading).status == 502


async def test_without_keep_alive_nothing_is_said_at_all() -> None:
    """Its time begins with the first call upstream, not with the request."""
    go = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        await go.wait()
        assert not stream.committed
        await downstream.answer(503, {}, ERROR)

    async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS)) as client:
        reading = asyncio.ensure_future(client.read())
        await asyncio.wait([reading], timeout=4 * SHORT_SECONDS)
        go.set()
        assert (await reading).status == 503


# -- comments --------------------------------------------------------------------------------------


async def test_a_comment_after_silence_commits_a_200() -> None:
    go = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        await go.wait()
        assert stream.committed
        assert stream.frames == 0
        await stream.finish()

    async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS)) as client:
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


async def test_each_silence_has_its_comments_and_asking_twice_makes_no_more_of_them() -> None:
    go = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        for _ in range(20):
            stream.keep_alive()
        await go.wait()
        await stream.finish()

    async with client_of(Stage(script, keepalive_seconds=4 * SHORT_SECONDS)) as client:
        clock = asyncio.get_running_loop().time
        began = clock()
        got = await client.read(lambda got: got.body.count(COMMENT) >= 3)
        comments = frames_of(got.body)
        assert set(comments) == {COMMENT}
        assert len(comments) <= (clock() - began) / (4 * SHORT_SECONDS) + 0.1
        go.set()


@pytest.mark.slow
async def test_frames_put_the_next_comment_off(spools: Spools) -> None:
    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        for number in range(10):
            await asyncio.sleep(2 * SHORT_SECONDS)
            await send(stream, spools, frame(number))
        await stream.finish()

    async with client_of(Stage(script, keepalive_seconds=15 * SHORT_SECONDS)) as client:
        got = await client.read()
    assert got.body == b"".join(frame(number) for number in range(10))


async def test_a_comment_stands_between_frames(spools: Spools) -> None:
    commented = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        await send(stream, spools, frame(1))
        await commented.wait()
        await send(stream, spools, frame(2))
        stream.quiet()
        await stream.finish()

    async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS)) as client:
        await client.read(lambda got: COMMENT in got.body)
        commented.set()
        got = await client.read()
    parts = frames_of(got.body)
    assert [part for part in parts if part != COMMENT] == [frame(1), frame(2)]
    assert parts[0] == frame(1)
    assert COMMENT in parts[1:-1]


async def test_quiet_is_the_end_of_comments(spools: Spools) -> None:
    go = asyncio.Event()
    quiet = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        await send(stream, spools, frame(1))
        stream.quiet()
        quiet.set()
        await go.wait()
        stream.keep_alive()
        await stream.finish()

    async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS)) as client:
        reading = asyncio.ensure_future(client.read())
        await quiet.wait()
        await asyncio.wait([reading], timeout=4 * SHORT_SECONDS)
        go.set()
        got = await reading
    assert got.body == frame(1)
    assert got.whole


@pytest.mark.slow
async def test_no_comment_stands_within_a_frame(spools: Spools) -> None:
    """A client that reads slowly: the frame takes many times as long as a silence may."""
    text = frame(1, LARGE)

    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.keep_alive()
        await send(stream, spools, text)
        await send(stream, spools, frame(2))
        await stream.finish()

    stage = Stage(script, keepalive_seconds=SHORT_SECONDS)
    async with client_of(stage) as client:
        await client.read(lambda got: b"event: e" in got.body)
        for share in (0.1, 0.3, 0.6):
            await asyncio.sleep(3 * SHORT_SECONDS)
            assert stage.streams[0]._in_frame, "still in it"
            await client.read(lambda got, size=LARGE * share: len(got.body) >= size)  # type: ignore[misc]  # a default binds the loop's value
        got = await client.read()
    parts = frames_of(got.body)
    assert [len(part) for part in parts if part != COMMENT] == [len(text), len(frame(2))]
    assert text in parts
    assert got.whole


# -- frames ----------------------------------------------------------------------------------------


async def test_the_first_frame_commits_a_200_with_the_upstreams_headers(spools: Spools) -> None:
    async def script(downstream: Downstream, stream: EventStream) -> None:
        stream.name_headers({"x-old": "gone"})
        stream.name_headers(
            {"openai-version": "2020", "content-length": "5", "content-type": "text/html"}
        )
        await send(stream, spools, frame(1))
        assert (stream.committed, stream.frames) == (True, 1)
        stream.name_headers({"x-late": "too late"})
        await send(stream, spools, frame(2))
        assert repr(stream) == "<EventStream committed, 2 frames>"
        await stream.finish()

    async with client_of(Stage(script)) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (200, frame(1) + frame(2), True)
    assert got.headers["openai-version"] == "2020"
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert not {"content-length", "x-old", "x-late"} & set(got.headers)


async def test_a_frame_reaches_the_client_at_once(spools: Spools) -> None:
    seen = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        await send(stream, spools, frame(1))
        await seen.wait()
        await stream.finish()

    async with client_of(Stage(script)) as client:
        await client.read(lambda got: got.body == frame(1))
        seen.set()
        assert (await client.read()).whole


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_last_frames_are_sent_and_then_the_answer_ends(
    spools: Spools, count: int
) -> None:
    async def script(downstream: Downstream, stream: EventStream) -> None:
        await send(stream, spools, frame(0))
        pairs = [await kept(spools, frame(number, 2 * MIB)) for number in range(1, count + 1)]
        await stream.finish(*(held for _, held in pairs))
        for spool, _ in pairs:
            spool.close()
        assert stream.frames == count + 1

    async with client_of(Stage(script)) as client:
        got = await client.read()
    assert frames_of(got.body) == [frame(0), *(frame(n, 2 * MIB) for n in range(1, count + 1))]
    assert got.whole
    assert spools.memory.used == spools.disk.used == 0


async def test_the_last_frames_may_be_all_there_is(spools: Spools) -> None:
    async def script(downstream: Downstream, stream: EventStream) -> None:
        spool, held = await kept(spools, frame(1))
        with spool:
            await stream.finish(held)

    async with client_of(Stage(script)) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (200, frame(1), True)


async def test_a_client_that_takes_nothing_has_left(spools: Spools) -> None:
    left: list[bool] = []

    async def script(downstream: Downstream, stream: EventStream) -> None:
        for _ in range(2):
            with pytest.raises(ClientLeftError):
                await send(stream, spools, frame(1, LARGE))
            left.append(True)

    async with client_of(Stage(script, send_seconds=0.3)) as client:
        await client.read(lambda got: b"event: e" in got.body)
    assert left == [True, True]
    assert spools.memory.used == spools.disk.used == 0


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["frame", "comment"])
async def test_an_error_after_the_200_is_the_last_event(spools: Spools, begin: str) -> None:
    """Nested and without a name of its own, which is how SDKs see that it is one."""
    go = asyncio.Event()

    async def script(downstream: Downstream, stream: EventStream) -> None:
        if begin == "frame":
            await send(stream, spools, frame(1))
        stream.keep_alive()
        await go.wait()
        await stream.fail(ERROR)

    async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS)) as client:
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


async def give_up_half_way(stream: EventStream, spools: Spools) -> None:
    """Send a frame that is larger than any buffer, and stop once some of it is out."""
    async with running(send(stream, spools, frame(2, LARGE))) as sending:
        await eventually(lambda: stream.frames == 2)
        # Whoever does not read does not let it end.
        await asyncio.wait([sending], timeout=3 * SHORT_SECONDS)
        assert not sending.done()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_where_a_frame_was_given_up_half_way_the_answer_breaks_off(
    spools: Spools, version: bytes
) -> None:
    """An error could not be told from the frame's own text any more."""

    async def script(downstream: Downstream, stream: EventStream) -> None:
        await send(stream, spools, frame(1))
        stream.keep_alive()
        await give_up_half_way(stream, spools)
        await stream.fail(ERROR)

    stage = Stage(script, keepalive_seconds=NEVER_SECONDS)
    async with client_of(stage, version) as client:
        await client.read(lambda got: frame(1) in got.body)
        await stage.ended.wait()
        got = await client.read()
    assert not got.whole
    rest = got.body.removeprefix(frame(1))
    assert frame(2, LARGE).startswith(rest)
    assert len(rest) < LARGE
    assert spools.memory.used == spools.disk.used == 0


async def test_no_comment_follows_half_a_frame_that_was_given_up(spools: Spools) -> None:
    """It would end the frame, which the client then takes for a whole event.

    Between the giving up and the end of the answer an upstream's connection is waited for.
    """

    async def script(downstream: Downstream, stream: EventStream) -> None:
        await send(stream, spools, frame(1))
        stream.keep_alive()
        await give_up_half_way(stream, spools)
        given_up.set()
        await asyncio.sleep(6 * SHORT_SECONDS)
        await stream.fail(ERROR)

    given_up = asyncio.Event()
    stage = Stage(script, keepalive_seconds=SHORT_SECONDS)
    async with client_of(stage) as client:
        await client.read(lambda got: frame(1) in got.body)
        await given_up.wait()
        got = await client.read()
    assert not got.whole
    _, _, rest = got.body.partition(b"event: e\n" + frame(2)[9:30])
    assert COMMENT not in rest
    assert b"error" not in rest


async def test_a_frame_that_cannot_be_read_breaks_the_answer_off(spools: Spools) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield frame(2)[:20]
        raise OSError(5, "Input/output error")

    async def script(downstream: Downstream, stream: EventStream) -> None:
        await send(stream, spools, frame(1))
        spool, held = await kept(spools, frame(2))
        with spool, pytest.MonkeyPatch.context() as patch:
            patch.setattr(spool, "play", lambda _: broken())
            with pytest.raises(OSError, match="Input/output"):
                await stream.send(held)
        await stream.fail(ERROR)

    async with client_of(Stage(script)) as client:
        got = await client.read()
    assert not got.whole
    assert got.body == frame(1) + frame(2)[:20]


async def test_an_error_that_meets_a_comment_on_its_way_comes_after_it(spools: Spools) -> None:
    """Many times, so that the one meets the other at every point."""
    for number in range(30):

        async def script(
            downstream: Downstream, stream: EventStream, wait: float = number / 10
        ) -> None:
            stream.keep_alive()
            await send(stream, spools, frame(1))
            await asyncio.sleep(SHORT_SECONDS / 5 * wait)
            await stream.fail(ERROR)

        async with client_of(Stage(script, keepalive_seconds=SHORT_SECONDS / 5)) as client:
            got = await client.read()
        assert got.whole
        parts = frames_of(got.body)
        assert parts[0] == frame(1)
        assert set(parts[1:-1]) <= {COMMENT}
        assert parts[-1].startswith(b'data: {"type":"error"')
