"""Cooldowns: which accounts, or which model on an account, to leave alone for now.

Only image traffic teaches and only image traffic asks.  A cooldown is short by design: it is
capped, and once it is over the next call is the probe that either clears it or begins a longer one.
While a probe is under way routing prefers other accounts (``is_probed``), but where there is none
the account serves: a picture takes a minute, too long to hold everybody back.  Times are seconds of
a clock that only goes forward; the caller brings them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from image_gateway.core.model import Credential

LONGEST_SECONDS: Final = 900.0
"""No cooldown is longer, whatever an upstream names: a reset may come early, a probe is cheap."""

FIRST_BACKOFF_SECONDS: Final = 5.0
"""The first cooldown where the upstream names no time; it doubles with each failure in a row."""

_MOST_DOUBLINGS: Final = 8
_MOST_PLACES: Final = 10_000
"""Clients may name as many models as they like; the cooldowns that are over are forgotten first."""

Place = tuple[str, str | None]
"""An account's name, and a model where only that model is meant."""


@dataclass(frozen=True, slots=True)
class Cooling:
    """A wish to leave a place alone.  ``seconds`` None: back off by the failures in a row."""

    seconds: float | None
    model_only: bool = False


class Health:
    """The cooldowns of one process, in memory."""

    def __init__(self) -> None:
        self._until: dict[Place, float] = {}
        self._begun: dict[Place, float] = {}
        self._failures: dict[Place, int] = {}
        self._credentials: dict[Place, Credential | None] = {}
        self._probes: Counter[Place] = Counter()

    def __repr__(self) -> str:
        return f"<Health of {len(self._until)} places>"

    def cool(
        self,
        account_name: str,
        model: str,
        cooling: Cooling,
        now: float,
        credential: Credential | None = None,
    ) -> float:
        """Begin or lengthen a cooldown; gives its length in seconds.

        It ends with ``credential``; None: it does not depend on one.
        """
        place = (account_name, model if cooling.model_only else None)
        failures = self._failures.get(place, 0)
        self._failures[place] = min(failures + 1, _MOST_DOUBLINGS)
        self._credentials[place] = credential
        seconds = cooling.seconds
        if seconds is None:
            seconds = FIRST_BACKOFF_SECONDS * 2.0**failures
        seconds = min(max(seconds, 0.0), LONGEST_SECONDS)
        self._begun[place] = now
        self._until[place] = max(self._until.get(place, 0.0), now + seconds)
        if len(self._until) > _MOST_PLACES:
            self._forget_past(now)
        return seconds

    def _forget_past(self, now: float) -> None:
        self._until = {place: until for place, until in self._until.items() if until > now}
        self._begun = {place: self._begun[place] for place in self._until}
        self._failures = {place: self._failures[place] for place in self._until}
        self._credentials = {place: self._credentials[place] for place in self._until}

    def succeed(self, account_name: str, model: str, since: float) -> None:
        """A call that was sent at ``since`` was served: the place is well.

        It says nothing about a cooldown that began after it: another call has learned that since.
        """
        for place in _places(account_name, model):
            if self._begun.get(place, since) > since:
                continue
            self._begun.pop(place, None)
            self._until.pop(place, None)
            self._failures.pop(place, None)
            self._credentials.pop(place, None)

    def seconds_left(
        self, account_name: str, model: str, now: float, credential: Credential | None = None
    ) -> float:
        """How long a call for this model should leave the account alone; 0 when it need not.

        Whoever renews an account's credential has mended it: a cooldown of the old one is over.
        """
        latest = now
        for place in _places(account_name, model):
            if self._credentials.get(place) in {None, credential}:
                latest = max(latest, self._until.get(place, now))
        return latest - now

    @contextmanager
    def call(self, account_name: str, model: str, now: float) -> Iterator[None]:
        """A call that begins at ``now``, for as long as it lasts: a probe where one is due."""
        due = [
            place
            for place in _places(account_name, model)
            if self._until.get(place, float("inf")) <= now
        ]
        self._probes.update(due)
        try:
            yield
        finally:
            self._probes -= Counter(due)

    def is_probed(self, account_name: str, model: str) -> bool:
        """Whether a call is just finding out if the place is well again."""
        return any(
            place in self._probes and place in self._until for place in _places(account_name, model)
        )


def _places(account_name: str, model: str) -> tuple[Place, Place]:
    return (account_name, None), (account_name, model)
