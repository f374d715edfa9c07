"""The official SDK of JavaScript at the door: what it saw, what went upstream, what was recorded.

Each call runs on Node in a process of its own; ``tests/daemon/node/calls.mjs`` says how.
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
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers, draws, images, picture

API_VERSION = "2025-04-01-preview"
MAIN_MODEL = "gpt-5.5"
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 7},
    "output_tokens": 20,
    "total_tokens": 31,
}
SUMS = {"input_tokens": 11, "output_tokens": 20, "total_tokens": 31}

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
        size="1024x1024",
        quality="medium",
        input_image_count=0,
        response_image_count=2,
        usage={"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
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
    await check_delivered(door, seen, response_image_count=1, usage=SUMS, quality="high")
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
    assert (
        parts(call)
        == [
            Part("prompt", "a cat"),
            *([Part("model", "gpt-image-2")] if kind == "openai" else []),
            Part("size", "1024x1024"),
            Part("image", sent.digest, "image/png"),
        ]
        or kind == "azure"
    )
    assert sorted(map(str, parts(call))) == sorted(
        map(
            str,
            [
                Part("prompt", "a cat"),
                *([Part("model", "gpt-image-2")] if kind == "openai" else []),
                Part("size", "1024x1024"),
                Part("image", sent.digest, "image/png"),
            ],
        )
    )
