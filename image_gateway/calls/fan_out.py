"""Several calls for one request, where one call makes one picture."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace

from image_gateway.calls.attempt import AttemptPlan, AttemptResult, AttemptRunner, UpstreamJob
from image_gateway.calls.collecting import AnyCollector
from image_gateway.context import AppContext
from image_gateway.core.routing.failover import Action
from image_gateway.edge.slots.leases import BusyError, Lease
from image_gateway.edge.upstream.http_client import UpstreamResponse


class FanOut:
    """One call for each picture, on as many of the account's slots as are free.

    The first call goes alone until its upstream has accepted it: an upstream that refuses it would
    refuse the others.  Then the others take the free slots, and a slot whose call has made its
    picture is used for the next call.
    """

    def __init__(
        self, app: AppContext, runner: AttemptRunner, job: UpstreamJob, plan: AttemptPlan
    ) -> None:
        self._app = app
        self._runner = runner
        self._job = job
        self._accepted = asyncio.Event()
        self._plan = replace(plan, choose=self._choose)
        self._choose_collector = plan.choose
        self._results: list[AttemptResult] = []
        self._wanted = 0

    def __repr__(self) -> str:
        return f"<FanOut {len(self._results)} ended, {self._wanted} wanted>"

    async def run(self, count: int) -> list[AttemptResult]:
        """The results, at least one, in the order in which the calls ended."""
        self._wanted = count
        with ExitStack() as taken:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._work(None))
                    await self._accepted.wait()
                    for _ in range(0 if self._results else self._wanted):
                        try:
                            lease = await self._slot()
                        except BusyError:
                            break
                        group.create_task(self._work(taken.enter_context(lease)))
            except BaseExceptionGroup as group_error:
                # All have the same cause: a bug.
                raise group_error.exceptions[0] from None
        return self._results

    async def _slot(self) -> Lease:
        key, account = self._job.grant.key, self._plan.account
        return await self._app.slots.slot(key, [account], 0)

    async def _work(self, lease: Lease | None) -> None:
        """Make calls on one slot, one after the other; ``lease`` None: the caller's slot."""
        while self._wanted > 0 and (lease is None or self._job.time_is_left):
            self._wanted -= 1
            result = await self._runner.run(self._plan)
            self._results.append(result)
            action = result.step.action
            if action in {Action.NEXT, Action.REREAD}:
                self._wanted = 0  # the account would refuse the others, too
            if action is not Action.DELIVER or not self._job.time_is_left:
                break
        self._accepted.set()
        if lease is not None:
            lease.release()

    def _choose(self, response: UpstreamResponse) -> AnyCollector | None:
        collector = self._choose_collector(response)
        if collector is not None:
            self._accepted.set()
        return collector
