"""One request's life: where decisions and awaits interleave.

``Exchange.run`` walks a request from its key to its record; ``dispatch``, ``attempts`` and
``delivery`` are its inner rooms: the way from account to account, one account asked, one answer
delivered.  Core says what may happen, edge makes
it happen, and between them three promises are kept:

- What is taken is given back: the key's place, the account's slot, the spool and the upstream's
  connection are context managers, left in the order of an onion by every way out.
- What may have been bought is not bought again: how a call ended goes through
  ``failover.next_step`` before another account is asked.
- What happened is recorded, once, whatever it was.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal

from image_gateway.calls.attempts import AttemptResult, UpstreamJob
from image_gateway.calls.delivery import Finish, ResponseContext
from image_gateway.calls.dispatch import Dispatch
from image_gateway.context import AppContext
from image_gateway.core import errors, headers
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.model import Grant, Key
from image_gateway.core.records import record
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import admission, failover
from image_gateway.core.routing.failover import Action, Stage
from image_gateway.core.routing.slots import Slot
from image_gateway.edge.client.downstream import ClientLeftError, Downstream, DrainedError
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.postgres.cache import UnavailableError
from image_gateway.edge.spool import Spool
from image_gateway.edge.upstream.http_client import LostError, UnsentError
from image_gateway.exchange.request_body import RequestBodyReader

_UNAVAILABLE_RETRY_SECONDS: Final = 5.0
_KEY_RETRY_SECONDS: Final = 1.0
_DRAIN_RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


Operation = Endpoint | Literal["responses"]
"""Where a path leads."""


class Exchange:
    """One request to an image path, from its headers to its record."""

    def __init__(
        self, app: AppContext, downstream: Downstream, record_builder: record.RecordBuilder
    ) -> None:
        self._app = app
        self._downstream = downstream
        self._record = record_builder
        self._began = time.monotonic()
        self._body_reader = RequestBodyReader(app, downstream, record_builder)
        self._dispatch: Dispatch | None = None
        self._stream: EventStream | None = None
        self._finish: Finish | None = None
        self._call = app.tracker.begin(record_builder, self._began)
        self._kept = ExitStack()

    def __repr__(self) -> str:
        return f"<Exchange {self._record.request_id} {self._downstream!r}>"

    async def run(self, operation: Operation | Refusal, path_model: str | None = None) -> None:
        """Answer the request and record it.  Raises nothing but a cancellation from outside.

        ``operation``: where the path leads, or the refusal that it leads to.
        """
        try:
            try:
                if isinstance(operation, Refusal):
                    raise operation
                if operation == "responses":
                    await self._serve_responses()
                else:
                    await self._serve_images(operation, path_model)
            except Refusal as refusal:
                await self._refuse(refusal)
            except DrainedError:
                await self._end_drained()
            except ClientLeftError:
                raise
            except Exception:  # noqa: BLE001 - the last resort of a request
                self._record_unfinished()
                _log.exception("request %s failed by a mistake of ours", self._record.request_id)
                await self._refuse(
                    Refusal(
                        "internal_error",
                        "The gateway made a mistake. Whoever runs it can find it by the request "
                        f"id {self._record.request_id}.",
                    )
                )
        except ClientLeftError:
            self._record_left()
        except asyncio.CancelledError:
            self._record_left()
            raise
        finally:
            if self._stream is not None:
                self._stream.quiet()
            self._kept.close()
            self._put_record()

    # -- admission -------------------------------------------------------------------------------

    async def _serve_images(self, endpoint: Endpoint, path_model: str | None) -> None:
        try:
            key = await self._find_key()
        except UnavailableError:
            raise _control_plane_unavailable() from None
        admission.check_key(key)
        with self._take_key(key), self._app.spools.open() as spool:
            parsed = await self._body_reader.image(endpoint, path_model, key, spool)
            await self._forward(key, parsed, spool)
        await self._send_rest()

    async def _serve_responses(self) -> None:
        try:
            key: Key | None = await self._find_key()
        except UnavailableError:
            key = None  # text does not wait for our Postgres
        with self._app.spools.open() as spool:
            if not await self._is_intent(key, spool):
                await self._pass_to_text_api(spool)
                return
            if key is None:
                raise _control_plane_unavailable()
            admission.check_key(key)
            with self._take_key(key):
                parsed = await self._body_reader.intent(key, spool)
                await self._forward(key, parsed, spool)
        await self._send_rest()

    async def _is_intent(self, key: Key | None, spool: Spool) -> bool:
        """Whether the body asks for a picture; it lies in the spool then, whatever it is."""
        signals = await self._body_reader.signals(spool)
        return signals.show_intent({} if key is None else key.model_map)

    async def _find_key(self) -> Key:
        """The key that came; raises ``Refusal`` and ``UnavailableError``."""
        began = time.monotonic()
        secret = headers.secret(self._downstream.headers)
        if secret is None:
            raise errors.missing_key()
        try:
            key = await self._app.control_plane.key(secret)
        finally:
            self._record.auth_ms = _ms(began)
        if key is None:
            raise errors.unknown_key()
        self._record.record_key(key)
        return key

    def _take_key(self, key: Key) -> Slot:
        slot = self._app.key_slots.take(key.key_id, key.max_concurrency)
        if slot is None:
            raise Refusal(
                "key_concurrency",
                f"This key may have {key.max_concurrency} image calls in flight, and has. "
                "Wait for one to end.",
                retry_after=_KEY_RETRY_SECONDS,
            )
        return slot

    async def _send_rest(self) -> None:
        if self._finish is None:
            self._downstream.break_off()
        else:
            await self._finish()

    # -- the way to an account -------------------------------------------------------------------

    async def _forward(self, key: Key, parsed: AnyRequest, spool: Spool) -> None:
        app = self._app
        if parsed.stream:
            self._stream = EventStream(self._downstream, app.settings.keepalive_seconds)
        async with self._downstream.watch():
            grant = await self._grant(key)
            context = ResponseContext(
                self._downstream,
                self._stream,
                self._record,
                app.spools,
                self._kept,
                app.settings.upstream_idle_seconds,
            )
            job = UpstreamJob(parsed, grant, self._downstream.headers, spool)
            self._dispatch = Dispatch(app, context, job)
            result = await self._dispatch.run()
            self._conclude(result, self._dispatch.attempts.finish)

    async def _grant(self, key: Key) -> Grant:
        began = time.monotonic()
        try:
            return await self._app.control_plane.grant(key)
        except UnavailableError:
            raise _control_plane_unavailable() from None
        finally:
            self._record.auth_ms = (self._record.auth_ms or 0) + _ms(began)

    async def _pass_to_text_api(self, spool: Spool) -> None:
        """What asks for no picture goes on as it came."""
        text_api, downstream, began = self._app.text_api, self._downstream, time.monotonic()
        if text_api is None:
            raise _not_an_image_request(is_encoded=self._body_reader.is_encoded)
        self._call.is_text = True
        try:
            async with (
                downstream.watch(),
                text_api.post(downstream.target, downstream.pairs, spool) as answer,
            ):
                self._record.upstream_ms = _ms(began)
                await downstream.pass_on(answer.status, answer.headers)
                async for chunk in answer.chunks():
                    await downstream.send(chunk)
            await downstream.finish()
        except UnsentError:
            raise Refusal(
                "upstream_unreachable",
                "The text API cannot be reached; nothing was sent. Try again.",
                retry_after=_UNAVAILABLE_RETRY_SECONDS,
            ) from None
        except LostError:
            raise Refusal("upstream_cut", "The text API's answer broke off.") from None

    def _conclude(self, result: AttemptResult, finish: Finish | None) -> None:
        """What the client gets of the call that decides; raises ``Refusal``."""
        step = result.step
        if step.action is Action.DELIVER:
            self._finish = finish
        elif step.action is Action.END and finish is not None:
            # The client has heard of it in the upstream's own words.
            self._record_failure(result)
            self._finish = finish
        elif step.action is Action.REPLACE and step.code is not None:
            raise failover.replacement(step.code)
        elif step.action in {Action.RETURN, Action.NEXT} or result.outcome.told:
            self._pass_on(result)
        else:
            raise failover.replacement("upstream_cut")

    # -- answers ---------------------------------------------------------------------------------

    def _pass_on(self, result: AttemptResult) -> None:
        """An upstream's error, in its own words, without what is nobody's business."""
        outcome, account = result.outcome, result.account
        status = outcome.status or 502
        body = errors.scrub(
            errors.passed_on(status, result.body, outcome.error),
            [*account.secrets(), account.account_name],
        )
        sent = headers.to_client_with_error(result.headers)
        if outcome.wait is not None and not headers.RETRY & set(sent):
            sent |= errors.retry_headers(outcome.wait)
        if not result.step.retry:
            sent["x-should-retry"] = "false"
        self._record_failure(result)
        self._finish = partial(self._answer, status, sent, body)

    def _record_failure(self, result: AttemptResult) -> None:
        outcome = result.outcome
        code = record.upstream_code(outcome.error) or f"upstream_{outcome.status or 502}"
        self._record.record_failure(code, Source.UPSTREAM)

    async def _answer(self, status: int, sent: Mapping[str, str], body: bytes) -> None:
        """An error as JSON: with its status, or as the last event of a stream that has begun."""
        if self._stream is not None:
            self._stream.quiet()
            if self._stream.committed:
                await self._stream.fail(body)
                return
        await self._downstream.answer(status, {**sent, "content-type": "application/json"}, body)

    async def _end_drained(self) -> None:
        """The drain deadline: what was made is delivered, what was sent stays unknown, what was
        not may come again.
        """
        self._record_unfinished()
        finish = None if self._dispatch is None else self._dispatch.attempts.salvage()
        if finish is not None:
            await finish()
        elif self._call.is_text:
            await self._refuse(
                Refusal(
                    "outcome_unknown",
                    "The call was sent to the text API, and this instance stops before its answer "
                    "has come.",
                )
            )
        elif self._record.may_be_billed:
            self._record.record_failure("outcome_unknown", Source.GATEWAY)
            await self._refuse(failover.replacement("outcome_unknown"))
        else:
            await self._refuse(draining())

    async def _refuse(self, refusal: Refusal) -> None:
        self._record.record_failure(refusal.code, refusal.spec.source)
        if self._stream is None and self._downstream.status is not None:
            self._downstream.break_off()
            return
        await self._answer(refusal.spec.status, refusal.headers(), refusal.body())

    # -- the record ------------------------------------------------------------------------------

    def _record_left(self) -> None:
        record_builder = self._record
        record_builder.client_left = True
        record_builder.record_failure(errors.CLIENT_LEFT, Source.CLIENT)
        self._record_unfinished()

    def _record_unfinished(self) -> None:
        """Sent and not answered, or answered and not delivered: it may be billed all the same."""
        for attempt in self._record.attempts:
            if attempt.stage != Stage.CONNECT:
                self._record.may_be_billed |= attempt.action in {None, Action.DELIVER}

    def _put_record(self) -> None:
        record_builder = self._record
        record_builder.status = self._downstream.status
        record_builder.request_bytes = self._downstream.request_bytes
        record_builder.response_bytes = self._downstream.response_bytes
        record_builder.total_ms = _ms(self._began)
        self._app.tracker.end(self._call, datetime.now(UTC))
        self._app.metrics.observe(record_builder)
        self._app.logs.put(record.build(record_builder))


def draining() -> Refusal:
    """This instance stops; another one, or the next, is there for the call."""
    return Refusal(
        "draining",
        "This instance is stopping. Send the call again.",
        retry_after=_DRAIN_RETRY_SECONDS,
    )


def _not_an_image_request(*, is_encoded: bool) -> Refusal:
    if is_encoded:
        return Refusal("unsupported_media_type", "Send the body without a `content-encoding`.")
    return Refusal(
        "not_an_image_request",
        "This gateway serves calls that ask for a picture: by a model `gpt-image-*`, an "
        "`image_generation` tool, or a `tool_choice` that selects it. Send others to the text API.",
    )


def _control_plane_unavailable() -> Refusal:
    return Refusal(
        "control_plane_unavailable",
        "The gateway cannot look up API keys right now. Try again in a moment.",
        retry_after=_UNAVAILABLE_RETRY_SECONDS,
    )


def _ms(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
