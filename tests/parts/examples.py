"""How many examples a property is tried on: the profile's count, or a share of it."""

from hypothesis import settings

CI = 100
"""Examples for each property in scripts/test."""
FAST = 10
"""Examples for each property in scripts/test-fast."""


def scaled(count: int) -> int:
    """A share of the profile's examples: of 200 examples, ``count`` of them; but never none."""
    return max(1, count * settings().max_examples // 200)
