"""Streams: whole frames, comments between them, and an honest end whatever happens."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, MakeDoor, frames_of, open_door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    frame,
    images,
    partial,
    picture,
    streams,
)

KEEPALIVE_SECONDS = 0.2
STREAM = b'{"prompt": "a cat", "stream": true}'
PARTIALS = b'{"prompt": "a cat", "stream": true, "partial_images": 2}'
COMMENT = b": keep-alive\n\n"


@pytest.fixture(scope="module")
def quick(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon that comments on every little silence."""
    folder = tmp_path_factory.mktemp("quick")
    made = Gateway(
        folder,
        shared_plane.reader_url,
        keepalive_seconds=KEEPALIVE_SECONDS,
        upstream_idle_seconds=1,
    ).start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
def make_quick(quick: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> MakeDoor:
    def make(kind: str, **options: Any) -> Door:
        return open_door(quick, shared_plane, upstream, kind, **options)

    return make


async def read_until(reader: asyncio.StreamReader, wanted: bytes) -> bytes:
    return await asyncio.wait_for(reader.readuntil(wanted), 20)


# -- what goes through -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["openai", "azure-v1", "codex-responses"])
async def test_the_sdk_gets_partial_pictures_and_then_the_finished_one(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    is_codex = kind == "codex-responses"
    upstream.script = streams(drawn(2) if is_codex else [partial(0), partial(1), completed()])
    async with door.client() as client:
        stream = await client.images.generate(
            model="gpt-image-2", prompt="a cat", stream=True, partial_images=2
        )
        got = [event async for event in stream]
    assert [event.type for event in got] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.to_dict()["partial_image_index"] for event in got[:2]] == [0, 1]
    assert {event.b64_json for event in got} == {picture()}
    assert got[-1].to_dict()["usage"] == images()["usage"]
    sent = upstream.calls[0].json()
    assert (sent["tools"][0] if is_codex else sent)["partial_images"] == 2
    record = await door.record()
    assert (record["stream"], record["response_image_count"]) == (True, 1)
    assert record["usage"] == images()["usage"]
    assert record["quality_given"] == ("high" if is_codex else "medium")


@pytest.mark.parametrize("kind", ["openai", "azure-legacy"])
async def test_frames_pass_as_they_are_whatever_else_they_hold(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    odd = (
        b'id: 7\nevent: image_generation.new\ndata: {"type":"image_generation.new", "x" : 1.50}\n\n'
    )
    done = frame(completed())
    upstream.script = streams([b": hello\n\n", odd, done.replace(b"\n", b"\r\n")])
    door = make_account(kind)
    status, headers, body = await door.post(STREAM)
    assert (status, body) == (200, odd + done)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in headers
    assert (await door.record())["response_bytes"] == len(body)


async def test_a_frame_that_is_no_json_does_not_cost_the_picture_behind_it(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """An SDK would stumble over it."""
    done = frame(completed())
    upstream.script = streams([b"data: {not json\n\n", b"data: [DONE]\n\n", done])
    door = make_account("openai")
    _, _, body = await door.post(STREAM)
    assert body == done
    assert (await door.record())["response_image_count"] == 1


async def test_text_that_an_sdk_reads_and_we_do_not_costs_no_picture(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """Half a surrogate pair, as JavaScript writes it when it cuts a text in two."""
    done = frame(completed()).replace(b'"size": "1024x1024"', b'"size": "x\\ud83d"')
    upstream.script = streams([done])
    _, _, body = await make_account("openai").post(STREAM)
    assert body == done
    events = [frame(event).replace(b"a revised cat", b"a cat \\ud83d") for event in drawn()]
    upstream.script = streams(events)
    status, _, body = await make_account("codex-responses").post(b'{"prompt": "a cat"}')
    assert status == 200
    [made] = json.loads(body)["data"]
    assert (made["b64_json"], made["revised_prompt"]) == (picture(), "a cat \ufffd")


async def test_a_stream_that_ends_with_its_connection_and_too_early_was_cut(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams([completed()])
    door = make_account("openai")
    _, _, body = await door.post(b'{"prompt": "a cat", "stream": true, "n": 2}')
    first, last = frames_of(body)
    assert first["type"] == "image_generation.completed"
    assert last["error"]["code"] == "upstream_cut"
    assert (await door.record())["may_be_billed"]


async def test_a_completed_event_without_a_picture_is_none(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    empty = {**completed(), "b64_json": ""}
    upstream.script = streams([empty])
    door = make_account("openai")
    _, _, body = await door.post(STREAM)
    assert frames_of(body)[-1]["error"]["code"] == "upstream_cut"
    record = await door.record()
    assert (record["response_image_count"], record["may_be_billed"]) == (None, True)


async def test_headers_of_an_account_that_failed_do_not_go_out_with_another_ones_stream(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")

    async def limited(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream", "x-ratelimit-limit": "first"})
        await call.send(frame(nested("rate_limit_exceeded")))

    upstream.script = limited
    async with ScriptedUpstream(streams(drawn())) as other:
        second = f"{door.account}-b"
        credential = {"access_token": "t"}
        door.plane.add_account(
            second, f"{other.root}/codex", responses_model="main", credential=credential
        )
        door.plane.update(
            "keys",
            {"key_id": door.key_id},
            account_names=[door.account, second],
            route_strategy="fixed",
        )
        status, headers, body = await door.post(STREAM)
    assert (status, len(frames_of(body))) == (200, 1)
    assert "x-ratelimit-limit" not in headers
    assert (await door.record())["account_name"] == second


async def test_one_call_that_makes_two_pictures_counts_its_usage_once(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    *before, item, end = drawn()
    upstream.script = streams([*before, item, item, end])
    door = make_account("codex-responses")
    _, _, body = await door.post(STREAM)
    assert [event["usage"] for event in frames_of(body)] == [None, images()["usage"]]
    assert (await door.record())["usage"]["total_tokens"] == 12


async def test_a_last_frame_without_its_blank_line_gets_one(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    done = frame(completed())
    upstream.script = streams([done.removesuffix(b"\n\n")])
    _, _, body = await make_account("openai").post(STREAM)
    assert body == done


async def test_an_event_may_be_cut_anywhere_on_its_way(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    whole = b"".join(map(frame, [partial(0), completed()]))

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        for position in range(0, len(whole), 37):
            await call.send(whole[position : position + 37])
            await asyncio.sleep(0)

    upstream.script = script
    _, _, body = await make_account("openai").post(PARTIALS)
    assert body == whole


async def test_a_codex_account_without_a_main_model_streams_its_finished_pictures(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex")
    upstream.script = answers(200, images(2))
    status, _, body = await door.post(b'{"prompt": "a cat", "stream": true, "n": 2}')
    events = frames_of(body)
    assert status == 200
    assert [event["type"] for event in events] == ["image_generation.completed"] * 2
    assert [event["b64_json"] for event in events] == [picture()] * 2
    assert [event["usage"] for event in events] == [None, images()["usage"]]
    assert "stream" not in upstream.calls[0].json()
    assert (await door.record())["response_image_count"] == 2


async def test_an_upstream_that_answers_a_stream_with_json_loses_no_picture(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(200, images())
    status, _, body = await make_account("openai").post(STREAM)
    assert (status, [event["b64_json"] for event in frames_of(body)]) == (200, [picture()])


async def test_partial_pictures_are_not_promised_by_who_cannot_make_them(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex")
    status, _, body = await door.post(PARTIALS)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "unsupported_value", "partial_images")
    assert upstream.calls == []
    assert (await door.record())["attempts"] == []


async def test_a_call_that_did_not_ask_for_partial_pictures_gets_none(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(drawn(2))
    _, _, body = await make_account("codex-responses").post(STREAM)
    assert [event["type"] for event in frames_of(body)] == ["image_generation.completed"]


# -- silence ---------------------------------------------------------------------------------------


async def _waiting(call: Call, first: bytes, release: asyncio.Event, rest: bytes) -> None:
    await call.head(200, {"content-type": "text/event-stream"})
    await call.send(first)
    await release.wait()
    await call.send(rest)


@pytest.mark.parametrize("kind", ["openai", "codex-responses"])
async def test_a_silent_upstream_makes_comments_between_whole_frames(
    make_quick: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    """Silence between events may last longer than ``UPSTREAM_IDLE_SECONDS``."""
    door, release = make_quick(kind), asyncio.Event()
    events = drawn(1) if kind == "codex-responses" else [partial(0), completed()]
    cut = 3 if kind == "codex-responses" else 1
    first, rest = b"".join(map(frame, events[:cut])), b"".join(map(frame, events[cut:]))
    upstream.script = lambda call: _waiting(call, first, release, rest)
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, PARTIALS))
    head = await read_until(reader, b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    for _ in range(8):  # 1.6 s and more: the idle bound is 1 s
        await read_until(reader, COMMENT)
    release.set()
    tail = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b"image_generation.completed" in tail
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, None)


async def test_comments_come_before_the_upstream_has_said_a_word(
    make_quick: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door, release = make_quick("openai"), asyncio.Event()

    async def script(call: Call) -> None:
        await release.wait()
        await streams([completed()])(call)

    upstream.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, STREAM))
    await read_until(reader, COMMENT)
    release.set()
    tail = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b"image_generation.completed" in tail


async def test_the_sdk_reads_past_comments(
    make_quick: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_quick("codex")

    async def script(call: Call) -> None:
        await asyncio.sleep(3 * KEEPALIVE_SECONDS)  # what is tested is time
        await call.answer(200, images())

    upstream.script = script
    async with door.client() as client:
        stream = await client.images.generate(model="gpt-image-2", prompt="a cat", stream=True)
        got = [event async for event in stream]
    assert [event.type for event in got] == ["image_generation.completed"]


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_a_picture_that_is_here_does_not_wait_long_for_its_usage(
    make_quick: MakeDoor, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    """``UPSTREAM_IDLE_SECONDS``, which is 1 here, and not the 360 of an attempt."""

    async def script(call: Call) -> None:
        await streams(drawn()[:-1])(call)
        await call.gone()

    upstream.script = script
    door = make_quick("codex-responses")
    status, _, body = await door.post(json.dumps({"prompt": "a cat", "stream": stream}).encode())
    found = frames_of(body)[0] if stream else json.loads(body)["data"][0]
    assert (status, found["b64_json"]) == (200, picture())
    record = await door.record()
    assert (record["error_code"], record["usage"]) == (None, None)


async def test_silence_within_an_event_is_a_cut(
    make_quick: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door, release = make_quick("openai"), asyncio.Event()
    upstream.script = lambda call: _waiting(
        call, frame(partial(0)) + frame(completed())[:40], release, b""
    )
    status, _, body = parse(await door.gateway.raw(post(door.secret, PARTIALS)))
    release.set()
    first, last = frames_of(body)
    assert (status, first["type"]) == (200, "image_generation.partial_image")
    assert (last["type"], last["error"]["code"]) == ("error", "upstream_cut")
    record = await door.record()
    assert (record["error_code"], record["may_be_billed"]) == ("upstream_cut", True)
    assert record["attempts"][0]["error_code"] == "TimeoutError"


# -- failures --------------------------------------------------------------------------------------


def nested(code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"message": "why not", "type": kind, "param": None, "code": code},
    }


def flat(code: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": "why not", "param": None}


def response(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": {"id": "resp_1", **fields}}


def words(part: dict[str, Any]) -> list[dict[str, Any]]:
    item = {"type": "message", "role": "assistant", "content": [part]}
    return [
        {"type": "response.output_item.done", "item": item},
        response("completed", output=[item]),
    ]


REFUSED = {"type": "image_generation_user_error", "code": "moderation_blocked"}

ODD_ERROR = b"event: error\n" + frame(
    {"type": "invalid_request_error", "code": "moderation_blocked", "message": "no"}
).replace(b"event: invalid_request_error\n", b"")

EVENTS: dict[str, tuple[str, Sequence[dict[str, Any] | bytes], int, str]] = {
    "openai nested": ("openai", [nested("moderation_blocked")], 400, "moderation_blocked"),
    "openai flat": ("openai", [flat("content_policy_violation")], 400, "content_policy_violation"),
    "openai flat with a type of its own": ("openai", [ODD_ERROR], 400, "moderation_blocked"),
    "openai limit": (
        "openai",
        [nested("rate_limit_exceeded", "requests")],
        429,
        "rate_limit_exceeded",
    ),
    "openai broken": ("openai", [nested("server_error", "server_error")], 500, "server_error"),
    "azure filter": ("azure-v1", [nested("contentFilter")], 400, "contentFilter"),
    "codex failed": (
        "codex-responses",
        [
            response("created"),
            response("failed", error={"code": "moderation_blocked", "message": "m"}),
        ],
        400,
        "moderation_blocked",
    ),
    "codex limit": (
        "codex-responses",
        [response("failed", error={"code": "rate_limit_exceeded", "message": "m"})],
        429,
        "rate_limit_exceeded",
    ),
    "codex broken": (
        "codex-responses",
        [response("failed", error={"code": "server_error", "message": "m"})],
        500,
        "server_error",
    ),
    "codex error": ("codex-responses", [flat("invalid_prompt")], 400, "invalid_prompt"),
    "codex filter": (
        "codex-responses",
        [response("incomplete", incomplete_details={"reason": "content_filter"})],
        400,
        "content_filter",
    ),
    "codex refusal": (
        "codex-responses",
        words({"type": "refusal", "refusal": "I cannot draw that."}),
        400,
        "moderation_blocked",
    ),
    "codex words": (
        "codex-responses",
        words({"type": "output_text", "text": "I cannot draw that."}),
        502,
        "upstream_invalid",
    ),
    "codex many words": (
        "codex-responses",
        [*words({"type": "refusal", "refusal": "I cannot draw that. " * 400})],
        400,
        "moderation_blocked",
    ),
    "codex nothing": (
        "codex-responses",
        [response("completed", output=[])],
        502,
        "upstream_invalid",
    ),
}


@pytest.mark.parametrize(
    ("case", "stream"),
    [
        *((case, True) for case in EVENTS),
        # Only this route answers with events to a call that asked for none.
        *((case, False) for case in EVENTS if case.startswith("codex")),
    ],
)
async def test_an_error_event_before_anything_was_sent_is_a_status(
    make_account: MakeDoor, upstream: ScriptedUpstream, case: str, *, stream: bool
) -> None:
    kind, events, wanted, code = EVENTS[case]
    door = make_account(kind)
    upstream.script = streams(events)
    status, headers, body = await door.post(STREAM if stream else b'{"prompt": "a cat"}')
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (wanted, code)
    assert set(error) == {"message", "type", "param", "code"}
    if case in {"codex words", "codex refusal"}:
        assert "I cannot draw that." in error["message"]
    assert headers["content-type"] == "application/json"
    assert len(upstream.calls) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (wanted, code)
    assert record["response_image_count"] is None
    retried = wanted < 500 or (kind == "codex-responses" and code == "server_error")
    assert headers.get("x-should-retry") == (None if retried else "false")


@pytest.mark.parametrize("shape", [nested, flat])
async def test_an_error_after_a_frame_is_a_nested_event_that_the_sdk_raises(
    make_account: MakeDoor, upstream: ScriptedUpstream, shape: Any
) -> None:
    door = make_account("openai")
    upstream.script = streams([partial(0), shape("server_error")])
    async with door.client() as client:
        stream = await client.images.generate(
            model="gpt-image-2", prompt="a cat", stream=True, partial_images=1
        )
        first = await anext(stream)
        with pytest.raises(openai.APIError) as raised:
            await anext(stream)
    assert first.type == "image_generation.partial_image"
    assert raised.value.code == "server_error"
    assert raised.value.message == "why not"
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "server_error")
    assert (record["error_source"], record["may_be_billed"]) == ("upstream", True)


async def test_an_error_after_comments_is_an_event(
    make_quick: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door, release = make_quick("openai"), asyncio.Event()

    async def script(call: Call) -> None:
        await release.wait()
        await call.answer(
            400,
            {"error": {"message": "no", "type": "t", "param": None, "code": "moderation_blocked"}},
        )

    upstream.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, STREAM))
    await read_until(reader, COMMENT)
    release.set()
    tail = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b'data: {"type":"error","error":{"message":"no"' in tail
    assert tail.endswith(b"0\r\n\r\n")
    assert b"event:" not in tail
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "moderation_blocked")


async def test_comments_do_not_keep_a_call_from_another_account(
    make_quick: MakeDoor, upstream: ScriptedUpstream, quick: Gateway, shared_plane: Plane
) -> None:
    """They are no bytes of an upstream's answer."""
    first = make_quick("codex-responses")
    second = f"{first.account}-b"
    release = asyncio.Event()
    async with ScriptedUpstream(streams([completed()])) as other:
        shared_plane.add_account(
            second, f"{other.root}/v1", dialect="openai", credential={"api_key": "k"}
        )
        secret = shared_plane.add_key(
            key_id=f"key-{second}", account_names=[first.account, second], route_strategy="fixed"
        )

        async def script(call: Call) -> None:
            await release.wait()
            await streams([response("failed", error={"code": "rate_limit_exceeded"})])(call)

        upstream.script = script
        reader, writer = await quick.connect()
        writer.write(post(secret, STREAM))
        await read_until(reader, COMMENT)
        release.set()
        tail = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert b"image_generation.completed" in tail
    record = await quick.record(key_id=f"key-{second}")
    assert [attempt["action"] for attempt in record["attempts"]] == ["next", "deliver"]
    assert record["error_code"] is None


CUTS: dict[str, tuple[bytes, list[str]]] = {
    "between frames": (frame(partial(0)), ["image_generation.partial_image", "error"]),
    "within a frame": (
        frame(partial(0)) + frame(completed())[:50],
        ["image_generation.partial_image", "error"],
    ),
    "within the first": (frame(partial(0))[:50], []),
    "before the first": (b"", []),
    "within a comment": (b": hel", []),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_a_stream_that_is_cut_says_so(
    make_account: MakeDoor, upstream: ScriptedUpstream, cut: str, *, reset: bool
) -> None:
    sent, wanted = CUTS[cut]
    door = make_account("openai")

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(sent)
        if reset:
            call.writer.transport.abort()

    upstream.script = script
    status, headers, body = await door.post(PARTIALS)
    record = await door.record()
    assert record["may_be_billed"]
    assert len(upstream.calls) == 1
    if wanted and (not reset or body):
        events = frames_of(body)
        assert (status, [event["type"] for event in events]) == (200, wanted)
        assert events[-1]["error"]["code"] == "upstream_cut"
        assert record["error_code"] == "upstream_cut"
    else:
        assert (status, json.loads(body)["error"]["code"]) == (504, "outcome_unknown")
        assert headers["x-should-retry"] == "false"


async def test_a_codex_picture_that_was_made_survives_what_fails_after_it(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    for end in ([], [response("failed", error={"code": "server_error"})], [flat("server_error")]):
        upstream.script = streams([*drawn()[:-1], *end])
        door = make_account("codex-responses")
        status, _, body = await door.post(STREAM)
        assert (status, [event["type"] for event in frames_of(body)]) == (
            200,
            ["image_generation.completed"],
        )
        record = await door.record()
        assert record["error_code"] is None
        # What broke is told where it broke.
        [attempt] = record["attempts"]
        assert attempt["action"] == "deliver"
        assert attempt["error_code"] == ("server_error" if end else "EndOfStream")
        door = make_account("codex-responses")
        status, _, body = await door.post(b'{"prompt": "a cat"}')
        assert (status, json.loads(body)["data"][0]["b64_json"]) == (200, picture())


async def test_a_picture_only_in_the_last_event_is_found(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    item = drawn()[-2]["item"]
    upstream.script = streams([response("completed", output=[item], tool_usage={})])
    status, _, body = await make_account("codex-responses").post(b'{"prompt": "a cat"}')
    assert (status, json.loads(body)["data"][0]["b64_json"]) == (200, picture())


# -- several pictures from an account that draws one at a time -------------------------------------


class Easel:
    """An upstream on the Responses route that keeps each call until it is told what to do."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.waiting: asyncio.Queue[asyncio.Future[Script]] = asyncio.Queue()
        self.at_once = 0
        self.most_at_once = 0
        upstream.script = self._script

    async def _script(self, call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(response("created")))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        told: asyncio.Future[Script] = asyncio.get_running_loop().create_future()
        await self.waiting.put(told)
        script = await told
        self.at_once -= 1
        await script(call)

    async def tell(self, *events: dict[str, Any] | None) -> None:
        """Let the next call go on with these events; None: cut it."""

        async def script(call: Call) -> None:
            for event in events:
                if event is not None:
                    await call.send(frame(event))

        (await asyncio.wait_for(self.waiting.get(), 20)).set_result(script)


@pytest.fixture
def easel(upstream: ScriptedUpstream) -> Easel:
    return Easel(upstream)


def n_pictures(count: int, **fields: Any) -> bytes:
    return json.dumps({"prompt": "a cat", "n": count, **fields}).encode()


async def test_several_pictures_are_several_calls_on_the_slots_that_are_free(
    make_account: MakeDoor, upstream: ScriptedUpstream, easel: Easel
) -> None:
    door = make_account("codex-responses", image_max_concurrency=2)
    answer = asyncio.create_task(door.post(n_pictures(3)))
    await eventually(lambda: easel.waiting.qsize() == 2)
    for _ in range(3):
        await easel.tell(*drawn())
    status, headers, body = await answer
    made = json.loads(body)
    assert (status, int(headers["content-length"])) == (200, len(body))
    assert [entry["b64_json"] for entry in made["data"]] == [picture()] * 3
    assert made["data"][0]["revised_prompt"] == "a revised cat"
    assert made["usage"]["total_tokens"] == 36
    assert made["usage"]["input_tokens_details"] == {"image_tokens": 0, "text_tokens": 15}
    assert (easel.most_at_once, len(upstream.calls)) == (2, 3)
    assert all("n" not in call.json()["tools"][0] for call in upstream.calls)
    record = await door.record()
    assert record["response_image_count"] == 3
    assert record["usage"]["total_tokens"] == 36
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"] * 3


async def test_several_pictures_become_data_urls_where_asked(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(drawn(size=9000))
    door = make_account("codex-responses")
    status, _, body = await door.post(n_pictures(2, response_format="url"))
    assert status == 200
    entry = {"url": f"data:image/png;base64,{picture(9000)}", "revised_prompt": "a revised cat"}
    assert json.loads(body)["data"] == [entry, entry]
    assert (await door.record())["response_image_count"] == 2


async def test_no_call_but_the_first_waits_for_a_slot(
    make_account: MakeDoor, upstream: ScriptedUpstream, easel: Easel
) -> None:
    door = make_account("codex-responses", image_max_concurrency=1)
    answer = asyncio.create_task(door.post(n_pictures(2, stream=True)))
    await easel.tell(*drawn())
    await easel.tell(*drawn())
    status, _, body = await answer
    assert status == 200
    assert [event["type"] for event in frames_of(body)] == ["image_generation.completed"] * 2
    assert easel.most_at_once == 1
    # The slot is free again: the next call is served at once.
    last = asyncio.create_task(door.post(n_pictures(1)))
    await easel.tell(*drawn())
    assert (await last)[0] == 200


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize(
    ("failing", "billed"),
    [
        ([response("failed", error={"code": "rate_limit_exceeded"})], False),
        ([response("failed", error={"code": "moderation_blocked"})], False),
        ([None], True),
    ],
    ids=["limited", "refused", "cut"],
)
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_pictures_that_were_made_are_delivered_though_another_call_failed(
    make_account: MakeDoor,
    easel: Easel,
    failing: list[Any],
    at: int,
    *,
    billed: bool,
    stream: bool,
) -> None:
    door = make_account("codex-responses", image_max_concurrency=3)
    answer = asyncio.create_task(door.post(n_pictures(3, **({"stream": True} if stream else {}))))
    await eventually(lambda: easel.waiting.qsize() == 3)
    for number in range(3):
        await easel.tell(*(failing if number == at else drawn()))
    status, _, body = await answer
    assert status == 200
    if stream:
        kinds = [event["type"] for event in frames_of(body)]
        assert kinds == ["image_generation.completed"] * 2
    else:
        assert len(json.loads(body)["data"]) == 2
    record = await door.record()
    assert (record["n"], record["response_image_count"]) == (3, 2)
    assert record["may_be_billed"] is billed
    actions = [attempt["action"] for attempt in record["attempts"]]
    assert sorted(actions)[:2] == ["deliver", "deliver"]
    assert len(actions) == 3


@pytest.mark.parametrize(
    ("status", "body", "then"),
    [
        (429, {"detail": "slow down"}, (429, "rate_limit_exceeded")),
        (401, {}, (503, "no_account_available")),
    ],
)
async def test_an_account_that_refuses_one_of_several_calls_is_not_asked_for_more(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    status: int,
    body: dict[str, Any],
    then: tuple[int, str],
) -> None:
    """And what it said is not forgotten because another call of it succeeds afterwards."""
    door, release = make_account("codex-responses", image_max_concurrency=2), asyncio.Event()

    async def script(call: Call) -> None:
        if len(upstream.calls) > 1:
            await call.answer(status, body, {"retry-after": "600"})
            release.set()
            return
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(response("created")))
        await release.wait()
        for event in drawn():
            await call.send(frame(event))

    upstream.script = script
    code, _, answer = await door.post(n_pictures(4))
    assert (code, len(json.loads(answer)["data"])) == (200, 1)
    assert len(upstream.calls) == 2
    record = await door.record()
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver", "next"]
    code, _, answer = await door.post(n_pictures(1))
    assert (code, json.loads(answer)["error"]["code"]) == then
    assert len(upstream.calls) == 2


async def test_frames_of_several_calls_never_mix(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("codex-responses", image_max_concurrency=4)
    upstream.script = streams(drawn(3, size=200_000))
    status, _, body = await door.post(n_pictures(4, stream=True, partial_images=3))
    events = frames_of(body)
    assert status == 200
    assert len(events) == 16
    assert {event["b64_json"] for event in events} == {picture(200_000)}


async def test_a_first_call_that_is_refused_is_the_only_one(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(429, {"detail": "slow down"})
    door = make_account("codex-responses")
    status, _, _ = await door.post(n_pictures(4))
    assert (status, len(upstream.calls)) == (429, 1)


def test_the_folder_of_spools_is_empty_after_all_this(quick: Gateway) -> None:
    assert list(Path(quick.settings["SPOOL_DIR"]).iterdir()) == []


# -- a stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", frame(partial(0))], ids=["comments only", "a frame"])
async def test_a_stream_that_outlives_the_drain_deadline_ends_with_an_error_event(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, first: bytes
) -> None:
    gateway = make_gateway(
        plane.reader_url, drain_seconds=0.5, keepalive_seconds=KEEPALIVE_SECONDS
    ).start()
    door = open_door(gateway, plane, upstream, "openai")

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(first)
        await call.gone()

    upstream.script = script
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, PARTIALS))
    await read_until(reader, COMMENT)
    stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
    tail = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert await stopped == 0
    assert b'data: {"type":"error","error":{"message":"' in tail
    assert b'"code":"outcome_unknown"' in tail
    assert tail.endswith(b"\n\n\r\n0\r\n\r\n")
    [record] = gateway.records()
    assert (record["status"], record["error_code"]) == (200, "outcome_unknown")
    assert record["may_be_billed"]


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("made", ["by another call", "by this call"])
async def test_a_picture_that_was_made_outlives_the_drain_deadline(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, made: str, *, stream: bool
) -> None:
    gateway = make_gateway(plane.reader_url, drain_seconds=0.5).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    *before, end = drawn()

    async def script(call: Call) -> None:
        await streams(before)(call)
        if made == "by another call" and len(upstream.calls) == 1:
            await call.send(frame(end))
        else:
            await call.gone()

    upstream.script = script
    count = 2 if made == "by another call" else 1
    body = n_pictures(count, stream=stream)
    answer = asyncio.create_task(door.post(body))
    await eventually(lambda: len(upstream.calls) == count)
    assert await asyncio.to_thread(gateway.stop) == 0
    status, _, body = await answer
    assert status == 200
    found = frames_of(body) if stream else json.loads(body)["data"]
    assert [entry["b64_json"] for entry in found] == [picture()] * count
    [record] = gateway.records()
    assert (record["error_code"], record["response_image_count"]) == (None, count)
    assert record["may_be_billed"]


async def test_a_stream_in_flight_is_finished_before_a_stop(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, keepalive_seconds=KEEPALIVE_SECONDS).start()
    door, release = open_door(gateway, plane, upstream, "codex-responses"), asyncio.Event()
    events = [frame(event) for event in drawn(1)]
    upstream.script = lambda call: _waiting(
        call, b"".join(events[:3]), release, b"".join(events[3:])
    )
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, PARTIALS))
    await read_until(reader, b"partial_image")
    stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
    await eventually(lambda: "stopping" in gateway.words())
    release.set()
    tail = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b"image_generation.completed" in tail
    assert await stopped == 0
    [record] = gateway.records()
    assert (record["error_code"], record["response_image_count"]) == (None, 1)
