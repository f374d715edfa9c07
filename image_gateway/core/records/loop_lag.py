"""How late the event loop was in the last minute, by the phase of the request that was at work.

One long step of one request holds up all others.  The lags are measured elsewhere
(``edge.loop_watch``); here the longest ones are kept.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from image_gateway.core.records.phases import Phase

WINDOW_SECONDS: Final = 60.0
"""How long a lag is shown: at least one scrape sees it."""

OTHER: Final = "other"
"""In place of a phase: no task of a request was at work, or nobody looked."""

PHASES: Final = (*(phase.value for phase in Phase), OTHER)


@dataclass(frozen=True, slots=True)
class LoopLag:
    """The loop was ``seconds`` late.

    ``phase`` is that of the request whose task was at work, ``place`` the function, both as seen
    once while it was late; None: nobody looked, because it was short.
    """

    seconds: float
    phase: str = OTHER
    place: str | None = None


class LagWindow:
    """The longest lags of the last minute; ``now`` is monotonic and in seconds."""

    def __init__(self) -> None:
        # By phase; a lag is dropped once a longer one has come, so both ends are in order.
        self._lags: dict[str, deque[tuple[float, LoopLag]]] = {phase: deque() for phase in PHASES}

    def __repr__(self) -> str:
        return f"<LagWindow of {sum(map(len, self._lags.values()))} lags>"

    def add(self, lag: LoopLag, now: float) -> None:
        """Count one lag."""
        lags = self._lags[lag.phase]
        while lags and lags[-1][1].seconds <= lag.seconds:
            lags.pop()
        lags.append((now, lag))
        self._expire(now)

    def by_phase(self, now: float) -> Mapping[str, float]:
        """The longest lag of each phase; 0 where there was none."""
        self._expire(now)
        return {phase: lags[0][1].seconds if lags else 0.0 for phase, lags in self._lags.items()}

    def longest(self, now: float) -> LoopLag:
        """The longest lag of all."""
        self._expire(now)
        first = [lags[0][1] for lags in self._lags.values() if lags]
        return max(first, key=lambda lag: lag.seconds, default=LoopLag(0.0))

    def _expire(self, now: float) -> None:
        for lags in self._lags.values():
            while lags and lags[0][0] <= now - WINDOW_SECONDS:
                lags.popleft()
