"""Image intents in the background, as the official SDK for Python starts and polls them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.daemon.calls.parts import hold
from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.responses.calls import INTENT, PATH, PATHS, TOOL, ask, records_of
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    ScriptedUpstream,
    answers,
    codex_turn,
    drawn,
    openai_turn,
    picture,
    streams,
)

SETTINGS = {"slot_wait_seconds": 60}
NOT_FOUND = "This key has no call with this id, or the call is no longer kept."
UNKNOWN = f"resp_ig_{'0' * 32}"


@pytest.fixture
async def client(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    async with door.client() as made:
        yield made


@pytest.fixture
def other_process(served: Gateway, shared_plane: Plane, tmp_path: Path) -> Iterator[Gateway]:
    """A second process beside ``served``, with the same folder of kept answers."""
    other = Gateway(tmp_path, shared_plane.reader_url, state_dir=served.settings["STATE_DIR"])
    yield other.start()

    assert other.stop() == 0, other.words()


def begin(client: openai.AsyncOpenAI, **options: Any) -> Any:
    asked: dict[str, Any] = {"model": "gpt-5", "input": "a cat", "tools": [TOOL], **options}
    return client.responses.create(**asked, background=True)


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Response:
    """Poll as a program does."""
    found: list[Response] = []

    async def is_over() -> bool:
        found.append(await client.responses.retrieve(response_id))
        return found[-1].status not in {"queued", "in_progress"}

    await eventually(is_over)
    return found[-1]


def picture_of(response: Response) -> str | None:
    [item] = [item for item in response.output if item.type == "image_generation_call"]
    return item.result


async def request(
    door: Door, method: str, path: str, secret: str | None = None
) -> tuple[int, dict[str, str], Any]:
    """A request without a body; status, headers and JSON of the answer."""
    data = post(secret or door.secret, b"", path).replace(b"POST", method.encode(), 1)
    status, headers, body = parse(await door.gateway.raw(data))
    return status, headers, json.loads(body)


# -- without a stream ------------------------------------------------------------------------------


async def test_a_response_begins_at_once_and_is_polled_until_it_has_its_picture(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(codex_turn()))
    begun = await begin(client)
    assert begun.id.startswith("resp_ig_")
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    assert (begun.object, begun.model, begun.error) == ("response", "gpt-5", None)
    await asyncio.wait_for(held.begun.wait(), 20)
    running = await client.responses.retrieve(begun.id)
    assert (running.id, running.status, running.output) == (begun.id, "in_progress", [])
    held.go.set()
    made = await ended(client, begun.id)
    assert (made.id, made.status, made.background) == (begun.id, "completed", True)
    assert made.created_at == begun.created_at
    assert picture_of(made) == picture()
    assert made.usage is not None
    # Its types know all that came: a dump warns of anything else, and warnings are errors here.
    for response in (begun, running, made):
        assert response.model_dump()["id"] == begun.id
        assert "resp_1" not in response.model_dump_json()
    assert len(upstream.calls) == 1
    assert "background" not in upstream.calls[0].json()


@pytest.mark.parametrize("kind", ["codex-responses", "azure-v1", "openai"])
async def test_no_upstream_is_told_of_the_background(
    make: MakeDoor, make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind, responses_model="gpt-main")
    upstream.script = streams(openai_turn())
    async with door.client() as client:
        begun = await begin(client)
        made = await ended(client, begun.id)
    assert picture_of(made) == picture()
    assert "background" not in upstream.calls[0].json()


async def test_the_record_of_the_start_has_what_the_call_used(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(drawn()))
    begun = await begin(client)
    await client.responses.retrieve(begun.id)
    poll = await door.record(path=f"{PATH}/{begun.id}")
    assert (poll["status"], poll["usage"], poll["attempts"]) == (200, None, [])
    held.go.set()
    made = await ended(client, begun.id)
    started = await door.record(path=PATH)
    assert started["usage"] is not None
    assert started["response_image_count"] == 1
    assert (started["status"], started["call_source"]) == (200, "made")
    assert [attempt["status"] for attempt in started["attempts"]] == [200]
    others = [
        record
        for record in door.gateway.records()
        if record["key_id"] == door.key_id and record["path"] != PATH
    ]
    assert others
    assert all(record["usage"] is None for record in others)
    assert made.status == "completed"


async def test_a_failed_call_is_a_failed_response(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(400, {"error": {"message": "no cats", "code": "invalid_prompt"}})
    begun = await begin(client)
    failed = await ended(client, begun.id)
    assert (failed.status, failed.output) == ("failed", [])
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("invalid_prompt", "no cats")
    assert failed.model_dump()["status"] == "failed"
    record = await door.record(path=PATH)
    assert (record["status"], record["error_code"]) == (200, "invalid_prompt")
    # A poll is no failure, however often it shows one.
    polls = [each for each in door.gateway.records() if each["path"] == f"{PATH}/{begun.id}"]
    assert polls
    assert {each["error_code"] for each in polls} == {None}


async def test_a_call_that_made_nothing_is_told_later_too(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(429, {"error": {"message": "slow down", "code": "rate_limit"}})
    begun = await begin(client)
    assert (await ended(client, begun.id)).status == "failed"
    again = await client.responses.retrieve(begun.id)
    assert again.status == "failed"
    assert again.error is not None


async def test_pictures_without_an_end_are_an_incomplete_response(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(drawn()[:-1])
    for options in ({}, {"stream": True}):
        begun = await begin(client, **options)
        response_id = begun.id if not options else (await anext(aiter(begun))).response.id
        cut = await ended(client, response_id)
        assert (cut.status, picture_of(cut)) == ("incomplete", picture())
        assert cut.model_dump()["id"] == response_id


# -- with a stream ---------------------------------------------------------------------------------


async def test_a_stream_begins_at_once_with_the_id_to_come_back_with(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(codex_turn(partials=2)))
    stream = await begin(client, stream=True)
    events = aiter(stream)
    created, queued = await anext(events), await anext(events)
    assert (created.type, created.sequence_number) == ("response.created", 0)
    assert (queued.type, queued.sequence_number) == ("response.queued", 1)
    held.go.set()
    rest = [event async for event in events]
    assert [event.sequence_number for event in rest] == list(range(2, 2 + len(rest)))
    assert [event.type for event in rest] == [
        "response.in_progress",
        *(event["type"] for event in codex_turn(partials=2)[2:]),
    ]
    named = [event.response.id for event in (created, queued, *rest) if hasattr(event, "response")]
    assert len(named) == 4
    assert set(named) == {created.response.id}
    assert rest[-1].response.status == "completed"
    assert picture_of(rest[-1].response) == picture()
    assert all("resp_1" not in event.model_dump_json() for event in rest)


async def test_a_client_that_left_its_stream_comes_back_for_the_rest(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(codex_turn(partials=2)))
    stream = await begin(client, stream=True)
    created = await anext(aiter(stream))
    await stream.close()
    await asyncio.wait_for(held.begun.wait(), 20)
    back: Any = await client.responses.retrieve(created.response.id, stream=True, starting_after=1)
    held.go.set()
    events = [event async for event in back]
    assert [event.sequence_number for event in events] == list(range(2, 2 + len(events)))
    assert [event.partial_image_index for event in events if "partial" in event.type] == [0, 1]
    assert picture_of(events[-1].response) == picture()
    assert len(upstream.calls) == 1


async def test_the_response_of_a_client_that_left_its_stream_is_nobody_elses(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    """It has the id, so an equal request wants another picture, also once the first has ended."""
    held = hold(upstream, streams(codex_turn()))
    stream = await begin(client, stream=True)
    created = await anext(aiter(stream))
    await stream.close()
    await asyncio.wait_for(held.begun.wait(), 20)
    held.go.set()
    await door.record(client_left=True)
    other = await anext(aiter(await begin(client, stream=True)))
    assert other.response.id != created.response.id
    for each in (created, other):
        assert picture_of(await ended(client, each.response.id)) == picture()
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("settings", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_an_ended_response_is_a_stream_or_a_response_as_it_is_asked_for(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream, settings: dict[str, Any]
) -> None:
    upstream.script = streams(codex_turn())
    begun = await begin(client, **settings)
    response_id = begun.id if not settings else (await anext(aiter(begun))).response.id
    whole = await ended(client, response_id)
    stream: Any = await client.responses.retrieve(response_id, stream=True)
    events = [event async for event in stream]
    assert (events[0].type, events[0].sequence_number) == ("response.created", 0)
    assert events[-1].type == "response.completed"
    assert events[-1].response == whole
    last = events[-1].sequence_number
    after: Any = await client.responses.retrieve(response_id, stream=True, starting_after=last - 1)
    assert [event.sequence_number async for event in after] == [last]
    none: Any = await client.responses.retrieve(response_id, stream=True, starting_after=last)
    assert [event async for event in none] == []


async def test_the_stream_of_a_failed_call_ends_with_its_error(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(400, {"error": {"message": "no cats", "code": "invalid_prompt"}})
    stream = await begin(client, stream=True)
    events = aiter(stream)
    response_id = (await anext(events)).response.id
    with pytest.raises(openai.APIError, match="no cats"):
        assert [event.type async for event in events]
    assert (await ended(client, response_id)).status == "failed"
    again: Any = await client.responses.retrieve(response_id, stream=True)
    with pytest.raises(openai.APIError, match="no cats"):
        assert [event.type async for event in again]


@pytest.mark.parametrize("query", ["stream=2", "stream=true&starting_after=x"])
async def test_an_odd_question_is_refused(door: Door, query: str) -> None:
    begun = json.loads((await ask(door, INTENT[:-1] + b',"background":true}'))[2])
    status, _, error = await request(door, "GET", f"{PATH}/{begun['id']}?{query}")
    assert (status, error["error"]["code"]) == (400, "invalid_type")


# -- who finds it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_every_responses_path_has_its_responses(door: Door, path: str) -> None:
    _, headers, body = await door.post(INTENT[:-1] + b',"background":true}', path)
    begun = json.loads(body)
    status, found, response = await request(door, "GET", f"{path}/{begun['id']}")
    assert (status, response["id"]) == (200, begun["id"])
    assert headers["x-call-id"] == found["x-call-id"] == f"call_{begun['id'][8:]}"


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")],
)
async def test_other_keys_and_unknown_ids_get_the_same_words(
    make: MakeDoor, upstream: ScriptedUpstream, method: str, action: str
) -> None:
    mine, others = make(), make()
    held = hold(upstream, streams(drawn()))
    async with mine.client() as client:
        begun = await begin(client)
        errors = [
            await request(mine, method, f"{PATH}/{response_id}{action}", secret)
            for response_id, secret in (
                (begun.id, others.secret),
                (UNKNOWN, mine.secret),
                ("resp_ig_x", mine.secret),
            )
        ]
        for status, _, body in errors:
            assert (status, body["error"]["code"]) == (404, "call_not_found")
            assert body["error"]["message"].startswith(NOT_FOUND)
        held.go.set()
        assert (await ended(client, begun.id)).status == "completed"


async def test_another_process_and_the_next_one_find_it(
    door: Door,
    client: openai.AsyncOpenAI,
    upstream: ScriptedUpstream,
    other_process: Gateway,
) -> None:
    held = hold(upstream, streams(codex_turn()))
    whole = await begin(client)
    stream = await begin(client, stream=True, input="a dog")
    streamed = (await anext(aiter(stream))).response.id
    await asyncio.wait_for(held.begun.wait(), 20)
    async with other_process.client(door.secret) as other:
        running = await other.responses.retrieve(whole.id)
        assert (running.status, running.model) == ("in_progress", "gpt-5")
        waiting = asyncio.create_task(_events(other, streamed))
        held.go.set()
        assert (await waiting)[-1].response.id == streamed
        for response_id in (whole.id, streamed):
            made = await ended(other, response_id)
            assert (made.id, picture_of(made)) == (response_id, picture())
        assert (await _events(other, streamed, 1))[0].sequence_number == 2
        other_process.stop()
        other_process.start()
        assert picture_of(await other.responses.retrieve(streamed)) == picture()
        await other.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(whole.id)


async def _events(client: openai.AsyncOpenAI, response_id: str, after: int = -1) -> list[Any]:
    stream: Any = await client.responses.retrieve(response_id, stream=True, starting_after=after)
    return [event async for event in stream]


async def test_a_name_finds_the_same_response(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(drawn()))
    named = {"Idempotency-Key": "order-1"}
    begun = await begin(client, extra_headers=named)
    again = await begin(client, extra_headers=named)
    assert again.id == begun.id
    held.go.set()
    made = await ended(client, begun.id)
    late = await begin(client, extra_headers=named)
    assert (late.id, picture_of(late)) == (made.id, picture())
    assert len(upstream.calls) == 1


async def test_a_call_of_the_foreground_is_found_and_answered_as_such(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(codex_turn())
    asked: dict[str, Any] = {"model": "gpt-5", "input": "a cat", "tools": [TOOL]}
    named = {"Idempotency-Key": "order-2"}
    made = await client.responses.create(**asked, extra_headers=named)
    found = await begin(client, extra_headers=named)
    assert found == made
    assert (found.status, picture_of(found)) == ("completed", picture())
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{PATH}/resp_1"),
        ("POST", f"{PATH}/resp_1/cancel"),
        ("DELETE", f"{PATH}/resp_1"),
        ("GET", f"{PATH}/{UNKNOWN}/input_items"),
    ],
)
async def test_other_ids_and_paths_are_as_before(door: Door, method: str, path: str) -> None:
    status, _, error = await request(door, method, path)
    assert (status, error["error"]["code"]) == (404, "unknown_path")


async def test_a_method_that_a_response_does_not_have_is_refused(door: Door) -> None:
    status, headers, error = await request(door, "PUT", f"{PATH}/{UNKNOWN}")
    assert (status, error["error"]["code"]) == (405, "method_not_allowed")
    assert headers["allow"] == "GET, DELETE"


async def test_polling_takes_no_place_of_the_key(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(key={"max_concurrency": 1, "quota_limit": 1})
    held = hold(upstream, streams(drawn()))
    async with door.client() as client:
        begun = await begin(client)
        await asyncio.wait_for(held.begun.wait(), 20)
        polls = [client.responses.retrieve(begun.id) for _ in range(20)]
        assert {response.status for response in await asyncio.gather(*polls)} == {"in_progress"}
        held.go.set()
        assert (await ended(client, begun.id)).status == "completed"


async def test_few_streams_at_once_wait_for_the_responses_of_a_key(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """Each holds a connection for as long as a call may last."""
    door = make(key={"max_concurrency": 1})
    held = hold(upstream, streams(drawn()))
    async with door.client(max_retries=0) as client:
        begun = await begin(client, stream=True)
        response_id = (await anext(aiter(begun))).response.id
        streamed: list[Any] = [
            await client.responses.retrieve(response_id, stream=True) for _ in range(9)
        ]
        with pytest.raises(openai.RateLimitError, match="1 call in flight"):
            await client.responses.retrieve(response_id, stream=True)
        held.go.set()
        for stream in streamed:
            assert [event async for event in stream][-1].type == "response.completed"
        assert (await door.record(error_code="key_concurrency"))["call_id"] is not None
        last: Any = await client.responses.retrieve(response_id, stream=True)
        assert [event async for event in last][-1].type == "response.completed"


# -- ending and forgetting -------------------------------------------------------------------------


async def test_a_call_that_waits_for_a_slot_is_cancelled(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    held = hold(upstream, streams(drawn()))
    first = await begin(client)
    await asyncio.wait_for(held.begun.wait(), 20)
    waiting = await begin(client, input="a dog")
    stream = await begin(client, input="a cow", stream=True)
    events = aiter(stream)
    streamed = (await anext(events)).response.id
    for response_id in (waiting.id, streamed):
        cancelled = await client.responses.cancel(response_id)
        assert (cancelled.id, cancelled.status) == (response_id, "cancelled")
        assert (await client.responses.retrieve(response_id)) == cancelled
        assert (await client.responses.cancel(response_id)) == cancelled
    with pytest.raises(openai.APIError, match="cancelled"):
        assert [event.type async for event in events] == []
    held.go.set()
    assert (await ended(client, first.id)).status == "completed"
    assert len(upstream.calls) == 1
    codes = [record["error_code"] for record in records_of(door) if record["path"] == PATH]
    assert sorted(map(str, codes)) == ["None", "call_cancelled", "call_cancelled"]


async def test_a_call_that_is_paid_for_goes_on_when_it_is_cancelled(
    client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(drawn()))
    begun = await begin(client)
    await asyncio.wait_for(held.begun.wait(), 20)
    assert (await client.responses.cancel(begun.id)).status == "in_progress"
    held.go.set()
    made = await ended(client, begun.id)
    assert picture_of(made) == picture()
    assert await client.responses.cancel(begun.id) == made


async def test_a_forgotten_response_is_gone_at_once(
    door: Door, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, streams(drawn()))
    running = await begin(client)
    await asyncio.wait_for(held.begun.wait(), 20)
    status, _, deleted = await request(door, "DELETE", f"{PATH}/{running.id}")
    assert (status, deleted) == (
        200,
        {"id": running.id, "object": "response.deleted", "deleted": True},
    )
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(running.id)
    held.go.set()
    record = await door.record(path=PATH)
    assert record["usage"] is not None
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(running.id)
    made = await begin(client)
    await ended(client, made.id)
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(made.id)


# -- settings --------------------------------------------------------------------------------------


async def test_accounts_that_bill_nothing_for_it_may_be_cancelled(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, when_client_leaves="cancel").start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    held = hold(upstream, streams(drawn()))
    async with door.client() as client:
        begun = await begin(client)
        await asyncio.wait_for(held.begun.wait(), 20)
        cancelled = await client.responses.cancel(begun.id)
        assert cancelled.status == "cancelled"
        assert await client.responses.retrieve(begun.id) == cancelled
        stream = await begin(client, stream=True)
        created = await anext(aiter(stream))
        await stream.close()
        held.go.set()
        # To leave a stream is no word about the response.
        assert (await ended(client, created.response.id)).status == "completed"
    assert gateway.stop() == 0, gateway.words()


async def test_nothing_runs_in_the_background_where_nothing_is_kept(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, keep_seconds=0).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    status, _, answer = await ask(door, INTENT[:-1] + b',"background":true}')
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (400, "unsupported_value", "background")
    assert upstream.calls == []
    assert gateway.stop() == 0, gateway.words()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "store": False}, "store"),
        ({"previous_response_id": UNKNOWN}, "previous_response_id"),
    ],
    ids=["store", "previous"],
)
async def test_what_the_background_cannot_do_is_refused(
    door: Door, upstream: ScriptedUpstream, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps(json.loads(INTENT) | fields).encode()
    status, _, answer = await ask(door, body)
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (400, "unsupported_value", param)
    assert upstream.calls == []
