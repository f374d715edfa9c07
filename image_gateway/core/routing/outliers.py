"""Outlier detection: accounts that fail again and again by no fault of the calls.

A 5xx, a connection that is not made, an answer that breaks off or holds no picture: such failures
are the upstream's own.  The failed call itself is never sent again for it, but the next calls
should go elsewhere; an account that fails fast would otherwise always be the least loaded and take
every call.  The idea is Envoy's outlier detection: failures in a row put an account last, then out
for a time that doubles; after it one call is the probe that lets it back or sends it out again.

Routing never puts all accounts out: where no other is left, it asks the one that failed least
(``ranking.usable``).  In memory only, so a restart forgets it.  Times are seconds of a monotonic
clock; the caller passes them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from image_gateway.core.model import Account

FIRST_SECONDS: Final = 5.0
"""The time for which an account is last, and then out; it doubles with each further failure."""
LONGEST_SECONDS: Final = 900.0
FAILURES_TO_LEAVE: Final = 2
"""One failure may be chance: it puts an account last.  From this many on it is out."""
_MOST_DOUBLINGS: Final = 8


@dataclass(frozen=True, slots=True)
class Failing:
    """The failures in a row of an account.

    ``is_last``: other accounts come before it, for ``seconds_left``, or while a probe is under way.
    ``is_out``: it gets no calls at all while another account can serve them.
    """

    failures: int
    seconds_left: float
    is_last: bool

    @property
    def is_failing(self) -> bool:
        """Whether it failed more than once; one failure may be chance."""
        return self.failures >= FAILURES_TO_LEAVE

    @property
    def is_out(self) -> bool:
        return self.is_last and self.is_failing


_Address = tuple[str, str | None, str | None]
"""Name, base URL and proxy: an account that moves has not failed yet."""


@dataclass(frozen=True, eq=False, slots=True)
class _Streak:
    """Failures in a row; the account is last or out until ``until``."""

    failures: int
    begun: float
    until: float


class OutlierTracker:
    """The failing accounts of one process."""

    def __init__(self) -> None:
        self._streaks: dict[_Address, _Streak] = {}
        self._probes: Counter[_Streak] = Counter()

    def __repr__(self) -> str:
        return f"<OutlierTracker of {len(self._streaks)} accounts>"

    def fail(self, account: Account, since: float, now: float) -> Failing:
        """A call that was sent at ``since`` failed by the upstream's own fault.

        Calls that were under way together fail together: those sent before the last failure do not
        count again.
        """
        address = _address(account)
        last = self._streaks.get(address)
        if last is not None and since < last.begun:
            return self._failing(last, now)
        failures = 1 if last is None else last.failures + 1
        doublings = min(max(failures - FAILURES_TO_LEAVE, 0), _MOST_DOUBLINGS)
        seconds = min(FIRST_SECONDS * 2.0**doublings, LONGEST_SECONDS)
        for other in [other for other in self._streaks if other[0] == address[0]]:
            del self._streaks[other]
        self._streaks[address] = streak = _Streak(failures, now, now + seconds)
        return self._failing(streak, now)

    def succeed(self, account: Account, since: float) -> None:
        """A call that was sent at ``since`` was answered: the account works.

        Failures that came after ``since`` stay: they are the newer fact.
        """
        address = _address(account)
        streak = self._streaks.get(address)
        if streak is not None and streak.begun <= since:
            del self._streaks[address]

    def failing(self, account: Account, now: float) -> Failing | None:
        """The account's failures in a row; None if its last call was answered.

        When its time is over, one call may go to it; while that probe is under way, the account
        stays last or out for others.
        """
        streak = self._streaks.get(_address(account))
        return None if streak is None else self._failing(streak, now)

    def _failing(self, streak: _Streak, now: float) -> Failing:
        seconds_left = max(streak.until - now, 0.0)
        return Failing(streak.failures, seconds_left, seconds_left > 0 or streak in self._probes)

    @contextmanager
    def call(self, account: Account, now: float) -> Iterator[None]:
        """Wraps a call that begins at ``now``; it is the probe if the account's time is over."""
        streak = self._streaks.get(_address(account))
        if streak is None or streak.until > now:
            yield
            return
        self._probes[streak] += 1
        try:
            yield
        finally:
            self._probes[streak] -= 1
            if not self._probes[streak]:
                del self._probes[streak]


def _address(account: Account) -> _Address:
    proxy = None if account.proxy is None else account.proxy.url
    return account.account_name, account.base_url, proxy
