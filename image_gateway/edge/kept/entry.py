"""A kept call as everybody else sees it: what a look-up found, a claim on it, its answer."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from image_gateway.core.calls.journal import Note
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.kept import folder, locks
from image_gateway.edge.kept.disk import Disk, DiskTroubleError, expires_at, is_over
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.open_file import OpenFile

POLL_SECONDS: Final = 0.15
"""How often a waiting request looks whether the call has ended.  A look asks the kernel for a lock
of an open file, without the disk or a thread."""


@dataclass(frozen=True, slots=True)
class KeptEntry:
    """What a look-up found, at one moment; other requests may change it meanwhile.

    ``ended_at`` is in seconds since 1970, None while the call runs.  ``status`` is None while it
    runs, and where its process died; ``length`` is the size of its answer in bytes, ``pictures``
    are the sizes of the pictures behind it, ``error_code`` and ``error_source`` are those of its
    record.
    ``was_asked``: an upstream was asked, or is being asked.  ``gave_id``: a client was sent its id.
    ``is_used``: others than its own clients wait for it, or are being sent its answer.
    ``has_clients``: they or its own clients are there.
    ``was_left``: its own client is gone, and nobody has got the answer or the id.  ``was_sent``:
    one of them was sent to somebody, whether or not it arrived.  ``is_claimed``: a request has
    taken it over.
    """

    identity: CallIdentity
    state: CallState
    ended_at: float | None
    status: int | None
    headers: Mapping[str, str]
    length: int
    pictures: tuple[int, ...]
    error_code: str | None
    error_source: str | None
    is_used: bool
    has_clients: bool
    was_left: bool
    was_sent: bool
    was_delivered: bool
    told_repeated: bool
    is_claimed: bool
    was_asked: bool
    gave_id: bool
    _disk: Disk = field(repr=False, compare=False)

    async def wait(self, seconds: float) -> "KeptEntry | None":
        """The call once it has ended, or as it is after so long; None if it was forgotten."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            file = await self._disk.open_journal(self.identity.call_id)
            if file is None:
                return None
            try:
                locks.try_lock(file.number, Part.USE, shared=True)
                while locks.is_locked(file.number, Part.WORK) and not folder.is_gone(file.number):
                    if (remaining := deadline - loop.time()) <= 0:
                        break
                    await asyncio.sleep(min(POLL_SECONDS, remaining))
                return await file.run(lambda number: look(self._disk, number))
            finally:
                file.close()
        except OSError as error:
            self._disk.trouble.report(error)
            await asyncio.sleep(max(0.0, min(1.0, deadline - loop.time())))
            return self

    async def try_claim(self) -> "Claim | None":
        """Take the call over; None if another request has, or if it was forgotten.

        ``Claim.entry`` is the call as it is now: another claim may have ended with a delivery.
        """
        try:
            return await self._disk.threads.run(self._claim, undo=_release)
        except OSError as error:
            self._disk.trouble.report(error)
            return None

    def _claim(self) -> "Claim | None":
        file = self._disk.folder.open_journal(self.identity.call_id)
        if file is None:
            return None
        try:
            if locks.try_lock(file, Part.CLAIM):
                entry = look(self._disk, file)
                if entry is not None:
                    claim = Claim(entry, file)
                    file = None
                    return claim
        finally:
            if file is not None:
                os.close(file)
        return None

    async def open_answer(self) -> "KeptAnswer | None":
        """The bytes of the answer, to be closed by the caller; None if they are gone.

        A call whose answer is gone is forgotten: who looks again does not find it.  Raises
        ``DiskTroubleError``.
        """
        try:
            return await self._disk.threads.run(self._open_answer, undo=_close)
        except OSError as error:
            self._disk.trouble.report(error)
            raise DiskTroubleError from error

    def _open_answer(self) -> "KeptAnswer | None":
        disk, call_id = self._disk, self.identity.call_id
        journal = disk.folder.open_journal(call_id)
        if journal is None:
            return None
        answer = None
        try:
            locks.try_lock(journal, Part.USE, shared=True)
            stored = self.length + sum(self.pictures)
            answer = disk.folder.open_answer(call_id, stored) if self.length else None
        finally:
            if answer is None and self.length:
                os.close(journal)
        if answer is None and self.length:
            # Forgotten meanwhile; or after a power loss, which may leave the journal alone.
            disk.folder.remove(self.identity)
            return None
        return KeptAnswer(disk, self.length, journal, answer)

    async def forget(self) -> bool:
        """Forget the call for everybody; if it runs, what it makes is not kept.

        Of several who forget a call at the same time, one gets True.  Raises
        ``DiskTroubleError``.
        """
        try:
            return await self._disk.threads.run(lambda: self._disk.folder.remove(self.identity))
        except OSError as error:
            self._disk.trouble.report(error)
            raise DiskTroubleError from error

    async def note_sent(self) -> None:
        """The answer was sent and the connection ended well; its client may have it."""
        if not self.was_sent:
            await self._note(Note.SENT)

    async def note_delivered(self) -> None:
        """A client certainly has the whole answer."""
        if not self.was_delivered:
            await self._note(Note.DELIVERED)

    async def note_given(self) -> None:
        """A client was sent the call's id, and may ask for the answer."""
        if not self.gave_id:
            await self._note(Note.GIVEN)

    async def note_told(self) -> None:
        """An equal request was told that it repeats this call."""
        if not self.told_repeated:
            await self._note(Note.TOLD)

    async def _note(self, note: Note) -> None:
        try:
            await self._disk.threads.run(lambda: self._write(note))
        except OSError as error:
            # Better unkept than found by a request that must not have its answer.
            self._disk.trouble.lose(error)
            with contextlib.suppress(DiskTroubleError):
                await self.forget()

    def _write(self, note: Note) -> None:
        file = self._disk.folder.open_journal(self.identity.call_id)
        if file is not None:
            try:
                folder.note(file, note)
            finally:
                os.close(file)


def look(disk: Disk, file: int) -> KeptEntry | None:
    """What an open journal shows, blocking; None if there is no such call any more."""
    now = disk.clock()
    seen = folder.look(file, now)
    if seen is None:
        return None
    ending, notes = seen.journal.ending, seen.journal.notes
    if ending is not None and is_over(ending.at, expires_at(ending, disk.keep_seconds), now):
        return None
    was_served = not notes.isdisjoint({Note.SENT, Note.DELIVERED, Note.GIVEN})
    return KeptEntry(
        seen.journal.identity,
        CallState.RUNNING if ending is None else ending.state,
        None if ending is None else ending.at,
        None if ending is None else ending.status,
        {} if ending is None else ending.headers,
        0 if ending is None else ending.length,
        () if ending is None else ending.pictures,
        None if ending is None else ending.error_code,
        None if ending is None else ending.error_source,
        is_used=seen.is_used,
        has_clients=seen.has_client or seen.is_used,
        was_left=not (seen.has_client or was_served),
        was_sent=was_served,
        was_delivered=Note.DELIVERED in notes,
        told_repeated=Note.TOLD in notes,
        is_claimed=seen.is_claimed,
        was_asked=seen.journal.was_asked,
        gave_id=Note.GIVEN in notes,
        _disk=disk,
    )


class Claim:
    """One request's hold on a call, which ends with ``release`` or the process; use ``with``."""

    def __init__(self, entry: KeptEntry, file: int) -> None:
        self.entry = entry
        self._file: int | None = file

    def __repr__(self) -> str:
        return f"<Claim {self.entry.identity.call_id}{'' if self._file else ' released'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others claim the call; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _release(claim: Claim | None) -> None:
    if claim is not None:
        claim.release()


class KeptAnswer:
    """The bytes of an answer, readable until ``close`` even if the call is forgotten meanwhile."""

    def __init__(self, disk: Disk, length: int, journal: int, answer: int | None) -> None:
        self.length = length
        self._journal = OpenFile(disk.threads, journal)
        self._answer = None if answer is None else OpenFile(disk.threads, answer)

    def __repr__(self) -> str:
        return f"<KeptAnswer {self.length} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def play(self) -> AsyncIterator[bytes]:
        """The bytes; may be called again while it is open.  Raises ``OSError``."""
        if self._answer is not None:
            async for piece in self._answer.pieces(0, self.length):
                yield piece

    async def outgoing(self) -> AsyncIterator[bytes | FileSpan]:
        """The bytes, or where they lie."""
        if self._answer is not None:
            async for piece in FileSpan(self._answer, 0, self.length).outgoing():
                yield piece

    def close(self) -> None:
        """Free the descriptors; safe to call twice."""
        self._journal.close()
        if self._answer is not None:
            self._answer.close()


def _close(answer: KeptAnswer | None) -> None:
    if answer is not None:
        answer.close()
