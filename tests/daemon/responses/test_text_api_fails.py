"""No text API, one that fails, and bodies that nobody takes."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest

from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.responses.calls import (
    BEYOND,
    INTENT,
    PATH,
    PATHS,
    TEXT,
    TextApi,
    ask,
    bounded,
)
from tests.daemon.test_refusals import check_error, check_refused
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    drawn,
    streams,
)


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_text_api_text_is_misdirected(
    make_account: MakeDoor, upstream: ScriptedUpstream, path: str
) -> None:
    door = make_account("codex-responses")
    answer = await door.post(TEXT, path)
    await check_refused(door, answer, 421, "not_an_image_request")
    error = json.loads(answer[2])["error"]
    assert error["type"] == "invalid_request_error"
    for word in ("gpt-image-*", "image_generation", "tool_choice", "text API"):
        assert word in error["message"]
    assert upstream.calls == []
    assert (await door.record())["endpoint"] == "responses"


async def test_without_a_text_api_an_intent_is_served_all_the_same(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(drawn())
    door = make_account("codex-responses")
    assert (await ask(door, INTENT))[0] == 200
    assert (await door.record())["response_image_count"] == 1


async def test_a_body_in_its_own_encoding_is_read(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    assert (await ask(door, INTENT, content_encoding="Identity"))[0] == 200
    assert (len(upstream.calls), text_api.calls) == (1, [])


async def test_a_text_api_that_is_away_is_a_502(door: Door, upstream: ScriptedUpstream) -> None:
    answer = await ask(door, TEXT)
    await check_refused(door, answer, 502, "upstream_unreachable")
    assert int(answer[1]["retry-after"]) > 0
    assert upstream.calls == []
    assert (await door.record())["error_source"] == "upstream"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"no HTTP at all\r\n\r\n"])
async def test_a_text_api_that_breaks_off_before_its_answer_is_a_502(
    door: Door, text_api: TextApi, sent: bytes
) -> None:
    async def script(call: Call) -> None:
        await call.send(sent)

    text_api.script = script
    status, headers, body = await ask(door, TEXT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(body, "upstream_cut")
    assert len(text_api.calls) == 1
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_code"]) == (502, "upstream_cut")


CUTS = {
    "by its length": b"content-length: 1000\r\n\r\n" + b"x" * 500,
    "by chunks": b"transfer-encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\n",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_a_cut_answer_of_the_text_api_is_a_broken_one_for_the_client(
    door: Door, text_api: TextApi, cut: bytes, *, reset: bool
) -> None:
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n" + cut)
        await seen.wait()
        if reset:
            call.writer.transport.abort()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, TEXT, PATH))
    answer = await bounded(reader.readuntil(b"x" * 500))
    seen.set()
    answer += await rest_of(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\n0\r\n" not in answer
    assert answer.count(b"x" * 500) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "upstream_cut")


async def test_an_old_client_sees_a_cut_answer_of_the_text_api_as_an_error(
    door: Door, text_api: TextApi
) -> None:
    """For HTTP/1.0 any end of the connection is a good one but a reset."""
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n" + CUTS["by chunks"])
        await seen.wait()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    with contextlib.closing(writer):
        writer.write(post(door.secret, TEXT, PATH).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await bounded(reader.readuntil(b"x" * 500))
        seen.set()
        with pytest.raises(ConnectionResetError):
            await bounded(reader.read())
    assert (await door.record())["error_code"] == "upstream_cut"


@pytest.mark.parametrize("when", ["before the answer", "within it"])
async def test_a_client_that_leaves_ends_the_text_api_s_work(
    door: Door, text_api: TextApi, when: str
) -> None:
    gone = asyncio.Event()

    async def script(call: Call) -> None:
        if when == "within it":
            await call.head(200, {"content-type": "text/event-stream"})
            await call.send(b": here\n\n")
        await call.gone()
        gone.set()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, TEXT, PATH))
    await eventually(lambda: text_api.calls)
    if when == "within it":
        await bounded(reader.readuntil(b": here\n\n"))
    writer.close()
    await asyncio.wait_for(gone.wait(), 20)
    await eventually(lambda: text_api.open_connections == 0)
    record = await door.record()
    assert (record["client_left"], record["error_code"]) == (True, "client_left")
    assert not record["may_be_billed"]


async def test_a_body_that_is_too_large_is_refused_whatever_it_is(
    make_gateway: Callable[..., Gateway],
    plane: Plane,
    text_api: TextApi,
    text_port: int,
    upstream: ScriptedUpstream,
) -> None:
    gateway = make_gateway(
        plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", max_request_bytes=1000
    ).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    await check_refused(door, await ask(door, b" " * 1001), 413, "request_too_large")
    assert (await ask(door, b" " * 1000))[0] == 200
    assert len(text_api.calls) == 1
    assert gateway.stop() == 0


async def test_a_body_beyond_all_measure_is_refused(door: Door, text_api: TextApi) -> None:
    await check_refused(door, await ask(door, BEYOND), 400, "invalid_body")
    assert text_api.calls == []
