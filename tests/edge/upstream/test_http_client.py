"""Calls to upstream accounts: what is sent, how certain it is, and that its connection ends."""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import aiohttp
import aiohttp.connector
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses

from image_gateway.core.codec.body_segments import Span
from image_gateway.core.dialects import UpstreamRequest
from image_gateway.core.model import Proxy, Secret
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream import connectors
from image_gateway.edge.upstream import http_client as upstream_module
from image_gateway.edge.upstream.http_client import (
    LostError,
    UnsentError,
    UpstreamClient,
    UpstreamConnection,
    UpstreamResponse,
)
from tests.edge.peer import (
    OK,
    TOKEN,
    Line,
    Peer,
    anonymous,
    call,
    fetch,
    is_word,
    open_to,
    pairs,
    refusing,
    running,
    unanswering,
)
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.upstream import ScriptedUpstream, answers

LARGE = 24 * 1024 * 1024
"""More than the kernel's buffers of both ends take."""


# -- what arrives ----------------------------------------------------------------------------------


async def test_a_request_on_the_wire_holds_what_the_call_says_and_no_more(
    edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing() as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        heads: list[bytes] = []

        async def script(line: Line) -> None:
            heads.append((await line.request())[0])
            await line.send(OK)

        async with Peer(script) as peer:
            asked = call(f"{peer.url}/a%2Fb%20c%7Ed", user_agent="codex_cli_rs/1", originator="o")
            async with edge.connection(asked, spool, None) as attempt:
                answer, body = await fetch(attempt)
    assert (answer.status, body) == (200, b"{}")
    [head] = heads
    assert head.startswith(b"POST /codex/a%2Fb%20c%7Ed/images/generations HTTP/1.1\r\n")
    named = sorted((name.lower(), value) for name, value in pairs(head))
    assert [pair for pair in named if pair[0] != "connection"] == [
        ("accept-encoding", "identity"),
        ("authorization", f"Bearer {TOKEN}"),
        ("content-length", "18"),
        ("content-type", "application/json"),
        ("host", f"127.0.0.1:{peer.port}"),
        ("originator", "o"),
        ("user-agent", "codex_cli_rs/1"),
    ]


async def test_a_query_stays_as_it_is(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    asked = UpstreamRequest(
        f"{upstream.url}/x?api-version=2025-04-01-preview&a=b%26c%7E", {}, (b"{}",)
    )
    async with edge.connection(asked, spool, None) as attempt:
        await fetch(attempt)
    assert upstream.calls[0].target == "/codex/x?api-version=2025-04-01-preview&a=b%26c%7E"


Plain = tuple[bytes | Span, ...]

BODIES: list[tuple[int, Plain]] = [
    (0, ()),
    (0, (b"",)),
    (0, (b"{}",)),
    (100, (Span(0, 100),)),
    (100, (b'{"a":"', Span(10, 90), b'","b":"', Span(10, 90), b'"}')),
    (3_000_000, (b'{"a":"', Span(5, 2_999_999), b'","b":"', Span(1_000_000, 1_100_000), b'"}')),
]


@pytest.mark.parametrize(("size", "body"), BODIES)
async def test_a_body_arrives_to_the_byte_on_every_attempt(
    edge: UpstreamClient,
    spool: Spool,
    upstream: ScriptedUpstream,
    size: int,
    body: tuple[bytes | Span, ...],
) -> None:
    text = b"".join(b"%07d," % number for number in range(size // 8 + 1))[:size]
    for start in range(0, size, 65536):
        await spool.write(text[start : start + 65536])
    expected = b"".join(
        text[part.start : part.stop] if isinstance(part, Span) else part for part in body
    )
    upstream.script = answers(200, {})
    for _ in range(2):
        async with edge.connection(call(upstream.url, body), spool, None) as attempt:
            await fetch(attempt)
    for arrived in upstream.calls:
        assert arrived.body == expected
        assert arrived.headers["content-length"] == str(len(expected))
        assert "transfer-encoding" not in arrived.headers
    assert len(upstream.calls) == 2


async def test_no_connection_is_used_twice(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    """An error on a connection that was used before would leave open what it was about."""
    upstream.script = answers(200, {}, {"connection": "keep-alive"})
    for number in range(3):
        async with edge.connection(call(upstream.url), spool, None) as attempt:
            await fetch(attempt)
        assert upstream.connections == number + 1
        assert open_to(upstream.port) == 0


async def test_a_connection_is_not_shared_while_its_attempt_goes_on(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.send(OK)

    async with Peer(script) as peer:
        async with edge.connection(call(peer.url), spool, None) as first:
            await fetch(first)
            async with edge.connection(call(peer.url), spool, None) as second:
                await fetch(second)
        assert len(peer.lines) == 2


async def test_cookies_are_not_kept(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    upstream.script = answers(200, {}, {"set-cookie": "who=you; path=/"})
    # By name: cookies of bare addresses are kept by nobody.
    url = upstream.url.replace("127.0.0.1", "localhost")
    for _ in range(2):
        async with edge.connection(call(url), spool, None) as attempt:
            await fetch(attempt)
    assert [arrived.headers.get("cookie") for arrived in upstream.calls] == [None, None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_is_not_followed(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream, status: int
) -> None:
    async with ScriptedUpstream() as elsewhere:
        upstream.script = answers(status, b"over there", {"location": elsewhere.url})
        async with edge.connection(call(upstream.url), spool, None) as attempt:
            answer, body = await fetch(attempt)
        assert (answer.status, body) == (status, b"over there")
        assert answer.headers["location"] == elsewhere.url
        assert (elsewhere.connections, upstream.connections) == (0, 1)


@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 408, 429, 500, 502, 503, 504, 529])
async def test_any_status_is_an_answer_and_asked_for_once(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.script = answers(status, b'{"a": 1}', {"X-Codex-State": "s" * 60_000})
    async with edge.connection(call(upstream.url), spool, None) as attempt:
        answer, body = await fetch(attempt)
        assert attempt.connected
    assert (answer.status, body) == (status, b'{"a": 1}')
    assert answer.headers["x-codex-state"] == "s" * 60_000
    assert len(upstream.calls) == upstream.connections == 1


async def test_an_answer_that_comes_before_the_body_was_read_is_heard(
    edge: UpstreamClient, spool: Spool
) -> None:
    """An upstream that refuses a credential does not wait for the pictures."""

    async def script(line: Line) -> None:
        await line.head()
        await line.send(b"HTTP/1.1 401 No\r\ncontent-length: 4\r\n\r\nwhy?")
        await done.wait()
        await line.silence()

    done = asyncio.Event()
    async with Peer(script) as peer:
        body = (b"x" * LARGE,)
        async with edge.connection(call(peer.url, body), spool, None) as attempt:
            answer = await attempt.open(BOUND_SECONDS)
            assert answer.status == 401
            assert await answer.read(100, BOUND_SECONDS) == b"why?"
        assert open_to(peer.port) == 0
        done.set()
        line = await peer.first()
        await eventually(lambda: line.gone)


# -- nothing was sent ------------------------------------------------------------------------------

Place = tuple[str, Proxy | None, Peer | None]
"""A URL to call, a proxy to go through, and who listens there, if anybody."""

Arrange = Callable[[AsyncExitStack, pytest.MonkeyPatch], Awaitable[Place]]


async def silent(line: Line) -> None:
    await line.silence()


def proxy_to(port: int, scheme: str = "http") -> Proxy:
    return Proxy(f"{scheme}://127.0.0.1:{port}", Secret("who"), Secret("planted-password"))


async def refused(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    return f"http://127.0.0.1:{stack.enter_context(refusing())}", None, None


async def no_such_name(stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Place:
    async def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "planted.invalid: Name or service not known")

    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    return "http://planted.invalid", None, None


async def no_answer_to_connect(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    return f"http://127.0.0.1:{stack.enter_context(unanswering())}", None, None


async def tls_to_a_plain_port(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    async def script(line: Line) -> None:
        await line.read()
        await line.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    peer = await stack.enter_async_context(Peer(script))
    return f"https://127.0.0.1:{peer.port}", None, peer


async def tls_without_a_trusted_certificate(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    peer = await stack.enter_async_context(Peer(silent, anonymous(ssl.PROTOCOL_TLS_SERVER)))
    return peer.url, None, peer


async def tls_without_an_answer(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    peer = await stack.enter_async_context(Peer(silent))
    return f"https://127.0.0.1:{peer.port}", None, peer


async def tls_closed_at_once(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    async def script(line: Line) -> None:
        await line.read()
        line.reset()

    peer = await stack.enter_async_context(Peer(script))
    return f"https://127.0.0.1:{peer.port}", None, peer


async def proxy_refused(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    port = stack.enter_context(refusing())
    return "http://upstream.invalid", proxy_to(port), None


async def proxy_refused_for_tls(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    port = stack.enter_context(refusing())
    return "https://upstream.invalid", proxy_to(port), None


async def socks_proxy_refused(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    port = stack.enter_context(refusing())
    peer = await stack.enter_async_context(Peer(silent))
    return peer.url, proxy_to(port, "socks5"), peer


async def socks_proxy_silent(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    peer = await stack.enter_async_context(Peer(silent))
    return "http://upstream.invalid", proxy_to(peer.port, "socks5h"), peer


def connect_answered(answer: bytes) -> Arrange:
    async def arrange(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
        async def script(line: Line) -> None:
            await line.head()
            await line.send(answer)
            if b" 200 " in answer:
                await line.silence()

        peer = await stack.enter_async_context(Peer(script))
        return "https://upstream.invalid", proxy_to(peer.port), peer

    return arrange


async def connect_never_answered(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    peer = await stack.enter_async_context(Peer(silent))
    return "https://upstream.invalid", proxy_to(peer.port), peer


async def connect_to_no_tls(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    async def script(line: Line) -> None:
        await line.head()
        await line.send(b"HTTP/1.1 200 Fine\r\n\r\n")
        await line.read()
        await line.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    peer = await stack.enter_async_context(Peer(script))
    return "https://upstream.invalid", proxy_to(peer.port), peer


UNSENT: dict[str, Arrange] = {
    "connection refused": refused,
    "no such name": no_such_name,
    "no answer to the connect": no_answer_to_connect,
    "TLS to a plain port": tls_to_a_plain_port,
    "TLS without a trusted certificate": tls_without_a_trusted_certificate,
    "TLS without an answer": tls_without_an_answer,
    "TLS reset at once": tls_closed_at_once,
    "proxy refuses the connection": proxy_refused,
    "proxy refuses the connection, TLS": proxy_refused_for_tls,
    "SOCKS proxy refuses the connection": socks_proxy_refused,
    "SOCKS proxy says nothing": socks_proxy_silent,
    "CONNECT forbidden": connect_answered(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"),
    "CONNECT wants a password": connect_answered(b"HTTP/1.1 407 Who?\r\n\r\n"),
    "CONNECT failed": connect_answered(b"HTTP/1.1 502 Bad Gateway\r\n\r\nsorry"),
    "CONNECT answered by noise": connect_answered(b"\0\1\2 noise\r\n\r\n"),
    "CONNECT answered by an end": connect_answered(b""),
    "CONNECT granted, then nothing": connect_answered(b"HTTP/1.1 200 Fine\r\n\r\n"),
    "CONNECT never answered": connect_never_answered,
    "CONNECT to no TLS": connect_to_no_tls,
}


@pytest.mark.slow
@pytest.mark.parametrize("arrange", UNSENT.values(), ids=UNSENT)
async def test_what_fails_before_the_connection_stands_was_not_sent(
    hasty_edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch, arrange: Arrange
) -> None:
    async with AsyncExitStack() as stack:
        url, proxy, peer = await arrange(stack, monkeypatch)
        async with hasty_edge.connection(call(url), spool, proxy) as attempt:
            async with asyncio.timeout(BOUND_SECONDS):
                with pytest.raises(UnsentError) as caught:
                    await attempt.open(BOUND_SECONDS)
            assert not attempt.connected
        assert is_word(str(caught.value))
        if peer is not None:
            assert TOKEN.encode() not in peer.received
            assert b"a cat" not in peer.received
            assert b"planted-password" not in peer.received
            assert len(peer.lines) <= 1, "tried once"
            await eventually(lambda: open_to(peer.port) == 0)


@pytest.mark.parametrize(
    "arrange",
    [no_answer_to_connect, tls_without_an_answer, connect_never_answered],
    ids=["TCP", "TLS", "CONNECT"],
)
async def test_an_attempts_own_time_ends_its_connecting_too(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, arrange: Arrange
) -> None:
    async with UpstreamClient(10 * BOUND_SECONDS) as edge, AsyncExitStack() as stack:
        url, proxy, _ = await arrange(stack, monkeypatch)
        async with (
            asyncio.timeout(BOUND_SECONDS),
            edge.connection(call(url), spool, proxy) as attempt,
        ):
            with pytest.raises(UnsentError):
                await attempt.open(0.1)


# -- sent, and no answer ---------------------------------------------------------------------------


async def closed_after_accept(line: Line) -> None:
    pass


async def reset_after_accept(line: Line) -> None:
    line.reset()


async def closed_after_the_head(line: Line) -> None:
    await line.head()


async def closed_after_the_request(line: Line) -> None:
    await line.request()


async def reset_after_the_request(line: Line) -> None:
    await line.request()
    line.reset()


def answered_by(answer: bytes) -> Callable[[Line], Awaitable[None]]:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(answer)

    return script


async def hundred_and_then_silence(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await line.silence()


async def half_a_head_and_then_silence(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 200 OK\r\ncontent-type: app")
    await line.silence()


async def silence_without_reading(line: Line) -> None:
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
    await eventually(lambda: line.gone)


SENT = {
    "closed after accept": closed_after_accept,
    "reset after accept": reset_after_accept,
    "closed after the head": closed_after_the_head,
    "closed after the request": closed_after_the_request,
    "reset after the request": reset_after_the_request,
    "closed in the status line": answered_by(b"HTTP/1.1 20"),
    "closed in the headers": answered_by(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "answered by noise": answered_by(b"\x15\x03\x01\0\2\2F noise\r\n\r\n"),
    "answered by a header too long": answered_by(b"HTTP/1.1 200 OK\r\na: " + b"a" * 200_000),
    "answered by a broken header": answered_by(b"HTTP/1.1 200 OK\r\na b c\r\n\r\n"),
    "answered by a broken length": answered_by(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"),
    "silence": silent,
    "silence after 100": hundred_and_then_silence,
    "silence in the headers": half_a_head_and_then_silence,
    "silence, and the request not read": silence_without_reading,
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [18, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("script", SENT.values(), ids=SENT)
async def test_what_fails_once_the_connection_stands_counts_as_sent_and_is_not_sent_again(
    edge: UpstreamClient, spool: Spool, script: Callable[[Line], Awaitable[None]], size: int
) -> None:
    async with Peer(script) as peer:
        async with edge.connection(call(peer.url, (b"x" * size,)), spool, None) as attempt:
            async with asyncio.timeout(BOUND_SECONDS):
                with pytest.raises(LostError) as caught:
                    await attempt.open(0.2)
            assert attempt.connected
        assert open_to(peer.port) == 0
        assert is_word(str(caught.value))
        assert len(peer.lines) == 1
        assert peer.received.count(b"POST ") <= 1


# -- the connection's end --------------------------------------------------------------------------


class BoomError(Exception):
    """Something else went wrong inside the block."""


async def begun_answer(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst")
    await line.silence()


async def open_only(attempt: UpstreamConnection, stage: asyncio.Event) -> None:
    stage.set()
    await attempt.open(BOUND_SECONDS)


async def open_and_read(attempt: UpstreamConnection, stage: asyncio.Event) -> None:
    answer = await attempt.open(BOUND_SECONDS)
    async for chunk in answer.chunks(BOUND_SECONDS, BOUND_SECONDS):
        assert chunk == b"first"
        stage.set()


Use = Callable[[UpstreamConnection, asyncio.Event], Awaitable[None]]

PHASES: dict[str, tuple[Callable[[Line], Awaitable[None]], int, Use]] = {
    "sending": (silence_without_reading, LARGE, open_only),
    "waiting": (silent, 18, open_only),
    "streaming": (begun_answer, 18, open_and_read),
}


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancelled_attempt_leaves_no_connection(
    edge: UpstreamClient, spool: Spool, phase: str, cancels: int
) -> None:
    """The account's slot is given to the next call the moment the block is left."""
    script, size, use = PHASES[phase]
    stage = asyncio.Event()
    left = asyncio.Event()

    async with Peer(script) as peer:

        async def attempt_it() -> int:
            try:
                async with edge.connection(call(peer.url, (b"x" * size,)), spool, None) as attempt:
                    await use(attempt, stage)
            finally:
                assert open_to(peer.port) == 0
                left.set()
            raise AssertionError("it was not cancelled")

        async with asyncio.timeout(BOUND_SECONDS), running(attempt_it()) as task:
            await stage.wait()
            line = await peer.first()
            if phase == "waiting":
                await eventually(lambda: b"x" * size in line.received)
            else:
                await eventually(lambda: open_to(peer.port) == 1)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
        assert left.is_set()
        if phase == "sending":
            line.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a socket's can
        await line.silence()
        assert len(peer.lines) == 1


@pytest.mark.parametrize("phase", ["TCP", "TLS", "CONNECT"])
async def test_an_attempt_that_is_cancelled_while_connecting_leaves_no_connection(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    arrange = {
        "TCP": no_answer_to_connect,
        "TLS": tls_without_an_answer,
        "CONNECT": connect_never_answered,
    }[phase]
    async with UpstreamClient(BOUND_SECONDS) as edge, AsyncExitStack() as stack:
        url, proxy, peer = await arrange(stack, monkeypatch)
        port = peer.port if peer is not None else int(url.rpartition(":")[2])
        before = open_to(port)

        async def attempt_it() -> None:
            async with edge.connection(call(url), spool, proxy) as attempt:
                await attempt.open(BOUND_SECONDS)

        async with running(attempt_it()) as task:
            await eventually(lambda: task.done() or open_to(port) > before)
            if peer is not None:
                line = await peer.first()
                await eventually(lambda: line.received)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: open_to(port) == before)
        if peer is not None:
            await eventually(lambda: line.gone)
            assert TOKEN.encode() not in line.received


@pytest.mark.parametrize("phase", ["sent", "answered", "streaming"])
async def test_an_exception_in_the_block_leaves_no_connection(
    edge: UpstreamClient, spool: Spool, phase: str
) -> None:
    script = silent if phase == "sent" else begun_answer
    async with Peer(script) as peer:

        async def attempt_it() -> None:
            async with edge.connection(call(peer.url), spool, None) as attempt:
                answer = await attempt.open(0.3 if phase == "sent" else BOUND_SECONDS)
                if phase == "streaming":
                    assert await anext(answer.chunks(BOUND_SECONDS, BOUND_SECONDS)) == b"first"
                raise BoomError

        with pytest.raises(LostError if phase == "sent" else BoomError):
            await attempt_it()
        assert open_to(peer.port) == 0
        line = await peer.first()
        await eventually(lambda: line.gone)


@pytest.mark.parametrize("read", ["all", "some", "nothing"])
@pytest.mark.parametrize("keep_alive", [True, False])
async def test_a_finished_attempt_leaves_no_connection(
    edge: UpstreamClient, spool: Spool, read: str, *, keep_alive: bool
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        length = 5 if read == "all" else 1000
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % length)
        await line.send(b"connection: keep-alive\r\n\r\n" if keep_alive else b"\r\n")
        await line.send(b"first")
        await line.silence()

    async with Peer(script) as peer:
        async with edge.connection(call(peer.url), spool, None) as attempt:
            answer = await attempt.open(BOUND_SECONDS)
            if read != "nothing":
                async for chunk in answer.chunks(BOUND_SECONDS, BOUND_SECONDS):
                    assert chunk == b"first"
                    if read == "some":
                        break
        assert open_to(peer.port) == 0
        line = await peer.first()
        await eventually(lambda: line.gone)


async def test_an_attempt_that_was_never_opened_costs_nothing(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    async with edge.connection(call(upstream.url), spool, None) as attempt:
        assert not attempt.connected
    assert upstream.connections == 0


class SlowToClose:
    """A connection that takes its time to close, as far as an attempt can see."""

    def __init__(self) -> None:
        self.aborted = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport = self

    def abort(self) -> None:
        self.aborted += 1


@pytest.mark.parametrize("cancels", [0, 1, 3])
async def test_the_block_is_not_left_before_its_connection_is_closed(
    edge: UpstreamClient, spool: Spool, cancels: int
) -> None:
    connection = SlowToClose()
    inside = asyncio.Event()

    async def attempt_it() -> None:
        async with edge.connection(call("http://127.0.0.1"), spool, None) as attempt:
            attempt._state.connected(connection)  # type: ignore[arg-type]  # as much as is used
            inside.set()

    async with running(attempt_it()) as task:
        await inside.wait()
        for _ in range(cancels):
            await asyncio.sleep(0)
            task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert connection.aborted == 1
        assert not task.done()
        connection.closed.set_result(None)
        done, _ = await asyncio.wait([task], timeout=BOUND_SECONDS)
        assert done
        assert task.cancelled() == bool(cancels), "a cancellation is not swallowed"


@pytest.mark.parametrize("error", [ConnectionResetError(), aiohttp.ServerDisconnectedError()])
async def test_how_a_connection_closed_is_of_no_interest(
    edge: UpstreamClient, spool: Spool, error: Exception
) -> None:
    connection = SlowToClose()
    connection.closed.set_exception(error)
    async with edge.connection(call("http://127.0.0.1"), spool, None) as attempt:
        attempt._state.connected(connection)  # type: ignore[arg-type]  # as much as is used
    assert connection.aborted == 1


async def test_a_connection_that_does_not_close_holds_its_slot_for_a_bounded_time(
    edge: UpstreamClient,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(upstream_module, "CLOSE_SECONDS", 0.05)
    connection = SlowToClose()
    async with asyncio.timeout(BOUND_SECONDS):
        async with edge.connection(call("http://127.0.0.1"), spool, None) as attempt:
            attempt._state.connected(connection)  # type: ignore[arg-type]  # as much as is used
    assert [said.levelname for said in caplog.records] == ["ERROR"]
    connection.closed.cancel()


async def test_attempts_at_once_do_not_mistake_each_others_connections(
    edge: UpstreamClient, spool: Spool
) -> None:
    """One of two is cancelled, and the other has its answer."""
    go = asyncio.Event()

    async def script(line: Line) -> None:
        head, _ = await line.request()
        if b"x-who: second" in head:
            await go.wait()
            await line.send(OK)
        await line.silence()

    async with Peer(script) as peer:

        async def attempt_it(who: str) -> bytes:
            async with edge.connection(call(peer.url, x_who=who), spool, None) as attempt:
                return (await fetch(attempt))[1]

        async with running(attempt_it("first")) as first, running(attempt_it("second")) as second:
            await eventually(lambda: len(peer.lines) == 2 and all(it.received for it in peer.lines))
            first.cancel()
            await asyncio.wait([first])
            assert open_to(peer.port) == 1
            go.set()
            assert await second == b"{}"
            assert open_to(peer.port) == 0


async def test_without_its_session_no_attempt_is_made(spool: Spool) -> None:
    with pytest.raises(RuntimeError):
        UpstreamClient(1).connection(call("http://127.0.0.1"), spool, None)


# -- proxies ---------------------------------------------------------------------------------------


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


PROXIES: list[tuple[Secret | None, Secret | None, str | None]] = [
    (None, None, None),
    (Secret("wer"), Secret("geheim:ü"), basic("wer:geheim:ü")),
    (Secret("who"), None, basic("who:")),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("username", "password", "expected"), PROXIES)
async def test_a_proxys_credentials_go_to_the_proxy_and_nowhere_else(
    edge: UpstreamClient,
    spool: Spool,
    anonymous_tls: ssl.SSLContext,
    *,
    scheme: str,
    username: Secret | None,
    password: Secret | None,
    expected: str | None,
) -> None:
    heads: list[bytes] = []

    async def script(line: Line) -> None:
        heads.append((await line.request())[0])
        await line.send(OK)

    async with Peer(script, anonymous_tls if scheme == "https" else None) as proxy:
        way = Proxy(f"{scheme}://127.0.0.1:{proxy.port}", username, password)
        async with edge.connection(call("http://upstream.invalid:81/v1"), spool, way) as attempt:
            answer, _ = await fetch(attempt)
            assert attempt.connected
        assert answer.status == 200
    [head] = heads
    assert head.startswith(b"POST http://upstream.invalid:81/v1/images/generations HTTP/1.1\r\n")
    named = {name.lower(): value for name, value in pairs(head)}
    assert named.pop("proxy-authorization", None) == expected
    assert named["authorization"] == f"Bearer {TOKEN}"
    assert named["host"] == "upstream.invalid:81"
    if expected is not None:
        assert expected.removeprefix("Basic ") not in str(named)


async def test_a_call_over_tls_arrives_to_the_byte(
    edge: UpstreamClient, spool: Spool, anonymous_tls: ssl.SSLContext
) -> None:
    got: list[tuple[bytes, bytes]] = []

    async def script(line: Line) -> None:
        got.append(await line.request())
        await line.send(OK)
        await line.silence()

    body = bytes(range(256)) * 10_000
    async with Peer(script, anonymous_tls) as peer:
        async with edge.connection(call(peer.url, (body,)), spool, None) as attempt:
            answer, received = await fetch(attempt)
        assert open_to(peer.port) == 0
        assert (answer.status, received) == (200, b"{}")
    assert [data for _, data in got] == [body]


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
async def test_a_tunnel_carries_the_call_and_not_the_proxys_credentials(
    edge: UpstreamClient, spool: Spool, anonymous_tls: ssl.SSLContext, proxy_scheme: str
) -> None:
    heads: list[bytes] = []
    connects: list[bytes] = []

    async def serve(line: Line) -> None:
        heads.append((await line.request())[0])
        await line.send(OK)
        await line.silence()

    async with Peer(serve, anonymous_tls) as peer:

        async def tunnel(line: Line) -> None:
            connects.append(await line.head())
            await line.send(b"HTTP/1.1 200 Fine\r\n\r\n")
            await line.relay(peer.port)

        tls = anonymous_tls if proxy_scheme == "https" else None
        async with Peer(tunnel, tls) as proxy:
            way = proxy_to(proxy.port, proxy_scheme)
            async with edge.connection(call(peer.url), spool, way) as attempt:
                answer, body = await fetch(attempt)
            assert open_to(proxy.port) == 0
            assert (answer.status, body) == (200, b"{}")
            line = await peer.first()
            await eventually(lambda: line.gone)
    [connect], [head] = connects, heads
    assert connect.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % peer.port)
    named = {name.lower(): value for name, value in pairs(connect)}
    assert named["proxy-authorization"] == basic("who:planted-password")
    assert TOKEN.encode() not in connect
    assert b"proxy-authorization" not in head.lower()
    assert TOKEN.encode() in head


async def test_each_account_goes_its_own_way(
    edge: UpstreamClient, spool: Spool, upstream: ScriptedUpstream
) -> None:
    ways: list[str] = []

    def way(name: str) -> Callable[[Line], Awaitable[None]]:
        async def script(line: Line) -> None:
            ways.append(name)
            await line.request()
            await line.send(OK)

        return script

    async with Peer(way("a")) as a, Peer(way("b")) as b:
        for proxy in (proxy_to(a.port), None, proxy_to(b.port), proxy_to(a.port)):
            async with edge.connection(call(upstream.url), spool, proxy) as attempt:
                await fetch(attempt)
    assert ways == ["a", "b", "a"]
    assert len(upstream.calls) == 1


async def test_a_proxy_that_answers_for_itself_may_have_passed_the_call_on(
    edge: UpstreamClient, spool: Spool
) -> None:
    """Without a tunnel nobody can tell a proxy's answer from its upstream's: it is an answer."""
    async with Peer(answered_by(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")) as proxy:
        way = proxy_to(proxy.port)
        async with edge.connection(call("http://upstream.invalid"), spool, way) as attempt:
            answer, _ = await fetch(attempt)
            assert attempt.connected
        assert answer.status == 502


# -- the answer's body -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def answering(
    edge: UpstreamClient, spool: Spool, script: Callable[[Line], Awaitable[None]]
) -> AsyncIterator[UpstreamResponse]:
    """The answer of a peer that reads the request and then does as scripted."""

    async def whole(line: Line) -> None:
        await line.request()
        await script(line)

    async with Peer(whole) as peer, edge.connection(call(peer.url), spool, None) as attempt:
        yield await attempt.open(BOUND_SECONDS)


def sends(*pieces: bytes, then: str = "close") -> Callable[[Line], Awaitable[None]]:
    async def script(line: Line) -> None:
        for piece in pieces:
            await line.send(piece)
        if then == "silence":
            await line.silence()
        elif then == "reset":
            line.reset()

    return script


PICTURE = bytes(range(256)) * 4000
WHOLE = {
    "by length": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(PICTURE) + PICTURE,
    "by chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(
        b"%x\r\n%s\r\n" % (len(PICTURE[at : at + 999]), PICTURE[at : at + 999])
        for at in range(0, len(PICTURE), 999)
    )
    + b"0\r\n\r\n",
    "by its end": b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE,
    "in HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
    % len(PICTURE)
    + PICTURE,
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
async def test_a_body_comes_to_the_byte_however_it_is_framed(
    edge: UpstreamClient, spool: Spool, answer: bytes
) -> None:
    async with answering(edge, spool, sends(answer)) as got:
        assert got.status == 200
        chunks = [chunk async for chunk in got.chunks(BOUND_SECONDS, BOUND_SECONDS)]
    assert b"".join(chunks) == PICTURE
    assert all(chunks)


async def test_a_piece_is_handed_on_as_soon_as_it_is_there(
    edge: UpstreamClient, spool: Spool
) -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await go.wait()
        await line.send(b"two")

    async with answering(edge, spool, script) as answer:
        chunks = answer.chunks(BOUND_SECONDS, BOUND_SECONDS)
        assert await anext(chunks) == b"one"
        go.set()
        assert await anext(chunks) == b"two"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CUT = {
    "by length": sends(LENGTH + b"first"),
    "by length, with nothing": sends(LENGTH),
    "by length, reset": sends(LENGTH + b"first", then="reset"),
    "by chunks, between two": sends(CHUNKED + b"5\r\nfirst\r\n"),
    "by chunks, in one": sends(CHUNKED + b"10\r\nfirst"),
    "by chunks, before the last line": sends(CHUNKED + b"5\r\nfirst\r\n0\r\n"),
}


@pytest.mark.parametrize("script", CUT.values(), ids=CUT)
async def test_a_body_that_is_cut_is_lost_and_not_taken_for_whole(
    edge: UpstreamClient, spool: Spool, script: Callable[[Line], Awaitable[None]]
) -> None:
    got = bytearray()

    async def read(answer: UpstreamResponse) -> None:
        async for chunk in answer.chunks(BOUND_SECONDS, BOUND_SECONDS):
            got.extend(chunk)

    async with answering(edge, spool, script) as answer:
        with pytest.raises(LostError) as caught:
            await read(answer)
    assert is_word(str(caught.value))
    assert b"first".startswith(got)


async def test_a_body_that_turns_into_noise_is_lost(edge: UpstreamClient, spool: Spool) -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(CHUNKED + b"5\r\nfirst\r\n")
        await go.wait()
        await line.send(b"noise\r\n")
        await line.silence()

    async with answering(edge, spool, script) as answer:
        # aiohttp closes the connection at once but tells its reader nothing: silence it is.
        chunks = answer.chunks(BOUND_SECONDS, 0.2)
        assert await anext(chunks) == b"first"
        go.set()
        with pytest.raises(LostError) as caught:
            await anext(chunks)
    assert is_word(str(caught.value))


async def test_silence_before_the_first_byte_has_a_time_of_its_own(
    edge: UpstreamClient, spool: Spool
) -> None:
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(LENGTH)
        await go.wait()
        await line.send(b"first")
        await line.silence()

    async with answering(edge, spool, script) as answer:
        chunks = answer.chunks(BOUND_SECONDS, 0.05)
        first = asyncio.ensure_future(anext(chunks))
        done, _ = await asyncio.wait([first], timeout=0.2)
        assert not done, "the time between bytes has not begun"
        go.set()
        assert await first == b"first"
        async with asyncio.timeout(BOUND_SECONDS):
            with pytest.raises(LostError):
                await anext(chunks)


async def test_silence_before_the_first_byte_is_bounded(edge: UpstreamClient, spool: Spool) -> None:
    async with answering(edge, spool, sends(LENGTH, then="silence")) as answer:
        for seconds in (0.05, 0.0, -1.0):
            async with asyncio.timeout(BOUND_SECONDS / 2):
                with pytest.raises(LostError):
                    await anext(answer.chunks(seconds, BOUND_SECONDS))


async def test_an_error_is_read_as_far_as_its_bounds_allow(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def endless(line: Line) -> None:
        await line.send(b"HTTP/1.1 500 Oh\r\n\r\n")
        while True:
            await line.send(b"x" * 65536)

    async with answering(edge, spool, endless) as answer, asyncio.timeout(BOUND_SECONDS / 2):
        assert await answer.read(100_000, BOUND_SECONDS) == b"x" * 100_000
    for script, expected in (
        (sends(LENGTH + b"first", then="silence"), b"first"),
        (sends(LENGTH, then="silence"), b""),
        (sends(LENGTH + b"first"), b"first"),
        (sends(WHOLE["by length"]), PICTURE),
    ):
        async with answering(edge, spool, script) as answer, asyncio.timeout(BOUND_SECONDS / 2):
            seconds = 0.2 if len(expected) < 1000 else BOUND_SECONDS
            assert await answer.read(len(PICTURE), seconds) in {expected, expected[:0]}


async def test_an_error_that_trickles_is_read_for_its_time_and_no_longer(
    edge: UpstreamClient, spool: Spool
) -> None:
    """The bound is on all of it, not on each byte."""

    async def trickle(line: Line) -> None:
        await line.send(b"HTTP/1.1 500 Oh\r\n\r\n")
        while not line.reader.at_eof():
            await line.send(b"x")
            await asyncio.sleep(0.02)

    async with answering(edge, spool, trickle) as answer, asyncio.timeout(BOUND_SECONDS / 2):
        got = await answer.read(10_000, 0.3)
    assert got
    assert set(got) == set(b"x")


# -- without a network -----------------------------------------------------------------------------


class Response(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 cannot build on aiohttp 3.14 by itself: it knows no stream writer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0), **options})


@pytest.fixture
def mocked() -> Iterator[aioresponses]:
    with aioresponses() as made:
        yield made


URL = "http://upstream.invalid/v1"


@pytest.mark.parametrize("status", [200, 299, 304, 400, 451, 503, 599])
async def test_status_headers_and_body_are_told_as_they_came(
    edge: UpstreamClient, spool: Spool, mocked: aioresponses, status: int
) -> None:
    mocked.post(
        f"{URL}/images/generations",
        status=status,
        body=b'{"error": 1}',
        content_type="application/problem+json",
        headers={"Retry-After-MS": "250", "X-RateLimit-Reset": "7"},
        response_class=Response,
    )
    async with edge.connection(call(URL), spool, None) as attempt:
        answer, body = await fetch(attempt)
    assert (answer.status, body) == (status, b'{"error": 1}')
    assert answer.headers == {
        "content-type": "application/problem+json",
        "retry-after-ms": "250",
        "x-ratelimit-reset": "7",
    }
    assert [len(made) for made in mocked.requests.values()] == [1]


PLANTED = "planted: sk-secret at 10.0.0.1"
KEY: Any = ConnectionKey("planted", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None,
                         proxy_headers_hash=None)  # fmt: skip
FOREIGN: list[Exception] = [
    aiohttp.ClientConnectorError(KEY, OSError(111, PLANTED)),
    aiohttp.ClientConnectorDNSError(KEY, OSError(-2, PLANTED)),
    aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, PLANTED)),
    aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError(PLANTED)),
    aiohttp.ClientProxyConnectionError(KEY, OSError(111, PLANTED)),
    aiohttp.ClientOSError(104, PLANTED),
    aiohttp.ServerDisconnectedError(PLANTED),
    aiohttp.ServerTimeoutError(PLANTED),
    aiohttp.ConnectionTimeoutError(PLANTED),
    aiohttp.SocketTimeoutError(PLANTED),
    aiohttp.ClientPayloadError(PLANTED),
    aiohttp.ClientConnectionResetError(PLANTED),
    aiohttp.InvalidURL(PLANTED),
    aiohttp.ClientError(PLANTED),
    TimeoutError(PLANTED),
    ConnectionResetError(104, PLANTED),
    BrokenPipeError(32, PLANTED),
    ssl.SSLError(1, PLANTED),
    OSError(101, PLANTED),
    ValueError(PLANTED),
]


@pytest.mark.parametrize("connected", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda it: type(it).__name__)
async def test_no_foreign_exception_gets_out_and_none_of_its_words(
    edge: UpstreamClient, spool: Spool, mocked: aioresponses, foreign: Exception, *, connected: bool
) -> None:
    """The same failure is sent or unsent by when it came, not by what it is called."""

    async def connect(*_: Any, **__: Any) -> None:
        if connected:
            connection: Any = SimpleNamespace(
                transport=SimpleNamespace(abort=lambda: None), closed=None
            )
            connectors.state.get().connected(connection)

    mocked.post(f"{URL}/images/generations", exception=foreign, callback=connect)
    expected = LostError if connected else UnsentError
    async with edge.connection(call(URL), spool, None) as attempt:
        with pytest.raises(expected) as caught:
            await attempt.open(BOUND_SECONDS)
        assert attempt.connected is connected
    assert str(caught.value) == type(foreign).__name__
    assert "planted" not in repr(attempt)
    assert [len(made) for made in mocked.requests.values()] == [1]


async def test_a_mistake_of_ours_is_not_taken_for_the_upstreams(
    edge: UpstreamClient, spool: Spool, mocked: aioresponses
) -> None:
    mocked.post(f"{URL}/images/generations", exception=ZeroDivisionError())
    async with edge.connection(call(URL), spool, None) as attempt:
        with pytest.raises(ZeroDivisionError):
            await attempt.open(BOUND_SECONDS)
