"""What the README pages say is what the code does: commands, settings, codes, metrics, paths."""

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

import psycopg
import pytest

from image_gateway import __main__, config, sql
from image_gateway.cli import logs_usage
from image_gateway.core import errors
from image_gateway.core.dialects import DIALECTS, UpstreamRoute, codex_intents, faults
from image_gateway.core.dialects.faults import Fault
from image_gateway.core.records import record, status, summary, totals
from image_gateway.core.request.catalogue import Parameter
from image_gateway.core.routing import capability, failover
from image_gateway.core.routing.failover import Action
from image_gateway.core.routing.ranking import Condition
from image_gateway.edge.metrics import (
    AccountGauges,
    CallGauges,
    ConnectionGauges,
    GaugeValues,
    Metrics,
)
from image_gateway.exchange import routes
from tests.clients import test_kept_calls
from tests.core.builders import CATALOGUE, ROUTES
from tests.parts import purchases
from tests.parts.pages import (
    CALLS,
    COMMANDS,
    CONTROL_PLANE,
    DIALECT_FACTS,
    FRONT,
    OPERATION,
    OPS,
    PROJECT,
    SCRIPTS,
    Page,
    every_page,
)
from tests.parts.plane import Plane

PAGES = every_page()
LAST_ROWS = (faults.GATEWAYS_FIELD, faults.PARAMETER_REFUSED)


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


PARSERS = dict(leaves(__main__.parser()))


# -- commands --------------------------------------------------------------------------------------


def test_every_command_is_told() -> None:
    told = set()
    for cell, _ in COMMANDS.rows("Commands"):
        first, *others = [each.split() for each in re.findall(r"`(.*?)`", cell)]
        words = tuple(word for word in first[1:] if word.islower() and word.isidentifier())
        told |= {words, *((*words[:-1], *other) for other in others)}
    assert told == {words[:2] if words[0] == "control" else words for words in PARSERS}


def test_every_command_of_control_is_told_with_its_options() -> None:
    told: dict[tuple[str, ...], set[str]] = {}
    rows = [cell for cell, _ in COMMANDS.rows("control")]
    [limits] = [cell.partition(":")[2] for cell in rows if cell.startswith("... LIMITS")]
    for cell in rows:
        if cell.startswith("... LIMITS"):
            continue
        for each in re.findall(r"`(.*?)`", cell):
            words = ("account", "add") if each.startswith("[") else tuple(each.split()[:2])
            spelled = each.replace("LIMITS", limits)
            told.setdefault(words, set()).update(re.findall(r"--[\w-]+", spelled))
    known = {
        words[1:]: options(parser) - {"--json"}
        for words, parser in PARSERS.items()
        if words[0] == "control"
    }
    assert told == known
    assert "`--json`" in COMMANDS.section("control").split("\n\n")[0]


def test_every_option_and_figure_of_logs_is_told() -> None:
    told = COMMANDS.section("logs")
    known = [options(parser) for words, parser in PARSERS.items() if words[0] == "logs"]
    assert set(re.findall(r"--[a-z][\w-]*", told)) == set().union(*known)
    names = {*summary.SUMS, *totals.DIMENSIONS, *totals.DIMENSIONS.values()}
    assert names <= set(re.findall(r"`(\w+)`", told))


def test_every_figure_of_usage_is_told_in_order_with_its_heading() -> None:
    told = COMMANDS.rows("Usage")
    figures = [re.findall(r"`(\w+)`", cells[0]) for cells in told]
    assert [name for names in figures for name in names] == list(totals.FIGURES)
    headings = [heading for cells in told for heading in cells[1].split(", ") if heading]
    assert headings == list(logs_usage.HEADINGS.values())


def test_every_example_of_a_command_is_one() -> None:
    typed = "\n".join(
        text
        for page in PAGES
        for text in (*re.findall(r"^ {4,}(.*)$", page.text, re.MULTILINE), *page.blocks())
    )
    lines = re.sub(r"\\\n", " ", typed).splitlines()
    examples = [line for line in lines if re.match(r"(.* )?(bin/)?image-gateway [a-z]", line)]
    assert len(examples) > 20
    for example in examples:
        words = shlex.shlex(example, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        typed_words = list(takewhile(lambda word: word[0] not in "|<>;&", words))
        at = [word.removeprefix("bin/") for word in typed_words].index("image-gateway")
        __main__.parser().parse_args(typed_words[at + 1 :])  # else it ends the process


@pytest.mark.slow
def test_what_the_guides_have_somebody_type_is_sound_shell(tmp_path: Path) -> None:
    script = tmp_path / "guide.sh"
    blocks = OPERATION.blocks()
    assert len(blocks) == 8
    script.write_text("\n".join(["#!/bin/bash", "set -eu", *blocks]), "utf-8")
    done = subprocess.run(
        ["shellcheck", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


# -- settings --------------------------------------------------------------------------------------


def test_every_setting_is_told_with_its_default_and_purpose() -> None:
    told = {
        name.strip("`"): (default.strip("`"), purpose)
        for name, default, purpose in OPERATION.rows("Settings")
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
            assert f"`{setting.name}`" in OPERATION.section("Settings").split("\n\n")[0]


# -- what comes back -------------------------------------------------------------------------------


def test_every_error_code_is_told_with_its_status_type_and_retry() -> None:
    told = {
        code.strip("`"): (status, kind.strip("`"))
        for code, status, kind, _ in CALLS.rows("Error codes")
    }
    known = {
        code: (f"{kind.status}{'' if kind.retry else ' ✕'}", kind.type)
        for code, kind in errors.ERROR_SPECS.items()
    }
    assert told == known
    assert f"`{errors.CLIENT_LEFT}`" in CALLS.section("Error codes")


def test_every_field_of_the_record_is_told_in_order() -> None:
    told = re.findall(r"`(\w+)`", COMMANDS.section("The log record").split("\n\n")[1])
    assert tuple(told) == record.FIELDS


def test_every_path_is_told() -> None:
    told = re.findall(r"^    (.*)$", CALLS.section("Paths and keys"), re.MULTILINE)
    assert sorted(" ".join(told).split()) == sorted(
        (*routes.PREFIXES, *routes.RESPONSES, *routes.MODELS)
    )


def test_what_each_kind_of_account_can_do_is_told_as_the_code_has_it() -> None:
    [_, *names], *told = CALLS.table("What each kind of account can do")
    assert names == [route.name for route in ROUTES]
    known = [
        [need.title, *("-" if need.ability in route.lacks else "✓" for route in ROUTES)]
        for need in capability.NEEDS
    ]
    assert told == known


def test_what_each_kind_of_account_can_do_of_an_intent_is_told_as_the_code_has_it() -> None:
    [_, *names], *told = CALLS.table("Calls of the Responses API")
    known = [
        [need.title, *("-" if need.ability in _intents(name).lacks else "✓" for name in names)]
        for need in capability.INTENT_NEEDS
    ]
    assert (sorted(names), told) == (sorted(DIALECTS), known)


def _intents(name: str) -> UpstreamRoute:
    route = DIALECTS[name].intent_route
    assert route is not None
    return route


def test_what_codex_does_not_get_is_told() -> None:
    section = CALLS.section("Calls of the Responses API").partition("are left out:")[2]
    told = re.findall(r"`(\w+)`", section.partition(".\n")[0])
    assert told == sorted(codex_intents.TUNING)


def test_every_parameter_is_told_with_its_rules() -> None:
    known = [
        [
            f"`{name}`",
            ", ".join(each for each in ("generations", "edits") if each in parameter.endpoints),
            value_of(parameter),
            default_of(parameter),
            needs_of(parameter),
        ]
        for name, parameter in CATALOGUE.parameters.items()
    ]
    assert CALLS.rows("Parameters") == known


def value_of(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return ", ".join(f"`{choice}`" for choice in parameter.choices)
    if parameter.minimum is not None:
        return f"{parameter.minimum} to {parameter.maximum}"
    return parameter.type if parameter.longest is None else f"up to {parameter.longest} characters"


def default_of(parameter: Parameter) -> str:
    if parameter.default is None:
        return ""
    return f"`{str(parameter.default).lower()}`" if parameter.default != "" else "empty"


def needs_of(parameter: Parameter) -> str:
    return ", ".join(
        f"`{other}` {' or '.join(f'`{str(value).lower()}`' for value in values)}"
        for other, values in (parameter.needs or {}).items()
    )


def test_every_model_is_told_with_what_it_narrows() -> None:
    known = [
        [
            f"`{name}`",
            "free" if model.sizes is None else ", ".join(f"`{size}`" for size in model.sizes),
            "; ".join(
                f"`{parameter}`: {', '.join(choices)}" if choices else f"no `{parameter}`"
                for parameter, choices in model.choices.items()
            ),
            "" if model.shutdown is None else f"{model.shutdown}",
        ]
        for name, model in CATALOGUE.models.items()
    ]
    assert CALLS.rows("Models") == known
    for fact in (f"as of {CATALOGUE.as_of}", f"rules of `{CATALOGUE.newest}`"):
        assert fact in CALLS.section("Models").replace("\n", " ")


def test_every_stage_and_action_of_an_attempt_is_told() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", COMMANDS.section("The log record"), re.MULTILINE)
    told = set(rows[: rows.index("reason")])
    assert told - {"stage", "action"} == {*failover.Stage, *Action}


def test_every_reason_of_an_attempt_is_told() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", COMMANDS.section("The log record"), re.MULTILINE)
    told = rows[rows.index("reason") + 1 :]
    again = {Action.NEXT, Action.REREAD}
    steps = [(row.name, _step(row)) for row in failover.TABLE]
    known = [name for name, step in steps if step.action in again or step.reason is not None]
    assert told == [name for name in known if name not in {*Fault}]


def _step(row: failover.Row) -> failover.Step:
    return row.step(failover.AttemptOutcome(failover.Stage.ANSWER, "codex"))


def test_what_every_fault_costs_is_told() -> None:
    assert DIALECT_FACTS.rows("What a fault costs") == purchases.rows()


def test_what_faults_on_the_way_cost_each_client_is_told() -> None:
    assert CALLS.table("What each client does") == test_kept_calls.page()


def test_every_known_error_is_told_with_whose_fault_it_is() -> None:
    told = [
        (owner, name.strip("`"), fault)
        for owner, name, fault, _, _ in DIALECT_FACTS.rows("What an error is about")
    ]
    titles = {"codex": "Codex", "azure": "Azure", "openai": "OpenAI"}
    rows = [(title, row) for name, title in titles.items() for row in DIALECTS[name].known_errors]
    rows += [("all", row) for row in (*faults.COMMON, *LAST_ROWS)]
    words = {
        Fault.REQUEST: "the request",
        Fault.ACCOUNT: "the account",
        Fault.MODEL: "the model on this account",
        Fault.ENDPOINT: "this endpoint for this model on this account",
        Fault.FORM: "the form in which the gateway sent it",
        Fault.OVERLOAD: "an overload",
    }
    assert told == list(
        dict.fromkeys((owner, f"{row.name}", words[row.fault]) for owner, row in rows)
    )


def test_every_column_of_the_contract_is_told(plane: Plane) -> None:
    told = CONTROL_PLANE.section("The contract")
    for view in ("keys", "accounts"):
        [item] = re.findall(
            rf"^- `image_gateway\.{view}`: (.*?)^- ", told, re.DOTALL | re.MULTILINE
        )
        assert set(re.findall(r"`(\w+)`", item)) - {"fixed", "auto"} == columns(plane, view)


def columns(plane: Plane, view: str) -> set[str]:
    with psycopg.connect(plane.url) as connection:
        read = connection.execute(f"SELECT * FROM image_gateway.{view} LIMIT 0".encode())
        return {each.name for each in read.description or ()}


def test_every_schema_is_told() -> None:
    planes = [cells[1].strip("`") for cells in CONTROL_PLANE.rows("Control planes")]
    assert planes == list(sql.PLANES)
    told = [cell.strip("`") for cell, _ in CONTROL_PLANE.rows("The SQL")]
    every = [name.replace("NAME", plane) for name in told for plane in sql.PLANES]
    assert set(every) - {"standalone_notify", "standalone_uninstall"} == set(sql.SCHEMAS)


def test_what_happens_when_something_fails_is_told_and_each_line_has_its_test() -> None:
    tests = PROJECT.joinpath("tests/daemon/test_failures.py").read_text("utf-8")
    told = [cells[-1].strip("`") for cells in OPERATION.rows("When something fails")]
    assert told == re.findall(r"^async def (test_\w+)", tests, re.MULTILINE)


# -- the ops port ----------------------------------------------------------------------------------


def served_metrics() -> dict[str, set[str]]:
    """The metrics without their prefix, each with its labels."""
    account = AccountGauges("a", Condition.USABLE, 0, 3)
    connections = ConnectionGauges(1, 2, 3)
    now = GaugeValues(
        version="1",
        since=0.0,
        accounts=(account,),
        waiting=0,
        phases={},
        slots_shared=True,
        slots_without_lock=0,
        bytes_in_flight=0,
        control_plane_up=True,
        notify=True,
        grant_age_seconds=0.0,
        log_records_lost=0,
        connections=connections,
        calls=CallGauges(),
        loop_lags={"other": 0.0},
    )
    metrics = Metrics(lambda: now)
    attempt = record.AttemptRecord("a", "codex", "answer", 200, None, "deliver", 1)
    metrics.observe(record.Record(datetime.now(UTC), "req_1", attempts=(attempt,), auth_ms=1))
    metrics.observe_picture(200)
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
        for _, cell in OPS.rows("/metrics")
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", cell)
    }
    assert told == served_metrics()


def test_what_is_watched_is_there() -> None:
    watched = OPS.section("Alarms")
    metrics = set(re.findall(r"image_gateway_(\w+)", watched))
    codes = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", " ".join(re.findall(r'"(.*?)"', watched))))
    assert metrics
    assert codes
    assert metrics <= set(served_metrics())
    assert codes <= set(errors.ERROR_SPECS)


def test_every_field_of_the_status_is_told() -> None:
    told = " ".join(OPS.text.split())
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Page) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.text)
    assert [link for link in links if "://" not in link and not leads_somewhere(page, link)] == []


def leads_somewhere(page: Page, link: str) -> bool:
    """Whether there is such a file, and such a heading in it."""
    name, _, anchor = link.partition("#")
    target = (page.path.parent / name).resolve() if name else page.path
    if not target.is_file():
        return False
    return not anchor or anchor in Page(target.relative_to(PROJECT).as_posix()).anchors


def test_every_section_of_the_front_page_stands_in_its_contents() -> None:
    told = re.findall(r"\[([^]]+)\]\(#", FRONT.text.split("\n## ", 1)[0])
    assert told == [title for level, title in FRONT.headings if level == 2]


def test_the_front_page_is_one_page_and_leads_to_every_other() -> None:
    assert FRONT.text.count("\n") <= 250
    links = re.findall(r"\]\(([^)\s#]+)\)", FRONT.section("Everything else"))
    others = {page.name for page in PAGES if page != FRONT}
    deeper = {"image_gateway/core/dialects/README.md"} | {
        name for name in others if name.startswith("image_gateway/sql/planes/")
    }
    assert others - set(links) - deeper == set()


def test_every_script_is_told() -> None:
    told = [cell.strip("`") for cell, _ in SCRIPTS.rows("Scripts")]
    scripts = PROJECT.joinpath("scripts").iterdir()
    known = [f"scripts/{path.name}" for path in scripts if path.suffix != ".md"]
    assert sorted(told) == sorted(known)


@pytest.mark.parametrize("extra", ["", "bench", "demo", "dev", "fuzz"])
def test_every_library_is_told_with_its_reason(extra: str) -> None:
    project = tomllib.loads(PROJECT.joinpath("pyproject.toml").read_text("utf-8"))["project"]
    needed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    libraries = {re.split(r"[^\w-]", each)[0] for each in needed if "types-" not in each}
    told = re.findall(r"[\w-]+", SCRIPTS.section("Dependencies"))
    assert libraries - {"image-gateway"} - set(told) == set()


def test_every_debian_package_of_the_tests_is_told() -> None:
    script = PROJECT.joinpath("scripts/debian-packages").read_text("utf-8")
    packages = set(re.findall(r'^    "([\w-]+) [^"]+"$', script, re.MULTILINE))
    assert packages
    assert packages <= set(re.findall(r"`([\w-]+)`", SCRIPTS.section("Dependencies")))
