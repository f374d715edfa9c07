"""Calls through SOCKS: who looks names up, who is let in, and how certain a failure is."""

import asyncio
import gc
import logging
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from image_gateway.core.model import Proxy, Secret
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import LostError, UnsentError, UpstreamClient
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
    refusing,
    running,
    unanswering,
)
from tests.edge.socks import IPV4, IPV6, NAME, REPLIES, Break, Socks, Stage
from tests.parts.eventually import BOUND_SECONDS, eventually

SCHEMES = ["socks5", "socks5h"]
USERNAME = "planted-user"
PASSWORD = "planted-password"
SOON_SECONDS = 5.0
"""For what has no reason to wait for anything."""

Script = Callable[[Line], Awaitable[None]]


async def serves(line: Line) -> None:
    await line.request()
    await line.send(OK)
    await line.silence()


async def silent(line: Line) -> None:
    await line.silence()


def signed(port: int, scheme: str = "socks5h") -> Proxy:
    return Proxy(f"{scheme}://127.0.0.1:{port}", Secret(USERNAME), Secret(PASSWORD))


def unsigned(port: int, scheme: str = "socks5h") -> Proxy:
    return Proxy(f"{scheme}://127.0.0.1:{port}")


def resolve_to_loopback(patch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Let our own end find ``name``; gives the names that it looks up."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo
    looked_up: list[str] = []

    async def look_up(host: Any, *args: Any, **options: Any) -> Any:
        looked_up.append(host)
        return await real("127.0.0.1" if host == name else host, *args, **options)

    patch.setattr(loop, "getaddrinfo", look_up)
    return looked_up


# -- what the proxy is told ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upstream.invalid", "xn--bcher-kva.invalid"])
async def test_socks5h_sends_the_name_and_looks_nothing_up(
    edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    looked_up = resolve_to_loopback(monkeypatch, name)
    async with Peer(serves) as peer:
        socks = Socks(peer.port)
        async with Peer(socks) as proxy:
            way = unsigned(proxy.port)
            async with edge.connection(call(f"http://{name}:8080/v1"), spool, way) as attempt:
                answer, body = await fetch(attempt)
                assert attempt.connected
    assert (answer.status, body) == (200, b"{}")
    assert socks.asked == [(NAME, name.encode(), 8080)]
    assert name not in looked_up
    assert b"host: %s:8080\r\n" % name.encode() in peer.received.lower()


async def test_socks5_sends_an_address_that_was_looked_up_here(
    edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = resolve_to_loopback(monkeypatch, "upstream.invalid")
    async with Peer(serves) as peer:
        socks = Socks(peer.port)
        async with Peer(socks) as proxy:
            way = unsigned(proxy.port, "socks5")
            async with edge.connection(call("http://upstream.invalid/v1"), spool, way) as attempt:
                answer, _ = await fetch(attempt)
    assert answer.status == 200
    assert socks.asked == [(IPV4, b"\x7f\0\0\1", 80)]
    assert "upstream.invalid" in looked_up
    assert b"host: upstream.invalid\r\n" in peer.received.lower()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("host", "kind", "address"),
    [
        ("127.0.0.1", IPV4, socket.inet_pton(socket.AF_INET, "127.0.0.1")),
        ("[::1]", IPV6, socket.inet_pton(socket.AF_INET6, "::1")),
    ],
)
async def test_an_address_stays_an_address(
    edge: UpstreamClient, spool: Spool, scheme: str, host: str, kind: int, address: bytes
) -> None:
    async with Peer(serves) as peer:
        socks = Socks(peer.port)
        async with Peer(socks) as proxy:
            way = unsigned(proxy.port, scheme)
            async with edge.connection(call(f"http://{host}:81"), spool, way) as attempt:
                assert (await fetch(attempt))[0].status == 200
    assert socks.asked == [(kind, address, 81)]


@pytest.mark.parametrize("bound", [IPV4, NAME, IPV6])
async def test_where_the_proxy_says_it_is_bound_is_of_no_interest(
    edge: UpstreamClient, spool: Spool, bound: int
) -> None:
    async with Peer(serves) as peer, Peer(Socks(peer.port, bound=bound)) as proxy:
        way = unsigned(proxy.port)
        async with edge.connection(call("http://upstream.invalid"), spool, way) as attempt:
            assert (await fetch(attempt))[1] == b"{}"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_name_and_no_password_is_offered_unless_the_account_has_one(
    edge: UpstreamClient, spool: Spool, scheme: str
) -> None:
    async with Peer(serves) as peer:
        socks = Socks(peer.port)
        async with Peer(socks) as proxy:
            way = unsigned(proxy.port, scheme)
            async with edge.connection(call(peer.url), spool, way) as attempt:
                await fetch(attempt)
    assert socks.offers == [b"\0"]
    assert socks.signs == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_the_right_credentials_are_let_in_and_go_no_further_than_the_proxy(
    edge: UpstreamClient, spool: Spool, anonymous_tls: ssl.SSLContext, scheme: str, *, tls: bool
) -> None:
    body = bytes(range(256)) * 10_000
    got: list[tuple[bytes, bytes]] = []

    async def script(line: Line) -> None:
        got.append(await line.request())
        await line.send(OK)
        await line.silence()

    async with Peer(script, anonymous_tls if tls else None) as peer:
        socks = Socks(peer.port, account=(USERNAME, PASSWORD))
        async with Peer(socks) as proxy:
            way = signed(proxy.port, scheme)
            async with edge.connection(call(peer.url, (body,)), spool, way) as attempt:
                answer, received = await fetch(attempt)
                assert attempt.connected
            assert open_to(proxy.port) == 0
            line = await peer.first()
            await eventually(lambda: line.gone)
    assert (answer.status, received) == (200, b"{}")
    assert socks.signs == [(USERNAME, PASSWORD)]
    [(head, arrived)] = got
    assert arrived == body
    assert b"planted-user" not in head
    assert b"proxy" not in head.lower()
    assert (TOKEN.encode() in proxy.received) is not tls, "TLS ends at the upstream"


async def test_each_attempt_signs_with_its_own_accounts_credentials(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with Peer(serves) as peer:
        socks = Socks(peer.port, account=(USERNAME, PASSWORD))
        async with Peer(socks) as proxy:
            url = f"socks5h://127.0.0.1:{proxy.port}"
            for password, works in ((PASSWORD, True), ("another", False), (PASSWORD, True)):
                way = Proxy(url, Secret(USERNAME), Secret(password))
                async with edge.connection(call(peer.url), spool, way) as attempt:
                    if works:
                        assert (await fetch(attempt))[0].status == 200
                    else:
                        with pytest.raises(UnsentError):
                            await attempt.open(BOUND_SECONDS)
    assert [password for _, password in socks.signs] == [PASSWORD, "another", PASSWORD]
    assert len(peer.lines) == 2


# -- nothing was sent ------------------------------------------------------------------------------

Place = tuple[str, Proxy, Peer | None, Peer | None]
"""A URL to call, the proxy to go through, who listens at the proxy and behind it, if anybody."""

Arrange = Callable[[AsyncExitStack, pytest.MonkeyPatch], Awaitable[Place]]


async def proxy_refuses(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    return "http://planted.invalid", signed(stack.enter_context(refusing())), None, None


async def proxy_unreachable(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    return "http://planted.invalid", signed(stack.enter_context(unanswering())), None, None


async def fail_to_look_up(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "planted.invalid: Name or service not known")


async def proxy_has_no_address(stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Place:
    way = Proxy("socks5h://planted.invalid:1080", Secret(USERNAME), Secret(PASSWORD))
    # The name is under RFC 6761's .invalid, so that nobody answers for it anywhere.
    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail_to_look_up)
    return "http://upstream.invalid", way, None, None


async def upstream_has_no_address(stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Place:
    proxy = await stack.enter_async_context(Peer(Socks(9, account=(USERNAME, PASSWORD))))
    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail_to_look_up)
    return "http://planted.invalid", signed(proxy.port, "socks5"), proxy, None


def socks_as(scheme: str = "http", **told: Any) -> Arrange:
    async def arrange(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
        socks = Socks(9, **{"account": (USERNAME, PASSWORD), **told})
        proxy = await stack.enter_async_context(Peer(socks))
        return f"{scheme}://planted.invalid", signed(proxy.port), proxy, None

    return arrange


def credentials_of(username: str, password: str | None) -> Arrange:
    async def arrange(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
        proxy = await stack.enter_async_context(Peer(Socks(9, account=(USERNAME, PASSWORD))))
        url = f"socks5h://127.0.0.1:{proxy.port}"
        secret = None if password is None else Secret(password)
        return "http://planted.invalid", Proxy(url, Secret(username), secret), proxy, None

    return arrange


async def no_credentials(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
    proxy = await stack.enter_async_context(Peer(Socks(9, account=(USERNAME, PASSWORD))))
    return "http://planted.invalid", unsigned(proxy.port), proxy, None


def tls_to(script: Script, context: Callable[[], ssl.SSLContext] | None = None) -> Arrange:
    async def arrange(stack: AsyncExitStack, _: pytest.MonkeyPatch) -> Place:
        peer = Peer(script, None if context is None else context())
        await stack.enter_async_context(peer)
        socks = Socks(peer.port, account=(USERNAME, PASSWORD))
        proxy = await stack.enter_async_context(Peer(socks))
        return "https://planted.invalid", signed(proxy.port), proxy, peer

    return arrange


async def answers_in_plain(line: Line) -> None:
    await line.read()
    await line.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


async def resets_at_once(line: Line) -> None:
    await line.read()
    line.reset()


async def closes_at_once(line: Line) -> None:
    await line.read()


UNSENT: dict[str, Arrange] = {
    "the proxy refuses the connection": proxy_refuses,
    "the proxy does not answer the connect": proxy_unreachable,
    "the proxy has no address": proxy_has_no_address,
    "the upstream has no address": upstream_has_no_address,
    "no credentials where they are wanted": no_credentials,
    "a wrong password": credentials_of(USERNAME, "planted-wrong"),
    "no password": credentials_of(USERNAME, None),
    "a password beyond ASCII": credentials_of(USERNAME, "planted-pässword"),
    "a password beyond 255 bytes": credentials_of(USERNAME, "planted-" + "x" * 255),
    "TLS to a plain port": tls_to(answers_in_plain),
    "TLS reset": tls_to(resets_at_once),
    "TLS closed": tls_to(closes_at_once),
    "TLS without an answer": tls_to(silent),
    "TLS without a trusted certificate": tls_to(
        silent, partial(anonymous, ssl.PROTOCOL_TLS_SERVER)
    ),
    **{f"{name}": socks_as(reply=code) for code, name in REPLIES.items()},
    **{
        f"{how.name.lower()} after {stage.name.lower()}": socks_as(broken=(stage, how))
        for stage in Stage
        for how in Break
    },
    "silence after connect, TLS": socks_as("https", broken=(Stage.CONNECT, Break.SILENCE)),
    "close after connect, TLS": socks_as("https", broken=(Stage.CONNECT, Break.CLOSE)),
}


def told(error: BaseException) -> str:
    """All that a log could make of an exception, those behind it included."""
    return "".join(traceback.format_exception(error))


@pytest.mark.slow
@pytest.mark.parametrize("arrange", UNSENT.values(), ids=UNSENT)
async def test_what_fails_before_the_connection_stands_was_not_sent(
    hasty_edge: UpstreamClient,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arrange: Arrange,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncExitStack() as stack:
        url, way, proxy, peer = await arrange(stack, monkeypatch)
        async with hasty_edge.connection(call(url), spool, way) as attempt:
            async with asyncio.timeout(SOON_SECONDS):
                with pytest.raises(UnsentError) as caught:
                    await attempt.open(BOUND_SECONDS)
            assert not attempt.connected
            shown = repr(attempt)
        assert is_word(str(caught.value))
        for text in (told(caught.value), shown, repr(way), caplog.text):
            for secret in (USERNAME, "planted-p", "planted-w", "planted-x", TOKEN):
                assert secret not in text
        for each in (proxy, peer):
            if each is not None:
                assert TOKEN.encode() not in each.received
                assert b"a cat" not in each.received
                assert len(each.lines) <= 1, "tried once"
        if proxy is not None:
            await eventually(lambda: open_to(proxy.port) == 0, SOON_SECONDS)


@pytest.mark.parametrize(
    "arrange",
    [
        proxy_unreachable,
        *(socks_as(broken=(stage, Break.SILENCE)) for stage in Stage),
        tls_to(silent),
    ],
    ids=["TCP", *(stage.name for stage in Stage), "TLS"],
)
async def test_an_attempts_own_time_ends_its_connecting_too(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, arrange: Arrange
) -> None:
    async with UpstreamClient(10 * BOUND_SECONDS) as edge, AsyncExitStack() as stack:
        url, way, _, _ = await arrange(stack, monkeypatch)
        async with asyncio.timeout(SOON_SECONDS), edge.connection(call(url), spool, way) as attempt:
            with pytest.raises(UnsentError):
                await attempt.open(0.1)


async def test_where_the_library_gives_up_before_we_do_nothing_was_sent_either(
    edge: UpstreamClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a time of its own, 60 s, and whoever connects more patiently than that meets it."""
    monkeypatch.setattr("python_socks.async_.asyncio.v2._proxy.DEFAULT_TIMEOUT", 0.1)
    async with Peer(silent) as proxy:
        way = signed(proxy.port)
        async with edge.connection(call("http://a.invalid"), spool, way) as attempt:
            with pytest.raises(UnsentError) as caught:
                await attempt.open(BOUND_SECONDS)
        assert is_word(str(caught.value))
        await eventually(lambda: open_to(proxy.port) == 0, SOON_SECONDS)


# -- sent, and no answer ---------------------------------------------------------------------------


async def closed_after_accept(line: Line) -> None:
    pass


async def closed_after_the_request(line: Line) -> None:
    await line.request()


async def reset_after_the_request(line: Line) -> None:
    await line.request()
    line.reset()


async def half_a_head(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 200 OK\r\ncontent-le")


async def noise(line: Line) -> None:
    await line.request()
    await line.send(b"\x15\x03\x01\0\2\2F noise\r\n\r\n")
    await line.silence()


SENT: dict[str, Script] = {
    "closed after accept": closed_after_accept,
    "closed after the request": closed_after_the_request,
    "reset after the request": reset_after_the_request,
    "closed in the headers": half_a_head,
    "answered by noise": noise,
    "silence": silent,
}


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("script", SENT.values(), ids=SENT)
async def test_what_fails_behind_the_proxy_counts_as_sent_and_is_not_sent_again(
    edge: UpstreamClient,
    spool: Spool,
    anonymous_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    script: Script,
    *,
    tls: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Peer(script, anonymous_tls if tls else None) as peer:
        async with Peer(Socks(peer.port, account=(USERNAME, PASSWORD))) as proxy:
            async with edge.connection(call(peer.url), spool, signed(proxy.port)) as attempt:
                async with asyncio.timeout(SOON_SECONDS):
                    with pytest.raises(LostError) as caught:
                        await attempt.open(0.6)
                assert attempt.connected
            assert open_to(proxy.port) == 0
            assert len(proxy.lines) == 1
        assert len(peer.lines) == 1
    assert is_word(str(caught.value))
    for text in (told(caught.value), repr(attempt), caplog.text):
        assert "planted" not in text


async def test_a_body_that_is_cut_behind_the_proxy_is_lost(
    edge: UpstreamClient, spool: Spool
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst")

    async with Peer(script) as peer, Peer(Socks(peer.port)) as proxy:
        async with edge.connection(call(peer.url), spool, unsigned(proxy.port)) as attempt:
            with pytest.raises(LostError):
                await fetch(attempt)
            assert attempt.connected
        assert open_to(proxy.port) == 0


# -- the connection's end --------------------------------------------------------------------------


async def begun_answer(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst")
    await line.silence()


PHASES: dict[str, tuple[Stage | None, Script, bool]] = {
    "method": (Stage.METHOD, silent, False),
    "password": (Stage.PASSWORD, silent, False),
    "connect": (Stage.CONNECT, silent, False),
    "TLS": (None, silent, True),
    "waiting": (None, silent, False),
    "streaming": (None, begun_answer, False),
}


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancelled_attempt_leaves_no_connection_and_no_session(
    spool: Spool, phase: str, cancels: int
) -> None:
    stage, script, tls = PHASES[phase]
    async with UpstreamClient(10 * BOUND_SECONDS) as edge, Peer(script) as peer:
        broken = None if stage is None else (stage, Break.SILENCE)
        socks = Socks(peer.port, account=(USERNAME, PASSWORD), broken=broken)
        async with Peer(socks) as proxy:
            url = f"https://127.0.0.1:{peer.port}" if tls else peer.url
            attempt = edge.connection(call(url), spool, signed(proxy.port))

            async def attempt_it() -> None:
                try:
                    async with attempt:
                        await fetch(attempt)
                finally:
                    if attempt.connected:
                        assert open_to(proxy.port) == 0

            async with running(attempt_it()) as task:
                line = await proxy.first()
                if stage is None:
                    at_peer = await peer.first()
                    await eventually(lambda: at_peer.received)
                    if script is begun_answer:
                        await eventually(lambda: attempt._response is not None)
                else:
                    await eventually(lambda: stage in socks.reached)
                assert attempt.connected is (phase in {"waiting", "streaming"})
                for _ in range(cancels):
                    task.cancel()
                    await asyncio.sleep(0)
                done, _ = await asyncio.wait([task], timeout=SOON_SECONDS)
                assert done, "it hangs"
                assert task.cancelled()
            await eventually(lambda: open_to(proxy.port) == 0, SOON_SECONDS)
            assert attempt._session.closed
            assert len(proxy.lines) == 1
            if stage is None:
                await eventually(lambda: at_peer.gone)
            else:
                await eventually(lambda: line.gone)


async def test_an_exception_in_the_block_leaves_no_connection_and_no_session(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with Peer(begun_answer) as peer, Peer(Socks(peer.port)) as proxy:
        attempt = edge.connection(call(peer.url), spool, unsigned(proxy.port))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is it
            async with attempt:
                await attempt.open(BOUND_SECONDS)
                raise ZeroDivisionError
        assert open_to(proxy.port) == 0
        assert attempt._session.closed


async def test_an_attempt_that_was_never_opened_costs_nothing(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with Peer(silent) as proxy:
        async with edge.connection(
            call("http://a.invalid"), spool, unsigned(proxy.port)
        ) as attempt:
            assert not attempt.connected
        assert attempt._session.closed
        assert proxy.lines == []


async def test_an_attempt_through_socks_does_not_end_the_others_session(
    edge: UpstreamClient, spool: Spool
) -> None:
    async with Peer(serves) as peer, Peer(Socks(peer.port)) as proxy:
        for way in (None, unsigned(proxy.port), None):
            async with edge.connection(call(peer.url), spool, way) as attempt:
                assert (await fetch(attempt))[0].status == 200
        assert [len(proxy.lines), len(peer.lines)] == [1, 3]


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
async def test_fifty_attempts_of_any_end_leave_no_descriptor(
    spool: Spool, anonymous_tls: ssl.SSLContext
) -> None:
    async with (
        UpstreamClient(0.5) as edge,
        Peer(serves) as peer,
        Peer(serves, anonymous_tls) as tls_peer,
        Peer(silent) as mute,
        AsyncExitStack() as stack,
    ):
        account = (USERNAME, PASSWORD)
        scripts = [
            Socks(peer.port, account),
            Socks(tls_peer.port, account),
            Socks(mute.port, account),
            Socks(peer.port, ("somebody", "else")),
            Socks(peer.port, account, reply=5),
            Socks(peer.port, account, broken=(Stage.CONNECT, Break.RESET)),
            Socks(peer.port, account, broken=(Stage.METHOD, Break.SILENCE)),
        ]
        proxies = [await stack.enter_async_context(Peer(socks)) for socks in scripts]

        async def one(number: int) -> str:
            kind = number % len(scripts)
            url = f"{'https' if kind == 1 else 'http'}://upstream.invalid"
            way = signed(proxies[kind].port)
            async with edge.connection(call(url), spool, way) as attempt:
                try:
                    answer = await attempt.open(0.5 if kind == 2 else BOUND_SECONDS)
                except (UnsentError, LostError) as error:
                    return type(error).__name__
                return str(answer.status)

        found = [await one(number) for number in range(len(scripts))]
        assert found == ["200", "200", "LostError", *["UnsentError"] * 4]
        everyone = [peer, tls_peer, mute, *proxies]
        await eventually(lambda: all(open_to(each.port) == 0 for each in everyone))
        gc.collect()
        before = count_descriptors()
        for number in range(50):
            await one(number)
        gc.collect()
        await eventually(lambda: count_descriptors() <= before, SOON_SECONDS)
