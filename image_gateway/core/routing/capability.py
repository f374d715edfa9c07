"""What a request may need, and which way to an upstream can give it: one table.

A route is one way of asking one kind of account: Codex has two, Azure and OpenAI one each.  A
request goes to an account only by a route that can do all of it; nothing is dropped or made less
to fit.  Where no account is left, the client hears the first need that was in the way, and what
would work (``Gap``).  Source: ``core/dialects/README.md``; ``core/README.md`` shows this table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.images import Image
from image_gateway.core.request.intent import AnyRequest, IntentRequest


class UpstreamRoute(StrEnum):
    """A way of asking an account."""

    CODEX_IMAGES = "codex_images"
    CODEX_RESPONSES = "codex_responses"
    AZURE = "azure"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Gap:
    """A need that a route cannot meet: the parameter, and what would work instead."""

    param: str
    advice: str


@dataclass(frozen=True, slots=True)
class Need:
    """One line of the table: what is needed, and who can.

    ``asked`` gives the parameter that asks for it, None where the request does not.
    """

    title: str
    asked: Callable[[ImageRequest], str | None]
    able: frozenset[UpstreamRoute]
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

_ALL: Final = frozenset(UpstreamRoute)
_FORMS: Final = frozenset({UpstreamRoute.AZURE, UpstreamRoute.OPENAI})


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
        "an edit",
        lambda it: "images" if it.endpoint == "edits" else None,
        _ALL,
        "call /v1/images/generations.",
    ),
    Need(
        f"more than {MOST_CODEX_IMAGES} pictures in an edit",
        lambda it: "images" if len(it.images) > MOST_CODEX_IMAGES else None,
        _ALL - {UpstreamRoute.CODEX_IMAGES},
        f"send at most {MOST_CODEX_IMAGES} pictures.",
    ),
    Need(
        "a picture above 15 MB",
        _picture(lambda it: (it.size or 0) > LARGEST_CODEX_IMAGE),
        _FORMS,
        f"send pictures of at most {LARGEST_CODEX_IMAGE} bytes.",
    ),
    Need(
        "`mask`",
        lambda it: None if it.mask is None else "mask",
        _ALL - {UpstreamRoute.CODEX_IMAGES},
        "leave out `mask`, and say in the prompt what to change.",
    ),
    Need(
        "`markup`",
        lambda it: None if it.markup is None else "markup",
        _FORMS,
        "leave out `markup`, and say in the prompt what to change.",
    ),
    Need(
        "a picture by its https address",
        _picture(lambda it: it.data is None),
        _ALL - {UpstreamRoute.AZURE},
        "send the picture itself, as a data URL or in a multipart body.",
    ),
    Need("`n` above 1", lambda it: "n" if it.count > 1 else None, _ALL, "leave out `n`."),
    Need(
        "`background: transparent`", _of_value("background", "transparent"), _ALL, "leave it out."
    ),
    Need(
        "`output_format: gif` or `svg`",
        _of_value("output_format", "gif", "svg"),
        _FORMS,
        "ask for png, jpeg or webp.",
    ),
    Need(
        "`complexity`, `frame_count`, `frame_duration_ms`, `svg`",
        lambda it: next(
            (
                name
                for name in ("complexity", "frame_count", "frame_duration_ms", "svg")
                if name in it.parameters
            ),
            None,
        ),
        _FORMS,
        "leave it out.",
    ),
    Need(
        "`user`, `safety_identifier`, `FORWARD_PARAMETERS`",
        _beyond_tool,
        _ALL - {UpstreamRoute.CODEX_RESPONSES},
        "leave it out.",
    ),
    Need("`stream`", lambda it: "stream" if it.stream else None, _ALL, "leave out `stream`."),
    Need(
        "`partial_images` above 0",
        lambda it: "partial_images" if it.parameters.get("partial_images") else None,
        _ALL - {UpstreamRoute.CODEX_IMAGES},
        "leave out `partial_images`: the stream then has the finished pictures only.",
    ),
)


def gap(request: ImageRequest, route: UpstreamRoute) -> Gap | None:
    """The first need of a request that a route cannot meet, None when it can do all of it."""
    for need in NEEDS:
        param = None if route in need.able else need.asked(request)
        if param is not None:
            shown = "image" if request.is_form and param == "images" else param
            return Gap(shown, need.advice)
    return None


def routes(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:
    """An account's ways for a request, the preferred one first.

    A stream is Codex's to draw by its Responses route; other calls go as ``codex_route`` says.
    Without a ``responses_model`` there is no such route.
    """
    if account.dialect != "codex":
        return (UpstreamRoute(account.dialect),)
    if account.responses_model is None:
        return (UpstreamRoute.CODEX_IMAGES,)
    if request.stream or account.codex_route == "responses":
        return (UpstreamRoute.CODEX_RESPONSES, UpstreamRoute.CODEX_IMAGES)
    return (UpstreamRoute.CODEX_IMAGES, UpstreamRoute.CODEX_RESPONSES)


_NO_CONVERSATION: Final = Gap(
    "model",
    "on this path only Codex accounts with a `responses_model` make pictures. Call "
    "/v1/images/generations.",
)


def choose(account: Account, request: AnyRequest) -> UpstreamRoute | Gap:
    """The first of an account's routes that can do all of a request, or what is in the way."""
    if isinstance(request, IntentRequest):
        has_route = account.dialect == "codex" and account.responses_model is not None
        return UpstreamRoute.CODEX_RESPONSES if has_route else _NO_CONVERSATION
    gaps: list[Gap] = []
    for route in routes(account, request):
        found = gap(request, route)
        if found is None:
            return route
        gaps.append(found)
    return gaps[0]
