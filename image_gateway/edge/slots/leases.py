"""What a call gets that asks for an account's slot: a lease, or the time until one may be free."""

from collections.abc import Callable
from typing import Self

from image_gateway.core.routing.slots import StartClock
from image_gateway.edge.slots.places import Place


class BusyError(Exception):
    """No slot was free in time; one is likely to be free in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class EarlyError(BusyError):
    """A slot may be free, but the key may not start a call for another ``seconds``."""


class Lease:
    """One account's slot, held ``since`` a time until ``release``; a context manager."""

    def __init__(
        self,
        key_id: str,
        account_name: str,
        place: Place,
        since: float,
        give_back: Callable[["Lease"], None],
    ) -> None:
        self.key_id = key_id
        self.account_name = account_name
        self.place = place
        self._give_back: Callable[[Lease], None] | None = give_back
        self.since = since
        self._start_before: float | None = None

    def __repr__(self) -> str:
        state = "held" if self.is_held else "released"
        return f"<Lease {self.account_name!r} lock={self.place.lock} {state}>"

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._give_back is not None

    def start(self, starts: StartClock) -> None:
        """Note that its key starts a call."""
        self._start_before = starts.start(self.key_id, self.since)

    def undo_start(self, starts: StartClock) -> None:
        """Take the start back: no call was made."""
        if self._start_before is not None:
            starts.undo(self.key_id, self.since, self._start_before)

    def release(self) -> None:
        """Give the slot back; a second call does nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
