"""Bodies in memory and in unnamed files: played as they were written, and gone without a trace."""

import asyncio
import base64
import contextlib
import ctypes
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.body_segments import Decoded, Encoded, Span
from image_gateway.edge import spool as spool_module
from image_gateway.edge.spool import MEMORY_BYTES, Spool, SpoolFullError, Spools
from tests.parts.examples import scaled

MIB = 1024 * 1024
ROOM = 64 * MIB


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes of which no two neighbourhoods are alike, so that a wrong offset shows."""
    words = range(start // 4, (start + size) // 4 + 1)
    text = b"".join(word.to_bytes(4, "big") for word in words)
    return text[start % 4 : start % 4 + size]


async def fill(spool: Spool, data: bytes, piece: int) -> None:
    for start in range(0, len(data), piece):
        await spool.write(data[start : start + piece])


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def descriptors() -> dict[int, str]:
    """What this process has open, its own look at it left out."""
    found = {}
    for item in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(item.name)] = str(item.readlink())
    return found


def held(spools: Spools) -> tuple[int, int, list[str]]:
    """Bytes of memory, bytes of disk, and open files of the folder."""
    folder = f"{spools.folder}/"
    files = [path for path in descriptors().values() if path.startswith(folder)]
    return spools.memory.used, spools.disk.used, files


NOTHING: tuple[int, int, list[str]] = (0, 0, [])


# -- what is played --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "piece", "on_disk"),
    [
        (0, 1, 0),
        (1, 1, 0),
        (MEMORY_BYTES, 65536, 0),
        (MEMORY_BYTES + 1, 65536, 1),
        (MEMORY_BYTES + 1, MEMORY_BYTES + 1, 1),
        (3 * MIB + 12345, 70_001, 1),
        (5 * MIB, 5 * MIB, 1),
    ],
)
async def test_a_body_is_played_as_it_was_written(
    spools: Spools, size: int, piece: int, on_disk: int
) -> None:
    data = pattern(size)
    with spools.open() as spool:
        await fill(spool, data, piece)
        assert spool.size == size
        assert await joined(spool.play((Span(0, size),))) == data
        assert await joined(spool.play((Span(0, size),))) == data, "any number of times"
        assert len(held(spools)[2]) == on_disk
        assert spools.memory.used + spools.disk.used == size, "charged as it is held"
        assert spools.memory.used <= MEMORY_BYTES
    assert held(spools) == NOTHING


async def test_segments_are_played_in_their_order_each_as_often_as_it_stands_there(
    spools: Spools,
) -> None:
    data = pattern(2 * MIB + 100)
    segments: tuple[bytes | Span, ...] = (
        b"",
        b'{"a":"',
        Span(MIB - 3, MIB + 70_000),
        b'","b":"',
        Span(2 * MIB + 50, 2 * MIB + 100),
        Span(7, 7),
        Span(0, 5),
        Span(MIB - 3, MIB + 70_000),
        b'"}',
    )
    expected = b"".join(
        data[item.start : item.stop] if isinstance(item, Span) else item for item in segments
    )
    with spools.open() as spool:
        await fill(spool, data, 99_999)
        assert len(expected) == body_segments.length(segments)
        assert await joined(spool.play(segments)) == expected


async def test_a_large_span_is_read_in_small_pieces(spools: Spools) -> None:
    """A call's memory must not grow with its pictures."""
    with spools.open() as spool:
        await fill(spool, pattern(4 * MIB), 65536)
        sizes = [len(piece) async for piece in spool.play((Span(0, 4 * MIB),))]
    assert sum(sizes) == 4 * MIB
    assert max(sizes) <= 256 * 1024


async def test_two_plays_at_once_do_not_disturb_each_other(spools: Spools) -> None:
    data = pattern(3 * MIB)
    with spools.open() as spool:
        await fill(spool, data, 65536)
        spans = [Span(start, start + 2 * MIB) for start in range(0, MIB, MIB // 4)]
        played = await asyncio.gather(*(joined(spool.play((span,))) for span in spans))
        assert played == [data[span.start : span.stop] for span in spans]


@st.composite
def written_and_asked(draw: st.DrawFn) -> tuple[int, list[int], list[bytes | tuple[int, int]]]:
    """A size, the places where it is split, and segments within it."""
    size = draw(st.integers(0, 400))
    splits = draw(st.lists(st.integers(0, size), max_size=8))
    offset = st.integers(0, size)
    span = st.tuples(offset, offset).map(lambda it: (min(it), max(it)))
    segments = draw(st.lists(st.one_of(st.binary(max_size=9), span), max_size=8))
    return size, sorted(splits), segments


@given(case=written_and_asked())
@settings(max_examples=scaled(150))
def test_any_body_in_any_pieces_is_played_to_the_byte(
    case: tuple[int, list[int], list[bytes | tuple[int, int]]],
) -> None:
    """With the limits of memory and of a read made small, so that every edge is met."""
    size, splits, asked = case
    data = pattern(size)
    segments = tuple(item if isinstance(item, bytes) else Span(*item) for item in asked)
    expected = b"".join(
        data[item.start : item.stop] if isinstance(item, Span) else item for item in segments
    )

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                for start, stop in zip([0, *splits], [*splits, size], strict=True):
                    await spool.write(data[start:stop])
                assert spool.size == size
                for _ in range(2):
                    assert await joined(spool.play(segments)) == expected
                assert spools.memory.used <= 64
                assert spools.memory.used + spools.disk.used == size
            assert held(spools) == NOTHING
            assert list(folder.iterdir()) == []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool_module, "MEMORY_BYTES", 64)
        patch.setattr(spool_module, "_READ_BYTES", 17)
        asyncio.run(run(Path(folder)))


# -- through base64 --------------------------------------------------------------------------------

READ_BYTES = 192 * 1024


@st.composite
def size_near(draw: st.DrawFn, *borders: int) -> int:
    """A tiny size, or one beside a border."""
    border = draw(st.sampled_from([0, *borders]))
    return max(0, border + draw(st.integers(-5, 5)))


def encoded_size() -> st.SearchStrategy[int]:
    return size_near(READ_BYTES, 2 * READ_BYTES, MIB, MIB + READ_BYTES, 2 * MIB)


@given(
    size=encoded_size(),
    before=st.sampled_from([0, 1, 7, MIB - 2, MIB]),
    piece=st.sampled_from([65536, 100_001, MIB, 3 * MIB]),
)
@settings(max_examples=scaled(60))
def test_bytes_go_out_as_their_base64_and_of_the_length_that_was_promised(
    size: int, before: int, piece: int
) -> None:
    """Wherever they lie, on disk, in memory or in both."""
    data = pattern(before + size + 9)
    segments: body_segments.Body = (b'"', Encoded(Span(before, before + size)), b'"')

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, data, piece)
                held_body = spool.hold(segments)
                for _ in range(2):
                    played = await joined(held_body.play())
                    assert played == b'"%s"' % base64.b64encode(data[before : before + size])
                    assert held_body.length == body_segments.length(segments) == len(played)
            assert held(spools) == NOTHING

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


ESCAPES = {
    "as it is": {},
    "slashes": {b"/": b"\\/"},
    "all by number": {b"/": b"\\u002F", b"+": b"\\u002b", b"=": b"\\u003d"},
}


@given(
    size=encoded_size(),
    before=st.sampled_from([0, 1, MIB - 2, MIB]),
    piece=st.sampled_from([65536, 100_001, MIB, 3 * MIB]),
    escapes=st.sampled_from(sorted(ESCAPES)),
    padded=st.booleans(),
)
@settings(max_examples=scaled(60))
def test_base64_goes_out_as_its_bytes_and_of_the_length_that_was_promised(
    size: int, before: int, piece: int, escapes: str, *, padded: bool
) -> None:
    """``size`` of text, or as near to it as base64 comes; JSON's escapes are none of its bytes."""
    # Bytes of which every base64 holds slashes and pluses.
    data = (b"\xff\xef\xbe" * (size // 4 + 1))[: size * 3 // 4]
    text = base64.b64encode(data) if padded else base64.b64encode(data).rstrip(b"=")
    for character, escape in ESCAPES[escapes].items():
        text = text.replace(character, escape)
    segments: body_segments.Body = (
        b"(",
        Decoded(Span(before, before + len(text)), len(data)),
        b")",
    )

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, b"." * before + text + b'","', piece)
                for _ in range(2):
                    played = await joined(spool.play(segments))
                    assert played == b"(%s)" % data
                    assert body_segments.length(segments) == len(played)
            assert held(spools) == NOTHING

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@given(
    data=st.binary(max_size=300),
    before=st.integers(0, 70),
    read=st.integers(1, 40),
    escapes=st.sampled_from(sorted(ESCAPES)),
)
@settings(max_examples=scaled(150))
def test_where_a_read_ends_leaves_no_trace_in_what_is_encoded_or_decoded(
    data: bytes, before: int, read: int, escapes: str
) -> None:
    """With the limits made small: every read ends within an escape or a quartet somewhere."""
    text = base64.b64encode(data)
    for character, escape in ESCAPES[escapes].items():
        text = text.replace(character, escape)
    whole = pattern(before) + text + data
    decoded = Decoded(Span(before, before + len(text)), len(data))
    encoded = Encoded(Span(before + len(text), len(whole)))

    async def run(folder: Path) -> None:
        with Spools(folder, ROOM, ROOM) as spools:
            with spools.open() as spool:
                await fill(spool, whole, 50)
                assert await joined(spool.play((decoded,))) == data
                assert await joined(spool.play((encoded,))) == base64.b64encode(data)
            assert held(spools) == NOTHING

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool_module, "MEMORY_BYTES", 64)
        # Whoever reads in pieces that are no multiple of three cannot encode them one by one.
        patch.setattr(spool_module, "_READ_BYTES", read * 3)
        asyncio.run(run(Path(folder)))


async def test_what_is_no_base64_is_not_sent_on_as_though_it_were(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(b"abc$defg")
        with pytest.raises(ValueError):
            await joined(spool.play((Decoded(Span(0, 8), 6),)))


async def test_a_held_body_is_its_bytes_and_its_length_for_whoever_does_not_know_the_spool(
    spools: Spools,
) -> None:
    data = pattern(2 * MIB)
    with spools.open() as spool:
        await fill(spool, data, 65536)
        kept = spool.hold((b"<", Span(5, MIB + 5), Encoded(Span(0, 4)), b">"))
        expected = b"<" + data[5 : MIB + 5] + base64.b64encode(data[:4]) + b">"
        assert kept.length == len(expected)
        for _ in range(2):
            assert await joined(kept.play()) == expected
        assert spool.hold(()).length == 0
        assert await joined(spool.hold(()).play()) == b""
    assert held(spools) == NOTHING


# -- no trace --------------------------------------------------------------------------------------


class Watch:
    """The names that appear in a folder, however briefly: the kernel's own account (inotify)."""

    _CREATE_OR_MOVE_IN = 0x100 | 0x80

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watched = libc.inotify_add_watch(self._queue, bytes(folder), self._CREATE_OR_MOVE_IN)
        assert watched > 0, os.strerror(ctypes.get_errno())

    def appeared(self) -> bytes:
        try:
            return os.read(self._queue, 65536)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._queue)


async def test_a_file_never_has_a_name(spools: Spools, tmp_path: Path) -> None:
    """Not even for a moment: a process that is killed leaves nothing for anybody to sweep up."""
    watch = Watch(tmp_path)
    with spools.open() as spool:
        await fill(spool, pattern(2 * MIB + 1), 65536)
        [file] = held(spools)[2]
        assert file.endswith("(deleted)")
        assert await joined(spool.play((Span(0, 5),))) == pattern(5)
    assert watch.appeared() == b""
    (tmp_path / "a name").touch()
    assert b"a name" in watch.appeared(), "the watch sees what has a name"
    watch.close()


async def test_a_file_is_not_passed_on_to_other_programs(spools: Spools) -> None:
    with spools.open() as spool:
        await fill(spool, pattern(MIB + 1), MIB + 1)
        [number] = [number for number, path in descriptors().items() if path in held(spools)[2]]
        assert not os.get_inheritable(number)


async def test_where_no_file_can_be_born_unnamed_it_loses_its_name_at_once(
    spools: Spools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems without ``O_TMPFILE`` answer like this."""
    real = os.open
    for refusal in (IsADirectoryError(21, "Is a directory"), OSError(95, "Not supported")):

        def refuse(*args: Any, refusal: OSError = refusal, **options: Any) -> int:
            if args[1] & os.O_TMPFILE == os.O_TMPFILE:
                raise refusal
            return real(*args, **options)

        monkeypatch.setattr(os, "open", refuse)
        data = pattern(MIB + 1)
        with spools.open() as spool:
            await fill(spool, data, 65536)
            assert list(tmp_path.iterdir()) == []
            assert len(held(spools)[2]) == 1
            assert await joined(spool.play((Span(0, len(data)),))) == data
        assert held(spools) == NOTHING


async def test_all_is_given_back_after_an_exception(spools: Spools) -> None:
    with pytest.raises(ZeroDivisionError), spools.open() as spool:  # noqa: PT012 - the block is it
        await fill(spool, pattern(2 * MIB + 1), 65536)
        assert held(spools) != NOTHING
        raise ZeroDivisionError
    assert held(spools) == NOTHING


async def test_closing_twice_gives_back_once(spools: Spools) -> None:
    with spools.open() as other, spools.open() as spool:
        await fill(other, pattern(100), 100)
        await fill(spool, pattern(MIB + 100), 65536)
        spool.close()
        # A number given back twice may belong to somebody else by now.
        number = os.open("/dev/null", os.O_RDONLY)
        spool.close()
        os.close(number)
        assert held(spools) == (100, 0, [])
    assert held(spools) == NOTHING


class SlowDisk(ThreadPoolExecutor):
    """Threads of which each job waits until the test lets it go."""

    def __init__(self) -> None:
        super().__init__(4)
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = job(*args, **options)
            except BaseException as error:  # noqa: BLE001 - handed on, as an executor does
                future.set_exception(error)
            else:
                future.set_result(result)

        self.jobs.append(run)
        return future

    async def job(self) -> Callable[[], None]:
        """The next job, once it is asked for."""
        while not self.jobs:
            await asyncio.sleep(0)
        return self.jobs.pop(0)


@pytest.fixture
def slow_disk(spools: Spools) -> SlowDisk:
    spools.threads.shutdown()
    made = SlowDisk()
    spools.threads = made
    return made


async def write_large(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(pattern(MIB + 1))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_cancelled_while_a_thread_opens_the_file(spools: Spools, slow_disk: SlowDisk) -> None:
    writing = asyncio.create_task(write_large(spools))
    opening = await slow_disk.job()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    opening()
    await turns()
    assert held(spools) == NOTHING


async def test_cancelled_just_when_a_thread_has_opened_the_file(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    writing = asyncio.create_task(write_large(spools))
    opening = await slow_disk.job()
    opening()
    writing.cancel()
    await asyncio.wait([writing])
    await turns()
    assert writing.cancelled()
    assert held(spools) == NOTHING


async def test_cancelled_while_a_thread_writes(spools: Spools, slow_disk: SlowDisk) -> None:
    """The thread must not find its descriptor closed, or worse, given to somebody else."""
    writing = asyncio.create_task(write_large(spools))
    (await slow_disk.job())()
    write = await slow_disk.job()
    [before] = held(spools)[2]
    writing.cancel()
    await asyncio.wait([writing])
    assert held(spools) == (0, 0, [before]), "still open for the thread"
    write()
    await turns()
    assert held(spools) == NOTHING


async def test_cancelled_just_when_a_thread_has_written(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    writing = asyncio.create_task(write_large(spools))
    (await slow_disk.job())()
    write = await slow_disk.job()
    write()
    writing.cancel()
    await asyncio.wait([writing])
    await turns()
    assert held(spools) == NOTHING


async def test_cancelled_while_a_thread_reads(spools: Spools, slow_disk: SlowDisk) -> None:
    with spools.open() as spool:
        writing = asyncio.create_task(spool.write(pattern(MIB + 1)))
        (await slow_disk.job())()
        (await slow_disk.job())()
        await writing
        playing = asyncio.create_task(joined(spool.play((Span(0, MIB),))))
        read = await slow_disk.job()
        playing.cancel()
        await asyncio.wait([playing])
    assert len(held(spools)[2]) == 1
    read()
    await turns()
    assert held(spools) == NOTHING


async def test_closed_while_the_read_of_an_earlier_attempt_still_goes_on(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    """An attempt that ended early may leave a read behind, and the next one ends before it."""
    data = pattern(MIB + 1)
    with spools.open() as spool:
        writing = asyncio.create_task(spool.write(data))
        (await slow_disk.job())()
        (await slow_disk.job())()
        await writing
        first = asyncio.create_task(joined(spool.play((Span(0, 5),))))
        slow_read = await slow_disk.job()
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(joined(spool.play((Span(0, 5),))))
        (await slow_disk.job())()
        assert await second == data[:5]
    assert len(held(spools)[2]) == 1, "still open for the thread"
    slow_read()
    await turns()
    assert held(spools) == NOTHING


# -- no room ---------------------------------------------------------------------------------------


async def test_more_than_the_memory_budget_is_refused(tmp_path: Path) -> None:
    with Spools(tmp_path, 1000, ROOM) as spools:
        with spools.open() as first, spools.open() as second:
            await first.write(pattern(600))
            await second.write(pattern(400))
            for spool in (first, second):
                with pytest.raises(SpoolFullError):
                    await spool.write(b"x")
            second.close()
            await first.write(pattern(400, 600))
            assert await joined(first.play((Span(0, 1000),))) == pattern(1000)
        assert held(spools) == NOTHING


async def test_more_than_the_disk_budget_is_refused(tmp_path: Path) -> None:
    limit = 2 * MIB + 2
    with Spools(tmp_path, ROOM, limit) as spools:
        with spools.open() as first:
            await first.write(pattern(MIB + 1))
            with spools.open() as second:
                await second.write(pattern(MIB + 1))
                with pytest.raises(SpoolFullError):
                    await second.write(pattern(MIB + 1))
            assert spools.disk.used == MIB + 1
            assert await joined(first.play((Span(0, MIB + 1),))) == pattern(MIB + 1)
            await first.write(pattern(MIB + 1))
            assert spools.disk.used == limit
        assert held(spools) == NOTHING


@pytest.mark.parametrize("folder", ["/proc/tty", "/nonexistent", "/dev/null"])
async def test_a_folder_that_takes_no_files_is_a_full_spool(folder: str) -> None:
    with Spools(Path(folder), ROOM, ROOM) as spools:
        with spools.open() as spool:
            await spool.write(pattern(MIB))
            with pytest.raises(SpoolFullError):
                await spool.write(b"x")
        assert held(spools) == NOTHING


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from image_gateway.core.codec.body_segments import Decoded, Encoded, Span
from image_gateway.edge.spool import Spools, SpoolFullError

MIB = 1024 * 1024
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB // 2, 3 * MIB // 2))

async def main(folder):
    with Spools(Path(folder), 64 * MIB, 64 * MIB) as spools:
        with spools.open() as spool:
            await spool.write(b"a" * (MIB + 1))
            try:
                await spool.write(b"b" * (MIB + 1))
            except SpoolFullError:
                print("full")
        with spools.open() as spool:
            await spool.write(b"a" * (MIB + 1))
            async for piece in spool.play((Span(MIB, MIB + 1),)):
                print(piece)
        print(spools.memory.used, spools.disk.used)

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_is_a_full_spool_and_costs_the_next_body_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().splitlines() == ["full", "b'a'", "0 0"]
    assert done.stderr == b""
    assert list(tmp_path.iterdir()) == []


# -- what was paid for finds room ------------------------------------------------------------------


async def test_what_was_paid_for_finds_room_when_both_budgets_are_used_up(tmp_path: Path) -> None:
    data = pattern(5 * MIB + 7)
    with Spools(tmp_path, 100, 100) as spools:
        spools.memory.take(100)
        spools.disk.take(100)
        with spools.open(paid=True) as spool:
            await fill(spool, data, 70_001)
            assert spool.size == len(data)
            assert await joined(spool.play((Span(0, len(data)),))) == data
            assert spools.memory.used + spools.disk.used == 200 + len(data), "charged all the same"
            assert spools.memory.used <= 100 + MEMORY_BYTES
            with spools.open() as another, pytest.raises(SpoolFullError):
                await another.write(b"x")
        assert held(spools) == (100, 100, [])


async def test_what_was_paid_for_takes_room_from_requests_and_gives_it_back(tmp_path: Path) -> None:
    with Spools(tmp_path, 1000, ROOM) as spools, spools.open() as request:
        with spools.open(paid=True) as answer:
            await answer.write(pattern(900))
            with pytest.raises(SpoolFullError):
                await request.write(pattern(101))
        await request.write(pattern(1000))
        assert await joined(request.play((Span(0, 1000),))) == pattern(1000)


class FailingDisk:
    """``os.pwrite`` that takes so many bytes in all, and then says that the disk is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = 0
        self._real = os.pwrite

    def pwrite(self, file: int, data: memoryview, offset: int) -> int:
        if self.room == 0:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._real(file, data[: self.room], offset)
        self.room -= taken
        return taken


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 1000, MIB + 1, MIB + 2, 2 * MIB, 3 * MIB])
@pytest.mark.parametrize("piece", [65536, MIB + 1])
async def test_what_was_paid_for_outlives_a_disk_that_becomes_full(
    spools: Spools, monkeypatch: pytest.MonkeyPatch, room: int, piece: int
) -> None:
    """Even within a piece of which some is written already."""
    disk = FailingDisk(room)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    data = pattern(4 * MIB + 5)
    with spools.open(paid=True) as spool:
        await fill(spool, data, piece)
        assert disk.refused == 1, "asked no more once it has failed"
        assert spool.size == len(data)
        assert spools.memory.used + spools.disk.used == len(data)
        for _ in range(2):
            assert await joined(spool.play((Span(0, len(data)),))) == data
        segments: body_segments.Body = (Span(MIB - 9, 3 * MIB), Encoded(Span(MIB // 2, 3 * MIB)))
        expected = data[MIB - 9 : 3 * MIB] + base64.b64encode(data[MIB // 2 : 3 * MIB])
        assert await joined(spool.play(segments)) == expected
    assert held(spools) == NOTHING


@pytest.mark.parametrize("folder", ["/proc/tty", "/nonexistent", "/dev/null"])
async def test_what_was_paid_for_needs_no_folder(folder: str) -> None:
    data = pattern(3 * MIB + 5)
    with Spools(Path(folder), 100, 100) as spools:
        with spools.open(paid=True) as spool:
            await fill(spool, data, 70_001)
            assert (spools.memory.used, spools.disk.used) == (len(data), 0)
            assert await joined(spool.play((Span(0, len(data)),))) == data
        assert held(spools) == NOTHING


async def test_what_was_paid_for_outlives_a_folder_that_was_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    data = pattern(3 * MIB)
    with Spools(folder, ROOM, ROOM) as spools:
        with spools.open(paid=True) as first, spools.open(paid=True) as second:
            await fill(first, data, 65536)
            folder.rmdir()
            await fill(second, data, 65536)
            for spool in (first, second):
                assert await joined(spool.play((Span(0, len(data)),))) == data
        assert held(spools) == NOTHING


async def test_a_full_disk_is_still_a_full_spool_for_what_nobody_has_paid_for(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", FailingDisk(1000).pwrite)
    with spools.open() as spool, pytest.raises(SpoolFullError):
        await fill(spool, pattern(2 * MIB), 65536)
    assert held(spools) == NOTHING


async def test_cancelled_while_the_disk_fails_all_is_given_back(
    spools: Spools, slow_disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", FailingDisk(0).pwrite)

    async def write_paid() -> None:
        with spools.open(paid=True) as spool:
            await spool.write(pattern(MIB + 1))

    writing = asyncio.create_task(write_paid())
    (await slow_disk.job())()
    write = await slow_disk.job()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    write()
    await turns()
    assert held(spools) == NOTHING


async def test_what_a_spool_shows_of_itself_holds_no_bytes_of_the_body(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(b"a picture")
        assert repr(spool) == "<Spool 9 bytes, memory>"
        await spool.write(pattern(MIB))
        assert repr(spool) == f"<Spool {MIB + 9} bytes, file>"
