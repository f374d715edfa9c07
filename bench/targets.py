"""What the gateway promises to cost: bounds on figures of one run, as data.

Rates and CPU times drift between machines and hours, so most bounds are ratios to a peer of the
same run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

GATEWAY: Final = "gateway"


@dataclass(frozen=True)
class Target:
    """A bound on a figure of the gateway at a work; with ``of`` so many times that peer's."""

    work: str
    figure: Literal["rate", "cpu_ms", "cpu_s_per_gb", "peak_mb", "added_ms", "errors"]
    sense: Literal["at most", "at least"]
    bound: float
    of: str | None = None

    def says(self) -> str:
        number = f"{self.bound:.3g}"
        if 0 < self.bound < 1 and self.of is not None:
            number = f"1/{1 / self.bound:.3g}"
        unit = f" of {self.of}" if self.of and self.bound < 1 else f" times {self.of}"
        return f"{self.sense} {number}{unit if self.of else UNITS[self.figure]}"


UNITS: Final[Mapping[str, str]] = {
    "rate": " calls/s",
    "cpu_ms": " ms",
    "cpu_s_per_gb": " s/GB",
    "peak_mb": " MB",
    "added_ms": " ms",
    "errors": "",
}

FIGURES: Final[Mapping[str, str]] = {
    "rate": "calls/s",
    "cpu_ms": "CPU a call",
    "cpu_s_per_gb": "CPU a GB",
    "peak_mb": "peak memory",
    "added_ms": "added latency",
    "errors": "errors",
}

TARGETS: Final[Sequence[Target]] = (
    Target("W1", "cpu_ms", "at most", 2, "bare-closing"),
    Target("W1", "rate", "at least", 8, "litellm"),
    Target("W1", "cpu_ms", "at most", 1 / 9, "litellm"),
    Target("W2", "cpu_s_per_gb", "at most", 2, "nginx"),
    Target("W2", "cpu_s_per_gb", "at most", 1 / 7, "litellm"),
    Target("W3", "peak_mb", "at most", 140),
    Target("W3", "peak_mb", "at most", 1 / 13, "litellm"),
    Target("W4", "cpu_ms", "at most", 1.3, "bare-closing"),
    Target("W5", "peak_mb", "at most", 300),
    Target("W5", "errors", "at most", 0),
    Target("L1", "added_ms", "at most", 2),
    Target("L2", "added_ms", "at most", 4),
)


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured; None: one of the figures is missing."""

    target: Target
    measured: float | None

    @property
    def word(self) -> str:
        if self.measured is None:
            return "not measured"
        target = self.target
        is_met = (
            self.measured <= target.bound
            if target.sense == "at most"
            else self.measured >= target.bound
        )
        return "pass" if is_met else "miss"


Figures = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By work, by peer, by name."""


def judge(figures: Figures) -> list[Verdict]:
    """Every target with what was measured."""
    found = []
    for target in TARGETS:
        peers = figures.get(target.work, {})
        own = peers.get(GATEWAY, {}).get(target.figure)
        if target.of is None:
            found.append(Verdict(target, own))
            continue
        other = peers.get(target.of, {}).get(target.figure)
        ratio = own / other if own is not None and other else None
        found.append(Verdict(target, ratio))
    return found
