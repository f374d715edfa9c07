"""The ops port: what it says is so, and it says it to nobody but whoever asks it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from image_gateway import __version__
from image_gateway.demo import postgres
from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, answers


async def ready(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    status, _, body = await gateway.ops("/readyz")
    return status, json.loads(body)


async def metric(gateway: Gateway, line: str) -> float | None:
    """The value of one line of /metrics, None where it is not there."""
    status, headers, body = await gateway.ops("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    for each in body.decode().splitlines():
        name, _, value = each.rpartition(" ")
        if name == line:
            return float(value)
    return None


async def test_a_gateway_with_a_usable_account_is_ready_and_says_how_it_is(
    door: Door, gateway: Gateway
) -> None:
    assert (await door.post(PROMPT))[0] == 200
    status, said = await ready(gateway)
    assert status == 200
    assert said["ready"] is True
    assert said["reasons"] == []
    assert said["version"] == __version__
    assert said["instance"] == f"127.0.0.1:{gateway.ops_port}"
    assert said["accepting"] is True
    assert said["notify"] is True
    assert said["changes_act_within_seconds"] == 1.0
    assert said["slots_shared"] is True
    assert (await door.record())["status"] == 200


async def test_without_a_usable_account_it_is_not_ready_and_says_why(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    status, said = await ready(gateway)
    assert status == 503
    assert said["ready"] is False
    assert "no account is usable" in said["reasons"][0]
    plane.add_account("one", "http://127.0.0.1:9", status="disabled")
    assert (await ready(gateway))[0] == 503
    plane.update("accounts", {"account_name": "one"}, status="active")
    assert (await ready(gateway))[0] == 200
    assert gateway.stop() == 0


async def test_without_notify_it_tells_how_long_a_change_takes(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    """A URL for LISTEN that leads nowhere: the time to live is all there is, and it says so."""
    gateway = make_gateway(
        plane.reader_url,
        direct_database_url="postgresql://postgres@127.0.0.1:1/none",
        grant_ttl_seconds=3,
    ).start()
    _, said = await ready(gateway)
    assert said["notify"] is False
    assert said["changes_act_within_seconds"] == 3.0
    assert said["slots_shared"] is False
    assert gateway.stop() == 0


async def test_an_instance_that_drains_is_not_ready_while_its_last_call_goes_on(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    last = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await ready(gateway))[0] == 200
    assert gateway.process is not None
    gateway.process.terminate()

    async def drains() -> bool:
        status, said = await ready(gateway)
        return status == 503 and said["accepting"] is False

    while not await drains():
        await asyncio.sleep(0.02)
    assert await metric(gateway, f'image_gateway_slots_in_use{{account="{door.account}"}}') == 1
    held.let_go.set()
    assert (await last)[0] == 200
    assert gateway.wait() == 0
    assert (await door.record())["status"] == 200


async def test_ready_while_postgres_is_away_for_as_long_as_what_was_known_counts(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(
            plane.reader_url, grant_ttl_seconds=0.2, grant_max_stale_seconds=8
        ).start()
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        server.kill()
        status, said = await ready(gateway)
        assert (status, said["ready"]) == (200, True)

        async def is_over() -> bool:
            status, said = await ready(gateway)
            return status == 503 and "control plane" in said["reasons"][0]

        while not await is_over():
            await asyncio.sleep(0.1)
        while await metric(gateway, "image_gateway_slots_shared") != 0:
            await asyncio.sleep(0.1)
        server.start()
        while (await ready(gateway))[0] != 200:
            await asyncio.sleep(0.1)
        assert gateway.stop() == 0


async def test_metrics_count_what_happened_with_labels_of_few_values(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.post(b"{"))[0] == 400
    odd = {"error": {"message": "no", "type": "odd", "code": f"code-{door.key_id}"}}
    upstream.script = answers(422, odd)
    assert (await door.post(PROMPT))[0] == 422
    upstream.script = answers(429, {"error": {"message": "slow down"}}, {"retry-after": "60"})
    assert (await door.post(PROMPT))[0] == 429
    await eventually(lambda: len(gateway.records()) == 4)
    count = "image_gateway_requests_total"
    for dialect, status, code in (
        ("codex", 200, ""),
        ("", 400, "invalid_body"),
        ("codex", 422, "upstream_error"),
        ("codex", 429, "upstream_error"),
    ):
        line = (
            f'{count}{{dialect="{dialect}",endpoint="generations",'
            f'error_code="{code}",status="{status}"}}'
        )
        assert await metric(gateway, line) == 1, line
    assert await metric(gateway, "image_gateway_request_seconds_count") == 4
    assert await metric(gateway, 'image_gateway_phase_seconds_count{phase="upstream"}') == 3
    for outcome in ("deliver", "return", "next"):
        line = f'image_gateway_attempts_total{{account="{door.account}",outcome="{outcome}"}}'
        assert await metric(gateway, line) == 1, line
    state = "image_gateway_account_state"
    for name, value in (("cooling", 1), ("usable", 0)):
        line = f'{state}{{account="{door.account}",state="{name}"}}'
        assert await metric(gateway, line) == value
    limit = f'image_gateway_slots_limit{{account="{door.account}"}}'
    assert await metric(gateway, limit) == 3
    assert await metric(gateway, "image_gateway_slots_shared") == 1
    assert await metric(gateway, "image_gateway_waiting") == 0
    assert await metric(gateway, "image_gateway_bytes_in_flight") == 0
    assert await metric(gateway, "image_gateway_log_records_lost_total") == 0
    age = await metric(gateway, "image_gateway_grant_age_seconds")
    assert age is not None
    assert age >= 0
    _, _, body = await gateway.ops("/metrics")
    for secret in (door.secret, door.key_id, "token-of", f"code-{door.key_id}", "a cat"):
        assert secret.encode() not in body
    assert gateway.stop() == 0


async def test_an_account_that_another_process_fills_is_shown_as_full(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    one, other = (make_gateway(plane.reader_url, slot_wait_seconds=20).start() for _ in "ab")
    door = make_door(one, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    beside = Door(other, plane, door.key_id, door.secret, door.account)
    running = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    waiting = asyncio.create_task(beside.post(PROMPT))
    full = f'image_gateway_account_state{{account="{door.account}",state="full"}}'
    while await metric(other, full) != 1:
        await asyncio.sleep(0.02)
    assert await metric(other, "image_gateway_waiting") == 1
    held.let_go.set()
    assert (await running)[0] == (await waiting)[0] == 200
    while await metric(other, full) != 0:
        await asyncio.sleep(0.02)
    assert (await other.record())["wait_ms"] > 0
    assert one.stop() == other.stop() == 0


async def test_each_port_knows_its_own_paths_only(door: Door, gateway: Gateway) -> None:
    for path in ("/metrics", "/readyz", "/status"):
        status, _, body = await door.post(b"", path)
        assert status == 404
        check_error(body, "unknown_path")
    for path in ("/v1/images/generations", "/healthz", "/", "/metrics/"):
        status, _, body = await gateway.ops(path)
        assert status == 404
        check_error(body, "unknown_path")


async def test_the_ops_port_is_read_with_get(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
    writer.write(post(None, b"{}", "/metrics"))
    status, headers, body = parse(await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert status == 405
    assert headers["allow"] == "GET"
    check_error(body, "method_not_allowed")
