"""All kept calls: a call begins here, and requests look here for the calls of their key."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Final, Self, TypeVar

from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.disk_threads import DiskThreads
from image_gateway.edge.kept import entry as entries
from image_gateway.edge.kept import name_lock
from image_gateway.edge.kept import picture as pictures
from image_gateway.edge.kept.call import KeptCall
from image_gateway.edge.kept.disk import Disk, DiskTroubleError, Trouble
from image_gateway.edge.kept.entry import KeptEntry
from image_gateway.edge.kept.folder import (
    FINGERPRINTS,
    KEYS,
    NAMES,
    KeepFolder,
    KeepFolderError,
)
from image_gateway.edge.kept.name_lock import NameLock
from image_gateway.edge.kept.open_file import OpenFile
from image_gateway.edge.kept.picture import KeptPicture
from image_gateway.edge.kept.sweep import Sweeper

MOST_FOUND: Final = 64
"""Calls that a look-up gives for one fingerprint or name, the newest ones."""
SWEEP_SECONDS: Final = 60.0
_MOST_SERVED: Final = 10_000
"""Calls of which a process remembers that they were served; some 150 bytes each."""
_SURPLUS_SECONDS: Final = 1.0
"""Between two sweeps while answers come in over the budget."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class KeptCalls:
    """The calls that are kept in a folder, for one process of those that share it.

    ``keep_seconds`` counts from a call's end; 0: nothing is kept and nothing found, and what the
    folder still has is removed.  ``clock`` gives seconds since 1970.

    ``async with`` raises ``KeepFolderError`` for a folder that cannot be used.  A disk that is full
    or fails is no reason not to start.
    """

    def __init__(
        self, path: Path, keep_seconds: float, budget_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._folder = KeepFolder(path)
        self._is_off = keep_seconds <= 0
        self._budget_bytes = budget_bytes
        self._trouble = Trouble()
        self._threads = DiskThreads()
        self._disk = Disk(
            self._folder, self._threads, self._trouble, keep_seconds, clock, self._grow
        )
        self._sweeper = Sweeper(self._folder, keep_seconds, budget_bytes, clock)
        self._sweep_lock = asyncio.Lock()
        self._sweep_due = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._grown = 0
        self._list_lock = asyncio.Lock()
        self._served: set[str] = set()

    def __repr__(self) -> str:
        return f"<KeptCalls {'off' if self._is_off else self.kept_bytes} lost={self.lost}>"

    async def __aenter__(self) -> Self:
        try:
            await self._threads.run(self._open)
        except KeepFolderError as error:
            if not self._is_off:
                await self._threads.close()
                raise
            _log.warning("%s. Nothing is kept, but what was kept there is not removed", error)
            return self
        except OSError as error:
            self._trouble.report(error)
        self._sweeping = asyncio.create_task(self._keep_sweeping())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._threads.close()

    def _open(self) -> None:
        if not self._is_off or self._folder.exists:
            self._folder.open()

    @property
    def answer_folder(self) -> Path | None:
        """Where an answer may be spooled to be kept without being copied; None if none is kept."""
        return None if self._is_off else self._folder.answers

    # -- metrics -----------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """Bytes of the folder, of all processes as of the last sweep."""
        return self._sweeper.kept_bytes + self._grown

    @property
    def kept_calls(self) -> int:
        """Ended calls in the folder, of all processes as of the last sweep."""
        return self._sweeper.kept_calls

    @property
    def lost(self) -> int:
        """Calls of this process that could not be kept."""
        return self._trouble.lost

    # -- calls -------------------------------------------------------------------------------------

    async def begin(self, identity: CallIdentity) -> KeptCall:
        """A call that others can find from now on; to be closed by the caller.

        If the disk cannot take it, the call is not kept.  Raises ``ValueError`` for an identity
        whose id or tags fit no file name.
        """
        file = None
        if not self._is_off:
            try:
                number = await self._threads.run(
                    lambda: self._folder.create(identity),
                    undo=lambda number: self._discard(identity, number),
                )
                file = OpenFile(self._threads, number)
            except OSError as error:
                self._trouble.lose(error)
        return KeptCall(self._disk, identity, file)

    def _discard(self, identity: CallIdentity, number: int) -> None:
        try:
            self._folder.remove(identity)
        finally:
            os.close(number)

    async def lock_name(self, name: str) -> NameLock:
        """Keep others from starting a call by a name (its tag), in this and other processes."""
        return NameLock(None) if self._is_off else await name_lock.lock(self._disk, name)

    async def find(
        self,
        key_tag: str,
        *,
        fingerprint: str | None = None,
        name: str | None = None,
        with_served: bool = True,
    ) -> list[KeptEntry]:
        """The calls of a key by any of these, newest first; of each the newest ``MOST_FOUND``.

        What cannot be read is left out.  ``with_served`` False may leave out calls that only a
        retry could still use, which is cheaper where many equal requests come.
        """

        def ids() -> list[str]:
            served: Container[str] = () if with_served else self._served
            found: list[str] = []
            for index, tag in ((NAMES, name), (FINGERPRINTS, fingerprint)):
                if tag is not None:
                    found += self._folder.ids(index, tag, MOST_FOUND, without=served)
            return found

        if self._is_off:
            return []
        try:
            return await self._threads.run(lambda: self._read(key_tag, ids()))
        except OSError as error:
            self._trouble.report(error)
            return []

    async def call(self, key_tag: str, call_id: str) -> KeptEntry | None:
        """A key's call; None if it is not there.  ``call_id`` may be any text.

        Raises ``DiskTroubleError``.
        """
        entry = await self._certainly(lambda: self._entry(call_id), None)
        return entry if entry is not None and entry.identity.key_tag == key_tag else None

    async def of_key(self, key_tag: str, limit: int) -> list[KeptEntry]:
        """The calls of a key, newest first; one list is made after the other.

        Raises ``DiskTroubleError``.
        """

        def read() -> list[KeptEntry]:
            return self._read(key_tag, self._folder.ids(KEYS, key_tag, limit))

        # Of many calls it takes a thread for a while, and calls that begin need the others.
        async with self._list_lock:
            return await self._certainly(read, [])

    async def has_any(self, key_tag: str) -> bool:
        """Whether a key may have calls; for a minute also True of calls that are over."""
        if self._is_off:
            return False
        try:
            return await self._threads.run(lambda: self._folder.has_any(KEYS, key_tag))
        except OSError as error:
            self._trouble.report(error)
            return False

    async def picture(self, call_id: str, index: int) -> KeptPicture | None:
        """A picture that the answer of a call has an address of, to be closed by the caller.

        None if there is none, or not any more.  Nobody is asked for a key here.  Raises
        ``DiskTroubleError``.
        """
        return await self._certainly(
            lambda: self._open_picture(call_id, index), None, undo=pictures.close
        )

    def _open_picture(self, call_id: str, index: int) -> KeptPicture | None:
        entry = self._entry(call_id)
        return None if entry is None else pictures.open_picture(self._disk, entry, index)

    async def _certainly(
        self, job: Callable[[], _T], nothing: _T, undo: Callable[[_T], object] | None = None
    ) -> _T:
        """What a job finds; ``nothing`` if nothing is kept.  Raises ``DiskTroubleError``."""
        if self._is_off:
            return nothing
        try:
            return await self._threads.run(job, undo)
        except OSError as error:
            self._trouble.report(error)
            raise DiskTroubleError from error

    def _read(self, key_tag: str, ids: list[str]) -> list[KeptEntry]:
        mine = []
        for call_id in dict.fromkeys(ids):
            try:
                entry = self._entry(call_id)
            except OSError as error:
                self._trouble.report(error)
                continue
            if entry is not None and entry.identity.key_tag == key_tag:
                mine.append(entry)
        self._remember_served(entry.identity.call_id for entry in mine if _is_served(entry))
        return sorted(mine, key=lambda entry: entry.identity.created_at, reverse=True)

    def _remember_served(self, ids: Iterable[str]) -> None:
        """What was served once stays so, and need not be read again to know it."""
        if len(self._served) > _MOST_SERVED:
            self._served.clear()
        self._served.update(ids)

    def _entry(self, call_id: str) -> KeptEntry | None:
        file = self._folder.open_journal(call_id)
        if file is None:
            return None
        try:
            entry = entries.look(self._disk, file)
        finally:
            os.close(file)
        return entry if entry is not None and entry.identity.call_id == call_id else None

    # -- sweeping ----------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Remove what is over; this is also done by itself, at the start and each minute."""
        async with self._sweep_lock:
            grown = self._grown
            steps = self._sweeper.steps()
            try:
                while not await self._threads.run(lambda: next(steps, True)):
                    pass
            except OSError as error:
                self._trouble.report(error)
            else:
                self._grown -= grown
                if self._sweeper.error is not None:
                    self._trouble.report(self._sweeper.error)

    async def _keep_sweeping(self) -> None:
        while True:
            self._sweep_due.clear()
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - one sweep must not end all of them
                _log.exception("a sweep of the kept calls failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._sweep_due.wait()
                    await asyncio.sleep(_SURPLUS_SECONDS)

    def _grow(self, count: int) -> None:
        self._grown += count
        if self.kept_bytes > self._budget_bytes:
            self._sweep_due.set()


def _is_served(entry: KeptEntry) -> bool:
    """Whether its answer was sent, and no request need be warned of it."""
    return entry.was_sent and (entry.state is not CallState.UNKNOWN or entry.told_repeated)
