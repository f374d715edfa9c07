"""What each kind of upstream speaks: one record per dialect, and how its requests and events look.

``dialect`` says what a record holds, ``DIALECTS`` are the records, by the names that the accounts
view uses.  Everything that a request carries upstream stands in an encoder; nothing passes through.
``events`` reads what comes back as events.  README.md in this folder has the facts, with their
sources.  This folder knows no account's state; who is asked is decided in ``core.routing``.
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
    """Seconds that an answer asks us to wait, None where it names none.

    ``now`` is the time in seconds since 1970.  Where the answer is about a limit (``limited``), and
    names no time itself, a budget window that is used up does.  Any upstream may be a pool in front
    of Codex that passes on its windows.
    """
    wait = headers.named_wait(upstream, error, now, limited=limited)
    if wait is not None or not limited:
        return wait
    for window in codex.budget_windows(upstream, now).values():
        if window.used_percent >= 100 and window.seconds_left is not None:
            return min(window.seconds_left, headers.LONGEST_WAIT)
    return None
