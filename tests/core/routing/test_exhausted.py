"""When no account is left: the upstream's answer that helps the client, or an error of our own."""

import itertools
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.dialects import DIALECTS, faults
from image_gateway.core.errors import Refusal, UpstreamError
from image_gateway.core.routing import exhausted, ranking
from image_gateway.core.routing.failover import AttemptOutcome, Stage
from tests.core.builders import parse

REQUEST: Final = parse({})
SAID: Final = UpstreamError("because")
NO_MODEL: Final = UpstreamError("no such model", code="model_not_found")
SPENT: Final = UpstreamError("m", code="billing_hard_limit_reached")
FORM: Final = UpstreamError("m", code="unsupported_content_type")
BLOCKED: Final = UpstreamError("Your resource has been temporarily blocked")


def _answer(status: int, error: UpstreamError = SAID, **changes: Any) -> AttemptOutcome:
    known = faults.find(DIALECTS["azure"].known_errors, status, error, REQUEST)
    return AttemptOutcome(Stage.ANSWER, "azure", status, error=error, known=known, **changes)


UNREACHED: Final = AttemptOutcome(Stage.CONNECT, "azure")


def _decide(
    *outcomes: AttemptOutcome, last: Refusal | None = None, seconds: float | None = 60.0
) -> int | str:
    """The index of the answer to pass on, or the refusal's code."""
    decided = exhausted.decide(outcomes, last, seconds)
    if decided.refusal is not None:
        return decided.refusal.code
    assert decided.index is not None
    return decided.index


def _refusal(*outcomes: AttemptOutcome, seconds: float | None = 60.0) -> Refusal:
    decided = exhausted.decide(outcomes, None, seconds)
    assert decided.refusal is not None
    return decided.refusal


def test_a_limit_of_every_account_is_an_answer_about_all_of_them() -> None:
    """The same that the next call gets, which finds them cooling down."""
    refusal = _refusal(_answer(429), _answer(429, wait=602705.0), seconds=900.0)
    assert (refusal.code, refusal.retry_after) == ("rate_limit_exceeded", 900.0)
    assert refusal.message == ranking.all_limited(900.0, None).message
    named = UpstreamError("m", code="usage_limit_reached")
    assert _decide(_answer(429, named)) == "usage_limit_reached"
    assert "because" not in refusal.message


@pytest.mark.parametrize(
    "other", [_answer(500), _answer(404, NO_MODEL), _answer(403), UNREACHED, _answer(400, FORM)]
)
def test_one_account_that_only_reached_its_limit_is_worth_a_retry(other: AttemptOutcome) -> None:
    assert _decide(other, _answer(429)) == _decide(_answer(429), other) == "rate_limit_exceeded"


def test_a_missing_model_tells_more_than_a_failure() -> None:
    order = [_answer(404, NO_MODEL), _answer(503), _answer(500, UpstreamError())]
    for count in range(1, 4):
        for chosen in itertools.permutations(order, count):
            best = min(chosen, key=order.index)
            assert _decide(*chosen) == chosen.index(best)


def test_of_equals_the_first_is_passed_on() -> None:
    silent = UpstreamError()
    assert _decide(_answer(500), _answer(502)) == 0
    assert _decide(_answer(500, silent), _answer(502), _answer(503)) == 1
    assert _decide(_answer(403), _answer(500)) == 1


@pytest.mark.parametrize("code", ["account_concurrency", "key_start_interval"])
def test_an_account_that_is_only_busy_is_worth_a_retry(code: str) -> None:
    busy = Refusal(code, "busy")
    assert _decide(_answer(403), last=busy) == code
    assert _decide(UNREACHED, last=busy) == code
    assert _decide(_answer(500), last=busy) == 0
    assert _decide(_answer(403), last=ranking.none_available(None)) == "account_refused"


def test_an_upstream_that_could_not_be_reached_is_worth_a_retry() -> None:
    assert _decide(UNREACHED) == "upstream_unreachable"
    assert _decide(_answer(403), UNREACHED) == "upstream_unreachable"
    assert _decide(UNREACHED, _answer(500)) == 1


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (_answer(400, SPENT), "(status 400): the account's money or quota is used up."),
        (_answer(403, BLOCKED), "(status 403): the Azure resource is temporarily blocked."),
        (_answer(400, NO_MODEL), "(status 400): the account does not serve this model."),
        (_answer(403), "(status 403), with the words: 'because'."),
        (_answer(402, UpstreamError()), "(status 402)."),
        (_answer(403, UpstreamError(), challenge=True), "(status 403): it sent a challenge page"),
    ],
)
def test_a_refused_account_is_the_operator_s_to_repair(outcome: AttemptOutcome, words: str) -> None:
    refusal = _refusal(outcome, _answer(400, FORM))
    assert (refusal.code, refusal.spec.status) == ("account_refused", 503)
    assert words in refusal.message
    assert "Nothing was made. Ask the operator" in refusal.message
    assert refusal.retry_after


def test_an_upstream_s_words_are_bounded() -> None:
    assert len(_refusal(_answer(403, UpstreamError("why " * 10_000))).message) < 600


def test_a_form_that_no_account_takes_is_not_the_client_s_fault() -> None:
    refusal = _refusal(_answer(400, FORM), _answer(400, FORM))
    assert (refusal.code, refusal.spec.status) == ("upstream_refused", 502)
    assert "does not take the form" in refusal.message
    assert refusal.headers() == {"x-should-retry": "false"}
    assert _decide(_answer(400, FORM), _answer(403)) == "account_refused"


def test_words_in_place_of_a_picture_are_told_if_no_account_draws() -> None:
    empty = AttemptOutcome(Stage.ANSWER, "codex", 200, error=SAID, ended_empty=True)
    for others in ((), (_answer(403),), (UNREACHED,), (_answer(401),)):
        refusal = _refusal(*others, empty)
        assert (refusal.code, refusal.spec.status) == ("upstream_invalid", 502)
        assert "'because'" in refusal.message
    assert _decide(empty, last=ranking.all_busy(5.0)) == "upstream_invalid"
    assert _decide(empty, _answer(429)) == "rate_limit_exceeded"
    assert "words" not in _refusal(replace(empty, error=UpstreamError())).message


def test_refused_credentials_are_never_told_to_the_client() -> None:
    """It would take them for its own."""
    assert _decide(_answer(401)) == "account_credentials"
    assert _decide(_answer(403), _answer(401)) == "account_credentials"
    assert _decide(_answer(403, UpstreamError("m", code="invalid_api_key"))) == (
        "account_credentials"
    )
    assert _decide(_answer(401), _answer(403, BLOCKED)) == "account_refused"
    assert "because" not in _refusal(_answer(401)).message
    last = ranking.none_available(5.0)
    assert _decide(_answer(401), last=last) == "no_account_available"


_OUTCOMES: Final = [
    UNREACHED,
    *(_answer(status) for status in (401, 402, 403, 429, 500, 502, 503, 529)),
    _answer(404, NO_MODEL),
    _answer(403, NO_MODEL),
    _answer(400, SPENT),
    _answer(400, FORM),
]


@given(st.lists(st.sampled_from(_OUTCOMES)))
def test_what_is_passed_on_is_always_fit_for_a_client(outcomes: list[AttemptOutcome]) -> None:
    decided = _decide(*outcomes)
    if isinstance(decided, int):
        status = outcomes[decided].status or 0
        assert status == 404 or status >= 500
