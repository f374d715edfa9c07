"""The peers: gateways and proxies that do the same work, each started in its usual form.

A peer serves *doors*.  A door has one or more upstreams and a way to ask for it: its path, its key,
its name of the model.  Speed is measured through one door; purchases through one for each fault, so
that what one fault makes a peer avoid is not seen at the next.

Each peer is one process or one worker.  Nothing is tuned but what the load needs to pass at all:
how many connections, how large a body.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.processes import Program, clean_environment, prefer_to_kill, start
from bench.works import Way
from tests.parts.gateway import Gateway, free_port
from tests.parts.plane import Plane

ROOT: Final = Path(__file__).parents[1]
LITELLM: Final = ROOT / ".venvs" / "litellm"
LITELLM_LOCK: Final = ROOT / "bench" / "litellm.lock"

MODEL: Final = "gpt-image-2"


class MissingError(Exception):
    """A peer cannot be measured here; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Door:
    """One way in, and the roots of the upstreams behind it (``http://127.0.0.1:1234``)."""

    name: str
    upstreams: Sequence[str]


@dataclass(frozen=True)
class Site:
    """Where a peer is started: a folder of its own, the doors, a control plane of its own."""

    folder: Path
    doors: Sequence[Door]
    database: str | None = None
    """Of the Postgres in which gateways get their control planes."""


@dataclass(frozen=True)
class Started:
    """A peer that was started, and how its doors are asked; ``ready`` is a path that says 200."""

    program: Program
    ways: Mapping[str, Way]
    ready: str | None = None


class Peer(Protocol):
    """One of those that are compared."""

    @property
    def name(self) -> str:
        """What it is called on the command line, in tables and in results."""

    @property
    def title(self) -> str:
        """What it is, for the table."""

    def version(self) -> str:
        """Its version; raises ``MissingError`` if it is not installed."""

    def start(self, site: Site) -> Started:
        """Start it without waiting."""


@dataclass(frozen=True)
class Nginx:
    """nginx with one worker; Debian's package, with its defaults but for ``buffers``."""

    name: str
    title: str
    buffers: bool

    def version(self) -> str:
        return _said(["nginx", "-v"], r"nginx/([\d.]+)", "install nginx-light as root")

    def start(self, site: Site) -> Started:
        port = free_port()
        config = site.folder / "nginx.conf"
        config.write_text(self._config(site, port), "utf-8")
        command: list[str | Path] = [
            "nginx",
            "-p",
            site.folder,
            "-c",
            config,
            "-e",
            site.folder / "error.log",
        ]
        return Started(
            start([*command, "-g", "daemon off;"], site.folder, port=port),
            {door.name: Way(f"/{door.name}/v1", model=MODEL) for door in site.doors},
        )

    def _config(self, site: Site, port: int) -> str:
        groups, places = [], []
        for door in site.doors:
            servers = "".join(f"server {url.removeprefix('http://')};" for url in door.upstreams)
            groups.append(f"upstream {door.name} {{ {servers} }}")
            places.append(f"location /{door.name}/ {{ proxy_pass http://{door.name}/; }}")
        temporary = "".join(
            f"{kind}_temp_path {site.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
        )
        return "\n".join(
            [
                "user root;" if os.geteuid() == 0 else "",
                "worker_processes 1;",
                f"pid {site.folder}/pid;",
                "worker_rlimit_nofile 16384;",
                "events { worker_connections 8192; }",
                "http {",
                f"access_log {site.folder}/access.log;",
                temporary,
                "client_max_body_size 64m;",
                "" if self.buffers else "proxy_buffering off;",
                *groups,
                f"server {{ listen 127.0.0.1:{port} backlog=4096;",
                *places,
                "} }",
            ]
        )


@dataclass(frozen=True)
class Caddy:
    """Caddy's ``reverse_proxy``; Debian's package."""

    name: str = "caddy"
    title: str = "Caddy"

    def version(self) -> str:
        return _said(["caddy", "version"], r"v?([\d.]+)", "install caddy as root")

    def start(self, site: Site) -> Started:
        port = free_port()
        places = "\n".join(
            f"handle_path /{door.name}/* {{\n reverse_proxy {' '.join(door.upstreams)}\n}}"
            for door in site.doors
        )
        config = site.folder / "Caddyfile"
        options = "admin off\n auto_https off"
        config.write_text(
            f"{{\n {options}\n}}\nhttp://:{port} {{\n bind 127.0.0.1\n {places}\n}}\n", "utf-8"
        )
        return Started(
            start(
                ["caddy", "run", "--adapter", "caddyfile", "--config", config],
                site.folder,
                {
                    "HOME": str(site.folder),
                    "XDG_CONFIG_HOME": str(site.folder / "config"),
                    "XDG_DATA_HOME": str(site.folder / "data"),
                },
                port,
            ),
            {door.name: Way(f"/{door.name}/v1", model=MODEL) for door in site.doors},
        )


@dataclass(frozen=True)
class Bare:
    """``bench/bare.py``; it knows one upstream only."""

    name: str
    title: str
    form: str

    def version(self) -> str:
        names = ("Starlette", "Hypercorn", "aiohttp", "uvloop")
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)

    def start(self, site: Site) -> Started:
        [door] = site.doors
        [upstream] = door.upstreams
        port = free_port()
        command = [sys.executable, "-m", "bench.bare", str(port), upstream, self.form]
        paths = {"PYTHONPATH": str(ROOT)}
        return Started(start(command, site.folder, paths, port), {door.name: Way(model=MODEL)})


@dataclass(frozen=True)
class ImageGateway:
    """The gateway of a checkout, with its defaults: everything on."""

    name: str = "gateway"
    title: str = "**image-gateway**"
    checkout: Path = ROOT

    def version(self) -> str:
        module = self.checkout / "image_gateway" / "__init__.py"
        if not module.exists():
            raise MissingError(f"{self.checkout} is not a checkout of the gateway")
        described = subprocess.run(
            ["git", "-C", self.checkout, "describe", "--always", "--dirty=+", "--abbrev=10"],
            capture_output=True,
            text=True,
            check=False,
        )
        return described.stdout.strip() or importlib.metadata.version("image-gateway")

    def start(self, site: Site) -> Started:
        assert site.database is not None
        plane = Plane(site.database)
        plane.create()
        ways = {}
        for door in site.doors:
            names = [f"{door.name}-{number}" for number in range(len(door.upstreams))]
            for name, url in zip(names, door.upstreams, strict=True):
                plane.add_account(
                    name,
                    f"{url}/v1",
                    dialect="openai",
                    credential={"api_key": "upstream"},
                    image_max_concurrency=1024,
                )
            secret = plane.add_key(key_id=door.name, account_names=names)
            ways[door.name] = Way(secret=secret, model=MODEL)
        gateway = Gateway(site.folder, plane.reader_url, grant_ttl_seconds=5, slot_wait_seconds=30)
        gateway.launch(
            {**self._allocator(), "PYTHONPATH": str(self.checkout)},
            cwd=self.checkout,
            start_new_session=True,
        )
        assert gateway.process is not None
        prefer_to_kill(gateway.pid)
        return Started(Program(gateway.process, gateway.port, gateway.words_path), ways)

    def _allocator(self) -> dict[str, str]:
        """The allocator's settings, as the unit has them."""
        unit = self.checkout / "systemd" / "image-gateway@.service"
        return dict(re.findall(r"^Environment=(MALLOC_\w+)=(\w+)$", unit.read_text(), re.MULTILINE))


@dataclass(frozen=True)
class LiteLlm:
    """LiteLLM's proxy with one worker, a master key and no database.

    ``retries`` is its router's ``num_retries``; None leaves the default.
    """

    name: str = "litellm"
    title: str = "LiteLLM"
    retries: int | None = None

    def version(self) -> str:
        if not (LITELLM / "bin" / "litellm").exists():
            raise MissingError("not installed; run: scripts/venv .venvs/litellm bench/litellm.lock")
        [version] = re.findall(r"^litellm==(\S+)", LITELLM_LOCK.read_text("utf-8"), re.MULTILINE)
        return str(version)

    def start(self, site: Site) -> Started:
        port = free_port()
        secret = "sk-bench"
        deployments = [
            {
                "model_name": door.name,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"{url}/v1",
                    "api_key": "upstream",
                },
            }
            for door in site.doors
            for url in door.upstreams
        ]
        config = site.folder / "config.yaml"
        router = {} if self.retries is None else {"num_retries": self.retries}
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "model_list": deployments,
                    "router_settings": router,
                    "general_settings": {"master_key": secret},
                }
            ),
            "utf-8",
        )
        command: list[str | Path] = [
            LITELLM / "bin" / "litellm",
            "--config",
            config,
            "--host",
            "127.0.0.1",
        ]
        return Started(
            start(
                [*command, "--port", str(port), "--num_workers", "1"],
                site.folder,
                # Otherwise it asks the network for prices.
                {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(site.folder)},
                port,
            ),
            {door.name: Way(secret=secret, model=door.name) for door in site.doors},
            "/health/liveliness",
        )


PEERS: Final[Sequence[Peer]] = (
    Nginx("nginx-unbuffered", "nginx, buffering off", buffers=False),
    Nginx("nginx", "nginx, default", buffers=True),
    Caddy(),
    Bare("bare-keeping", "bare Starlette, keeps connections", "keeping"),
    Bare("bare-closing", "bare Starlette, closes them", "closing"),
    ImageGateway(),
    LiteLlm(),
)
"""Those that ``bench/run`` measures beside ``direct``, which is no proxy at all."""

DIRECT: Final = "direct"


def _said(command: Sequence[str], pattern: str, cure: str) -> str:
    """What a program says of its version."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
            timeout=20,
        )
    except FileNotFoundError:
        raise MissingError(f"{command[0]} is not installed; {cure}") from None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"
