"""Locks on parts of a file, by which processes see what others are doing.

They are open file description locks (Linux 3.15): like ``flock``, they belong to one opening of a
file, so two openings in one process exclude each other, closing one frees its locks alone, and a
killed process holds nothing.  Unlike ``flock``, a file has several of them, and a look does not
take the lock, so it is in nobody's way.
"""

import fcntl
import struct
from enum import IntEnum
from typing import Final

_FLOCK: Final = "hhqqi0q"
"""``struct flock``: type, whence, start, length, pid (0 for these locks)."""


class Part(IntEnum):
    """What a lock on a journal says; the number is the locked byte, which need not exist."""

    WORK = 0
    """A process works on the call."""
    CLIENT = 1
    """The client that started the call is there."""
    CLAIM = 2
    """One request has taken the call over, or it is being removed."""
    USE = 3
    """Shared: a request waits for the call, or is being sent its answer."""


def try_lock(file: int, part: int, *, shared: bool = False) -> bool:
    """Lock one byte without waiting; False if another opening of the file holds the lock.

    The file must be open for writing, for a shared lock for reading.
    """
    try:
        _call(file, fcntl.F_OFD_SETLK, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, part)
    except BlockingIOError:
        return False
    return True


def unlock(file: int, part: Part) -> None:
    """Free a lock of this opening."""
    _call(file, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, part)


def is_locked(file: int, part: Part) -> bool:
    """Whether another opening of the file holds the lock; never touches the disk."""
    return _call(file, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, part) != fcntl.F_UNLCK


def _call(file: int, command: int, kind: int, part: int) -> int:
    result = fcntl.fcntl(file, command, struct.pack(_FLOCK, kind, 0, part, 1, 0))
    return int(struct.unpack(_FLOCK, result)[0])
