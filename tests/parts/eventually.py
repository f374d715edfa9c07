"""Waiting for what must happen, within a bound that only a broken program reaches."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

BOUND_SECONDS = 20.0
_STEP_SECONDS = 0.02

T = TypeVar("T")


async def eventually(look: Callable[[], T], bound: float = BOUND_SECONDS) -> T:
    """What ``look`` finds once it finds something true; fails when the bound is over."""
    deadline = time.monotonic() + bound
    while not (found := look()):
        assert time.monotonic() < deadline, f"did not happen within {bound} s: {look!r}"
        await asyncio.sleep(_STEP_SECONDS)
    return found
