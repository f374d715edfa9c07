"""Whether a client has received its response: what the end of its connection says."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import openai
import orjson
import pytest

from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.spool import SpooledBody, Spools
from tests.edge.client.stage import LARGE, MIB, Stage, client_of, kept, sockets
from tests.parts.eventually import BOUND_SECONDS, eventually

SMALL = orjson.dumps({"created": 1, "data": [{"b64_json": "A" * 1000}]})
PICTURE = orjson.dumps({"created": 1, "data": [{"b64_json": "A" * 5_000_000}]})


@dataclass
class Answering:
    """A script that answers and then asks whether the client has it."""

    body: SpooledBody
    framed: bool = True
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: bool | None = None
    seconds: float = 0.0

    async def __call__(self, downstream: Downstream) -> None:
        length = {"content-length": str(self.body.length)} if self.framed else {}
        try:
            await downstream.start(200, {"content-type": "application/json", **length})
            await downstream.send_body(self.body)
            await downstream.finish()
        except ClientLeftError:
            pass
        self.answered.set()
        began = time.monotonic()
        self.delivered = await downstream.delivered()
        self.seconds = time.monotonic() - began


@pytest.fixture
def answering(spools: Spools) -> Callable[[bytes], Awaitable[Answering]]:
    """Makes a script that answers with these bytes."""

    async def make(content: bytes) -> Answering:
        _, body = await kept(spools, content)
        return Answering(body)

    return make


Make = Callable[[bytes], Awaitable[Answering]]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Checks that the block leaves no socket and no task."""
    before, tasks = sockets(), asyncio.all_tasks()
    yield
    await eventually(lambda: sockets() == before)
    await eventually(lambda: asyncio.all_tasks() == tasks)


@asynccontextmanager
async def served(script: Answering) -> AsyncIterator[str]:
    """The script's URL, for many clients."""
    stage = Stage(script)
    async with stage.serving() as port:
        yield f"http://127.0.0.1:{port}"
        await eventually(lambda: script.delivered is not None)


@contextlib.contextmanager
def asked(url: str) -> Iterator[socket.socket]:
    """A client that has asked and reads nothing by itself; its buffers are small."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        client.setblocking(False)
        yield client


# -- received --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [SMALL, PICTURE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("version", "framed"),
    [(b"1.1", True), (b"1.1", False), (b"1.0", True), (b"1.0", False)],
    ids=["of known length", "chunked", "HTTP/1.0 of known length", "HTTP/1.0 until the end"],
)
async def test_a_client_that_reads_all_and_closes_has_it(
    answering: Make, content: bytes, version: bytes, *, framed: bool
) -> None:
    script = await answering(content)
    script.framed = framed
    async with nothing_left(), client_of(Stage(script), version) as client:
        assert (await client.read()).body == content
        client.leave()
    assert script.delivered is True
    assert script.seconds < BOUND_SECONDS / 4, "the client's end is noticed, not waited out"


async def test_a_client_gets_the_end_before_it_closes(answering: Make) -> None:
    """HTTP/1.0 clients, and others without a length, wait for it."""
    script = await answering(SMALL)
    async with client_of(Stage(script)) as client:
        await client.read()
        assert await client._reader.read() == b""
        assert script.delivered is None
        client.leave()
    assert script.delivered is True


async def test_a_client_that_never_closes_has_what_its_kernel_acknowledged(
    answering: Make,
) -> None:
    """It is slow to close, or forgets to; a call is not bought again for that."""
    script = await answering(PICTURE)
    async with nothing_left(), client_of(Stage(script, send_seconds=0.5)) as client:
        assert (await client.read()).body == PICTURE
        await eventually(lambda: script.delivered is not None)
    assert script.delivered is True
    assert script.seconds > 0.45


# -- not received ----------------------------------------------------------------------------------


async def test_a_client_that_closes_without_reading_has_nothing(answering: Make) -> None:
    """The response lies in its kernel's buffer, whole."""
    script = await answering(SMALL)
    async with nothing_left(), served(script) as url:
        with asked(url):
            await script.answered.wait()
    assert script.delivered is False


async def test_a_client_that_closes_half_way_does_not_have_it(answering: Make) -> None:
    script = await answering(PICTURE)
    async with nothing_left(), client_of(Stage(script)) as client:
        await client.read(lambda got: sum(map(len, got.pieces)) > len(PICTURE) // 2)
        client.leave()
    assert script.delivered is False


@pytest.mark.parametrize("reads", [True, False])
async def test_a_fin_before_all_is_acknowledged_proves_nothing(
    answering: Make, *, reads: bool
) -> None:
    """A client over a slow line may close when it has read all that came so far."""
    script = await answering(PICTURE[:MIB])
    async with nothing_left(), served(script) as url:
        with asked(url) as client:
            await script.answered.wait()
            client.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.1)  # it must not be taken for the end meanwhile
            assert script.delivered is None
            if reads:
                left = MIB
                while left > 0:
                    left -= len(await asyncio.get_running_loop().sock_recv(client, MIB))
                await eventually(lambda: script.delivered is not None)
    assert script.delivered is reads


async def test_a_client_that_stops_reading_does_not_have_it(answering: Make) -> None:
    """Nor does one whose machine has gone; what the kernel holds for it is not acknowledged."""
    script = await answering(PICTURE[:MIB])
    async with nothing_left(), client_of(Stage(script, send_seconds=0.5)):
        await script.answered.wait()
        await eventually(lambda: script.delivered is not None)
    assert script.delivered is False
    assert script.seconds > 0.45


async def test_a_client_that_took_too_little_does_not_have_it(answering: Make) -> None:
    script = await answering(bytes(LARGE))
    async with nothing_left(), client_of(Stage(script, send_seconds=0.2)):
        pass
    assert script.delivered is False
    assert script.seconds < 0.2


async def test_a_response_that_was_broken_off_is_not_delivered(spools: Spools) -> None:
    found: list[bool] = []

    async def script(downstream: Downstream) -> None:
        await downstream.start(200, {"content-length": "10"})
        await downstream.send(b"half")
        downstream.break_off()
        found.append(await downstream.delivered())

    async with nothing_left(), client_of(Stage(script)) as client:
        assert not (await client.read()).whole
    assert found == [False]


async def test_bytes_behind_the_response_end_the_connection(answering: Make) -> None:
    script = await answering(SMALL)
    async with nothing_left(), client_of(Stage(script)) as client:
        await client.read()
        client._writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert script.delivered is False


# -- not asked -------------------------------------------------------------------------------------


async def test_a_connection_whose_end_nobody_waits_for_is_closed_at_once(spools: Spools) -> None:
    async def script(downstream: Downstream) -> None:
        await downstream.answer(200, {}, SMALL)

    async with nothing_left(), client_of(Stage(script)) as client:
        assert (await client.read()).whole
        reading = client._writer.get_extra_info("socket")

        def is_closed() -> bool:
            state: int = reading.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            return state == 8  # CLOSE_WAIT: the FIN came

        await eventually(is_closed)


async def test_at_the_drain_deadline_a_client_that_does_not_close_is_not_waited_for(
    answering: Make,
) -> None:
    script = await answering(SMALL)
    stage = Stage(script)
    async with nothing_left(), stage.serving() as port:
        with asked(f"http://127.0.0.1:{port}") as client:
            await script.answered.wait()
            began = time.monotonic()
            assert stage.listener is not None
            await stage.listener.stop(0)
            assert time.monotonic() - began < 1
            assert client.recv(MIB).endswith(SMALL)
    assert script.delivered is False


# -- clients as they are ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [SMALL, PICTURE], ids=["small", "large"])
async def test_the_openai_sdk_has_it(answering: Make, content: bytes) -> None:
    script = await answering(content)
    async with (
        served(script) as url,
        openai.AsyncOpenAI(base_url=url, api_key="sk", max_retries=0) as client,
    ):
        answer = await client.images.generate(prompt="a cat")
        assert answer.data
        await eventually(lambda: script.delivered is not None)
    assert script.delivered is True
    assert script.seconds < BOUND_SECONDS / 4


@pytest.mark.parametrize("content", [SMALL, PICTURE], ids=["small", "large"])
async def test_curl_has_it(answering: Make, content: bytes) -> None:
    script = await answering(content)
    async with served(script) as url:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-s", url, stdout=asyncio.subprocess.PIPE
        )
        assert (await curl.communicate())[0] == content
    assert script.delivered is True
    assert script.seconds < BOUND_SECONDS / 4


KILLED = """
import socket, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"GET / HTTP/1.1\\r\\nhost: gateway\\r\\n\\r\\n")
count, wanted = 0, int(sys.argv[2])
while count < wanted:
    count += len(client.recv(min(65536, wanted - count)))
print("read", flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "read"),
    [(SMALL, 100), (PICTURE, len(PICTURE) // 2), (bytes(LARGE), LARGE // 2)],
    ids=["small", "in the kernel's buffers", "more than they hold"],
)
async def test_a_client_that_is_killed_half_way_does_not_have_it(
    answering: Make, content: bytes, read: int
) -> None:
    script = await answering(content)
    async with nothing_left(), served(script) as url:
        port = url.rpartition(":")[2]
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, port, str(read), stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        assert await client.stdout.readline() == b"read\n"
        client.send_signal(signal.SIGKILL)
        await client.wait()
    assert script.delivered is False
