"""An upstream that nobody has, as one record: all that it takes to serve it."""

from collections.abc import Sequence

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects import (
    DIALECTS,
    Ability,
    Dialect,
    EncodeContext,
    UpstreamRequest,
    UpstreamRoute,
)
from image_gateway.core.dialects.faults import Fault, KnownError
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest


def encode(
    request: ImageRequest,
    account: Account,
    client: Headers,
    context: EncodeContext,
) -> UpstreamRequest:
    """It draws at ``/draw``, calls a prompt words, and has a header of its own for keys."""
    return UpstreamRequest(
        url=f"{account.base_url or context.base_url}/draw",
        headers={
            "x-studio-key": account.signed_by().token.reveal(),
            "content-type": "application/json",
        },
        body=body_segments.from_json({"words": request.prompt}, request.texts),
    )


def routes_of(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:
    return (DRAW,)


DRAW = UpstreamRoute("studio", encode, frozenset({Ability.EDIT, Ability.STREAM}))

DIALECTS["studio"] = Dialect(
    name="studio",
    described="a studio",
    routes=(DRAW,),
    routes_of=routes_of,
    base_url="http://studio.invalid",
    attempt_seconds=100.0,
    credentials=frozenset({"api_key"}),
    bills_pictures=False,
    known_errors=(
        KnownError(
            "no_brush",
            Fault.MODEL,
            "the studio has no such brush",
            codes=frozenset({"no_such_brush"}),
        ),
    ),
)
