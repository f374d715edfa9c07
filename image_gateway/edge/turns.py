"""Gives the other requests their turn within a long piece of work.

The event loop runs one step at a time, up to its next await that really waits; what is in memory
already never waits.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

_TURN_SECONDS: Final = 0.01
_PIECE_BYTES: Final = 32 * 1024
"""A text of nothing but quotes and commas takes 25 ms for so many bytes; a picture takes almost
none."""


class Turns:
    """The turns that one piece of work gives to others."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def give(self) -> None:
        """Let others run if they had no turn for 10 ms; call it between two small steps."""
        if time.monotonic() - self._began > _TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()


def pieces(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces that can be scanned in one step."""
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]
