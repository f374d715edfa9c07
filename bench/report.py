"""A run as Markdown: how the peers compare, every figure, the targets, how it was taken."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.markdown import NOT_MEASURED, number, table, taken
from bench.peers import DIRECT
from bench.results import Result, figures
from bench.targets import FIGURES, GATEWAY, UNITS, Verdict, judge

CHART: Final = "![The same as a chart](results/performance.png)"

_OVERVIEW: Final[Sequence[tuple[str, str, str]]] = (
    ("W1", "rate", "calls/s"),
    ("W1", "cpu_ms", "CPU ms"),
    ("W2", "cpu_s_per_gb", "CPU s/GB"),
    ("W3", "peak_mb", "peak MB"),
    ("W4", "cpu_ms", "CPU ms"),
    ("W5", "peak_mb", "peak MB"),
    ("W6", "cpu_s_per_gb", "CPU s/GB"),
    ("L1", "added_ms", "ms added"),
    ("L2", "added_ms", "ms added"),
)
"""The columns of the first table: work, figure, head."""

_ALL: Final[Mapping[str, str]] = {
    "rate": "calls/s",
    "cpu_ms": "CPU ms a call",
    "cpu_s_per_gb": "CPU s/GB",
    "peak_mb": "peak MB",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "errors": "errors",
}
"""The columns of the table of all figures."""

_NO_COST: Final = ("cpu_ms", "cpu_s_per_gb", "peak_mb", "added_ms")
"""What ``direct`` does not have: there is no process."""


def markdown(result: Result | None) -> str:
    """What stands between the marks of the page."""
    if result is None:
        return NOT_MEASURED
    parts = [
        _head(result),
        _overview(result),
        CHART,
        _retries(result),
        _targets(result),
        _all(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(result: Result) -> str:
    words = taken(result)
    if result["is_quick"]:
        words += "\n\n`--quick` has a short form of each work, which shows rough ratios only."
    return words


def _overview(result: Result) -> str:
    measured = figures(result)
    columns = [column for column in _OVERVIEW if column[0] in measured]
    if not columns:
        return ""
    rows = [["peer", *(f"{work} {head}" for work, _, head in columns)]]
    for name, peer in result["peers"].items():
        cells = [
            _cell(measured, work, name, figure) + _errors(measured, work, name)
            for work, figure, _ in columns
        ]
        if any(cells):
            rows.append([peer["title"], *cells])
    beside = ""
    if (postgres := measured.get("W1", {}).get(GATEWAY, {}).get("postgres_ms")) is not None:
        beside = (
            f"\n\nThe Postgres of the gateway's control plane, on the other core, spends "
            f"{number(postgres)} CPU ms a call of W1."
        )
    return table(rows) + beside


def _retries(result: Result) -> str:
    """What a retry of a call in flight costs, and how often the picture is bought."""
    [name] = ["W7"]
    measured = figures(result).get(name)
    if not measured:
        return ""
    rows = [["peer", "W7 CPU ms a retry", "purchases", "retries with the same picture", "errors"]]
    for peer, numbers in measured.items():
        cells = [number(numbers.get(figure)) for figure in ("cpu_ms", "purchases")]
        if peer == DIRECT:
            cells[0] = ""
        same = numbers.get("same_pictures")
        cells += ["" if same is None else f"{same:.0%}", f"{numbers['errors']:.0f}"]
        rows.append([result["peers"][peer]["title"], *cells])
    return table(rows)


def _targets(result: Result) -> str:
    rows = [["work", "target", "measured", ""]]
    rows += [
        [verdict.target.work, _says(verdict), _measured(verdict), verdict.word]
        for verdict in judge(figures(result))
        if verdict.target.work in result["works"]
    ]
    return table(rows)


def _says(verdict: Verdict) -> str:
    return f"{FIGURES[verdict.target.figure]} {verdict.target.says()}"


def _measured(verdict: Verdict) -> str:
    if verdict.measured is None:
        return ""
    target = verdict.target
    if target.of is None:
        return f"{number(verdict.measured)}{UNITS[target.figure]}"
    if 0 < target.bound < 1 and verdict.measured > 0:
        return f"1/{number(1 / verdict.measured)}"
    return number(verdict.measured)


def _all(result: Result) -> str:
    measured = figures(result)
    rows = [["work", "peer", *_ALL.values()]]
    for work, by_peer in measured.items():
        for name in by_peer:
            cells = [_cell(measured, work, name, figure) for figure in _ALL]
            rows.append([work, result["peers"][name]["title"], *cells])
    works = "\n".join(f"- {name}: {title}" for name, title in result["works"].items())
    # GitHub shows Markdown within it only behind an empty line.
    return f"<details><summary>All figures</summary>\n\n{works}\n\n{table(rows)}\n\n</details>"


def _errors(measured: Mapping[str, Mapping[str, Mapping[str, float]]], work: str, peer: str) -> str:
    """Some calls had no picture, though not all of them."""
    numbers = measured[work].get(peer)
    return " (with errors)" if numbers and numbers["errors"] and numbers["calls"] else ""


def _cell(
    measured: Mapping[str, Mapping[str, Mapping[str, float]]], work: str, peer: str, figure: str
) -> str:
    numbers = measured[work].get(peer)
    if numbers is None or (peer == DIRECT and figure in _NO_COST):
        return ""
    if figure != "errors" and not numbers["calls"]:
        return "failed"
    return number(numbers.get(figure))
