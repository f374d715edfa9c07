"""An image intent is served here: models, maps, odd bodies."""

import asyncio
import json
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.responses.calls import (
    COMPLETED,
    CREATED,
    DRAWING,
    INTENT,
    ITEM,
    PATH,
    STREAM,
    TEXT,
    TOOL,
    TextApi,
    ask,
)
from tests.daemon.test_refusals import check_refused
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    drawn,
    frame,
    images,
    picture,
    streams,
)


async def test_the_sdk_gets_its_response_and_the_record_says_what_was_made(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.responses.create(model="gpt-5", input="a cat", tools=[TOOL])
    assert (made.id, made.object) == ("resp_1", "response")
    [item] = made.output
    assert item.type == "image_generation_call"
    assert item.result == picture()
    sent = upstream.calls[0].json()
    assert (sent["stream"], sent["store"], sent["tools"]) == (True, False, [TOOL])
    assert sent["input"] == [{"role": "user", "content": [{"type": "input_text", "text": "a cat"}]}]
    assert upstream.calls[0].headers["authorization"] == "Bearer token-1"
    record = await door.record()
    expected = {
        "endpoint": "responses",
        "path": PATH,
        "body_form": "json",
        "model": "gpt-5",
        "upstream_model": "gpt-5",
        "stream": False,
        "input_image_count": 0,
        "prompt_chars": 5,
        "status": 200,
        "error_code": None,
        "account_name": door.account,
        "dialect": "codex",
        "response_image_count": 1,
        "size_given": "1024x1024",
        "quality_given": "high",
        "usage": images()["usage"],
        "usage_text": {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
        "client_left": False,
        "may_be_billed": False,
    }
    assert {name: record[name] for name in expected} == expected
    assert len(record["prompt_hmac"]) == 64
    assert [(each["stage"], each["action"]) for each in record["attempts"]] == [
        ("stream", "deliver")
    ]


async def test_the_sdk_gets_the_upstream_s_own_events_one_by_one(
    door: Door, upstream: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    first, rest = drawn(2)[:3], drawn(2)[3:]

    async def script(call: Call) -> None:
        await streams(first)(call)
        await gate.wait()
        for event in rest:
            await call.send(frame(event))

    upstream.script = script
    async with door.client() as client:
        stream = await client.responses.create(
            model="gpt-5", input="a cat", tools=[TOOL], stream=True
        )
        types = []
        async for event in stream:
            types.append(event.type)
            if len(types) == len(first):
                gate.set()  # what was sent so far has come without the rest
    assert types == [event["type"] for event in drawn(2)]
    record = await door.record()
    assert (record["stream"], record["response_image_count"]) == (True, 1)
    assert record["usage"] == images()["usage"]


async def test_a_stream_passes_byte_by_byte_as_it_came(
    door: Door, upstream: ScriptedUpstream
) -> None:
    odd = [b'id: 7\nevent: response.new\ndata: {"type":"response.new", "x" : 1.50}\n\n']
    whole = {**COMPLETED, "response": {**COMPLETED["response"], "output": [ITEM["item"]]}}
    events = [*map(frame, [CREATED, DRAWING]), *odd, *map(frame, [ITEM, whole])]
    upstream.script = streams([b": hello\n\n", *events])
    status, headers, body = await ask(door, STREAM)
    assert (status, body) == (200, b"".join(events))
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    record = await door.record(request_id=headers["x-request-id"])
    assert record["response_bytes"] == len(body)


async def test_a_call_for_an_image_model_goes_to_the_main_model_with_the_tool(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.responses.create(model="gpt-image-2", input="a cat")
    assert made.output[0].type == "image_generation_call"
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tool_choice"]) == ("gpt-main", TOOL)
    assert sent["tools"] == [{**TOOL, "model": "gpt-image-2"}]
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == ("gpt-image-2", "gpt-image-2")


async def test_the_key_s_map_decides_what_an_intent_is_and_where_it_goes(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(
        key={"model_map": {"painter": "gpt-image-1", "gpt-5": "gpt-6"}},
        deployments={"gpt-image-1": "gpt-image-1"},
    )
    assert (await ask(door, b'{"model":"painter","input":"a cat"}'))[0] == 200
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tools"]) == ("gpt-main", [{**TOOL, "model": "gpt-image-1"}])
    record = await door.record(model="painter")
    assert record["upstream_model"] == "gpt-image-1"
    assert (await ask(door, INTENT))[0] == 200
    assert upstream.calls[1].json()["model"] == "gpt-6"
    assert (await door.record(model="gpt-5"))["upstream_model"] == "gpt-6"
    # Text is not ours to map.
    assert (await ask(door, TEXT))[0] == 200
    assert text_api.calls[0].body == TEXT


MODELS: dict[str, tuple[list[str], dict[str, str], dict[str, Any]]] = {
    "as asked": (["gpt-6", "gpt-image-2"], {"gpt-5": "gpt-6"}, {"model": "gpt-5"}),
    "as mapped": (["gpt-5", "gpt-image-2"], {"gpt-5": "gpt-6"}, {"model": "gpt-5"}),
    "an image model": (["gpt-5"], {}, {"model": "gpt-image-2"}),
    "by default": (["gpt-5"], {}, {}),
    "of the tool": (["gpt-5"], {}, {"model": "gpt-5", "tools": [{**TOOL, "model": "gpt-image-2"}]}),
    "of the tool as mapped": (
        ["gpt-5", "fine"],
        {"fine": "gpt-image-1"},
        {"model": "gpt-5", "tools": [{**TOOL, "model": "fine"}]},
    ),
    "of a second tool": (
        ["gpt-5", "gpt-image-2"],
        {},
        {"model": "gpt-5", "tools": [TOOL, {**TOOL, "model": "gpt-image-1"}]},
    ),
}


@pytest.mark.parametrize(("allowed", "model_map", "body"), MODELS.values(), ids=MODELS)
async def test_a_model_that_the_key_may_not_use_is_refused(
    make: MakeDoor,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    allowed: list[str],
    model_map: dict[str, str],
    body: dict[str, Any],
) -> None:
    door = make(key={"allowed_models": allowed, "model_map": model_map})
    sent = json.dumps({"input": "a cat", "tools": [TOOL], **body}).encode()
    await check_refused(door, await ask(door, sent), 403, "model_not_allowed", "model")
    assert upstream.calls == text_api.calls == []


async def test_models_that_the_key_may_use_are_served(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(
        key={
            "allowed_models": ["a", "gpt-5", "b", "gpt-image-2"],
            "model_map": {"a": "gpt-5", "b": "gpt-image-2"},
        }
    )
    value = {"model": "a", "input": "a cat", "tools": [{**TOOL, "model": "b"}]}
    assert (await ask(door, json.dumps(value).encode()))[0] == 200
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tools"][0]["model"]) == ("gpt-5", "gpt-image-2")
    assert (await door.record())["status"] == 200


@pytest.mark.parametrize("model", ["openai/gpt-image-2", "GPT-Image-2", " gpt-image-2"])
async def test_another_spelling_of_an_image_model_is_that_model_unless_the_key_maps_it(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, model: str
) -> None:
    body = json.dumps({"model": model, "input": "a cat"}).encode()
    door = make()
    assert (await ask(door, body))[0] == 200
    assert upstream.calls[0].json()["tools"] == [{**TOOL, "model": "gpt-image-2"}]
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == (model, "gpt-image-2")
    mapped = make(
        key={"model_map": {model: "gpt-image-1.5"}}, deployments={"gpt-image-1.5": "mine"}
    )
    assert (await ask(mapped, body))[0] == 200
    assert upstream.calls[1].json()["tools"] == [{**TOOL, "model": "mine"}]
    assert (await mapped.record())["upstream_model"] == "gpt-image-1.5"
    assert text_api.calls == []


async def test_an_account_without_a_main_model_serves_no_intent(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(responses_model=None)
    for body in (INTENT, STREAM):
        answer = await ask(door, body)
        await check_refused(door, answer, 400, "unsupported_value", "model")
        assert "responses_model" in json.loads(answer[2])["error"]["message"]
    assert upstream.calls == []


async def test_an_image_model_that_no_account_has_is_not_found(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(deployments={"gpt-image-1": "mine"})
    for body in (
        b'{"model":"gpt-image-2","input":"a"}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation","model":"gpt-image-2"}]}',
    ):
        await check_refused(door, await ask(door, body), 404, "model_not_found", "model")
    assert upstream.calls == []
    own = b'{"model":"gpt-image-1","input":"a"}'
    assert (await ask(door, own))[0] == 200
    assert upstream.calls[0].json()["tools"] == [{**TOOL, "model": "mine"}]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-image-2"',
        b'{"model":"gpt-image-2"}}',
        b'{"model":"gpt-image-2","stream":"yes"}',
        b'{"model":"gpt-image-2","tools":{}}',
        b'{"model":"gpt-image-2","input":"\xff"}',
        b'{"tool_choice":"image_generation","model":7}',
    ],
)
async def test_an_intent_that_cannot_be_read_is_the_client_s_mistake(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, body: bytes
) -> None:
    status, headers, answer = await ask(door, body)
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert upstream.calls == text_api.calls == []
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_source"]) == (400, "client")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-image-2","model":"gpt-5","input":"a"}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation"}],"tools":[]}',
        b'{"model":"gpt-image-2","metadata":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
    ids=["model twice", "tools twice", "300 levels"],
)
async def test_an_odd_intent_is_served_or_the_client_s_mistake_and_never_ours(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, body: bytes
) -> None:
    status, headers, _ = await ask(door, body)
    assert status in {200, 400}
    assert text_api.calls == []
    record = await door.record(request_id=headers["x-request-id"])
    assert record["error_code"] != "internal_error"
