"""How much of its budget an account has spent, as its own answers tell it.

The control plane asks every few minutes; some upstreams say it with each answer
(``Dialect.budget_windows``).  What was learned from an answer counts until somebody knows better:
the control plane, once it says something else than it did when the call was made, or the clock,
once the window has begun anew.  Times are seconds: ``now`` of a clock that only goes forward,
``wall`` since 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from image_gateway.core.dialects import DIALECTS
from image_gateway.core.model import Account

_WINDOWS: Final = ("primary", "secondary")
_UNNAMED_SECONDS: Final = 3600.0
"""How long a figure counts that comes without its window's end; then the control plane's does."""
_MOST_ACCOUNTS: Final = 10_000
"""Accounts come and go with the control plane; beyond these what was learned first is forgotten."""


@dataclass(frozen=True, slots=True)
class _Learned:
    """One window: ``percent`` spent until ``ends``, and nothing after it where it ``is_named``.

    ``said`` is the control plane's own figure.
    """

    percent: float
    ends: float
    is_named: bool
    said: float | None


class Budgets:
    """What the answers of one process have told."""

    def __init__(self) -> None:
        self._learned: dict[str, dict[str, _Learned]] = {}

    def __repr__(self) -> str:
        return f"<Budgets of {len(self._learned)} accounts>"

    def learn(self, account: Account, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Take what an answer's headers say; ``account`` is as it was when the call was made."""
        windows = self._learned.pop(account.account_name, {})
        answered = DIALECTS[account.dialect].budget_windows(headers, wall)
        for name, said in _said(account).items():
            if name in answered:
                percent, left = answered[name].used_percent, answered[name].seconds_left
                ends = now + (_UNNAMED_SECONDS if left is None else left)
                windows[name] = _Learned(percent, ends, left is not None, said)
        if windows:
            self._learned[account.account_name] = windows
        if len(self._learned) > _MOST_ACCOUNTS:
            del self._learned[next(iter(self._learned))]

    def spent(self, account: Account, now: float) -> float:
        """The fuller of an account's two windows, in per cent: 0 to 100."""
        return max(percent or 0.0 for percent in self.windows(account, now).values())

    def windows(self, account: Account, now: float) -> dict[str, float | None]:
        """Both windows by name, in per cent; None where nobody has told."""
        learned = self._learned.get(account.account_name, {})
        for window, said in _said(account).items():
            if window in learned and learned[window].said != said:
                # Overruled once and for all: should the old figure come back, it is a new one.
                del learned[window]
        return {
            window: _percent(learned.get(window), said, now)
            for window, said in _said(account).items()
        }


def _said(account: Account) -> dict[str, float | None]:
    figures = (account.used_percent_primary, account.used_percent_secondary)
    return dict(zip(_WINDOWS, figures, strict=True))


def _percent(learned: _Learned | None, said: float | None, now: float) -> float | None:
    if learned is not None and now < learned.ends:
        return learned.percent
    if learned is not None and learned.is_named:
        return 0.0
    return None if said is None else min(max(said, 0.0), 100.0)
