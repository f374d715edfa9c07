"""One attempt: one call to one account, from the connect to the end of its answer.

An attempt returns a value and decides nothing.  ``core.routing.failover`` computes what follows
(``AttemptResult.step``), and ``account_calls`` acts on it.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from image_gateway.calls.collecting import AnyCollector, CollectContext, Collected
from image_gateway.context import AppContext
from image_gateway.core import dialects, errors, headers
from image_gateway.core.dialects import DIALECTS, ExpectedResponse, UpstreamRequest, faults
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account, Grant
from image_gateway.core.records.builder import Called
from image_gateway.core.records.phases import Phase
from image_gateway.core.records.record import AttemptRecord
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import failover, plain_answers
from image_gateway.core.routing.cooldowns import Target
from image_gateway.core.routing.failover import AttemptOutcome, Stage, Step
from image_gateway.core.scrubbing import Scrubber
from image_gateway.edge.slots.claims import Claim
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import (
    LostError,
    UnsentError,
    UpstreamConnection,
    UpstreamResponse,
)

LEAST_SECONDS: Final = 30.0
"""The least time for a further attempt; with less it would buy a picture that comes too late."""

_PROXY_REFUSED: Final = 407
_ERROR_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 10.0


@dataclass(frozen=True)
class UpstreamJob:
    """The job of one request: the request, its key's grant and the claim of the call, the client's
    headers, the body's spool.

    ``deadline``, on the monotonic clock, is for the whole job.
    """

    request: AnyRequest
    grant: Grant
    claim: Claim
    client: Headers
    spool: Spool
    deadline: float

    @property
    def time_is_left(self) -> bool:
        """Whether enough time is left for a further attempt."""
        return self.deadline - time.monotonic() >= LEAST_SECONDS


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended.

    ``headers`` and ``body`` are those of a failed answer; ``collected`` ends a successful one.
    ``began`` is a time of the monotonic clock.
    """

    account: Account
    outcome: AttemptOutcome
    record: AttemptRecord
    began: float
    scrubber: Scrubber
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    collected: Collected | None = field(default=None, repr=False)

    @property
    def step(self) -> Step:
        """What follows from it."""
        return failover.next_step(self.outcome)

    def refused(self) -> "AttemptResult":
        """The same result after the credential was read again and had not changed."""
        result = replace(self, outcome=replace(self.outcome, reread=True))
        result.record.action, result.record.reason = result.step.action, result.step.reason
        return result


ChooseCollector = Callable[[UpstreamResponse], AnyCollector | None]
"""Chooses the collector of an answer by its head; None for an answer that cannot be used."""


@dataclass(frozen=True)
class AttemptPlan:
    """One attempt to make.

    ``reread``: the account's credential was read again during this request.  ``ended`` is called
    with the result while the call still counts as a probe.
    """

    account: Account
    scrubber: Scrubber
    request: UpstreamRequest
    choose: ChooseCollector
    ended: Callable[[AttemptResult], None]
    reread: bool


class AttemptRunner:
    """Runs the attempts of one request."""

    def __init__(self, app: AppContext, context: CollectContext, job: UpstreamJob) -> None:
        self._app = app
        self._context = context
        self._job = job

    def __repr__(self) -> str:
        return f"<AttemptRunner {len(self._context.record.attempts)} attempts>"

    async def run(self, plan: AttemptPlan) -> AttemptResult:
        """Make an attempt; the caller holds the account's slot."""
        account, context = plan.account, self._context
        await context.announce()
        attempt = AttemptRecord(account.account_name, account.dialect, stage=Stage.CONNECT)
        # Some relays take their key in the path.
        scrubber = Scrubber([account.signed_by().token.reveal()])
        path = scrubber.clean_text(urlsplit(plan.request.url).path)
        called = Called(path, plan.request.picture_model, account.responses_model)
        context.record.attempt(attempt, called)
        context.answer.send()
        began = time.monotonic()
        seconds = self._app.settings.attempt_seconds[account.dialect]
        until = min(began + seconds, self._job.deadline)
        async with AsyncExitStack() as opened:
            opened.enter_context(self._app.outliers.call(account, began))
            opened.enter_context(
                self._app.cooldowns.call(
                    account.account_name,
                    Target.of(self._job.request),
                    began,
                    account.credential,
                )
            )
            connection = await opened.enter_async_context(
                self._app.upstream.connection(plan.request, self._job.spool, account.proxy)
            )
            try:
                result = await self._exchange(plan, connection, attempt, until)
            finally:
                # The record shows the account's name anyway, which may be a word such as ``high``.
                context.record.clean(Scrubber(account.secrets()).clean_text)
            # Before the connection closes: the end of a drain may cancel that.
            outcome, step = result.outcome, result.step
            attempt.stage = Stage.STREAM if outcome.usable else outcome.stage
            attempt.action, attempt.reason = step.action, step.reason
            attempt.error_code = outcome.reason or errors.shown_code(outcome.error)
            context.record.may_be_billed |= step.may_be_billed
            plan.ended(result)
        return result

    async def _exchange(
        self,
        plan: AttemptPlan,
        connection: UpstreamConnection,
        attempt: AttemptRecord,
        until: float,
    ) -> AttemptResult:
        """Send the request and collect as much of the answer as comes."""
        account, began = plan.account, time.monotonic()
        dialect = account.dialect

        def ended(outcome: AttemptOutcome) -> AttemptResult:
            judged = self._judged(outcome, plan)
            return AttemptResult(account, judged, attempt, began, plan.scrubber)

        try:
            response = await connection.open(until - began)
        except UnsentError as error:
            return ended(AttemptOutcome(Stage.CONNECT, dialect, reason=str(error)))
        except LostError as error:
            return ended(AttemptOutcome(Stage.SENT, dialect, reason=str(error)))
        finally:
            if connection.connected:
                attempt.stage = Stage.SENT
            attempt.upstream_ms = round((time.monotonic() - began) * 1000)
        # As for a late head: what has begun is paid for, and has a while to arrive.
        response.deadline = until + self._context.idle_seconds
        attempt.status, answered = response.status, time.monotonic()
        response.headers = plan.scrubber.clean_headers(response.headers)
        if self._context.record.timeline.phase is Phase.SENT:
            # Of several calls at once the first that is answered counts.
            self._context.record.enter(Phase.ANSWERED)
        self._app.budgets.learn(account, response.headers, time.monotonic(), time.time())
        collector = plan.choose(response)
        if collector is None:
            outcome, body = await self._read_failure(account, response)
            outcome = replace(outcome, seconds=answered - began)
            return replace(ended(outcome), headers=response.headers, body=body)
        try:
            outcome = await collector.collect(response, dialect, until)
        finally:
            attempt.stage = Stage.STREAM if self._context.answer.frames else Stage.ANSWER
        outcome = replace(outcome, seconds=time.monotonic() - began)
        return replace(ended(outcome), collected=collector.collected)

    def _judged(self, outcome: AttemptOutcome, plan: AttemptPlan) -> AttemptOutcome:
        """An outcome with whose fault it is.

        Its error, from here on, has the client's names for its fields, and no secrets.
        """
        account, request, error = plan.account, self._job.request, outcome.error
        status = outcome.status if outcome.stage is Stage.ANSWER else None
        return replace(
            outcome,
            known=faults.find(DIALECTS[account.dialect].known_errors, status, error, request),
            error=plan.scrubber.clean_error(faults.for_client(error, request)),
            fails_free=account.fails_free,
            silent_stream=plan.request.expects is ExpectedResponse.IMAGE_EVENTS
            and isinstance(request, ImageRequest)
            and plain_answers.is_silent_stream(request),
            reread=plan.reread,
        )

    async def _read_failure(
        self, account: Account, response: UpstreamResponse
    ) -> tuple[AttemptOutcome, bytes]:
        """The outcome of an answer that cannot be collected, and its body."""
        status, dialect = response.status, account.dialect
        if 200 <= status < 300:
            return AttemptOutcome(Stage.ANSWER, dialect, status), b""
        if status == _PROXY_REFUSED and account.proxy is not None:
            # The proxy itself answers 407, and the call did not reach the upstream.
            return AttemptOutcome(Stage.CONNECT, dialect, reason="ProxyRefused"), b""
        body = await response.read(_ERROR_BYTES, _ERROR_SECONDS)
        error = errors.read_upstream_error(body)
        wait = dialects.named_wait(response.headers, error, time.time(), limited=status == 429)
        media_type = headers.media_type(response.headers.get("content-type"))
        outcome = AttemptOutcome(
            Stage.ANSWER,
            dialect,
            status,
            error=error,
            wait=wait,
            challenge=media_type == "text/html",
        )
        return outcome, body
