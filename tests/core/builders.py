"""Sane values for tests to change one thing of, and the ways a body takes through the core."""

import base64
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from image_gateway.core.codec import base64_text, body_segments, json_skeleton, multipart
from image_gateway.core.dialects import DIALECTS, UpstreamRoute
from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account, Credential, Grant, Key, Secret
from image_gateway.core.records import prices
from image_gateway.core.records.prices import Prices
from image_gateway.core.request import catalogue, forms, image_request
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.model_names import ModelNames

CATALOGUE = catalogue.parse(Path(catalogue.__file__).with_name("catalogue.toml").read_text("utf-8"))

PRICES = Prices(
    prices.parse(tomllib.loads(Path(prices.__file__).with_name("prices.toml").read_text("utf-8")))
)

ROUTES = tuple(route for dialect in DIALECTS.values() for route in dialect.routes)
"""Every route for pictures: Codex direct, Codex Responses, Azure, OpenAI."""

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"
"""A data URL of 18 bytes."""

TOKEN = "token-9f8e7d6c5b4a"
ACCOUNT_ID = "acct-1a2b3c4d5e6f"


class Clock:
    """A clock that goes only when a test moves it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(**changes: Any) -> Key:
    """A key that may do everything."""
    plain = Key(
        key_hash="c0ffee" * 10 + "c0ff",
        key_id="key-1",
        key_name="one",
        status="active",
        image_enabled=True,
        group_id=None,
        group_image_enabled=True,
        quota_remaining=None,
        max_concurrency=None,
        min_start_interval_ms=None,
        allowed_models=None,
        model_map={},
        account_names=None,
        route_strategy="auto",
    )
    return replace(plain, **changes)


def account(name: str = "alpha", **changes: Any) -> Account:
    """A Codex account in good health."""
    plain = Account(
        account_name=name,
        dialect="codex",
        status="active",
        image_enabled=True,
        image_max_concurrency=3,
        base_url=None,
        api_version=None,
        deployments=None,
        credential=Credential(Secret(TOKEN), "access_token", ACCOUNT_ID),
        client_version=None,
        responses_model=None,
        codex_route="direct",
        proxy=None,
        routing_weight=1.0,
        used_percent_primary=None,
        used_percent_secondary=None,
        same_account_retries=0,
        blocked_until=None,
    )
    return replace(plain, **changes)


def account_with(route: UpstreamRoute, **changes: Any) -> Account:
    """An account of the dialect that a route belongs to."""
    [dialect] = [each for each in DIALECTS.values() if route in each.routes]
    return account(dialect=dialect.name, **changes)


def grant(*accounts: Account, **changes: Any) -> Grant:
    """A key and the accounts it sees."""
    return Grant(key(**changes), {each.account_name: each for each in accounts})


def key_row(**changes: object) -> dict[str, object]:
    """A row of the keys view in which only what is required is set."""
    return {"key_hash": "ab" * 32, "key_id": "key-1", **changes}


def account_row(**changes: object) -> dict[str, object]:
    """A row of the accounts view in which only what is required is set."""
    return {"account_name": "alpha", "dialect": "codex", **changes}


def rules(**changes: Any) -> image_request.Rules:
    """The shipped catalogue, and no exceptions from it; ``model_map`` is the key's."""
    names = ModelNames(key(model_map=changes.pop("model_map", {})))
    plain = image_request.Rules(CATALOGUE, "gpt-image-2", names, frozenset())
    return replace(plain, **changes)


def read(
    text: bytes, chunks: Iterable[bytes] | None = None
) -> tuple[object, list[json_skeleton.LiftedString]]:
    """A body's skeleton and its lifted strings, as the exchange reads them."""
    skeleton = json_skeleton.JsonSkeleton(
        forms.keep_prompt, forms.LONGEST_PROMPT_BYTES, digests=True
    )
    for chunk in [text] if chunks is None else chunks:
        skeleton.feed(chunk)
    return skeleton.close(), skeleton.lifted


def parse(
    body_value: Mapping[str, object] | bytes,
    endpoint: Endpoint = "generations",
    path_model: str | None = None,
    **changes: Any,
) -> image_request.ImageRequest:
    """A request, the whole way from its bytes; a mapping gets a prompt where it has none."""
    if isinstance(body_value, bytes):
        text = body_value
    else:
        text = json.dumps({"prompt": "a cat", **body_value}).encode()
    value, lifted = read(text)
    given = forms.from_json(value, lifted, takes_pictures=endpoint == "edits")
    return image_request.parse(endpoint, given, rules(**changes), path_model)


def parse_form(
    text: bytes, boundary: bytes, endpoint: Endpoint = "edits", **changes: Any
) -> tuple[image_request.ImageRequest, bytes]:
    """A request from the bytes of a multipart body, and what was laid down of them."""
    reader = multipart.MultipartReader(boundary, multipart.PartLimits(50_000_000, 64))
    laid_down = b"".join(reader.feed(text))
    given = forms.from_parts(reader.close(), CATALOGUE, takes_pictures=endpoint == "edits")
    return image_request.parse(endpoint, given, rules(**changes)), laid_down


def refusal_of(
    body_value: Mapping[str, object] | bytes, endpoint: Endpoint = "generations", **changes: Any
) -> Refusal:
    """The refusal of a body that must be refused."""
    try:
        parsed = parse(body_value, endpoint, **changes)
    except Refusal as refusal:
        return refusal
    raise AssertionError(f"not refused: {parsed!r}")


def play(segments: body_segments.Body, spool: bytes) -> bytes:
    """A body's bytes on the wire."""
    return b"".join(_play(segment, spool) for segment in segments)


def _play(segment: body_segments.Segment, spool: bytes) -> bytes:
    if isinstance(segment, bytes):
        return segment
    if isinstance(segment, body_segments.Span):
        return spool[segment.start : segment.stop]
    plain = spool[segment.span.start : segment.span.stop]
    if isinstance(segment, body_segments.Encoded):
        return base64.b64encode(plain)
    decoder = base64_text.Base64Decoder()
    return decoder.feed(plain) + decoder.close()


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces, empty ones among them."""
    inner = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    borders = [0, *inner, len(data)]
    return [data[start:stop] for start, stop in pairwise(borders)]
