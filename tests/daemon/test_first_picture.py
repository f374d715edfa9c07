"""One request's way through the gateway, with the official SDK at its door."""

import json
from typing import Any

from tests.daemon.conftest import Door
from tests.parts.upstream import ScriptedUpstream, images, picture


async def test_a_generation_by_the_sdk_reaches_the_client_and_the_log(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.images.generate(
            model="gpt-image-2",
            prompt="a cat",
            n=2,
            size="1536x1024",
            quality="high",
            background="opaque",
            output_format="jpeg",
            output_compression=80,
            moderation="low",
            user="somebody",
        )
    assert [item.b64_json for item in made.data or []] == [picture(), picture()]
    [call] = upstream.calls
    assert call.target == "/codex/images/generations"
    assert call.json() == {
        "prompt": "a cat",
        "model": "gpt-image-2",
        "n": 2,
        "size": "1536x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "jpeg",
        "output_compression": 80,
        "moderation": "low",
        "user": "somebody",
    }
    assert call.headers["authorization"] == f"Bearer token-of-{door.account}"
    assert call.headers["chatgpt-account-id"] == f"id-of-{door.account}"
    assert not [name for name in call.headers if name.startswith("x-stainless")]
    record = await door.record()
    assert record["status"] == 200
    assert record["model"] == "gpt-image-2"
    assert (record["size"], record["quality"], record["n"]) == ("1536x1024", "high", 2)
    assert (record["size_given"], record["quality_given"]) == ("1024x1024", "medium")
    assert record["response_image_count"] == 2
    assert record["usage"] == images()["usage"]
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"]
    assert record["error_code"] is None
    assert not record["client_left"]
    assert not record["may_be_billed"]
    # What a served call leaves in no field: its group and owner, why it failed, what Codex has not.
    empty = {name for name, value in record.items() if value is None}
    assert empty == {
        *("group_id", "owner_id", "error_code", "error_source"),
        *("usage_text", "svg_usage", "cost_usd"),
    }


async def test_the_answer_arrives_byte_for_byte(door: Door, upstream: ScriptedUpstream) -> None:
    odd = (
        b'{ "data" : [ {"b64_json":"'
        + picture().encode()
        + b'"} ] ,\n "size":"1x1", "\\u00e9": 1.50}\n'
    )
    upstream.script = lambda call: call.answer(201, odd)
    status, headers, body = await door.post(b'{"prompt": "a cat"}')
    assert (status, body) == (200, odd)
    assert headers["content-length"] == str(len(odd))
    assert headers["content-type"] == "application/json"
    record = await door.record()
    assert record["response_bytes"] == len(odd)
    assert record["response_image_count"] == 1


async def test_a_json_edit_carries_its_pictures_unchanged(
    door: Door, upstream: ScriptedUpstream
) -> None:
    large = "data:image/png;base64," + picture(3_000_000)
    body: dict[str, Any] = {
        "prompt": "brighter",
        "images": [
            {"image_url": large},
            "data:image/jpeg;base64,/9j/4A==",
            "data:image/webp;base64,UklGRg==",
        ],
        "size": None,
    }
    status, _, answer = await door.post(json.dumps(body).encode(), "/v1/images/edits")
    assert status == 200
    assert json.loads(answer)["data"] == images()["data"]
    [call] = upstream.calls
    assert call.target == "/codex/images/edits"
    assert call.json() == {
        "prompt": "brighter",
        "model": "gpt-image-2",
        "images": [
            {"image_url": large},
            {"image_url": "data:image/jpeg;base64,/9j/4A=="},
            {"image_url": "data:image/webp;base64,UklGRg=="},
        ],
    }
    record = await door.record()
    assert record["endpoint"] == "edits"
    assert record["input_image_count"] == 3
    assert 3_000_000 <= record["input_image_bytes"] <= 3_000_012


async def test_url_answers_become_data_urls(door: Door, upstream: ScriptedUpstream) -> None:
    upstream.script = lambda call: call.answer(200, images(2))
    async with door.client() as client:
        made = await client.images.generate(
            model="gpt-image-2", prompt="a cat", n=2, response_format="url"
        )
    assert [item.url for item in made.data or []] == [f"data:image/png;base64,{picture()}"] * 2
    assert [item.b64_json for item in made.data or []] == [None, None]
    assert "response_format" not in upstream.calls[0].json()
    assert (await door.record())["response_image_count"] == 2


async def test_b64_json_is_accepted_and_not_passed_on(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.images.generate(
            model="gpt-image-2", prompt="a cat", response_format="b64_json"
        )
    assert (made.data or [])[0].b64_json == picture()
    assert "response_format" not in upstream.calls[0].json()
    assert (await door.record())["status"] == 200
