"""The calls of one request to one account: one attempt or several, until the result is final.

Three rules make more than one attempt.  A refused credential is read again, once, because the
control plane may have renewed it meanwhile.  An upstream that is a pool itself is called again
(``same_account_retries``).  And where one call makes one picture, several calls serve a request
together (``fan_out``).
"""

import asyncio
import logging
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from image_gateway.calls import collecting
from image_gateway.calls.attempt import AttemptPlan, AttemptResult, AttemptRunner, UpstreamJob
from image_gateway.calls.collecting import (
    AnyCollector,
    CollectContext,
    Collected,
    PictureCollector,
)
from image_gateway.calls.fan_out import FanOut
from image_gateway.context import AppContext
from image_gateway.core.dialects import (
    DIALECTS,
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
)
from image_gateway.core.model import Account
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import capability, failover, ranking
from image_gateway.core.routing.cooldowns import Cause, Target
from image_gateway.core.routing.failover import Action, Health
from image_gateway.core.scrubbing import Scrubber
from image_gateway.edge.upstream.http_client import UpstreamResponse

AGAIN_SECONDS: Final = 0.5
"""The pause before an upstream that is a pool is called again (``same_account_retries``)."""

_log = logging.getLogger(__name__)


class AccountCalls:
    """The calls of one request, account by account."""

    def __init__(self, app: AppContext, context: CollectContext, job: UpstreamJob) -> None:
        self._app = app
        self._context = context
        self._job = job
        self._runner = AttemptRunner(app, context, job)
        self._collector: AnyCollector | None = None

    def __repr__(self) -> str:
        return f"<AccountCalls {self._runner!r}>"

    async def ask(self, account: Account) -> AttemptResult:
        """Call an account until its answer decides or its retries are used up.

        The caller holds the account's slot.
        """
        retries, reread = account.same_account_retries, False
        while True:
            self._context.record.enter(Phase.SENT)
            began = time.monotonic()
            result = await self._serve(account, reread=reread, is_last=retries == 0)
            if result.step.action is Action.REREAD:
                renewed = await self._renewed(account, began)
                reread = True
                if renewed is not None and self._job.time_is_left:
                    account = renewed
                    continue
                result = self._refused(result, is_last=retries == 0)
            if result.step.action is not Action.NEXT or result.step.may_be_billed or retries == 0:
                return result
            if not self._job.time_is_left:
                self._learn(result, is_last=True)
                return result
            # An upstream that is a pool itself: its next member may succeed.
            result.record.action = Action.RETRY
            retries, reread = retries - 1, False
            self._context.record.enter(Phase.SENT)
            await asyncio.sleep(AGAIN_SECONDS)

    def salvage(self) -> Collected | None:
        """What there is of an answer after ``ask`` was cancelled; None if nothing."""
        return None if self._collector is None else self._collector.salvage()

    async def _renewed(self, account: Account, began: float) -> Account | None:
        """The account with a new credential; None if the control plane has no other one."""
        renewed = await self._app.control_plane.reread(account.account_name, began)
        if (
            renewed is None
            or renewed.credential == account.credential
            or not ranking.has_credential(renewed, datetime.now(UTC))
        ):
            return None
        return renewed

    def _refused(self, result: AttemptResult, *, is_last: bool) -> AttemptResult:
        """The result of a refused credential that was not renewed."""
        refused = result.refused()
        self._learn(replace(refused, began=time.monotonic()), is_last=is_last)
        return refused

    async def _serve(self, account: Account, *, reread: bool, is_last: bool) -> AttemptResult:
        """Make the attempts that the request needs at an account: one, or one for each picture."""
        request, settings = self._request_for(account), self._app.settings
        route = capability.choose(account, request)
        if isinstance(route, capability.Gap):
            raise TypeError("the account cannot serve the request")
        encode_context = EncodeContext(
            settings.base_url(DIALECTS[account.dialect]),
            settings.codex_client_version,
            secrets.token_hex(16),
        )
        upstream_request = route.encode(request, account, self._job.client, encode_context)
        scrubber = Scrubber.of(account)
        plan = AttemptPlan(
            account,
            scrubber,
            upstream_request,
            partial(self._choose, upstream_request, scrubber),
            partial(self._learn, is_last=is_last),
            reread,
        )
        is_for_pictures = upstream_request.expects is ExpectedResponse.RESPONSE_EVENTS
        if is_for_pictures and isinstance(request, ImageRequest):
            return await self._fan_out(plan, request, is_last=is_last)
        return await self._runner.run(plan)

    def _request_for(self, account: Account) -> AnyRequest:
        """The request as this account can serve it."""
        request = self._job.request
        if isinstance(request, ImageRequest) and self._app.plain_answers.are_needed(
            account, request
        ):
            return replace(request, stream=False)
        return request

    def _choose(
        self, upstream_request: UpstreamRequest, scrubber: Scrubber, response: UpstreamResponse
    ) -> AnyCollector | None:
        context = replace(self._context, scrubber=scrubber)
        make_collector = collecting.choose(context, upstream_request.expects, response)
        if make_collector is None:
            return None
        self._collector = make_collector(context, self._job.request)
        return self._collector

    async def _fan_out(
        self, plan: AttemptPlan, request: ImageRequest, *, is_last: bool
    ) -> AttemptResult:
        """Make one call for each picture; returns the result that decides."""
        self._collector = collector = PictureCollector(self._context, request)

        def choose(response: UpstreamResponse) -> AnyCollector | None:
            make_collector = collecting.choose(self._context, plan.request.expects, response)
            return None if make_collector is None else collector

        fan_out = FanOut(self._app, self._runner, self._job, replace(plan, choose=choose))
        results = await fan_out.run(request.count)
        decisive = failover.weightiest([result.step for result in results])
        for index, result in enumerate(results):
            if result.step.action is Action.REREAD and index != decisive:
                self._refused(result, is_last=is_last)
        return replace(results[decisive], collected=collector.salvage())

    def _learn(self, result: AttemptResult, *, is_last: bool) -> None:
        """Begin or clear a cooldown of the account, and log a failure.

        ``is_last`` False: the account is called once more, and does not cool down before that.
        """
        account, step, attempt = result.account, result.step, result.record
        target = Target.of(self._job.request)
        request_id = self._context.record.arrival.request_id
        self._judge(result, is_last=is_last)
        if failover.is_cut_stream(result.outcome) and isinstance(self._job.request, ImageRequest):
            self._app.plain_answers.learn(account, self._job.request)
            _log.warning(
                "account %s cut a stream without partial pictures: its calls for model %s get "
                "plain answers from now on, request %s",
                account.account_name,
                self._job.request.upstream_model,
                request_id,
            )
        if step.action is Action.DELIVER:
            self._app.cooldowns.succeed(account.account_name, target, result.began)
        elif step.cooldown is not None and is_last:
            seconds = self._app.cooldowns.trip(
                account.account_name,
                target,
                step.cooldown,
                time.monotonic(),
                account.credential,
                Cause(attempt.status, attempt.error_code, step.reason),
            )
            _log.warning(
                "account %s cools down for %.0f s: status %s, code %s, request %s",
                account.account_name,
                seconds,
                attempt.status,
                attempt.error_code,
                request_id,
            )
        elif step.action is Action.NEXT and is_last:
            # An overload, a 5xx, or no connection: the next call may use the account again.
            _log.warning(
                "account %s failed at %s: status %s, code %s, request %s",
                account.account_name,
                attempt.stage,
                attempt.status,
                attempt.error_code,
                request_id,
            )

    def _judge(self, result: AttemptResult, *, is_last: bool) -> None:
        """Record whether the account works, and log when it is out because it failed."""
        account, outliers = result.account, self._app.outliers
        match failover.health(result.outcome):
            case Health.WORKS:
                outliers.succeed(account, result.began)
            case Health.FAILS if is_last:
                failing = outliers.fail(account, result.began, time.monotonic())
                if failing.is_out:
                    _log.warning(
                        "account %s is failing: %d failures in a row; it is out for %.0f s",
                        account.account_name,
                        failing.failures,
                        failing.seconds_left,
                    )
