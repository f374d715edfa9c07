"""One purchase: a task of its own, which outlives the request that started it.

A call holds its key's place and its account's slot while the upstream works, and no longer: its
answer waits for the clients, however slow they are or whether they come back.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum, auto
from typing import Literal, Self

from image_gateway.calls import conclusion
from image_gateway.calls.answer import Answer, Ending
from image_gateway.calls.attempt import UpstreamJob
from image_gateway.calls.collecting import CollectContext, Collected
from image_gateway.calls.dispatch import Dispatch
from image_gateway.calls.keeping import Keeping
from image_gateway.context import AppContext
from image_gateway.core import errors
from image_gateway.core.calls.background import BackgroundResponse
from image_gateway.core.calls.finding import CallView
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.core.dialects import events
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.records.builder import Failure, RecordBuilder
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing import failover
from image_gateway.edge.client.event_stream import EVENTS_TYPE
from image_gateway.edge.spool import JoinedBody
from image_gateway.edge.upstream.http_client import LostError

_log = logging.getLogger(__name__)


class _Stop(Enum):
    """Why a call is ended before its upstream has answered."""

    DRAINED = auto()
    """The process stops, and its time is over."""
    LEFT = auto()
    """No client is left, and nothing was sent, or the settings say so."""
    CANCELLED = auto()
    """Its key has cancelled it."""


class Call:
    """A purchase, from its first attempt to its answer.

    ``record`` is that of the request that starts it: the call's attempts, usage and cost stand
    there.  ``resources`` are given back when the upstream is done: the request's body, the claim of
    the key and its owner.
    """

    def __init__(
        self,
        app: AppContext,
        identity: CallIdentity,
        job: UpstreamJob,
        record: RecordBuilder,
        resources: ExitStack,
        *,
        streams: bool,
    ) -> None:
        self.identity = identity
        self.answer = Answer(app.spools, app.kept.answer_folder)
        self.record = record
        self.clients = 0
        """Requests that wait for its answer or get it."""
        self.is_forgotten = False
        """Whether a client asked that it be forgotten: no other finds it any more."""
        self._gave_id = False
        self._is_warned_of = False
        self._has_left = False
        self._is_delivered = False
        self._ended_at: float | None = None
        self._resources = resources
        self._cancels = app.settings.when_client_leaves == "cancel"
        self._found: Callable[[], None] = _nothing
        self._keeping = Keeping(app, identity)
        self._has_begun = False
        self._has_outcome = False
        is_background = isinstance(job.request, IntentRequest) and job.request.background
        self._background = BackgroundResponse.of(identity) if is_background else None
        self._is_numbered = isinstance(job.request, IntentRequest)
        self._streams = streams
        context = CollectContext(
            self.answer,
            streams,
            self._announce,
            record,
            app.spools,
            app.settings.upstream_idle_seconds,
            background=self._background,
        )
        self._dispatch = Dispatch(app, context, job, identity.call_id)
        self._app = app
        self._claim = job.claim
        self._claim.when_decided(self.answer.wake)
        self._is_asked = False
        self._stop: _Stop | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._changed: Callable[[Call], None] = _ignore

    def __repr__(self) -> str:
        state = "running" if self.answer.ending is None else self.answer.ending.state.value
        return f"<Call {self.identity.call_id} {state}, {self.clients} clients>"

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it runs."""
        return self.answer.ending

    # -- its life --------------------------------------------------------------------------------

    def start(self, changed: Callable[["Call"], None]) -> None:
        """Let it run; ``changed`` is called when it has ended, and when a client is gone."""
        self._changed = changed
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: changed(self))

    def when_found(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once requests by its name find it; before ``start``."""
        self._found = callback

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the answer is whole."""
        self._over.add_done_callback(lambda _: callback())

    @property
    def streams(self) -> bool:
        """Whether its answer is a stream."""
        return self._streams

    @property
    def is_settled(self) -> bool:
        """Whether it has ended, is kept, and nobody reads its answer here any more."""
        return self._task is not None and self._task.done() and not self.clients

    @property
    def is_kept(self) -> bool:
        """Whether those who come later find it on the disk."""
        return self._keeping.is_kept

    async def _announce(self) -> None:
        """Before an upstream is asked: from now on the call can be found, whatever happens here."""
        await self.begin_keeping()
        if not self.identity.begins_early or self._is_asked:
            return
        if await self._keeping.is_forgotten():
            self.is_forgotten = True
            raise errors.call_cancelled()
        self._is_asked = True
        await self._keeping.note_asked()

    async def begin_keeping(self) -> bool:
        """Let others find the call from now on; whether they do."""
        if self.ending is None or self.identity.has_id:
            await self._keeping.begin()
        return self.is_kept

    async def _open(self) -> None:
        """Let a client come back, before it knows the id."""
        # A name, too, must not buy again elsewhere while this call waits for a slot.
        if self.identity.begins_early:
            await self.begin_keeping()
        self._found()
        if self._background is not None and self._streams:
            for frame in self._background.opening_frames():
                await self.answer.add_bytes(frame)
            await self.give_id()  # the first event has it

    async def _keep(self, ending: Ending) -> None:
        """Keep the answer for those who come later."""
        if self.identity.has_id:
            await self._keeping.begin()
        await self._keeping.end(self.whole(ending))

    def whole(self, ending: Ending) -> Ending:
        """The ending with all of the answer as its body, if it is a stream."""
        parts = list(self.answer.parts())
        if self._has_pictures_before(ending):
            assert isinstance(ending.body, bytes)
            number = self.answer.frames if self._is_numbered else None
            parts.append(self.answer.hold(events.error_frame(ending.body, number)))
        elif ending.body is not None:
            return ending
        fields = {**ending.fields, "content-type": EVENTS_TYPE}
        return replace(ending, status=200, fields=fields, body=JoinedBody(parts))

    def _has_pictures_before(self, ending: Ending) -> bool:
        """Whether a stream has pictures and then an error: those who come later get both."""
        made = self.record.made
        is_error = ending.failure is not None and isinstance(ending.body, bytes)
        is_plain_stream = self._streams and self._background is None
        return is_error and is_plain_stream and made is not None and bool(made.pictures)

    def close(self) -> None:
        """Free the answer: nobody here gets it any more."""
        self.answer.give_up()
        self._keeping.close()

    async def _run(self) -> None:
        self._has_begun = True
        try:
            outcome = await self._outcome()
            self._has_outcome = True
            # Who calls again at once, and comes to another process, finds the own place free.
            await self._app.slots.returned()
            ending = await self._end(outcome)
            if self._has_pictures_before(ending):
                ending = replace(ending, state=CallState.MADE)
        except Exception:  # noqa: BLE001 - the last resort of a call
            ending = self._bug()
        self._ended_at = time.time()
        self.answer.end(ending)
        self._over.set_result(None)
        await self._keep(ending)

    async def _outcome(self) -> Ending | Collected:
        """The end of the call, when all that it held is given back."""
        try:
            with self._resources:
                if self._stop is not None:
                    raise asyncio.CancelledError
                await self._open()
                result = await self._dispatch.run()
        except Refusal as refusal:
            return conclusion.of_refusal(refusal, self.record)
        except asyncio.CancelledError:
            return self._stopped()
        return conclusion.of_result(result, self.record)

    async def _end(self, outcome: Ending | Collected) -> Ending:
        """Add the last frames; no client gets them before the slot is given back."""
        if not isinstance(outcome, Collected):
            return outcome
        addressed = await self._keeping.end_with_addresses(outcome)
        if addressed is not None:
            return addressed
        try:
            for frame in outcome.frames:
                await self.answer.add(frame)
        except LostError:
            return conclusion.of_refusal(failover.replacement("upstream_cut"), self.record)
        if not self.answer.fields:
            self.answer.fields = outcome.fields
        return conclusion.of_collected(outcome)

    def _stopped(self) -> Ending | Collected:
        """The end of a call that was cancelled.

        Pictures that exist are delivered; the outcome of a sent call stays unknown; a call that was
        not sent may be sent again.
        """
        self.record.break_off()
        collected = self._dispatch.salvage()
        if collected is not None:
            return collected
        if self._stop is not _Stop.DRAINED:
            # Whose settings let a sent call be cancelled has accounts that bill nothing for it.
            cancelled = conclusion.of_refusal(errors.call_cancelled(), self.record)
            return replace(cancelled, state=CallState.NOTHING)
        if not self.record.may_be_billed:
            return conclusion.of_refusal(conclusion.draining(), self.record)
        unknown = conclusion.of_refusal(failover.replacement("outcome_unknown"), self.record)
        # Its upstream has done nothing wrong.
        return replace(unknown, failure=Failure("outcome_unknown", Source.GATEWAY))

    def _bug(self) -> Ending:
        """The ending after an exception, while it is being handled; logs the traceback."""
        self.record.break_off()
        request_id = self.record.arrival.request_id
        _log.exception("request %s failed because of a bug in the gateway", request_id)
        return conclusion.of_refusal(conclusion.internal_error(request_id), self.record)

    def drain(self) -> None:
        """End it at the drain deadline."""
        self._cancel(_Stop.DRAINED)

    def cancel(self) -> bool:
        """End it for its key, unless what it makes would be paid for; whether it will end."""
        if self._cancels or self.answer.sent_at is None:
            self._cancel(_Stop.CANCELLED)
        return self._stop is not None or self.ending is not None

    def _cancel(self, stop: _Stop) -> None:
        # Once the upstream is done, the answer has only to be put together.
        if self._stop is None and self._task is not None and not self._has_outcome:
            self._stop = stop
            # A task that is cancelled before its first step never runs: nobody would be told.
            if self._has_begun:
                self._task.cancel()

    # -- its clients -----------------------------------------------------------------------------

    async def wait(self, seconds: float) -> bool:
        """Wait until it has ended or was forgotten; whether that was within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.ending is None and not self.is_forgotten:
            if (remaining := deadline - time.monotonic()) <= 0:
                return False
            await self.answer.changed(remaining)
        return True

    async def may_go_on(self) -> bool:
        """Wait until it is known whether the limits of its key and its owner, over all processes,
        admit it; False if they do not.
        """
        while self.ending is None and not self._claim.is_decided:
            await self.answer.changed()
        return not self._claim.is_refused

    def view(self) -> CallView:
        """The call as a request that looks for one sees it."""
        ending = self.ending
        return CallView(
            self.identity,
            CallState.RUNNING if ending is None else ending.state,
            ended_at=self._ended_at,
            is_kept=ending is not None,
            clients=self.clients,
            # Nobody joins a call that is being cancelled.
            was_left=self._has_left and self._stop is None,
            was_delivered=self._is_delivered,
            told_repeated=self._is_warned_of,
            gave_id=self._gave_id,
        )

    def __enter__(self) -> Self:
        """A client waits for the answer."""
        self.clients += 1
        self.answer.__enter__()
        if self._has_left:
            self._keeping.note_joined()
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        self.answer.__exit__()
        self.clients -= 1
        is_alone = self._has_left and not self.clients
        if is_alone:
            self._keeping.note_left()
        if is_alone and (self._cancels or self.answer.sent_at is None):
            self._cancel(_Stop.LEFT)
        self._changed(self)
        return False

    async def warn(self) -> None:
        """A request is refused because this call may have made a picture."""
        self._is_warned_of = True
        await self._keeping.note_told()

    def leave(self) -> None:
        """A client left before it had the whole answer, or the id to ask for it by."""
        if self._gave_id:
            return
        self._has_left = not self._is_delivered

    async def give_id(self) -> None:
        """A client was sent the id, to ask for the answer: the call goes on though nobody waits."""
        is_first = not self._gave_id
        self._has_left, self._gave_id = False, True
        # A journal has an end, so what many requests do is noted once.
        if is_first:
            await self._keeping.note_given()

    async def forget(self) -> None:
        """Forget it: no other finds it, and it ends if nothing was sent.

        A call that was sent goes on, because it is paid for.  Raises ``DiskTroubleError``.
        """
        self.is_forgotten = True
        if self.answer.sent_at is None:
            self._cancel(_Stop.CANCELLED)
        self.answer.wake()
        await self._keeping.forget()

    async def was_forgotten(self) -> bool:
        """Whether a client asked that it be forgotten, of this process or of another one."""
        if not self.is_forgotten and await self._keeping.is_forgotten():
            await self.forget()
        return self.is_forgotten

    async def serve(self, *, is_certain: bool) -> None:
        """A client was sent the whole answer; ``is_certain``: and has received it."""
        self._has_left = False
        self._is_delivered |= is_certain
        await self._keeping.note_served(is_certain=is_certain)


def _nothing() -> None:
    """Nobody waits for it."""


def _ignore(_: Call) -> None:
    """Nobody needs to know yet."""
