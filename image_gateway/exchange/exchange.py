"""One request's life, phase by phase, from its head to its record.

Core decides, edge does the IO, and this module keeps three promises:

- Every resource is given back: what a request holds is in one stack, which a call takes over.
- A picture that may have been bought is not bought again: a request finds the call that made it.
- Every request is recorded exactly once: when it has ended, and the call that it started, too.
"""

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from image_gateway.calls import conclusion
from image_gateway.calls.registry import Calls
from image_gateway.calls.search import FoundHere, FoundKept
from image_gateway.context import AppContext
from image_gateway.core import errors, headers
from image_gateway.core.calls import preferences
from image_gateway.core.calls.finding import Asking
from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Refusal, Source
from image_gateway.core.model import Grant, Key
from image_gateway.core.records.builder import FoundCall, RecordBuilder, Sent
from image_gateway.core.records.phases import Phase
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.routing import admission, offers
from image_gateway.edge.client.downstream import ClientLeftError, Downstream, DrainedError
from image_gateway.edge.kept.disk import DiskTroubleError
from image_gateway.edge.postgres.cache import UnavailableError
from image_gateway.edge.spool import SpooledBody
from image_gateway.exchange import answers, cors, model_list, text_passthrough
from image_gateway.exchange.background import BackgroundResponses, StoredResponse
from image_gateway.exchange.call_lookup import CallLookup
from image_gateway.exchange.call_pages import CallPage, CallPages
from image_gateway.exchange.handover import Handover, Submission
from image_gateway.exchange.request_body import RequestBodyReader
from image_gateway.exchange.submission import RespondAsync

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


AnyOperation = Operation | Models | CallPage | Preflight | StoredResponse | Refusal


class Exchange:
    """One request to an image path."""

    def __init__(
        self, app: AppContext, calls: Calls, downstream: Downstream, record: RecordBuilder
    ) -> None:
        self._app = app
        self._downstream = downstream
        self._record = record
        self._body_reader = RequestBodyReader(app, downstream, record)
        self._calls = calls
        self._lookup = CallLookup(app, calls, downstream, record)
        self._background = BackgroundResponses(app, calls, downstream, record)
        self._submission: Submission | None = None
        self._found: FoundHere | FoundKept | None = None
        self._has_ended = False
        self._in_flight = app.tracker.begin(record)

    def __repr__(self) -> str:
        return f"<Exchange {self._record!r} {self._downstream!r}>"

    async def run(
        self,
        operation: AnyOperation,
        path_model: str | None = None,
    ) -> None:
        """Answer the request and record it.  Raises only a cancellation from outside.

        ``operation``: the operation of the path and method, or a refusal.
        """
        try:
            try:
                await self._serve(operation, path_model)
            except Refusal as refusal:
                await self._refuse(refusal)
            except DiskTroubleError:
                await self._refuse(answers.kept_unavailable())
            except DrainedError:
                await self._end_drained()
            except ClientLeftError:
                raise
            except Exception:  # noqa: BLE001 - the last resort of a request
                request_id = self._record.arrival.request_id
                _log.exception("request %s failed because of a bug in the gateway", request_id)
                await self._refuse(conclusion.internal_error(request_id))
        except ClientLeftError:
            self._end_left()
        except asyncio.CancelledError:
            self._end_left()
            raise
        finally:
            self._end()

    async def _serve(self, operation: AnyOperation, path_model: str | None) -> None:
        match operation:
            case Refusal():
                raise operation
            case Preflight():
                await self._serve_preflight(operation)
            case Models():
                await self._serve_models(operation)
            case StoredResponse():
                await self._serve_stored(operation)
            case CallPage():
                await self._serve_call_page(operation)
            case "responses":
                await self._serve_responses()
            case _:
                await self._serve_images(operation, path_model)

    # -- admission -------------------------------------------------------------------------------

    async def _serve_images(self, endpoint: Endpoint, path_model: str | None) -> None:
        key = await self._known_key()
        admission.check_switches(key, datetime.now(UTC))
        with await self._lookup.visit(key), ExitStack() as resources:
            spool = resources.enter_context(self._app.spools.open())
            raw = await self._body_reader.parameters(endpoint, spool)
            async with self._downstream.watch():
                grant = await self._grant(key)
                request = self._body_reader.image(endpoint, path_model, grant, raw)
                self._submission = self._read_wishes(request)
                wants_id = self._submission is not None
                found = await self._lookup.find(key, request, wants_id=wants_id)
            if isinstance(found, Asking):
                found = self._lookup.start(found, grant, request, spool, resources)
            resources.close()
            await self._deliver(found, request)

    def _read_wishes(self, request: AnyRequest) -> Submission | None:
        """The request as a submission, if its client would rather ask for the answer later.

        A stream cannot be asked for later, and a wish may be ignored (RFC 7240, 2).
        """
        wishes = preferences.read(self._downstream.headers.all("prefer"))
        if request.stream or not wishes.respond_async:
            return None
        path = self._downstream.target.partition("?")[0]
        return RespondAsync(self._app, self._downstream, path, wishes)

    async def _serve_call_page(self, page: CallPage) -> None:
        """Show the key's own calls."""
        key = await self._known_key()
        admission.check_switches(key, datetime.now(UTC))
        pages = CallPages(self._app, self._calls, self._downstream, self._record)
        await pages.serve(key, page)

    async def _serve_responses(self) -> None:
        try:
            key: Key | None = await self._find_key()
        except UnavailableError:
            key = None  # calls to the text API do not depend on Postgres
        with ExitStack() as resources:
            spool = resources.enter_context(self._app.spools.open())
            signals = await self._body_reader.signals(spool)
            model_map = {} if key is None else key.model_map
            if not signals.show_intent(model_map):
                await self._pass_to_text_api(spool.whole())
                return
            if key is None:
                raise answers.control_plane_unavailable()
            if self._strips_tool(key) and signals.only_list_tool(model_map):
                body = await self._body_reader.opened(spool, resources)
                left = await self._body_reader.without_tool(key, body)
                if left is not None:
                    await self._pass_to_text_api(left, is_changed=True)
                    return
            admission.check_switches(key, datetime.now(UTC))
            with await self._lookup.visit(key):
                async with self._downstream.watch():
                    body = await self._body_reader.opened(spool, resources)
                    grant = await self._grant(key)
                    request = await self._body_reader.intent(grant, body)
                    if request.background:
                        self._background.check_possible()
                        # The first event of a stream has the id.
                        self._submission = None if request.stream else self._background
                    found = await self._lookup.find(key, request, wants_id=request.background)
                if isinstance(found, Asking):
                    found = self._lookup.start(found, grant, request, body, resources)
                resources.close()
                await self._deliver(found, request)

    async def _serve_stored(self, asked: StoredResponse) -> None:
        """Answer about a response in the background, which costs nothing any more."""
        key = await self._known_key()
        admission.check_active(key, datetime.now(UTC))
        await self._background.serve(asked, key)

    def _strips_tool(self, key: Key) -> bool:
        """Whether a call that only lists the image tool goes on as text, without it."""
        strips = self._app.settings.ambient_image_tool == "strip"
        return strips and not admission.may_make_images(key)

    async def _serve_models(self, asked: Models) -> None:
        """Name the models that the key may ask for."""
        app, today = self._app, datetime.now(UTC).date()
        key = await self._known_key()
        admission.check_active(key, datetime.now(UTC))
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

    async def _known_key(self) -> Key:
        try:
            return await self._find_key()
        except UnavailableError:
            raise answers.control_plane_unavailable() from None

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

    async def _pass_to_text_api(self, body: SpooledBody, *, is_changed: bool = False) -> None:
        text_api = self._app.text_api
        if text_api is None:
            raise answers.not_an_image_request()
        self._in_flight.is_text = True
        await text_passthrough.pass_on(
            text_api, self._downstream, self._record, body, is_changed=is_changed
        )

    async def _grant(self, key: Key) -> Grant:
        try:
            return await self._app.control_plane.grant(key)
        except UnavailableError:
            raise answers.control_plane_unavailable() from None

    # -- the call --------------------------------------------------------------------------------

    async def _deliver(self, found: FoundHere | FoundKept, request: AnyRequest) -> None:
        """Hand over the call that the request started or found."""
        identity, source = found.identity, found.source
        self._found = found
        self._record.found_call = FoundCall(identity.call_id, source, identity.request_id)
        self._downstream.own_headers = {
            "x-call-id": identity.call_id,
            "x-call-source": source.value,
            **({"idempotent-replayed": "true"} if source is CallSource.REPLAYED else {}),
        }
        handover = Handover(
            self._app,
            self._downstream,
            self._record,
            waits_no_more=self._lookup.leave,
            sent=self._end,
        )
        await handover.run(found, request, self._submission)

    # -- other endings ---------------------------------------------------------------------------

    async def _refuse(self, refusal: Refusal) -> None:
        await answers.refuse(self._downstream, self._record, refusal)

    async def _end_drained(self) -> None:
        """End a request without a call at the drain deadline."""
        if self._in_flight.is_text:
            await self._refuse(
                Refusal(
                    "outcome_unknown",
                    "The call was sent to the text API, but this instance is stopping before the "
                    "answer has arrived.",
                )
            )
        else:
            await self._refuse(conclusion.draining())

    def _end(self) -> None:
        """The request is over: record it; a second call does nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        match self._found:
            case FoundHere(call=call, source=CallSource.MADE):
                # What the call used is known when it has ended, with its client or without.
                call.when_ended(self._put_record)
            case _:
                self._put_record()

    def _end_left(self) -> None:
        self._record.client_left = True
        self._record.fail(errors.CLIENT_LEFT, Source.CLIENT)

    def _put_record(self) -> None:
        downstream = self._downstream
        if self._record.client_left:
            self._record.break_off()
        self._record.enter(Phase.RECORDED)
        sent = Sent(downstream.status, downstream.request_bytes, downstream.response_bytes)
        record = self._record.build(sent, self._app.prices)
        self._app.tracker.end(self._in_flight, record, datetime.now(UTC))
        self._app.metrics.observe(record)
        self._app.logs.put(record.as_json())
