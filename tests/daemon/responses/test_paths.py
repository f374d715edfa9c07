"""The Responses paths: which are served, in which spelling, by which method."""

import json

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.responses.calls import (
    INTENT,
    ITEM,
    PATH,
    PATHS,
    TEXT,
    TextApi,
)
from tests.daemon.test_refusals import check_refused
from tests.parts.gateway import parse, post
from tests.parts.upstream import (
    ScriptedUpstream,
)


@pytest.mark.parametrize("path", PATHS)
async def test_text_on_every_path_goes_on_and_is_recorded(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, path: str
) -> None:
    status, headers, body = await door.post(TEXT, path)
    assert (status, body) == (200, b'{"id": "resp_text"}')
    assert headers["x-request-id"] == "req-of-text"
    assert [(call.method, call.target) for call in text_api.calls] == [("POST", path)]
    assert upstream.calls == []
    record = await door.record()
    assert (record["endpoint"], record["path"], record["model"]) == ("responses", path, "gpt-5")
    assert (record["status"], record["error_code"], record["attempts"]) == (200, None, [])
    assert (record["request_bytes"], record["response_bytes"]) == (len(TEXT), len(body))
    assert (record["account_name"], record["usage"], record["prompt_hmac"]) == (None, None, None)
    assert record["upstream_path"] == path
    assert not record["may_be_billed"]


@pytest.mark.parametrize("path", PATHS)
async def test_an_intent_on_every_path_is_served_here(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, path: str
) -> None:
    status, headers, body = await door.post(INTENT, path)
    assert status == 200
    assert json.loads(body)["output"] == [ITEM["item"]]
    assert [call.target for call in upstream.calls] == ["/codex/responses"]
    assert text_api.calls == []
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["endpoint"], record["path"]) == ("responses", path)


@pytest.mark.parametrize("body", [TEXT, INTENT], ids=["text", "intent"])
@pytest.mark.parametrize(
    "target",
    [
        "@127.0.0.1:{port}/../v1/responses",
        "@127.0.0.1:{port}/%2e%2e/v1/responses",
        "@127.0.0.1:{port}/%2E./v1/responses?x=1",
        ".127.0.0.1:{port}/../v1/responses",
        ":{port}/../v1/responses",
        "v1/responses",
        "x:@127.0.0.1:{port}/../v1/responses",
    ],
)
async def test_no_target_leads_to_another_host_than_the_text_apis(
    door: Door,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    other: ScriptedUpstream,
    target: str,
    body: bytes,
) -> None:
    """Appended to an address, ``@host`` makes it a user's name (RFC 3986, 3.2)."""
    # With Authorization aiohttp would refuse the URL's own user.
    request = post(None, body, target.format(port=other.port), {"api-key": door.secret})
    await check_refused(door, parse(await door.gateway.raw(request)), 404, "unknown_path")
    assert upstream.calls == text_api.calls == other.calls == []


@pytest.mark.parametrize("body", [TEXT, INTENT], ids=["text", "intent"])
@pytest.mark.parametrize(
    "path",
    [
        *(f"{path}/compact" for path in PATHS),
        f"{PATH}/resp_1",
        f"{PATH}/resp_1/cancel",
        "/v1/re%2573ponses",
        "/v1/chat/completions",
        "/x/v1/responses",
    ],
)
async def test_other_paths_are_unknown_here(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, path: str, body: bytes
) -> None:
    await check_refused(door, await door.post(body, path), 404, "unknown_path")
    assert upstream.calls == text_api.calls == []


SPELLINGS = (
    *(f"{path}/" for path in PATHS),
    "/v1/Responses",
    "/v1/re%73ponses",
    "/v1%2Fresponses",
    "//v1/responses",
    "/v1//responses//",
    "/v1/./responses",
    "/v1/x/../responses",
    "/openai//V1/%52ESPONSES",
)


@pytest.mark.parametrize("path", SPELLINGS)
async def test_a_picture_passes_the_switches_in_no_spelling_of_a_path(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, path: str
) -> None:
    """A text API may be lenient with paths, so the gateway reads them like one."""
    barred = make(key={"image_enabled": False})
    answer = await barred.post(INTENT, path)
    await check_refused(barred, answer, 403, "key_image_generation_disabled")
    door = make()
    status, _, body = await door.post(INTENT, path)
    assert (status, json.loads(body)["output"]) == (200, [ITEM["item"]])
    assert len(upstream.calls) == 1
    assert text_api.calls == []
    status, _, _ = await barred.post(TEXT, path)
    assert (status, [call.target for call in text_api.calls]) == (200, [path])
    assert (await door.record())["path"] == path


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods_are_none(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, method: str
) -> None:
    request = post(door.secret, INTENT, PATH).replace(b"POST", method.encode(), 1)
    answer = parse(await door.gateway.raw(request))
    await check_refused(door, answer, 405, "method_not_allowed")
    assert answer[1]["allow"] == "POST"
    assert upstream.calls == text_api.calls == []
