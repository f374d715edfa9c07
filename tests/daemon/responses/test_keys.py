"""Whose key it is: switches, limits and outages hold for pictures, not for text."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from image_gateway.demo import postgres
from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.responses.calls import (
    INTENT,
    PATH,
    STREAM,
    TEXT,
    Drawing,
    TextApi,
    ask,
    records_of,
)
from tests.daemon.test_refusals import check_refused
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    drawn,
    streams,
)

SWITCHED_OFF: dict[str, tuple[dict[str, Any], int, str]] = {
    "key": ({"image_enabled": False}, 403, "key_image_generation_disabled"),
    "group": ({"group_id": "texters"}, 403, "group_image_generation_disabled"),
    "disabled": ({"status": "disabled"}, 403, "key_disabled"),
    "another provider's": ({"status": "other_provider"}, 403, "key_disabled"),
    "quota": ({"quota_limit": 1, "quota_used": 1}, 429, "insufficient_quota"),
}


@pytest.fixture(scope="module", autouse=True)
def texters(shared_plane: Plane) -> None:
    shared_plane.add_group("texters", image_enabled=False)


@pytest.mark.parametrize("why", SWITCHED_OFF)
async def test_a_key_that_may_make_no_pictures_goes_on_with_text(
    make: MakeDoor, text_api: TextApi, why: str
) -> None:
    door = make(key=SWITCHED_OFF[why][0])
    assert (await ask(door, TEXT))[0] == 200
    assert len(text_api.calls) == 1
    assert (await door.record())["error_code"] is None


@pytest.mark.parametrize("body", [INTENT, STREAM, b'{"model":"gpt-image-2","input":"a"}'])
@pytest.mark.parametrize("why", SWITCHED_OFF)
async def test_an_intent_of_a_key_that_may_make_no_pictures_is_refused_before_any_account(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, why: str, body: bytes
) -> None:
    key, status, code = SWITCHED_OFF[why]
    door = make(key=key)
    answer = await ask(door, body)
    await check_refused(door, answer, status, code)
    if status == 403:
        assert json.loads(answer[2])["error"]["type"] == "permission_error"
    assert upstream.calls == text_api.calls == []
    assert (await door.record())["account_name"] is None


@pytest.mark.parametrize("body", [TEXT, INTENT], ids=["text", "intent"])
@pytest.mark.parametrize(
    ("secret", "code"), [(None, "missing_api_key"), ("sk-nobody", "invalid_api_key")]
)
async def test_without_a_known_key_nothing_goes_on(
    door: Door,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    secret: str | None,
    code: str,
    body: bytes,
) -> None:
    answer = parse(await door.gateway.raw(post(secret, body, PATH)))
    await check_refused(door, answer, 401, code)
    assert upstream.calls == text_api.calls == []


async def test_a_key_with_all_of_its_image_calls_in_flight_goes_on_with_text(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(key={"max_concurrency": 1})
    upstream.script = held = Drawing()
    first = asyncio.create_task(ask(door, INTENT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await ask(door, TEXT))[0] == 200
    second = await ask(door, INTENT)
    await check_refused(door, second, 429, "key_concurrency")
    held.let_go.set()
    assert (await first)[0] == 200
    assert (await ask(door, INTENT))[0] == 200
    assert (len(upstream.calls), len(text_api.calls)) == (2, 1)


async def test_text_holds_no_place_of_the_key_and_no_slot(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(key={"max_concurrency": 1}, image_max_concurrency=1)
    gate = asyncio.Event()

    async def script(call: Call) -> None:
        await gate.wait()
        await call.answer(200, b"{}")

    text_api.script = script
    running = [asyncio.create_task(ask(door, TEXT)) for _ in range(3)]
    await eventually(lambda: len(text_api.calls) == 3)
    assert (await ask(door, INTENT))[0] == 200
    gate.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 3
    await eventually(lambda: len(records_of(door)) == 4)


async def test_while_postgres_is_away_text_of_an_unknown_key_goes_on_and_an_intent_waits(
    make_gateway: Callable[..., Gateway],
    text_api: TextApi,
    text_port: int,
    upstream: ScriptedUpstream,
) -> None:
    upstream.script = streams(drawn())
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(
            plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", grant_ttl_seconds=0.2
        )
        # Before the start, or a late notification of them could come after the last reading.
        door = open_door(gateway, plane, upstream, "codex-responses")
        gateway.start()
        assert (await ask(door, INTENT))[0] == 200
        server.kill()
        stranger = Door(gateway, plane, "none", "sk-stranger", "none")
        assert (await ask(stranger, TEXT))[0] == 200
        assert (await gateway.record(error_code=None, key_id=None))["model"] == "gpt-5"
        answer = await ask(stranger, INTENT)
        await check_refused(stranger, answer, 503, "control_plane_unavailable")
        assert int(answer[1]["retry-after"]) > 0
        assert (await ask(door, INTENT))[0] == (await ask(door, TEXT))[0] == 200
        nobody = parse(await gateway.raw(post(None, TEXT, PATH)))
        await check_refused(door, nobody, 401, "missing_api_key")
        assert (len(text_api.calls), len(upstream.calls)) == (2, 2)
        assert gateway.stop() == 0
