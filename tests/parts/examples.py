"""How many examples a property is tried on: the profile's count, or a share of it."""

from hypothesis import settings

CI = 200
"""Examples for each property in scripts/test."""
FAST = 10
"""Examples for each property in scripts/test-fast."""


def scaled(count: int) -> int:
    """``count`` under the ci profile and as much less under a smaller one, but never none."""
    return max(1, count * settings().max_examples // CI)
