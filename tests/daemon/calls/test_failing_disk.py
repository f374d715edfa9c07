"""A disk that fails proves nothing of a call: who asks for one is told to ask again."""

import socket
from pathlib import Path

import pytest

from tests.daemon.calls.parts import ask, ended, error_code, submitted
from tests.daemon.conftest import Door
from tests.parts.upstream import ScriptedUpstream


@pytest.fixture
async def path(door: Door, upstream: ScriptedUpstream) -> str:
    """The page of a call that has ended, and is on the disk alone."""
    found = await submitted(door)
    assert (await ended(door, found))[0] == 200
    await door.record(call_source="made")
    return found


def part_of(door: Door, part: str, path: str) -> Path:
    """A file of a kept call."""
    return Path(door.gateway.settings["STATE_DIR"]) / "calls" / part / path.rpartition("/")[2]


async def test_a_call_that_cannot_be_read_is_not_called_gone(door: Door, path: str) -> None:
    journal = part_of(door, "calls", path)
    kept = journal.rename(journal.with_suffix(".aside"))
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(journal))  # opening it fails (ENXIO), for root, too
        for method in ("GET", "DELETE"):
            found = await ask(door, path, method)
            assert (found[0], error_code(found)) == (503, "overloaded")
            assert int(found[1]["retry-after"]) > 0
            assert "x-should-retry" not in found[1]
    journal.unlink()
    kept.rename(journal)
    assert (await ask(door, path))[0] == 200
    record = await door.record(
        error_code="overloaded", path=path, request_id=found[1]["x-request-id"]
    )
    assert (record["status"], record["error_source"]) == (503, "gateway")


async def test_a_call_whose_answer_stays_on_the_disk_is_not_called_deleted(
    door: Door, path: str
) -> None:
    answer = part_of(door, "answers", path)
    kept = answer.rename(answer.with_suffix(".aside"))
    answer.mkdir()  # unlinking it fails, for root, too
    found = await ask(door, path, "DELETE")
    assert (found[0], error_code(found)) == (503, "overloaded")
    answer.rmdir()
    kept.unlink()
