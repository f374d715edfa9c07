"""What happens to one call when an account does not simply serve it: who is asked, how often.

Every test counts what arrived upstream, because that is what is paid for.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door
from tests.daemon.test_refusals import PROMPT, Held, check_error
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, free_port
from tests.parts.plane import Plane
from tests.parts.upstream import Call, Script, ScriptedUpstream, answers, draws, images


@dataclass
class Pair(Door):
    """A key with two accounts in a fixed order, each with an upstream of its own."""

    first: ScriptedUpstream
    second: ScriptedUpstream
    second_account: str

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.first.calls), len(self.second.calls)

    async def actions(self) -> list[str]:
        return [attempt["action"] for attempt in (await self.record())["attempts"]]


@pytest.fixture
async def pair(gateway: Gateway, shared_plane: Plane) -> AsyncIterator[Pair]:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        yield make_pair(gateway, shared_plane, first, second)


def make_pair(
    gateway: Gateway, plane: Plane, first: ScriptedUpstream, second: ScriptedUpstream, **key: Any
) -> Pair:
    names = [f"account-{secrets.token_hex(4)}" for _ in range(2)]
    models = {name: name for name in ("gpt-image-2", "gpt-image-1.5")}
    plane.add_account(names[0], first.url, deployments=models)
    plane.add_account(names[1], second.url, deployments=models)
    key_id = f"key-{secrets.token_hex(4)}"
    secret = plane.add_key(key_id=key_id, account_names=names, route_strategy="fixed", **key)
    return Pair(gateway, plane, key_id, secret, names[0], first, second, names[1])


def error(code: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": "no", "type": None, "param": None, "code": code, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (402, error("billing"), {}),
        (403, error("forbidden"), {}),
        (403, b"<html>challenge</html>", {"content-type": "text/html"}),
        (404, error("model_not_found"), {}),
        (429, error("usage_limit_reached", resets_in_seconds=60), {}),
        (429, {"detail": "slow down"}, {"retry-after": "7"}),
        (503, {"detail": "busy"}, {}),
        (529, b"", {}),
        (500, error("server_error"), {}),
    ],
)
async def test_an_answer_that_says_nothing_was_made_goes_to_the_next_account(
    pair: Pair, status: int, body: Any, headers: dict[str, str]
) -> None:
    pair.first.script = answers(status, body, headers)
    got, _, answer = await pair.post(PROMPT)
    assert (got, json.loads(answer)) == (200, images())
    assert pair.counts == (1, 1)
    record = await pair.record()
    assert [item["action"] for item in record["attempts"]] == ["next", "deliver"]
    assert record["attempts"][0]["status"] == status
    assert record["account_name"] == pair.second_account
    assert not record["may_be_billed"]


async def test_a_connection_that_never_stood_goes_to_the_next_account(pair: Pair) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    pair.plane.update("accounts", {"account_name": pair.account}, base_url=closed)
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (0, 1)
    assert (await pair.record())["attempts"][0]["stage"] == "connect"


@pytest.mark.parametrize(
    ("status", "body", "code", "flag"),
    [
        (
            400,
            error("moderation_blocked", type="image_generation_user_error"),
            "moderation_blocked",
            None,
        ),
        (400, error("whatever"), "whatever", None),
        (422, {"detail": "unprocessable"}, "upstream_422", None),
        (404, {"detail": "Not Found"}, "upstream_404", None),
        (408, error("timeout"), "timeout", "false"),
        (409, error("conflict"), "conflict", "false"),
        # The client's own fault, at any status: returned, and never bought again by the SDK.
        (500, error("moderation_blocked"), "moderation_blocked", "false"),
        (429, error("content_policy_violation"), "content_policy_violation", "false"),
        (403, error("content_policy_violation"), "content_policy_violation", None),
    ],
)
async def test_an_answer_that_is_for_the_client_is_returned_as_it_is(
    pair: Pair, status: int, body: Any, code: str, flag: str | None
) -> None:
    pair.first.script = answers(status, body)
    got, headers, answer = await pair.post(PROMPT)
    assert got == status
    assert pair.counts == (1, 0)
    assert headers.get("x-should-retry") == flag
    if "error" in body:
        assert json.loads(answer) == body
    else:
        assert json.loads(answer)["error"]["message"] == body["detail"]
    record = await pair.record()
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["error_source"] == "upstream"
    # The account is none the worse for it; the same call again would be warned of the first one.
    pair.first.script = draws
    assert (await pair.post(b'{"prompt": "a dog"}'))[0] == 200
    assert pair.counts == (2, 0)


async def closes(call: Call) -> None:
    call.writer.close()


async def cuts_headers(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")


async def resets(call: Call) -> None:
    call.writer.transport.abort()


async def cuts_before_the_first_byte(call: Call) -> None:
    await call.head(200, {"content-length": "500"})


async def speaks_no_http(call: Call) -> None:
    await call.send(b"220 mail.example.com ESMTP\r\n")


@pytest.mark.parametrize(
    "script", [closes, cuts_headers, resets, cuts_before_the_first_byte, speaks_no_http]
)
async def test_what_was_sent_and_lost_is_never_sent_again(pair: Pair, script: Script) -> None:
    pair.first.script = script
    async with pair.client(max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            await client.images.generate(prompt="a cat")
    assert raised.value.status_code == 504
    assert raised.value.code == "outcome_unknown"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert pair.counts == (1, 0)
    record = await pair.record()
    assert record["may_be_billed"]
    assert (record["error_code"], record["error_source"]) == ("outcome_unknown", "upstream")
    assert [item["action"] for item in record["attempts"]] == ["replace"]


async def test_an_upstream_that_stays_silent_past_its_time_is_not_asked_twice(
    plane: Plane, make_gateway: Any
) -> None:
    gateway = make_gateway(plane.reader_url, codex_seconds=1).start()

    async def silent(call: Call) -> None:
        await call.gone()

    async with ScriptedUpstream(silent) as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        status, headers, body = await pair.post(PROMPT)
        assert (status, headers["x-should-retry"]) == (504, "false")
        check_error(body, "outcome_unknown")
        assert pair.counts == (1, 0)
        record = await pair.record()
        assert record["may_be_billed"]
        assert record["attempts"][0]["stage"] == "sent"
        assert record["upstream_ms"] >= 1000
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("status", "headers", "body", "code"),
    [
        (302, {"location": "http://127.0.0.1:1/"}, b"", "upstream_redirect"),
        (200, {"content-type": "text/html"}, b"<html>", "upstream_invalid"),
        (200, {"content-type": "text/event-stream"}, b"data: {}\n\n", "upstream_invalid"),
        (200, {"content-encoding": "gzip"}, b"\x1f\x8b", "upstream_invalid"),
        (200, {}, b"", "upstream_invalid"),
    ],
)
async def test_an_answer_of_another_kind_is_replaced_and_not_bought_again(
    pair: Pair, status: int, headers: dict[str, str], body: bytes, code: str
) -> None:
    pair.first.script = answers(status, body, headers)
    got, answered, answer = await pair.post(PROMPT)
    assert (got, answered["x-should-retry"]) == (502, "false")
    check_error(answer, code)
    assert pair.counts == (1, 0)
    assert (await pair.record())["may_be_billed"]


_BEGUN = b'{"data":[{"b64_json":"A'


async def test_an_answer_cut_before_its_picture_is_an_honest_error(pair: Pair) -> None:
    """Nothing of it went out: the client reads what is known, and no broken answer."""

    async def cuts(call: Call) -> None:
        await call.head(200, {"content-length": "500"})
        await call.send(b'{"created":1,"data":[{"b64_json":"')

    pair.first.script = cuts
    status, headers, body = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(body, "outcome_unknown")
    assert pair.counts == (1, 0)
    assert (await pair.record())["may_be_billed"]


@pytest.mark.parametrize("chunked", [False, True], ids=["by its length", "chunked"])
async def test_an_answer_cut_in_its_body_is_an_error_and_sends_nothing_of_it(
    pair: Pair, *, chunked: bool
) -> None:
    async def cuts(call: Call) -> None:
        if chunked:
            await call.head(200, {"transfer-encoding": "chunked"})
            await call.send(b"%x\r\n%b\r\n" % (len(_BEGUN), _BEGUN))
        else:
            await call.head(200, {"content-length": "500"})
            await call.send(_BEGUN)

    pair.first.script = cuts
    status, headers, body = await pair.post(PROMPT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    assert json.loads(body)["error"]["code"] == "upstream_cut"
    assert pair.counts == (1, 0)
    record = await pair.record()
    assert (record["error_code"], record["error_source"]) == ("upstream_cut", "upstream")
    assert record["may_be_billed"]
    assert record["attempts"][0]["action"] == "end"


async def test_silence_inside_a_begun_body_ends_it(plane: Plane, make_gateway: Any) -> None:
    gateway = make_gateway(plane.reader_url, upstream_idle_seconds=0.5).start()

    async def stalls(call: Call) -> None:
        await call.head(200, {"content-length": "500"})
        await call.send(_BEGUN)
        await call.gone()

    async with ScriptedUpstream(stalls) as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        assert (await pair.post(PROMPT))[0] == 502
        assert pair.counts == (1, 0)
        assert (await pair.record())["error_code"] == "upstream_cut"
    assert gateway.stop() == 0


async def test_a_pause_before_the_first_byte_of_a_body_is_no_silence(
    plane: Plane, make_gateway: Any
) -> None:
    gateway = make_gateway(plane.reader_url, upstream_idle_seconds=0.3).start()

    async def thinks(call: Call) -> None:
        data = json.dumps(images()).encode()
        await call.head(200, {"content-length": str(len(data))})
        await asyncio.sleep(1)
        await call.send(data)

    async with ScriptedUpstream(thinks) as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        assert (await pair.post(PROMPT))[0] == 200
        assert (await pair.record())["stream_ms"] < 900
    assert gateway.stop() == 0


@pytest.mark.parametrize("status", [200, 400])
async def test_an_odd_header_of_the_upstream_is_left_out_and_costs_nothing(
    pair: Pair, status: int
) -> None:
    async def script(call: Call) -> None:
        data = json.dumps(images() if status == 200 else error("whatever")).encode()
        head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\n"
        odd = "x-ratelimit-note: \u2603\r\nx-ratelimit-left: 5\r\n"
        await call.send(f"{head}{odd}content-length: {len(data)}\r\n\r\n".encode() + data)

    pair.first.script = script
    got, headers, _ = await pair.post(PROMPT)
    assert got == status
    assert headers["x-ratelimit-left"] == "5"
    assert "x-ratelimit-note" not in headers
    assert pair.counts == (1, 0)
    assert (await pair.record())["status"] == status


async def test_an_odd_header_of_the_client_is_left_out_and_the_call_is_made(pair: Pair) -> None:
    status, _, _ = await pair.post(PROMPT, traceparent="a\x01b", baggage="fine")
    assert status == 200
    assert "traceparent" not in pair.first.calls[0].headers
    assert pair.first.calls[0].headers["baggage"] == "fine"
    assert (await pair.record())["status"] == 200


async def test_a_socks_proxy_gets_no_http_and_no_credential(pair: Pair) -> None:
    heard: list[bytes] = []

    async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(socks, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    where = {"account_name": pair.account}
    pair.plane.update(
        "accounts",
        where,
        proxy_url=f"socks5://127.0.0.1:{port}",
        proxy_username="somebody",
        proxy_password="sesame",
    )
    assert (await pair.post(PROMPT))[0] == 200
    # A greeting of SOCKS 5 that offers to sign in, and nothing else.
    assert heard == [b"\x05\x02\x00\x02"]
    assert pair.counts == (0, 1)
    assert await pair.actions() == ["next", "deliver"]
    assert "sesame" not in pair.gateway.words()
    server.close()


async def test_a_proxy_that_refuses_did_not_pass_the_call_on(pair: Pair) -> None:
    """An http upstream behind an http proxy: the proxy's own 407 is no answer of the upstream."""
    async with ScriptedUpstream(answers(407, b"")) as proxy:
        where = {"account_name": pair.account}
        pair.plane.update("accounts", where, proxy_url=f"http://127.0.0.1:{proxy.port}")
        assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (0, 1)
    assert await pair.actions() == ["next", "deliver"]


async def test_the_record_tells_the_size_and_quality_that_came_back(pair: Pair) -> None:
    pair.first.script = answers(200, images(size="1536x1024", quality="low"))
    body = b'{"prompt": "a", "size": "1024x1024", "quality": "high"}'
    assert (await pair.post(body))[0] == 200
    record = await pair.record()
    assert (record["size_given"], record["quality_given"]) == ("1536x1024", "low")


async def test_headers_that_come_late_do_not_cost_the_picture(
    plane: Plane, make_gateway: Any
) -> None:
    gateway = make_gateway(plane.reader_url, codex_seconds=1.5, upstream_idle_seconds=10).start()

    async def late(call: Call) -> None:
        data = json.dumps(images()).encode()
        await asyncio.sleep(1)
        await call.head(200, {"content-length": str(len(data))})
        await asyncio.sleep(1.5)
        await call.send(data)

    async with ScriptedUpstream(late) as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        assert (await pair.post(PROMPT))[0] == 200
        assert (await pair.record())["status"] == 200
    assert gateway.stop() == 0


# -- 401: the credential is read once more ---------------------------------------------------------


async def test_a_renewed_credential_heals_a_401_without_a_failed_call(pair: Pair) -> None:
    async def script(call: Call) -> None:
        if call.headers["authorization"] == "Bearer renewed":
            await draws(call)
            return
        # The control plane renews the token while this call is under way.
        await asyncio.to_thread(
            pair.plane.update,
            "accounts",
            {"account_name": pair.account},
            credential={"access_token": "renewed"},
        )
        await call.answer(401, {"detail": "expired"})

    pair.first.script = script
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (2, 0)
    assert await pair.actions() == ["reread", "deliver"]


async def test_an_unchanged_credential_after_a_401_goes_to_the_next_account(pair: Pair) -> None:
    pair.first.script = answers(401, {"detail": "expired"})
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (1, 1)
    assert await pair.actions() == ["next", "deliver"]
    # It cools down: the next call does not ask it again.
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (1, 2)


async def test_a_renewed_credential_that_is_refused_too_is_not_tried_again(pair: Pair) -> None:
    async def script(call: Call) -> None:
        credential = {"access_token": secrets.token_hex(8)}
        where = {"account_name": pair.account}
        await asyncio.to_thread(pair.plane.update, "accounts", where, credential=credential)
        await call.answer(401, {"detail": "expired"})

    pair.first.script = script
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (2, 1)
    assert await pair.actions() == ["reread", "next", "deliver"]


# -- when every account failed ---------------------------------------------------------------------


async def test_the_most_telling_answer_is_given_when_all_failed(pair: Pair) -> None:
    missing = error("model_not_found")
    pair.first.script = answers(500, error("server_error"))
    pair.second.script = answers(404, missing)
    status, headers, body = await pair.post(PROMPT)
    assert (status, json.loads(body)) == (404, missing)
    assert "x-should-retry" not in headers
    record = await pair.record()
    assert (record["error_code"], record["account_name"]) == (
        "model_not_found",
        pair.second_account,
    )
    assert not record["may_be_billed"]


async def test_our_own_bad_credentials_are_never_shown_as_the_clients(pair: Pair) -> None:
    pair.first.script = pair.second.script = answers(401, error("invalid_api_key"))
    status, _, body = await pair.post(PROMPT)
    assert status == 503
    check_error(body, "account_credentials")
    assert (await pair.record())["account_name"] is None


async def test_what_an_upstream_refused_is_told_without_the_account(pair: Pair) -> None:
    words = f"Nothing for {pair.account} today, see token-of-{pair.account}."
    pair.first.script = pair.second.script = answers(403, error(message=words))
    status, headers, body = await pair.post(PROMPT)
    assert (status, headers["retry-after"]) == (503, "30")
    check_error(body, "account_refused")
    assert b"Nothing for [redacted] today, see [redacted]." in body
    assert pair.account.encode() not in body
    record = await pair.record()
    assert (record["error_code"], record["error_source"]) == ("account_refused", "upstream")
    assert [attempt["reason"] for attempt in record["attempts"]] == ["refused"] * 2


async def test_only_connect_failures_give_502(pair: Pair) -> None:
    for name in (pair.account, pair.second_account):
        closed = f"http://127.0.0.1:{free_port()}"
        pair.plane.update("accounts", {"account_name": name}, base_url=closed)
    status, headers, body = await pair.post(PROMPT)
    assert (status, "x-should-retry" in headers) == (502, False)
    check_error(body, "upstream_unreachable")
    record = await pair.record()
    assert not record["may_be_billed"]
    assert [item["stage"] for item in record["attempts"]] == ["connect", "connect"]


async def test_a_busy_account_beside_one_with_bad_credentials_is_worth_another_try(
    pair: Pair,
) -> None:
    pair.plane.update("accounts", {"account_name": pair.second_account}, image_max_concurrency=1)
    pair.second.script = held = Held()
    pair.first.script = answers(403, error("forbidden"))
    running = asyncio.create_task(pair.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    pair.plane.update("accounts", {"account_name": pair.account}, base_url=pair.first.url + "/2")
    status, _, body = await pair.post(b'{"prompt": "a", "model": "gpt-image-1.5"}')
    assert status == 429
    check_error(body, "account_concurrency")
    held.let_go.set()
    assert (await running)[0] == 200


# -- cooldowns -------------------------------------------------------------------------------------


async def test_an_account_at_its_limit_is_left_alone_until_its_reset(
    pair: Pair,
) -> None:
    pair.first.script = answers(429, error("usage_limit_reached", resets_in_seconds=2))
    began = time.monotonic()
    assert (await pair.post(PROMPT))[0] == 200
    pair.first.script = draws
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (1, 2)

    async def is_asked_again() -> bool:
        assert (await pair.post(PROMPT))[0] == 200
        return pair.counts[0] == 2

    await eventually(is_asked_again)
    assert time.monotonic() - began >= 2


async def test_a_missing_model_cools_only_that_model(pair: Pair) -> None:
    async def script(call: Call) -> None:
        if call.json()["model"] == "gpt-image-1.5":
            await call.answer(404, error("model_not_found"))
        else:
            await draws(call)

    pair.first.script = script
    other = b'{"prompt": "a cat", "model": "gpt-image-1.5"}'
    assert (await pair.post(other))[0] == 200
    assert (await pair.post(other))[0] == 200
    assert pair.counts == (1, 2)
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (2, 2)


async def test_accounts_at_their_limits_give_one_answer_with_the_wait(pair: Pair) -> None:
    """The call that met the limits gets the same answer as those after it, and nobody's plan."""
    limit = error("usage_limit_reached", resets_in_seconds=602705, plan_type="plus")
    pair.first.script = pair.second.script = answers(429, limit, {"retry-after": "602705"})
    for _ in range(2):
        status, headers, body = await pair.post(PROMPT)
        assert status == 429
        check_error(body, "usage_limit_reached")
        assert 890 <= int(headers["retry-after"]) <= 900
        assert b"plus" not in body
    assert pair.counts == (1, 1)
    records = [r for r in pair.gateway.records() if r["key_id"] == pair.key_id]
    assert {r["error_code"] for r in records} <= {"usage_limit_reached"}


async def test_a_spent_account_is_never_told_as_the_client_s_own_quota(pair: Pair) -> None:
    """Its 429 is no limit that passes; the client's own quota has the same code here."""
    spent = answers(429, error("insufficient_quota"), {"retry-after": "60"})
    pair.first.script = pair.second.script = spent
    for code in ("account_refused", "no_account_available"):
        status, _, body = await pair.post(PROMPT)
        assert status == 503
        check_error(body, code)
        await pair.gateway.record(key_id=pair.key_id, error_code=code)
    assert pair.counts == (1, 1)


async def test_a_renewed_credential_ends_the_cooldown_of_the_old_one(pair: Pair) -> None:
    pair.first.script = pair.second.script = answers(401, {"detail": "expired"})
    assert (await pair.post(PROMPT))[0] == 503
    status, _, body = await pair.post(PROMPT)
    assert status == 503
    check_error(body, "no_account_available")
    assert pair.counts == (1, 1)
    pair.first.script = draws
    where = {"account_name": pair.account}
    pair.plane.update("accounts", where, credential={"access_token": "renewed"})
    assert (await pair.post(PROMPT))[0] == 200
    assert pair.counts == (2, 1)
    assert f"account {pair.account} cools down for 300 s: status 401" in pair.gateway.words()


async def test_no_further_attempt_starts_with_under_30_seconds_left(
    plane: Plane, make_gateway: Any
) -> None:
    """The first is always made; a second would buy a picture that comes too late."""
    gateway = make_gateway(plane.reader_url, total_seconds=20).start()
    failing = answers(500, error("server_error"))
    async with ScriptedUpstream(failing) as first, ScriptedUpstream() as second:
        pair = make_pair(gateway, plane, first, second)
        status, _, body = await pair.post(PROMPT)
        assert (status, json.loads(body)) == (500, error("server_error"))
        assert pair.counts == (1, 0)
        assert await pair.actions() == ["next"]
    assert gateway.stop() == 0
