"""Text goes on to the text API untouched, and its answers come back so."""

import asyncio
import gzip
import json

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.responses.calls import (
    INTENT,
    PATH,
    TEXT,
    TextApi,
    ask,
    bounded,
    field_of,
)
from tests.daemon.test_refusals import check_refused
from tests.parts.gateway import parse, post
from tests.parts.upstream import (
    Call,
    ScriptedUpstream,
    answers,
)


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
    fields = [(name, value.strip(b" ")) for name, _, value in map(field_of, lines)]
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
