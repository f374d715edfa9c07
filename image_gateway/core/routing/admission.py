"""What a key may do: the checks of a key as one table, read top to bottom.

They need no body and run before one is read.  Which models a key may use is
``core.routing.offers``; limits in time and number (concurrency, start interval) are
``core.routing.slots``, and only what a client is told of them is said here.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Key
from image_gateway.core.routing.lock_names import LockKind

_RETRY_SECONDS: Final = 1.0
"""A call may end at any moment."""


class _Check(NamedTuple):
    """What must hold of a key at a time, and the refusal where it does not."""

    holds: Callable[[Key, datetime], bool]
    code: str
    message: str


_ACTIVE: Final[Sequence[_Check]] = (
    _Check(
        lambda key, _: key.status == "active",
        "key_disabled",
        "This API key is not active. Ask the operator of this gateway to enable it.",
    ),
    _Check(
        lambda key, now: key.expires_at is None or now < key.expires_at,
        "key_expired",
        "This API key has expired. Ask the operator of this gateway for a new one.",
    ),
)
_SWITCHES: Final[Sequence[_Check]] = (
    *_ACTIVE,
    _Check(
        lambda key, _: key.group_image_enabled,
        "group_image_generation_disabled",
        "Image generation is disabled for this key's group. Ask the operator of this gateway to "
        "enable it.",
    ),
    _Check(
        lambda key, _: key.image_enabled,
        "key_image_generation_disabled",
        "Image generation is disabled for this key. Ask the operator of this gateway to enable it.",
    ),
)


def may_make_images(key: Key) -> bool:
    """Whether the image switches of a key and of its group are on."""
    return key.group_image_enabled and key.image_enabled


def check_switches(key: Key, now: datetime) -> None:
    """Check status, expiry, group and image switch, in this order; raises ``Refusal``."""
    _check(key, now, _SWITCHES)


def check_active(key: Key, now: datetime) -> None:
    """Check only that the key is active, for what makes no picture; raises ``Refusal``."""
    _check(key, now, _ACTIVE)


def _check(key: Key, now: datetime, checks: Sequence[_Check]) -> None:
    for check in checks:
        if not check.holds(key, now):
            raise Refusal(check.code, check.message)


def check_quota(key: Key) -> None:
    """Check that something is left of each quota of a key, before a body; raises ``Refusal``."""
    for has_left, what in (
        (_has_left(key.quota_remaining) and key.quota_allows, "quota"),
        (_has_left(key.images_remaining), "quota of pictures"),
        (_has_left(key.cost_remaining), "budget"),
    ):
        if not has_left:
            raise Refusal(
                "insufficient_quota",
                f"This key's {what} is used up. Ask the operator of this gateway to raise it.",
            )


def check_count(key: Key, pictures: int) -> None:
    """Check that a call asks for no more pictures than are left; raises ``Refusal``."""
    left = key.images_remaining
    if left is not None and pictures > left:
        raise Refusal(
            "insufficient_quota",
            f"This call asks for {pictures} pictures, and this key has {max(left, 0)} left. Ask "
            "for fewer, or ask the operator of this gateway to raise the key's quota of pictures.",
            param="n",
        )


def too_many(key: Key, kind: LockKind = LockKind.KEY) -> Refusal:
    """The key, or all keys of its owner, have as many calls in flight as they may."""
    if kind is LockKind.OWNER:
        code, limit, whose = (
            "owner_concurrency",
            key.owner_max_concurrency,
            "all keys of this owner",
        )
    else:
        code, limit, whose = "key_concurrency", key.max_concurrency, "this key"
    calls = "call" if limit == 1 else "calls"
    return Refusal(
        code,
        f"Concurrency limit reached: {limit} {calls} in flight for {whose}. Wait for one to end.",
        retry_after=_RETRY_SECONDS,
    )


def _has_left(remaining: float | None) -> bool:
    return remaining is None or remaining > 0
