"""Slots, sessions and sizes of calls on the Responses paths."""

import asyncio
import json
import secrets
from collections.abc import Callable

import pytest

from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.responses.calls import (
    COMPLETED,
    CREATED,
    INTENT,
    ITEM,
    MIB,
    PATH,
    STREAM,
    TOOL,
    Drawing,
    TextApi,
    ask,
    records_of,
    with_second,
)
from tests.daemon.test_refusals import check_refused
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    drawn,
    frame,
    picture,
    streams,
)


async def test_a_slot_is_held_to_the_end_and_given_back(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(image_max_concurrency=1)
    for body in (INTENT, STREAM):
        upstream.script = held = Drawing()
        first = asyncio.create_task(ask(door, body))
        await asyncio.wait_for(held.arrived.acquire(), 10)
        busy = await ask(door, INTENT)
        await check_refused(door, busy, 429, "account_concurrency")
        assert int(busy[1]["retry-after"]) > 0
        held.let_go.set()
        assert (await first)[0] == 200
    assert (await ask(door, INTENT))[0] == 200
    assert len(upstream.calls) == 3


async def test_a_call_that_its_client_left_gives_its_slot_back_when_it_has_ended(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(image_max_concurrency=1)
    for body in (INTENT, STREAM):
        upstream.script = held = Drawing()
        _, writer = await door.gateway.connect()
        writer.write(post(door.secret, body, PATH))
        await asyncio.wait_for(held.arrived.acquire(), 10)
        writer.close()
        held.let_go.set()
        record = await door.record(stream=body is STREAM)
        assert (record["client_left"], record["may_be_billed"]) == (True, True)
        assert record["usage"] is not None
    upstream.script = streams(drawn())
    assert (await ask(door, json.dumps({"model": "gpt-image-2", "input": "b"}).encode()))[0] == 200


async def test_calls_of_a_session_go_to_one_account(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    second = with_second(door, other, "auto")
    used: dict[str, set[str]] = {}
    for _ in range(2):
        for session in map("session-{}".format, range(20)):
            value = {"model": "gpt-image-2", "input": "a", "prompt_cache_key": session}
            status, headers, _ = await ask(door, json.dumps(value).encode())
            assert status == 200
            record = await door.record(request_id=headers["x-request-id"])
            used.setdefault(session, set()).add(record["account_name"])
    assert {len(accounts) for accounts in used.values()} == {1}
    assert set.union(*used.values()) == {door.account, second}
    assert len(upstream.calls) + len(other.calls) == 40


async def test_a_session_s_header_goes_before_the_body_s_own_word(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    with_second(door, other, "auto")
    for _ in range(8):
        value = {"model": "gpt-image-2", "input": "a", "prompt_cache_key": secrets.token_hex(8)}
        status, _, _ = await ask(door, json.dumps(value).encode(), session_id="one")
        assert status == 200
    assert sorted((len(upstream.calls), len(other.calls))) == [0, 8]
    await eventually(lambda: len(records_of(door)) == 8)


async def read_all(door: Door, body: bytes) -> int:
    """The bytes of an answer; this process does not hold them either."""
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, body, PATH))
    count = 0
    while chunk := await asyncio.wait_for(reader.read(65536), 20):
        count += len(chunk)
    writer.close()
    return count


@pytest.mark.parametrize("body", [STREAM, INTENT], ids=["stream", "whole"])
async def test_an_event_of_30_mb_is_never_held_in_memory(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    body: bytes,
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    before_picture, behind = frame(ITEM).split(picture().encode())

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(CREATED) + before_picture)
        for _ in range(30):
            await call.send(b"A" * MIB)
        await call.send(behind + frame(COMPLETED))

    upstream.script = script
    for _ in range(2):
        assert await read_all(door, body) > 30 * MIB
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert await read_all(door, body) > 30 * MIB
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    await eventually(lambda: len(gateway.records()) == 3)
    assert {record["response_image_count"] for record in gateway.records()} == {1}
    await eventually(lambda: not list((gateway.folder / "spool").iterdir()))
    assert gateway.stop() == 0


async def test_a_conversation_of_20_mb_is_not_held_in_memory(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    text_api: TextApi,
    text_port: int,
) -> None:
    gateway = make_gateway(plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}").start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    upstream.script = streams(drawn())
    url = "data:image/png;base64," + "A" * 20_000_000
    shown = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    for tools in ([], [TOOL]):
        body = json.dumps({"model": "gpt-5", "input": shown, "tools": tools}).encode()
        for _ in range(2):
            assert (await ask(door, body))[0] == 200
        gateway.forget_peak()
        before = gateway.memory("VmHWM")
        assert (await ask(door, body))[0] == 200
        assert gateway.memory("VmHWM") - before <= 8 * MIB
    assert text_api.calls[-1].json()["input"] == upstream.calls[-1].json()["input"] == shown
    await eventually(lambda: len(gateway.records()) == 6)
    assert gateway.records()[-1]["input_image_count"] == 1
    assert gateway.stop() == 0
