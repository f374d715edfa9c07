"""A disk that is full or fails, and callers that are cancelled: calls go on, and nothing leaks."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from image_gateway.core.calls.model import CallState
from image_gateway.edge.disk_threads import DiskThreads
from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.kept import folder as folder_module
from image_gateway.edge.kept.disk import WARNING_SECONDS, DiskTroubleError, Trouble
from image_gateway.edge.kept.open_file import OpenFile
from image_gateway.edge.kept.store import KeptCalls
from image_gateway.edge.spool import JoinedBody, SpooledBody, Spools
from tests.edge.kept.parts import (
    HEADERS,
    KEY,
    Clock,
    answer,
    bytes_of,
    files,
    identity,
    is_found,
    keep,
    one,
    open_files,
    opened,
    tag,
)
from tests.parts.eventually import BOUND_SECONDS, eventually

Stores = tuple[KeptCalls, KeptCalls]
MIB = 1024 * 1024


@contextlib.contextmanager
def longest_file(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size``: writes are short, then they fail."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def failing(name: str, number: int) -> Iterator[None]:
    """A call of ``os`` that fails wherever it is used in the folder."""
    error = OSError(number, os.strerror(number))
    with mock.patch.object(os, name, side_effect=error):
        yield


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Spools]:
    with Spools(tmp_path, 1 << 30, 1 << 30) as spools:
        yield spools


@contextlib.asynccontextmanager
async def spooled(spools: Spools, size: int) -> AsyncIterator[SpooledBody]:
    with spools.open() as spool:
        await spool.write(answer(size))
        yield spool.whole()


# -- a full disk -----------------------------------------------------------------------------------


async def test_a_call_that_cannot_begin_goes_on_unkept(
    stores: Stores, keep_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with longest_file(10), await stores[0].begin(identity(name=tag("name"))) as working:
        assert not working.is_kept
        working.note_left()
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
        await working.note_sent()
    assert stores[0].lost == 1
    assert files(keep_dir) == []
    assert open_files(keep_dir) == []
    [record] = caplog.records
    assert record.levelname == "WARNING"


@pytest.mark.parametrize("size", [100_000, 3 * MIB], ids=["in-one-write", "from-a-file"])
async def test_an_answer_that_does_not_fit_on_the_disk_is_not_kept(
    stores: Stores, keep_dir: Path, large: Spools, size: int
) -> None:
    async with spooled(large, size) as body:
        with await stores[0].begin(identity()) as working:
            with longest_file(size - 50_000):
                # A body of several spools is copied; the file of a single one gets a name.
                await working.end(CallState.MADE, 200, HEADERS, JoinedBody([body]))
            assert not working.is_kept
            assert not await is_found(stores[1], identity())
            await working.note_sent()
    await eventually(lambda: files(keep_dir) == [])
    assert stores[0].lost == 1


async def test_a_note_that_does_not_fit_on_the_disk_makes_the_call_unkept(
    stores: Stores, keep_dir: Path
) -> None:
    """Else its answer would go to the next equal request, for its client would count as gone."""
    for number in (1, 2):
        with await stores[0].begin(identity(number)) as working:
            await working.end(CallState.MADE, 200, HEADERS, b"picture")
            entry = await one(stores[1], identity(number))
            with longest_file(entry.length):
                await (working.note_sent() if number == 1 else entry.note_told())
        assert not await is_found(stores[0], identity(number))
    assert files(keep_dir) == []
    assert [store.lost for store in stores] == [1, 1]


async def test_an_end_cut_off_by_a_full_disk_is_no_end(stores: Stores, keep_dir: Path) -> None:
    """Whoever waits sees that nothing is kept, and the torn line goes with the call."""
    with await stores[0].begin(identity()) as working:
        waiting = asyncio.create_task((await one(stores[1], identity())).wait(60))
        await eventually(lambda: len(open_files(keep_dir)) == 2)
        size = (keep_dir / "calls" / identity().call_id).stat().st_size
        with longest_file(size + 20):
            await working.end(CallState.MADE, 200, HEADERS, b"picture")
        assert await waiting is None
    assert files(keep_dir) == []


async def test_room_on_the_disk_is_used_again(stores: Stores) -> None:
    with longest_file(10):
        await keep(stores[0], identity(1))
    await keep(stores[0], identity(2))
    assert await is_found(stores[1], identity(2))


async def test_forgetting_needs_no_room(stores: Stores, keep_dir: Path) -> None:
    await keep(stores[0], identity())
    with longest_file(0):
        await (await one(stores[1], identity())).forget()
    assert files(keep_dir) == []


# -- a disk that fails -----------------------------------------------------------------------------


async def test_a_folder_that_cannot_be_read_fails_no_request(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    call = identity(name=tag("name"))
    await keep(stores[0], call, sent=False)
    entry = await one(stores[0], call)
    with failing("open", errno.EIO), failing("listdir", errno.EIO), failing("scandir", errno.EIO):
        assert await stores[0].find(KEY, fingerprint=call.fingerprint) == []
        assert not await stores[0].has_any(KEY)
        assert await entry.try_claim() is None
        # Nobody may take them for gone.
        for asking in (
            stores[0].call(KEY, call.call_id),
            stores[0].of_key(KEY, 10),
            stores[0].picture(call.call_id, 0),
            entry.open_answer(),
        ):
            with pytest.raises(DiskTroubleError):
                await asking
        await entry.note_delivered()
        await stores[0].sweep()
        [message] = caplog.messages
        assert "Input/output error" in message
        assert call.call_id not in message


async def test_who_cannot_see_a_running_call_goes_on_waiting(stores: Stores) -> None:
    """A process without free descriptors must not take the call for gone, and buy again."""
    with await stores[0].begin(identity()):
        entry = await one(stores[1], identity())
        with failing("open", errno.EMFILE):
            assert await entry.wait(0.01) == entry


async def test_one_file_that_cannot_be_removed_does_not_end_a_sweep(
    stores: Stores, keep_dir: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        await keep(stores[0], identity(number))
    real = os.unlink

    def unlink(path: Any) -> None:
        if identity(1).call_id in str(path):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path)

    clock.now += 3600
    with mock.patch.object(os, "unlink", unlink):
        await stores[0].sweep()
    assert [path for path in files(keep_dir) if path.startswith("calls/")] == [
        f"calls/{identity(1).call_id}"
    ]
    assert "Operation not permitted" in caplog.text


async def test_a_full_disk_is_no_reason_not_to_start(
    keep_dir: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with failing("mkdir", errno.ENOSPC):
        async with KeptCalls(keep_dir, 3600, 1 << 30, clock) as store:
            await keep(store, identity())
            assert store.lost == 1
    assert "Free space on the disk of KEEP_DIR" in caplog.text
    assert "No space left on device" in caplog.text


async def test_the_bytes_of_an_answer_that_ends_too_early_are_an_error(
    stores: Stores, keep_dir: Path
) -> None:
    """So that nobody takes them for the whole."""
    await keep(stores[0], identity(), answer(MIB))
    opened_answer = await (await one(stores[1], identity())).open_answer()
    assert opened_answer is not None
    with opened_answer:
        pieces = opened_answer.play()
        await anext(pieces)
        [span] = [part async for part in opened_answer.outgoing()]
        assert isinstance(span, FileSpan)
        [file] = [path for path in keep_dir.rglob("*") if path.stat().st_size == MIB]
        os.truncate(file, 300_000)
        with pytest.raises(OSError, match="shorter"):
            async for _ in pieces:
                pass
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(OSError, match="shorter"):
            await span.send(ours.fileno(), 300_000)


def test_there_is_one_warning_a_minute_and_it_counts(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    trouble = Trouble(lambda: now)
    for _ in range(5):
        trouble.lose(OSError(errno.ENOSPC, "No space left on device", "/keep/calls/call_1"))
    assert trouble.lost == 5
    now += WARNING_SECONDS
    trouble.report(OSError(errno.EIO, "Input/output error"))
    first, second = caplog.messages
    assert "No space left on device (calls not kept since the start: 1)" in first
    assert "Free space on the disk of KEEP_DIR, or lower KEEP_BUDGET_BYTES" in first
    assert "call_1" not in first
    assert "Input/output error (calls not kept since the start: 5)" in second


# -- cancelled -------------------------------------------------------------------------------------


class Stuck:
    """A thread's job that waits until the test lets it go on."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.is_stuck = asyncio.Event()
        self.go_on = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.job(*args, **options)
        self.loop.call_soon_threadsafe(self.is_stuck.set)
        asyncio.run_coroutine_threadsafe(self.go_on.wait(), self.loop).result()
        return result


@contextlib.asynccontextmanager
async def stuck_at(owner: Any, name: str) -> AsyncIterator[Stuck]:
    """The next calls of a function stop behind their work."""
    stuck = Stuck(getattr(owner, name))
    with mock.patch.object(owner, name, stuck):
        try:
            yield stuck
        finally:
            stuck.go_on.set()


async def cancelled(task: "asyncio.Task[Any]", stuck: Stuck) -> None:
    """Cancel a task while its job is stuck; then let the job go on."""
    async with asyncio.timeout(BOUND_SECONDS):
        await stuck.is_stuck.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    stuck.go_on.set()


async def test_a_cancelled_begin_leaves_nothing(stores: Stores, keep_dir: Path) -> None:
    folder = stores[0]._folder
    async with stuck_at(folder, "create") as stuck:
        task = asyncio.create_task(stores[0].begin(identity(name=tag("name"))))
        await cancelled(task, stuck)
        await eventually(lambda: files(keep_dir) == [] and open_files(keep_dir) == [])


async def test_a_cancelled_begin_on_a_failing_disk_holds_nothing(
    stores: Stores, keep_dir: Path
) -> None:
    """Else the call would seem to run until the process ends."""
    folder = stores[0]._folder
    async with stuck_at(folder, "create") as stuck:
        task = asyncio.create_task(stores[0].begin(identity()))
        with failing("unlink", errno.EIO):
            await cancelled(task, stuck)
            await eventually(lambda: open_files(keep_dir) == [])
    assert (await one(stores[1], identity())).state is CallState.UNKNOWN


async def test_a_cancelled_claim_is_given_back(stores: Stores, keep_dir: Path) -> None:
    await keep(stores[0], identity(), sent=False)
    entry = await one(stores[0], identity())
    async with stuck_at(stores[0]._folder, "open_journal") as stuck:
        await cancelled(asyncio.create_task(entry.try_claim()), stuck)
    await eventually(lambda: open_files(keep_dir) == [])
    assert not (await one(stores[1], identity())).is_claimed


async def test_a_cancelled_opening_of_an_answer_leaves_nothing_open(
    stores: Stores, keep_dir: Path
) -> None:
    await keep(stores[0], identity())
    entry = await one(stores[0], identity())
    async with stuck_at(stores[0]._folder, "open_answer") as stuck:
        await cancelled(asyncio.create_task(entry.open_answer()), stuck)
    await eventually(lambda: open_files(keep_dir) == [])


async def test_an_answer_closed_while_it_is_read_is_closed_once_the_read_ends(
    stores: Stores, keep_dir: Path
) -> None:
    await keep(stores[0], identity(), answer(MIB))
    kept = await (await one(stores[0], identity())).open_answer()
    assert kept is not None
    async with stuck_at(os, "pread") as stuck:
        task = asyncio.ensure_future(anext(kept.play()))
        async with asyncio.timeout(BOUND_SECONDS):
            await stuck.is_stuck.wait()
        task.cancel()
        await asyncio.wait([task])
        kept.close()
        assert len(open_files(keep_dir)) == 1, "the file that is read, not the journal"
        stuck.go_on.set()
        await eventually(lambda: open_files(keep_dir) == [])


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(folder_module, "write_all", id="from-memory"),
        pytest.param(os, "sendfile", id="from-files"),
    ],
)
async def test_a_call_cancelled_while_its_answer_is_written_has_an_unknown_outcome(
    stores: Stores, keep_dir: Path, large: Spools, owner: Any, name: str
) -> None:
    async with spooled(large, 2 * MIB) as whole:
        body: SpooledBody | JoinedBody = whole
        if owner is folder_module:
            body = whole.spool.hold((answer(2 * MIB),))
        else:
            body = JoinedBody((whole,))
        with await stores[0].begin(identity()) as working:
            async with stuck_at(owner, name) as stuck:
                task = asyncio.create_task(working.end(CallState.MADE, 200, HEADERS, body))
                await cancelled(task, stuck)
            assert (await one(stores[1], identity())).state is CallState.RUNNING
    entry = await one(stores[1], identity())
    assert (entry.state, await bytes_of(entry)) == (CallState.UNKNOWN, b"")
    await eventually(lambda: not any(path.startswith("answers/") for path in files(keep_dir)))
    await eventually(lambda: open_files(keep_dir) == [])


async def test_a_call_cancelled_while_its_end_is_written_has_ended(
    stores: Stores, keep_dir: Path
) -> None:
    with await stores[0].begin(identity()) as working:
        async with stuck_at(folder_module, "append") as stuck:
            task = asyncio.create_task(working.end(CallState.MADE, 200, HEADERS, b"picture"))
            await cancelled(task, stuck)
    await eventually(lambda: open_files(keep_dir) == [])
    entry = await one(stores[1], identity())
    assert (entry.state, await bytes_of(entry)) == (CallState.MADE, b"picture")


async def test_a_call_begins_while_many_lists_are_made(stores: Stores) -> None:
    async with stuck_at(stores[0]._folder, "ids") as stuck:
        lists = [asyncio.create_task(stores[0].of_key(KEY, 20)) for _ in range(20)]
        async with asyncio.timeout(BOUND_SECONDS):
            await stuck.is_stuck.wait()
            (await stores[0].begin(identity())).close()
        stuck.go_on.set()
        assert len((await asyncio.gather(*lists))[-1]) == 1


async def test_a_store_that_closes_waits_for_what_its_threads_do(
    keep_dir: Path, clock: Clock
) -> None:
    async with opened(keep_dir, clock) as store, stuck_at(store._folder, "create") as stuck:
        task = asyncio.create_task(store.begin(identity()))
        await cancelled(task, stuck)
    assert files(keep_dir) == []
    assert open_files(keep_dir) == []


async def test_a_descriptor_is_closed_once_and_not_while_it_is_used(tmp_path: Path) -> None:
    threads = DiskThreads()
    file = OpenFile(threads, os.open(tmp_path, os.O_RDONLY))
    async with stuck_at(os, "fstat") as stuck:
        task = asyncio.create_task(file.run(os.fstat))
        async with asyncio.timeout(BOUND_SECONDS):
            await stuck.is_stuck.wait()
        file.close()
        file.close()
        stuck.go_on.set()
        assert stat.S_ISDIR((await task).st_mode)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.number)
    await threads.close()


async def test_a_descriptor_that_was_lent_is_closed_once_it_comes_back(tmp_path: Path) -> None:
    threads = DiskThreads()
    file = OpenFile(threads, os.open(tmp_path, os.O_RDONLY))
    comes_back = asyncio.Event()

    async def work(number: int) -> None:
        await comes_back.wait()
        assert os.fstat(number)

    task = asyncio.create_task(file.lend(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    file.close()
    assert os.fstat(file.number), "the caller was cancelled, not the work"
    comes_back.set()
    await threads.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.number)


async def test_a_file_that_gets_its_name_late_is_the_calls_own(
    stores: Stores, large: Spools
) -> None:
    """Once the spool is closed, the number of its descriptor is the next file's."""
    folder = stores[0]._folder
    real, named = folder.name_answer, []
    is_stuck, go_on = threading.Event(), threading.Event()

    def late(call_id: str, file: int) -> None:
        is_stuck.set()
        go_on.wait(BOUND_SECONDS)
        real(call_id, file)
        named.append((folder.answers / call_id).read_bytes())

    with mock.patch.object(folder, "name_answer", late), await stores[0].begin(identity()) as call:
        async with spooled(large, 2 * MIB) as body:
            task = asyncio.create_task(call.end(CallState.MADE, 200, HEADERS, body))
            await eventually(is_stuck.is_set)
            task.cancel()
            await asyncio.wait([task])
        async with spooled(large, 3 * MIB):  # another call's, which gets the free number
            go_on.set()
            await eventually(lambda: bool(named))
    assert named == [answer(2 * MIB)]

    async def has_ended() -> bool:  # cancelled or not
        return (await one(stores[1], identity())).state is CallState.MADE

    await eventually(has_ended)
    assert await bytes_of(await one(stores[1], identity())) == answer(2 * MIB)


async def test_the_file_of_a_spool_is_kept_without_a_copy(
    stores: Stores, keep_dir: Path, large: Spools
) -> None:
    with large.open(folder=keep_dir) as spool:
        await spool.write(answer(2 * MIB))
        with await stores[0].begin(identity()) as working:
            await working.end(CallState.MADE, 200, HEADERS, spool.whole())
        assert os.fstat(await spool.to_file()).st_nlink == 1
    assert await bytes_of(await one(stores[1], identity())) == answer(2 * MIB)


async def test_a_call_given_up_while_its_answer_is_written_touches_no_other_file(
    stores: Stores, keep_dir: Path, tmp_path: Path, large: Spools
) -> None:
    """A note that fails closes the journal, and the kernel gives its number to the next file."""
    folder = stores[0]._folder
    async with spooled(large, 2 * MIB) as body:
        working = await stores[0].begin(identity())
        async with stuck_at(folder, "name_answer") as stuck:
            task = asyncio.create_task(working.end(CallState.MADE, 200, HEADERS, body))
            async with asyncio.timeout(BOUND_SECONDS):
                await stuck.is_stuck.wait()
            with failing("write", errno.ENOSPC):
                await working.note_given()
            assert not working.is_kept
            with (tmp_path / "another").open("wb", buffering=0):
                stuck.go_on.set()
                assert not await task
    assert (tmp_path / "another").read_bytes() == b""
    await eventually(lambda: files(keep_dir) == [] and open_files(keep_dir) == [])
