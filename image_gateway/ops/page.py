"""``/status``: a page for people, drawn completely by the server.

State first, then accounts, calls in flight, the last hour, the last errors.  It loads nothing: its
style and script are inline, and its Content-Security-Policy names their hashes, so that a browser
runs nothing else.
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
"""A bar of this share or more is marked as nearly full."""
_OPEN_ERRORS: Final = 10
"""How many errors are shown; older ones are folded."""


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
"""The headers of the page."""


def page(status: Status) -> bytes:
    """The whole document, in UTF-8."""
    _, headline = _state(status)
    return fill(
        _PAGE,
        title=f"{headline} · {status.readiness.instance} · image-gateway",
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
    readiness = status.readiness
    if not readiness.accepting:
        remaining = status.in_flight.total
        return "draining", f"Draining, {remaining} {'call' if remaining == 1 else 'calls'} left"
    return ("ready", "Ready") if readiness.ready else ("unready", "Not ready")


def _head(status: Status) -> Html:
    readiness = status.readiness
    name, headline = _state(status)
    reasons = joined(fill("<li>{reason}</li>", reason=reason) for reason in readiness.reasons)
    return fill(
        '<header>\n<h1 class="{name}">{headline}</h1>\n{reasons}'
        '<p class="who">image-gateway {version} on {instance}, up for {up}, since {since} UTC'
        "</p>\n</header>\n",
        name=name,
        headline=headline,
        reasons=fill('<ul class="reasons">{reasons}</ul>\n', reasons=reasons)
        if readiness.reasons and readiness.accepting
        else Html(),
        version=readiness.version,
        instance=readiness.instance,
        up=_span((status.time - status.since).total_seconds()),
        since=f"{status.since:%Y-%m-%d %H:%M}",
    )


def _facts(status: Status) -> Html:
    hour, waiting = status.last_hour.whole, status.waiting
    slots_shared = status.readiness.slots_shared
    p50, longest = hour.latency.p50, waiting.longest_seconds
    others = hour.outcomes[RequestOutcome.OK] - hour.latency.calls
    failed = (
        hour.outcomes[RequestOutcome.GATEWAY_ERROR] + hour.outcomes[RequestOutcome.UPSTREAM_ERROR]
    )
    facts = (
        (
            "In flight",
            status.in_flight.total,
            f"{_bytes(status.bytes_in_flight)} held"
            + (f", {status.calls.left} without a client" if status.calls.left else ""),
        ),
        (
            "Waiting for a slot",
            waiting.calls,
            "" if longest is None else f"longest {_span(longest)}",
        ),
        (
            "Served",
            hour.latency.calls,
            "image calls in the last hour"
            + (f", {others} requests for other things" if others else ""),
        ),
        ("Failed", failed, "by gateway or upstream"),
        (
            "Purchases saved",
            status.calls.purchases_saved,
            "retries that got what was paid for",
        ),
        ("Kept", status.calls.kept, f"{_bytes(status.calls.kept_bytes)} of answers on disk"),
        ("Median time", NOTHING if p50 is None else _span(p50), "of served image calls"),
        (
            "Loop lag",
            f"{status.loop_lag.seconds:.3f} s",
            "the longest in the last minute"
            + (f", in {status.loop_lag.phase}" if status.loop_lag.place else ""),
        ),
        (
            "Slots",
            "shared" if slots_shared else "own",
            "counted over all processes" if slots_shared else "counted in this process only",
        ),
    )
    return fill(
        '<dl class="facts">\n{facts}</dl>\n<p class="none">{control_plane}</p>\n',
        facts=joined(
            fill(
                "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>\n",
                name=name,
                value=value,
                note=note,
            )
            for name, value, note in facts
        ),
        control_plane=_control_plane(status),
    )


def _control_plane(status: Status) -> str:
    readiness = status.readiness
    age = readiness.grant_age_seconds
    text = "The control plane has not been read yet."
    if age is not None:
        text = f"The accounts were read {_span(age)} ago"
        if readiness.changes_act_within_seconds is None:
            text += "; the control plane cannot be read now."
        elif readiness.notify:
            text += "; changes act at once."
        else:
            text += f"; changes act within {_span(readiness.changes_act_within_seconds)}."
    lost = status.log_records_lost
    return f"{text} {lost} log records could not be written." if lost else text


def _accounts(status: Status) -> Html:
    return _section(
        "Accounts",
        f"{len(status.accounts)} in all",
        _table(
            "Accounts",
            ("Account", "State", "#Slots in use", "#Budget used"),
            map(_account, status.accounts),
            "There are no accounts.",
        ),
    )


def _account(account: AccountView) -> Html:
    share = account.slots_in_use / account.slots_limit
    spent = (account.budget_primary_percent, account.budget_secondary_percent)
    known_percents = [percent for percent in spent if percent is not None]
    return fill(
        '<tr><th scope="row">{name}<small>{dialect}</small></th>'
        '<td><span class="state {condition}">{label}</span>{why}</td>'
        '<td class="n">{in_use} / {limit}{slots_bar}</td>'
        '<td class="n">{budget}{budget_bar}</td></tr>\n',
        name=account.account_name,
        dialect=account.dialect,
        condition=account.condition,
        label=account.condition.replace("_", " "),
        why=_why(account),
        in_use=account.slots_in_use,
        limit=account.slots_limit,
        slots_bar=_meter(share),
        budget=" · ".join(NOTHING if percent is None else f"{percent:.0f} %" for percent in spent)
        if known_percents
        else "unknown",
        budget_bar=_meter(max(known_percents) / 100) if known_percents else Html(),
    )


def _why(account: AccountView) -> Html:
    reasons = []
    cooldown = account.cooldown
    if cooldown is not None:
        answer = " ".join(
            str(part) for part in (cooldown.status, cooldown.code) if part is not None
        )
        reasons.append(f"until {cooldown.until:%H:%M:%S}" + (f", after {answer}" if answer else ""))
    if account.blocked_until is not None:
        reasons.append(f"blocked until {account.blocked_until:%Y-%m-%d %H:%M}")
    if account.taken_elsewhere and account.condition is Condition.FULL:
        reasons.append("other processes hold the rest")
    if account.models_cooling:
        models = "model" if account.models_cooling == 1 else "models"
        reasons.append(f"{account.models_cooling} {models} cooling")
    if account.condition is Condition.FAILING:
        reasons.append(f"{account.failures_in_a_row} failures in a row")
    return joined(fill("<small>{line}</small>", line=line) for line in reasons)


def _in_flight(status: Status) -> Html:
    total, listed = status.in_flight.total, len(status.in_flight.oldest)
    return _section(
        "In flight",
        f"the oldest {listed} of {total}" if listed < total else f"{total}, oldest first",
        _table(
            "Calls in flight",
            ("#Age", "Phase", "Account", "Model", "Key", "Request"),
            map(_call, status.in_flight.oldest),
            "There are no calls in flight.",
        ),
    )


def _call(call: CallView) -> Html:
    return fill(
        '<tr><td class="n">{age}</td><td>{phase}</td><td>{account}</td>'
        "<td>{model}<small>{endpoint}</small></td><td>{key}</td>"
        '<th scope="row"><code>{request_id}</code></th></tr>\n',
        request_id=call.request_id,
        age=_span(call.age_seconds),
        phase=call.phase,
        account=_or_dash(call.account_name),
        model=_or_dash(call.model),
        endpoint=call.endpoint or "",
        key=_or_dash(call.key_id),
    )


def _last_hour(hour: LastHour) -> Html:
    rows = []
    for block in reversed(hour.blocks):
        counts = joined(
            fill('<td class="n">{count}</td>', count=block.outcomes[name]) for name in charts.LABELS
        )
        latency = block.latency
        seconds = joined(
            fill('<td class="n">{value}</td>', value=NOTHING if value is None else f"{value:.3g} s")
            for value in (latency.p50, latency.p90, latency.p99)
        )
        rows.append(
            fill(
                '<tr><th scope="row">{start:%H:%M}</th>{counts}{seconds}</tr>\n',
                start=block.start,
                counts=counts,
                seconds=seconds,
            )
        )
    heads = ("From", *(f"#{label.capitalize()}" for label in charts.LABELS.values()))
    return _section(
        "Last hour",
        "times are UTC",
        fill(
            '<div class="charts">\n{outcomes}{latency}</div>\n'
            "<details><summary>The same as a table</summary>\n{table}</details>\n",
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
    newest, older = status.last_errors[:_OPEN_ERRORS], status.last_errors[_OPEN_ERRORS:]
    return _section(
        "Last errors",
        "of the gateway and of upstreams, newest first",
        joined(
            (
                _error_table("Last errors", newest),
                _folded("Older errors", older),
                _folded("Client errors", status.last_client_errors),
            )
        ),
    )


def _folded(title: str, errors: Sequence[ErrorView]) -> Html:
    return fill(
        "<details><summary>{title}: {count}</summary>\n{table}</details>\n",
        title=title,
        count=len(errors),
        table=_error_table(title, errors),
    )


def _error_table(title: str, errors: Sequence[ErrorView]) -> Html:
    heads = ("Time", "#Status", "Code", "Source", "Account", "Request")
    return _table(title, heads, map(_error, errors), "There are none.")


def _error(error: ErrorView) -> Html:
    return fill(
        '<tr><td>{time}</td><td class="n">{status}</td><td>{code}</td><td>{source}</td>'
        '<td>{account}</td><th scope="row"><code>{request_id}</code></th></tr>\n',
        time=_moment(error.time),
        status=_or_dash(error.status),
        code=_or_dash(error.error_code),
        source=_or_dash(error.error_source),
        account=_or_dash(error.account_name),
        request_id=error.request_id,
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
    """A table; a head that begins with ``#`` is the head of a column of numbers."""
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
    """A duration in the unit that fits."""
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
    if count < 10 * 1024**3:
        return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.0f} MiB"
    return f"{count / 1024**3:.0f} GiB"
