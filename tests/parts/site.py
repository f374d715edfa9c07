"""A site: the gateway on a bare Debian, installed by the install guide of systemd/README.md.

It is driven as its operator drives it, by ``scripts/release`` over a real ssh, and called as its
clients call it, through Caddy.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.drill import NARROW, NARROW_SLOTS, WIDE
from tests.parts.eventually import eventually_blocking
from tests.parts.machine import Machine, MachineError, booted
from tests.parts.pages import OPERATION
from tests.parts.releases import Releases
from tests.parts.upstream import ScriptedUpstream

OPS = {"blue": 19083, "green": 19084}
BROKEN = """

async def serve(settings: Settings) -> None:
    raise RuntimeError("this release is broken")
"""


@dataclass
class Site:
    """The installed gateway, as its operator and its clients have it."""

    machine: Machine
    project: Path
    upstream: ScriptedUpstream
    url: str
    good: Path
    ssh: dict[str, str]
    secret: str = ""
    better: Path = Path()
    broken: Path = Path()
    picture: Any = None

    def release(self, *arguments: str, check: bool = True) -> str:
        """``scripts/release`` over ssh, as the guide has it; gives both streams."""
        done = subprocess.run(
            [self.project / "scripts" / "release", "--host", "gateway", *arguments],
            env={**os.environ, **self.ssh},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
            check=False,
        )
        if check and done.returncode != 0:
            raise MachineError(f"{arguments} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def serving(self) -> tuple[str, str]:
        """The colour that serves, and its release."""
        colour = self.machine.root.joinpath("opt/image-gateway/current").readlink().name
        return colour, self.machine.root.joinpath("opt/image-gateway", colour).readlink().name

    @property
    def unit(self) -> str:
        return f"image-gateway@{self.serving()[0]}.service"

    def other(self) -> str:
        """The colour that does not serve."""
        return "green" if self.serving()[0] == "blue" else "blue"

    def of_process(self, name: str) -> str:
        """A file of /proc about the process that serves."""
        pid = self.machine.show(self.unit, "MainPID")
        return self.machine.run(f"tr '\\0' '\\n' < /proc/{pid}/{name}")

    def control(self, command: str, redirected: str = "") -> Any:
        """``image-gateway control`` on the server, its answer as JSON."""
        words = self.machine.run(
            f"/opt/image-gateway/current/bin/image-gateway control {command} --json {redirected}",
            IMAGE_GATEWAY_ADMIN_DATABASE_URL_FILE="/etc/image-gateway/admin-database-url",
        )
        return json.loads(words)

    def everything(self) -> dict[str, Any]:
        """The gateway's links and units, beside what is everybody else's."""
        own = {
            str(path): path.readlink() if path.is_symlink() else path.read_bytes()
            for pattern in ("opt/image-gateway/*", "etc/systemd/system/**/*image-gateway*")
            for path in self.machine.root.glob(pattern)
            if path.is_symlink() or path.is_file()
        }
        return {**own, **self.others()}

    def others(self) -> dict[str, Any]:
        """Every file of the machine that is not the gateway's, and every other unit's process."""
        found: dict[str, Any] = {}
        for top in ("etc", "usr", "root", "var/lib/systemd", "var/spool", "srv", "home"):
            for path in self.machine.root.joinpath(top).rglob("*"):
                name = path.relative_to(self.machine.root).as_posix()
                if name.startswith("etc/systemd/system/") and "image-gateway" in name:
                    continue
                facts = path.lstat()
                if not path.is_dir():
                    found[name] = (facts.st_mode, facts.st_uid, facts.st_size, facts.st_mtime_ns)
        units = self.machine.run(
            "systemctl show --property Id,MainPID,UnitFileState '*.service' '*.socket' '*.timer'"
        )
        for unit in units.split("\n\n"):
            if "image-gateway" not in unit:
                found[unit.splitlines()[-1]] = unit
        return found

    def ready(self, port: int) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                told: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error))
        except OSError:
            return None
        return told

    def post(self, prompt: str = "a cat", secret: str | None = None) -> tuple[int, dict[str, Any]]:
        """A picture by way of Caddy; status and answer."""
        request = urllib.request.Request(
            f"{self.url}/v1/images/generations",
            json.dumps({"prompt": prompt}).encode(),
            {
                "Authorization": f"Bearer {secret or self.secret}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def records(self) -> list[dict[str, Any]]:
        """Every record of both instances."""
        found = []
        for path in self.machine.root.glob("var/log/private/image-gateway/*/requests*.jsonl"):
            found += [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        return found


# -- the installed machine -------------------------------------------------------------------------


def guide() -> list[tuple[str, str]]:
    """The install guide's blocks: where each is run, and its text."""
    section = OPERATION.section("Install")
    blocks = re.findall(
        r"^```sh\n# on (the server|your computer)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == section.count("```sh")
    return blocks


def open_ssh(machine: Machine, folder: Path) -> dict[str, str]:
    """A server on the machine that lets root in by key; the environment of who may enter."""
    port = quiet_port()
    key, config, program = folder / "key", folder / "config", folder / "bin" / "ssh"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    place = machine.root / "root" / ".ssh"
    place.mkdir(mode=0o700, exist_ok=True)
    place.joinpath("authorized_keys").write_text(key.with_suffix(".pub").read_text())
    machine.run(f"mkdir -p /run/sshd && systemd-run --unit=test-sshd /usr/sbin/sshd -D -p {port}")
    config.write_text(
        f"Host gateway\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {key}\n"
        f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n LogLevel ERROR\n"
    )
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
    program.chmod(0o755)
    wait_for_port(port)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def quiet_port() -> int:
    """A port that is free, and stays so: outgoing connections get theirs above 32767 (ip(7))."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            port: int = probe.getsockname()[1]
            return port


def wait_for_port(port: int) -> None:
    def listens() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    eventually_blocking(listens, log=lambda: f"port {port}")


@contextmanager
def upstream_in_a_thread() -> Iterator[ScriptedUpstream]:
    """An upstream for the whole module, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop.run_forever)
        made = ScriptedUpstream()
        try:
            asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(20)
            yield made
            asyncio.run_coroutine_threadsafe(made.__aexit__(None, None, None), loop).result(20)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            running.result(20)
            loop.close()


@contextmanager
def installed(folder: Path) -> Iterator[Site]:
    """The machine, installed by the guide's own blocks, with two more releases staged."""
    releases = Releases(folder)
    with upstream_in_a_thread() as upstream, booted(folder) as machine:
        url = f"http://127.0.0.1:{quiet_port()}"
        site = Site(
            machine, releases.folder, upstream, url, releases.build(), open_ssh(machine, folder)
        )
        install(site)
        site.better = releases.build()
        app = releases.folder / "image_gateway" / "app.py"
        site.broken = releases.build(app, BROKEN)
        for artifact in (site.broken, site.better):
            site.release("stage", str(artifact))
        yield site


def install(site: Site) -> None:
    """The guide, block by block: one shell on the server, as a person has it."""
    site.machine.root.joinpath("root/api-key").write_text("sk-upstream-0815")
    site.machine.root.joinpath("root/secret").touch()
    with site.machine.shell(
        URL=site.url,
        UPSTREAM=f"http://127.0.0.1:{site.upstream.port}/v1",
        API_KEY_FILE="/root/api-key",
    ) as run:
        for where, block in guide():
            if where == "the server":
                words = run(block)
                if found := re.search(r"sk-ig-\S+", words):
                    site.secret = found[0]
                    run(f"SECRET={site.secret}")
                continue
            for line in block.splitlines():
                words = line.removeprefix("scripts/release ").removeprefix('--host "$SERVER" ')
                assert words in {"build", "stage", "activate"}
                if words != "build":
                    site.release(words, *([str(site.good)] if words == "stage" else []))
        site.picture = json.loads(run("cat /tmp/picture.json"))


def make_keys(site: Site) -> dict[str, str]:
    """An account with room for all and a narrow one, a key for each."""
    keys = {}
    for account, slots in ((WIDE, 64), (NARROW, NARROW_SLOTS)):
        url = f"http://127.0.0.1:{site.upstream.port}/v1"
        site.control(
            f"account add {account} --openai --base-url {url} --slots {slots} --api-key-file -",
            "< /root/api-key",
        )
        made = site.control(f"key create {account} --accounts {account}")
        keys[account] = made["secret"]
    return keys
