"""One account asked: its calls, what each came to, and what follows from that.

``Attempts.ask`` knows three things that make an account's answer more than one call.  A credential
that was refused is read again, once, because the control plane may have renewed it meanwhile.  An
upstream that is a pool itself is asked again.  And where one call makes one picture, several calls
serve a request together.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from image_gateway.calls.delivery import (
    BodyPassthrough,
    Delivery,
    Finish,
    ResponseContext,
    StreamPassthrough,
    SyntheticStream,
)
from image_gateway.calls.fan_out import FanOut
from image_gateway.calls.responses_api import AssembledResponse, ResponseStreamPassthrough
from image_gateway.context import AppContext
from image_gateway.core import dialects, errors, headers
from image_gateway.core.dialects import ExpectedResponse, UpstreamRequest
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account, Grant
from image_gateway.core.records import record
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.core.routing import capability, failover, ranking
from image_gateway.core.routing.cooldowns import Cause
from image_gateway.core.routing.failover import Action, AttemptOutcome, Stage, Step
from image_gateway.edge.slots.broker import BusyError, Lease
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import (
    LostError,
    UnsentError,
    UpstreamConnection,
    UpstreamResponse,
)

LEAST_SECONDS: Final = 30.0
"""A further attempt with less time left would buy a picture that comes too late."""

AGAIN_SECONDS: Final = 0.5
"""Before an upstream that is a pool is asked again (``same_account_retries``)."""

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_PROXY_REFUSED: Final = 407
_ERROR_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How a call ended; ``headers`` and ``body`` are those of an answer that was no success."""

    account: Account
    outcome: AttemptOutcome
    note: record.AttemptRecord
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def step(self) -> Step:
        """What follows from it."""
        return failover.next_step(self.outcome)


@dataclass(frozen=True)
class UpstreamJob:
    """What is to be served: the request, for whom, the client's headers, and the body's spool."""

    request: AnyRequest
    grant: Grant
    client: Headers
    spool: Spool


class Attempts:
    """One request's calls.  ``finish`` is what a success leaves for the client."""

    def __init__(
        self, app: AppContext, context: ResponseContext, job: UpstreamJob, deadline: float
    ) -> None:
        self._app = app
        self._context = context
        self._job = job
        self._request = job.request
        self._deadline = deadline
        self._making: FanOut | AssembledResponse | None = None
        self._is_last = True
        self.finish: Finish | None = None

    def __repr__(self) -> str:
        return f"<Attempts {len(self._context.record_builder.attempts)}>"

    @property
    def time_is_left(self) -> bool:
        """Whether a further call would be in time."""
        return self._deadline - time.monotonic() >= LEAST_SECONDS

    async def ask(self, account: Account) -> AttemptResult:
        """Ask an account until it decides, or as often as it wants to be asked.

        The account's slot is the caller's.  Raises ``ClientLeftError``.
        """
        for again in reversed(range(account.same_account_retries + 1)):
            self._is_last = again == 0
            result = await self._ask_signed(account)
            if self._is_last or result.step.action is not Action.NEXT:
                break
            if not self.time_is_left:
                self._is_last = True
                self._cool(result, time.monotonic())
                break
            # An upstream that is a pool itself: its next member may do better.
            result.note.action = Action.RETRY
            await asyncio.sleep(AGAIN_SECONDS)
        return result

    async def _ask_signed(self, account: Account) -> AttemptResult:
        """Twice at most: once more where the account's credential was renewed meanwhile."""
        began = time.monotonic()
        result = await self._ask_once(account, reread=False)
        if result.step.action is not Action.REREAD:
            return result
        renewed = await self._app.control_plane.reread(account.account_name, began)
        if (
            renewed is not None
            and renewed.credential != account.credential
            and ranking.has_credential(renewed, datetime.now(UTC))
            and self.time_is_left
        ):
            return await self._ask_once(renewed, reread=True)
        return self._refused(result)

    def salvage(self) -> Finish | None:
        """What is left for the client where all calls had to end before they were done."""
        if self._making is None or not self._making.pictures:
            return None
        self._making.conclude()
        return self._making.finish

    def _refused(self, result: AttemptResult) -> AttemptResult:
        """A refused credential for which no other was found."""
        result = replace(result, outcome=replace(result.outcome, reread=True))
        result.note.action = result.step.action
        self._cool(result, time.monotonic())
        return result

    async def _ask_once(self, account: Account, *, reread: bool) -> AttemptResult:
        request, settings = self._request, self._app.settings
        route = capability.choose(account, request)
        if isinstance(route, capability.Gap):
            raise TypeError("an account was asked for what it cannot do")
        encode_context = dialects.EncodeContext(
            settings.codex_base_url, settings.codex_client_version, secrets.token_hex(16)
        )
        upstream_request = dialects.encode(
            request, route, account, self._job.client, encode_context
        )
        if upstream_request.expects is ExpectedResponse.RESPONSE_EVENTS and isinstance(
            request, ImageRequest
        ):
            return await self._ask_all(account, request, upstream_request, reread=reread)
        return await self._call(account, upstream_request, reread=reread)

    # -- several calls for one request -----------------------------------------------------------

    async def _ask_all(
        self,
        account: Account,
        request: ImageRequest,
        upstream_request: UpstreamRequest,
        *,
        reread: bool,
    ) -> AttemptResult:
        """As many calls as pictures are wanted, on as many slots as are free.

        The first call goes alone until its upstream has accepted it: whatever would refuse it would
        refuse the others.  Then the others take what slots are free, and a slot whose call has made
        its picture serves for the next one.
        """
        key = self._job.grant.key
        self._making = fan_out = FanOut(self._context, request)
        accepted = asyncio.Event()
        results: list[AttemptResult] = []
        wanted = request.count

        async def work(lease: Lease | None = None) -> None:
            nonlocal wanted
            while wanted > 0 and (lease is None or self.time_is_left):
                wanted -= 1
                result = await self._call(
                    account, upstream_request, fan_out, accepted, reread=reread
                )
                results.append(result)
                if result.step.action in {Action.NEXT, Action.REREAD}:
                    wanted = 0  # the account would refuse the others, too
                if result.step.action is not Action.DELIVER or not self.time_is_left:
                    break
            accepted.set()
            if lease is not None:
                lease.release()

        with ExitStack() as taken:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(work())
                    await accepted.wait()
                    for _ in range(0 if results else wanted):
                        try:
                            lease = await self._app.slots.slot(key, [account], 0)
                        except BusyError:
                            break
                        group.create_task(work(taken.enter_context(lease)))
            except BaseExceptionGroup as found:
                # One says it all: the client left, or a mistake of ours that all of them made.
                raise found.exceptions[0] from None
        self.finish = self.salvage()
        decisive = failover.weightiest([each.step for each in results])
        for index, result in enumerate(results):
            if result.step.action is Action.REREAD and index != decisive:
                self._refused(result)
        return results[decisive]

    # -- one call --------------------------------------------------------------------------------

    async def _call(
        self,
        account: Account,
        upstream_request: UpstreamRequest,
        fan_out: FanOut | None = None,
        accepted: asyncio.Event | None = None,
        *,
        reread: bool,
    ) -> AttemptResult:
        """One call, and its answer delivered as far as it goes."""
        record_builder, stream = self._context.record_builder, self._context.stream
        note = record.AttemptRecord(account.account_name, account.dialect, stage=Stage.CONNECT)
        record_builder.attempts.append(note)
        record_builder.account_name, record_builder.dialect = account.account_name, account.dialect
        if stream is not None:
            stream.name_headers({})
            stream.keep_alive()
        seconds = self._app.settings.attempt_seconds[account.dialect]
        began = time.monotonic()
        until = min(began + seconds, self._deadline)
        model = self._request.upstream_model
        async with AsyncExitStack() as opened:
            opened.enter_context(
                self._app.cooldowns.call(account.account_name, model, began, account.credential)
            )
            connection = await opened.enter_async_context(
                self._app.upstream.connection(upstream_request, self._job.spool, account.proxy)
            )
            result, response = await self._open(
                connection, account, upstream_request, until, note, reread=reread
            )
            if response is not None:
                if accepted is not None:
                    accepted.set()
                way = fan_out or self._way(response)
                try:
                    outcome = await way.take(response, account.dialect, until)
                finally:
                    note.stage = Stage.STREAM if self._context.has_begun else Stage.ANSWER
                result = replace(result, outcome=replace(outcome, reread=reread))
                self.finish = way.finish
            outcome, step = result.outcome, result.step
            note.stage = Stage.STREAM if outcome.usable else outcome.stage
            note.action = step.action
            note.error_code = outcome.reason or record.upstream_code(outcome.error)
            record_builder.may_be_billed |= step.may_be_billed
            self._cool(result, began)
            return result

    async def _open(
        self,
        connection: UpstreamConnection,
        account: Account,
        upstream_request: UpstreamRequest,
        until: float,
        note: record.AttemptRecord,
        *,
        reread: bool,
    ) -> tuple[AttemptResult, UpstreamResponse | None]:
        """Send a call; gives its answer where that promises to be what was asked for."""
        began = time.monotonic()
        try:
            response = await connection.open(until - began)
        except UnsentError as error:
            outcome = AttemptOutcome(Stage.CONNECT, account.dialect, reason=str(error))
            return AttemptResult(account, outcome, note), None
        except LostError as error:
            outcome = AttemptOutcome(Stage.SENT, account.dialect, reason=str(error))
            return AttemptResult(account, outcome, note), None
        finally:
            if connection.connected:
                note.stage = Stage.SENT
            note.upstream_ms = round((time.monotonic() - began) * 1000)
            record_builder = self._context.record_builder
            record_builder.upstream_ms = (record_builder.upstream_ms or 0) + note.upstream_ms
        note.status = response.status
        if account.dialect == "codex":
            self._app.budgets.learn(account, response.headers, time.monotonic(), time.time())
        if self._is_usable(response, upstream_request):
            outcome = AttemptOutcome(Stage.ANSWER, account.dialect, response.status)
            return AttemptResult(account, outcome, note), response
        return await self._read_failure(account, response, note, reread=reread), None

    def _is_usable(self, response: UpstreamResponse, upstream_request: UpstreamRequest) -> bool:
        """Whether an answer's head promises what was asked for.

        Who was asked for events of the Images API and answers with a whole answer has made the
        pictures all the same.
        """
        kind = headers.media_type(response.headers.get("content-type"))
        wanted = {
            ExpectedResponse.JSON: {_JSON},
            ExpectedResponse.IMAGE_EVENTS: {_EVENTS, _JSON},
            ExpectedResponse.RESPONSE_EVENTS: {_EVENTS},
            ExpectedResponse.RESPONSE: {_EVENTS},
        }
        plain = response.headers.get("content-encoding", "identity").lower() == "identity"
        return 200 <= response.status < 300 and kind in wanted[upstream_request.expects] and plain

    def _way(self, response: UpstreamResponse) -> Delivery:
        context, request, stream = self._context, self._request, self._context.stream
        if isinstance(request, IntentRequest):
            if stream is not None:
                return ResponseStreamPassthrough(context, stream)
            self._making = AssembledResponse(context)
            return self._making
        if stream is None:
            return BodyPassthrough(context, request)
        if headers.media_type(response.headers.get("content-type")) == _EVENTS:
            return StreamPassthrough(context, stream, request)
        return SyntheticStream(context, stream, request)

    async def _read_failure(
        self,
        account: Account,
        response: UpstreamResponse,
        note: record.AttemptRecord,
        *,
        reread: bool,
    ) -> AttemptResult:
        """What an answer says that is no success."""
        if 200 <= response.status < 300:
            return AttemptResult(
                account, AttemptOutcome(Stage.ANSWER, account.dialect, response.status), note
            )
        if response.status == _PROXY_REFUSED and account.proxy is not None:
            # The proxy speaks for itself; what it refused did not reach the upstream.
            outcome = AttemptOutcome(Stage.CONNECT, account.dialect, reason="ProxyRefused")
            return AttemptResult(account, outcome, note)
        body = await response.read(_ERROR_BYTES, _ERROR_SECONDS)
        error = errors.read_upstream_error(body)
        outcome = AttemptOutcome(
            Stage.ANSWER,
            account.dialect,
            response.status,
            error=error,
            wait=headers.named_wait(
                response.headers, error, time.time(), limited=response.status == 429
            ),
            challenge=headers.media_type(response.headers.get("content-type")) == "text/html",
            reread=reread,
        )
        return AttemptResult(account, outcome, note, response.headers, body)

    def _cool(self, result: AttemptResult, began: float) -> None:
        """Remember what a call that began at ``began`` says about its account."""
        health, account, step = self._app.cooldowns, result.account, result.step
        model = self._request.upstream_model
        if step.action is Action.DELIVER:
            health.succeed(account.account_name, model, began)
        elif step.cooldown is not None and self._is_last:
            now = time.monotonic()
            cause = Cause(result.note.status, result.note.error_code)
            seconds = health.trip(
                account.account_name, model, step.cooldown, now, account.credential, cause
            )
            _log.warning(
                "account %s cools down for %.0f s: status %s, code %s, request %s",
                account.account_name,
                seconds,
                result.note.status,
                result.note.error_code,
                self._context.record_builder.request_id,
            )
        elif step.action is Action.NEXT and self._is_last:
            # An overload, a 5xx, or no connection: the next call may ask it again.
            _log.warning(
                "account %s failed at %s: status %s, code %s, request %s",
                account.account_name,
                result.note.stage,
                result.note.status,
                result.note.error_code,
                self._context.record_builder.request_id,
            )
