"""Values from fuzzed bytes: what the fuzzer changes in them changes one value, not all of them."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Values:
    """Takes values from the front of the bytes; once they are used up, each is the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """A number from 0 to 255."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def flag(self) -> bool:
        """True or false."""
        return self.byte() % 2 == 1

    def one_of(self, choices: Sequence[T]) -> T:
        """One of some values."""
        return choices[self.byte() % len(choices)]

    def some(self) -> bytes:
        """Up to 255 bytes."""
        length = self.byte()
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken

    def text(self) -> str:
        """A text as JSON may hold it: without half surrogate pairs."""
        return self.some().decode("utf-8", "replace")

    def rest(self) -> bytes:
        """All that is left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken

    @property
    def is_empty(self) -> bool:
        """Whether every byte is used up."""
        return self._at >= len(self._data)


def cut(data: bytes, seed: int) -> list[bytes]:
    """The bytes in pieces: one by one for a seed of 0, else of uneven lengths that follow from it.

    Some pieces are empty.  Long texts have longer pieces, so that a check takes milliseconds.
    """
    if seed == 0:
        return [data[at : at + 1] for at in range(len(data))]
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        seed = (seed * 1103515245 + 12345) % 2**31
        length = (seed >> 16) % (23 + len(data) // 64)
        pieces.append(data[at : at + length])
        at += length
    return pieces


def stretched(data: bytes) -> bytes:
    """The bytes with 5000 base64 characters in place of each of the first four 0x01.

    A fuzzer does not find long strings by itself, and they are what a scanner treats apart.
    """
    head, *tail = data.split(b"\x01")
    for number, part in enumerate(tail):
        head += (b"iVBORw0K" * 625 if number < 4 else b"A") + part
    return head
