"""What lies in a folder of kept calls, for people and without a store; blocking.

Nothing is changed, and no lock is taken: processes may work in the folder meanwhile, and need not
know.  The folder may belong to another user, so what it has is not trusted to be what it should be.
"""

import os
from dataclasses import dataclass

from image_gateway.core.calls.journal import Note
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.kept import folder as files
from image_gateway.edge.kept.disk import expires_at
from image_gateway.edge.kept.folder import KeepFolder, KeepFolderError, Seen


@dataclass(frozen=True, slots=True)
class ListedCall:
    """A call at one moment.

    ``ended_at`` and ``expires_at`` are in seconds since 1970; None while the call runs, and if its
    process died and nobody has noted its end yet.  ``status`` is that of its answer, None if there
    is none.  ``answer_bytes`` is the size of its answer, ``disk_bytes`` is what all its files take.
    ``has_clients``: its client is there, or others wait for it or are being sent its answer.
    ``was_sent``: its answer was sent to somebody.  ``was_delivered``: somebody certainly has it.
    ``gave_id``: a client was sent the call's id, and may ask for the answer.
    """

    identity: CallIdentity
    state: CallState
    status: int | None
    error_code: str | None
    error_source: str | None
    ended_at: float | None
    expires_at: float | None
    answer_bytes: int
    disk_bytes: int
    has_clients: bool
    was_sent: bool
    was_delivered: bool
    gave_id: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """All calls of a folder, newest first; ``unreadable`` files in it are no calls.

    A call that began or was removed meanwhile may be missing, and one whose first line was not
    written yet counts as unreadable.
    """

    calls: tuple[ListedCall, ...]
    unreadable: int

    @property
    def disk_bytes(self) -> int:
        """What the files of all these calls take on the disk."""
        return sum(call.disk_bytes for call in self.calls)


def list_calls(folder: KeepFolder, keep_seconds: float) -> Listing:
    """Read all calls; ``keep_seconds`` counts from their ends.

    Raises ``KeepFolderError`` for a folder that is not one of kept calls, and ``OSError`` for one
    that cannot be read.  An empty folder has no calls.
    """
    entries = os.listdir(folder.path)  # noqa: PTH208 - its names alone
    if entries and not {"calls", "answers"} <= set(entries):
        raise KeepFolderError(f"{folder.path} is not a folder of kept calls")
    calls: list[ListedCall] = []
    unreadable = 0
    for call_id in folder.all_ids():
        try:
            file = folder.open_to_read(call_id)
            if file is None:
                # It may have been removed meanwhile.
                unreadable += folder.journal_size(call_id) is not None
                continue
            try:
                seen = files.peek(file)
                is_there = not files.is_gone(file)
            finally:
                os.close(file)
        except OSError:  # no plain file, or a broken disk
            unreadable += 1
            continue
        if seen is not None and seen.journal.identity.call_id == call_id:
            calls.append(_listed(seen, folder.answer_size(call_id), keep_seconds))
        else:
            unreadable += is_there
    calls.sort(key=lambda call: call.identity.created_at, reverse=True)
    return Listing(tuple(calls), unreadable)


def _listed(seen: Seen, answer_bytes: int, keep_seconds: float) -> ListedCall:
    ending, notes = seen.journal.ending, seen.journal.notes
    state = CallState.RUNNING if seen.is_running else seen.journal.abandoned(0).state
    return ListedCall(
        seen.journal.identity,
        state if ending is None else ending.state,
        None if ending is None else ending.status,
        None if ending is None else ending.error_code,
        None if ending is None else ending.error_source,
        None if ending is None else ending.at,
        None if ending is None else expires_at(ending, keep_seconds),
        answer_bytes,
        files.taken(seen.size) + files.taken(answer_bytes),
        has_clients=seen.has_client or seen.is_used,
        was_sent=not notes.isdisjoint({Note.SENT, Note.DELIVERED}),
        was_delivered=Note.DELIVERED in notes,
        gave_id=Note.GIVEN in notes,
    )
