"""Generations and edits by the SDK: what went upstream, what came back, what was recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import Door
from tests.daemon.node_sdk.calls import (
    ACCOUNTS,
    API_VERSION,
    CAT,
    EDITS,
    GENERATIONS,
    MAIN_MODEL,
    RESPONSE_COMPLETED,
    RESPONSE_CREATED,
    RESPONSE_ITEM,
    SIGNED_BY,
    USAGE,
    ask,
    check_delivered,
    frame,
    image_event,
    response_events,
    streams,
)
from tests.parts.node import Part, digest_of, draw, parts
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, answers, images, picture

# -- generations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["codex", "azure", "azure-v1", "openai"])
async def test_a_generation_reaches_each_kind_of_account(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    door = doors(kind)
    asked = {
        "prompt": 'a cat, ünïcode \U0001f408 and "quotes"\r\n',
        "n": 2,
        "size": "1536x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "jpeg",
        "output_compression": 80,
        "moderation": "low",
        "user": "somebody",
    }
    seen = await ask(door, "generate", {"model": "gpt-image-2", **asked, "stream": False})
    record = await check_delivered(
        door,
        seen,
        endpoint="generations",
        path="/v1/images/generations",
        body_form="json",
        model="gpt-image-2",
        n=2,
        stream=False,
        size_given="1024x1024",
        quality_given="medium",
        input_image_count=0,
        response_image_count=2,
        usage=images()["usage"],
    )
    assert record["dialect"] == ACCOUNTS[kind](upstream).get("dialect", "codex")
    assert seen["data"] == images(2)
    [call] = upstream.calls
    assert (call.method, call.target) == ("POST", GENERATIONS[kind])
    assert call.json() == (asked if kind == "azure" else {"model": "gpt-image-2", **asked})
    name, value = SIGNED_BY.get(kind, ("authorization", f"Bearer token-of-{door.account}"))
    assert call.headers[name] == value
    assert door.secret not in str(call.headers)
    assert call.headers["accept"] == "application/json"
    assert not [name for name in call.headers if name.startswith("x-stainless")]
    assert "openai/js" not in call.headers.get("user-agent", "").lower()


async def test_a_generation_by_the_responses_route(
    doors: Callable[..., Door], upstream: ScriptedUpstream, shared_plane: Plane
) -> None:
    door = doors("responses")
    shared_plane.update("accounts", {"account_name": door.account}, codex_route="responses")
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_ITEM, RESPONSE_COMPLETED)
    seen = await ask(door, "generate", {**CAT, "quality": "high"})
    await check_delivered(door, seen, response_image_count=1, usage=USAGE, quality_given="high")
    assert seen["data"]["data"] == [{"b64_json": picture(300), "revised_prompt": "a tabby cat"}]
    assert seen["data"]["usage"] == USAGE
    assert seen["data"]["size"] == "1024x1024"
    [call] = upstream.calls
    assert call.target == "/codex/responses"


async def test_url_answers_are_data_urls(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "response_format": "url"})
    await check_delivered(door, seen, response_image_count=1)
    [made] = seen["data"]["data"]
    assert made["url"] == f"data:image/png;base64,{picture()}"
    assert "b64_json" not in made
    assert upstream.calls[0].json() == CAT


# -- edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["codex", "azure", "openai"])
@pytest.mark.parametrize("by", ["bytes", "buffer", "upload", "file", "stream"])
async def test_an_edit_of_one_picture_however_it_is_handed_over(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path, by: str, kind: str
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    sent = draw(tmp_path, by)
    seen = await ask(door, "edit", {**CAT, "image": sent.parameter, "size": "1024x1024"})
    await check_delivered(
        door,
        seen,
        endpoint="edits",
        body_form="multipart",
        input_image_count=1,
        input_image_bytes=sent.path.stat().st_size,
        response_image_count=1,
    )
    assert seen["data"] == images()
    [call] = upstream.calls
    if kind == "codex":
        assert call.target == "/codex/images/edits"
        assert call.headers["content-type"] == "application/json"
        body = call.json()
        [image] = body.pop("images")
        assert list(image) == ["image_url"]
        assert digest_of(image["image_url"], "image/png") == sent.digest
        assert body == {**CAT, "size": "1024x1024"}
        return
    assert call.target == EDITS[kind]
    assert parts(call) == [
        Part("prompt", "a cat"),
        *([Part("model", "gpt-image-2")] if kind == "openai" else []),
        Part("size", "1024x1024"),
        Part("image", sent.digest, "image/png"),
    ]


@pytest.mark.parametrize(
    ("ways", "mask_by"),
    [(("bytes", "upload", "file"), "buffer"), (("stream", "buffer", "stream"), "stream")],
    ids=["as a form", "as a chunked form"],
)
@pytest.mark.parametrize("kind", ["azure", "azure-v1", "openai"])
async def test_pictures_and_a_mask_go_on_as_multipart_unchanged_and_in_order(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    kind: str,
    ways: tuple[str, str, str],
    mask_by: str,
) -> None:
    upstream.script = answers(200, images(2))
    door = doors(kind)
    sent = [
        draw(tmp_path, ways[0], "image/webp"),
        draw(tmp_path, ways[1], "image/png", 2_000_000),
        draw(tmp_path, ways[2], "image/jpeg"),
    ]
    mask = draw(tmp_path, mask_by)
    prompt = "ünïcode \U0001f408 -- and more"
    seen = await ask(
        door,
        "edit",
        {
            "image": [each.parameter for each in sent],
            "prompt": prompt,
            "mask": mask.parameter,
            "n": 2,
            "model": "gpt-image-2",
            "stream": False,
            "output_format": "webp",
            "output_compression": 50,
        },
    )
    size = sum(each.path.stat().st_size for each in [*sent, mask])
    record = await check_delivered(
        door,
        seen,
        endpoint="edits",
        body_form="multipart",
        input_image_count=4,
        input_image_bytes=size,
        n=2,
        prompt_chars=len(prompt),
        response_image_count=2,
    )
    assert record["request_bytes"] > size
    assert seen["data"] == images(2)
    [call] = upstream.calls
    assert (call.method, call.target) == ("POST", EDITS[kind])
    name, value = SIGNED_BY[kind]
    assert call.headers[name] == value
    fields = {each.name: each.value for each in parts(call) if each.type is None}
    assert fields == {
        "prompt": prompt,
        "n": "2",
        "output_format": "webp",
        "output_compression": "50",
        **({} if kind == "azure" else {"model": "gpt-image-2"}),
    }
    assert [each for each in parts(call) if each.type is not None] == [
        *(Part("image[]", each.digest, each.type) for each in sent),
        Part("mask", mask.digest, "image/png"),
    ]


async def test_pictures_and_a_mask_go_to_a_codex_account_by_the_responses_route(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_ITEM, RESPONSE_COMPLETED)
    door = doors("responses")
    sent = [draw(tmp_path, "bytes"), draw(tmp_path, "buffer", "image/jpeg")]
    mask = draw(tmp_path, "upload")
    given = {"image": [each.parameter for each in sent], "mask": mask.parameter}
    seen = await ask(door, "edit", {**CAT, **given, "quality": "high"})
    await check_delivered(
        door, seen, endpoint="edits", input_image_count=3, response_image_count=1, usage=USAGE
    )
    assert seen["data"]["data"] == [{"b64_json": picture(300), "revised_prompt": "a tabby cat"}]
    assert seen["data"]["usage"] == USAGE
    [call] = upstream.calls
    assert call.target == "/codex/responses"
    assert call.headers["accept"] == "text/event-stream"
    body = call.json()
    [message] = body.pop("input")
    words, *shown = message["content"]
    assert words == {"type": "input_text", "text": "a cat"}
    assert [each["type"] for each in shown] == ["input_image"] * 2
    assert [
        digest_of(each["image_url"], one.type) for each, one in zip(shown, sent, strict=True)
    ] == [one.digest for one in sent]
    [tool] = body.pop("tools")
    assert digest_of(tool.pop("input_image_mask")["image_url"], "image/png") == mask.digest
    assert tool == {
        "type": "image_generation",
        "action": "edit",
        "model": "gpt-image-2",
        "quality": "high",
    }
    assert isinstance(body.pop("instructions"), str)
    assert body == {
        "model": MAIN_MODEL,
        "tool_choice": {"type": "image_generation"},
        "stream": True,
        "store": False,
    }


async def test_several_pictures_go_to_a_codex_account_as_data_urls_in_order(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script = answers(200, images())
    door = doors("codex")
    sent = [
        draw(tmp_path, "bytes", "image/webp"),
        draw(tmp_path, "upload", "image/jpeg", 2_000_000),
        draw(tmp_path, "file"),
    ]
    seen = await ask(door, "edit", {**CAT, "image": [each.parameter for each in sent], "n": 1})
    await check_delivered(door, seen, endpoint="edits", input_image_count=3)
    [call] = upstream.calls
    body = call.json()
    assert [
        digest_of(each["image_url"], one.type)
        for each, one in zip(body.pop("images"), sent, strict=True)
    ] == [one.digest for one in sent]
    assert body == {**CAT, "n": 1}


async def test_a_mask_that_no_account_can_take_is_refused_by_name(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    door = doors("codex")
    image, mask = draw(tmp_path, "buffer"), draw(tmp_path, "buffer")
    seen = await ask(door, "edit", {**CAT, "image": image.parameter, "mask": mask.parameter})
    assert seen["error"]["name"] == "BadRequestError"
    assert (seen["error"]["code"], seen["error"]["param"]) == ("unsupported_value", "mask")
    assert upstream.calls == []
    record = await door.record(request_id=seen["error"]["requestID"])
    assert (record["status"], record["error_code"]) == (400, "unsupported_value")
    assert record["attempts"] == []


# -- Azure's client --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure", "azure-v1", "codex", "openai"])
async def test_a_generation_by_the_client_for_azure(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    door = doors(kind)
    asked = {"prompt": "a cat", "size": "1024x1024"}
    seen = await ask(door, "generate", asked, azure=True, deployment="gpt-image-2")
    await check_delivered(
        door,
        seen,
        path="/openai/deployments/gpt-image-2/images/generations",
        endpoint="generations",
        model="gpt-image-2",
        response_image_count=1,
    )
    assert seen["data"] == images()
    [call] = upstream.calls
    assert call.target == GENERATIONS[kind]
    model = {} if kind == "azure" else {"model": "gpt-image-2"}
    assert call.json() == {**asked, **model}
    assert door.secret not in str(call.headers)


@pytest.mark.parametrize("by", ["buffer", "stream"])
async def test_an_edit_by_the_client_for_azure_under_a_name_of_the_house(
    doors: Callable[..., Door],
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    by: str,
) -> None:
    """The client's deployment is a model of its key, the account's deployment is another name."""
    upstream.script = answers(200, images())
    door = doors("azure", model_map={"pictures": "gpt-image-2"})
    shared_plane.update(
        "accounts", {"account_name": door.account}, deployments={"gpt-image-2": "far away"}
    )
    sent = [draw(tmp_path, by), draw(tmp_path, by, "image/jpeg" if by == "buffer" else "image/png")]
    mask = draw(tmp_path, by)
    given = {"image": [each.parameter for each in sent], "mask": mask.parameter}
    seen = await ask(door, "edit", {"prompt": "a cat", **given}, azure=True, deployment="pictures")
    await check_delivered(
        door,
        seen,
        path="/openai/deployments/pictures/images/edits",
        endpoint="edits",
        model="pictures",
        upstream_model="gpt-image-2",
        input_image_count=3,
    )
    assert seen["data"] == images()
    [call] = upstream.calls
    assert call.target == f"/openai/deployments/far%20away/images/edits?api-version={API_VERSION}"
    assert call.headers["api-key"] == "azure-key"
    assert parts(call) == [
        Part("prompt", "a cat"),
        *(Part("image[]", each.digest, each.type) for each in sent),
        Part("mask", mask.digest, "image/png"),
    ]


async def test_a_stream_by_the_client_for_azure_that_names_its_model_in_the_call(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    """Without a deployment of its own the client puts the call's model into the path."""
    events = [
        image_event("image_generation.partial_image", partial_image_index=0),
        image_event("image_generation.completed", usage=USAGE),
    ]
    upstream.script = streams(*map(frame, events))
    door = doors("azure")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1}, azure=True)
    assert seen.get("events") == events
    await check_delivered(
        door,
        seen,
        path="/openai/deployments/gpt-image-2/images/generations",
        stream=True,
        usage=USAGE,
    )
    [call] = upstream.calls
    assert call.target == GENERATIONS["azure"]
    assert call.json() == {"prompt": "a cat", "stream": True, "partial_images": 1}
