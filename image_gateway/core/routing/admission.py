"""What a key may do: the checks of a key as one table, read top to bottom.

They need no body and run before one is read.  Which models a key may use is
``core.routing.offers``; limits in time and number (concurrency, start interval) are
``core.routing.slots``.
"""

from collections.abc import Callable
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


def check_active(key: Key) -> None:
    """Check only that the key is active, for what makes no picture; raises ``Refusal``."""
    holds, code, message = _CHECKS[0]
    if not holds(key):
        raise Refusal(code, message)
