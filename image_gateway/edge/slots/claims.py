"""Claims: a call's places under its key and its owner, as long as the call lasts.

A limit of a key or an owner is reached or not: nobody waits for it.  So it is asked twice.  First
at once, when the call starts, by the count of this process.  Then over all processes, with the
call's first try for a slot and in the same statement; a call that must wait for its slot is asked
about by itself, so that it is refused at once, too.  A claim that was decided stays: further
accounts and further slots of the same call need no other.

Calls of a key without a limit hold no lock.  If it gets one while they run, each process counts its
own ones of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Self

from image_gateway.core.model import MOST_SLOTS, Key
from image_gateway.core.routing.lock_names import LockKind, LockName
from image_gateway.core.routing.slots import SlotTable
from image_gateway.edge.slots.places import Place, Places


class LimitError(Exception):
    """As many calls are in flight as may be, of the key or of all keys of its owner together."""

    def __init__(self, kind: LockKind) -> None:
        super().__init__(kind)
        self.kind = kind


class Claim:
    """One call's places under its key and its owner, held until ``release``; a context manager."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.is_decided = False
        """Whether it is known that the limits of all processes admit the call, or do not."""
        self.is_refused = False
        self._decided: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "refused" if self.is_refused else "admitted" if self.is_decided else "open"
        return f"<Claim {state} {list(self.places)}>"

    def when_decided(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once it is decided."""
        self._decided = callback

    def decide(self, full: Place | None) -> None:
        """All places count over all processes, but for a name that is ``full``.

        Raises ``LimitError`` if it is one of the claim's.
        """
        self.is_decided = True
        self.is_refused = full is not None and full in self.places
        if self._decided is not None:
            self._decided()
        if full is not None and self.is_refused:
            raise LimitError(full.name.kind)

    def release(self) -> None:
        """Give the places back; a second call does nothing."""
        for place in self.places:
            place.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Claims:
    """Makes claims; counts the calls of each key and each owner in this process."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._tables = {LockKind.KEY: SlotTable(), LockKind.OWNER: SlotTable()}

    def __repr__(self) -> str:
        return f"<Claims {list(self._tables.values())}>"

    def make(self, key: Key) -> Claim:
        """A claim for a call of a key; raises ``LimitError`` if this process has too many."""
        held: list[Place] = []
        for name, limit in _limits(key):
            slot = self._tables[name.kind].take(name.name, limit)
            if slot is None:
                for place in held:
                    place.release()
                raise LimitError(name.kind)
            is_shared = limit is not None and limit <= MOST_SLOTS
            held.append(Place(self._places, slot, name, limit if is_shared else None))
        return Claim(held)


def _limits(key: Key) -> Iterator[tuple[LockName, int | None]]:
    yield LockName(LockKind.KEY, key.key_id), key.max_concurrency or None
    if key.owner_id is not None:
        yield LockName(LockKind.OWNER, key.owner_id), key.owner_max_concurrency or None
