"""A systemd of states and accidents for ``scripts/release``, with the ops ports of its instances.

Fake, as the true one (``test_machine.py``) needs seconds for these states, or an accident.  It
keeps what the script asks for: the state, the process and the start of each unit, and what was
said to it, in order.  What a start leads to is the fate of the release that is started.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COLOURS = ("blue", "green")
_PROGRAMS = ("systemctl", "journalctl")
_REAL_RUN = subprocess.run


class Fate(Enum):
    """What becomes of a release that is started."""

    SERVES = auto()
    FAILS_TO_START = auto()
    IS_NEVER_READY = auto()
    IS_ANOTHER = auto()  # ready, and its ops port names another version
    ENDS = auto()  # once it was ready, and systemd is about to start it again
    RESTARTS = auto()  # once it was ready, and is ready again as another process


class FailedError(Exception):
    """For an accident: the command ends with 1 and these words."""


class FakeSystemd:
    """``run`` takes the place of ``subprocess.run``; other programs than systemd's are run.

    Commands are told in short, without options: ``start green``, ``enable socket green``,
    ``show MainPID green``.  ``events`` has all but the shown, and each ``ready COLOUR`` that an ops
    port answered.
    """

    def __init__(self, home: Path, check_unit: Path) -> None:
        self.states = dict.fromkeys((*COLOURS, "socket"), "inactive")
        self.runs: dict[str, str] = {}
        """The release that an instance was started with."""
        self.started = dict.fromkeys(COLOURS, 0.0)
        self.fates: dict[str, Fate] = {}
        self.events: list[str] = []
        self.checks: list[str] = []
        """Texts of the check unit, each as it was started."""
        self.check_fails = False
        self.ports: dict[str, int] = {}
        self._home = home
        self._check_unit = check_unit
        self._answers = dict.fromkeys(COLOURS, 0)
        self._pids = dict.fromkeys(COLOURS, 0)
        self._accidents: dict[str, Callable[[], object]] = {}

    def before(self, command: str, act: Callable[[], object]) -> None:
        """Do this ahead of the next such command; what it raises ends the command."""
        self._accidents[command] = act

    def run(self, command: Any, **options: Any) -> "subprocess.CompletedProcess[Any]":
        program, *arguments = map(str, command)
        if program not in _PROGRAMS:
            return _REAL_RUN(command, **options)
        if program == "journalctl":
            return subprocess.CompletedProcess(command, 0, "the last words\n", "")
        words = [_short(each) for each in arguments if not each.startswith("--")]
        try:
            self._accidents.pop(" ".join(words), lambda: None)()
            told = self._do(*words)
        except FailedError as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))
        return subprocess.CompletedProcess(command, 0, told, "")

    def answer(self, colour: str) -> dict[str, Any] | None:
        """What the instance's ops port says; None when nobody is there."""
        fate = self._fate(colour)
        if self.states[colour] != "active":
            return None
        if fate is Fate.IS_NEVER_READY:
            return self._told(colour, "the control plane cannot be reached")
        self._answers[colour] += 1
        if self._answers[colour] > 1 and fate is Fate.ENDS:
            self.states[colour] = "activating"
            return None
        if self._answers[colour] > 1 and fate is Fate.RESTARTS:
            self._pids[colour] += 1
        self.events.append(f"ready {colour}")
        return self._told(colour)

    def _told(self, colour: str, *reasons: str) -> dict[str, Any]:
        version = "0.9" if self._fate(colour) is Fate.IS_ANOTHER else self.runs[colour]
        return {"ready": not reasons, "version": version, "reasons": reasons}

    def _fate(self, colour: str) -> Fate:
        return self.fates.get(self.runs.get(colour, ""), Fate.SERVES)

    def _do(self, verb: str, *words: str) -> str:
        if verb == "show":
            return self._show(*words)
        self.events.append(" ".join([verb, *words]))
        for unit in words:
            if verb == "start":
                self._start(unit)
            elif verb == "stop":
                self.states[unit] = "inactive"
        return ""

    def _start(self, unit: str) -> None:
        if unit == "check":
            self.checks.append(self._check_unit.read_text("utf-8"))
            if self.check_fails:
                raise FailedError("Job for image-gateway-check.service failed")
            return
        self.states[unit] = "active"
        if unit not in COLOURS:
            return
        self.runs[unit] = self._home.joinpath(unit).readlink().name
        self.started[unit] = time.time()
        self._pids[unit] += 1
        self._answers[unit] = 0
        if self._fate(unit) is Fate.FAILS_TO_START:
            self.states[unit] = "activating"  # systemd goes on trying
            raise FailedError(f"Job for image-gateway@{unit}.service failed")

    def _show(self, name: str, unit: str) -> str:
        if name == "ActiveState":
            return self.states[unit]
        if name == "MainPID":
            return str(self._pids[unit])
        if name == "ExecMainStartTimestamp":
            return f"@{self.started[unit]}"
        if name == "Environment":
            return f"A=1 IMAGE_GATEWAY_OPS_BIND=127.0.0.1:{self.ports[unit]} B=2"
        assert name == "StatusText", name
        return ""


@contextmanager
def fake_systemd(home: Path, check_unit: Path) -> Iterator[FakeSystemd]:
    """A machine on which nothing runs, with both ops ports open."""
    systemd = FakeSystemd(home, check_unit)
    servers = [_ops_port(systemd, colour) for colour in COLOURS]
    threads = [Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield systemd
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _ops_port(systemd: FakeSystemd, colour: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = systemd.answer(colour)
            if told is None or self.path != "/readyz":
                return
            self.send_response(200 if told["ready"] else 503)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    systemd.ports[colour] = server.server_port
    return server


def _short(word: str) -> str:
    for colour in COLOURS:
        if word == f"image-gateway@{colour}.service":
            return colour
    return {"image-gateway.socket": "socket", "image-gateway-check.service": "check"}.get(
        word, word
    )
