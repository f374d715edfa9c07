"""What the tests of the spool share: bodies, a slow disk, and what a spool holds."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from threading import Thread

from image_gateway.edge.disk_threads import DiskThreads
from image_gateway.edge.spool import (
    Spool,
    Spools,
)

MIB = 1024 * 1024
ROOM = 64 * MIB


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes of which no two neighbourhoods are alike, so that a wrong offset shows."""
    words = range(start // 4, (start + size) // 4 + 1)
    text = b"".join(word.to_bytes(4, "big") for word in words)
    return text[start % 4 : start % 4 + size]


async def fill(spool: Spool, data: bytes, piece: int) -> None:
    for start in range(0, len(data), piece):
        await spool.write(data[start : start + piece])


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def descriptors() -> dict[int, str]:
    """What this process has open, its own look at it left out."""
    found = {}
    for item in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(item.name)] = str(item.readlink())
    return found


def held(spools: Spools) -> tuple[int, int, list[str]]:
    """Bytes of memory, bytes of disk, and open files of the folder."""
    folder = f"{spools.folder}/"
    files = [path for path in descriptors().values() if path.startswith(folder)]
    return spools.memory.used, spools.disk.used, files


NOTHING: tuple[int, int, list[str]] = (0, 0, [])


class SlowDisk(DiskThreads):
    """No threads: each job waits until the test lets it go."""

    def _new_thread(self, *_: object) -> Thread:
        return Thread()

    def end(self) -> None:
        """There are no threads to end."""

    async def job(self) -> Callable[[], None]:
        """The next job, once it is asked for."""
        while self._queue.empty():
            await asyncio.sleep(0)
        job = self._queue.get_nowait()
        assert job is not None
        return partial(self._do, job, asyncio.get_running_loop())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class FailingDisk:
    """``os.pwritev`` that takes so many bytes in all, and then says that the disk is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = 0
        self._real = os.pwritev

    def pwritev(self, file: int, chunks: list[bytes], offset: int) -> int:
        if self.room == 0:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._real(file, [b"".join(chunks)[: self.room]], offset)
        self.room -= taken
        return taken
