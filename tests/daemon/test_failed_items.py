"""Responses that end without a picture: a refusal is only what says so itself."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.daemon.test_failover import Pair, make_pair
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, drawn, streams

STREAM = b'{"prompt": "a cat", "stream": true, "partial_images": 1}'
BODIES = pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["answer", "stream"])
CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "output": []}}
SAID = "I could not make it."
WORDS = {"type": "response.output_text.done", "text": SAID}


def failed(**error: Any) -> dict[str, Any]:
    """An item of the image tool that made nothing."""
    item = {"type": "image_generation_call", "id": "ig_1", "status": "failed", "result": None}
    return {"type": "response.output_item.done", "item": {**item, "error": error or None}}


def message(**part: str) -> dict[str, Any]:
    item = {"type": "message", "role": "assistant", "content": [part]}
    return {"type": "response.output_item.done", "item": item}


EMPTY: dict[str, Sequence[dict[str, Any]]] = {
    "failed item, then words": [CREATED, failed(), WORDS, COMPLETED],
    "failed item with an error, then words": [failed(code="server_error"), WORDS, COMPLETED],
    "failed item with words of its own": [failed(code="server_error", message=SAID), COMPLETED],
    "words in a message": [message(type="output_text", text=SAID), COMPLETED],
    "nothing at all": [CREATED, COMPLETED],
}
EMPTIES = pytest.mark.parametrize("events", EMPTY.values(), ids=EMPTY)


@pytest.fixture
async def pair(gateway: Gateway, shared_plane: Plane) -> AsyncIterator[Pair]:
    """Two Codex accounts with the Responses route."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        made = make_pair(gateway, shared_plane, first, second)
        for name in (made.account, made.second_account):
            made.plane.update(
                "accounts",
                {"account_name": name},
                responses_model="gpt-main",
                codex_route="responses",
            )
        first.script = second.script = streams(drawn())
        yield made


@BODIES
@EMPTIES
async def test_an_end_without_a_picture_lets_the_next_account_draw(
    pair: Pair, body: bytes, events: Sequence[dict[str, Any]]
) -> None:
    pair.first.script = streams(events)
    assert (await pair.post(body))[0] == 200
    assert pair.counts == (1, 1)
    record = await pair.record()
    assert [attempt["reason"] for attempt in record["attempts"]] == ["no_picture", None]
    assert (record["response_image_count"], record["may_be_billed"]) == (1, False)


@BODIES
@EMPTIES
async def test_if_no_account_draws_the_words_are_told(
    pair: Pair, body: bytes, events: Sequence[dict[str, Any]]
) -> None:
    pair.first.script = pair.second.script = streams(events)
    status, headers, told = await pair.post(body)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(told, "upstream_invalid")
    assert (SAID in told.decode()) == (events is not EMPTY["nothing at all"])
    assert pair.counts == (1, 1)
    record = await pair.record()
    assert (record["error_code"], record["error_source"]) == ("upstream_invalid", "upstream")


async def test_the_words_are_bounded_and_without_secrets(pair: Pair) -> None:
    words = f"token-of-{pair.account} at {pair.account} " + "x y " * 800
    pair.first.script = streams([{**WORDS, "text": words}, COMPLETED])
    pair.plane.update(
        "accounts", {"account_name": pair.second_account}, base_url="http://127.0.0.1:9"
    )
    _, _, told = await pair.post(PROMPT)
    check_error(told, "upstream_invalid")
    assert pair.account not in told.decode()
    assert len(told) < 600
    assert (await pair.record())["error_code"] == "upstream_invalid"


BLOCKED = {"code": "moderation_blocked", "message": "Why."}
STAGED = {"message": "Why.", "moderation_details": {"categories": ["violence"]}}
REFUSED: dict[str, tuple[Sequence[dict[str, Any]], str]] = {
    "code": ([failed(**BLOCKED), WORDS, COMPLETED], "moderation_blocked"),
    "another code": ([failed(code="invalid_image", message="Why."), COMPLETED], "invalid_image"),
    "details": ([failed(**STAGED), COMPLETED], "moderation_blocked"),
    "refusal": ([message(type="refusal", refusal="Why."), COMPLETED], "moderation_blocked"),
    "refusal event": (
        [{"type": "response.refusal.done", "refusal": "Why."}, WORDS, COMPLETED],
        "moderation_blocked",
    ),
}


@BODIES
@pytest.mark.parametrize(("events", "code"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal_that_says_so_is_the_client_s_answer(
    pair: Pair, body: bytes, events: Sequence[dict[str, Any]], code: str
) -> None:
    pair.first.script = streams(events)
    status, _, told = await pair.post(body)
    error = json.loads(told)["error"]
    assert (status, error["code"], error["message"]) == (400, code, "Why.")
    assert pair.counts == (1, 0)
    record = await pair.record()
    assert (record["error_code"], record["may_be_billed"]) == (code, False)


async def test_a_limit_in_a_failed_item_is_a_limit(pair: Pair) -> None:
    pair.first.script = streams([failed(code="rate_limit_exceeded", message="m"), COMPLETED])
    assert (await pair.post(PROMPT))[0] == 200
    record = await pair.record()
    assert [attempt["reason"] for attempt in record["attempts"]] == ["limited", None]


async def test_after_a_partial_picture_no_other_account_is_asked(pair: Pair) -> None:
    [_, _, preview, *_] = drawn(partials=1)
    pair.first.script = streams([preview, failed(), WORDS, COMPLETED])
    status, _, told = await pair.post(STREAM)
    assert status == 200
    assert SAID in told.decode()
    assert pair.counts == (1, 0)
    record = await pair.record()
    assert (record["status"], record["error_source"]) == (200, "upstream")
    assert record["may_be_billed"]


@EMPTIES
async def test_prompts_that_are_answered_with_words_stop_no_account(
    pair: Pair, events: Sequence[dict[str, Any]]
) -> None:
    """Otherwise one key could take the accounts of all."""
    pair.first.script = pair.second.script = streams(events)
    for _ in range(8):
        assert (await pair.post(PROMPT))[0] == 502
    pair.first.script = streams(drawn())
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (9, 8)
