"""Bytes of a body that lie in a file, and can go from there to a socket without being read."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

_LEAST: Final = 64 * 1024


class FileSource(Protocol):
    """An open file."""

    def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` to ``stop``; raises ``OSError``."""

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """As ``FileSpan.send``."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Bytes ``start`` to ``stop`` of a file."""

    source: FileSource
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def play(self) -> AsyncIterator[bytes]:
        """The bytes; raises ``OSError``."""
        return self.source.pieces(self.start, self.stop)

    async def outgoing(self) -> "AsyncIterator[bytes | FileSpan]":
        """The span itself, or its bytes if it is small."""
        if is_large(len(self)):
            yield self
            return
        async for piece in self.play():
            yield piece

    async def send(self, descriptor: int, start: int) -> int:
        """Send from ``start`` on to a socket that does not block; returns how many it took.

        Raises ``BlockingIOError`` while the socket takes none, and its other errors; ``OSError``
        also if the file is shorter than it was.
        """
        count = await self.source.send_file(descriptor, start, self.stop)
        if not count:
            raise OSError("the file of a body is shorter than it was")
        return count


class Outgoing(Protocol):
    """A body on its way to a client."""

    def outgoing(self) -> AsyncIterator[bytes | FileSpan]:
        """The bytes, or where they lie."""


def is_large(length: int) -> bool:
    """Whether a span is worth a way of its own.

    What is smaller is cheaper to read and send together with what stands beside it.
    """
    return length >= _LEAST
