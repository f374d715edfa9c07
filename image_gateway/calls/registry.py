"""The calls of this process: those that run, and those that ended a moment ago."""

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from image_gateway.calls.attempt import UpstreamJob
from image_gateway.calls.call import Call
from image_gateway.context import AppContext
from image_gateway.core.calls import finding, names
from image_gateway.core.calls.finding import Asking, CallView
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.core.records.builder import RecordBuilder

_ID_BYTES: Final = 16
_SETTLE_SECONDS: Final = 10.0
_MOST_REMEMBERED: Final = 10_000
"""Calls without an answer to give again; the oldest is forgotten first."""


class Calls:
    """The calls that run, and those that ended a moment ago."""

    def __init__(self, app: AppContext) -> None:
        self._app = app
        self.secrets = names.CallSecrets.of(app.prompt_key)
        """What the tags of calls are made with."""
        self._calls: dict[str, Call] = {}
        self._remembered: OrderedDict[str, CallView] = OrderedDict()
        """Calls that ended without an answer to give again."""
        self._by_tag: dict[str, set[str]] = {}
        """The ids of calls by fingerprint, and by the tag of their name."""
        self._by_key: dict[str, int] = {}
        """How many calls each key has."""
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Calls {self.running} running, {len(self._remembered)} remembered>"

    @property
    def running(self) -> int:
        """The number of calls that run."""
        return sum(call.ending is None for call in self._calls.values())

    @property
    def left(self) -> int:
        """The number of calls that run without a client."""
        return sum(call.ending is None and not call.clients for call in self._calls.values())

    # -- looking up ------------------------------------------------------------------------------

    def get(self, call_id: str) -> Call | None:
        """A call that runs or whose answer is here; None if there is none by this id."""
        call = self._calls.get(call_id)
        return None if call is None or call.is_forgotten else call

    def of_key(self, key_tag: str) -> list[Call]:
        """The calls of a key that run or whose answers are here, in no order."""
        return [
            call
            for call in self._calls.values()
            if call.identity.key_tag == key_tag and not call.is_forgotten
        ]

    def has_any(self, key_tag: str) -> bool:
        """Whether a key has calls that one of its requests might find."""
        return key_tag in self._by_key

    def views(self, asking: Asking) -> list[CallView]:
        """The calls that might concern a request."""
        self._forget_old(time.time())
        tags = [asking.fingerprint] if asking.name is None else [asking.fingerprint, asking.name]
        ids = {call_id for tag in tags for call_id in self._by_tag.get(tag, ())}
        return [view for call_id in ids if (view := self._view(call_id)) is not None]

    def _view(self, call_id: str) -> CallView | None:
        call = self._calls.get(call_id)
        if call is None:
            return self._remembered[call_id]
        return None if call.is_forgotten else call.view()

    async def use_up(self, call_id: str) -> bool:
        """A call that made nothing has its one retry now; False if it is not known here."""
        call = self.get(call_id)
        if call is None:
            return self._change(call_id, used_up=True)
        await call.forget()
        return True

    async def warn(self, call_id: str) -> bool:
        """A request is refused because of this call; False if it is not known here."""
        call = self.get(call_id)
        if call is None:
            return self._change(call_id, told_repeated=True)
        await call.warn()
        return True

    def _change(self, call_id: str, **changes: bool) -> bool:
        view = self._remembered.get(call_id)
        if view is None:
            return False
        self._remembered[call_id] = replace(view, **changes)  # type: ignore[arg-type]  # both are bools
        return True

    # -- their lives -----------------------------------------------------------------------------

    def start(
        self,
        asking: Asking,
        job: UpstreamJob,
        record: RecordBuilder,
        resources: ExitStack,
        *,
        streams: bool,
        found: Callable[[], None],
    ) -> Call:
        """Start a call, which takes ``resources`` over; ``found`` is called when others find it."""
        identity = self._identity(asking, record)
        if identity.has_id:
            identity = replace(identity, model=job.request.model)
        call = Call(self._app, identity, job, record, resources, streams=streams)
        call.when_found(found)
        self._calls[identity.call_id] = call
        self._add(identity)
        call.start(self._settle)
        return call

    def refuse(self, asking: Asking, record: RecordBuilder) -> None:
        """Remember that a request was refused in place of a call: its retry may start one."""
        identity = self._identity(asking, record)
        self._add(identity)
        self._remember(CallView(identity, CallState.NOTHING, ended_at=time.time()))

    def _identity(self, asking: Asking, record: RecordBuilder) -> CallIdentity:
        return CallIdentity(
            call_id=names.new_call_id(secrets.token_bytes(_ID_BYTES)),
            request_id=record.arrival.request_id,
            key_tag=asking.key_tag,
            fingerprint=asking.fingerprint,
            name=asking.name,
            endpoint=record.arrival.endpoint or "",
            created_at=time.time(),
            has_id=asking.wants_id,
        )

    def _settle(self, call: Call) -> None:
        """A call has ended, or nobody reads its answer any more."""
        self._ended.set()
        # The last client may leave in the same turn of the loop in which the task ends.
        if not call.is_settled or call.identity.call_id not in self._calls:
            return
        view = call.view()
        del self._calls[view.identity.call_id]
        is_kept = call.is_kept
        call.close()
        is_remembered = not (is_kept or call.is_forgotten)
        if is_remembered and view.state in {CallState.NOTHING, CallState.UNKNOWN}:
            self._remember(replace(view, is_kept=False))
        else:
            self._remove(view.identity)

    def _remember(self, view: CallView) -> None:
        self._remembered[view.identity.call_id] = view
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remove(self._remembered.popitem(last=False)[1].identity)

    def _forget_old(self, now: float) -> None:
        seconds = max(finding.NOTHING_SECONDS, self._app.settings.retry_guard_seconds)
        while self._remembered:
            view = next(iter(self._remembered.values()))
            if now - (view.ended_at or now) <= seconds:
                break
            del self._remembered[view.identity.call_id]
            self._remove(view.identity)

    def _add(self, identity: CallIdentity) -> None:
        self._by_key[identity.key_tag] = self._by_key.get(identity.key_tag, 0) + 1
        for tag in _tags(identity):
            self._by_tag.setdefault(tag, set()).add(identity.call_id)

    def _remove(self, identity: CallIdentity) -> None:
        self._by_key[identity.key_tag] -= 1
        if not self._by_key[identity.key_tag]:
            del self._by_key[identity.key_tag]
        for tag in _tags(identity):
            self._by_tag[tag].discard(identity.call_id)
            if not self._by_tag[tag]:
                del self._by_tag[tag]

    # -- stopping --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Wait until all answers are kept."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._calls:
                    self._ended.clear()
                    await self._ended.wait()

    async def idle(self) -> None:
        """Wait until no call runs."""
        while self.running:
            self._ended.clear()
            await self._ended.wait()

    def drain(self) -> None:
        """End every call at the drain deadline; each ends with what it has."""
        for call in list(self._calls.values()):
            call.drain()


def _tags(identity: CallIdentity) -> list[str]:
    return [tag for tag in (identity.fingerprint, identity.name) if tag]
