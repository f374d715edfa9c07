"""The folder of kept calls: its layout, and each thing that is done in it, blocking.

Only the owner may read what lies in it, and no symbolic link in it is followed.  Several processes
work in one folder at the same time; each function says what it does against the others.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from image_gateway.core.calls import journal
from image_gateway.core.calls.journal import Journal, Note
from image_gateway.core.calls.model import CallIdentity
from image_gateway.edge import spool
from image_gateway.edge.kept import locks
from image_gateway.edge.kept.locks import Part

KEYS: Final = "keys"
FINGERPRINTS: Final = "fingerprints"
NAMES: Final = "names"
_INDEXES: Final = (KEYS, FINGERPRINTS, NAMES)
_MARK: Final = "mark"
_FOLDERS: Final = ("calls", "answers", *_INDEXES)
_NAME_LOCKS: Final = "names.lock"
_KNOWN: Final = frozenset({*_FOLDERS, _NAME_LOCKS, "lost+found"})
"""What may lie in the folder; the last one is the file system's, where it has one to itself."""

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAG: Final = re.compile(r"[0-9a-f]{32,128}")
_TAG_DIGITS: Final = 32
"""128 bits of a tag are in the name of an entry; the journal has all of them."""
_UNUSABLE: Final = (PermissionError, NotADirectoryError, FileExistsError)
_BLOCK: Final = 4096
"""What a file takes on the disk is counted in blocks of this many bytes."""


class KeepFolderError(OSError):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a journal showed.

    A call without an ending on which nobody works has ended (``Journal.abandoned``): ``look`` notes
    that, ``peek`` does not.
    """

    journal: Journal
    is_running: bool
    """A process works on the call."""
    has_client: bool
    """The client that started the call is there."""
    is_used: bool
    """Other requests wait for it, or are being sent its answer."""
    is_claimed: bool
    size: int
    """Bytes of the journal."""


class KeepFolder:
    """The files of all kept calls.  All methods raise ``OSError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._calls = str(path / "calls")
        self.answers = path / "answers"
        """Where the bytes of answers lie."""

    def __repr__(self) -> str:
        return f"<KeepFolder {self.path}>"

    # -- the folder itself -------------------------------------------------------------------------

    def open(self) -> None:
        """Make what is missing, and see to it that nobody else can read it.

        Raises ``KeepFolderError`` for a folder of somebody else, or one into which others could
        have put things: what lies there would be sent to clients.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _own_folder(str(self.path), 0)
            self._check_contents()
            for name in _FOLDERS:
                _own_folder(str(self.path / name), os.O_NOFOLLOW)
        except _UNUSABLE as error:
            raise self._unusable(error) from error

    def _check_contents(self) -> None:
        """A sweep removes what it does not know, so it must not meet anybody's things."""
        strange = sorted(set(_listed(str(self.path))) - _KNOWN)
        if strange:
            raise KeepFolderError(
                f"KEEP_DIR: {self.path} has other things in it ({strange[0]!r}). Name a folder for "
                "kept calls alone"
            )

    def check(self) -> None:
        """Raise what ``open`` would raise, but make and change nothing.

        Raises ``PermissionError`` if this process may not look there, which proves nothing: systemd
        lets a service into its state directory, and no other process.
        """
        try:
            if not self.exists:
                existing = _first_existing(self.path.absolute())
                if not _may_write(existing):
                    raise self._unusable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
                return
            _require_own(str(self.path), self.path.stat())
            self._check_contents()
            for name in _FOLDERS:
                path = str(self.path / name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    if not stat.S_ISDIR(status.st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                    _require_own(path, status)
        except (NotADirectoryError, FileExistsError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> KeepFolderError:
        return KeepFolderError(
            f"KEEP_DIR {self.path} is not a directory that this process can write: {error.strerror}"
        )

    @property
    def exists(self) -> bool:
        """Whether there is a folder at all."""
        return self.path.is_dir()

    # -- one call ----------------------------------------------------------------------------------

    def create(self, identity: CallIdentity) -> int:
        """A journal for a new call, locked for its process and its client.

        Raises ``ValueError`` for an identity that fits no file.
        """
        entries = list(self._index_entries(identity))
        try:
            file = self._new_journal(identity)
        except FileNotFoundError:  # Somebody removed the folder.
            self.open()
            file = self._new_journal(identity)
        try:
            for path in entries:
                _add_entry(path)
        except BaseException:
            try:
                # Under its locks, or others would find a call of unknown outcome.
                self.remove(identity)
            finally:
                os.close(file)
            raise
        return file

    def _new_journal(self, identity: CallIdentity) -> int:
        line = journal.created(identity)
        path = self._journal(identity.call_id)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _FLAGS
        file = os.open(path, flags, _FILE_MODE)
        try:
            # Locked before its first line, without which it is no call: nobody who sees a call
            # without an end finds it unlocked because its process has not come that far.
            if not locks.try_lock(file, Part.WORK) or not locks.try_lock(file, Part.CLIENT):
                raise BlockingIOError
            append(file, line)
        except BaseException:
            _unlink(path)
            os.close(file)
            raise
        return file

    def open_journal(self, call_id: str) -> int | None:
        """The journal of a call, to be closed by the caller; None if there is no such call.

        ``call_id`` may be any text.
        """
        if not _CALL_ID.fullmatch(call_id):
            return None
        return _open(self._journal(call_id), os.O_RDWR | os.O_APPEND)

    def open_to_read(self, call_id: str) -> int | None:
        """The same for ``peek`` alone, also where the folder belongs to another user."""
        # Without O_NONBLOCK a named pipe in place of a journal would block.
        flags = os.O_RDONLY | os.O_NONBLOCK
        return _open(self._journal(call_id), flags) if _CALL_ID.fullmatch(call_id) else None

    def open_names(self) -> int:
        """The file whose bytes are locked for names; it stays empty."""
        return os.open(f"{self.path}/{_NAME_LOCKS}", os.O_RDWR | os.O_CREAT | _FLAGS, _FILE_MODE)

    def create_answer(self, call_id: str) -> int:
        """An empty file for the bytes of a call's answer."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
        return os.open(self._answer(call_id), flags, _FILE_MODE)

    def write_answer(self, call_id: str, data: bytes) -> None:
        """The whole answer of a call."""
        file = self.create_answer(call_id)
        try:
            write_all(data, file)
        finally:
            os.close(file)

    def name_answer(self, call_id: str, file: int) -> None:
        """Keep a file without a name as the answer of a call."""
        spool.name_file(file, Path(self._answer(call_id)))

    def drop_answer(self, call_id: str, file: int) -> None:
        """Undo ``create_answer``."""
        os.close(file)
        self.remove_answer(call_id)

    def open_answer(self, call_id: str, length: int) -> int | None:
        """The file of a call's answer; None if it is gone or not ``length`` bytes long."""
        file = _open(self._answer(call_id), os.O_RDONLY)
        if file is not None and os.fstat(file).st_size != length:
            os.close(file)
            return None
        return file

    def answer_size(self, call_id: str) -> int:
        """Bytes of what there is of a call's answer."""
        try:
            return os.lstat(self._answer(call_id)).st_size
        except FileNotFoundError:
            return 0

    def remove_answer(self, call_id: str) -> None:
        """Remove what there is of an answer."""
        _unlink(self._answer(call_id))

    def remove(self, identity: CallIdentity) -> bool:
        """Forget a call, its journal first; whether it was there.  Several may do so at once."""
        was_there = _unlink(self._journal(identity.call_id))
        self.remove_answer(identity.call_id)
        for path in self._index_entries(identity):
            _unlink(path)
        return was_there

    def remove_unreadable(self, call_id: str) -> None:
        """Remove a journal of which nothing is known but its name, and its answer.

        One that a process works on stays: its first line may come late, or be another version's.
        """
        file = self.open_journal(call_id)
        if file is not None:
            try:
                if locks.is_locked(file, Part.WORK):
                    return
            finally:
                os.close(file)
        _unlink(self._journal(call_id))
        _unlink(self._answer(call_id))

    # -- many calls --------------------------------------------------------------------------------

    def ids(self, index: str, tag: str, limit: int, *, without: Container[str] = ()) -> list[str]:
        """The ids of calls with a tag, newest first; they may be gone meanwhile."""
        prefix = _prefix(tag)
        listed = _listed(self._bucket(index, prefix))
        names = [name for name in listed if name.startswith(prefix)]
        ids = (_call_id(name) for name in sorted(names, reverse=True))
        return list(islice((call_id for call_id in ids if call_id not in without), limit))

    def has_any(self, index: str, tag: str) -> bool:
        """Whether there may be a call with a tag."""
        prefix = _prefix(tag)
        try:
            with os.scandir(self._bucket(index, prefix)) as items:
                return any(item.name.startswith(prefix) for item in items)
        except FileNotFoundError:
            return False

    def all_ids(self) -> list[str]:
        """The ids of all calls, in no order."""
        return [name for name in _listed(self._calls) if _CALL_ID.fullmatch(name)]

    def all_answers(self) -> list[str]:
        """The ids of all calls of which there is an answer, in no order."""
        return [name for name in _listed(str(self.answers)) if _CALL_ID.fullmatch(name)]

    def journal_size(self, call_id: str) -> int | None:
        """Bytes of a journal; None if there is no such call.  ``call_id`` may be any text."""
        if not _CALL_ID.fullmatch(call_id):
            return None
        try:
            return os.lstat(self._journal(call_id)).st_size
        except FileNotFoundError:
            return None

    def buckets(self) -> list[str]:
        """The parts of the index, for ``clean``."""
        return [
            f"{self.path}/{index}/{bucket}"
            for index in _INDEXES
            for bucket in _listed(str(self.path / index))
        ]

    def clean(self, bucket: str) -> None:
        """Remove dead entries of a part of the index."""
        for name in _listed(bucket):
            # An entry is made after its journal, so one without a journal is dead.
            if name != _MARK and self.journal_size(_call_id(name)) is None:
                _unlink(f"{bucket}/{name}")

    # -- paths -------------------------------------------------------------------------------------

    def _journal(self, call_id: str) -> str:
        return f"{self._calls}/{_checked(_CALL_ID, call_id)}"

    def _answer(self, call_id: str) -> str:
        return f"{self.answers}/{_checked(_CALL_ID, call_id)}"

    def _index_entries(self, identity: CallIdentity) -> Iterator[str]:
        # The names of one tag sort by time.
        milliseconds = min(max(int(identity.created_at * 1000), 0), 2**48 - 1)
        for index, tag in _tags(identity):
            name = f"{_prefix(tag)}{milliseconds:012x}.{identity.call_id}"
            yield f"{self._bucket(index, name)}/{name}"

    def _bucket(self, index: str, name: str) -> str:
        return f"{self.path}/{index}/{name[:2]}"


def append(file: int, line: bytes) -> None:
    """Add a line to an open journal; in one piece, also against other processes."""
    if os.fstat(file).st_size + len(line) > journal.JOURNAL_BYTES:
        raise OSError("the journal of a call is too long")
    if os.write(file, line) < len(line):
        raise OSError("the disk took only a part of a line")


def write_all(data: bytes, file: int) -> None:
    """Write where the last write ended."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]


def is_gone(file: int) -> bool:
    """Whether an open journal was removed: its call is forgotten."""
    return os.fstat(file).st_nlink == 0


def look(file: int, now: float) -> Seen | None:
    """What an open journal shows; None if it is no call's, or was removed.

    Who first sees that nobody works on a call that has not ended notes its end, at ``now``.
    """
    seen = peek(file)
    if seen is None or seen.journal.ending is not None or seen.is_running:
        return seen
    ending = seen.journal.abandoned(now)
    with contextlib.suppress(OSError):
        append(file, journal.ended(ending))
    return replace(seen, journal=replace(seen.journal, ending=ending))


def peek(file: int) -> Seen | None:
    """The same without a change of anything; the file may be open for reading alone."""
    first = _contents(file)
    text = journal.read(first)
    if text is None:
        return None
    is_running = locks.is_locked(file, Part.WORK)
    has_client = locks.is_locked(file, Part.CLIENT)
    is_used = locks.is_locked(file, Part.USE)
    is_claimed = locks.is_locked(file, Part.CLAIM)
    # Whoever frees a lock has written before what it did.  So a lock that was found free needs a
    # second reading; and one is not found free because it was not yet taken, for the first line
    # was written under the locks.
    data = _contents(file)
    if data != first:
        text = journal.read(data)
    if text is None or is_gone(file):
        return None
    return Seen(text, is_running, has_client, is_used, is_claimed, len(data))


def note(file: int, what: Note) -> None:
    """Add a note to an open journal."""
    append(file, journal.noted(what))


def taken(size: int) -> int:
    """Bytes of the disk that a file of ``size`` bytes takes."""
    return -(-size // _BLOCK) * _BLOCK


def _contents(file: int) -> bytes:
    return os.pread(file, journal.JOURNAL_BYTES, 0)


def _own_folder(path: str, flags: int) -> None:
    """Make a folder for the owner alone, or make an existing one so."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, _FOLDER_MODE)  # noqa: PTH102 - with its mode at once
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(folder)
        _require_own(path, status)
        if stat.S_IMODE(status.st_mode) != _FOLDER_MODE:
            os.fchmod(folder, _FOLDER_MODE)
    finally:
        os.close(folder)


def _require_own(path: str, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise KeepFolderError(
            f"KEEP_DIR: {path} belongs to user {status.st_uid}, not to this process's user "
            f"{os.geteuid()}. Name a folder that does not exist yet: it will be made"
        )
    if mode & 0o022 and _listed(path):
        raise KeepFolderError(
            f"KEEP_DIR: {path} is writable by others (mode {mode:o}), so what lies in it "
            "cannot be trusted. Empty it and run chmod 700 on it"
        )


def _first_existing(path: Path) -> Path:
    """What of a path is there already."""
    return next(part for part in (path, *path.parents) if os.path.lexists(part))


def _may_write(path: Path) -> bool:
    """Whether this process may make something in a folder.

    Raises ``NotADirectoryError``, and ``OSError`` for a file system that is read-only.
    """
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    return os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _tags(identity: CallIdentity) -> Iterator[tuple[str, str]]:
    yield KEYS, identity.key_tag
    if identity.fingerprint:
        yield FINGERPRINTS, identity.fingerprint
    if identity.name is not None:
        yield NAMES, identity.name


def _prefix(tag: str) -> str:
    return f"{_checked(_TAG, tag)[:_TAG_DIGITS]}."


def _call_id(index_name: str) -> str:
    return index_name.rpartition(".")[2]


def _checked(pattern: re.Pattern[str], text: str) -> str:
    """A text that is safe in a path; raises ``ValueError``."""
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} does not fit {pattern.pattern}")
    return text


def _open(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags | _FLAGS)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symbolic link
            return None
        raise


def _add_entry(path: str) -> None:
    """Add to the index: a name for the one empty file of its folder, which costs no inode."""
    bucket = path.rpartition("/")[0]
    mark = f"{bucket}/{_MARK}"
    try:
        os.link(mark, path)
    except OSError:
        # The first one in its folder, too many links, or a file system that has none.
        with contextlib.suppress(FileExistsError):
            os.mkdir(bucket, _FOLDER_MODE)  # noqa: PTH102 - with its mode at once
        for each in (mark, path):
            os.close(os.open(each, os.O_WRONLY | os.O_CREAT | _FLAGS, _FILE_MODE))


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)  # noqa: PTH108 - paths are texts here
    except FileNotFoundError:
        return False
    return True


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - paths are texts here
    except FileNotFoundError:
        return []
