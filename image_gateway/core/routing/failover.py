"""What follows from an attempt: one table, read top to bottom.

The rule behind every row is certainty.  Another account may be asked only while no picture can
exist: nothing was sent, or the answer says that nothing was made.  Where that is not certain, the
client gets the answer there is, with ``x-should-retry: false``, because the official SDKs would
otherwise buy the picture again, twice.

``next_step`` is total over every stage and every status; the last row matches everything.
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
    API's JSON.  ``wait`` is the number of seconds that the answer asks to wait.  ``reread``: the
    account's credential was already read again during this request.  ``reason`` is one word for the
    log that says how the answer broke off.
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
    def has_error(self) -> bool:
        """Whether the upstream itself reported an error."""
        return self.error != UpstreamError()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: ``code`` is the gateway's error for ``REPLACE``; ``retry`` False becomes
    ``x-should-retry: false``; ``may_be_billed``: a picture may exist.
    """

    action: Action
    cooldown: CooldownSpec | None = None
    code: str | None = None
    retry: bool = True
    may_be_billed: bool = False


CHALLENGE_SECONDS: Final = 20.0
"""A challenge page is about the gateway's IP address, not about the account, and is temporary."""
REFUSED_SECONDS: Final = 300.0
"""401, 402, 403: an operator must repair the account; minutes, never hours."""
MISSING_MODEL_SECONDS: Final = 300.0
"""A deployment does not exist; a typo must not disable the account's other models."""

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
    """Return the answer unchanged, and forbid a retry where the SDKs would make one."""
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
        lambda outcome: outcome.stage is Stage.STREAM,
        lambda _: Step(Action.END, code="upstream_cut", may_be_billed=True),
    ),
    (
        "nothing was sent",
        lambda outcome: outcome.stage is Stage.CONNECT,
        lambda _: Step(Action.NEXT),
    ),
    (
        "sent, then silence, EOF or a deadline",
        lambda outcome: outcome.stage is Stage.SENT,
        lambda _: _replaced("outcome_unknown"),
    ),
    (
        "the expected answer",
        lambda outcome: 200 <= _status(outcome) < 300 and outcome.usable,
        lambda _: Step(Action.DELIVER),
    ),
    (
        "the client's own fault, at any status",
        lambda outcome: _status(outcome) >= 400 and bool(_codes(outcome) & errors.CLIENT_FAULTS),
        _returned,
    ),
    (
        "401, credential not read again yet",
        lambda outcome: _status(outcome) == 401 and not outcome.reread,
        lambda _: Step(Action.REREAD),
    ),
    (
        "401, 402, 403",
        lambda outcome: _status(outcome) in {401, 402, 403},
        _refused,
    ),
    (
        "404 for the model or deployment",
        _lacks_model,
        lambda _: Step(Action.NEXT, cooldown=CooldownSpec(MISSING_MODEL_SECONDS, model_only=True)),
    ),
    (
        "429",
        lambda outcome: _status(outcome) == 429,
        lambda outcome: Step(Action.NEXT, cooldown=CooldownSpec(outcome.wait)),
    ),
    (
        "503, 529 that report an overload",
        _is_overload,
        lambda _: Step(Action.NEXT),
    ),
    (
        "any other 5xx of an upstream that bills no single pictures",
        lambda outcome: (
            500 <= _status(outcome) < 600 and not DIALECTS[outcome.dialect].bills_pictures
        ),
        lambda _: Step(Action.NEXT),
    ),
    (
        "other 4xx but 408, 409",
        lambda outcome: 400 <= _status(outcome) < 500 and _status(outcome) not in {408, 409},
        lambda _: Step(Action.RETURN),
    ),
    (
        "a redirect",
        lambda outcome: 300 <= _status(outcome) < 400,
        lambda _: _replaced("upstream_redirect"),
    ),
    (
        "a 2xx of another kind, or a status that ends no exchange",
        lambda outcome: _status(outcome) < 300,
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
    """The index of the step that decides, of several calls made for one request.

    One picture is a success; next comes what the client has already received, then an error that
    any account would give, then a picture that may exist.  Another account is asked only if every
    call allows it.
    """
    return min(range(len(steps)), key=lambda index: _WEIGHT.index(steps[index].action))


_MOST_INFORMATIVE_FIRST: Final[Sequence[Callable[[AttemptOutcome], bool]]] = (
    lambda outcome: _status(outcome) == 429,
    lambda outcome: _status(outcome) == 404,
    lambda outcome: _status(outcome) >= 500 and outcome.error.message is not None,
    lambda outcome: _status(outcome) >= 500,
)


def most_informative(outcomes: Sequence[AttemptOutcome]) -> int | None:
    """When every account failed: the index of the most informative answer for the client.

    None when no answer suits a client: 401, 402 and 403 are about the gateway's credentials, and
    the client would think they are about its own.  The first of equals.
    """
    for matches in _MOST_INFORMATIVE_FIRST:
        for index, outcome in enumerate(outcomes):
            if matches(outcome):
                return index
    return None


_REPLACED: Final[Mapping[str, str]] = {
    "outcome_unknown": "The call was sent upstream and no answer came. A picture may have been "
    "made and billed, so the gateway did not send the call again.",
    "upstream_redirect": "The upstream answered with a redirect, which the gateway does not "
    "follow. Ask the operator of this gateway to check the account's base URL.",
    "upstream_invalid": "The upstream's answer has the wrong type or holds no picture. A picture "
    "may have been made and billed, so the gateway did not send the call again.",
    "upstream_cut": "The upstream's answer broke off. A picture may have been made and billed, so "
    "the gateway did not send the call again.",
}


def replacement(code: str) -> Refusal:
    """The gateway's own error in place of an upstream's answer (``Action.REPLACE``)."""
    return Refusal(code, _REPLACED[code])
