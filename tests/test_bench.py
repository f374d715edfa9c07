"""The measuring programs: what they are asked for, what they count, what they make of the figures.

No figure of speed is tested: it would be this machine's.
"""

import json
import re
import subprocess
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench import buying, compare, installing, load, page, peers, purchase_report, report, results
from bench.faults import FAULTS
from bench.measuring import by_start
from bench.peers import DIRECT, Door, MissingError, Site, Started
from bench.targets import TARGETS, judge
from bench.upstream import Upstream
from bench.works import WORKS, Way, Work, quick
from tests.parts.gateway import free_port

EVERY = {work.name: work for work in WORKS}


def small(name: str) -> Work:
    """A work with small pictures and six calls, three at once."""
    return replace(EVERY[name], picture=30_000, calls=6, at_once=3, delay=0.05, ramp=0)


# -- the command line ------------------------------------------------------------------------------


def test_everything_is_measured_unless_less_is_asked_for() -> None:
    plan = compare.plan([])
    assert [work.name for work in plan.works] == [n for n in EVERY if n != "slow-readers"]
    assert [peer.name for peer in plan.peers] == [peer.name for peer in peers.PEERS]
    assert (plan.with_direct, plan.is_quick, plan.writes) == (True, False, False)


def test_works_and_peers_come_in_their_own_order(tmp_path: Path) -> None:
    words = ["--works", "W2,W1", "--peers", "gateway,nginx", "--rounds", "7", "--write"]
    plan = compare.plan([*words, "--against", str(tmp_path)])
    assert [(work.name, work.rounds) for work in plan.works] == [("W1", 7), ("W2", 7)]
    assert [peer.name for peer in plan.peers] == ["nginx", "gateway", "against"]
    assert (plan.with_direct, plan.writes) == (False, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--works", "W1,W99"], "unknown: W99; choose from W1, W2"),
        (["--peers", "varnish"], "unknown: varnish; choose from direct, nginx-unbuffered"),
        (["--rounds", "0"], "'0' is not a number from 1 to 1000"),
        (["--round", "3"], "unrecognized arguments: --round"),
    ],
)
def test_a_wrong_word_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.plan(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_quick_form_is_smaller_and_starts_the_peers_three_times() -> None:
    plan = compare.plan(["--quick"])
    for work in plan.works:
        full = EVERY[work.name]
        assert (work.rounds, work.calls < full.calls) == (1, True), work.name
        assert (work.picture, work.upload, work.partials) == (
            full.picture,
            full.upload,
            full.partials,
        )
    together, *alone = by_start(plan.works)
    assert [work.name for work in together] == ["W1", "W2", "W4", "W6", "W7", "L1", "L2"]
    assert [[work.name for work in group] for group in alone] == [["W3"], ["W5"]]
    assert by_start(WORKS) == [[work] for work in WORKS]
    assert quick(EVERY["slow-readers"]).reads_slowly


# -- the two ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["W1", "W4", "W6"])
async def test_every_call_that_arrives_is_counted(name: str) -> None:
    work = small(name)
    async with Upstream() as upstream:
        upstream.serve(work)
        outcome = await load.run(upstream.port, Way(), work, upstream, count=work.calls)
    assert (len(outcome.times), outcome.errors, upstream.purchases) == (6, [], 6)


async def test_a_retry_of_a_call_in_flight_is_made_and_compared() -> None:
    """Without a gateway it is a second purchase, and another picture."""
    work = small("W7")
    async with Upstream() as upstream:
        upstream.serve(work)
        upstream.delay = work.delay
        outcome = await load.run(
            upstream.port, Way(), work, upstream, count=work.calls, with_retries=True
        )
    assert (len(outcome.times), outcome.errors, upstream.purchases) == (6, [], 12)
    assert outcome.same_pictures == 0


async def test_a_call_without_a_picture_is_an_error() -> None:
    work = small("W1")
    async with Upstream() as upstream:
        upstream.serve(replace(work, picture=1000))
        short = await load.run(upstream.port, Way(), work, upstream, count=2)
        refused = await load.run(free_port(), Way(), work, upstream, count=2)
    assert short.times == refused.times == []
    assert all(re.fullmatch(r"\d+ bytes, which are no picture", e) for e in short.errors)
    assert [len(outcome.errors) for outcome in (short, refused)] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bare-keeping", "bare-closing"])
async def test_a_peer_is_started_measured_and_ended(form: str, tmp_path: Path) -> None:
    [bare] = [peer for peer in peers.PEERS if peer.name == form]
    work = small("W1")
    async with Upstream() as upstream:
        upstream.serve(work)
        started = bare.start(Site(tmp_path, [Door("door", [upstream.url])]))
        try:
            await started.program.wait_until_ready(started.ready)
            before = started.program.cpu_seconds()
            way = started.ways["door"]
            outcome = await load.run(started.program.port, way, work, upstream, count=work.calls)
            assert (len(outcome.times), outcome.errors) == (6, []), started.program.log.read_text()
            assert started.program.cpu_seconds() > before > 0
            assert started.program.peak_mb() > 10
        finally:
            started.program.kill()
    assert started.program.process.returncode is not None


@pytest.mark.slow
async def test_purchases_and_pictures_are_counted() -> None:
    """At an upstream itself, with the SDK's own retries."""
    [fault] = [fault for fault in FAULTS if fault.name == "reset-once"]
    rows = []
    for client in buying.CLIENTS:
        async with AsyncExitStack() as closing:
            upstreams = buying._DoorUpstreams(fault)
            [first, _] = await upstreams.open(closing)
            case = buying._Case(fault, DIRECT, client, upstreams)
            rows.append(await buying._count(case, f"{first}/v1", Way()))
    assert [(row.client, row.asked, row.pictures) for row in rows] == [
        ("defaults", 2, 1),
        ("no-retries", 1, 0),
    ]


# -- who takes part --------------------------------------------------------------------------------


@dataclass(frozen=True)
class NotThere:
    """A peer that is not installed."""

    name: str = "varnish"
    title: str = "Varnish"

    def version(self) -> str:
        raise MissingError("varnish is not installed")

    def start(self, site: Site) -> Started:
        raise AssertionError(site)


def test_a_peer_that_cannot_be_installed_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = "packages are missing; on Debian, run:\n    sudo apt-get install varnish\n"
        return subprocess.CompletedProcess(command, 1, stderr=words)

    bare = [peer for peer in peers.PEERS if peer.name == "bare-closing"]
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", fails)
        found, versions, missing = installing.usable([NotThere(), *bare])
    assert (found, list(versions)) == (bare, ["bare-closing"])
    assert missing == {"varnish": "could not be installed: sudo apt-get install varnish"}
    words = report.markdown({**RESULT, "missing": missing})
    assert "Left out: varnish, could not be installed: sudo apt-get install varnish." in words


def test_litellm_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It installs from whatever registry a machine uses, and its lock file says which one it is."""
    lock = peers.LITELLM_LOCK.read_text("utf-8")
    assert "://" not in lock
    wanted = peers.LITELLM_LOCK.with_suffix(".in").read_text("utf-8")
    monkeypatch.setattr(peers, "LITELLM", tmp_path)
    with pytest.raises(
        MissingError, match=re.escape("run: scripts/venv .venvs/litellm bench/litellm.lock")
    ):
        peers.LiteLlm().version()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "litellm").touch()
    assert f"litellm[proxy]=={peers.LiteLlm().version()}\n" in wanted


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=f"{tmp_path} is not a checkout of the gateway"):
        peers.ImageGateway("against", "against", tmp_path).version()


# -- the figures -----------------------------------------------------------------------------------


def row(work: str, peer: str, **values: Any) -> dict[str, Any]:
    """One measure: ten calls of a megabyte in two seconds."""
    return {
        "work": work,
        "round": 1,
        "peer": peer,
        "calls": 10,
        "errors": 0,
        "error": None,
        "seconds": 2.0,
        "cpu": 0.1,
        "postgres_cpu": 0.0,
        "base64_bytes": 10_000_000,
        "peak_mb": 50.0,
        "p50_ms": 4.0,
        "p99_ms": 9.0,
        "purchases": 10,
        "same_pictures": 0,
        **values,
    }


RESULT: dict[str, Any] = {
    "date": "2026-01-02",
    "command": "bench/run --quick",
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gb": 8, "kernel": "6.1.0", "python": "3.11.7"},
    "peers": {
        "direct": {"title": "no proxy", "version": ""},
        "bare-closing": {"title": "bare", "version": "Starlette 1.0"},
        "gateway": {"title": "**image-gateway**", "version": "1.2"},
        "litellm": {"title": "LiteLLM", "version": "1.108.6"},
    },
    "missing": {},
    "works": {"W1": "small pictures", "W4": "edits", "L1": "one at a time"},
    "is_quick": True,
    "rows": [
        row("W1", "bare-closing", cpu=0.1),
        row("W1", "gateway", cpu=0.3, postgres_cpu=0.01),
        row("W1", "gateway", cpu=0.1, peak_mb=60.0),
        row("W1", "gateway", cpu=0.19),
        row("W1", "litellm", cpu=1.8, seconds=20.0),
        row("W4", "bare-closing", cpu=0.1),
        row("W4", "gateway", cpu=0.14, errors=1, error="cut"),
        row("W4", "litellm", calls=0, errors=10, error="status 500", p50_ms=None, p99_ms=None),
        row("L1", "direct", p50_ms=0.5, cpu=0.0),
        row("L1", "gateway", p50_ms=3.5),
    ],
}


def test_medians_count_and_the_highest_peak() -> None:
    own = results.figures(RESULT)["W1"]["gateway"]
    assert own["cpu_ms"] == pytest.approx(19)
    assert own["rate"] == 5
    assert own["cpu_s_per_gb"] == pytest.approx(19)
    assert own["peak_mb"] == 60
    assert results.figures(RESULT)["L1"]["gateway"]["added_ms"] == 3


def test_targets_are_judged_by_figures_of_the_same_run() -> None:
    found = {
        (v.target.work, v.target.figure, v.target.of): v for v in judge(results.figures(RESULT))
    }
    assert len(found) == len(TARGETS)
    words = {key: verdict.word for key, verdict in found.items() if verdict.word != "not measured"}
    assert words == {
        ("W1", "cpu_ms", "bare-closing"): "pass",
        ("W1", "rate", "litellm"): "pass",
        ("W1", "cpu_ms", "litellm"): "pass",
        ("W4", "cpu_ms", "bare-closing"): "miss",
        ("L1", "added_ms", None): "miss",
    }


def test_the_report_has_the_peers_side_by_side() -> None:
    assert report.markdown(RESULT) == Path(__file__).with_name("bench_report.md").read_text("utf-8")


def test_a_stored_run_is_read_again(tmp_path: Path) -> None:
    """With one line for each row."""
    path = tmp_path / "performance.json"
    path.write_text(results.dump(RESULT), "utf-8")
    assert results.read(path) == RESULT == json.loads(results.dump(RESULT))
    assert sum('"work": ' in line for line in results.dump(RESULT).splitlines()) == 10
    assert results.read(tmp_path / "other.json") is None


def test_purchases_are_shown_with_both_clients() -> None:
    def counted(fault: str, client: str, asked: int, pictures: int, calls: int) -> dict[str, Any]:
        return {
            "fault": fault,
            "peer": "gateway",
            "client": client,
            "calls": calls,
            "asked": asked,
            "pictures": pictures,
            "seconds": 3.2,
        }

    rows = [
        counted("late", "no-retries", 1, 0, 1),
        counted("late", "defaults", 3, 1, 1),
        counted("one-fails", "defaults", 12, 9, 10),
    ]
    faults = {"late": "too late", "one-fails": "one of two"}
    words = purchase_report.markdown({**RESULT, "faults": faults, "rows": rows, "client": "sdk 1"})
    assert "client: sdk 1." in words
    assert "| too late |  |  | 3 picture / 1 none |  |" in words
    assert "| one of two |  |  | 12: 9 of 10 in 3 s |  |" in words


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "markdown"),
    [(compare.NAME, report.markdown), (buying.NAME, purchase_report.markdown)],
)
def test_the_page_says_what_the_last_run_found(name: str, markdown: Any) -> None:
    stored = results.read(page.RESULTS / f"{name}.json")
    assert page.part(page.PAGE.read_text("utf-8"), name) == markdown(stored)


def test_a_part_of_the_page_is_replaced_and_nothing_else() -> None:
    text = "a\n<!-- one -->\n\nold\n\n<!-- /one -->\nb\n<!-- two -->\n\nkept\n\n<!-- /two -->\n"
    changed = page.with_part(text, "one", r"new \1")
    assert page.part(changed, "one") == r"new \1"
    assert changed == text.replace("old", r"new \1")
    with pytest.raises(ValueError, match="needs one pair of marks <!-- three -->"):
        page.with_part(text, "three", "new")
