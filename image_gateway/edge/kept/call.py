"""A kept call as the process that works on it sees it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from image_gateway.core.calls import journal
from image_gateway.core.calls.journal import Ending, Note
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.kept import folder, locks
from image_gateway.edge.kept.disk import Disk, DiskTroubleError
from image_gateway.edge.kept.locks import Part
from image_gateway.edge.kept.open_file import OpenFile
from image_gateway.edge.spool import JoinedBody, SpooledBody, SpoolFullError


@dataclass(frozen=True, slots=True)
class AnswerWithPictures:
    """An answer, and the pictures that it has addresses of, in the order of their indices."""

    answer: JoinedBody
    pictures: Sequence[SpooledBody]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the pictures in bytes."""
        return tuple(picture.length for picture in self.pictures)

    def joined(self) -> JoinedBody:
        """What is kept of it."""
        return JoinedBody((*self.answer.parts, *self.pictures))


AnswerBody = bytes | SpooledBody | JoinedBody | AnswerWithPictures

_AT_ONCE: Final = 1024 * 1024
"""An answer up to this size is written by one job."""


class KeptCall:
    """The handle of a call from its start; ``close`` it, or use ``with``.

    While it is open and has not ended, other requests see a running call; one that is closed before
    its end has an unknown outcome, as if its process had been killed.  Until ``note_left``,
    ``note_sent``, ``note_delivered``, ``note_given`` or ``close`` they see that its client is
    there.  A client that neither got its answer (sent or delivered) or its id nor is there counts
    as gone.

    If the call is not kept (``KEEP_SECONDS=0``, a full disk), every method does nothing.
    """

    def __init__(self, disk: Disk, identity: CallIdentity, file: OpenFile | None) -> None:
        self.identity = identity
        self._disk = disk
        self._file = file
        self._noted: set[Note] = set()

    def __repr__(self) -> str:
        return f"<KeptCall {self.identity.call_id}{'' if self.is_kept else ' unkept'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_kept(self) -> bool:
        """Whether others can find the call by this handle's doing."""
        return self._file is not None

    def close(self) -> None:
        """Free what the handle holds; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # -- the client --------------------------------------------------------------------------------

    def note_left(self) -> None:
        """The client went away without its answer."""
        if self._file is not None:
            locks.unlock(self._file.number, Part.CLIENT)

    def note_joined(self) -> None:
        """Another client waits for the answer here, after the first one went away."""
        if self._file is not None:
            locks.try_lock(self._file.number, Part.CLIENT)

    async def note_sent(self) -> None:
        """The answer was sent and the connection ended well; the client may have it."""
        await self._note(Note.SENT)

    async def note_delivered(self) -> None:
        """The client certainly has the whole answer."""
        await self._note(Note.DELIVERED)

    async def note_given(self) -> None:
        """A client was sent the call's id, and may ask for the answer."""
        await self._note(Note.GIVEN)

    async def note_asked(self) -> None:
        """An upstream is being asked."""
        await self._note(Note.ASKED)

    async def note_told(self) -> None:
        """An equal request was told that it repeats this call."""
        await self._note(Note.TOLD)

    async def _note(self, note: Note) -> None:
        file = self._file
        if file is None:
            return
        frees_client = note not in {Note.TOLD, Note.ASKED}

        def write(number: int) -> None:
            # Once: a journal has an end, and a call may have any number of clients.
            if note not in self._noted:
                folder.note(number, note)
                self._noted.add(note)
            if frees_client:
                locks.unlock(number, Part.CLIENT)

        try:
            await file.run(write)
        except OSError as error:
            # Better unkept than found by a request that must not have its answer.
            await self._give_up(error)

    # -- the end -----------------------------------------------------------------------------------

    async def is_forgotten(self) -> bool:
        """Whether somebody asked that the call be forgotten; false for a call that is not kept."""
        return self._file is not None and await self._file.run(folder.is_gone)

    async def end(
        self,
        state: CallState,
        status: int,
        headers: Mapping[str, str],
        body: AnswerBody,
        *,
        seconds: float | None = None,
        failure: tuple[str, str] | None = None,
    ) -> bool:
        """Keep the answer; whether others find it from then on.

        ``seconds``: how long at most, if not as long as all.  ``failure``: the error code and the
        source for the records of those who get the answer.  Cancelled before the end, the call
        has an unknown outcome once it is closed.
        """
        file = self._file
        if file is None:
            return False
        sizes: tuple[int, ...] = ()
        if isinstance(body, AnswerWithPictures):
            sizes, body = body.sizes, body.joined()
        length = len(body) if isinstance(body, bytes) else body.length
        try:
            now = self._disk.clock()
            code, source = (None, None) if failure is None else failure
            ending = Ending(
                state,
                now,
                status,
                headers,
                length - sum(sizes),
                seconds,
                code,
                source,
                sizes,
            )
            line = journal.ended(ending)
            is_found: bool | None
            if isinstance(body, bytes):
                is_found = await self._end_whole(file, line, body)
            elif length <= _AT_ONCE:
                is_found = await self._end_whole(file, line, await _joined(body))
            else:
                is_found = await self._end_named(file, line, body)
                if is_found is None:
                    await self._write_pieces(file, body)
                    is_found = await file.run(lambda number: self._finish(number, line))
        except (OSError, ValueError) as error:
            if self._file is None:  # A note failed meanwhile, and the call was given up.
                await self._remove_late_answer()
            else:
                await self._give_up(error)
            return False
        self._disk.grown(folder.taken(length) + folder.taken(len(line)))
        return is_found

    async def _end_whole(self, file: OpenFile, line: bytes, answer: bytes) -> bool:
        """End the call with an answer that is in memory."""
        disk, call_id = self._disk, self.identity.call_id

        def write(number: int) -> bool:
            if answer:
                disk.folder.write_answer(call_id, answer)
            return self._finish(number, line)

        return await file.run(write)

    async def _end_named(
        self, file: OpenFile, line: bytes, body: SpooledBody | JoinedBody
    ) -> bool | None:
        """End the call by a name for the file of a spool, if that is all of the answer; None if
        that cannot be done.
        """
        if not isinstance(body, SpooledBody) or not body.is_whole:
            return None
        disk, call_id = self._disk, self.identity.call_id

        def write(number: int, answer: int) -> bool | None:
            try:
                disk.folder.name_answer(call_id, answer)
            except OSError:  # It may lie in another file system, or its own may not be able to.
                return None
            return self._finish(number, line)

        try:
            # Of its own, for cancelled here, the thread goes on after the spool is closed, and the
            # number may be that of another call's file by then.
            answer = OpenFile(disk.threads, os.dup(await body.spool.to_file()))
        except (SpoolFullError, OSError):
            return None
        try:
            return await file.lend(lambda number: answer.run(partial(write, number)))
        finally:
            answer.close()

    async def _write_pieces(self, file: OpenFile, body: SpooledBody | JoinedBody) -> None:
        if await file.run(folder.is_gone):
            return
        disk, call_id = self._disk, self.identity.call_id
        number = await disk.threads.run(
            lambda: disk.folder.create_answer(call_id),
            undo=lambda created: disk.folder.drop_answer(call_id, created),
        )
        answer = OpenFile(disk.threads, number)
        written = 0
        try:
            async for piece in body.outgoing():
                if isinstance(piece, FileSpan):
                    await _copy(piece, answer)
                else:
                    await answer.run(partial(folder.write_all, piece))
                written += len(piece)
            _check_length(written, body.length)
        except BaseException:
            # Also when cancelled: others would find a call of unknown outcome, without an answer.
            disk.threads.start(lambda: disk.folder.remove_answer(call_id))
            raise
        finally:
            answer.close()

    def _finish(self, number: int, line: bytes) -> bool:
        """Say that the call has ended, once its answer is there; whether others find it."""
        disk, call_id = self._disk, self.identity.call_id
        # In this order: who sees the end finds the whole answer, who finds nobody at work sees the
        # end.
        folder.append(number, line)
        locks.unlock(number, Part.WORK)
        if folder.is_gone(number):  # A DELETE may have come before the answer.
            disk.folder.remove_answer(call_id)
            return False
        return True

    async def forget(self) -> None:
        """Forget the call for everybody; what it still makes is not kept.

        Raises ``DiskTroubleError``.
        """
        if self._file is not None:
            try:
                await self._file.run(lambda _: self._disk.folder.remove(self.identity))
            except OSError as error:
                self._disk.trouble.report(error)
                raise DiskTroubleError from error

    async def abandon(self) -> None:
        """The call never was: nothing of it is kept, and who waits for it finds nothing."""
        file = self._file
        if file is not None:
            try:
                await file.run(lambda _: self._disk.folder.remove(self.identity))
            except OSError as error:
                self._disk.trouble.report(error)
            finally:
                self.close()

    async def _remove_late_answer(self) -> None:
        """Remove an answer that got its name after its call was removed."""
        disk, call_id = self._disk, self.identity.call_id
        try:
            await disk.threads.run(lambda: disk.folder.remove_answer(call_id))
        except OSError as error:
            disk.trouble.report(error)

    async def _give_up(self, error: Exception) -> None:
        self._disk.trouble.lose(error)
        await self.abandon()


async def _copy(span: FileSpan, answer: OpenFile) -> None:
    """Let the kernel copy from file to file: a third of the work of reading and writing."""
    position = span.start
    while position < span.stop:
        position += await answer.lend(partial(span.send, start=position))


async def _joined(body: SpooledBody | JoinedBody) -> bytes:
    whole = b"".join([piece async for piece in body.play()])
    _check_length(len(whole), body.length)
    return whole


def _check_length(written: int, length: int) -> None:
    if written != length:
        raise ValueError(f"an answer of {length} bytes was played as {written}")
