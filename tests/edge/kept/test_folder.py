"""The folder of kept calls: made for its owner alone, or refused with a cure."""

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from image_gateway.edge.kept import locks
from image_gateway.edge.kept.folder import KeepFolder, KeepFolderError
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import KEY, Clock, files, identity, is_found, keep, opened, tag

# -- the folder ------------------------------------------------------------------------------------


async def test_a_folder_is_made_with_its_parents(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "state" / "of" / "calls"
    async with opened(folder, clock) as store:
        await keep(store, identity())
        assert await is_found(store, identity())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_folder_that_was_used_in_every_way_is_used_again(
    keep_dir: Path, clock: Clock
) -> None:
    """Whatever the gateway makes there is none of the other things that it refuses."""
    call = identity(name=tag("order"))
    async with opened(keep_dir, clock) as store:
        with await store.lock_name(tag("order")):
            await keep(store, call)
        (await store.begin(identity(2))).close()
        await store.sweep()
    KeepFolder(keep_dir).check()
    async with opened(keep_dir, clock) as store:
        assert await is_found(store, call)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o500], ids=oct)
async def test_a_folder_that_others_can_only_read_becomes_the_owners_alone(
    keep_dir: Path, clock: Clock, mode: int
) -> None:
    async with opened(keep_dir, clock) as store:
        await keep(store, identity())
    for folder in (keep_dir, keep_dir / "answers"):
        folder.chmod(mode)
    async with opened(keep_dir, clock) as store:
        assert await is_found(store, identity())
    for folder in (keep_dir, keep_dir / "answers"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_an_empty_folder_may_have_had_any_mode(keep_dir: Path, clock: Clock) -> None:
    keep_dir.mkdir()
    keep_dir.chmod(0o777)
    async with opened(keep_dir, clock):
        assert stat.S_IMODE(keep_dir.stat().st_mode) == 0o700


async def test_the_folder_itself_may_be_a_link(tmp_path: Path, clock: Clock) -> None:
    """systemd's state directory is one, for a service with a dynamic user."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    async with opened(link, clock) as store:
        await keep(store, identity())
        assert await is_found(store, identity())


def _with_a_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").touch()


def _writable(folder: Path) -> None:
    KeepFolder(folder).open()
    folder.chmod(0o770)


def _writable_inside(folder: Path) -> None:
    KeepFolder(folder).open()
    (folder / "calls" / "call_1").touch()
    (folder / "calls").chmod(0o707)


def _with_a_link(folder: Path) -> None:
    folder.mkdir()
    (folder.parent / "elsewhere").mkdir()
    (folder / "calls").symlink_to(folder.parent / "elsewhere")


def _below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.touch()


REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("a-file", Path.touch, "not a directory that this process can write: .*"),
    ("below-a-file", _below_a_file, "not a directory that this process can write: .*"),
    ("other-things", _with_a_file, r"other things in it \('notes.txt'\)\. Name a folder .*"),
    ("writable", _writable, r"writable by others \(mode 770\).* run chmod 700 on it"),
    ("writable-inside", _writable_inside, r"calls is writable by others \(mode 707\).*"),
    ("link-inside", _with_a_link, "not a directory that this process can write: .*"),
]


@pytest.mark.parametrize(
    ("make", "message"), [pytest.param(*rest, id=name) for name, *rest in REFUSED]
)
async def test_a_folder_that_cannot_be_trusted_or_used_is_refused(
    tmp_path: Path, clock: Clock, make: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "parent" / "calls"
    folder.parent.mkdir()
    make(folder)
    with pytest.raises(KeepFolderError) as error:
        async with KeptCalls(folder, 3600, 1 << 30, clock):
            pass
    assert re.search(f"^KEEP_DIR.*{message}$", str(error.value)), str(error.value)


async def test_a_folder_of_somebody_else_is_refused(
    keep_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_dir.mkdir()
    owner = keep_dir.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(KeepFolderError, match=f"belongs to user {owner}, not to .* {owner + 1}"):
        async with KeptCalls(keep_dir, 3600, 1 << 30, clock):
            pass


async def test_an_unfit_folder_does_not_matter_where_nothing_is_kept(
    keep_dir: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is anything in it touched."""
    _with_a_file(keep_dir)
    (keep_dir / "calls").mkdir()
    (keep_dir / "calls" / "letter").touch()
    async with KeptCalls(keep_dir, 0, 1 << 30, clock):
        pass
    [warning] = caplog.messages
    assert "Name a folder for kept calls alone. Nothing is kept, but" in warning
    assert files(keep_dir) == ["calls/letter", "notes.txt"]


async def test_a_folder_that_is_removed_is_made_again(keep_dir: Path, clock: Clock) -> None:
    async with opened(keep_dir, clock) as store:
        await keep(store, identity(1))
        keep_dir.rename(keep_dir.with_name("moved"))
        assert not await is_found(store, identity(1))
        await store.sweep()
        await keep(store, identity(2))
        assert await is_found(store, identity(2))
        assert stat.S_IMODE(keep_dir.stat().st_mode) == 0o700
        assert store.lost == 0


async def test_entries_of_the_index_cost_no_inode(keep_dir: Path, clock: Clock) -> None:
    """An inode is what a file system makes slowly, and may run out of."""
    async with opened(keep_dir, clock) as store:
        for number in range(3):
            await keep(store, identity(number))
    entries = [path for path in (keep_dir / "keys").rglob("*") if path.is_file()]
    assert len(entries) == 4
    # The first entry is made together with the file that the next ones are names of.
    assert sorted(path.stat().st_nlink for path in entries) == [1, 3, 3, 3]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP], ids=str)
async def test_the_index_needs_no_links(
    keep_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file systems have none, others few for each file."""
    monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(number, os.strerror(number))))
    async with opened(keep_dir, clock) as store:
        for each in range(3):
            await keep(store, identity(each))
            assert await store.find(KEY, fingerprint=identity(each).fingerprint)
        assert len(await store.of_key(KEY, 10)) == 3
        clock.now += 3600
        await store.sweep()
        assert files(keep_dir) == []


# -- locks -----------------------------------------------------------------------------------------


@pytest.fixture
def lockable(tmp_path: Path) -> Path:
    path = tmp_path / "locked"
    path.touch()
    return path


def test_two_openings_of_a_file_exclude_each_other_part_by_part(lockable: Path) -> None:
    with lockable.open("r+b") as one, lockable.open("r+b") as two:
        assert locks.try_lock(one.fileno(), Part.WORK)
        assert not locks.try_lock(two.fileno(), Part.WORK)
        assert locks.try_lock(two.fileno(), Part.CLAIM)
        assert [locks.is_locked(one.fileno(), part) for part in Part] == [False, False, True, False]
        assert [locks.is_locked(two.fileno(), part) for part in Part] == [True, False, False, False]
        locks.unlock(one.fileno(), Part.WORK)
        assert locks.try_lock(two.fileno(), Part.WORK)


def test_a_look_is_in_nobodys_way(lockable: Path) -> None:
    with lockable.open("r+b") as one, lockable.open("r+b") as two:
        assert not locks.is_locked(one.fileno(), Part.CLAIM)
        assert locks.try_lock(two.fileno(), Part.CLAIM)


def test_closing_one_opening_frees_its_locks_alone(lockable: Path) -> None:
    with lockable.open("r+b") as one:
        assert locks.try_lock(one.fileno(), Part.WORK)
        with lockable.open("r+b") as two:
            assert locks.try_lock(two.fileno(), Part.CLAIM)
        with lockable.open("r+b") as two:
            assert locks.is_locked(two.fileno(), Part.WORK)
            assert not locks.is_locked(two.fileno(), Part.CLAIM)


def test_shared_locks_do_not_exclude_each_other(lockable: Path) -> None:
    with lockable.open("rb") as one, lockable.open("rb") as two, lockable.open("r+b") as three:
        assert locks.try_lock(one.fileno(), Part.USE, shared=True)
        assert locks.try_lock(two.fileno(), Part.USE, shared=True)
        assert locks.is_locked(three.fileno(), Part.USE)
