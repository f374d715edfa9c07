"""The differences between upstreams: one record per dialect.

The rest of the gateway reads the record and never compares a dialect's name.  A new kind of
upstream is a new record in ``DIALECTS`` (``core.dialects``), with an encoder for each
of its routes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from image_gateway.core.dialects.faults import KnownError
from image_gateway.core.dialects.upstream_request import EncodeContext, UpstreamRequest
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest

CredentialKind = Literal["access_token", "api_key"]


class Ability(StrEnum):
    """What a request may need of a route; ``core.routing.capability`` says when it needs it."""

    EDIT = "edit"
    MANY_IMAGES = "many_images"
    LARGE_IMAGE = "large_image"
    MASK = "mask"
    MARKUP = "markup"
    IMAGE_ADDRESS = "image_address"
    SEVERAL = "several"
    TRANSPARENT = "transparent"
    GIF = "gif"
    SVG = "svg"
    COMPLEXITY = "complexity"
    OTHER_PARAMETERS = "other_parameters"
    STREAM = "stream"
    PARTIAL_IMAGES = "partial_images"
    STORED_RESPONSE = "stored_response"


Encode = Callable[[Any, Account, Headers, EncodeContext], UpstreamRequest]
"""Makes the request to an upstream from the client's request, an account that has a credential, the
client's headers, and the settings."""


@dataclass(frozen=True, slots=True)
class UpstreamRoute:
    """One way to call an account: its encoder, and the abilities that it lacks."""

    name: str
    encode: Encode
    lacks: frozenset[Ability] = frozenset()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class BudgetWindow:
    """One window of an account's budget, as an answer's headers report it.

    ``seconds_left`` until the window is reset; None if the answer does not say.
    """

    used_percent: float
    seconds_left: float | None


def no_windows(headers: Mapping[str, str], wall: float) -> Mapping[str, BudgetWindow]:  # noqa: ARG001
    """For an upstream whose answers report no budget windows."""
    return {}


def no_doubts(account: Account) -> list[str]:  # noqa: ARG001 - the field's signature
    """For an upstream whose accounts need no warnings."""
    return []


def any_name(account: Account, name: str) -> bool:  # noqa: ARG001 - the field's signature
    """For an upstream that gets the names of models in bodies only."""
    return True


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of upstream.

    ``described``: a description with its article, for people.  ``routes`` are all routes for
    pictures, ``routes_of`` the routes that an account has for a request, the preferred one first;
    ``intent_route`` serves calls of the Responses API itself, at an account that has a main model.
    ``base_url`` None: each account has its own.  ``attempt_seconds`` is the default of the setting
    ``<NAME>_SECONDS``.  ``credentials`` are the kinds that can sign a call; ``needed`` are the
    columns that an account must have, ``unused`` the columns that have no meaning for it.
    ``bills_pictures`` False: an error answer (5xx) means that nothing was billed.
    ``known_errors`` say whose fault its own errors are (``core.dialects.faults``).  ``own_models``
    are what an account without ``deployments`` serves; None: what the catalogue has.
    ``budget_windows`` reads an answer's headers, at a time in seconds since 1970.  ``doubts`` lists
    settings of an account that may be mistakes, although they could work.  ``can_send`` says
    whether the account's calls can name a model so; in a path or a header not every name can stand.
    """

    name: str
    described: str
    routes: tuple[UpstreamRoute, ...]
    routes_of: Callable[[Account, ImageRequest], Sequence[UpstreamRoute]]
    base_url: str | None
    attempt_seconds: float
    credentials: frozenset[CredentialKind]
    needed: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    bills_pictures: bool = True
    known_errors: Sequence[KnownError] = ()
    own_models: frozenset[str] | None = None
    intent_route: UpstreamRoute | None = None
    budget_windows: Callable[[Mapping[str, str], float], Mapping[str, BudgetWindow]] = no_windows
    doubts: Callable[[Account], list[str]] = no_doubts
    can_send: Callable[[Account, str], bool] = any_name
