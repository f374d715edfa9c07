"""The way to the text API: what is left out, how certain a failure is, and that a call ends."""

import asyncio

import pytest

from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream import text_api
from image_gateway.edge.upstream.http_client import LostError, UnsentError
from image_gateway.edge.upstream.text_api import TextApi
from tests.edge.peer import Line, Peer, is_word, pairs, refusing, unanswering
from tests.parts.eventually import BOUND_SECONDS, eventually

HEADERS = [(b"host", b"api.example"), (b"x-a", b"1"), (b"X-A", b"2"), (b"cookie", b"a=b")]
OK = b"HTTP/1.1 200 OK\r\nset-cookie: c=d\r\ncontent-length: 2\r\n\r\n{}"


async def fetch(api: TextApi, spool: Spool, target: str = "/v1/responses") -> tuple[int, bytes]:
    async with api.post(target, HEADERS, spool.whole()) as answer:
        return answer.status, b"".join([chunk async for chunk in answer.chunks()])


async def answers_ok(line: Line) -> None:
    await line.request()
    await line.send(OK)


# -- what goes on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Expect",
    ],
)
def test_headers_of_one_connection_are_left_out(name: bytes) -> None:
    assert text_api.passed([(name, b"x"), (b"x-stays", b"1")]) == [(b"x-stays", b"1")]


def test_headers_that_the_connection_names_are_left_out() -> None:
    found = [
        (b"X-One", b"1"),
        (b"connection", b"close, X-One"),
        (b"x-two", b"2"),
        (b"Connection", b" x-two ,"),
        (b"x-three", b"3"),
    ]
    assert text_api.passed(found) == [(b"x-three", b"3")]


def test_all_others_stay_in_their_order() -> None:
    found = [(b"set-cookie", b"a=1"), (b"x", b"\xe9"), (b"set-cookie", b"b=2"), (b"y", b"")]
    assert text_api.passed(found) == found


@pytest.mark.parametrize("start", ["@127.0.0.1:", ":", "", "x:@127.0.0.1:"])
async def test_a_target_that_is_no_path_is_not_sent(spool: Spool, start: str) -> None:
    async with Peer(answers_ok) as peer, Peer(answers_ok) as elsewhere:
        async with TextApi(f"http://127.0.0.1:{peer.port}", BOUND_SECONDS) as api:
            with pytest.raises(UnsentError):
                await fetch(api, spool, f"{start}{elsewhere.port}/v1/responses")
        assert (peer.lines, elsewhere.lines) == ([], [])


async def test_a_request_on_the_wire_holds_what_came_and_its_length_and_no_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing() as closed:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed}")
        await spool.write(b" { } ")
        async with (
            Peer(answers_ok) as peer,
            TextApi(f"http://127.0.0.1:{peer.port}/", BOUND_SECONDS) as api,
        ):
            assert await fetch(api, spool, "/v1/responses?a=%2f&b") == (200, b"{}")
            # Neither its cookie nor its connection is kept for the next call.
            assert await fetch(api, spool) == (200, b"{}")
    assert len(peer.lines) == 2
    for line in peer.lines:
        head, end, body = bytes(line.received).partition(b"\r\n\r\n")
        assert body == b" { } "
        sent = sorted((n.lower(), v) for n, v in pairs(head + end) if n.lower() != "connection")
        assert sent == [
            ("content-length", "5"),
            ("cookie", "a=b"),
            ("host", "api.example"),
            ("x-a", "1"),
            ("x-a", "2"),
        ]
    assert peer.lines[0].received.startswith(b"POST /v1/responses?a=%2f&b HTTP/1.1\r\n")


# -- what fails ------------------------------------------------------------------------------------


async def test_a_connection_that_never_stood_is_told_from_one_that_broke(spool: Spool) -> None:
    with refusing() as port:
        async with TextApi(f"http://127.0.0.1:{port}", BOUND_SECONDS) as api:
            with pytest.raises(UnsentError) as refused:
                await fetch(api, spool)
    with unanswering() as port:
        async with TextApi(f"http://127.0.0.1:{port}", 0.2) as api:
            with pytest.raises(UnsentError) as silent:
                await fetch(api, spool)
    assert is_word(str(refused.value))
    assert is_word(str(silent.value))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_lost(spool: Spool, sent: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(sent)

    async with Peer(script) as peer, TextApi(f"http://127.0.0.1:{peer.port}", 5) as api:
        with pytest.raises(LostError) as lost:
            await fetch(api, spool)
    assert is_word(str(lost.value))
    assert len(peer.lines) == 1


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n\r\nabc"], ids=["before", "within"])
async def test_a_call_that_is_given_up_ends_its_connection(spool: Spool, first: bytes) -> None:
    asked = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(first)
        asked.set()
        await line.silence()

    async with Peer(script) as peer, TextApi(f"http://127.0.0.1:{peer.port}", 5) as api:
        asking = asyncio.create_task(fetch(api, spool))
        await asyncio.wait_for(asked.wait(), BOUND_SECONDS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: peer.lines[0].gone)


async def test_it_has_to_be_opened(spool: Spool) -> None:
    api = TextApi("http://127.0.0.1:1/", 1)
    with pytest.raises(RuntimeError, match="not open"):
        await fetch(api, spool)
    assert repr(api) == "<TextApi http://127.0.0.1:1>"
