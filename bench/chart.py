"""The chart of a run: a panel for each figure that matters, a bar for each peer."""

import math
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.markdown import number
from bench.peers import DIRECT
from bench.results import Result, figures
from bench.targets import GATEWAY

_PANELS: Final = (
    ("W1", "rate", "W1: calls of 1 KB per second"),
    ("W1", "cpu_ms", "W1: CPU ms a call of 1 KB"),
    ("W2", "cpu_s_per_gb", "W2: CPU s a GB of pictures"),
    ("W3", "peak_mb", "W3: peak MB, many calls at once"),
    ("W4", "cpu_ms", "W4: CPU ms an edit of 4 MB"),
    ("L2", "added_ms", "L2: ms added to a call of 2 MB"),
)
_OWN: Final = "#c2410c"
_OTHER: Final = "#94a3b8"


def draw(result: Result, path: Path) -> None:
    """Write the chart as PNG; all scales are logarithmic."""
    measured = figures(result)
    panels = [panel for panel in _PANELS if panel[0] in measured]
    if not panels:
        return
    rows = (len(panels) + 2) // 3
    figure = Figure(figsize=(13, 0.8 + 2.8 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, min(3, len(panels)), squeeze=False).flatten()
    for panel, each in zip(panels, axes, strict=False):
        _draw_panel(result, panel, each)
    for each in axes[len(panels) :]:
        each.set_visible(False)
    quick = " (quick)" if result["is_quick"] else ""
    figure.suptitle(f"Side by side in one run{quick}, logarithmic scales")
    # Without the program's name and version in it the same figures give the same file.
    figure.savefig(path, metadata={"Software": None})


def _draw_panel(result: Result, panel: tuple[str, str, str], axes: Axes) -> None:
    work, name, title = panel
    by_peer = figures(result)[work]
    bars = [
        (peer["title"].strip("*"), by_peer[key][name], _OWN if key == GATEWAY else _OTHER)
        for key, peer in result["peers"].items()
        if key != DIRECT and by_peer.get(key, {}).get(name, 0) > 0
    ]
    labels, values, colours = zip(*reversed(bars), strict=True) if bars else ((), (), ())
    drawn = axes.barh(labels, values, color=colours)
    axes.bar_label(drawn, fmt=number, padding=3, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xscale("log")
    if values:
        # Bars begin at a power of ten, and the right has room for the numbers.
        axes.set_xlim(10 ** math.floor(math.log10(min(values)) - 0.1), max(values) * 3)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
