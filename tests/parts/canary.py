"""A canary: small calls, one after the other, beside whatever else a gateway has to bear.

Each call must succeed.  How late the others were is told by the gateway itself
(``image_gateway_loop_lag_seconds``), because the process of a test is busy with its attack.
"""

import asyncio
import re
import time
from types import TracebackType
from typing import Self

from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, parse, post, unlike

LEAST_CALLS = 5
"""After an attack has begun: the canary still sings."""


class Canary:
    """Calls by one key; its account must be at an upstream that works.  Use ``async with``."""

    def __init__(self, gateway: Gateway, secret: str) -> None:
        self._gateway = gateway
        self._secret = secret
        self._calling: asyncio.Task[None] | None = None
        self._is_over = False
        self.seconds: list[float] = []
        """How long each call took, as this process sees it."""

    def __repr__(self) -> str:
        return f"<Canary of {len(self.seconds)} calls>"

    async def __aenter__(self) -> Self:
        self._calling = asyncio.create_task(self._call())
        await self.sings()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.sings()
        # The last call ends by itself: Python 3.11's ``wait_for`` may lose a cancellation.
        self._is_over = True
        assert self._calling is not None
        [outcome] = await asyncio.gather(self._calling, return_exceptions=True)
        if outcome is not None and error is None:
            raise outcome

    async def sings(self) -> None:
        """Some more calls have succeeded."""
        wanted = len(self.seconds) + LEAST_CALLS
        assert self._calling is not None
        calling = self._calling
        await eventually(lambda: calling.done() or len(self.seconds) >= wanted)

    async def _call(self) -> None:
        while not self._is_over:
            began = time.monotonic()
            answer = await self._gateway.raw(post(self._secret, unlike()))
            status, _, body = parse(answer)
            assert status == 200, body
            self.seconds.append(time.monotonic() - began)

    def percentile(self, share: float) -> float:
        """The seconds that this share of the calls took at most."""
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


async def longest_lag(gateway: Gateway) -> dict[str, float]:
    """The longest lag of the event loop in the last minute, in seconds, by phase."""
    _, _, body = await asyncio.wait_for(gateway.ops("/metrics"), BOUND_SECONDS)
    found = re.findall(
        r'^image_gateway_loop_lag_seconds\{phase="(\w+)"\} (\S+)$', body.decode(), re.MULTILINE
    )
    assert found
    return {phase: float(seconds) for phase, seconds in found}
