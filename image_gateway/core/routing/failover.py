"""What follows from an attempt: one table, read top to bottom.

The rule behind every row is certainty.  Another account may be asked only while no picture can
exist: nothing was sent, or the answer says that nothing was made.  Where that is not certain, the
client gets the answer there is, with ``x-should-retry: false``, because the official SDKs would
otherwise buy the picture again, twice.

``next_step`` is total over every stage and every status; the last row matches everything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from image_gateway.core import errors
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.dialects.faults import Fault, KnownError
from image_gateway.core.errors import Refusal, UpstreamError
from image_gateway.core.routing.cooldowns import CooldownSpec, Scope


class Stage(StrEnum):
    """How far an attempt got before its outcome was known."""

    CONNECT = "connect"
    """No connection was made (DNS, TCP, TLS, proxy).  Nothing was sent."""
    SENT = "sent"
    """Connected, and no answer came: silence, EOF or a deadline."""
    ANSWER = "answer"
    """The answer's status and headers are here."""
    STREAM = "stream"
    """Bytes of the answer already went to the client."""


class Action(StrEnum):
    """What the exchange does next."""

    DELIVER = "deliver"
    RETURN = "return"
    NEXT = "next"
    RETRY = "retry"
    """The same account again, which is a pool itself; the table never gives this."""
    REREAD = "reread"
    REPLACE = "replace"
    END = "end"


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """What happened to one attempt.

    ``usable``: a 2xx whose body has the requested type.  ``challenge``: an HTML page in place of an
    API's JSON.  ``wait`` is the number of seconds that the answer asks to wait.  ``seconds`` is the
    time from the attempt's start to its answer.  ``known`` is the row of the dialect's errors that
    the answer fits.  ``fails_free`` is that of the account.
    ``reread``: the account's credential was already read again during this request.  ``reason`` is
    one word for the log that says how the answer broke off.  ``ended_empty``: a success that came
    to its end and says that no picture was made; ``error`` then has the upstream's words.
    ``silent_stream``: the upstream was asked for a stream without partial pictures.
    """

    stage: Stage
    dialect: str
    status: int | None = None
    error: UpstreamError = field(default_factory=UpstreamError)
    wait: float | None = None
    usable: bool = False
    challenge: bool = False
    seconds: float = 0.0
    known: KnownError | None = None
    fails_free: bool | None = None
    reread: bool = False
    reason: str | None = None
    ended_empty: bool = False
    silent_stream: bool = False

    @property
    def has_error(self) -> bool:
        """Whether the upstream itself reported an error."""
        return self.error != UpstreamError()

    @property
    def answered(self) -> int:
        """The status of an answer of which the client has nothing yet; 0 if there is none."""
        return (self.status or 0) if self.stage is Stage.ANSWER else 0

    def is_about(self, *faults: Fault) -> bool:
        """Whether this is a known error that is one of these faults."""
        return self.answered >= 400 and self.known is not None and self.known.fault in faults


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: ``code`` is the gateway's error for ``REPLACE``; ``retry`` False becomes
    ``x-should-retry: false``; ``may_be_billed``: a picture may exist, so after ``NEXT`` only one
    further account is asked.  ``reason`` is the name of the row that lets a call be sent again, or
    that later calls follow from.
    """

    action: Action
    cooldown: CooldownSpec | None = None
    code: str | None = None
    retry: bool = True
    may_be_billed: bool = False
    reason: str | None = None


CHALLENGE_SECONDS: Final = 20.0
"""A challenge page is about the gateway's IP address, not about the account, and is temporary."""
REFUSED_SECONDS: Final = 300.0
"""401, 402, 403 and other refusals of an account, of a model or an endpoint there: an operator must
repair it; minutes, never hours."""
OVERLOAD_SECONDS: Final = 30.0
"""An upstream that is overloaded says so at once; later the picture may have been begun."""

CUT_SECONDS: Final = 50.0
"""Azure cuts silent streams at 60 s; a 408 that comes so late is about the silence."""
_TIMEOUT: Final = "timeout"
"""The code of such a 408, in lower case."""

LIMITED: Final = "limited"
"""The name of the row for a 429 that says nothing else (``core.routing.ranking``)."""
_SDK_RETRIES: Final = frozenset({408, 409, 429})
_OVERLOAD_STATUSES: Final = frozenset({503, 529})
_INTERMEDIARY_STATUSES: Final = frozenset({502, 504, 520, 522, 524})
"""A proxy on the way answered; the upstream behind it may be making the picture."""


def _is_overload(outcome: AttemptOutcome) -> bool:
    if outcome.seconds > OVERLOAD_SECONDS:
        return False
    if outcome.is_about(Fault.OVERLOAD):
        return True
    return outcome.answered in _OVERLOAD_STATUSES and (
        outcome.wait is not None
        or outcome.error.shaped
        or not DIALECTS[outcome.dialect].bills_pictures
    )


def _is_late_overload(outcome: AttemptOutcome) -> bool:
    return outcome.answered in _OVERLOAD_STATUSES and outcome.seconds > OVERLOAD_SECONDS


def is_cut_stream(outcome: AttemptOutcome) -> bool:
    """Whether a gateway in front of the upstream cut a stream because it was silent."""
    if not outcome.silent_stream or outcome.answered < 400:
        return False
    is_named = _TIMEOUT in errors.codes(outcome.error)
    return is_named or (outcome.answered == 408 and outcome.seconds >= CUT_SECONDS)


def _fails_free(outcome: AttemptOutcome) -> bool:
    """Whether a 5xx says that nothing was billed, by the account's dialect or its operator."""
    by_dialect = not DIALECTS[outcome.dialect].bills_pictures
    fails_free = by_dialect if outcome.fails_free is None else outcome.fails_free
    return 500 <= outcome.answered < 600 and fails_free and (by_dialect or outcome.error.shaped)


def _returned(outcome: AttemptOutcome) -> Step:
    """Return the answer unchanged, and forbid a retry where the SDKs would make one."""
    status = outcome.answered
    return Step(Action.RETURN, retry=not (status in _SDK_RETRIES or status >= 500))


def _replaced(code: str) -> Step:
    return Step(Action.REPLACE, code=code, retry=False, may_be_billed=True)


def _refused(outcome: AttemptOutcome) -> Step:
    seconds = CHALLENGE_SECONDS if outcome.challenge else REFUSED_SECONDS
    return Step(Action.NEXT, cooldown=CooldownSpec(seconds))


def _account_refused(outcome: AttemptOutcome) -> Step:
    """A limit names its reset; another refusal lasts until somebody repairs the account."""
    is_limit = outcome.answered == 429 and outcome.wait is not None
    return Step(Action.NEXT, cooldown=CooldownSpec(outcome.wait if is_limit else REFUSED_SECONDS))


class Row(NamedTuple):
    """One row: its name, for records and logs; what it is about; when it fits; what follows."""

    name: str
    title: str
    fits: Callable[[AttemptOutcome], bool]
    step: Callable[[AttemptOutcome], Step]


TABLE: Final[Sequence[Row]] = (
    Row(
        "stream_cut",
        "bytes of the answer went to the client",
        lambda outcome: outcome.stage is Stage.STREAM,
        lambda _: Step(Action.END, code="upstream_cut", may_be_billed=True),
    ),
    Row(
        "not_sent",
        "nothing was sent",
        lambda outcome: outcome.stage is Stage.CONNECT,
        lambda _: Step(Action.NEXT),
    ),
    Row(
        "outcome_unknown",
        "sent, then silence, EOF or a deadline",
        lambda outcome: outcome.stage is Stage.SENT,
        lambda _: _replaced("outcome_unknown"),
    ),
    Row(
        "delivered",
        "the expected answer",
        lambda outcome: 200 <= outcome.answered < 300 and outcome.usable,
        lambda _: Step(Action.DELIVER),
    ),
    Row(
        "request",
        "a known error: the request's fault",
        lambda outcome: outcome.is_about(Fault.REQUEST),
        _returned,
    ),
    Row(
        "credential_refused",
        "401, credential not read again yet",
        lambda outcome: outcome.answered == 401 and not outcome.reread,
        lambda _: Step(Action.REREAD),
    ),
    Row(
        "account",
        "a known error: the account's",
        lambda outcome: outcome.is_about(Fault.ACCOUNT),
        _account_refused,
    ),
    Row(
        "model",
        "a known error: the model's on this account",
        lambda outcome: outcome.is_about(Fault.MODEL),
        lambda _: Step(Action.NEXT, cooldown=CooldownSpec(REFUSED_SECONDS, Scope.MODEL)),
    ),
    Row(
        "endpoint",
        "a known error: the endpoint's on this account",
        lambda outcome: outcome.is_about(Fault.ENDPOINT),
        lambda _: Step(Action.NEXT, cooldown=CooldownSpec(REFUSED_SECONDS, Scope.ENDPOINT)),
    ),
    Row(
        "form",
        "a known error: the form's in which the gateway sent the call",
        lambda outcome: outcome.is_about(Fault.FORM),
        lambda _: Step(Action.NEXT),
    ),
    Row(
        "refused",
        "401, 402, 403",
        lambda outcome: outcome.answered in {401, 402, 403},
        _refused,
    ),
    Row(
        LIMITED,
        "429",
        lambda outcome: outcome.answered == 429,
        lambda outcome: Step(Action.NEXT, cooldown=CooldownSpec(outcome.wait)),
    ),
    Row(
        "overloaded",
        "503, 529 that report an overload at once",
        _is_overload,
        lambda _: Step(Action.NEXT),
    ),
    Row(
        "intermediary",
        "502, 504, 520, 522, 524 of an upstream that bills nothing for them",
        lambda outcome: outcome.answered in _INTERMEDIARY_STATUSES and _fails_free(outcome),
        lambda _: Step(Action.NEXT, may_be_billed=True),
    ),
    Row(
        "late_overload",
        "503, 529 that come late, unless the account's operator knows that they bill nothing",
        lambda outcome: _is_late_overload(outcome) and not outcome.fails_free,
        lambda _: Step(Action.RETURN, retry=False, may_be_billed=True),
    ),
    Row(
        "fails_free",
        "any other 5xx of an upstream that bills nothing for it",
        _fails_free,
        lambda _: Step(Action.NEXT),
    ),
    Row(
        "other_4xx",
        "other 4xx but 408, 409",
        lambda outcome: 400 <= outcome.answered < 500 and outcome.answered not in {408, 409},
        lambda _: Step(Action.RETURN),
    ),
    Row(
        "redirect",
        "a redirect",
        lambda outcome: 300 <= outcome.answered < 400,
        lambda _: _replaced("upstream_redirect"),
    ),
    Row(
        "no_picture",
        "a success that ended without a picture, of an upstream that bills nothing for it",
        lambda outcome: outcome.ended_empty and not DIALECTS[outcome.dialect].bills_pictures,
        lambda _: Step(Action.NEXT),
    ),
    Row(
        "invalid",
        "a 2xx of another kind, or a status that ends no exchange",
        lambda outcome: outcome.answered < 300,
        lambda _: _replaced("upstream_invalid"),
    ),
    Row(
        "stream_timeout",
        "a stream without partial pictures that was cut because it was silent",
        is_cut_stream,
        lambda _: Step(Action.RETURN, retry=False, may_be_billed=True, reason="stream_timeout"),
    ),
    Row(
        "unknown",
        "anything else: a picture may exist",
        lambda _: True,
        lambda _: Step(Action.RETURN, retry=False, may_be_billed=True),
    ),
)


def next_step(outcome: AttemptOutcome) -> Step:
    """The step of the first row that fits."""
    row = next(row for row in TABLE if row.fits(outcome))
    step = row.step(outcome)
    if step.action not in {Action.NEXT, Action.REREAD}:
        return step
    known = outcome.known
    is_known = known is not None and known.fault == row.name
    return replace(step, reason=known.name if known is not None and is_known else row.name)


class Health(StrEnum):
    """What an outcome says about the account, for outlier detection."""

    WORKS = "works"
    FAILS = "fails"
    UNKNOWN = "unknown"


_SAYS_NOTHING: Final = frozenset({401, 402, 403, 407, 408, 409, 429})
"""About the account's rights and limits, which have cooldowns, or about nothing for certain."""


def health(outcome: AttemptOutcome) -> Health:
    """Whether an upstream works: it fails if a failure is its own and not that of the call."""
    if outcome.usable:
        return Health.WORKS
    if outcome.stage in {Stage.CONNECT, Stage.SENT}:
        return Health.FAILS
    if outcome.stage is Stage.STREAM or outcome.ended_empty:
        # A prompt alone may cause an error, or an answer without a picture.
        return Health.UNKNOWN if outcome.has_error or outcome.ended_empty else Health.FAILS
    status = outcome.answered
    if outcome.known is not None and outcome.known.fault is not Fault.OVERLOAD:
        return Health.WORKS if outcome.known.fault is Fault.REQUEST else Health.UNKNOWN
    if status < 400 or 500 <= status < 600:
        return Health.FAILS
    return Health.UNKNOWN if status in _SAYS_NOTHING else Health.WORKS


_WEIGHT: Final = (
    Action.DELIVER,
    Action.END,
    Action.RETURN,
    Action.REPLACE,
    Action.REREAD,
    Action.NEXT,
)


def weightiest(steps: Sequence[Step]) -> int:
    """The index of the step that decides, of several calls made for one request.

    One picture is a success; next comes what the client has already received, then an error that
    any account would give, then a picture that may exist.  Another account is asked only if every
    call allows it.
    """
    return min(
        range(len(steps)),
        key=lambda index: (_WEIGHT.index(steps[index].action), not steps[index].may_be_billed),
    )


_REPLACED: Final[Mapping[str, str]] = {
    "outcome_unknown": "The call was sent upstream and no answer came. A picture may have been "
    "made and billed, so the gateway did not send the call again. To buy another picture, send it "
    "with a new `Idempotency-Key`.",
    "upstream_redirect": "The upstream answered with a redirect, which the gateway does not "
    "follow. Ask the operator of this gateway to check the account's base URL.",
    "upstream_invalid": "The upstream's answer has the wrong type or holds no picture. A picture "
    "may have been made and billed, so the gateway did not send the call again.",
    "upstream_cut": "The upstream's answer broke off. A picture may have been made and billed, so "
    "the gateway did not send the call again.",
}


LONGEST_WORDS: Final = 300
"""Characters of an upstream's words in an error of the gateway."""


def replacement(code: str, words: str | None = None) -> Refusal:
    """The gateway's own error in place of an upstream's answer (``Action.REPLACE``).

    ``words`` are the answer's own, without secrets.
    """
    message = _REPLACED[code]
    if words is not None:
        message += f" The upstream's words: {words[:LONGEST_WORDS]!r}."
    return Refusal(code, message)
