"""Which account is asked, as clients and upstreams see it: sessions, budgets, pools, switches."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.daemon.conftest import Door, make_door
from tests.daemon.test_failover import error, make_pair
from tests.daemon.test_ops import until_metric
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws, images

SESSION_HEADERS = ("session_id", "session-id", "conversation_id", "x-session-id")


async def test_a_session_keeps_its_account_while_that_is_usable(
    gateway: Gateway, shared_plane: Plane
) -> None:
    """Each of the four headers names a session; those of a failed account move, others stay."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream()) for _ in range(3)]
        names = [f"account-{secrets.token_hex(4)}" for _ in upstreams]
        for name, each in zip(names, upstreams, strict=True):
            shared_plane.add_account(name, each.url)
        key_id = f"key-{secrets.token_hex(4)}"
        secret = shared_plane.add_key(key_id=key_id, account_names=names)
        door = Door(gateway, shared_plane, key_id, secret, names[0])

        async def account_of(session: str, header: str) -> int:
            before = [len(each.calls) for each in upstreams]
            answer = await gateway.raw(post(secret, PROMPT, headers={header: session}))
            assert parse(answer)[0] == 200
            after = [len(each.calls) for each in upstreams]
            return next(at for at in range(3) if after[at] > before[at])

        sessions = [f"session {number}" for number in range(12)]
        bound = {session: await account_of(session, "session_id") for session in sessions}
        assert len(set(bound.values())) > 1, "sessions are spread"
        for header in SESSION_HEADERS:
            assert {each: await account_of(each, header) for each in sessions} == bound
        shared_plane.update("accounts", {"account_name": names[0]}, used_percent_primary=99)
        moved = {each: await account_of(each, "session_id") for each in sessions}
        for session, at in bound.items():
            assert (moved[session] == at) is (at != 0)
        assert (await door.record(request_id=gateway.records()[-1]["request_id"]))["status"] == 200


async def test_what_an_answer_tells_of_the_budget_counts_before_the_control_plane_knows(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        shared_plane.update("keys", {"key_id": pair.key_id}, route_strategy="auto")
        first.script = answers(
            200,
            images(),
            {
                "x-codex-primary-used-percent": "97",
                "x-codex-primary-reset-after-seconds": "3600",
            },
        )
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (1, 0), "of equals the first"
        for _ in range(3):
            assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (1, 3)
        # The control plane has asked since: there is room again.
        for name, percent in ((pair.account, 1), (pair.second_account, 50)):
            shared_plane.update("accounts", {"account_name": name}, used_percent_primary=percent)
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (2, 3)


async def test_an_upstream_that_is_a_pool_is_asked_again_before_the_next_account(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        shared_plane.update("accounts", {"account_name": pair.account}, same_account_retries=2)

        async def third_time_lucky(call: Call) -> None:
            if len(first.calls) < 3:
                await call.answer(429, error("rate_limit"))
            else:
                await draws(call)

        first.script = third_time_lucky
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (3, 0)
        record = await pair.record()
        assert [each["action"] for each in record["attempts"]] == ["retry", "retry", "deliver"]
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (4, 0), "what ended well has not cooled"


async def test_a_pool_that_goes_on_failing_is_left_for_the_next_account_and_cools(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        shared_plane.update("accounts", {"account_name": pair.account}, same_account_retries=1)
        first.script = answers(429, error("rate_limit"), {"retry-after": "60"})
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (2, 1)
        assert await pair.actions() == ["retry", "next", "deliver"]
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (2, 2)


async def test_each_call_to_a_pool_may_heal_a_401_with_a_renewed_credential(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        where = {"account_name": pair.account}
        shared_plane.update("accounts", where, same_account_retries=1)

        async def renews_at_the_second_call(call: Call) -> None:
            if call.headers["authorization"] == "Bearer renewed":
                await draws(call)
                return
            if len(first.calls) == 2:
                credential = {"access_token": "renewed"}
                await asyncio.to_thread(
                    shared_plane.update, "accounts", where, credential=credential
                )
            await call.answer(401, {"detail": "expired"})

        first.script = renews_at_the_second_call
        assert (await pair.post(PROMPT))[0] == 200
        assert pair.counts == (3, 0)
        assert await pair.actions() == ["retry", "reread", "deliver"]


async def test_what_may_have_been_made_is_not_asked_for_again_by_a_pool_either(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, shared_plane, first, second)
        shared_plane.update("accounts", {"account_name": pair.account}, same_account_retries=5)

        async def cuts(call: Call) -> None:
            call.writer.transport.abort()

        first.script = cuts
        status, _, body = await pair.post(PROMPT)
        assert status == 504
        check_error(body, "outcome_unknown")
        assert pair.counts == (1, 0)
        assert (await pair.record())["may_be_billed"] is True


# -- waiting, as the search for an account sees it -------------------------------------------------


async def test_only_waiting_uses_up_the_time_for_waiting(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    """An attempt that took longer than a call may wait leaves it all its patience."""
    gateway = make_gateway(plane.reader_url, slot_wait_seconds=1.5).start()
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        other = make_door(gateway, plane, second, account_names=[pair.second_account])
        plane.update("accounts", {"account_name": pair.second_account}, image_max_concurrency=1)
        second.script = held = Held()
        holds = asyncio.create_task(other.post(PROMPT))
        await asyncio.wait_for(held.arrived.acquire(), 10)

        async def slowly(call: Call) -> None:
            await asyncio.sleep(2)
            asyncio.get_running_loop().call_later(0.5, held.let_go.set)
            await call.answer(429, error("rate_limit"))

        first.script = slowly
        assert (await pair.post(PROMPT))[0] == 200
        record = await pair.record()
        assert [each["action"] for each in record["attempts"]] == ["next", "deliver"]
        assert 0 < record["wait_ms"] <= 1500
        assert (await holds)[0] == 200
    assert gateway.stop() == 0


async def test_a_call_whose_account_cooled_while_it_waited_was_no_start(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    """It got its slot and was not made, so the key's next call need not keep its distance."""
    gateway = make_gateway(plane.reader_url, slot_wait_seconds=10).start()
    first = make_door(gateway, plane, upstream)
    where = {"account_name": first.account}
    plane.update("accounts", where, image_max_concurrency=1)
    slow = {"account_names": [first.account], "min_start_interval_ms": 600_000, "key_id": "slow"}
    second = Door(gateway, plane, "slow", plane.add_key(**slow), first.account)
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def refuses(call: Call) -> None:
        arrived.set()
        await let_go.wait()
        await call.answer(403, error("forbidden"))

    upstream.script = refuses
    running = asyncio.create_task(first.post(PROMPT))
    await asyncio.wait_for(arrived.wait(), 10)
    waiting = asyncio.create_task(second.post(PROMPT))
    await until_metric(gateway, "image_gateway_waiting", 1)
    let_go.set()
    await running
    status, _, body = await waiting
    assert status == 503
    check_error(body, "no_account_available")
    upstream.script = draws
    plane.update("accounts", where, credential={"access_token": "renewed"})
    assert (await second.post(PROMPT))[0] == 200
    status, _, body = await second.post(PROMPT)
    assert status == 429
    check_error(body, "key_start_interval")
    assert len(upstream.calls) == 2
    assert (await second.record(status=503))["attempts"] == []
    assert gateway.stop() == 0


# -- switches --------------------------------------------------------------------------------------

_PROMISED_SECONDS = 1.0
_SLACK_SECONDS = 2.0
_SWITCHES: list[tuple[str, str, str]] = [
    ("keys", "key_id", "key_image_generation_disabled"),
    ("groups", "group_id", "group_image_generation_disabled"),
    ("accounts", "account_name", "no_account_available"),
]


@pytest.mark.parametrize(("table", "column", "code"), _SWITCHES)
@pytest.mark.parametrize("way", ["NOTIFY", "time to live"])
async def test_a_switch_acts_within_its_promised_time_both_ways(  # noqa: PLR0917 - a table
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    table: str,
    column: str,
    code: str,
    way: str,
) -> None:
    """Within a second: by NOTIFY whatever the time to live is, or by a time to live of a second."""
    options: dict[str, Any] = {"grant_ttl_seconds": 600 if way == "NOTIFY" else 1.0}
    if way != "NOTIFY":
        options["direct_database_url"] = "postgresql://postgres@127.0.0.1:1/none"
    gateway = make_gateway(plane.reader_url, **options)
    plane.add_group("artists", image_enabled=True)
    door = make_door(gateway, plane, upstream, group_id="artists")
    where = {"key_id": door.key_id, "group_id": "artists", "account_name": door.account}
    gateway.start()
    assert (await door.post(PROMPT))[0] == 200

    async def becomes(wanted: bytes) -> float:
        async def is_answered() -> bool:
            return wanted in (await door.post(PROMPT))[2]

        began = time.monotonic()
        await eventually(is_answered)
        return time.monotonic() - began

    plane.update(table, {column: where[column]}, image_enabled=False)
    assert await becomes(code.encode()) < _PROMISED_SECONDS + _SLACK_SECONDS
    plane.update(table, {column: where[column]}, image_enabled=True)
    assert await becomes(b"b64_json") < _PROMISED_SECONDS + _SLACK_SECONDS
    assert gateway.stop() == 0
    codes = [record["error_code"] for record in gateway.records()]
    assert code in codes
    assert codes[-1] is None
