"""Two processes of one machine over one folder of kept calls, as a release has them for a while.

Blue and green are daemons with one control plane, one key for the tags of calls, and one KEEP_DIR.
What one of them buys, the other one gives to whoever asks again, also after the first has died.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from image_gateway.core.calls import journal
from tests.daemon.calls.parts import (
    CAT,
    DOG,
    RETRY,
    answer_of,
    ask,
    asking,
    hold,
    in_phase,
    leave,
)
from tests.daemon.conftest import Door, make_door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws, images, picture

NAME = {"Idempotency-Key": "order-1"}
LARGE = 12_000_000
"""Bytes of a picture that no socket buffer takes whole."""


@dataclass(frozen=True)
class Pair:
    """One key, at either of two processes."""

    blue: Door
    green: Door
    keep_dir: Path


def make_pair(plane: Plane, make: Callable[..., Gateway], folder: Path, **settings: Any) -> Gateway:
    """One of the two processes over ``folder``."""
    shared = {"keep_dir": folder / "calls", "prompt_hash_key": "k" * 32, "state_dir": folder}
    return make(plane.reader_url, **{**shared, **settings}).start()


def door_of(gateway: Gateway, door: Door) -> Door:
    """The same key at another process."""
    return replace(door, gateway=gateway)


@pytest.fixture(scope="module")
def colours(
    shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway, Path]]:
    """Two processes for the tests that stop none."""
    folder = tmp_path_factory.mktemp("colours")

    def make(url: str, **settings: Any) -> Gateway:
        return Gateway(tmp_path_factory.mktemp("colour"), url, slot_wait_seconds=20, **settings)

    made: list[Gateway] = []
    try:
        made = [make_pair(shared_plane, make, folder) for _ in range(2)]
        yield made[0], made[1], folder / "calls"
        assert [gateway.stop() for gateway in made] == [0, 0], made[0].words() + made[1].words()
    finally:
        for gateway in made:
            gateway.kill()


@pytest.fixture
def pair(
    colours: tuple[Gateway, Gateway, Path], shared_plane: Plane, upstream: ScriptedUpstream
) -> Pair:
    """A fresh key at both of them."""
    blue, green, keep_dir = colours
    door = make_door(blue, shared_plane, upstream)
    return Pair(door, door_of(green, door), keep_dir)


@pytest.fixture
def mortal(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> Pair:
    """A fresh key at two processes that the test may stop."""
    folder = tmp_path / "state"
    blue, green = (make_pair(plane, make_gateway, folder, slot_wait_seconds=20) for _ in range(2))
    door = make_door(blue, plane, upstream)
    return Pair(door, door_of(green, door), folder / "calls")


async def source(door: Door, **headers: str) -> tuple[int, str]:
    """Post a call; the answer's status and how it came to its call."""
    status, answer, _ = await door.post(CAT, **headers)
    return status, answer.get("x-call-source", "")


async def is_kept(keep_dir: Path) -> None:
    """Wait until the one call of a folder has ended there."""

    def has_ended() -> bool:
        [path] = (keep_dir / "calls").iterdir()
        found = journal.read(path.read_bytes())
        return found is not None and found.ending is not None

    await eventually(has_ended)


# -- while it runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [NAME, RETRY], ids=["a name", "a sure retry"])
async def test_a_call_that_the_other_process_runs_is_waited_for(
    pair: Pair, upstream: ScriptedUpstream, headers: dict[str, str]
) -> None:
    held = hold(upstream)
    first = NAME if headers is NAME else {}
    async with asking(pair.blue, CAT, first) as made:
        await asyncio.wait_for(held.begun.wait(), 20)
        async with asking(pair.green, CAT, headers) as second:
            await in_phase(pair.green, "joined")
            held.go.set()
            status, fields, body = answer_of(await second)
            assert (status, fields["x-call-source"]) == (200, "replayed")
            assert fields["idempotent-replayed"] == "true"
            first_status, first_fields, first_body = answer_of(await made)
    assert (first_status, first_fields["x-call-id"]) == (200, fields["x-call-id"])
    assert body == first_body
    assert len(upstream.calls) == 1
    record = await pair.green.record()
    assert record["call_request_id"] == first_fields["x-request-id"]
    assert (record["status"], record["usage"], record["attempts"]) == (200, None, [])


async def test_a_call_without_its_client_is_taken_over_by_the_other_process(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    """As a client's retry that says nothing of itself: AI SDK, curl."""
    held = hold(upstream)
    await leave(pair.blue, held)
    async with asking(pair.green) as retry:
        await in_phase(pair.green, "joined")
        held.go.set()
        status, fields, body = answer_of(await retry)
    assert (status, body["data"], fields["x-call-source"]) == (200, images()["data"], "taken-over")
    assert len(upstream.calls) == 1
    assert await source(pair.green) == (200, "made")


async def test_who_looks_at_a_lost_call_does_not_hide_it_from_the_other_process(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    await leave(pair.blue, held)
    [listed] = json.loads((await ask(pair.blue, "/v1/images/calls"))[2])["data"]
    assert (await ask(pair.blue, f"/v1/images/calls/{listed['id']}"))[0] == 202
    async with asking(pair.green) as retry:
        await in_phase(pair.green, "joined")
        held.go.set()
        assert answer_of(await retry)[1]["x-call-source"] == "taken-over"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("is_swapped", [False, True], ids=["the other first", "its own first"])
async def test_one_request_alone_takes_over_a_call_that_lost_its_client(
    pair: Pair, upstream: ScriptedUpstream, *, is_swapped: bool
) -> None:
    held = hold(upstream)
    await leave(pair.blue, held)
    doors = (pair.blue, pair.green) if is_swapped else (pair.green, pair.blue)
    async with asking(doors[0]) as second:
        await in_phase(doors[0], "joined")
        async with asking(doors[1]) as third:
            while len(upstream.calls) < 2:
                await asyncio.sleep(0.01)
            held.go.set()
            sources = [answer_of(await each)[1]["x-call-source"] for each in (second, third)]
    assert sources == ["taken-over", "made"]
    assert len(upstream.calls) == 2


async def test_equal_calls_at_both_are_pictures_of_their_own(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    async with asking(pair.blue) as first, asking(pair.green) as second:
        while len(upstream.calls) < 2:
            await asyncio.sleep(0.01)
        held.go.set()
        sources = [answer_of(await each)[1]["x-call-source"] for each in (first, second)]
    assert sources == ["made", "made"]
    assert await source(pair.green) == (200, "made")
    assert len(upstream.calls) == 3


async def test_a_name_that_waits_for_a_slot_is_waited_for_by_the_other_process(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    pair.blue.plane.update("accounts", {"account_name": pair.blue.account}, image_max_concurrency=1)
    held = hold(upstream)
    async with asking(pair.blue, b'{"prompt": "a dog"}') as dog:
        await asyncio.wait_for(held.begun.wait(), 20)
        async with asking(pair.blue, CAT, NAME) as first:
            await in_phase(pair.blue, "waiting")
            async with asking(pair.green, CAT, NAME) as second:
                await in_phase(pair.green, "joined")
                held.go.set()
                found = [answer_of(await each) for each in (dog, first, second)]
    assert [status for status, _, _ in found] == [200] * 3
    assert len(upstream.calls) == 2


# -- once it has ended -----------------------------------------------------------------------------


async def test_an_answer_is_there_at_the_other_process(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    made = await pair.blue.post(CAT, Idempotency_Key="order-1")
    again = await pair.green.post(CAT, Idempotency_Key="order-1")
    assert (made[0], again[0], again[2]) == (200, 200, made[2])
    assert again[1]["x-call-source"] == "replayed"
    assert len(upstream.calls) == 1


async def test_a_retry_gets_the_answer_that_the_other_process_sent(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    assert await source(pair.blue) == (200, "made")
    assert await source(pair.green, x_stainless_retry_count="1") == (200, "replayed")
    assert len(upstream.calls) == 1


async def test_a_refused_call_has_its_one_retry_at_either_process(
    pair: Pair, upstream: ScriptedUpstream
) -> None:
    """A sure retry of what made nothing at one process buys at the other, and only once."""
    upstream.script = answers(429, {"error": {"message": "slow down"}})
    assert (await pair.blue.post(CAT))[0] == 429
    pair.blue.plane.update(
        "accounts", {"account_name": pair.blue.account}, credential={"access_token": "new"}
    )
    upstream.script = draws
    assert await source(pair.green, x_stainless_retry_count="1") == (200, "made")
    assert await source(pair.blue, x_stainless_retry_count="2") == (200, "replayed")
    assert len(upstream.calls) == 2


# -- one of them stops -----------------------------------------------------------------------------


async def test_a_stop_waits_for_a_call_without_a_client_and_the_other_has_its_answer(
    mortal: Pair, upstream: ScriptedUpstream
) -> None:
    blue = mortal.blue.gateway
    held = hold(upstream)
    await leave(mortal.blue, held)
    os.kill(blue.pid, signal.SIGTERM)
    await eventually(lambda: "stopping" in blue.words())
    async with asking(mortal.green) as retry:
        await in_phase(mortal.green, "joined")
        held.go.set()
        status, fields, body = answer_of(await retry)
    assert (status, fields["x-call-source"]) == (200, "taken-over")
    assert body["data"] == images()["data"]
    assert await asyncio.to_thread(blue.wait) == 0
    [record] = [record for record in blue.records() if record["client_left"]]
    assert record["usage"] is not None
    assert await source(mortal.green, x_stainless_retry_count="1") == (200, "replayed")
    assert len(upstream.calls) == 1


async def test_what_the_drain_deadline_cut_is_an_unknown_outcome_at_the_other(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    blue = make_pair(plane, make_gateway, tmp_path / "state", drain_seconds=1)
    green = make_pair(plane, make_gateway, tmp_path / "state")
    door = make_door(blue, plane, upstream)
    held = hold(upstream)
    await leave(door, held, Idempotency_Key="order-1")
    assert await asyncio.to_thread(blue.stop) == 0
    status, _, body = await door_of(green, door).post(CAT, Idempotency_Key="order-1")
    assert (status, json.loads(body)["error"]["code"]) == (504, "outcome_unknown")
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("first", "again"),
    [(NAME, NAME), ({}, RETRY)],
    ids=["a name", "a sure retry"],
)
async def test_a_call_whose_process_is_killed_has_an_unknown_outcome(
    mortal: Pair, upstream: ScriptedUpstream, first: dict[str, str], again: dict[str, str]
) -> None:
    held = hold(upstream)
    async with asking(mortal.blue, CAT, first):
        await asyncio.wait_for(held.begun.wait(), 20)
        async with asking(mortal.green, CAT, again) as waiting:
            await in_phase(mortal.green, "joined")
            mortal.blue.gateway.kill()
            found = [answer_of(await waiting)]
    upstream.script = draws
    async with asking(mortal.green, CAT, again) as later:
        found.append(answer_of(await later))
    for status, fields, body in found:
        assert (status, body["error"]["code"]) == (504, "outcome_unknown")
        assert fields["x-should-retry"] == "false"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("given", [NAME, {"Prefer": "respond-async"}], ids=["name", "id"])
async def test_a_call_that_was_killed_before_it_was_sent_made_nothing(
    mortal: Pair, upstream: ScriptedUpstream, given: dict[str, str]
) -> None:
    one_slot = {"image_max_concurrency": 1}
    mortal.blue.plane.update("accounts", {"account_name": mortal.blue.account}, **one_slot)
    held = hold(upstream)
    async with asking(mortal.blue, DOG):
        await asyncio.wait_for(held.begun.wait(), 20)
        async with asking(mortal.blue, CAT, given):
            await in_phase(mortal.blue, "waiting")
            calls = json.loads((await ask(mortal.green, "/v1/images/calls"))[2])["data"]
            mortal.blue.gateway.kill()
    held.go.set()
    status, headers, body = await ask(mortal.green, f"/v1/images/calls/{calls[0]['id']}")
    assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
    assert "x-should-retry" not in headers
    async with asking(mortal.green, CAT, given) as again:
        assert answer_of(await again)[1]["x-call-source"] == "made"
    assert calls[0]["status"] == "queued"


async def test_an_equal_request_after_a_kill_is_warned_once(
    mortal: Pair, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    async with asking(mortal.blue):
        await asyncio.wait_for(held.begun.wait(), 20)
        mortal.blue.gateway.kill()
    upstream.script = draws
    status, fields, body = await mortal.green.post(CAT)
    assert (status, json.loads(body)["error"]["code"]) == (400, "repeated_call")
    assert fields["x-should-retry"] == "false"
    assert await source(mortal.green) == (200, "made")
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(
    ("first", "again", "found"),
    [
        (NAME, NAME, "replayed"),
        ({}, RETRY, "replayed"),
        ({}, {}, "taken-over"),
    ],
    ids=["a name", "a sure retry", "an equal request"],
)
async def test_a_picture_whose_process_is_killed_while_its_client_reads_is_not_lost(
    mortal: Pair,
    upstream: ScriptedUpstream,
    first: dict[str, str],
    again: dict[str, str],
    found: str,
) -> None:
    whole = {**images(), "data": [{"b64_json": picture(LARGE)}]}
    upstream.script = answers(200, whole)
    reader, writer = await mortal.blue.gateway.connect()
    writer.write(post(mortal.blue.secret, CAT, headers=first))
    assert await reader.readexactly(1000)
    await is_kept(mortal.keep_dir)
    mortal.blue.gateway.kill()
    writer.close()
    async with asking(mortal.green, CAT, again) as retry:
        status, fields, body = answer_of(await retry)
    assert (status, fields["x-call-source"]) == (200, found)
    assert body["data"][0]["b64_json"] == whole["data"][0]["b64_json"]
    assert len(upstream.calls) == 1


async def test_a_process_that_starts_again_has_what_was_kept(
    mortal: Pair, upstream: ScriptedUpstream
) -> None:
    made = await mortal.blue.post(CAT, Idempotency_Key="order-1")
    # The client has its answer some milliseconds before the disk has: green waits for that.
    assert await source(mortal.green, Idempotency_Key="order-1") == (200, "replayed")
    for door in (mortal.blue, mortal.green):
        door.gateway.kill()
    mortal.blue.gateway.start()
    again = await mortal.blue.post(CAT, Idempotency_Key="order-1")
    assert (again[0], again[2], again[1]["x-call-source"]) == (200, made[2], "replayed")
    assert len(upstream.calls) == 1


# -- where nothing can be kept ---------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, **options: str) -> Iterator[Path]:
    """A small file system of its own at ``folder``."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir(parents=True)
    text = ",".join(f"{name}={value}" for name, value in options.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", text, "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@asynccontextmanager
async def on_small_disk(
    plane: Plane, make: Callable[..., Gateway], upstream: ScriptedUpstream, folder: Path, **of: str
) -> AsyncIterator[Door]:
    """A key at a process whose KEEP_DIR is on a small disk; it stops with code 0."""
    with mounted(folder / "disk", **of) as disk:
        gateway = make_pair(plane, make, folder, keep_dir=disk / "calls")
        yield make_door(gateway, plane, upstream)
        assert await asyncio.to_thread(gateway.stop) == 0


@pytest.mark.parametrize(
    "of", [{"size": "256k"}, {"nr_inodes": "9"}], ids=["no bytes", "no inodes"]
)
async def test_a_call_is_served_though_the_disk_of_kept_calls_is_full(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    of: dict[str, str],
) -> None:
    whole = {**images(), "data": [{"b64_json": picture(LARGE)}]}
    upstream.script = answers(200, whole)
    async with on_small_disk(plane, make_gateway, upstream, tmp_path, **of) as door:
        held = hold(upstream, answers(200, whole))
        async with asking(door, CAT, NAME) as first:
            await asyncio.wait_for(held.begun.wait(), 20)
            async with asking(door, CAT, NAME) as second:
                await in_phase(door, "joined")
                held.go.set()
                found = [answer_of(await each) for each in (first, second)]
        assert [status for status, _, _ in found] == [200, 200]
        assert [body["data"] for _, _, body in found] == [whole["data"]] * 2
        assert len(upstream.calls) == 1
        # Nothing of it could be kept, so the name stands for nothing.
        assert await source(door, Idempotency_Key="order-1") == (200, "made")
        assert "kept calls: No space left on device" in door.gateway.words()
        assert "Traceback" not in door.gateway.words()


async def test_without_keeping_a_call_is_joined_while_it_runs_and_then_over(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    blue, green = (
        make_pair(plane, make_gateway, tmp_path / "state", keep_seconds=0) for _ in range(2)
    )
    door = make_door(blue, plane, upstream)
    held = hold(upstream)
    await leave(door, held, Idempotency_Key="order-1")
    async with asking(door, CAT, NAME) as second:
        await in_phase(door, "joined")
        held.go.set()
        assert answer_of(await second)[1]["x-call-source"] == "joined"
    assert len(upstream.calls) == 1
    assert await source(door, Idempotency_Key="order-1") == (200, "made")
    assert await source(door_of(green, door), Idempotency_Key="order-1") == (200, "made")
    assert not (tmp_path / "state" / "calls").exists()


async def test_an_unknown_outcome_is_told_also_where_nothing_is_kept(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def hangs_up(call: Call) -> None:
        call.writer.transport.abort()

    gateway = make_pair(plane, make_gateway, tmp_path / "state", keep_seconds=0)
    door = make_door(gateway, plane, upstream)
    upstream.script = hangs_up
    assert (await door.post(CAT))[0] == 504
    upstream.script = draws
    assert (await door.post(CAT))[0] == 400
    assert await source(door) == (200, "made")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_name_that_comes_to_both_at_once_is_one_purchase(
    pair: Pair, upstream: ScriptedUpstream, count: int
) -> None:
    found = await asyncio.gather(
        *(source(door, Idempotency_Key="order-1") for door in (pair.blue, pair.green) * count)
    )
    assert [status for status, _ in found] == [200] * 2 * count
    assert len(upstream.calls) == 1, found
