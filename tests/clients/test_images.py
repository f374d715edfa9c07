"""Pictures by the Images API, as other clients than the official SDKs ask for them."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.clients.conftest import Ask
from tests.daemon.conftest import MakeDoor
from tests.parts import forms
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
    codex_turn,
    images,
    picture,
    streams,
)

CLIENTS = ("ai-sdk", "pydantic-ai", "litellm")
GENERATIONS = {
    "codex": "/codex/images/generations",
    "azure-legacy": (
        "/some/base/openai/deployments/my%20deployment/images/generations"
        "?trace=1&api-version=2025-04-01-preview"
    ),
    "azure-v1": "/openai/v1/images/generations",
    "openai": "/v1/images/generations",
}
EDITS = {kind: target.replace("generations", "edits") for kind, target in GENERATIONS.items()}
# Clients of Azure's addresses: where the base is on the gateway, and what the client makes of it.
AZURE = {
    "ai-sdk, one base": ("ai-sdk", "/openai", {"useDeploymentBasedUrls": False}),
    "ai-sdk, v1": ("ai-sdk", "/openai/v1", {"useDeploymentBasedUrls": False}),
    "ai-sdk, deployments": ("ai-sdk", "/openai", {"useDeploymentBasedUrls": True}),
    "litellm": ("litellm", "", "2025-04-01-preview"),
}
TWO = images(2, data=[{"b64_json": picture(80)}, {"b64_json": picture(90)}])
USAGE = {"input": 5, "output": 7}


def pictures_of(call: Call) -> list[bytes]:
    """The pictures of an edit as they arrived upstream."""
    if call.headers["content-type"] == "application/json":
        urls = [image["image_url"] for image in call.json()["images"]]
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]
    files = [piece for piece in forms.pieces(call) if piece.filename is not None]
    assert {piece.type for piece in files} == {"image/png"}
    # Azure and OpenAI take one picture under either name, and several only under the second.
    assert {piece.name for piece in files} in (
        [{"image[]"}] if len(files) > 1 else [{"image"}, {"image[]"}]
    )
    return [piece.data for piece in files]


@pytest.mark.parametrize("kind", GENERATIONS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_gets_the_pictures_that_it_asks_for(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, client: str, kind: str
) -> None:
    upstream.script = answers(200, TWO)
    door = doors(kind)
    seen = await ask(client, door, "generate", options={"n": 2, "size": "1024x1024"})
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture(80), picture(90)]
    assert seen["usage"] == USAGE
    [call] = upstream.calls
    assert call.target == GENERATIONS[kind]
    sent = call.json()
    assert (sent["prompt"], sent["n"], sent["size"]) == ("a cat", 2, "1024x1024")
    record = await door.record()
    assert (record["status"], record["endpoint"], record["body_form"]) == (
        200,
        "generations",
        "json",
    )
    assert (record["response_image_count"], record["model"]) == (2, "gpt-image-2")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_edits_one_picture_or_several(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    pictures: Callable[[int], Sequence[str]],
    *,
    client: str,
    kind: str,
    count: int,
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    paths = pictures(count)
    seen = await ask(client, door, "edit", pictures=paths)
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture()]
    assert seen["usage"] == USAGE
    [call] = upstream.calls
    assert call.target == EDITS[kind]
    assert pictures_of(call) == [Path(path).read_bytes() for path in paths]
    record = await door.record()
    assert (record["status"], record["endpoint"], record["body_form"]) == (
        200,
        "edits",
        "multipart",
    )
    assert record["input_image_count"] == count


@pytest.mark.parametrize("do", ["generate", "edit"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_of_the_images_api_is_served_by_the_responses_route(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    pictures: Callable[[int], Sequence[str]],
    *,
    client: str,
    do: str,
) -> None:
    upstream.script = streams(codex_turn())
    door = doors("codex-responses")
    seen = await ask(client, door, do, pictures=pictures(2 if do == "edit" else 0))
    assert seen["error"] is None, seen
    assert (seen["pictures"], seen["usage"]) == ([picture()], USAGE)
    [call] = upstream.calls
    assert call.target == "/codex/responses"
    assert call.json()["tools"][0]["action"] == do
    record = await door.record()
    assert (record["status"], record["response_image_count"]) == (200, 1)


@pytest.mark.parametrize("kind", ["azure-legacy", "codex"])
@pytest.mark.parametrize("do", ["generate", "edit"])
@pytest.mark.parametrize("client", AZURE)
async def test_a_client_of_azures_addresses_is_served_on_any_account(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    ask: Ask,
    pictures: Callable[[int], Sequence[str]],
    *,
    client: str,
    do: str,
    kind: str,
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    name, base, azure = AZURE[client]
    seen = await ask(
        name,
        door,
        do,
        baseURL=f"http://127.0.0.1:{door.gateway.port}{base}",
        azure=azure,
        pictures=pictures(1 if do == "edit" else 0),
    )
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture()]
    [call] = upstream.calls
    assert call.target == (GENERATIONS if do == "generate" else EDITS)[kind]
    record = await door.record()
    assert (record["status"], record["model"]) == (200, "gpt-image-2")


@pytest.mark.parametrize("kind", ["codex", "openai"])
async def test_a_clients_defaults_are_no_reason_to_refuse_it(
    doors: MakeDoor, upstream: ScriptedUpstream, ask: Ask, kind: str
) -> None:
    """The AI SDK writes ``n: 1`` by itself; litellm hands on what its user names."""
    upstream.script = answers(200, images())
    door = doors(kind)
    defaults = {"n": 1, "size": "auto", "output_compression": 100, "user": ""}
    seen = await ask("litellm", door, "generate", options=defaults)
    assert seen["error"] is None, seen
    assert seen["pictures"] == [picture()]
    [call] = upstream.calls
    assert (call.target, call.json()["prompt"]) == (GENERATIONS[kind], "a cat")
    assert (await door.record())["status"] == 200
