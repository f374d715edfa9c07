"""``scripts/release`` without a machine: refusals, accidents in the midst, and what is put back.

The script is a copy that keeps its files in a folder of the test.  systemd is fake here, as these
states take seconds or accidents under the true one of ``test_machine.py``.
"""

import errno
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.parts.fake_systemd import FailedError, Fate
from tests.parts.pages import every_page
from tests.parts.release_place import SECRETS, TEMPLATE, Place, member, packed, saved
from tests.parts.releases import PROJECT, Releases, version

pytestmark = pytest.mark.slow

EXTRA = f"{TEMPLATE}.d/10-more.conf"
TWO_LINKS = {
    "blue": "releases/1.0",
    "green": "releases/2.0",
    "current": "green",
    "previous": "releases/1.0",
}


@pytest.fixture
def two(place: Place) -> Place:
    """1.0 served, 2.0 serves as green, 3.0 is staged."""
    for release in ("1.0", "2.0", "3.0"):
        place.staged(release)
    place.done("activate", "1.0")
    place.done("activate", "2.0")
    place.systemd.events.clear()
    return place


# -- build -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Releases, Path]:
    releases = Releases(tmp_path_factory.mktemp("build"))
    return releases, releases.build()


@pytest.mark.timeout(600)
def test_the_manifest_names_version_commit_python_and_every_file(
    built: tuple[Releases, Path],
) -> None:
    releases, artifact = built
    commit = _git(releases.folder, "rev-parse", "HEAD")
    with tarfile.open(artifact) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
    with tarfile.open(artifact) as tar:
        content = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
    assert content.keys() == members.keys()
    manifest = json.loads(content.pop("manifest.json"))
    assert manifest["version"] == version(artifact)
    assert manifest["version"].endswith(f"+g{commit[:12]}")
    assert manifest["commit"] == commit
    assert manifest["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert manifest["machine"] == platform.machine()
    assert manifest["files"] == {name: _sha256(data) for name, data in content.items()}
    assert {f"systemd/{TEMPLATE}", "systemd/image-gateway.socket"} <= content.keys()
    assert {page.name for page in every_page()} <= content.keys()
    assert "image_gateway/ops/status-page.png" in content
    assert any(name.startswith("wheels/pip-") for name in content)


def test_the_list_of_parts_is_valid_and_names_every_wheel_with_its_hash(
    built: tuple[Releases, Path],
) -> None:
    with tarfile.open(built[1]) as tar:
        files = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
    text = files["sbom.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = json.loads(text)
    own = parts["metadata"]["component"]
    assert (own["name"], own["version"]) == ("image-gateway", version(built[1]))
    components = [own, *parts["components"]]
    hashes = {each["hashes"][0]["content"] for each in components}
    wheels = {_sha256(data) for name, data in files.items() if name.startswith("wheels/")}
    assert hashes == wheels
    assert [each["name"] for each in components if not each["licenses"]] == []
    # All is needed by something, but the gateway and the installer.
    needed = {ref for each in parts["dependencies"] for ref in each["dependsOn"]}
    alone = {each["name"] for each in components if each["purl"] not in needed}
    assert alone == {"image-gateway", "pip"}


@pytest.mark.timeout(600)
def test_the_same_commit_gives_the_same_bytes_and_a_key_its_signature_alone(
    built: tuple[Releases, Path], signing_key: Path
) -> None:
    releases, artifact = built
    before = artifact.read_bytes()
    artifact.unlink()
    release = releases.folder / "scripts" / "release"
    subprocess.run(
        [sys.executable, release, "build", "--signing-key", signing_key],
        check=True,
        capture_output=True,
    )
    members = _members(artifact.read_bytes())
    assert members[:2] == [members[0], ("manifest.json.sig", *members[1][1:])]
    del members[1]
    assert members == _members(before)
    assert members[0][0] == "manifest.json"
    assert artifact.read_bytes()[:10] == before[:10]  # gzip's own header


def _members(artifact: bytes) -> list[tuple[object, ...]]:
    """All of an archive's entries, in their order."""
    with tarfile.open(fileobj=io.BytesIO(artifact)) as tar:
        return [
            (m.name, m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname, m.type, _sha256(file.read()))
            for m in tar
            if (file := tar.extractfile(m)) is not None
        ]


@pytest.mark.parametrize("is_new", [True, False], ids=["a new file", "a changed file"])
def test_what_is_not_committed_is_not_built(tmp_path: Path, place: Place, *, is_new: bool) -> None:
    project = tmp_path / "project"
    project.joinpath("changed").write_text("before", "utf-8")
    _git(project, "init", "--quiet")
    _git(project, "add", "--all")
    _git(project, "-c", "user.name=t", "-c", "user.email=t", "commit", "--quiet", "-m", "All")
    project.joinpath("new" if is_new else "changed").write_text("after", "utf-8")
    assert place.say("build") == (
        1,
        "release: there are uncommitted changes; commit them first\n",
    )
    assert not project.joinpath("dist").exists()


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- stage -----------------------------------------------------------------------------------------


ABOVE = f"image-gateway-{os.getpid()}"
HOSTILE = {
    "a path as version": (packed(version="../../../etc/cron.d/x"), "version in the manifest"),
    "an absolute version": (packed(version="/etc/x"), "version in the manifest"),
    "a hidden version": (packed(version=".x"), "version in the manifest"),
    "a list as version": (packed(version=["1.0"]), "no usable manifest"),
    "no version": (packed(version=None), "no usable manifest"),
    "no Python": (packed(python=None), "built for Python None"),
    "no machine": (packed(machine=None), "built for None"),
    "a list of files": (packed(files=["README.md"]), "no usable manifest"),
    "a member above": (packed({f"../{ABOVE}": b"x"}), "not a plain file: .."),
    "an absolute member": (packed({f"/tmp/{ABOVE}": b"x"}), "not a plain file: /tmp"),
    "a symlink": (
        packed(None, member("link", tarfile.SYMTYPE, "/etc")),
        "not a plain file: link",
    ),
    "a hard link": (
        packed(None, member("link", tarfile.LNKTYPE, "README.md")),
        "not a plain file: link",
    ),
    "a device": (packed(None, member("null", tarfile.CHRTYPE)), "not a plain file: null"),
    "a pipe": (packed(None, member("pipe", tarfile.FIFOTYPE)), "not a plain file: pipe"),
    "another's unit": (
        packed({"systemd/ssh.service": b"[Service]"}),
        "files differ from the build: systemd/ssh.service",
    ),
    "another's drop-in": (
        packed({"systemd/ssh.service.d/x.conf": b"[Service]"}),
        "files differ from the build: systemd/ssh.service.d/x.conf",
    ),
    "a list of installed files of its own": (
        packed(unnamed={"installed.json": b"{}"}),
        "files differ from the build: installed.json",
    ),
    "the same, by its manifest": (
        packed({"installed.json": b"{}"}),
        "files differ from the build: installed.json",
    ),
    "a stray file": (packed(unnamed={"stray": b"x"}), "files differ from the build: stray"),
    "a wrong hash": (
        packed(unnamed={"README.md": b"another page"}),
        "files differ from the build: README.md",
    ),
    "another Python": (
        packed(python="2.7"),
        "built for Python 2.7, which this machine does not have",
    ),
    "another machine": (packed(machine="vax"), "built for vax, but this machine is"),
    "nothing": (b"", "the archive is damaged"),
    "an empty archive": (gzip.compress(b""), "the archive is damaged"),
    "half": (packed()[: len(packed()) // 2], "the archive is damaged"),
    "no archive": (b"<html>not found</html>", "the archive is damaged"),
}


@pytest.mark.parametrize(("artifact", "why"), HOSTILE.values(), ids=HOSTILE)
def test_whatever_is_wrong_with_an_artifact_is_told_and_nothing_is_installed(
    place: Place, artifact: bytes, why: str
) -> None:
    before = place.tree()
    code, told = place.say("stage", saved(place, artifact))
    assert code == 1, told
    assert told.startswith("release: ")
    assert why in told
    assert place.releases() == set()
    assert {p: c for p, c in place.tree().items() if "/opt" not in p} == before
    assert not place.folder.with_name(ABOVE).exists()
    assert not Path("/tmp", ABOVE).exists()


def test_what_is_staged_again_is_not_installed_anew_and_is_the_newest(place: Place) -> None:
    older, newer = saved(place, packed()), packed(version="2.0")
    assert "staged 1.0" in place.done("stage", older)
    place.done("stage", saved(place, newer))
    folder = place.home / "releases" / "1.0"
    for name, moment in (("1.0", 1), ("2.0", 2)):
        os.utime(folder.parent / name / "installed.json", (moment, moment))
    before = folder.stat().st_ino
    assert "1.0 is staged already" in place.done("stage", saved(place, packed()))
    assert folder.stat().st_ino == before
    assert place.script.Machine(is_dry=False).newest() == "1.0"


def test_a_staged_release_starts_by_a_program_that_names_its_folder(place: Place) -> None:
    place.done("stage", saved(place, packed()))
    folder = place.home / "releases" / "1.0"
    told = folder.joinpath("bin", "image-gateway").read_text("utf-8")
    assert told == f'#!/bin/sh\nexec {folder}/venv/bin/python -m image_gateway "$@"\n'
    assert folder.joinpath("venv", "bin", "python").exists()


def test_what_a_broken_off_run_left_is_swept_and_staged_anew(place: Place) -> None:
    releases = place.home / "releases"
    for name in (".1.0.partial", ".0.9.removed", "1.0"):
        releases.joinpath(name, "venv").mkdir(parents=True)
    assert "is not staged" in place.say("activate", "1.0")[1]
    place.done("stage", saved(place, packed()))
    assert place.releases() == {"1.0"}
    assert releases.joinpath("1.0", "installed.json").is_file()


def test_a_disk_that_gets_full_is_told_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []

    def copy(source: str, target: Path, **_: object) -> None:
        if copied:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copied.append(Path(target))
        Path(target).write_bytes(b"x")

    monkeypatch.setattr(shutil, "copyfile", copy)
    code, told = place.say("stage", saved(place, packed()))
    assert copied
    assert copied[0].is_relative_to(place.home)
    assert place.releases() == set()
    assert (code, "No space left on device" in told) == (1, True), told


# -- activate --------------------------------------------------------------------------------------


def test_the_first_release_serves_as_blue(place: Place) -> None:
    place.staged("1.0")
    assert "1.0 serves as blue" in place.done("activate")
    assert place.links() == {"blue": "releases/1.0", "current": "blue"}
    assert place.up() == {"blue": "1.0"}
    assert place.systemd.states["socket"] == "active"


def test_the_next_release_goes_to_the_other_colour_and_back(two: Place) -> None:
    assert two.up() == {"green": "2.0"}
    assert two.links() == TWO_LINKS
    two.done("activate", "3.0")
    assert two.up() == {"blue": "3.0"}
    assert two.links() == {
        "blue": "releases/3.0",
        "green": "releases/2.0",
        "current": "blue",
        "previous": "releases/2.0",
    }


def test_every_step_has_its_place(place: Place) -> None:
    """Check, units, start, ready, settled, remember, point, stop."""
    systemd = place.systemd
    place.staged("1.0")
    place.staged("2.0", "# of 2.0")
    place.done("activate", "1.0")
    systemd.events.clear()
    template, active = place.units / TEMPLATE, place.units / "image-gateway.socket.d/active.conf"

    def seen() -> tuple[bool, str | None, str | None, str]:
        links = place.links()
        return (
            "# of 2.0" in template.read_text("utf-8"),
            links.get("green"),
            links.get("previous"),
            f"{links['current']} {active.read_text('utf-8').partition('@')[2].strip()}",
        )

    found: dict[str, object] = {}
    for command in ("start check", "start green", "show MainPID green", "stop blue"):
        systemd.before(command, partial(lambda each: found.update({each: seen()}), command))
    place.done("activate", "2.0")
    old, new = "blue blue.service", "green green.service"
    assert found == {
        "start check": (False, None, None, old),
        "start green": (True, "releases/2.0", None, old),
        "show MainPID green": (True, "releases/2.0", None, old),
        "stop blue": (True, "releases/2.0", "releases/1.0", new),
    }
    assert [event for event in systemd.events if event != "daemon-reload"] == [
        "start check",
        "reset-failed check",
        "start socket",
        "start green",
        "ready green",
        "ready green",
        "disable blue",
        "enable socket green",
        "stop blue",
    ]


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (Fate.FAILS_TO_START, "Job for image-gateway@blue.service failed"),
        (Fate.IS_NEVER_READY, "blue is not ready: the control plane cannot be reached"),
        (Fate.IS_ANOTHER, "blue is not ready: its version is 0.9"),
        (Fate.ENDS, "blue has ended"),
        (Fate.RESTARTS, "blue was ready and has ended since"),
    ],
)
def test_a_release_that_does_not_come_up_is_put_back(two: Place, fate: Fate, why: str) -> None:
    two.systemd.fates["3.0"] = fate
    code, told = two.say("activate", "3.0")
    assert code == 1
    assert f"release: {why}" in told or f": {why}" in told, told
    assert "the last words" in told
    assert told.endswith("green (2.0) was never stopped and still serves; no rollback is needed\n")
    _is_as_before(two)


def _is_as_before(two: Place) -> None:
    assert two.links() == TWO_LINKS
    assert two.up() == {"green": "2.0"}
    assert two.systemd.states["blue"] == "inactive"
    assert "stop green" not in two.systemd.events


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["start blue", "show ActiveState blue", "show MainPID blue"])
def test_whoever_ends_the_run_while_it_waits_gets_everything_put_back(
    two: Place, number: signal.Signals, moment: str
) -> None:
    def raised() -> None:
        signal.raise_signal(number)

    # Its state is asked before the start, too.
    two.systemd.before("start socket", lambda: two.systemd.before(moment, raised))
    if moment == "show ActiveState blue":
        two.systemd.fates["3.0"] = Fate.IS_NEVER_READY
    code, told = two.say("activate", "3.0")
    assert code == 1
    assert "put back: green (2.0) was never stopped" in told
    _is_as_before(two)


def test_a_first_release_that_fails_leaves_no_unit_and_no_link(place: Place) -> None:
    place.staged("1.0")
    place.systemd.fates["1.0"] = Fate.IS_NEVER_READY
    code, told = place.say("activate")
    assert (code, "put back: no instance serves" in told) == (1, True), told
    assert place.links() == {}
    assert place.up() == {}
    assert place.systemd.states["socket"] == "inactive"
    assert [path for path in place.units.rglob("*") if path.is_file()] == []


def test_a_check_that_fails_changes_nothing(two: Place) -> None:
    two.systemd.check_fails = True
    before = two.tree()
    code, told = two.say("activate", "3.0")
    assert (code, "nothing was changed" in told) == (1, True), told
    assert two.tree() == before
    assert not any(event.endswith(("blue", "green", "socket")) for event in two.systemd.events)


def test_a_secret_that_is_missing_is_named_before_anything_is_done(two: Place) -> None:
    path = two.folder / "etc" / "prompt-hash-key"
    path.unlink()
    code, told = two.say("activate", "3.0")
    assert (code, f"missing: {path};" in told) == (1, True), told
    assert two.systemd.events == []


def test_an_accident_after_ready_is_told_both_run_and_the_next_run_finishes(two: Place) -> None:
    two.systemd.before("enable socket blue", _fails("Failed to enable unit"))
    code, told = two.say("activate", "3.0")
    assert code == 1
    assert "Failed to enable unit" in told
    assert "Run activate 3.0 again to finish" in told
    assert two.up() == {"blue": "3.0", "green": "2.0"}
    two.systemd.events.clear()
    assert "3.0 serves already as blue" in two.done("activate", "3.0")
    assert two.up() == {"blue": "3.0"}
    assert two.links()["previous"] == "releases/2.0"
    assert two.systemd.events[-2:] == ["enable socket blue", "stop green"]


def test_a_disk_that_is_full_after_ready_is_told_with_how_it_stands(two: Place) -> None:
    _is_full_for(two, "active.conf")
    code, told = two.say("activate", "3.0")
    assert code == 1
    assert "No space left on device" in told
    assert "Run activate 3.0 again to finish" in told
    assert two.up() == {"blue": "3.0", "green": "2.0"}
    two.done("activate", "3.0")
    assert two.up() == {"blue": "3.0"}
    assert two.links()["current"] == "blue"


def test_a_disk_that_gets_full_among_the_units_puts_them_back(two: Place) -> None:
    two.staged("4.0", "# of 4.0", {f"systemd/{EXTRA}": "[Service]\n"})
    before = _installed(two)
    _is_full_for(two, "10-more.conf")
    code, told = two.say("activate", "4.0")
    assert (code, "No space left on device" in told) == (1, True), told
    assert _installed(two) == before
    _is_as_before(two)


def _is_full_for(two: Place, name: str) -> None:
    put = two.script._put

    def full(path: Path, data: bytes) -> None:
        if path.name == name:
            two.script._put = put
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        put(path, data)

    two.script._put = full


def test_what_failed_or_was_left_is_activated_by_its_name_only(two: Place) -> None:
    two.systemd.fates["3.0"] = Fate.ENDS
    assert two.say("activate")[0] == 1
    assert "3.0  failed 20" in two.done("status")
    assert "2.0 serves already" in two.done("activate")
    # A dry run takes no mark away, and a failure marks what failed and nothing else.
    before = two.done("status")
    two.done("--dry-run", "activate", "3.0")
    assert two.done("status") == before
    assert before.count("failed 20") == 1
    two.systemd.fates.clear()
    two.done("activate", "3.0")
    assert "failed 20" not in two.done("status")
    two.done("rollback")
    assert "3.0  rolled back 20" in two.done("status")
    assert "2.0 serves already" in two.done("activate")


def test_settings_that_do_not_come_up_put_no_release_aside(two: Place) -> None:
    (two.folder / "etc" / "config.toml").write_text("another one", "utf-8")
    two.systemd.fates["2.0"] = Fate.ENDS
    code, told = two.say("activate", "2.0")
    assert (code, "no rollback is needed" in told) == (1, True), told
    _is_as_before(two)
    assert "failed" not in two.done("status")


def test_a_terminal_that_is_lost_breaks_nothing_off(two: Place) -> None:
    two.systemd.before("start blue", lambda: signal.raise_signal(signal.SIGHUP))
    two.done("activate", "3.0")
    assert two.up() == {"blue": "3.0"}


def _fails(words: str) -> Callable[[], None]:
    def fail() -> None:
        raise FailedError(words)

    return fail


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", "deactivating"])
def test_what_serves_instead_of_the_current_one_is_not_stopped_before_the_new_one_is_ready(
    two: Place, state: str
) -> None:
    """The current one was ended, or systemd starts it again and again; a person started blue."""
    two.systemd.run(["systemctl", "start", "image-gateway@blue.service"])
    two.systemd.states["green"] = state
    two.systemd.events.clear()
    two.done("activate", "3.0")
    events = two.systemd.events
    assert two.up() == {"green": "3.0"}
    assert events.index("ready green") < events.index("stop blue")


def test_without_an_instance_that_is_up_the_new_one_is_started(two: Place) -> None:
    two.systemd.states["green"] = "failed"
    two.done("activate", "3.0")
    assert two.up() == {"blue": "3.0"}


# -- units -----------------------------------------------------------------------------------------


def _installed(place: Place) -> dict[str, str]:
    return {
        path.relative_to(place.units).as_posix(): path.read_text("utf-8")
        for path in place.units.rglob("*")
        if path.is_file()
    }


def test_a_release_s_units_are_there_and_no_others_of_ours(place: Place) -> None:
    place.staged("1.0", extra={f"systemd/{EXTRA}": "[Service]\nNice=1\n"})
    place.staged("2.0", "# of 2.0")
    own = place.drop_in(TEMPLATE, "[Service]\nNice=2\n")
    foreign = place.units / "ssh.service"
    foreign.write_text("[Service]", "utf-8")
    place.done("activate", "1.0")
    assert EXTRA in _installed(place)
    place.done("activate", "2.0")
    found = _installed(place)
    assert EXTRA not in found
    assert "# of 2.0" in found[TEMPLATE]
    assert own.exists()
    assert foreign.exists()
    place.done("rollback")
    assert EXTRA in _installed(place)
    assert "# of 2.0" not in _installed(place)[TEMPLATE]


@pytest.mark.parametrize("is_one_less", [True, False])
def test_other_units_are_put_back_with_a_release_that_fails(
    place: Place, *, is_one_less: bool
) -> None:
    extra = {f"systemd/{EXTRA}": "[Service]\nNice=1\n"}
    place.staged("1.0", extra=extra if is_one_less else {})
    place.staged("2.0", "# of 2.0", extra={} if is_one_less else extra)
    place.systemd.fates["2.0"] = Fate.IS_NEVER_READY
    place.done("activate", "1.0")
    before = _installed(place)
    during: dict[str, str] = {}
    place.systemd.before("start green", lambda: during.update(_installed(place)))
    assert place.say("activate", "2.0")[0] == 1
    assert (EXTRA in during, EXTRA in before) == (not is_one_less, is_one_less)
    assert "# of 2.0" in during[TEMPLATE]
    assert _installed(place) == before
    events = place.systemd.events
    assert "daemon-reload" in events[: -events[::-1].index("start green")]


def test_what_was_changed_since_it_was_staged_is_not_started(two: Place) -> None:
    with two.home.joinpath("releases", "3.0", "systemd", TEMPLATE).open("a") as file:
        file.write("# changed")
    code, told = two.say("activate", "3.0")
    assert (code, f"files differ from the build: systemd/{TEMPLATE}" in told) == (1, True), told
    assert two.systemd.events == []


# -- rollback --------------------------------------------------------------------------------------


def test_without_a_release_before_there_is_no_rollback(place: Place) -> None:
    place.staged("1.0")
    words = (1, "release: there is no release to go back to\n")
    assert place.say("rollback") == words
    place.done("activate")
    assert place.say("rollback") == words


def test_a_rollback_said_twice_stays_where_it_is(two: Place) -> None:
    assert "1.0 serves as blue" in two.done("rollback")
    links = two.links()
    assert "1.0 serves already as blue" in two.done("rollback")
    assert two.up() == {"blue": "1.0"}
    assert two.links() == links
    assert links["previous"] == "releases/1.0"


def test_a_rollback_leads_away_from_a_release_that_ends_again_and_again(two: Place) -> None:
    two.systemd.states["green"] = "activating"
    two.done("rollback")
    assert two.up() == {"blue": "1.0"}
    assert two.systemd.states["green"] == "inactive"


def test_a_rollback_stays_on_what_a_person_started_instead_of_what_ends_again_and_again(
    two: Place,
) -> None:
    two.systemd.run(["systemctl", "start", "image-gateway@blue.service"])
    two.systemd.states["green"] = "activating"
    two.done("rollback")
    assert two.up() == {"blue": "1.0"}
    assert two.systemd.states["green"] == "inactive"
    assert two.links()["current"] == "blue"


def test_after_a_release_that_failed_the_way_back_is_the_one_it_was(two: Place) -> None:
    two.systemd.fates["3.0"] = Fate.ENDS
    assert two.say("activate", "3.0")[0] == 1
    two.done("rollback")
    assert two.up() == {"blue": "1.0"}


def test_after_two_releases_back_by_name_the_way_back_leads_to_what_served(two: Place) -> None:
    two.done("activate", "3.0")
    two.done("activate", "1.0")
    assert two.up() == {"green": "1.0"}
    two.done("rollback")
    assert two.up() == {"blue": "3.0"}


@pytest.mark.parametrize("is_pointed", [False, True])
def test_a_rollback_of_a_broken_off_activation_stays_and_stops_the_other(
    two: Place, *, is_pointed: bool
) -> None:
    """Killed after its start, or after the links and units were turned."""
    moment = "stop green" if is_pointed else "show MainPID blue"
    two.systemd.before(moment, _dies)
    two.script.Machine._put_back = lambda *_: SystemExit()  # a killed one puts nothing back
    with pytest.raises(SystemExit):
        two.say("activate", "3.0")
    assert two.up() == {"blue": "3.0", "green": "2.0"}
    serves, other = ("blue", "green") if is_pointed else ("green", "blue")
    told = two.done("rollback")
    release = "3.0" if is_pointed else "2.0"
    assert f"{release} serves already as {serves}" in told
    assert two.up() == {serves: release}
    assert two.links()["current"] == serves
    assert two.systemd.events[-1] == f"stop {other}"


def _dies() -> None:
    raise SystemExit


# -- check -----------------------------------------------------------------------------------------


def _lines(place: Place) -> list[str]:
    return place.systemd.checks[-1].splitlines()


def test_the_check_has_the_restrictions_and_credentials_and_serves_nothing(two: Place) -> None:
    two.done("activate", "3.0")
    lines = _lines(two)
    release = two.home / "releases" / "3.0"
    assert [each for each in lines if each.startswith("Exec") and "Paths" not in each] == [
        f"ExecStart={release}/venv/bin/python -m image_gateway check"
    ]
    template = PROJECT.joinpath("systemd", TEMPLATE).read_text("utf-8")
    hardening = template.partition("# Hardening.\n")[2].partition("[Install]")[0].splitlines()
    wanted = {each for each in hardening if each and not each.startswith("SocketBind")}
    wanted |= {f"LoadCredential={name}:{two.folder}/etc/{name}" for name in SECRETS}
    wanted |= {"Environment=IMAGE_GATEWAY_OPS_BIND=127.0.0.1:19083", "MemoryMax=1536M"}
    assert wanted <= set(lines)
    assert "Type=oneshot" in lines
    assert not any(each.startswith(("Sockets", "Restart", "StateDir", "LogsDir")) for each in lines)
    assert two.systemd.events[:4] == [
        "daemon-reload",
        "start check",
        "reset-failed check",
        "daemon-reload",
    ]
    assert not two.script.CHECK_UNIT.exists()


def test_an_operator_s_drop_ins_count_in_the_check_as_systemd_reads_them(two: Place) -> None:
    secret = two.folder / "etc" / "another"
    secret.write_text("a secret", "utf-8")
    two.drop_in(
        TEMPLATE,
        "[Unit]\nDescription=Mine\n[Service]\n# Nice=1\nLoadCredential=\n"
        f"LoadCredential=one:{secret}\nEnvironment=A=1 \\\n  B=2\nMemoryMax = 2G\n"
        "ExecStartPre=/usr/bin/true\n",
    )
    two.drop_in("image-gateway@green.service", "[Service]\nNice=3\n")
    two.folder.joinpath("etc", "prompt-hash-key").unlink()
    two.done("activate", "3.0")
    lines = _lines(two)
    assert [each for each in lines if each.startswith("LoadCredential=") and each[15:]] == [
        f"LoadCredential=one:{secret}"
    ]
    [environment] = [each for each in lines if each.startswith("Environment=A=1")]
    assert environment.split() == ["Environment=A=1", "B=2"]
    assert lines.index("MemoryMax=2G") > lines.index("MemoryMax=1536M")
    assert not any("/usr/bin/true" in each or "Nice" in each for each in lines)
    assert "Description=Mine" not in lines


def test_of_drop_ins_with_one_name_the_instance_s_own_counts_and_names_give_the_order(
    two: Place,
) -> None:
    two.drop_in(TEMPLATE, "[Service]\nNice=1\n")
    own = two.drop_in("image-gateway@blue.service", "[Service]\nNice=2\n")
    own.with_name("05-first.conf").write_text("[Service]\nNice=5\n", "utf-8")
    two.units.joinpath(f"{TEMPLATE}.d", "zz-last.conf").write_text("[Service]\nNice=9\n", "utf-8")
    two.done("activate", "3.0")
    assert [each for each in _lines(two) if each.startswith("Nice=")] == [
        "Nice=5",
        "Nice=2",
        "Nice=9",
    ]


# -- changed settings ------------------------------------------------------------------------------


def _moved_in(path: Path, spare: Path) -> None:
    spare.replace(path)


def _copied_over(path: Path, spare: Path) -> None:
    shutil.copy2(spare, path)


@pytest.mark.parametrize("way", [_moved_in, _copied_over])
def test_an_older_file_that_was_put_in_place_counts_as_changed(
    two: Place, way: Callable[[Path, Path], None]
) -> None:
    path, spare = two.folder / "etc" / "config.toml", two.folder / "etc" / "config.toml.old"
    spare.write_text("as it was", "utf-8")
    os.utime(spare, (1000, 1000))
    assert "2.0 serves already as green" in two.done("activate", "2.0")
    way(path, spare)
    assert path.stat().st_mtime == 1000
    assert "2.0 serves as blue" in two.done("activate", "2.0")
    assert two.links()["previous"] == "releases/1.0"


def test_a_drop_in_that_was_taken_away_counts_as_changed(two: Place) -> None:
    path = two.drop_in("image-gateway@green.service", "[Service]\nNice=3\n")
    only = two.drop_in(TEMPLATE, "[Service]\nNice=2\n")
    assert "2.0 serves as blue" in two.done("activate", "2.0")
    for each in (only, path):
        assert "serves already" in two.done("activate", "2.0")
        each.unlink()
        assert "2.0 serves as" in two.done("activate", "2.0")


# -- prune, lock, dry run --------------------------------------------------------------------------


def test_the_newest_releases_and_the_linked_ones_are_kept(two: Place) -> None:
    for number in range(4, 10):
        two.staged(f"{number}.0")
    two.done("activate", "2.0")  # serves already
    assert len(two.releases()) == 9
    two.done("activate", "3.0")
    assert two.releases() == {"2.0", "3.0", "7.0", "8.0", "9.0"}
    assert two.script.KEPT == 3


def test_a_second_run_is_told_who_is_at_work(two: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["release", "activate", "3.0"])
    artifact = saved(two, packed())
    with two.script.Machine(is_dry=False).lock():
        for words in (("activate", "3.0"), ("rollback",), ("stage", artifact)):
            assert two.say(*words) == (
                75,
                f"release: process {os.getpid()} is active: activate 3.0\n",
            )
        assert two.say("status")[0] == 0
    assert two.said() == []
    two.done("activate", "3.0")


def test_the_lock_is_free_again_after_a_run_that_failed(two: Place) -> None:
    assert two.say("activate", "9.9")[0] == 1
    with two.script.Machine(is_dry=False).lock():
        pass


def test_while_an_instance_finishes_its_calls_the_next_run_may_begin(two: Place) -> None:
    def look() -> None:
        with two.script.Machine(is_dry=False).lock():
            taken.append(True)

    taken: list[bool] = []
    two.systemd.before("stop green", lambda: two.systemd.before("show ActiveState green", look))
    two.done("activate", "3.0")
    assert taken


def test_an_upload_keeps_nobody_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> bytes:
        with place.script.Machine(is_dry=False).lock():
            return packed()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read=read)))
    assert "staged 1.0" in place.done("stage", "-")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stage", "NEW"], "would install 4.0 into"),
        (["stage", "AGAIN"], "5.0 is staged already"),
        (["activate", "6.0"], f"would install UNITS/{EXTRA}"),
        (["activate", "2.0"], "2.0 serves already as green"),
        (["rollback"], "would systemctl stop --no-block image-gateway@green.service"),
    ],
)
def test_a_dry_run_changes_nothing(two: Place, words: list[str], told: str) -> None:
    for number in range(7, 12):  # enough to prune
        two.staged(f"{number}.0")
    two.staged("6.0", "# of 6.0", {f"systemd/{EXTRA}": "[Service]\n"})
    again = packed(version="5.0")
    two.done("stage", saved(two, again))
    os.utime(two.home / "releases" / "5.0" / "installed.json", (1, 1))
    two.home.joinpath("releases", ".4.0.partial").mkdir()
    path = saved(two, again if words[1:] == ["AGAIN"] else packed(version="4.0"))
    given = [path if word in {"NEW", "AGAIN"} else word for word in words]
    before = two.tree()
    two.systemd.events.clear()
    assert told.replace("UNITS", str(two.units)) in two.done("--dry-run", *given)
    assert two.tree() == before
    assert two.said() == []


def test_a_dry_run_on_a_bare_machine_changes_nothing(place: Place) -> None:
    before = place.tree()
    assert "would install 1.0" in place.done("--dry-run", "stage", saved(place, packed()))
    assert place.say("--dry-run", "activate") == (1, "release: no release is staged\n")
    assert place.tree() == before


# -- over ssh --------------------------------------------------------------------------------------


@pytest.fixture
def far(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place behind a ``ssh`` that runs here what it is told, and loses a host named away."""
    programs = {
        "ssh": '#!/bin/sh\n[ "$1" = -- ] || exit 9\n[ "$2" = away ] && exit 255\n'
        'shift 2; exec sh -c "$*"\n',
        "sudo": '#!/bin/sh\nshift; exec "$@"\n',
    }
    folder = place.folder.parent / "bin"
    folder.mkdir()
    for name, text in programs.items():
        path = folder / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return place


@pytest.mark.parametrize("release", ["two words", "it's", 'a "b" $HOME `id` \\ ;*'])
def test_arguments_arrive_over_ssh_as_they_are(far: Place, release: str) -> None:
    assert far.say("--host", "far", "activate", release) == (
        1,
        f"release: {release} is not staged; run status to see which releases are\n",
    )


def test_an_artifact_arrives_over_ssh_as_it_is(far: Place) -> None:
    assert "staged 1.0" in far.done("--host", "far", "stage", saved(far, packed()))
    assert far.releases() == {"1.0"}


def test_a_dry_run_over_ssh_is_one_there(far: Place) -> None:
    told = far.done("--dry-run", "--host", "far", "stage", saved(far, packed()))
    assert "would install 1.0" in told
    assert far.releases() == set()


def test_exit_codes_come_back_over_ssh(far: Place) -> None:
    with far.script.Machine(is_dry=False).lock():
        code, told = far.say("--host", "far", "rollback")
    assert (code, f"process {os.getpid()} is active" in told) == (75, True), told


def test_a_connection_that_is_lost_is_explained(far: Place) -> None:
    code, told = far.say("--host", "away", "rollback")
    assert code == 255
    assert "A run that began there goes on to its end" in told
