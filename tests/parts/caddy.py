"""The real Caddy as a process, with a Caddyfile of a test's own."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import openai

from tests.parts.eventually import BOUND_SECONDS, eventually_blocking
from tests.parts.gateway import free_port

FOLDER = Path(__file__).parents[2] / "caddy"
"""The files that operators import."""

SITE = "api.example.com"
"""The address of the example's site."""

_STEP_SECONDS = 0.02


def run(folder: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of Caddy's commands, which keeps what it keeps in ``folder``."""
    return subprocess.run(
        ["caddy", *words],
        env=_environment(folder, environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_SECONDS,
    )


def adapt(folder: Path, config: Path, **environment: str) -> dict[str, Any]:
    """What Caddy makes of a Caddyfile."""
    done = run(folder, "adapt", "--adapter", "caddyfile", "--config", config, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Caddy:
    """One Caddy with a Caddyfile whose global options come first and whose one site is ``SITE``.

    The site is moved to a free port of the loopback, files of ``FOLDER`` are found there, and
    nothing else is changed.
    """

    def __init__(self, folder: Path, caddyfile: str, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment
        for ours, theirs in (
            ("{\n", "{\n\tadmin off\n"),
            (f"{SITE} {{\n", f"http://:{self.port} {{\n\tbind 127.0.0.1\n"),
        ):
            assert ours in caddyfile
            caddyfile = caddyfile.replace(ours, theirs, 1)
        self.config.write_text(caddyfile.replace("import ", f"import {FOLDER}/"), "utf-8")

    @property
    def config(self) -> Path:
        return self.folder / "Caddyfile"

    @property
    def words_path(self) -> Path:
        return self.folder / "caddy.log"

    def words(self) -> str:
        """What it said on stderr."""
        return self.words_path.read_text("utf-8") if self.words_path.exists() else ""

    def start(self) -> "Caddy":
        """Start the process and wait until it listens."""
        with self.words_path.open("ab") as words:
            self.process = subprocess.Popen(
                ["caddy", "run", "--adapter", "caddyfile", "--config", self.config],
                env=_environment(self.folder, self._environment),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        process = self.process

        def serves() -> bool:
            """It says so itself once its listeners are open."""
            assert process.poll() is None, self.words()
            return "serving initial configuration" in self.words()

        eventually_blocking(serves, log=self.words)
        return self

    def stop(self) -> None:
        """End it, and whatever it still serves."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    # -- its memory --------------------------------------------------------------------------------

    def forget_peak(self) -> int:
        """Let ``peak`` start again from what it holds now, which is given back, in bytes."""
        (self._proc / "clear_refs").write_text("5")  # proc(5)
        return self.peak()

    def peak(self) -> int:
        """The most memory that it has held since, in bytes."""
        status = (self._proc / "status").read_text("utf-8")
        [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) * 1024

    @property
    def _proc(self) -> Path:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}")

    # -- its clients -------------------------------------------------------------------------------

    def client(self, secret: str, **options: Any) -> openai.AsyncOpenAI:
        """The official SDK, without its own retries unless asked for."""
        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1",
            api_key=secret,
            **{"max_retries": 0, "timeout": 60, **options},
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def raw(self, data: bytes) -> bytes:
        """Send bytes that ask for the connection's end, give back all that comes until then."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), BOUND_SECONDS)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _environment(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Nothing of this machine's but the PATH, so that the files' own defaults count."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        **environment,
    }
