"""The counts of ``bench/purchases`` as Markdown."""

from collections.abc import Mapping
from typing import Any, Final

from bench.markdown import NOT_MEASURED, table, taken
from bench.results import Result

_CLIENTS: Final = ("defaults", "no-retries")


def markdown(result: Result | None) -> str:
    """What stands between the marks of the page."""
    if result is None:
        return NOT_MEASURED
    cells = [["fault", *(peer["title"] for peer in result["peers"].values())]]
    cells += [
        [title, *(_cell(result, fault, peer) for peer in result["peers"])]
        for fault, title in result["faults"].items()
    ]
    return f"{taken(result)}\n\n{table(cells)}"


def _cell(result: Result, fault: str, peer: str) -> str:
    """Both forms of the client; empty if the peer did not take part."""
    rows = {
        row["client"]: row for row in result["rows"] if (row["fault"], row["peer"]) == (fault, peer)
    }
    return " / ".join(_count(rows[client]) for client in _CLIENTS if client in rows)


def _count(row: Mapping[str, Any]) -> str:
    if row["calls"] == 1:
        return f"{row['asked']} {'picture' if row['pictures'] else 'none'}"
    return f"{row['asked']}: {row['pictures']} of {row['calls']} in {row['seconds']:.0f} s"
