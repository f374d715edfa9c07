"""What a client shows its user when there is no picture: the words, and the status if it has one.

The clients' own retries are off here; ``test_purchases.py`` is about them.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients.conftest import Ask
from tests.clients.test_images import CLIENTS
from tests.daemon.conftest import MakeDoor
from tests.parts.clients import PROGRAMS
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers, codex_turn, streams

REJECTED = "Your request was rejected by the safety system."
SAFETY = {"code": "moderation_blocked", "message": REJECTED}
ERROR = {"error": {**SAFETY, "type": "image_generation_user_error", "param": None}}
# Clients of the Images API by name, and of the Responses API in both of its forms.
ASKING = [
    *((client, "generate", False) for client in CLIENTS),
    *((client, "respond", stream) for client in PROGRAMS for stream in (False, True)),
]
START = codex_turn()[:5]
FAILED = {
    **codex_turn()[-1],
    "type": "response.failed",
    "response": {**codex_turn()[-1]["response"], "status": "failed", "error": SAFETY},
}
WITHIN: Mapping[str, tuple[Script, str]] = {
    "error": (streams([*START, {"type": "error", "param": None, **SAFETY}]), REJECTED),
    "failed": (streams([*START, FAILED]), REJECTED),
    "cut": (streams(START), "The upstream's answer broke off."),
}
"""Ways in which a stream fails after it has begun, and what its user must read."""

each_asking = pytest.mark.parametrize(
    ("client", "do", "stream"), ASKING, ids=[f"{c}-{d}-{s}" for c, d, s in ASKING]
)


async def hangs_up(call: Call) -> None:
    """The connection ends without an answer."""


def kind_for(do: str) -> str:
    return "openai" if do == "generate" else "codex-responses"


@each_asking
async def test_a_refusal_of_the_upstream_reaches_the_clients_user(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, do: str, *, stream: bool
) -> None:
    upstream.script = answers(400, ERROR)
    door = doors(kind_for(do))
    seen = await ask(client, door, do, stream=stream, retries=0)
    assert REJECTED in seen["error"]["message"]
    # Pydantic AI has an exception of its own for this code, which names no status.
    assert seen["error"]["status"] == 400 or seen["error"]["name"] == "ContentFilterError"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (400, "moderation_blocked")


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ({"status": "disabled"}, 403, "This API key is not active."),
        ({"quota_limit": 0}, 429, "This key's quota is used up."),
        ({"allowed_models": ["gpt-image-1.5"]}, 403, "This key may not use `gpt-"),
    ],
    ids=["disabled", "quota", "model"],
)
@each_asking
async def test_a_refusal_of_the_gateway_reaches_the_clients_user(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    client: str,
    do: str,
    *,
    stream: bool,
    key: dict[str, Any],
    status: int,
    words: str,
) -> None:
    door = doors(kind_for(do), key=key)
    seen = await ask(client, door, do, stream=stream, retries=0)
    assert words in seen["error"]["message"]
    assert seen["error"]["status"] == status
    assert upstream.calls == []
    assert (await door.record())["status"] == status


@each_asking
async def test_an_uncertain_end_is_told_as_one(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, do: str, *, stream: bool
) -> None:
    upstream.script = hangs_up
    door = doors(kind_for(do))
    seen = await ask(client, door, do, stream=stream, retries=0)
    assert "A picture may have been made and billed" in seen["error"]["message"]
    assert seen["error"]["status"] == 504
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (504, "outcome_unknown")
    assert record["may_be_billed"]


@pytest.mark.parametrize("fault", WITHIN)
@pytest.mark.parametrize("client", PROGRAMS)
async def test_an_error_within_a_stream_reaches_the_clients_user_and_ends_the_run(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, fault: str
) -> None:
    """An agent that overlooks it asks for the picture again."""
    upstream.script, words = WITHIN[fault]
    door = doors("codex-responses")
    seen = await ask(client, door, "respond", stream=True, retries=0)
    assert len(upstream.calls) == 1
    assert seen["error"] is not None, seen
    assert words in seen["error"]["message"]
    # litellm calls whatever comes within a stream a 500, and the AI SDK what has no status.
    assert (await door.record())["error_code"] in ("moderation_blocked", "upstream_cut")
