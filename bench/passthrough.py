"""Compare the cost of the gateway with that of a bare pass-through on the same libraries.

    .venv/bin/python bench/passthrough.py [--against FOLDER] [--rounds N] [W1 W2 ...]

All get the same calls, alternately, from one load generator with one connection for each call, and
have the same upstream.  CPU and memory are those of the proxy process, from /proc; only ratios
count, because rates on shared machines drift.  ``--against`` measures the gateway of another
checkout beside this one.  Each work starts its proxies anew, so that a peak is its own.

W1: a picture of 1 KB, 32 calls at once.  W2: one of 2 MB (2.67 MB of base64), 16 at once.  W3: W2
with an upstream that takes 2 to 5 s, 200 at once.  W4: a multipart edit of 4 MB, answered with a
picture of 2 MB, 8 at once.  W5: W2 as a stream.  W6: W2 for 200 clients that read 320 KB/s.
"""

import argparse
import asyncio
import base64
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from image_gateway.demo import postgres
from tests.parts import forms
from tests.parts.forms import Piece
from tests.parts.gateway import Gateway, free_port, post
from tests.parts.plane import Plane
from tests.parts.upstream import PNG

BARE = """
import asyncio, sys
import aiohttp, uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config

class App:
    session = None
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        if App.session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            App.session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        kind = dict(scope["headers"])[b"content-type"].decode()
        async with App.session.post(
            sys.argv[2] + "/images", data=body, headers={"content-type": kind}
        ) as answer:
            names = ("content-type", "content-length")
            got = answer.headers
            headers = [(name.encode(), got[name].encode()) for name in names if name in got]
            headers.append((b"connection", b"close"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

config = Config()
config.bind = [f"127.0.0.1:{sys.argv[1]}"]
config.backlog = 4096
uvloop.run(serve(App(), config))
"""

PROMPT = b"cat 00000000"
"""Each call asks for a cat of its own: the gateway would look at all calls that are equal."""

SLOW_READ = 64 * 1024
SLOW_SECONDS = 0.2
"""A slow client reads so much, so often; its socket holds no more (its kernel's buffer)."""


@dataclass(frozen=True)
class Work:
    """One kind of load."""

    name: str
    picture: int
    calls: int
    at_once: int
    upload: int = 0
    stream: bool = False
    delay: tuple[float, float] = (0, 0)
    slow: bool = False

    def request(self, secret: str) -> bytes:
        if self.upload:
            picture = Piece("image", PNG + os.urandom(self.upload), "upload")
            body = forms.body(picture, ("prompt", PROMPT.decode()))
            return post(secret, body, "/v1/images/edits", {"content-type": forms.FORM})
        stream = str(self.stream).lower().encode()
        return post(secret, b'{"prompt": "%b", "stream": %b}' % (PROMPT, stream))

    def answer(self) -> bytes:
        picture = base64.b64encode(os.urandom(self.picture))
        if self.stream:
            name = b"image_generation.completed"
            data = b'{"type":"%b","b64_json":"%b","usage":{"total_tokens":1}}' % (name, picture)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            return head + b"event: %b\ndata: %b\n\n" % (name, data)
        body = b'{"created":1,"data":[{"b64_json":"%b"}],"usage":{"total_tokens":1}}' % picture
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return head % len(body) + body


WORKS = (
    Work("W1", 1000, 1500, 32),
    Work("W2", 2_000_000, 120, 16),
    Work("W3", 2_000_000, 200, 200, delay=(2, 5)),
    Work("W4", 2_000_000, 80, 8, upload=4_000_000),
    Work("W5", 2_000_000, 120, 16, stream=True),
    Work("W6", 2_000_000, 200, 200, slow=True),
)


@dataclass
class Proxy:
    """One process under load, and what it has cost so far."""

    name: str
    pid: int
    port: int
    cpu: float = 0.0
    took: float = 0.0

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000


async def upstream(work: Work) -> asyncio.Server:
    """Answers every request with the work's answer."""
    answer = work.answer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            remaining = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
            while remaining:
                remaining -= len(await reader.read(min(remaining, 2**18)))
            await asyncio.sleep(random.uniform(*work.delay))
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)


async def read_all(port: int, request: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(request)
    first = await reader.read(65536)
    assert first.startswith(b"HTTP/1.1 200"), first[:200]
    while await reader.read(2**20):
        pass
    writer.close()


async def read_slowly(port: int, request: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_READ)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, request)
        first = await loop.sock_recv(client, SLOW_READ)
        assert first.startswith(b"HTTP/1.1 200"), first[:200]
        while await loop.sock_recv(client, SLOW_READ):
            await asyncio.sleep(SLOW_SECONDS)


async def load(port: int, work: Work, request: bytes, count: int) -> float:
    """Make the calls; return the seconds that they took."""
    slots = asyncio.Semaphore(work.at_once)

    async def call() -> None:
        async with slots:
            own = request.replace(PROMPT, b"cat %08x" % random.getrandbits(32))
            await (read_slowly if work.slow else read_all)(port, own)

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(count)))
    return time.monotonic() - began


async def measure(work: Work, proxies: list[Proxy], request: bytes, rounds: int) -> None:
    for proxy in proxies:
        os.sched_setaffinity(proxy.pid, {0})
        await load(proxy.port, work, request, min(work.at_once, 16) * 2)
    for _ in range(rounds):
        for proxy in proxies:
            before = proxy.cpu_seconds()
            proxy.took += await load(proxy.port, work, request, work.calls)
            proxy.cpu += proxy.cpu_seconds() - before
    calls = rounds * work.calls
    gigabytes = calls * len(work.answer()) / 1e9
    for proxy in proxies:
        print(
            f"{work.name} {proxy.name:8} {proxy.cpu / calls * 1000:7.3f} CPU ms/call "
            f"{proxy.cpu / gigabytes:7.2f} CPU s/GB {calls / proxy.took:7.0f} calls/s "
            f"{proxy.peak_mb():6.0f} MB peak   {proxy.cpu / proxies[0].cpu:5.2f} times bare",
            flush=True,
        )


async def compare(folder: Path, database: str, args: argparse.Namespace) -> None:
    plane = Plane(database)
    plane.create()
    secret = plane.add_key(key_id="bench")
    checkouts = {"gateway": ROOT, **({"against": args.against.resolve()} if args.against else {})}
    os.sched_setaffinity(0, {1})
    for work in WORKS:
        if args.works and work.name not in args.works:
            continue
        server = await upstream(work)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plane.execute("DELETE FROM image_control.accounts")
        plane.add_account("bench", url, dialect="openai", image_max_concurrency=1024)
        with ExitStack() as closing:
            closing.callback(server.close)
            port = free_port()
            bare = subprocess.Popen([sys.executable, "-c", BARE, str(port), url])
            closing.callback(bare.wait)
            closing.callback(bare.kill)
            proxies = [Proxy("bare", bare.pid, port)]
            for name, checkout in checkouts.items():
                place = folder / work.name / name
                place.mkdir(parents=True)
                settings = {"grant_ttl_seconds": 5, "slot_wait_seconds": 60}
                gateway = Gateway(place, plane.reader_url, **settings)
                gateway.start(cwd=checkout)
                closing.callback(gateway.stop)
                proxies.append(Proxy(name, gateway.pid, gateway.port))
            await asyncio.sleep(2)
            rounds = 1 if work.at_once >= 200 else args.rounds
            await measure(work, proxies, work.request(secret), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("works", nargs="*", metavar="W1", help="all of them by default")
    parser.add_argument("--against", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres.embedded() as database:
        uvloop.run(compare(Path(folder), database, args))


if __name__ == "__main__":
    main()
