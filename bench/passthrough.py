"""Compare the CPU cost of the gateway with that of a bare pass-through on the same libraries.

    .venv/bin/python bench/passthrough.py

Both get the same calls, alternately, from one load generator with one connection for each call, and
have the same upstream, which answers at once.  CPU is that of the proxy process, from /proc; only
the ratio counts, because rates on shared machines drift.

W1: a picture of 1 KB, 32 calls at once.  W2: one of 2 MB (2.67 MB of base64), 16 at once.  W4: a
multipart edit of 4 MB, answered with a picture of 2 MB, 8 at once.  W5: W2 as a stream.
"""

import asyncio
import base64
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

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

ROUNDS = 4


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Work:
    """One kind of load."""

    name: str
    picture: int
    calls: int
    at_once: int
    upload: int = 0
    stream: bool = False

    def request(self, secret: str) -> bytes:
        if self.upload:
            picture = Piece("image", PNG + os.urandom(self.upload), "upload")
            body = forms.body(picture, ("prompt", "a cat"))
            return post(secret, body, "/v1/images/edits", {"content-type": forms.FORM})
        return post(
            secret, b'{"prompt": "a cat", "stream": %s}' % str(self.stream).lower().encode()
        )

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
    Work("W4", 2_000_000, 80, 8, upload=4_000_000),
    Work("W5", 2_000_000, 120, 16, stream=True),
)


async def upstream(work: Work) -> asyncio.Server:
    """Answers every request with the work's answer."""
    answer = work.answer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            remaining = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
            while remaining:
                remaining -= len(await reader.read(min(remaining, 2**18)))
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)


async def load(port: int, request: bytes, count: int, at_once: int) -> float:
    """Make the calls; return the seconds that they took."""
    slots = asyncio.Semaphore(at_once)

    async def call() -> None:
        async with slots:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
            writer.write(request)
            first = await reader.read(65536)
            assert first.startswith(b"HTTP/1.1 200"), first[:200]
            while await reader.read(2**20):
                pass
            writer.close()

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(count)))
    return time.monotonic() - began


async def compare(folder: Path, database: str) -> None:
    plane = Plane(database)
    plane.create()
    gateway = Gateway(folder, plane.reader_url, grant_ttl_seconds=5).start()
    secret = plane.add_key(key_id="bench")
    try:
        for work in WORKS:
            request = work.request(secret)
            server = await upstream(work)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            plane.execute("DELETE FROM image_control.accounts")
            plane.add_account("bench", url, dialect="openai", image_max_concurrency=1024)
            port = free_port()
            bare = subprocess.Popen([sys.executable, "-c", BARE, str(port), url])
            try:
                await asyncio.sleep(2)
                proxies = {"bare": (bare.pid, port), "gateway": (gateway.pid, gateway.port)}
                cost = dict.fromkeys(proxies, 0.0)
                took = dict.fromkeys(proxies, 0.0)
                for pid, _ in proxies.values():
                    os.sched_setaffinity(pid, {0})
                os.sched_setaffinity(0, {1})
                for _, target in proxies.values():
                    await load(target, request, work.at_once * 2, work.at_once)
                for _ in range(ROUNDS):
                    for name, (pid, target) in proxies.items():
                        before = cpu_seconds(pid)
                        took[name] += await load(target, request, work.calls, work.at_once)
                        cost[name] += cpu_seconds(pid) - before
                calls = ROUNDS * work.calls
                for name in proxies:
                    milliseconds = cost[name] / calls * 1000
                    rate = calls / took[name]
                    print(
                        f"{work.name} {name:8} {milliseconds:7.3f} CPU ms/call {rate:8.0f} calls/s"
                    )
                print(f"{work.name} ratio    {cost['gateway'] / cost['bare']:7.2f}")
            finally:
                bare.kill()
                bare.wait()
                server.close()
    finally:
        gateway.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, postgres.embedded() as database:
        uvloop.run(compare(Path(folder), database))


if __name__ == "__main__":
    main()
