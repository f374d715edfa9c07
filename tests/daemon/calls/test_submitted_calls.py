"""A submission gets the id of its call at once, and its client asks for the answer later."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from image_gateway.exchange.routes import PREFIXES
from tests.daemon.calls.parts import (
    CAT,
    DOG,
    ask,
    ended,
    error_code,
    hold,
    submission_record,
    submit,
    submitted,
)
from tests.daemon.conftest import Door, make_door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, images

ASYNC = {"Prefer": "respond-async"}
EDIT = json.dumps(
    {"prompt": "a cat", "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo="}]}
).encode()

# -- submitting ------------------------------------------------------------------------------------


async def test_a_submission_gets_an_id_and_later_the_answer(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    status, headers, body = await submit(door)
    page = json.loads(body)
    assert (status, headers["preference-applied"]) == (202, "respond-async")
    assert headers["location"] == f"/v1/images/calls/{page['id']}"
    assert int(headers["retry-after"]) > 0
    assert headers["content-type"] == "application/json"
    assert (headers["x-call-id"], headers["x-call-source"]) == (page["id"], "made")
    assert (page["object"], page["endpoint"]) == ("image.call", "generations")
    await asyncio.wait_for(held.begun.wait(), 20)
    status, headers, body = await ask(door, headers["location"])
    assert (status, headers["x-call-id"]) == (202, page["id"])
    running = json.loads(body)
    assert (running["status"], running["id"]) == ("in_progress", page["id"])
    assert running["age_seconds"] >= 0
    held.go.set()
    status, headers, body = await ended(door, f"/v1/images/calls/{page['id']}")
    assert (status, json.loads(body)["data"]) == (200, images()["data"])
    assert headers["content-type"] == "application/json"
    assert (headers["x-call-id"], headers["x-call-source"]) == (page["id"], "replayed")
    assert headers["preference-applied"] == "wait=20"
    again = await ask(door, f"/v1/images/calls/{page['id']}")
    assert (again[0], again[2], len(upstream.calls)) == (200, body, 1)


async def test_its_record_tells_the_usage_once(door: Door, upstream: ScriptedUpstream) -> None:
    path = await submitted(door)
    await ended(door, path)
    await ended(door, path)
    record = await submission_record(door)
    assert (record["status"], record["error_code"], record["client_left"]) == (202, None, False)
    assert (record["endpoint"], len(record["attempts"])) == ("generations", 1)
    assert record["usage"] is not None
    assert record["upstream_ms"] is not None

    def fetches() -> list[dict[str, Any]]:
        found = [r for r in door.gateway.records() if r["key_id"] == door.key_id]
        return [r for r in found if r["endpoint"] == "calls"]

    await eventually(lambda: len(fetches()) == 2)
    for fetch in fetches():
        assert (fetch["status"], fetch["usage"], fetch["attempts"]) == (200, None, [])
        assert (fetch["call_id"], fetch["call_source"]) == (record["call_id"], None)
        assert fetch["call_request_id"] == record["request_id"]


async def test_the_status_page_counts_it_among_calls_without_a_client(
    door: Door,
    shared_plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
) -> None:
    gateway = make_gateway(shared_plane.reader_url).start()
    alone = make_door(gateway, shared_plane, upstream)
    held = hold(upstream)
    path = await submitted(alone)
    await asyncio.wait_for(held.begun.wait(), 20)

    async def calls() -> dict[str, int]:
        status = json.loads((await gateway.ops("/status.json"))[2])
        return {name: status["calls"][name] for name in ("running", "left", "purchases_saved")}

    assert await calls() == {"running": 0, "left": 1, "purchases_saved": 0}
    held.go.set()
    await ended(alone, path)
    await alone.record(status=202)
    assert await calls() == {"running": 0, "left": 0, "purchases_saved": 0}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_its_address_is_below_the_prefix_of_its_request(
    door: Door, upstream: ScriptedUpstream, prefix: str
) -> None:
    prefix = prefix.replace("{deployment}", "gpt-image-2")
    status, headers, _ = await door.post(EDIT, f"{prefix}/edits", Prefer="respond-async")
    assert status == 202
    assert headers["location"].startswith(f"{prefix}/calls/call_")
    assert (await ended(door, headers["location"]))[0] == 200
    record = await submission_record(door)
    assert (record["path"], record["status"]) == (f"{prefix}/edits", 202)


async def test_its_address_is_as_its_request_spelled_the_path(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Also where the log would hide a part of it, as of an address of a picture."""
    door.plane.update(
        "keys", {"key_id": door.key_id}, model_map={"my/v1/images/files/x": "gpt-image-2"}
    )
    prefix = "/openai/deployments/my%2Fv1%2Fimages%2Ffiles%2Fx/images"
    status, headers, body = await door.post(CAT, f"{prefix}/generations", Prefer="respond-async")
    assert (status, headers["location"].rpartition("/")[0]) == (202, f"{prefix}/calls"), body
    assert (await ended(door, headers["location"]))[0] == 200


async def test_a_form_is_submitted_like_json(door: Door, upstream: ScriptedUpstream) -> None:
    form = (
        b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na cat\r\n'
        b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n'
        b"content-type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b--\r\n"
    )
    status, headers, _ = await door.post(
        form,
        "/v1/images/edits",
        Prefer="respond-async",
        content_type="multipart/form-data; boundary=b",
    )
    assert status == 202
    assert (await ended(door, headers["location"]))[0] == 200
    assert (await submission_record(door))["body_form"] == "multipart"


async def test_what_is_wrong_with_a_request_is_said_at_once(
    door: Door, upstream: ScriptedUpstream
) -> None:
    found = await submit(door, b'{"prompt": "a cat", "n": 11}')
    assert (found[0], error_code(found)) == (400, "invalid_value")
    assert "preference-applied" not in found[1]
    assert (await door.record())["status"] == 400


async def test_a_stream_is_sent_as_one_and_the_wish_is_ignored(
    make_account: Callable[..., Door], upstream: ScriptedUpstream
) -> None:
    door = make_account("openai")
    status, headers, _ = await submit(door, b'{"prompt": "a cat", "stream": true}')
    assert status != 202
    assert "preference-applied" not in headers
    assert (await door.record())["status"] == status


async def test_without_anything_kept_the_wish_is_ignored(
    shared_plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(shared_plane.reader_url, keep_seconds=0).start()
    door = make_door(gateway, shared_plane, upstream)
    status, headers, body = await submit(door)
    assert (status, json.loads(body)["data"]) == (200, images()["data"])
    assert "preference-applied" not in headers
    assert (await door.record())["status"] == 200


async def test_a_client_that_would_wait_gets_the_answer_if_it_comes(
    door: Door, upstream: ScriptedUpstream
) -> None:
    status, headers, body = await submit(door, prefer="respond-async, wait=20")
    assert (status, json.loads(body)["data"]) == (200, images()["data"])
    assert headers["preference-applied"] == "wait=20"
    held = hold(upstream)
    status, headers, _ = await submit(door, DOG, prefer="respond-async, wait=1")
    assert (status, headers["preference-applied"]) == (202, "respond-async, wait=1")
    held.go.set()
    assert (await ended(door, headers["location"]))[0] == 200
    assert (await door.record(status=200, call_source="made"))["response_image_count"] == 1


async def test_a_call_waits_for_its_slot_without_a_client(
    door: Door,
    shared_plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
) -> None:
    """Whatever becomes of calls whose clients have left."""
    settings = {"slot_wait_seconds": 30, "when_client_leaves": "cancel"}
    gateway = make_gateway(shared_plane.reader_url, **settings).start()
    door = make_door(gateway, shared_plane, upstream)
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    held = hold(upstream)
    first = await submitted(door, CAT)
    await asyncio.wait_for(held.begun.wait(), 20)
    second, third = await submitted(door, DOG), await submitted(door, DOG)

    async def positions() -> list[int | None]:
        pages = [json.loads((await ask(door, path))[2]) for path in (second, third)]
        assert {page["status"] for page in pages} == {"queued"}
        return [page.get("queue_position") for page in pages]

    await eventually(lambda: _is(positions, [1, 2]))
    held.go.set()
    for path in (first, second, third):
        assert (await ended(door, path))[0] == 200
    assert len(upstream.calls) == 3


async def _is(read: Callable[[], Any], wanted: object) -> bool:
    return bool(await read() == wanted)


# -- submitted again -------------------------------------------------------------------------------


async def test_a_name_gets_the_same_id_again(door: Door, upstream: ScriptedUpstream) -> None:
    held = hold(upstream)
    first = await submitted(door, Idempotency_Key="order-1")
    status, headers, _ = await submit(door, Idempotency_Key="order-1")
    assert (status, headers["location"], headers["x-call-source"]) == (202, first, "joined")
    held.go.set()
    assert (await ended(door, first))[0] == 200
    status, headers, body = await submit(door, Idempotency_Key="order-1")
    assert (status, headers["location"], headers["x-call-source"]) == (202, first, "replayed")
    assert json.loads(body)["status"] == "completed"
    plain = await door.post(CAT, Idempotency_Key="order-1")
    assert (plain[0], plain[1]["x-call-source"], len(upstream.calls)) == (200, "replayed", 1)
    records = [await door.record(call_source=source) for source in ("made", "joined")]
    assert [record["status"] for record in records] == [202, 202]
    assert [record["usage"] is None for record in records] == [False, True]


async def test_a_sure_retry_of_a_lost_202_buys_nothing(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Behind a proxy nobody sees that it was lost."""
    first = await submitted(door)
    assert (await ended(door, first))[0] == 200
    assert await submitted(door, x_stainless_retry_count="1") == first
    assert len(upstream.calls) == 1
    assert (await door.record(call_source="replayed"))["status"] == 202


async def test_equal_submissions_are_pictures_of_their_own(
    door: Door, upstream: ScriptedUpstream
) -> None:
    paths = [await submitted(door) for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        assert (await ended(door, path))[0] == 200
    assert len(upstream.calls) == 3
    assert (await door.record(call_id=paths[0].rpartition("/")[2], status=202))["usage"] is not None


async def test_a_retry_of_a_refused_submission_is_a_picture_of_its_own(
    door: Door, upstream: ScriptedUpstream
) -> None:
    door.plane.update("keys", {"key_id": door.key_id}, max_concurrency=2)
    held = hold(upstream)
    paths = [await submitted(door) for _ in range(2)]
    refused = await submit(door)
    assert (refused[0], error_code(refused)) == (429, "key_concurrency")
    held.go.set()
    for path in paths:
        await ended(door, path)
    paths.append(await submitted(door, x_stainless_retry_count="1"))
    assert len(set(paths)) == 3
    await ended(door, paths[2])
    assert len(upstream.calls) == 3
    assert (await door.record(status=429))["attempts"] == []


async def test_plain_calls_and_submissions_are_not_found_by_each_other(
    door: Door, upstream: ScriptedUpstream
) -> None:
    await ended(door, await submitted(door))
    assert (await door.post(CAT, x_stainless_retry_count="1"))[1]["x-call-source"] == "made"
    assert len(upstream.calls) == 2
    assert (await door.record(status=200, call_source="made"))["usage"] is not None


# -- clients ---------------------------------------------------------------------------------------


async def test_the_sdk_submits_and_any_client_asks_for_the_answer(
    door: Door, upstream: ScriptedUpstream
) -> None:
    client = door.client()
    answer = await client.images.with_raw_response.generate(
        model="gpt-image-2", prompt="a cat", extra_headers=ASYNC
    )
    await client.close()
    assert answer.http_response.status_code == 202
    url = answer.http_response.url.join(answer.headers["location"])
    headers = {"authorization": f"Bearer {door.secret}", "prefer": "wait=30"}
    async with aiohttp.ClientSession() as session, session.get(str(url), headers=headers) as got:
        assert got.status == 200
        assert (await got.json())["data"] == images()["data"]
    assert (await submission_record(door))["status"] == 202
