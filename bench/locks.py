"""Measure what it costs to count a call over all processes: take its locks, and give them back.

    .venv/bin/python bench/locks.py [--against FOLDER] [--takes N] [OTHERS ...]

One room of ``edge.slots`` on a Postgres of its own takes a slot and releases it, again and again,
as calls do that come one after another.  Meanwhile another session holds OTHERS advisory locks (0
and 2000 without an argument), as many other calls do.  Given are the median and the mean in
microseconds: the lock table is read once a second at most, which the median does not show.
``--against`` measures the slots of another checkout beside these.

slot: the account's lock alone.  call: those of an account, a key and its owner.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import uvloop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, os.environ.get("MEASURED", str(ROOT)))

from image_gateway.core.model import Key, Secret
from image_gateway.core.routing.slots import StartClock
from image_gateway.demo import postgres
from image_gateway.edge.slots.broker import SlotBroker
from tests.core import builders

ACCOUNT = builders.account("bench", image_max_concurrency=3)


async def measure(database: str, takes: int) -> str:
    """What one slot costs, and one call where a call has more locks than that."""
    owner = {"owner_id": "bench", "owner_max_concurrency": 9}
    async with SlotBroker(Secret(database), 10, StartClock()) as room:
        told = [f"slot {await measure_one(room, builders.key(), takes)}"]
        if hasattr(room, "claim"):
            by = builders.key(max_concurrency=9, **owner)
            told.append(f"call {await measure_one(room, by, takes)}")
        assert room.is_shared, "the session was lost, and nothing was locked"
    return "   ".join(told)


async def measure_one(room: SlotBroker, by: Key, takes: int) -> str:
    seconds = []
    for number in range(takes + 100):
        began = time.perf_counter()
        with room.claim(by) if hasattr(room, "claim") else contextlib.nullcontext() as claim:
            options: dict[str, Any] = {} if claim is None else {"claim": claim}
            (await room.slot(by, [ACCOUNT], 5, **options)).release()
        if number >= 100:
            seconds.append(time.perf_counter() - began)
    median, mean = statistics.median(seconds) * 1e6, statistics.fmean(seconds) * 1e6
    return f"{median:5.0f} us (mean {mean:5.0f})"


def compare(database: str, against: Path | None, others: Sequence[int], takes: int) -> None:
    checkouts = {"here": ROOT, **({"against": against.resolve()} if against else {})}
    for count in others:
        with psycopg.connect(database, autocommit=True) as other:
            # As calls have them: each name has some, in its first places.
            other.execute(
                "SELECT pg_advisory_lock((n / 3) * 1024 + n %% 3 + (1::bigint << 40))"
                " FROM generate_series(1, %s::bigint) AS n",
                [count],
            )
            for name, checkout in checkouts.items():
                command = [sys.executable, __file__, "--database", database, "--takes", str(takes)]
                environment = {**os.environ, "MEASURED": str(checkout)}
                done = subprocess.run(
                    command, env=environment, cwd=checkout, check=True, capture_output=True
                )
                print(
                    f"{count:5} other locks   {name:8} {done.stdout.decode().strip()}", flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("others", nargs="*", type=int, metavar="OTHERS", help="0 and 2000")
    parser.add_argument("--against", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--takes", type=int, default=3000)
    parser.add_argument("--database", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.database:
        print(uvloop.run(measure(args.database, args.takes)))
        return
    with postgres.embedded() as database:
        compare(database, args.against, args.others or (0, 2000), args.takes)


if __name__ == "__main__":
    main()
