"""The lock on a name: of several processes that get a request by one name, one starts its call.

It is held from the look-up until the call can be found, some milliseconds.  All names share one
file, of which each locks a byte of its own; two names on one byte wait for each other, no more.
"""

import asyncio
import os
from typing import Final, Self

from image_gateway.edge.kept import locks
from image_gateway.edge.kept.disk import Disk

POLL_SECONDS: Final = 0.005
MOST_SECONDS: Final = 5.0
"""A process that holds a name for longer hangs; its call is waited for no more."""

_TAG_DIGITS: Final = 15
"""Of a tag in hex, as the place of its byte: a file's offsets have 63 bits."""


class NameLock:
    """One request's hold on a name; ``release`` it, or use ``with``."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def __repr__(self) -> str:
        return f"<NameLock {'released' if self._file is None else 'held'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have the name; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


async def lock(disk: Disk, tag: str) -> NameLock:
    """Lock the name of a tag (64 hex digits), and wait for those who have it.

    If the disk fails, or another process hangs, nothing is locked.
    """
    place = int(tag[:_TAG_DIGITS], 16)
    try:
        file = await disk.threads.run(disk.folder.open_names, undo=os.close)
    except OSError as error:
        disk.trouble.report(error)
        return NameLock(None)
    held = NameLock(file)
    try:
        async with asyncio.timeout(MOST_SECONDS):
            while not locks.try_lock(file, place):  # noqa: ASYNC110 - the kernel wakes nobody
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        held.release()
    except BaseException:
        held.release()
        raise
    return held
