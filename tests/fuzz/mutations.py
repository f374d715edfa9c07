"""Mutations of committed inputs, by a seed: the same ones in every run."""

import random
from collections.abc import Iterator, Sequence

_BYTES = b'\x00\x01\r\n "\\{}[]:,-;=\x7f\x80\xff09aA'


def mutated(inputs: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Inputs that come of the given ones by a few changes each."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(inputs))
        for _ in range(rng.randrange(1, 5)):
            _change(data, rng, inputs)
        yield bytes(data)


def _change(data: bytearray, rng: random.Random, inputs: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.randrange(6):
        case 0:
            del data[start:stop]
        case 1:
            data[start:start] = data[start:stop]
        case 2:
            data[start:stop] = bytes(rng.choices(_BYTES, k=stop - start))
        case 3:
            data[start:start] = bytes(rng.choices(_BYTES, k=rng.randrange(1, 4)))
        case 4:
            other = rng.choice(inputs)
            at = rng.randrange(len(other) + 1)
            data[start:stop] = other[at : at + rng.choice((4, 16, 64))]
        case _:
            del data[start:]
