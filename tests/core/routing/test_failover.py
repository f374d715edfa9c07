"""The failover table: total, row by row, and never a second call once a picture may exist."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.dialects import DIALECTS as RECORDS
from image_gateway.core.dialects import faults
from image_gateway.core.dialects.faults import Fault, KnownError
from image_gateway.core.errors import ERROR_SPECS, UpstreamError
from image_gateway.core.routing import failover
from image_gateway.core.routing.cooldowns import LONGEST_SECONDS, CooldownSpec, Scope
from image_gateway.core.routing.failover import Action, AttemptOutcome, Stage, Step, next_step
from tests.core.builders import parse

DIALECTS: Final = ("codex", "azure", "openai")
STATUSES: Final[tuple[int | None, ...]] = (None, *range(701))

CLIENT_FAULTS: Final = (
    UpstreamError("m", "image_generation_user_error", None, "moderation_blocked", shaped=True),
    UpstreamError("m", "image_generation_user_error", shaped=True),
    UpstreamError("m", None, None, "moderation_blocked"),
    UpstreamError("m", "invalid_request_error", None, "content_policy_violation", shaped=True),
    UpstreamError(code="contentFilter"),
    UpstreamError("m", None, None, "content_filter"),
    UpstreamError("m", "invalid_request_error", "size", "invalid_value", shaped=True),
    UpstreamError("m", "invalid_request_error", "size", "unknown_parameter", shaped=True),
    UpstreamError("m", "invalid_request_error", "size", "invalid_parameter", shaped=True),
    UpstreamError("m", None, None, "Moderation_Blocked"),
)
MODEL_FAULTS: Final = (
    UpstreamError("m", None, None, "model_not_found"),
    UpstreamError("m", "invalid_request_error", "model", "model_not_found", shaped=True),
    UpstreamError("m", None, None, "DeploymentNotFound"),
    UpstreamError("m", None, "model", None),
)
ACCOUNT_FAULTS: Final = (
    UpstreamError("m", "invalid_request_error", None, "billing_hard_limit_reached", shaped=True),
    UpstreamError("Your account has been deactivated.", shaped=True),
)
FORM_FAULTS: Final = (
    UpstreamError("m", "invalid_request_error", "instructions", "invalid_value", shaped=True),
    UpstreamError("m", None, None, "unsupported_content_type"),
)
OTHER_ERRORS: Final = (
    UpstreamError(),
    UpstreamError("m"),
    UpstreamError("m", "server_error", None, None, shaped=True),
    UpstreamError("m", "invalid_request_error", None, None, shaped=True),
    UpstreamError("m", "usage_limit_reached", resets_in_seconds=60.0),
    UpstreamError("m", None, None, "rate_limit_exceeded"),
)
ERRORS: Final = (*CLIENT_FAULTS, *MODEL_FAULTS, *ACCOUNT_FAULTS, *FORM_FAULTS, *OTHER_ERRORS)
WAITS: Final = (None, 30.0)
LATE: Final = failover.OVERLOAD_SECONDS + 1
INTERMEDIARY: Final = frozenset({502, 504, 520, 522, 524})
_FLAGS: Final = (False, True)

REQUEST: Final = parse({"size": "1024x1024", "quality": "high"})


@functools.cache
def _known(dialect: str, status: int | None, error: UpstreamError) -> KnownError | None:
    return faults.find(RECORDS[dialect].known_errors, status, error, REQUEST)


def _answer(status: int | None, dialect: str = "codex", **changes: Any) -> AttemptOutcome:
    outcome = AttemptOutcome(Stage.ANSWER, dialect, status, **changes)
    return replace(outcome, known=_known(dialect, status, outcome.error))


def _everything() -> Iterator[AttemptOutcome]:
    """Every stage, dialect and status from 0 to 700; where it matters every other fact too."""
    for dialect, status, error in itertools.product(DIALECTS, STATUSES, ERRORS):
        yield _answer(status, dialect, error=error)
        for stage in set(Stage) - {Stage.ANSWER}:
            yield AttemptOutcome(stage, dialect, status, error=error)
    telling = (None, 0, 100, 199, 200, 201, 204, 299, 300, 302, 307, 399, 400, 401, 402, 403, 404)
    more = (405, 408, 409, 413, 415, 422, 429, 499, 500, 502, 503, 504, 520, 529, 599, 600, 700)
    for dialect, status, error, wait, usable, challenge, reread, seconds, free in itertools.product(
        DIALECTS,
        (*telling, *more),
        ERRORS,
        WAITS,
        _FLAGS,
        _FLAGS,
        _FLAGS,
        (0.0, LATE),
        (None, *_FLAGS),
    ):
        yield _answer(
            status,
            dialect,
            error=error,
            wait=wait,
            usable=usable,
            challenge=challenge,
            reread=reread,
            seconds=seconds,
            fails_free=free,
        )


Walk = Mapping[Step, Sequence[AttemptOutcome]]


@pytest.fixture(scope="module")
def walk() -> Walk:
    """The whole table, walked once: each step that it gives, and all outcomes that lead there."""
    walked: dict[Step, list[AttemptOutcome]] = {}
    for outcome in _everything():
        walked.setdefault(next_step(outcome), []).append(outcome)
    return walked


def _with_steps(walk: Walk, *actions: Action) -> Iterator[tuple[AttemptOutcome, Step]]:
    """The outcomes whose step is one of these."""
    for step, outcomes in walk.items():
        if step.action in actions:
            yield from ((outcome, step) for outcome in outcomes)


def _fault(outcome: AttemptOutcome) -> Fault | None:
    return None if outcome.known is None else outcome.known.fault


def _promised(outcome: AttemptOutcome) -> Action:  # noqa: PLR0911 - by hand
    """What the design says, written as plainly as it is there."""
    if outcome.stage is Stage.STREAM:
        return Action.END
    if outcome.stage is Stage.CONNECT:
        return Action.NEXT
    if outcome.stage is Stage.SENT:
        return Action.REPLACE
    status = outcome.status or 0
    if status < 400:
        good = 200 <= status <= 299 and outcome.usable
        return Action.DELIVER if good else Action.REPLACE
    if _fault(outcome) is Fault.REQUEST:
        return Action.RETURN
    if status == 401 and not outcome.reread:
        return Action.REREAD
    if _fault(outcome) in {Fault.ACCOUNT, Fault.MODEL, Fault.ENDPOINT, Fault.FORM}:
        return Action.NEXT
    if status in {401, 402, 403, 429}:
        return Action.NEXT
    is_codex = outcome.dialect == "codex"
    is_free = outcome.fails_free is True and (is_codex or outcome.error.shaped)
    if status in {503, 529} and outcome.seconds > 30:
        return Action.NEXT if is_free else Action.RETURN
    if 500 <= status <= 599 and (is_free or (is_codex and outcome.fails_free is None)):
        return Action.NEXT
    if status in {503, 529}:
        says_so = outcome.wait is not None or outcome.error.shaped or is_codex
        return Action.NEXT if says_so else Action.RETURN
    return Action.RETURN


def test_every_outcome_has_the_promised_step(walk: Walk) -> None:
    assert sum(map(len, walk.values())) > 100_000
    for step, outcomes in walk.items():
        for outcome in outcomes:
            assert step.action is _promised(outcome), outcome


def test_no_second_call_is_made_once_a_picture_may_exist(walk: Walk) -> None:
    """Except after an intermediary's answer, which says that a picture may exist."""
    for outcome, step in _with_steps(walk, Action.NEXT, Action.REREAD):
        status = outcome.status or 0
        is_free = outcome.dialect == "codex" or (outcome.fails_free and outcome.error.shaped)
        says_so = outcome.wait is not None or outcome.error.shaped
        certain = (
            outcome.stage is Stage.CONNECT
            or status in {401, 402, 403, 429}
            or _fault(outcome) in {Fault.ACCOUNT, Fault.MODEL, Fault.ENDPOINT, Fault.FORM}
            or (status in {503, 529} and says_so and outcome.seconds <= 30)
            or (is_free and 500 <= status <= 599)
        )
        assert certain, outcome
        is_unclear = status in INTERMEDIARY and _fault(outcome) is None
        assert step.may_be_billed is (is_unclear and outcome.stage is Stage.ANSWER), outcome


def test_whatever_lets_a_call_be_sent_again_has_a_name(walk: Walk) -> None:
    names = {row.name for row in failover.TABLE}
    for step, outcomes in walk.items():
        if step.action in {Action.NEXT, Action.REREAD}:
            for outcome in outcomes:
                known = None if outcome.known is None else outcome.known.name
                assert step.reason in {*names, known}, outcome
        else:
            assert step.reason is None, outcomes[0]


def test_what_says_do_not_retry_is_never_tried_again_by_us(walk: Walk) -> None:
    for step, outcomes in walk.items():
        if not step.retry:
            assert step.action in {Action.RETURN, Action.REPLACE}, outcomes[0]


def test_the_sdk_never_repeats_a_call_that_we_would_not_repeat(walk: Walk) -> None:
    """It repeats 408, 409, 429 and from 500 on by itself, unless it is told not to."""
    for outcome, step in _with_steps(walk, Action.RETURN):
        status = outcome.status or 0
        if status in {408, 409, 429} or status >= 500:
            assert not step.retry, outcome
    for step, outcomes in walk.items():
        if step.action is Action.REPLACE:
            assert not step.retry, outcomes[0]
            assert step.code is not None
            assert not ERROR_SPECS[step.code].retry
            assert step.may_be_billed, outcomes[0]


def test_only_a_replaced_and_an_ended_answer_have_a_code_of_ours(walk: Walk) -> None:
    for step, outcomes in walk.items():
        ours = step.action in {Action.REPLACE, Action.END}
        assert (step.code is not None) == ours, outcomes[0]
        assert (step.code == "upstream_cut") == (step.action is Action.END), outcomes[0]


def test_a_place_is_cooled_only_when_another_one_is_asked_and_for_minutes_at_most(
    walk: Walk,
) -> None:
    for step, outcomes in walk.items():
        cooldown = step.cooldown
        if cooldown is not None:
            assert step.action is Action.NEXT, outcomes[0]
            assert cooldown.seconds is None or cooldown.seconds <= LONGEST_SECONDS, outcomes[0]
            for outcome in outcomes:
                assert outcome.stage is Stage.ANSWER, outcome
                assert _fault(outcome) is not Fault.REQUEST, outcome


def test_what_may_be_billed_says_so(walk: Walk) -> None:
    for step, outcomes in walk.items():
        if step.action in {Action.END, Action.REPLACE}:
            assert step.may_be_billed, outcomes[0]
        elif step.action not in {Action.RETURN, Action.NEXT}:
            assert not step.may_be_billed, outcomes[0]
    for outcome, step in _with_steps(walk, Action.RETURN):
        status = outcome.status or 0
        refused = _fault(outcome) is Fault.REQUEST or (
            400 <= status < 500 and status not in {408, 409}
        )
        assert step.may_be_billed is not refused, outcome


@given(
    st.builds(
        AttemptOutcome,
        st.sampled_from(Stage),
        st.sampled_from(DIALECTS),
        st.one_of(st.none(), st.integers()),
        st.builds(
            UpstreamError,
            *[st.one_of(st.none(), st.text(max_size=8))] * 4,
            shaped=st.booleans(),
        ),
        st.one_of(st.none(), st.floats(0, 1e9)),
        usable=st.booleans(),
        challenge=st.booleans(),
        reread=st.booleans(),
    )
)
def test_there_is_a_step_for_whatever_happens(outcome: AttemptOutcome) -> None:
    assert isinstance(next_step(outcome), Step)


def test_a_record_s_words_for_stages_and_actions_are_these() -> None:
    assert [str(stage) for stage in Stage] == ["connect", "sent", "answer", "stream"]
    words = ["deliver", "end", "next", "replace", "reread", "retry", "return"]
    assert sorted(map(str, Action)) == words


def test_no_outcome_says_to_ask_the_same_account_again(walk: Walk) -> None:
    """How often an account is asked is its own setting, and not a matter of what it answered."""
    assert all(step.action is not Action.RETRY for step in walk)


def test_the_last_row_takes_what_no_other_took(walk: Walk) -> None:
    fits = failover.TABLE[-1].fits
    for outcomes in walk.values():
        assert all(fits(outcome) for outcome in outcomes[::100])


# -- row by row ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [None, 200, 429, 503])
def test_once_bytes_went_to_the_client_the_answer_ends(dialect: str, status: int | None) -> None:
    broken = AttemptOutcome(Stage.STREAM, dialect, status, wait=5.0, usable=True)
    assert next_step(broken) == Step(Action.END, code="upstream_cut", may_be_billed=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_when_nothing_was_sent_the_next_account_is_asked_and_none_is_cooled(
    dialect: str,
) -> None:
    assert next_step(AttemptOutcome(Stage.CONNECT, dialect)) == Step(Action.NEXT, reason="not_sent")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_silence_after_sending_is_an_unknown_outcome(dialect: str) -> None:
    assert next_step(AttemptOutcome(Stage.SENT, dialect)) == Step(
        Action.REPLACE, code="outcome_unknown", retry=False, may_be_billed=True
    )


@pytest.mark.parametrize("status", [200, 201, 299])
def test_what_was_asked_for_is_delivered(status: int) -> None:
    assert next_step(_answer(status, usable=True)) == Step(Action.DELIVER)


@pytest.mark.parametrize("error", CLIENT_FAULTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 422, 429, 500, 503, 529])
def test_a_client_s_own_fault_is_returned_at_any_status(
    error: UpstreamError, dialect: str, status: int
) -> None:
    retry = status not in {408, 409, 429} and status < 500
    for wait in WAITS:
        step = next_step(_answer(status, dialect, error=error, wait=wait))
        assert step == Step(Action.RETURN, retry=retry)


@pytest.mark.parametrize(
    "code",
    [
        "image_generation_user_error",
        "moderation_blocked",
        "content_policy_violation",
        "content_policy",
        "ResponsibleAIPolicyViolation",
        "safety_violation",
        "contentFilter",
        "content_filter",
        "invalid_prompt",
        "invalid_parameter",
        "invalid_value",
        "invalid_type",
        "invalid_size",
        "invalid_image",
        "invalid_image_file",
        "invalid_image_format",
        "invalid_image_url",
        "image_too_large",
        "empty_image_file",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
        "missing_required_parameter",
        "string_above_max_length",
        "integer_above_max_value",
        "integer_below_min_value",
    ],
)
@pytest.mark.parametrize("field", ["code", "type"])
def test_a_client_s_fault_is_known_by_code_or_type_in_any_case(code: str, field: str) -> None:
    for spelt in (code, code.lower(), code.upper()):
        error = UpstreamError(code=spelt) if field == "code" else UpstreamError(type=spelt)
        assert next_step(_answer(500, "codex", error=error)).action is Action.RETURN


@pytest.mark.parametrize(
    "code", ["invalid_request_error", "server_error", "rate_limit_exceeded", "invalid", "error", ""]
)
def test_a_general_code_is_no_client_s_fault(code: str) -> None:
    for error in (UpstreamError(code=code), UpstreamError(type=code)):
        assert next_step(_answer(429, error=error)).action is Action.NEXT
        assert next_step(_answer(403, error=error)).action is Action.NEXT


def test_a_word_in_a_message_is_no_code() -> None:
    error = UpstreamError("moderation_blocked", param="invalid_value")
    assert next_step(_answer(429, error=error)).action is Action.NEXT


@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_401_the_credential_is_read_again_once(dialect: str) -> None:
    assert next_step(_answer(401, dialect)) == Step(Action.REREAD, reason="credential_refused")
    assert next_step(_answer(401, dialect, reread=True)) == Step(
        Action.NEXT, cooldown=CooldownSpec(300.0), reason="refused"
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [402, 403])
def test_402_and_403_go_on_and_cool_for_minutes(dialect: str, status: int) -> None:
    assert next_step(_answer(status, dialect)) == Step(
        Action.NEXT, cooldown=CooldownSpec(300.0), reason="refused"
    )
    assert next_step(_answer(status, dialect, wait=1e6)).cooldown == CooldownSpec(300.0)


@pytest.mark.parametrize(("status", "reread"), [(401, True), (402, False), (403, False)])
def test_a_challenge_page_cools_for_seconds(status: int, *, reread: bool) -> None:
    """It is about our address, and a 403 in HTML is Codex's usual one."""
    step = next_step(_answer(status, challenge=True, reread=reread))
    assert step == Step(Action.NEXT, cooldown=CooldownSpec(20.0), reason="refused")


@pytest.mark.parametrize("error", MODEL_FAULTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refused_model_cools_that_model_alone(
    dialect: str, error: UpstreamError, status: int
) -> None:
    assert next_step(_answer(status, dialect, error=error)) == Step(
        Action.NEXT, cooldown=CooldownSpec(300.0, Scope.MODEL), reason="model_unknown"
    )


@pytest.mark.parametrize(
    "code", ["model_not_found", "DeploymentNotFound", "deployment_not_found", "unknown_model"]
)
def test_a_missing_model_is_known_by_code_or_type(code: str) -> None:
    for error in (UpstreamError(code=code), UpstreamError(type=code)):
        assert next_step(_answer(404, "openai", error=error)).action is Action.NEXT


def test_azure_s_gateway_means_the_endpoint_by_its_bare_404() -> None:
    error = UpstreamError("Nothing here", code="404")
    assert next_step(_answer(404, "azure", error=error)) == Step(
        Action.NEXT, cooldown=CooldownSpec(300.0, Scope.ENDPOINT), reason="path_unknown"
    )
    assert next_step(_answer(404, "openai", error=error)) == Step(Action.RETURN)
    assert next_step(_answer(404, "codex", error=error)) == Step(Action.RETURN)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_other_404_is_returned_and_costs_no_account_anything(dialect: str) -> None:
    """A typo must not kill a credential."""
    for error in (UpstreamError(), UpstreamError("Not Found"), UpstreamError("m", param="size")):
        assert next_step(_answer(404, dialect, error=error)) == Step(Action.RETURN)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("wait", [None, 0.0, 12.5, 1e6])
def test_429_goes_on_and_cools_until_the_named_reset(dialect: str, wait: float | None) -> None:
    for error in OTHER_ERRORS:
        step = next_step(_answer(429, dialect, error=error, wait=wait))
        assert step == Step(Action.NEXT, cooldown=CooldownSpec(wait), reason="limited")


OVERLOADED: Final = Step(Action.NEXT, reason="overloaded")
UNCERTAIN: Final = Step(Action.RETURN, retry=False, may_be_billed=True)


@pytest.mark.parametrize("status", [503, 529])
def test_an_overload_must_say_so_where_single_images_are_billed(status: int) -> None:
    shaped = UpstreamError("m", "server_error", shaped=True)
    unshaped = UpstreamError("m", "server_error")
    for dialect in ("openai", "azure"):
        assert next_step(_answer(status, dialect)) == UNCERTAIN
        assert next_step(_answer(status, dialect, error=unshaped)) == UNCERTAIN
        assert next_step(_answer(status, dialect, error=shaped)) == OVERLOADED
        assert next_step(_answer(status, dialect, wait=0.0)) == OVERLOADED
    assert next_step(_answer(status, "codex")) == OVERLOADED


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [503, 529])
def test_an_overload_that_comes_late_is_none(dialect: str, status: int) -> None:
    shaped = UpstreamError("m", "server_error", None, "server_is_overloaded", shaped=True)
    late = _answer(status, dialect, error=shaped, wait=1.0, seconds=LATE)
    assert next_step(late) == UNCERTAIN
    assert next_step(replace(late, seconds=failover.OVERLOAD_SECONDS)) == OVERLOADED
    assert next_step(replace(late, fails_free=True)) == Step(Action.NEXT, reason="fails_free")


@pytest.mark.parametrize("status", [500, 501, 505, 599])
def test_codex_bills_no_single_images_so_its_5xx_go_on(status: int) -> None:
    assert next_step(_answer(status, "codex")) == Step(Action.NEXT, reason="fails_free")


@pytest.mark.parametrize("status", [500, 501, 505, 599])
def test_an_error_in_openai_s_shape_goes_on_where_the_operator_knows_it_is_free(
    status: int,
) -> None:
    shaped = UpstreamError("m", "server_error", shaped=True)
    for dialect in ("openai", "azure"):
        free = _answer(status, dialect, error=shaped, fails_free=True)
        assert next_step(free) == Step(Action.NEXT, reason="fails_free")
        assert next_step(replace(free, error=UpstreamError("m"))) == UNCERTAIN


@pytest.mark.parametrize("status", sorted(INTERMEDIARY))
def test_an_intermediary_s_answer_may_hide_a_picture(status: int) -> None:
    further = Step(Action.NEXT, may_be_billed=True, reason="intermediary")
    assert next_step(_answer(status, "codex")) == further
    shaped = UpstreamError("m", "server_error", shaped=True)
    assert next_step(_answer(status, "openai", error=shaped, fails_free=True)) == further


@pytest.mark.parametrize("dialect", ["openai", "azure"])
@pytest.mark.parametrize("status", [500, 501, 502, 504, 520, 599])
def test_elsewhere_a_500_is_never_posted_again(dialect: str, status: int) -> None:
    for error, wait in itertools.product(OTHER_ERRORS, WAITS):
        assert next_step(_answer(status, dialect, error=error, wait=wait)) == UNCERTAIN


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [400, 405, 410, 413, 418, 422, 425, 451, 499])
def test_another_4xx_is_returned_as_it_is(dialect: str, status: int) -> None:
    for error in (*OTHER_ERRORS, UpstreamError("m", "invalid_request_error", "size", None)):
        assert next_step(_answer(status, dialect, error=error)) == Step(Action.RETURN)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [408, 409])
def test_408_and_409_are_returned_and_not_to_be_repeated(dialect: str, status: int) -> None:
    """A picture may exist, and the SDK would buy it again twice."""
    step = next_step(_answer(status, dialect))
    assert step == Step(Action.RETURN, retry=False, may_be_billed=True)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 399])
def test_a_redirect_is_not_followed_and_not_repeated(dialect: str, status: int) -> None:
    for usable in (True, False):
        assert next_step(_answer(status, dialect, usable=usable)) == Step(
            Action.REPLACE, code="upstream_redirect", retry=False, may_be_billed=True
        )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [None, 0, 100, 101, 199, 200, 201, 202, 204, 206])
def test_a_2xx_of_another_kind_is_invalid_and_not_repeated(
    dialect: str, status: int | None
) -> None:
    for challenge in (True, False):
        assert next_step(_answer(status, dialect, challenge=challenge)) == Step(
            Action.REPLACE, code="upstream_invalid", retry=False, may_be_billed=True
        )


def test_an_end_without_a_picture_goes_on_where_it_bills_nothing() -> None:
    empty = _answer(200, "codex", ended_empty=True, error=UpstreamError("I cannot."))
    assert next_step(empty) == Step(Action.NEXT, reason="no_picture")
    for dialect in ("azure", "openai"):
        step = next_step(replace(empty, dialect=dialect))
        assert (step.action, step.code) == (Action.REPLACE, "upstream_invalid")
        assert step.may_be_billed
    begun = next_step(replace(empty, stage=Stage.STREAM))
    assert begun.action is Action.END, "the client has partial pictures"


def test_words_in_place_of_a_picture_say_nothing_about_the_account() -> None:
    """A prompt can cause them, and must not stop an account."""
    for stage in (Stage.ANSWER, Stage.STREAM):
        empty = AttemptOutcome(stage, "codex", 200, ended_empty=True)
        assert failover.health(empty) is failover.Health.UNKNOWN


def test_a_replaced_answer_quotes_the_upstream_and_no_more_than_some_of_it() -> None:
    message = failover.replacement("upstream_invalid", "no 'luck' " * 1000).message
    assert "no 'luck'" in message
    assert len(message) < 700


def test_a_client_s_fault_named_in_a_success_changes_nothing() -> None:
    error = CLIENT_FAULTS[0]
    assert next_step(_answer(200, error=error, usable=True)) == Step(Action.DELIVER)
    assert next_step(_answer(200, error=error)).code == "upstream_invalid"


@pytest.mark.parametrize("status", [600, 700, 999])
def test_a_status_nobody_knows_is_returned_and_not_repeated(status: int) -> None:
    assert next_step(_answer(status)) == Step(Action.RETURN, retry=False, may_be_billed=True)


def test_cooldowns_are_minutes_never_hours() -> None:
    assert 1 <= failover.CHALLENGE_SECONDS < 60
    assert 60 <= failover.REFUSED_SECONDS <= 900


@pytest.mark.parametrize(
    "code", ["outcome_unknown", "upstream_redirect", "upstream_invalid", "upstream_cut"]
)
def test_a_replaced_answer_says_not_to_come_again(code: str) -> None:
    refusal = failover.replacement(code)
    assert refusal.code == code
    assert refusal.message
    assert refusal.headers() == {"x-should-retry": "false"}


def test_every_code_that_can_replace_has_its_words(walk: Walk) -> None:
    codes = {step.code for step in walk if step.code is not None}
    assert codes
    for code in codes:
        assert failover.replacement(code).code == code


def test_a_word_for_the_log_decides_nothing() -> None:
    for stage, status in ((Stage.STREAM, 200), (Stage.SENT, None), (Stage.ANSWER, 500)):
        plain = AttemptOutcome(stage, "codex", status)
        assert next_step(replace(plain, reason="TimeoutError")) == next_step(plain)


@pytest.mark.parametrize("error", ERRORS)
def test_an_upstream_that_said_something_is_known(error: UpstreamError) -> None:
    assert _answer(500, error=error).has_error is (error != UpstreamError())


# -- several calls for one request -----------------------------------------------------------

_BY_WEIGHT: Final = (
    Action.DELIVER,
    Action.END,
    Action.RETURN,
    Action.REPLACE,
    Action.REREAD,
    Action.NEXT,
)


def test_of_several_calls_one_decides_by_what_it_makes_certain() -> None:
    """A picture is a success; another account is asked only if nothing speaks against it."""
    assert set(_BY_WEIGHT) == set(Action) - {Action.RETRY}
    for count in range(1, 4):
        for actions in itertools.permutations(_BY_WEIGHT, count):
            chosen = failover.weightiest([Step(action) for action in actions])
            assert actions[chosen] is min(actions, key=_BY_WEIGHT.index)


def test_a_picture_that_may_exist_outweighs_a_refusal() -> None:
    """Or a third account would be asked."""
    certain, uncertain = Step(Action.NEXT), Step(Action.NEXT, may_be_billed=True)
    assert failover.weightiest([certain, uncertain]) == 1
    assert failover.weightiest([uncertain, certain]) == 0


@given(st.lists(st.sampled_from([Step(action) for action in _BY_WEIGHT]), min_size=1, max_size=6))
def test_of_calls_that_weigh_the_same_the_first_decides(steps: list[Step]) -> None:
    chosen = failover.weightiest(steps)
    assert chosen == steps.index(steps[chosen])
    again = {Action.NEXT, Action.REREAD}
    assert (steps[chosen].action in again) == all(step.action in again for step in steps)
