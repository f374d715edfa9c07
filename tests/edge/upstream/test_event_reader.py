"""An upstream's events: each whole or not at all, however the bytes come; nothing is left of it."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from image_gateway.core.codec import json_skeleton
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.dialects.events import Event
from image_gateway.edge import turns as turns_module
from image_gateway.edge.spool import MEMORY_BYTES, ByteBudget, Spool, Spools
from image_gateway.edge.upstream import event_reader as event_reader_module
from image_gateway.edge.upstream.event_reader import EventReader, Keep, SpooledEvent
from image_gateway.edge.upstream.http_client import LostError, UpstreamClient, UpstreamResponse
from tests.edge.peer import Line, Peer, call, is_word
from tests.parts.eventually import BOUND_SECONDS

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SHORT_SECONDS = 0.1
"""A silence that is too long, where the test wants one."""

Script = Callable[[Line], Awaitable[None]]


@dataclass(frozen=True)
class Said:
    """One event as an upstream means it: its name, the lines of its data."""

    name: str | None
    data: tuple[bytes, ...]

    def lines(self) -> list[bytes]:
        named = [] if self.name is None else [b"event: " + self.name.encode()]
        return [*named, *(b"data: " + line for line in self.data), b""]

    def text(self) -> bytes:
        return b"\n".join(self.data)

    def frame(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines())


def said(name: str | None, value: object) -> Said:
    return Said(name, (json.dumps(value).encode(),))


@dataclass(frozen=True)
class Read:
    """One event as it arrived."""

    event: Event
    bytes: bytes


async def bytes_of(spooled: SpooledEvent) -> bytes:
    return b"".join([piece async for piece in spooled.frame().play()])


async def read_all(reader: EventReader) -> list[Read]:
    found = []
    while (spooled := await reader.next()) is not None:
        with spooled:
            found.append(Read(spooled.event, await bytes_of(spooled)))
    return found


async def say(line: Line, text: bytes) -> None:
    if text:
        await line.send(b"%x\r\n%s\r\n" % (len(text), text))


class Pulled(UpstreamResponse):
    """An answer of which a piece is sent only when somebody reads, so that pieces stay apart."""

    def __init__(self, answer: UpstreamResponse, wanted: asyncio.Semaphore) -> None:
        vars(self).update(vars(answer))
        self._wanted = wanted

    async def chunk(self, seconds: float) -> bytes:
        self._wanted.release()
        return await super().chunk(seconds)


@asynccontextmanager
async def answering(
    edge: UpstreamClient, spool: Spool, script: Script
) -> AsyncIterator[UpstreamResponse]:
    async def whole(line: Line) -> None:
        await line.request()
        await line.send(HEAD)
        await script(line)

    async with Peer(whole) as peer, edge.connection(call(peer.url), spool, None) as attempt:
        yield await attempt.open(BOUND_SECONDS)


async def ends(line: Line) -> None:
    await line.send(b"0\r\n\r\n")


async def closes(line: Line) -> None:
    pass


async def resets(line: Line) -> None:
    line.reset()


@asynccontextmanager
async def in_pieces(
    edge: UpstreamClient, spool: Spool, pieces: Sequence[bytes], then: Script = ends
) -> AsyncIterator[UpstreamResponse]:
    """An answer in just these pieces."""
    wanted = asyncio.Semaphore(0)

    async def script(line: Line) -> None:
        for piece in filter(None, pieces):
            await wanted.acquire()
            await say(line, piece)
        await wanted.acquire()
        await then(line)

    async with answering(edge, spool, script) as answer:
        yield Pulled(answer, wanted)


def reader_of(
    answer: UpstreamResponse,
    spools: Spools,
    keep: Keep = Keep.DATA,
    seconds: float = BOUND_SECONDS,
    idle_seconds: float = BOUND_SECONDS,
) -> EventReader:
    return EventReader(answer, spools, keep, time.monotonic() + seconds, idle_seconds)


def nothing_is_held(spools: Spools) -> bool:
    folder = f"{spools.folder}/"
    open_files = []
    for item in Path("/proc/self/fd").iterdir():
        try:
            open_files.append(str(item.readlink()))
        except FileNotFoundError:
            continue  # The look itself had it open.
    is_open = any(path.startswith(folder) for path in open_files)
    return spools.memory.used == spools.disk.used == 0 and not is_open


# -- what arrives ----------------------------------------------------------------------------------

PICTURE = base64.b64encode(bytes(range(256)) * 30).decode()
"""Longer than what a skeleton keeps."""

STREAM = [
    said("image_generation.partial_image", {"type": "image_generation.partial_image", "b": "ä🐈"}),
    said(None, {"type": "plain", "n": [1, 2, None]}),
    said("response.output_item.done", {"type": "done", "item": {"result": PICTURE}}),
    Said("two.lines", (b'{"type":"two",', b'"n":1}')),
    Said("no.json", (b"[DONE]",)),
    Said("empty", (b"",)),
    said("image_generation.completed", {"type": "completed", "b64_json": PICTURE}),
]


def rendered(source: random.Random) -> bytes:
    """The stream in one of its many forms: comments, other fields, any end of a line, spaces."""
    ends = source.choice([[b"\n"], [b"\r\n"], [b"\r"], [b"\n", b"\r\n", b"\r"]])
    lines: list[bytes] = []
    for event in STREAM:
        for _ in range(source.randrange(3)):
            lines += source.choice([[b": a comment", b""], [b":", b""], [b""], [b"retry: 10", b""]])
        lines += event.lines()
    # A mixture must not make one end of two: CR, then LF of an empty line.
    text = b""
    for line in lines:
        end = source.choice(ends)
        if end == b"\n" and not line and text.endswith(b"\r"):
            end = b"\r"
        text += line + end
    return text


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("seed", range(100))
async def test_events_arrive_the_same_however_the_bytes_come(
    edge: UpstreamClient, spools: Spools, spool: Spool, seed: int, keep: Keep
) -> None:
    source = random.Random(seed)
    text = rendered(source)
    splits = sorted(source.randrange(1, len(text)) for _ in range(source.randrange(1, 60)))
    if seed % 4 == 0:
        # Right at and beside the ends of lines, where most can go wrong.
        ends = [index for index, byte in enumerate(text) if byte in b"\r\n"]
        splits = sorted({min(index + source.randrange(2), len(text) - 1) for index in ends} | {1})
    pieces = [text[start:stop] for start, stop in pairwise([0, *splits, len(text)])]
    async with in_pieces(edge, spool, pieces) as answer:
        with reader_of(answer, spools, keep) as reader:
            found = await read_all(reader)
            assert await reader.next() is None, "it stays at its end"
        assert nothing_is_held(spools)
    assert [each.event.name for each in found] == [each.name for each in STREAM if each.text()]
    expected = [each for each in STREAM if each.text()]
    for read, event in zip(found, expected, strict=True):
        assert read.bytes == (event.frame() if keep is Keep.FRAME else event.text())
    assert [read.event.kind() for read in found] == [
        "image_generation.partial_image",
        "plain",
        "done",
        "two",
        "no.json",
        "completed",
    ]
    assert found[0].event.fields()["b"] == "ä🐈"
    assert found[4].event.value is None
    assert found[5].event.fields()["b64_json"] == json_skeleton.placeholder(0)
    for read in (found[2], found[5]):
        [lifted] = read.event.lifted
        assert read.bytes[lifted.start : lifted.stop] == PICTURE.encode()


@pytest.mark.parametrize("split", [None, 1])
async def test_a_frame_with_data_on_several_lines_cannot_be_quoted(
    edge: UpstreamClient, spools: Spools, spool: Spool, split: int | None
) -> None:
    lines = (b'{"type":"two",', b'"n":"' + PICTURE.encode() + b'"}')
    text = Said("two.lines", lines).frame() + Said("one.line", (b"".join(lines),)).frame()
    pieces = [text] if split is None else [bytes([byte]) for byte in text]
    async with in_pieces(edge, spool, pieces) as answer:
        with reader_of(answer, spools, Keep.FRAME) as reader:
            quotable = []
            while (spooled := await reader.next()) is not None:
                with spooled:
                    quotable.append(spooled.is_quotable)
    assert quotable == [False, True]


async def test_each_byte_by_itself_is_the_same_too(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    text = b": hello\r\n\r\n" + b"".join(each.frame() for each in STREAM[:2])
    pieces = [bytes([byte]) for byte in text]
    async with in_pieces(edge, spool, pieces) as answer:
        with reader_of(answer, spools, Keep.FRAME) as reader:
            found = await read_all(reader)
    assert [read.bytes for read in found] == [each.frame() for each in STREAM[:2]]


async def test_events_that_come_in_one_piece_are_given_one_by_one(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    text = b"".join(said("e", {"n": number}).frame() for number in range(50))
    async with in_pieces(edge, spool, [text]) as answer, AsyncExitStack() as held:
        with reader_of(answer, spools) as reader:
            first = held.enter_context(await anext_of(reader))
            second = held.enter_context(await anext_of(reader))
            assert [first.event.value, second.event.value] == [{"n": 0}, {"n": 1}]
            assert await bytes_of(first) == b'{"n": 0}', "an event outlives the next one's coming"
            rest = await read_all(reader)
    assert [read.event.value for read in rest] == [{"n": number} for number in range(2, 50)]
    assert nothing_is_held(spools)


async def anext_of(reader: EventReader) -> SpooledEvent:
    spooled = await reader.next()
    assert spooled is not None
    return spooled


async def test_an_event_arrives_when_it_is_whole_and_not_with_the_next_one(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        await say(line, said("first", {}).frame())
        await line.silence()

    async with answering(edge, spool, script) as answer, asyncio.timeout(BOUND_SECONDS / 2):
        with reader_of(answer, spools) as reader, await anext_of(reader) as spooled:
            assert spooled.event.name == "first"
    assert nothing_is_held(spools)


@pytest.mark.parametrize(
    "data", [b"[DONE]", b"{", b'{"a":1}}', b"\xff\xfe", b"nonsense", b'{"a":"\0"}', b"[" * 100]
)
@pytest.mark.parametrize("keep", Keep)
async def test_data_that_is_no_json_arrives_all_the_same_without_a_value(
    edge: UpstreamClient, spools: Spools, spool: Spool, data: bytes, keep: Keep
) -> None:
    odd, good = Said("odd", (data,)), said("good", {"a": 1})
    async with in_pieces(edge, spool, [odd.frame(), good.frame()]) as answer:
        with reader_of(answer, spools, keep) as reader:
            found = await read_all(reader)
    assert [read.event.value for read in found] == [None, {"a": 1}]
    assert [read.event.kind() for read in found] == ["odd", "good"]
    assert found[0].bytes == (data if keep is Keep.DATA else odd.frame())


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize(
    "text", [b"", b"\n\n\n", b": hello\n\n", b":\r\n\r\n:\r\n\r\n", b"event: x\n\n", b": cut"]
)
async def test_where_only_comments_came_no_event_arrives(
    edge: UpstreamClient, spools: Spools, spool: Spool, text: bytes, keep: Keep
) -> None:
    async with in_pieces(edge, spool, [text]) as answer:
        with reader_of(answer, spools, keep) as reader:
            assert await reader.next() is None
            assert nothing_is_held(spools)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("keep", Keep)
async def test_the_last_event_may_lack_its_blank_line(
    edge: UpstreamClient, spools: Spools, spool: Spool, end: bytes, keep: Keep
) -> None:
    first, last = said("first", {"n": 1}), said("last", {"b64_json": PICTURE})
    text = first.frame() + last.frame().rstrip(b"\n") + end
    async with in_pieces(edge, spool, [text[:100], text[100:]]) as answer:
        with reader_of(answer, spools, keep) as reader:
            found = await read_all(reader)
            assert await reader.next() is None
    assert [read.event.kind() for read in found] == ["first", "last"]
    # What goes on to a client is whole, blank line and all.
    assert found[1].bytes == (last.frame() if keep is Keep.FRAME else last.text())
    assert nothing_is_held(spools)


# -- what does not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [ends, closes, resets])
@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
async def test_an_event_that_is_cut_is_lost_and_those_before_it_are_not(
    edge: UpstreamClient, spools: Spools, spool: Spool, keep: Keep, share: float, then: Script
) -> None:
    first, last = said("first", {"n": 1}), said("last", {"b64_json": PICTURE * 10})
    text = last.frame()[: int(len(last.frame()) * share)]
    async with in_pieces(edge, spool, [first.frame(), text], then) as answer:
        with reader_of(answer, spools, keep) as reader:
            with await anext_of(reader) as spooled:
                assert spooled.event.value == {"n": 1}
            with pytest.raises(LostError) as caught:
                await reader.next()
        assert nothing_is_held(spools)
    assert is_word(str(caught.value))


@pytest.mark.parametrize("then", [closes, resets])
async def test_a_cut_between_events_is_no_end(
    edge: UpstreamClient, spools: Spools, spool: Spool, then: Script
) -> None:
    async with in_pieces(edge, spool, [said("first", {}).frame()], then) as answer:
        with reader_of(answer, spools) as reader:
            (await anext_of(reader)).close()
            with pytest.raises(LostError):
                await reader.next()
    assert nothing_is_held(spools)


BEGUN = [b"event: last\ndata: {", b"event:", b"data: {}\n"]
NOT_BEGUN = [b"event", b":", b": ping\n", b"retry: 3000\n", b"id: 7\n", b""]


@pytest.mark.parametrize("begun", BEGUN)
async def test_silence_within_an_event_is_bounded(
    edge: UpstreamClient, spools: Spools, spool: Spool, begun: bytes
) -> None:
    async def script(line: Line) -> None:
        await say(line, said("first", {}).frame() + begun)
        await line.silence()

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, idle_seconds=SHORT_SECONDS) as reader:
            (await anext_of(reader)).close()
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError) as caught:
                    await reader.next()
        assert nothing_is_held(spools)
    assert is_word(str(caught.value))


@pytest.mark.parametrize("before", NOT_BEGUN)
async def test_a_line_that_is_no_event_begins_none(
    edge: UpstreamClient, spools: Spools, spool: Spool, before: bytes
) -> None:
    """A heartbeat without a blank line, and then silence beyond what an event may be silent."""
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await say(line, before)
        await go.wait()
        await say(line, b"\n" + said("last", {}).frame())

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, idle_seconds=SHORT_SECONDS / 4) as reader:
            waiting = asyncio.create_task(reader.next())
            done, _ = await asyncio.wait([waiting], timeout=SHORT_SECONDS)
            assert not done
            go.set()
            spooled = await waiting
            assert spooled is not None
            assert spooled.event.kind() == "last"
            spooled.close()


async def test_a_heartbeat_does_not_push_the_deadline_away(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        while True:
            await say(line, b":\n")
            await asyncio.sleep(SHORT_SECONDS / 10)

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, seconds=SHORT_SECONDS) as reader:
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError):
                    await reader.next()
    assert nothing_is_held(spools)


async def _exhaust(reader: EventReader) -> None:
    while (spooled := await reader.next()) is not None:
        spooled.close()


@pytest.mark.slow
@pytest.mark.parametrize("flood", [b":\n", b"id: 7\n", b"data: 1\n", b"data: 1\n\n", b"event: x\n"])
async def test_a_flood_of_lines_or_events_comes_to_an_end(
    edge: UpstreamClient, spools: Spools, spool: Spool, flood: bytes
) -> None:
    async def script(line: Line) -> None:
        while True:
            await say(line, flood * 10_000)

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools) as reader:
            async with asyncio.timeout(BOUND_SECONDS):
                with pytest.raises(LostError) as caught:
                    await _exhaust(reader)
    assert str(caught.value) in {"TooManyLines", "TooManyEvents"}
    assert nothing_is_held(spools)


@pytest.mark.parametrize("before", [b"", b": comment\n\n", b"data: {}\n\n"])
async def test_silence_between_events_may_last_until_the_deadline(
    edge: UpstreamClient, spools: Spools, spool: Spool, before: bytes
) -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await say(line, before)
        await go.wait()
        await say(line, said("late", {}).frame())
        await line.silence()

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, idle_seconds=SHORT_SECONDS / 2) as reader:
            if b"data" in before:
                (await anext_of(reader)).close()
            waiting = asyncio.ensure_future(reader.next())
            done, _ = await asyncio.wait([waiting], timeout=4 * SHORT_SECONDS)
            assert not done, "the time within an event has not begun"
            go.set()
            spooled = await waiting
            assert spooled is not None
            with spooled:
                assert spooled.event.name == "late"
    assert nothing_is_held(spools)


@pytest.mark.parametrize("before", [b"", b": comment\n\n", b"data: {}\n\n"])
async def test_silence_between_events_ends_with_the_deadline(
    edge: UpstreamClient, spools: Spools, spool: Spool, before: bytes
) -> None:
    async def script(line: Line) -> None:
        await say(line, before)
        await line.silence()

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, seconds=3 * SHORT_SECONDS) as reader:
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError) as caught:
                    await read_all(reader)
    assert is_word(str(caught.value))
    assert nothing_is_held(spools)


async def test_comments_do_not_put_the_deadline_off(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        while not line.reader.at_eof():
            await say(line, b": still here\n\n")
            await asyncio.sleep(SHORT_SECONDS / 5)

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, seconds=3 * SHORT_SECONDS) as reader:
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError):
                    await reader.next()
    assert nothing_is_held(spools)


async def test_an_event_that_has_begun_may_end_after_the_deadline(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await say(line, b"data: {")
        await go.wait()
        await say(line, b"}\n\n")
        await line.silence()

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, seconds=SHORT_SECONDS) as reader:
            waiting = asyncio.ensure_future(reader.next())
            done, _ = await asyncio.wait([waiting], timeout=4 * SHORT_SECONDS)
            assert not done
            go.set()
            spooled = await waiting
            assert spooled is not None
            with spooled:
                assert spooled.event.value == {}
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError):
                    await reader.next()
    assert nothing_is_held(spools)


async def test_what_is_there_already_is_read_after_the_deadline_too(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    """It was in time; only we were not."""
    text = said("first", {}).frame() + said("second", {}).frame()
    async with in_pieces(edge, spool, [text]) as answer:
        with reader_of(answer, spools, seconds=BOUND_SECONDS) as reader:
            (await anext_of(reader)).close()
            reader._deadline = time.monotonic() - 1
            (await anext_of(reader)).close()
    assert nothing_is_held(spools)


# -- what it costs ---------------------------------------------------------------------------------


class Metered(ByteBudget):
    """A budget that remembers the most that was ever taken."""

    most = 0

    def take(self, count: int, *, must: bool = False) -> None:
        super().take(count, must=must)
        self.most = max(self.most, self.used)


@pytest.mark.parametrize("keep", Keep)
async def test_a_large_event_lies_on_disk_and_memory_stays_small(
    edge: UpstreamClient, spools: Spools, spool: Spool, keep: Keep
) -> None:
    spools.memory = memory = Metered(64 * MIB)
    picture = "A" * (3 * MIB)
    large = said("large", {"type": "large", "b64_json": picture, "n": 1})
    frame = large.frame()
    pieces = [frame[start : start + 50_000] for start in range(0, len(frame), 50_000)]
    async with in_pieces(edge, spool, pieces) as answer:
        with reader_of(answer, spools, keep) as reader, await anext_of(reader) as spooled:
            expected = frame if keep is Keep.FRAME else large.text()
            assert spooled.spool.size == spooled.frame().length == len(expected)
            assert spools.disk.used + spools.memory.used == len(expected)
            assert spools.disk.used >= len(expected) - MEMORY_BYTES
            assert memory.most <= MEMORY_BYTES + MIB // 2
            assert spooled.event.fields() == {
                "type": "large",
                "b64_json": json_skeleton.placeholder(0),
                "n": 1,
            }
            [lifted] = spooled.event.lifted
            assert lifted.length == len(picture)
            if keep is Keep.DATA:
                played = spooled.spool.play((Span(lifted.start, lifted.stop),))
                assert b"".join([piece async for piece in played]) == picture.encode()
            else:
                assert await bytes_of(spooled) == frame
    assert nothing_is_held(spools)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (b"data: " + json.dumps([0] * 19_000 + ["x" * MIB]).encode() + b"\n\n", 32),
        (b":\n" * 9000, 9000),
        (b"\n" * 9000, 9000),
        (b"id: 7\n" * 9000, 9000),
        (b"data: 1\n\n" * 9000, 9000),
    ],
    ids=["values", "comments", "blank lines", "fields", "events"],
)
async def test_others_get_their_turn_while_a_flood_is_read(
    edge: UpstreamClient,
    spools: Spools,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    steps: int,
) -> None:
    """What is in memory already never waits; here others may run after each step."""
    monkeypatch.setattr(turns_module, "_TURN_SECONDS", 0)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with in_pieces(edge, spool, [text]) as answer:
        ticking = asyncio.create_task(tick())
        with reader_of(answer, spools) as reader:
            await _exhaust(reader)
        ticking.cancel()
    assert turns > steps
    assert nothing_is_held(spools)


async def test_an_event_finds_room_where_none_is_left(
    edge: UpstreamClient, spool: Spool, tmp_path: Path
) -> None:
    """It has been paid for."""
    large = said("large", {"b64_json": "A" * (3 * MIB)})
    with Spools(tmp_path, 10, 10) as tight:
        async with in_pieces(edge, spool, [large.frame()]) as answer:
            with reader_of(answer, tight, Keep.FRAME) as reader, await anext_of(reader) as spooled:
                assert await bytes_of(spooled) == large.frame()
        assert nothing_is_held(tight)


@pytest.mark.parametrize("keep", Keep)
async def test_an_event_without_an_end_is_given_up(
    edge: UpstreamClient,
    spools: Spools,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    keep: Keep,
) -> None:
    monkeypatch.setattr(event_reader_module, "MOST_BYTES", 3 * MIB)

    async def script(line: Line) -> None:
        await say(line, b'data: {"b64_json":"')
        while True:
            await say(line, b"A" * 65536)

    async with answering(edge, spool, script) as answer:
        with reader_of(answer, spools, keep) as reader:
            with pytest.raises(LostError, match="EventTooLarge"):
                await reader.next()
            assert spools.memory.used + spools.disk.used < 4 * MIB
        assert nothing_is_held(spools)


@pytest.mark.parametrize("size", [100, 2 * MIB])
async def test_a_reader_that_is_cancelled_leaves_nothing(
    edge: UpstreamClient, spools: Spools, spool: Spool, size: int
) -> None:
    sent = asyncio.Event()

    async def script(line: Line) -> None:
        await say(line, b"data: " + b"A" * size)
        sent.set()
        await line.silence()

    async with answering(edge, spool, script) as answer:

        async def read() -> None:
            with reader_of(answer, spools) as reader:
                await read_all(reader)

        reading = asyncio.ensure_future(read())
        await sent.wait()
        done, _ = await asyncio.wait([reading], timeout=SHORT_SECONDS)
        assert not done
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert nothing_is_held(spools)


async def test_a_reader_that_is_left_within_an_event_leaves_nothing(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    text = said("first", {}).frame() + b'data: {"a":"' + b"A" * 100_000
    async with in_pieces(edge, spool, [text]) as answer:
        with reader_of(answer, spools) as reader:
            (await anext_of(reader)).close()
            waiting = asyncio.ensure_future(reader.next())
            await asyncio.wait([waiting], timeout=SHORT_SECONDS)
            assert waiting.done() or spools.memory.used > 0
            waiting.cancel()
            await asyncio.wait([waiting])
        assert nothing_is_held(spools)


async def test_what_they_show_of_themselves_holds_nothing_of_an_event(
    edge: UpstreamClient, spools: Spools, spool: Spool
) -> None:
    text = said("kind", {"type": "kind", "secret": "planted"}).frame() + b'data: {"a":"planted'
    async with in_pieces(edge, spool, [text]) as answer:
        with reader_of(answer, spools) as reader, await anext_of(reader) as spooled:
            assert repr(spooled).startswith("<SpooledEvent 'kind' in <Spool ")
            assert "planted" not in repr(spooled) + repr(reader) + repr(spooled.event)


# -- before the first event ------------------------------------------------------------------------


async def test_white_space_may_come_until_the_deadline_whatever_its_pauses(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        for piece in (b" ", b"\n", b'{"data":[]}'):
            await say(line, piece)
            await asyncio.sleep(2 * SHORT_SECONDS)
        await ends(line)

    async with answering(edge, spool, script) as answer:
        assert not await event_reader_module.has_events(answer, BOUND_SECONDS, SHORT_SECONDS)
        assert (await answer.chunk(BOUND_SECONDS)).split() == [b'{"data":[]}']


async def test_white_space_does_not_put_the_deadline_off(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        while True:
            await say(line, b" ")
            await asyncio.sleep(SHORT_SECONDS / 4)

    async with answering(edge, spool, script) as answer:
        with pytest.raises(LostError, match="TimeoutError"):
            async with asyncio.timeout(BOUND_SECONDS):
                await event_reader_module.has_events(answer, 4 * SHORT_SECONDS, BOUND_SECONDS)


async def test_a_text_that_has_begun_may_not_fall_silent(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        await say(line, b"dat")
        await asyncio.sleep(BOUND_SECONDS)

    async with answering(edge, spool, script) as answer:
        with pytest.raises(LostError, match="TimeoutError"):
            async with asyncio.timeout(BOUND_SECONDS / 2):
                await event_reader_module.has_events(answer, BOUND_SECONDS, SHORT_SECONDS)
