"""Bodies of clients on their way upstream: JSON and multipart of the Images API, and image intents
of the Responses API (``core.request``), in the form of each dialect's routes.
"""

import base64
from pathlib import Path
from typing import Final

import orjson

from image_gateway.core.codec import base64_text, json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Body, Decoded, Encoded, Span, length
from image_gateway.core.codec.multipart import MultipartReader, PartLimits
from image_gateway.core.dialects.upstream_request import EncodeContext
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import catalogue, forms, image_request, intent, intent_signals
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing import capability
from tests.fuzz.accounts import ACCOUNTS, KEY
from tests.fuzz.values import Values, stretched

CATALOGUE: Final = catalogue.parse(
    Path(catalogue.__file__).with_name("catalogue.toml").read_text("utf-8")
)
NAMES: Final = ModelNames(KEY)
RULES: Final = image_request.Rules(CATALOGUE, "gpt-image-2", NAMES, frozenset())
CONTEXT: Final = EncodeContext("https://upstream.example/v1", "1.0", "b" * 32)
ENDPOINTS: Final[tuple[Endpoint, ...]] = ("generations", "edits")
LIMITS: Final = PartLimits(64 * 1024, 24)


def image_body(text: bytes, endpoint: Endpoint) -> image_request.ImageRequest:
    """A JSON body as the exchange reads it."""
    skeleton = json_skeleton.JsonSkeleton(
        forms.keep_prompt, forms.LONGEST_PROMPT_BYTES, digests=True
    )
    skeleton.feed(text)
    value = skeleton.close()
    raw = forms.from_json(value, skeleton.lifted, takes_pictures=endpoint == "edits")
    return image_request.parse(endpoint, raw, RULES)


def form_body(text: bytes, endpoint: Endpoint) -> tuple[image_request.ImageRequest, bytes]:
    """A multipart body, and the bytes of its files."""
    reader = MultipartReader(b"B", LIMITS)
    files = b"".join(reader.feed(text))
    raw = forms.from_parts(reader.close(), CATALOGUE, takes_pictures=endpoint == "edits")
    return image_request.parse(endpoint, raw, RULES), files


def intent_body(text: bytes) -> intent.IntentRequest:
    """A body of the Responses API that asks for a picture."""
    skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.INTENT, digests=True)
    skeleton.feed(text)
    return intent.parse(skeleton.close(), skeleton.lifted, NAMES, "gpt-5.6")


def check(data: bytes) -> None:
    """A body is refused, or each account that can serve it gets one that can be read, of exactly
    the length that was announced.
    """
    values = Values(data)
    kind = values.byte() % 5
    text = stretched(values.rest())
    spool = text
    request: intent.AnyRequest
    try:
        if kind < 2:
            request = image_body(text, ENDPOINTS[kind])
        elif kind < 4:
            request, spool = form_body(text, ENDPOINTS[kind - 2])
        else:
            request = intent_body(text)
            check_intent(request)
        for account in ACCOUNTS:
            check_sent(request, account, spool)
    except Refusal as refusal:
        orjson.loads(refusal.body())
    except json_scanner.ScanError:
        return  # the exchange refuses it in its words


def check_intent(request: intent.IntentRequest) -> None:
    """What is read of an intent besides."""
    assert request.input_image_count >= 0
    for text in (request.prompt, request.session, request.addressed_picture):
        assert text is None or isinstance(text, str)
    left = intent.without_tool(request.body, {})
    assert left is None or not intent_signals.signals_of(left).show_intent({})


def check_sent(request: intent.AnyRequest, account: Account, spool: bytes) -> None:
    """The call of an account, if it can serve the request."""
    route = capability.choose(account, request)
    if isinstance(route, capability.Gap):
        assert route.advice
        return
    sent = route.encode(request, account, Headers([]), CONTEXT)
    assert sent.url.startswith("https://upstream.example/")
    assert all(" " <= each <= "~" for value in sent.headers.values() for each in value)
    written = played(sent.body, spool)
    assert len(written) == length(sent.body)
    if sent.headers["content-type"] == "application/json":
        assert isinstance(orjson.loads(written), dict)
    else:
        reader = MultipartReader(CONTEXT.boundary.encode(), PartLimits(1 << 20, 64))
        reader.feed(written)
        assert reader.close()


def played(body: Body, spool: bytes) -> bytes:
    """A body's bytes on the wire."""
    written = bytearray()
    for part in body:
        if isinstance(part, bytes):
            written += part
            continue
        span = part if isinstance(part, Span) else part.span
        assert 0 <= span.start <= span.stop <= len(spool)
        plain = spool[span.start : span.stop]
        if isinstance(part, Encoded):
            plain = base64.b64encode(plain)
        elif isinstance(part, Decoded):
            decoder = base64_text.Base64Decoder()
            plain = decoder.feed(plain) + decoder.close()
        written += plain
    return bytes(written)
