"""The faults of upstreams and clients under which purchases are counted, as data.

A door has two upstreams, and all that goes through it meets one fault.  A script gets the number of
the call at this door, from 1, and the call; ``tests/parts/purchases.py`` has more faults, for the
gateway alone.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.parts import purchases
from tests.parts.upstream import Call, images

Script = Callable[[int, Call], Awaitable[None]]

_CLOSES: Final = {"connection": "close"}
"""The scripted upstream answers once on a connection, and says so."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a door.

    ``first`` and ``second`` are the scripts of its two upstreams; None refuses connections.
    ``calls`` that differ are made one after another.  ``client_seconds``: how long the client waits
    for an answer.  ``kills_client``: it is gone as soon as an upstream has the call, and another
    one makes the same call.
    """

    name: str
    title: str
    first: Script | None
    second: Script | None
    calls: int = 1
    client_seconds: float = 60.0
    kills_client: bool = False


async def _draws(_: int, call: Call) -> None:
    await call.answer(200, images(), _CLOSES)


def _draws_after(seconds: float) -> Script:
    async def script(_: int, call: Call) -> None:
        # Nobody waits for the rest of a script whose peer is gone.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call.gone(), seconds)
            return
        await _draws(0, call)

    return script


def _answers(status: int, body: Any, headers: Mapping[str, str] = _CLOSES) -> Script:
    async def script(_: int, call: Call) -> None:
        await call.answer(status, body, {**_CLOSES, **headers})

    return script


def _only_first(script: Script) -> Script:
    async def chosen(number: int, call: Call) -> None:
        await (script if number == 1 else _draws)(number, call)

    return chosen


async def _resets(_: int, call: Call) -> None:
    await purchases.resets(call)


async def _cuts(_: int, call: Call) -> None:
    await purchases.cut(purchases.BEGUN)(call)


_SLOW: Final = _draws_after(4)
_HALTING: Final = _draws_after(1.5)
_ERROR: Final = _answers(500, purchases.error("server_error"))
_BAD_GATEWAY: Final = _answers(502, purchases.HTML, purchases.PAGE)
_NO_ANSWER: Final = _answers(504, purchases.HTML, purchases.PAGE)
_OVERLOADED: Final = _answers(503, purchases.error("server_is_overloaded"), {"retry-after": "1"})


def _both(name: str, title: str, script: Script, **options: Any) -> Fault:
    """A fault that every upstream has, which is the worst case."""
    return Fault(name, title, script, script, **options)


FAULTS: Final[Sequence[Fault]] = (
    _both("late", "a picture takes 4 s, the client waits 2 s", _SLOW, client_seconds=2.0),
    _both("reset", "reset before the headers, each time", _resets),
    _both("cut", "200 cut half-way, each time", _cuts),
    _both("error-500", "500, each time", _ERROR),
    _both("error-502", "502, each time", _BAD_GATEWAY),
    _both("error-504", "504, each time", _NO_ANSWER),
    _both("error-503", "503 with Retry-After, each time", _OVERLOADED),
    _both("error-once", "500, the first time only", _only_first(_ERROR)),
    _both("reset-once", "reset before the headers, the first time only", _only_first(_resets)),
    _both("killed", "the client is killed, the same call again", _HALTING, kills_client=True),
    Fault("one-fails", "one of two always answers 500, ten calls", _ERROR, _draws, calls=10),
    Fault("one-is-down", "one of two refuses connections, ten calls", None, _draws, calls=10),
)
