"""What follows when an attempt did not simply succeed: one table, read top to bottom.

The rule behind every row is certainty.  Another account may be asked only while no picture can
exist: nothing was sent, or the answer says that nothing was made.  Where that is not certain the
client gets what there is, with ``x-should-retry: false``, because the official SDKs would otherwise
buy the picture again, twice.

``next_step`` is total over every stage and every status; the last row takes what no other took.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from image_gateway.core import errors
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.errors import Refusal, UpstreamError
from image_gateway.core.routing.cooldowns import CooldownSpec


class Stage(StrEnum):
    """How far an attempt came when its outcome was known."""

    CONNECT = "connect"
    """The connection never stood: DNS, TCP, TLS, proxy.  Nothing was sent."""
    SENT = "sent"
    """The connection stood and no answer came: silence, EOF or a deadline."""
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
    """The same account once more, which is a pool itself; never said by the table."""
    REREAD = "reread"
    REPLACE = "replace"
    END = "end"


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """What happened to one attempt.

    ``usable``: a 2xx whose body is of the asked-for kind.  ``challenge``: an HTML page where an
    API answers JSON.  ``wait`` is the seconds the answer names.  ``reread``: the account's
    credential was read again during this request already.  ``reason`` is one word for the log on
    what broke off.
    """

    stage: Stage
    dialect: str
    status: int | None = None
    error: UpstreamError = field(default_factory=UpstreamError)
    wait: float | None = None
    usable: bool = False
    challenge: bool = False
    reread: bool = False
    reason: str | None = None

    @property
    def told(self) -> bool:
        """Whether the upstream itself said what went wrong."""
        return self.error != UpstreamError()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: ``code`` is the error of ours for ``REPLACE``; ``retry`` False becomes
    ``x-should-retry: false``; ``may_be_billed`` says that a picture may exist.
    """

    action: Action
    cooldown: CooldownSpec | None = None
    code: str | None = None
    retry: bool = True
    may_be_billed: bool = False


CHALLENGE_SECONDS: Final = 20.0
"""A challenge page is about our address, not about the account, and passes."""
REFUSED_SECONDS: Final = 300.0
"""401, 402, 403: somebody must mend the account; minutes, never hours."""
MISSING_MODEL_SECONDS: Final = 300.0
"""A deployment that is not there; a typo must not cost the account its other models."""

_SDK_RETRIES: Final = frozenset({408, 409, 429})


def _codes(outcome: AttemptOutcome) -> set[str]:
    return errors.codes(outcome.error)


def _status(outcome: AttemptOutcome) -> int:
    return outcome.status if outcome.stage is Stage.ANSWER and outcome.status is not None else 0


def _lacks_model(outcome: AttemptOutcome) -> bool:
    codes = _codes(outcome)
    return _status(outcome) == 404 and bool(
        codes & errors.MISSING_MODEL
        or outcome.error.param == "model"
        or codes & DIALECTS[outcome.dialect].missing_model_codes
    )


def _is_overload(outcome: AttemptOutcome) -> bool:
    return _status(outcome) in {503, 529} and (outcome.wait is not None or outcome.error.shaped)


def _returned(outcome: AttemptOutcome) -> Step:
    """As it is, and without a retry where the SDKs would make one."""
    status = _status(outcome)
    return Step(Action.RETURN, retry=not (status in _SDK_RETRIES or status >= 500))


def _replaced(code: str) -> Step:
    return Step(Action.REPLACE, code=code, retry=False, may_be_billed=True)


def _refused(outcome: AttemptOutcome) -> Step:
    seconds = CHALLENGE_SECONDS if outcome.challenge else REFUSED_SECONDS
    return Step(Action.NEXT, cooldown=CooldownSpec(seconds))


_Rule = tuple[str, Callable[[AttemptOutcome], bool], Callable[[AttemptOutcome], Step]]

TABLE: Final[Sequence[_Rule]] = (
    (
        "bytes of the answer went to the client",
        lambda it: it.stage is Stage.STREAM,
        lambda _: Step(Action.END, code="upstream_cut", may_be_billed=True),
    ),
    (
        "nothing was sent",
        lambda it: it.stage is Stage.CONNECT,
        lambda _: Step(Action.NEXT),
    ),
    (
        "sent, then silence, EOF or a deadline",
        lambda it: it.stage is Stage.SENT,
        lambda _: _replaced("outcome_unknown"),
    ),
    (
        "the answer that was asked for",
        lambda it: 200 <= _status(it) < 300 and it.usable,
        lambda _: Step(Action.DELIVER),
    ),
    (
        "the client's own fault, at any status",
        lambda it: _status(it) >= 400 and bool(_codes(it) & errors.CLIENT_FAULTS),
        _returned,
    ),
    (
        "401, credential not read again yet",
        lambda it: _status(it) == 401 and not it.reread,
        lambda _: Step(Action.REREAD),
    ),
    (
        "401, 402, 403",
        lambda it: _status(it) in {401, 402, 403},
        _refused,
    ),
    (
        "404 for the model or deployment",
        _lacks_model,
        lambda _: Step(Action.NEXT, cooldown=CooldownSpec(MISSING_MODEL_SECONDS, model_only=True)),
    ),
    (
        "429",
        lambda it: _status(it) == 429,
        lambda it: Step(Action.NEXT, cooldown=CooldownSpec(it.wait)),
    ),
    (
        "503, 529 that say so themselves",
        _is_overload,
        lambda _: Step(Action.NEXT),
    ),
    (
        "any other 5xx of an upstream that bills no single pictures",
        lambda it: 500 <= _status(it) < 600 and not DIALECTS[it.dialect].bills_pictures,
        lambda _: Step(Action.NEXT),
    ),
    (
        "other 4xx but 408, 409",
        lambda it: 400 <= _status(it) < 500 and _status(it) not in {408, 409},
        lambda _: Step(Action.RETURN),
    ),
    (
        "a redirect",
        lambda it: 300 <= _status(it) < 400,
        lambda _: _replaced("upstream_redirect"),
    ),
    (
        "a 2xx of another kind, or a status that ends no exchange",
        lambda it: _status(it) < 300,
        lambda _: _replaced("upstream_invalid"),
    ),
    (
        "anything else: a picture may exist",
        lambda _: True,
        lambda _: Step(Action.RETURN, retry=False, may_be_billed=True),
    ),
)


def next_step(outcome: AttemptOutcome) -> Step:
    """The first row that fits."""
    return next(step(outcome) for _, fits, step in TABLE if fits(outcome))


_WEIGHT: Final = (
    Action.DELIVER,
    Action.END,
    Action.RETURN,
    Action.REPLACE,
    Action.REREAD,
    Action.NEXT,
)


def weightiest(steps: Sequence[Step]) -> int:
    """Which of several calls that were made for one request decides what follows: its index.

    One picture is a success; next comes what the client has seen, then what is certain to hold for
    any account, then what may have been made.  Another account is asked only if nothing speaks
    against it in any of them.
    """
    return min(range(len(steps)), key=lambda index: _WEIGHT.index(steps[index].action))


_TELLING: Final[Sequence[Callable[[AttemptOutcome], bool]]] = (
    lambda it: _status(it) == 429,
    lambda it: _status(it) == 404,
    lambda it: _status(it) >= 500 and it.error.message is not None,
    lambda it: _status(it) >= 500,
)


def most_telling(outcomes: Sequence[AttemptOutcome]) -> int | None:
    """When every account failed: the index of the answer that tells the client most.

    None when no answer is fit for a client: 401, 402 and 403 are about our credentials, and the
    client would take them for its own.  Of equals the first.
    """
    for tells in _TELLING:
        for index, outcome in enumerate(outcomes):
            if tells(outcome):
                return index
    return None


_REPLACED: Final[Mapping[str, str]] = {
    "outcome_unknown": "The call was sent upstream and no answer came. A picture may have been "
    "made and billed, so it was not sent again.",
    "upstream_redirect": "The upstream answered with a redirect, which is not followed.",
    "upstream_invalid": "The upstream's answer is not what was asked for, or holds no picture. "
    "One may have been made and billed, so the call was not sent again.",
    "upstream_cut": "The upstream's answer broke off. A picture may have been made and billed, so "
    "the call was not sent again.",
}


def replacement(code: str) -> Refusal:
    """The answer of ours that goes out in place of an upstream's (``Action.REPLACE``)."""
    return Refusal(code, _REPLACED[code])
