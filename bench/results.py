"""The figures of a run: what is stored, and the medians that are shown."""

import datetime as dt
import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.peers import DIRECT

Result = Mapping[str, Any]
"""A run as it is stored: ``date``, ``command``, ``machine``, ``peers`` (name to title and version),
``missing`` (name to reason), ``rows``; for speed ``works`` (name to title) and ``is_quick``, for
purchases ``faults`` (name to title) and ``client``.
"""


def gather(
    command: Sequence[str],
    versions: Mapping[str, tuple[str, str]],
    missing: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Everything about one run; ``versions`` has a title and a version for each peer."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": " ".join(command),
        "machine": machine(),
        "peers": {
            name: {"title": title, "version": version}
            for name, (title, version) in versions.items()
        },
        "missing": dict(missing),
        **more,
        "rows": list(rows),
    }


def machine() -> dict[str, Any]:
    """What this machine is, without its name."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    memory = Path("/proc/meminfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    kilobytes = re.search(r"^MemTotal:\s+(\d+)", memory)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(kilobytes[1]) * 1024 / 1e9) if kilobytes else None,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def dump(result: Result) -> str:
    """JSON with one line for each row, so that two runs can be compared line by line."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in result["rows"])
    head = json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1)
    return head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n'


def read(path: Path) -> Result | None:
    """A stored run, if there is one."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _rate(row: Mapping[str, Any]) -> float:
    return float(row["calls"] / row["seconds"])


def _cpu_ms(row: Mapping[str, Any]) -> float:
    return float(row["cpu"] / row["calls"] * 1000)


def _per_gb(row: Mapping[str, Any]) -> float:
    return float(row["cpu"] / row["base64_bytes"] * 1e9)


_MEDIANS: Final[Mapping[str, Callable[[Mapping[str, Any]], float]]] = {
    "rate": _rate,
    "cpu_ms": _cpu_ms,
    "cpu_s_per_gb": _per_gb,
    "p50_ms": lambda row: row["p50_ms"],
    "p99_ms": lambda row: row["p99_ms"],
    "purchases": lambda row: row["purchases"] / row["calls"],
    "same_pictures": lambda row: row["same_pictures"] / row["calls"],
    "postgres_ms": lambda row: row["postgres_cpu"] / row["calls"] * 1000,
}
"""Figures of which the median over the rounds counts; they need a good call."""


def figures(result: Result) -> dict[str, dict[str, dict[str, float]]]:
    """By work, by peer, by name.  ``errors`` are all of them, ``peak_mb`` is the highest.

    ``added_ms`` is the median latency above ``direct``'s, in the works where both are there.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for work in result["works"]:
        by_peer = found.setdefault(work, {})
        for peer in result["peers"]:
            rows = [r for r in result["rows"] if (r["work"], r["peer"]) == (work, peer)]
            if rows:
                by_peer[peer] = _of_rounds(rows)
        if direct := by_peer.get(DIRECT, {}).get("p50_ms"):
            for peer in by_peer.values():
                if "p50_ms" in peer:
                    peer["added_ms"] = peer["p50_ms"] - direct
    return found


def _of_rounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    numbers = {
        "errors": float(sum(row["errors"] for row in rows)),
        "calls": float(sum(row["calls"] for row in rows)),
    }
    good = [row for row in rows if row["calls"]]
    if good:
        numbers |= {name: statistics.median(map(figure, good)) for name, figure in _MEDIANS.items()}
        numbers["peak_mb"] = max(row["peak_mb"] for row in rows)
    return numbers
