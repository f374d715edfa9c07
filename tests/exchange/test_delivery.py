"""How a client gets the answer of a call: when its 200 is given, where comments stand, how it ends.

The call is played by the test; the client is a real one on a socket.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from image_gateway.calls.answer import Answer, Ending
from image_gateway.core.calls.model import CallState
from image_gateway.core.errors import Source
from image_gateway.core.records.builder import Arrival, Failure, RecordBuilder
from image_gateway.core.records.phases import Timeline
from image_gateway.edge.client import listener as listener_module
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.spool import Spools
from image_gateway.exchange.delivery import Delivery, KeepAlive
from tests.edge.client.stage import LARGE, MIB, NEVER_SECONDS, SHORT_SECONDS, Stage, client_of
from tests.edge.peer import running

COMMENT = b": keep-alive\n\n"
ERROR = b'{"error":{"message":"no","type":"server_error","param":null,"code":"upstream_cut"}}'

Script = Callable[[Answer, Spools], Coroutine[Any, Any, None]]
"""What the call does."""


@dataclass
class Play:
    """Delivers the answer of one call, which ``script`` makes, to a client on a socket."""

    script: Script
    spools: Spools
    keepalive_seconds: float = NEVER_SECONDS
    json_seconds: float = 0.0
    streams: bool = True
    is_late: bool = False
    before: Script | None = None
    """What the call did before this client came."""
    error: BaseException | None = None
    record: RecordBuilder = field(
        default_factory=lambda: RecordBuilder(
            Arrival(datetime.now(UTC), "req_1"), Timeline(time.monotonic)
        )
    )

    async def __call__(self, downstream: Downstream) -> None:
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

    play = Play(script, spools)
    async with client_of(Stage(play)) as client:
        got = await client.read()
    assert (got.status, got.body, got.whole) == (429, ERROR, True)
    assert got.headers["content-type"] == "application/json"
    assert play.record.failure == Failure("upstream_cut", Source.UPSTREAM)


async def test_nothing_is_said_before_an_upstream_was_asked(spools: Spools) -> None:
    """Silence begins to count with the first call upstream, not with the request."""
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        await go.wait()
        answer.send()
        answer.end(failed(503))

    async with client_of(Stage(Play(script, spools, SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools, SHORT_SECONDS, streams=False))) as client:
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

    play = Play(script, spools, streams=False, json_seconds=SHORT_SECONDS)
    async with client_of(Stage(play)) as client:
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

    play = Play(script, spools, streams=False, json_seconds=SHORT_SECONDS)
    async with client_of(Stage(play)) as client:
        await client.read(lambda got: bool(got.body))
        go.set()
        got = await client.read()
    assert not got.whole
    assert got.body.strip() == b""
    assert play.record.failure == Failure("upstream_cut", Source.UPSTREAM)


# -- comments --------------------------------------------------------------------------------------


async def test_a_comment_after_silence_commits_a_200(spools: Spools) -> None:
    go = asyncio.Event()

    async def script(answer: Answer, _: Spools) -> None:
        answer.send()
        await go.wait()
        answer.end(MADE)

    async with client_of(Stage(Play(script, spools, SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools, 4 * SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools, 15 * SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools, SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools, SHORT_SECONDS))) as client:
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

    async with client_of(Stage(Play(script, spools))) as client:
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

    async with client_of(Stage(Play(script, spools))) as client:
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

    async with client_of(Stage(Play(script, spools))) as client:
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

    async with client_of(Stage(Play(script, spools))) as client:
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

    play = Play(script, spools, before=before, is_late=True)
    async with client_of(Stage(play)) as client:
        got = await client.read()
    assert frames_of(got.body) == [frame(2), frame(3), frame(4)]


async def test_a_client_that_takes_nothing_has_left(spools: Spools) -> None:
    async def script(answer: Answer, spools: Spools) -> None:
        answer.send()
        await add(answer, spools, frame(1, LARGE))
        answer.end(MADE)

    play = Play(script, spools)
    stage = Stage(play, send_seconds=0.3)
    async with client_of(stage) as client:
        await client.read(lambda got: b"event: e" in got.body)
        await stage.ended.wait()
    assert isinstance(play.error, ClientLeftError)
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

    play = Play(script, spools, SHORT_SECONDS)
    async with client_of(Stage(play)) as client:
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
    assert play.record.failure == Failure("upstream_cut", Source.UPSTREAM)
