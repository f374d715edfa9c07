"""The official SDK of JavaScript at the door: what it saw, what went upstream, what was recorded.

Each call runs on Node in a process of its own; ``tests/clients/node/calls.mjs`` says how.
"""

import asyncio
import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Door, make_door
from tests.parts import node
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    answers,
    draws,
    images,
    picture,
    times,
)

API_VERSION = "2025-04-01-preview"
MAIN_MODEL = "gpt-5.5"
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 7},
    "output_tokens": 20,
    "total_tokens": 31,
}

ACCOUNTS: Mapping[str, Callable[[ScriptedUpstream], dict[str, Any]]] = {
    "codex": lambda upstream: {"base_url": upstream.url},
    "responses": lambda upstream: {"base_url": upstream.url, "responses_model": MAIN_MODEL},
    "azure": lambda upstream: {
        "base_url": f"http://127.0.0.1:{upstream.port}",
        "dialect": "azure",
        "api_version": API_VERSION,
        "credential": {"api_key": "azure-key"},
    },
    "azure-v1": lambda upstream: {
        "base_url": f"http://127.0.0.1:{upstream.port}",
        "dialect": "azure",
        "credential": {"api_key": "azure-key"},
    },
    "openai": lambda upstream: {
        "base_url": f"http://127.0.0.1:{upstream.port}/v1",
        "dialect": "openai",
        "credential": {"api_key": "openai-key"},
    },
}
"""Kinds of accounts, as columns of the control plane."""

GENERATIONS: Mapping[str, str] = {
    "codex": "/codex/images/generations",
    "azure": f"/openai/deployments/gpt-image-2/images/generations?api-version={API_VERSION}",
    "azure-v1": "/openai/v1/images/generations",
    "openai": "/v1/images/generations",
}
EDITS: Mapping[str, str] = {
    kind: target.replace("generations", "edits") for kind, target in GENERATIONS.items()
}
SIGNED_BY: Mapping[str, tuple[str, str]] = {
    "azure": ("api-key", "azure-key"),
    "azure-v1": ("api-key", "azure-key"),
    "openai": ("authorization", "Bearer openai-key"),
}


def open_door(
    kind: str, gateway: Gateway, plane: Plane, upstream: ScriptedUpstream, **key: Any
) -> Door:
    """A fresh key with one account of this kind."""
    door = make_door(gateway, plane, upstream, **key)
    plane.update("accounts", {"account_name": door.account}, **ACCOUNTS[kind](upstream))
    return door


@pytest.fixture
def doors(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Callable[..., Door]:
    """A maker of doors on the shared daemon."""
    return lambda kind, **key: open_door(kind, gateway, shared_plane, upstream, **key)


async def run(
    door: Door, *calls: dict[str, Any], azure: bool = False, wire: bool = False, **client: Any
) -> Any:
    """Calls by one client of the SDK, without its own retries unless asked for."""
    where = (
        {"endpoint": f"http://127.0.0.1:{door.gateway.port}", "apiVersion": API_VERSION}
        if azure
        else {"baseURL": door.gateway.base_url}
    )
    options = {"apiKey": door.secret, "maxRetries": 0, "timeout": 40_000, **where, **client}
    order = {"azure": azure, "wire": wire, "client": options, "calls": calls}
    return await node.run("calls.mjs", order)


async def ask(
    door: Door,
    method: str,
    parameters: dict[str, Any],
    *,
    take: int | None = None,
    azure: bool = False,
    **client: Any,
) -> dict[str, Any]:
    """One call, and what the SDK's user saw of it."""
    call = {"method": method, "parameters": parameters}
    said = await run(door, call if take is None else {**call, "take": take}, azure=azure, **client)
    seen: dict[str, Any] = said["calls"][0]
    return seen


CAT = {"model": "gpt-image-2", "prompt": "a cat"}


# -- pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A picture in a file, and the way in which it is handed to the SDK."""

    path: Path
    by: str
    type: str

    @property
    def parameter(self) -> dict[str, Any]:
        name = self.path.name
        return {"file": {"path": str(self.path), "by": self.by, "name": name, "type": self.type}}

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


HEADS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/webp": b"RIFF\x24\x00\x00\x00WEBP",
}


def draw(folder: Path, by: str, kind: str = "image/png", size: int = 5_000) -> Sent:
    """A picture that only begins like one, and goes on with whatever could break a form."""
    number = len(list(folder.iterdir()))
    path = folder / f"picture {number}.{kind.rpartition('/')[2]}"
    traps = b"\r\n--\r\n------formdata-undici-0\r\n--openai-\r\n\r\n--"
    path.write_bytes(HEADS[kind] + traps + random.Random(number).randbytes(size) + b"\r\n")
    return Sent(path, by, kind)


@dataclass(frozen=True)
class Part:
    """One part of a multipart body that arrived upstream; ``value`` of a file is its digest."""

    name: str
    value: str
    type: str | None = None


def parts(call: Call) -> list[Part]:
    """The parts of a multipart body, in order."""
    kind, _, boundary = call.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    line = b"--" + boundary.encode()
    assert call.body.startswith(line + b"\r\n")
    assert call.body.endswith(b"\r\n" + line + b"--\r\n")
    found = []
    for part in (b"\r\n" + call.body).split(b"\r\n" + line)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")[1:]
        fields = dict(each.split(": ", 1) for each in lines)
        named = re.fullmatch(
            r'form-data; name="([^"]+)"(; filename="[^"]+")?', fields.pop("Content-Disposition")
        )
        assert named is not None
        if named[2] is None:
            assert fields == {}
            found.append(Part(named[1], data.decode()))
        else:
            digest = hashlib.sha256(data).hexdigest()
            found.append(Part(named[1], digest, fields.pop("Content-Type")))
            assert fields == {}
    return found


def digest_of(data_url: str, kind: str) -> str:
    """The digest of the picture in a data URL of this kind."""
    prefix, _, text = data_url.partition(",")
    assert prefix == f"data:{kind};base64"
    return hashlib.sha256(base64.b64decode(text, validate=True)).hexdigest()


# -- streams ---------------------------------------------------------------------------------------


def frame(value: dict[str, Any], name: str | None = None) -> bytes:
    """One event; it has its type for a name unless told otherwise (empty: none)."""
    name = value["type"] if name is None else name
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def image_event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of the Images API."""
    return {
        "type": kind,
        "b64_json": picture(),
        "background": "opaque",
        "created_at": 1_700_000_000,
        "output_format": "png",
        "quality": "medium",
        "size": "1024x1024",
        **fields,
    }


RESPONSE_CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "queued"}}
RESPONSE_PARTIALS: list[dict[str, Any]] = [
    {
        "type": "response.image_generation_call.partial_image",
        "item_id": "ig_1",
        "output_index": 0,
        "partial_image_index": index,
        "partial_image_b64": picture(100 + 3 * index),
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    }
    for index in range(2)
]
RESPONSE_ITEM: dict[str, Any] = {
    "type": "response.output_item.done",
    "output_index": 0,
    "item": {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": picture(300),
        "revised_prompt": "a tabby cat",
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    },
}
RESPONSE_COMPLETED: dict[str, Any] = {
    "type": "response.completed",
    "response": {
        "id": "resp_1",
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 900, "output_tokens": 80, "total_tokens": 980},
        "tool_usage": {"image_gen": USAGE},
    },
}


def streams(*frames: bytes, pause: float = 0.0) -> Script:
    """The script of an upstream that sends these frames and ends; it waits before each."""

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        for each in frames:
            await asyncio.sleep(pause)
            await call.send(each)

    return script


def response_events(*values: dict[str, Any]) -> Script:
    return streams(*(frame(value) for value in values))


def check_stream_headers(headers: dict[str, str]) -> None:
    assert headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in headers


def error(code: str, **fields: Any) -> dict[str, Any]:
    """An error body in OpenAI's shape."""
    return {"error": {"message": "said so", "type": None, "param": None, **fields, "code": code}}


async def check_delivered(door: Door, seen: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """No error, and the one record of a success, by the request id that the SDK shows."""
    assert "error" not in seen, seen["error"]
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert record["status"] == 200
    assert (record["error_code"], record["error_source"]) == (None, None)
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"]
    assert not record["client_left"]
    assert not record["may_be_billed"]
    assert record["account_name"] == door.account
    assert {name: record[name] for name in wanted} == wanted
    return record


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


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure", "openai"])
async def test_a_streamed_generation_comes_event_by_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    events = [
        image_event("image_generation.partial_image", partial_image_index=0),
        image_event("image_generation.partial_image", partial_image_index=1),
        image_event("image_generation.completed", usage=USAGE),
    ]
    upstream.script = streams(*map(frame, events))
    door = doors(kind)
    call = {"method": "generate", "parameters": {**CAT, "stream": True, "partial_images": 2}}
    said = await run(door, call, wire=True)
    [seen] = said["calls"]
    assert seen.get("events") == events
    # Frames of the Images API go on byte for byte.
    assert said["wire"] == [b"".join(map(frame, events)).decode()]
    check_stream_headers(seen["headers"])
    await check_delivered(
        door, seen, stream=True, response_image_count=1, usage=USAGE, quality_given="medium"
    )
    [arrived] = upstream.calls
    assert arrived.target == GENERATIONS[kind]
    assert arrived.headers["accept"] == "text/event-stream"
    model = {} if kind == "azure" else {"model": "gpt-image-2"}
    assert arrived.json() == {"prompt": "a cat", **model, "stream": True, "partial_images": 2}


@pytest.mark.parametrize("kind", ["azure", "openai"])
async def test_a_streamed_edit_comes_event_by_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path, kind: str
) -> None:
    events = [
        image_event("image_edit.partial_image", partial_image_index=0),
        image_event("image_edit.completed", usage=USAGE, b64_json=picture(200_001)),
    ]
    upstream.script = streams(*map(frame, events))
    door = doors(kind)
    sent = [draw(tmp_path, "buffer"), draw(tmp_path, "file", "image/webp")]
    given = {"image": [each.parameter for each in sent]}
    seen = await ask(door, "edit", {**CAT, **given, "stream": True, "partial_images": 1})
    assert seen.get("events") == events
    check_stream_headers(seen["headers"])
    await check_delivered(
        door, seen, endpoint="edits", stream=True, input_image_count=2, response_image_count=1
    )
    [call] = upstream.calls
    assert call.target == EDITS[kind]
    assert call.headers["accept"] == "text/event-stream"
    fields = {each.name: each.value for each in parts(call) if each.type is None}
    model = {} if kind == "azure" else {"model": "gpt-image-2"}
    assert fields == {"prompt": "a cat", "stream": "true", "partial_images": "1", **model}
    assert [each for each in parts(call) if each.type is not None] == [
        Part("image[]", each.digest, each.type) for each in sent
    ]


async def test_every_picture_of_a_stream_is_one_completed_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    events = [
        image_event("image_generation.completed", usage=USAGE, b64_json=picture(100 + number))
        for number in range(3)
    ]
    upstream.script = streams(*map(frame, events))
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "n": 3, "stream": True})
    assert seen.get("events") == events
    record = await check_delivered(door, seen, n=3, response_image_count=3)
    assert record["usage"] == times(USAGE, 3)


WRITTEN_PARTIAL, WRITTEN_LAST = (
    image_event("image_generation.partial_image", partial_image_index=0),
    image_event("image_generation.completed", usage=USAGE),
)


@pytest.mark.parametrize(
    "frames",
    [
        [frame(each).replace(b"\n", b"\r\n") for each in (WRITTEN_PARTIAL, WRITTEN_LAST)],
        [frame(WRITTEN_PARTIAL, name=""), frame(WRITTEN_LAST, name="")],
        [
            b"event: image_generation.partial_image\ndata: "
            + json.dumps(WRITTEN_PARTIAL, indent=1).replace("\n", "\ndata: ").encode()
            + b"\n\n",
            frame(WRITTEN_LAST),
        ],
        [
            b": ping\n\n",
            b"retry: 3000\n\n" + frame(WRITTEN_PARTIAL) + b": ping\n\n",
            b": and\n" + frame(WRITTEN_LAST),
        ],
        [frame(WRITTEN_PARTIAL), frame(WRITTEN_LAST), b"data: [DONE]\n\n"],
        [frame(WRITTEN_PARTIAL), frame(WRITTEN_LAST)[:-1]],
        [bytes([byte]) for byte in frame(WRITTEN_PARTIAL) + frame(WRITTEN_LAST)],
    ],
    ids=["CRLF", "no names", "lines of data", "comments", "DONE", "no blank line", "bytes"],
)
async def test_however_an_upstream_writes_its_frames_the_sdk_can_read_them(
    doors: Callable[..., Door], upstream: ScriptedUpstream, frames: list[bytes]
) -> None:
    upstream.script = streams(*frames)
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1})
    assert seen.get("events") == [WRITTEN_PARTIAL, WRITTEN_LAST]
    await check_delivered(door, seen, stream=True, response_image_count=1, usage=USAGE)


@pytest.mark.parametrize("method", ["generate", "edit"])
@pytest.mark.parametrize("kind", ["codex", "azure", "openai"])
async def test_an_upstream_that_answers_a_stream_at_once_still_gives_events(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    kind: str,
    method: str,
) -> None:
    """A JSON body where it asked for a stream gives the SDK no event and no error."""
    upstream.script = answers(200, images(2))
    door = doors(kind)
    given = {"image": draw(tmp_path, "buffer").parameter} if method == "edit" else {}
    seen = await ask(door, method, {**CAT, **given, "n": 2, "stream": True})
    assert "error" not in seen, seen["error"]
    check_stream_headers(seen["headers"])
    name = "image_edit.completed" if method == "edit" else "image_generation.completed"
    assert [event["type"] for event in seen["events"]] == [name] * 2
    for event in seen["events"]:
        assert event["b64_json"] == picture()
        assert event["created_at"] == 1_700_000_000
        assert (event["size"], event["output_format"]) == ("1024x1024", "png")
    assert seen["events"][-1]["usage"] == images()["usage"]
    await check_delivered(door, seen, stream=True, response_image_count=2)
    [call] = upstream.calls
    assert (b"stream" in call.body) == (kind != "codex")


@pytest.mark.parametrize(
    ("method", "prefix"), [("generate", "image_generation"), ("edit", "image_edit")]
)
async def test_a_codex_account_streams_by_the_responses_route(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    method: str,
    prefix: str,
) -> None:
    upstream.script = response_events(
        RESPONSE_CREATED, *RESPONSE_PARTIALS, RESPONSE_ITEM, RESPONSE_COMPLETED
    )
    door = doors("responses")
    sent = draw(tmp_path, "stream")
    given = {"image": sent.parameter} if method == "edit" else {}
    seen = await ask(
        door, method, {**CAT, **given, "quality": "high", "stream": True, "partial_images": 2}
    )
    assert "error" not in seen, seen["error"]
    check_stream_headers(seen["headers"])
    shared = {
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "1024x1024",
    }
    made = [event.pop("created_at") for event in seen["events"]]
    assert all(isinstance(moment, int) and moment > 1_700_000_000 for moment in made)
    assert seen["events"] == [
        *(
            {
                "type": f"{prefix}.partial_image",
                "b64_json": each["partial_image_b64"],
                "partial_image_index": index,
                **shared,
            }
            for index, each in enumerate(RESPONSE_PARTIALS)
        ),
        {"type": f"{prefix}.completed", "b64_json": picture(300), **shared, "usage": USAGE},
    ]
    await check_delivered(
        door,
        seen,
        stream=True,
        endpoint="edits" if method == "edit" else "generations",
        input_image_count=len(given),
        response_image_count=1,
        usage=USAGE,
        quality_given="high",
    )
    [call] = upstream.calls
    assert call.target == "/codex/responses"
    body = call.json()
    assert (body["model"], body["stream"], body["store"]) == (MAIN_MODEL, True, False)
    assert body["tools"] == [
        {
            "type": "image_generation",
            "action": method,
            "model": "gpt-image-2",
            "quality": "high",
            "partial_images": 2,
        }
    ]
    [message] = body["input"]
    assert message["content"][0] == {"type": "input_text", "text": "a cat"}
    assert [digest_of(each["image_url"], "image/png") for each in message["content"][1:]] == [
        sent.digest for _ in given
    ]


@pytest.mark.parametrize("kind", ["responses", "openai"])
async def test_an_event_of_some_megabytes_arrives_whole(
    doors: Callable[..., Door], upstream: ScriptedUpstream, kind: str
) -> None:
    large = picture(4_500_000)
    upstream.script = (
        response_events(
            {**RESPONSE_ITEM, "item": {**RESPONSE_ITEM["item"], "result": large}},
            RESPONSE_COMPLETED,
        )
        if kind == "responses"
        else streams(frame(image_event("image_generation.completed", usage=USAGE, b64_json=large)))
    )
    door = doors(kind)
    seen = await ask(door, "generate", {**CAT, "stream": True})
    await check_delivered(door, seen, stream=True, response_image_count=1, usage=USAGE)
    [made] = seen["events"]
    assert made["type"] == "image_generation.completed"
    assert made["b64_json"] == large
    assert made["usage"] == USAGE


async def test_several_pictures_by_the_responses_route_are_one_answer(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_ITEM, RESPONSE_COMPLETED)
    door = doors("responses")
    seen = await ask(door, "generate", {**CAT, "n": 2, "stream": True})
    assert [event["type"] for event in seen["events"]] == ["image_generation.completed"] * 2
    assert [event["b64_json"] for event in seen["events"]] == [picture(300)] * 2
    assert len(upstream.calls) == 2
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["response_image_count"]) == (200, 2)
    assert record["usage"] == times(USAGE, 2)
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"] * 2


async def test_a_reader_that_leaves_a_stream_ends_the_upstream_call(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    left = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(PARTIAL))
        await call.gone()
        left.set()

    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1}, take=1)
    assert "error" not in seen
    assert seen["events"] == [PARTIAL]
    await asyncio.wait_for(left.wait(), 20)
    record = await door.record()
    assert record["client_left"]
    assert record["error_code"] == "client_left"
    assert record["may_be_billed"]


# -- waiting ---------------------------------------------------------------------------------------


KEEP_ALIVE = ": keep-alive\n\n"


@pytest.fixture
def waiting(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> Callable[[str], Door]:
    """A maker of doors on a daemon that says so every 0.2 s while it waits."""
    gateway = make_gateway(plane.reader_url, keepalive_seconds=0.2).start()
    return lambda kind: open_door(kind, gateway, plane, upstream)


async def test_comments_while_an_upstream_thinks_disturb_nobody(
    waiting: Callable[[str], Door], upstream: ScriptedUpstream
) -> None:
    events = [
        image_event("image_generation.partial_image", partial_image_index=0),
        image_event("image_generation.completed", usage=USAGE, b64_json=picture(300_000)),
    ]
    upstream.script = streams(*map(frame, events), pause=0.7)
    door = waiting("openai")
    call = {"method": "generate", "parameters": {**CAT, "stream": True, "partial_images": 1}}
    said = await run(door, call, wire=True)
    [seen] = said["calls"]
    assert seen.get("events") == events
    # Between whole frames, before and after the first, and nowhere else.
    [wire] = said["wire"]
    frames = [frame(event).decode() for event in events]
    pattern = "".join(f"(?:{re.escape(KEEP_ALIVE)})+{re.escape(each)}" for each in frames)
    assert re.fullmatch(pattern, wire)
    await check_delivered(door, seen, stream=True, response_image_count=1)
    assert door.gateway.stop() == 0


BLOCKED = error("moderation_blocked", type="image_generation_user_error", param="prompt")


async def leaves_without_a_word(call: Call) -> None:
    call.writer.close()


@pytest.mark.parametrize(
    ("then", "code", "may_be_billed"),
    [
        (answers(400, BLOCKED), "moderation_blocked", False),
        (answers(401, error("invalid_api_key")), "account_credentials", False),
        (leaves_without_a_word, "outcome_unknown", True),
        (answers(200, b"<html>", {"content-type": "text/html"}), "upstream_invalid", True),
    ],
    ids=["the client's fault", "our credentials", "silence", "no JSON"],
)
async def test_an_error_after_comments_alone_is_thrown_all_the_same(
    waiting: Callable[[str], Door],
    upstream: ScriptedUpstream,
    then: Script,
    code: str,
    *,
    may_be_billed: bool,
) -> None:
    """The status is out by then: the error comes as the stream's only event."""

    async def script(call: Call) -> None:
        await asyncio.sleep(0.7)
        await then(call)

    upstream.script = script
    door = waiting("openai")
    call = {"method": "generate", "parameters": {**CAT, "stream": True}}
    said = await run(door, call, wire=True, maxRetries=2)
    [seen] = said["calls"]
    assert seen["events"] == []
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    if code == "moderation_blocked":
        for name in ("type", "param"):
            assert seen["error"][name] == BLOCKED["error"][name]
        assert "said so" in seen["error"]["message"]
    assert seen["error"]["requestID"] == seen["requestID"]
    assert said["wire"][0].startswith(KEEP_ALIVE)
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["error_code"]) == (200, code)
    assert record["error_source"] == "upstream"
    assert record["may_be_billed"] == may_be_billed
    assert door.gateway.stop() == 0


# -- streams that break ----------------------------------------------------------------------------


PARTIAL = image_event("image_generation.partial_image", partial_image_index=0)
BROKEN = {"message": "The image broke.", "type": "server_error", "param": None, "code": "broken"}
FLAT = {name: value for name, value in BROKEN.items() if name != "type"}


@pytest.mark.parametrize(
    "last",
    [
        frame({"type": "error", "error": BROKEN}),
        frame({"type": "error", "error": BROKEN}, name=""),
        frame({"error": BROKEN}, name=""),
        frame({"type": "error", **FLAT}),
        frame(FLAT, name="error"),
    ],
    ids=["nested", "without a name", "without a type", "flat", "flat, by its name"],
)
async def test_an_error_within_a_stream_is_thrown_and_never_an_event(
    doors: Callable[..., Door], upstream: ScriptedUpstream, last: bytes
) -> None:
    upstream.script = streams(frame(PARTIAL), last)
    door = doors("openai")
    asked = {**CAT, "stream": True, "partial_images": 2}
    seen = await ask(door, "generate", asked, maxRetries=2)
    assert seen["events"] == [PARTIAL]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == "broken"
    assert "The image broke." in seen["error"]["message"]
    assert seen["error"]["requestID"] == seen["requestID"]
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["requestID"]
    assert (record["status"], record["error_code"]) == (200, "broken")
    assert record["error_source"] == "upstream"
    assert [attempt["action"] for attempt in record["attempts"]] == ["end"]
    assert record["may_be_billed"]
    assert not record["client_left"]


@pytest.mark.parametrize(
    "last", [b"", frame(PARTIAL)[:-40]], ids=["between frames", "within a frame"]
)
async def test_a_stream_that_breaks_off_is_thrown_as_such(
    doors: Callable[..., Door], upstream: ScriptedUpstream, last: bytes
) -> None:
    upstream.script = streams(frame(PARTIAL), last)
    door = doors("openai")
    asked = {**CAT, "stream": True, "partial_images": 2}
    seen = await ask(door, "generate", asked, maxRetries=2)
    assert seen["events"] == [PARTIAL]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == "upstream_cut"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (200, "upstream_cut")
    assert record["error_source"] == "upstream"
    assert record["may_be_billed"]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (
            {
                "type": "response.failed",
                "response": {
                    "id": "resp_1",
                    "status": "failed",
                    "error": {"code": "server_error", "message": "The image broke."},
                },
            },
            "server_error",
        ),
        ({**FLAT, "type": "error"}, "broken"),
        (
            {
                "type": "response.incomplete",
                "response": {"incomplete_details": {"reason": "content_filter"}},
            },
            "content_filter",
        ),
        (None, "upstream_cut"),
    ],
    ids=["failed", "error", "incomplete", "cut"],
)
async def test_a_responses_call_that_fails_after_a_partial_picture_is_thrown(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    last: dict[str, Any] | None,
    code: str,
) -> None:
    ending = [] if last is None else [last]
    upstream.script = response_events(RESPONSE_CREATED, RESPONSE_PARTIALS[0], *ending)
    door = doors("responses")
    seen = await ask(door, "generate", {**CAT, "stream": True, "partial_images": 1})
    assert [event["type"] for event in seen["events"]] == ["image_generation.partial_image"]
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    assert seen["error"]["requestID"] == seen["requestID"]
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, code)
    assert record["error_source"] == "upstream"
    assert not record["response_image_count"]


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["answer", "stream"])
@pytest.mark.parametrize("result", [None, ""], ids=["null", "empty"])
async def test_a_responses_call_whose_item_holds_no_picture_is_thrown(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    asked: dict[str, Any],
    result: str | None,
) -> None:
    item = {"type": "image_generation_call", "id": "ig_1", "status": "failed", "result": result}
    upstream.script = response_events(
        RESPONSE_CREATED, {**RESPONSE_ITEM, "item": item}, RESPONSE_COMPLETED
    )
    door = doors("responses")
    door.plane.update("accounts", {"account_name": door.account}, codex_route="responses")
    seen = await ask(door, "generate", {**CAT, **asked}, maxRetries=2)
    assert "error" in seen, seen
    assert (seen["error"]["status"], seen["error"]["code"]) == (502, "upstream_invalid")
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (502, "upstream_invalid")
    assert not record["response_image_count"]


@pytest.mark.parametrize(
    "asked", [{}, {"stream": True, "partial_images": 1}], ids=["answer", "stream"]
)
async def test_a_responses_call_that_is_blocked_has_the_status_of_a_refusal(
    doors: Callable[..., Door], upstream: ScriptedUpstream, asked: dict[str, Any]
) -> None:
    upstream.script = response_events(
        RESPONSE_CREATED,
        {
            "type": "response.failed",
            "response": {"error": {"code": "moderation_blocked", "message": "said so"}},
        },
    )
    door = doors("responses")
    door.plane.update("accounts", {"account_name": door.account}, codex_route="responses")
    seen = await ask(door, "generate", {**CAT, **asked})
    assert "events" not in seen
    assert (seen["error"]["name"], seen["error"]["status"]) == ("BadRequestError", 400)
    assert seen["error"]["code"] == "moderation_blocked"
    assert seen["error"]["message"] == "400 said so"
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (400, "moderation_blocked")
    assert not record["may_be_billed"]


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_stream_that_fails_before_its_first_event_keeps_its_status(
    doors: Callable[..., Door], upstream: ScriptedUpstream, *, as_event: bool
) -> None:
    upstream.script = (
        streams(frame({"type": "error", **BLOCKED})) if as_event else answers(400, BLOCKED)
    )
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": True})
    assert "events" not in seen
    assert seen["error"]["name"] == "BadRequestError"
    assert (seen["error"]["status"], seen["error"]["code"]) == (400, "moderation_blocked")
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (400, "moderation_blocked")
    assert not record["may_be_billed"]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "code", "key", "parameters"),
    [
        ("BadRequestError", 400, "invalid_value", {}, {"size": "1x1"}),
        ("BadRequestError", 400, "unknown_parameter", {}, {"style": "vivid"}),
        ("PermissionDeniedError", 403, "key_disabled", {"status": "disabled"}, {}),
        ("PermissionDeniedError", 403, "model_not_allowed", {"allowed_models": []}, {}),
        ("NotFoundError", 404, "model_not_found", {}, {"model": "dall-e-3"}),
        ("RateLimitError", 429, "insufficient_quota", {"quota_limit": 0}, {}),
    ],
)
async def test_a_refusal_of_ours_is_thrown_as_the_class_of_its_status(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    *,
    name: str,
    status: int,
    code: str,
    key: dict[str, Any],
    parameters: dict[str, Any],
) -> None:
    """Once: the SDK's own retries are on, and ``Door.record`` finds one record only."""
    door = doors("openai", **key)
    seen = await ask(door, "generate", {**CAT, **parameters}, maxRetries=2)
    assert (seen["error"]["name"], seen["error"]["status"]) == (name, status)
    assert seen["error"]["code"] == code
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["attempts"] == []
    assert upstream.calls == []


@pytest.mark.parametrize("azure", [False, True])
async def test_a_key_that_nobody_knows_is_an_authentication_error(
    doors: Callable[..., Door], upstream: ScriptedUpstream, *, azure: bool
) -> None:
    door = doors("openai")
    seen = await ask(door, "generate", CAT, azure=azure, apiKey="sk-nobody")
    assert (seen["error"]["name"], seen["error"]["status"]) == ("AuthenticationError", 401)
    assert seen["error"]["code"] == "invalid_api_key"
    assert "sk-nobody" not in seen["error"]["message"]
    assert upstream.calls == []
    record = await door.gateway.record(request_id=seen["error"]["requestID"])
    assert (record["status"], record["error_code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("BadRequestError", 400, "moderation_blocked"),
        ("NotFoundError", 404, "no_such_thing"),
        ("ConflictError", 409, "conflict"),
        ("UnprocessableEntityError", 422, "unprocessable"),
        ("RateLimitError", 429, "rate_limit_exceeded"),
        ("InternalServerError", 500, "server_error"),
        ("InternalServerError", 502, "bad_gateway"),
        ("InternalServerError", 503, "server_is_overloaded"),
    ],
)
async def test_an_upstreams_error_is_thrown_as_the_class_of_its_status(
    doors: Callable[..., Door], upstream: ScriptedUpstream, name: str, status: int, code: str
) -> None:
    upstream.script = answers(status, error(code), {"x-request-id": "of-the-upstream"})
    door = doors("openai")
    seen = await ask(door, "generate", CAT)
    assert (seen["error"]["name"], seen["error"]["status"]) == (name, status)
    assert seen["error"]["isApiError"]
    assert seen["error"]["code"] == code
    # A limit is told in the gateway's words, which are about all accounts.
    said = "Every account" if status == 429 else "said so"
    assert seen["error"]["message"].startswith(f"{status} {said}")
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"] != "of-the-upstream"
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["error_source"] == "upstream"
    assert [attempt["status"] for attempt in record["attempts"]] == [status]


@pytest.mark.parametrize("status", [401, 403])
async def test_our_credentials_are_none_of_the_clients_business(
    doors: Callable[..., Door], upstream: ScriptedUpstream, status: int
) -> None:
    """An account that is refused is 503: the client would take 401 or 403 for its own."""
    upstream.script = answers(status, error("invalid_api_key"))
    door = doors("openai")
    seen = await ask(door, "generate", CAT)
    assert (seen["error"]["name"], seen["error"]["status"]) == ("InternalServerError", 503)
    assert seen["error"]["code"] == "account_credentials"
    assert "said so" not in seen["error"]["message"]
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (503, "account_credentials")
    assert [attempt["status"] for attempt in record["attempts"]] == [status]


# -- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (leaves_without_a_word, 504, "outcome_unknown"),
        (answers(500, error("server_error")), 500, "server_error"),
        (answers(408, error("timeout")), 408, "timeout"),
        (answers(409, error("conflict")), 409, "conflict"),
        (answers(302, b"", {"location": "/elsewhere"}), 502, "upstream_redirect"),
        (answers(200, b"<html>", {"content-type": "text/html"}), 502, "upstream_invalid"),
    ],
    ids=["silence", "500", "408", "409", "redirect", "no JSON"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["answer", "stream"])
async def test_the_sdk_buys_nothing_twice(
    doors: Callable[..., Door],
    upstream: ScriptedUpstream,
    script: Script,
    status: int,
    code: str,
    *,
    streamed: bool,
) -> None:
    """``x-should-retry: false`` is obeyed: with its default retries the SDK calls once."""
    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", {**CAT, "stream": streamed}, maxRetries=2)
    assert (seen["error"]["status"], seen["error"]["code"]) == (status, code)
    assert seen["error"]["shouldRetry"] == "false"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["may_be_billed"]


async def test_the_sdk_waits_as_long_as_it_is_told_and_calls_again(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    """``retry-after-ms`` says when the key's start interval is over: one retry is enough."""
    door = doors("openai", min_start_interval_ms=2500)
    call = {"method": "generate", "parameters": CAT}
    said = await run(door, call, call, maxRetries=1)
    for seen in said["calls"]:
        assert seen.get("data") == images(), seen
    assert len(upstream.calls) == 2
    refused = await door.record(status=429)
    assert refused["error_code"] == "key_start_interval"
    for seen in said["calls"]:
        await door.record(status=200, request_id=seen["requestID"])


async def test_an_upstream_that_asks_to_wait_is_asked_again_by_the_sdk(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    async def script(call: Call) -> None:
        if len(upstream.calls) == 1:
            await call.answer(429, error("rate_limit_exceeded"), {"retry-after-ms": "300"})
        else:
            await draws(call)

    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", CAT, maxRetries=2)
    assert seen.get("data") == images(), seen
    assert len(upstream.calls) == 2


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


# -- one client, many calls ------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["buffer", "stream"])
async def test_a_refusal_before_the_body_is_read_is_thrown_and_no_broken_connection(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path, by: str
) -> None:
    """The key is refused at the headers, while megabytes are still on their way."""
    door = doors("openai", status="disabled")
    sent = draw(tmp_path, by, size=12_000_000)
    call = {"method": "edit", "parameters": {"image": sent.parameter, **CAT}}
    said = await run(door, call, call, call)
    for seen in said["calls"]:
        assert (seen["error"]["name"], seen["error"]["status"]) == ("PermissionDeniedError", 403)
        assert seen["error"]["code"] == "key_disabled"
        record = await door.record(request_id=seen["error"]["requestID"])
        assert (record["status"], record["attempts"]) == (403, [])
    assert upstream.calls == []


@pytest.mark.parametrize("by", ["buffer", "stream"])
async def test_a_body_over_the_limit_is_thrown_with_its_status(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    by: str,
) -> None:
    """The SDK sends first and reads then; within twice the limit it is heard to its end."""
    gateway = make_gateway(plane.reader_url, max_request_bytes=3_000_000).start()
    door = open_door("openai", gateway, plane, upstream)
    sent = draw(tmp_path, by, size=5_000_000)
    seen = await ask(door, "edit", {"image": sent.parameter, **CAT}, maxRetries=2)
    assert seen["error"]["isApiError"]
    assert (seen["error"]["status"], seen["error"]["code"]) == (413, "request_too_large")
    record = await door.record()
    assert record["request_id"] == seen["error"]["requestID"]
    assert (record["status"], record["error_code"]) == (413, "request_too_large")
    assert upstream.calls == []
    assert gateway.stop() == 0


async def test_one_client_goes_on_after_refusals_errors_and_streams(
    doors: Callable[..., Door], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Each answer leaves the client's connection fit for the next call, or closed."""
    events = [image_event("image_generation.completed", usage=USAGE)]

    async def script(call: Call) -> None:
        if call.target.endswith("/edits"):
            await call.answer(200, images())
        elif b'"stream"' in call.body:
            await streams(*map(frame, events))(call)
        elif b"dog" in call.body:
            await call.answer(400, error("moderation_blocked"))
        else:
            await draws(call)

    upstream.script = script
    door = doors("openai")
    kept, streamed = draw(tmp_path, "buffer", size=300_000), draw(tmp_path, "stream", size=300_000)
    round_ = [
        {"method": "generate", "parameters": CAT},
        {"method": "generate", "parameters": {**CAT, "prompt": "a dog"}},
        {"method": "edit", "parameters": {**CAT, "image": kept.parameter}},
        {"method": "edit", "parameters": {**CAT, "image": kept.parameter, "size": "1x1"}},
        {"method": "generate", "parameters": {**CAT, "stream": True}},
        {"method": "edit", "parameters": {**CAT, "image": streamed.parameter}},
        {"method": "edit", "parameters": {**CAT, "image": streamed.parameter, "n": 11}},
    ]
    said = await run(door, *round_, *round_)
    outcomes = [
        seen["error"]["code"] if "error" in seen else seen.get("events", seen.get("data"))
        for seen in said["calls"]
    ]
    expected = [
        images(),
        "moderation_blocked",
        images(),
        "invalid_value",
        events,
        images(),
        "invalid_value",
    ]
    assert outcomes == expected * 2
    for seen in said["calls"]:
        request_id = seen["error"]["requestID"] if "error" in seen else seen["requestID"]
        await door.record(request_id=request_id)
    assert len(upstream.calls) == 10


async def test_a_caller_that_gives_up_waiting_ends_the_upstream_call(
    doors: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    left = asyncio.Event()

    async def script(call: Call) -> None:
        await call.gone()
        left.set()

    upstream.script = script
    door = doors("openai")
    seen = await ask(door, "generate", CAT, timeout=2000)
    assert seen["error"]["name"] == "APIConnectionTimeoutError"
    await asyncio.wait_for(left.wait(), 20)
    record = await door.record()
    assert (record["status"], record["error_code"]) == (None, "client_left")
    assert record["client_left"]
    assert record["may_be_billed"]
    assert len(upstream.calls) == 1
