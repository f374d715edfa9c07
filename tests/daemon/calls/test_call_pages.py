"""A client asks for its calls by their ids, lists them, and forgets them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.calls.parts import (
    CAT,
    DOG,
    ask,
    ended,
    error_code,
    has_status,
    hold,
    submission_record,
    submit,
    submitted,
)
from tests.daemon.conftest import Door, make_door
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers, draws

NOT_A_CALL = "call_" + "0" * 32

# -- the answer ------------------------------------------------------------------------------------


async def _hangs_up(call: Call) -> None:
    call.writer.transport.abort()


_BLOCKED = {"message": "no", "type": "image_generation_user_error", "code": "moderation_blocked"}


@pytest.mark.parametrize(
    ("script", "status", "code", "shown"),
    [
        pytest.param(
            answers(400, {"error": _BLOCKED}), 400, "moderation_blocked", "failed", id="own-fault"
        ),
        pytest.param(
            answers(429, {"error": {"message": "later", "code": "rate_limit_exceeded"}}),
            429,
            "rate_limit_exceeded",
            "failed",
            id="nothing-made",
        ),
        pytest.param(_hangs_up, 504, "outcome_unknown", "unknown", id="unknown"),
    ],
)
async def test_an_error_is_the_one_that_the_plain_request_would_have_had(
    door: Door, upstream: ScriptedUpstream, script: Script, status: int, code: str, shown: str
) -> None:
    upstream.script = script
    plain = await door.post(DOG)
    upstream.script = script
    path = await submitted(door)
    first = await ended(door, path)
    again = await ask(door, path)
    assert (first[0], again[0], error_code(again)) == (status, status, code)
    assert again[2] == first[2] == plain[2]
    for name in ("content-type", "x-should-retry"):
        assert again[1].get(name) == plain[1].get(name)
    listed = json.loads((await ask(door, "/v1/images/calls"))[2])["data"]
    assert [call["status"] for call in listed] == [shown] * 2
    record = await door.record(call_source="made", status=202)
    assert record["error_code"] == code

    def fetches() -> list[str]:
        return [
            fetch["error_code"]
            for fetch in door.gateway.records()
            if fetch["endpoint"] == "calls" and fetch["call_id"] == record["call_id"]
        ]

    await eventually(lambda: fetches() == [code] * 2)


async def test_a_call_of_a_plain_request_is_found_by_its_id(
    door: Door, upstream: ScriptedUpstream
) -> None:
    status, headers, body = await door.post(CAT)
    found = await ask(door, f"/images/calls/{headers['x-call-id']}")
    assert (status, found[0], found[2]) == (200, 200, body)
    assert (await door.record(endpoint="calls"))["status"] == 200


async def test_a_head_says_as_much_as_a_get_without_the_body(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    path = await submitted(door)
    status, headers, body = await ask(door, path, "HEAD")
    assert (status, body) == (202, b"")
    held.go.set()
    whole = await ended(door, path)
    status, headers, body = await ask(door, path, "HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(whole[2]))
    assert (await submission_record(door))["status"] == 202


async def test_a_key_with_one_place_and_no_quota_left_gets_its_picture(
    door: Door, upstream: ScriptedUpstream
) -> None:
    door.plane.update("keys", {"key_id": door.key_id}, max_concurrency=1)
    held = hold(upstream)
    path = await submitted(door)
    door.plane.update("keys", {"key_id": door.key_id}, quota_limit=1)
    polls = await asyncio.gather(*(ask(door, path, Prefer="wait=1") for _ in range(12)))
    assert [poll[0] for poll in polls] == [202] * 12
    # So many are not held at once; the others are answered at once.
    held_polls = [poll for poll in polls if "preference-applied" in poll[1]]
    assert len(held_polls) == 9
    held.go.set()
    assert (await ended(door, path))[0] == 200
    assert (await submission_record(door))["status"] == 202


async def test_a_key_that_is_disabled_gets_nothing(door: Door, upstream: ScriptedUpstream) -> None:
    path = await submitted(door)
    await ended(door, path)
    door.plane.update("keys", {"key_id": door.key_id}, status="disabled")
    for method, address in (("GET", path), ("DELETE", path), ("GET", "/v1/images/calls")):
        found = await ask(door, address, method)
        assert (found[0], error_code(found)) == (403, "key_disabled")
    door.plane.update("keys", {"key_id": door.key_id}, status="active")
    assert (await ask(door, path))[0] == 200
    nobody = parse(await door.gateway.raw(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()))
    assert (nobody[0], error_code(nobody)) == (401, "missing_api_key")


async def test_what_is_not_there_is_always_answered_in_the_same_words(
    door: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    path = await submitted(door)
    await ended(door, path)
    other = make_door(door.gateway, shared_plane, upstream)
    prefix = "/v1/images/calls"
    strange = ["x", "..", "%2e%2e", "call_1", "call_" + "g" * 32, "c" * 2000, "%00", "call_%2F"]
    found = [
        await ask(other, path),
        await ask(other, path, "DELETE"),
        await ask(door, f"{prefix}/{NOT_A_CALL}"),
        *[await ask(door, f"{prefix}/{text}") for text in strange],
    ]
    assert {(status, body) for status, _, body in found} == {(404, found[0][2])}
    assert error_code(found[0]) == "call_not_found"
    assert (await ask(door, path))[0] == 200

    def refused() -> list[str]:
        """The error codes of the other key's requests."""
        records = door.gateway.records()
        return [r["error_code"] for r in records if r["key_id"] == other.key_id]

    await eventually(lambda: refused() == ["call_not_found"] * 2)


# -- the list --------------------------------------------------------------------------------------


async def test_the_list_has_the_keys_own_calls_newest_first(
    door: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    first = await submitted(door, b'{"prompt": "my secret"}')
    await ended(door, first)
    made = (await door.post(CAT))[1]["x-call-id"]
    held = hold(upstream)
    last = await submitted(door, DOG)
    await asyncio.wait_for(held.begun.wait(), 20)
    await submitted(make_door(door.gateway, shared_plane, upstream))
    status, _, body = await ask(door, "/v1/images/calls")
    page = json.loads(body)
    assert (status, page["object"], page["has_more"]) == (200, "list", False)
    assert [(call["id"], call["status"]) for call in page["data"]] == [
        (last.rpartition("/")[2], "in_progress"),
        (made, "completed"),
        (first.rpartition("/")[2], "completed"),
    ]
    assert {call["endpoint"] for call in page["data"]} == {"generations"}
    assert b"secret" not in body
    page = json.loads((await ask(door, "/v1/images/calls?limit=2"))[2])
    assert (len(page["data"]), page["has_more"]) == (2, True)
    held.go.set()
    await ended(door, last)
    assert (await door.record(endpoint="calls", path="/v1/images/calls", response_bytes=len(body)))[
        "status"
    ] == 200


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("limit=0", id="none"),
        pytest.param("limit=101", id="too-many"),
        pytest.param("limit=x", id="a-letter"),
        pytest.param("limit=-1", id="negative"),
        pytest.param("limit=%D9%A1", id="a-digit-of-another-script"),
        pytest.param("limit=1&limit=2", id="twice"),
        pytest.param("limit=" + "9" * 5000, id="long"),
        pytest.param("&".join(["a=b"] * 99), id="many-fields"),
    ],
)
async def test_a_limit_that_is_none_is_refused(door: Door, query: str) -> None:
    found = await ask(door, f"/v1/images/calls?{query}")
    assert (found[0], error_code(found)) == (400, "invalid_value")
    assert (await door.record())["error_code"] == "invalid_value"


# -- forgetting ------------------------------------------------------------------------------------


async def test_a_call_that_is_forgotten_is_gone_at_once(
    door: Door, upstream: ScriptedUpstream
) -> None:
    path = await submitted(door)
    await ended(door, path)
    status, _, body = await ask(door, path, "DELETE")
    assert (status, json.loads(body)) == (
        200,
        {"id": path.rpartition("/")[2], "object": "image.call.deleted", "deleted": True},
    )
    assert (await ask(door, path))[0] == 404
    assert (await ask(door, path, "DELETE"))[0] == 404
    assert json.loads((await ask(door, "/v1/images/calls"))[2])["data"] == []
    kept = Path(door.gateway.settings["STATE_DIR"]) / "calls"
    assert list(kept.rglob(f"*{path.rpartition('/')[2]}*")) == []
    assert (await submission_record(door))["usage"] is not None


async def test_a_call_that_was_sent_goes_on_and_is_not_kept(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream)
    path = await submitted(door, Idempotency_Key="order-1")
    await asyncio.wait_for(held.begun.wait(), 20)
    waiting = asyncio.create_task(ask(door, path, Prefer="wait=60"))
    await has_status(door, path, "in_progress")
    assert (await ask(door, path, "DELETE"))[0] == 200
    assert (await waiting)[0] == 404
    assert (await ask(door, path))[0] == 404
    held.go.set()
    record = await submission_record(door)
    assert (record["status"], record["error_code"]) == (202, None)
    assert record["usage"] is not None
    kept = Path(door.gateway.settings["STATE_DIR"]) / "calls"
    await eventually(lambda: list(kept.rglob(f"*{path.rpartition('/')[2]}*")) == [])
    upstream.script = draws
    assert (await submit(door, Idempotency_Key="order-1"))[1]["x-call-source"] == "made"


async def test_a_call_that_was_not_sent_is_dropped(
    shared_plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(shared_plane.reader_url, slot_wait_seconds=30).start()
    door = make_door(gateway, shared_plane, upstream)
    door.plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    held = hold(upstream)
    first = await submitted(door, CAT)
    await asyncio.wait_for(held.begun.wait(), 20)
    second = await submitted(door, DOG)
    await has_status(door, second, "queued")
    assert (await ask(door, second, "DELETE"))[0] == 200
    record = await door.record(error_code="call_cancelled", endpoint="generations")
    assert (record["status"], record["attempts"]) == (202, [])
    held.go.set()
    assert (await ended(door, first))[0] == 200
    assert len(upstream.calls) == 1


# -- methods and web pages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        pytest.param("/v1/images/calls", "GET, HEAD", id="list"),
        pytest.param(f"/v1/images/calls/{NOT_A_CALL}", "GET, HEAD, DELETE", id="call"),
    ],
)
async def test_other_methods_get_405_with_allow(door: Door, path: str, allowed: str) -> None:
    found = await ask(door, path, "PUT")
    assert (found[0], found[1]["allow"]) == (405, allowed)
    assert error_code(found) == "method_not_allowed"


async def test_a_web_page_may_ask_for_calls(
    shared_plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(shared_plane.reader_url, cors_origins="https://app.example").start()
    door = make_door(gateway, shared_plane, upstream)
    status, headers, _ = await ask(
        door,
        f"/v1/images/calls/{NOT_A_CALL}",
        "OPTIONS",
        origin="https://app.example",
        access_control_request_method="DELETE",
    )
    assert (status, headers["access-control-allow-methods"]) == (204, "GET, HEAD, DELETE")
    status, headers, _ = await door.post(CAT, Prefer="respond-async", origin="https://app.example")
    assert status == 202
    assert "location" in headers["access-control-expose-headers"]
    assert (await ended(door, headers["location"]))[0] == 200
    assert (await submission_record(door))["status"] == 202
