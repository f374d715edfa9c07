"""Rounds: each work at each peer in a new order every time, and one row of raw figures for each.

A work starts its peers anew, so that a peak is its own, unless it is of those that share a start
because time is short.  All peers are up meanwhile, on the peers' core, and only one has calls.
"""

import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from bench import load, peers, processes
from bench.processes import Cores, ProgramError, descent, on_core
from bench.upstream import Upstream
from bench.works import Way, Work

_START_SECONDS = 12.0
"""What starting all peers usually takes; for the estimate."""


@dataclass(frozen=True)
class Row:
    """One measure as it was taken: ``calls`` are the good ones, CPU is in seconds.

    ``postgres_cpu``: of the control plane's Postgres meanwhile, which serves gateways only.
    ``purchases``: calls that arrived at the upstream.  Of a work of retries ``calls`` are the
    retries, and ``cpu`` is what they cost beside the calls that they repeat.
    """

    work: str
    round: int
    peer: str
    calls: int
    errors: int
    error: str | None
    seconds: float
    cpu: float
    postgres_cpu: float
    base64_bytes: int
    peak_mb: float
    p50_ms: float | None
    p99_ms: float | None
    purchases: int
    same_pictures: int

    def as_json(self) -> dict[str, Any]:
        """The row with as many digits as mean something."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class Progress:
    """A line for each measure, with the time that is over and an estimate of all of it."""

    def __init__(self, works: Sequence[Work], peer_count: int) -> None:
        self._began = time.monotonic()
        measures = sum(work.rounds * peer_count * work.expected for work in works)
        self._expected = measures + _START_SECONDS * len(by_start(works))
        self._done = 0.0

    def say(self, words: str, done: float = 0.0) -> None:
        """``done`` are the expected seconds of what has just ended."""
        self._done += done
        spent = time.monotonic() - self._began
        # The first measures say little about the rest.
        pace = spent / self._done if self._done > self._expected / 10 else 1.0
        total = spent + max(0.0, self._expected - self._done) * pace
        print(f"[{spent:4.0f} s of about {total:.0f}] {words}", file=sys.stderr, flush=True)


@dataclass
class _UpPeer:
    """A peer that takes calls; ``program`` None: there is none in between."""

    name: str
    port: int
    way: Way
    program: processes.Program | None = None

    def cpu(self) -> float:
        return self.program.cpu_seconds() if self.program else 0.0

    def peak(self) -> float:
        return self.program.peak_mb() if self.program else 0.0


class Bench:
    """Measures works on one machine; ``missing`` names the peers that did not start, with why."""

    def __init__(
        self, folder: Path, database: str | None, cores: Cores, chosen: Sequence[peers.Peer]
    ) -> None:
        self.missing: dict[str, str] = {}
        self._folder = folder
        self._database = database
        self._cores = cores
        self._chosen = chosen
        self._postgres = _postmaster(database) if database else None

    async def measure(
        self, works: Sequence[Work], progress: Progress, *, with_direct: bool
    ) -> list[Row]:
        """All rounds of all works."""
        rows = []
        async with Upstream() as upstream:
            for group in by_start(works):
                async with self._started(group[0].name, upstream) as up:
                    if with_direct:
                        up.append(_UpPeer(peers.DIRECT, upstream.port, Way()))
                    progress.say(f"{len(up)} peers are up", _START_SECONDS)
                    for work in group:
                        progress.say(f"{work.name}: {work.title}")
                        rows += await self._measure_rounds(up, work, upstream, progress)
        return rows

    async def _measure_rounds(
        self, up: list[_UpPeer], work: Work, upstream: Upstream, progress: Progress
    ) -> list[Row]:
        upstream.serve(work)
        await _warm_up(up, work, upstream)
        upstream.delay = work.delay
        rows = []
        for number in range(1, work.rounds + 1):
            random.shuffle(up)
            for peer in up:
                row = await self._measure_one(peer, work, upstream, number)
                rows.append(row)
                progress.say(_told(row, work), work.expected)
        return rows

    @contextlib.asynccontextmanager
    async def _started(self, work: str, upstream: Upstream) -> AsyncIterator[list[_UpPeer]]:
        """The peers, ready for this work; all of them are ended afterwards."""
        doors = [peers.Door(peers.MODEL, [upstream.url])]
        with contextlib.ExitStack() as closing:
            launched = []
            for peer in self._chosen:
                folder = self._folder / work / peer.name
                folder.mkdir(parents=True)
                with on_core(self._cores.peer):
                    started = peer.start(peers.Site(folder, doors, self._database))
                closing.callback(started.program.kill)
                launched.append((peer.name, started))
            up = []
            for name, started in launched:
                try:
                    await started.program.wait_until_ready(started.ready)
                except ProgramError as error:
                    self.missing[name] = f"did not start for {work}: {error}"
                    continue
                way = started.ways[peers.MODEL]
                up.append(_UpPeer(name, started.program.port, way, started.program))
            yield up

    async def _measure_one(self, peer: _UpPeer, work: Work, upstream: Upstream, number: int) -> Row:
        plain_cpu = 0.0
        if work.is_retried:
            # The same calls without retries, whose cost is taken off.
            before = peer.cpu()
            plain = await load.run(peer.port, peer.way, work, upstream, count=work.calls)
            plain_cpu = (peer.cpu() - before) / max(1, len(plain.times))
        bought, before, beside = upstream.purchases, peer.cpu(), self._postgres_cpu()
        outcome = await load.run(
            peer.port, peer.way, work, upstream, count=work.calls, with_retries=work.is_retried
        )
        good = len(outcome.times)
        return Row(
            work=work.name,
            round=number,
            peer=peer.name,
            calls=good,
            errors=len(outcome.errors),
            error=outcome.errors[0][:160] if outcome.errors else None,
            seconds=outcome.seconds,
            cpu=peer.cpu() - before - plain_cpu * good,
            postgres_cpu=self._postgres_cpu() - beside,
            base64_bytes=good * work.base64_bytes,
            peak_mb=peer.peak(),
            p50_ms=_quantile(outcome.times, 50),
            p99_ms=_quantile(outcome.times, 99),
            purchases=upstream.purchases - bought,
            same_pictures=outcome.same_pictures,
        )

    def _postgres_cpu(self) -> float:
        return processes.cpu_seconds(descent(self._postgres)) if self._postgres else 0.0


def by_start(works: Sequence[Work]) -> list[list[Work]]:
    """The works in the order in which they are measured; peers start anew for each group."""
    together = [work for work in works if not work.starts_anew]
    alone = [[work] for work in works if work.starts_anew]
    return [together, *alone] if together else alone


async def _warm_up(up: Sequence[_UpPeer], work: Work, upstream: Upstream) -> None:
    """Some calls that are not measured; what fails here fails again, and is counted then."""
    at_full_speed = replace(work, ramp=0, reads_slowly=False)
    count = min(work.at_once, 16) * 2
    for peer in up:
        await load.run(peer.port, peer.way, at_full_speed, upstream, count=count)
    # What a gateway does behind a call (its record, its file) is over before anything is measured.
    await asyncio.sleep(0.5)


def _told(row: Row, work: Work) -> str:
    words = f"{row.work} {row.round}/{work.rounds} {row.peer}: {row.calls} calls"
    if row.calls:
        words += f", {row.calls / row.seconds:.0f}/s, {row.cpu / row.calls * 1000:.2f} CPU ms"
        words += f", {row.peak_mb:.0f} MB"
    if row.errors:
        words += f", {row.errors} ERRORS: {row.error}"
    return words


def _quantile(times: Sequence[float], percent: int) -> float | None:
    """In milliseconds; None without calls."""
    if len(times) < 2:
        return times[0] * 1000 if times else None
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1] * 1000


def _postmaster(database: str) -> int:
    """The process id of the server: the parent of each session's."""
    with psycopg.connect(database) as connection:
        [pid] = connection.execute("SELECT pg_backend_pid()").fetchone() or [0]
        status = Path(f"/proc/{pid}/stat").read_text("ascii")
        return int(status.rpartition(")")[2].split()[1])
