"""``/status``: a page for people, drawn whole by the server.

State first, then accounts, calls in flight, the last hour, the last errors.  It loads nothing: its
style and script stand in it and are named by their hashes in the policy that goes with it, so that
a browser runs these and nothing else.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Final

from image_gateway.core.records.status import (
    AccountView,
    CallView,
    ErrorView,
    LastHour,
    RequestOutcome,
    Status,
)
from image_gateway.core.routing.ranking import Condition
from image_gateway.ops import charts
from image_gateway.ops.markup import NOTHING, Html, fill, joined

_HIGH: Final = 0.9
"""From this share on a bar shows that it is nearly full."""
_SHOWN: Final = 10
"""Errors that stand open; the others are folded."""


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


_PAGE: Final = _file("page.html")
_STYLE: Final = Html(_file("page.css"))
_SCRIPT: Final = Html(_file("page.js"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}
"""What goes out with the page."""


def page(status: Status) -> bytes:
    """The whole document, in UTF-8."""
    _, headline = _state(status)
    told = status.readiness
    return fill(
        _PAGE,
        title=f"{headline} · {told.instance} · image-gateway",
        style=_STYLE,
        script=_SCRIPT,
        main=joined(
            (
                _head(status),
                _facts(status),
                _accounts(status),
                _in_flight(status),
                _last_hour(status.last_hour),
                _errors(status),
            )
        ),
    ).encode()


# -- sections --------------------------------------------------------------------------------------


def _state(status: Status) -> tuple[str, str]:
    told = status.readiness
    if not told.accepting:
        left = status.in_flight.total
        return "draining", f"Draining, {left} {'call' if left == 1 else 'calls'} left"
    return ("ready", "Ready") if told.ready else ("unready", "Not ready")


def _head(status: Status) -> Html:
    told = status.readiness
    name, headline = _state(status)
    reasons = joined(fill("<li>{reason}</li>", reason=each) for each in told.reasons)
    return fill(
        '<header>\n<h1 class="{name}">{headline}</h1>\n{reasons}'
        '<p class="who">image-gateway {version} on {instance}, up for {up}, since {since} UTC'
        "</p>\n</header>\n",
        name=name,
        headline=headline,
        reasons=fill('<ul class="reasons">{reasons}</ul>\n', reasons=reasons)
        if told.reasons and told.accepting
        else Html(),
        version=told.version,
        instance=told.instance,
        up=_span((status.time - status.since).total_seconds()),
        since=f"{status.since:%Y-%m-%d %H:%M}",
    )


def _facts(status: Status) -> Html:
    whole, waiting, told = status.last_hour.whole, status.waiting, status.readiness
    p50, longest = whole.latency.p50, waiting.longest_seconds
    text = whole.outcomes[RequestOutcome.OK] - whole.latency.calls
    failed = (
        whole.outcomes[RequestOutcome.GATEWAY_ERROR] + whole.outcomes[RequestOutcome.UPSTREAM_ERROR]
    )
    facts = (
        ("In flight", status.in_flight.total, f"{_bytes(status.bytes_in_flight)} held"),
        (
            "Waiting for a slot",
            waiting.calls,
            "" if longest is None else f"longest {_span(longest)}",
        ),
        (
            "Served",
            whole.latency.calls,
            "image calls in the last hour" + (f", {text} of text passed on" if text else ""),
        ),
        ("Failed", failed, "by gateway or upstream"),
        ("Median time", NOTHING if p50 is None else _span(p50), "of served image calls"),
        (
            "Slots",
            "shared" if told.slots_shared else "own",
            "over all processes" if told.slots_shared else "this process by itself",
        ),
    )
    return fill(
        '<dl class="facts">\n{facts}</dl>\n<p class="none">{plane}</p>\n',
        facts=joined(
            fill(
                "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>\n",
                name=name,
                value=value,
                note=note,
            )
            for name, value, note in facts
        ),
        plane=_plane(status),
    )


def _plane(status: Status) -> str:
    told = status.readiness
    age = told.grant_age_seconds
    read = "Nothing was read of the control plane yet."
    if age is not None:
        read = f"The accounts were read {_span(age)} ago"
        if told.changes_act_within_seconds is None:
            read += "; the control plane cannot be read now."
        elif told.notify:
            read += "; changes are told at once."
        else:
            read += f"; a change acts within {_span(told.changes_act_within_seconds)}."
    lost = status.log_records_lost
    return f"{read} {lost} log records could not be written." if lost else read


def _accounts(status: Status) -> Html:
    return _section(
        "Accounts",
        f"{len(status.accounts)} known",
        _table(
            "Accounts",
            ("Account", "State", "#Slots in use", "#Budget used"),
            map(_account, status.accounts),
            "There is no account.",
        ),
    )


def _account(each: AccountView) -> Html:
    share = each.slots_in_use / each.slots_limit
    spent = (each.budget_primary_percent, each.budget_secondary_percent)
    known = [percent for percent in spent if percent is not None]
    return fill(
        '<tr><th scope="row">{name}<small>{dialect}</small></th>'
        '<td><span class="state {condition}">{word}</span>{why}</td>'
        '<td class="n">{in_use} / {limit}{slots_bar}</td>'
        '<td class="n">{budget}{budget_bar}</td></tr>\n',
        name=each.account_name,
        dialect=each.dialect,
        condition=each.condition,
        word=each.condition.replace("_", " "),
        why=_why(each),
        in_use=each.slots_in_use,
        limit=each.slots_limit,
        slots_bar=_meter(share),
        budget=" · ".join(NOTHING if one is None else f"{one:.0f} %" for one in spent)
        if known
        else "not told",
        budget_bar=_meter(max(known) / 100) if known else Html(),
    )


def _why(each: AccountView) -> Html:
    found = []
    if each.cooldown is not None:
        answer = " ".join(
            str(part) for part in (each.cooldown.status, each.cooldown.code) if part is not None
        )
        found.append(
            f"until {each.cooldown.until:%H:%M:%S}" + (f", after {answer}" if answer else "")
        )
    if each.blocked_until is not None:
        found.append(f"blocked until {each.blocked_until:%Y-%m-%d %H:%M}")
    if each.taken_elsewhere and each.condition is Condition.FULL:
        found.append("other processes hold the rest")
    if each.models_cooling:
        models = "model" if each.models_cooling == 1 else "models"
        found.append(f"{each.models_cooling} {models} cooling")
    return joined(fill("<small>{line}</small>", line=line) for line in found)


def _in_flight(status: Status) -> Html:
    total, told = status.in_flight.total, len(status.in_flight.oldest)
    return _section(
        "In flight",
        f"the oldest {told} of {total}" if told < total else f"{total}, oldest first",
        _table(
            "Calls in flight",
            ("#Age", "Phase", "Account", "Model", "Key", "Request"),
            map(_call, status.in_flight.oldest),
            "No call is in flight.",
        ),
    )


def _call(each: CallView) -> Html:
    return fill(
        '<tr><td class="n">{age}</td><td>{phase}</td><td>{account}</td>'
        "<td>{model}<small>{endpoint}</small></td><td>{key}</td>"
        '<th scope="row"><code>{request_id}</code></th></tr>\n',
        request_id=each.request_id,
        age=_span(each.age_seconds),
        phase=each.phase,
        account=_or_dash(each.account_name),
        model=_or_dash(each.model),
        endpoint=each.endpoint or "",
        key=_or_dash(each.key_id),
    )


def _last_hour(hour: LastHour) -> Html:
    rows = []
    for each in reversed(hour.blocks):
        counts = joined(
            fill('<td class="n">{count}</td>', count=each.outcomes[name]) for name in charts.WORDS
        )
        latency = each.latency
        seconds = joined(
            fill('<td class="n">{value}</td>', value=NOTHING if value is None else f"{value:.3g} s")
            for value in (latency.p50, latency.p90, latency.p99)
        )
        rows.append(
            fill(
                '<tr><th scope="row">{start:%H:%M}</th>{counts}{seconds}</tr>\n',
                start=each.start,
                counts=counts,
                seconds=seconds,
            )
        )
    heads = ("From", *(f"#{word.capitalize()}" for word in charts.WORDS.values()))
    return _section(
        "Last hour",
        "times are UTC",
        fill(
            '<div class="charts">\n{outcomes}{latency}</div>\n'
            "<details><summary>The same in figures</summary>\n{table}</details>\n",
            outcomes=charts.outcomes(hour),
            latency=charts.latency(hour),
            table=_table(
                "Calls and seconds in blocks of five minutes",
                (*heads, "#p50", "#p90", "#p99"),
                rows,
                "",
            ),
        ),
    )


def _errors(status: Status) -> Html:
    newest, older = status.last_errors[:_SHOWN], status.last_errors[_SHOWN:]
    return _section(
        "Last errors",
        "of the gateway and of upstreams, newest first",
        joined(
            (
                _error_table("Last errors", newest),
                _folded("Older ones", older),
                _folded("Of clients", status.last_client_errors),
            )
        ),
    )


def _folded(title: str, found: Sequence[ErrorView]) -> Html:
    return fill(
        "<details><summary>{title}: {count}</summary>\n{table}</details>\n",
        title=title,
        count=len(found),
        table=_error_table(title, found),
    )


def _error_table(title: str, found: Sequence[ErrorView]) -> Html:
    heads = ("Time", "#Status", "Code", "Whose", "Account", "Request")
    return _table(title, heads, map(_error, found), "There is none.")


def _error(each: ErrorView) -> Html:
    return fill(
        '<tr><td>{time}</td><td class="n">{status}</td><td>{code}</td><td>{source}</td>'
        '<td>{account}</td><th scope="row"><code>{request_id}</code></th></tr>\n',
        time=_moment(each.time),
        status=_or_dash(each.status),
        code=_or_dash(each.error_code),
        source=_or_dash(each.error_source),
        account=_or_dash(each.account_name),
        request_id=each.request_id,
    )


# -- parts -----------------------------------------------------------------------------------------


def _section(title: str, note: str, inner: Html) -> Html:
    return fill(
        "<section>\n<h2>{title} <small>{note}</small></h2>\n{inner}</section>\n",
        title=title,
        note=note,
        inner=inner,
    )


def _table(caption: str, heads: Iterable[str], rows: Iterable[Html], none: str) -> Html:
    """A head that begins with ``#`` is one of figures."""
    body = joined(rows)
    if not body:
        return fill('<p class="none">{none}</p>\n', none=none)
    return fill(
        '<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        "<table><caption>{caption}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        "<tbody>\n{body}</tbody></table></div>\n",
        caption=caption,
        heads=joined(
            fill(
                '<th scope="col"{number}>{head}</th>',
                number=Html(' class="n"') if head.startswith("#") else "",
                head=head.removeprefix("#"),
            )
            for head in heads
        ),
        body=body,
    )


def _meter(share: float) -> Html:
    return fill(
        '<svg class="meter" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="4"/>'
        '<rect class="{name}" width="{width:.0f}" height="4"/></svg>',
        name="fill high" if share >= _HIGH else "fill",
        width=min(share, 1) * 100,
    )


def _or_dash(value: object) -> object:
    return NOTHING if value is None else value


def _moment(moment: datetime) -> Html:
    return fill(
        '<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%H:%M:%S}</time>', moment=moment
    )


def _span(seconds: float) -> str:
    """A time as people say it, in the unit that fits."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.0f} MiB"
