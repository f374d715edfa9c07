"""Pictures by the image tool of the Responses API, as agents and chat clients ask for them."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Ask
from tests.daemon.conftest import MakeDoor
from tests.parts.clients import PROGRAMS
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    codex_turn,
    openai_turn,
    picture,
    streams,
)

# Kinds of accounts with a main model, where each takes a turn, and how its turn ends.
TURNS: Mapping[str, tuple[str, dict[str, Any], str, Callable[..., Any]]] = {
    "codex": ("codex-responses", {}, "/codex/responses", codex_turn),
    "openai": ("openai", {"responses_model": "gpt-main"}, "/v1/responses", openai_turn),
    "azure": ("azure-v1", {"responses_model": "gpt-main"}, "/openai/v1/responses", openai_turn),
}
# Those whose user sees partial pictures of a stream.
SHOWING = ("ai-sdk", "agents", "agents-js", "litellm")
# Those that send an earlier picture again; the others send its id.
REPEATING = ("langchain-js", "agents", "litellm")
AZURE = {
    "ai-sdk, one base": ("ai-sdk", "/openai", {"useDeploymentBasedUrls": False}),
    "ai-sdk, v1": ("ai-sdk", "/openai/v1", {"useDeploymentBasedUrls": False}),
    "langchain": ("langchain", "", "2025-04-01-preview"),
    "agents": ("agents", "", "2025-04-01-preview"),
}

each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def strings(value: Any) -> Iterator[str]:
    """All strings within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def pictures_of(call: Call) -> list[bytes]:
    """The pictures among the input of a turn, as they arrived upstream."""
    urls = [text for text in strings(call.json()["input"]) if text.startswith("data:image/png;")]
    return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]


@each_way
@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("client", PROGRAMS)
async def test_a_client_of_the_image_tool_gets_its_picture_and_asks_once(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    client: str,
    kind: str,
    *,
    stream: bool,
) -> None:
    """An end without its items made agents ask again, up to ten times."""
    account, row, target, turn = TURNS[kind]
    upstream.script = streams(turn())
    door = doors(account, **row)
    seen = await ask(client, door, "respond", stream=stream)
    assert (seen["error"], len(upstream.calls)) == (None, 1)
    assert seen["pictures"] == [picture()]
    assert seen["usage"] == {"input": 900, "output": 90}
    [call] = upstream.calls
    assert call.target == target
    assert "a cat" in list(strings(call.json()["input"]))
    assert [tool["type"] for tool in call.json()["tools"]] == ["image_generation"]
    record = await door.record()
    assert (record["status"], record["endpoint"], record["stream"]) == (200, "responses", stream)
    assert record["response_image_count"] == 1


@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("client", PROGRAMS)
async def test_a_clients_pictures_are_part_of_the_turn(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    pictures: Callable[[int], Sequence[str]],
    client: str,
    kind: str,
) -> None:
    account, row, _, turn = TURNS[kind]
    upstream.script = streams(turn())
    door = doors(account, **row)
    paths = pictures(2)
    seen = await ask(client, door, "respond", pictures=paths)
    assert (seen["error"], len(upstream.calls)) == (None, 1)
    assert seen["pictures"] == [picture()]
    assert pictures_of(upstream.calls[0]) == [Path(path).read_bytes() for path in paths]
    record = await door.record()
    assert (record["status"], record["input_image_count"]) == (200, 2)


@each_way
@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("client", PROGRAMS)
async def test_a_second_turn_brings_the_first_picture_or_says_what_to_send(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    client: str,
    kind: str,
    *,
    stream: bool,
) -> None:
    """Nothing is stored at Codex: there a picture by its id would be a 404, after a turn."""
    account, row, _, turn = TURNS[kind]
    upstream.script = streams(turn())
    door = doors(account, **row)
    seen = await ask(client, door, "respond", then="Now in blue.", stream=stream)
    if kind == "codex" and client not in REPEATING:
        assert "send all items of the conversation in `input`" in seen["error"]["message"]
        assert len(upstream.calls) == 1
        assert (await door.record(status=400))["error_code"] == "unsupported_value"
        return
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture()]
    assert len(upstream.calls) == 2
    said = list(strings(upstream.calls[1].json()["input"]))
    assert {"a cat", "Now in blue."} <= set(said)
    assert (picture() in said) == (client in REPEATING)


@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("client", SHOWING)
async def test_a_client_shows_partial_pictures_as_they_come(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, kind: str
) -> None:
    account, row, _, turn = TURNS[kind]
    upstream.script = streams(turn(partials=2))
    door = doors(account, **row)
    name = "partialImages" if client in ("ai-sdk", "agents-js") else "partial_images"
    seen = await ask(client, door, "respond", stream=True, options={name: 2})
    assert (seen["error"], len(upstream.calls)) == (None, 1)
    assert (seen["pictures"], seen["partials"]) == ([picture()], 2)
    assert upstream.calls[0].json()["tools"][0]["partial_images"] == 2
    assert (await door.record())["status"] == 200


@each_way
@pytest.mark.parametrize("client", AZURE)
async def test_a_client_of_azures_addresses_is_served_on_any_account(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, *, stream: bool
) -> None:
    upstream.script = streams(codex_turn())
    door = doors("codex-responses")
    name, base, azure = AZURE[client]
    seen = await ask(
        name,
        door,
        "respond",
        baseURL=f"http://127.0.0.1:{door.gateway.port}{base}",
        azure=azure,
        stream=stream,
    )
    assert (seen["error"], len(upstream.calls)) == (None, 1)
    assert seen["pictures"] == [picture()]
    assert (await door.record())["status"] == 200
