"""From account to account: rank them, wait for a slot, call, until one answer decides.

The accounts are ranked again before each attempt, because an attempt takes a minute: meanwhile
accounts cool down, fill up or recover.  One time limit covers all waits for slots of a request.
"""

import time
from collections.abc import Sequence
from typing import Final

from image_gateway.calls.account_calls import AccountCalls
from image_gateway.calls.attempt import LEAST_SECONDS, AttemptResult, UpstreamJob
from image_gateway.calls.delivery import Finish, ResponseContext
from image_gateway.context import AppContext
from image_gateway.core import headers
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing import failover, ranking
from image_gateway.core.routing.failover import Action, Stage
from image_gateway.edge.slots.broker import BusyError, EarlyError, Lease

_PASSING: Final = frozenset({"account_concurrency", "key_start_interval"})
"""The refusals of a call for which an account exists: it may succeed later."""
_UNREACHABLE_RETRY_SECONDS: Final = 5.0


class Dispatch:
    """One request's search for an account that serves it."""

    def __init__(self, app: AppContext, context: ResponseContext, job: UpstreamJob) -> None:
        self._app = app
        self._context = context
        self._request = job.request
        self._grant = job.grant
        from_body = job.request.session if isinstance(job.request, IntentRequest) else None
        self._session = headers.session(job.client) or from_body
        self._has_started = False
        self._job = job
        self._calls = AccountCalls(app, context, job)

    def __repr__(self) -> str:
        return f"<Dispatch {self._calls!r}>"

    async def run(self) -> AttemptResult:
        """The result that decides what the client gets.

        Raises ``Refusal`` if no upstream's answer decides, and ``ClientLeftError``.
        """
        able = ranking.able(self._grant, self._request, self._app.catalogue)
        self._rank(able)
        admitted = self._admit()
        self._context.record.enter(Phase.ADMITTED)
        try:
            return await self._search(able)
        finally:
            if not self._context.record.attempts:
                self._app.starts.withdraw(self._grant.key.key_id, admitted)

    def salvage(self) -> Finish | None:
        """What can still be sent after ``run`` was cancelled; None if nothing can."""
        return self._calls.salvage()

    def _admit(self) -> float:
        key, now = self._grant.key, time.monotonic()
        wait = self._app.starts.admit(key.key_id, key.min_start_interval_ms, now)
        if wait > 0:
            raise self._too_early(wait)
        return now

    def _too_early(self, seconds: float) -> Refusal:
        return Refusal(
            "key_start_interval",
            "Rate limit reached: this key may start one image call every "
            f"{self._grant.key.min_start_interval_ms} ms. Try again later.",
            retry_after=seconds,
        )

    async def _search(self, remaining: Sequence[Account]) -> AttemptResult:
        failed: list[AttemptResult] = []
        last_refusal: Refusal | None = None
        while remaining and (not failed or self._job.time_is_left):
            self._context.record.enter(Phase.WAITING)
            try:
                lease = await self._slot(self._rank(remaining))
            except Refusal as refusal:
                last_refusal = refusal
                break
            with lease:
                account = self._grant.accounts[lease.account_name]
                if not ranking.is_usable(account, self._request.upstream_model, self._app.now()):
                    # The account began to cool down during the wait: no call was started.
                    lease.undo_start(self._app.starts)
                    self._has_started = bool(failed)
                    continue
                result = await self._calls.ask(account)
            if result.step.action is not Action.NEXT:
                return result
            failed.append(result)
            remaining = [other for other in remaining if other is not account]
        return self._best_failure(failed, last_refusal)

    def _rank(self, accounts: Sequence[Account]) -> Sequence[Account]:
        """The accounts that are usable now, best first; raises ``Refusal``."""
        model, state = self._request.upstream_model, self._app.now()
        usable = ranking.usable(accounts, model, state)
        return ranking.order(usable, self._grant.key, model, state, self._session)

    async def _slot(self, ranked: Sequence[Account]) -> Lease:
        """A slot of the best account that has one; raises ``Refusal`` after the longest wait."""
        waited = self._context.record.timeline.seconds(Phase.WAITING) or 0.0
        seconds = min(
            self._app.settings.slot_wait_seconds - waited,
            self._job.deadline - LEAST_SECONDS - time.monotonic(),
        )
        try:
            lease = await self._app.slots.slot(
                self._grant.key, ranked, seconds, starts=not self._has_started
            )
        except EarlyError as early:
            raise self._too_early(early.seconds) from None
        except BusyError as busy:
            raise ranking.all_busy(busy.seconds) from None
        else:
            self._has_started = True
            return lease

    def _best_failure(
        self, failed: Sequence[AttemptResult], last_refusal: Refusal | None
    ) -> AttemptResult:
        """No account is left: the most informative upstream answer, or else a refusal."""
        record = self._context.record
        best = failover.most_informative([result.outcome for result in failed])
        if best is not None:
            record.answering = failed[best].record
            return failed[best]
        record.answering = None
        if last_refusal is not None and last_refusal.code in _PASSING:
            raise last_refusal
        if any(result.outcome.stage is Stage.CONNECT for result in failed):
            raise Refusal(
                "upstream_unreachable",
                "No upstream could be reached; nothing was sent. Try again.",
                retry_after=_UNREACHABLE_RETRY_SECONDS,
            )
        raise last_refusal or ranking.no_credentials()
