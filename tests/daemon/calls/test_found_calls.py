"""A request finds the call that was paid for: joined, taken over, replayed, or told once."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.daemon.calls.parts import (
    CAT,
    DOG,
    RETRY,
    answer_of,
    asking,
    hold,
    in_phase,
    leave,
    until_left,
)
from tests.daemon.conftest import Door, MakeDoor, frames_of
from tests.parts.gateway import post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    draws,
    frame,
    images,
    picture,
    streams,
)

NAME = {"Idempotency-Key": "order-1"}


async def source(door: Door, body: bytes = CAT, **headers: str) -> tuple[int, str]:
    """Post a call; the answer's status and how it came to its call."""
    status, answer, _ = await door.post(body, **headers)
    return status, answer.get("x-call-source", "")


# -- with a name -----------------------------------------------------------------------------------


async def test_a_name_joins_its_call_while_it_runs(door: Door, upstream: ScriptedUpstream) -> None:
    held = hold(upstream)
    first = asyncio.create_task(door.post(CAT, Idempotency_Key="order-1"))
    await asyncio.wait_for(held.begun.wait(), 20)
    async with asking(door, CAT, NAME) as second:
        await in_phase(door, "joined")
        held.go.set()
        status, headers, body = answer_of(await second)
    assert (status, headers["x-call-source"]) == (200, "joined")
    made = await first
    assert (made[0], made[1]["x-call-source"]) == (200, "made")
    assert json.loads(made[2]) == body
    assert made[1]["x-call-id"] == headers["x-call-id"]
    assert len(upstream.calls) == 1
    records = [await door.record(call_source=source) for source in ("made", "joined")]
    assert records[0]["usage"] is not None
    assert (records[1]["usage"], records[1]["attempts"]) == (None, [])
    assert records[1]["call_request_id"] == records[0]["request_id"]


async def test_a_name_gets_its_picture_again_once_it_was_made(
    door: Door, upstream: ScriptedUpstream
) -> None:
    made = await door.post(CAT, Idempotency_Key="order-1")
    again = await door.post(CAT, Idempotency_Key="order-1")
    assert (made[0], again[0], len(upstream.calls)) == (200, 200, 1)
    assert again[2] == made[2]
    assert again[1]["idempotent-replayed"] == "true"
    assert again[1]["x-call-source"] == "replayed"
    assert "idempotent-replayed" not in made[1]
    record = await door.record(call_source="replayed")
    assert (record["status"], record["error_code"], record["attempts"]) == (200, None, [])


@pytest.mark.parametrize("headers", [NAME, RETRY], ids=["a name", "a sure retry"])
async def test_an_answer_that_was_cut_off_on_the_disk_is_made_anew(
    door: Door, upstream: ScriptedUpstream, headers: dict[str, str]
) -> None:
    """A machine that crashes may lose the last bytes of an answer and keep its journal."""
    made = await door.post(CAT, **headers)
    await door.record(call_source="made")
    folder = Path(door.gateway.settings["STATE_DIR"]) / "calls" / "answers"
    os.truncate(folder / made[1]["x-call-id"], 10)
    for _ in range(2):
        again = await door.post(CAT, **headers)
        assert (again[0], again[2]) == (200, made[2])
    assert again[1]["x-call-source"] == "replayed"
    assert len(upstream.calls) == 2


STREAMS: dict[str, tuple[str, bytes, list[Any]]] = {
    "openai": (
        "/v1/images/generations",
        b'{"prompt": "a cat", "stream": true, "n": 2}',
        [completed(), frame(completed())[:-40]],
    ),
    "codex-responses": (
        "/v1/responses",
        b'{"model": "gpt-image-2", "input": "a cat", "stream": true}',
        [*drawn()[:-1], frame(drawn()[-1])[:-40]],
    ),
}


@pytest.mark.parametrize("kind", STREAMS)
async def test_the_pictures_of_a_stream_that_was_cut_are_there_for_the_next(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    """They come with the error after them, as the client that stayed got them."""
    path, body, sent = STREAMS[kind]
    door = make_account(kind)
    held = hold(upstream, streams(sent))
    _, writer = await door.gateway.connect()
    writer.write(post(door.secret, body, path))
    await asyncio.wait_for(held.begun.wait(), 20)
    stayed = asyncio.create_task(door.post(body, path, x_stainless_retry_count="1"))
    await in_phase(door, "joined")
    writer.close()
    held.go.set()
    seen = frames_of((await stayed)[2])
    await door.record(call_source="made")
    status, headers, again = await door.post(body, path, x_stainless_retry_count="1")
    assert (status, headers["x-call-source"]) == (200, "replayed")
    assert frames_of(again) == seen
    assert picture().encode() in again
    assert seen[-1]["error"]["code"] == "upstream_cut"
    record = await door.record(call_source="replayed")
    assert record["error_code"] == "upstream_cut"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("kind", STREAMS)
async def test_such_pictures_are_taken_over_by_the_next_equal_request(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    """They are pictures that were made, and not a call of which nobody knows."""
    path, body, sent = STREAMS[kind]
    door = make_account(kind)
    held = hold(upstream, streams(sent))
    _, writer = await door.gateway.connect()
    writer.write(post(door.secret, body, path))
    await asyncio.wait_for(held.begun.wait(), 20)
    writer.close()
    await until_left(door.gateway)
    held.go.set()
    await door.record(call_source="made")
    status, headers, answer = await door.post(body, path)
    assert (status, headers["x-call-source"]) == (200, "taken-over")
    assert picture().encode() in answer
    assert frames_of(answer)[-1]["error"]["code"] == "upstream_cut"
    assert len(upstream.calls) == 1


async def test_a_name_stands_for_one_request_alone(door: Door, upstream: ScriptedUpstream) -> None:
    await door.post(CAT, Idempotency_Key="order-1")
    status, _, body = await door.post(DOG, Idempotency_Key="order-1")
    assert (status, json.loads(body)["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(upstream.calls) == 1
    assert (await door.record(status=422))["attempts"] == []


async def test_an_error_of_the_requests_own_is_given_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    error = {"message": "no", "type": "image_generation_user_error", "code": "moderation_blocked"}
    upstream.script = answers(400, {"error": error})
    first = await door.post(CAT, Idempotency_Key="order-1")
    again = await door.post(CAT, Idempotency_Key="order-1")
    assert (first[0], again[0], len(upstream.calls)) == (400, 400, 1)
    assert again[2] == first[2]
    record = await door.record(call_source="replayed")
    assert (record["error_code"], record["error_source"]) == ("moderation_blocked", "upstream")


async def test_a_name_whose_call_made_nothing_is_tried_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(401, {"error": {"message": "no"}})
    assert (await door.post(CAT, Idempotency_Key="order-1"))[0] == 503
    door.plane.update(
        "accounts", {"account_name": door.account}, credential={"access_token": "new"}
    )
    upstream.script = draws
    assert await source(door, Idempotency_Key="order-1") == (200, "made")


@pytest.mark.parametrize("name", ["", "with a space", "x" * 256, "\x7f"])
async def test_a_name_that_is_none_is_refused(
    door: Door, upstream: ScriptedUpstream, name: str
) -> None:
    status, _, body = await door.post(CAT, Idempotency_Key=name)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "Idempotency-Key")
    assert upstream.calls == []
    assert (await door.record())["error_code"] == "invalid_value"


async def test_a_name_is_its_keys_own(
    door: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    await door.post(CAT, Idempotency_Key="order-1")
    other = Door(
        door.gateway,
        door.plane,
        f"{door.key_id}-2",
        shared_plane.add_key(key_id=f"{door.key_id}-2", account_names=[door.account]),
        door.account,
    )
    assert await source(other, Idempotency_Key="order-1") == (200, "made")
    assert len(upstream.calls) == 2


# -- a sure retry ----------------------------------------------------------------------------------


async def test_a_retry_joins_the_call_that_runs_even_with_one_place_left(
    door: Door, upstream: ScriptedUpstream
) -> None:
    door.plane.update("keys", {"key_id": door.key_id}, max_concurrency=1, quota_limit=1)
    held = hold(upstream)
    await leave(door, held)
    assert (await door.post(DOG))[0] == 429
    door.plane.update("keys", {"key_id": door.key_id}, quota_limit=0)
    async with asking(door, CAT, RETRY) as retry:
        await in_phase(door, "joined")
        held.go.set()
        status, headers, body = answer_of(await retry)
    assert (status, body["data"]) == (200, images()["data"])
    assert headers["x-call-source"] == "joined"
    assert len(upstream.calls) == 1


async def test_a_retry_gets_the_picture_that_was_sent_before(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Behind a proxy nobody knows whether it came."""
    assert await source(door) == (200, "made")
    assert await source(door, x_stainless_retry_count="1") == (200, "replayed")
    assert await source(door, x_stainless_retry_count="2") == (200, "replayed")
    assert len(upstream.calls) == 1


async def test_a_retry_of_a_refused_call_is_a_picture_of_its_own(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Three equal calls, of which one met a full account, are three pictures."""
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=2)
    held = hold(upstream)
    running = [asyncio.create_task(door.post(CAT)) for _ in range(2)]
    while len(upstream.calls) < 2:
        await asyncio.sleep(0.01)
    assert (await door.post(CAT))[0] == 429
    held.go.set()
    assert [answer[0] for answer in await asyncio.gather(*running)] == [200, 200]
    assert await source(door, x_stainless_retry_count="1") == (200, "made")
    assert len(upstream.calls) == 3


async def test_the_sdk_gets_its_picture_by_its_own_retry(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Its time-out ends before the picture is there, which used to buy three."""
    held = hold(upstream)
    client = door.client(timeout=0.5, max_retries=10)
    asked = asyncio.create_task(client.images.generate(model="gpt-image-2", prompt="a cat"))
    await asyncio.wait_for(held.begun.wait(), 20)
    await asyncio.wait([asked], timeout=2)
    held.go.set()
    answer = await asked
    assert answer.data is not None
    assert answer.data[0].b64_json == images()["data"][0]["b64_json"]
    assert len(upstream.calls) == 1
    await client.close()


async def test_the_sdk_names_its_calls_by_a_setting_of_its_own(
    door: Door, upstream: ScriptedUpstream
) -> None:
    client = door.client()
    client._idempotency_header = "Idempotency-Key"
    await client.images.generate(model="gpt-image-2", prompt="a cat")
    await client.images.generate(model="gpt-image-2", prompt="a cat")
    assert len(upstream.calls) == 2
    headers = {"Idempotency-Key": "mine"}
    for _ in range(2):
        await client.images.generate(model="gpt-image-2", prompt="a cat", extra_headers=headers)
    assert len(upstream.calls) == 3
    await client.close()


# -- any other request -----------------------------------------------------------------------------


async def test_a_call_that_lost_its_client_is_taken_over_once(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    await leave(door, held)
    async with asking(door) as second, asking(door) as third:
        while len(upstream.calls) < 2:
            await asyncio.sleep(0.01)
        held.go.set()
        sources = [answer_of(await each)[1]["x-call-source"] for each in (second, third)]
    assert sorted(sources) == ["made", "taken-over"]
    assert len(upstream.calls) == 2
    assert await source(door) == (200, "made")


async def test_a_picture_that_nobody_waited_for_is_there_for_the_next(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    await leave(door, held)
    held.go.set()
    await door.record(client_left=True)
    assert await source(door) == (200, "taken-over")
    assert await source(door) == (200, "made")


async def test_what_a_second_client_lost_the_third_gets(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    await leave(door, held)
    await leave(door, held)
    held.go.set()
    assert await source(door) == (200, "taken-over")
    assert len(upstream.calls) == 1


async def test_equal_calls_of_clients_that_stay_are_pictures_of_their_own(
    door: Door, upstream: ScriptedUpstream
) -> None:
    answers_got = await asyncio.gather(*(source(door) for _ in range(3)))
    assert answers_got == [(200, "made")] * 3
    assert await source(door) == (200, "made")
    assert len(upstream.calls) == 4


async def test_an_unknown_outcome_is_told_once_before_it_is_bought_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async def hangs_up(call: Call) -> None:
        call.writer.transport.abort()

    upstream.script = hangs_up
    assert (await door.post(CAT))[0] == 504
    upstream.script = draws
    status, headers, body = await door.post(CAT)
    assert (status, json.loads(body)["error"]["code"]) == (400, "repeated_call")
    assert headers["x-should-retry"] == "false"
    assert (await door.record(status=400))["attempts"] == []
    assert await source(door) == (200, "made")
    assert len(upstream.calls) == 2


async def test_a_retry_of_an_unknown_outcome_gets_it_again(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """``curl --retry`` and others ask again after a 504; a sure retry hears the same."""

    async def hangs_up(call: Call) -> None:
        call.writer.transport.abort()

    upstream.script = hangs_up
    first = await door.post(CAT)
    again = await door.post(CAT, x_stainless_retry_count="1")
    assert (first[0], again[0]) == (504, 504)
    assert again[2] == first[2]
    assert again[1]["x-should-retry"] == "false"
    assert len(upstream.calls) == 1
    with pytest.raises(openai.BadRequestError, match="outcome is unknown"):
        await door.client(max_retries=2).images.generate(model="gpt-image-2", prompt="a cat")
