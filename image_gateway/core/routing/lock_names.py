"""What the advisory locks are called that stand for calls in flight.

A name is of an account, a key or an owner, and has 1024 locks, one for each place.  They must not
change: operators read them in ``pg_locks``, and other versions of the gateway run beside this one.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

_PLACE_BITS: Final = 10
_HASH_BITS: Final = 54
_REMEMBERED: Final = 10_000
"""Names whose locks are computed once; each call asks for those of three names up to four times."""


class LockKind(Enum):
    """What a name is of, and what is hashed before it; no prefix begins with another one."""

    ACCOUNT = "image-gateway:"
    KEY = "image-gateway-key:"
    OWNER = "image-gateway-owner:"

    @property
    def rank(self) -> int:
        """Who gets a lock where locks are scarce: the lowest first."""
        return _KINDS.index(self)


_KINDS: Final = tuple(LockKind)


@dataclass(frozen=True, slots=True)
class LockName:
    """One name under which calls are counted."""

    kind: LockKind
    name: str

    @property
    def base(self) -> int:
        """The lock of the first place, a signed bigint; the next 1023 are those of the others.

        54 bits of SHA-256(prefix + name), times 1024.
        """
        return _base(self.kind.value + self.name)


@lru_cache(_REMEMBERED)
def _base(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    unsigned = int.from_bytes(digest[:8], "big") >> (64 - _HASH_BITS) << _PLACE_BITS
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
