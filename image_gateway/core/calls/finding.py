"""Which call a request finds: one table, read top to bottom.

Two promises pull in opposite directions.  A picture is never bought twice for one call of a
program, and a program that wants two equal pictures gets two.  What tells a retry from a second
wish is, in this order: the name that the client gave its call (``Idempotency-Key``), its own word
that it retries (``x-stainless-retry-count``), and what became of the equal calls before.

Who is found by what:

- A request with a name finds calls by that name only, and a call with a name is found by no other
  request.  A client repeats the name in each of its tries, so a request without it is no try of
  that call: it wants another picture, and would take away the one that somebody can ask for.
- All other calls are found by an equal fingerprint.  A call without a fingerprint is found by
  nobody: its request was refused before its body was read.
- A submission (``Prefer: respond-async``) is answered with the id of its call.  Clients repeat
  their headers in each try, so a request that wants an id finds only calls that were submitted, and
  they are found by no other.  Once the id was sent, its client can ask by it, and an equal
  submission wants another picture.  Only a sure retry may mean that the id was lost, behind a proxy
  that hid it; it is given the id again, even though that may be the id of its equal.

Where several calls fit, an answer that any number of requests may have is the newest one's.  What
only one request may have (a lost answer, a try after "nothing was made", a warning) is that
of the call which ended first, because time takes it away first: so each retry that comes in time
finds one.

The table knows only the calls that it is shown: to forget a call is to free its name.  It never
changes a call.  The caller does, before it lets another request ask: ``Start.uses_up``, a claim for
``TakeOver``, ``told_repeated`` for ``RefuseRepeated``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from image_gateway.core.calls.model import CallIdentity, CallState

NOTHING_SECONDS: Final = 120.0
"""How long a sure retry of a call that made nothing starts a new one.  The SDKs wait at most 60 s
before a retry."""


@dataclass(frozen=True, slots=True)
class CallView:
    """A call as it is now.

    ``ended_at``: seconds, by the clock that ``find`` gets; None while it runs.  ``is_kept``: its
    answer can be given again.  ``clients``: how many requests wait for it or are being sent its
    answer.  ``was_left``: a client left before it had the whole answer, and none was served since.
    ``was_delivered``: an answer certainly reached a client.  Both are false where a proxy hides
    what became of the client.  ``is_claimed``: a request is taking it over.  ``told_repeated``: a
    request was refused because of it.  ``used_up``: it made nothing, and had its retry.
    ``gave_id``: a client was sent its id.
    """

    identity: CallIdentity
    state: CallState
    ended_at: float | None = None
    is_kept: bool = False
    clients: int = 0
    was_left: bool = False
    was_delivered: bool = False
    is_claimed: bool = False
    told_repeated: bool = False
    used_up: bool = False
    gave_id: bool = False

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state is CallState.RUNNING

    @property
    def has_answer(self) -> bool:
        """Whether it ended with an answer that another request may have."""
        return self.is_kept and self.state in _ANSWERED

    @property
    def is_lost(self) -> bool:
        """Whether its client is certainly gone without the answer, and nobody else has it."""
        is_free = self.clients == 0 and not self.is_claimed
        is_there = self.is_running or self.has_answer
        return is_there and is_free and self.was_left and not self.was_delivered


_ANSWERED: Final = frozenset({CallState.MADE, CallState.FAULT, CallState.UNKNOWN})
"""Ends after which another call might be a second purchase, or would get the same error."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request asks for: the tags of its key and name (``core.calls.names``; ``name`` None:
    it has none), its fingerprint, whether it says that it is a retry, and whether it wants the id
    of its call, to ask for the answer later.
    """

    key_tag: str
    fingerprint: str
    name: str | None = None
    is_sure_retry: bool = False
    wants_id: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Start a new call.  ``uses_up`` is the call that made nothing and has its one retry now."""

    row: str
    uses_up: str | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for a call that runs, beside its other clients."""

    row: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Replay:
    """Give the answer of a call that has ended once more."""

    row: str
    call_id: str


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Claim a call, running or ended, and deliver its answer; the claim ends if that fails."""

    row: str
    call_id: str


@dataclass(frozen=True, slots=True)
class RefuseName:
    """Refuse the request: its name belongs to another request, which started this call."""

    row: str
    call_id: str


@dataclass(frozen=True, slots=True)
class RefuseRepeated:
    """Refuse the request once: this equal call, begun at ``created_at`` (seconds since 1970), may
    have made a picture that nobody has.
    """

    row: str
    call_id: str
    created_at: float


Decision = Start | Join | Replay | TakeOver | RefuseName | RefuseRepeated


def _order(call: CallView) -> tuple[float, str]:
    """The order in which calls began; ids decide between equal times."""
    return call.identity.created_at, call.identity.call_id


def _newest(calls: Iterable[CallView]) -> CallView | None:
    return max(calls, key=_order, default=None)


@dataclass(frozen=True, slots=True)
class _Known:
    """The calls that concern a request.

    ``equal``: those that it may get.  ``unequal``: those with its name that ask for something else.
    """

    equal: Sequence[CallView]
    unequal: Sequence[CallView]
    now: float
    guard_seconds: float

    def age(self, call: CallView) -> float:
        """Seconds since a call ended.  A clock that was set back makes it younger, never old: a
        warning too many is cheaper than a picture.
        """
        return 0.0 if call.ended_at is None else max(0.0, self.now - call.ended_at)

    def first_to_go(self, calls: Iterable[CallView]) -> CallView | None:
        """The call that time takes away first: the first to have ended, last one that runs."""
        return min(
            calls,
            key=lambda call: (call.is_running, -self.age(call), _order(call)),
            default=None,
        )


def _is_named(asking: Asking) -> bool:
    return asking.name is not None


def _is_sure(asking: Asking) -> bool:
    return asking.is_sure_retry


def _is_any(_: Asking) -> bool:
    return True


def _unequal(known: _Known) -> CallView | None:
    return _newest(known.unequal)


def _running(known: _Known) -> CallView | None:
    return _newest(call for call in known.equal if call.is_running)


def _answered(known: _Known) -> CallView | None:
    return _newest(call for call in known.equal if call.has_answer)


def _made_nothing(known: _Known) -> CallView | None:
    """What is certainly lost costs nothing, so it goes first.  A client that has given up leaves
    its last "nothing was made" behind, and the program's next call must not buy again by it.
    """
    if _abandoned(known) is not None:
        return None
    return known.first_to_go(
        call
        for call in known.equal
        if call.state is CallState.NOTHING
        and not call.used_up
        # Its client reads by the id that nothing was made.
        and not call.gave_id
        and known.age(call) < NOTHING_SECONDS
    )


def _running_or_answered(known: _Known) -> CallView | None:
    """A lost one first: equal calls that were all lost and all retried get an answer each."""
    return known.first_to_go(call for call in known.equal if call.is_lost) or _newest(
        call for call in known.equal if call.is_running or call.has_answer
    )


def _abandoned(known: _Known) -> CallView | None:
    return known.first_to_go(
        call for call in known.equal if call.is_lost and call.state is not CallState.UNKNOWN
    )


def _unknown(known: _Known) -> CallView | None:
    return known.first_to_go(
        call
        for call in known.equal
        if call.state is CallState.UNKNOWN
        and not call.told_repeated
        and known.age(call) < known.guard_seconds
    )


def _start(row: str, call: CallView | None = None) -> Decision:
    return Start(row, None if call is None else call.identity.call_id)


def _join_or_replay(row: str, call: CallView) -> Decision:
    decide = Join if call.is_running else Replay
    return decide(row, call.identity.call_id)


def _take_over(row: str, call: CallView) -> Decision:
    return TakeOver(row, call.identity.call_id)


def _refuse_name(row: str, call: CallView) -> Decision:
    return RefuseName(row, call.identity.call_id)


def _refuse_repeated(row: str, call: CallView) -> Decision:
    return RefuseRepeated(row, call.identity.call_id, call.identity.created_at)


class Row(NamedTuple):
    """One row: its name, for metrics and tests; what it is about; which requests it is for; the
    call that it finds; what follows.  A row without ``finds`` needs no call, and starts one.
    """

    name: str
    title: str
    asks: Callable[[Asking], bool]
    finds: Callable[[_Known], CallView | None] | None = None
    then: Callable[[str, CallView], Decision] = _start


TABLE: Final[Sequence[Row]] = (
    Row(
        "name_reused",
        "with a name: that name came with another request",
        _is_named,
        _unequal,
        _refuse_name,
    ),
    Row("name_running", "with a name: its call is running", _is_named, _running, _join_or_replay),
    Row(
        "name_answered",
        "with a name: its call ended with an answer that is kept",
        _is_named,
        _answered,
        _join_or_replay,
    ),
    Row(
        "name_unknown",
        "with a name: its call ended a moment ago, may have made a picture, and is not kept",
        _is_named,
        _unknown,
        _refuse_repeated,
    ),
    Row("name_new", "with a name: nothing made, expired, never seen", _is_named),
    Row(
        "nothing_made",
        "a sure retry: an equal call made nothing and had no retry yet, and none was lost",
        _is_sure,
        _made_nothing,
        _start,
    ),
    Row(
        "retry",
        "a sure retry: an equal call is running, or has an answer",
        _is_sure,
        _running_or_answered,
        _join_or_replay,
    ),
    Row(
        "abandoned",
        "an equal call lost its client before the answer reached it",
        _is_any,
        _abandoned,
        _take_over,
    ),
    Row(
        "repeated",
        "an equal call ended a moment ago and may have made a picture; nobody was warned yet",
        _is_any,
        _unknown,
        _refuse_repeated,
    ),
    Row("new", "anything else: another picture is wanted", _is_any),
)


def find(asking: Asking, calls: Iterable[CallView], now: float, guard_seconds: float) -> Decision:
    """What becomes of a request: the first row that fits.

    ``calls`` may hold calls of any key and request, in any order.  ``now`` is in seconds;
    ``guard_seconds`` is how long an unknown outcome warns (0: never).
    """
    known = _known(asking, calls, now, guard_seconds)
    for row in TABLE:
        if not row.asks(asking):
            continue
        if row.finds is None:
            return _start(row.name)
        call = row.finds(known)
        if call is not None:
            return row.then(row.name, call)
    raise AssertionError("the last row fits every request")


def _may_find(asking: Asking, call: CallView) -> bool:
    """Whether a request without a name may mean a call without one."""
    if call.identity.has_id != asking.wants_id:
        return False
    return asking.is_sure_retry or not call.gave_id


def _known(asking: Asking, calls: Iterable[CallView], now: float, guard_seconds: float) -> _Known:
    equal: list[CallView] = []
    unequal: list[CallView] = []
    for call in calls:
        identity = call.identity
        if identity.key_tag != asking.key_tag or not identity.fingerprint:
            continue
        if identity.name != asking.name or (asking.name is None and not _may_find(asking, call)):
            continue
        is_equal = identity.fingerprint == asking.fingerprint
        (equal if is_equal else unequal).append(call)
    return _Known(equal, unequal, now, guard_seconds)
