"""The clients that the tests run are pinned, and the page for callers tells which they are."""

import json
import re
from pathlib import Path

from tests.parts.clients import PROGRAMS
from tests.parts.pages import CALLS, PROJECT

FOLDER = PROJECT / "tests" / "clients"
LOCKS = (
    FOLDER / "node" / "package-lock.json",
    FOLDER / "python" / "requirements.lock",
    FOLDER / "python" / "openai-cli.lock",
)
# Pinned, but not clients: what another package of the list wants beside it.
BESIDE = {("zod", "4.6.7"), ("openai", "3.57.0"), ("pynacl", "1.6.2")}


def pins(path: Path) -> set[tuple[str, str]]:
    """The packages of a requirements file, without extras, and their versions."""
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", path.read_text("utf-8"), re.MULTILINE)
    return set(found)


def wanted() -> set[tuple[str, str]]:
    """What the lock files were made from."""
    node = json.loads((FOLDER / "node" / "package.json").read_text("utf-8"))["dependencies"]
    python = [FOLDER / "python" / name for name in ("requirements.in", "openai-cli.in")]
    return set(node.items()).union(*map(pins, python))


def test_every_client_is_told_with_its_version() -> None:
    told = {
        (name, version)
        for _, versions, *_ in CALLS.rows("Clients")
        for name, version in re.findall(r"`([\w@/-]+)` ([\d.]+)", versions)
    }
    sdk = {pin for pin in pins(PROJECT / "requirements-demo.lock") if pin[0] == "openai"}
    assert told == (wanted() | sdk) - BESIDE


def test_the_lock_files_hold_what_is_wanted() -> None:
    node = json.loads(LOCKS[0].read_text("utf-8"))["packages"]
    locked = {
        (name.removeprefix("node_modules/"), package["version"])
        for name, package in node.items()
        if name
    }
    assert wanted() - locked.union(*map(pins, LOCKS[1:])) == set()


def test_no_lock_file_of_node_names_a_registry() -> None:
    """It must install from whatever registry a machine uses; ``test_locks.py`` for Python's."""
    node = json.loads(LOCKS[0].read_text("utf-8"))["packages"]
    assert [name for name, package in node.items() if "resolved" in package] == []


def test_every_program_is_there() -> None:
    for command in PROGRAMS.values():
        name = command[-1]
        path = name if command[0] == "node" else f"{name.replace('.', '/')}.py"
        assert (PROJECT / path).is_file(), name
