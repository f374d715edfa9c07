"""Identities, answers and looks at a folder, for the tests of kept calls."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.kept.entry import KeptEntry
from image_gateway.edge.kept.store import KeptCalls

NOW = 1_700_000_000.0
HEADERS = {"content-type": "application/json", "x-request-id": "req_1"}


@dataclasses.dataclass
class Clock:
    """A wall clock that stands still until a test moves it."""

    now: float

    def __call__(self) -> float:
        return self.now


def tag(text: str) -> str:
    """A tag as keyed hashes are."""
    return hashlib.sha256(text.encode()).hexdigest()


KEY = tag("key")


def identity(number: int = 1, **changes: Any) -> CallIdentity:
    """A call of ``KEY`` with an id and a fingerprint of its own, without a name."""
    plain = CallIdentity(
        f"call_{number:032x}",
        f"req_{number}",
        KEY,
        tag(f"fingerprint {number}"),
        None,
        "generations",
        NOW + number / 1000,
    )
    return dataclasses.replace(plain, **changes)


def answer(size: int, start: int = 0) -> bytes:
    """Bytes of which no two neighbourhoods are alike."""
    words = range(start // 4, (start + size) // 4 + 1)
    return b"".join(word.to_bytes(4, "big") for word in words)[start % 4 : start % 4 + size]


@contextlib.asynccontextmanager
async def opened(
    folder: Path, clock: Clock, *, seconds: float = 3600, budget: int = 1 << 30
) -> AsyncIterator[KeptCalls]:
    """A store that has done its first sweep, after which none comes by itself for a minute."""
    async with KeptCalls(folder, seconds, budget, clock) as store:
        for _ in range(2):  # Its own first one comes in between.
            await store.sweep()
        yield store


async def keep(
    store: KeptCalls,
    call: CallIdentity,
    body: bytes = b"picture",
    *,
    state: CallState = CallState.MADE,
    sent: bool = True,
    **options: Any,
) -> None:
    """A whole call whose process has done with it; ``sent``: its client was served, else left."""
    with await store.begin(call) as working:
        await working.end(state, 200, HEADERS, body, **options)
        if sent:
            await working.note_sent()


async def one(store: KeptCalls, call: CallIdentity) -> KeptEntry:
    """The call as a look-up by its id shows it; it must be there."""
    entry = await store.call(call.key_tag, call.call_id)
    assert entry is not None
    return entry


async def is_found(store: KeptCalls, call: CallIdentity) -> bool:
    """Whether a look-up by the id finds the call."""
    return await store.call(call.key_tag, call.call_id) is not None


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def bytes_of(entry: KeptEntry) -> bytes | None:
    """The answer of an entry; None if it is gone."""
    opened = await entry.open_answer()
    if opened is None:
        return None
    with opened:
        return await joined(opened.play())


def files(folder: Path) -> list[str]:
    """All that is no directory, by its path in the folder, sorted; without the empty files of the
    index that its entries are names of.
    """
    return sorted(
        str((Path(top) / name).relative_to(folder))
        for top, _, names in os.walk(folder)
        for name in names
        if name != "mark"
    )


def open_files(folder: Path) -> list[str]:
    """What of the folder this process has open."""
    found = []
    for item in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(item.readlink()))
    return [path for path in found if path.startswith(f"{folder}/")]
