"""What this process keeps of one call on the disk, for those who ask for it later.

A call is begun on the disk before others have to find it, and ended there with its answer.  What
happens to its clients before it is begun is noted then.  ``edge.kept`` knows how it lies there.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from image_gateway.calls import conclusion
from image_gateway.calls.answer import Ending
from image_gateway.calls.collecting import Collected
from image_gateway.context import AppContext
from image_gateway.core.calls import addresses, finding
from image_gateway.core.calls.addresses import Address
from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.core.calls.names import CallSecrets
from image_gateway.edge.kept.call import KeptCall
from image_gateway.edge.kept.disk import DiskTroubleError
from image_gateway.edge.kept.entry import KeptAnswer

_ADDRESS_SECONDS: Final = 10.0
"""How long clients wait for the disk to take an answer with addresses; after that they get it with
data URLs, and those who come later get the addresses."""


class Keeping:
    """The keeping of one call; ``close`` it when nobody here reads its answer any more."""

    def __init__(self, app: AppContext, identity: CallIdentity) -> None:
        self._identity = identity
        self._begin = app.kept.begin
        self._make_address = _address_maker(app)
        self._beginning = asyncio.Lock()
        self._kept: KeptCall | None = None
        self._ending: asyncio.Task[bool] | None = None
        """The keeping of an answer with addresses, which may take longer than clients wait."""
        self._is_left = False
        self._is_forgotten = False

    def __repr__(self) -> str:
        return f"<Keeping of {self._kept or self._identity.call_id}>"

    @property
    def is_kept(self) -> bool:
        """Whether others find the call on the disk."""
        return self._kept is not None and self._kept.is_kept

    async def begin(self) -> bool:
        """Let others find the call from now on; whether they do.  A second time does nothing."""
        async with self._beginning:
            if self._kept is None:
                kept = await self._begin(self._identity)
                if self._is_left:
                    kept.note_left()
                if self._is_forgotten:
                    with contextlib.suppress(DiskTroubleError):
                        await kept.forget()
                self._kept = kept
        return self.is_kept

    def close(self) -> None:
        """Free what is held; without an end, the call has an unknown outcome for others."""
        if self._kept is not None:
            self._kept.close()

    # -- its clients -----------------------------------------------------------------------------

    def note_left(self) -> None:
        """No client is there any more, and none has the answer."""
        self._is_left = True
        if self._kept is not None:
            self._kept.note_left()

    def note_joined(self) -> None:
        """A client is there again."""
        self._is_left = False
        if self._kept is not None:
            self._kept.note_joined()

    async def note_given(self) -> None:
        """A client was sent the id."""
        if self._kept is not None:
            await self._kept.note_given()

    async def note_served(self, *, is_certain: bool) -> None:
        """A client was sent the whole answer; ``is_certain``: and has received it."""
        if self._kept is not None:
            await (self._kept.note_delivered() if is_certain else self._kept.note_sent())

    async def note_told(self) -> None:
        """A request was refused because it repeats this call."""
        if self._kept is not None:
            await self._kept.note_told()

    async def note_asked(self) -> None:
        """An upstream is being asked."""
        if self._kept is not None:
            await self._kept.note_asked()

    async def forget(self) -> None:
        """Remove the call for all others; raises ``DiskTroubleError``."""
        self._is_forgotten = True
        if self._kept is not None:
            await self._kept.forget()

    async def is_forgotten(self) -> bool:
        """Whether this process or another one forgot the call."""
        if self._is_forgotten:
            return True
        return self._kept is not None and await self._kept.is_forgotten()

    # -- its answer ------------------------------------------------------------------------------

    async def end(self, ending: Ending) -> None:
        """Keep a whole answer."""
        async with self._beginning:
            kept = self._kept
        if self._ending is not None:
            await asyncio.wait([self._ending])
            return
        if kept is None:
            return
        failure, body = ending.failure, ending.body
        assert not isinstance(body, KeptAnswer | None)  # a call makes its own
        # Nobody but a client with the id asks for an error that says nothing of another try.
        is_brief = ending.state is CallState.NOTHING and not self._identity.has_id
        await kept.end(
            ending.state,
            ending.status,
            ending.fields,
            body,
            seconds=finding.NOTHING_SECONDS if is_brief else None,
            failure=None if failure is None else (failure.code, failure.source),
        )

    async def end_with_addresses(self, collected: Collected) -> Ending | None:
        """Keep an answer whose pictures have addresses; None if it has to go out without them.

        The addresses work before a client can know them.
        """
        kept, make_address = self._kept, self._make_address
        if collected.urls is None or make_address is None or kept is None or not kept.is_kept:
            return None
        make = partial(make_address, self._identity.call_id, time.time())
        addressed = await collected.urls.with_addresses(make)
        if addressed is None:
            return None
        ending = conclusion.of_collected(replace(collected, body=addressed.answer))
        self._ending = asyncio.create_task(
            kept.end(ending.state, ending.status, ending.fields, addressed)
        )
        await asyncio.wait([self._ending], timeout=_ADDRESS_SECONDS)
        return ending if self._ending.done() and self._ending.result() else None


def _address_maker(app: AppContext) -> Callable[[str, float, int, str], str] | None:
    """Makes addresses by call, end of the call, index and extension; None if there are none."""
    settings = app.settings
    public_url = settings.public_url
    if public_url is None:
        return None
    key = CallSecrets.of(app.prompt_key).addresses

    def make(call_id: str, ended_at: float, index: int, extension: str) -> str:
        end = math.ceil(ended_at + settings.keep_seconds)
        name = addresses.make(key, Address(call_id, index, end), extension)
        return addresses.url(public_url, name)

    return make
