"""Deployments that must not be asked for a stream without partial pictures.

Such a stream is silent until its picture is done, and Azure's own gateway cuts what is silent for
60 s with a 408: it can never work there.  The call that meets the cut is over, because its picture
may exist.  From then on that deployment is asked for a plain answer, out of which the client's
event is made.  In memory only, so a restart forgets it.
"""

from typing import Final

from image_gateway.core.dialects.upstream_request import upstream_name
from image_gateway.core.model import Account
from image_gateway.core.request.image_request import ImageRequest

_MOST: Final = 1000
"""Deployments that are remembered; the oldest is forgotten first."""

_Address = tuple[str, str | None, str | None, str]
"""Name, base URL and version of the account, and its deployment: one that moves may do better."""


class PlainAnswers:
    """The deployments that cut silent streams, as far as one process has met them."""

    def __init__(self) -> None:
        self._cut: dict[_Address, None] = {}

    def __repr__(self) -> str:
        return f"<PlainAnswers of {len(self._cut)} deployments>"

    def learn(self, account: Account, request: ImageRequest) -> None:
        """The account has cut a stream without partial pictures for this request's model."""
        self._cut.pop(_address(account, request), None)
        self._cut[_address(account, request)] = None
        if len(self._cut) > _MOST:
            del self._cut[next(iter(self._cut))]

    def are_needed(self, account: Account, request: ImageRequest) -> bool:
        """Whether the account must be asked for a plain answer to this request."""
        return is_silent_stream(request) and _address(account, request) in self._cut


def is_silent_stream(request: ImageRequest) -> bool:
    """Whether a request asks for a stream in which nothing comes before a finished picture."""
    return request.stream and not request.parameters.get("partial_images")


def _address(account: Account, request: ImageRequest) -> _Address:
    name = upstream_name(request, account)
    return account.account_name, account.base_url, account.api_version, name
