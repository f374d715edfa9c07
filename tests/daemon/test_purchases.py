"""What each fault of an upstream costs, counted at the upstream: the table of purchases."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.daemon.conftest import KINDS
from tests.daemon.test_refusals import PROMPT
from tests.parts import purchases
from tests.parts.gateway import Gateway, free_port, post
from tests.parts.plane import Plane
from tests.parts.purchases import DIALECTS, FAULTS, Cost, Fault
from tests.parts.upstream import Call, ScriptedUpstream

KIND = {"openai": "openai", "azure": "azure-v1", "codex": "codex"}
AT_ONCE = 12
"""Calls of faults that answer at once; those that wait do so all together."""


@dataclass(frozen=True)
class Measured:
    """What a fault costs, and the record of its POST."""

    cost: Cost
    record: Mapping[str, Any]


Costs = Mapping[tuple[str, str], Measured]
Send = Callable[[Gateway, str], Awaitable[None]]


class Bench:
    """Measures faults: each with fresh keys that have two fresh accounts, at one upstream."""

    def __init__(self, gateway: Gateway, hasty: Gateway, plane: Plane) -> None:
        self._gateway = gateway
        self._hasty = hasty
        self._plane = plane
        self._upstream = ScriptedUpstream(self._script)
        self._faults: dict[str, Fault] = {}
        self._asked: dict[str, int] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def measure(self) -> Costs:
        """The costs of every fault at every dialect."""
        pairs = [(fault, dialect) for fault in FAULTS for dialect in DIALECTS]
        async with self._upstream:
            costs = await asyncio.gather(*(self._cost(fault, name) for fault, name in pairs))
        return {(fault.name, name): cost for (fault, name), cost in zip(pairs, costs, strict=True)}

    async def _cost(self, fault: Fault, dialect: str) -> Measured:
        once, case = secrets.token_hex(6), secrets.token_hex(6)
        await asyncio.gather(
            self._run(once, fault, dialect, self._post), self._run(case, fault, dialect, self._call)
        )
        asked, repeated, buys = self._asked[once], self._asked[case], fault.buys(dialect)
        record = await self._gateway_for(fault).record(key_id=once)
        return Measured(Cost(asked, asked * buys, repeated * buys), record)

    def _gateway_for(self, fault: Fault) -> Gateway:
        return self._hasty if fault.is_silent else self._gateway

    async def _run(self, case: str, fault: Fault, dialect: str, send: Send) -> None:
        self._faults[case], self._asked[case] = fault, 0
        is_waiting = fault.is_silent or fault.script is purchases.late
        async with contextlib.nullcontext() if is_waiting else self._turns:
            key = await asyncio.to_thread(self._add_accounts, case, dialect)
            await send(self._gateway_for(fault), key)

    def _add_accounts(self, case: str, dialect: str) -> str:
        kind = KINDS[KIND[dialect]]
        root = self._upstream.root
        if self._faults[case].script is None:
            root = f"http://127.0.0.1:{free_port()}"
        names = [f"{case}-{number}" for number in (1, 2)]
        for name in names:
            self._plane.add_account(name, f"{root}/{case}{kind.base}", **kind.row)
        return self._plane.add_key(key_id=case, account_names=names)

    async def _post(self, gateway: Gateway, key: str) -> None:
        reader, writer = await gateway.connect()
        writer.write(post(key, PROMPT))
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()

    async def _call(self, gateway: Gateway, key: str) -> None:
        client = openai.AsyncOpenAI(base_url=gateway.base_url, api_key=key)
        assert client.max_retries == 2
        async with client:
            with contextlib.suppress(openai.OpenAIError):
                await client.images.generate(model="gpt-image-2", prompt="a cat")

    async def _script(self, call: Call) -> None:
        case = call.target.split("/")[1]
        self._asked[case] += 1
        script = self._faults[case].script
        assert script is not None
        await script(call)


@pytest.fixture(scope="module")
def costs(
    shared_plane: Plane, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Costs]:
    """All costs, measured together, because some faults only wait."""
    settings: dict[str, Any] = {f"{name}_seconds": 1 for name in DIALECTS}
    folder = tmp_path_factory.mktemp("hasty")
    hasty = Gateway(folder, shared_plane.reader_url, upstream_idle_seconds=1, **settings).start()
    with pytest.MonkeyPatch.context() as patch:
        # The SDK's own waits prove nothing: only how often it posts.
        patch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0.01)
        yield asyncio.run(Bench(gateway, hasty, shared_plane).measure())
    assert hasty.stop() == 0, hasty.words()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_costs_what_the_table_says(costs: Costs, fault: Fault, dialect: str) -> None:
    measured = costs[fault.name, dialect]
    assert measured.cost == fault.costs[dialect]
    delivered = measured.record["response_image_count"] == 1 and not measured.record["error_code"]
    assert delivered == (fault.name == "a picture")
    assert measured.record["may_be_billed"] == (fault.buys(dialect) and not delivered)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_post_buys_twice_but_behind_a_proxy_of_codex(costs: Costs, dialect: str) -> None:
    twice = {name for (name, of), each in costs.items() if of == dialect and each.cost.post > 1}
    assert twice == ({"502", "504", "520", "522", "524"} if dialect == "codex" else set())
