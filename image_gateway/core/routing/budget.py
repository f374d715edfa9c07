"""How much of its budget an account has spent, as its answers report it.

The control plane polls the figures every few minutes; some upstreams report them with each answer
(``Dialect.budget_windows``).  A figure from an answer counts until it is outdated: the control
plane's figure differs from the one at the time of the call, or the window has been reset.  Times
are seconds: ``now`` of a monotonic clock, ``wall`` since 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from image_gateway.core.dialects import DIALECTS
from image_gateway.core.model import Account

_WINDOWS: Final = ("primary", "secondary")
_NO_RESET_SECONDS: Final = 3600.0
"""How long a figure without a reset time counts; after that the control plane's figure does."""
_MOST_ACCOUNTS: Final = 10_000
"""The control plane adds and removes accounts; beyond this many the oldest figures are dropped."""


@dataclass(frozen=True, slots=True)
class _Learned:
    """One window: ``percent`` is spent until ``ends``, and 0 after it if the answer ``has_reset``.

    ``configured`` is the control plane's figure at the time of the call.
    """

    percent: float
    ends: float
    has_reset: bool
    configured: float | None


class Budgets:
    """The budgets that the answers of one process reported."""

    def __init__(self) -> None:
        self._learned: dict[str, dict[str, _Learned]] = {}

    def __repr__(self) -> str:
        return f"<Budgets of {len(self._learned)} accounts>"

    def learn(self, account: Account, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Read an answer's headers; ``account`` is the account at the time of the call."""
        windows = self._learned.pop(account.account_name, {})
        reported = DIALECTS[account.dialect].budget_windows(headers, wall)
        for name, configured in _configured(account).items():
            if name in reported:
                percent, seconds = reported[name].used_percent, reported[name].seconds_left
                ends = now + (_NO_RESET_SECONDS if seconds is None else seconds)
                windows[name] = _Learned(percent, ends, seconds is not None, configured)
        if windows:
            self._learned[account.account_name] = windows
        if len(self._learned) > _MOST_ACCOUNTS:
            del self._learned[next(iter(self._learned))]

    def spent(self, account: Account, now: float) -> float:
        """The fuller of an account's two windows, in per cent: 0 to 100."""
        return max(percent or 0.0 for percent in self.windows(account, now).values())

    def windows(self, account: Account, now: float) -> dict[str, float | None]:
        """Both windows by name, in per cent; None where it is not known."""
        learned = self._learned.get(account.account_name, {})
        for window, configured in _configured(account).items():
            if window in learned and learned[window].configured != configured:
                # For good: if the control plane gives the old figure again, it is a new figure.
                del learned[window]
        return {
            window: _percent(learned.get(window), configured, now)
            for window, configured in _configured(account).items()
        }


def _configured(account: Account) -> dict[str, float | None]:
    figures = (account.used_percent_primary, account.used_percent_secondary)
    return dict(zip(_WINDOWS, figures, strict=True))


def _percent(learned: _Learned | None, configured: float | None, now: float) -> float | None:
    if learned is not None and now < learned.ends:
        return learned.percent
    if learned is not None and learned.has_reset:
        return 0.0
    return None if configured is None else min(max(configured, 0.0), 100.0)
