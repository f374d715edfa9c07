"""Credentials that an upstream repeats, in any field, header or spelling, are seen by nobody."""

import base64
import html
import json
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.daemon.conftest import Door, frames_of
from tests.daemon.test_failover import error
from tests.daemon.test_refusals import PROMPT
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, frame, images, partial, streams

TOKEN = "planted+token/of=the-account_0123"
ACCOUNT_ID = "planted-account-id-19bc"
USER, PASSWORD = "planted-proxy-user", "planted/pass+word"
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SPELLINGS = {
    "token": TOKEN,
    "token in a URL": quote(TOKEN, safe=""),
    "token in a URL, in small letters": quote(TOKEN, safe="").lower(),
    "token in a form": quote_plus(TOKEN),
    "account id": ACCOUNT_ID,
    "user": USER,
    "password": PASSWORD,
    "password in a URL": quote(PASSWORD, safe=""),
    "password in a page": html.escape(PASSWORD),
    "pair": f"{USER}:{PASSWORD}",
    "Proxy-Authorization": f"Basic {PAIR}",
    "its base64 alone": PAIR,
    "without padding": PAIR.rstrip("="),
    "for URLs": base64.urlsafe_b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
}
PLANTED = (*SPELLINGS.values(), "planted")
STREAM = b'{"prompt": "a cat", "stream": true, "partial_images": 1}'


KINDS: dict[str, dict[str, Any]] = {
    "openai": {
        "base_url": "http://upstream.invalid/v1",
        "dialect": "openai",
        "credential": {"api_key": TOKEN},
    },
    "codex": {
        "base_url": "http://upstream.invalid/codex",
        "dialect": "codex",
        "responses_model": "gpt-main",
        "credential": {"access_token": TOKEN, "account_id": ACCOUNT_ID},
    },
}


def use_account(door: Door, upstream: ScriptedUpstream, kind: str) -> None:
    """Give the key a fresh account, behind a proxy with a password, which is the upstream here."""
    name = f"account-{secrets.token_hex(4)}"
    row = {"proxy_url": upstream.root, "proxy_username": USER, "proxy_password": PASSWORD}
    columns = {**KINDS[kind], **row}
    door.plane.add_account(name, columns.pop("base_url"), **columns)
    door.plane.update("keys", {"key_id": door.key_id}, account_names=[name])


@pytest.fixture
def door(plane: Plane, make_gateway: Any) -> Iterator[Door]:
    gateway = make_gateway(plane.reader_url, retry_guard_seconds=0).start()
    secret = plane.add_key(key_id="key-1")
    yield Door(gateway, plane, "key-1", secret, "")
    gateway.kill()


async def sent(door: Door, body: bytes, path: str = "/v1/images/generations") -> bytes:
    """The whole answer to a POST, head and all, in which nothing is planted."""
    raw = await door.gateway.raw(post(door.secret, body, path))
    assert [text for text in PLANTED if text.encode().lower() in raw.lower()] == [], raw
    return raw


async def check(gateway: Gateway) -> None:
    """Nothing is planted in what the daemon wrote, or tells on its ops port."""
    told = [(await gateway.ops(path))[2] for path in ("/", "/status.json", "/metrics")]
    assert gateway.stop() == 0
    written = [path for path in gateway.folder.rglob("*") if path.is_file()]
    assert {"requests.jsonl", "words.log"} <= {path.name for path in written}
    for data in [*told, *(path.read_bytes() for path in written)]:
        assert [text for text in PLANTED if text.encode().lower() in data.lower()] == []


@pytest.mark.parametrize("kind", KINDS)
async def test_no_field_header_or_record_repeats_a_credential(
    door: Door, upstream: ScriptedUpstream, kind: str
) -> None:
    own = [secret for secret in SPELLINGS.values() if kind == "codex" or secret != ACCOUNT_ID]
    for secret in own:
        use_account(door, upstream, kind)
        echoed = {"message": f"bad <{secret}>", "type": secret, "param": secret, "code": secret}
        headers = {
            "x-ratelimit-limit-requests": secret,
            "x-ratelimit-remaining-tokens": f"1; {secret}",
            "openai-processing-ms": secret,
            "retry-after": secret,
            "x-request-id": secret,
        }
        upstream.script = answers(200, images(), headers)
        assert json.loads(parse(await sent(door, PROMPT))[2]) == images()
        upstream.script = answers(200, {"error": echoed}, headers)
        await sent(door, PROMPT)
        upstream.script = answers(418, {"detail": {"message": secret, "code": secret}})
        await sent(door, PROMPT)
        for status in (400, 418, 500, 429):
            told = {"error": {**echoed, "inner": {"headers": [secret], secret: 1}}}
            upstream.script = answers(status, told, headers)
            await sent(door, PROMPT)
    assert len(upstream.calls) == 7 * len(own)
    await check(door.gateway)


async def test_what_the_proxy_was_sent_is_not_told(door: Door, upstream: ScriptedUpstream) -> None:
    async def echoes(call: Call) -> None:
        heard = call.headers["proxy-authorization"]
        assert heard == f"Basic {PAIR}"
        await call.answer(400, error(heard, message=f"Unknown header: {heard}"))

    use_account(door, upstream, "openai")
    upstream.script = echoes
    raw = await sent(door, PROMPT)
    assert b"[redacted]" in raw
    await check(door.gateway)


async def test_events_repeat_no_credential(door: Door, upstream: ScriptedUpstream) -> None:
    for secret in (TOKEN, quote(TOKEN, safe=""), f"Basic {PAIR}", PASSWORD):
        use_account(door, upstream, "openai")
        told = {"message": secret, "type": secret, "param": secret, "code": secret}
        for events in (
            [{"type": "error", "error": told}],
            [partial(0), {"type": "error", "error": told}],
            [partial(0), {**told, "type": "error"}],
        ):
            upstream.script = streams(events)
            await sent(door, STREAM)
    await check(door.gateway)


async def test_a_client_s_own_events_repeat_no_credential(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """They are passed on as they are, but for what must not be seen."""
    use_account(door, upstream, "codex")
    created = {"type": "response.created", "response": {"id": "r", "instructions": "x" * 6000}}
    words = {"type": "response.output_text.delta", "delta": "Hm"}
    for secret in (TOKEN, ACCOUNT_ID, quote(TOKEN, safe=""), f"Basic {PAIR}", PASSWORD):
        told = {"message": secret, "code": secret, "param": secret}
        long = {"message": f"{secret} " * 1000, "code": "server_error"}
        for failure in (
            {"type": "error", **told},
            {"type": "error", "error": told},
            {"type": "error", **long},
            {"type": "response.failed", "response": {"id": "r", "error": told}},
            {
                "type": "response.failed",
                "response": {"id": "r", "error": long, "instructions": "y" * 6000},
            },
        ):
            upstream.script = streams([created, words, failure])
            body = b'{"model": "gpt-image-2", "input": "a cat", "stream": true}'
            raw = await sent(door, body, "/v1/responses")
            *_, own, last = frames_of(parse(raw)[2])
            # The error itself comes last, after a failed response.
            assert last["type"] == "error"
            if "response" in failure:
                assert own["type"] == failure["type"]
                assert own["response"].get("instructions") in {None, "y" * 6000}
    await check(door.gateway)


async def test_a_failure_without_a_credential_is_passed_on_as_it_is(
    door: Door, upstream: ScriptedUpstream
) -> None:
    use_account(door, upstream, "codex")
    failure = {
        "type": "response.failed",
        "response": {"error": {"code": "server_error", "message": "no"}, "input": "z" * 6000},
    }
    upstream.script = streams([{"type": "response.output_text.delta", "delta": "Hm"}, failure])
    raw = await sent(
        door, b'{"model": "gpt-image-2", "input": "a cat", "stream": true}', "/v1/responses"
    )
    assert frame(failure) in parse(raw)[2]
    await check(door.gateway)
