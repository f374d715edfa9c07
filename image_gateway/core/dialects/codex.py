"""Codex accounts: three routes, a budget in every answer, and no bill for a single picture.

The direct route serves most calls.  The Responses route makes a picture with a main model and its
image tool; a stream and some parameters need it.  Intents go to the same endpoint almost
unchanged.  Source: README.md in this folder, "Codex, both routes".
"""

from collections.abc import Mapping, Sequence
from typing import Final

from image_gateway.core.dialects import codex_images, codex_intents, codex_responses
from image_gateway.core.dialects.dialect import Ability, BudgetWindow, Dialect, UpstreamRoute
from image_gateway.core.dialects.faults import (
    Fault,
    KnownError,
    has_main_model_of_account,
    lists_image_tool,
    phrase,
)
from image_gateway.core.headers import number
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest

IMAGES: Final = UpstreamRoute(
    "codex_images",
    codex_images.encode,
    frozenset(
        {
            Ability.MANY_IMAGES,
            Ability.LARGE_IMAGE,
            Ability.MASK,
            Ability.MARKUP,
            Ability.IMAGE_ADDRESS,
            Ability.SVG,
            Ability.COMPLEXITY,
            Ability.PARTIAL_IMAGES,
        }
    ),
)
RESPONSES: Final = UpstreamRoute(
    "codex_responses",
    codex_responses.encode,
    frozenset(
        {
            Ability.LARGE_IMAGE,
            Ability.MARKUP,
            Ability.IMAGE_ADDRESS,
            Ability.SVG,
            Ability.COMPLEXITY,
            Ability.OTHER_PARAMETERS,
        }
    ),
)
INTENTS: Final = UpstreamRoute(
    "codex_intents",
    codex_intents.encode,
    frozenset({Ability.IMAGE_ADDRESS, Ability.STORED_RESPONSE}),
)

OWN_MODELS: Final = frozenset({"gpt-image-2"})
"""Codex ignores the field ``model``, and must not sell its one model under other names; an operator
may say otherwise in ``deployments``."""


def routes_of(account: Account, request: ImageRequest) -> Sequence[UpstreamRoute]:
    """A stream prefers the Responses route; for other calls ``codex_route`` decides.

    Without a ``responses_model`` there is no Responses route.
    """
    if account.responses_model is None:
        return (IMAGES,)
    if request.stream or account.codex_route == "responses":
        return (RESPONSES, IMAGES)
    return (IMAGES, RESPONSES)


def budget_windows(headers: Mapping[str, str], wall: float) -> Mapping[str, BudgetWindow]:
    """The two windows, by the names that the accounts view uses."""
    windows = {}
    for name in ("primary", "secondary"):
        percent = number(headers.get(f"x-codex-{name}-used-percent"))
        if percent is not None:
            windows[name] = BudgetWindow(min(percent, 100.0), _seconds_left(name, headers, wall))
    return windows


def _seconds_left(name: str, headers: Mapping[str, str], wall: float) -> float | None:
    seconds = number(headers.get(f"x-codex-{name}-reset-after-seconds"))
    if seconds is not None:
        return seconds
    reset_at = number(headers.get(f"x-codex-{name}-reset-at"))
    return None if reset_at is None else max(reset_at - wall, 0.0)


_IMAGE_MODEL: Final = r"'(?:chat)?gpt-image-[^']{0,60}'"

KNOWN_ERRORS: Final[Sequence[KnownError]] = (
    # Codex takes the tool out of a call whose account may not use it, and then misses it.
    KnownError(
        "no_image_tool",
        Fault.ACCOUNT,
        "the account's plan has no image generation",
        phrase=phrase(r"tool choice '?image_generation'? not found in '?tools'?"),
        when=lists_image_tool,
    ),
    KnownError(
        "model_not_in_plan",
        Fault.MODEL,
        "the account's plan does not have this model",
        phrase=phrase(rf"the {_IMAGE_MODEL} model is not supported when using codex"),
    ),
    KnownError(
        "model_not_in_plan",
        Fault.MODEL,
        "the account's plan does not have its main model",
        phrase=phrase(r"the '[^']{1,80}' model is not supported when using codex"),
        when=has_main_model_of_account,
    ),
    KnownError(
        "main_model_refused",
        Fault.REQUEST,
        "the main model that the client named is not available",
        phrase=phrase(r"the '[^']{1,80}' model is not supported when using codex"),
    ),
    KnownError(
        "main_model_refused",
        Fault.MODEL,
        "the account's main model has no image tool",
        phrase=phrase(r"tool '?image_generation'? is not supported"),
        when=has_main_model_of_account,
    ),
)

DIALECT: Final = Dialect(
    name="codex",
    described="a Codex account",
    routes=(IMAGES, RESPONSES),
    routes_of=routes_of,
    intent_route=INTENTS,
    base_url="https://chatgpt.com/backend-api/codex",
    attempt_seconds=360.0,
    credentials=frozenset({"access_token"}),
    unused=frozenset({"api_version"}),
    bills_pictures=False,
    known_errors=KNOWN_ERRORS,
    own_models=OWN_MODELS,
    budget_windows=budget_windows,
)
