"""The files of bodies: unnamed, gone without a trace, and sent without being read."""

import asyncio
import base64
import ctypes
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from image_gateway.core.codec.body_segments import Encoded, Span
from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.spool import (
    JoinedBody,
    SpooledBody,
    SpoolFullError,
    Spools,
    name_file,
)
from tests.edge.spooling import (
    MIB,
    NOTHING,
    ROOM,
    FailingDisk,
    SlowDisk,
    descriptors,
    fill,
    held,
    joined,
    pattern,
    turns,
)

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


async def write_large(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(pattern(MIB + 1))


async def test_cancelled_while_a_thread_makes_the_file(spools: Spools, slow_disk: SlowDisk) -> None:
    writing = asyncio.create_task(write_large(spools))
    making = await slow_disk.job()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    making()
    await turns()
    assert held(spools) == NOTHING


async def test_cancelled_just_when_a_thread_has_made_the_file(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    writing = asyncio.create_task(write_large(spools))
    making = await slow_disk.job()
    making()
    writing.cancel()
    await asyncio.wait([writing])
    await turns()
    assert writing.cancelled()
    assert held(spools) == NOTHING


async def write_large_twice(spools: Spools) -> None:
    with spools.open() as spool:
        await spool.write(pattern(MIB + 1))
        await spool.write(pattern(MIB + 1))


async def test_cancelled_while_a_thread_writes(spools: Spools, slow_disk: SlowDisk) -> None:
    """The thread must not find its descriptor closed, or worse, given to somebody else."""
    writing = asyncio.create_task(write_large_twice(spools))
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
    writing = asyncio.create_task(write_large_twice(spools))
    (await slow_disk.job())()
    write = await slow_disk.job()
    write()
    writing.cancel()
    await asyncio.wait([writing])
    await turns()
    assert held(spools) == NOTHING


async def test_a_writer_that_was_cancelled_has_written(spools: Spools, slow_disk: SlowDisk) -> None:
    """What comes after it, while its thread still works or later, loses and doubles nothing."""
    data = pattern(3 * MIB)
    with spools.open() as spool:
        writing = asyncio.create_task(spool.write(data[: MIB + 1]))
        first = await slow_disk.job()
        writing.cancel()
        await asyncio.wait([writing])
        assert spool.size == MIB + 1
        second = asyncio.create_task(fill(spool, data[MIB + 1 :], 50_000))
        await turns()
        first()
        while not second.done():
            (await slow_disk.job())()
            await turns()
        assert spools.memory.used + spools.disk.used == len(data)
        playing = asyncio.create_task(joined(spool.play((Span(0, len(data)),))))
        while not playing.done():
            (await slow_disk.job())()
            await turns()
        assert await playing == data
    await turns()
    assert held(spools) == NOTHING


async def test_cancelled_while_a_thread_reads(spools: Spools, slow_disk: SlowDisk) -> None:
    with spools.open() as spool:
        writing = asyncio.create_task(spool.write(pattern(MIB + 1)))
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


# -- a file that is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB + 5])
async def test_a_body_of_any_size_can_be_given_a_file(spools: Spools, size: int) -> None:
    data = pattern(size)
    with spools.open(paid=True) as spool:
        await fill(spool, data, 65536)
        file = await spool.to_file()
        assert os.pread(file, size + 1, 0) == data
        assert (spools.memory.used, spools.disk.used) == (0, size)
        assert await spool.to_file() == file, "it has one"
        assert await joined(spool.whole().play()) == data
        await spool.write(b"more")
        assert await joined(spool.whole().play()) == data + b"more"
    assert held(spools) == NOTHING


async def test_such_a_file_can_get_a_name(spools: Spools, tmp_path: Path) -> None:
    """In a folder of its own; the name outlives the spool."""
    keep, name = tmp_path / "kept", tmp_path / "kept" / "a name"
    keep.mkdir()
    with spools.open(paid=True, folder=keep) as spool:
        await spool.write(b"a picture")
        file = await spool.to_file()
        assert descriptors()[file].startswith(f"{keep}/")
        assert list(keep.iterdir()) == []
        name_file(file, name)
        with pytest.raises(FileExistsError):
            name_file(file, name)
    assert name.read_bytes() == b"a picture"
    assert name.stat().st_mode & 0o777 == 0o600
    assert held(spools) == NOTHING


async def test_two_who_ask_for_the_file_at_once_get_the_same(spools: Spools) -> None:
    with spools.open(paid=True) as spool:
        await fill(spool, pattern(MIB), 65536)
        first, second = await asyncio.gather(spool.to_file(), spool.to_file())
        assert first == second
        assert os.pread(first, 2 * MIB, 0) == pattern(MIB)
    assert held(spools) == NOTHING


@pytest.mark.parametrize("paid", [True, False], ids=["paid", "not paid"])
async def test_where_no_file_can_be_made_nothing_is_lost(tmp_path: Path, *, paid: bool) -> None:
    folder = tmp_path / "nowhere"
    with Spools(folder, ROOM, ROOM) as spools:
        with spools.open(paid=paid) as spool:
            await spool.write(b"a picture")
            for _ in range(2):
                with pytest.raises(SpoolFullError):
                    await spool.to_file()
            assert await joined(spool.whole().play()) == b"a picture"
            assert (spools.memory.used, spools.disk.used) == (9, 0)
        assert held(spools) == NOTHING


# -- read while it is written ----------------------------------------------------------------------


async def test_what_was_written_can_be_read_while_more_comes(spools: Spools) -> None:
    """By several readers, each at its own pace, wherever the bytes lie just then."""
    data = pattern(5 * MIB)
    with spools.open(paid=True) as spool:
        written = asyncio.Event()

        async def read(piece: int) -> bytes:
            found = b""
            while len(found) < len(data):
                if len(found) == spool.size:
                    written.clear()
                    await written.wait()
                stop = min(spool.size, len(found) + piece)
                found += await joined(spool.play((Span(len(found), stop),)))
            return found

        readers = [asyncio.create_task(read(piece)) for piece in (70_001, 300_000, 2 * MIB)]
        for start in range(0, len(data), 100_003):
            await spool.write(data[start : start + 100_003])
            written.set()
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*readers)) == {data}
    assert held(spools) == NOTHING


async def test_a_piece_on_its_way_to_the_disk_can_be_read(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    data = pattern(MIB + 1)
    with spools.open(paid=True) as spool:
        writing = asyncio.create_task(spool.write(data))
        write = await slow_disk.job()
        assert await joined(spool.whole().play()) == data
        write()
        await writing
    assert held(spools) == NOTHING


async def test_a_piece_that_reaches_the_disk_while_it_is_read_is_read_once(
    spools: Spools, slow_disk: SlowDisk
) -> None:
    """A read that begins in the file and ends in memory."""
    data = pattern(2 * MIB)
    with spools.open(paid=True) as spool:
        writing = asyncio.create_task(spool.write(data[: MIB + 1]))
        (await slow_disk.job())()
        await writing
        await spool.write(data[MIB + 1 :])
        reading = asyncio.create_task(joined(spool.play((Span(MIB - 5, MIB + 5),))))
        read = await slow_disk.job()
        flushing = asyncio.create_task(spool.to_file())
        (await slow_disk.job())()
        await flushing
        read()
        assert await reading == data[MIB - 5 : MIB + 5]
    assert held(spools) == NOTHING


# -- what goes out without being read --------------------------------------------------------------


async def outgoing(body: SpooledBody | JoinedBody) -> list[bytes | tuple[int, int]]:
    """What goes out; what lies in a file as its place."""
    return [
        (part.start, part.stop) if isinstance(part, FileSpan) else part
        async for part in body.outgoing()
    ]


async def test_a_large_plain_span_of_a_file_is_named_by_its_place(spools: Spools) -> None:
    data = pattern(2 * MIB + 9)
    small, large = Span(5, 9), Span(7, MIB + 9)
    with spools.open(paid=True) as spool:
        await fill(spool, data, 65536)
        body = spool.hold((b"<", large, b"|", small, Encoded(Span(0, 3)), b">"))
        parts = await outgoing(JoinedBody([body, spool.whole()]))
        encoded = base64.b64encode(data[:3])
        assert parts == [b"<", (7, MIB + 9), b"|", data[5:9], encoded, b">", (0, len(data))]
    assert held(spools) == NOTHING


async def test_a_file_span_is_played_and_sent_as_it_was_written(spools: Spools) -> None:
    data = pattern(2 * MIB)
    sender, receiver = socket.socketpair()
    with spools.open(paid=True) as spool, sender, receiver:
        sender.setblocking(False)
        await fill(spool, data, 65536)
        [span] = [part async for part in spool.whole().outgoing()]
        assert isinstance(span, FileSpan)
        assert len(span) == len(data)
        assert await joined(span.play()) == data
        count = await span.send(sender.fileno(), MIB)
        assert 0 < count < MIB
        with pytest.raises(BlockingIOError):
            await span.send(sender.fileno(), MIB + count)
        assert receiver.recv(count, socket.MSG_WAITALL) == data[MIB : MIB + count]
    assert held(spools) == NOTHING


async def test_a_body_that_goes_out_leaves_memory(spools: Spools) -> None:
    """A client may take minutes for it."""
    with spools.open(paid=True) as spool:
        await fill(spool, pattern(MIB + MIB // 2), 65536)
        assert spools.memory.used > 0
        assert await outgoing(spool.whole()) == [(0, spool.size)]
        assert spools.memory.used == 0
    assert held(spools) == NOTHING


async def test_what_the_disk_did_not_take_goes_out_from_memory(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pattern(2 * MIB)
    with spools.open(paid=True) as spool:
        await fill(spool, data[: MIB + 1], MIB + 1)
        monkeypatch.setattr(os, "pwritev", FailingDisk(0).pwritev)
        await fill(spool, data[MIB + 1 :], 65536)
        first, *rest = await outgoing(spool.whole())
        assert first == (0, MIB + 1)
        assert b"".join(part for part in rest if isinstance(part, bytes)) == data[MIB + 1 :]
    assert held(spools) == NOTHING
