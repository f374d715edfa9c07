"""Run one target on files: ``python -m tests.fuzz TARGET FILE...``"""

import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> int:
    """Check each file; return the exit code."""
    if len(arguments) < 2 or arguments[0] not in TARGETS:
        print(f"usage: python -m tests.fuzz TARGET FILE...; targets: {', '.join(TARGETS)}")
        return 64
    for name in arguments[1:]:
        TARGETS[arguments[0]](Path(name).read_bytes())
        print(f"{name}: no promise is broken")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
