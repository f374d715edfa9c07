"""How a request comes to its call: it finds one that runs or has ended, or starts one.

The quota of a key, its concurrency and that of its owner count for calls, not for requests: a key
with one place can fetch its own picture while the call that makes it holds that place.  So they are
checked only for a call that starts.  What a key's requests may do besides is bounded by
``MOST_FURTHER``, in each process.
"""

import time
from contextlib import ExitStack
from typing import Final

from image_gateway.calls.attempt import UpstreamJob
from image_gateway.calls.registry import Calls
from image_gateway.calls.search import FoundHere, FoundKept, Search
from image_gateway.context import AppContext
from image_gateway.core import errors
from image_gateway.core.calls import finding, fingerprint, names
from image_gateway.core.calls.finding import Asking
from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Grant, Key
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import admission
from image_gateway.core.routing.slots import Slot
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.slots.claims import Claim, LimitError
from image_gateway.edge.spool import Spool

MOST_FURTHER: Final = 8
"""Requests of a key beyond its concurrency that send their bodies, or wait for another's call."""


class CallLookup:
    """One request's way to its call.  Every method raises ``Refusal``."""

    def __init__(
        self, app: AppContext, calls: Calls, downstream: Downstream, record: RecordBuilder
    ) -> None:
        self._app = app
        self._calls = calls
        self._downstream = downstream
        self._record = record
        self._name: str | None = None
        self._visit: Slot | None = None
        self._held = ExitStack()
        """Keeps others from starting a call by the same name."""

    def __repr__(self) -> str:
        return f"<CallLookup {self._record!r}>"

    async def visit(self, key: Key) -> Slot:
        """Check what can be checked before a body is read; returns the request's place."""
        self._name = names.idempotency_key(self._downstream.headers)
        try:
            admission.check_quota(key)
        except Refusal:
            # It may come for a picture that is paid for.
            key_tag = names.key_tag(self._calls.secrets, key.key_id)
            if not self._calls.has_any(key_tag) and not await self._app.kept.has_any(key_tag):
                raise
        limit = key.max_concurrency
        most = None if limit is None else limit + MOST_FURTHER
        self._visit = self._app.key_visits.take(key.key_id, most)
        if self._visit is None:
            raise admission.too_many(key)
        return self._visit

    async def find(
        self, key: Key, request: AnyRequest, *, wants_id: bool = False
    ) -> Asking | FoundHere | FoundKept:
        """The call that the request finds; else what it asks for, to ``start`` it.

        ``wants_id``: its client would ask for the answer by the call's id.  The caller must act on
        what is found before it awaits anything else.
        """
        asking = self._asking(key, request, wants_id=wants_id)
        search = Search(self._app, self._calls, asking, self._join)
        try:
            found = await search.run()
        except BaseException:
            search.held.close()
            raise
        match found:
            case None:
                self._held = search.held
                return asking
            case finding.RefuseName():
                raise errors.reused_name(found.call_id)
            case finding.RefuseRepeated():
                raise errors.repeated_call(found.call_id, time.time() - found.created_at)
            case FoundHere() | FoundKept():
                return found

    def start(
        self,
        asking: Asking,
        grant: Grant,
        request: AnyRequest,
        body: Spool,
        resources: ExitStack,
    ) -> FoundHere:
        """Start a call, which takes ``resources`` over."""
        key = grant.key
        resources.push(self._held)
        try:
            admission.check_quota(key)
            admission.check_count(key, request.count)
            claim = resources.enter_context(self._claim(key))
        except Refusal:
            self._calls.refuse(asking, self._record)
            raise
        self.leave()
        deadline = time.monotonic() + self._app.settings.total_seconds
        job = UpstreamJob(request, grant, claim, self._downstream.headers, body, deadline)
        call = self._calls.start(
            asking,
            job,
            self._record,
            resources.pop_all(),
            streams=request.stream,
            found=self._held.close,
        )
        return FoundHere(call, CallSource.MADE)

    def _claim(self, key: Key) -> Claim:
        try:
            return self._app.slots.claim(key)
        except LimitError as reached:
            raise admission.too_many(key, reached.kind) from None

    def leave(self) -> None:
        """The request waits for nothing more, so that its place is free."""
        if self._visit is not None:
            self._visit.release()

    def _join(self) -> None:
        self._record.enter(Phase.JOINED)

    def _asking(self, key: Key, request: AnyRequest, *, wants_id: bool) -> Asking:
        secrets, name, key_id = self._calls.secrets, self._name, key.key_id
        return Asking(
            names.key_tag(secrets, key_id),
            fingerprint.of(secrets, key_id, request, self._app.catalogue),
            None if name is None else names.name_tag(secrets, key_id, name),
            names.is_sure_retry(self._downstream.headers),
            wants_id,
        )


def poll_place(app: AppContext, key: Key) -> Slot | None:
    """A place for a request that waits for the end of a call it asks for by its id; None if the key
    has as many of them as it may.
    """
    limit = key.max_concurrency
    return app.key_polls.take(key.key_id, None if limit is None else limit + MOST_FURTHER)
