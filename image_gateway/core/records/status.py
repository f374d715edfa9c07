"""What is told of a gateway at work: the calls in flight, the last hour, the last errors.

It keeps facts that are in the log record too, and fewer of them: ids, codes and times, never a
name of a key, a prompt, a credential or an upstream's own words.  Its memory is bounded by design:
an hour is a ring of minutes, a minute is counts and a histogram of fixed buckets, and of errors the
last ones are kept.  A call costs it some microseconds: what a call is at is read off its timeline
when somebody asks.  ``wall`` is the time in UTC; the caller brings it.

The dataclasses at the end are what the ops port tells, and as JSON they are the promise of
``/status.json``: their fields' names are its names.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final

from image_gateway.core.errors import Source
from image_gateway.core.records.builder import RecordBuilder
from image_gateway.core.records.histogram import Histogram
from image_gateway.core.records.phases import Phase
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.routing.ranking import Condition

MOST_LISTED: Final = 200
"""Calls in flight that are told one by one, the oldest; of the others the number is told."""
MOST_ERRORS: Final = 50
"""Of each kind: clients' own mistakes, which anybody can make by the thousand, push out no
others."""
BLOCK_MINUTES: Final = 5
"""Over which percentiles are taken: fewer calls would make them jump."""
BLOCKS: Final = 12

_MINUTES: Final = BLOCKS * BLOCK_MINUTES
_LONGEST_TEXT: Final = 64
"""Of a model's name, which clients choose."""
_LATENCY_BITS: Final = 5
"""A percentile is at most a sixteenth too high."""
_LONGEST_MS: Final = 25 * 60 * 1000
"""No call lasts longer; with it a minute has at most 288 buckets."""


# -- one call --------------------------------------------------------------------------------------


class PhaseLabel(StrEnum):
    """What a call is at, as the ops port tells it: a few of its phases in one word."""

    AUTH = "auth"
    """Key and accounts are looked up."""
    BODY = "body"
    WAITING = "waiting"
    """For a slot, and nothing else."""
    UPSTREAM = "upstream"
    """Sent, or being sent; no answer yet."""
    STREAM = "stream"
    """An answer is coming, or going out."""


LABELS: Final[Mapping[Phase | None, PhaseLabel]] = {
    None: PhaseLabel.AUTH,
    Phase.RECEIVED: PhaseLabel.AUTH,
    Phase.AUTHENTICATED: PhaseLabel.BODY,
    Phase.READ: PhaseLabel.AUTH,
    Phase.ADMITTED: PhaseLabel.AUTH,
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
    """One call under way; ``is_text``: it is passed on to the text API."""

    builder: RecordBuilder
    is_text: bool = False

    @property
    def label(self) -> PhaseLabel:
        """What it is at."""
        return LABELS[self.builder.timeline.phase]


def outcome(record: Record) -> RequestOutcome:
    """How a call ended, by its record; an error of the text API has a status and no code."""
    if record.client_left:
        return RequestOutcome.CLIENT_LEFT
    if record.error_code is not None:
        return _BY_SOURCE[Source(record.error_source or Source.GATEWAY)]
    if record.status is None or record.status < 400:
        return RequestOutcome.OK
    return RequestOutcome.CLIENT_ERROR if record.status < 500 else RequestOutcome.UPSTREAM_ERROR


def _tried_last(attempts: Sequence[AttemptRecord]) -> str | None:
    return attempts[-1].account_name if attempts else None


# -- what is kept ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _MinuteCounts:
    """One minute of UTC, counted since 1970."""

    number: int
    outcomes: Counter[RequestOutcome] = field(default_factory=Counter)
    latencies: Histogram = field(default_factory=lambda: Histogram(_LATENCY_BITS))


class CallTracker:
    """The calls of one process, in flight and ended."""

    def __init__(self) -> None:
        # In the order in which they came.
        self._calls: dict[InFlightCall, None] = {}
        self._minutes = [_MinuteCounts(-1) for _ in range(_MINUTES)]
        self._errors: deque[ErrorView] = deque(maxlen=MOST_ERRORS)
        self._client_errors: deque[ErrorView] = deque(maxlen=MOST_ERRORS)

    def __repr__(self) -> str:
        return f"<CallTracker {len(self._calls)} in flight>"

    def begin(self, builder: RecordBuilder) -> InFlightCall:
        """A call has come; it is in flight until ``end``."""
        call = InFlightCall(builder)
        self._calls[call] = None
        return call

    def end(self, call: InFlightCall, record: Record, wall: datetime) -> None:
        """Its record is built."""
        del self._calls[call]
        ended = outcome(record)
        minute = self._minute(_minute_number(wall))
        minute.outcomes[ended] += 1
        if ended is RequestOutcome.OK:
            if not call.is_text and record.total_ms is not None:
                minute.latencies.add(min(record.total_ms, _LONGEST_MS))
            return
        kept = self._client_errors if ended in _CLIENTS else self._errors
        kept.append(
            ErrorView(
                wall,
                record.request_id,
                record.status,
                record.error_code,
                record.error_source,
                record.account_name or _tried_last(record.attempts),
            )
        )

    def _minute(self, number: int) -> _MinuteCounts:
        found = self._minutes[number % _MINUTES]
        if found.number != number:
            found = self._minutes[number % _MINUTES] = _MinuteCounts(number)
        return found

    # -- telling -----------------------------------------------------------------------------------

    def phases(self) -> Counter[PhaseLabel]:
        """How many calls are at what."""
        return Counter(call.label for call in self._calls)

    def in_flight(self) -> "InFlightView":
        """The calls under way, oldest first."""
        oldest = islice(self._calls, MOST_LISTED)
        return InFlightView(len(self._calls), tuple(_view(call) for call in oldest))

    def longest_wait(self) -> float | None:
        """Seconds for which a call waits for a slot; None where none does."""
        waits = [
            call.builder.timeline.seconds(Phase.WAITING) or 0.0
            for call in self._calls
            if call.label is PhaseLabel.WAITING
        ]
        return round(max(waits), 3) if waits else None

    def errors(self) -> tuple["ErrorView", ...]:
        """The last ones of the gateway and of upstreams, newest first."""
        return tuple(reversed(self._errors))

    def client_errors(self) -> tuple["ErrorView", ...]:
        """The last ones of clients, newest first."""
        return tuple(reversed(self._client_errors))

    def last_hour(self, wall: datetime) -> "LastHour":
        """The last 55 to 60 minutes: blocks stand on the clock, so that they stay what they are."""
        last = _minute_number(wall)
        first = (last // BLOCK_MINUTES - BLOCKS + 1) * BLOCK_MINUTES
        known = {each.number: each for each in self._minutes if first <= each.number <= last}
        minutes = [known.get(number) or _MinuteCounts(number) for number in range(first, last + 1)]
        blocks = [
            _sum(minutes[at : at + BLOCK_MINUTES]) for at in range(0, len(minutes), BLOCK_MINUTES)
        ]
        return LastHour(
            _sum(minutes),
            tuple(Minute(_moment(each.number), _counts(each.outcomes)) for each in minutes),
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
    return {each.value: outcomes[each] for each in RequestOutcome}


def _sum(minutes: Sequence[_MinuteCounts]) -> "Block":
    outcomes, latencies = Counter[RequestOutcome](), Histogram(_LATENCY_BITS)
    for each in minutes:
        outcomes.update(each.outcomes)
        latencies.merge(each.latencies)
    return Block(_moment(minutes[0].number), _counts(outcomes), _latency(latencies))


def _latency(latencies: Histogram) -> "Latency":
    buckets = latencies.percentiles((50, 90, 99))
    p50, p90, p99 = (None if bucket is None else bucket.last / 1000 for bucket in buckets)
    return Latency(latencies.total, p50, p90, p99)


# -- what is told ----------------------------------------------------------------------------------


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
    """All calls in flight, and the oldest of them one by one."""

    total: int
    oldest: tuple[CallView, ...]


@dataclass(frozen=True, slots=True)
class ErrorView:
    """One call that failed, at the end of it; ``status`` None: nobody was there to answer.

    ``account_name`` is the account that answered; where none did, the one that was tried last.
    """

    time: datetime
    request_id: str
    status: int | None
    error_code: str | None
    error_source: str | None
    account_name: str | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the seconds that served image calls took; None where there were none.

    ``calls`` are these alone; ``ok`` among the outcomes counts text that was passed on, too.
    """

    calls: int
    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Minute:
    """How many calls ended in a minute, by outcome."""

    start: datetime
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    """The calls that ended in some minutes: how many, by outcome, and how long they took."""

    start: datetime
    outcomes: dict[str, int]
    latency: Latency


@dataclass(frozen=True, slots=True)
class LastHour:
    """As a whole, by minutes, and in blocks of minutes; oldest first, the present one last."""

    whole: Block
    minutes: tuple[Minute, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class CooldownView:
    """Until when an account is left alone, and the answer that began it."""

    until: datetime
    status: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account.  ``slots_in_use`` are this process's; ``taken_elsewhere``: other processes hold
    the rest.  Budgets are per cent spent, None where nobody has told.
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
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class WaitingView:
    """Calls that wait for a slot, and the longest of these waits in seconds."""

    calls: int
    longest_seconds: float | None


@dataclass(frozen=True, slots=True)
class Readiness:
    """``reasons`` says why not; ``changes_act_within_seconds`` None: not before Postgres can be
    read.
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
    """All of it, at ``time``."""

    time: datetime
    since: datetime
    readiness: Readiness
    accounts: tuple[AccountView, ...]
    waiting: WaitingView
    in_flight: InFlightView
    bytes_in_flight: int
    log_records_lost: int
    last_hour: LastHour
    last_errors: tuple[ErrorView, ...]
    last_client_errors: tuple[ErrorView, ...]
