"""The last hour as two pictures over one axis of time, in SVG that scales without its letters.

A picture's unit is a minute from left to right and a hundredth of its height from top to bottom;
it is stretched to whatever width there is, so words and figures stand around it as HTML.  Colours
are classes of ``page.css``, and each has its word in the legend.
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

WORDS: Final = {
    RequestOutcome.OK: "served",
    RequestOutcome.CLIENT_ERROR: "client errors",
    RequestOutcome.CLIENT_LEFT: "client left",
    RequestOutcome.GATEWAY_ERROR: "gateway errors",
    RequestOutcome.UPSTREAM_ERROR: "upstream errors",
}
"""In the order in which they are stacked, from the bottom."""

_AXIS_MINUTES: Final = 15


def outcomes(hour: LastHour) -> Html:
    """Calls that ended, minute by minute."""
    top = _round_up(max(sum(each.outcomes.values()) for each in hour.minutes))
    bars = joined(_bar(at, each, top) for at, each in enumerate(hour.minutes))
    told = ", ".join(f"{hour.whole.outcomes[each]} {word}" for each, word in WORDS.items())
    return _figure(
        "Calls a minute",
        f"{top:g}",
        _picture(f"Calls a minute in the last hour: {told}", bars),
        joined(_legend(each, word, hour.whole.outcomes[each]) for each, word in WORDS.items()),
        hour.whole.start,
    )


def latency(hour: LastHour) -> Html:
    """Seconds of served image calls, in blocks of minutes."""
    top = _round_up(max((each.latency.p99 or 0 for each in hour.blocks), default=0))
    columns = joined(_column(at, each, top) for at, each in enumerate(hour.blocks))
    found = hour.whole.latency
    told = "no picture was served"
    if found.p50 is not None:
        told = f"p50 {found.p50:.3g} s, p90 {found.p90:.3g} s, p99 {found.p99:.3g} s"
    legend = (
        ("p50", "half of the calls, up to the line", found.p50),
        ("p90", "nine of ten, up to the dark band's end", found.p90),
        ("p99", "99 of 100, up to the light band's end", found.p99),
    )
    return _figure(
        "Seconds a picture took",
        f"{top:g} s",
        _picture(f"Latency in the last hour: {told}", columns),
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


def _figure(title: str, top: str, picture: Html, legend: Html, start: datetime) -> Html:
    moments = range(0, BLOCKS * BLOCK_MINUTES + 1, _AXIS_MINUTES)
    return fill(
        '<figure><figcaption>{title} <span class="top">up to {top}</span></figcaption>'
        '{picture}<p class="axis" aria-hidden="true">{axis}</p><ul class="legend">{legend}</ul>'
        "</figure>\n",
        title=title,
        top=top,
        picture=picture,
        axis=joined(
            fill("<span>{at:%H:%M}</span>", at=start + timedelta(minutes=each)) for each in moments
        ),
        legend=legend,
    )


def _picture(told: str, shapes: Html) -> Html:
    return fill(
        '<svg role="img" aria-label="{told}" viewBox="0 0 {width} 100" preserveAspectRatio="none">'
        '<path class="grid" d="M0 .5H{width}M0 50H{width}M0 99.5H{width}"/>{shapes}</svg>',
        told=told,
        width=BLOCKS * BLOCK_MINUTES,
        shapes=shapes,
    )


def _bar(at: int, minute: Minute, top: float) -> Html:
    height, parts, told = 0.0, [], []
    for each, word in WORDS.items():
        count = minute.outcomes[each]
        if count:
            height += count / top * 100
            parts.append(_rect(each, at + 0.12, 100 - height, 0.76, count / top * 100))
            told.append(f"{count} {word}")
    if not parts:
        return Html()
    return _titled(f"{minute.start:%H:%M}: {', '.join(told)}", joined(parts))


def _column(at: int, block: Block, top: float) -> Html:
    found = block.latency
    if found.p50 is None or found.p90 is None or found.p99 is None:
        return Html()
    left, width = at * BLOCK_MINUTES + 0.4, BLOCK_MINUTES - 0.8
    p50, p90, p99 = (value / top * 100 for value in (found.p50, found.p90, found.p99))
    told = (
        f"{block.start:%H:%M}: {found.calls} calls, p50 {found.p50:.3g} s, "
        f"p90 {found.p90:.3g} s, p99 {found.p99:.3g} s"
    )
    return _titled(
        told,
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


def _legend(name: str, word: str, count: int) -> Html:
    return fill(
        '<li><i class="key {name}"></i>{word} <b>{count}</b></li>',
        name=name,
        word=word,
        count=count,
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 and so on: an axis that does not jump with each call."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
