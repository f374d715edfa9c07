"""The last hour as two charts over one axis of time, in SVG.

The unit of a chart is a minute from left to right and a hundredth of its height from top to bottom.
The SVG is stretched to the width of the page, so all text is HTML around it.  Colours are classes
of ``page.css``, and the legend names each.
"""

import math
from datetime import datetime, timedelta
from typing import Final

from image_gateway.core.records.status import (
    BLOCK_MINUTES,
    BLOCKS,
    Block,
    LastHour,
    Minute,
    RequestOutcome,
)
from image_gateway.ops.markup import NOTHING, Html, fill, joined

LABELS: Final = {
    RequestOutcome.OK: "served",
    RequestOutcome.CLIENT_ERROR: "client errors",
    RequestOutcome.CLIENT_LEFT: "client left",
    RequestOutcome.GATEWAY_ERROR: "gateway errors",
    RequestOutcome.UPSTREAM_ERROR: "upstream errors",
}
"""In the order in which bars are stacked, from the bottom."""

_AXIS_MINUTES: Final = 15


def outcomes(hour: LastHour) -> Html:
    """Calls that ended, minute by minute."""
    counts = hour.whole.outcomes
    top = _round_up(max(sum(minute.outcomes.values()) for minute in hour.minutes))
    bars = joined(_bar(index, minute, top) for index, minute in enumerate(hour.minutes))
    description = ", ".join(f"{counts[outcome]} {label}" for outcome, label in LABELS.items())
    return _figure(
        "Calls per minute",
        f"{top:g}",
        _chart(f"Calls per minute in the last hour: {description}", bars),
        joined(_legend(outcome, label, counts[outcome]) for outcome, label in LABELS.items()),
        hour.whole.start,
    )


def latency(hour: LastHour) -> Html:
    """Seconds of served image calls, in blocks of minutes."""
    top = _round_up(max((block.latency.p99 or 0 for block in hour.blocks), default=0))
    columns = joined(_column(index, block, top) for index, block in enumerate(hour.blocks))
    total = hour.whole.latency
    description = "no image call was served"
    if total.p50 is not None:
        description = f"p50 {total.p50:.3g} s, p90 {total.p90:.3g} s, p99 {total.p99:.3g} s"
    legend = (
        ("p50", "half of the calls took no longer: the line", total.p50),
        ("p90", "90 of 100 calls took no longer: the end of the dark band", total.p90),
        ("p99", "99 of 100 calls took no longer: the end of the light band", total.p99),
    )
    return _figure(
        "Seconds per image call",
        f"{top:g} s",
        _chart(f"Latency in the last hour: {description}", columns),
        joined(
            fill(
                '<li title="{title}"><i class="key {name}"></i>{name} <b>{value}</b></li>',
                name=name,
                title=title,
                value=NOTHING if value is None else f"{value:.3g} s",
            )
            for name, title, value in legend
        ),
        hour.whole.start,
    )


def _figure(title: str, top: str, chart: Html, legend: Html, start: datetime) -> Html:
    ticks = range(0, BLOCKS * BLOCK_MINUTES + 1, _AXIS_MINUTES)
    return fill(
        '<figure><figcaption>{title} <span class="top">up to {top}</span></figcaption>'
        '{chart}<p class="axis" aria-hidden="true">{axis}</p><ul class="legend">{legend}</ul>'
        "</figure>\n",
        title=title,
        top=top,
        chart=chart,
        axis=joined(
            fill("<span>{time:%H:%M}</span>", time=start + timedelta(minutes=tick))
            for tick in ticks
        ),
        legend=legend,
    )


def _chart(label: str, shapes: Html) -> Html:
    return fill(
        '<svg role="img" aria-label="{label}" viewBox="0 0 {width} 100" preserveAspectRatio="none">'
        '<path class="grid" d="M0 .5H{width}M0 50H{width}M0 99.5H{width}"/>{shapes}</svg>',
        label=label,
        width=BLOCKS * BLOCK_MINUTES,
        shapes=shapes,
    )


def _bar(index: int, minute: Minute, top: float) -> Html:
    height, rects, counts = 0.0, [], []
    for outcome, label in LABELS.items():
        count = minute.outcomes[outcome]
        if count:
            height += count / top * 100
            rects.append(_rect(outcome, index + 0.12, 100 - height, 0.76, count / top * 100))
            counts.append(f"{count} {label}")
    if not rects:
        return Html()
    return _titled(f"{minute.start:%H:%M}: {', '.join(counts)}", joined(rects))


def _column(index: int, block: Block, top: float) -> Html:
    latency = block.latency
    if latency.p50 is None or latency.p90 is None or latency.p99 is None:
        return Html()
    left, width = index * BLOCK_MINUTES + 0.4, BLOCK_MINUTES - 0.8
    p50, p90, p99 = (value / top * 100 for value in (latency.p50, latency.p90, latency.p99))
    title = (
        f"{block.start:%H:%M}: {latency.calls} calls, p50 {latency.p50:.3g} s, "
        f"p90 {latency.p90:.3g} s, p99 {latency.p99:.3g} s"
    )
    return _titled(
        title,
        joined(
            (
                _rect("p99", left, 100 - p99, width, p99 - p50),
                _rect("p90", left, 100 - p90, width, p90 - p50),
                fill(
                    '<path class="p50" d="M{left:g} {y:.2f}H{right:g}"/>',
                    left=left,
                    y=100 - p50,
                    right=left + width,
                ),
            )
        ),
    )


def _titled(title: str, shapes: Html) -> Html:
    return fill("<g><title>{title}</title>{shapes}</g>", title=title, shapes=shapes)


def _rect(name: str, left: float, y: float, width: float, height: float) -> Html:
    return fill(
        '<rect class="{name}" x="{left:g}" y="{y:.2f}" width="{width:g}" height="{height:.2f}"/>',
        name=name,
        left=left,
        y=y,
        width=width,
        height=height,
    )


def _legend(name: str, label: str, count: int) -> Html:
    return fill(
        '<li><i class="key {name}"></i>{label} <b>{count}</b></li>',
        name=name,
        label=label,
        count=count,
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 and so on, so that the axis does not change at each call."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
