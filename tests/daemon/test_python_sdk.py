"""The official Python SDK, in each of its forms, unchanged."""

import asyncio
import base64
import io
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.parts import forms
from tests.parts.upstream import (
    PNG,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    partial,
    picture,
    streams,
)

VERSION = "2025-04-01-preview"
ONE, TWO, MASK = PNG + b"one", PNG + b"two", PNG + b"mask"


def sync_client(door: Door, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=door.gateway.base_url,
        api_key=door.secret,
        **{"max_retries": 0, "timeout": 60, **options},
    )


def azure_client(door: Door, **options: Any) -> openai.AsyncAzureOpenAI:
    """As a client of Azure would make it: an endpoint, a key, a version."""
    return openai.AsyncAzureOpenAI(
        azure_endpoint=f"http://127.0.0.1:{door.gateway.port}",
        api_key=door.secret,
        api_version=VERSION,
        max_retries=0,
        timeout=60,
        **options,
    )


# -- calls -----------------------------------------------------------------------------------------


async def test_the_sync_client_generates_edits_and_streams(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")

    def calls() -> list[Any]:
        with sync_client(door) as client:
            made = client.images.generate(model="gpt-image-2", prompt="a cat")
            edited = client.images.edit(model="gpt-image-2", prompt="a dog", image=ONE, n=2)
            upstream.script = streams([partial(0), completed()])
            stream = client.images.generate(
                model="gpt-image-2", prompt="a cat", stream=True, partial_images=1
            )
            return [made, edited, list(stream)]

    made, edited, events = await asyncio.to_thread(calls)
    assert made.data[0].b64_json == edited.data[0].b64_json == picture()
    assert made.usage.total_tokens == 12
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    first, second, third = upstream.calls
    assert first.json() == {"prompt": "a cat", "model": "gpt-image-2"}
    got = {piece.name: piece.data for piece in forms.pieces(second)}
    assert got == {"prompt": b"a dog", "model": b"gpt-image-2", "n": b"2", "image": ONE}
    assert third.json()["partial_images"] == 1
    await door.record(endpoint="edits", body_form="multipart", status=200)


@pytest.mark.parametrize("kind", ["openai", "azure-legacy", "azure-v1", "codex-responses"])
async def test_an_edit_with_several_pictures_and_a_mask(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    if kind == "codex-responses":
        upstream.script = streams(drawn())
    async with door.client() as client:
        made = await client.images.edit(
            model="gpt-image-2",
            prompt="a cat",
            image=[ONE, io.BytesIO(TWO), ("third.jpg", b"\xff\xd8\xff\xe0three", "image/jpeg")],
            mask=MASK,
            size="1024x1536",
            output_compression=50,
            output_format="jpeg",
        )
    assert (made.data or [])[0].b64_json == picture()
    [call] = upstream.calls
    if kind == "codex-responses":
        content = call.json()["input"][0]["content"]
        urls = [item["image_url"] for item in content[1:]]
        assert [base64.b64decode(url.split(",")[1]) for url in urls] == [
            ONE,
            TWO,
            b"\xff\xd8\xff\xe0three",
        ]
        tool = call.json()["tools"][0]
        assert (tool["output_compression"], tool["action"]) == (50, "edit")
        assert tool["input_image_mask"]["image_url"].endswith(base64.b64encode(MASK).decode())
    else:
        files = [(p.name, p.type, p.data) for p in forms.pieces(call) if p.filename is not None]
        assert files == [
            ("image[]", "image/png", ONE),
            ("image[]", "image/png", TWO),
            ("image[]", "image/jpeg", b"\xff\xd8\xff\xe0three"),
            ("mask", "image/png", MASK),
        ]
    record = await door.record()
    assert (record["input_image_count"], record["status"]) == (4, 200)


@pytest.mark.parametrize("kind", ["openai", "codex", "codex-responses", "azure-v1"])
async def test_a_streamed_edit(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    if kind == "codex-responses":
        upstream.script = streams(drawn())
    elif kind != "codex":
        upstream.script = streams([completed("image_edit")])
    async with door.client() as client:
        stream = await client.images.edit(
            model="gpt-image-2", prompt="a cat", image=ONE, stream=True
        )
        got = [event async for event in stream]
    [done] = got
    assert done.type == "image_edit.completed"
    assert (done.b64_json, done.usage.input_tokens) == (picture(), 5)
    assert (done.size, done.output_format) == ("1024x1024", "png")
    assert (await door.record())["stream"] is True


# -- clients of Azure ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure-legacy", "codex", "openai"])
async def test_an_azure_client_generates_edits_and_streams_on_any_account(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    async with azure_client(door) as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a cat")
        edited = await client.images.edit(model="gpt-image-2", prompt="a dog", image=[ONE, TWO])
        if kind != "codex":
            upstream.script = streams([completed()])
        stream = await client.images.generate(model="gpt-image-2", prompt="a cat", stream=True)
        events = [event.type async for event in stream]
    assert (made.data or [])[0].b64_json == (edited.data or [])[0].b64_json == picture()
    assert events == ["image_generation.completed"]
    assert len(upstream.calls) == 3
    record = await door.record(endpoint="edits")
    assert record["path"] == "/openai/deployments/gpt-image-2/images/edits"
    assert (record["model"], record["status"]) == ("gpt-image-2", 200)


async def test_an_azure_client_with_its_deployment_in_the_constructor(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-legacy", deployments={"my-pictures": "theirs"})
    async with azure_client(door, azure_deployment="my-pictures") as client:
        made = await client.images.generate(prompt="a cat")
    assert (made.data or [])[0].b64_json == picture()
    assert "/openai/deployments/theirs/images/generations" in upstream.calls[0].target
    assert "model" not in upstream.calls[0].json()


async def test_a_client_of_azures_v1_path(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1")
    base_url = f"http://127.0.0.1:{door.gateway.port}/openai/v1/"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=door.secret) as client:
        made = await client.images.edit(model="gpt-image-2", prompt="a cat", image=ONE)
    assert (made.data or [])[0].b64_json == picture()
    assert upstream.calls[0].target == "/openai/v1/images/edits"


async def test_an_azure_client_gets_its_own_error_classes(make_account: MakeDoor) -> None:
    door = make_account("azure-legacy")
    async with azure_client(door) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.images.generate(model="gpt-none", prompt="a cat")
    assert raised.value.code == "model_not_found"
    await door.record(status=404)


# -- errors ----------------------------------------------------------------------------------------

CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["openai", "azure-v1"])
@pytest.mark.parametrize("status", CLASSES)
async def test_each_error_of_an_upstream_is_an_error_of_its_class(
    make_account: MakeDoor, upstream: ScriptedUpstream, status: int, kind: str, *, stream: bool
) -> None:
    door = make_account(kind)
    error = {"message": "why not", "type": "some_error", "param": "size", "code": "some_code"}
    upstream.script = answers(status, {"error": error})
    async with door.client() as client:
        with pytest.raises(CLASSES[status]) as raised:
            await client.images.generate(model="gpt-image-2", prompt="a cat", stream=stream)
    assert type(raised.value) is CLASSES[status]
    # A limit is about all accounts, and about no parameter.
    param = None if status == 429 else "size"
    assert (raised.value.code, raised.value.param) == ("some_code", param)
    record = await door.record(status=status)
    assert raised.value.request_id == record["request_id"]
    assert record["error_code"] == "some_code"


async def test_our_own_refusals_are_errors_of_their_class(door: Door) -> None:
    stranger = door.gateway.client("sk-nobody")
    async with stranger, door.client() as client:
        with pytest.raises(openai.AuthenticationError):
            await stranger.images.generate(model="gpt-image-2", prompt="a cat")
        with pytest.raises(openai.BadRequestError):
            await client.images.generate(model="gpt-image-2", prompt=" ")
        door.plane.update("keys", {"key_id": door.key_id}, image_enabled=False)
        with pytest.raises(openai.PermissionDeniedError):
            await client.images.edit(model="gpt-image-2", prompt="a cat", image=ONE)


AZURE_SHAPES: dict[str, tuple[int, Any, str | None]] = {
    "a filter without words": (
        400,
        {"created": 1, "error": {"code": "contentFilter"}},
        "contentFilter",
    ),
    "a filter with an inner error": (
        400,
        {
            "error": {
                "code": "content_policy_violation",
                "message": "no",
                "inner_error": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        "content_policy_violation",
    ),
    "a user's error": (
        400,
        {
            "error": {
                "message": "no",
                "type": "image_generation_user_error",
                "param": None,
                "code": "moderation_blocked",
            }
        },
        "moderation_blocked",
    ),
    "a bare code": (404, {"code": "404", "message": "Resource not found"}, "404"),
    "no deployment": (
        404,
        {"error": {"code": "DeploymentNotFound", "message": "no such deployment"}},
        "DeploymentNotFound",
    ),
    "a limit": (429, {"error": {"code": "429", "message": "Requests are limited"}}, "429"),
}


@pytest.mark.parametrize("shape", AZURE_SHAPES)
async def test_azures_shapes_become_openais(
    make_account: MakeDoor, upstream: ScriptedUpstream, shape: str
) -> None:
    status, body, code = AZURE_SHAPES[shape]
    door = make_account("azure-legacy")
    upstream.script = answers(status, body, {"retry-after-ms": "1500", "x-ratelimit-limit": "9"})
    async with door.client() as client:
        with pytest.raises(CLASSES[status]) as raised:
            await client.images.generate(model="gpt-image-2", prompt="a cat")
    error = raised.value.response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert (error["code"], bool(error["message"]), bool(error["type"])) == (code, True, True)
    assert raised.value.response.headers["retry-after-ms"] == "1500"
    # What one account has left says nothing of the others.
    left = raised.value.response.headers.get("x-ratelimit-limit")
    assert left == (None if status == 429 else "9")
    assert len(upstream.calls) == 1
    await door.record(status=status, error_code=code)


async def test_a_500_of_azure_is_returned_though_another_account_would_say_400(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1")
    async with ScriptedUpstream(answers(400, {"error": {"message": "m"}})) as other:
        second = f"{door.account}-b"
        door.plane.add_account(
            second, f"{other.root}/v1", dialect="openai", credential={"api_key": "k"}
        )
        door.plane.update(
            "keys",
            {"key_id": door.key_id},
            account_names=[door.account, second],
            route_strategy="fixed",
        )
        upstream.script = answers(500, {"error": {"message": "broken", "code": "server_error"}})
        async with door.client(max_retries=2) as client:
            with pytest.raises(openai.InternalServerError) as raised:
                await client.images.generate(model="gpt-image-2", prompt="a cat")
        assert (len(upstream.calls), len(other.calls)) == (1, 0)
    assert raised.value.code == "server_error"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert (await door.record())["may_be_billed"]


async def test_the_limits_that_azure_tells_reach_the_client(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("azure-v1")
    told = {"x-ratelimit-remaining-requests": "4", "x-ms-region": "somewhere", "set-cookie": "a=b"}
    upstream.script = answers(200, {"data": [{"b64_json": picture()}]}, told)
    async with door.client() as client:
        raw = await client.images.with_raw_response.generate(model="gpt-image-2", prompt="a cat")
    assert raw.headers["x-ratelimit-remaining-requests"] == "4"
    assert not {"x-ms-region", "set-cookie"} & raw.headers.keys()
    await door.record(status=200)
