"""The ops port: what it says is so, and it says it to nobody but whoever asks it."""

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from image_gateway import __version__
from image_gateway.demo import postgres
from image_gateway.ops.server import MOST_CONNECTIONS
from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.edge.server import Server
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, images


async def ready(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    status, _, body = await gateway.ops("/readyz")
    return status, json.loads(body)


async def status(gateway: Gateway) -> dict[str, Any]:
    """What /status.json tells."""
    code, headers, body = await gateway.ops("/status.json")
    assert code == 200
    assert headers["content-type"] == "application/json"
    found: dict[str, Any] = json.loads(body)
    return found


async def until(gateway: Gateway, look: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What /status.json tells, once ``look`` finds in it what must come."""
    found: dict[str, Any] = {}

    async def is_there() -> bool:
        nonlocal found
        found = await status(gateway)
        return bool(look(found))

    await eventually(is_there, log=lambda: repr(found))
    return found


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


async def until_metric(gateway: Gateway, line: str, wanted: float) -> None:
    """Until a line of /metrics has this value."""

    async def is_there() -> bool:
        return await metric(gateway, line) == wanted

    await eventually(is_there)


async def until_ready(gateway: Gateway) -> None:
    """Until /readyz says that the daemon is ready."""

    async def is_ready() -> bool:
        return (await ready(gateway))[0] == 200

    await eventually(is_ready)


def changed_program(folder: Path, *lines: str) -> str:
    """A Python for ``Gateway`` that runs these lines before the daemon."""
    program = folder / "changed"
    body = ("import sys", *lines, "from image_gateway import __main__")
    program.write_text(
        "\n".join([f"#!{sys.executable}", *body, "sys.exit(__main__.main(sys.argv[3:]))", ""]),
        "utf-8",
    )
    program.chmod(0o700)
    return str(program)


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

    await eventually(drains)
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
            plane.reader_url, grant_ttl_seconds=0.2, grant_max_stale_seconds=12
        ).start()
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        server.kill()
        status, said = await ready(gateway)
        assert (status, said["reasons"]) == (200, [])

        async def is_over() -> bool:
            status, said = await ready(gateway)
            return status == 503 and "control plane" in said["reasons"][0]

        await eventually(is_over)
        await until_metric(gateway, "image_gateway_slots_shared", 0)
        server.start()
        await until_ready(gateway)
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        (
            "REVOKE SELECT ON image_gateway.keys FROM image_gateway_reader",
            "GRANT SELECT ON image_gateway.keys TO image_gateway_reader",
        ),
        (
            "ALTER VIEW image_gateway.keys RENAME TO keys_away",
            "ALTER VIEW image_gateway.keys_away RENAME TO keys",
        ),
    ],
    ids=["right", "view"],
)
async def test_not_ready_while_keys_cannot_be_read_although_accounts_can(
    make_gateway: Callable[..., Gateway],
    plane: Plane,
    upstream: ScriptedUpstream,
    breaks: str,
    mends: str,
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    assert (await ready(gateway))[0] == 200
    plane.execute(breaks)
    stranger = Door(gateway, plane, "none", "sk-stranger", "none")
    assert (await stranger.post(PROMPT))[0] == 503

    async def is_told() -> bool:
        # A call that fails on the way there keeps nobody from finding out.
        await stranger.post(PROMPT)
        status, said = await ready(gateway)
        return status == 503 and said["reasons"] == ["keys cannot be read"]

    await eventually(is_told)
    plane.execute(mends)
    await until_ready(gateway)
    assert (await door.post(PROMPT))[0] == 200
    assert gateway.stop() == 0


async def test_whether_keys_can_be_read_is_asked_once_within_the_time_to_live(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    plane.add_account("one", "http://127.0.0.1:9")
    gateway = make_gateway(plane.reader_url, grant_ttl_seconds=500).start()
    await until_metric(gateway, "image_gateway_notify", 1)
    assert (await ready(gateway))[0] == 200
    plane.execute("REVOKE SELECT ON image_gateway.keys FROM image_gateway_reader")
    for _ in range(3):
        assert (await ready(gateway))[0] == 200
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
        ("codex", 429, "rate_limit_exceeded"),
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
    seconds = f'{{account="{door.account}"}}'
    assert await metric(gateway, f"image_gateway_attempt_seconds_count{seconds}") == 3
    total = await metric(gateway, f"image_gateway_attempt_seconds_sum{seconds}")
    assert total == sum(
        attempt["upstream_ms"] / 1000
        for record in gateway.records()
        for attempt in record["attempts"]
    )
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
    await until_metric(other, full, 1)
    assert await metric(other, "image_gateway_waiting") == 1
    held.let_go.set()
    assert (await running)[0] == (await waiting)[0] == 200
    await until_metric(other, full, 0)
    assert (await other.record())["wait_ms"] > 0
    assert one.stop() == other.stop() == 0


async def test_an_idle_gateway_shows_its_accounts_before_the_first_call(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    plane.add_account("one", "http://127.0.0.1:9")
    gateway = make_gateway(plane.reader_url).start()
    assert await metric(gateway, 'image_gateway_slots_limit{account="one"}') == 3
    usable = 'image_gateway_account_state{account="one",state="usable"}'
    assert await metric(gateway, usable) == 1
    assert await metric(gateway, "image_gateway_grant_age_seconds") is not None
    assert gateway.stop() == 0


async def test_a_gateway_that_cannot_read_accounts_at_its_start_starts_all_the_same(
    make_gateway: Callable[..., Gateway], plane: Plane, tmp_path: Path
) -> None:
    """They could be read a moment before, when the contract was checked."""
    program = changed_program(
        tmp_path,
        "from image_gateway.edge.postgres import cache, control_plane",
        "async def fails(self): raise cache.UnavailableError",
        "control_plane.ControlPlane._load_accounts = fails",
    )
    gateway = make_gateway(plane.reader_url, python=program).start()
    code, said = await ready(gateway)
    assert (code, said["accepting"], said["grant_age_seconds"]) == (503, True, None)
    assert gateway.stop() == 0


async def test_each_port_knows_its_own_paths_only(door: Door, gateway: Gateway) -> None:
    pages = ("/metrics", "/readyz", "/status", "/status.json")
    for path in pages:
        status, _, body = await door.post(b"", path)
        assert status == 404
        check_error(body, "unknown_path")
    for path in ("/v1/images/generations", "/healthz", "/", "/metrics/", "/status/"):
        status, _, body = await gateway.ops(path)
        assert status == 404
        message = check_error(body, "unknown_path")["message"]
        assert [page for page in pages if page not in message] == []


async def test_the_ops_port_is_read_with_get(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
    writer.write(post(None, b"{}", "/metrics"))
    status, headers, body = parse(await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert status == 405
    assert headers["allow"] == "GET"
    check_error(body, "method_not_allowed")


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/status", "/status.json", "/nothing"])
async def test_a_page_of_the_web_cannot_read_the_ops_port_by_its_own_name(
    gateway: Gateway, path: str
) -> None:
    for host in ("evil.example", f"evil.example:{gateway.ops_port}", "127.0.0.1.evil.example"):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        status, _, body = parse(await rest_of(reader))
        writer.close()
        assert status == 421
        assert "Ask by its IP address" in check_error(body, "misdirected_request")["message"]


async def ask(gateway: Gateway) -> bytes:
    """What the ops port answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n")
    try:
        return await rest_of(reader)
    finally:
        writer.close()


async def test_few_can_be_connected_to_the_ops_port_and_one_more_takes_the_oldest_idle_place(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    readers, writers = [], []
    for _ in range(MOST_CONNECTIONS):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
        writers.append(writer)
        readers.append(reader)
    assert b'"ready":false' in await ask(gateway)
    assert await rest_of(readers[0]) == b""
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n")
    assert b'"ready":false' in await rest_of(reader), "who is connected is served"
    for writer in writers:
        writer.close()
    assert gateway.stop() == 0


async def test_who_does_not_read_a_page_keeps_the_ops_port_from_others_for_seconds_only(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    """Of the image port's own patience, a minute, nothing is seen here."""
    # More than the kernel holds for a connection: 120 names of 3 kB in nine series each.
    plane.execute(
        "INSERT INTO image_control.accounts (account_name, dialect, credential)"
        """ SELECT repeat('x', 3000) || n, 'openai', '{"api_key": "k"}'"""
        " FROM generate_series(1, 120) AS n"
    )
    gateway = make_gateway(plane.reader_url).start()
    with ExitStack() as opened:
        for _ in range(MOST_CONNECTIONS):
            client = opened.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.ops_port))
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: ops\r\n\r\n")
        status, _, body = parse(await ask(gateway))
        assert status == 503
        check_error(body, "overloaded")

        async def is_served() -> bool:
            return b'"ready":' in await ask(gateway)

        await eventually(is_served)
    assert gateway.stop() == 0


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/status", "/status.json"])
async def test_every_page_may_be_asked_for_its_head(gateway: Gateway, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ops_port)
    writer.write(f"HEAD {path} HTTP/1.1\r\nhost: ops\r\n\r\n".encode())
    code, headers, body = parse(await asyncio.wait_for(reader.read(), 10))
    writer.close()
    assert code in {200, 503}
    assert int(headers["content-length"]) > 0
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert body == b""


async def test_the_page_lets_no_other_script_or_style_in(gateway: Gateway) -> None:
    _, headers, body = await gateway.ops("/status")
    policy = dict(
        each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert policy["style-src"].startswith("'sha256-")
    assert re.findall(rb"<[^>]* (?:style=|on\w+=|src=|href=.h)", body) == []


# -- /status.json ----------------------------------------------------------------------------------


async def test_status_tells_who_runs_who_waits_and_what_has_ended(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    gateway = make_gateway(plane.reader_url, slot_wait_seconds=20).start()
    door = make_door(gateway, plane, upstream)
    plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    before = datetime.now(UTC)
    running = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    waiting = asyncio.create_task(door.post(PROMPT))
    found = await until(gateway, lambda it: it["waiting"]["calls"] == 1)
    assert found["waiting"]["longest_seconds"] >= 0
    assert found["in_flight"]["total"] == 2
    first, second = found["in_flight"]["oldest"]
    assert (first["phase"], first["account_name"]) == ("upstream", door.account)
    assert (second["phase"], second["account_name"]) == ("waiting", None)
    for each in (first, second):
        assert (each["key_id"], each["endpoint"]) == (door.key_id, "generations")
        assert each["model"] == "gpt-image-2"
        assert 0 <= each["age_seconds"] < BOUND_SECONDS
    assert first["request_id"] != second["request_id"]
    [account] = found["accounts"]
    assert account == {
        "account_name": door.account,
        "dialect": "codex",
        "condition": "full",
        "slots_in_use": 1,
        "slots_limit": 1,
        "taken_elsewhere": False,
        "budget_primary_percent": None,
        "budget_secondary_percent": None,
        "cooldown": None,
        "models_cooling": 0,
        "failures_in_a_row": 0,
        "blocked_until": None,
    }
    for phase in ("upstream", "waiting"):
        assert await metric(gateway, f'image_gateway_in_flight{{phase="{phase}"}}') == 1
    held.let_go.set()
    assert (await running)[0] == (await waiting)[0] == 200
    assert (await door.post(b"{"))[0] == 400
    found = await until(gateway, lambda it: it["in_flight"]["total"] == 0)
    outcomes = found["last_hour"]["whole"]["outcomes"]
    assert (outcomes["ok"], outcomes["client_error"]) == (2, 1)
    assert found["last_hour"]["whole"]["latency"]["calls"] == 2
    assert found["last_hour"]["whole"]["latency"]["p50"] > 0
    assert len(found["last_hour"]["blocks"]) == 12
    assert 56 <= len(found["last_hour"]["minutes"]) <= 60
    assert found["last_errors"] == []
    [error] = found["last_client_errors"]
    refused = await door.record(status=400)
    assert {name: error[name] for name in ("request_id", "status", "error_code")} == {
        "request_id": refused["request_id"],
        "status": 400,
        "error_code": "invalid_body",
    }
    assert before < datetime.fromisoformat(error["time"]) <= datetime.now(UTC)
    assert datetime.fromisoformat(found["since"]) < before
    assert found["readiness"] == {
        **(await ready(gateway))[1],
        "grant_age_seconds": found["readiness"]["grant_age_seconds"],
    }
    _, _, body = await gateway.ops("/status.json")
    for hidden in (door.secret, f"token-of-{door.account}", f"id-of-{door.account}", "a cat"):
        assert hidden.encode() not in body
    assert gateway.stop() == 0


async def test_status_tells_that_an_answer_is_coming(
    door: Door, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    let_go = asyncio.Event()

    async def slowly(call: Call) -> None:
        body = json.dumps(images()).encode()
        await call.head(200, {"content-length": str(len(body))})
        await call.send(body[:20])
        await let_go.wait()
        await call.send(body[20:])

    def own(found: dict[str, Any]) -> list[str]:
        calls = found["in_flight"]["oldest"]
        return [each["phase"] for each in calls if each["key_id"] == door.key_id]

    upstream.script = slowly
    call = asyncio.create_task(door.post(PROMPT))
    await until(gateway, lambda it: own(it) == ["stream"])
    let_go.set()
    assert (await call)[0] == 200
    await until(gateway, lambda it: own(it) == [])


async def test_status_tells_a_call_whose_body_is_on_its_way(door: Door, gateway: Gateway) -> None:
    _, writer = await gateway.connect()
    writer.write(post(door.secret, PROMPT)[:-1])

    def own(found: dict[str, Any]) -> list[str]:
        calls = found["in_flight"]["oldest"]
        return [each["phase"] for each in calls if each["key_id"] == door.key_id]

    await until(gateway, lambda it: own(it) == ["body"])
    writer.close()
    found = await until(gateway, lambda it: own(it) == [])
    left = await door.record()
    assert left["error_code"] == "client_left"
    assert left["request_id"] in {each["request_id"] for each in found["last_client_errors"]}


async def test_status_tells_until_when_an_account_cools_down_and_after_what(
    door: Door, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Status and code of the answer; never what it said."""
    sentence = "Your plan of the cat shelter is exhausted."
    told = {"error": {"message": sentence, "type": "odd", "code": "usage_limit_reached"}}
    upstream.script = answers(429, told, {"retry-after": "60"})
    assert (await door.post(PROMPT))[0] == 429

    def own(found: dict[str, Any]) -> dict[str, Any]:
        [account] = [it for it in found["accounts"] if it["account_name"] == door.account]
        return dict(account)

    found = await status(gateway)
    account = own(found)
    assert account["condition"] == "cooling"
    assert (account["cooldown"]["status"], account["cooldown"]["code"]) == (
        429,
        "usage_limit_reached",
    )
    left = datetime.fromisoformat(account["cooldown"]["until"]) - datetime.now(UTC)
    assert 40 < left.total_seconds() <= 60
    record = await door.record()
    [error] = [it for it in found["last_errors"] if it["request_id"] == record["request_id"]]
    assert (error["status"], error["error_source"]) == (429, "upstream")
    assert error["error_code"] == "usage_limit_reached"
    assert error["account_name"] == door.account
    assert "cat shelter" not in json.dumps(found)


async def test_status_tells_models_that_cool_down_and_the_account_stays_usable(
    door: Door, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    missing = {"error": {"message": "no such model", "code": "model_not_found"}}
    upstream.script = answers(404, missing)
    assert (await door.post(PROMPT))[0] == 404
    found = await status(gateway)
    [account] = [it for it in found["accounts"] if it["account_name"] == door.account]
    assert (account["condition"], account["models_cooling"]) == ("usable", 1)
    assert account["cooldown"] is None


async def test_status_tells_a_budget_as_the_last_answer_told_it(
    door: Door, gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    where = {"account_name": door.account}
    shared_plane.update("accounts", where, used_percent_primary=10, used_percent_secondary=20)
    upstream.script = answers(
        200,
        images(),
        {"x-codex-primary-used-percent": "97.5", "x-codex-primary-reset-after-seconds": "600"},
    )
    assert (await door.post(PROMPT))[0] == 200
    found = await status(gateway)
    [account] = [it for it in found["accounts"] if it["account_name"] == door.account]
    assert account["budget_primary_percent"] == 97.5
    assert account["budget_secondary_percent"] == 20
    assert account["condition"] == "over_budget"


async def test_status_tells_that_other_processes_hold_an_accounts_slots(
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
    found = await until(other, lambda it: it["accounts"][0]["taken_elsewhere"])
    assert found["accounts"][0]["condition"] == "full"
    assert found["accounts"][0]["slots_in_use"] == 0
    held.let_go.set()
    assert (await running)[0] == (await waiting)[0] == 200
    assert one.stop() == other.stop() == 0


async def test_status_tells_of_a_drain_and_the_calls_that_are_left(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    last = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await status(gateway))["readiness"]["accepting"] is True
    assert gateway.process is not None
    gateway.process.terminate()
    found = await until(gateway, lambda it: not it["readiness"]["accepting"])
    assert found["readiness"]["ready"] is False
    assert found["in_flight"]["total"] == 1
    held.let_go.set()
    assert (await last)[0] == 200
    assert gateway.wait() == 0


# -- the board empties -----------------------------------------------------------------------------


async def test_a_call_without_its_client_is_shown_until_it_has_ended(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    _, writer = await gateway.connect()
    writer.write(post(door.secret, PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await status(gateway))["in_flight"]["total"] == 1
    writer.close()
    found = await until(gateway, lambda it: it["calls"]["left"] == 1)
    assert found["in_flight"]["total"] == 1
    held.let_go.set()
    found = await until(gateway, lambda it: it["in_flight"]["total"] == 0)
    assert found["calls"]["left"] == 0
    assert found["last_hour"]["whole"]["outcomes"]["client_left"] == 1
    assert found["accounts"][0]["slots_in_use"] == 0
    assert gateway.stop() == 0


async def test_a_call_that_the_drain_deadline_has_ended_is_told_no_longer(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    gateway = make_gateway(plane.reader_url, drain_seconds=0.5).start()
    door = make_door(gateway, plane, upstream)
    call = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    # Half a request, which is no call, keeps the process past the deadline for a look at it.
    _, late = await gateway.connect()
    late.write(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\ncontent-length: 9\r\n\r\n")
    assert gateway.process is not None
    gateway.process.terminate()
    found = await until(gateway, lambda it: it["in_flight"]["total"] == 0)
    assert found["readiness"]["accepting"] is False
    assert found["last_hour"]["whole"]["outcomes"]["gateway_error"] == 1
    assert (await call)[0] == 504
    late.close()
    assert await asyncio.to_thread(gateway.wait) == 0


async def test_a_call_that_a_mistake_of_ours_has_ended_is_told_no_longer(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The daemon with a mistake put into it."""
    program = changed_program(
        tmp_path,
        "from image_gateway.calls import dispatch",
        "dispatch.Dispatch._admit = lambda self: 1 / 0",
    )
    gateway = make_gateway(plane.reader_url, python=program).start()
    door = make_door(gateway, plane, upstream)
    code, _, body = await door.post(PROMPT)
    assert code == 500
    check_error(body, "internal_error")
    found = await until(gateway, lambda it: it["in_flight"]["total"] == 0)
    [error] = found["last_errors"]
    assert error["error_code"] == "internal_error"
    assert "ZeroDivisionError" in gateway.words()
    assert gateway.stop() == 0


# -- more of the metrics ---------------------------------------------------------------------------


async def test_no_flood_of_paths_models_codes_or_statuses_makes_new_series(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)

    async def series() -> set[str]:
        _, _, body = await gateway.ops("/metrics")
        lines = body.decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    async def flood(first: int) -> None:
        """One of each kind, by a number that makes it different from every other."""
        for number in range(first, first + 12):
            odd = {"error": {"message": "no", "code": f"code_{number}"}}
            upstream.script = answers(460 + number, odd)
            assert (await door.post(PROMPT))[0] == 460 + number
            model = json.dumps({"prompt": "a cat", "model": f"model-{number}"}).encode()
            assert (await door.post(model))[0] == 404
            assert (await door.post(PROMPT, f"/v1/images/{number}"))[0] == 404

    await flood(0)
    await eventually(lambda: len(gateway.records()) == 36)
    before = await series()
    await flood(12)
    await eventually(lambda: len(gateway.records()) == 72)
    assert await series() == before
    line = (
        'image_gateway_requests_total{dialect="codex",endpoint="generations",'
        'error_code="upstream_error",status="4xx"}'
    )
    assert (await metric(gateway, line) or 0) >= 20
    assert gateway.stop() == 0


async def test_metrics_tell_what_runs_and_whether_postgres_can_be_asked(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    began = time.time()
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(plane.reader_url, grant_ttl_seconds=0.2).start()
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        assert await metric(gateway, f'image_gateway_build_info{{version="{__version__}"}}') == 1
        started = await metric(gateway, "image_gateway_start_time_seconds")
        assert started is not None
        assert began <= started <= time.time()
        assert await metric(gateway, "image_gateway_control_plane_up") == 1
        await until_metric(gateway, "image_gateway_notify", 1)
        server.kill()
        await until_metric(gateway, "image_gateway_notify", 0)

        async def is_down() -> bool:
            await door.post(PROMPT)
            return await metric(gateway, "image_gateway_control_plane_up") == 0

        await eventually(is_down)
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answers(500, {"error": {"message": "no"}}), "failed at answer: status 500, code None"),
        (answers(503, {"error": {"message": "no", "code": "busy"}}), "status 503, code busy"),
        (None, "failed at connect: status None, code "),
    ],
)
async def test_an_account_that_fails_without_a_cooldown_is_named_on_stderr(
    door: Door,
    gateway: Gateway,
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    script: Any,
    words: str,
) -> None:
    if script is None:
        where = {"account_name": door.account}
        shared_plane.update("accounts", where, base_url="http://127.0.0.1:9")
    else:
        upstream.script = script
    code, headers, _ = await door.post(PROMPT)
    assert code >= 500
    lines = [line for line in gateway.words().splitlines() if headers["x-request-id"] in line]
    assert len(lines) == 1, lines
    assert f"account {door.account} " in lines[0]
    assert words in lines[0]
