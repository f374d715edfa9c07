"""What happens when something fails: one test for each line of the table in systemd/README.md."""

import asyncio
import json
import resource
import signal
from collections.abc import Callable
from typing import Any

from image_gateway.demo import postgres
from tests.daemon.conftest import Door, make_door, open_door
from tests.daemon.test_failover import error, make_pair
from tests.daemon.test_ops import metric, ready, until_metric
from tests.daemon.test_ops import until as until_status
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.edge.relay import Relay
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws, picture, streams

Maker = Callable[..., Gateway]
Answer = tuple[int, dict[str, str], bytes]
EDIT = json.dumps(
    {"prompt": "a cat", "images": [{"image_url": f"data:image/png;base64,{picture(3_000_000)}"}]}
).encode()


async def until(door: Door, status: int, body: bytes = PROMPT) -> Answer:
    """Calls until the answer has this status."""

    async def answered() -> Answer | None:
        answer: Answer = await door.post(body)
        return answer if answer[0] == status else None

    answer = await eventually(answered)
    assert answer is not None
    return answer


async def held_call(door: Door, held: Held) -> "asyncio.Task[Answer]":
    """A call that has arrived at the upstream and is held there."""
    call = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    return call


async def set_slots(door: Door, slots: int) -> None:
    """Change an account's slots, and wait until its gateway has read the change.

    An account that has changed and was not read since serves no call in an outage.
    """
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=slots)

    def is_read(found: dict[str, Any]) -> bool:
        limits = {each["account_name"]: each["slots_limit"] for each in found["accounts"]}
        return bool(limits.get(door.account) == slots)

    await until_status(door.gateway, is_read)


async def test_postgres_is_away(make_gateway: Maker, upstream: ScriptedUpstream) -> None:
    """Running calls and known keys go on, by this process's own count; a stranger gets 503."""
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(plane.reader_url, grant_ttl_seconds=0.2).start()
        door = make_door(gateway, plane, upstream)
        await set_slots(door, 2)
        limited = make_door(gateway, plane, upstream, max_concurrency=1)
        assert (await limited.post(PROMPT))[0] == 200
        upstream.script = held = Held()
        running = await held_call(door, held)
        server.kill()
        second, third = await held_call(door, held), await held_call(limited, held)
        for full, code in ((door, "account_concurrency"), (limited, "key_concurrency")):
            status, _, body = await full.post(PROMPT)
            assert status == 429, "the limit holds in the outage, too"
            check_error(body, code)
        held.let_go.set()
        assert [(await each)[0] for each in (running, second, third)] == [200, 200, 200]
        stranger = Door(gateway, plane, "none", "sk-stranger", "none")
        status, headers, body = await stranger.post(PROMPT)
        assert status == 503
        assert int(headers["retry-after"]) > 0
        check_error(body, "control_plane_unavailable")
        await until_metric(gateway, "image_gateway_slots_shared", 0)
        assert (await ready(gateway))[0] == 200
        assert gateway.stop() == 0
        assert [r["status"] for r in gateway.records()].count(200) == 4


async def test_postgres_falls_silent(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """It hangs, or its host is gone, and nobody says so: the same, after seconds of waiting."""
    async with Relay(plane.reader_url) as relay:
        gateway = make_gateway(relay.url, grant_ttl_seconds=0.2, slot_wait_seconds=20)
        await asyncio.to_thread(gateway.start)
        door = make_door(gateway, plane, upstream)
        await set_slots(door, 2)
        upstream.script = held = Held()
        running = await held_call(door, held)
        relay.stall()
        second = asyncio.create_task(door.post(PROMPT))
        await asyncio.wait_for(held.arrived.acquire(), 15)
        held.let_go.set()
        assert (await running)[0] == (await second)[0] == 200
        assert await metric(gateway, "image_gateway_slots_shared") == 0
        assert gateway.process is not None
        assert await asyncio.to_thread(gateway.stop) == 0
    assert [record["status"] for record in gateway.records()] == [200, 200]


async def test_postgres_is_away_for_too_long(
    make_gateway: Maker, upstream: ScriptedUpstream
) -> None:
    """Running calls go on to their end; nothing new is admitted past the stale age."""
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(
            plane.reader_url, grant_ttl_seconds=0.2, grant_max_stale_seconds=2
        ).start()
        door = make_door(gateway, plane, upstream)
        upstream.script = held = Held()
        running = await held_call(door, held)
        server.kill()
        upstream.script = draws
        _, _, body = await until(door, 503)
        check_error(body, "control_plane_unavailable")
        held.let_go.set()
        assert (await running)[0] == 200
        assert gateway.stop() == 0
        assert gateway.records()[-1]["status"] == 200


async def test_postgres_is_back(make_gateway: Maker, upstream: ScriptedUpstream) -> None:
    """Without a restart: a running call has its lock again, and the limit holds over processes."""
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateways = [make_gateway(plane.reader_url, grant_ttl_seconds=0.2).start() for _ in "ab"]
        doors = [make_door(gateways[0], plane, upstream)]
        doors.append(Door(gateways[1], plane, doors[0].key_id, doors[0].secret, doors[0].account))
        for door in doors:
            await set_slots(door, 1)
        assert [(await door.post(PROMPT))[0] for door in doors] == [200, 200]
        upstream.script = held = Held()
        running = await held_call(doors[0], held)
        server.kill()
        for gateway in gateways:
            await until_metric(gateway, "image_gateway_slots_shared", 0)
        server.start()
        for gateway in gateways:
            await until_metric(gateway, "image_gateway_slots_shared", 1)
        calls = len(upstream.calls)
        status, _, body = await doors[1].post(PROMPT)
        assert status == 429
        check_error(body, "account_concurrency")
        assert len(upstream.calls) == calls
        held.let_go.set()
        assert (await running)[0] == 200
        await until(doors[1], 200)
        for gateway in gateways:
            assert gateway.stop() == 0
        assert gateways[1].records()[-1]["status"] == 200


async def test_one_account_fails(gateway: Gateway, shared_plane: Plane) -> None:
    """The call goes to the next account; new ones leave the failed account alone for a while."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        first.script = answers(429, error("rate_limit"), {"retry-after": "60"})
        assert (await pair.post(PROMPT))[0] == 200
        record = await pair.record()
        assert [attempt["action"] for attempt in record["attempts"]] == ["next", "deliver"]
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (1, 2)


async def test_one_account_breaks_off(gateway: Gateway, shared_plane: Plane) -> None:
    """A call that was sent and lost is never sent again; the next one is served."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)

        async def cuts(call: Call) -> None:
            call.writer.transport.abort()

        first.script = cuts
        status, headers, body = await pair.post(PROMPT)
        assert status == 504
        assert headers["x-should-retry"] == "false"
        check_error(body, "outcome_unknown")
        assert pair.counts == (1, 0)
        assert (await pair.record())["may_be_billed"] is True
        first.script = draws
        # The same call is warned once that the lost one may be billed.
        assert [(await pair.post(PROMPT))[0] for _ in range(2)] == [400, 200]
        assert sum(pair.counts) == 2


async def test_all_accounts_fail(gateway: Gateway, shared_plane: Plane) -> None:
    """One answer about all of them, with the wait, until one is well again."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        first.script = answers(403, error("forbidden"))
        second.script = answers(429, error("rate_limit"), {"retry-after": "2"})
        status, headers, body = await pair.post(PROMPT)
        assert (status, headers["retry-after"]) == (429, "2")
        assert json.loads(body)["error"]["code"] == "rate_limit"
        status, headers, body = await pair.post(PROMPT)
        assert status == 429
        assert 0 < int(headers["retry-after"]) <= 2
        check_error(body, "rate_limit")
        assert pair.counts == (1, 1)
        second.script = draws
        await until(pair, 200)
        assert pair.counts == (1, 2)
        await eventually(lambda: [r for r in gateway.records() if r["key_id"] == pair.key_id][2:])


def small_files(limit: int) -> Callable[[], None]:
    """No file grows beyond ``limit`` bytes: for a program that is what a full disk is."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


async def test_the_disk_is_full(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """Bodies that need the disk get 503, others are served, made pictures are delivered; records
    that cannot be written are counted.
    """
    gateway = make_gateway(plane.reader_url, memory_budget_bytes="64 MiB").start(
        preexec_fn=small_files(4096)
    )
    door = make_door(gateway, plane, upstream)
    status, headers, body = await door.post(EDIT, "/v1/images/edits")
    assert status == 503
    assert int(headers["retry-after"]) > 0
    check_error(body, "overloaded")
    assert upstream.calls == []
    for _ in range(12):
        assert (await door.post(PROMPT))[0] == 200
    drawer = open_door(gateway, plane, upstream, "codex-responses")
    big = {"type": "image_generation_call", "result": picture(6_000_000)}
    upstream.script = streams(
        [
            {"type": "response.output_item.done", "item": big},
            {"type": "response.completed", "response": {"output": []}},
        ]
    )
    status, _, body = await drawer.post(PROMPT)
    assert status == 200
    assert len(body) > 6_000_000
    await eventually(lambda: metric(gateway, "image_gateway_log_records_lost_total"))
    written = gateway.records()
    assert written[0]["error_code"] == "overloaded"
    assert gateway.stop() == 0
    lost = 14 - len(written)
    assert lost > 0
    assert all(record["status"] in {200, 503} for record in written)


async def test_one_process_is_killed(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """Its clients see a broken connection; its slots are free at once for the other process, and a
    call that waits there is served.
    """
    one, other = (make_gateway(plane.reader_url, slot_wait_seconds=20).start() for _ in "ab")
    door = make_door(one, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    beside = Door(other, plane, door.key_id, door.secret, door.account)
    upstream.script = held = Held()
    reader, writer = await one.connect()
    writer.write(post(door.secret, PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    upstream.script = draws
    waiting = asyncio.create_task(beside.post(PROMPT))
    await until_metric(other, "image_gateway_waiting", 1)
    assert one.process is not None
    one.process.send_signal(signal.SIGKILL)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (await asyncio.wait_for(waiting, 10))[0] == 200
    assert one.records() == []
    record = await other.record()
    assert record["status"] == 200
    assert record["wait_ms"] > 0
    assert other.stop() == 0


async def test_one_process_stops(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """Its running calls end as ever, and hold their slots until then, while the other serves."""
    one, other = (make_gateway(plane.reader_url).start() for _ in "ab")
    door = make_door(one, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    beside = Door(other, plane, door.key_id, door.secret, door.account)
    upstream.script = held = Held()
    running = await held_call(door, held)
    assert one.process is not None
    one.process.terminate()

    async def drains() -> bool:
        return not (await ready(one))[1]["accepting"]

    await eventually(drains)
    status, _, body = await beside.post(PROMPT)
    assert status == 429
    check_error(body, "account_concurrency")
    held.let_go.set()
    assert (await running)[0] == 200
    upstream.script = draws
    await until(beside, 200)
    assert one.wait() == 0
    assert [record["status"] for record in one.records()] == [200]
    assert other.stop() == 0
