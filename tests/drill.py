"""``scripts/release-drill``: releases and rollbacks under load, with calls as long as bad days'."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.parts.drill import NARROW, NARROW_SLOTS, Drill, Seen
from tests.parts.releases import version
from tests.parts.site import installed, make_keys


def main() -> int:
    parser = argparse.ArgumentParser(prog="release-drill")
    parser.add_argument("--seconds", type=float, default=300, help="how long a call takes")
    parser.add_argument("--rounds", type=int, default=5, help="releases, each rolled back again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="release-drill-") as folder:
        seen = drill(Path(folder), given.seconds, given.rounds)
    for failure in seen.failures:
        print(failure)
    print(seen)
    held = not seen.failures and seen.longest_wait <= 1 and seen.peaks[NARROW] == NARROW_SLOTS
    print("no call was lost" if held else "not as promised")
    return 0 if held else 1


def drill(folder: Path, seconds: float, rounds: int) -> Seen:
    """The load while it is released and rolled back so often; what came of it."""
    with installed(folder) as site:
        print(f"installed {version(site.good)}; {rounds} releases and rollbacks follow", flush=True)

        def release_and_roll_back() -> None:
            for _ in range(rounds):
                print(site.release("activate", version(site.better)), flush=True)
                print(site.release("rollback"), flush=True)

        load = Drill(site.url, make_keys(site), site.upstream, seconds)
        return asyncio.run(load.run(wide=56, narrow=6, during=release_and_roll_back))


if __name__ == "__main__":
    sys.exit(main())
