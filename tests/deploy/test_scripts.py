"""The scripts and the units as texts: what a shell, and a reader, must not stumble over."""

import re
import subprocess
from pathlib import Path

import pytest

from image_gateway import config
from tests.parts.pages import OPERATION

PROJECT = Path(__file__).parents[2]
SHELL = [
    path
    for path in [
        *PROJECT.joinpath("scripts").iterdir(),
        *(PROJECT / name for name in (".ci/run", "bench/run", "bench/purchases")),
    ]
    if path.read_text("utf-8").startswith("#!/usr/bin/env bash")
]
OF_EVERY_UNIT = {"Description", "Documentation", "WantedBy", "ExecStart"}
UNITS = [
    path
    for path in PROJECT.joinpath("systemd").rglob("*")
    if path.suffix != ".md" and path.is_file()
]


def test_there_are_scripts_and_units() -> None:
    assert len(SHELL) >= 8
    assert len(UNITS) == 4


@pytest.mark.slow
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_directive_of_the_units_has_its_reason() -> None:
    told = set(re.findall(r"(\w+)=", OPERATION.section("The units"))) | OF_EVERY_UNIT
    for path in UNITS:
        used = set(re.findall(r"^(\w+)=", path.read_text("utf-8"), re.MULTILINE))
        assert used, path.name
        assert used <= told, path.name


def test_both_instances_keep_answers_in_one_folder_that_they_may_write_to() -> None:
    text = PROJECT.joinpath("systemd", "image-gateway@.service").read_text("utf-8")
    [folder] = re.findall(r"^Environment=IMAGE_GATEWAY_KEEP_DIR=%S/(.*)$", text, re.MULTILINE)
    assert "%" not in folder
    [state] = re.findall(r"^StateDirectory=(.*)$", text, re.MULTILINE)
    # The first one is STATE_DIR, which each instance has for itself.
    own, shared = state.split()
    assert "%i" in own
    assert shared == folder


def test_the_stop_takes_longer_than_the_drain_and_the_start_than_its_wait() -> None:
    text = PROJECT.joinpath("systemd", "image-gateway@.service").read_text("utf-8")
    defaults = {setting.name: setting.default for setting in config.SETTINGS}
    for directive, name in (
        ("TimeoutStopSec", "DRAIN_SECONDS"),
        ("TimeoutStartSec", "START_WAIT_SECONDS"),
    ):
        found = re.search(rf"^{directive}=(\d+)$", text, re.MULTILINE)
        assert found is not None
        assert int(found[1]) >= float(str(defaults[name])) + 20
