"""Every way to be refused: status, code, OpenAI's shape, and a record that says the same."""

import asyncio
import base64
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, make_door
from tests.parts.eventually import BOUND_SECONDS
from tests.parts.gateway import Gateway, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, draws

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
PROMPT = b'{"prompt": "a cat"}'


def check_error(body: bytes, code: str, param: str | None = None) -> dict[str, Any]:
    """The four keys of OpenAI's shape, this code, this parameter."""
    error: dict[str, Any] = json.loads(body)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    return error


async def check_refused(
    door: Door,
    answer: tuple[int, dict[str, str], bytes],
    status: int,
    code: str,
    param: str | None = None,
) -> None:
    """The answer, and its record: no attempt, no usage, nothing billed."""
    got, headers, body = answer
    assert got == status, body
    check_error(body, code, param)
    record = await door.gateway.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_code"]) == (status, code)
    assert record["attempts"] == []
    assert record["usage"] is None
    assert not record["may_be_billed"]
    assert record["total_ms"] >= 0


# -- the key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "code"), [(None, "missing_api_key"), ("sk-nobody", "invalid_api_key")]
)
async def test_no_key_and_an_unknown_key_get_401(door: Door, secret: str | None, code: str) -> None:
    answer = parse(await door.gateway.raw(post(secret, PROMPT)))
    await check_refused(door, answer, 401, code)


async def test_the_key_may_come_as_bearer_or_as_api_key(
    door: Door, upstream: ScriptedUpstream
) -> None:
    status, _, _ = await door.post(PROMPT, authorization="")
    assert status == 401
    status, _, _ = await door.post(PROMPT, authorization="", api_key=door.secret)
    assert status == 200
    assert len(upstream.calls) == 1
    assert (await door.record(status=200))["key_id"] == door.key_id


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ({"status": "disabled"}, 403, "key_disabled"),
        ({"status": "other_provider"}, 403, "key_disabled"),
        ({"image_enabled": False}, 403, "key_image_generation_disabled"),
        ({"quota_limit": 10, "quota_used": 10}, 429, "insufficient_quota"),
        ({"quota_limit": 0}, 429, "insufficient_quota"),
    ],
)
async def test_a_key_that_may_not_is_refused(
    gateway: Gateway,
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    key: dict[str, Any],
    status: int,
    code: str,
) -> None:
    door = make_door(gateway, shared_plane, upstream, **key)
    answer = await door.post(PROMPT)
    await check_refused(door, answer, status, code)
    assert upstream.calls == []
    if code == "insufficient_quota":
        assert answer[1]["x-should-retry"] == "false"
        assert json.loads(answer[2])["error"]["type"] == "insufficient_quota"


async def test_a_group_without_images_goes_before_its_keys_switch(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    shared_plane.add_group("no-images", image_enabled=False)
    door = make_door(gateway, shared_plane, upstream, group_id="no-images", image_enabled=False)
    await check_refused(door, await door.post(PROMPT), 403, "group_image_generation_disabled")
    assert (await door.record())["group_id"] == "no-images"


async def test_the_sdk_raises_its_own_errors_with_our_code(
    door: Door, gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    async with gateway.client("sk-nobody") as client:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client.images.generate(prompt="a cat")
    assert unknown.value.code == "invalid_api_key"
    assert (await gateway.record(request_id=unknown.value.request_id))["status"] == 401
    disabled = make_door(gateway, shared_plane, upstream, status="disabled")
    async with disabled.client() as client:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.images.generate(prompt="a cat")
    assert (refused.value.code, refused.value.type) == ("key_disabled", "permission_error")
    async with door.client() as client:
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.images.generate(prompt="a cat", size="17x17")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.images.generate(prompt="a cat", model="dall-e-2")
    assert (wrong.value.code, wrong.value.param) == ("invalid_value", "size")
    assert missing.value.code == "model_not_found"
    assert upstream.calls == []


# -- before the body -------------------------------------------------------------------------------


async def answer_without_body(door: Door, secret: str | None, length: int) -> tuple[int, bytes]:
    """The answer to a request that announces a body and sends none of it."""
    reader, writer = await door.gateway.connect()
    whole = post(secret, b"", headers={"content-length": str(length)})
    writer.write(whole)
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        _, headers, _ = parse(head)
        body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 10)
        return int(head.split(b" ")[1]), body
    finally:
        writer.close()


async def test_what_needs_no_body_is_checked_before_one_is_read(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream, door: Door
) -> None:
    disabled = make_door(gateway, shared_plane, upstream, image_enabled=False)
    told = [
        (None, 1000, 401, "missing_api_key"),
        ("sk-nobody", 1000, 401, "invalid_api_key"),
        (disabled.secret, 1000, 403, "key_image_generation_disabled"),
        (door.secret, 64 * 1024 * 1024 + 1, 413, "request_too_large"),
        # 401 comes before 413.
        ("sk-nobody", 64 * 1024 * 1024 + 1, 401, "invalid_api_key"),
    ]
    answers = await asyncio.gather(
        *(answer_without_body(door, secret, length) for secret, length, _, _ in told)
    )
    for (got, body), (_, _, status, code) in zip(answers, told, strict=True):
        assert got == status
        check_error(body, code)
    assert (await disabled.record())["error_code"] == "key_image_generation_disabled"


VERSIONS = [b"HTTP/1.1", b"HTTP/1.0"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_sends_all_of_a_body_and_then_reads_is_told_why_it_is_refused(
    door: Door, version: bytes
) -> None:
    for secret, size, status, code in [
        ("sk-nobody", 20_000_000, 401, "invalid_api_key"),
        (door.secret, 80_000_000, 413, "request_too_large"),
    ]:
        request = post(secret, bytes(size)).replace(b"HTTP/1.1", version, 1)
        # Nothing is read before all of it was taken.
        answer = await asyncio.to_thread(sent_then_read, door.gateway.port, request)
        assert len(answer[2]) == int(answer[1]["content-length"])
        await check_refused(door, answer, status, code)


def sent_then_read(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """What a client of the simplest kind sees."""
    with socket.create_connection(("127.0.0.1", port), BOUND_SECONDS) as line:
        line.sendall(request)
        with line.makefile("rb") as answer:
            return parse(answer.read())


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_stops_sending_and_reads_is_told_all_and_then_let_go(
    door: Door, version: bytes
) -> None:
    reader, writer = await door.gateway.connect()
    whole = post("sk-nobody", bytes(100_000)).replace(b"HTTP/1.1", version, 1)
    writer.write(whole[:50_000])
    answer = parse(await rest_of(reader))
    writer.close()
    await check_refused(door, answer, 401, "invalid_api_key")


async def test_who_leaves_within_its_body_has_been_refused_all_the_same(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    disabled = make_door(gateway, shared_plane, upstream, image_enabled=False)
    reader, writer = await gateway.connect()
    writer.write(post(disabled.secret, bytes(100_000))[:50_000])
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND_SECONDS)
    writer.close()
    record = await disabled.record()
    assert (record["status"], record["error_code"], record["client_left"]) == (
        403,
        "key_image_generation_disabled",
        False,
    )


# -- paths and methods -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "/v1/images",
        "/images",
        "/api/codex-gateway/images",
        "/api/codex-gateway/v1/images",
        "/api/llm-gateway/v1/images",
        "/backend-api/codex/images",
        "/openai/v1/images",
        "/openai/deployments/gpt-image-2/images",
    ],
)
async def test_every_alias_serves_both_endpoints(
    door: Door, upstream: ScriptedUpstream, prefix: str
) -> None:
    edit = b'{"prompt": "a cat", "images": ["data:image/png;base64,iVBORw0KGgoAAAAA"]}'
    for endpoint, body in (("generations", PROMPT), ("edits", edit)):
        path = f"{prefix}/{endpoint}?api-version=2025-04-01-preview"
        status, headers, answer = await door.post(body, path)
        assert status == 200, answer
        assert upstream.calls[-1].target == f"/codex/images/{endpoint}"
        record = await door.gateway.record(request_id=headers["x-request-id"])
        assert (record["endpoint"], record["path"]) == (endpoint, f"{prefix}/{endpoint}")


async def test_a_deployment_in_the_path_is_the_model(
    door: Door, upstream: ScriptedUpstream, shared_plane: Plane
) -> None:
    shared_plane.update(
        "accounts", {"account_name": door.account}, deployments={"my image": "gpt-image-2"}
    )
    status, _, _ = await door.post(
        b'{"prompt": "a cat", "model": "ignored"}',
        "/openai/deployments/my%20image/images/generations",
    )
    assert status == 200
    assert upstream.calls[0].json()["model"] == "gpt-image-2"
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == ("my image", "my image")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations/",
        "/v1/images/generation%73",
        "/v1//images/generations",
        "/V1/images/generations",
        "/v1/images",
        "/v1/chat/completions",
        "/metrics",
        "/",
        "/openai/deployments/a/b/images/generations",
    ],
)
async def test_other_paths_are_unknown(door: Door, path: str) -> None:
    await check_refused(door, await door.post(PROMPT, path), 404, "unknown_path")


async def test_a_target_that_is_no_url_is_an_unknown_path(door: Door) -> None:
    for target in ("http://[x/v1/images/generations", "http://[x/v1/images/files/x.png", "x:[/"):
        await check_refused(door, await door.post(PROMPT, target), 404, "unknown_path")


async def test_variations_are_gone_and_the_answer_says_so(door: Door) -> None:
    status, headers, body = await door.post(PROMPT, "/v1/images/variations")
    await check_refused(door, (status, headers, body), 404, "unknown_path")
    assert "retired" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_get_405_with_allow(door: Door, method: str) -> None:
    raw = f"{method} {GENERATIONS} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode()
    status, headers, body = parse(await door.gateway.raw(raw))
    await check_refused(door, (status, headers, body), 405, "method_not_allowed")
    assert headers["allow"] == "POST"
    record = await door.gateway.record(request_id=headers["x-request-id"])
    assert record["endpoint"] == "generations"


async def test_healthz_answers_and_leaves_no_record(door: Door) -> None:
    before = len(door.gateway.records())
    status, _, body = parse(await door.gateway.raw(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n"))
    assert (status, body) == (200, b"ok\n")
    _, headers, _ = await door.post(b"{}")
    await door.gateway.record(request_id=headers["x-request-id"])
    assert len(door.gateway.records()) == before + 1


# -- protocols -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
async def test_an_upgrade_is_refused(door: Door, upgrade: str) -> None:
    answer = await door.post(PROMPT, upgrade=upgrade, connection="Upgrade, HTTP2-Settings")
    await check_refused(door, answer, 426, "upgrade_required")
    assert answer[1]["upgrade"] == "HTTP/1.1"


async def test_a_bodyless_h2c_upgrade_and_prior_knowledge_are_not_served(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upgrade = (
        f"POST {GENERATIONS} HTTP/1.1\r\nhost: g\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        f"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    ).encode()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    for request, status, code in (
        (upgrade, 426, "upgrade_required"),
        (preface, 400, "unsupported_protocol"),
    ):
        answer = parse(await door.gateway.raw(request))
        await check_refused(door, answer, status, code)
    assert upstream.calls == []


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/responses", "/backend-api/codex/responses"])
async def test_a_websocket_reads_that_it_must_post(door: Door, path: str) -> None:
    handshake = (
        f"GET {path} HTTP/1.1\r\nhost: g\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    answer = parse(await door.gateway.raw(handshake))
    await check_refused(door, answer, 426, "upgrade_required")
    assert answer[1]["upgrade"] == "HTTP/1.1"


@pytest.mark.parametrize(
    "garbage",
    [
        b"220 mail.example.com ESMTP\r\n\r\n",
        b"POST /v1/images/generations HTTP/1.1\r\n\r\n",
        b"POST /v1/images/generations HTTP/1.1\r\nhost: g\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ],
    ids=["no HTTP", "no host", "a huge header", "two lengths"],
)
async def test_what_is_no_http_is_told_so_in_the_same_shape(door: Door, garbage: bytes) -> None:
    status, _, body = parse(await door.gateway.raw(garbage))
    assert 400 <= status < 500
    check_error(body, "unsupported_protocol")


async def test_a_target_that_is_a_whole_url_counts_by_its_path(door: Door) -> None:
    assert (await door.post(PROMPT, "http://gateway.example.com/v1/images/generations"))[0] == 200
    assert (await door.record())["path"] == "/v1/images/generations"


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_body", None),
        (b"{", "invalid_body", None),
        (b"[]", "invalid_body", None),
        (b'"text"', "invalid_body", None),
        (b'{"prompt": "a"} x', "invalid_body", None),
        (b'{"prompt": "\xff"}', "invalid_body", None),
        (b'{"prompt": "\xc3', "invalid_body", None),
        (b'{"prompt": "a\nb"}', "invalid_body", None),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_body", None),
        (b'{"prompt": "a", "x": "' + b"y" * 9000 + b"\x01" + b'"}', "invalid_body", None),
        (b'{"junk": [' + b"1," * 1_000_000 + b"1]}", "invalid_body", None),
        (b'{"user": "' + b"y" * 9000 + b'\\q"}', "invalid_body", None),
        (b'{"user": "' + b"y" * 9000 + b'\\ud800"}', "invalid_body", None),
        (b'{"\\u00000": "a"}', "invalid_body", None),
        (b"{}", "missing_required_parameter", "prompt"),
        (b'{"prompt": null}', "missing_required_parameter", "prompt"),
        (b'{"prompt": "  "}', "invalid_value", "prompt"),
        (b'{"prompt": 5}', "invalid_type", "prompt"),
        (b'{"prompt": "a", "n": "2"}', "invalid_type", "n"),
        (b'{"prompt": "a", "n": 11}', "invalid_value", "n"),
        (b'{"prompt": "a", "quality": "hd"}', "invalid_value", "quality"),
        (b'{"prompt": "a", "style": "vivid"}', "unknown_parameter", "style"),
        (b'{"prompt": "a", "seed": 1}', "unknown_parameter", "seed"),
        (b'{"prompt": "a", "partial_images": 2}', "invalid_value", "partial_images"),
        (
            b'{"prompt": "a", "stream": true, "response_format": "url"}',
            "unsupported_value",
            "response_format",
        ),
    ],
)
async def test_a_body_that_breaks_a_rule_gets_400(
    door: Door, upstream: ScriptedUpstream, body: bytes, code: str, param: str | None
) -> None:
    await check_refused(door, await door.post(body), 400, code, param)
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "images"),
        ({"images": []}, "invalid_value", "images"),
        ({"images": ["ftp://x"]}, "invalid_value", "images[0]"),
        ({"images": [{"file_id": "file-1"}]}, "unsupported_value", "images[0].file_id"),
        ({"images": ["https://e.com/a"] * 6}, "unsupported_value", "images"),
        (
            {"images": ["https://e.com/a"], "mask": "data:image/png;base64,AAAA"},
            "unsupported_value",
            "mask",
        ),
    ],
)
async def test_an_edit_that_no_account_can_make_says_what_would_work(
    door: Door, fields: dict[str, Any], code: str, param: str
) -> None:
    body = json.dumps({"prompt": "a", **fields}).encode()
    await check_refused(door, await door.post(body, EDITS), 400, code, param)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_encoding": "gzip"},
    ],
)
async def test_other_forms_of_body_get_415(door: Door, headers: dict[str, str]) -> None:
    await check_refused(door, await door.post(PROMPT, **headers), 415, "unsupported_media_type")


async def test_a_chunked_body_is_read_and_one_over_the_limit_gets_413(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, max_request_bytes=2000).start()
    door = make_door(gateway, plane, upstream)

    def chunked(*chunks: bytes) -> bytes:
        head = post(door.secret, b"", headers={"transfer-encoding": "chunked"})
        head = head.replace(b"content-length: 0\r\n", b"")
        return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (*chunks, b""))

    status, _, _ = parse(await gateway.raw(chunked(b'{"prompt":', b' "a cat"}')))
    assert status == 200
    answer = parse(await gateway.raw(chunked(b'{"prompt": "', b"x" * 1500, b"x" * 1500, b'"}')))
    await check_refused(door, answer, 413, "request_too_large")
    assert len(upstream.calls) == 1
    assert gateway.stop() == 0


async def test_a_slow_body_gets_408_and_its_connection_is_closed(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, body_idle_seconds=0.5, body_seconds=2).start()
    door = make_door(gateway, plane, upstream)
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, b'{"prompt"', headers={"content-length": "100"}))
    silent = parse(await asyncio.wait_for(reader.read(), 20))
    writer.close()
    await check_refused(door, silent, 408, "request_timeout")
    assert silent[1]["x-should-retry"] == "false"
    # Never silent for long, but never done: the whole body has a deadline too.
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, b"{", headers={"content-length": "100000"}))

    async def trickle() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    trickling.cancel()
    writer.close()
    assert b" 408 " in head
    assert (await gateway.record(request_id=parse(head)[1]["x-request-id"]))["body_ms"] >= 1900
    assert upstream.calls == []


# -- models and accounts ---------------------------------------------------------------------------


async def test_the_asked_and_the_mapped_model_must_both_be_allowed(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    names = {"house": "gpt-image-2"}
    for allowed, status in [
        (["house", "gpt-image-2"], 200),
        (["house"], 403),
        (["gpt-image-2"], 403),
        ([], 403),
    ]:
        door = make_door(gateway, shared_plane, upstream, allowed_models=allowed, model_map=names)
        answer = await door.post(b'{"prompt": "a cat", "model": "house"}')
        assert answer[0] == status
        if status == 403:
            await check_refused(door, answer, 403, "model_not_allowed", "model")
    assert [call.json()["model"] for call in upstream.calls] == ["gpt-image-2"]


async def test_a_model_that_no_account_serves_is_not_found(door: Door) -> None:
    answer = await door.post(b'{"prompt": "a cat", "model": "gpt-image-77"}')
    await check_refused(door, answer, 404, "model_not_found", "model")


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "disabled"},
        {"image_enabled": False},
        {"blocked_until": datetime.now(UTC) + timedelta(hours=1)},
    ],
)
async def test_accounts_that_are_off_or_blocked_give_503(
    door: Door, shared_plane: Plane, columns: dict[str, Any]
) -> None:
    shared_plane.update("accounts", {"account_name": door.account}, **columns)
    answer = await door.post(PROMPT)
    await check_refused(door, answer, 503, "no_account_available")
    assert int(answer[1]["retry-after"]) > 0


def jwt(expires_at: float) -> str:
    """An unsigned token with this ``exp``."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode()).rstrip(b"=")
    return f"eyJhbGciOiJub25lIn0.{claims.decode()}.c2ln"


async def test_an_expired_access_token_is_not_used(
    door: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    where = {"account_name": door.account}
    expired = {"access_token": jwt(time.time() - 5)}
    shared_plane.update("accounts", where, credential=expired)
    await check_refused(door, await door.post(PROMPT), 503, "account_credentials")
    assert upstream.calls == []
    fresh = {"tokens": {"access_token": jwt(time.time() + 3600), "account_id": "nested"}}
    shared_plane.update("accounts", where, credential=fresh | {"is_fedramp": True})
    status, _, _ = await door.post(PROMPT)
    assert status == 200
    assert upstream.calls[0].headers["chatgpt-account-id"] == "nested"
    assert upstream.calls[0].headers["x-openai-fedramp"] == "true"


# -- limits ----------------------------------------------------------------------------------------


class Held:
    """A script that holds its calls until it is let go."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        self.arrived.release()
        await self.let_go.wait()
        await draws(call)


async def test_a_key_has_no_more_calls_in_flight_than_it_may(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_door(gateway, shared_plane, upstream, max_concurrency=1)
    upstream.script = held = Held()
    first = asyncio.create_task(door.post(PROMPT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    second = await door.post(PROMPT)
    await check_refused(door, second, 429, "key_concurrency")
    assert check_error(second[2], "key_concurrency")["message"] == (
        "Concurrency limit reached: 1 call in flight for this key. Wait for one to end."
    )
    assert int(second[1]["retry-after-ms"]) > 0
    held.let_go.set()
    assert (await first)[0] == 200
    assert (await door.post(PROMPT))[0] == 200


async def test_a_keys_start_interval_moves_only_with_calls_that_start(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_door(gateway, shared_plane, upstream, min_start_interval_ms=60_000)
    assert (await door.post(b"{}"))[0] == 400
    assert (await door.post(PROMPT))[0] == 200
    second = await door.post(PROMPT)
    await check_refused(door, second, 429, "key_start_interval")
    assert 50_000 < int(second[1]["retry-after-ms"]) <= 60_000


async def test_an_account_serves_three_at_once_unless_it_says_otherwise(
    door: Door, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    upstream.script = held = Held()
    running = [asyncio.create_task(door.post(PROMPT)) for _ in range(3)]
    for _ in running:
        await asyncio.wait_for(held.arrived.acquire(), 10)
    fourth = await door.post(PROMPT)
    await check_refused(door, fourth, 429, "account_concurrency")
    assert int(fourth[1]["retry-after"]) > 0
    shared_plane.update("accounts", {"account_name": door.account}, image_max_concurrency=4)
    running.append(asyncio.create_task(door.post(PROMPT)))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    held.let_go.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 4
    assert len(upstream.calls) == 4


async def test_a_client_that_calls_again_at_once_finds_its_own_place_free(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    """One call at a time, key and account; the last byte comes after both were given back."""
    door = make_door(gateway, shared_plane, upstream, max_concurrency=1)
    shared_plane.update("accounts", {"account_name": door.account}, image_max_concurrency=1)
    statuses = []
    for number in range(60):
        if number % 3 == 0:
            upstream.script = draws
        elif number % 3 == 1:
            upstream.script = lambda call: call.answer(400, {"error": {"message": "no"}})
        body = PROMPT if number % 3 else b'{"prompt": "a cat", "response_format": "url"}'
        statuses.append((await door.post(body))[0])
    assert set(statuses) == {200, 400}
