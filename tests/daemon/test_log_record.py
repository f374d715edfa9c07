"""What a record says of a call's client, upstream, answer, tokens and cost, on every route."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.daemon.conftest import KINDS, Door, MakeDoor, open_door
from tests.daemon.test_failover import make_pair
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    images,
    picture,
    streams,
    times,
)

PICTURES = images()["usage"]
"""The usage of one picture, whose tokens in are text."""
COST = 0.000235
"""5 tokens of text in at 5 USD for a million, 7 of a picture out at 30."""
MAIN_MODEL = {
    "input_tokens": 900,
    "input_tokens_details": {"cached_tokens": 800},
    "output_tokens": 90,
    "output_tokens_details": {"reasoning_tokens": 50},
    "total_tokens": 990,
}
ASKED = {"prompt": "a cat", "size": "1536x1024", "quality": "low", "background": "auto"}
TOOL = {"type": "image_generation", "size": "1536x1024", "quality": "low"}
NEW = ("size_given", "quality_given", "background_given", "usage", "usage_text", "svg_usage")

PATHS = {
    "codex": "/codex/images/generations",
    "codex-responses": "/codex/responses",
    "azure-legacy": "/some/base/openai/deployments/my%20deployment/images/generations",
    "azure-v1": "/openai/v1/images/generations",
    "openai": "/v1/images/generations",
}


def spoke(**response: Any) -> Script:
    """A picture over the Responses API; its last event says this."""
    *events, last = drawn()
    return streams([*events, {**last, "response": {"id": "resp_1", "output": [], **response}}])


BOTH = spoke(usage=MAIN_MODEL, tool_usage={"image_gen": PICTURES})


def script(kind: str, *, stream: bool) -> Script:
    if kind == "codex-responses":
        return BOTH
    return streams([completed()]) if stream and kind != "codex" else answers(200, images())


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_picture_is_recorded_with_what_was_given_what_it_used_and_what_it_costs(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, *, stream: bool
) -> None:
    door = make_account(kind)
    upstream.script = script(kind, stream=stream)
    body = json.dumps({**ASKED, "stream": stream}).encode()
    status, _, _ = await door.post(body, user_agent="tests/1.0 \t(x)" + "y" * 200)
    assert status == 200
    record = await door.record()
    assert record["schema_version"] == 2
    assert record["user_agent"] == ("tests/1.0 (x)" + "y" * 200)[:120]
    assert record["upstream_path"] == PATHS[kind]
    assert (record["size"], record["quality"]) == ("1536x1024", "low")
    is_response = kind == "codex-responses"
    assert {name: record[name] for name in NEW} == {
        "size_given": "1024x1024",
        "quality_given": "high" if is_response else "medium",
        "background_given": "opaque",
        "usage": PICTURES,
        "usage_text": MAIN_MODEL if is_response else None,
        "svg_usage": None,
    }
    assert record["cost_usd"] == (None if kind.startswith("codex") else COST)


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize(
    ("end", "pictures", "main_model"),
    [
        (BOTH, PICTURES, MAIN_MODEL),
        (spoke(usage=MAIN_MODEL), None, MAIN_MODEL),
        (spoke(tool_usage={"image_gen": PICTURES}), PICTURES, None),
        (spoke(), None, None),
    ],
    ids=["both", "main model", "pictures", "none"],
)
async def test_an_intent_is_recorded_with_both_usages(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    end: Script,
    pictures: Any,
    main_model: Any,
    *,
    stream: bool,
) -> None:
    door = make_account("codex-responses")
    upstream.script = end
    body = json.dumps({"model": "gpt-5", "input": "a cat", "tools": [TOOL], "stream": stream})
    status, _, _ = await door.post(body.encode(), "/v1/responses")
    assert status == 200
    record = await door.record()
    assert record["response_image_count"] == 1
    assert (record["size"], record["quality"]) == ("1536x1024", "low")
    assert {name: record[name] for name in NEW} == {
        "size_given": "1024x1024",
        "quality_given": "high",
        "background_given": "opaque",
        "usage": pictures,
        "usage_text": main_model,
        "svg_usage": None,
    }
    assert record["upstream_path"] == "/codex/responses"
    assert record["cost_usd"] is None


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_several_calls_for_one_request_add_up_their_usages(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    door = make_account("codex-responses")
    upstream.script = BOTH
    status, _, _ = await door.post(json.dumps({**ASKED, "n": 3, "stream": stream}).encode())
    assert status == 200
    record = await door.record()
    assert record["response_image_count"] == 3
    assert record["usage"] == times(PICTURES, 3)
    assert record["usage_text"] == times(MAIN_MODEL, 3)


@pytest.mark.parametrize("kind", ["azure-v1", "openai"])
async def test_several_pictures_of_a_stream_cost_what_they_use_together(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    upstream.script = streams([completed(), completed()])
    status, _, _ = await door.post(json.dumps({**ASKED, "n": 2, "stream": True}).encode())
    assert status == 200
    record = await door.record()
    assert record["usage"] == times(PICTURES, 2)
    assert record["cost_usd"] == 2 * COST


async def test_events_where_an_answer_was_asked_for_cost_the_same(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    upstream.script = streams([completed(), completed()])
    status, _, _ = await door.post(json.dumps({**ASKED, "n": 2}).encode())
    assert status == 200
    record = await door.record()
    assert (record["size_given"], record["usage"]) == ("1024x1024", times(PICTURES, 2))
    assert record["cost_usd"] == 2 * COST


async def test_a_usage_holds_known_numbers_only(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    details = {"text_tokens": 5, "image_tokens": 0, "hush": 5, "cached_tokens": "hush"}
    odd = {**PICTURES, "input_tokens_details": details, "output_tokens": 10**20}
    upstream.script = answers(
        200,
        images(usage={**odd, "hush": {"hush": 5}}, size="hush " * 9, quality=5, background=None),
    )
    status, _, body = await door.post(json.dumps(ASKED).encode())
    assert (status, b"hush" in body) == (200, True)
    record = await door.record()
    assert record["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
        "total_tokens": 12,
    }
    assert (record["size_given"], record["quality_given"]) == (None, None)
    assert (record["background_given"], record["cost_usd"]) == (None, None)
    assert "hush" not in json.dumps(record)


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_what_an_answer_says_of_its_picture_repeats_no_credential(
    make_account: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    secret = "k3y-of-account-" + "9" * 12
    door = make_account("openai", credential={"api_key": secret})
    looks = dict.fromkeys(("size", "quality", "background"), secret)
    if stream:
        upstream.script = streams([{**completed(), **looks}])
    else:
        writer = {"model": secret, "input_tokens": 1}
        upstream.script = answers(200, {**images(), **looks, "svg_usage": writer})
    assert (await door.post(json.dumps({**ASKED, "stream": stream}).encode()))[0] == 200
    record = await door.record()
    assert secret not in json.dumps(record)
    assert record["size_given"] == "[redacted]"
    assert (record["size"], record["response_image_count"]) == ("1536x1024", 1)


# -- cost ------------------------------------------------------------------------------------------

SVG_COUNTS = {
    "input_tokens": 100,
    "output_tokens": 40,
    "reasoning_tokens": 30,
    "total_tokens": 140,
}
SVG = {"model": "gpt-svg-2026", **SVG_COUNTS}
DEPLOYED = {"gpt-image-2.6-sunburst": "mine"}
DRAWING = {"prompt": "a cat", "model": "gpt-image-2.6-sunburst", "output_format": "svg"}


async def test_the_usage_of_an_svg_is_recorded_beside_that_of_the_picture(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """Its model has no price that the gateway knows, so neither has the call."""
    door = make_account("openai", deployments=DEPLOYED)
    upstream.script = answers(200, images(svg_usage={**SVG, "note": "hush"}))
    status, _, _ = await door.post(json.dumps(DRAWING).encode())
    assert status == 200
    record = await door.record()
    assert (record["usage"], record["svg_usage"]) == (PICTURES, SVG)
    assert record["cost_usd"] is None


@pytest.mark.parametrize("place", ["before", "at the end"])
@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_an_intent_s_svgs_are_recorded_with_what_wrote_them(
    make_account: MakeDoor, upstream: ScriptedUpstream, place: str, *, stream: bool
) -> None:
    door = make_account("openai", responses_model="gpt-5.5")
    *before, item, last = drawn()
    items = [{**item["item"], "id": each, "svg_usage": {**SVG, "note": 1}} for each in ("a", "b")]
    done = [{**item, "item": each, "output_index": at} for at, each in enumerate(items)]
    last["response"]["output"] = items if place == "at the end" else []
    upstream.script = streams([*before, *(done if place == "before" else []), last])
    body = {"model": "gpt-5", "input": "a cat", "tools": [TOOL], "stream": stream}
    assert (await door.post(json.dumps(body).encode(), "/v1/responses"))[0] == 200
    record = await door.record()
    assert record["response_image_count"] == 2
    assert record["svg_usage"] == {"model": SVG["model"], **times(SVG_COUNTS, 2)}
    assert record["cost_usd"] is None


async def test_an_operator_sets_prices(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    prices = {
        "gpt-svg": {"text_in": 1, "text_out": 2.5},
        "gpt-image-2": {"text_in": 1, "image_out": 2},
    }
    gateway = make_gateway(plane.reader_url, prices=json.dumps(prices)).start()
    deployments = {**DEPLOYED, "gpt-image-2-2026-04-21": "dated", "painter": "gpt-image-2"}
    door = open_door(gateway, plane, upstream, "openai", deployments=deployments)
    upstream.script = answers(200, images(svg_usage=SVG))
    await door.post(json.dumps(DRAWING).encode())
    upstream.script = answers(200, images())
    for model in (*deployments, "gpt-image-2.6-sunburst"):
        await door.post(json.dumps({"prompt": "a cat", "model": model}).encode())
    assert gateway.stop() == 0
    costs = [(each["model"], each["cost_usd"]) for each in gateway.records()]
    assert costs == [
        ("gpt-image-2.6-sunburst", COST + 0.0002),
        ("gpt-image-2.6-sunburst", COST),
        ("gpt-image-2-2026-04-21", 0.000019),
        ("painter", None),
        ("gpt-image-2.6-sunburst", COST),
    ]


PNG = f"data:image/png;base64,{picture()}"


@pytest.mark.parametrize(
    ("path", "more", "expected"), [("generations", {}, COST), ("edits", {"images": [PNG]}, None)]
)
async def test_tokens_of_unknown_kinds_are_not_priced(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    path: str,
    more: dict[str, Any],
    expected: float | None,
) -> None:
    """Without details an edit's tokens may be text or picture; a generation's can only be text."""
    door = make_account("openai")
    sums = {name: value for name, value in PICTURES.items() if isinstance(value, int)}
    upstream.script = answers(200, images(usage=sums))
    status, _, _ = await door.post(json.dumps({**ASKED, **more}).encode(), f"/v1/images/{path}")
    assert status == 200
    record = await door.record()
    assert (record["usage"], record["cost_usd"]) == (sums, expected)


MAIN_PRICE = {"text_in": 1, "cached_text_in": 0.1, "text_out": 10}
MAIN_COST = 0.00108
"""100 tokens in at 1 USD for a million, 800 cached ones at 0.1, 90 out at 10."""


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize(
    ("kind", "path"), [("openai", "/v1/responses"), ("azure-v1", "/openai/v1/responses")]
)
async def test_an_intent_costs_its_pictures_and_its_main_model(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    kind: str,
    path: str,
    *,
    stream: bool,
) -> None:
    """Whether the client names the main model, or an image model and the account has one."""
    gateway = make_gateway(plane.reader_url, prices=json.dumps({"gpt-5.5": MAIN_PRICE})).start()
    door = open_door(gateway, plane, upstream, kind, responses_model="gpt-5.5-2026-11-01")
    upstream.script = BOTH
    for asked in ({"model": "gpt-5.5", "tools": [TOOL]}, {"model": "gpt-image-2"}, {"model": "x"}):
        body = {"input": "a cat", "tools": [TOOL], "stream": stream, **asked}
        assert (await door.post(json.dumps(body).encode(), "/v1/responses"))[0] == 200
    assert gateway.stop() == 0
    records = gateway.records()
    assert {each["upstream_path"] for each in records} == {path}
    assert [(each["usage"], each["usage_text"]) for each in records] == [(PICTURES, MAIN_MODEL)] * 3
    # The same tokens of a model without a price are not left out of a cost.
    assert [each["cost_usd"] for each in records] == [COST + MAIN_COST, COST + MAIN_COST, None]


# -- upstream_path ---------------------------------------------------------------------------------


async def test_the_path_is_of_the_account_that_was_asked_last(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        pair.plane.update(
            "accounts",
            {"account_name": pair.second_account},
            dialect="openai",
            base_url=f"{second.root}/relay/v1",
            credential={"api_key": "key-1"},
        )
        first.script = answers(429, {"error": {"message": "no", "type": "usage_limit_reached"}})
        status, _, _ = await pair.post(b'{"prompt": "a cat"}')
        assert (status, pair.counts) == (200, (1, 1))
        record = await pair.record()
    assert record["upstream_path"] == "/relay/v1/images/generations"
    assert (record["account_name"], record["cost_usd"]) == (pair.second_account, COST)


async def test_a_path_is_recorded_without_query_host_and_credential(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    credential = {"api_key": "s3cret-key"}
    door = open_door(gateway, shared_plane, upstream, "openai", credential=credential)
    base_url = f"{upstream.root}/relay/s3cret-key/v1?token=hush"
    shared_plane.update("accounts", {"account_name": door.account}, base_url=base_url)
    status, _, _ = await door.post(b'{"prompt": "a cat"}')
    assert status == 200
    assert "/s3cret-key/" in upstream.calls[0].target
    record = await door.record()
    assert record["upstream_path"] == "/relay/[redacted]/v1/images/generations"
    assert "s3cret" not in json.dumps(record)
    assert "hush" not in json.dumps(record)


async def test_an_upstream_that_cannot_be_reached_is_recorded_with_its_path(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = open_door(gateway, shared_plane, upstream, "openai")
    shared_plane.update(
        "accounts", {"account_name": door.account}, base_url="http://127.0.0.1:1/away/v1"
    )
    status, _, _ = await door.post(b'{"prompt": "a cat"}')
    assert status == 502
    record = await door.record()
    assert record["upstream_path"] == "/away/v1/images/generations"
    assert [record[name] for name in (*NEW, "cost_usd")] == [None] * 7


# -- what has none ---------------------------------------------------------------------------------


async def test_a_refused_call_has_a_client_and_nothing_else(
    door: Door, upstream: ScriptedUpstream
) -> None:
    status, _, _ = await door.post(b'{"prompt": 5}', user_agent="tests/2.0")
    assert status == 400
    record = await door.record()
    assert record["user_agent"] == "tests/2.0"
    assert [record[name] for name in (*NEW, "cost_usd", "upstream_path")] == [None] * 8
    assert upstream.calls == []


async def test_an_answer_that_is_cut_has_no_usage(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")

    async def cut(call: Call) -> None:
        text = json.dumps(images()).encode()
        await call.head(200, {"content-length": str(len(text))})
        await call.send(text[:-60])

    upstream.script = cut
    await door.post(json.dumps(ASKED).encode())
    record = await door.record()
    assert (record["usage"], record["cost_usd"]) == (None, None)
    assert record["upstream_path"] == PATHS["openai"]
