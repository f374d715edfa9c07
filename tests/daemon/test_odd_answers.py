"""Answers of another shape than their status or head says: the body decides what they are."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.daemon.conftest import MakeDoor, frames_of
from tests.daemon.test_failover import Pair, error, make_pair
from tests.daemon.test_faults import make_first
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import (
    ScriptedUpstream,
    answers,
    completed,
    frame,
    images,
    picture,
)

STREAM = b'{"prompt": "a cat", "stream": true}'
BODIES = pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["answer", "stream"])


@pytest.fixture
async def pair(gateway: Gateway, shared_plane: Plane) -> AsyncIterator[Pair]:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        made = make_pair(gateway, shared_plane, first, second)
        make_first(made, "openai")
        yield made


@BODIES
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"created": 1, "data": []},
        {"data": [{}]},
        {"data": [{"b64_json": ""}]},
        {"data": [{"b64_json": None, "url": None}]},
        {"data": None},
        {"error": {"message": "Something went wrong."}},
        {"error": "Something went wrong."},
        [],
        "fine",
        b"ok",
        b"",
    ],
)
async def test_a_success_without_a_picture_is_none(pair: Pair, body: bytes, answer: Any) -> None:
    pair.first.script = answers(200, answer)
    status, headers, told = await pair.post(body)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    assert pair.counts == (1, 0)
    record = await pair.record()
    assert (record["status"], record["error_code"]) == (502, "upstream_invalid")
    assert record["may_be_billed"]


@BODIES
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error("model_not_found"), "model_unknown"),
        (error("billing_hard_limit_reached"), "account_spent"),
        (error(message="Your account has been suspended."), "account_stopped"),
        (error("rate_limit_exceeded"), "limited"),
        (error("server_is_overloaded"), "overloaded"),
        (error("no_available_channel"), "model_unknown"),
    ],
)
async def test_an_error_in_a_success_lets_the_next_account_serve(
    pair: Pair, body: bytes, answer: Mapping[str, Any], reason: str
) -> None:
    pair.first.script = answers(200, answer)
    assert (await pair.post(body))[0] == 200
    assert pair.counts == (1, 1)
    record = await pair.record()
    assert [attempt["reason"] for attempt in record["attempts"]] == [reason, None]
    assert record["response_image_count"] == 1


@BODIES
async def test_a_client_s_own_fault_in_a_success_is_its_own(pair: Pair, body: bytes) -> None:
    pair.first.script = answers(200, error("moderation_blocked"))
    status, _, told = await pair.post(body)
    assert (status, json.loads(told)["error"]["code"]) == (400, "moderation_blocked")
    assert pair.counts == (1, 0)
    assert not (await pair.record())["may_be_billed"]


@pytest.mark.parametrize(
    "media_type",
    ["application/x-ndjson", "text/plain", "application/octet-stream", "image/png", "nonsense"],
)
async def test_a_good_answer_under_another_media_type_is_delivered(
    pair: Pair, media_type: str
) -> None:
    pair.first.script = answers(200, images(), {"content-type": media_type})
    status, headers, told = await pair.post(PROMPT)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(told) == images()
    assert (await pair.record())["response_image_count"] == 1


async def test_a_page_is_never_an_answer(pair: Pair) -> None:
    pair.first.script = answers(200, images(), {"content-type": "text/html; charset=utf-8"})
    status, _, told = await pair.post(PROMPT)
    assert status == 502
    check_error(told, "upstream_invalid")
    assert (await pair.record())["may_be_billed"]


async def test_a_picture_before_broken_json_is_delivered(pair: Pair) -> None:
    answer = json.dumps(images()).encode() + b"]"
    pair.first.script = answers(200, answer)
    status, _, told = await pair.post(PROMPT)
    assert (status, told) == (200, answer)
    record = await pair.record()
    assert record["may_be_billed"], "nobody could count it"


async def test_pictures_that_came_are_counted_and_not_entries(pair: Pair) -> None:
    answer = images(2)
    answer["data"].insert(0, {})
    pair.first.script = answers(200, answer)
    assert (await pair.post(PROMPT))[0] == 200
    assert (await pair.record())["response_image_count"] == 2


async def test_a_plain_answer_for_a_stream_becomes_one(make_account: MakeDoor) -> None:
    """Whatever its media type."""
    async with ScriptedUpstream(answers(200, images(), {"content-type": "text/plain"})) as other:
        door = make_account("codex")
        door.plane.update("accounts", {"account_name": door.account}, base_url=other.url)
        status, _, body = await door.post(STREAM)
        assert status == 200
        assert [each["type"] for each in frames_of(body)] == ["image_generation.completed"]
        assert (await door.record())["response_image_count"] == 1


HALF = "y" * 5000 + "\\ud83d"
"""As it stands in JSON; long enough to be lifted out of it."""
ODD: Mapping[str, tuple[bytes, bytes]] = {
    "half a surrogate pair": (b'"gen_0"', f'"{HALF}"'.encode()),
    "deep": (b'"gen_0"', b"[" * 100 + b"]" * 100),
    "many values": (b'"gen_0"', json.dumps([0] * 30_000).encode()),
}
FORMS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "stream": {"stream": True},
    "url": {"response_format": "url"},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("events", [False, True], ids=["answer", "events"])
async def test_odd_values_beside_a_picture_lose_it_in_no_form(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    odd: tuple[bytes, bytes],
    form: dict[str, Any],
    *,
    events: bool,
) -> None:
    door = make_account("openai")
    if events:
        text = frame({**completed(), "generation_id": "gen_0"}).replace(*odd)
        upstream.script = answers(200, text, {"content-type": "text/event-stream"})
    else:
        upstream.script = answers(200, json.dumps(images()).encode().replace(*odd))
    status, _, body = await door.post(json.dumps({"prompt": "a cat", **form}).encode())
    assert (status, body.count(picture().encode())) == (200, 1)
    assert (await door.record())["response_image_count"] == 1
