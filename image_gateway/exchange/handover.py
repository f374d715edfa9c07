"""Hands a call over to the client of one request: its answer, or the id to ask for it by.

A client that only wants the id is away while the call runs, and does not count as gone.  The call
is told what became of each of its clients, because a later request finds it by that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from image_gateway.calls import conclusion
from image_gateway.calls.call import Call
from image_gateway.calls.search import FoundHere, FoundKept
from image_gateway.context import AppContext
from image_gateway.core import headers
from image_gateway.core.calls.model import CallSource
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.exchange.delivery import Delivery, KeepAlive


class Submission(Protocol):
    """A request whose client would rather have the call's id now than the answer later.

    Each method that sends raises ``ClientLeftError``.
    """

    async def wait(self, call: Call) -> bool:
        """Wait until the call can be found by its id and no limit stands against it, and as long as
        the client likes; whether it gets the id, not the answer.
        """

    async def give_id(self, call: Call) -> None:
        """Send the id of a call of this process."""

    async def give_kept_id(self, found: FoundKept) -> bool:
        """Send the id of a call on the disk; False, and nothing is sent, if its answer is due."""


class Handover:
    """What one request's client gets of a call, and how; every method raises ``ClientLeftError``.

    ``waits_no_more`` is called when there is nothing left to wait for but the client, and ``sent``
    when all is sent.
    """

    def __init__(
        self,
        app: AppContext,
        downstream: Downstream,
        record: RecordBuilder,
        *,
        waits_no_more: Callable[[], None],
        sent: Callable[[], None],
    ) -> None:
        self._app = app
        self._downstream = downstream
        self._record = record
        self._waits_no_more = waits_no_more
        self._sent = sent

    def __repr__(self) -> str:
        return f"<Handover to {self._downstream!r}>"

    async def run(
        self, found: FoundHere | FoundKept, request: AnyRequest, submission: Submission | None
    ) -> None:
        """Hand over the call that the request started or found."""
        match found:
            case FoundHere(call=call):
                if is_late := found.source is not CallSource.MADE:
                    self._record.enter(Phase.JOINED)
                with call:
                    if submission is not None and await self._gave_id(
                        call, submission, is_late=is_late
                    ):
                        return
                    await self._follow(call, self._delivery(request), is_late=is_late)
            case FoundKept():
                self._waits_no_more()
                with found.opened:
                    if submission is not None and await submission.give_kept_id(found):
                        self._record.enter(Phase.DELIVERED)
                        self._sent()
                        if await self._has_received() is not False:
                            await found.entry.note_given()
                        return
                    await self._replay(found, self._delivery(request))

    def _delivery(self, request: AnyRequest) -> Delivery:
        stream = None
        if request.stream:
            stream = EventStream(self._downstream, numbered=isinstance(request, IntentRequest))
        settings = self._app.settings
        key = self._record.key
        json_seconds = settings.json_keepalive_seconds
        if key is not None and key.json_keepalive_seconds is not None:
            json_seconds = key.json_keepalive_seconds
        keep_alive = KeepAlive(settings.keepalive_seconds, json_seconds)
        return Delivery(self._downstream, self._record, stream, keep_alive)

    async def _gave_id(self, call: Call, submission: Submission, *, is_late: bool) -> bool:
        """Answer with the id of a call of this process; False if the answer itself is due."""
        with _leaving(call):
            async with self._downstream.watch(drains=False):
                gives_id = await submission.wait(call)
            if not gives_id:
                return False
            self._waits_no_more()
            # A call that this request started goes through its own phases in its record.
            if is_late:
                self._record.enter(Phase.DELIVERED)
                self._note_failure(call)
            else:
                call.when_ended(lambda: self._note_failure(call))
            await submission.give_id(call)
            self._record.gave_id = True
            self._sent()
            has_received = await self._has_received()
        if has_received is False:
            call.leave()
        else:
            await call.give_id()
        return True

    def _note_failure(self, call: Call) -> None:
        failure = None if call.ending is None else call.ending.failure
        if failure is not None:
            self._record.fail(failure.code, failure.source)

    async def _follow(self, call: Call, delivery: Delivery, *, is_late: bool) -> None:
        """Deliver an answer while its call runs, and when it has ended."""
        with _leaving(call):
            reader = call.answer.reader(is_late=is_late)
            async with self._downstream.watch(drains=False):
                ending = await delivery.follow(call.answer, reader)
            self._waits_no_more()
            await delivery.finish(call.answer, reader, ending)
            self._sent()
            has_received = await self._has_received()
        if has_received is False:
            call.leave()
        else:
            await call.serve(is_certain=has_received is True)

    async def _replay(self, found: FoundKept, delivery: Delivery) -> None:
        """Deliver an answer that is kept."""
        await delivery.replay(conclusion.of_kept(found.entry, found.answer))
        self._sent()
        has_received = await self._has_received()
        if has_received is None:
            await found.entry.note_sent()
        elif has_received:
            await found.entry.note_delivered()

    async def _has_received(self) -> bool | None:
        """Whether the client has received its answer; None behind a proxy, which hides it."""
        peer = self._downstream.peer
        if peer is None or headers.is_trusted(peer, self._app.settings.trusted_proxies):
            return None
        return await self._downstream.delivered()


@contextmanager
def _leaving(call: Call) -> Iterator[None]:
    """Tell a call that its client left, if the block that serves it ends with an error."""
    try:
        yield
    except BaseException:
        call.leave()
        raise
