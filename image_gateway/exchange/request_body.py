"""Reads a request's body from the socket into the spool, and parses it.

The body of an image call is parsed while it arrives.  A body on a Responses path counts as text
until it shows an image intent, and may be a long conversation: while it arrives only its signals
are read (``core.request.intent_signals``), and only an image intent is read again from the spool
and parsed.  Such a body may be compressed; text then goes on as it came, and an intent goes on
plain.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Final

from image_gateway.context import AppContext
from image_gateway.core import errors, headers
from image_gateway.core.codec import body_segments, compression, multipart
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Grant, Key
from image_gateway.core.records.builder import Asked, RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.core.request import image_request, intent
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.forms import RawParameters
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.intent_signals import IntentSignals
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing import offers
from image_gateway.edge.client import body_parsers
from image_gateway.edge.client.body_parsers import (
    BodyParser,
    IntentBodyParser,
    JsonBodyParser,
    MultipartBodyParser,
)
from image_gateway.edge.client.downstream import BodySink, Downstream
from image_gateway.edge.spool import Spool, SpooledBody, SpoolFullError

_OVERLOADED_RETRY_SECONDS: Final = 5.0


class RequestBodyReader:
    """One request's body; every method raises ``Refusal`` and ``ClientLeftError``."""

    def __init__(self, app: AppContext, downstream: Downstream, record: RecordBuilder) -> None:
        self._app = app
        self._downstream = downstream
        self._record = record

    def __repr__(self) -> str:
        return f"<RequestBodyReader {self._downstream!r}>"

    async def parameters(self, endpoint: Endpoint, spool: Spool) -> RawParameters:
        """Read the body of an image call."""
        parser = self._body_parser(spool)
        await self._read(parser)
        raw = parser.close(self._app.catalogue, takes_pictures=endpoint == "edits")
        self._record.enter(Phase.READ)
        return raw

    def image(
        self, endpoint: Endpoint, path_model: str | None, grant: Grant, raw: RawParameters
    ) -> ImageRequest:
        """Parse the body of an image call."""
        app, names = self._app, ModelNames.of(grant)
        rules = image_request.Rules(
            app.catalogue, app.settings.default_model, names, app.settings.forward_parameters
        )
        parsed = image_request.parse(endpoint, raw, rules, path_model)
        self._record.asked = Asked.of_image(parsed, app.prompt_key)
        self._check_models(grant, names, parsed.model)
        return parsed

    async def signals(self, spool: Spool) -> IntentSignals:
        """Read the body on a Responses path; returns its signals."""
        if not headers.is_readable_text(self._downstream.headers.all("content-type")):
            raise Refusal("unsupported_media_type", "Send the JSON in UTF-8, without a `charset`.")
        parser = IntentBodyParser(spool, self._decoder())
        self._record.body_form = "json"
        await self._read(parser)
        parser.close()
        models = parser.signals.models
        self._record.asked = Asked(model=models[-1] if models else None)
        return parser.signals

    async def opened(self, spool: Spool, resources: ExitStack) -> Spool:
        """The spooled body without its compression; ``resources`` closes it."""
        decoder = self._decoder()
        if decoder is None:
            return spool
        opened = resources.enter_context(self._app.spools.open())
        with _space_left():
            await body_parsers.write_opened(spool, decoder, opened)
        return opened

    async def without_tool(self, key: Key, spool: Spool) -> SpooledBody | None:
        """The spooled body without the image tool that it lists; None if it asks for a picture."""
        body, lifted = await body_parsers.reread(spool)
        left = intent.without_tool(body, key.model_map)
        if left is None:
            return None
        return spool.hold(body_segments.from_json(left, body_segments.of_lifted(lifted)))

    async def intent(self, grant: Grant, spool: Spool) -> IntentRequest:
        """Parse an image intent whose body is in the spool, without compression."""
        body, lifted = await body_parsers.reread(spool)
        await asyncio.sleep(0)  # parsed at once, a body takes up to 20 ms; so do the next steps
        names, default_model = ModelNames.of(grant), self._app.settings.default_model
        parsed = intent.parse(body, lifted, names, default_model)
        self._record.asked = Asked.of_intent(parsed, self._app.prompt_key)
        self._check_models(grant, names, parsed.model, *parsed.tool_models)
        return parsed

    def _check_models(self, grant: Grant, names: ModelNames, *models: str) -> None:
        for model in models:
            if not offers.allows(names, model):
                today = datetime.now(UTC).date()
                names_offered = offers.offered(grant, self._app.catalogue, today)
                raise offers.not_allowed(model, names_offered, grant.key)

    async def _read(self, parser: BodySink) -> None:
        self._downstream.check_size()
        self._record.enter(Phase.AUTHENTICATED)
        with _space_left():
            await self._downstream.read_body(parser)

    def _decoder(self) -> compression.Decoder | None:
        """What opens the body; None for a plain one.  Raises ``Refusal``."""
        codings = headers.content_codings(self._downstream.headers)
        if not codings:
            return None
        if len(codings) > 1 or codings[0] not in compression.ENCODINGS:
            raise errors.encoded_body(compression.ENCODINGS)
        return compression.Decoder(codings[0], self._app.settings.max_request_bytes)

    def _body_parser(self, spool: Spool) -> BodyParser:
        settings = self._app.settings
        if headers.content_codings(self._downstream.headers):
            raise errors.encoded_body()
        if self._downstream.has_no_body:
            raise Refusal(
                "invalid_body",
                "The body is empty. Send a JSON object in it, or an edit as a form.",
            )
        content_type = self._downstream.headers.get("content-type")
        match headers.media_type(content_type):
            case "application/json":
                self._record.body_form = "json"
                return JsonBodyParser(spool)
            case "multipart/form-data":
                self._record.body_form = "multipart"
                limits = multipart.PartLimits(settings.max_part_bytes, settings.max_parts)
                return MultipartBodyParser(spool, multipart.boundary(content_type), limits)
        raise Refusal(
            "unsupported_media_type",
            "Send the body as `content-type: application/json`, or an edit with its pictures as "
            "`multipart/form-data`.",
        )


@contextmanager
def _space_left() -> Iterator[None]:
    try:
        yield
    except SpoolFullError:
        raise Refusal(
            "overloaded",
            "The gateway has no space left for request bodies. Try again later.",
            retry_after=_OVERLOADED_RETRY_SECONDS,
        ) from None
