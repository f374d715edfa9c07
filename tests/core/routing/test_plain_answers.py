"""Deployments that cut silent streams: what is remembered of whom, and for how long."""

from dataclasses import replace

import pytest

from image_gateway.core.errors import UpstreamError
from image_gateway.core.routing import failover
from image_gateway.core.routing.failover import Action, AttemptOutcome, Stage
from image_gateway.core.routing.plain_answers import PlainAnswers
from tests.core.builders import account, parse

SILENT = parse({"stream": True})
PARTIALS = parse({"stream": True, "partial_images": 1})
PLAIN = parse({})
EAST = account("east", dialect="azure", base_url="https://e", deployments={"gpt-image-2": "d"})


def test_what_was_learned_is_about_silent_streams_of_that_deployment_alone() -> None:
    answers = PlainAnswers()
    assert not answers.are_needed(EAST, SILENT)
    answers.learn(EAST, SILENT)
    assert answers.are_needed(EAST, SILENT)
    assert answers.are_needed(EAST, parse({"stream": True, "partial_images": 0}))
    assert not answers.are_needed(EAST, PARTIALS)
    assert not answers.are_needed(EAST, PLAIN)
    for other in (
        replace(EAST, account_name="west"),
        replace(EAST, base_url="https://w"),
        replace(EAST, api_version="2026-01-01"),
        replace(EAST, deployments={"gpt-image-2": "other"}),
    ):
        assert not answers.are_needed(other, SILENT)


def test_no_more_than_a_thousand_deployments_are_remembered() -> None:
    answers = PlainAnswers()
    answers.learn(EAST, SILENT)
    for number in range(1000):
        answers.learn(replace(EAST, account_name=f"account-{number}"), SILENT)
    assert repr(answers) == "<PlainAnswers of 1000 deployments>"
    assert not answers.are_needed(EAST, SILENT)
    assert answers.are_needed(replace(EAST, account_name="account-0"), SILENT)


def _cut(status: int, code: str | None, seconds: float, *, silent: bool = True) -> AttemptOutcome:
    error = UpstreamError("m", code=code)
    return AttemptOutcome(
        Stage.ANSWER, "azure", status, error=error, seconds=seconds, silent_stream=silent
    )


@pytest.mark.parametrize(
    "outcome", [_cut(408, "Timeout", 1), _cut(408, None, 60), _cut(500, "timeout", 60)]
)
def test_a_cut_stream_is_not_sent_again(outcome: AttemptOutcome) -> None:
    assert failover.is_cut_stream(outcome)
    step = failover.next_step(outcome)
    assert (step.action, step.retry, step.may_be_billed) == (Action.RETURN, False, True)
    assert step.reason == "stream_timeout"


@pytest.mark.parametrize(
    "outcome",
    [
        _cut(408, None, 1),
        _cut(500, None, 60),
        _cut(408, "Timeout", 60, silent=False),
        replace(_cut(408, "Timeout", 60), stage=Stage.STREAM),
        replace(_cut(408, "Timeout", 60), stage=Stage.SENT),
    ],
)
def test_any_other_timeout_is_learned_nothing_from(outcome: AttemptOutcome) -> None:
    assert not failover.is_cut_stream(outcome)
    assert failover.next_step(outcome).reason is None
