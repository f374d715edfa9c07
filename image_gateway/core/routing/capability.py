"""What a request needs, and which of an account's routes can do it: one table.

A route is one way of asking one kind of account, and names what it cannot do (``core.dialects``).
A request goes to an account only by a route that can do all of it; nothing is dropped or made less
to fit.  Where no account is left, the client hears the first need that was in the way, and what
would work (``Gap``).  Source: ``core/dialects/README.md``; ``core/README.md`` shows this table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Need:
    """One line of the table: what is needed, when, and what would work without it.

    ``asked`` gives the parameter that asks for it, None where the request does not.
    """

    ability: Ability
    title: str
    asked: Callable[[ImageRequest], str | None]
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
    }
)
"""What the image tool of the Responses route has fields for; ``n`` becomes several calls."""


def _of_value(name: str, *values: object) -> Callable[[ImageRequest], str | None]:
    return lambda it: name if it.parameters.get(name) in values else None


def _beyond_tool(request: ImageRequest) -> str | None:
    return next((name for name in request.parameters if name not in _TOOL_PARAMETERS), None)


def _picture(is_meant: Callable[[Image], bool]) -> Callable[[ImageRequest], str | None]:
    """Where a picture of some kind stands."""

    def asked(request: ImageRequest) -> str | None:
        named = (("images", request.images), ("mask", [request.mask]), ("markup", [request.markup]))
        return next(
            (name for name, images in named if any(each and is_meant(each) for each in images)),
            None,
        )

    return asked


NEEDS: Final[Sequence[Need]] = (
    Need(
        Ability.EDIT,
        "an edit",
        lambda it: "images" if it.endpoint == "edits" else None,
        "call /v1/images/generations.",
    ),
    Need(
        Ability.MANY_IMAGES,
        f"more than {MOST_CODEX_IMAGES} pictures in an edit",
        lambda it: "images" if len(it.images) > MOST_CODEX_IMAGES else None,
        f"send at most {MOST_CODEX_IMAGES} pictures.",
    ),
    Need(
        Ability.LARGE_IMAGE,
        "a picture above 15 MB",
        _picture(lambda it: (it.size or 0) > LARGEST_CODEX_IMAGE),
        f"send pictures of at most {LARGEST_CODEX_IMAGE} bytes.",
    ),
    Need(
        Ability.MASK,
        "`mask`",
        lambda it: None if it.mask is None else "mask",
        "leave out `mask`, and say in the prompt what to change.",
    ),
    Need(
        Ability.MARKUP,
        "`markup`",
        lambda it: None if it.markup is None else "markup",
        "leave out `markup`, and say in the prompt what to change.",
    ),
    Need(
        Ability.IMAGE_ADDRESS,
        "a picture by its https address",
        _picture(lambda it: it.data is None),
        "send the picture itself, as a data URL or in a multipart body.",
    ),
    Need(
        Ability.SEVERAL, "`n` above 1", lambda it: "n" if it.count > 1 else None, "leave out `n`."
    ),
    Need(
        Ability.TRANSPARENT,
        "`background: transparent`",
        _of_value("background", "transparent"),
        "leave it out.",
    ),
    Need(
        Ability.GIF_OR_SVG,
        "`output_format: gif` or `svg`",
        _of_value("output_format", "gif", "svg"),
        "ask for png, jpeg or webp.",
    ),
    Need(
        Ability.FRAMES,
        "`complexity`, `frame_count`, `frame_duration_ms`, `svg`",
        lambda it: next(
            (
                name
                for name in ("complexity", "frame_count", "frame_duration_ms", "svg")
                if name in it.parameters
            ),
            None,
        ),
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
        lambda it: "stream" if it.stream else None,
        "leave out `stream`.",
    ),
    Need(
        Ability.PARTIAL_IMAGES,
        "`partial_images` above 0",
        lambda it: "partial_images" if it.parameters.get("partial_images") else None,
        "leave out `partial_images`: the stream then has the finished pictures only.",
    ),
)


def gap(request: ImageRequest, route: UpstreamRoute) -> Gap | None:
    """The first need of a request that a route cannot meet, None when it can do all of it."""
    for need in NEEDS:
        param = need.asked(request) if need.ability in route.lacks else None
        if param is not None:
            shown = "image" if request.is_form and param == "images" else param
            return Gap(shown, need.advice)
    return None


_NO_INTENTS: Final = Gap(
    "model",
    "on this path only Codex accounts with a `responses_model` make pictures. Call "
    "/v1/images/generations.",
)


def choose(account: Account, request: AnyRequest) -> UpstreamRoute | Gap:
    """The first of an account's routes that can do all of a request, or what is in the way."""
    dialect = DIALECTS[account.dialect]
    if isinstance(request, IntentRequest):
        return dialect.intent_route(account) or _NO_INTENTS
    gaps: list[Gap] = []
    for route in dialect.routes_of(account, request):
        found = gap(request, route)
        if found is None:
            return route
        gaps.append(found)
    return gaps[0]
