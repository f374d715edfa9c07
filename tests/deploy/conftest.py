"""``scripts/release`` without a machine."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.fake_systemd import fake_systemd
from tests.parts.release_place import SECRETS, Place, make_key, script_in


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    folder = tmp_path / "machine"
    script = script_in(folder)
    script.SETTLED_SECONDS = 0.0
    script.READY_SECONDS = 0.3
    for name in SECRETS:
        path = folder / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a setting", "utf-8")
    script.UNITS.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sync", lambda: None)  # the disk belongs to others, too
    heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in heeded}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = os.umask(0o022)
    with fake_systemd(script.HOME, script.CHECK_UNIT) as systemd:
        monkeypatch.setattr(subprocess, "run", systemd.run)
        yield Place(folder, systemd, script, lambda: "".join(capfd.readouterr()))
    os.umask(mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new SSH key, its public half beside it."""
    path = tmp_path_factory.mktemp("key") / "id"
    make_key(path)
    return path
