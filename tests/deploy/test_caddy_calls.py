"""The real Caddy and what outlives a connection: calls, background responses, pictures' addresses.

``Caddyfile.example`` itself runs here, in front of scripted servers: one or two stand for the
gateway, and one is the text API.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from image_gateway.core.calls import addresses
from image_gateway.core.calls.addresses import Address
from image_gateway.core.calls.names import CallSecrets
from image_gateway.exchange import routes
from tests.deploy.test_caddy import TextApi, example, site
from tests.parts.caddy import Caddy
from tests.parts.eventually import eventually
from tests.parts.gateway import free_port, parse
from tests.parts.upstream import answers

pytestmark = pytest.mark.slow

KEY = CallSecrets.of(b"a key for hashing prompts").addresses
FILE = addresses.make(KEY, Address("call_" + "0123456789abcdef" * 2, 0, 2**31), "png")
TOKEN = FILE.removesuffix(".png")
IMPORTS = ("import image-gateway.caddy", "import image-intents.caddy")


class Machine(TextApi):
    """A server that takes the place of a gateway, on a port that is known before it listens."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.script = answers(200, b'{"id": "gateway"}', {"connection": "close"})


class Ways:
    """A Caddy with a gateway's place and a text API behind it."""

    def __init__(self, proxy: Caddy, machines: Sequence[Machine], text_api: TextApi) -> None:
        self.proxy = proxy
        self.machines = machines
        self.text_api = text_api

    async def ask(self, method: str, target: str, **headers: str) -> tuple[int, bytes]:
        """A request without a body through Caddy; status and body of the answer."""
        named = {"host": "api.example.com", "connection": "close"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in named.items())]
        status, _, body = parse(await self.proxy.raw("\r\n".join([*lines, "", ""]).encode()))
        return status, body


Begin = Callable[..., "contextlib.AbstractAsyncContextManager[Ways]"]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Start a Caddy with so many machines; ``lines`` make a site of their own of it."""

    @contextlib.asynccontextmanager
    async def made(
        machines: int = 1, lines: Sequence[str] = (), *, debug: bool = False
    ) -> AsyncIterator[Ways]:
        ports = [free_port() for _ in range(machines + 1)]
        text = site(*lines) if lines else example(ports[-1])
        text = text.replace("{text}", f"reverse_proxy 127.0.0.1:{ports[-1]}")
        if debug:
            text = text.replace("{\n", "{\n\tdebug\n", 1)
        named = " ".join(f"127.0.0.1:{port}" for port in ports[:-1])
        async with contextlib.AsyncExitStack() as stack:
            gateways = [await stack.enter_async_context(Machine(port)) for port in ports[:-1]]
            text_api = await stack.enter_async_context(TextApi(ports[-1]))
            proxy = Caddy(tmp_path, text, IMAGE_GATEWAY_ADDRESS=named)
            stack.callback(proxy.stop)
            await asyncio.to_thread(proxy.start)
            yield Ways(proxy, gateways, text_api)

    return made


@pytest.fixture
async def ways(begin: Begin) -> AsyncIterator[Ways]:
    """The example, with one gateway."""
    async with begin() as made:
        yield made


# -- who gets it -----------------------------------------------------------------------------------


CALLS = [
    ("GET", "/v1/images/calls"),
    ("GET", "/v1/images/calls?limit=10"),
    ("GET", "/images/calls"),
    ("GET", "/images/calls/call_0123456789abcdef"),
    ("GET", "/v1/images/calls/call_0123456789abcdef"),
    ("DELETE", "/v1/images/calls/call_0123456789abcdef"),
    ("OPTIONS", "/v1/images/calls/call_0123456789abcdef"),
    ("GET", f"/v1/images/files/{FILE}"),
    ("HEAD", f"/v1/images/files/{FILE}"),
    ("OPTIONS", f"/v1/images/files/{FILE}"),
]
BACKGROUND = [
    (method, f"{path}/resp_ig_0123456789abcdef{more}")
    for path in routes.RESPONSES
    for method, more in [
        ("GET", ""),
        ("GET", "?stream=true&starting_after=3"),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("OPTIONS", ""),
    ]
]


async def test_calls_pictures_and_background_responses_reach_the_gateway_as_they_were_sent(
    ways: Ways,
) -> None:
    for method, target in (*CALLS, *BACKGROUND):
        status, _ = await ways.ask(method, target)
        assert status == 200, target
        call = ways.machines[0].calls.pop()
        assert (call.method, call.target) == (method, target)
    assert ways.text_api.calls == []


OTHERS = [
    "/v1/responses/resp_0123456789abcdef",
    "/v1/responses/resp_0123456789abcdef/cancel",
    "/v1/responses/resp_igx",
    "/v1/responses/resp_",
    "/v1/responses/x/resp_ig_0123",
    "/v1/responses/resp_ig_0123/../resp_0123",
    "/v1/responsesx/resp_ig_0123",
    "/v2/responses/resp_ig_0123",
    "/openai/responses/resp_0123",
    "/responses/resp_0123/input_items",
    "/v1/files/file-0123",
    "/images/files/cat.png",
    "/images/callsx",
]


async def test_responses_of_others_and_other_files_are_the_text_api_s(ways: Ways) -> None:
    for target in OTHERS:
        for method in ("GET", "POST", "DELETE"):
            status, _ = await ways.ask(method, target)
            assert status == 200, target
            call = ways.text_api.calls.pop()
            assert (call.method, call.target) == (method, target)
    assert ways.machines[0].calls == []


BROADER = {
    "handle": ["handle /v1/* {", "{text}", "}"],
    "a longer handle": ["handle /v1/responses/* {", "{text}", "}", "handle {", "{text}", "}"],
    "several paths": ["@text path /v1/responses/* /v2/*", "handle @text {", "{text}", "}"],
    "route": ["route /v1/* {", "{text}", "}"],
    "reverse_proxy": ["{text}"],
}


@pytest.mark.parametrize("broader", BROADER.values(), ids=list(BROADER))
async def test_an_import_ahead_goes_before_broader_matchers(
    begin: Begin, broader: list[str]
) -> None:
    async with begin(lines=[*IMPORTS, *broader]) as ways:
        for target in ("/v1/images/calls/call_1", "/v1/responses/resp_ig_1"):
            assert await ways.ask("GET", target) == (200, b'{"id": "gateway"}')
        assert await ways.ask("GET", "/v1/responses/resp_1") == (200, b'{"id": "text"}')


async def test_without_the_gateway_a_poll_is_told_to_come_again(ways: Ways) -> None:
    await ways.machines[0].__aexit__(None, None, None)
    for target in ("/v1/images/calls/call_1", "/v1/responses/resp_ig_1"):
        status, body = await ways.ask("GET", target)
        assert status == 502
        assert b"image_gateway_unreachable" in body


# -- logs ------------------------------------------------------------------------------------------


async def test_no_log_holds_the_address_of_a_picture_or_a_key(begin: Begin) -> None:
    """Neither the access log nor the errors, with or without a gateway, at any level."""
    targets = [
        f"/v1/images/files/{FILE}",
        f"/v1/images/files/{FILE}?download=1",
        f"/v1/images/files/{TOKEN}",
        f"/V1/Images/Files/{FILE}",
        f"//v1//images//files/{FILE}",
        f"http://api.example.com/v1/images/files/{FILE}",
    ]
    secrets = {"authorization": "Bearer hush-1", "api_key": "hush-2"}
    async with begin(debug=True) as ways:
        for target in targets:
            assert (await ways.ask("GET", target, **secrets))[0] == 200
        await ways.machines[0].__aexit__(None, None, None)
        for target in targets:
            assert (await ways.ask("GET", target, **secrets))[0] == 502
        await ways.ask("GET", "/v1/models")

        def words() -> str:
            return ways.proxy.words()

        await eventually(lambda: '"/v1/models"' in words(), log=words)
        accessed = [line for line in words().splitlines() if "handled request" in line]
        assert len(accessed) == 2 * len(targets) + 1
        assert words().count("files/REDACTED") >= 2 * len(accessed) - 2
        assert "files/REDACTED?download=1" in words()
        for secret in (TOKEN, TOKEN[:20], TOKEN[-20:], "hush"):
            assert secret not in words()


async def test_the_files_of_others_are_logged_by_their_names(ways: Ways) -> None:
    await ways.ask("GET", "/v1/files/file-0123")
    await eventually(lambda: '"/v1/files/file-0123"' in ways.proxy.words())


# -- several machines ------------------------------------------------------------------------------


KEYS = [f"sk-{number}" for number in range(24)]


async def homes(ways: Ways, headers: Callable[[str], dict[str, str]]) -> dict[str, int]:
    """The machine that each key's requests go to, always the same one."""
    found: dict[str, int] = {}
    for key in KEYS:
        for method, target in [
            ("POST", "/v1/images/generations"),
            ("GET", "/v1/images/calls/call_1"),
            ("GET", "/v1/responses/resp_ig_1"),
        ]:
            assert (await ways.ask(method, target, **headers(key)))[0] == 200
            [at] = [at for at, machine in enumerate(ways.machines) if machine.calls]
            call = ways.machines[at].calls.pop()
            assert "image-gateway-key" not in call.headers
            assert found.setdefault(key, at) == at
    return found


async def test_all_requests_of_a_key_go_to_one_machine_and_the_keys_spread(begin: Begin) -> None:
    """However the client sends its key."""
    async with begin(machines=2) as ways:
        for headers in (
            bearer,
            lambda key: {"api_key": key},
            lambda key: {**bearer(key), "image_gateway_key": "one for all"},
        ):
            assert set((await homes(ways, headers)).values()) == {0, 1}


async def test_a_request_without_a_key_reaches_some_machine(begin: Begin) -> None:
    """An address of a picture has none: each machine that makes them needs its own PUBLIC_URL."""
    async with begin(machines=2) as ways:
        for _ in range(20):
            assert (await ways.ask("GET", f"/v1/images/files/{FILE}"))[0] == 200
        assert sum(len(machine.calls) for machine in ways.machines) == 20


async def test_a_machine_that_is_taken_out_moves_its_own_keys_alone(
    begin: Begin, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with begin(machines=3) as ways:
        before = await homes(ways, bearer)
        addresses_left = [f"127.0.0.1:{machine.port}" for machine in ways.machines[:2]]
        ways.proxy.stop()
        fewer = Caddy(
            tmp_path_factory.mktemp("fewer"),
            example(ways.text_api.port),
            IMAGE_GATEWAY_ADDRESS=" ".join(addresses_left),
        )
        ways.proxy = await asyncio.to_thread(fewer.start)
        try:
            after = await homes(ways, bearer)
        finally:
            fewer.stop()
        moved = {key for key in KEYS if before[key] != after[key]}
        assert moved == {key for key in KEYS if before[key] == 2}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
