"""A coding client lists the image tool in every turn; a key without images keeps its text turns."""

import gzip
import json
import secrets
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.responses.calls import TextApi
from tests.daemon.test_refusals import check_refused
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

PATH = "/v1/responses"
TOOL = {"type": "image_generation", "quality": "high"}
SHELL = {"type": "function", "name": "shell", "description": "x" * 6000, "parameters": {}}
TURN: dict[str, Any] = {
    "model": "gpt-5",
    "instructions": "caf\u00e9 " + "y" * 9000,
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "fix the build"}]}],
    "stream": True,
}
ALLOWED = {"type": "allowed_tools", "mode": "auto"}
SHELL_ALONE = [{"type": "function", "name": "shell"}]
AUTO = {"tool_choice": "auto"}
REQUIRED = {"tool_choice": "required"}
NO_IMAGES = {"image_enabled": False}


SETTINGS = {"ambient_image_tool": "strip"}


async def ask(
    door: Door, value: dict[str, Any], **headers: str
) -> tuple[int, dict[str, str], bytes]:
    return await door.post(json.dumps(value).encode(), PATH, **headers)


LISTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # what is listed, and what the text API gets instead
    ({"tools": [SHELL, TOOL]}, {"tools": [SHELL]}),
    ({"tools": [TOOL, SHELL, TOOL], **AUTO}, {"tools": [SHELL], **AUTO}),
    ({"tools": [SHELL, TOOL], **REQUIRED}, {"tools": [SHELL], **REQUIRED}),
    ({"tools": [TOOL]}, {}),
    ({"tools": [TOOL], **AUTO}, {}),
    ({"tools": [TOOL], "tool_choice": "none"}, {}),
    (
        {"tools": [SHELL, TOOL], "tool_choice": {**ALLOWED, "tools": [TOOL, *SHELL_ALONE]}},
        {"tools": [SHELL], "tool_choice": {**ALLOWED, "tools": SHELL_ALONE}},
    ),
    (
        {"tools": [SHELL, TOOL], "tool_choice": {**ALLOWED, "tools": [TOOL]}},
        {"tools": [SHELL]},
    ),
]


@pytest.mark.parametrize("switch", ["group", "key"])
@pytest.mark.parametrize(("listed", "left"), LISTED, ids=range(len(LISTED)))
async def test_a_merely_listed_tool_is_taken_out_and_the_turn_goes_on(
    make: MakeDoor,
    text_api: TextApi,
    shared_plane: Plane,
    switch: str,
    listed: dict[str, Any],
    left: dict[str, Any],
) -> None:
    if switch == "group":
        group = f"group-{secrets.token_hex(4)}"
        shared_plane.add_group(group, image_enabled=False)
        door = make(key={"group_id": group})
    else:
        door = make(key=NO_IMAGES)
    status, _, body = await ask(door, {**TURN, **listed}, originator="codex_cli_rs")
    assert (status, body) == (200, b'{"id": "resp_text"}')
    [call] = text_api.calls
    assert call.json() == {**TURN, **left}
    assert (call.target, call.headers["originator"]) == (PATH, "codex_cli_rs")
    record = await door.record()
    assert (record["status"], record["model"], record["attempts"]) == (200, "gpt-5", [])


async def test_a_compressed_turn_goes_on_plain(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(key=NO_IMAGES)
    packed = gzip.compress(json.dumps({**TURN, "tools": [TOOL, SHELL]}).encode())
    digests = {"content_digest": "sha-256=:x:", "digest": "x", "content_md5": "x"}
    status, _, _ = await door.post(packed, PATH, content_encoding="gzip", **digests)
    [call] = text_api.calls
    assert (status, call.json()) == (200, {**TURN, "tools": [SHELL]})
    # What speaks of the client's bytes would be wrong of these.
    assert {"content-encoding", "content-digest", "digest", "content-md5"}.isdisjoint(call.headers)
    assert upstream.calls == []
    assert (await door.record())["request_bytes"] == len(packed)


ASKED: list[dict[str, Any]] = [
    {"tool_choice": TOOL},
    {"tool_choice": "image_generation"},
    {"tools": [TOOL], "tool_choice": {"type": "image_generation"}},
    {"tools": [TOOL, SHELL], "tool_choice": {"type": "function", "name": "image_generation"}},
    {"tools": [TOOL], "tool_choice": "required"},
    {
        "tools": [TOOL, SHELL],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [TOOL]},
    },
    {"model": "gpt-image-2", "tools": [TOOL]},
    {"model": "painter", "tools": [TOOL]},
]


@pytest.mark.parametrize("asked", ASKED, ids=range(len(ASKED)))
async def test_a_call_that_asks_for_a_picture_stays_refused(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, asked: dict[str, Any]
) -> None:
    door = make(key={**NO_IMAGES, "model_map": {"painter": "gpt-image-2"}})
    answer = await ask(door, {**TURN, **asked})
    await check_refused(door, answer, 403, "key_image_generation_disabled")
    assert upstream.calls == text_api.calls == []


async def test_a_key_that_may_make_images_keeps_the_tool(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make()
    status, _, _ = await ask(door, {**TURN, "tools": [TOOL, SHELL]})
    assert (status, len(upstream.calls), text_api.calls) == (200, 1, [])
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("lists", [([], [TOOL]), ([TOOL], [])], ids=["last", "first"])
async def test_a_tool_list_that_stands_twice_hides_nothing(
    make: MakeDoor, text_api: TextApi, lists: tuple[list[Any], list[Any]]
) -> None:
    door = make(key=NO_IMAGES)
    first, second = map(json.dumps, lists)
    body = f'{{"model":"gpt-5","tools":{first},"input":"x","tools":{second}}}'
    assert (await door.post(body.encode(), PATH))[0] == 200
    [call] = text_api.calls
    assert b"image_generation" not in call.body
    assert (await door.record())["attempts"] == []
