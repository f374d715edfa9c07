"""What the client gets when no account is left to ask.

An upstream's own answer is passed on where it tells the client something about its call.  What an
upstream says about an account is the operator's business: the gateway's own error says what was
refused, and never names an account or its plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from image_gateway.core import errors
from image_gateway.core.dialects.faults import Fault
from image_gateway.core.errors import Refusal
from image_gateway.core.routing import ranking
from image_gateway.core.routing.failover import LONGEST_WORDS, AttemptOutcome, Stage

_REPAIR_SECONDS: Final = 30.0
"""An operator has to act; a client that waits should not ask often."""
_UNREACHABLE_SECONDS: Final = 5.0
_BUSY: Final = frozenset({"account_concurrency", "key_start_interval"})
"""The refusals of a call for which an account exists: it may succeed later."""


_MOST_INFORMATIVE_FIRST: Final[Sequence[Callable[[AttemptOutcome], bool]]] = (
    lambda outcome: outcome.answered == 404 and outcome.is_about(Fault.MODEL, Fault.ENDPOINT),
    lambda outcome: outcome.answered >= 500 and outcome.error.message is not None,
    lambda outcome: outcome.answered >= 500,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """``index``: the attempt that the record names as the answering one; ``refusal``: what the
    client gets in place of its answer.
    """

    index: int | None
    refusal: Refusal | None = None


def decide(
    outcomes: Sequence[AttemptOutcome],
    last_refusal: Refusal | None,
    pool_seconds: float | None,
) -> Decision:
    """What the client gets: an upstream's answer, or the gateway's own refusal.

    ``last_refusal`` ended the search for a further account.  ``pool_seconds``: the time until an
    account that cools down may be asked again; None if none cools down.
    """
    for index, outcome in enumerate(outcomes):
        if _is_limited(outcome):
            code = errors.shown_code(outcome.error)
            return Decision(index, ranking.all_limited(pool_seconds, code))
    for matches in _MOST_INFORMATIVE_FIRST:
        for index, outcome in enumerate(outcomes):
            if matches(outcome):
                return Decision(index)
    for index, outcome in enumerate(outcomes):
        if outcome.ended_empty:
            return Decision(index, _no_picture(outcome.error.message))
    return Decision(None, _refusal(outcomes, last_refusal))


def _no_picture(words: str | None) -> Refusal:
    because = "" if words is None else f", with the words: {words[:LONGEST_WORDS]!r}"
    return Refusal(
        "upstream_invalid",
        f"The upstream answered without a picture{because}. Change the prompt, or call again.",
    )


def _refusal(
    outcomes: Sequence[AttemptOutcome],
    last_refusal: Refusal | None,
) -> Refusal:
    if last_refusal is not None and last_refusal.code in _BUSY:
        return last_refusal
    if any(outcome.stage is Stage.CONNECT for outcome in outcomes):
        return Refusal(
            "upstream_unreachable",
            "No upstream could be reached; nothing was sent. Try again.",
            retry_after=_UNREACHABLE_SECONDS,
        )
    return _refused(outcomes) or last_refusal or ranking.no_credentials()


def _refused(outcomes: Sequence[AttemptOutcome]) -> Refusal | None:
    """The refusal for accounts that were refused; None if only their credentials were.

    What is known to be wrong with an account tells most; refused credentials are the operator's
    business, and come before words that nobody knows.
    """
    for outcome in outcomes:
        if outcome.is_about(Fault.ACCOUNT, Fault.MODEL, Fault.ENDPOINT):
            return _account_refused(outcome)
    if any(_is_credential_refused(outcome) for outcome in outcomes):
        return None
    for outcome in outcomes:
        if not outcome.is_about(Fault.FORM):
            return _account_refused(outcome)
    return _form_refused(outcomes[0]) if outcomes else None


def _is_credential_refused(outcome: AttemptOutcome) -> bool:
    by_code = bool(errors.codes(outcome.error) & errors.CREDENTIAL_FAULTS)
    return outcome.answered == 401 or (outcome.answered == 403 and by_code)


def _is_limited(outcome: AttemptOutcome) -> bool:
    return outcome.answered == 429 and not outcome.is_about(Fault.ACCOUNT, Fault.MODEL)


def _account_refused(outcome: AttemptOutcome) -> Refusal:
    return Refusal(
        "account_refused",
        f"The upstream refused every account that could serve this call{_because(outcome)} "
        "Nothing was made. Ask the operator of this gateway to repair its accounts.",
        retry_after=_REPAIR_SECONDS,
    )


def _form_refused(outcome: AttemptOutcome) -> Refusal:
    return Refusal(
        "upstream_refused",
        "The upstream refused the form in which the gateway sent this call"
        f"{_because(outcome)} Nothing was made, and the request itself is not at fault. "
        "Tell the operator of this gateway.",
    )


def _because(outcome: AttemptOutcome) -> str:
    """The end of a sentence: what a known error means, or the words of another one."""
    status = outcome.answered
    if outcome.known is not None:
        return f" (status {status}): {outcome.known.meaning}."
    if outcome.challenge:
        return f" (status {status}): it sent a challenge page, as for a browser."
    words = outcome.error.message
    if words is None:
        return f" (status {status})."
    return f" (status {status}), with the words: {words[:LONGEST_WORDS]!r}."
