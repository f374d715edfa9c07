"""Waiting for what must happen, within a bound that only a broken program reaches."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

BOUND_SECONDS = 20.0
_STEP_SECONDS = 0.02

T = TypeVar("T")


@overload
async def eventually(
    look: Callable[[], Awaitable[T]], bound: float = BOUND_SECONDS, log: Callable[[], str] = str
) -> T: ...


@overload
async def eventually(
    look: Callable[[], T], bound: float = BOUND_SECONDS, log: Callable[[], str] = str
) -> T: ...


async def eventually(
    look: Callable[[], Any], bound: float = BOUND_SECONDS, log: Callable[[], str] = str
) -> Any:
    """What ``look`` finds once it finds something true; fails when the bound, in seconds, is over.

    ``look`` may be async: then each look is awaited, however long it takes.  A failure shows what
    was found last and what ``log`` gives.
    """
    deadline = time.monotonic() + bound
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, _failure(look, found, bound, log)
        await asyncio.sleep(_STEP_SECONDS)


def eventually_blocking(
    look: Callable[[], T], bound: float = BOUND_SECONDS, log: Callable[[], str] = str
) -> T:
    """As ``eventually``, where no event loop runs."""
    deadline = time.monotonic() + bound
    while not (found := look()):
        assert time.monotonic() < deadline, _failure(look, found, bound, log)
        time.sleep(_STEP_SECONDS)
    return found


def _failure(look: object, found: object, bound: float, log: Callable[[], str]) -> str:
    return f"not within {bound} s: {look!r}, which found {found!r}\n{log()}"
