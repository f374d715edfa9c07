"""The live status of a gateway: the calls in flight, the last hour, the last errors.

It keeps some of the facts of the log record: ids, codes and times, never a key's name, a prompt, a
credential or an upstream's message.  Its memory is bounded by design: an hour is a ring of minutes,
a minute is counts and a histogram of fixed buckets, and only the last errors are kept.  A call
costs a few microseconds: its phase is read from its timeline only on request.  ``wall`` is the time
in UTC; the caller passes it.

The ops port serves the dataclasses at the end; as JSON they are the documented ``/status.json``,
with the same names.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final

from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Source
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.histogram import Histogram
from image_gateway.core.records.loop_lag import LoopLag
from image_gateway.core.records.phases import Phase
from image_gateway.core.records.record import (
    AttemptRecord,
    Record,
    saves_purchase,
)
from image_gateway.core.routing.ranking import Condition

MOST_LISTED: Final = 200
"""The number of calls in flight that are listed, oldest first; the rest are only counted."""
MOST_ERRORS: Final = 50
"""Of each kind: client errors, of which any client can cause thousands, do not push out other
errors."""
BLOCK_MINUTES: Final = 5
"""Percentiles are over this many minutes: over fewer calls they would jump."""
BLOCKS: Final = 12

_MINUTES: Final = BLOCKS * BLOCK_MINUTES
_LONGEST_TEXT: Final = 64
"""Of a model's name, which clients choose."""
_LATENCY_BITS: Final = 5
"""A percentile is at most a sixteenth too high."""
_LONGEST_MS: Final = 25 * 60 * 1000
"""No call takes longer; with this limit a minute has at most 288 buckets."""


# -- one call --------------------------------------------------------------------------------------


class PhaseLabel(StrEnum):
    """The phase of a call as the ops port shows it; one label may cover several phases."""

    AUTH = "auth"
    """Key and accounts are looked up."""
    BODY = "body"
    JOINED = "joined"
    """It waits for a call that another request started."""
    WAITING = "waiting"
    """Only for a slot."""
    UPSTREAM = "upstream"
    """The call was sent or is being sent; no answer yet."""
    STREAM = "stream"
    """An answer is arriving or going out."""


LABELS: Final[Mapping[Phase | None, PhaseLabel]] = {
    None: PhaseLabel.AUTH,
    Phase.RECEIVED: PhaseLabel.AUTH,
    Phase.AUTHENTICATED: PhaseLabel.BODY,
    Phase.READ: PhaseLabel.AUTH,
    Phase.ADMITTED: PhaseLabel.AUTH,
    Phase.JOINED: PhaseLabel.JOINED,
    Phase.WAITING: PhaseLabel.WAITING,
    Phase.SENT: PhaseLabel.UPSTREAM,
    Phase.ANSWERED: PhaseLabel.STREAM,
    Phase.ARRIVING: PhaseLabel.STREAM,
    Phase.DELIVERED: PhaseLabel.STREAM,
    Phase.RECORDED: PhaseLabel.STREAM,
}
"""By phase; a call that is refused at once is in none."""


class RequestOutcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    GATEWAY_ERROR = "gateway_error"
    UPSTREAM_ERROR = "upstream_error"
    CLIENT_LEFT = "client_left"


_BY_SOURCE: Final = {
    Source.CLIENT: RequestOutcome.CLIENT_ERROR,
    Source.GATEWAY: RequestOutcome.GATEWAY_ERROR,
    Source.UPSTREAM: RequestOutcome.UPSTREAM_ERROR,
}
_CLIENTS: Final = frozenset({RequestOutcome.CLIENT_ERROR, RequestOutcome.CLIENT_LEFT})


@dataclass(eq=False, slots=True)
class InFlightCall:
    """One call in flight; ``is_text``: it is passed on to the text API."""

    builder: RecordBuilder
    is_text: bool = False

    @property
    def label(self) -> PhaseLabel:
        """The label of its current phase."""
        return LABELS[self.builder.timeline.phase]


def outcome(record: Record) -> RequestOutcome:
    """How a call ended, by its record; an error of the text API has a status but no code."""
    if record.client_left:
        return RequestOutcome.CLIENT_LEFT
    if record.error_code is not None:
        return _BY_SOURCE[Source(record.error_source or Source.GATEWAY)]
    if record.status is None or record.status < 400:
        return RequestOutcome.OK
    return RequestOutcome.CLIENT_ERROR if record.status < 500 else RequestOutcome.UPSTREAM_ERROR


def _last_account(attempts: Sequence[AttemptRecord]) -> str | None:
    return attempts[-1].account_name if attempts else None


# -- the tracker -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _MinuteCounts:
    """One minute of UTC, counted since 1970."""

    number: int
    outcomes: Counter[RequestOutcome] = field(default_factory=Counter)
    latencies: Histogram = field(default_factory=lambda: Histogram(_LATENCY_BITS))


class CallTracker:
    """The calls of one process, in flight and ended."""

    def __init__(self) -> None:
        # In order of arrival.
        self._calls: dict[InFlightCall, None] = {}
        self._minutes = [_MinuteCounts(-1) for _ in range(_MINUTES)]
        self.purchases_saved = 0
        """Requests that got the answer of a call that was paid for, since the process began."""
        self._errors: deque[ErrorView] = deque(maxlen=MOST_ERRORS)
        self._client_errors: deque[ErrorView] = deque(maxlen=MOST_ERRORS)

    def __repr__(self) -> str:
        return f"<CallTracker {len(self._calls)} in flight>"

    def begin(self, builder: RecordBuilder) -> InFlightCall:
        """Track a call from its arrival until ``end``."""
        call = InFlightCall(builder)
        self._calls[call] = None
        return call

    def end(self, call: InFlightCall, record: Record, wall: datetime) -> None:
        """Count a call whose record is built; it is no longer in flight."""
        del self._calls[call]
        result = outcome(record)
        self.purchases_saved += saves_purchase(record.call_source, record.error_source)
        minute = self._minute(_minute_number(wall))
        minute.outcomes[result] += 1
        if result is RequestOutcome.OK:
            asked_for_picture = record.call_source is not None
            if asked_for_picture and record.total_ms is not None:
                minute.latencies.add(min(record.total_ms, _LONGEST_MS))
            return
        errors = self._client_errors if result in _CLIENTS else self._errors
        errors.append(
            ErrorView(
                wall,
                record.request_id,
                record.status,
                record.error_code,
                record.error_source,
                record.account_name or _last_account(record.attempts),
            )
        )

    def _minute(self, number: int) -> _MinuteCounts:
        minute = self._minutes[number % _MINUTES]
        if minute.number != number:
            minute = self._minutes[number % _MINUTES] = _MinuteCounts(number)
        return minute

    # -- views -------------------------------------------------------------------------------------

    def phases(self) -> Counter[PhaseLabel]:
        """The number of calls in flight by label."""
        return Counter(call.label for call in self._calls)

    def in_flight(self) -> "InFlightView":
        """The calls in flight, oldest first."""
        oldest = islice(self._calls, MOST_LISTED)
        return InFlightView(len(self._calls), tuple(_view(call) for call in oldest))

    def calls(self) -> tuple[int, int]:
        """How many calls run with a client and how many go on without one."""
        sources = [
            call.builder.client_left or call.builder.gave_id
            for call in self._calls
            if call.builder.found_call is not None
            and call.builder.found_call.source is CallSource.MADE
        ]
        return sources.count(False), sources.count(True)

    def longest_wait(self) -> float | None:
        """The longest time in seconds that a call waits for a slot; None if none waits."""
        waits = [
            call.builder.timeline.seconds(Phase.WAITING) or 0.0
            for call in self._calls
            if call.label is PhaseLabel.WAITING
        ]
        return round(max(waits), 3) if waits else None

    def errors(self) -> tuple["ErrorView", ...]:
        """The last errors of the gateway and of upstreams, newest first."""
        return tuple(reversed(self._errors))

    def client_errors(self) -> tuple["ErrorView", ...]:
        """The last errors of clients, newest first."""
        return tuple(reversed(self._client_errors))

    def last_hour(self, wall: datetime) -> "LastHour":
        """The last 55 to 60 minutes; blocks are aligned to the clock, so they do not shift."""
        last = _minute_number(wall)
        first = (last // BLOCK_MINUTES - BLOCKS + 1) * BLOCK_MINUTES
        counted = {
            minute.number: minute for minute in self._minutes if first <= minute.number <= last
        }
        minutes = [
            counted.get(number) or _MinuteCounts(number) for number in range(first, last + 1)
        ]
        blocks = [
            _sum(minutes[at : at + BLOCK_MINUTES]) for at in range(0, len(minutes), BLOCK_MINUTES)
        ]
        return LastHour(
            _sum(minutes),
            tuple(Minute(_moment(minute.number), _counts(minute.outcomes)) for minute in minutes),
            tuple(blocks),
        )


def _view(call: InFlightCall) -> "CallView":
    builder = call.builder
    key, answering, model = builder.key, builder.answering, builder.asked.model
    return CallView(
        builder.arrival.request_id,
        None if key is None else key.key_id,
        builder.arrival.endpoint,
        None if model is None else model[:_LONGEST_TEXT],
        None if answering is None else answering.account_name,
        call.label,
        round(builder.timeline.age(), 3),
    )


def _minute_number(wall: datetime) -> int:
    return int(wall.timestamp() // 60)


def _moment(number: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=number)


def _counts(outcomes: Counter[RequestOutcome]) -> dict[str, int]:
    return {result.value: outcomes[result] for result in RequestOutcome}


def _sum(minutes: Sequence[_MinuteCounts]) -> "Block":
    outcomes, latencies = Counter[RequestOutcome](), Histogram(_LATENCY_BITS)
    for minute in minutes:
        outcomes.update(minute.outcomes)
        latencies.merge(minute.latencies)
    return Block(_moment(minutes[0].number), _counts(outcomes), _latency(latencies))


def _latency(latencies: Histogram) -> "Latency":
    buckets = latencies.percentiles((50, 90, 99))
    p50, p90, p99 = (None if bucket is None else bucket.last / 1000 for bucket in buckets)
    return Latency(latencies.total, p50, p90, p99)


# -- views of the ops port -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallView:
    """One call in flight."""

    request_id: str
    key_id: str | None
    endpoint: str | None
    model: str | None
    account_name: str | None
    phase: PhaseLabel
    age_seconds: float


@dataclass(frozen=True, slots=True)
class InFlightView:
    """The number of calls in flight, and a list of the oldest."""

    total: int
    oldest: tuple[CallView, ...]


@dataclass(frozen=True, slots=True)
class ErrorView:
    """One call that failed, and when it ended; ``status`` None: the client left without an answer.

    ``account_name`` is the account that answered, or else the account that was tried last.
    """

    time: datetime
    request_id: str
    status: int | None
    error_code: str | None
    error_source: str | None
    account_name: str | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the seconds that successful image calls took; None if there were none.

    ``calls`` counts only these; ``ok`` among the outcomes also counts calls to the text API.
    """

    calls: int
    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Minute:
    """The number of calls that ended in a minute, by outcome."""

    start: datetime
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    """The calls that ended in a block of minutes: their number by outcome, and their latency."""

    start: datetime
    outcomes: dict[str, int]
    latency: Latency


@dataclass(frozen=True, slots=True)
class LastHour:
    """The whole hour, its minutes, and its blocks; oldest first, the current one last."""

    whole: Block
    minutes: tuple[Minute, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class CooldownView:
    """Until when an account gets no calls, and the answer that began the cooldown."""

    until: datetime
    status: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account.  ``slots_in_use`` counts this process's slots; ``taken_elsewhere``: other
    processes hold the rest.  Budgets are per cent spent, None if not known.  ``failures_in_a_row``
    are the upstream's own.
    """

    account_name: str
    dialect: str
    condition: Condition
    slots_in_use: int
    slots_limit: int
    taken_elsewhere: bool
    budget_primary_percent: float | None
    budget_secondary_percent: float | None
    cooldown: CooldownView | None
    models_cooling: int
    failures_in_a_row: int
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class WaitingView:
    """The number of calls that wait for a slot, and the longest wait in seconds."""

    calls: int
    longest_seconds: float | None


@dataclass(frozen=True, slots=True)
class CallsView:
    """The calls that outlive their connections.

    ``running`` have a client, ``left`` go on without one; ``kept`` have ended, and their answers
    are ``kept_bytes`` on disk, of all processes on this machine.  ``purchases_saved`` counts
    requests of this process that got the answer of a call that was paid for.
    """

    running: int
    left: int
    kept: int
    kept_bytes: int
    purchases_saved: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """``reasons``: why it is not ready.

    ``changes_act_within_seconds`` None: changes take effect only once Postgres can be read.
    """

    ready: bool
    reasons: tuple[str, ...]
    version: str
    instance: str
    accepting: bool
    notify: bool
    changes_act_within_seconds: float | None
    slots_shared: bool
    grant_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status at ``time``."""

    time: datetime
    since: datetime
    readiness: Readiness
    accounts: tuple[AccountView, ...]
    waiting: WaitingView
    in_flight: InFlightView
    calls: CallsView
    bytes_in_flight: int
    loop_lag: LoopLag
    log_records_lost: int
    last_hour: LastHour
    last_errors: tuple[ErrorView, ...]
    last_client_errors: tuple[ErrorView, ...]
