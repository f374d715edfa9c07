"""What a fault on the way to the client costs, with the clients' own retries: one purchase, and the
program has its picture.

Every cell of the table is measured at once.  The upstream counts its purchases, and lets its client
wait where the fault is a wait: until the client has come a second time, so no clock decides.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.test_errors import kind_for
from tests.daemon.conftest import Door, open_door
from tests.parts import node
from tests.parts.caddy import Caddy
from tests.parts.clients import Programs, environment
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, codex_turn, frame, images, picture
from tests.parts.way import Passage, Passing, Way, passes

TIMEOUT_SECONDS = 2.0
"""What impatient clients wait; the picture comes when they have asked again."""
LONG_SECONDS = 60.0
CUT_SECONDS = 3
"""The proxy's patience."""
SIZE = 400_000
"""Bytes of a picture: more than a client has when the connection is cut within its answer."""
AT_ONCE = 8

PROXY = f"""{{
}}
api.example.com {{
	reverse_proxy {{$IMAGE_GATEWAY_ADDRESS}} {{
		transport http {{
			keepalive off
			response_header_timeout {CUT_SECONDS}s
		}}
	}}
}}
"""


# -- the clients -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where a program sends its calls, with which key and how much patience."""

    base_url: str
    secret: str
    seconds: float


Program = Callable[[Address], Awaitable[str | None]]
"""One call of a program; gives its picture, None if its user saw an error."""


async def with_openai(address: Address) -> str | None:
    client = openai.AsyncOpenAI(
        base_url=address.base_url, api_key=address.secret, timeout=address.seconds
    )
    assert client.max_retries == 2
    async with client:
        try:
            answer = await client.images.generate(model="gpt-image-2", prompt="a cat")
        except openai.OpenAIError:
            return None
    assert answer.data is not None
    return answer.data[0].b64_json


async def with_openai_js(address: Address) -> str | None:
    order = {
        "client": {
            "baseURL": address.base_url,
            "apiKey": address.secret,
            "timeout": address.seconds * 1000,
        },
        "calls": [
            {"method": "generate", "parameters": {"model": "gpt-image-2", "prompt": "a cat"}}
        ],
    }
    [seen] = (await node.run("calls.mjs", order))["calls"]
    return seen["data"]["data"][0]["b64_json"] if "data" in seen else None


def with_curl(*options: str) -> Program:
    async def ask(address: Address) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer"
            process = await asyncio.create_subprocess_exec(
                *("curl", "--silent", "--output", str(answer)),
                *("--max-time", str(address.seconds), *options),
                *("--header", f"Authorization: Bearer {address.secret}"),
                *("--json", '{"model": "gpt-image-2", "prompt": "a cat"}'),
                f"{address.base_url}/images/generations",
                env=environment(),
            )
            if await process.wait():
                return None
            data = json.loads(answer.read_bytes() or b"{}").get("data")
            return data[0]["b64_json"] if data else None

    return ask


class Running:
    """The programs that stay up, each of which takes one order at a time."""

    def __init__(self) -> None:
        self._programs = Programs()
        self._locks: dict[str, asyncio.Lock] = {}

    def __getitem__(self, name: str) -> Program:
        do = "respond" if name == "langchain-js" else "generate"

        async def ask(address: Address) -> str | None:
            async with self._locks.setdefault(name, asyncio.Lock()):
                seen = await self._programs[name].ask(
                    {
                        "do": do,
                        "baseURL": address.base_url,
                        "apiKey": address.secret,
                        "model": "gpt-5.5" if do == "respond" else "gpt-image-2",
                        "prompt": "a cat",
                        "pictures": [],
                        "then": None,
                        "stream": False,
                        "retries": None,
                        "seconds": address.seconds,
                        "options": {},
                    }
                )
            return seen["pictures"][0] if seen["pictures"] else None

        return ask

    def close(self) -> None:
        self._programs.close()


OWN: Mapping[str, Program] = {
    "openai": with_openai,
    "openai-js": with_openai_js,
    "curl": with_curl("--retry", "3"),
    "curl-all": with_curl("--retry", "3", "--retry-all-errors"),
}
CLIENTS: Mapping[str, str] = {
    "openai": "openai (Python)",
    "openai-js": "openai (Node)",
    "ai-sdk": "AI SDK",
    "langchain-js": "LangChain JS",
    "curl": "`curl --retry 3`",
    "curl-all": "the same with `--retry-all-errors`",
}
"""The clients, and what the page calls them."""


# -- the faults ------------------------------------------------------------------------------------


def resets(most: int | None) -> Passing:
    """The connection is reset after so many bytes of the answer; None: after all of it."""

    async def passing(passage: Passage) -> None:
        sending = asyncio.create_task(passage.up())
        await passage.down(most)
        await passage.arrived()
        sending.cancel()
        passage.reset()

    return passing


@dataclass(frozen=True)
class Fault:
    """What happens to the first connection of a call; ``most``: bytes of the answer that arrive."""

    name: str
    passing: Passing = passes
    waits: bool = False
    """The picture comes when the client has asked again."""
    seconds: float = LONG_SECONDS
    is_behind_proxy: bool = False
    hangs_up: bool = False


async def resets_before(passage: Passage) -> None:
    """The connection is reset while the upstream works: when the request has arrived there."""
    sending = asyncio.create_task(passage.up())
    await asyncio.wait([sending], timeout=0.5)
    sending.cancel()
    passage.reset()


FAULTS = (
    Fault("nothing"),
    Fault("its time-out ends first", waits=True, seconds=TIMEOUT_SECONDS),
    Fault("a proxy cuts it after 3 s", waits=True, is_behind_proxy=True),
    Fault("reset before the answer", resets_before, waits=True),
    Fault("reset within the answer", resets(100_000)),
    Fault("reset after the answer", resets(None)),
    Fault("the upstream hung up", hangs_up=True),
)


@dataclass(frozen=True)
class Seen:
    """What a call of a program cost, and how its picture came.

    ``calls``: how often the program had to call, 0 if it never got a picture.
    """

    purchases: int
    calls: int

    def __str__(self) -> str:
        return f"{self.purchases}; {('no', 'yes', 'by the next call')[self.calls]}"


ONE = Seen(1, 1)
"""One purchase, and the call gives it."""
NEXT = Seen(1, 2)
"""The client gives up; the program's next equal call gets what was paid for."""
NEVER = Seen(1, 0)
"""One purchase whose outcome nobody knows."""

ODD: Mapping[tuple[str, str], Seen] = {
    # Its time-out is a signal of the program's, which ends all tries.
    ("ai-sdk", "its time-out ends first"): NEXT,
    # An answer that breaks off is an error that it leaves to the program.
    ("openai-js", "reset within the answer"): NEXT,
    # Without --retry-all-errors, curl does not ask again after a connection that broke.
    ("curl", "reset before the answer"): NEXT,
    ("curl", "reset within the answer"): NEXT,
    **{(client, "the upstream hung up"): NEVER for client in CLIENTS},
}
"""Where a client does not simply get its picture."""


def expected(client: str, fault: Fault) -> Seen:
    return ODD.get((client, fault.name), ONE)


def page() -> list[list[str]]:
    """The table as the page has it, its head first."""
    head = ["what happens to a call", *CLIENTS.values()]
    return [head, *([fault.name, *(str(expected(c, fault)) for c in CLIENTS)] for fault in FAULTS)]


class Bench:
    """Measures cells of the table: each has a key, an account and a way of its own."""

    def __init__(
        self, direct: Gateway, gateway: Gateway, plane: Plane, proxy: Caddy, running: Running
    ) -> None:
        self._direct = direct
        self._gateway = gateway
        self._plane = plane
        self._proxy = proxy
        self._running = running
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def measure(self) -> Mapping[tuple[str, str], Seen]:
        cells = [(client, fault) for client in CLIENTS for fault in FAULTS]
        seen = await asyncio.gather(*(self._cell(client, fault) for client, fault in cells))
        return {
            (client, fault.name): each for (client, fault), each in zip(cells, seen, strict=True)
        }

    async def _cell(self, client: str, fault: Fault) -> Seen:
        program = OWN[client] if client in OWN else self._running[client]
        async with AsyncExitStack() as stack:
            # A program that takes one order at a time must not hold the others' turns.
            await stack.enter_async_context(self._turns if client in OWN else AsyncExitStack())
            gateway, port = self._direct, self._direct.port
            if fault.is_behind_proxy:
                gateway, port = self._gateway, self._proxy.port
            way = await stack.enter_async_context(Way(port, fault.passing))
            upstream = await stack.enter_async_context(ScriptedUpstream())
            upstream.script = _script(upstream, way, fault)
            door = await asyncio.to_thread(self._door, gateway, client, upstream)
            address = Address(f"http://127.0.0.1:{way.port}/v1", door.secret, fault.seconds)
            calls = 0
            while calls < (1 if fault.hangs_up else 2):
                calls += 1
                drawn = await program(address)
                if drawn is not None:
                    assert drawn == picture(SIZE)
                    return Seen(len(upstream.calls), calls)
            return Seen(len(upstream.calls), 0)

    def _door(self, gateway: Gateway, client: str, upstream: ScriptedUpstream) -> Door:
        do = "respond" if client == "langchain-js" else "generate"
        return open_door(gateway, self._plane, upstream, kind_for(do))


def _script(upstream: ScriptedUpstream, way: Way, fault: Fault) -> Callable[[Call], Any]:
    async def script(call: Call) -> None:
        if fault.hangs_up:
            return
        if fault.waits:
            await way.again.wait()
        if "responses" not in call.target:
            await call.answer(200, images(data=[{"b64_json": picture(SIZE)}]))
            return
        await call.head(200, {"content-type": "text/event-stream"})
        for event in codex_turn():
            await call.send(frame(event).replace(picture().encode(), picture(SIZE).encode()))

    return script


@pytest.fixture(scope="module")
def proxy(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    """A Caddy that cuts calls short."""
    made = Caddy(
        tmp_path_factory.mktemp("caddy"), PROXY, IMAGE_GATEWAY_ADDRESS=f"127.0.0.1:{gateway.port}"
    ).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def direct(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon whose clients come without a proxy that it trusts."""
    folder = tmp_path_factory.mktemp("direct")
    made = Gateway(folder, shared_plane.reader_url, trusted_proxies="192.0.2.0/24").start()
    yield made
    assert made.stop() == 0, made.words()


@pytest.fixture(scope="module")
def table(
    direct: Gateway, gateway: Gateway, shared_plane: Plane, proxy: Caddy
) -> Iterator[Mapping[tuple[str, str], Seen]]:
    """All cells, measured together."""
    running = Running()
    try:
        yield asyncio.run(Bench(direct, gateway, shared_plane, proxy, running).measure())
    finally:
        running.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_call_costs_one_picture_and_its_program_has_it(
    table: Mapping[tuple[str, str], Seen], client: str, fault: Fault
) -> None:
    assert table[client, fault.name] == expected(client, fault)


# -- clients that are killed -----------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A key, its upstream, and a proxy that a client may use."""

    door: Door
    upstream: ScriptedUpstream
    proxy: Caddy

    def port(self, *, is_behind_proxy: bool) -> int:
        return self.proxy.port if is_behind_proxy else self.door.gateway.port


@pytest.fixture
def stage(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream, proxy: Caddy) -> Stage:
    """A fresh key with one account."""
    return Stage(open_door(gateway, shared_plane, upstream, "openai"), upstream, proxy)


def draws_each(upstream: ScriptedUpstream, size: int = 0, seconds: float = 0) -> None:
    """Every purchase is a picture of its own."""

    async def script(call: Call) -> None:
        number = len(upstream.calls)
        await asyncio.sleep(seconds)
        await call.answer(200, images(data=[{"b64_json": picture(size + 100 + number)}]))

    upstream.script = script


async def killed_while_it_reads(port: int, secret: str) -> None:
    """curl is killed when it has read the beginning of its answer."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--output", str(answer), "--limit-rate", "200k"),
            *("--header", f"Authorization: Bearer {secret}"),
            *("--json", '{"model": "gpt-image-2", "prompt": "a cat"}'),
            f"http://127.0.0.1:{port}/v1/images/generations",
            env=environment(),
        )
        await eventually(lambda: answer.exists() and answer.stat().st_size > 1000)
        process.kill()
        await process.wait()


@pytest.mark.parametrize("again", ["curl", "openai"])
@pytest.mark.parametrize("is_behind_proxy", [False, True], ids=["direct", "behind Caddy"])
async def test_what_a_killed_client_had_begun_to_read_is_there_for_its_program(
    stage: Stage, again: str, *, is_behind_proxy: bool
) -> None:
    """Of an answer that fits no buffer on the way, so that the proxy itself sees the end."""
    draws_each(stage.upstream, 12_000_000)
    port = stage.port(is_behind_proxy=is_behind_proxy)
    await killed_while_it_reads(port, stage.door.secret)
    await stage.door.record(client_left=True)
    address = Address(f"http://127.0.0.1:{port}/v1", stage.door.secret, LONG_SECONDS)
    assert await OWN[again](address) == picture(12_000_101)
    assert len(stage.upstream.calls) == 1
    assert await OWN[again](address) == picture(12_000_102)


# -- many calls, little room -----------------------------------------------------------------------


async def test_ten_equal_calls_of_which_some_were_refused_are_ten_pictures(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The SDK's own waits prove nothing.
    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0.2)
    draws_each(stage.upstream, seconds=0.3)
    door = stage.door
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=4)
    async with door.client(max_retries=200) as client:
        made = await asyncio.gather(
            *(client.images.generate(model="gpt-image-2", prompt="a cat") for _ in range(10))
        )
    pictures = {answer.data[0].b64_json for answer in made if answer.data}
    assert len(pictures) == 10
    assert len(stage.upstream.calls) == 10
    mine = [record for record in door.gateway.records() if record["key_id"] == door.key_id]
    assert any(record["status"] == 429 for record in mine)


@pytest.mark.parametrize("client", ["openai", "openai-js", "curl"])
async def test_a_key_with_one_place_and_one_picture_left_gets_that_picture(
    stage: Stage, client: str
) -> None:
    """Its place is taken and its quota used up by the very call whose picture it comes for."""
    door, upstream = stage.door, stage.upstream
    door.plane.update("keys", {"key_id": door.key_id}, max_concurrency=1)
    async with Way(door.gateway.port) as way:

        async def script(call: Call) -> None:
            door.plane.update("keys", {"key_id": door.key_id}, quota_limit=0)
            await way.again.wait()
            await call.answer(200, images())

        upstream.script = script
        address = Address(f"http://127.0.0.1:{way.port}/v1", door.secret, TIMEOUT_SECONDS)
        assert await OWN[client](address) == picture()
    assert len(upstream.calls) == 1


async def test_curl_that_takes_every_status_for_a_reason_to_ask_again_buys_twice(
    stage: Stage,
) -> None:
    """``--fail`` makes ``--retry-all-errors`` repeat a 400, too: no other client does."""

    async def hangs_up(call: Call) -> None:
        """The connection ends without an answer."""

    stage.upstream.script = hangs_up
    base_url = f"http://127.0.0.1:{stage.door.gateway.port}/v1"
    address = Address(base_url, stage.door.secret, LONG_SECONDS)
    ask = with_curl("--retry", "3", "--retry-all-errors", "--fail", "--retry-delay", "1")
    assert await ask(address) is None
    assert len(stage.upstream.calls) == 2
