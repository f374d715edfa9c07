"""How each kind of upstream wants to be asked.

A dialect is two pure functions: ``gap`` says what of a request it could not do, ``encode`` says
what to send.  Everything a call carries upstream stands in ``encode``; nothing passes through.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from image_gateway.core.dialects import codex_images
from image_gateway.core.dialects.call import Call, Defaults, Gap
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import ImageRequest

__all__ = ["BY_NAME", "Call", "Defaults", "Dialect", "Gap"]


class Dialect(Protocol):
    """What a dialect's module offers."""

    def gap(self, request: ImageRequest) -> Gap | None:
        """What of this request the dialect cannot do, None when it can do all of it."""

    def encode(
        self, request: ImageRequest, account: Account, client: Headers, defaults: Defaults
    ) -> Call:
        """The call that serves this request; ``client`` holds the headers it came with."""


BY_NAME: Final[Mapping[str, Dialect]] = {"codex": codex_images}
