"""Markdown that the reports share: tables, numbers, and how a run was taken."""

from collections.abc import Sequence
from typing import Final

from bench.results import Result

NOT_MEASURED: Final = "Not measured yet."


def table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def number(value: float | None) -> str:
    """Three digits, and no more than two behind the point; nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def taken(result: Result) -> str:
    """The command, the machine, the versions, and who was left out and why."""
    machine = result["machine"]
    where = (
        f"`{result['command']}` on {result['date']}: {machine['cores']} cores, {machine['cpu']}, "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}, Python {machine['python']}."
    )
    titles: dict[str, list[str]] = {}
    for peer in result["peers"].values():
        titles.setdefault(peer["version"], []).append(peer["title"])
    versions = [f"{' and '.join(named)}: {version}" for version, named in titles.items() if version]
    versions += [f"client: {result['client']}"] if "client" in result else []
    lines = [where, f"Versions: {'; '.join(versions)}."]
    lines += [f"Left out: {name}, {why.rstrip('.')}." for name, why in result["missing"].items()]
    return "\n\n".join(lines)
