"""What the measuring commands share: names on the command line, signals, the files they leave."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from bench import results
from bench.peers import ROOT
from bench.results import Result

BUILD: Final = ROOT / "build" / "bench"


def names_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Parses names with commas between them; they come in the order of ``known``, each once."""

    def parse(words: str) -> tuple[str, ...]:
        wanted = words.split(",")
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}"
            )
        return tuple(name for name in known if name in wanted)

    return parse


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does: everything that it started ends first."""

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # A shell that starts this in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def store(name: str, result: Result, table: str) -> dict[str, Path]:
    """Write the figures as JSON and Markdown below ``build/bench``, and show the table.

    Gives the files by their kind.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    files = {kind: BUILD / f"{name}.{kind}" for kind in ("json", "md")}
    files["json"].write_text(results.dump(result), "utf-8")
    files["md"].write_text(f"{table}\n", "utf-8")
    print(f"{table}\n\nwritten: {BUILD.relative_to(ROOT)}")
    return files
