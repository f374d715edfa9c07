"""What the handles of kept calls share: folder, threads, clock, and how trouble is told.

A disk that fails must not fail a call, so its errors end here: as a count and as a warning, of
which there is one a minute.  Only who asks for one kept thing, or wants it removed, is told.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from image_gateway.core.calls.journal import Ending
from image_gateway.edge.disk_threads import DiskThreads
from image_gateway.edge.kept.folder import KeepFolder
from image_gateway.edge.kept.open_file import OpenFile

WARNING_SECONDS: Final = 60.0

CLOCK_SECONDS: Final = 86400.0
"""How far a clock may be set back and calls are kept: one in local time is wrong by 14 hours, one
without a battery by years, for which a call, and the addresses of its pictures, would be kept."""

_CURES: Final = {
    errno.ENOSPC: "Free space on the disk of KEEP_DIR, or lower KEEP_BUDGET_BYTES",
    errno.EDQUOT: "Raise the disk quota of the gateway's user, or lower KEEP_BUDGET_BYTES",
    errno.EROFS: "The disk of KEEP_DIR is read-only: look for its errors in the kernel's log",
    errno.EMFILE: "Raise the limit of open files (LimitNOFILE)",
    errno.EINVAL: "The file system of KEEP_DIR may lack locks: set KEEP_DIR to a local disk",
}

_log = logging.getLogger(__name__)


class DiskTroubleError(Exception):
    """The disk failed: it is not known whether a call is there, or it could not be removed."""


class Trouble:
    """Counts calls that could not be kept, and warns."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        """Calls that could not be kept since the start."""
        self._clock = clock
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Trouble lost={self.lost}>"

    def lose(self, error: Exception) -> None:
        """A call goes on unkept."""
        self.lost += 1
        self.report(error)

    def report(self, error: Exception) -> None:
        """Something else failed in the folder."""
        if self._clock() < self._quiet_until:
            return
        self._quiet_until = self._clock() + WARNING_SECONDS
        number = error.errno if isinstance(error, OSError) else None
        # An error's own text has a path with the id of a call; strerror has not.
        reason = getattr(error, "strerror", None) or str(error)
        _log.warning(
            "kept calls: %s (calls not kept since the start: %d). A retry of such a call buys its "
            "picture again. %s",
            reason,
            self.lost,
            _CURES.get(number or 0, "Check that KEEP_DIR is there and that its disk works"),
        )


@dataclass(frozen=True, slots=True)
class Disk:
    """One process's view of the folder.

    ``clock`` gives seconds since 1970; ``grown`` is told the bytes that were added.
    """

    folder: KeepFolder
    threads: DiskThreads
    trouble: Trouble
    keep_seconds: float
    clock: Callable[[], float]
    grown: Callable[[int], None]

    async def open_journal(self, call_id: str) -> OpenFile | None:
        """The journal of a call, to be closed by the caller; raises ``OSError``."""
        number = await self.threads.run(
            lambda: self.folder.open_journal(call_id),
            undo=lambda number: None if number is None else os.close(number),
        )
        return None if number is None else OpenFile(self.threads, number)


def expires_at(ending: Ending, keep_seconds: float) -> float:
    """When a call that ended so is no longer kept, in seconds since 1970."""
    own = keep_seconds if ending.seconds is None else ending.seconds
    return ending.at + min(own, keep_seconds)


def is_over(ended_at: float, expires: float, now: float) -> bool:
    """Whether a call that ended then is no longer kept.

    A clock that is set back makes a call younger, because to buy its picture again would cost more
    than to keep it longer.  Only an end that lies further ahead than ``CLOCK_SECONDS`` is over.
    """
    return not ended_at - CLOCK_SECONDS <= now < expires
