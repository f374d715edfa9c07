"""The lock files name all that is installed, by version and hash, and nothing else."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads(PROJECT.joinpath("pyproject.toml").read_text("utf-8"))
EXTRAS = {"requirements.lock": "", "requirements-demo.lock": "demo", "requirements-dev.lock": "dev"}
BUILD = "requirements-build.lock"
BENCH = "requirements-bench.lock"
FUZZ = "requirements-fuzz.lock"
OTHERS = sorted([*PROJECT.glob("tests/clients/python/*.lock"), *PROJECT.glob("bench/*.lock")])
ALL = [*(PROJECT / name for name in (*EXTRAS, BUILD, BENCH, FUZZ)), *OTHERS]

_ENTRY = re.compile(r"(\S+==[^\s;]+(?: ; [^\\\n]+)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
"""One package: name, version, marker if any, hashes.  Nothing else may be in a file."""


def text_of(lock: Path) -> str:
    """A lock file without its comments."""
    lines = lock.read_text("utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def pins(lock: Path) -> dict[str, str]:
    """The versions of a lock file that this Python on this system installs."""
    entries = [Requirement(entry) for entry, _ in _ENTRY.findall(text_of(lock))]
    return {
        canonicalize_name(entry.name): str(entry.specifier).removeprefix("==")
        for entry in entries
        if entry.marker is None or entry.marker.evaluate()
    }


def direct(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = PYPROJECT["project"]
    more: Mapping[str, list[str]] = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(more[extra] if extra else ())]
    found = [Requirement(each) for each in wanted]
    own = [each for each in found if each.name == project["name"]]
    inner = [each for named in own for name in named.extras for each in direct(name)]
    return [each for each in found if each not in own] + inner


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """The names of all that these need, by what is installed here."""
    left = list(wanted)
    seen: set[tuple[str, str]] = set()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            inner = [Requirement(each) for each in metadata.requires(name) or ()]
            here = {"extra": extra}
            left += [each for each in inner if each.marker is None or each.marker.evaluate(here)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("lock", ALL, ids=lambda path: str(path.relative_to(PROJECT)))
def test_each_package_has_a_version_and_hashes_and_no_registry_is_named(lock: Path) -> None:
    text = text_of(lock)
    assert _ENTRY.sub("", text) == ""
    entries = [Requirement(entry) for entry, _ in _ENTRY.findall(text)]
    assert [each for each in entries if each.url is not None] == []
    assert entries
    # One name may have several versions, each for other Pythons.
    versions = Counter(each.name for each in entries)
    assert [each.name for each in entries if versions[each.name] > 1 and not each.marker] == []
    assert "://" not in lock.read_text("utf-8")


@pytest.mark.parametrize(("name", "extra"), EXTRAS.items())
def test_a_lock_file_holds_what_the_project_needs_and_nothing_else(name: str, extra: str) -> None:
    """After a change in pyproject.toml, run scripts/lock."""
    locked = pins(PROJECT / name)
    wanted = direct(extra)
    names = {canonicalize_name(each.name) for each in wanted}
    assert names - locked.keys() == set()
    too_far = {
        str(each)
        for each in wanted
        if not each.specifier.contains(locked[canonicalize_name(each.name)], prereleases=True)
    }
    assert too_far == set()
    assert locked.keys() == closure(wanted)


def test_the_fuzzer_is_locked_beside_what_the_gateway_needs() -> None:
    """It is not installed here."""
    locked = pins(PROJECT / FUZZ)
    own = [each for each in direct("fuzz") if each not in direct("")]
    assert all(each.specifier.contains(locked.pop(each.name)) for each in own)
    assert locked == pins(PROJECT / "requirements.lock")


def test_the_smaller_environments_have_the_versions_of_the_largest() -> None:
    largest = pins(PROJECT / "requirements-dev.lock")
    for name in EXTRAS:
        assert pins(PROJECT / name).items() <= largest.items(), name


def test_what_builds_the_gateway_is_locked() -> None:
    locked = pins(PROJECT / BUILD)
    wanted = [Requirement(each) for each in PYPROJECT["build-system"]["requires"]]
    assert locked.keys() == {"pip", *(each.name for each in wanted)}
    assert all(each.specifier.contains(locked[each.name]) for each in wanted)


def test_this_environment_has_the_locked_versions() -> None:
    """Otherwise the other tests speak of versions that nobody installs."""
    locked = pins(PROJECT / "requirements-dev.lock") | pins(PROJECT / BUILD)
    installed = {name: metadata.version(name) for name in locked}
    assert installed == locked
