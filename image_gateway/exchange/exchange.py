"""One request's life, phase by phase, from its head to its record.

Core decides, edge does the IO, and this module keeps three promises:

- Every resource is given back: the key's slot, the account's slot, the spool and the upstream's
  connection are context managers, which every exit leaves in reverse order.
- A picture that may have been bought is not bought again: the outcome of a call goes through
  ``failover.next_step`` before another account is tried.
- Every request is recorded exactly once.
"""

import asyncio
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from image_gateway.calls.attempt import AttemptResult, UpstreamJob
from image_gateway.calls.delivery import Finish, ResponseContext
from image_gateway.calls.dispatch import Dispatch
from image_gateway.context import AppContext
from image_gateway.core import errors, headers
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.model import Grant, Key
from image_gateway.core.records.builder import RecordBuilder, Sent
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.core.routing import admission, failover, offers
from image_gateway.core.routing.failover import Action
from image_gateway.core.routing.slots import Slot
from image_gateway.edge.client.downstream import ClientLeftError, Downstream, DrainedError
from image_gateway.edge.client.event_stream import EventStream
from image_gateway.edge.postgres.cache import UnavailableError
from image_gateway.edge.spool import Spool, SpooledBody
from image_gateway.exchange import answers, cors, model_list, text_passthrough
from image_gateway.exchange.answers import Answers
from image_gateway.exchange.request_body import RequestBodyReader

_KEY_RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


Operation = Endpoint | Literal["responses"]
"""The operation that a path stands for."""


@dataclass(frozen=True, slots=True)
class Models:
    """A question for the models that the key may ask for: all of them, or the one named."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """A browser's question whether a page may call a path; ``methods`` are the path's."""

    methods: str


class Exchange:
    """One request to an image path."""

    def __init__(self, app: AppContext, downstream: Downstream, record: RecordBuilder) -> None:
        self._app = app
        self._downstream = downstream
        self._record = record
        self._answers = Answers(downstream, record)
        self._body_reader = RequestBodyReader(app, downstream, record)
        self._dispatch: Dispatch | None = None
        self._finish: Finish | None = None
        self._in_flight = app.tracker.begin(record)
        self._kept = ExitStack()

    def __repr__(self) -> str:
        return f"<Exchange {self._record!r} {self._downstream!r}>"

    async def run(
        self,
        operation: Operation | Models | Preflight | Refusal,
        path_model: str | None = None,
    ) -> None:
        """Answer the request and record it.  Raises only a cancellation from outside.

        ``operation``: the operation of the path and method, or a refusal.
        """
        try:
            try:
                await self._serve(operation, path_model)
            except Refusal as refusal:
                await self._answers.refuse(refusal)
            except DrainedError:
                await self._end_drained()
            except ClientLeftError:
                raise
            except Exception:  # noqa: BLE001 - the last resort of a request
                self._record.break_off()
                await self._answers.refuse(self._internal_error())
        except ClientLeftError:
            self._end_left()
        except asyncio.CancelledError:
            self._end_left()
            raise
        finally:
            if self._answers.stream is not None:
                self._answers.stream.quiet()
            self._kept.close()
            self._put_record()

    async def _serve(
        self, operation: Operation | Models | Preflight | Refusal, path_model: str | None
    ) -> None:
        match operation:
            case Refusal():
                raise operation
            case Preflight():
                await self._serve_preflight(operation)
            case Models():
                await self._serve_models(operation)
            case "responses":
                await self._serve_responses()
            case _:
                await self._serve_images(operation, path_model)

    # -- admission -------------------------------------------------------------------------------

    async def _serve_images(self, endpoint: Endpoint, path_model: str | None) -> None:
        try:
            key = await self._find_key()
        except UnavailableError:
            raise answers.control_plane_unavailable() from None
        admission.check_key(key)
        with self._take_key(key), self._app.spools.open() as spool:
            raw = await self._body_reader.parameters(endpoint, spool)
            async with self._downstream.watch():
                grant = await self._grant(key)
                request = self._body_reader.image(endpoint, path_model, grant, raw)
                await self._forward(grant, request, spool)
        await self._send_rest()

    async def _serve_responses(self) -> None:
        try:
            key: Key | None = await self._find_key()
        except UnavailableError:
            key = None  # calls to the text API do not depend on Postgres
        with self._app.spools.open() as spool:
            signals = await self._body_reader.signals(spool)
            model_map = {} if key is None else key.model_map
            if not signals.show_intent(model_map):
                await self._pass_to_text_api(spool.whole())
                return
            if key is None:
                raise answers.control_plane_unavailable()
            if self._strips_tool(key) and signals.only_list_tool(model_map):
                async with self._body_reader.opened(spool) as body:
                    left = await self._body_reader.without_tool(key, body)
                    if left is not None:
                        await self._pass_to_text_api(left, is_changed=True)
                        return
            admission.check_key(key)
            with self._take_key(key):
                async with self._downstream.watch(), self._body_reader.opened(spool) as body:
                    grant = await self._grant(key)
                    request = await self._body_reader.intent(grant, body)
                    await self._forward(grant, request, body)
        await self._send_rest()

    def _strips_tool(self, key: Key) -> bool:
        """Whether a call that only lists the image tool goes on as text, without it."""
        strips = self._app.settings.ambient_image_tool == "strip"
        return strips and not admission.may_make_images(key)

    async def _serve_models(self, asked: Models) -> None:
        """Name the models that the key may ask for."""
        app, today = self._app, datetime.now(UTC).date()
        try:
            key = await self._find_key()
        except UnavailableError:
            raise answers.control_plane_unavailable() from None
        admission.check_active(key)
        grant = await self._grant(key)
        is_on, catalogue = admission.may_make_images(key), app.catalogue
        names = offers.offered(grant, catalogue, today) if is_on else ()
        if asked.name is None:
            body = model_list.listing(names, catalogue)
        elif is_on and offers.is_offered(grant, asked.name, catalogue):
            body = model_list.single(asked.name, catalogue)
        else:
            raise offers.not_found(asked.name, names)
        await self._downstream.answer(200, {"content-type": "application/json"}, body)

    async def _serve_preflight(self, asked: Preflight) -> None:
        """Answer a browser that asks before it sends a call; such a question has no key."""
        await self._downstream.start(204, cors.preflight(self._downstream.headers, asked.methods))
        await self._downstream.finish()

    async def _find_key(self) -> Key:
        """The request's API key; raises ``Refusal`` and ``UnavailableError``."""
        secret = headers.secret(self._downstream.headers)
        if secret is None:
            raise errors.missing_key()
        self._record.enter(Phase.RECEIVED)
        key = await self._app.control_plane.key(secret)
        if key is None:
            raise errors.unknown_key()
        self._record.key = key
        return key

    def _take_key(self, key: Key) -> Slot:
        slot = self._app.key_slots.take(key.key_id, key.max_concurrency)
        if slot is None:
            calls = "call" if key.max_concurrency == 1 else "calls"
            raise Refusal(
                "key_concurrency",
                f"Concurrency limit reached: {key.max_concurrency} {calls} in flight for this key. "
                "Wait for one to end.",
                retry_after=_KEY_RETRY_SECONDS,
            )
        return slot

    async def _pass_to_text_api(self, body: SpooledBody, *, is_changed: bool = False) -> None:
        text_api = self._app.text_api
        if text_api is None:
            raise answers.not_an_image_request()
        self._in_flight.is_text = True
        await text_passthrough.pass_on(
            text_api, self._downstream, self._record, body, is_changed=is_changed
        )

    # -- dispatch --------------------------------------------------------------------------------

    async def _forward(self, grant: Grant, request: AnyRequest, spool: Spool) -> None:
        app = self._app
        if request.stream:
            self._answers.stream = EventStream(
                self._downstream,
                app.settings.keepalive_seconds,
                numbered=isinstance(request, IntentRequest),
            )
        context = ResponseContext(
            self._downstream,
            self._answers.stream,
            self._record,
            app.spools,
            self._kept,
            app.settings.upstream_idle_seconds,
        )
        deadline = time.monotonic() + app.settings.total_seconds
        job = UpstreamJob(request, grant, self._downstream.headers, spool, deadline)
        self._dispatch = Dispatch(app, context, job)
        self._conclude(await self._dispatch.run())

    async def _grant(self, key: Key) -> Grant:
        try:
            return await self._app.control_plane.grant(key)
        except UnavailableError:
            raise answers.control_plane_unavailable() from None

    def _conclude(self, result: AttemptResult) -> None:
        """Choose what the client gets from the attempt that decides; raises ``Refusal``."""
        step = result.step
        if step.action is Action.DELIVER:
            self._finish = result.finish
        elif step.action is Action.REPLACE and step.code is not None:
            raise failover.replacement(step.code, result.outcome.error.message)
        elif step.action in {Action.RETURN, Action.NEXT} or result.outcome.has_error:
            self._finish = self._answers.pass_on(result)
        else:
            raise failover.replacement("upstream_cut")

    async def _send_rest(self) -> None:
        """Send the last bytes, once every slot and connection is given back."""
        self._record.enter(Phase.DELIVERED)
        if self._finish is None:
            self._downstream.break_off()
        else:
            await self._finish()

    # -- other endings ---------------------------------------------------------------------------

    async def _end_drained(self) -> None:
        """End the request at the drain deadline.

        Pictures that exist are delivered; the outcome of a sent call stays unknown; a call that was
        not sent may be retried.
        """
        self._record.break_off()
        finish = None if self._dispatch is None else self._dispatch.salvage()
        if finish is not None:
            self._record.enter(Phase.DELIVERED)
            await finish()
        elif self._in_flight.is_text:
            await self._answers.refuse(
                Refusal(
                    "outcome_unknown",
                    "The call was sent to the text API, but this instance is stopping before the "
                    "answer has arrived.",
                )
            )
        elif self._record.may_be_billed:
            self._record.fail("outcome_unknown", Source.GATEWAY)
            await self._answers.refuse(failover.replacement("outcome_unknown"))
        else:
            await self._answers.refuse(answers.draining())

    def _end_left(self) -> None:
        self._record.client_left = True
        self._record.fail(errors.CLIENT_LEFT, Source.CLIENT)
        self._record.break_off()

    def _internal_error(self) -> Refusal:
        """The refusal after an exception, while it is being handled; logs the traceback."""
        request_id = self._record.arrival.request_id
        _log.exception("request %s failed because of a bug in the gateway", request_id)
        return Refusal(
            "internal_error",
            "The call failed because of a bug in the gateway. Give its operator the request id "
            f"{request_id}.",
        )

    def _put_record(self) -> None:
        downstream = self._downstream
        self._record.enter(Phase.RECORDED)
        sent = Sent(downstream.status, downstream.request_bytes, downstream.response_bytes)
        record = self._record.build(sent, self._app.prices)
        self._app.tracker.end(self._in_flight, record, datetime.now(UTC))
        self._app.metrics.observe(record)
        self._app.logs.put(record.as_json())
