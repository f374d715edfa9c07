"""The Responses paths: text goes on to the text API untouched, a picture is made here."""

import asyncio
import contextlib
import gzip
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self

import openai
import pytest

from image_gateway.core.codec import json_scanner
from image_gateway.demo import postgres
from tests.daemon.conftest import Door, MakeDoor, frames_of, open_door
from tests.daemon.test_refusals import check_error, check_refused
from tests.edge.server import Server
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, free_port, parse, post, rest_of
from tests.parts.plane import Plane
from tests.parts.upstream import (
    Call,
    Script,
    ScriptedUpstream,
    answers,
    drawn,
    frame,
    images,
    picture,
    streams,
)

PATHS = (
    "/v1/responses",
    "/responses",
    "/backend-api/codex/responses",
    "/openai/v1/responses",
    "/openai/responses",
)
PATH = PATHS[0]
TOOL: Any = {"type": "image_generation"}
TEXT = b' {\n"model" : "gpt-5",\t"input":"caf\xc3\xa9 \\u00e9 1.50", "temperature":1.50} \r\n'
INTENT = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}]}'
STREAM = b'{"model":"gpt-5","input":"a cat","tools":[{"type":"image_generation"}],"stream":true}'
BEYOND = b"[" * (json_scanner.TEXT.depth + 1)
MIB = 1024 * 1024

CREATED, DRAWING, ITEM, COMPLETED = drawn()


class TextApi(ScriptedUpstream):
    """A text API on a port that is known before it listens; keeps the heads as they came."""

    def __init__(self, port: int) -> None:
        super().__init__(answers(200, b'{"id": "resp_text"}', {"x-request-id": "req-of-text"}))
        self._port = port
        self.heads: list[list[tuple[bytes, bytes]]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=2**20)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            head = [(name.lower(), value.strip(b" ")) for name, _, value in map(_field, lines)]
            self.heads.append(head)
            named = {name.decode(): value.decode("latin-1") for name, value in head}
            body = await reader.readexactly(int(named["content-length"]))
            method, target, _ = first.decode().split(" ")
            call = Call(method, target, named, body, reader, writer)
            self.calls.append(call)
            await self.script(call)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open_connections -= 1
            self._tasks.discard(task)


def _field(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


@pytest.fixture(scope="module")
def text_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(
    shared_plane: Plane, text_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A daemon with a text API behind it, in which nobody waits for a slot."""
    made = Gateway(
        tmp_path_factory.mktemp("served"),
        shared_plane.reader_url,
        text_api_url=f"http://127.0.0.1:{text_port}",
        slot_wait_seconds=0,
    ).start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
async def text_api(text_port: int) -> AsyncIterator[TextApi]:
    """The text API behind ``served``."""
    async with TextApi(text_port) as made:
        yield made


@pytest.fixture
def make(served: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> MakeDoor:
    """A maker of keys for one account with a Responses route, on the daemon with a text API."""
    upstream.script = streams(drawn())

    def made(**options: Any) -> Door:
        return open_door(served, shared_plane, upstream, "codex-responses", **options)

    return made


@pytest.fixture
def door(make: MakeDoor) -> Door:
    return make()


@pytest.fixture
async def other(upstream: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """The upstream of a second account."""
    async with ScriptedUpstream(streams(drawn())) as made:
        yield made


def with_second(door: Door, other: ScriptedUpstream, strategy: str = "fixed") -> str:
    """A second account for the key, at another upstream; gives its name."""
    second = f"{door.account}-b"
    door.plane.add_account(
        second, other.url, responses_model="gpt-main", credential={"access_token": "token-2"}
    )
    door.plane.update(
        "keys",
        {"key_id": door.key_id},
        account_names=[door.account, second],
        route_strategy=strategy,
    )
    return second


async def ask(door: Door, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return await door.post(body, PATH, **headers)


async def bounded(waiting: Awaitable[bytes]) -> bytes:
    return await asyncio.wait_for(waiting, 20)


# -- paths and methods -----------------------------------------------------------------------------


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


# -- text goes on untouched ------------------------------------------------------------------------


def request_of(
    door: Door, fields: list[tuple[bytes, bytes]], body: bytes, target: bytes = PATH.encode()
) -> bytes:
    """The bytes of one POST with headers of one's own."""
    head = [(b"Authorization", b"Bearer " + door.secret.encode()), *fields]
    lines = [b"POST %b HTTP/1.1" % target, *(b"%b: %b" % pair for pair in head), b"", b""]
    return b"\r\n".join(lines) + body


def lower(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return sorted((name.lower(), value) for name, value in fields)


FIELDS = [
    (b"Host", b"api.example:8443"),
    (b"Content-Type", b"application/json; charset=utf-8"),
    (b"User-Agent", b"somebody/1.0 (of; old)"),
    (b"Accept", b"text/event-stream, application/json;q=0.5"),
    (b"Accept-Encoding", b"gzip, br"),
    (b"Cookie", b"a=1; b=2"),
    (b"Cookie", b"c=3"),
    (b"X-Twice", b"one"),
    (b"x-twice", b"two"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Forwarded-For", b"203.0.113.7"),
    (b"OpenAI-Beta", b"responses=v1"),
    (b"session_id", b"s-1"),
    (b"Traceparent", b"00-1-2-01"),
    (b"X-Empty", b""),
    (b"api-key", b"whatever"),
]


async def test_target_headers_and_body_arrive_as_they_were_sent(
    door: Door, text_api: TextApi
) -> None:
    target = PATH.encode() + b"?a=%7e%2F&b=c+d&a=&%C3%A9=1&x={}|^&e=a%20b"
    length = (b"Content-Length", b"%d" % len(TEXT))
    status, _, _ = parse(await door.gateway.raw(request_of(door, [*FIELDS, length], TEXT, target)))
    assert status == 200
    [call], [head] = text_api.calls, text_api.heads
    assert (call.method, call.target.encode(), call.body) == ("POST", target, TEXT)
    signed = (b"authorization", b"Bearer " + door.secret.encode())
    came = [pair for pair in head if pair[0] != b"connection"]
    assert sorted(came) == lower([*FIELDS, length, signed])
    record = await door.record()
    assert (record["path"], record["client_address"]) == (PATH, "203.0.113.7")


async def test_of_a_target_that_is_a_whole_url_the_path_and_query_go_on(
    door: Door, text_api: TextApi
) -> None:
    length = (b"Content-Length", b"%d" % len(TEXT))
    target = b"http://api.example/v1/responses?a=b"
    request = request_of(door, [(b"Host", b"api.example"), length], TEXT, target)
    assert parse(await door.gateway.raw(request))[0] == 200
    assert (text_api.calls[0].target, text_api.calls[0].body) == (f"{PATH}?a=b", TEXT)
    record = await door.record()
    assert (record["path"], record["upstream_path"]) == (PATH, PATH)


async def test_a_header_in_utf_8_arrives_as_it_was_sent(door: Door, text_api: TextApi) -> None:
    odd = (b"X-Name", b"caf\xc3\xa9")
    length = (b"Content-Length", b"%d" % len(TEXT))
    request = request_of(door, [(b"Host", b"h"), odd, length], TEXT)
    assert parse(await door.gateway.raw(request))[0] == 200
    assert dict(text_api.heads[0])[b"x-name"] == odd[1]
    assert (await door.record())["status"] == 200


async def test_headers_of_the_connection_alone_stay_here(door: Door, text_api: TextApi) -> None:
    own = [
        (b"Host", b"h"),
        # Nobody takes away like this what a proxy has said of him.
        (b"Connection", b"keep-alive, X-Hop, X-Forwarded-For, Authorization"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"Keep-Alive", b"timeout=5"),
        (b"X-Hop", b"mine"),
        (b"TE", b"trailers"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Expect", b"100-continue"),
        (b"X-Stays", b"yes"),
        (b"Content-Length", b"%d" % len(TEXT)),
    ]
    answer = await door.gateway.raw(request_of(door, own, TEXT))
    assert b"HTTP/1.1 200" in answer
    names = {name for name, _ in text_api.heads[0]} - {b"connection"}
    assert names == {b"host", b"authorization", b"x-forwarded-for", b"x-stays", b"content-length"}
    assert (await door.record())["status"] == 200


async def test_a_body_in_chunks_arrives_whole_and_with_its_length(
    door: Door, text_api: TextApi
) -> None:
    pieces = [TEXT[at : at + 7] for at in range(0, len(TEXT), 7)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    fields = [(b"Host", b"h"), (b"Transfer-Encoding", b"chunked")]
    assert parse(await door.gateway.raw(request_of(door, fields, chunked)))[0] == 200
    assert text_api.calls[0].body == TEXT
    assert text_api.calls[0].headers["content-length"] == str(len(TEXT))
    assert "transfer-encoding" not in text_api.calls[0].headers
    assert (await door.record())["request_bytes"] == len(TEXT)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"model":"gpt-5"',
        b'{"model":"gpt-5","input":"\xff"}',
        b"[]",
        b"null",
        b'{"model":7}',
        b'{"tools":"image_generation"}',
        b'{"model":"gpt-5","top_p":NaN,"x":[-Infinity,1e5,true,false,null]}',
        b"it's",
        b"[" * 600,
        json.dumps({"model": "gpt-5", "input": "x" * 3_000_000}).encode(),
        b'{"model":"gpt-5","input":[' + b'{"a":[1,2]},' * 40_000 + b"0]}",
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_whatever_asks_for_no_picture_is_the_text_api_s_to_judge(
    door: Door, text_api: TextApi, body: bytes
) -> None:
    assert (await ask(door, body))[0] == 200
    assert text_api.calls[0].body == body
    assert (await door.record())["request_bytes"] == len(body)


@pytest.mark.parametrize(
    "body",
    [
        INTENT.decode().encode("utf-16"),
        INTENT.decode().encode("utf-16-be"),
        INTENT.decode().encode("utf-32"),
        b'{"\xff":0,' + INTENT[1:],
        INTENT + b"}",
        INTENT.replace(b'"', b"'"),
        b"\xef\xbb\xbf" + INTENT.replace(b'"', b"'"),
        b'{model:"gpt-5",tools:[{type:"image_generation"}]}',
        b"/* */" + INTENT.replace(b'"', b"'"),
        b'{"model":"gpt-5",/*"*/tools:[{type:"image_generation"}]}',
    ],
    ids=[
        "UTF-16",
        "UTF-16 without a mark",
        "UTF-32",
        "a name in other bytes",
        "a brace too many",
        "single quotes",
        "single quotes behind a mark",
        "names without quotes",
        "a comment ahead",
        "a comment within",
    ],
)
async def test_what_cannot_be_read_here_is_shown_to_nobody_who_might_read_it(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, body: bytes
) -> None:
    door = make(key={"image_enabled": False})
    await check_refused(door, await ask(door, body), 400, "invalid_body")
    assert upstream.calls == text_api.calls == []


@pytest.mark.parametrize(
    "charset",
    [
        "utf-7",
        "UTF-16",
        '"ibm037"',
        "utf-8; charset=utf-7",
        "utf-8; charset*=utf-8''utf-7",
        "utf-8; charset*0=utf-7",
        "utf-8; charset*0*=us-ascii''utf-7",
        "utf-8\r\ncontent-type: application/json; charset=utf-7",
        "",
        "unicode-1-1-utf-7",
        "hz-gb-2312",
    ],
)
async def test_a_charset_in_which_a_picture_could_hide_is_refused(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, charset: str
) -> None:
    door = make(key={"image_enabled": False})
    hidden = INTENT.replace(b"image", b"+AGk-mage")
    answer = await ask(door, hidden, content_type=f"application/json; charset={charset}")
    await check_refused(door, answer, 415, "unsupported_media_type")
    assert upstream.calls == text_api.calls == []


@pytest.mark.parametrize("charset", ["utf-8", '"UTF8"', "us-ascii", "ISO-8859-1"])
async def test_a_charset_that_writes_ascii_as_ascii_is_read(
    door: Door, text_api: TextApi, charset: str
) -> None:
    content_type = f"application/json; charset={charset}"
    assert (await ask(door, TEXT, content_type=content_type))[0] == 200
    assert text_api.calls[0].headers["content-type"] == content_type
    assert (await door.record())["status"] == 200


async def test_an_answer_comes_back_as_it_was_given(door: Door, text_api: TextApi) -> None:
    body = b'{ "id":"resp_text" ,\n "x": 1.50 }'
    given = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", b"req-of-text"),
        (b"server", b"text/1.0"),
        (b"date", b"Sat, 21 Nov 2026 10:00:00 GMT"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2; Path=/"),
        (b"openai-processing-ms", b"17"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-name", b"caf\xe9"),
        (b"cache-control", b"no-store"),
    ]

    async def script(call: Call) -> None:
        lines = [b"HTTP/1.1 201 Made", *(b"%b: %b" % pair for pair in given)]
        await call.send(b"\r\n".join([*lines, b"Keep-Alive: timeout=5", b"", b""]) + body)

    text_api.script = script
    answer = await door.gateway.raw(post(door.secret, TEXT, PATH))
    head, _, got = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert (first.split(b" ")[1], got) == (b"201", body)
    fields = [(name, value.strip(b" ")) for name, _, value in map(_field, lines)]
    came = [pair for pair in fields if pair[0].lower() not in {b"connection", b"date"}]
    assert lower(came) == lower([pair for pair in given if pair[0] != b"date"])
    record = await door.record()
    assert (record["status"], record["response_bytes"]) == (201, len(body))


async def test_an_answer_s_date_is_the_text_api_s_and_no_other(
    door: Door, text_api: TextApi
) -> None:
    """A date has one value (RFC 9110, 6.6.1)."""
    given = "Sat, 21 Nov 2026 10:00:00 GMT"
    text_api.script = answers(200, b"{}", {"date": given})
    answer = await door.gateway.raw(post(door.secret, TEXT, PATH))
    lines = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert [line for line in lines if line.startswith(b"date:")] == [
        f"date: {given}".lower().encode()
    ]
    assert (await door.record())["status"] == 200


async def test_an_answer_without_a_request_id_gets_none_of_ours(
    door: Door, text_api: TextApi
) -> None:
    text_api.script = answers(200, b"{}")
    status, headers, _ = await ask(door, TEXT)
    assert (status, "x-request-id" in headers) == (200, False)
    assert (await door.record())["status"] == 200


async def test_a_compressed_answer_is_not_unpacked(door: Door, text_api: TextApi) -> None:
    packed = gzip.compress(b'{"id": "resp_text"}')
    text_api.script = answers(200, packed, {"content-encoding": "gzip"})
    status, headers, body = await ask(door, TEXT, accept_encoding="gzip")
    assert (status, headers["content-encoding"], body) == (200, "gzip", packed)
    assert (await door.record())["response_bytes"] == len(packed)


@pytest.mark.parametrize(
    ("status", "body", "fields"),
    [
        (400, b'{"error":{"message":"no"}}', {}),
        (401, b'{"error":{"code":"invalid_api_key"}}', {"www-authenticate": "Bearer"}),
        (429, b'{"error":{}}', {"retry-after": "7", "x-should-retry": "false"}),
        (302, b"", {"location": "/elsewhere"}),
        (500, b"<html>no</html>", {"content-type": "text/html"}),
        (503, b"", {}),
    ],
)
async def test_an_error_of_the_text_api_is_passed_as_it_is(
    door: Door, text_api: TextApi, status: int, body: bytes, fields: dict[str, str]
) -> None:
    text_api.script = answers(status, body, fields)
    got, headers, answer = await ask(door, TEXT)
    assert (got, answer) == (status, body)
    assert fields.items() <= headers.items()
    assert len(text_api.calls) == 1
    record = await door.record()
    assert (record["status"], record["attempts"]) == (status, [])


async def test_an_answer_without_a_body_has_none(door: Door, text_api: TextApi) -> None:
    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 204 None\r\nx-request-id: r\r\n\r\n")

    text_api.script = script
    status, _, body = await ask(door, TEXT)
    assert (status, body) == (204, b"")
    assert (await door.record())["status"] == 204


async def test_a_stream_of_the_text_api_passes_chunk_by_chunk(
    door: Door, text_api: TextApi
) -> None:
    gate = asyncio.Semaphore(0)
    parts = [b"event: response.created\nda", b'ta: {"x": 1.50}\r\n\r\n', b": odd\n\n", b"no end"]

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream; charset=utf-8"})
        for part in parts:
            await call.send(part)
            await gate.acquire()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, TEXT.replace(b"1.50}", b'1,"stream":true}'), PATH))
    head = await bounded(reader.readuntil(b"\r\n\r\n"))
    assert b"content-type: text/event-stream; charset=utf-8" in head
    for part in parts:
        # The next part is not there before this one has come.
        assert await bounded(reader.readuntil(part)) == b"%x\r\n%b" % (len(part), part)
        assert await bounded(reader.readexactly(2)) == b"\r\n"
        gate.release()
    assert await bounded(reader.read()) == b"0\r\n\r\n"
    writer.close()
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, None)
    assert record["response_bytes"] == sum(map(len, parts))


# -- whose key it is -------------------------------------------------------------------------------

SWITCHED_OFF: dict[str, tuple[dict[str, Any], int, str]] = {
    "key": ({"image_enabled": False}, 403, "key_image_generation_disabled"),
    "group": ({"group_id": "texters"}, 403, "group_image_generation_disabled"),
    "disabled": ({"status": "disabled"}, 403, "key_disabled"),
    "another provider's": ({"status": "other_provider"}, 403, "key_disabled"),
    "quota": ({"quota_limit": 1, "quota_used": 1}, 429, "insufficient_quota"),
}


@pytest.fixture(scope="module", autouse=True)
def texters(shared_plane: Plane) -> None:
    shared_plane.add_group("texters", image_enabled=False)


@pytest.mark.parametrize("why", SWITCHED_OFF)
async def test_a_key_that_may_make_no_pictures_goes_on_with_text(
    make: MakeDoor, text_api: TextApi, why: str
) -> None:
    door = make(key=SWITCHED_OFF[why][0])
    assert (await ask(door, TEXT))[0] == 200
    assert len(text_api.calls) == 1
    assert (await door.record())["error_code"] is None


@pytest.mark.parametrize("body", [INTENT, STREAM, b'{"model":"gpt-image-2","input":"a"}'])
@pytest.mark.parametrize("why", SWITCHED_OFF)
async def test_an_intent_of_a_key_that_may_make_no_pictures_is_refused_before_any_account(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, why: str, body: bytes
) -> None:
    key, status, code = SWITCHED_OFF[why]
    door = make(key=key)
    answer = await ask(door, body)
    await check_refused(door, answer, status, code)
    if status == 403:
        assert json.loads(answer[2])["error"]["type"] == "permission_error"
    assert upstream.calls == text_api.calls == []
    assert (await door.record())["account_name"] is None


@pytest.mark.parametrize("body", [TEXT, INTENT], ids=["text", "intent"])
@pytest.mark.parametrize(
    ("secret", "code"), [(None, "missing_api_key"), ("sk-nobody", "invalid_api_key")]
)
async def test_without_a_known_key_nothing_goes_on(
    door: Door,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    secret: str | None,
    code: str,
    body: bytes,
) -> None:
    answer = parse(await door.gateway.raw(post(secret, body, PATH)))
    await check_refused(door, answer, 401, code)
    assert upstream.calls == text_api.calls == []


class Drawing:
    """A script that holds its calls until they are let go, and then draws."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        self.arrived.release()
        await self.let_go.wait()
        await streams(drawn())(call)


async def test_a_key_with_all_of_its_image_calls_in_flight_goes_on_with_text(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(key={"max_concurrency": 1})
    upstream.script = held = Drawing()
    first = asyncio.create_task(ask(door, INTENT))
    await asyncio.wait_for(held.arrived.acquire(), 10)
    assert (await ask(door, TEXT))[0] == 200
    second = await ask(door, INTENT)
    await check_refused(door, second, 429, "key_concurrency")
    held.let_go.set()
    assert (await first)[0] == 200
    assert (await ask(door, INTENT))[0] == 200
    assert (len(upstream.calls), len(text_api.calls)) == (2, 1)


async def test_text_holds_no_place_of_the_key_and_no_slot(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(key={"max_concurrency": 1}, image_max_concurrency=1)
    gate = asyncio.Event()

    async def script(call: Call) -> None:
        await gate.wait()
        await call.answer(200, b"{}")

    text_api.script = script
    running = [asyncio.create_task(ask(door, TEXT)) for _ in range(3)]
    await eventually(lambda: len(text_api.calls) == 3)
    assert (await ask(door, INTENT))[0] == 200
    gate.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 3
    await eventually(lambda: len(_records(door)) == 4)


def _records(door: Door) -> list[dict[str, Any]]:
    return [record for record in door.gateway.records() if record["key_id"] == door.key_id]


async def test_while_postgres_is_away_text_of_an_unknown_key_goes_on_and_an_intent_waits(
    make_gateway: Callable[..., Gateway],
    text_api: TextApi,
    text_port: int,
    upstream: ScriptedUpstream,
) -> None:
    upstream.script = streams(drawn())
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(
            plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", grant_ttl_seconds=0.2
        )
        # Before the start, or a late notification of them could come after the last reading.
        door = open_door(gateway, plane, upstream, "codex-responses")
        gateway.start()
        assert (await ask(door, INTENT))[0] == 200
        server.kill()
        stranger = Door(gateway, plane, "none", "sk-stranger", "none")
        assert (await ask(stranger, TEXT))[0] == 200
        assert (await gateway.record(error_code=None, key_id=None))["model"] == "gpt-5"
        answer = await ask(stranger, INTENT)
        await check_refused(stranger, answer, 503, "control_plane_unavailable")
        assert int(answer[1]["retry-after"]) > 0
        assert (await ask(door, INTENT))[0] == (await ask(door, TEXT))[0] == 200
        nobody = parse(await gateway.raw(post(None, TEXT, PATH)))
        await check_refused(door, nobody, 401, "missing_api_key")
        assert (len(text_api.calls), len(upstream.calls)) == (2, 2)
        assert gateway.stop() == 0


# -- no text API, or one that fails ----------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_text_api_text_is_misdirected(
    make_account: MakeDoor, upstream: ScriptedUpstream, path: str
) -> None:
    door = make_account("codex-responses")
    answer = await door.post(TEXT, path)
    await check_refused(door, answer, 421, "not_an_image_request")
    error = json.loads(answer[2])["error"]
    assert error["type"] == "invalid_request_error"
    for word in ("gpt-image-*", "image_generation", "tool_choice", "text API"):
        assert word in error["message"]
    assert upstream.calls == []
    assert (await door.record())["endpoint"] == "responses"


async def test_without_a_text_api_an_intent_is_served_all_the_same(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    upstream.script = streams(drawn())
    door = make_account("codex-responses")
    assert (await ask(door, INTENT))[0] == 200
    assert (await door.record())["response_image_count"] == 1


async def test_a_body_in_its_own_encoding_is_read(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    assert (await ask(door, INTENT, content_encoding="Identity"))[0] == 200
    assert (len(upstream.calls), text_api.calls) == (1, [])


async def test_a_text_api_that_is_away_is_a_502(door: Door, upstream: ScriptedUpstream) -> None:
    answer = await ask(door, TEXT)
    await check_refused(door, answer, 502, "upstream_unreachable")
    assert int(answer[1]["retry-after"]) > 0
    assert upstream.calls == []
    assert (await door.record())["error_source"] == "upstream"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"no HTTP at all\r\n\r\n"])
async def test_a_text_api_that_breaks_off_before_its_answer_is_a_502(
    door: Door, text_api: TextApi, sent: bytes
) -> None:
    async def script(call: Call) -> None:
        await call.send(sent)

    text_api.script = script
    status, headers, body = await ask(door, TEXT)
    assert (status, headers["x-should-retry"]) == (502, "false")
    check_error(body, "upstream_cut")
    assert len(text_api.calls) == 1
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_code"]) == (502, "upstream_cut")


CUTS = {
    "by its length": b"content-length: 1000\r\n\r\n" + b"x" * 500,
    "by chunks": b"transfer-encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\n",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_a_cut_answer_of_the_text_api_is_a_broken_one_for_the_client(
    door: Door, text_api: TextApi, cut: bytes, *, reset: bool
) -> None:
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n" + cut)
        await seen.wait()
        if reset:
            call.writer.transport.abort()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, TEXT, PATH))
    answer = await bounded(reader.readuntil(b"x" * 500))
    seen.set()
    answer += await rest_of(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\n0\r\n" not in answer
    assert answer.count(b"x" * 500) == 1
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "upstream_cut")


async def test_an_old_client_sees_a_cut_answer_of_the_text_api_as_an_error(
    door: Door, text_api: TextApi
) -> None:
    """For HTTP/1.0 any end of the connection is a good one but a reset."""
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n" + CUTS["by chunks"])
        await seen.wait()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    with contextlib.closing(writer):
        writer.write(post(door.secret, TEXT, PATH).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await bounded(reader.readuntil(b"x" * 500))
        seen.set()
        with pytest.raises(ConnectionResetError):
            await bounded(reader.read())
    assert (await door.record())["error_code"] == "upstream_cut"


@pytest.mark.parametrize("when", ["before the answer", "within it"])
async def test_a_client_that_leaves_ends_the_text_api_s_work(
    door: Door, text_api: TextApi, when: str
) -> None:
    gone = asyncio.Event()

    async def script(call: Call) -> None:
        if when == "within it":
            await call.head(200, {"content-type": "text/event-stream"})
            await call.send(b": here\n\n")
        await call.gone()
        gone.set()

    text_api.script = script
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, TEXT, PATH))
    await eventually(lambda: text_api.calls)
    if when == "within it":
        await bounded(reader.readuntil(b": here\n\n"))
    writer.close()
    await asyncio.wait_for(gone.wait(), 20)
    await eventually(lambda: text_api.open_connections == 0)
    record = await door.record()
    assert (record["client_left"], record["error_code"]) == (True, "client_left")
    assert not record["may_be_billed"]


async def test_a_body_that_is_too_large_is_refused_whatever_it_is(
    make_gateway: Callable[..., Gateway],
    plane: Plane,
    text_api: TextApi,
    text_port: int,
    upstream: ScriptedUpstream,
) -> None:
    gateway = make_gateway(
        plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", max_request_bytes=1000
    ).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    await check_refused(door, await ask(door, b" " * 1001), 413, "request_too_large")
    assert (await ask(door, b" " * 1000))[0] == 200
    assert len(text_api.calls) == 1
    assert gateway.stop() == 0


async def test_a_body_beyond_all_measure_is_refused(door: Door, text_api: TextApi) -> None:
    await check_refused(door, await ask(door, BEYOND), 400, "invalid_body")
    assert text_api.calls == []


# -- an intent is served ---------------------------------------------------------------------------


async def test_the_sdk_gets_its_response_and_the_record_says_what_was_made(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.responses.create(model="gpt-5", input="a cat", tools=[TOOL])
    assert (made.id, made.object) == ("resp_1", "response")
    [item] = made.output
    assert item.type == "image_generation_call"
    assert item.result == picture()
    sent = upstream.calls[0].json()
    assert (sent["stream"], sent["store"], sent["tools"]) == (True, False, [TOOL])
    assert sent["input"] == [{"role": "user", "content": [{"type": "input_text", "text": "a cat"}]}]
    assert upstream.calls[0].headers["authorization"] == "Bearer token-1"
    record = await door.record()
    expected = {
        "endpoint": "responses",
        "path": PATH,
        "body_form": "json",
        "model": "gpt-5",
        "upstream_model": "gpt-5",
        "stream": False,
        "input_image_count": 0,
        "prompt_chars": 5,
        "status": 200,
        "error_code": None,
        "account_name": door.account,
        "dialect": "codex",
        "response_image_count": 1,
        "size_given": "1024x1024",
        "quality_given": "high",
        "usage": images()["usage"],
        "usage_text": {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990},
        "client_left": False,
        "may_be_billed": False,
    }
    assert {name: record[name] for name in expected} == expected
    assert len(record["prompt_hmac"]) == 64
    assert [(each["stage"], each["action"]) for each in record["attempts"]] == [
        ("stream", "deliver")
    ]


async def test_the_sdk_gets_the_upstream_s_own_events_one_by_one(
    door: Door, upstream: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    first, rest = drawn(2)[:3], drawn(2)[3:]

    async def script(call: Call) -> None:
        await streams(first)(call)
        await gate.wait()
        for event in rest:
            await call.send(frame(event))

    upstream.script = script
    async with door.client() as client:
        stream = await client.responses.create(
            model="gpt-5", input="a cat", tools=[TOOL], stream=True
        )
        types = []
        async for event in stream:
            types.append(event.type)
            if len(types) == len(first):
                gate.set()  # what was sent so far has come without the rest
    assert types == [event["type"] for event in drawn(2)]
    record = await door.record()
    assert (record["stream"], record["response_image_count"]) == (True, 1)
    assert record["usage"] == images()["usage"]


async def test_a_stream_passes_byte_by_byte_as_it_came(
    door: Door, upstream: ScriptedUpstream
) -> None:
    odd = [b'id: 7\nevent: response.new\ndata: {"type":"response.new", "x" : 1.50}\n\n']
    whole = {**COMPLETED, "response": {**COMPLETED["response"], "output": [ITEM["item"]]}}
    events = [*map(frame, [CREATED, DRAWING]), *odd, *map(frame, [ITEM, whole])]
    upstream.script = streams([b": hello\n\n", *events])
    status, headers, body = await ask(door, STREAM)
    assert (status, body) == (200, b"".join(events))
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    record = await door.record(request_id=headers["x-request-id"])
    assert record["response_bytes"] == len(body)


async def test_a_call_for_an_image_model_goes_to_the_main_model_with_the_tool(
    door: Door, upstream: ScriptedUpstream
) -> None:
    async with door.client() as client:
        made = await client.responses.create(model="gpt-image-2", input="a cat")
    assert made.output[0].type == "image_generation_call"
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tool_choice"]) == ("gpt-main", TOOL)
    assert sent["tools"] == [{**TOOL, "model": "gpt-image-2"}]
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == ("gpt-image-2", "gpt-image-2")


async def test_the_key_s_map_decides_what_an_intent_is_and_where_it_goes(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi
) -> None:
    door = make(
        key={"model_map": {"painter": "gpt-image-1", "gpt-5": "gpt-6"}},
        deployments={"gpt-image-1": "gpt-image-1"},
    )
    assert (await ask(door, b'{"model":"painter","input":"a cat"}'))[0] == 200
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tools"]) == ("gpt-main", [{**TOOL, "model": "gpt-image-1"}])
    record = await door.record(model="painter")
    assert record["upstream_model"] == "gpt-image-1"
    assert (await ask(door, INTENT))[0] == 200
    assert upstream.calls[1].json()["model"] == "gpt-6"
    assert (await door.record(model="gpt-5"))["upstream_model"] == "gpt-6"
    # Text is not ours to map.
    assert (await ask(door, TEXT))[0] == 200
    assert text_api.calls[0].body == TEXT


MODELS: dict[str, tuple[list[str], dict[str, str], dict[str, Any]]] = {
    "as asked": (["gpt-6", "gpt-image-2"], {"gpt-5": "gpt-6"}, {"model": "gpt-5"}),
    "as mapped": (["gpt-5", "gpt-image-2"], {"gpt-5": "gpt-6"}, {"model": "gpt-5"}),
    "an image model": (["gpt-5"], {}, {"model": "gpt-image-2"}),
    "by default": (["gpt-5"], {}, {}),
    "of the tool": (["gpt-5"], {}, {"model": "gpt-5", "tools": [{**TOOL, "model": "gpt-image-2"}]}),
    "of the tool as mapped": (
        ["gpt-5", "fine"],
        {"fine": "gpt-image-1"},
        {"model": "gpt-5", "tools": [{**TOOL, "model": "fine"}]},
    ),
    "of a second tool": (
        ["gpt-5", "gpt-image-2"],
        {},
        {"model": "gpt-5", "tools": [TOOL, {**TOOL, "model": "gpt-image-1"}]},
    ),
}


@pytest.mark.parametrize(("allowed", "model_map", "body"), MODELS.values(), ids=MODELS)
async def test_a_model_that_the_key_may_not_use_is_refused(
    make: MakeDoor,
    upstream: ScriptedUpstream,
    text_api: TextApi,
    allowed: list[str],
    model_map: dict[str, str],
    body: dict[str, Any],
) -> None:
    door = make(key={"allowed_models": allowed, "model_map": model_map})
    sent = json.dumps({"input": "a cat", "tools": [TOOL], **body}).encode()
    await check_refused(door, await ask(door, sent), 403, "model_not_allowed", "model")
    assert upstream.calls == text_api.calls == []


async def test_models_that_the_key_may_use_are_served(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(
        key={
            "allowed_models": ["a", "gpt-5", "b", "gpt-image-2"],
            "model_map": {"a": "gpt-5", "b": "gpt-image-2"},
        }
    )
    value = {"model": "a", "input": "a cat", "tools": [{**TOOL, "model": "b"}]}
    assert (await ask(door, json.dumps(value).encode()))[0] == 200
    sent = upstream.calls[0].json()
    assert (sent["model"], sent["tools"][0]["model"]) == ("gpt-5", "gpt-image-2")
    assert (await door.record())["status"] == 200


@pytest.mark.parametrize("model", ["openai/gpt-image-2", "GPT-Image-2", " gpt-image-2"])
async def test_another_spelling_of_an_image_model_is_that_model_unless_the_key_maps_it(
    make: MakeDoor, upstream: ScriptedUpstream, text_api: TextApi, model: str
) -> None:
    body = json.dumps({"model": model, "input": "a cat"}).encode()
    door = make()
    assert (await ask(door, body))[0] == 200
    assert upstream.calls[0].json()["tools"] == [{**TOOL, "model": "gpt-image-2"}]
    record = await door.record()
    assert (record["model"], record["upstream_model"]) == (model, "gpt-image-2")
    mapped = make(
        key={"model_map": {model: "gpt-image-1.5"}}, deployments={"gpt-image-1.5": "mine"}
    )
    assert (await ask(mapped, body))[0] == 200
    assert upstream.calls[1].json()["tools"] == [{**TOOL, "model": "mine"}]
    assert (await mapped.record())["upstream_model"] == "gpt-image-1.5"
    assert text_api.calls == []


async def test_an_account_without_a_main_model_serves_no_intent(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(responses_model=None)
    for body in (INTENT, STREAM):
        answer = await ask(door, body)
        await check_refused(door, answer, 400, "unsupported_value", "model")
        assert "responses_model" in json.loads(answer[2])["error"]["message"]
    assert upstream.calls == []


async def test_an_image_model_that_no_account_has_is_not_found(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(deployments={"gpt-image-1": "mine"})
    for body in (
        b'{"model":"gpt-image-2","input":"a"}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation","model":"gpt-image-2"}]}',
    ):
        await check_refused(door, await ask(door, body), 404, "model_not_found", "model")
    assert upstream.calls == []
    own = b'{"model":"gpt-image-1","input":"a"}'
    assert (await ask(door, own))[0] == 200
    assert upstream.calls[0].json()["tools"] == [{**TOOL, "model": "mine"}]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-image-2"',
        b'{"model":"gpt-image-2"}}',
        b'{"model":"gpt-image-2","stream":"yes"}',
        b'{"model":"gpt-image-2","tools":{}}',
        b'{"model":"gpt-image-2","input":"\xff"}',
        b'{"tool_choice":"image_generation","model":7}',
    ],
)
async def test_an_intent_that_cannot_be_read_is_the_client_s_mistake(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, body: bytes
) -> None:
    status, headers, answer = await ask(door, body)
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert upstream.calls == text_api.calls == []
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["status"], record["error_source"]) == (400, "client")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-image-2","model":"gpt-5","input":"a"}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation"}],"tools":[]}',
        b'{"model":"gpt-image-2","metadata":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
    ids=["model twice", "tools twice", "300 levels"],
)
async def test_an_odd_intent_is_served_or_the_client_s_mistake_and_never_ours(
    door: Door, upstream: ScriptedUpstream, text_api: TextApi, body: bytes
) -> None:
    status, headers, _ = await ask(door, body)
    assert status in {200, 400}
    assert text_api.calls == []
    record = await door.record(request_id=headers["x-request-id"])
    assert record["error_code"] != "internal_error"


# -- what comes back -------------------------------------------------------------------------------


async def test_a_whole_response_holds_all_items_in_their_order(
    door: Door, upstream: ScriptedUpstream
) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 9000}
    said = {"type": "message", "id": "m_1", "content": [{"type": "output_text", "text": "y" * 99}]}
    items = [
        {"type": "response.output_item.done", "output_index": index, "item": item}
        for index, item in enumerate([thought, ITEM["item"], said])
    ]
    end = {**COMPLETED, "response": {**COMPLETED["response"], "instructions": "z" * 9000}}
    upstream.script = streams([CREATED, *items, end])
    status, headers, body = await ask(door, INTENT)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert json.loads(body) == {
        "object": "response",
        **end["response"],
        "output": [thought, ITEM["item"], said],
    }
    assert (await door.record())["response_image_count"] == 1


async def test_a_response_that_lists_its_output_itself_is_passed_as_it_is(
    door: Door, upstream: ScriptedUpstream
) -> None:
    whole = {**COMPLETED["response"], "output": [ITEM["item"]], "object": "response"}
    upstream.script = streams([CREATED, ITEM, {**COMPLETED, "response": whole}])
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)) == (200, whole)
    assert (await door.record())["response_image_count"] == 1


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_a_picture_that_only_the_last_event_holds_is_counted(
    door: Door, upstream: ScriptedUpstream, body: bytes
) -> None:
    whole = {**COMPLETED["response"], "output": [ITEM["item"]]}
    upstream.script = streams([CREATED, {**COMPLETED, "response": whole}])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert picture().encode() in answer
    assert (await door.record())["response_image_count"] == 1


MANY_TOOLS = [
    {
        "type": "function",
        "name": f"function_{index}",
        "parameters": {
            "type": "object",
            "properties": {f"parameter_{at}": {"type": "string"} for at in range(60)},
        },
    }
    for index in range(120)
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_that_repeats_the_many_tools_it_was_asked_with_is_whole(
    door: Door, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    """A hundred tools with their schemas are no rarity; a response repeats them all."""
    created = {**CREATED, "response": {**CREATED["response"], "tools": MANY_TOOLS}}
    response = {**COMPLETED["response"], "status": "completed", "tools": MANY_TOOLS}
    upstream.script = streams([created, ITEM, {**COMPLETED, "response": response}])
    value = {"model": "gpt-5", "input": "a cat", "tools": [*MANY_TOOLS, TOOL], "stream": stream}
    status, _, body = await ask(door, json.dumps(value).encode())
    assert status == 200
    last = frames_of(body)[-1]["response"] if stream else json.loads(body)
    assert (last["status"], last["tools"]) == ("completed", MANY_TOOLS)
    assert picture().encode() in body
    record = await door.record()
    assert (record["response_image_count"], record["error_code"]) == (1, None)
    assert record["usage"] == images()["usage"]


SAID = {
    "type": "response.output_item.done",
    "output_index": 0,
    "item": {"type": "message", "content": [{"type": "output_text", "text": "no cats today"}]},
}


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_an_answer_in_words_is_an_answer(
    door: Door, upstream: ScriptedUpstream, body: bytes
) -> None:
    usage = {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990}
    end = {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}}
    upstream.script = streams([CREATED, SAID, end])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert b"no cats today" in answer
    record = await door.record()
    assert (record["error_code"], record["response_image_count"]) == (None, 0)
    assert (record["usage"], record["usage_text"]) == (None, usage)
    assert not record["may_be_billed"]


async def test_a_response_that_ends_incomplete_without_a_picture_is_delivered(
    door: Door, upstream: ScriptedUpstream
) -> None:
    response = {
        "id": "resp_1",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [],
    }
    end = {"type": "response.incomplete", "response": response}
    upstream.script = streams([CREATED, SAID, end])
    status, _, body = await ask(door, INTENT)
    whole = {"object": "response", **response, "output": [SAID["item"]]}
    assert (status, json.loads(body)) == (200, whole)
    assert (await door.record(stream=False))["response_image_count"] == 0
    status, _, body = await ask(door, STREAM)
    assert (status, frames_of(body)) == (200, [CREATED, SAID, {**end, "response": whole}])
    assert (await door.record(stream=True))["error_code"] is None


# -- what breaks -----------------------------------------------------------------------------------


def breaks(events: list[dict[str, Any]]) -> Script:
    """The script of an upstream that breaks off within an event."""
    return streams([*events, frame(ITEM)[:-40]])


async def test_a_stream_that_is_cut_ends_with_an_error(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = breaks([CREATED, DRAWING])
    status, headers, body = await ask(door, STREAM)
    *events, last = frames_of(body)
    assert (status, events) == (200, [CREATED, DRAWING])
    assert (last["type"], last["error"]["code"]) == ("error", "upstream_cut")
    record = await door.record(request_id=headers["x-request-id"])
    assert (record["error_code"], record["may_be_billed"]) == ("upstream_cut", True)
    assert len(upstream.calls) == 1
    async with door.client() as client:
        stream = await client.responses.create(
            model="gpt-5", input="a cat", tools=[TOOL], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            [event async for event in stream]


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
async def test_a_cut_before_anything_was_shown_is_an_error_with_a_status(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream, body: bytes
) -> None:
    """Nobody knows what was made, so no other account is asked."""
    with_second(door, other)
    upstream.script = breaks([CREATED])
    status, headers, answer = await ask(door, body)
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(answer, "outcome_unknown")
    assert other.calls == []
    assert (await door.record())["may_be_billed"]


_LIMIT = {"code": "rate_limit_exceeded", "message": "Slow down, cat."}
FAILED: dict[str, dict[str, Any]] = {
    "failed": {
        "type": "response.failed",
        "response": {"id": "resp_1", "status": "failed", "error": _LIMIT, "x": 1.5},
    },
    "flat": {"type": "error", **_LIMIT, "sequence_number": 3},
    "nested": {"type": "error", "error": _LIMIT},
}


@pytest.mark.parametrize("failed", FAILED.values(), ids=FAILED)
async def test_a_failure_within_a_stream_is_passed_in_its_own_words(
    door: Door, upstream: ScriptedUpstream, failed: dict[str, Any]
) -> None:
    """The error itself comes last, nested as SDKs raise it and flat as the Responses API has it."""
    upstream.script = streams([CREATED, DRAWING, failed])
    status, _, body = await ask(door, STREAM)
    shown = [CREATED, DRAWING, *([failed] if failed["type"] == "response.failed" else [])]
    *events, last = frames_of(body)
    assert (status, events) == (200, shown)
    nested = {"type": "rate_limit_error", "param": None, **_LIMIT}
    flat = {"code": _LIMIT["code"], "message": _LIMIT["message"], "param": None}
    number = len(shown)
    assert last == {"type": "error", "sequence_number": number, **flat, "error": nested}
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, "rate_limit_exceeded")
    assert (record["error_source"], record["may_be_billed"]) == ("upstream", True)


async def test_a_failure_with_a_flood_of_values_is_told_without_them(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """Each would be searched for secrets, and the event loop would stand still meanwhile."""
    failed = FAILED["failed"]
    flood = {**failed, "response": {**failed["response"], "tools": ["a"] * 100_000}}
    upstream.script = streams([CREATED, DRAWING, flood])
    _, _, body = await ask(door, STREAM)
    *events, last = frames_of(body)
    assert events == [CREATED, DRAWING]
    assert last["error"]["message"] == _LIMIT["message"]


@pytest.mark.parametrize("end", ["cut", "failed"])
async def test_a_picture_that_was_made_is_delivered_whatever_comes_after_it(
    door: Door, upstream: ScriptedUpstream, end: str
) -> None:
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error"}}}
    upstream.script = (
        streams([CREATED, ITEM, failed]) if end == "failed" else breaks([CREATED, ITEM])
    )
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)) == (
        200,
        {
            "object": "response",
            "id": "resp_1",
            "status": "incomplete",
            "incomplete_details": {"reason": "upstream_cut"},
            "output": [ITEM["item"]],
        },
    )
    record = await door.record()
    assert (record["response_image_count"], len(record["attempts"])) == (1, 1)
    assert record["attempts"][0]["error_code"] is not None


async def test_a_picture_that_came_without_an_opening_is_delivered_when_its_stream_is_cut(
    door: Door, upstream: ScriptedUpstream
) -> None:
    upstream.script = breaks([ITEM])
    status, _, body = await ask(door, INTENT)
    assert (status, json.loads(body)["output"]) == (200, [ITEM["item"]])
    assert json.loads(body)["status"] == "incomplete"
    assert (await door.record())["response_image_count"] == 1


async def test_a_picture_that_was_made_is_delivered_at_the_drain_deadline(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url, drain_seconds=0.2).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    drawn_up_to_here = asyncio.Event()

    async def script(call: Call) -> None:
        await streams([CREATED, ITEM])(call)
        drawn_up_to_here.set()
        await call.gone()

    upstream.script = script
    running = asyncio.create_task(ask(door, INTENT))
    await asyncio.wait_for(drawn_up_to_here.wait(), 10)
    assert await asyncio.to_thread(gateway.stop) == 0
    status, _, body = await running
    assert (status, json.loads(body)["status"]) == (200, "incomplete")
    assert json.loads(body)["output"] == [ITEM["item"]]
    record = await door.record()
    assert (record["response_image_count"], record["may_be_billed"]) == (1, True)


async def test_text_that_is_not_answered_at_the_drain_deadline_is_not_sent_again(
    plane: Plane, make_gateway: Callable[..., Gateway], text_api: TextApi, text_port: int
) -> None:
    gateway = make_gateway(
        plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}", drain_seconds=0.2
    ).start()
    door = open_door(gateway, plane, text_api, "codex-responses")
    text_api.script = Call.gone
    running = asyncio.create_task(ask(door, TEXT))
    await eventually(lambda: text_api.calls)
    assert await asyncio.to_thread(gateway.stop) == 0
    status, headers, body = await running
    assert (status, headers["x-should-retry"]) == (504, "false")
    check_error(body, "outcome_unknown")
    assert (await door.record())["error_code"] == "outcome_unknown"


async def test_an_account_at_its_limit_is_replaced_by_another(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    second = with_second(door, other)
    upstream.script = answers(429, {"error": {"type": "usage_limit_reached", "message": "m"}})
    for body in (INTENT, STREAM):
        status, headers, answer = await ask(door, body)
        assert status == 200
        assert picture().encode() in answer
        record = await door.record(request_id=headers["x-request-id"])
        assert record["account_name"] == second
    # It cools down, so the second call did not ask it again.
    assert (len(upstream.calls), len(other.calls)) == (1, 2)
    first = (await door.record(stream=False))["attempts"]
    assert [(each["status"], each["action"]) for each in first] == [(429, "next"), (200, "deliver")]


@pytest.mark.parametrize("body", [INTENT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error"])
async def test_a_stream_that_fails_before_anything_was_shown_is_made_by_another_account(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream, body: bytes, code: str
) -> None:
    second = with_second(door, other)
    progress = {"type": "response.in_progress", "response": {"id": "resp_0"}}
    failed = {"type": "response.failed", "response": {"error": {"code": code, "message": "m"}}}
    upstream.script = streams([{**CREATED, "response": {"id": "resp_0"}}, progress, failed])
    status, _, answer = await ask(door, body)
    assert status == 200
    assert b"resp_0" not in answer
    assert picture().encode() in answer
    record = await door.record()
    assert (record["account_name"], record["error_code"]) == (second, None)
    assert [each["action"] for each in record["attempts"]] == ["next", "deliver"]


async def test_an_upstream_s_refusal_is_passed_without_a_second_try(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    with_second(door, other)
    error = {
        "message": "No such cats.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
    }
    upstream.script = answers(400, {"error": error})
    for body in (INTENT, STREAM):
        status, headers, answer = await ask(door, body)
        assert (status, json.loads(answer)) == (400, {"error": error})
        record = await door.record(request_id=headers["x-request-id"])
        assert record["error_code"] == "moderation_blocked"
    assert other.calls == []


# -- slots and sessions ----------------------------------------------------------------------------


async def test_a_slot_is_held_to_the_end_and_given_back(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(image_max_concurrency=1)
    for body in (INTENT, STREAM):
        upstream.script = held = Drawing()
        first = asyncio.create_task(ask(door, body))
        await asyncio.wait_for(held.arrived.acquire(), 10)
        busy = await ask(door, INTENT)
        await check_refused(door, busy, 429, "account_concurrency")
        assert int(busy[1]["retry-after"]) > 0
        held.let_go.set()
        assert (await first)[0] == 200
    assert (await ask(door, INTENT))[0] == 200
    assert len(upstream.calls) == 3


async def test_a_client_that_leaves_gives_its_slot_back(
    make: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make(image_max_concurrency=1)
    for body in (INTENT, STREAM):
        upstream.script = held = Drawing()
        _, writer = await door.gateway.connect()
        writer.write(post(door.secret, body, PATH))
        await asyncio.wait_for(held.arrived.acquire(), 10)
        writer.close()
        record = await door.record(stream=body is STREAM)
        assert (record["client_left"], record["may_be_billed"]) == (True, True)
        held.let_go.set()
    upstream.script = streams(drawn())
    assert (await ask(door, INTENT))[0] == 200


async def test_calls_of_a_session_go_to_one_account(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    second = with_second(door, other, "auto")
    used: dict[str, set[str]] = {}
    for _ in range(2):
        for session in map("session-{}".format, range(20)):
            value = {"model": "gpt-image-2", "input": "a", "prompt_cache_key": session}
            status, headers, _ = await ask(door, json.dumps(value).encode())
            assert status == 200
            record = await door.record(request_id=headers["x-request-id"])
            used.setdefault(session, set()).add(record["account_name"])
    assert {len(accounts) for accounts in used.values()} == {1}
    assert set.union(*used.values()) == {door.account, second}
    assert len(upstream.calls) + len(other.calls) == 40


async def test_a_session_s_header_goes_before_the_body_s_own_word(
    door: Door, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    with_second(door, other, "auto")
    for _ in range(8):
        value = {"model": "gpt-image-2", "input": "a", "prompt_cache_key": secrets.token_hex(8)}
        status, _, _ = await ask(door, json.dumps(value).encode(), session_id="one")
        assert status == 200
    assert sorted((len(upstream.calls), len(other.calls))) == [0, 8]
    await eventually(lambda: len(_records(door)) == 8)


# -- sizes -----------------------------------------------------------------------------------------


async def read_all(door: Door, body: bytes) -> int:
    """The bytes of an answer; this process does not hold them either."""
    reader, writer = await door.gateway.connect()
    writer.write(post(door.secret, body, PATH))
    count = 0
    while chunk := await asyncio.wait_for(reader.read(65536), 20):
        count += len(chunk)
    writer.close()
    return count


@pytest.mark.parametrize("body", [STREAM, INTENT], ids=["stream", "whole"])
async def test_an_event_of_30_mb_is_never_held_in_memory(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    body: bytes,
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    before_picture, behind = frame(ITEM).split(picture().encode())

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        await call.send(frame(CREATED) + before_picture)
        for _ in range(30):
            await call.send(b"A" * MIB)
        await call.send(behind + frame(COMPLETED))

    upstream.script = script
    for _ in range(2):
        assert await read_all(door, body) > 30 * MIB
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert await read_all(door, body) > 30 * MIB
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    await eventually(lambda: len(gateway.records()) == 3)
    assert {record["response_image_count"] for record in gateway.records()} == {1}
    await eventually(lambda: not list((gateway.folder / "spool").iterdir()))
    assert gateway.stop() == 0


async def test_a_conversation_of_20_mb_is_not_held_in_memory(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    text_api: TextApi,
    text_port: int,
) -> None:
    gateway = make_gateway(plane.reader_url, text_api_url=f"http://127.0.0.1:{text_port}").start()
    door = open_door(gateway, plane, upstream, "codex-responses")
    upstream.script = streams(drawn())
    url = "data:image/png;base64," + "A" * 20_000_000
    shown = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    for tools in ([], [TOOL]):
        body = json.dumps({"model": "gpt-5", "input": shown, "tools": tools}).encode()
        for _ in range(2):
            assert (await ask(door, body))[0] == 200
        gateway.forget_peak()
        before = gateway.memory("VmHWM")
        assert (await ask(door, body))[0] == 200
        assert gateway.memory("VmHWM") - before <= 8 * MIB
    assert text_api.calls[-1].json()["input"] == upstream.calls[-1].json()["input"] == shown
    await eventually(lambda: len(gateway.records()) == 6)
    assert gateway.records()[-1]["input_image_count"] == 1
    assert gateway.stop() == 0
