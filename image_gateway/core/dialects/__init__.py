"""The dialects of upstreams: one record per dialect, and the format of its requests and events.

``dialect`` defines a record; ``DIALECTS`` holds the records by the names that the accounts view
uses.  An encoder writes everything that a request carries upstream; nothing passes through.
``events`` reads the events that come back.  README.md in this folder has the facts, with their
sources.  This folder knows nothing of an account's state; ``core.routing`` chooses the account.
"""

from collections.abc import Mapping
from typing import Final

from image_gateway.core import headers
from image_gateway.core.dialects import azure, codex, openai
from image_gateway.core.dialects.dialect import Ability, Dialect, UpstreamRoute
from image_gateway.core.dialects.upstream_request import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
)
from image_gateway.core.errors import UpstreamError

__all__ = [
    "DIALECTS",
    "Ability",
    "Dialect",
    "EncodeContext",
    "ExpectedResponse",
    "UpstreamRequest",
    "UpstreamRoute",
    "named_wait",
]

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect for dialect in (codex.DIALECT, azure.DIALECT, openai.DIALECT)
}


def named_wait(
    upstream: Mapping[str, str], error: UpstreamError, now: float, *, limited: bool
) -> float | None:
    """Seconds that an answer asks to wait, None if it names no time.

    ``now`` is the time in seconds since 1970.  If the answer reports a limit (``limited``) and
    names no time itself, the time until a used-up budget window is reset counts.  Any upstream may
    be a pool in front of Codex that passes on its windows.
    """
    wait = headers.named_wait(upstream, error, now, limited=limited)
    if wait is not None or not limited:
        return wait
    for window in codex.budget_windows(upstream, now).values():
        if window.used_percent >= 100 and window.seconds_left is not None:
            return min(window.seconds_left, headers.LONGEST_WAIT)
    return None
