"""The pages of calls: a client asks for its calls by their ids, lists them, and forgets them.

A page costs the key neither quota nor concurrency.  A call that is not there, is kept no longer or
is another key's is answered in the same words.  What a call made is decided elsewhere; here it is
only shown.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs

import orjson

from image_gateway.calls import conclusion
from image_gateway.calls.answer import Ending
from image_gateway.calls.call import Call
from image_gateway.calls.registry import Calls
from image_gateway.context import AppContext
from image_gateway.core import errors
from image_gateway.core.calls import names, preferences, shown
from image_gateway.core.calls.model import CallIdentity, CallSource, CallState
from image_gateway.core.calls.preferences import Preferences
from image_gateway.core.calls.shown import ShownCall
from image_gateway.core.model import Key
from image_gateway.core.records.builder import FoundCall, RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.kept.entry import KeptEntry
from image_gateway.exchange.call_lookup import poll_place
from image_gateway.exchange.delivery import Delivery, KeepAlive

METHODS: Final = "GET, HEAD, DELETE"
LIST_METHODS: Final = "GET, HEAD"
MOST_LISTED: Final = 100
RETRY_AFTER_SECONDS: Final = 5
"""What a client that polls is told to wait; a picture takes a minute or two."""

_LISTED: Final = 20
_MOST_QUERY_FIELDS: Final = 32
_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class CallPage:
    """A question about one call of the key, or about all of them (``call_id`` None)."""

    method: Literal["GET", "HEAD", "DELETE"]
    call_id: str | None = None


def of_call(app: AppContext, call: Call) -> ShownCall:
    """A call of this process as it is shown now."""
    ending, call_id = call.ending, call.identity.call_id
    state = CallState.RUNNING if ending is None else ending.state
    was_asked = call.answer.sent_at is not None
    return ShownCall(call.identity, state, was_asked, app.slots.position(call_id))


def of_entry(entry: KeptEntry) -> ShownCall:
    """A call on the disk as it is shown now."""
    return ShownCall(entry.identity, entry.state, entry.was_asked)


def as_json(call: ShownCall) -> bytes:
    """The page of a call that runs."""
    return orjson.dumps(call.fields(time.time()))


class CallPages:
    """One request for a page of a key's calls.

    Every method raises ``Refusal`` and ``ClientLeftError``.
    """

    def __init__(
        self, app: AppContext, calls: Calls, downstream: Downstream, record: RecordBuilder
    ) -> None:
        self._app = app
        self._calls = calls
        self._downstream = downstream
        self._record = record
        self._has_body = True

    def __repr__(self) -> str:
        return f"<CallPages {self._record!r}>"

    async def serve(self, key: Key, page: CallPage) -> None:
        """Answer a request of a key that may make images."""
        await self._downstream.skip_body()
        key_tag = names.key_tag(self._calls.secrets, key.key_id)
        self._has_body = page.method != "HEAD"
        if page.call_id is None:
            await self._list(key_tag)
        elif not names.is_call_id(page.call_id):
            raise errors.call_not_found()
        elif page.method == "DELETE":
            await self._forget(key_tag, page.call_id)
        else:
            with ExitStack() as opened:
                await self._show(key, key_tag, page.call_id, opened)

    # -- one call --------------------------------------------------------------------------------

    async def _show(self, key: Key, key_tag: str, call_id: str, opened: ExitStack) -> None:
        wait = self._wait_seconds(key, opened)
        deadline = time.monotonic() + (wait or 0)
        applied = Preferences(wait_seconds=wait).header()
        if applied is not None:
            self._downstream.own_headers = {"preference-applied": applied}
        call = self._call(key_tag, call_id)
        if call is not None:
            # At once, or it might end and be closed meanwhile.
            with call:
                await self._show_call(call, deadline)
            return
        entry = await self._entry(key_tag, call_id)
        self._find(entry.identity)
        if entry.ended_at is None and (seconds := deadline - time.monotonic()) > 0:
            self._record.enter(Phase.JOINED)
            async with self._downstream.watch():
                later = await entry.wait(seconds)
            if later is None:
                raise errors.call_not_found()
            entry = later
        await self._show_entry(entry)

    def _wait_seconds(self, key: Key, opened: ExitStack) -> int | None:
        """How long the answer may wait for the call's end; None: the client does not ask for it.

        Where a key has many such requests already, the wish is not granted (RFC 7240, 2).
        """
        wait = preferences.read(self._downstream.headers.all("prefer")).wait_seconds
        if not wait:
            return wait
        place = poll_place(self._app, key)
        if place is None:
            return None
        opened.enter_context(place)
        return wait

    async def _show_call(self, call: Call, deadline: float) -> None:
        self._find(call.identity)
        if call.ending is None and time.monotonic() < deadline:
            self._record.enter(Phase.JOINED)
            async with self._downstream.watch():
                await call.wait(deadline - time.monotonic())
        if await call.was_forgotten():
            raise errors.call_not_found()
        if call.ending is None:
            await self._show_running(of_call(self._app, call))
            return
        await self._replay(call.whole(call.ending))
        if self._has_body:
            await call.serve(is_certain=False)

    async def _show_entry(self, entry: KeptEntry) -> None:
        if entry.ended_at is None:
            await self._show_running(of_entry(entry))
            return
        with ExitStack() as opened:
            answer = None
            if entry.status is not None:
                answer = await entry.open_answer()
                if answer is None:
                    raise errors.call_not_found()
                opened.enter_context(answer)
            await self._replay(conclusion.of_kept(entry, answer))
        if self._has_body:
            await entry.note_sent()

    def _find(self, identity: CallIdentity) -> None:
        # Without a source: the request bought nothing, and saved no purchase either.
        self._record.found_call = FoundCall(identity.call_id, None, identity.request_id)
        self._own_headers({"x-call-id": identity.call_id})

    def _own_headers(self, fields: Mapping[str, str]) -> None:
        self._downstream.own_headers = {**self._downstream.own_headers, **fields}

    async def _show_running(self, call: ShownCall) -> None:
        fields = {"retry-after": str(RETRY_AFTER_SECONDS), "cache-control": "no-store"}
        await self._answer(202, as_json(call), fields)

    async def _replay(self, ending: Ending) -> None:
        """Send the answer that the call's own request would have had."""
        self._own_headers(
            {"x-call-source": CallSource.REPLAYED.value, "cache-control": "private, no-store"}
        )
        silent = KeepAlive(0, 0)
        delivery = Delivery(self._downstream, self._record, None, silent)
        if self._has_body:
            await delivery.replay(ending)
        else:
            await delivery.replay_head(ending)

    async def _forget(self, key_tag: str, call_id: str) -> None:
        call = self._call(key_tag, call_id)
        if call is not None:
            with call:
                self._find(call.identity)
                if await call.was_forgotten():
                    raise errors.call_not_found()
                await call.forget()
        else:
            entry = await self._entry(key_tag, call_id)
            self._find(entry.identity)
            if not await entry.forget():
                raise errors.call_not_found()
        await self._answer(200, orjson.dumps(shown.deleted(call_id)))

    def _call(self, key_tag: str, call_id: str) -> Call | None:
        """A call of this process; the caller must enter it before it awaits anything."""
        call = self._calls.get(call_id)
        return None if call is None or call.identity.key_tag != key_tag else call

    async def _entry(self, key_tag: str, call_id: str) -> KeptEntry:
        entry = await self._app.kept.call(key_tag, call_id)
        if entry is None:
            raise errors.call_not_found()
        return entry

    # -- all of them -----------------------------------------------------------------------------

    async def _list(self, key_tag: str) -> None:
        limit = self._limit()
        found = {
            entry.identity.call_id: of_entry(entry)
            for entry in await self._app.kept.of_key(key_tag, limit + 1)
        }
        for call in self._calls.of_key(key_tag):
            found[call.identity.call_id] = of_call(self._app, call)
        newest = sorted(found.values(), key=_begun, reverse=True)
        now = time.time()
        page = {
            "object": "list",
            "data": [call.fields(now) for call in newest[:limit]],
            "has_more": len(newest) > limit,
        }
        await self._answer(200, orjson.dumps(page), {"cache-control": "no-store"})

    def _limit(self) -> int:
        query = self._downstream.target.partition("?")[2]
        try:
            given = parse_qs(query, max_num_fields=_MOST_QUERY_FIELDS).get("limit", [str(_LISTED)])
            [text] = given
            limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
        except ValueError:
            limit = 0
        if not 1 <= limit <= MOST_LISTED:
            raise errors.wrong_value("limit", f"must be a whole number from 1 to {MOST_LISTED}")
        return limit

    async def _answer(
        self, status: int, body: bytes, fields: Mapping[str, str] | None = None
    ) -> None:
        self._record.enter(Phase.DELIVERED)
        await self._downstream.answer(status, {**(fields or {}), **_JSON}, body)


def _begun(call: ShownCall) -> tuple[float, str]:
    return call.identity.created_at, call.identity.call_id
