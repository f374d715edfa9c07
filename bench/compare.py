"""Measure what the gateway costs beside other proxies and gateways, in one run on one machine.

    bench/run [--quick] [--works W1,W2] [--peers gateway,nginx] [--rounds N] [--against FOLDER]
              [--write]

The peer under load has a core of its own; the load, the upstream and the gateway's Postgres share
another one.  Every round takes the peers in a new order.  The figures go to build/bench as JSON, as
Markdown and as a chart; with --write also to bench/README.md and bench/results.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import uvloop

from bench import installing, measuring, page, processes, report, results
from bench.command import ending_on_signals, names_of, store
from bench.peers import DIRECT, PEERS, ImageGateway, Peer
from bench.works import USUAL, WORKS, Work, quick
from image_gateway.demo import postgres

NAME: Final = "performance"
"""Of the files, and of the marks in the page."""

AGAINST: Final = "against"


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    works: Sequence[Work]
    peers: Sequence[Peer]
    with_direct: bool
    is_quick: bool
    writes: bool


def plan(words: Sequence[str]) -> Plan:
    """What the command line asks for; ends the program with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="bench/run", description=str(__doc__).partition("\n")[0], allow_abbrev=False
    )
    every = {work.name: work for work in WORKS}
    known = {peer.name: peer for peer in PEERS}
    parser.add_argument(
        "--works", type=names_of(every), default=USUAL, help=f"some of {','.join(every)}"
    )
    parser.add_argument(
        "--peers",
        type=names_of((DIRECT, *known)),
        default=(DIRECT, *known),
        help=f"some of {','.join((DIRECT, *known))}",
    )
    parser.add_argument("--rounds", type=_count, help="of each work, instead of its own number")
    parser.add_argument("--quick", action="store_true", help="a short form of each work, one round")
    parser.add_argument("--against", type=Path, help="another checkout of the gateway, as a peer")
    parser.add_argument(
        "--write", action="store_true", help="also write bench/README.md and bench/results"
    )
    args = parser.parse_args(words)
    works = [quick(every[name]) if args.quick else every[name] for name in args.works]
    if args.rounds:
        works = [replace(work, rounds=args.rounds) for work in works]
    chosen: list[Peer] = [known[name] for name in args.peers if name != DIRECT]
    if args.against:
        chosen.append(ImageGateway(AGAINST, "against", args.against.resolve()))
    return Plan(works, chosen, DIRECT in args.peers, args.quick, args.write)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and say how the targets stand; 0 whatever they say, 1 without any figure."""
    from bench import chart  # noqa: PLC0415 - its library is an extra, which tests do not have

    command = list(sys.argv[1:] if words is None else words)
    wanted = plan(command)
    found, versions, missing = installing.usable(wanted.peers)
    for name, why in missing.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    cores = processes.cores()
    if not cores.are_two:
        print("one core only: load and peers disturb each other", file=sys.stderr)
    # Everything but the peers; what is started from here inherits it.
    os.sched_setaffinity(0, {cores.load})
    processes.allow_descriptors()
    with ending_on_signals(), contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        database = None
        if any(isinstance(peer, ImageGateway) for peer in found):
            database = closing.enter_context(postgres.embedded())
        bench = measuring.Bench(folder, database, cores, found)
        rows = uvloop.run(_measure(bench, wanted, len(found)))
    titles = {peer.name: (peer.title, versions[peer.name]) for peer in found}
    if wanted.with_direct:
        titles = {DIRECT: ("no proxy", ""), **titles}
    result = results.gather(
        ["bench/run", *command],
        titles,
        missing | bench.missing,
        [row.as_json() for row in rows],
        works={work.name: work.title for work in wanted.works},
        is_quick=wanted.is_quick,
    )
    table = report.markdown(result)
    files = store(NAME, result, table)
    files["png"] = files["json"].with_suffix(".png")
    chart.draw(result, files["png"])
    if wanted.writes:
        page.publish(NAME, table, files)
    return 0 if rows else 1


async def _measure(bench: measuring.Bench, wanted: Plan, peer_count: int) -> list[measuring.Row]:
    progress = measuring.Progress(wanted.works, peer_count + wanted.with_direct)
    return await bench.measure(wanted.works, progress, with_direct=wanted.with_direct)


def _count(words: str) -> int:
    if not words.isdecimal() or not 1 <= int(words) <= 1000:
        raise argparse.ArgumentTypeError(f"{words!r} is not a number from 1 to 1000")
    return int(words)


if __name__ == "__main__":
    sys.exit(main())
