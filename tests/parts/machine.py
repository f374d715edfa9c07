"""A bare Debian under a real systemd: made by debootstrap, booted by systemd-nspawn.

It shares the network with the tests, so that their upstream is a port of its loopback; its own
files, processes, users and units are its own.  It needs root.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import IO, cast

from tests.parts.eventually import eventually_blocking

BOOT_SECONDS = 90.0
COMMAND_SECONDS = 300.0

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "postgresql",
    "caddy",
    "curl",
    "procps",
    "openssh-server",
)
"""A Debian server as it is rented, with what the install guide asks for: to install it each time
anew would be a test of Debian."""

_DONE = "=== this block is done ==="
_CACHE = Path("/var/tmp/image-gateway-tests")


class MachineError(AssertionError):
    """A command in the machine failed."""


class Machine:
    """A booted machine; ``root`` is its file system as seen from here."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes], leader: int) -> None:
        self.root = root
        self._process = process
        self._leader = leader

    def __repr__(self) -> str:
        return f"<Machine {self.root}>"

    def run(self, script: str, *, check: bool = True, **variables: str) -> str:
        """A shell script by the machine's root; gives what it printed, both streams."""
        done = self.start(script, **variables)
        try:
            words, _ = done.communicate(timeout=COMMAND_SECONDS)
        finally:
            if done.poll() is None:
                os.killpg(done.pid, signal.SIGKILL)
                done.wait()
        if check and done.returncode != 0:
            raise MachineError(f"{script!r} ended with {done.returncode}:\n{words}")
        return words.strip()

    def start(self, script: str, **variables: str) -> "subprocess.Popen[str]":
        """The same without waiting for its end."""
        return self._shell(["-c", script], subprocess.DEVNULL, variables)

    @contextmanager
    def shell(self, **variables: str) -> Iterator[Callable[[str], str]]:
        """One shell that stays, for one block after the other; gives what each printed."""
        process = self._shell([], subprocess.PIPE, variables)
        told, printed = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

        def run(block: str) -> str:
            # Whatever reads its input would take the next block for it.
            told.write(f"{{\n{block}\n}} </dev/null\necho; echo '{_DONE}'\n")
            told.flush()
            words = ""
            deadline = Timer(COMMAND_SECONDS, process.kill)
            deadline.start()
            try:
                for line in printed:
                    if line.strip() == _DONE:
                        return words
                    words += line
            finally:
                deadline.cancel()
            raise MachineError(f"a shell ended within this:\n{block}\n{words}")

        try:
            with process:
                yield run
        finally:
            process.kill()

    def _shell(
        self, arguments: Sequence[str], told: int, variables: Mapping[str, str]
    ) -> "subprocess.Popen[str]":
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **variables,
        }
        return subprocess.Popen(
            [
                *("nsenter", "--target", str(self._leader), "--all", "--"),
                *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
                *("sh", "-eu", *arguments),
            ],
            stdin=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property {name} --value {unit}")

    def kill(self) -> None:
        """Pull the plug."""
        try:
            os.kill(self._leader, signal.SIGKILL)
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine of its own below ``folder``, gone afterwards."""
    root = folder / "machine"
    subprocess.run(["cp", "--archive", "--reflink=auto", _base(), root], check=True)
    words = folder.joinpath("boot.log").open("wb")
    with words:
        process = subprocess.Popen(
            [
                *("systemd-nspawn", "--register=no", "--keep-unit", "--boot", "--quiet"),
                *("--console=pipe", "--resolv-conf=copy-host"),
                *("--directory", str(root), f"--machine=gateway{os.getpid()}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    machine = None
    try:
        try:
            machine = Machine(root, process, _leader(process))
            _wait_booted(machine)
        except AssertionError as error:
            said = folder.joinpath("boot.log").read_text("utf-8", "replace")
            raise AssertionError(f"{error}\n{said[-2000:]}") from None
        yield machine
    finally:
        if machine is not None:
            machine.kill()
        process.kill()
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _base() -> Path:
    """The file system before its first boot; made once on a computer, some minutes at most."""
    name = sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    final = _CACHE / f"bookworm-{name}"
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    with _CACHE.joinpath("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            draft = final.with_suffix(".partial")
            shutil.rmtree(draft, ignore_errors=True)
            done = subprocess.run(
                [
                    *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                    *("bookworm", str(draft)),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            draft.rename(final)
    return final


def _leader(process: subprocess.Popen[bytes]) -> int:
    """The pid of the machine's own first process, as it is called here.

    systemd-nspawn's first child makes this one and ends, and this one is a systemd only once it is
    in the machine's file system.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def found() -> list[int]:
        assert process.poll() is None, "systemd-nspawn has ended"
        return [int(pid) for pid in children.read_text().split() if _is_systemd(pid)]

    return eventually_blocking(found, BOOT_SECONDS)[0]


def _is_systemd(pid: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
    return False


def _wait_booted(machine: Machine) -> None:
    def state() -> str:
        return machine.run("systemctl is-system-running || true", check=False)

    eventually_blocking(lambda: state() in {"running", "degraded"}, BOOT_SECONDS, log=state)
