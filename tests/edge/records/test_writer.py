"""Records in files, whole lines only, whatever the disk does; and words without secrets."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from image_gateway.edge.records import writer
from image_gateway.edge.records.writer import CURRENT, RequestLog, Rotation
from tests.parts.eventually import BOUND_SECONDS, eventually_blocking

NEVER = 10**9
NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()


class Clock:
    """Seconds since 1970, turned by the test; the writing thread can be stopped at it.

    That stands in for a disk that hangs: the thread asks for the time before it writes.
    """

    def __init__(self) -> None:
        self.now = NOON
        self.going = threading.Event()
        self.going.set()
        self.stuck = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread() and not self.going.is_set():
            self.stuck.set()
            assert self.going.wait(BOUND_SECONDS)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _no_idle_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing thread acts on what is put and on nothing else."""
    monkeypatch.setattr(writer, "_IDLE_SECONDS", 60.0)


@pytest.fixture
def idle_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing thread looks around even if nothing is put, sooner than in life."""
    monkeypatch.setattr(writer, "_IDLE_SECONDS", 0.05)


def opened(folder: Path, clock: Callable[[], float], **rotation: float) -> RequestLog:
    values: dict[str, Any] = {"max_file_bytes": NEVER, "max_file_seconds": NEVER}
    return RequestLog(folder, Rotation(**{**values, "max_files": NEVER, **rotation}), clock)


def record(number: int, **more: object) -> dict[str, object]:
    moment = datetime.fromtimestamp(NOON, UTC).isoformat().replace("+00:00", "Z")
    return {"time": moment, "number": number, **more}


def lines(path: Path) -> list[Any]:
    """Every line of a file, which must be whole."""
    text = path.read_bytes()
    assert text == b"" or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


def sealed(folder: Path) -> list[Path]:
    return sorted(folder.glob("requests-*"))


def numbers(folder: Path) -> list[int]:
    """The numbers of all records there are, oldest first."""
    files = [*sealed(folder), folder / CURRENT]
    return [line["number"] for path in files for line in lines(path)]


def wait_for(look: Callable[[], object]) -> None:
    """Wait until ``look`` finds something true; a file may be in the middle of being renamed."""

    def found() -> object:
        with contextlib.suppress(FileNotFoundError):
            return look()
        return None

    eventually_blocking(found)


def wait_until_written(folder: Path, wanted: list[int], last: int = 0) -> None:
    """Until the records, or the last so many of them, are these."""
    wait_for(lambda: numbers(folder)[-last:] == wanted)


# -- every put is a line ---------------------------------------------------------------------------


def test_every_record_is_a_line_in_the_order_of_putting(tmp_path: Path, clock: Clock) -> None:
    records = [record(number, text="ä\n\u2028\0", none=None) for number in range(5000)]
    with opened(tmp_path / "made" / "here", clock) as log:
        for item in records:
            log.put(item)
    assert lines(tmp_path / "made" / "here" / CURRENT) == records
    assert log.lost == 0


def test_a_record_is_written_soon_and_not_only_at_the_end(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        log.put(record(1))
        wait_until_written(tmp_path, [1])


def test_records_are_added_to_those_of_an_earlier_process(tmp_path: Path, clock: Clock) -> None:
    for number in (1, 2):
        with opened(tmp_path, clock) as log:
            log.put(record(number))
    assert numbers(tmp_path) == [1, 2]


def test_a_line_that_was_torn_by_a_kill_keeps_its_own_line(tmp_path: Path, clock: Clock) -> None:
    whole = json.dumps(record(1)).encode() + b"\n"
    (tmp_path / CURRENT).write_bytes(whole + b'{"number": 2, "te')
    with opened(tmp_path, clock) as log:
        log.put(record(3))
    first, torn, last = (tmp_path / CURRENT).read_bytes().splitlines(keepends=True)
    assert first == whole
    assert torn == b'{"number": 2, "te\n'
    assert json.loads(last)["number"] == 3


def test_a_record_that_cannot_be_written_down_is_lost_alone(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        log.put(record(1))
        log.put(record(2, odd=object()))
        log.put(record(3))
    assert numbers(tmp_path) == [1, 3]
    assert log.lost == 1


def test_the_files_are_closed_to_strangers(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock, max_file_bytes=1) as log:
        log.put(record(1))
        log.put(record(2))
    for path in (*sealed(tmp_path), tmp_path / CURRENT):
        assert path.stat().st_mode & 0o007 == 0


def test_a_folder_that_cannot_be_written_is_known_at_once(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        opened(tmp_path / "file" / "logs", clock).__enter__()


# -- rotation --------------------------------------------------------------------------------------


def test_a_file_is_sealed_once_it_has_its_size(tmp_path: Path, clock: Clock) -> None:
    size = len(json.dumps(record(10), separators=(",", ":"))) + 1
    with opened(tmp_path, clock, max_file_bytes=3 * size) as log:
        for number in range(10, 20):
            log.put(record(number))
    assert [len(lines(path)) for path in sealed(tmp_path)] == [3, 3, 3]
    assert numbers(tmp_path) == list(range(10, 20))
    assert [path.name for path in sealed(tmp_path)] == [
        "requests-20261121T120000Z-0001.jsonl",
        "requests-20261121T120000Z-0002.jsonl",
        "requests-20261121T120000Z-0003.jsonl",
    ]


def test_sealed_files_are_named_by_the_time_of_their_sealing(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock, max_file_bytes=1) as log:
        for number in range(3):
            log.put(record(number))
            wait_until_written(tmp_path, list(range(number + 1)))
            clock.now += 3661
    names = [path.name for path in sealed(tmp_path)]
    assert len(names) >= 2
    assert names[:2] == [
        "requests-20261121T130101Z-0001.jsonl",
        "requests-20261121T140202Z-0001.jsonl",
    ]


@pytest.mark.usefixtures("idle_turns")
def test_a_file_is_sealed_at_its_age_even_if_nothing_more_comes(
    tmp_path: Path, clock: Clock
) -> None:
    with opened(tmp_path, clock, max_file_seconds=3600) as log:
        clock.now += 5000
        log.put(record(1))
        wait_until_written(tmp_path, [1])
        clock.now += 3599
        log.put(record(2))
        wait_until_written(tmp_path, [1, 2])
        assert sealed(tmp_path) == [], "its age counts from its first record"
        clock.now += 1
        wait_for(lambda: sealed(tmp_path))
        assert (tmp_path / CURRENT).read_bytes() == b""
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.usefixtures("idle_turns")
def test_an_empty_file_is_never_sealed(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock, max_file_seconds=10) as log:
        clock.now += 100
        log.put(record(1))
        wait_until_written(tmp_path, [1])
        assert sealed(tmp_path) == []


def test_a_files_age_outlives_a_restart(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        log.put(record(1))
    clock.now += 3000
    with opened(tmp_path, clock, max_file_seconds=3600) as log:
        log.put(record(2))
    assert sealed(tmp_path) == []
    clock.now += 600
    with opened(tmp_path, clock, max_file_seconds=3600) as log:
        log.put(record(3))
    assert [len(lines(path)) for path in sealed(tmp_path)] == [2]
    assert numbers(tmp_path) == [1, 2, 3]


@pytest.mark.usefixtures("idle_turns")
@pytest.mark.parametrize("first", [b"no json\n", b'{"time": "noon"}\n', b"[]\n", b"\n", b"\xff\n"])
def test_a_file_that_tells_no_age_is_as_old_as_this_process(
    tmp_path: Path, clock: Clock, first: bytes
) -> None:
    (tmp_path / CURRENT).write_bytes(first)
    with opened(tmp_path, clock, max_file_seconds=3600) as log:
        log.put(record(1))
        wait_for(lambda: (tmp_path / CURRENT).read_bytes() != first)
        assert sealed(tmp_path) == []
        clock.now += 3600
        wait_for(lambda: sealed(tmp_path))


def test_only_so_many_sealed_files_are_kept_the_latest(tmp_path: Path, clock: Clock) -> None:
    bystanders = ["other.jsonl", "requests.jsonl.1", "requests-notes.txt"]
    for name in bystanders:
        (tmp_path / name).touch()
    with opened(tmp_path, clock, max_file_bytes=1, max_files=3) as log:
        for number in range(20):
            log.put(record(number))
            wait_until_written(tmp_path, [number], last=1)
            clock.now += number % 3  # Several in one second, too.
    # The last record is not sealed yet.
    assert numbers(tmp_path) == [16, 17, 18, 19]
    found = {path.name for path in tmp_path.iterdir()}
    assert set(bystanders) <= found
    assert len(found) == len(bystanders) + 4


# -- reopening -------------------------------------------------------------------------------------


def test_a_file_that_was_moved_away_is_made_anew_when_told(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        log.put(record(1))
        wait_until_written(tmp_path, [1])
        (tmp_path / CURRENT).rename(tmp_path / "moved")
        log.put(record(2))
        wait_for(lambda: len(lines(tmp_path / "moved")) == 2)
        log.reopen()
        log.put(record(3))
        wait_for(lambda: (tmp_path / CURRENT).exists() and numbers(tmp_path) == [3])
    assert [line["number"] for line in lines(tmp_path / "moved")] == [1, 2]
    assert log.lost == 0


@pytest.mark.usefixtures("idle_turns")
def test_a_file_is_reopened_without_a_record_to_wait_for(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        (tmp_path / CURRENT).rename(tmp_path / "moved")
        log.reopen()
        wait_for((tmp_path / CURRENT).exists)


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_what_was_removed_is_made_anew_for_the_next_record(
    tmp_path: Path, clock: Clock, gone: str
) -> None:
    """Without a signal: a record in a file without a name would be lost, and not counted."""
    folder = tmp_path / "logs"
    with opened(folder, clock) as log:
        log.put(record(1))
        wait_until_written(folder, [1])
        if gone == "file":
            (folder / CURRENT).unlink()
        else:
            shutil.rmtree(folder)
        log.put(record(2))
        wait_until_written(folder, [2])
    assert log.lost == 0


def test_what_cannot_be_made_anew_is_counted_until_it_can(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "logs"
    with opened(folder, clock) as log:
        log.put(record(1))
        wait_until_written(folder, [1])
        shutil.rmtree(folder)
        folder.write_bytes(b"in the way")
        log.put(record(2))
        wait_for(lambda: log.lost == 1)
        folder.unlink()
        log.put(record(3))
        wait_until_written(folder, [3])
    assert log.lost == 1


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_a_clock_that_jumps_costs_no_record(tmp_path: Path, clock: Clock, hours: int) -> None:
    """It moves the time of one sealing, and nothing else."""
    with opened(tmp_path, clock, max_file_seconds=1800) as log:
        log.put(record(1))
        wait_until_written(tmp_path, [1])
        clock.now += hours * 3600
        log.put(record(2))
        wait_until_written(tmp_path, [1, 2])
        assert len(sealed(tmp_path)) == (hours > 0)
        clock.now += 3600 + 1800
        log.put(record(3))
        wait_until_written(tmp_path, [1, 2, 3])
        assert len(sealed(tmp_path)) == 1 + (hours > 0)
    assert log.lost == 0


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_file_that_is_gone_when_it_should_be_sealed_costs_no_further_record(
    tmp_path: Path, clock: Clock, *, whole_folder: bool
) -> None:
    """Somebody cleaned up and told nobody."""
    folder = tmp_path / "logs"
    with opened(folder, clock, max_file_bytes=1) as log:
        log.put(record(1))
        wait_until_written(folder, [1])
        (folder / CURRENT).unlink()
        if whole_folder:
            folder.rmdir()
        for number in range(2, 6):
            log.put(record(number))
    assert numbers(folder) == [2, 3, 4, 5]
    assert log.lost == 0


# -- no room ---------------------------------------------------------------------------------------


def test_what_finds_no_place_in_the_queue_is_counted_and_nobody_waits(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "_QUEUED", 100)
    with opened(tmp_path, clock) as log:
        clock.going.clear()
        log.put(record(0))
        assert clock.stuck.wait(BOUND_SECONDS)
        for number in range(1, 121):
            log.put(record(number))
        assert log.lost == 20
        clock.going.set()
    assert numbers(tmp_path) == list(range(101))
    assert log.lost == 20
    # 1, 2, 4, 8 and 16: a disk that hangs must not fill the journal.
    assert len(caplog.records) == 5


def test_the_queue_holds_ten_thousand(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        clock.going.clear()
        log.put(record(0))
        assert clock.stuck.wait(BOUND_SECONDS)
        for number in range(1, 10_001):
            log.put(record(number))
        assert log.lost == 0
        log.put(record(10_001))
        assert log.lost == 1
        clock.going.set()
    assert numbers(tmp_path) == list(range(10_001))


@pytest.mark.parametrize("waiting", [1, 100])
def test_a_disk_that_hangs_does_not_keep_the_process_from_ending(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setattr(writer, "_QUEUED", 100)
    monkeypatch.setattr(writer, "_FLUSH_SECONDS", 0.2)
    log = opened(tmp_path, clock).__enter__()
    clock.going.clear()
    log.put(record(0))
    assert clock.stuck.wait(BOUND_SECONDS)
    for number in range(waiting):
        log.put(record(number))
    leaving = threading.Thread(target=log.__exit__, args=(None, None, None))
    leaving.start()
    leaving.join(BOUND_SECONDS / 8)
    ended = not leaving.is_alive()
    clock.going.set()
    leaving.join(BOUND_SECONDS)
    assert ended


FULL_DISK = """
import json, os, resource, signal, sys, time
from pathlib import Path
from image_gateway.edge.records.writer import RequestLog, Rotation

folder = Path(sys.argv[1])
current = folder / "requests.jsonl"
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def until(look):
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)

def numbers():
    return [json.loads(line)["number"] for line in current.read_bytes().splitlines()]

with RequestLog(folder, Rotation(10**9, 10**9, 10), time.time) as log:
    put = lambda number: log.put({"number": number, "text": "x" * 300})
    put(0)
    until(lambda: current.read_bytes().endswith(b"\\n"))
    # Room for three records and a half: the next one is cut in the middle of its line.
    room = current.stat().st_size * 7 // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    for number in range(1, 10):
        put(number)
    until(lambda: log.lost == 7)
    print(numbers(), current.read_bytes().endswith(b"\\n"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for number in range(10, 13):
        put(number)
print(numbers(), log.lost)
"""


def test_a_full_disk_costs_records_and_never_a_half_one(tmp_path: Path) -> None:
    """It goes on, counts what it lost, and is itself again as soon as there is room."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout.decode().splitlines() == [
        "[0, 1, 2] True",
        "[0, 1, 2, 10, 11, 12] 7",
    ], done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_write_that_comes_in_small_parts_is_whole_in_the_end(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write may take less than it is given, more than once."""
    real = os.write
    with opened(tmp_path, clock) as log:
        monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data[:40])))
        log.put(record(1, text="x" * 100))
        log.put(record(2))
    monkeypatch.undo()
    assert numbers(tmp_path) == [1, 2]
    assert log.lost == 0


# -- the process's own words -----------------------------------------------------------------------

SECRET = "sk-planted-secret"

WORDS = f"""
import asyncio, json, logging, sys
from image_gateway.edge.records import writer

writer.configure_process_log()
log = logging.getLogger("image_gateway.test")

def fail():
    raise ValueError("{SECRET}")

def fail_again():
    try:
        fail()
    except ValueError as error:
        raise RuntimeError("{SECRET}") from error

for trouble in (fail, fail_again):
    try:
        trouble()
    except Exception:
        log.exception("it failed")
try:
    raise ExceptionGroup("{SECRET}", [ValueError("{SECRET}")])
except ExceptionGroup:
    log.exception("it failed")
log.error("no exception here", exc_info=True)
log.info("ours, told")
log.debug("ours, not told")
logging.getLogger("library").info("not told")
logging.getLogger("library").warning("told")

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(writer.report_loop_error)
    loop.call_soon(fail)
    task = asyncio.ensure_future(asyncio.sleep(0))
    task.add_done_callback(lambda _: fail())
    await task
    async def forgotten():
        fail()
    other = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    del other
    await asyncio.sleep(0)
    loop.call_exception_handler({{"message": "no more than words", "what": "{SECRET}"}})

asyncio.run(main())
"""


def words() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", WORDS], capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_the_process_says_json_lines_without_the_words_of_any_exception() -> None:
    """An exception's words may quote a prompt, a header or a connection string."""
    said = words()
    assert SECRET not in json.dumps(said)
    failures = [line for line in said if line["message"] == "it failed"]
    assert [line["exc_info"].split(" ")[0] for line in failures] == [
        "ValueError",
        "RuntimeError",
        "ExceptionGroup",
    ]
    # Where it happened is told, the innermost place first.
    assert re.fullmatch(r"ValueError < \S+:\d+ fail < \S+:\d+ <module>", failures[0]["exc_info"])
    for line in said:
        assert {"levelname", "name", "message", "time"} <= set(line)
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    told = [line["message"] for line in said if line["levelname"] in {"INFO", "WARNING"}]
    assert told == ["ours, told", "told"]
    assert "no exception here" in [line["message"] for line in said]
    loop = [line for line in said if line["message"].startswith("asyncio: ")]
    assert loop[-1]["message"] == "asyncio: no more than words"
    assert len(loop) == 4
    assert all(line["exc_info"].startswith("ValueError < ") for line in loop[:-1])


def test_what_asyncio_reports_is_logged_without_its_objects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = {
        "message": "Task exception was never retrieved",
        "exception": ValueError(SECRET),
        "future": SECRET,
        "transport": SECRET,
    }
    writer.report_loop_error(object(), context)
    [said] = caplog.records
    assert said.getMessage() == "asyncio: Task exception was never retrieved"
    text = writer._Formatter("{levelname}{message}", style="{").format(said)
    assert SECRET not in text
    assert json.loads(text)["exc_info"] == "ValueError"


def test_the_request_log_shows_no_record_of_itself(tmp_path: Path, clock: Clock) -> None:
    with opened(tmp_path, clock) as log:
        log.put({"key_name": SECRET})
        assert SECRET not in repr(log)
        assert "lost=0" in repr(log)


def test_nothing_is_told_of_a_record_that_was_lost_but_the_reason(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(tmp_path, clock) as log:
        log._lose("No space left on device")
    assert [said.getMessage() for said in caplog.records] == [
        "1 log records lost since the start: No space left on device; check the disk of LOG_DIR"
    ]
