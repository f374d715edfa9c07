"""Three real daemons on one Postgres that want the same slots: limits, turns, refusals, outages."""

import asyncio
import contextlib
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest

from image_gateway.demo import postgres
from tests.daemon.conftest import Door, make_door
from tests.daemon.test_ops import metric, until_metric
from tests.daemon.test_refusals import PROMPT, Held, check_error, check_refused
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, draws

Answer = tuple[int, dict[str, str], bytes]

FREED_SECONDS: Final = 3.0
"""How soon a slot that came free in one process is had by another: a round, and much to spare."""
SETTLE_SECONDS: Final = 2.0
"""How long a process admits nobody once it has its lost connection again."""


# -- what stands around the daemons ----------------------------------------------------------------


@dataclass(frozen=True)
class Street:
    """Daemons with one control plane."""

    plane: Plane
    gateways: tuple[Gateway, ...]

    def add_account(self, upstream: ScriptedUpstream, limit: int) -> str:
        name = f"account-{secrets.token_hex(4)}"
        self.plane.add_account(name, upstream.url, image_max_concurrency=limit)
        return name

    def add_key(self, accounts: list[str], **columns: Any) -> list[Door]:
        """A key; its door at each of the daemons."""
        key_id = f"key-{secrets.token_hex(4)}"
        secret = self.plane.add_key(key_id=key_id, account_names=accounts, **columns)
        return [Door(each, self.plane, key_id, secret, accounts[0]) for each in self.gateways]

    def records(self, key_ids: set[str]) -> list[dict[str, Any]]:
        return [r for each in self.gateways for r in each.records() if r["key_id"] in key_ids]


def start(gateways: Sequence[Gateway]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(Gateway.start, gateways))


def stop(gateways: Sequence[Gateway]) -> list[int]:
    """Their exit codes."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(Gateway.stop, gateways))


@pytest.fixture(scope="module")
def street(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """Two daemons with patience, and one with little of it and a short line."""
    plane = Plane(postgres_url)
    plane.create()
    options: list[dict[str, Any]] = [
        {"slot_wait_seconds": 18, "slot_queue": 150},
        {"slot_wait_seconds": 18},
        {"slot_wait_seconds": 0.5, "slot_queue": 5},
    ]
    gateways = [
        Gateway(tmp_path_factory.mktemp("gateway"), plane.reader_url, **each) for each in options
    ]
    try:
        start(gateways)
        yield Street(plane, tuple(gateways))
        assert stop(gateways) == [0, 0, 0]
    finally:
        for each in gateways:
            each.kill()
        plane.drop()


@pytest.fixture(scope="module")
def narrow(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """One daemon whose line holds two, and whose calls may wait for three seconds in all."""
    plane = Plane(postgres_url)
    plane.create()
    gateway = Gateway(
        tmp_path_factory.mktemp("narrow"),
        plane.reader_url,
        slot_wait_seconds=60,
        slot_queue=2,
        total_seconds=33,
    )
    try:
        yield Street(plane, (gateway.start(),))
        assert gateway.stop() == 0
    finally:
        gateway.kill()
        plane.drop()


class Tally:
    """An upstream that counts the calls that run at once: by account, and by account and daemon.

    A call's prompt begins with the name of its daemon.  A call counts until its answer begins or
    the gateway is gone, which is never longer than its slot is held.
    """

    def __init__(self, chance: random.Random, seconds: float) -> None:
        self._chance = chance
        self._seconds = seconds
        self._running: Counter[str] = Counter()
        self._running_by_daemon: Counter[tuple[str, str]] = Counter()
        self.most: Counter[str] = Counter()
        self.most_by_daemon: Counter[tuple[str, str]] = Counter()

    @property
    def running(self) -> int:
        return self._running.total()

    def forget(self) -> None:
        """Count the most anew, from what runs now."""
        self.most = +self._running
        self.most_by_daemon = +self._running_by_daemon

    async def __call__(self, call: Call) -> None:
        # A connection that was closed before this one was opened is seen to be so first.
        for _ in range(10):
            await asyncio.sleep(0)
        account = call.headers["authorization"].removeprefix("Bearer token-of-")
        both = account, call.json()["prompt"].split()[0]
        self._running[account] += 1
        self._running_by_daemon[both] += 1
        self.most[account] = max(self.most[account], self._running[account])
        self.most_by_daemon[both] = max(self.most_by_daemon[both], self._running_by_daemon[both])
        gone = asyncio.create_task(call.gone())
        try:
            await asyncio.wait([gone], timeout=self._chance.random() * self._seconds)
        finally:
            has_left = gone.done()
            gone.cancel()
            self._running[account] -= 1
            self._running_by_daemon[both] -= 1
        if not has_left:
            await draws(call)


def body_of(words: str) -> bytes:
    return json.dumps({"prompt": words}).encode()


async def leave(door: Door, body: bytes, seconds: float) -> None:
    """A client that goes away after so long, with its answer or without."""
    _, writer = await door.gateway.connect()
    writer.write(post(door.secret, body))
    await asyncio.sleep(seconds)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def until_waiting(gateway: Gateway, count: int) -> None:
    await until_metric(gateway, "image_gateway_waiting", count)


async def until_shared(gateways: tuple[Gateway, ...], *, is_shared: bool) -> None:
    async def look() -> bool:
        found = [await metric(each, "image_gateway_slots_shared") for each in gateways]
        return found == [float(is_shared)] * len(gateways)

    await eventually(look)


def check_busy(answer: Answer) -> None:
    """The honest 429 of a call for which no slot came free."""
    status, headers, body = answer
    assert status == 429
    assert check_error(body, "account_concurrency")["type"] == "rate_limit_error"
    assert 1 <= int(headers["retry-after"]) <= 600
    assert 0 < int(headers["retry-after-ms"]) <= int(headers["retry-after"]) * 1000


class Line:
    """Calls that are sent one after another, each when the one before it is seen to wait."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.tasks: dict[str, asyncio.Task[Answer]] = {}

    async def put(self, door: Door, *names: str) -> None:
        waiting = await metric(self._gateway, "image_gateway_waiting")
        assert waiting is not None
        for name in names:
            self.tasks[name] = asyncio.create_task(door.post(body_of(f"it {name}")))
        await until_waiting(self._gateway, int(waiting) + len(names))

    async def end(self) -> None:
        """Its clients leave."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await until_waiting(self._gateway, 0)


class Steps:
    """An upstream that holds its calls and answers them one by one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._calls: list[Call] = []

    async def __call__(self, call: Call) -> None:
        self._calls.append(call)
        self.names.append(call.json()["prompt"].split()[-1])
        await call.gone()

    async def answer(self) -> None:
        """Let the oldest have its picture."""
        await draws(self._calls.pop(0))

    async def finish(self) -> None:
        """Let all that are here have their pictures: a call goes on without its client."""
        while self._calls:
            await self.answer()

    async def step(self) -> str:
        """Answer the oldest; the next to arrive."""
        count = len(self.names)
        await self.answer()
        await eventually(lambda: len(self.names) > count)
        return self.names[-1]


class Clients:
    """Three clients of each of three daemons, each of a key of its own, that never pause."""

    def __init__(self, keys: list[list[Door]]) -> None:
        self._keys = keys
        self._pairs = [(at, number) for at in range(3) for number in range(3)]
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(*pair)) for pair in self._pairs]
        self.phase = "before"
        self.seen: Counter[tuple[str, int, int, int]] = Counter()
        """What each client saw: by the phase in which its call began, daemon, key and status."""

    async def _run(self, at: int, number: int) -> None:
        while not self._stop.is_set():
            began = self.phase
            answer = await self._keys[number][at].post(body_of(f"daemon-{at} {began}"))
            self.seen[began, at, number, answer[0]] += 1
            if answer[0] == 429:
                check_busy(answer)

    async def all_served(self, times: int) -> None:
        """Until each client had so many pictures in this phase."""
        phase = self.phase
        await eventually(
            lambda: all(self.seen[phase, *pair, 200] >= times for pair in self._pairs), 40
        )

    async def end(self) -> Counter[int]:
        """Let them go; the counts of the statuses."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        found: Counter[int] = Counter()
        for (_, _, _, status), count in self.seen.items():
            found[status] += count
        return found


# -- under load ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1])
async def test_a_storm_over_three_daemons_passes_no_limit_and_starves_nobody(
    street: Street, upstream: ScriptedUpstream, seed: int
) -> None:
    """240 calls of twelve keys on three accounts; every tenth client leaves at some moment."""
    chance = random.Random(seed)
    limits = {street.add_account(upstream, limit): limit for limit in (1, 2, 3)}
    keys = [street.add_key(chance.sample(list(limits), chance.randrange(1, 4))) for _ in range(12)]
    upstream.script = tally = Tally(chance, 0.06)
    seen: dict[tuple[int, str], Counter[int]] = {}
    answers: list[Answer] = []
    left = 0

    async def one(number: int) -> None:
        nonlocal left
        key, at = keys[number % len(keys)], chance.randrange(3)
        door = key[at]
        body = body_of(f"daemon-{at} call-{number}")
        await asyncio.sleep(chance.random() * 2)
        if number % 10 == 7:
            left += 1
            await leave(door, body, chance.random())
            return
        answer = await door.post(body)
        answers.append(answer)
        seen.setdefault((at, door.key_id), Counter())[answer[0]] += 1

    await asyncio.gather(*(one(number) for number in range(240)))
    assert tally.most == limits, "a limit was passed, or never reached"
    by_daemon, by_key = [Counter[int]() for _ in range(3)], Counter[str]()
    for (at, key_id), counts in seen.items():
        by_daemon[at] += counts
        by_key[key_id] += counts[200]
    assert set(by_daemon[0]) | set(by_daemon[1]) == {200}, "they wait for long enough"
    assert set(by_daemon[2]) == {200, 429}
    assert min(counts[200] for counts in by_daemon) > 0
    assert len(by_key) == len(keys)
    assert min(by_key.values()) > 0, "a key was starved"
    for answer in answers:
        if answer[0] != 200:
            check_busy(answer)
    key_ids = {doors[0].key_id for doors in keys}
    await eventually(lambda: len(street.records(key_ids)) == 240)
    records = street.records(key_ids)
    total = sum(by_daemon, Counter())
    found = Counter(record["status"] for record in records if not record["client_left"])
    # One that left may have had its answer on the way.
    for status, count in total.items():
        assert count <= found[status] <= count + left
    for record in records:
        assert record["wait_ms"] is None or 0 <= record["wait_ms"] <= record["total_ms"] + 1
        if record["status"] == 429:
            assert record["error_code"] == "account_concurrency"
            assert (record["attempts"], record["may_be_billed"]) == ([], False)
            assert record["usage"] is None
        if record["status"] == 200:
            assert record["account_name"] in limits
    await eventually(lambda: upstream.open_connections == 0)


async def test_a_lowered_limit_holds_for_new_calls_of_all_three(
    street: Street, upstream: ScriptedUpstream
) -> None:
    chance = random.Random(3)
    account = street.add_account(upstream, 3)
    keys = [street.add_key([account]) for _ in range(4)]
    upstream.script = before = Tally(chance, 0.04)
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()
    under_way: dict[int, None] = {}
    number = 0

    async def load(at: int, key: list[Door]) -> None:
        nonlocal number
        while not is_over.is_set():
            number += 1
            mine = number
            under_way[mine] = None
            statuses[(await key[at].post(body_of(f"daemon-{at} {mine}")))[0]] += 1
            del under_way[mine]

    async def served(count: int) -> None:
        goal = statuses[200] + count
        await eventually(lambda: statuses[200] >= goal)

    load_tasks = [asyncio.create_task(load(at, key)) for at in range(3) for key in keys]
    await served(20)
    assert before.most[account] == 3
    street.plane.update("accounts", {"account_name": account}, image_max_concurrency=1)
    # A call keeps the limit that it came with; of those that came with three none is left.
    last = number
    await eventually(lambda: min(under_way, default=last + 1) > last)
    await eventually(lambda: before.running <= 1)
    upstream.script = after = Tally(chance, 0.04)
    await served(12)
    assert after.most[account] == 1
    street.plane.update("accounts", {"account_name": account}, image_max_concurrency=2)
    await eventually(lambda: after.most[account] == 2)
    is_over.set()
    await asyncio.gather(*load_tasks)
    assert after.most[account] == 2
    assert set(statuses) <= {200, 429}
    key_ids = {doors[0].key_id for doors in keys}
    await eventually(lambda: len(street.records(key_ids)) == statuses.total())
    assert Counter(record["status"] for record in street.records(key_ids)) == statuses


async def test_the_slots_of_a_killed_daemon_are_soon_had_by_another(
    street: Street, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    doomed = make_gateway(street.plane.reader_url).start()
    account = street.add_account(upstream, 3)
    key = street.add_key([account])
    door = Door(doomed, street.plane, key[0].key_id, key[0].secret, account)
    upstream.script = held = Held()
    cut = [asyncio.create_task(door.post(PROMPT)) for _ in range(3)]
    for _ in cut:
        await asyncio.wait_for(held.arrived.acquire(), 10)
    check_busy(await key[2].post(PROMPT))
    waiting = [asyncio.create_task(each.post(PROMPT)) for each in (key[0], key[1], key[0], key[1])]
    await until_waiting(street.gateways[0], 2)
    await until_waiting(street.gateways[1], 2)
    assert len(upstream.calls) == 3
    doomed.kill()
    began = time.monotonic()
    for _ in range(3):
        await asyncio.wait_for(held.arrived.acquire(), FREED_SECONDS)
    assert time.monotonic() - began < FREED_SECONDS
    # Three, and not one more.
    check_busy(await key[2].post(PROMPT))
    assert len(upstream.calls) == 6
    held.let_go.set()
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200] * 4
    await asyncio.gather(*cut, return_exceptions=True)
    await eventually(lambda: len(street.records({door.key_id})) == 6)
    records = street.records({door.key_id})
    assert Counter(record["status"] for record in records) == {200: 4, 429: 2}
    assert all(record["wait_ms"] > 0 for record in records if record["status"] == 200)


async def test_postgres_killed_under_load_costs_no_known_key_an_answer(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    """Within the outage each daemon keeps to the limits by its own count; after it all together."""
    chance = random.Random(20261121)
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        options = {"grant_ttl_seconds": 1, "slot_wait_seconds": 15}
        street = Street(plane, tuple(make_gateway(plane.reader_url, **options) for _ in range(3)))
        start(street.gateways)
        limits = {street.add_account(upstream, limit): limit for limit in (1, 2)}
        keys = [street.add_key(list(limits)) for _ in range(3)]
        upstream.script = shared = Tally(chance, 0.05)
        # Known to all before anything happens.
        for at, door in [pair for doors in keys for pair in enumerate(doors)]:
            assert (await door.post(body_of(f"daemon-{at} first")))[0] == 200
        clients = Clients(keys)
        await clients.all_served(1)
        await eventually(lambda: shared.most == limits)
        upstream.script = alone = Tally(chance, 0.05)
        await asyncio.to_thread(server.kill)
        clients.phase = "outage"
        await until_shared(street.gateways, is_shared=False)
        await clients.all_served(3)
        for gateway in street.gateways:
            status, headers, body = await Door(gateway, plane, "", "sk-stranger", "").post(PROMPT)
            assert status == 503
            assert int(headers["retry-after"]) > 0
            check_error(body, "control_plane_unavailable")
        clients.phase = "return"
        await asyncio.to_thread(server.start)
        await until_shared(street.gateways, is_shared=True)
        # Whatever was admitted by one count alone has ended, long before the last of them admits.
        await asyncio.sleep(SETTLE_SECONDS)
        upstream.script = again = Tally(chance, 0.05)
        await eventually(lambda: not alone.running)
        again.forget()
        clients.phase = "after"
        await clients.all_served(1)
        await eventually(lambda: again.most == limits)
        statuses = await clients.end()
        assert again.most == shared.most == limits
        for (account, _), most in alone.most_by_daemon.items():
            assert most <= limits[account]
        assert set(statuses) <= {200, 429}, clients.seen
        key_ids = {doors[0].key_id for doors in keys}
        statuses[200] += 9
        await eventually(lambda: len(street.records(key_ids)) == statuses.total())
        assert Counter(record["status"] for record in street.records(key_ids)) == statuses
        assert stop(street.gateways) == [0, 0, 0]


# -- whose turn it is ------------------------------------------------------------------------------


async def test_a_key_with_a_hundred_waiting_calls_does_not_delay_a_key_with_one(
    street: Street, upstream: ScriptedUpstream
) -> None:
    account = street.add_account(upstream, 1)
    greedy, lone = street.add_key([account])[0], street.add_key([account])[0]
    upstream.script = steps = Steps()
    line = Line(street.gateways[0])
    first = asyncio.create_task(greedy.post(body_of("it first")))
    await eventually(lambda: steps.names)
    await line.put(greedy, *(f"greedy-{number}" for number in range(100)))
    await line.put(lone, "lone")
    order = [await steps.step() for _ in range(2)]
    assert "lone" in order
    assert (await first)[0] == 200
    await line.end()
    await steps.finish()
    record = await lone.record()
    # The lone call may still have been in progress when its client left.
    assert record["wait_ms"] > 0
    await eventually(lambda: len(street.records({greedy.key_id})) == 101)
    records = street.records({greedy.key_id})
    assert (
        sum(record["attempts"] == [] for record in records) == len(records) - len(steps.names) + 1
    )
    await eventually(lambda: upstream.open_connections == 0)


async def test_a_waiting_call_says_in_its_record_how_long_it_waited(
    street: Street, upstream: ScriptedUpstream
) -> None:
    account = street.add_account(upstream, 1)
    door = street.add_key([account])[1]
    upstream.script = steps = Steps()
    first = asyncio.create_task(door.post(body_of("it first")))
    await eventually(lambda: steps.names)
    line = Line(door.gateway)
    began = time.monotonic()
    await line.put(door, "second")
    waits_since = time.monotonic()
    await asyncio.sleep(0.4)
    least = time.monotonic() - waits_since
    assert await steps.step() == "second"
    most = time.monotonic() - began
    first_id = (await first)[1]["x-request-id"]
    await steps.answer()
    status, headers, _ = await line.tasks["second"]
    assert status == 200
    record = await door.record(request_id=headers["x-request-id"])
    assert least * 1000 - 20 <= record["wait_ms"] <= most * 1000 + 20
    assert record["wait_ms"] <= record["total_ms"]
    assert (await door.record(request_id=first_id))["wait_ms"] < 200
    await line.end()


async def test_a_client_that_leaves_while_it_waits_leaves_its_place_at_once(
    street: Street, upstream: ScriptedUpstream
) -> None:
    account = street.add_account(upstream, 1)
    door, other = street.add_key([account])[0], street.add_key([account])[0]
    upstream.script = steps = Steps()
    first = asyncio.create_task(other.post(body_of("it first")))
    await eventually(lambda: steps.names)
    line = Line(door.gateway)
    _, writer = await door.gateway.connect()
    writer.write(post(door.secret, body_of("it leaver")))
    await until_waiting(door.gateway, 1)
    await line.put(other, "next")
    began = time.monotonic()
    writer.close()
    await until_waiting(door.gateway, 1)
    record = await door.record()
    assert time.monotonic() - began < 1
    assert (record["status"], record["client_left"]) == (None, True)
    assert (record["error_code"], record["error_source"]) == ("client_left", "client")
    assert record["attempts"] == []
    assert not record["may_be_billed"]
    assert record["wait_ms"] > 0
    assert await steps.step() == "next"
    assert (await first)[0] == 200
    await line.end()
    assert steps.names == ["first", "next"]


async def test_a_key_that_fills_the_line_loses_its_newest_call_to_a_newcomer(
    narrow: Street, upstream: ScriptedUpstream
) -> None:
    account = narrow.add_account(upstream, 1)
    [greedy], [newcomer] = narrow.add_key([account]), narrow.add_key([account])
    upstream.script = steps = Steps()
    first = asyncio.create_task(greedy.post(body_of("it first")))
    await eventually(lambda: steps.names)
    line = Line(greedy.gateway)
    await line.put(greedy, "second")
    await line.put(greedy, "third")
    began = time.monotonic()
    refused = await greedy.post(body_of("it fourth"))
    assert time.monotonic() - began < 1
    check_busy(refused)
    await check_refused(greedy, refused, 429, "account_concurrency")
    waits = asyncio.create_task(newcomer.post(body_of("it newcomer")))
    third = await line.tasks["third"]
    check_busy(third)
    await check_refused(greedy, third, 429, "account_concurrency")
    assert (await greedy.record(request_id=third[1]["x-request-id"]))["wait_ms"] > 0
    assert [await steps.step(), await steps.step()] == ["newcomer", "second"]
    assert [(await first)[0], (await waits)[0]] == [200, 200]
    await line.end()
    assert (await newcomer.record())["status"] == 200


async def test_a_wait_ends_while_time_is_left_for_an_attempt(
    narrow: Street, upstream: ScriptedUpstream
) -> None:
    """Of 33 seconds in all 30 are an attempt's, so that three remain to wait in."""
    account = narrow.add_account(upstream, 1)
    [door] = narrow.add_key([account])
    upstream.script = held = Held()
    first = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    began = time.monotonic()
    answer = await door.post(PROMPT)
    seconds = time.monotonic() - began
    check_busy(answer)
    await check_refused(door, answer, 429, "account_concurrency")
    record = await door.record(status=429)
    assert 2.8 < seconds < 4.5
    assert 2800 < record["wait_ms"] < 4500
    assert await metric(door.gateway, "image_gateway_waiting") == 0
    held.let_go.set()
    assert (await first)[0] == 200
    assert len(upstream.calls) == 1


async def test_a_line_of_a_hundred_still_names_a_time_within_ten_minutes(
    street: Street, upstream: ScriptedUpstream
) -> None:
    """A client sleeps for as long as it is told; more than a whole call's time helps nobody."""
    account = street.add_account(upstream, 1)
    door = street.add_key([account])[1]
    upstream.script = steps = Steps()
    first = asyncio.create_task(door.post(body_of("it first")))
    await eventually(lambda: steps.names)
    line = Line(door.gateway)
    await line.put(door, *(str(number) for number in range(100)))
    refused = await door.post(PROMPT)
    await line.end()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await steps.finish()
    await eventually(lambda: len(street.records({door.key_id})) == 102)
    await check_refused(door, refused, 429, "account_concurrency")
    check_busy(refused)


async def test_calls_without_a_pause_find_the_slots_of_those_before_them(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    """There is always somebody to serve, and what the others gave back is free all the same."""
    gateway = make_gateway(plane.reader_url, slot_wait_seconds=0).start()
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=24)

    async def one_after_the_other() -> None:
        for _ in range(40):
            assert (await door.post(PROMPT))[0] == 200

    await asyncio.gather(*(one_after_the_other() for _ in range(24)))
    await eventually(lambda: len(gateway.records()) == 24 * 40)
    assert {record["status"] for record in gateway.records()} == {200}
    assert gateway.stop() == 0
