"""Errors of upstreams: how they are read (``core.errors``), whose fault they are
(``core.dialects.faults``), and what follows (``core.routing.failover``).
"""

from typing import Final

import orjson

from image_gateway.core import errors
from image_gateway.core.dialects import DIALECTS, faults
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing import failover
from image_gateway.core.routing.failover import Action, AttemptOutcome, Stage
from image_gateway.core.scrubbing import Scrubber
from tests.fuzz.accounts import ACCOUNTS, KEY, SECRETS
from tests.fuzz.values import Values

STATUSES: Final = (
    *(0, 100, 199, 200, 204, 299, 302, 399, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413),
    *(415, 422, 429, 451, 499, 500, 502, 503, 504, 520, 522, 524, 529, 599, 600, 999),
)
REQUESTS: Final[tuple[AnyRequest, ...]] = (
    ImageRequest("generations", "gpt-image-2", "gpt-image-2", "a cat", {"size": "auto"}),
    ImageRequest("edits", "gpt-image-2", "gpt-image-2", "a cat", {}, stream=True, is_form=True),
    IntentRequest("gpt-5.6", (), ModelNames(KEY), {"tools": [{"type": "image_generation"}]}),
    IntentRequest("gpt-image-2", (), ModelNames(KEY), {"input": "a cat"}),
)


def check(data: bytes) -> None:
    """Every error is read, every outcome has a step, and no step buys a picture twice."""
    values = Values(data)
    account = values.one_of(ACCOUNTS)
    request = values.one_of(REQUESTS)
    stage = values.one_of(tuple(Stage))
    status = values.one_of((*STATUSES, None))
    flags = values.byte()
    wait = values.one_of((None, 0.0, 30.0, 1e9))
    seconds = values.one_of((0.0, 29.0, 31.0, 55.0, 1e6))
    fails_free = values.one_of((None, False, True))
    body = values.rest()
    error = errors.read_upstream_error(body)
    known = faults.find(DIALECTS[account.dialect].known_errors, status, error, request)
    assert known is None or (status is not None and status >= 400)
    outcome = AttemptOutcome(
        stage,
        account.dialect,
        status,
        error,
        wait,
        usable=bool(flags & 1),
        challenge=bool(flags & 2),
        seconds=seconds,
        known=known,
        fails_free=fails_free,
        reread=bool(flags & 4),
        ended_empty=bool(flags & 8),
        silent_stream=bool(flags & 16),
    )
    check_step(outcome)
    if status is not None and status >= 400:
        check_shown(status, body, faults.for_client(error, request), Scrubber.of(account))


def check_step(outcome: AttemptOutcome) -> None:
    """What follows an outcome."""
    step = failover.next_step(outcome)
    assert failover.health(outcome) in set(failover.Health)
    assert failover.weightiest([step, step]) == 0
    assert failover.is_cut_stream(outcome) in {False, True}
    assert (step.code is not None) == (step.action in {Action.REPLACE, Action.END})
    assert step.action is not Action.RETRY
    if step.action is Action.REPLACE:
        refusal = failover.replacement(step.code or "", outcome.error.message)
        assert not refusal.spec.retry
        assert len(refusal.message) < 3000
        assert orjson.loads(refusal.body())["error"]["code"] == step.code
    if step.action is Action.NEXT:
        assert step.reason
        # A picture may exist once a call was sent and not refused.
        assert outcome.stage in {Stage.CONNECT, Stage.ANSWER}
        assert outcome.stage is Stage.CONNECT or outcome.answered >= 400 or outcome.ended_empty
    if step.action is Action.REREAD:
        assert outcome.answered == 401
        assert not outcome.reread
    if step.cooldown is not None:
        assert step.action is Action.NEXT


def check_shown(status: int, body: bytes, error: errors.UpstreamError, scrubber: Scrubber) -> None:
    """What a client gets of an error: OpenAI's shape, and no secret."""
    shown = errors.passed_on(status, body, error)
    fields = orjson.loads(shown)["error"]
    assert {"message", "type", "param", "code"} <= fields.keys()
    cleaned = scrubber.clean_json(shown)
    assert scrubber.clean_json(cleaned) == cleaned
    text = str(orjson.loads(cleaned))
    assert not any(secret in text for secret in SECRETS)
    code = errors.shown_code(scrubber.clean_error(error))
    assert code is None or (code.isascii() and len(code) <= 64)
    assert 400 <= errors.status_of(error) < 600
