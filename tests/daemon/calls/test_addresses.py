"""With PUBLIC_URL set, pictures have addresses: who has one can read its picture for a while."""

import asyncio
import base64
import contextlib
import json
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from image_gateway.core.calls import names
from image_gateway.core.calls.names import CallSecrets
from image_gateway.edge.kept.entry import KeptEntry
from image_gateway.edge.kept.store import KeptCalls
from tests.daemon.calls.parts import asking, hold
from tests.daemon.conftest import KINDS, Door, make_door, open_door
from tests.parts.browser import tab
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import (
    PNG,
    Call,
    Script,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    images,
    streams,
)

ASK = {"prompt": "a cat", "response_format": "url"}
CAT = json.dumps(ASK).encode()
TWO_CATS = json.dumps({**ASK, "n": 2}).encode()
NAME = {"Idempotency_Key": "order-1"}
APP = "https://app.example.com"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


def public(gateway: Gateway) -> Gateway:
    """A daemon whose addresses lead to itself."""
    gateway.settings["PUBLIC_URL"] = f"http://127.0.0.1:{gateway.port}"
    return gateway


@pytest.fixture(scope="module")
def gateway(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon that gives addresses, for the tests that need no other."""
    folder = tmp_path_factory.mktemp("addresses")
    made = public(Gateway(folder, shared_plane.reader_url, cors_origins=APP)).start()
    yield made
    assert made.stop() == 0


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def varied(number: int, size: int = 64) -> bytes:
    """A PNG unlike those of other numbers, of which no two places are alike."""
    words = range(number * 1_000_003, number * 1_000_003 + size // 4)
    return PNG + b"".join(word.to_bytes(4, "big") for word in words)


def holding(*pictures: bytes) -> dict[str, Any]:
    """An Images answer with these pictures."""
    data = [{"b64_json": base64.b64encode(each).decode()} for each in pictures]
    return {**images(1), "data": data}


async def addresses_of(door: Door, body: bytes = CAT, **headers: str) -> list[str]:
    """The addresses in the answer to a call."""
    status, _, answer = await door.post(body, **headers)
    assert status == 200, answer
    return urls_of(answer)


def urls_of(answer: bytes) -> list[str]:
    return [entry["url"] for entry in json.loads(answer)["data"]]


async def fetched(
    http: aiohttp.ClientSession, url: str, method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """A request without a key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.request(method, url, headers=named) as answer:
        return answer.status, answer.headers, await answer.read()


async def picture_requests(gateway: Gateway, status: int) -> int:
    """How many requests to addresses were answered so."""
    text = (await gateway.ops("/metrics"))[2].decode()
    line = f'image_gateway_picture_requests_total{{status="{status}"}} '
    [count] = [each for each in text.splitlines() if each.startswith(line)]
    return int(float(count.removeprefix(line)))


# -- each way in which a picture is made -----------------------------------------------------------


def drawing(number: int) -> Script:
    """An upstream that makes one picture, in the form of its answer that it is asked for."""
    data = base64.b64encode(varied(number, 9000)).decode()
    turn = drawn()
    turn[-2]["item"]["result"] = data

    async def script(call: Call) -> None:
        if call.target.endswith("/responses"):
            await streams(turn)(call)
        else:
            await call.answer(200, {**images(1), "data": [{"b64_json": data}]})

    return script


@pytest.mark.parametrize("kind", KINDS)
async def test_the_sdk_gets_an_address_from_every_kind_of_account(
    gateway: Gateway,
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    http: aiohttp.ClientSession,
    kind: str,
) -> None:
    door = open_door(gateway, shared_plane, upstream, kind)
    upstream.script = drawing(1)
    async with door.client() as client:
        made = await client.images.generate(
            model="gpt-image-2", prompt="a cat", response_format="url"
        )
    [item] = made.data or []
    assert item.b64_json is None
    assert item.url is not None
    assert item.url.startswith(f"http://127.0.0.1:{gateway.port}/v1/images/files/")
    assert item.url.endswith(".png")
    status, headers, body = await fetched(http, item.url)
    assert (status, headers["content-type"], body) == (200, "image/png", varied(1, 9000))
    record = await door.record()
    assert (record["status"], record["response_image_count"]) == (200, 1)


@pytest.mark.parametrize("size", [64, 100_000, 3_000_000], ids=str)
async def test_each_of_several_pictures_has_its_own_address(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession, size: int
) -> None:
    pictures = [varied(number, size + number) for number in range(2)]
    upstream.script = answers(200, holding(*pictures))
    urls = await addresses_of(door, TWO_CATS)
    assert len(set(urls)) == 2
    assert [(await fetched(http, url))[2] for url in urls] == pictures


async def test_pictures_of_several_calls_to_an_account_have_addresses(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    door = open_door(gateway, shared_plane, upstream, "codex-responses")
    numbers = iter(range(2))

    async def script(call: Call) -> None:
        await drawing(next(numbers))(call)

    upstream.script = script
    urls = await addresses_of(door, TWO_CATS)
    found = {(await fetched(http, url))[2] for url in urls}
    assert found == {varied(0, 9000), varied(1, 9000)}


async def test_events_in_place_of_an_answer_have_addresses(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    data = base64.b64encode(varied(5, 9000)).decode()
    upstream.script = streams([{**completed(), "b64_json": data}])
    [url] = await addresses_of(door)
    assert (await fetched(http, url))[2] == varied(5, 9000)


async def test_an_address_of_the_upstream_s_own_stays(
    door: Door, upstream: ScriptedUpstream
) -> None:
    theirs = "https://example.com/a.png"
    made = holding(PNG)
    made["data"].append({"url": theirs})
    upstream.script = answers(200, made)
    urls = await addresses_of(door, TWO_CATS)
    assert urls[1] == theirs
    assert "/v1/images/files/" in urls[0]


@pytest.mark.parametrize(
    ("picture", "extension", "kind", "shown"),
    [
        (PNG, "png", "image/png", "inline"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "jpg", "image/jpeg", "inline"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp", "image/webp", "inline"),
        (b"GIF89a\1\0", "gif", "image/gif", "inline"),
        (SVG, "svg", "image/svg+xml", "attachment"),
        (b"<html>hello", "bin", "application/octet-stream", "attachment"),
    ],
    ids=["png", "jpg", "webp", "gif", "svg", "unknown"],
)
async def test_a_picture_is_called_what_its_bytes_are(
    door: Door, upstream: ScriptedUpstream, picture: bytes, extension: str, kind: str, shown: str
) -> None:
    """The answer may name another format; nothing that is no picture is shown by a browser."""
    upstream.script = answers(200, {**holding(picture), "output_format": "png"})
    [url] = await addresses_of(door)
    assert url.endswith(f".{extension}")
    async with aiohttp.ClientSession() as http:
        status, headers, body = await fetched(http, url)
    assert (status, body) == (200, picture)
    assert headers["content-type"] == kind
    assert headers["content-disposition"] == f"{shown}; filename=image-1"


# -- reading one -----------------------------------------------------------------------------------


@pytest.fixture
async def url(door: Door, upstream: ScriptedUpstream) -> str:
    """The address of ``varied(0, 300_000)``."""
    upstream.script = answers(200, holding(varied(0, 300_000)))
    [made] = await addresses_of(door)
    return made


async def test_an_answer_says_how_the_picture_may_be_used(
    url: str, http: aiohttp.ClientSession
) -> None:
    _, headers, body = await fetched(http, url)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["accept-ranges"] == "bytes"
    assert int(headers["content-length"]) == len(body)
    scope, age = headers["cache-control"].split(", max-age=")
    assert scope == "private"
    assert 3500 <= int(age) <= 3601
    assert headers["etag"][0] == headers["etag"][-1] == '"'
    assert headers["etag"].strip('"') not in url


async def test_head_has_the_headers_of_get_and_no_body(
    url: str, http: aiohttp.ClientSession
) -> None:
    _, got, _ = await fetched(http, url)
    status, headers, body = await fetched(http, url, "HEAD", range="bytes=0-3")
    assert (status, body) == (200, b"")
    varies = {"x-request-id", "date", "cache-control"}
    assert {n: v for n, v in headers.items() if n.lower() not in varies} == {
        n: v for n, v in got.items() if n.lower() not in varies
    }


async def test_what_a_client_has_is_not_sent_again(url: str, http: aiohttp.ClientSession) -> None:
    etag = (await fetched(http, url))[1]["etag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        status, headers, body = await fetched(http, url, if_none_match=known, range="bytes=0-3")
        assert (status, headers["etag"], body) == (304, etag, b"")
        assert headers["cache-control"].startswith("private, max-age=")
    assert (await fetched(http, url, if_none_match='"x"'))[0] == 200


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


PIXEL = (
    PNG[:8]
    + chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
    + chunk(b"IDAT", zlib.compress(b"\0\0"))
    + chunk(b"IEND", b"")
)
"""A real picture, one pixel wide."""
LENGTH = len(varied(0, 300_000))


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1-100", 1, 101),
        ("bytes=199999-299999", 199_999, 300_000),
        (f"bytes={LENGTH - 1}-", LENGTH - 1, LENGTH),
        ("bytes=-7", LENGTH - 7, LENGTH),
        ("bytes=5-99999999", 5, LENGTH),
    ],
)
async def test_one_range_is_served(
    url: str, http: aiohttp.ClientSession, wanted: str, start: int, stop: int
) -> None:
    status, headers, body = await fetched(http, url, range=wanted)
    assert (status, body) == (206, varied(0, 300_000)[start:stop])
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{LENGTH}"
    assert int(headers["content-length"]) == stop - start
    etag = headers["etag"]
    assert (await fetched(http, url, range=wanted, if_range=etag))[0] == 206
    assert (await fetched(http, url, range=wanted, if_range='"x"'))[0] == 200


async def test_a_range_behind_the_end_is_refused(url: str, http: aiohttp.ClientSession) -> None:
    status, headers, body = await fetched(http, url, range=f"bytes={LENGTH}-")
    assert (status, body) == (416, b"")
    assert headers["content-range"] == f"bytes */{LENGTH}"


async def test_other_methods_are_refused_and_options_answered(
    url: str, http: aiohttp.ClientSession
) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, headers, body = await fetched(http, url, method)
        assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert json.loads(body)["error"]["code"] == "method_not_allowed"
    status, headers, body = await fetched(
        http,
        url,
        "OPTIONS",
        origin=APP,
        access_control_request_method="GET",
        access_control_request_headers="range",
    )
    assert (status, headers["allow"], body) == (204, "GET, HEAD, OPTIONS", b"")
    assert headers["access-control-allow-origin"] == APP
    assert headers["access-control-allow-methods"] == "GET, HEAD"
    assert "range" in headers["access-control-allow-headers"].split(", ")


async def test_pages_of_the_allowed_origins_alone_may_read_the_bytes(
    url: str, http: aiohttp.ClientSession
) -> None:
    _, headers, _ = await fetched(http, url, origin=APP)
    assert headers["access-control-allow-origin"] == APP
    assert {"etag", "content-range"} <= set(headers["access-control-expose-headers"].split(", "))
    _, headers, _ = await fetched(http, url, origin="https://other.example.com")
    assert "access-control-allow-origin" not in headers


@contextlib.asynccontextmanager
async def page_server(page: str) -> AsyncIterator[str]:
    """A web server with one page, on a site other than the gateway's; gives its origin."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(page)}\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((head + page).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}/"


async def test_a_page_of_another_origin_shows_the_picture(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Without CORS: an image needs none."""
    vector = b"<svg xmlns='http://www.w3.org/2000/svg' width='3' height='3'/>"
    upstream.script = answers(200, holding(PIXEL, vector))
    urls = await addresses_of(door, TWO_CATS)
    page = "<title>app</title>" + "".join(f"<img src='{url}'>" for url in urls)
    async with page_server(page) as origin, tab(origin) as found:
        widths = await found.page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert found.complaints == []
    assert widths == [1, 3]


async def test_reading_leaves_nothing_open(
    url: str, http: aiohttp.ClientSession, gateway: Gateway
) -> None:
    def open_pictures() -> bool:
        return any("/calls/answers/" in path for path in gateway.files())

    for wanted in ("bytes=0-9", "bytes=9999999-", "", "bytes=100-200000"):
        await fetched(http, url, range=wanted)
    for _ in range(5):  # clients that leave before they have read anything
        reader, writer = await gateway.connect()
        writer.write(f"GET {urlsplit(url).path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await reader.readexactly(12)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await eventually(lambda: not open_pictures())
    assert (await fetched(http, url))[0] == 200


# -- addresses that lead nowhere -------------------------------------------------------------------


async def test_all_wrong_addresses_get_the_same_answer(
    url: str, http: aiohttp.ClientSession, gateway: Gateway
) -> None:
    root, name = url.rsplit("/", 1)
    token = name.removesuffix(".png")
    other = "B" if token[30] == "A" else "A"
    wrong = [
        f"{root}/{token[:30]}{other}{token[31:]}.png",
        f"{root}/{token}.jpg",
        f"{root}/{token}",
        f"{root}/{'A' * 52}.png",
        f"{root}/x",
        f"{root}/",
        f"{url}/",
        f"{root}/../files//{name}",
    ]
    found = set()
    for each in wrong:
        reader, writer = await gateway.connect()
        writer.write(f"GET {each.removeprefix(root[: root.index('/v1')])} HTTP/1.1\r\n".encode())
        writer.write(b"host: x\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 404"), (each, head)
        assert b"cache-control: no-store" in head
        found.add(body)
    [answer] = found
    error = json.loads(answer)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "picture_not_found"
    assert (await fetched(http, url, "HEAD"))[0] == 200
    status, _, body = await fetched(http, f"{root}/{token}.jpg", "HEAD")
    assert (status, body) == (404, b"")


async def test_requests_to_addresses_are_counted_and_leave_no_trace(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession, gateway: Gateway
) -> None:
    """Whoever reads the log, the metrics or the status could read the picture otherwise."""
    upstream.script = answers(200, holding(PNG))
    [url] = await addresses_of(door)
    await door.record()
    path, name = urlsplit(url).path, url.rsplit("/", 1)[1]
    token = name.partition(".")[0]
    before = [await picture_requests(gateway, status) for status in (200, 206, 304, 404)]
    await fetched(http, url)
    await fetched(http, url, range="bytes=0-1")
    await fetched(http, url, if_none_match="*")
    await fetched(http, f"{url}x")
    for method, target in (
        ("POST", path),
        ("BREW", path),
        ("OPTIONS", path),
        ("GET", f"/{path}"),
        ("GET", f"{path}/"),
        ("GET", path.replace("images", "%69mages")),
        ("GET", f"/openai{path}"),
        ("GET", f"/v1/images/{name}"),
        ("GET", f"{url}?a={token}"),
    ):
        await gateway.raw(f"{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await gateway.raw(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n".encode()
    )
    now = [await picture_requests(gateway, status) for status in (200, 206, 304, 404)]
    assert [a - b for a, b in zip(now, before, strict=True)] == [2, 1, 1, 2]
    await gateway.record(path="/openai/v1/images/files/...")  # the last that leaves a record
    await gateway.record(path="/v1/images/...")
    pages = [(await gateway.ops(page))[2] for page in ("/status", "/status.json", "/metrics")]
    written = [json.dumps(gateway.records()), gateway.words(), *map(bytes.decode, pages)]
    for text in written:
        for at in range(len(token) - 12):
            assert token[at : at + 12] not in text


# -- how long, and where ---------------------------------------------------------------------------


async def test_a_retry_gets_the_same_addresses(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    upstream.script = answers(200, holding(varied(1), varied(2)))
    first = await door.post(TWO_CATS, **NAME)
    again = await door.post(TWO_CATS, **NAME)
    assert again[1]["x-call-source"] == "replayed"
    assert again[2] == first[2]
    assert int(again[1]["content-length"]) == len(first[2])
    assert [(await fetched(http, url))[2] for url in urls_of(again[2])] == [varied(1), varied(2)]
    assert len(upstream.calls) == 1


async def test_a_call_without_its_client_has_addresses_for_the_next_one(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    held = hold(upstream, answers(200, holding(varied(3))))
    async with asking(door, CAT):
        await asyncio.wait_for(held.begun.wait(), 20)
    held.go.set()
    status, headers, answer = await door.post(CAT)
    assert (status, headers["x-call-source"]) == (200, "taken-over")
    [url] = urls_of(answer)
    assert (await fetched(http, url))[2] == varied(3)
    assert len(upstream.calls) == 1


async def test_an_address_ends_with_what_is_kept(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    gateway = public(make_gateway(plane.reader_url, keep_seconds=3)).start()
    began = time.time()
    [url] = await addresses_of(make_door(gateway, plane, upstream))
    _, headers, _ = await fetched(http, url)
    assert int(headers["cache-control"].removeprefix("private, max-age=")) <= 3

    async def ended() -> bool:
        return (await fetched(http, url))[0] == 404

    await eventually(ended)
    assert time.time() - began >= 3
    never = await fetched(http, url.replace(".png", ".gif"))
    assert (await fetched(http, url))[2] == never[2]
    assert gateway.stop() == 0


@pytest.fixture
def pair(plane: Plane, make_gateway: Any, tmp_path: Path) -> tuple[Gateway, Gateway]:
    """Two daemons of one machine, behind one public URL: that of the first."""
    state = str(tmp_path / "state")
    blue = public(make_gateway(plane.reader_url, state_dir=state))
    green = make_gateway(plane.reader_url, state_dir=state, public_url=blue.settings["PUBLIC_URL"])
    return blue.start(), green.start()


async def test_every_process_of_the_machine_serves_an_address(
    pair: tuple[Gateway, Gateway],
    plane: Plane,
    upstream: ScriptedUpstream,
    http: aiohttp.ClientSession,
) -> None:
    """At once, and after the process that made the picture was killed or has started again."""
    blue, green = pair
    door = make_door(blue, plane, upstream)

    def at(gateway: Gateway, url: str) -> str:
        return f"http://127.0.0.1:{gateway.port}{urlsplit(url).path}"

    for number in range(5):
        upstream.script = answers(200, holding(varied(number)))
        body = json.dumps({**ASK, "prompt": f"cat {number}"}).encode()
        [url] = await addresses_of(door, body)
        assert (await fetched(http, at(green, url)))[2] == varied(number)
        assert (await fetched(http, at(blue, url)))[2] == varied(number)
    blue.kill()
    assert (await fetched(http, at(green, url)))[2] == varied(4)
    assert green.stop() == 0
    blue.start()
    assert (await fetched(http, url))[2] == varied(4)
    assert blue.stop() == 0


async def test_a_key_that_is_switched_off_leaves_its_addresses(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    """Whoever has an address needs no key, so the end of the key does not matter."""
    upstream.script = answers(200, holding(varied(6)))
    [url] = await addresses_of(door)
    door.plane.update("keys", {"key_id": door.key_id}, status="disabled")
    assert (await door.post(CAT))[0] == 403
    assert (await fetched(http, url))[2] == varied(6)


@contextlib.asynccontextmanager
async def kept_calls(door: Door) -> AsyncIterator[list[KeptEntry]]:
    """The calls of a key, as another process of the machine sees them."""
    state = Path(door.gateway.settings["STATE_DIR"])
    secrets = CallSecrets.of((state / "prompt-hash-key").read_bytes().strip())
    async with KeptCalls(state / "calls", 3600, 1 << 30, time.time) as kept:
        yield await kept.of_key(names.key_tag(secrets, door.key_id), 10)


async def test_to_forget_a_call_ends_its_addresses_at_once(
    door: Door, upstream: ScriptedUpstream, http: aiohttp.ClientSession
) -> None:
    upstream.script = answers(200, holding(varied(1), varied(2)))
    urls = await addresses_of(door, TWO_CATS)
    async with kept_calls(door) as entries:
        [entry] = entries
        assert await entry.forget()
        assert [(await fetched(http, url))[0] for url in urls] == [404, 404]


# -- where there can be no address -----------------------------------------------------------------


async def test_a_call_that_is_forgotten_while_it_runs_has_data_urls(
    door: Door, upstream: ScriptedUpstream
) -> None:
    held = hold(upstream, answers(200, holding(PNG)))
    posted = asyncio.create_task(door.post(CAT))
    await asyncio.wait_for(held.begun.wait(), 20)
    async with kept_calls(door) as entries:
        [entry] = entries
        assert await entry.forget()
    held.go.set()
    status, _, answer = await posted
    data = base64.b64encode(PNG).decode()
    assert (status, urls_of(answer)) == (200, [f"data:image/png;base64,{data}"])


async def test_a_picture_that_cannot_be_kept_goes_out_as_a_data_url(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = public(make_gateway(plane.reader_url)).start()
    door = make_door(gateway, plane, upstream)
    folder = Path(gateway.settings["STATE_DIR"]) / "calls" / "answers"
    folder.rmdir()
    folder.write_bytes(b"")  # a file: nothing can be made below it
    upstream.script = answers(200, holding(PNG))
    data = base64.b64encode(PNG).decode()
    assert await addresses_of(door) == [f"data:image/png;base64,{data}"]
    assert "kept calls" in gateway.words()
    folder.unlink()
    assert gateway.stop() == 0


@pytest.mark.parametrize("text", ["!" * 64, ""], ids=["no base64", "empty"])
async def test_what_is_no_picture_is_passed_on_as_before(
    door: Door, upstream: ScriptedUpstream, text: str
) -> None:
    made = holding(PNG)
    made["data"].insert(0, {"b64_json": text})
    upstream.script = answers(200, made)
    urls = await addresses_of(door, TWO_CATS)
    assert urls[0] == f"data:image/png;base64,{text}"
    assert "/v1/images/files/" in urls[1]
