"""Any process of a machine shows the calls of all of them, also of one that was killed."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.calls.parts import (
    DOG,
    ask,
    ended,
    error_code,
    has_status,
    hold,
    submission_record,
    submit,
    submitted,
)
from tests.daemon.conftest import Door, make_door
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, images


@pytest.fixture
def two(
    tmp_path: Path,
    shared_plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
) -> tuple[Door, Gateway]:
    """A key at one process, and another process of the same machine."""
    shared = {
        "keep_dir": tmp_path / "kept",
        "prompt_hash_key": secrets.token_hex(32),
        "slot_wait_seconds": 30,
    }
    blue, green = (make_gateway(shared_plane.reader_url, **shared).start() for _ in range(2))
    return make_door(blue, shared_plane, upstream), green


async def test_the_other_process_shows_a_call_and_its_answer(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    held = hold(upstream)
    path = await submitted(door)
    await has_status(door, path, "in_progress", green)
    waiting = asyncio.create_task(ask(door, path, gateway=green, Prefer="wait=60"))
    listed = json.loads((await ask(door, "/v1/images/calls", gateway=green))[2])["data"]
    assert [call["id"] for call in listed] == [path.rpartition("/")[2]]
    held.go.set()
    status, headers, body = await waiting
    assert (status, json.loads(body)["data"]) == (200, images()["data"])
    assert headers["x-call-source"] == "replayed"
    assert (await submission_record(door))["status"] == 202
    assert (await green.record(endpoint="calls", status=200, call_id=path.rpartition("/")[2]))[
        "usage"
    ] is None


async def test_a_sure_retry_at_the_other_process_buys_nothing(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    path = await submitted(door)
    await ended(door, path)
    other = Door(green, door.plane, door.key_id, door.secret, door.account)
    assert await submitted(other, x_stainless_retry_count="1") == path
    assert len(upstream.calls) == 1
    assert (await other.record(call_source="replayed"))["status"] == 202


async def test_the_other_process_gives_the_id_while_the_call_runs(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    held = hold(upstream)
    path = await submitted(door, Idempotency_Key="order-1")
    other = Door(green, door.plane, door.key_id, door.secret, door.account)
    status, headers, body = await submit(
        other, prefer="respond-async, wait=60", Idempotency_Key="order-1"
    )
    assert (status, headers["location"], headers["x-call-source"]) == (202, path, "joined")
    assert headers["preference-applied"] == "respond-async"
    assert json.loads(body)["status"] in {"queued", "in_progress"}
    held.go.set()
    assert (await ended(other, path))[0] == 200
    assert len(upstream.calls) == 1
    assert (await other.record(call_source="joined"))["status"] == 202


async def test_the_other_process_forgets_a_call_before_it_is_sent(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    held = hold(upstream)
    first = await submitted(door)
    await asyncio.wait_for(held.begun.wait(), 20)
    second = await submitted(door, DOG)
    await has_status(door, second, "queued", green)
    assert (await ask(door, second, "DELETE", green))[0] == 200
    held.go.set()
    assert (await ended(door, first))[0] == 200
    assert (await door.record(error_code="call_cancelled", status=202))["attempts"] == []
    assert (await ask(door, second))[0] == 404
    assert len(upstream.calls) == 1


async def test_a_call_that_is_forgotten_elsewhere_is_forgotten_here(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    held = hold(upstream)
    path = await submitted(door)
    await has_status(door, path, "in_progress", green)
    assert (await ask(door, path, "DELETE", green))[0] == 200
    assert [(await ask(door, path, gateway=each))[0] for each in (door.gateway, green)] == [
        404,
        404,
    ]
    held.go.set()
    assert (await submission_record(door))["usage"] is not None
    assert (await ask(door, path))[0] == 404


async def test_a_call_outlives_its_process_or_says_that_nobody_knows(
    two: tuple[Door, Gateway], upstream: ScriptedUpstream
) -> None:
    door, green = two
    path = await submitted(door)
    whole = await ended(door, path)
    held = hold(upstream)
    lost = await submitted(door, DOG)
    await asyncio.wait_for(held.begun.wait(), 20)
    door.gateway.kill()
    again = await ask(door, path, gateway=green)
    assert (again[0], again[2]) == (200, whole[2])
    found = await ask(door, lost, gateway=green)
    assert (found[0], error_code(found)) == (504, "outcome_unknown")
    assert found[1]["x-should-retry"] == "false"
    door.gateway.start()
    assert (await ask(door, path))[2] == whole[2]
    assert (await ask(door, lost))[0] == 504
    record = await green.record(endpoint="calls", status=504)
    assert (record["error_code"], record["usage"]) == ("outcome_unknown", None)
