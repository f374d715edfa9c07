"""Every record is read once, whatever the daemon does to its files meanwhile."""

import itertools
import json
import os
import threading
import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import DEEPEST, LONGEST_LINE_BYTES, Reading, RecordFile
from image_gateway.edge.records.writer import RequestLog, Rotation
from tests.parts.eventually import BOUND_SECONDS

SEALED = "requests-20261121T120000Z-0001.jsonl"
LATER = "requests-20261121T130000Z-0001.jsonl"


def write(path: Path, *ids: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"request_id": {number}}}\n' for number in ids), "utf-8")
    return path


def ids(files: list[RecordFile], reading: Reading | None = None) -> list[Any]:
    return [record["request_id"] for file in files for record in reader.read(file, reading)]


def test_both_instances_are_found_from_the_folder_above_sealed_files_first(tmp_path: Path) -> None:
    write(tmp_path / "green" / "requests.jsonl", 4)
    write(tmp_path / "blue" / "requests.jsonl", 3)
    write(tmp_path / "blue" / LATER, 2)
    write(tmp_path / "blue" / SEALED, 1)
    write(tmp_path / "blue" / "older" / SEALED, 9)
    write(tmp_path / "blue" / "notes.jsonl", 9)
    (tmp_path / "blue" / "requests-folder.jsonl").mkdir()
    files = reader.find([tmp_path])
    assert [(file.path.relative_to(tmp_path), file.is_sealed) for file in files] == [
        (Path("blue") / SEALED, True),
        (Path("blue") / LATER, True),
        (Path("blue/requests.jsonl"), False),
        (Path("green/requests.jsonl"), False),
    ]
    assert ids(files) == [1, 2, 3, 4]
    assert [file.size for file in files] == [18] * 4


def test_a_file_is_found_once_however_many_ways_lead_to_it(tmp_path: Path) -> None:
    write(tmp_path / "blue" / SEALED, 1)
    (tmp_path / "link").symlink_to(tmp_path / "blue")
    assert len(reader.find([tmp_path, tmp_path / "blue", tmp_path / "link"])) == 1


def test_a_file_seen_under_both_names_while_it_is_sealed_is_found_once(tmp_path: Path) -> None:
    os.link(write(tmp_path / "requests.jsonl", 1), tmp_path / SEALED)
    [file] = reader.find([tmp_path])
    assert file.is_sealed


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert reader.find([tmp_path / "none"]) == []


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        reader.find([write(tmp_path / "file", 1)])


def test_a_file_sealed_since_is_read_under_its_new_name_and_nothing_in_its_place(
    tmp_path: Path,
) -> None:
    current = write(tmp_path / "requests.jsonl", 2)
    write(tmp_path / SEALED, 1)
    files = reader.find([tmp_path])
    current.rename(tmp_path / LATER)
    write(current, 3)
    reading = Reading()
    assert ids(files, reading) == [1, 2]
    assert reading.gone_files == 0


def test_a_file_sealed_and_pruned_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    current = write(tmp_path / "requests.jsonl", *range(20_000))
    [file] = reader.find([tmp_path])
    records = reader.read(file)
    assert next(records)["request_id"] == 0
    current.rename(tmp_path / SEALED).unlink()
    assert sum(1 for _ in records) == 19_999


def test_a_pruned_file_is_told_as_gone_and_a_new_one_of_its_name_is_not_read(
    tmp_path: Path,
) -> None:
    sealed, current = write(tmp_path / SEALED, 1), write(tmp_path / "requests.jsonl", 2)
    files = reader.find([tmp_path])
    # Kept under another name, so that the new file cannot have the old one's inode.
    sealed.rename(tmp_path / "kept")
    write(sealed, 8)
    current.unlink()
    reading = Reading()
    assert ids(files, reading) == []
    assert reading.gone_files == 2


def test_a_sealed_file_is_looked_for_under_its_own_name_only(tmp_path: Path) -> None:
    """A pruned file's inode may belong to another file by now, which is not to be read for it."""
    sealed = write(tmp_path / SEALED, 1)
    files = reader.find([tmp_path])
    sealed.rename(tmp_path / LATER)
    assert ids(files) == []


def test_a_link_that_leads_in_a_circle_is_no_file_and_no_folder(tmp_path: Path) -> None:
    write(tmp_path / SEALED, 1)
    for name in (LATER, "requests.jsonl", "circle"):
        (tmp_path / name).symlink_to(name)
    assert ids(reader.find([tmp_path, tmp_path / "circle"])) == [1]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_what_is_deeper_than_any_record_is_none(tmp_path: Path, opening: str, closing: str) -> None:
    """Whoever shows or sums it would run out of stack; one with many attempts is not deep."""
    levels = [DEEPEST - 1, DEEPEST, 1000, 100_000]
    deep = [
        f'{{"request_id": {n}, "x": {opening * n}{"1" if "a" in opening else ""}{closing * n}}}\n'
        for n in levels
    ]
    attempts = '{"request_id": 0, "attempts": [' + ", ".join(['{"a": [1]}'] * 500) + "]}\n"
    (tmp_path / SEALED).write_text("".join([attempts, *deep]))
    reading = Reading()
    assert ids(reader.find([tmp_path]), reading) == [0, DEEPEST - 1]
    assert (reading.skipped_lines, reading.holes) == (3, 0)


@pytest.mark.parametrize(
    ("line", "holes"),
    [
        (b'{"request_id": "a' + b"\0" * 9, 1),
        (b"\0" * 9, 1),
        (b"x" * (LONGEST_LINE_BYTES * 2), 1),
        (b'{"request_id": "a', 0),
        (b"[]\n", 0),
    ],
)
def test_a_file_that_is_not_all_there_yet_shows_by_its_holes(
    tmp_path: Path, line: bytes, holes: int
) -> None:
    (tmp_path / SEALED).write_bytes(b'{"request_id": 1}\n' + line)
    reading = Reading()
    assert ids(reader.find([tmp_path]), reading) == [1]
    assert (reading.skipped_lines, reading.holes) == (1, holes)


def test_what_is_no_record_is_passed_over_and_counted(tmp_path: Path) -> None:
    lines = [
        b'{"request_id": 1}',
        b'{"request_id": 2, "ti',
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"request_id": "' + b"x" * LONGEST_LINE_BYTES + b'"}',
        b'{"request_id": 3}',
        b"x" * (LONGEST_LINE_BYTES * 2),
        b"x" * (LONGEST_LINE_BYTES - 1),
        b'{"request_id": 4}',
        b'{"request_id": 5, "key_',
    ]
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join(lines))
    reading = Reading()
    assert ids(reader.find([tmp_path]), reading) == [1, 3, 4]
    assert reading.skipped_lines == 8
    assert reading.read_bytes == path.stat().st_size


@pytest.mark.slow
def test_reading_takes_bounded_memory_though_a_line_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    with path.open("wb") as file:
        file.truncate(LONGEST_LINE_BYTES * 16)
    files = reader.find([tmp_path])
    tracemalloc.start()
    try:
        assert ids(files) == []
        assert tracemalloc.get_traced_memory()[1] < LONGEST_LINE_BYTES * 6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "is_sealed", "since", "may_hold"),
    [
        (SEALED, True, None, True),
        (SEALED, True, "2026-11-21T11:00", True),
        (SEALED, True, "2026-11-21T12:30", True),
        (SEALED, True, "2026-11-21T14:00", False),
        ("requests.jsonl", False, "2026-11-21T14:00", True),
        ("requests-old.jsonl", True, "2026-11-21T14:00", True),
        ("requests-20261399T120000Z-0001.jsonl", True, "2026-11-21T14:00", True),
    ],
)
def test_only_what_was_surely_sealed_before_may_be_left_out(
    name: str, since: str | None, *, is_sealed: bool, may_hold: bool
) -> None:
    """An hour of doubt is left for a clock that was set back."""
    moment = None if since is None else datetime.fromisoformat(since).replace(tzinfo=UTC)
    assert RecordFile(Path(name), is_sealed, 1, (1, 1)).may_hold(moment) is may_hold


def test_a_file_named_by_the_daemon_holds_what_it_held_before_it_was_sealed(tmp_path: Path) -> None:
    """The daemon's own names, and what may be concluded from them."""
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    with RequestLog(tmp_path, Rotation(1, 10**9, 10), now.timestamp) as log:
        log.put({"request_id": 1})
        log.put({"request_id": 2})
    sealed, _ = reader.find([tmp_path])
    assert sealed.is_sealed
    assert sealed.may_hold(now)
    assert not sealed.may_hold(now + timedelta(days=1))


@pytest.mark.slow
def test_no_record_is_missed_or_read_twice_while_the_daemon_writes_and_seals(
    tmp_path: Path,
) -> None:
    """What one reading found the next one finds again, each record once, through many seals."""
    stop = threading.Event()
    with RequestLog(tmp_path, Rotation(2_000, 10**9, 10**6), time.time) as log:

        def put() -> None:
            for number in itertools.count():
                if stop.wait(0.0005):
                    return
                log.put({"request_id": number, "filling": "x" * 100})

        writer = threading.Thread(target=put)
        writer.start()
        try:
            before: set[int] = set()
            deadline = time.monotonic() + BOUND_SECONDS
            sealed_between = 0
            while sealed_between < 20:
                assert time.monotonic() < deadline
                files = reader.find([tmp_path])
                sealed = sum(file.is_sealed for file in files)
                counted = Counter(ids(files))
                assert not [number for number, times in counted.items() if times > 1]
                assert before <= counted.keys()
                before = set(counted)
                sealed_between += len(list(tmp_path.glob("requests-*.jsonl"))) > sealed
        finally:
            stop.set()
            writer.join()
    assert log.lost == 0
    whole = sorted(ids(reader.find([tmp_path])))
    assert whole == list(range(len(whole)))
    assert before <= set(whole)


def test_a_record_of_the_daemon_is_read_as_it_was_put(tmp_path: Path) -> None:
    record = {"request_id": "req_1", "usage": {"total_tokens": 2**40}, "key_name": "Zoë"}
    with RequestLog(tmp_path, Rotation(10**9, 10**9, 10), time.time) as log:
        log.put(dict(record))
    [file] = reader.find([tmp_path])
    assert list(reader.read(file)) == [json.loads(json.dumps(record))]
