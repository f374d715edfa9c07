"""Which call a request gets, of those of this process and of those that are kept.

``core.calls.finding`` decides.  The calls of this process are looked at last and at once with what
follows, in one step of the event loop, so two requests never both start a call that they should
share.  A call that another process runs is waited for.
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from image_gateway.calls.call import Call
from image_gateway.calls.registry import Calls
from image_gateway.context import AppContext
from image_gateway.core.calls import finding
from image_gateway.core.calls.finding import (
    Asking,
    CallView,
    Decision,
    Join,
    RefuseName,
    RefuseRepeated,
    Replay,
    Start,
    TakeOver,
)
from image_gateway.core.calls.model import CallIdentity, CallSource
from image_gateway.core.routing import failover
from image_gateway.edge.kept.disk import DiskTroubleError
from image_gateway.edge.kept.entry import KeptAnswer, KeptEntry


@dataclass(frozen=True, slots=True)
class FoundHere:
    """A call of this process; the caller must enter it before it awaits anything else."""

    call: Call
    source: CallSource

    @property
    def identity(self) -> CallIdentity:
        """What the call is found by."""
        return self.call.identity


@dataclass(frozen=True, slots=True)
class FoundKept:
    """A call that has ended, and its answer on the disk.

    ``answer`` None: the process that worked on the call died; or, for a request that wants the id
    alone, the call runs in another process.
    """

    entry: KeptEntry
    source: CallSource
    answer: KeptAnswer | None
    opened: ExitStack
    """Closes the answer, and lets others take the call over."""

    @property
    def identity(self) -> CallIdentity:
        """What the call is found by."""
        return self.entry.identity


Found = FoundHere | FoundKept | RefuseName | RefuseRepeated
"""What a request finds; None stands for a new call."""


class _ChangedError(Exception):
    """Another request was faster, or a call has ended: look again."""


class Search:
    """One request's search for its call; it may last as long as another process works on it.

    ``waits`` is called before it waits for another process.  ``held`` gets what keeps others from
    starting a call by the same name; it is for who starts one to release it, once that call can be
    found.
    """

    def __init__(
        self, app: AppContext, calls: Calls, asking: Asking, waits: Callable[[], None]
    ) -> None:
        self._kept = app.kept
        self._calls = calls
        self._asking = asking
        self._waits = waits
        self.held = ExitStack()
        self._unusable: set[str] = set()
        """Calls on the disk that proved to be of no use, and would be tried again and again."""
        self._guard_seconds = app.settings.retry_guard_seconds
        self._deadline = time.monotonic() + app.settings.total_seconds

    def __repr__(self) -> str:
        return f"<Search {self._asking.name or self._asking.fingerprint}>"

    async def run(self) -> Found | None:
        """The call that the request gets; None: it may start one, before it awaits anything."""
        asking = self._asking
        while True:
            if asking.name is not None:
                self.held.enter_context(await self._kept.lock_name(asking.name))
            entries = {
                call_id: entry
                for entry in await self._entries()
                if (call_id := entry.identity.call_id) not in self._unusable
            }
            own = [
                _shared(view, entries.get(view.identity.call_id))
                for view in self._calls.views(asking)
            ]
            others = entries.keys() - {view.identity.call_id for view in own}
            views = [*own, *(_view(entries[call_id]) for call_id in others)]
            decision = finding.find(asking, views, time.time(), self._guard_seconds)
            if not isinstance(decision, Start):
                self.held.close()
            with contextlib.suppress(_ChangedError):
                return await self._settle(decision, entries)
            self.held.close()

    async def _entries(self) -> list[KeptEntry]:
        """The calls on the disk that might concern the request."""
        asking = self._asking
        if asking.name is not None:
            return await self._kept.find(asking.key_tag, name=asking.name)
        # Only a sure retry gets an answer that was sent before.
        return await self._kept.find(
            asking.key_tag, fingerprint=asking.fingerprint, with_served=asking.is_sure_retry
        )

    async def _settle(self, decision: Decision, entries: dict[str, KeptEntry]) -> Found | None:
        """What follows from a decision."""
        match decision:
            case Start():
                await self._use_up(decision.uses_up, entries)
                return None
            case RefuseRepeated(call_id=call_id):
                if not await self._calls.warn(call_id) and call_id in entries:
                    await entries[call_id].note_told()
                return decision
            case RefuseName():
                return decision
        call, source = self._calls.get(decision.call_id), _source(decision)
        if call is not None:
            return FoundHere(call, source)
        return await self._of_entry(entries[decision.call_id], source)

    async def _use_up(self, call_id: str | None, entries: dict[str, KeptEntry]) -> None:
        if call_id is None:
            return
        with contextlib.suppress(DiskTroubleError):
            if await self._calls.use_up(call_id) or await entries[call_id].forget():
                return
        self._unusable.add(call_id)
        raise _ChangedError

    async def _of_entry(self, entry: KeptEntry, source: CallSource) -> FoundKept:
        """A call on the disk."""
        # Who wants the id alone need not wait for the end.
        if entry.ended_at is None and not self._asking.wants_id:
            seconds = self._deadline - time.monotonic()
            if seconds <= 0:
                raise failover.replacement("outcome_unknown")
            self._waits()
            await entry.wait(seconds)
            raise _ChangedError
        with ExitStack() as opened:
            claim = None
            if source is CallSource.TAKEN_OVER:
                claim = await entry.try_claim()
                if claim is None:
                    raise _ChangedError
                opened.enter_context(claim)
                if claim.entry.was_sent:
                    raise _ChangedError
            answer = None
            if entry.status is not None:
                with contextlib.suppress(DiskTroubleError):
                    answer = await entry.open_answer()
                if answer is None:  # Removed, cut off by a crash of the machine, or unreadable.
                    self._unusable.add(entry.identity.call_id)
                    raise _ChangedError
                opened.enter_context(answer)
            return FoundKept(entry, source, answer, opened.pop_all())


def _source(decision: Join | Replay | TakeOver) -> CallSource:
    match decision:
        case Join():
            return CallSource.JOINED
        case Replay():
            return CallSource.REPLAYED
        case TakeOver():
            return CallSource.TAKEN_OVER


def _shared(view: CallView, entry: KeptEntry | None) -> CallView:
    """A call of this process, with what requests at other processes do with it.

    The entry is a little older than the view, so what it says of this process's clients is not
    used.
    """
    if entry is None or not view.was_left:
        return view
    return replace(view, clients=view.clients + entry.is_used, was_left=not entry.was_sent)


def _view(entry: KeptEntry) -> CallView:
    return CallView(
        entry.identity,
        entry.state,
        ended_at=entry.ended_at,
        is_kept=entry.ended_at is not None,
        clients=int(entry.has_clients),
        was_left=entry.was_left,
        was_delivered=entry.was_delivered,
        is_claimed=entry.is_claimed,
        told_repeated=entry.told_repeated,
        gave_id=entry.gave_id,
    )
