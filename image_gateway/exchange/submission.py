"""A request that wants no answer now but the id of its call (``Prefer: respond-async``, RFC 7240).

It is answered 202 once others can find the call on the disk; the client asks for the answer at
``Location``.  Where nothing can be kept the wish is not granted: the client gets the answer itself.
"""

from typing import Final

from image_gateway.calls.call import Call
from image_gateway.calls.search import FoundKept
from image_gateway.context import AppContext
from image_gateway.core.calls.preferences import Preferences
from image_gateway.core.calls.shown import ShownCall
from image_gateway.edge.client.downstream import Downstream
from image_gateway.exchange import call_pages

_JSON: Final = {"content-type": "application/json"}


class RespondAsync:
    """One such request (``handover.Submission``).

    ``path`` is its own: the calls of a prefix are below the same prefix, so that whatever let the
    request through lets its client ask for the answer, too.
    """

    def __init__(
        self, app: AppContext, downstream: Downstream, path: str, wishes: Preferences
    ) -> None:
        self._app = app
        self._downstream = downstream
        self._prefix = path.rpartition("/")[0]
        self._wishes = wishes

    def __repr__(self) -> str:
        return f"<RespondAsync {self._wishes!r}>"

    async def wait(self, call: Call) -> bool:
        # A limit is told as one of this process is: in place of an id.
        if not (await call.begin_keeping() and await call.may_go_on()):
            return False
        if not self._wishes.wait_seconds:
            return True
        if not await call.wait(self._wishes.wait_seconds):
            return True
        self._grant_wait()
        return False

    async def give_id(self, call: Call) -> None:
        await self._accept(call_pages.of_call(self._app, call))

    async def give_kept_id(self, found: FoundKept) -> bool:
        entry = found.entry
        if entry.ended_at is None:  # Another process knows when, and wishes may be ignored.
            self._wishes = Preferences(respond_async=True)
        if self._wishes.wait_seconds:
            # The client would wait for the answer, which is there.
            self._grant_wait()
            return False
        await self._accept(call_pages.of_entry(entry))
        return True

    def _grant_wait(self) -> None:
        applied = Preferences(wait_seconds=self._wishes.wait_seconds).header()
        if applied is not None:
            self._downstream.own_headers = {
                **self._downstream.own_headers,
                "preference-applied": applied,
            }

    async def _accept(self, call: ShownCall) -> None:
        fields = {
            "location": f"{self._prefix}/calls/{call.identity.call_id}",
            "preference-applied": self._wishes.header() or "",
            "retry-after": str(call_pages.RETRY_AFTER_SECONDS),
        }
        await self._downstream.answer(202, {**fields, **_JSON}, call_pages.as_json(call))
