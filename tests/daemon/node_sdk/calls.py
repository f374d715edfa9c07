"""What the official SDK of JavaScript is asked, by which accounts, and what its user saw.

Each call runs on Node in a process of its own; ``tests/clients/node/calls.mjs`` says how.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.daemon.conftest import Door, make_door
from tests.parts import node
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, picture

API_VERSION = "2025-04-01-preview"

MAIN_MODEL = "gpt-5.5"

CAT = {"model": "gpt-image-2", "prompt": "a cat"}

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


def check_stream_headers(headers: dict[str, str]) -> None:
    assert headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in headers


def error(code: str, **fields: Any) -> dict[str, Any]:
    """An error body in OpenAI's shape."""
    return {"error": {"message": "said so", "type": None, "param": None, **fields, "code": code}}


BLOCKED = error("moderation_blocked", type="image_generation_user_error", param="prompt")


async def leaves_without_a_word(call: Call) -> None:
    call.writer.close()


KEEP_ALIVE = ": keep-alive\n\n"


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


PARTIAL = image_event("image_generation.partial_image", partial_image_index=0)


def streams(*frames: bytes, pause: float = 0.0) -> Script:
    """The script of an upstream that sends these frames and ends; it waits before each."""

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        for each in frames:
            await asyncio.sleep(pause)
            await call.send(each)

    return script


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


def response_events(*values: dict[str, Any]) -> Script:
    return streams(*(frame(value) for value in values))
