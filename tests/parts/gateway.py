"""The daemon as a process: ``python -m image_gateway serve``, driven from outside only."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai

from tests.parts.eventually import BOUND_SECONDS, eventually

START_SECONDS = 30.0
POOLED = 4
"""Connections to Postgres that a daemon may open, and keep, while a test counts descriptors."""


class Gateway:
    """One daemon on a free port, with its logs and its words in a folder of its own."""

    def __init__(
        self, folder: Path, database_url: str, python: str = sys.executable, **settings: Any
    ) -> None:
        self.folder = folder
        self.python = python
        self.port = free_port()
        self.ops_port = free_port()
        self.settings = {
            "BIND": f"127.0.0.1:{self.port}",
            "OPS_BIND": f"127.0.0.1:{self.ops_port}",
            "CONTROL_DATABASE_URL": database_url,
            "LOG_DIR": str(folder / "logs"),
            "STATE_DIR": str(folder / "state"),
            "SPOOL_DIR": str(folder / "spool"),
            # A test that changed the control plane wants the next request to see it, with no race
            # between the notification and the request.
            "GRANT_TTL_SECONDS": "0.000001",
            # A test that fills an account wants to be told so; one of waiting says how long.
            "SLOT_WAIT_SECONDS": "0",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(
        self,
        environment: dict[str, str] | None = None,
        passed: socket.socket | None = None,
        **options: Any,
    ) -> None:
        """Start the process and return at once; ``passed`` is a socket as systemd gives one."""
        command = [self.python, "-m", "image_gateway", "serve"]
        if passed is not None:
            number = passed.fileno()
            self.port = passed.getsockname()[1]
            options["pass_fds"] = [number]
            start = f'exec 3<&{number}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
            command = ["bash", "-c", start, "bash", *command]
        (self.folder / "spool").mkdir(parents=True, exist_ok=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("IMAGE_GATEWAY_", "COVERAGE"))
        }
        with self.words_path.open("ab") as words:
            self.process = subprocess.Popen(
                command,
                env={
                    **inherited,
                    **{f"IMAGE_GATEWAY_{name}": value for name, value in self.settings.items()},
                    **(environment or {}),
                },
                stdout=words,
                stderr=words,
                **options,
            )

    def start(self, environment: dict[str, str] | None = None, **options: Any) -> "Gateway":
        """Start the process and wait until it tells its supervisor that it is ready.

        The arguments are those of ``launch``.
        """
        address = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(address))
            supervisor.settimeout(START_SECONDS)
            self.launch({**(environment or {}), "NOTIFY_SOCKET": str(address)}, **options)
            try:
                assert supervisor.recv(256) == b"READY=1"
            except TimeoutError:
                raise AssertionError(f"not ready: {self.words()}") from None
        # The socket is gone; what the daemon says at its end goes nowhere, as under no systemd.
        address.unlink()
        return self

    def stop(self, seconds: float = BOUND_SECONDS) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = BOUND_SECONDS) -> int:
        assert self.process is not None
        code = self.process.wait(seconds)
        # Nothing waits for a callback or a task of its own, so only the words tell of its bugs.
        assert "asyncio: " not in self.words(), self.words()
        return code

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def words_path(self) -> Path:
        return self.folder / "words.log"

    def words(self) -> str:
        """What the process said on stdout and stderr."""
        return self.words_path.read_text("utf-8") if self.words_path.exists() else ""

    # -- records ---------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """Every record so far, oldest first, sealed files included."""
        folder = self.folder / "logs"
        found = []
        for path in [*sorted(folder.glob("requests-*.jsonl")), folder / "requests.jsonl"]:
            if path.exists():
                # The last line may be on its way.
                whole = path.read_text("utf-8").split("\n")[:-1]
                found += [json.loads(line) for line in whole]
        return found

    async def record(self, **wanted: Any) -> dict[str, Any]:
        """The one record with these fields, once it is written."""

        def look() -> list[dict[str, Any]]:
            return [r for r in self.records() if all(r[name] == v for name, v in wanted.items())]

        found = await eventually(look)
        assert len(found) == 1, found
        return found[0]

    # -- the process, seen from outside ------------------------------------------------------------

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def files(self) -> list[str]:
        """What its descriptors lead to; one may be closed while they are read."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(link.readlink()))
        return found

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of ``VmRSS`` (now) or ``VmHWM`` (peak)."""
        for line in Path(f"/proc/{self.pid}/status").read_text("utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def forget_peak(self) -> None:
        """Let ``VmHWM`` start again from here (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    # -- clients -----------------------------------------------------------------------------------

    def client(self, secret: str, **options: Any) -> openai.AsyncOpenAI:
        """The official SDK, without its own retries unless asked for."""
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=secret, **{"max_retries": 0, "timeout": 60, **options}
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def ops(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """A page of the ops port: status, headers and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ops_port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: ops\r\n\r\n".encode())
            return parse(await asyncio.wait_for(reader.read(), BOUND_SECONDS))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def raw(self, data: bytes) -> bytes:
        """Send bytes, give back all that comes until the end."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), BOUND_SECONDS)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What still comes, until the end or until the connection is reset."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(65536), BOUND_SECONDS):
            found += chunk
    return found


def free_port() -> int:
    """A port that nobody listens on, to be bound later.

    It is below those that the kernel gives to outgoing connections, one of which might take it
    before a daemon that is started does.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def post(
    secret: str | None,
    body: bytes,
    path: str = "/v1/images/generations",
    headers: dict[str, str] | None = None,
) -> bytes:
    """The bytes of one POST."""
    fields = {
        "host": "gateway",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **({} if secret is None else {"authorization": f"Bearer {secret}"}),
        **(headers or {}),
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def unlike(**parameters: Any) -> bytes:
    """The body of a call that no other is equal to.

    After an unknown outcome the gateway warns of an equal one instead of making it.
    """
    return json.dumps({"prompt": f"cat {secrets.token_hex(8)}", **parameters}).encode()


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a raw answer; a chunked body is put together."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            count = int(size, 16)
            whole += body[:count]
            body = body[count + 2 :]
            if count == 0:
                break
        body = whole
    return int(first.split(" ")[1]), headers, body
