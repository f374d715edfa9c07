"""The real Caddy in front of the real daemon: who gets which call, and how it arrives.

``Caddyfile.example`` itself is what runs here, but for its port and the address of its text API.
"""

import asyncio
import gzip
import hashlib
import json
import random
import re
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import openai
import pytest

from image_gateway import config
from image_gateway.exchange import routes
from tests.daemon.calls.parts import until_left
from tests.daemon.conftest import Door, open_door
from tests.daemon.test_refusals import PROMPT, Held, check_error, check_refused
from tests.parts import caddy, forms, node
from tests.parts.caddy import FOLDER, SITE, Caddy
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.forms import Piece
from tests.parts.gateway import Gateway, free_port, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import (
    PNG,
    Call,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    draws,
    frame,
    partial,
    streams,
)

pytestmark = pytest.mark.slow

EXAMPLE = FOLDER / "Caddyfile.example"
TEXT_ADDRESS = "127.0.0.1:8080"
"""Where the example's text API is."""

PATH = "/v1/images/generations"
EDIT = b'{"prompt": "a cat", "images": ["data:image/png;base64,iVBORw0KGgoAAAAA"]}'
TEXT = b'{"model": "gpt-5", "input": "caf\\u00e9 \\u003cb\\u003e \\u0027"}'
INTENT = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}]}'
NOBODY = "a key that only the text API knows"
MIB = 1024 * 1024
READ_BYTES = 1_000_000
"""Below this length Caddy looks into a body."""


class TextApi(ScriptedUpstream):
    """A text API on a port that is known before it listens."""

    def __init__(self, port: int) -> None:
        # A connection that Caddy kept would lead its next call to a test that is over.
        super().__init__(answers(200, b'{"id": "text"}', {"connection": "close"}))
        self._port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=2**20)
        return self


class Front:
    """One key's door, seen through Caddy."""

    def __init__(self, proxy: Caddy, door: Door, text_api: TextApi) -> None:
        self.proxy = proxy
        self.door = door
        self.text_api = text_api

    async def post(
        self, body: bytes, path: str = PATH, secret: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A POST through Caddy; status, headers and body of the answer."""
        named = {"connection": "close"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = post(secret or self.door.secret, body, path, named)
        return parse(await self.proxy.raw(request))

    async def goes_to_text(self, body: bytes, path: str, **headers: str) -> Call:
        """The call as it arrives at the text API, with a key that the gateway would refuse."""
        status, _, answer = await self.post(body, path, NOBODY, **headers)
        assert (status, answer) == (200, b'{"id": "text"}')
        [call] = self.text_api.calls
        return call


def example(text_port: int) -> str:
    """The example with a text API at this port."""
    text = EXAMPLE.read_text("utf-8")
    assert TEXT_ADDRESS in text
    return text.replace(TEXT_ADDRESS, f"127.0.0.1:{text_port}")


def site(*lines: str) -> str:
    """A Caddyfile with these lines in its site."""
    return "\n".join(["{", "}", f"{SITE} {{", *lines, "}", ""])


@pytest.fixture(scope="module")
def text_port() -> Iterator[int]:
    """A port that stays the module's: between the tests, while nobody listens, it is bound."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def served(
    shared_plane: Plane, text_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A daemon with a text API behind it."""
    made = Gateway(
        tmp_path_factory.mktemp("served"),
        shared_plane.reader_url,
        text_api_url=f"http://127.0.0.1:{text_port}",
    ).start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture(scope="module")
def proxy(
    served: Gateway, text_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Caddy]:
    """The example, in front of ``served``."""
    made = Caddy(
        tmp_path_factory.mktemp("caddy"),
        example(text_port),
        IMAGE_GATEWAY_ADDRESS=f"127.0.0.1:{served.port}",
    ).start()
    yield made
    made.stop()


@pytest.fixture
def make_proxy(tmp_path: Path) -> Iterator[Callable[..., Caddy]]:
    """A maker of one more Caddy, in front of a given gateway's port."""
    made: list[Caddy] = []

    def make(caddyfile: str, gateway_port: int) -> Caddy:
        address = f"127.0.0.1:{gateway_port}"
        made.append(Caddy(tmp_path, caddyfile, IMAGE_GATEWAY_ADDRESS=address).start())
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
async def text_api(text_port: int) -> AsyncIterator[TextApi]:
    async with TextApi(text_port) as made:
        yield made


@pytest.fixture
def make_front(
    proxy: Caddy,
    served: Gateway,
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    text_api: TextApi,
) -> Callable[[str], Front]:
    """A maker of keys for one account of a kind, behind the example."""
    return lambda kind: Front(proxy, open_door(served, shared_plane, upstream, kind), text_api)


@pytest.fixture
def front(make_front: Callable[[str], Front]) -> Front:
    """A key whose account draws what the Images paths ask for."""
    return make_front("codex")


@pytest.fixture
def talking(make_front: Callable[[str], Front], upstream: ScriptedUpstream) -> Front:
    """A key whose account draws what the Responses paths ask for."""
    upstream.script = streams(drawn())
    return make_front("codex-responses")


# -- the files themselves --------------------------------------------------------------------------


FILES = sorted([*FOLDER.glob("*.caddy"), EXAMPLE])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_formatted_as_caddy_does_it(path: Path, tmp_path: Path) -> None:
    assert caddy.run(tmp_path, "fmt", path).stdout == path.read_text("utf-8")


def test_the_example_is_valid_and_caddy_has_nothing_to_say_of_it(tmp_path: Path) -> None:
    done = caddy.run(tmp_path, "validate", "--adapter", "caddyfile", "--config", EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert '"level":"warn"' not in done.stderr


def test_the_example_uses_every_file() -> None:
    text = "".join(path.read_text("utf-8") for path in FILES)
    imported = set(re.findall(r"^\s*import (\S+)$", text, re.MULTILINE))
    assert imported == {path.name for path in FILES if path != EXAMPLE}


def test_the_page_tells_every_file_path_and_code() -> None:
    page = (FOLDER / "README.md").read_text("utf-8")
    errors = (FOLDER / "image-errors.caddy").read_text("utf-8")
    codes = re.findall(r'"code": "(\w+)"', errors)
    assert len(codes) == 2
    for name in (*(path.name for path in FILES), *routes.RESPONSES, *codes):
        assert f"`{name}`" in page


def handlers(found: Any, name: str) -> list[dict[str, Any]]:
    """Every handler of this name, wherever it is nested."""
    if isinstance(found, list):
        return [each for inner in found for each in handlers(inner, name)]
    if not isinstance(found, dict):
        return []
    own = [found] if found.get("handler") == name else []
    return own + [each for inner in found.values() for each in handlers(inner, name)]


def matched(found: Any, kind: str) -> list[Any]:
    """What every matcher of a kind looks for."""
    if isinstance(found, list):
        return [each for inner in found for each in matched(inner, kind)]
    if not isinstance(found, dict):
        return []
    own = [each[kind] for each in found.get("match", []) if kind in each]
    return own + [each for inner in found.values() for each in matched(inner, kind)]


def test_the_paths_are_the_gateway_s_own(tmp_path: Path) -> None:
    """Every prefix with all that lies below it, but for ``/images``, which may be a site's own."""
    wanted = {
        f"{prefix.replace('{deployment}', '%*')}/*"
        for prefix in routes.PREFIXES
        if prefix != "/images"
    }
    wanted |= {f"/images/{endpoint}" for endpoint in routes.ENDPOINTS}
    wanted |= {"/images/calls", "/images/calls/*"}
    wanted |= {f"{path}/resp_ig_*" for path in routes.RESPONSES}
    found = matched(caddy.adapt(tmp_path, EXAMPLE), "path")
    # One path to a handle, or Caddy would not put it before broader ones.
    assert sorted(found) == sorted([path] for path in wanted)


def test_the_responses_paths_are_the_gateway_s_own(tmp_path: Path) -> None:
    [expression] = matched(caddy.adapt(tmp_path, EXAMPLE), "expression")
    [paths] = re.findall(r"path\((.*?)\)", expression)
    known = [path.strip("' ") for path in paths.split(",")]
    assert known == [each for path in routes.RESPONSES for each in (path, f"{path}/")]


def test_every_way_to_the_gateway_is_the_same_and_leaves_it_time(tmp_path: Path) -> None:
    ways = [
        way
        for way in handlers(caddy.adapt(tmp_path, EXAMPLE), "reverse_proxy")
        if way["upstreams"] != [{"dial": TEXT_ADDRESS}]
    ]
    # /images is four, the intents are one, and each of their paths has ids below it.
    assert len(ways) == len(routes.PREFIXES) + 4 + len(routes.RESPONSES)
    [way] = {json.dumps(each, sort_keys=True): each for each in ways}.values()
    assert way["upstreams"] == [{"dial": dict(_defaults())["BIND"]}]
    assert set(way["load_balancing"]) == {"selection_policy"}  # and no retries
    assert "flush_interval" not in way
    transport = way["transport"]
    assert transport["keep_alive"] == {"enabled": False}
    longest = 630
    for name in ("response_header_timeout", "read_timeout", "write_timeout"):
        assert transport[name] / 1e9 >= longest
    assert transport["dial_timeout"] / 1e9 <= 10


def test_the_gateway_s_own_time_outs_come_before_the_example_s(tmp_path: Path) -> None:
    [server] = caddy.adapt(tmp_path, EXAMPLE)["apps"]["http"]["servers"].values()
    defaults = dict(_defaults())
    assert server["read_timeout"] / 1e9 > float(defaults["BODY_SECONDS"])
    assert "write_timeout" not in server


def _defaults() -> Iterator[tuple[str, str]]:
    for setting in config.SETTINGS:
        if setting.default is not None:
            yield setting.name, setting.default


# -- who gets it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", routes.ENDPOINTS)
@pytest.mark.parametrize("prefix", routes.PREFIXES)
async def test_every_image_path_reaches_the_gateway_as_it_was_sent(
    front: Front, upstream: ScriptedUpstream, prefix: str, endpoint: str
) -> None:
    path = f"{prefix}/{endpoint}".replace("{deployment}", "gpt%2Dimage-2")
    status, headers, _ = await front.post(
        EDIT if endpoint == "edits" else PROMPT, f"{path}?api-version=1"
    )
    assert status == 200
    assert len(upstream.calls) == 1
    assert front.text_api.calls == []
    record = await front.door.record()
    assert (record["path"], record["endpoint"], record["status"]) == (path, endpoint, 200)
    assert headers["x-request-id"] == record["request_id"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/images",
        "/v1/imagesx/generations",
        "/v1/images/../chat/completions",
        "/images",
        "/images/",
        "/images/logo.png",
        "/images/generations/",
        "/responses/compact",
        "/v1/responses/compact",
        "/backend-api/codex/responses/compact",
        "/v1/responses/resp_1",
        "/v1/re%2573ponses",
        "/openai/deployments/gpt-5/chat/completions",
        "/backend-api/codex/models",
        "/",
    ],
)
@pytest.mark.parametrize("body", [PROMPT, INTENT], ids=["prompt", "intent"])
async def test_every_other_path_reaches_the_text_api_as_it_was_sent(
    front: Front, path: str, body: bytes
) -> None:
    call = await front.goes_to_text(body, f"{path}?a=%2F")
    assert (call.target, call.body) == (f"{path}?a=%2F", body)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/variations",
        "/v1/images/generations/",
        "/v1/images/",
        "/V1/Images/Generations",
        "//v1/images/generations",
        "/v1//images/generations",
        "/v1/images%2fgenerations",
        "/v1/%69mages/generations",
        "/v1/chat/../images/generations",
        "/IMAGES/edits",
        "/openai/v1/images/x/y",
        "/openai/deployments/gpt-image-2/images/variations",
    ],
)
async def test_what_only_looks_like_an_image_path_is_refused_and_costs_nothing(
    front: Front, upstream: ScriptedUpstream, path: str
) -> None:
    await check_refused(front.door, await front.post(PROMPT, path), 404, "unknown_path")
    assert upstream.calls == front.text_api.calls == []


async def test_other_methods_on_image_paths_are_the_gateway_s_to_refuse(front: Front) -> None:
    request = post(front.door.secret, b"", PATH, {"connection": "close"})
    answer = parse(await front.proxy.raw(request.replace(b"POST", b"GET", 1)))
    await check_refused(front.door, answer, 405, "method_not_allowed")
    assert answer[1]["allow"] == "POST"


async def test_an_upgrade_on_an_image_path_is_refused(
    front: Front, upstream: ScriptedUpstream
) -> None:
    answer = await front.post(PROMPT, connection="upgrade, close", upgrade="websocket")
    await check_refused(front.door, answer, 426, "upgrade_required")
    assert upstream.calls == front.text_api.calls == []


BROADER = {
    "handle": ["handle /v1/* {", "{text}", "}"],
    "a longer handle": ["handle /v1/responses* {", "{text}", "}", "handle {", "{text}", "}"],
    "several paths": ["@text path /v1/* /v2/*", "handle @text {", "{text}", "}"],
    "handle_path": ["handle_path /v1/* {", "rewrite * /v1{uri}", "{text}", "}"],
    "route": ["route /v1/* {", "{text}", "}"],
    "reverse_proxy": ["{text}"],
}


@pytest.mark.parametrize("broader", BROADER.values(), ids=list(BROADER))
async def test_an_import_ahead_goes_before_broader_matchers(
    make_proxy: Callable[..., Caddy],
    served: Gateway,
    front: Front,
    text_port: int,
    broader: list[str],
) -> None:
    lines = [line.replace("{text}", f"reverse_proxy 127.0.0.1:{text_port}") for line in broader]
    imports = ["import image-gateway.caddy", "import image-intents.caddy"]
    front.proxy = make_proxy(site(*imports, *lines), served.port)
    await check_who_gets_what(front)


async def test_image_paths_go_before_a_broader_handle_that_was_written_first(
    make_proxy: Callable[..., Caddy], served: Gateway, front: Front, text_port: int
) -> None:
    lines = [f"handle /v1/* {{\nreverse_proxy 127.0.0.1:{text_port}\n}}"]
    front.proxy = make_proxy(site(*lines, "import image-gateway.caddy"), served.port)
    assert (await front.post(PROMPT))[0] == 200
    assert (await front.door.record())["status"] == 200
    await front.goes_to_text(INTENT, "/v1/responses")


async def test_below_a_path_of_its_own_the_gateway_gets_addresses_alone(
    make_proxy: Callable[..., Caddy], served: Gateway, front: Front, text_port: int
) -> None:
    page = (FOLDER / "README.md").read_text("utf-8")
    lines = page[page.index("    handle /pictures/") :].partition("\n\n")[0].splitlines()
    others = ["handle {", f"reverse_proxy 127.0.0.1:{text_port}", "}"]
    front.proxy = make_proxy(site(*lines, *others), served.port)
    address = post(NOBODY, b"", "/pictures/v1/images/files/x.png", {"connection": "close"})
    status, _, body = parse(await front.proxy.raw(address.replace(b"POST", b"GET", 1)))
    assert status == 404
    check_error(body, "picture_not_found")
    for path in ("/pictures/v1/responses", "/pictures/v1/images/generations"):
        front.text_api.calls.clear()
        await front.goes_to_text(INTENT, path)


async def check_who_gets_what(front: Front) -> None:
    """Images and intents reach the gateway, which refuses the key; text reaches the text API."""
    for path, body in ((PATH, PROMPT), ("/v1/responses", INTENT)):
        answer = await front.post(body, path, NOBODY)
        await check_refused(front.door, answer, 401, "invalid_api_key")
    await front.goes_to_text(TEXT, "/v1/responses")


# -- intents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "image_generation"}]},
        {"tool_choice": "image_generation"},
        {"tool_choice": {"type": "function", "name": "image_generation"}},
        {"model": "gpt-image-2"},
        {"model": " Vendor/GPT-Image-2 "},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", routes.RESPONSES)
async def test_every_intent_reaches_the_gateway(
    talking: Front, upstream: ScriptedUpstream, path: str, fields: dict[str, Any]
) -> None:
    body = json.dumps({"model": "gpt-5", "input": "a cat", **fields}).encode()
    await talking.post(body, path)
    record = await talking.door.record()
    assert (record["endpoint"], record["path"]) == ("responses", path)
    # Text would be handed on.
    assert talking.text_api.calls == []
    assert record["request_bytes"] == len(body)


@pytest.mark.parametrize(
    "written",
    [
        rb'"image\u005fgeneration"',
        rb'"image\u005Fgeneration"',
        rb'"\u0069mage_generation"',
        rb'"image_generatio\u006e"',
    ],
)
async def test_an_intent_in_escapes_is_served_by_the_gateway(
    talking: Front, upstream: ScriptedUpstream, written: bytes
) -> None:
    status, _, _ = await talking.post(
        INTENT.replace(b'"image_generation"', written), "/v1/responses"
    )
    assert status == 200
    assert len(upstream.calls) == 1
    assert talking.text_api.calls == []
    assert (await talking.door.record())["response_image_count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model" :\n"vendor\\/gpt-image-2", "input": "a cat"}',
        rb'{"model":"\"/gpt-image-2","input":"a cat"}',
        b'{"input": "a cat", "model": "gpt-5", "model": "GPT-IMAGE-1"}',
        b'{"Model": "gpt-image-2", "input": "a cat"}',
    ],
)
async def test_an_image_model_is_seen_however_it_is_written(talking: Front, body: bytes) -> None:
    await talking.post(body, "/v1/responses")
    assert talking.text_api.calls == []
    assert (await talking.door.record())["request_bytes"] == len(body)


async def test_whatever_letter_of_an_intent_is_escaped_the_gateway_gets_it(talking: Front) -> None:
    """In upper and lower case, by its one pattern."""
    expression = (FOLDER / "image-intents.caddy").read_text("utf-8")
    [pattern] = re.findall(r"body\.matches\('(\\\\.*?)'\)", expression)
    pattern = pattern.replace("\\\\\\\\", "\\\\")  # as the expression's own string has it
    for letter in "imagegenerationgpt-_IMAGEGENERATIONGPT":
        for code in (f"{ord(letter):04x}", f"{ord(letter):04X}"):
            assert re.search(pattern, rf'"\u{code}"')
    # What encoders write on their own.
    for code in ("0000", "001f", "0022", "0026", "0027", "002b", "003c", "003e", "005c", "0060"):
        assert not re.search(pattern, rf'"\u{code}"')
    for code in ("007f", "00e9", "2028", "4e2d", "d83d"):
        assert not re.search(pattern, rf'"\u{code}"')


@pytest.mark.parametrize("path", routes.RESPONSES)
async def test_text_on_the_responses_paths_goes_past_the_gateway(front: Front, path: str) -> None:
    call = await front.goes_to_text(TEXT, path)
    assert (call.target, call.body) == (path, TEXT)


async def test_text_that_only_looks_like_an_intent_reaches_the_text_api_by_the_gateway(
    front: Front,
) -> None:
    body = b'{"model": "gpt-5", "input": "what does image_generation do?"}'
    status, _, answer = await front.post(body, "/v1/responses?a=b")
    assert (status, answer) == (200, b'{"id": "text"}')
    [call] = front.text_api.calls
    assert (call.target, call.body) == ("/v1/responses?a=b", body)
    assert call.headers["authorization"] == f"Bearer {front.door.secret}"
    assert (await front.door.record())["status"] == 200


def padded(size: int) -> bytes:
    """Text of so many bytes."""
    head, tail = b'{"model": "gpt-5", "input": "', b'"}'
    return head + random.Random(0).randbytes(size).hex().encode()[: size - len(head + tail)] + tail


async def test_a_body_that_is_read_arrives_whole(front: Front) -> None:
    body = padded(READ_BYTES - 1)
    assert (await front.goes_to_text(body, "/v1/responses")).body == body


async def test_half_a_body_is_never_passed_as_a_whole_one(front: Front) -> None:
    reader, writer = await front.proxy.connect()
    writer.write(post(NOBODY, TEXT, "/v1/responses", {"connection": "close"})[:-10])
    writer.write_eof()
    await rest_of(reader)
    writer.close()
    assert front.text_api.calls == []


async def test_a_longer_body_goes_to_the_gateway_unread(front: Front) -> None:
    body = padded(READ_BYTES)
    answer = await front.post(body, "/v1/responses", NOBODY)
    await check_refused(front.door, answer, 401, "invalid_api_key")
    status, _, _ = await front.post(body, "/v1/responses")
    assert status == 200
    [call] = front.text_api.calls
    assert call.body == body
    assert (await front.door.record())["request_bytes"] == len(body)


async def test_a_body_of_unknown_length_goes_to_the_gateway_unread(front: Front) -> None:
    request = post(front.door.secret, b"", "/v1/responses", {"connection": "close"}).replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(TEXT), TEXT)
    status, _, _ = parse(await front.proxy.raw(request + chunks))
    assert status == 200
    [call] = front.text_api.calls
    assert call.body == TEXT
    assert (await front.door.record())["status"] == 200


HIDDEN: list[tuple[bytes, str, dict[str, str]]] = [
    (INTENT, "//v1/responses", {}),
    (INTENT, "/v1/%72esponses", {}),
    (INTENT, "/v1%2Fresponses", {}),
    (INTENT, "/V1/Responses/", {}),
    (INTENT, "/openai/../v1/./responses", {}),
    (gzip.compress(INTENT), "/v1/responses", {"content_encoding": "gzip"}),
    (zlib.compress(INTENT), "/v1/responses", {"content_encoding": "Deflate"}),
    (INTENT, "/v1/responses", {"content_encoding": "br"}),
    (INTENT.decode().encode("utf-16"), "/v1/responses", {}),
    (INTENT.decode().encode("utf-16-be"), "/v1/responses", {}),
    (INTENT.decode().encode("utf-32"), "/v1/responses", {}),
    (
        INTENT.replace(b"image", b"+AGk-mage"),
        "/v1/responses",
        {"content_type": "application/json; charset=utf-7"},
    ),
    (
        INTENT.decode().encode("cp037"),
        "/v1/responses",
        {"content_type": "application/json;charset=ibm037; charset=utf-8"},
    ),
]


@pytest.mark.parametrize(("body", "path", "headers"), HIDDEN, ids=range(len(HIDDEN)))
async def test_no_form_of_an_intent_passes_the_gateway_unseen(
    front: Front, body: bytes, path: str, headers: dict[str, str]
) -> None:
    """The key has no pictures: whatever the gateway makes of it, nothing reaches the text API."""
    front.door.plane.update("keys", {"key_id": front.door.key_id}, image_enabled=False)
    status, answer_headers, _ = await front.post(body, path, **headers)
    assert status in {400, 403, 415}
    assert front.text_api.calls == []
    record = await front.door.gateway.record(request_id=answer_headers["x-request-id"])
    assert (record["path"], record["status"]) == (path, status)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_encoding": "identity"},
        {"content_type": "application/json; charset=UTF-8"},
        {"content_type": 'application/json;charset="utf-8"'},
    ],
    ids=str,
)
async def test_plain_text_goes_past_the_gateway_whatever_its_headers_say_of_that(
    front: Front, headers: dict[str, str]
) -> None:
    call = await front.goes_to_text(TEXT, "/v1/responses", **headers)
    assert call.body == TEXT


async def test_a_websocket_is_the_text_api_s(front: Front) -> None:
    request = (
        b"GET /v1/responses HTTP/1.1\r\nhost: gateway\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    front.text_api.script = lambda call: call.send(
        b"HTTP/1.1 101 Whatever\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
    )
    answer = await front.proxy.raw(request)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\n\r\nhello")
    [call] = front.text_api.calls
    assert (call.method, call.headers["upgrade"]) == ("GET", "websocket")


# -- how it arrives --------------------------------------------------------------------------------


async def test_forwarded_headers_are_caddy_s_not_the_client_s(front: Front) -> None:
    claimed = {
        "x_forwarded_for": "203.0.113.9, 127.0.0.1",
        "x_forwarded_proto": "https",
        "x_forwarded_host": "elsewhere.example.com",
        "x_real_ip": "203.0.113.9",
        "forwarded": "for=203.0.113.9",
    }
    # Text that goes by the gateway arrives with the headers that Caddy gave it.
    body = b'{"model": "gpt-5", "input": "image_generation"}'
    await front.post(body, "/v1/responses", **claimed)
    [call] = front.text_api.calls
    found = {name: call.headers.get(name.replace("_", "-")) for name in claimed}
    assert found == {
        "x_forwarded_for": "127.0.0.1",
        "x_forwarded_proto": "http",
        "x_forwarded_host": "gateway",
        "x_real_ip": None,
        "forwarded": None,
    }
    assert (await front.door.record())["client_address"] == "127.0.0.1"


async def test_the_client_s_address_in_the_record_is_the_one_that_caddy_saw(
    front: Front,
) -> None:
    request = post(
        front.door.secret, PROMPT, PATH, {"connection": "close", "x-forwarded-for": "203.0.113.9"}
    )
    # Any address of the loopback net is this machine's.
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.proxy.port, local_addr=("127.0.0.7", 0)
    )
    writer.write(request)
    assert parse(await rest_of(reader))[0] == 200
    writer.close()
    # The gateway believes its trusted proxy 127.0.0.1, and skips 127.0.0.7, which is trusted too.
    record = await front.door.record()
    assert record["client_address"] == "127.0.0.7"


async def test_two_large_pictures_pass_unchanged_and_caddy_holds_neither(
    make_front: Callable[[str], Front], upstream: ScriptedUpstream
) -> None:
    front = make_front("azure-v1")
    pictures = [PNG + random.Random(seed).randbytes(30_000_000) for seed in (1, 2)]
    body = forms.body(
        ("prompt", "a cat"),
        ("model", "gpt-image-2"),
        *(Piece("image[]", data, "a.png", "image/png") for data in pictures),
    )
    before = front.proxy.forget_peak()
    status, _, _ = await front.post(body, "/v1/images/edits", content_type=forms.FORM)
    assert status == 200
    [call] = upstream.calls
    arrived = [piece.data for piece in forms.pieces(call) if piece.name == "image[]"]
    assert [digest(data) for data in arrived] == [digest(data) for data in pictures]
    record = await front.door.record()
    assert (record["request_bytes"], record["input_image_count"]) == (len(body), 2)
    assert front.proxy.peak() - before < 20 * MIB


async def test_a_long_call_of_the_responses_api_is_not_held_by_caddy(front: Front) -> None:
    body = padded(30_000_000)
    before = front.proxy.forget_peak()
    assert (await front.post(body, "/v1/responses"))[0] == 200
    [call] = front.text_api.calls
    assert digest(call.body) == digest(body)
    assert (await front.door.record())["request_bytes"] == len(body)
    assert front.proxy.peak() - before < 20 * MIB


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_who_reads_while_it_sends_too_large_a_body_gets_the_gateway_s_own_refusal(
    front: Front, upstream: ScriptedUpstream
) -> None:
    reader, writer = await front.proxy.connect()
    writer.write(post(front.door.secret, bytes(80 * MIB), headers={"connection": "close"}))
    answer = parse(await rest_of(reader))
    writer.transport.abort()
    await check_refused(front.door, answer, 413, "request_too_large")
    assert upstream.calls == []


TOO_EARLY = pytest.mark.parametrize(
    ("secret", "size", "status", "code"),
    [(None, 80_000_000, 413, "request_too_large"), (NOBODY, 20_000_000, 401, "invalid_api_key")],
    ids=["too large", "a bad key"],
)
"""Refusals that are known before a large body has come; without a secret it is the door's own."""


@TOO_EARLY
async def test_the_python_sdk_is_told_why_its_large_picture_is_refused(
    front: Front, secret: str | None, size: int, status: int, code: str
) -> None:
    async with front.proxy.client(secret or front.door.secret) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            await client.images.edit(image=PNG + bytes(size), prompt="a cat")
    answer = raised.value.response
    await check_refused(
        front.door, (answer.status_code, dict(answer.headers), answer.content), status, code
    )
    assert raised.value.code == code


@TOO_EARLY
async def test_the_node_sdk_is_told_why_its_large_picture_is_refused(
    front: Front, tmp_path: Path, secret: str | None, size: int, status: int, code: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG + bytes(size))
    picture = {"path": str(path), "by": "buffer", "name": path.name, "type": "image/png"}
    said = await node.run(
        "calls.mjs",
        {
            "client": {
                "apiKey": secret or front.door.secret,
                "baseURL": f"http://127.0.0.1:{front.proxy.port}/v1",
                "maxRetries": 0,
            },
            "calls": [
                {"method": "edit", "parameters": {"prompt": "a cat", "image": {"file": picture}}}
            ],
        },
    )
    [error] = [call["error"] for call in said["calls"]]
    assert (error["status"], error["code"]) == (status, code)
    record = await front.door.gateway.record(request_id=error["requestID"])
    assert (record["status"], record["error_code"]) == (status, code)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize("size", [200_000, 20_000_000])
async def test_who_sends_slowly_and_then_reads_is_told_why_it_is_refused(
    front: Front, size: int, connection: str
) -> None:
    reader, writer = await front.proxy.connect()
    whole = post(NOBODY, bytes(size), headers={"connection": connection})
    step = len(whole) // 10
    for start in range(0, len(whole), step):
        writer.write(whole[start : start + step])
        await writer.drain()
        await asyncio.sleep(0.1)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND_SECONDS)
    length = int(parse(head)[1]["content-length"])
    answer = head + await asyncio.wait_for(reader.readexactly(length), BOUND_SECONDS)
    writer.close()
    await check_refused(front.door, parse(answer), 401, "invalid_api_key")


async def test_events_pass_one_by_one(
    make_front: Callable[[str], Front], upstream: ScriptedUpstream
) -> None:
    front = make_front("openai")
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(partial()))
        await asyncio.wait_for(seen.wait(), 10)
        await call.send(frame(completed()))

    upstream.script = script
    kinds = []
    async with front.proxy.client(front.door.secret) as client:
        events = await client.images.generate(
            model="gpt-image-2", prompt="a cat", stream=True, partial_images=1
        )
        async for event in events:
            kinds.append(event.type)
            seen.set()
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    record = await front.door.record()
    assert (record["stream"], record["response_image_count"]) == (True, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["waiting", "in a stream"])
async def test_a_client_that_leaves_is_gone_for_the_gateway_too(
    make_front: Callable[[str], Front], upstream: ScriptedUpstream, *, stream: bool
) -> None:
    """The call goes on: its record tells that nobody was there, and what it used."""
    front = make_front("openai")
    begun, left = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        if stream:
            await call.head(200, {"content-type": "text/event-stream"})
            await call.send(frame(partial()))
        begun.set()
        await left.wait()
        if stream:
            await call.send(frame(completed()))
        else:
            await draws(call)

    upstream.script = script
    reader, writer = await front.proxy.connect()
    body = {"prompt": "a cat", "stream": stream, **({"partial_images": 1} if stream else {})}
    writer.write(post(front.door.secret, json.dumps(body).encode()))
    await asyncio.wait_for(begun.wait(), 10)
    if stream:
        await reader.readuntil(b"partial_image")
    writer.close()

    await until_left(front.door.gateway)
    left.set()
    record = await front.door.record()
    assert record["client_left"]
    assert record["may_be_billed"]
    assert record["response_image_count"] == 1


async def test_a_client_that_leaves_within_its_body_is_gone_for_the_gateway_too(
    front: Front, upstream: ScriptedUpstream
) -> None:
    _, writer = await front.proxy.connect()
    request = post(front.door.secret, PROMPT + b" " * 100_000)
    writer.write(request[:50_000])
    await writer.drain()
    writer.close()
    record = await front.door.record(path=PATH, status=None)
    assert record["client_left"]
    assert upstream.calls == []


# -- when the gateway is away ----------------------------------------------------------------------


@pytest.fixture
def own(
    make_proxy: Callable[..., Caddy],
    make_gateway: Callable[..., Gateway],
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    text_port: int,
) -> Front:
    """A key on a gateway of its own that was not started, behind the example."""
    gateway = make_gateway(shared_plane.reader_url)
    # Errors that a site answers itself are told at this level only.
    made = make_proxy(example(text_port).replace("{\n", "{\n\tdebug\n", 1), gateway.port)
    return Front(made, open_door(gateway, shared_plane, upstream, "codex"), text_api)


async def test_while_the_gateway_is_away_clients_are_told_to_come_again_and_text_goes_on(
    own: Front, upstream: ScriptedUpstream
) -> None:
    for path in (PATH, "/v1/responses"):
        status, headers, body = await own.post(INTENT, path)
        assert status == 502
        check_error(body, "image_gateway_unreachable")
        assert headers["content-type"] == "application/json"
        assert headers["retry-after"] == "2"
        assert "x-should-retry" not in headers
    await own.goes_to_text(TEXT, "/v1/responses")

    await asyncio.to_thread(own.door.gateway.start)
    assert (await own.post(PROMPT))[0] == 200
    assert (await own.door.record())["status"] == 200
    assert len(upstream.calls) == 1


async def test_the_sdk_s_own_retries_bridge_a_restart_and_buy_one_picture(
    own: Front, upstream: ScriptedUpstream
) -> None:
    async with own.proxy.client(own.door.secret, max_retries=10) as client:
        running = asyncio.create_task(client.images.generate(model="gpt-image-2", prompt="a cat"))
        await eventually(lambda: "connection refused" in own.proxy.words())
        await asyncio.to_thread(own.door.gateway.start)
        assert (await running).data
    assert len(upstream.calls) == 1
    assert (await own.door.record())["status"] == 200


async def test_a_call_whose_gateway_dies_is_not_sent_again_by_anyone(
    own: Front, upstream: ScriptedUpstream
) -> None:
    await asyncio.to_thread(own.door.gateway.start)
    upstream.script = held = Held()
    async with own.proxy.client(own.door.secret, max_retries=5) as client:
        running = asyncio.create_task(client.images.generate(model="gpt-image-2", prompt="a cat"))
        await asyncio.wait_for(held.arrived.acquire(), 10)
        # Whoever asks again now would get a picture.
        upstream.script = draws
        own.door.gateway.kill()
        await asyncio.to_thread(own.door.gateway.start)
        with pytest.raises(openai.InternalServerError) as raised:
            await running
    assert raised.value.status_code == 502
    check_error(raised.value.response.content, "outcome_unknown")
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert raised.value.response.headers["content-type"] == "application/json"
    assert len(upstream.calls) == 1
    # The gateway is well again, and warns once of the call that it lost.
    assert [(await own.post(PROMPT))[0] for _ in range(2)] == [400, 200]
    assert (await own.door.record(status=200))["call_source"] == "made"


async def test_errors_of_others_are_left_to_the_site(
    make_proxy: Callable[..., Caddy], served: Gateway
) -> None:
    nobody = free_port()
    lines = [
        "import image-gateway.caddy",
        f"reverse_proxy 127.0.0.1:{nobody}",
        "handle_errors {",
        "import image-errors.caddy",
        'respond "the site says {http.error.status_code}"',
        "}",
    ]
    made = make_proxy(site(*lines), nobody)
    close = {"connection": "close"}
    status, _, body = parse(await made.raw(post(NOBODY, PROMPT, "/v1/chat/completions", close)))
    assert (status, body) == (502, b"the site says 502")
    status, _, body = parse(await made.raw(post(NOBODY, PROMPT, PATH, close)))
    assert status == 502
    check_error(body, "image_gateway_unreachable")


async def test_without_the_errors_file_only_the_shape_is_lost(
    make_proxy: Callable[..., Caddy],
) -> None:
    made = make_proxy(site("import image-gateway.caddy"), free_port())
    status, _, body = parse(await made.raw(post(NOBODY, PROMPT, PATH, {"connection": "close"})))
    assert (status, body) == (502, b"")
