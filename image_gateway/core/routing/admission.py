"""What a key may do: the checks of a key as one table, read top to bottom.

They need no body and run before one is read.  Which models a key may use is
``core.routing.offers``; limits in time and number (concurrency, start interval) are
``core.routing.slots``.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key


class _Check(NamedTuple):
    """What must hold of a key, and the refusal where it does not."""

    holds: Callable[[Key], bool]
    code: str
    message: str


_SWITCHES: Final[Sequence[_Check]] = (
    _Check(
        lambda key: key.status == "active",
        "key_disabled",
        "This API key is not active. Ask the operator of this gateway to enable it.",
    ),
    _Check(
        lambda key: key.group_image_enabled,
        "group_image_generation_disabled",
        "Image generation is disabled for this key's group. Ask the operator of this gateway to "
        "enable it.",
    ),
    _Check(
        lambda key: key.image_enabled,
        "key_image_generation_disabled",
        "Image generation is disabled for this key. Ask the operator of this gateway to enable it.",
    ),
)
_QUOTA: Final = _Check(
    lambda key: key.quota_remaining is None or key.quota_remaining > 0,
    "insufficient_quota",
    "This key's quota is used up. Ask the operator of this gateway to raise it.",
)


def may_make_images(key: Key) -> bool:
    """Whether the image switches of a key and of its group are on."""
    return key.group_image_enabled and key.image_enabled


def check_switches(key: Key) -> None:
    """Check status, group and image switch, in this order; raises ``Refusal``."""
    _check(key, _SWITCHES)


def check_quota(key: Key) -> None:
    """Check what is left of the key's quota, for a call that starts; raises ``Refusal``."""
    _check(key, (_QUOTA,))


def check_active(key: Key) -> None:
    """Check only that the key is active, for what makes no picture; raises ``Refusal``."""
    _check(key, _SWITCHES[:1])


def _check(key: Key, checks: Sequence[_Check]) -> None:
    for check in checks:
        if not check.holds(key):
            raise Refusal(check.code, check.message)
