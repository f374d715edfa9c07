"""What a request needs, and which of an account's routes can do it: one table.

A route is one way to call one kind of account, and lists what it cannot do (``core.dialects``).  A
request goes to an account only by a route that can do all of it; nothing is dropped or reduced to
fit.  Where no account can serve a request, the client gets the first need that could not be met,
and what would work (``Gap``).  Source: ``core/dialects/README.md``; ``core/README.md`` shows this
table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from image_gateway.core.dialects import DIALECTS, Ability, UpstreamRoute
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.images import Image
from image_gateway.core.request.intent import AnyRequest, IntentRequest


@dataclass(frozen=True, slots=True)
class Gap:
    """A need that a route cannot meet: the parameter, and what would work instead."""

    param: str
    advice: str


_Request = TypeVar("_Request", ImageRequest, IntentRequest)


@dataclass(frozen=True, slots=True)
class Need(Generic[_Request]):
    """One row of the table: what is needed, when, and what would work without it.

    ``asked`` returns the parameter that needs it, None if the request does not need it.
    """

    ability: Ability
    title: str
    asked: Callable[[_Request], str | None]
    advice: str


MOST_CODEX_IMAGES: Final = 5
LARGEST_CODEX_IMAGE: Final = 15_728_000
"""Bytes; as a data URL it stays under the 20971520 characters that an ``image_url`` may have."""

_TOOL_PARAMETERS: Final = frozenset(
    {
        "n",
        "size",
        "quality",
        "background",
        "output_format",
        "output_compression",
        "moderation",
        "partial_images",
        "input_fidelity",
        "complexity",
        "frame_count",
        "frame_duration_ms",
        "svg",
    }
)
"""The fields of the Responses route's image tool, and ``n``, which becomes several calls."""


def _of_value(name: str, *values: object) -> Callable[[ImageRequest], str | None]:
    return lambda request: name if request.parameters.get(name) in values else None


def _beyond_tool(request: ImageRequest) -> str | None:
    return next((name for name in request.parameters if name not in _TOOL_PARAMETERS), None)


def _picture(matches: Callable[[Image], bool]) -> Callable[[ImageRequest], str | None]:
    """The parameter that holds a picture of some kind."""

    def asked(request: ImageRequest) -> str | None:
        inputs = (
            ("images", request.images),
            ("mask", [request.mask]),
            ("markup", [request.markup]),
        )
        return next(
            (name for name, images in inputs if any(image and matches(image) for image in images)),
            None,
        )

    return asked


NEEDS: Final[Sequence[Need[ImageRequest]]] = (
    Need(
        Ability.EDIT,
        "an edit",
        lambda request: "images" if request.endpoint == "edits" else None,
        "call /v1/images/generations.",
    ),
    Need(
        Ability.MANY_IMAGES,
        f"more than {MOST_CODEX_IMAGES} pictures in an edit",
        lambda request: "images" if len(request.images) > MOST_CODEX_IMAGES else None,
        f"send at most {MOST_CODEX_IMAGES} pictures.",
    ),
    Need(
        Ability.LARGE_IMAGE,
        "a picture above 15 MB",
        _picture(lambda image: (image.size or 0) > LARGEST_CODEX_IMAGE),
        f"send pictures of at most {LARGEST_CODEX_IMAGE} bytes.",
    ),
    Need(
        Ability.MASK,
        "`mask`",
        lambda request: None if request.mask is None else "mask",
        "leave out `mask`, and say in the prompt what to change.",
    ),
    Need(
        Ability.MARKUP,
        "`markup`",
        lambda request: None if request.markup is None else "markup",
        "leave out `markup`, and say in the prompt what to change.",
    ),
    Need(
        Ability.IMAGE_ADDRESS,
        "a picture by its https address",
        _picture(lambda image: image.data is None),
        "send the picture itself, as a data URL or in a multipart body.",
    ),
    Need(
        Ability.SEVERAL,
        "`n` above 1",
        lambda request: "n" if request.count > 1 else None,
        "leave out `n`.",
    ),
    Need(
        Ability.TRANSPARENT,
        "`background: transparent`",
        _of_value("background", "transparent"),
        "leave it out.",
    ),
    Need(
        Ability.GIF,
        "`output_format: gif`, with `frame_count` and `frame_duration_ms`",
        _of_value("output_format", "gif"),
        "ask for png, jpeg or webp.",
    ),
    Need(
        Ability.SVG,
        "`output_format: svg`, with `svg`",
        _of_value("output_format", "svg"),
        "ask for png, jpeg or webp.",
    ),
    Need(
        Ability.COMPLEXITY,
        "`complexity`",
        lambda request: "complexity" if "complexity" in request.parameters else None,
        "leave it out.",
    ),
    Need(
        Ability.OTHER_PARAMETERS,
        "`user`, `safety_identifier`, `FORWARD_PARAMETERS`",
        _beyond_tool,
        "leave it out.",
    ),
    Need(
        Ability.STREAM,
        "`stream`",
        lambda request: "stream" if request.stream else None,
        "leave out `stream`.",
    ),
    Need(
        Ability.PARTIAL_IMAGES,
        "`partial_images` above 0",
        lambda request: "partial_images" if request.parameters.get("partial_images") else None,
        "leave out `partial_images`: the stream then has the finished pictures only.",
    ),
)


def gap(request: ImageRequest, route: UpstreamRoute) -> Gap | None:
    """The first need of a request that a route cannot meet, None if it can meet all of them."""
    for need in NEEDS:
        param = need.asked(request) if need.ability in route.lacks else None
        if param is not None:
            sent_as = "image" if request.is_form and param == "images" else param
            return Gap(sent_as, need.advice)
    return None


INTENT_NEEDS: Final[Sequence[Need[IntentRequest]]] = (
    Need(
        Ability.IMAGE_ADDRESS,
        "a picture by its address",
        lambda request: request.addressed_picture,
        "send the picture itself, as a data URL.",
    ),
    Need(
        Ability.STORED_RESPONSE,
        "`previous_response_id`, `conversation`, `prompt`, `item_reference`, a picture by its id",
        lambda request: request.stored_reference,
        "send all items of the conversation in `input`, a picture with its `result`.",
    ),
)
"""The same for calls of the Responses API."""

NO_INTENTS: Final = Gap(
    "model",
    "on this path only accounts with a `responses_model` make pictures. Call "
    "/v1/images/generations.",
)
"""The account has no route for calls of the Responses API."""


def choose(account: Account, request: AnyRequest) -> UpstreamRoute | Gap:
    """The first of an account's routes that can do all of a request, or the first gap."""
    dialect = DIALECTS[account.dialect]
    if isinstance(request, IntentRequest):
        return _intent_route(account, request, dialect.intent_route)
    gaps: list[Gap] = []
    for route in dialect.routes_of(account, request):
        missing = gap(request, route)
        if missing is None:
            return route
        gaps.append(missing)
    return gaps[0]


def _intent_route(
    account: Account, request: IntentRequest, route: UpstreamRoute | None
) -> UpstreamRoute | Gap:
    if route is None or account.responses_model is None:
        return NO_INTENTS
    for need in INTENT_NEEDS:
        param = need.asked(request) if need.ability in route.lacks else None
        if param is not None:
            return Gap(param, need.advice)
    return route
