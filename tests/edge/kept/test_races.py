"""Two things at the same moment: one of them is made to happen in the middle of the other."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from image_gateway.core.calls import journal
from image_gateway.core.calls.journal import Ending, Note
from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept import folder as folder_module
from image_gateway.edge.kept import locks
from image_gateway.edge.kept.folder import KeepFolder, append, look
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import (
    HEADERS,
    NOW,
    Clock,
    answer,
    files,
    identity,
    is_found,
    keep,
    one,
    open_files,
)

Stores = tuple[KeptCalls, KeptCalls]
MADE = Ending(CallState.MADE, NOW, 200, HEADERS)


@contextlib.contextmanager
def before_first(owner: Any, name: str, event: Callable[..., object]) -> Iterator[None]:
    """Lets ``event`` happen once, before the first call of a function, which must come."""
    real = getattr(owner, name)
    events = [event]

    def call(*args: Any, **options: Any) -> Any:
        while events:
            events.pop()(*args, **options)
        return real(*args, **options)

    with mock.patch.object(owner, name, call):
        yield
    assert not events


@pytest.fixture
def folder(keep_dir: Path) -> KeepFolder:
    made = KeepFolder(keep_dir)
    made.open()
    return made


@pytest.fixture
def working(folder: KeepFolder) -> Iterator[int]:
    """The journal of a running call, as its process has it open."""
    file = folder.create(identity())
    yield file
    os.close(file)


@pytest.fixture
def looking(folder: KeepFolder, working: int) -> Iterator[int]:
    """The same journal, as somebody else has it open."""
    file = folder.open_journal(identity().call_id)
    assert file is not None
    yield file
    os.close(file)


def test_a_call_that_ends_during_a_look_is_not_taken_for_dead(working: int, looking: int) -> None:
    def end(*_: object) -> None:
        append(working, journal.ended(MADE))
        locks.unlock(working, Part.WORK)

    with before_first(locks, "is_locked", end):
        seen = look(looking, NOW + 1)
    assert seen is not None
    assert seen.journal.ending == MADE
    assert os.pread(looking, 10_000, 0).count(b'"state"') == 1, "nothing was added"


def test_a_client_that_is_served_during_a_look_is_not_taken_for_gone(
    working: int, looking: int
) -> None:
    append(working, journal.ended(MADE))

    def serve(*_: object) -> None:
        folder_module.note(working, Note.SENT)
        locks.unlock(working, Part.CLIENT)

    with before_first(locks, "is_locked", serve):
        seen = look(looking, NOW)
    assert seen is not None
    assert seen.has_client or Note.SENT in seen.journal.notes


def test_a_call_that_is_forgotten_during_a_look_is_not_there(
    folder: KeepFolder, working: int, looking: int
) -> None:
    with before_first(locks, "is_locked", lambda *_: folder.remove(identity())):
        assert look(looking, NOW) is None


def test_a_call_is_locked_before_it_can_be_seen(folder: KeepFolder) -> None:
    """Else it would be dead to who looks in the middle."""

    def look_now(*_: object) -> None:
        file = folder.open_journal(identity().call_id)
        assert file is not None
        assert look(file, NOW) is None
        assert locks.is_locked(file, Part.WORK)
        assert locks.is_locked(file, Part.CLIENT)
        os.close(file)

    with before_first(folder_module, "append", look_now):
        os.close(folder.create(identity()))


def test_two_who_see_a_dead_call_agree_when_it_ended(
    folder: KeepFolder, working: int, looking: int
) -> None:
    locks.unlock(working, Part.WORK)
    other = folder.open_journal(identity().call_id)
    assert other is not None
    with before_first(folder_module, "append", lambda *_: look(other, NOW + 1)):
        look(looking, NOW + 2)
    os.close(other)
    seen = look(looking, NOW + 3)
    assert seen is not None
    assert seen.journal.ending == Ending(CallState.UNKNOWN, NOW + 1)


def test_a_call_that_cannot_begin_is_never_seen_as_dead(folder: KeepFolder) -> None:
    def look_now(*_: object) -> None:
        file = folder.open_journal(identity().call_id)
        assert file is not None
        assert locks.is_locked(file, Part.WORK)
        os.close(file)

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        mock.patch.object(folder_module, "_add_entry", side_effect=full),
        before_first(KeepFolder, "remove", look_now),
        pytest.raises(OSError, match="No space left"),
    ):
        folder.create(identity())
    assert files(folder.path) == []
    assert open_files(folder.path) == []


async def test_who_sees_the_end_of_a_call_finds_its_whole_answer(stores: Stores) -> None:
    folder = stores[0]._folder

    def check(*_: object) -> None:
        file = folder.open_answer(identity().call_id, 70_000)
        assert file is not None
        assert os.pread(file, 100_000, 0) == answer(70_000)
        os.close(file)

    with await stores[0].begin(identity()) as working, before_first(folder_module, "append", check):
        assert await working.end(CallState.MADE, 200, HEADERS, answer(70_000))


async def test_who_sees_that_nobody_works_sees_the_end(stores: Stores) -> None:
    def check(number: int, part: Part) -> None:
        read = journal.read(os.pread(number, 10_000, 0))
        assert read is not None
        assert read.ending is not None

    with await stores[0].begin(identity()) as working, before_first(locks, "unlock", check):
        assert await working.end(CallState.MADE, 200, HEADERS, b"picture")


@pytest.mark.parametrize("moment", ["append", "is_gone"])
async def test_a_call_that_is_forgotten_while_it_ends_is_not_kept(
    stores: Stores, keep_dir: Path, moment: str
) -> None:
    def forget(*_: object) -> None:
        stores[1]._folder.remove(identity())

    with await stores[0].begin(identity()) as working, before_first(folder_module, moment, forget):
        assert not await working.end(CallState.MADE, 200, HEADERS, b"picture")
    assert files(keep_dir) == []
    assert stores[0].lost == 0


async def test_what_is_being_removed_cannot_be_claimed(stores: Stores, clock: Clock) -> None:
    """A request that has the claim has the answer, too."""
    await keep(stores[0], identity(), sent=False)
    entry = await one(stores[1], identity())
    claims: list[object] = []
    clock.now += 3600
    with before_first(KeepFolder, "remove", lambda *_: claims.append(entry._claim())):
        await stores[0].sweep()
    assert claims == [None]
    assert not await is_found(stores[1], identity())
