"""Endless 1xx responses: the call is lost, and nobody else notices."""

import asyncio
import time

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.upstream import Call, ScriptedUpstream, draws


@pytest.mark.parametrize("status", [100, 102, 103])
async def test_endless_interim_responses_end_in_an_unknown_outcome(
    make_account: MakeDoor, status: int
) -> None:
    async def floods(call: Call) -> None:
        while True:
            await call.send(b"HTTP/1.1 %d Soon\r\nlink: </a>\r\n\r\n" % status * 2000)

    async with ScriptedUpstream(floods) as flooding, ScriptedUpstream() as other:
        door, calm = make_account("openai"), make_account("openai")
        for each, upstream in ((door, flooding), (calm, other)):
            each.plane.update(
                "accounts", {"account_name": each.account}, base_url=f"{upstream.root}/v1"
            )
        lost = asyncio.create_task(door.post(PROMPT))
        began = time.monotonic()
        assert (await calm.post(PROMPT))[0] == 200
        assert time.monotonic() - began < 10
        answered, headers, body = await lost
    assert (answered, headers["x-should-retry"]) == (504, "false")
    check_error(body, "outcome_unknown")
    record = await door.record()
    assert record["may_be_billed"]
    [attempt] = record["attempts"]
    assert (attempt["stage"], attempt["error_code"]) == ("sent", "TooManyInterimError")


async def test_signs_of_life_before_an_answer_are_skipped(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async def script(call: Call) -> None:
        for _ in range(30):
            await call.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await draws(call)

    upstream.script = script
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.record())["response_image_count"] == 1
