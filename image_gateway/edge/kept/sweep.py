"""What is over is removed: expired calls, the oldest over the budget, what a crash left behind.

Any number of processes may sweep one folder at once: each removal can be done twice.  A call that
is claimed or whose answer is being read stays for the next time; one that runs always stays.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from image_gateway.core.calls.journal import Note
from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept import folder as files
from image_gateway.edge.kept import locks
from image_gateway.edge.kept.disk import expires_at, is_over
from image_gateway.edge.kept.folder import KeepFolder
from image_gateway.edge.kept.locks import Part

MOST_CALLS: Final = 100_000
"""Calls that are kept at most, whatever their size; a process remembers some 200 bytes of each."""

_STEP: Final = 200
"""Calls for each step: a few milliseconds."""
_INDEX_SWEEPS: Final = 60
"""The index is searched for dead entries in the first and then in each sixtieth sweep."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Ended:
    """An ended call, as it was when its journal had so many bytes."""

    call_id: str
    journal_bytes: int
    answer_bytes: int
    ended_at: float
    expires_at: float
    is_needed: bool
    """Somebody may come for its picture, or must be warned that there may be one."""

    @property
    def taken(self) -> int:
        return files.taken(self.journal_bytes) + files.taken(self.answer_bytes)


class Sweeper:
    """One process's memory of what is kept; only one sweep at a time may run in it."""

    def __init__(
        self,
        folder: KeepFolder,
        keep_seconds: float,
        budget_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.kept_bytes = 0
        """Bytes in the folder after the last sweep."""
        self.kept_calls = 0
        """Ended calls in the folder after the last sweep."""
        self.error: OSError | None = None
        """An error of the last sweep, which did what else it could."""
        self._folder = folder
        self._keep_seconds = keep_seconds
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._sweeps = 0
        self._total = 0
        self._ended: dict[str, _Ended] = {}
        self._before: dict[str, _Ended] = {}
        """What the sweep before saw.  A journal only grows, so of one that has the same size
        nothing need be read."""
        self._unreadable: set[str] = set()

    def __repr__(self) -> str:
        return f"<Sweeper {len(self._ended)} calls, {self.kept_bytes} bytes>"

    def steps(self) -> Iterator[None]:
        """Sweep, blocking, in steps of some milliseconds."""
        self.error = None
        self._before, self._ended = self._ended, {}
        unreadable_before, self._unreadable = self._unreadable, set()
        self._total = 0
        ids = self._folder.all_ids()
        yield
        yield from self._each(ids, self._visit)
        yield from self._each(self._surplus(), self._remove)
        # One that is just being made becomes readable before the next sweep.
        again = sorted(unreadable_before & self._unreadable)
        yield from self._each(again, self._folder.remove_unreadable)
        answers = sorted(set(self._folder.all_answers()).difference(ids))
        yield
        yield from self._each(answers, self._remove_dead_answer)
        if self._sweeps % _INDEX_SWEEPS == 0:
            yield from self._each(self._folder.buckets(), self._folder.clean)
        self._sweeps += 1
        self._before = {}
        self.kept_bytes, self.kept_calls = self._total, len(self._ended)

    def _each(self, items: Iterable[_T], job: Callable[[_T], None]) -> Iterator[None]:
        for number, item in enumerate(items, 1):
            try:
                job(item)
            except OSError as error:
                self.error = error
            if number % _STEP == 0:
                yield

    def _visit(self, call_id: str) -> None:
        size = self._folder.journal_size(call_id)
        if size is None:
            return
        ended = self._before.get(call_id)
        if ended is None or ended.journal_bytes != size:
            ended = self._read(call_id)
        if ended is None:
            self._total += files.taken(size)
            return
        self._ended[call_id] = ended
        self._total += ended.taken
        if is_over(ended.ended_at, ended.expires_at, self._clock()):
            self._remove(ended)

    def _read(self, call_id: str) -> _Ended | None:
        """None for a call that runs, is gone or is none."""
        file = self._folder.open_journal(call_id)
        if file is None:
            self._unreadable.add(call_id)
            return None
        try:
            seen = files.look(file, self._clock())
        finally:
            os.close(file)
        if seen is None or seen.journal.identity.call_id != call_id:
            self._unreadable.add(call_id)
            return None
        ending = seen.journal.ending
        if ending is None:
            return None
        return _Ended(
            call_id,
            seen.size,
            ending.stored,
            ending.at,
            expires_at(ending, self._keep_seconds),
            is_needed=ending.state in {CallState.MADE, CallState.UNKNOWN}
            # Who has an address has not the picture yet.
            and (Note.DELIVERED not in seen.journal.notes or bool(ending.pictures)),
        )

    def _surplus(self) -> Iterator[_Ended]:
        if self._fits():
            return
        for ended in sorted(self._ended.values(), key=_removal_order):
            if self._fits():
                return
            yield ended

    def _fits(self) -> bool:
        return self._total <= self._budget_bytes and len(self._ended) <= MOST_CALLS

    def _remove(self, ended: _Ended) -> None:
        file = self._folder.open_journal(ended.call_id)
        if file is not None:
            try:
                # While this holds the claim, no request can get it and then find nothing.
                if locks.is_locked(file, Part.USE) or not locks.try_lock(file, Part.CLAIM):
                    return
                seen = files.look(file, self._clock())
                if seen is not None:
                    self._folder.remove(seen.journal.identity)
            finally:
                os.close(file)
        del self._ended[ended.call_id]
        self._total -= ended.taken

    def _remove_dead_answer(self, call_id: str) -> None:
        # An answer is made after its journal, so one without a journal is dead.
        if self._folder.journal_size(call_id) is None:
            self._folder.remove_answer(call_id)


def _removal_order(ended: _Ended) -> tuple[bool, float]:
    """What nobody needs goes first, then the oldest."""
    return ended.is_needed, ended.ended_at
