"""What is told of a gateway at work: the calls in flight, the last hour, the last errors.

It keeps facts that are in the log record too, and fewer of them: ids, codes and times, never a
name of a key, a prompt, a credential or an upstream's own words.  Its memory is bounded by design:
an hour is a ring of minutes, a minute is counts and a histogram of fixed buckets, and of errors the
last ones are kept.  A call costs it some microseconds: what a call is at is read off its draft when
somebody asks.  Times are seconds of a clock that only goes forward (``now``) or UTC (``wall``); the
caller brings them.

The dataclasses at the end are what the ops port tells, and as JSON they are the promise of
``/status.json``: their fields' names are its names.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final

from image_gateway.core.errors import Source
from image_gateway.core.records.record import Attempt, Draft
from image_gateway.core.routing.failover import Action
from image_gateway.core.routing.routing import Condition

MOST_TOLD: Final = 200
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
_BUCKET_RATIO: Final = 1.1
"""From one bucket's bound to the next: a percentile is told up to a tenth too high."""
_BUCKETS: Final = 150
"""The first ends at a millisecond, the last at 25 minutes; no call lasts longer."""


# -- one call --------------------------------------------------------------------------------------


class Phase(StrEnum):
    """What a call is at."""

    AUTH = "auth"
    """Key and accounts are looked up."""
    BODY = "body"
    WAITING = "waiting"
    """For a slot, and nothing else."""
    UPSTREAM = "upstream"
    """Sent, or being sent; no answer yet."""
    STREAM = "stream"
    """An answer is coming, or going out."""


class Outcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    GATEWAY_ERROR = "gateway_error"
    UPSTREAM_ERROR = "upstream_error"
    CLIENT_LEFT = "client_left"


_BY_SOURCE: Final = {
    Source.CLIENT: Outcome.CLIENT_ERROR,
    Source.GATEWAY: Outcome.GATEWAY_ERROR,
    Source.UPSTREAM: Outcome.UPSTREAM_ERROR,
}
_CLIENTS: Final = frozenset({Outcome.CLIENT_ERROR, Outcome.CLIENT_LEFT})


@dataclass(eq=False, slots=True)
class Flight:
    """One call under way, since ``began``; ``is_text``: it is passed on to the text API."""

    draft: Draft
    began: float
    is_text: bool = False

    @property
    def phase(self) -> Phase:
        """What it is at, as its draft tells."""
        draft = self.draft
        if draft.auth_ms is None:
            return Phase.AUTH
        if self.is_text:
            return Phase.UPSTREAM if draft.upstream_ms is None else Phase.STREAM
        if draft.body_ms is None:
            return Phase.BODY
        if draft.error_code is not None:
            return Phase.STREAM
        return Phase.AUTH if draft.wait_ms is None else _phase_of(draft.attempts)

    def waited(self, now: float) -> float:
        """Seconds for which it has waited for slots: what is left of its age beside the rest."""
        draft = self.draft
        known = (draft.auth_ms, draft.body_ms, draft.upstream_ms, draft.stream_ms)
        return max(now - self.began - sum(each or 0 for each in known) / 1000, 0.0)


def _phase_of(attempts: Sequence[Attempt]) -> Phase:
    """What a call is at that looks for an account, or has found one."""
    running = [each for each in attempts if each.action is None]
    if running:
        is_answered = any(each.upstream_ms is not None for each in running)
        return Phase.STREAM if is_answered else Phase.UPSTREAM
    last = attempts[-1].action if attempts else Action.NEXT
    if last == Action.NEXT:
        return Phase.WAITING
    return Phase.UPSTREAM if last in {Action.RETRY, Action.REREAD} else Phase.STREAM


def outcome(draft: Draft) -> Outcome:
    """How a call ended, by its record; an error of the text API has a status and no code."""
    if draft.client_left:
        return Outcome.CLIENT_LEFT
    if draft.error_code is not None:
        return _BY_SOURCE[Source(draft.error_source or Source.GATEWAY)]
    if draft.status is None or draft.status < 400:
        return Outcome.OK
    return Outcome.CLIENT_ERROR if draft.status < 500 else Outcome.UPSTREAM_ERROR


def _tried_last(attempts: Sequence[Attempt]) -> str | None:
    return attempts[-1].account_name if attempts else None


# -- what is kept ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Minute:
    """One minute of UTC, counted since 1970."""

    number: int
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    buckets: Counter[int] = field(default_factory=Counter)


class Board:
    """The calls of one process, in flight and ended."""

    def __init__(self) -> None:
        # In the order in which they came.
        self._flights: dict[Flight, None] = {}
        self._minutes = [_Minute(-1) for _ in range(_MINUTES)]
        self._errors: deque[ErrorTold] = deque(maxlen=MOST_ERRORS)
        self._client_errors: deque[ErrorTold] = deque(maxlen=MOST_ERRORS)

    def __repr__(self) -> str:
        return f"<Board {len(self._flights)} in flight>"

    def begin(self, draft: Draft, now: float) -> Flight:
        """A call has come; it is told until ``end``."""
        flight = Flight(draft, now)
        self._flights[flight] = None
        return flight

    def end(self, flight: Flight, wall: datetime) -> None:
        """Its record is built."""
        del self._flights[flight]
        draft, ended = flight.draft, outcome(flight.draft)
        minute = self._minute(_minute_number(wall))
        minute.outcomes[ended] += 1
        if ended is Outcome.OK:
            if not flight.is_text and draft.total_ms is not None:
                minute.buckets[_bucket(draft.total_ms)] += 1
            return
        kept = self._client_errors if ended in _CLIENTS else self._errors
        kept.append(
            ErrorTold(
                wall,
                draft.request_id,
                draft.status,
                draft.error_code,
                draft.error_source,
                draft.account_name or _tried_last(draft.attempts),
            )
        )

    def _minute(self, number: int) -> _Minute:
        found = self._minutes[number % _MINUTES]
        if found.number != number:
            found = self._minutes[number % _MINUTES] = _Minute(number)
        return found

    # -- telling -----------------------------------------------------------------------------------

    def phases(self) -> Counter[Phase]:
        """How many calls are at what."""
        return Counter(flight.phase for flight in self._flights)

    def in_flight(self, now: float) -> "InFlight":
        """The calls under way, oldest first."""
        oldest = islice(self._flights, MOST_TOLD)
        return InFlight(len(self._flights), tuple(_tell(flight, now) for flight in oldest))

    def longest_wait(self, now: float) -> float | None:
        """Seconds for which a call waits for a slot; None where none does."""
        waits = [flight.waited(now) for flight in self._flights if flight.phase is Phase.WAITING]
        return round(max(waits), 3) if waits else None

    def errors(self) -> tuple["ErrorTold", ...]:
        """The last ones of the gateway and of upstreams, newest first."""
        return tuple(reversed(self._errors))

    def client_errors(self) -> tuple["ErrorTold", ...]:
        """The last ones of clients, newest first."""
        return tuple(reversed(self._client_errors))

    def last_hour(self, wall: datetime) -> "LastHour":
        """The last 55 to 60 minutes: blocks stand on the clock, so that they stay what they are."""
        last = _minute_number(wall)
        first = (last // BLOCK_MINUTES - BLOCKS + 1) * BLOCK_MINUTES
        known = {each.number: each for each in self._minutes if first <= each.number <= last}
        minutes = [known.get(number) or _Minute(number) for number in range(first, last + 1)]
        blocks = [
            _sum(minutes[at : at + BLOCK_MINUTES]) for at in range(0, len(minutes), BLOCK_MINUTES)
        ]
        return LastHour(
            _sum(minutes),
            tuple(Minute(_moment(each.number), _counts(each.outcomes)) for each in minutes),
            tuple(blocks),
        )


def _tell(flight: Flight, now: float) -> "CallTold":
    draft = flight.draft
    return CallTold(
        draft.request_id,
        draft.key_id,
        draft.endpoint,
        None if draft.model is None else draft.model[:_LONGEST_TEXT],
        draft.account_name,
        flight.phase,
        round(max(now - flight.began, 0.0), 3),
    )


def _minute_number(wall: datetime) -> int:
    return int(wall.timestamp() // 60)


def _moment(number: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=number)


def _counts(outcomes: Counter[Outcome]) -> dict[str, int]:
    return {each.value: outcomes[each] for each in Outcome}


def _sum(minutes: Sequence[_Minute]) -> "Block":
    outcomes, buckets = Counter[Outcome](), Counter[int]()
    for each in minutes:
        outcomes.update(each.outcomes)
        buckets.update(each.buckets)
    return Block(_moment(minutes[0].number), _counts(outcomes), _latency(buckets))


def _bucket(milliseconds: int) -> int:
    number = math.ceil(math.log(max(milliseconds, 1), _BUCKET_RATIO))
    return min(number, _BUCKETS)


def _latency(buckets: Counter[int]) -> "Latency":
    calls = buckets.total()
    return Latency(calls, *(_percentile(buckets, calls, share) for share in (0.5, 0.9, 0.99)))


def _percentile(buckets: Counter[int], calls: int, share: float) -> float | None:
    left = math.ceil(calls * share)
    for number in sorted(buckets):
        left -= buckets[number]
        if left <= 0:
            return round(_BUCKET_RATIO**number / 1000, 3)
    return None


# -- what is told ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallTold:
    """One call in flight."""

    request_id: str
    key_id: str | None
    endpoint: str | None
    model: str | None
    account_name: str | None
    phase: Phase
    age_seconds: float


@dataclass(frozen=True, slots=True)
class InFlight:
    """All calls in flight, and the oldest of them one by one."""

    total: int
    oldest: tuple[CallTold, ...]


@dataclass(frozen=True, slots=True)
class ErrorTold:
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
class CooldownTold:
    """Until when an account is left alone, and the answer that began it."""

    until: datetime
    status: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class AccountTold:
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
    cooldown: CooldownTold | None
    models_cooling: int
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class WaitingTold:
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
    accounts: tuple[AccountTold, ...]
    waiting: WaitingTold
    in_flight: InFlight
    bytes_in_flight: int
    log_records_lost: int
    last_hour: LastHour
    last_errors: tuple[ErrorTold, ...]
    last_client_errors: tuple[ErrorTold, ...]
