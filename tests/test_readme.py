"""What the README says is what the code does: commands, settings, codes, fields, metrics, paths."""

import argparse
import dataclasses
import re
import shlex
import subprocess
import tomllib
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import pytest

from image_gateway import __main__, config
from image_gateway.core import errors
from image_gateway.core.records import record, status, summary
from image_gateway.core.routing import capability
from image_gateway.core.routing.ranking import Condition
from image_gateway.edge.metrics import AccountGauges, GaugeValues, Metrics
from image_gateway.exchange import routes

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text("utf-8")
HEADINGS = re.findall(r"^(##+) (.*)$", README, re.MULTILINE)
BLOCKS = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
"""What the guides have somebody type, in order."""


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    [level] = [len(signs) for signs, each in HEADINGS if each == title]
    text = README.split(f"\n{'#' * level} {title}\n", 1)[1]
    return re.split(rf"^#{{2,{level}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's first table, without its head."""
    [table] = re.findall(r"\A(?:(?!^\|).*\n)*((?:\|.*\|\n)+)", section(title), re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in table.splitlines()[2:]
    ]


def leaves(
    parser: argparse.ArgumentParser, *words: str
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command of a command line with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from leaves(inner, *words, word)
            return
    yield words, parser


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings} - {"-h", "--help"}


COMMANDS = dict(leaves(__main__.parser()))


# -- commands --------------------------------------------------------------------------------------


def test_every_command_is_told() -> None:
    told = set()
    for cell, _ in rows("Commands"):
        first, *others = [each.split() for each in re.findall(r"`(.*?)`", cell)]
        words = tuple(word for word in first[1:] if word.islower() and word.isidentifier())
        told |= {words, *((*words[:-1], *other) for other in others)}
    schema = COMMANDS["schema",]
    [names] = [action.choices for action in schema._actions if action.choices is not None]
    known = {words[:2] if words[0] == "control" else words for words in COMMANDS}
    assert told == known - {("schema",)} | {("schema", name) for name in names}


def test_every_command_of_control_is_told_with_its_options() -> None:
    told: dict[tuple[str, ...], set[str]] = {}
    for cell, _ in rows("The standalone tables"):
        for each in re.findall(r"`(.*?)`", cell):
            words = ("account", "add") if each.startswith("[") else tuple(each.split()[:2])
            told.setdefault(words, set()).update(re.findall(r"--[\w-]+", each))
    known = {
        words[1:]: options(parser) - {"--json"}
        for words, parser in COMMANDS.items()
        if words[0] == "control"
    }
    assert told == known
    assert "`--json`" in section("The standalone tables").split("\n\n")[0]


def test_every_option_and_figure_of_logs_is_told() -> None:
    told = section("Asking the log")
    known = [options(parser) for words, parser in COMMANDS.items() if words[0] == "logs"]
    assert set(re.findall(r"--[\w-]+", told)) == set().union(*known)
    figures = {*summary.SUMS, *(each.name for each in dataclasses.fields(summary.KeyUsage))}
    assert figures <= set(re.findall(r"`(\w+)`", told))


def test_every_example_of_a_command_is_one() -> None:
    typed = "\n".join([*re.findall(r"^ {4,}(.*)$", README, re.MULTILINE), BLOCKS])
    lines = re.sub(r"\\\n", " ", typed).splitlines()
    examples = [line for line in lines if re.match(r"(.* )?(bin/)?image-gateway [a-z]", line)]
    assert len(examples) > 20
    for example in examples:
        words = shlex.shlex(example, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        typed_words = list(takewhile(lambda word: word[0] not in "|<>;&", words))
        at = [word.removeprefix("bin/") for word in typed_words].index("image-gateway")
        __main__.parser().parse_args(typed_words[at + 1 :])  # else it ends the process


def test_what_the_guides_have_somebody_type_is_sound_shell(tmp_path: Path) -> None:
    script = tmp_path / "guide.sh"
    script.write_text(f"#!/bin/bash\nset -eu\n{BLOCKS}", "utf-8")
    done = subprocess.run(
        ["shellcheck", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


# -- settings --------------------------------------------------------------------------------------


def test_every_setting_is_told_with_its_default_and_purpose() -> None:
    told = {
        name.strip("`"): (default.strip("`"), purpose)
        for name, default, purpose in rows("Settings")
    }
    known = {
        setting.name: (
            "required"
            if setting.required
            else setting.default or ("-" if setting.default is None else "none"),
            setting.purpose,
        )
        for setting in config.SETTINGS
    }
    assert told == known
    assert list(told) == list(known)


def test_every_setting_that_may_be_a_file_is_told() -> None:
    for setting in config.SETTINGS:
        if setting.secret:
            assert f"`{setting.name}`" in section("Settings").split("\n\n")[0]


# -- what comes back -------------------------------------------------------------------------------


def test_every_error_code_is_told_with_its_status_type_and_retry() -> None:
    told = {
        code.strip("`"): (status, kind.strip("`")) for code, status, kind, _ in rows("Error codes")
    }
    known = {
        code: (f"{kind.status}{'' if kind.retry else ' ✕'}", kind.type)
        for code, kind in errors.ERROR_SPECS.items()
    }
    assert told == known
    assert f"`{errors.CLIENT_LEFT}`" in section("Error codes")


def test_every_field_of_the_record_is_told_in_order() -> None:
    told = re.findall(r"`(\w+)`", section("The log record").split("\n\n")[1])
    assert tuple(told) == record.FIELDS


def test_every_path_is_told() -> None:
    told = re.findall(r"^    (.*)$", section("Paths"), re.MULTILINE)
    assert sorted(" ".join(told).split()) == sorted((*routes.PREFIXES, *routes.RESPONSES))


def test_what_each_kind_of_account_can_do_is_told_as_the_code_has_it() -> None:
    head = re.findall(r"^\| needed \|(.*)\|$", README, re.MULTILINE)[0]
    assert [name.strip() for name in head.split("|")] == list(capability.UpstreamRoute)
    told = rows("What each kind of account can do")
    known = [
        [need.title, *("✓" if route in need.able else "-" for route in capability.UpstreamRoute)]
        for need in capability.NEEDS
    ]
    assert told == known


def test_what_happens_when_something_fails_is_told_and_each_line_has_its_test() -> None:
    tests = ROOT.joinpath("tests/daemon/test_failures.py").read_text("utf-8")
    told = [cells[-1].strip("`") for cells in rows("When something fails")]
    assert told == re.findall(r"^async def (test_\w+)", tests, re.MULTILINE)


# -- the ops port ----------------------------------------------------------------------------------


def served_metrics() -> dict[str, set[str]]:
    """The metrics without their prefix, each with its labels."""
    account = AccountGauges("a", Condition.USABLE, 0, 3)
    now = GaugeValues("1", 0.0, (account,), 0, {}, True, 0, True, True, 0.0, 0)
    metrics = Metrics(lambda: now)
    attempt = record.AttemptRecord("a", "codex", "answer", 200, None, "deliver", 1)
    metrics.observe(record.Record(datetime.now(UTC), "req_1", attempts=(attempt,), auth_ms=1))
    served: dict[str, set[str]] = {}
    for name, labels in re.findall(
        r"^image_gateway_(\w+?)(?:_bucket|_count|_sum)?(?:\{(.*)\})? ",
        metrics.text().decode(),
        re.MULTILINE,
    ):
        served.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    # When a counter began is the library's own.
    return {
        name: labels - {"le"} for name, labels in served.items() if not name.endswith("_created")
    }


def test_every_metric_is_told_with_its_labels() -> None:
    told = {
        name: set(labels.split(",")) if labels else set()
        for _, cell in rows("The ops port")
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", cell)
    }
    assert told == served_metrics()


def test_what_is_watched_is_there() -> None:
    watched = section("Operate it")
    metrics = set(re.findall(r"image_gateway_(\w+)", watched))
    codes = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", " ".join(re.findall(r'"(.*?)"', watched))))
    assert metrics
    assert codes
    assert metrics <= set(served_metrics())
    assert codes <= set(errors.ERROR_SPECS)


def test_every_field_of_the_status_is_told() -> None:
    told = " ".join(section("The ops port").split())
    assert names_of(status.Status) - set(re.findall(r"`(\w+)`", told)) == set()
    assert f"({', '.join(Condition)})" in told
    assert f"({', '.join(status.RequestOutcome)})" in told
    phases = re.findall(r"`phase` \((.*?)\)", told)[0]
    assert [each.split(":")[0] for each in phases.split(", ")] == list(status.PhaseLabel)


def names_of(kind: object) -> set[str]:
    """The names of a dataclass' fields, and of theirs."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return set().union(*map(names_of, typing.get_args(kind)))
    hints = typing.get_type_hints(kind)
    return set(hints).union(*map(names_of, hints.values()))


# -- the page itself -------------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for _, title in HEADINGS}
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    lost = [
        link
        for link in links
        if "://" not in link
        and not (link[1:] in anchors if link[0] == "#" else ROOT.joinpath(link).is_file())
    ]
    assert links
    assert lost == []


def test_every_section_stands_in_the_contents() -> None:
    contents = README.split("\n## ", 1)[0]
    told = re.findall(r"\[([^]]+)\]\(#", contents)
    assert [title for signs, title in HEADINGS if signs == "##" and title not in told] == []


@pytest.mark.parametrize("extra", ["", "demo", "dev"])
def test_every_library_is_told_with_its_reason(extra: str) -> None:
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text("utf-8"))["project"]
    needed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    libraries = {re.split(r"[^\w-]", each)[0] for each in needed if "types-" not in each}
    told = re.findall(r"[\w-]+", section("Dependencies"))
    assert libraries - {"image-gateway"} - set(told) == set()


def test_every_debian_package_of_the_tests_is_told() -> None:
    script = ROOT.joinpath("scripts/debian-packages").read_text("utf-8")
    packages = set(re.findall(r'^    "([\w-]+) [^"]+"$', script, re.MULTILINE))
    assert packages
    assert packages <= set(re.findall(r"`([\w-]+)`", section("Dependencies")))
