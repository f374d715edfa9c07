"""Calls from web pages of other origins, and the list of models that such pages show."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.daemon.conftest import Door, MakeDoor, make_door, open_door
from tests.daemon.test_refusals import check_error
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream, answers, completed, streams

APP = "https://app.example.com"
GENERATIONS = "/v1/images/generations"
ASKED = "authorization,content-type,x-stainless-os,x-stainless-retry-count,x-my-app"
MakeGateway = Callable[..., Gateway]


async def ask(
    gateway: Gateway, method: str, path: str, secret: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request without a body."""
    fields = {"host": "gateway", **({"authorization": f"Bearer {secret}"} if secret else {})}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return parse(await gateway.raw("\r\n".join([*lines, "", ""]).encode()))


def preflight(gateway: Gateway, path: str, origin: str = APP, method: str = "POST") -> Any:
    return ask(
        gateway,
        "OPTIONS",
        path,
        origin=origin,
        access_control_request_method=method,
        access_control_request_headers=ASKED,
    )


@pytest.fixture(params=[f"{APP}, http://localhost:3000", "*"])
def open_gateway(
    request: pytest.FixtureRequest, make_gateway: MakeGateway, plane: Plane
) -> Iterator[Gateway]:
    """A daemon that lets the app's pages in, by its origin or as anyone's."""
    gateway = make_gateway(plane.reader_url, cors_origins=request.param).start()
    yield gateway
    assert gateway.stop() == 0


def allowed(gateway: Gateway) -> str:
    return "*" if gateway.settings["CORS_ORIGINS"] == "*" else APP


PATHS = [
    GENERATIONS,
    "/openai/deployments/x/images/edits?api-version=1",
    "/v1/responses",
    "/v1/models",
    "/v1/models/gpt-image-2",
]


async def test_a_browser_may_ask_before_it_sends_a_call(open_gateway: Gateway) -> None:
    for path in PATHS:
        methods = "GET, HEAD" if "models" in path else "POST"
        status, headers, body = await preflight(open_gateway, path)
        assert (status, body) == (204, b"")
        assert headers["access-control-allow-origin"] == allowed(open_gateway)
        assert headers["access-control-allow-methods"] == methods
        assert headers["vary"] == "Origin"
        assert int(headers["access-control-max-age"]) > 0
        names = headers["access-control-allow-headers"].split(", ")
        assert {*ASKED.split(","), "api-key"} <= set(names)
        assert "access-control-allow-credentials" not in headers
        record = await open_gateway.record(request_id=headers["x-request-id"])
        assert (record["status"], record["key_id"]) == (204, None)
        assert (record["path"], record["error_code"]) == (path.partition("?")[0], None)


async def test_a_preflight_of_odd_headers_allows_only_what_can_be_a_name(
    open_gateway: Gateway,
) -> None:
    odd = "x-fine, , x y, x\x7f, " + "y" * 65 + "," + ",".join(f"x-{at}" for at in range(200))
    status, headers, _ = await ask(
        open_gateway, "OPTIONS", GENERATIONS, origin=APP, access_control_request_headers=odd
    )
    assert status == 204
    names = headers["access-control-allow-headers"].split(", ")
    assert "x-fine" in names
    assert len(names) < 80
    assert all(name.isascii() and " " not in name and len(name) <= 64 for name in names)


async def test_every_answer_says_which_page_may_read_it(
    open_gateway: Gateway, plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_door(open_gateway, plane, upstream)
    openai_door = open_door(open_gateway, plane, upstream, "openai")
    stream = b'{"prompt": "a cat", "stream": true}'
    for scripted, one, body, status in (
        (None, door, b'{"prompt": "a cat"}', 200),
        (streams([completed()]), openai_door, stream, 200),
        (answers(400, {"error": {"message": "no"}}), door, b'{"prompt": "a cat"}', 400),
        (None, door, b"{", 400),
    ):
        upstream.script = scripted or upstream.script
        answer = await one.post(body, origin=APP)
        assert answer[0] == status
        check_open(open_gateway, answer[1])
    for path, status in (("/healthz", 200), ("/nowhere", 404), (GENERATIONS, 405)):
        answer = await ask(open_gateway, "GET", path, origin=APP)
        assert answer[0] == status
        check_open(open_gateway, answer[1])
    status, headers, _ = await ask(open_gateway, "POST", GENERATIONS, origin=APP)
    assert status == 401
    check_open(open_gateway, headers)
    assert (await open_gateway.record(request_id=headers["x-request-id"]))["status"] == 401


def check_open(gateway: Gateway, headers: dict[str, str]) -> None:
    assert headers["access-control-allow-origin"] == allowed(gateway)
    assert headers["vary"] == "Origin"
    exposed = headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-should-retry", "openai-processing-ms"} <= set(exposed)


@pytest.mark.parametrize("own", ["https://other.example.com", "*", APP])
async def test_an_answer_of_the_text_api_is_for_the_same_pages(
    make_gateway: MakeGateway, plane: Plane, upstream: ScriptedUpstream, own: str
) -> None:
    """Its preflight was answered here, so its own rules would only contradict that."""
    gateway = make_gateway(plane.reader_url, cors_origins=APP, text_api_url=upstream.root).start()
    door = make_door(gateway, plane, upstream)
    upstream.script = answers(
        200,
        {"id": "resp_1"},
        {
            "Access-Control-Allow-Origin": own,
            "access-control-allow-credentials": "true",
            "access-control-expose-headers": "x-of-text-api",
        },
    )
    for origin in (APP, "https://other.example.com"):
        raw = await gateway.raw(
            post(door.secret, b'{"model": "gpt-5"}', "/v1/responses", {"origin": origin})
        )
        head = raw.partition(b"\r\n\r\n")[0].lower()
        allowed = [line for line in head.split(b"\r\n") if b"-allow-origin:" in line]
        own_line = f"access-control-allow-origin: {APP}".encode()
        assert allowed == ([own_line] if origin == APP else [])
        assert b"vary: origin" in head
        assert b"allow-credentials" not in head
        assert b"access-control-expose-headers: x-of-text-api" in head
    assert gateway.stop() == 0
    assert [record["status"] for record in gateway.records()] == [200, 200]


async def test_another_origin_is_not_let_in(
    make_gateway: MakeGateway, plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, cors_origins=APP).start()
    door = make_door(gateway, plane, upstream)
    for origin in (
        "https://evil.example.com",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "HTTPS://APP.EXAMPLE.COM",
        "null",
        "*",
    ):
        status, headers, _ = await preflight(gateway, GENERATIONS, origin)
        assert status == 204
        assert "access-control-allow-origin" not in headers
        assert headers["vary"] == "Origin"
        status, headers, _ = await door.post(b'{"prompt": "a cat"}', origin=origin)
        # The answer itself is for any client with a key; only a browser keeps it from the page.
        assert (status, headers["vary"]) == (200, "Origin")
        assert "access-control-allow-origin" not in headers
        record = await gateway.record(request_id=headers["x-request-id"])
        assert record["status"] == 200
    assert gateway.stop() == 0


async def test_without_the_setting_no_page_may_call(door: Door) -> None:
    status, headers, body = await preflight(door.gateway, GENERATIONS)
    assert (status, headers["allow"]) == (405, "POST")
    check_error(body, "method_not_allowed")
    status, headers, _ = await door.post(b'{"prompt": "a cat"}', origin=APP)
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control-") or name == "vary"]
    assert (await door.record())["status"] == 200


# -- the models ------------------------------------------------------------------------------


async def test_a_client_lists_the_models_that_its_key_may_ask_for(make_account: MakeDoor) -> None:
    door = make_account("codex", key={"model_map": {"house": "gpt-image-2", "no": "gpt-5"}})
    async with door.client() as client:
        found = [model async for model in client.models.list()]
        assert [model.id for model in found] == ["house", "gpt-image-2"]
        assert {(model.object, model.owned_by) for model in found} == {("model", "image-gateway")}
        one = await client.models.retrieve("house")
        assert (one.id, one.object) == ("house", "model")
        with pytest.raises(openai.NotFoundError) as raised:
            await client.models.retrieve("gpt-5")
    assert raised.value.code == "model_not_found"
    assert "may ask for `house`, `gpt-image-2`." in raised.value.message
    record = await door.record(path="/v1/models")
    assert (record["status"], record["endpoint"], record["attempts"]) == (200, None, [])
    assert (await door.record(path="/v1/models/gpt-5"))["error_code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/v1/models", "/openai/models", "/openai/v1/models?x=1"])
async def test_the_models_are_listed_on_azure_s_paths_too(
    make_account: MakeDoor, path: str
) -> None:
    door = make_account("openai")
    status, headers, body = await ask(door.gateway, "GET", path, door.secret)
    assert (status, headers["content-type"]) == (200, "application/json")
    listed = json.loads(body)
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert {"gpt-image-2", "gpt-image-2.6-sunburst", "gpt-image-2.5-flare"} <= set(names)
    assert not {"gpt-image-1", "gpt-image-2.5"} & set(names)
    assert all(set(model) == {"id", "object", "created", "owned_by"} for model in listed["data"])
    assert all(type(model["created"]) is int for model in listed["data"])
    assert (await door.record())["status"] == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("gpt-image-2", 200),
        ("openai%2Fgpt-image-2", 200),
        ("gpt-image-9", 200),  # the catalogue is open
        ("gpt-5", 404),
        ("openai/gpt-image-2", 404),
        ("", 404),
    ],
)
async def test_one_model_is_found_by_any_name_it_may_be_asked_for_by(
    make_account: MakeDoor, name: str, status: int
) -> None:
    door = make_account("openai")
    answer = await ask(door.gateway, "GET", f"/v1/models/{name}", door.secret)
    assert answer[0] == status
    if status == 200:
        assert json.loads(answer[2])["id"] == name.replace("%2F", "/")
    found = await door.gateway.record(request_id=answer[1]["x-request-id"])
    assert found["status"] == status


@pytest.mark.parametrize("switch", ["group", "key", "account"])
async def test_what_is_switched_off_is_not_listed(
    make_account: MakeDoor, shared_plane: Plane, switch: str
) -> None:
    group = f"group off for {switch}"
    shared_plane.add_group(group, image_enabled=switch != "group")
    door = make_account(
        "openai",
        key={"group_id": group, "image_enabled": switch != "key"},
        image_enabled=switch != "account",
    )
    status, _, body = await ask(door.gateway, "GET", "/v1/models", door.secret)
    assert (status, json.loads(body)) == (200, {"object": "list", "data": []})
    assert (await door.record())["status"] == 200


async def test_the_list_needs_a_key_and_is_read_only(
    make_account: MakeDoor, shared_plane: Plane
) -> None:
    door = make_account("openai")
    for secret, code in ((None, "missing_api_key"), ("sk-unknown", "invalid_api_key")):
        status, headers, body = await ask(door.gateway, "GET", "/v1/models", secret)
        assert status == 401
        check_error(body, code)
        record = await door.gateway.record(request_id=headers["x-request-id"])
        assert record["error_code"] == code
    status, headers, body = await ask(door.gateway, "POST", "/v1/models", door.secret)
    assert (status, headers["allow"]) == (405, "GET")
    check_error(body, "method_not_allowed")
    status, headers, body = await ask(door.gateway, "HEAD", "/v1/models", door.secret)
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0
    assert (await door.record())["status"] == 200
    # A key without quota may still look; one that is off may not.
    shared_plane.update("keys", {"key_id": door.key_id}, quota_limit=0)
    assert (await ask(door.gateway, "GET", "/v1/models", door.secret))[0] == 200
    shared_plane.update("keys", {"key_id": door.key_id}, status="disabled")
    status, _, body = await ask(door.gateway, "GET", "/v1/models", door.secret)
    assert status == 403
    check_error(body, "key_disabled")
