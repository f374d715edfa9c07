"""Cooldowns: which accounts, or which model on an account, to leave alone for now.

Only image traffic teaches and only image traffic asks.  A cooldown is short by design: it is
capped, and once it is over the next call is the probe that either clears it or begins a longer one.
While a probe is under way routing prefers other accounts (``is_half_open``), but where there is
none the account serves: a picture takes a minute, too long to hold everybody back.  Times are
seconds of a clock that only goes forward; the caller brings them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from image_gateway.core.model import Credential

LONGEST_SECONDS: Final = 900.0
"""No cooldown is longer, whatever an upstream names: a reset may come early, a probe is cheap."""

FIRST_BACKOFF_SECONDS: Final = 5.0
"""The first cooldown where the upstream names no time; it doubles with each failure in a row."""

_MOST_DOUBLINGS: Final = 8
_MOST_KEYS: Final = 10_000
"""Clients may name as many models as they like; the cooldowns that are over are forgotten first."""
_MOST_CREDENTIALS: Final = 8
"""Of one place; a control plane renews them every few hours."""

CooldownKey = tuple[str, str | None]
"""An account's name, and a model where only that model is meant."""


@dataclass(frozen=True, slots=True)
class CooldownSpec:
    """A wish to leave a place alone.  ``seconds`` None: back off by the failures in a row."""

    seconds: float | None
    model_only: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """The answer that began a cooldown: its status and its code, never its words."""

    status: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Cooldown:
    """What is left of a cooldown, in seconds, and the answer that it goes back to."""

    seconds_left: float
    cause: Cause | None


@dataclass(frozen=True, eq=False, slots=True)
class _ActiveCooldown:
    """One cooldown: when it began, when it is over, and the failures in a row that led to it."""

    begun: float
    until: float
    failures: int
    cause: Cause | None = None


class CooldownTracker:
    """The cooldowns of one process, in memory."""

    def __init__(self) -> None:
        # By credential: whoever renews an account's has mended it, and what is still told of the
        # old one says nothing about the new.
        self._cooldowns: dict[CooldownKey, dict[Credential | None, _ActiveCooldown]] = {}
        self._probes: Counter[_ActiveCooldown] = Counter()

    def __repr__(self) -> str:
        return f"<CooldownTracker of {len(self._cooldowns)} keys>"

    def trip(
        self,
        account_name: str,
        model: str,
        spec: CooldownSpec,
        now: float,
        credential: Credential | None = None,
        cause: Cause | None = None,
    ) -> float:
        """Begin or lengthen a cooldown; gives its length in seconds.

        It holds for calls that are signed by ``credential``; None: for all.
        """
        key = (account_name, model if spec.model_only else None)
        known = self._cooldowns.setdefault(key, {})
        last = known.get(credential, _ActiveCooldown(now, now, 0))
        seconds = spec.seconds
        if seconds is None:
            seconds = FIRST_BACKOFF_SECONDS * 2.0**last.failures
        seconds = min(max(seconds, 0.0), LONGEST_SECONDS)
        failures = min(last.failures + 1, _MOST_DOUBLINGS)
        until = now + seconds
        if until < last.until:
            until, cause = last.until, last.cause
        known[credential] = _ActiveCooldown(now, until, failures, cause)
        if len(self._cooldowns) > _MOST_KEYS or len(known) > _MOST_CREDENTIALS:
            self._forget_past(now)
        return seconds

    def _forget_past(self, now: float) -> None:
        for key, known in list(self._cooldowns.items()):
            left = {each: found for each, found in known.items() if found.until > now}
            if left:
                self._cooldowns[key] = left
            else:
                del self._cooldowns[key]

    def succeed(self, account_name: str, model: str, since: float) -> None:
        """A call that was sent at ``since`` was served: the place is well.

        It says nothing about a cooldown that began after it: another call has learned that since.
        """
        for key in _keys(account_name, model):
            known = self._cooldowns.get(key, {})
            left = {each: found for each, found in known.items() if found.begun > since}
            if left:
                self._cooldowns[key] = left
            else:
                self._cooldowns.pop(key, None)

    def seconds_left(
        self, account_name: str, model: str, now: float, credential: Credential | None = None
    ) -> float:
        """How long a call for this model should leave the account alone; 0 when it need not."""
        found = self._concerning(account_name, model, credential)
        return max(
            (cooldown.until - now for cooldown in found if cooldown.until > now), default=0.0
        )

    def cooldown(
        self, account_name: str, now: float, credential: Credential | None = None
    ) -> Cooldown | None:
        """The cooldown of a whole account, None where there is none."""
        known = self._cooldowns.get((account_name, None), {})
        found = [known[each] for each in {None, credential} if each in known]
        longest = max(found, key=lambda each: each.until, default=None)
        if longest is None or longest.until <= now:
            return None
        return Cooldown(longest.until - now, longest.cause)

    def models_cooling(
        self, credentials: Mapping[str, Credential | None], now: float
    ) -> Counter[str]:
        """For how many models each account is left alone; accounts come with their credentials."""
        found = Counter[str]()
        for (name, model), known in self._cooldowns.items():
            if model is not None and name in credentials:
                meant = [known[each] for each in {None, credentials[name]} if each in known]
                found[name] += any(each.until > now for each in meant)
        return found

    @contextmanager
    def call(
        self, account_name: str, model: str, now: float, credential: Credential | None = None
    ) -> Iterator[None]:
        """A call that begins at ``now``, for as long as it lasts: a probe where one is due."""
        found = self._concerning(account_name, model, credential)
        due = Counter(cooldown for cooldown in found if cooldown.until <= now)
        self._probes += due
        try:
            yield
        finally:
            self._probes -= due

    def is_half_open(
        self, account_name: str, model: str, credential: Credential | None = None
    ) -> bool:
        """Whether a call is just finding out if the place is well again."""
        found = self._concerning(account_name, model, credential)
        return any(cooldown in self._probes for cooldown in found)

    def _concerning(
        self, account_name: str, model: str, credential: Credential | None
    ) -> list[_ActiveCooldown]:
        """The cooldowns that a call would meet."""
        return [
            known[each]
            for key in _keys(account_name, model)
            if (known := self._cooldowns.get(key)) is not None
            for each in {None, credential}
            if each in known
        ]


def _keys(account_name: str, model: str) -> tuple[CooldownKey, CooldownKey]:
    return (account_name, None), (account_name, model)
