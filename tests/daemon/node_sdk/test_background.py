"""Responses in the background, as the SDK's user starts, polls, reads on and deletes them."""

from collections.abc import Callable

from tests.daemon.conftest import Door
from tests.parts import node
from tests.parts.upstream import ScriptedUpstream, codex_turn, picture, streams


async def test_a_response_in_the_background_is_polled_read_on_and_deleted(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(codex_turn())
    door = doors("responses")
    tools = [{"type": "image_generation"}]
    order = {
        "client": {"baseURL": door.gateway.base_url, "apiKey": door.secret},
        "parameters": {"model": "gpt-5.5", "input": "a cat", "tools": tools},
    }
    seen = await node.run("background.mjs", order)
    assert (seen["begun"]["status"], seen["begun"]["output"]) == ("queued", [])
    made = seen["made"]
    assert (made["id"], made["status"]) == (seen["begun"]["id"], "completed")
    [result] = [item["result"] for item in made["output"] if "result" in item]
    assert result == picture()
    first, rest = seen["first"], seen["rest"]
    assert (first["type"], first["sequence_number"]) == ("response.created", 0)
    assert [event["sequence_number"] for event in rest] == list(range(1, 1 + len(rest)))
    last = rest[-1]["response"]
    assert (last["id"], last["status"]) == (first["response"]["id"], "completed")
    assert seen["cancelled"] == last
    assert seen["error"] == {"name": "Error", "status": 404, "code": "call_not_found"}
    assert len(upstream.calls) == 2
    records = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
    assert sum(each["response_image_count"] or 0 for each in records) == 2
    assert all(each["call_id"] for each in records if each["status"] == 200)
