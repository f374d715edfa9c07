"""Count how many pictures each gateway buys when upstreams and clients fail.

    bench/purchases [--faults reset,cut] [--peers gateway,nginx] [--write]

Every fault has two upstreams that count, and a door of its own at each peer.  The client is the
official SDK, once with its defaults and once with ``max_retries=0``.  All faults run at the same
time, as most of them wait.  The counts go to build/bench as JSON and Markdown; with --write also to
bench/README.md and bench/results.
"""

import argparse
import asyncio
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import openai
import uvloop

from bench import installing, page, results
from bench.command import ending_on_signals, names_of, store
from bench.faults import FAULTS, Fault
from bench.peers import Door, ImageGateway, LiteLlm, Nginx, Peer, Site, Started
from bench.processes import ProgramError, allow_descriptors
from bench.purchase_report import markdown
from bench.works import Way
from image_gateway.demo import postgres
from tests.parts.eventually import eventually
from tests.parts.gateway import free_port
from tests.parts.upstream import Call, ScriptedUpstream

NAME: Final = "purchases"
"""Of the files, and of the marks in the page."""

PEERS: Final[Sequence[Peer]] = (
    ImageGateway(),
    LiteLlm("litellm", "LiteLLM, defaults"),
    LiteLlm("litellm-no-retries", "LiteLLM, num_retries 0", retries=0),
    Nginx("nginx", "nginx, default", buffers=True),
)

CLIENTS: Final = {"defaults": openai.DEFAULT_MAX_RETRIES, "no-retries": 0}
"""The SDK's two forms, with their retries."""

ROW_SECONDS: Final = 150.0
"""After so long what a row has is counted; SDK and gateway together wait for a minute at most."""


@dataclass(frozen=True)
class Row:
    """What one fault costs at one peer with one form of the client; ``asked``: calls that arrived
    whole at an upstream; ``pictures``: those that the client got.
    """

    fault: str
    peer: str
    client: str
    calls: int
    asked: int
    pictures: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 1)}


class _DoorUpstreams:
    """The two upstreams of a door; ``asked`` counts the calls that arrived whole at either."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.asked = 0
        self._upstreams: list[ScriptedUpstream] = []
        self.has_arrived = asyncio.Event()

    async def open(self, closing: AsyncExitStack) -> list[str]:
        """Their roots."""
        roots = []
        for script in (self._fault.first, self._fault.second):
            if script is None:
                roots.append(f"http://127.0.0.1:{free_port()}")
                continue

            async def counted(call: Call, script: Any = script) -> None:
                if call.method != "POST":
                    # LiteLLM asks for a list of models when it starts.
                    await call.answer(404, b"")
                    return
                self.asked += 1
                self.has_arrived.set()
                await script(self.asked, call)

            upstream = await closing.enter_async_context(ScriptedUpstream(counted))
            self._upstreams.append(upstream)
            roots.append(upstream.root)
        return roots

    def are_idle(self) -> bool:
        """Nobody is connected."""
        return not any(upstream.open_connections for upstream in self._upstreams)


@dataclass(frozen=True)
class _Case:
    """One fault at one peer with one form of the client."""

    fault: Fault
    peer: str
    client: str
    upstreams: _DoorUpstreams

    @property
    def door(self) -> str:
        return f"{self.fault.name}-{self.client}"


async def measure(
    folder: Path, database: str | None, chosen: Sequence[Peer], faults: Sequence[Fault]
) -> tuple[list[Row], dict[str, str]]:
    """All rows, and why which peer did not start."""
    missing: dict[str, str] = {}
    started: list[tuple[Started, list[_Case]]] = []
    async with AsyncExitStack() as closing:
        for peer in chosen:
            cases = [
                _Case(fault, peer.name, client, _DoorUpstreams(fault))
                for fault in faults
                for client in CLIENTS
            ]
            doors = [Door(case.door, await case.upstreams.open(closing)) for case in cases]
            place = folder / peer.name
            place.mkdir()
            started.append((peer.start(Site(place, doors, database)), cases))
            closing.callback(started[-1][0].program.kill)
        tasks = []
        for one, cases in started:
            try:
                await one.program.wait_until_ready(one.ready)
            except ProgramError as error:
                missing[cases[0].peer] = f"did not start: {error}"
                continue
            for case in cases:
                base_url = f"http://127.0.0.1:{one.program.port}{one.ways[case.door].path}"
                tasks.append(_count(case, base_url, one.ways[case.door]))
        rows = await _all(tasks)
        for one, cases in started:
            one.program.kill()
            for case in cases:
                # A script that is cancelled would be reported as an error.
                await eventually(case.upstreams.are_idle)
        return rows, missing


async def _all(tasks: Sequence[Coroutine[None, None, Row]]) -> list[Row]:
    """The rows in their order, each told when it is there."""
    began = time.monotonic()
    rows = [asyncio.ensure_future(task) for task in tasks]
    for number, ended in enumerate(asyncio.as_completed(rows), 1):
        row = await ended
        print(
            f"[{time.monotonic() - began:4.0f} s of at most {ROW_SECONDS:.0f}] {number} of "
            f"{len(rows)}: {row.peer}, {row.fault}, {row.client}: {row.asked} asked, "
            f"{row.pictures} of {row.calls} pictures",
            file=sys.stderr,
            flush=True,
        )
    return [row.result() for row in rows]


async def _count(case: _Case, base_url: str, way: Way) -> Row:
    """Make the calls of one case, and count what arrived."""
    began = time.monotonic()
    pictures = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ROW_SECONDS), _sdk(case, base_url, way) as sdk:
            for number in range(case.fault.calls):
                ask = functools.partial(_gets_picture, way.model, f"cat {number}")
                if case.fault.kills_client:
                    await _ask_and_be_gone(ask(_sdk(case, base_url, way)), case.upstreams)
                pictures += await ask(sdk)
    return Row(
        fault=case.fault.name,
        peer=case.peer,
        client=case.client,
        calls=case.fault.calls,
        asked=case.upstreams.asked,
        pictures=pictures,
        seconds=time.monotonic() - began,
    )


def _sdk(case: _Case, base_url: str, way: Way) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=way.secret,
        max_retries=CLIENTS[case.client],
        timeout=case.fault.client_seconds,
    )


async def _gets_picture(model: str, prompt: str, sdk: openai.AsyncOpenAI) -> bool:
    """Make one call as a program does."""
    try:
        answer = await sdk.images.generate(model=model, prompt=prompt)
    except (openai.OpenAIError, ValueError):
        # A cut body is broken JSON to the SDK.
        return False
    return bool(answer.data and answer.data[0].b64_json)


async def _ask_and_be_gone(asking: Coroutine[None, None, bool], upstreams: _DoorUpstreams) -> None:
    """Make the call, and close its connection when an upstream has it."""
    task = asyncio.ensure_future(asking)
    await upstreams.has_arrived.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(words: Sequence[str] | None = None) -> int:
    """Count, and write what was counted; 1 without any row."""
    command = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(
        prog="bench/purchases", description=str(__doc__).partition("\n")[0], allow_abbrev=False
    )
    known = {peer.name: peer for peer in PEERS}
    every = {fault.name: fault for fault in FAULTS}
    parser.add_argument("--faults", type=names_of(every), default=tuple(every))
    parser.add_argument("--peers", type=names_of(known), default=tuple(known))
    parser.add_argument("--write", action="store_true", help="also write the page and its results")
    args = parser.parse_args(command)
    faults = [every[name] for name in args.faults]
    chosen, versions, missing = installing.usable([known[name] for name in args.peers])
    for name, why in missing.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    allow_descriptors()
    with ending_on_signals(), contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        database = None
        if any(isinstance(peer, ImageGateway) for peer in chosen):
            database = closing.enter_context(postgres.embedded())
        rows, unstarted = uvloop.run(measure(folder, database, chosen, faults))
    result = results.gather(
        ["bench/purchases", *command],
        {peer.name: (peer.title, versions[peer.name]) for peer in chosen},
        missing | unstarted,
        [row.as_json() for row in rows],
        faults={fault.name: fault.title for fault in faults},
        client=f"openai {openai.__version__}",
    )
    table = markdown(result)
    files = store(NAME, result, table)
    if args.write:
        page.publish(NAME, table, files)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
