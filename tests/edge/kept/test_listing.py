"""The list of all calls of a folder: what it shows, and that it changes nothing."""

import errno
import os
from pathlib import Path

import pytest

from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept import listing, locks
from image_gateway.edge.kept.folder import KeepFolder, KeepFolderError
from image_gateway.edge.kept.listing import ListedCall
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import NOW, Clock, files, identity, keep, one, opened

KEEP_SECONDS = 3600.0


def listed(folder: Path) -> dict[str, ListedCall]:
    """The calls by their request ids, newest first."""
    found = listing.list_calls(KeepFolder(folder), KEEP_SECONDS)
    assert found.unreadable == 0
    return {call.identity.request_id: call for call in found.calls}


def state_of(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that a change of a file or of a folder would show in."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, data)
    return found


async def test_calls_are_listed_newest_first_with_what_became_of_them(
    stores: tuple[KeptCalls, KeptCalls], keep_dir: Path, clock: Clock
) -> None:
    blue, green = stores
    await keep(blue, identity(1), b"x" * 5000)
    await keep(blue, identity(2), sent=False, seconds=120, failure=("no_picture", "upstream"))
    await keep(green, identity(3, has_id=True), state=CallState.FAULT, sent=False)
    await (await one(blue, identity(3))).note_given()
    await (await one(green, identity(1))).note_delivered()
    with await blue.begin(identity(4)) as waiting, await green.begin(identity(5)) as left:
        left.note_left()
        calls = listed(keep_dir)
        assert list(calls) == ["req_5", "req_4", "req_3", "req_2", "req_1"]
        assert [call.state for call in calls.values()] == [
            *(CallState.RUNNING, CallState.RUNNING, CallState.FAULT, CallState.MADE),
            CallState.MADE,
        ]
        assert [call.has_clients for call in calls.values()] == [False, True, False, False, False]
        assert waiting.is_kept
    assert calls["req_5"].expires_at is None
    assert (calls["req_1"].was_sent, calls["req_1"].was_delivered) == (True, True)
    assert (calls["req_2"].was_sent, calls["req_2"].was_delivered) == (False, False)
    assert (calls["req_1"].answer_bytes, calls["req_1"].disk_bytes) == (5000, 3 * 4096)
    assert (calls["req_1"].ended_at, calls["req_1"].expires_at) == (NOW, NOW + KEEP_SECONDS)
    assert calls["req_2"].expires_at == NOW + 120
    assert (calls["req_2"].error_code, calls["req_2"].error_source) == ("no_picture", "upstream")
    assert [call.gave_id for call in calls.values()] == [False, False, True, False, False]


async def test_nothing_in_the_folder_is_changed(keep_dir: Path, clock: Clock) -> None:
    """Also the end of a call whose process died is left to the instances to note."""
    async with opened(keep_dir, clock) as store:
        await keep(store, identity(1))
        (await store.begin(identity(2))).close()
    before = state_of(keep_dir)
    calls = listed(keep_dir)
    assert state_of(keep_dir) == before
    assert calls["req_2"].state is CallState.UNKNOWN
    assert (calls["req_2"].ended_at, calls["req_2"].expires_at) == (None, None)


async def test_a_listing_is_in_nobodys_way(
    keep_dir: Path, stores: tuple[KeptCalls, KeptCalls], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens journals for reading alone and asks for locks without taking one."""
    blue, _ = stores

    def no_lock(*_: object, **__: object) -> bool:
        raise AssertionError("a lock was taken")

    with await blue.begin(identity(1)) as call:
        with monkeypatch.context() as patch:
            patch.setattr(locks, "try_lock", no_lock)
            assert listed(keep_dir)["req_1"].state is CallState.RUNNING
        await call.end(CallState.MADE, 200, {}, b"picture")
        await call.note_sent()
    file = KeepFolder(keep_dir).open_to_read(identity(1).call_id)
    assert file is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(file, b"x")
    assert not locks.is_locked(file, Part.WORK)
    os.close(file)


async def test_what_is_no_call_is_counted_and_does_not_hold_up_the_list(
    keep_dir: Path, clock: Clock
) -> None:
    """A pipe would block who opens it, and a link leads elsewhere."""
    async with opened(keep_dir, clock) as store:
        await keep(store, identity(1))
    calls = keep_dir / "calls"
    (calls / "call_cut").write_bytes(b'\n{"version": 1')
    os.mkfifo(calls / "call_pipe")
    (calls / "call_link").symlink_to(calls / identity(1).call_id)
    (calls / "call_folder").mkdir()
    (calls / "call_copy").write_bytes((calls / identity(1).call_id).read_bytes())
    found = listing.list_calls(KeepFolder(keep_dir), KEEP_SECONDS)
    assert [call.identity.request_id for call in found.calls] == ["req_1"]
    assert found.unreadable == 5


def test_an_empty_folder_has_no_calls_and_another_one_is_refused(tmp_path: Path) -> None:
    found = listing.list_calls(KeepFolder(tmp_path), KEEP_SECONDS)
    assert (found.calls, found.disk_bytes) == ((), 0)
    (tmp_path / "mine").touch()
    with pytest.raises(KeepFolderError, match="is not a folder of kept calls"):
        listing.list_calls(KeepFolder(tmp_path), KEEP_SECONDS)
    with pytest.raises(FileNotFoundError):
        listing.list_calls(KeepFolder(tmp_path / "missing"), KEEP_SECONDS)


# -- check -----------------------------------------------------------------------------------------


async def test_a_check_refuses_what_a_start_refuses(tmp_path: Path, clock: Clock) -> None:
    """In the same words, and without making or changing anything."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    foreign = tmp_path / "foreign"
    async with opened(foreign, clock) as store:
        await keep(store, identity())
    (foreign / "answers").chmod(0o777)
    plain = tmp_path / "plain"
    plain.touch()
    for folder in (full, foreign, plain, plain / "below"):
        before = state_of(tmp_path)
        with pytest.raises(KeepFolderError) as checked:
            KeepFolder(folder).check()
        assert state_of(tmp_path) == before
        with pytest.raises(KeepFolderError) as opening:
            KeepFolder(folder).open()
        # Of a file in the way the kernel says sometimes this and sometimes that.
        before_reason, _, _ = str(opening.value).partition(" can write: ")
        assert str(checked.value).startswith(before_reason)


async def test_a_check_accepts_what_a_start_accepts(tmp_path: Path, clock: Clock) -> None:
    missing = tmp_path / "state" / "calls"
    KeepFolder(missing).check()
    assert files(tmp_path) == []
    assert not missing.parent.exists()
    async with opened(missing, clock) as store:
        await keep(store, identity())
    missing.chmod(0o755)
    KeepFolder(missing).check()
    assert missing.stat().st_mode & 0o777 == 0o755
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty").chmod(0o777)
    KeepFolder(tmp_path / "empty").check()


def test_a_check_refuses_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked for; it grants everything to root, whom the tests may be run by."""
    asked = []

    def no_access(path: Path, mode: int, **_: object) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", no_access)
    with pytest.raises(KeepFolderError, match="Permission denied"):
        KeepFolder(tmp_path / "state" / "calls").check()
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_check_that_cannot_look_does_not_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """systemd hides the folder from a process that is no instance, or shows it read-only."""

    def hidden(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "statvfs", hidden)
    with pytest.raises(OSError, match=os.strerror(number)) as checked:
        KeepFolder(tmp_path / "calls").check()
    assert not isinstance(checked.value, KeepFolderError)
