"""What the clients of a call get from the attempt that decides, or from the refusal that does.

Every ending says what is certain about the picture (``CallState``), because that decides what a
later request of the same kind gets.
"""

from typing import Final

from image_gateway.calls.answer import Ending
from image_gateway.calls.attempt import AttemptResult
from image_gateway.calls.collecting import Collected
from image_gateway.core import errors, headers
from image_gateway.core.calls.model import CallState
from image_gateway.core.dialects.faults import Fault
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.records.builder import Failure, RecordBuilder
from image_gateway.core.routing import failover
from image_gateway.core.routing.failover import Action
from image_gateway.edge.kept.entry import KeptAnswer, KeptEntry

_JSON: Final = {"content-type": "application/json"}
_DRAIN_RETRY_SECONDS: Final = 1.0
_SAYS_NOTHING: Final = frozenset({408, 409, 429})
"""Statuses of an error that another try may not meet."""


def of_result(result: AttemptResult, record: RecordBuilder) -> Ending | Collected:
    """The ending that an upstream's answer makes, or the pictures that it holds."""
    step = result.step
    if step.action is Action.DELIVER and result.collected is not None:
        return result.collected
    if step.action is Action.REPLACE and step.code is not None:
        words = result.outcome.error.message
        return of_refusal(failover.replacement(step.code, words), record)
    if step.action in {Action.RETURN, Action.NEXT} or result.outcome.has_error:
        return _passed_on(result, record)
    return of_refusal(failover.replacement("upstream_cut"), record)


def of_collected(collected: Collected) -> Ending:
    """The ending of an answer with its pictures."""
    return Ending(CallState.MADE, 200, {**collected.fields, **_JSON}, collected.body)


def of_refusal(refusal: Refusal, record: RecordBuilder) -> Ending:
    """The ending that the gateway's own error makes."""
    failure = Failure(refusal.code, refusal.spec.source)
    state = CallState.UNKNOWN if record.may_be_billed else CallState.NOTHING
    fields = {**refusal.headers(), **advice(record), **_JSON}
    return Ending(state, refusal.spec.status, fields, refusal.body(), failure)


def of_kept(entry: KeptEntry, answer: KeptAnswer | None) -> Ending:
    """The ending of a call that is kept; that of one whose process died says so."""
    if answer is None or entry.status is None:
        is_unsent = entry.state is CallState.NOTHING
        refusal = draining() if is_unsent else failover.replacement("outcome_unknown")
        failure = Failure(refusal.code, refusal.spec.source)
        fields = {**refusal.headers(), **_JSON}
        return Ending(entry.state, refusal.spec.status, fields, refusal.body(), failure)
    code, source = entry.error_code, entry.error_source
    failed = None if code is None else Failure(code, Source(source or Source.UPSTREAM))
    return Ending(entry.state, entry.status, entry.headers, answer, failed)


def advice(record: RecordBuilder) -> dict[str, str]:
    """Forbids a retry if a picture may exist, whichever of the attempts may have made it."""
    return {"x-should-retry": "false"} if record.may_be_billed else {}


def _passed_on(result: AttemptResult, record: RecordBuilder) -> Ending:
    """An upstream's error, without credentials, account names or content."""
    outcome = result.outcome
    status = outcome.status or 502
    body = result.scrubber.clean_json(errors.passed_on(status, result.body, outcome.error))
    fields = headers.to_client_with_error(result.headers)
    if outcome.wait is not None and not headers.RETRY & set(fields):
        fields |= errors.retry_headers(outcome.wait)
    if not result.step.retry:
        fields["x-should-retry"] = "false"
    code = errors.shown_code(outcome.error) or f"upstream_{status}"
    return Ending(
        _state(result, record, status),
        status,
        {**fields, **advice(record), **_JSON},
        body,
        Failure(code, Source.UPSTREAM),
    )


def _state(result: AttemptResult, record: RecordBuilder, status: int) -> CallState:
    if record.may_be_billed:
        return CallState.UNKNOWN
    is_returned = result.step.action is Action.RETURN
    is_final = 400 <= status < 500 and status not in _SAYS_NOTHING
    if result.outcome.is_about(Fault.REQUEST) or (is_returned and is_final):
        return CallState.FAULT
    return CallState.NOTHING


def draining() -> Refusal:
    """This instance is stopping; another instance, or the next one, can serve the call."""
    return Refusal(
        "draining",
        "This instance is stopping. Send the call again.",
        retry_after=_DRAIN_RETRY_SECONDS,
    )


def internal_error(request_id: str) -> Refusal:
    """An exception that nothing else handles."""
    return Refusal(
        "internal_error",
        "The call failed because of a bug in the gateway. Give its operator the request id "
        f"{request_id}.",
    )
