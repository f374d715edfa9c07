"""How many pictures a client with its own default retries buys, counted at the upstream."""

import pytest

from tests.clients.conftest import Ask
from tests.clients.test_errors import ASKING, hangs_up, kind_for
from tests.daemon.conftest import MakeDoor
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    codex_turn,
    images,
    picture,
    streams,
)

LIMITED = {
    "error": {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
}
SOON = {"retry-after-ms": "300"}
# litellm leaves retries of the Responses API to its user.
RETRYING = [each for each in ASKING if each[:2] != ("litellm", "respond")]
# These obey x-should-retry.
OBEYING = [each for each in ASKING if each[0] not in ("ai-sdk", "langchain-js")]


def each_of(asking: list[tuple[str, str, bool]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("client", "do", "stream"), asking, ids=[f"{c}-{d}-{s}" for c, d, s in asking]
    )


@each_of(RETRYING)
async def test_a_client_that_was_told_to_wait_asks_again_and_buys_one_picture(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, do: str, *, stream: bool
) -> None:
    drawn = 0

    async def draws(call: Call) -> None:
        nonlocal drawn
        drawn += 1
        await (answers(200, images()) if do == "generate" else streams(codex_turn()))(call)

    async def script(call: Call) -> None:
        await (answers(429, LIMITED, SOON) if len(upstream.calls) == 1 else draws)(call)

    upstream.script = script
    door = doors(kind_for(do))
    seen = await ask(client, door, do, stream=stream)
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture()]
    assert drawn == 1
    delivered = await door.record(status=200)
    assert delivered["response_image_count"] == 1
    await door.record(error_code="rate_limit_exceeded")


@each_of(OBEYING)
async def test_a_client_buys_once_where_the_outcome_is_unknown(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, do: str, *, stream: bool
) -> None:
    upstream.script = hangs_up
    door = doors(kind_for(do))
    seen = await ask(client, door, do, stream=stream)
    assert len(upstream.calls) == 1
    assert "A picture may have been made and billed" in seen["error"]["message"]
    record = await door.record()
    assert (record["status"], record["error_code"]) == (504, "outcome_unknown")


@each_of(ASKING)
async def test_a_client_asks_once_for_what_is_refused(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, do: str, *, stream: bool
) -> None:
    error = {"message": "No.", "type": "image_generation_user_error", "code": "moderation_blocked"}
    upstream.script = answers(400, {"error": error})
    door = doors(kind_for(do))
    seen = await ask(client, door, do, stream=stream)
    assert "No." in seen["error"]["message"]
    assert len(upstream.calls) == 1
    assert (await door.record())["error_code"] == "moderation_blocked"
