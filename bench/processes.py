"""Programs under measurement: on a core of their own, with what they and their children cost.

CPU time comes from each process's own clock, peak memory from ``VmHWM``; both are summed over the
process that was started and all that descend from it.  Every program is the leader of a session of
its own, so that Ctrl-C reaches it only through ``kill``, and is ended by its id.
"""

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parts.gateway import free_port

START_SECONDS = 120.0

FOREIGN = ("image_gateway_", "litellm_", "openai_", "python")
"""What the caller's environment may hold for one of the programs, and would change it."""


@dataclass(frozen=True)
class Cores:
    """The core of the program under measurement, and that of everything else."""

    peer: int
    load: int

    @property
    def are_two(self) -> bool:
        return self.peer != self.load


def allow_descriptors() -> None:
    """As many descriptors as the machine allows: a thousand calls need thousands, in all peers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> Cores:
    """The first and the last core that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on this core, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class ProgramError(Exception):
    """A program did not start or ended early; the message has its last lines."""


class Program:
    """One running program that listens on ``port``, with what it says in ``log``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    async def wait_until_ready(self, path: str | None) -> None:
        """Wait until it accepts connections, and answers GET ``path`` with 200 where that is given.

        Raises ``ProgramError`` when it ends or the time is over.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(path):
            if self.process.poll() is not None:
                raise ProgramError(f"it ended with {self.process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"not ready within {START_SECONDS:.0f} s: {self._last_words()}")
            await asyncio.sleep(0.05)

    def cpu_seconds(self) -> float:
        return cpu_seconds(descent(self.process.pid))

    def peak_mb(self) -> float:
        """The most memory so far, in MB of 10^6 bytes; processes that have ended are left out."""
        return sum(map(_peak_mb, descent(self.process.pid)))

    def kill(self) -> None:
        """End all of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _is_ready(self, path: str | None) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                if path is None:
                    return True
                client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                return b" 200 " in client.recv(64)
        except OSError:
            return False

    def _last_words(self) -> str:
        words = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return " ".join(words.split())[-300:]


def start(
    command: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Program:
    """Start a program in ``folder``, where its log goes, too; it is not ready yet."""
    log = folder / "log"
    with log.open("ab") as words:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**clean_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    prefer_to_kill(process.pid)
    return Program(process, port or free_port(), log)


def clean_environment() -> dict[str, str]:
    """The caller's, without proxies and without settings of the programs; servers are found, too,
    which are often not on a user's PATH.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PATH": f"{kept.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def prefer_to_kill(pid: int) -> None:
    """If memory runs out, the kernel ends this program rather than another of the machine."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def descent(pid: int) -> list[int]:
    """The process and all that descend from it, as far as they live."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text("ascii").split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time that living processes have spent, all threads, user and system."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # Each process's own clock: clock_getcpuclockid(3), the kernel's MAKE_PROCESS_CPUCLOCK.
            # /proc/PID/stat counts in hundredths of a second, too coarse for nginx.
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def _peak_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024 / 1e6
    return 0.0
