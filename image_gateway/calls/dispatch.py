"""From account to account: rank them, wait for a slot, call, until one answer decides.

The accounts are ranked again before each attempt, because an attempt takes a minute: meanwhile
accounts cool down, fill up or recover.  One time limit covers all waits for slots of a request.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from image_gateway.calls.account_calls import AccountCalls
from image_gateway.calls.attempt import LEAST_SECONDS, AttemptResult, UpstreamJob
from image_gateway.calls.collecting import CollectContext, Collected
from image_gateway.context import AppContext
from image_gateway.core import headers
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.routing import admission, exhausted, ranking
from image_gateway.core.routing.cooldowns import Target
from image_gateway.core.routing.failover import Action
from image_gateway.edge.slots.claims import LimitError
from image_gateway.edge.slots.leases import BusyError, EarlyError, Lease


class Dispatch:
    """One request's search for an account that serves it."""

    def __init__(
        self, app: AppContext, context: CollectContext, job: UpstreamJob, call_id: str
    ) -> None:
        self._app = app
        self._call_id = call_id
        self._context = context
        self._request = job.request
        self._target = Target.of(job.request)
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

        Raises ``Refusal`` if no upstream's answer decides.
        """
        today = datetime.now(UTC).date()
        able = ranking.able(self._grant, self._request, self._app.catalogue, today)
        self._rank(able)
        admitted = self._admit()
        self._context.record.enter(Phase.ADMITTED)
        try:
            return await self._search(able)
        finally:
            if not self._context.record.attempts:
                self._app.starts.withdraw(self._grant.key.key_id, admitted)

    def salvage(self) -> Collected | None:
        """What there is of an answer after ``run`` was cancelled; None if nothing."""
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

    async def _search(self, able: Sequence[Account]) -> AttemptResult:
        failed: list[AttemptResult] = []
        last_refusal: Refusal | None = None
        remaining, is_last = able, False
        while remaining and (not failed or self._job.time_is_left):
            self._context.record.enter(Phase.WAITING)
            try:
                lease = await self._slot(self._rank(remaining))
            except Refusal as refusal:
                last_refusal = refusal
                break
            with lease:
                account = self._grant.accounts[lease.account_name]
                if not self._is_usable(account, remaining):
                    # The account was refused or failed during the wait: no call was started.
                    lease.undo_start(self._app.starts)
                    self._has_started = bool(failed)
                    continue
                result = await self._calls.ask(account)
            if result.step.action is not Action.NEXT:
                return result
            failed.append(result)
            if is_last:
                break
            # A picture may be under way: one further account is worth its price, two are not.
            is_last = result.step.may_be_billed
            remaining = [other for other in remaining if other is not account]
        return self._exhausted(failed, last_refusal, able)

    def _rank(self, accounts: Sequence[Account]) -> Sequence[Account]:
        """The accounts that are usable now, best first; raises ``Refusal``."""
        state = self._app.now()
        usable = ranking.usable(accounts, self._target, state)
        return ranking.order(usable, self._grant.key, self._target, state, self._session)

    def _is_usable(self, account: Account, remaining: Sequence[Account]) -> bool:
        try:
            return account in ranking.usable(remaining, self._target, self._app.now())
        except Refusal:
            return False

    async def _slot(self, ranked: Sequence[Account]) -> Lease:
        """A slot of the best account that has one; raises ``Refusal`` after the longest wait, and
        at once if the call is one too many of its key or its owner.
        """
        waited = self._context.record.timeline.seconds(Phase.WAITING) or 0.0
        seconds = min(
            self._app.settings.slot_wait_seconds - waited,
            self._job.deadline - LEAST_SECONDS - time.monotonic(),
        )
        try:
            lease = await self._app.slots.slot(
                self._grant.key,
                ranked,
                seconds,
                claim=self._job.claim,
                starts=not self._has_started,
                call_id=self._call_id,
            )
        except LimitError as reached:
            raise admission.too_many(self._grant.key, reached.kind) from None
        except EarlyError as early:
            raise self._too_early(early.seconds) from None
        except BusyError as busy:
            raise ranking.all_busy(busy.seconds) from None
        else:
            self._has_started = True
            return lease

    def _exhausted(
        self,
        failed: Sequence[AttemptResult],
        last_refusal: Refusal | None,
        able: Sequence[Account],
    ) -> AttemptResult:
        """No account is left: the upstream's answer to pass on, or else a refusal."""
        record = self._context.record
        decision = exhausted.decide(
            [result.outcome for result in failed],
            last_refusal,
            ranking.soonest(able, self._target, self._app.now()),
        )
        answering = None if decision.index is None else failed[decision.index]
        record.answering = None if answering is None else answering.record
        if decision.refusal is not None:
            raise decision.refusal
        assert answering is not None  # an answer or a refusal
        return answering
