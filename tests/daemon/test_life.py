"""Start, stop and everything between: no call is lost, nothing hangs, every end has its code.

What depends on how a Python's asyncio closes servers runs on every Python the project promises.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import make_door
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

ROOT = Path(__file__).parents[2]


def interpreter(version: str) -> str:
    path = ROOT / ".venvs" / version / "bin" / "python"
    if not path.exists():
        pytest.skip(f"Python {version} is not here; scripts/test makes its environment if it is")
    return str(path)


@pytest.fixture(params=["this", "3.12", "3.13"])
def start(
    request: pytest.FixtureRequest, plane: Plane, make_gateway: Callable[..., Gateway]
) -> Callable[..., Gateway]:
    """A starter of daemons on one of the promised Pythons."""
    options = {} if request.param == "this" else {"python": interpreter(request.param)}
    return lambda **settings: make_gateway(plane.reader_url, **options, **settings).start()


async def test_a_stop_lets_the_calls_in_flight_finish(
    start: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = start()
    door = make_door(gateway, plane, upstream)
    upstream.script = held = Held()
    running = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    os.kill(gateway.pid, signal.SIGTERM)
    await eventually(lambda: "stopping" in gateway.words())
    # The port is closed at once; a call that comes now is for the next instance.
    await eventually(lambda: refuses(gateway.port))
    held.let_go.set()
    assert (await running)[0] == 200
    assert await asyncio.to_thread(gateway.wait) == 0
    assert (await door.record())["status"] == 200


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_a_request_on_a_connection_accepted_just_before_the_stop_is_answered(
    start: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = start()
    door = make_door(gateway, plane, upstream)
    held = [await gateway.connect() for _ in range(3)]
    os.kill(gateway.pid, signal.SIGTERM)
    await eventually(lambda: "stopping" in gateway.words())
    answers = []
    for reader, writer in held:
        writer.write(post(door.secret, PROMPT))
        answers.append(asyncio.wait_for(reader.read(), 20))
    assert [parse(answer)[0] for answer in await asyncio.gather(*answers)] == [200] * 3
    for _, writer in held:
        writer.close()
    assert await asyncio.to_thread(gateway.wait) == 0
    assert len(gateway.records()) == 3


async def test_connections_the_kernel_took_before_the_stop_are_answered(
    start: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    """A stopped process accepts nothing; what connects meanwhile waits in the kernel's queue."""
    gateway = start()
    door = make_door(gateway, plane, upstream)
    os.kill(gateway.pid, signal.SIGSTOP)
    queued = [await gateway.connect() for _ in range(10)]
    for _, writer in queued:
        writer.write(post(door.secret, PROMPT))
        await writer.drain()
    os.kill(gateway.pid, signal.SIGTERM)
    os.kill(gateway.pid, signal.SIGCONT)
    answers = await asyncio.gather(*(asyncio.wait_for(reader.read(), 20) for reader, _ in queued))
    statuses = {parse(answer)[0] for answer in answers}
    for _, writer in queued:
        writer.close()
    # Three slots for ten calls: a busy account is an answer, a reset connection is none.
    assert statuses <= {200, 429}
    assert 200 in statuses
    assert await asyncio.to_thread(gateway.wait) == 0
    assert len(gateway.records()) == 10


async def test_the_drain_deadline_ends_what_is_left(
    start: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = start(drain_seconds=1)
    door = make_door(gateway, plane, upstream)
    upstream.script = held = Held()
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, PROMPT))
    idle = await gateway.connect()
    await asyncio.wait_for(held.arrived.acquire(), 10)
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop) == 0
    assert 1 <= time.monotonic() - began < 15
    # The client hears that a picture may exist; its SDK does not buy another one elsewhere.
    status, headers, body = parse(await rest_of(reader))
    writer.close()
    idle[1].close()
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(body, "outcome_unknown")
    record = await door.record()
    assert (record["status"], record["error_source"]) == (504, "gateway")
    assert record["may_be_billed"]
    assert not record["client_left"]


async def test_a_second_signal_ends_the_process_at_once(
    start: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = start()
    door = make_door(gateway, plane, upstream)
    upstream.script = held = Held()
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    os.kill(gateway.pid, signal.SIGTERM)
    await eventually(lambda: "stopping" in gateway.words())
    os.kill(gateway.pid, signal.SIGTERM)
    assert await asyncio.to_thread(gateway.wait, 10) == 1
    assert await rest_of(reader) == b""
    writer.close()


async def test_an_idle_gateway_stops_at_once(start: Callable[..., Gateway]) -> None:
    gateway = start()
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop) == 0
    assert time.monotonic() - began < 10
    assert "stopped" in gateway.words()


# -- starting --------------------------------------------------------------------------------------


async def test_every_mistake_in_the_settings_is_told_at_once_before_anything_listens(
    plane: Plane, make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(
        plane.reader_url, max_request_bytes="many", no_such_name="1", drain_seconds="-1"
    )
    gateway.launch()
    assert await asyncio.to_thread(gateway.wait) == 64
    words = gateway.words()
    for name in ("MAX_REQUEST_BYTES", "NO_SUCH_NAME", "DRAIN_SECONDS"):
        assert f"IMAGE_GATEWAY_{name}" in words
    assert "accepting" not in words
    assert not (gateway.folder / "logs").exists()


async def test_a_database_without_the_contract_stops_the_start_and_names_the_cure(
    plane: Plane, make_gateway: Callable[..., Gateway]
) -> None:
    plane.execute("DROP SCHEMA image_gateway CASCADE")
    gateway = make_gateway(plane.url)
    gateway.launch()
    assert await asyncio.to_thread(gateway.wait) == 69
    assert "image-gateway schema standalone" in gateway.words()


async def test_a_postgres_that_is_away_is_waited_for_and_then_given_up(
    plane: Plane, make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    away = f"postgresql://nobody:hush-hush@/none?host={tmp_path}"
    gateway = make_gateway(away, start_wait_seconds=1.5)
    gateway.launch()
    assert await asyncio.to_thread(gateway.wait) == 69
    words = gateway.words()
    assert "waiting for the control plane" in words
    assert "cannot be reached" in words
    assert "hush-hush" not in words


async def test_a_contract_that_comes_while_the_start_waits_is_taken(
    postgres_url: str, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    late = Plane(postgres_url)
    gateway = make_gateway(late.url)
    gateway.launch()
    await eventually(lambda: "waiting for the control plane" in gateway.words())
    late.create()
    await eventually(lambda: "accepting" in gateway.words())
    assert (await make_door(gateway, late, upstream).post(PROMPT))[0] == 200
    assert await asyncio.to_thread(gateway.stop) == 0
    late.drop()


async def test_a_port_that_is_taken_is_told_in_one_line(
    plane: Plane, make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(plane.reader_url)
    with socket.socket() as other:
        other.bind(("127.0.0.1", gateway.port))
        other.listen()
        gateway.launch()
        assert await asyncio.to_thread(gateway.wait) == 1
    said = f"cannot listen on BIND 127.0.0.1:{gateway.port}: Address already in use"
    assert f"image-gateway: {said}" in gateway.words()
    assert "Traceback" not in gateway.words()


async def test_a_socket_that_the_supervisor_passes_goes_before_bind(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    """As systemd does it: descriptor 3, and LISTEN_PID of the process itself."""
    with socket.socket() as passed:
        passed.bind(("127.0.0.1", 0))
        passed.listen()
        port = passed.getsockname()[1]
        gateway = make_gateway(plane.reader_url).start(passed=passed)
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        os.kill(gateway.pid, signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait) == 0
        # The socket is the supervisor's: it still takes connections for the next instance.
        assert not refuses(port)


async def test_the_prompt_hash_is_the_same_after_a_restart(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url)
    hashes = set()
    for _ in range(2):
        gateway.start()
        door = make_door(gateway, plane, upstream)
        assert (await door.post(PROMPT))[0] == 200
        hashes.add((await door.record())["prompt_hmac"])
        assert gateway.stop() == 0
    assert len(hashes) == 1
    key = gateway.folder / "state" / "prompt-hash-key"
    assert key.stat().st_mode & 0o777 == 0o600


async def test_sighup_reopens_the_log_that_was_moved_away(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    assert (await door.post(b"{}"))[0] == 400
    await door.record()
    current = gateway.folder / "logs" / "requests.jsonl"
    current.rename(gateway.folder / "moved.jsonl")
    os.kill(gateway.pid, signal.SIGHUP)
    await eventually(current.exists)
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.record())["status"] == 200
    assert len((gateway.folder / "moved.jsonl").read_text("utf-8").splitlines()) == 1
    assert gateway.stop() == 0


async def test_an_internal_mistake_is_a_500_with_nothing_but_the_request_id(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    """The spool's folder vanishes: not the client's fault, and not a reason to fall over."""
    gateway = make_gateway(plane.reader_url).start()
    door = make_door(gateway, plane, upstream)
    shutil.rmtree(gateway.folder / "spool")
    large = b'{"prompt": "a", "images": ["data:image/png;base64,' + b"A" * 2_000_000 + b'"]}'
    status, _, body = await door.post(large, "/v1/images/edits")
    assert status == 503
    check_error(body, "overloaded")
    assert (await door.post(PROMPT))[0] == 200
    assert gateway.stop() == 0


def test_the_words_of_a_start_and_stop_are_json_lines(
    plane: Plane, make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.words().splitlines()]
    said = " ".join(line["message"] for line in lines)
    assert "accepting on" in said
    assert said.endswith("stopped")
