"""``scripts/release`` in a folder of its own, with a fake systemd, and artifacts made by hand."""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from tests.parts.fake_systemd import FakeSystemd
from tests.parts.releases import PROJECT

TEMPLATE = "image-gateway@.service"
SECRETS = ("config.toml", "control-database-url", "prompt-hash-key")


class Place:
    """The script in a folder of its own, and what lies there."""

    def __init__(
        self, folder: Path, systemd: FakeSystemd, script: Any, heard: Callable[[], str]
    ) -> None:
        self.folder = folder
        self.systemd = systemd
        self.script = script
        self.home: Path = script.HOME
        self.units: Path = script.UNITS
        self._heard = heard

    def say(self, *words: str) -> tuple[int, str]:
        """Runs a command; gives the exit code and all it printed."""
        code = self.script.main(words)
        return code, self._heard()

    def done(self, *words: str) -> str:
        """The same for a command that must succeed."""
        code, told = self.say(*words)
        assert code == 0, told
        return told

    def staged(self, release: str, more: str = "", extra: Mapping[str, str] | None = None) -> None:
        """A staged release, newer than all; ``more`` is added to its template."""
        folder = self.home / "releases" / release
        shutil.copytree(PROJECT / "systemd", folder / "systemd")
        template = folder / "systemd" / TEMPLATE
        text = template.read_text("utf-8").replace("/etc/image-gateway", str(self.folder / "etc"))
        template.write_text(text.replace("[Install]", f"{more}\n[Install]"), "utf-8")
        for name, content in (extra or {}).items():
            folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            folder.joinpath(name).write_text(content, "utf-8")
        manifest = {"version": release, "files": self._hashes(folder)}
        folder.joinpath("manifest.json").write_text(json.dumps(manifest), "utf-8")
        installed = folder / "installed.json"
        installed.write_text(json.dumps(self._hashes(folder)), "utf-8")
        count = len(self.releases())
        os.utime(installed, (count, count))

    def releases(self) -> set[str]:
        """What lies among the releases, whole or not."""
        return {path.name for path in self.home.joinpath("releases").glob("*")}

    def drop_in(self, unit: str, text: str) -> Path:
        """An operator's own."""
        path = self.units / f"{unit}.d" / "override.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def links(self) -> dict[str, str]:
        links = [path for path in self.home.glob("*") if path.is_symlink()]
        return {path.name: str(path.readlink()) for path in links}

    def up(self) -> dict[str, str]:
        """The instances that are up, with their releases."""
        states = self.systemd.states
        return {c: r for c, r in self.systemd.runs.items() if states[c] == "active"}

    def said(self) -> list[str]:
        """What systemd was told to do."""
        return [event for event in self.systemd.events if not event.startswith("ready ")]

    def tree(self) -> dict[str, object]:
        """All that could be changed; without the lock, which a dry run takes too."""
        paths = [path for path in self.folder.rglob("*") if path.name != ".lock"]
        found = {str(path): _content(path) for path in paths}
        return found | {"states": dict(self.systemd.states)}

    def _hashes(self, folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }


def _content(path: Path) -> object:
    if path.is_symlink():
        return str(path.readlink())
    return (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None


def script_in(folder: Path) -> Any:
    text = PROJECT.joinpath("scripts", "release").read_text("utf-8")
    for place, own in {
        "/opt/image-gateway": "opt",
        "/etc/systemd/system": "units",
        "/run/systemd/system": "run",
        "/run/image-gateway-check.log": "run/words",
        "/etc/image-gateway/allowed_signers": "etc/allowed_signers",
    }.items():
        assert text.count(f'Path("{place}")') == 1, place
        text = text.replace(f'Path("{place}")', f'Path("{folder / own}")')
    path = folder.parent / "project" / "scripts" / "release"
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    loader = SourceFileLoader("release", str(path))
    spec = spec_from_loader("release", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def packed(
    content: Mapping[str, bytes] | None = None,
    *members: tarfile.TarInfo,
    unnamed: Mapping[str, bytes] | None = None,
    **manifest: object,
) -> bytes:
    """What ``build`` makes, with a pip that has nothing to install, and with more content.

    ``members`` and ``unnamed`` are not in its manifest, of which ``manifest`` replaces entries;
    None leaves one out.
    """
    pip = io.BytesIO()
    with zipfile.ZipFile(pip, "w") as wheel:
        wheel.writestr("pip/__main__.py", "")
    files = {"README.md": b"a page", "wheels/pip-0.whl": pip.getvalue(), **(content or {})}
    told = {
        "version": "1.0",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "machine": platform.machine(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        **manifest,
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        text = json.dumps({name: each for name, each in told.items() if each is not None})
        everything = {**files, **(unnamed or {}), "manifest.json": text.encode()}
        for name, data in everything.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return archive.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def saved(place: Place, archive: bytes) -> str:
    path = place.folder.parent / "artifact.tar.gz"
    path.write_bytes(archive)
    return str(path)


def make_key(path: Path) -> None:
    """A new SSH key, its public half beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
