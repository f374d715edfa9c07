"""What passes between the gateway and its supervisor, over real sockets and a real exec."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from image_gateway.edge import systemd

SECONDS = 20.0


@pytest.fixture
def path() -> Iterator[str]:
    """A short one: a socket's address has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="notify-") as folder:
        yield f"{folder}/socket"


# -- telling ---------------------------------------------------------------------------------------


def listening(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.settimeout(SECONDS)
    return made


def test_the_supervisor_is_told_at_its_path(path: str) -> None:
    with listening(path) as channel:
        systemd.notify({"NOTIFY_SOCKET": path}, "READY=1")
        systemd.notify({"NOTIFY_SOCKET": path}, "STOPPING=1")
        assert channel.recv(100) == b"READY=1"
        assert channel.recv(100) == b"STOPPING=1"


def test_the_supervisor_is_told_at_its_abstract_address() -> None:
    name = f"image-gateway-{secrets.token_hex(8)}"
    with listening(f"\0{name}") as channel:
        systemd.notify({"NOTIFY_SOCKET": f"@{name}"}, "READY=1")
        assert channel.recv(100) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_supervisor_nothing_is_told_and_nothing_said(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    systemd.notify(environment, "READY=1")
    assert caplog.records == []


@pytest.mark.parametrize(
    "address", ["/nonexistent/socket", "@nobody-is-here", "/dev/null", "/" + "x" * 500, "vsock:2:1"]
)
def test_a_supervisor_that_is_gone_is_no_reason_to_fail(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.notify({"NOTIFY_SOCKET": address}, "READY=1")
    [said] = caplog.records
    assert said.levelname == "WARNING"
    assert said.getMessage().startswith("cannot send READY=1 to NOTIFY_SOCKET: ")


async def test_a_supervisor_that_watches_hears_three_times_in_its_interval(path: str) -> None:
    environment = {
        "NOTIFY_SOCKET": path,
        "WATCHDOG_USEC": "300000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with listening(path) as channel:
        numbers = iter(range(100))
        task = asyncio.create_task(
            systemd.keep_watchdog(environment, lambda: f"{next(numbers)} calls")
        )
        started = time.monotonic()
        for number in range(4):
            said = await asyncio.to_thread(channel.recv, 100)
            assert said == b"WATCHDOG=1\nSTATUS=%d calls" % number
        assert time.monotonic() - started >= 0.3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
async def test_where_nobody_watches_there_is_no_sign_of_life(
    environment: dict[str, str], path: str
) -> None:
    with listening(path) as channel:
        channel.setblocking(False)
        await systemd.keep_watchdog({**environment, "NOTIFY_SOCKET": path}, lambda: "")
        with pytest.raises(BlockingIOError):
            channel.recv(100)


# -- inheriting ------------------------------------------------------------------------------------

INHERITOR = """
import os, select, socket, sys
from image_gateway.edge import systemd

found = systemd.inherited_sockets(os.environ)
for item in found:
    print(item.fileno(), item.getblocking(), os.get_inheritable(item.fileno()), flush=True)
for item in found:
    assert select.select([item], [], [], 20)[0]
    connection, _ = item.accept()
    connection.setblocking(True)
    connection.sendall(b"from %d" % item.fileno())
    connection.close()
"""


def bound(kind: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    made = socket.socket(kind, socket.SOCK_STREAM)
    made.bind(address)
    made.listen()
    return made


START = """
import fcntl, os, sys

pid, count, script, *numbers = sys.argv[1:]
# Out of each other's way first: one's place may be another's number.
away = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
for place, number in enumerate(away, 3):
    os.dup2(number, place)
os.environ |= {"LISTEN_PID": pid.replace("own", str(os.getpid())), "LISTEN_FDS": count}
os.execv(sys.executable, [sys.executable, "-c", script])
"""


def spawn(sockets: list[socket.socket], pid: str, count: int) -> subprocess.Popen[bytes]:
    """A process that has the sockets from 3 on, as systemd starts one; ``own``: its own pid."""
    numbers = [item.fileno() for item in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", START, pid, str(count), INHERITOR, *map(str, numbers)],
        pass_fds=numbers,
        stdout=subprocess.PIPE,
    )


def test_sockets_are_inherited_and_accept(path: str) -> None:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(bound(socket.AF_INET, ("127.0.0.1", 0))),
            stack.enter_context(bound(socket.AF_UNIX, path)),
        ]
        child = stack.enter_context(spawn(sockets, "own", 2))
        for number, item in enumerate(sockets, 3):
            with closing(socket.socket(item.family, socket.SOCK_STREAM)) as client:
                client.settimeout(SECONDS)
                client.connect(item.getsockname())
                assert client.recv(100) == b"from %d" % number
        assert child.wait(SECONDS) == 0
        assert child.stdout is not None
        # Not blocking, and not for the programs that the gateway may start.
        assert child.stdout.read() == b"3 False False\n4 False False\n"


@pytest.mark.parametrize("pid", ["1", "", "own1"])
def test_sockets_that_were_meant_for_another_process_are_left_alone(pid: str, path: str) -> None:
    with ExitStack() as stack:
        item = stack.enter_context(bound(socket.AF_UNIX, path))
        child = stack.enter_context(spawn([item], pid, 1))
        assert child.wait(SECONDS) == 0
        assert child.stdout is not None
        assert child.stdout.read() == b""


def test_without_a_supervisor_there_is_nothing_to_inherit() -> None:
    assert systemd.inherited_sockets({}) == []
    assert systemd.inherited_sockets({"LISTEN_FDS": "2"}) == []
    assert systemd.inherited_sockets({"LISTEN_PID": str(os.getpid())}) == []
