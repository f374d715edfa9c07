"""What a key may do: the checks of a key as one table, read top to bottom.

``check_key`` needs no body and runs before one is read; ``check_model`` runs once the body has
named its model.  Limits in time and number (concurrency, start interval) are
``core.routing.slots``.
"""

from collections.abc import Callable, Mapping
from typing import Final

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key

_CHECKS: Final[tuple[tuple[Callable[[Key], bool], str, str], ...]] = (
    (
        lambda key: key.status == "active",
        "key_disabled",
        "This API key is not active. Ask the operator of this gateway to enable it.",
    ),
    (
        lambda key: key.group_image_enabled,
        "group_image_generation_disabled",
        (
            "Image generation is disabled for this key's group. Ask the operator of this gateway "
            "to enable it."
        ),
    ),
    (
        lambda key: key.image_enabled,
        "key_image_generation_disabled",
        "Image generation is disabled for this key. Ask the operator of this gateway to enable it.",
    ),
    (
        lambda key: key.quota_remaining is None or key.quota_remaining > 0,
        "insufficient_quota",
        "This key's quota is used up. Ask the operator of this gateway to raise it.",
    ),
)


def may_make_images(key: Key) -> bool:
    """Whether the image switches of a key and of its group are on."""
    return key.group_image_enabled and key.image_enabled


def check_key(key: Key) -> None:
    """Check status, group, image switch and quota, in this order; raises ``Refusal``."""
    for holds, code, message in _CHECKS:
        if not holds(key):
            raise Refusal(code, message)


def check_model(key: Key, model: str) -> None:
    """Check that the key may use the requested and the mapped model; raises ``Refusal``."""
    if key.allowed_models is None:
        return
    mapped: Mapping[str, str] = key.model_map
    if not {model, mapped.get(model, model)} <= key.allowed_models:
        raise Refusal(
            "model_not_allowed",
            "This key may not use the requested model. "
            f"It may use: {', '.join(sorted(key.allowed_models)) or 'none'}.",
            param="model",
        )
