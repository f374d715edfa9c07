"""Calls and requests of tests about finding: one key, one request, and what is changed about it."""

from typing import Any

from image_gateway.core.calls.finding import Asking, CallView
from image_gateway.core.calls.model import CallIdentity, CallState

KEY = "key-tag"
PRINT = "fingerprint"
NOW = 10_000.0
GUARD = 90.0


def view(
    state: CallState,
    call_id: str = "call-1",
    *,
    key_tag: str = KEY,
    fingerprint: str = PRINT,
    name: str | None = None,
    created_at: float = NOW - 60,
    has_id: bool = False,
    **changes: Any,
) -> CallView:
    """A call of the one key for the one request, ended 10 s ago and kept if it ended."""
    identity = CallIdentity(
        call_id=call_id,
        request_id="req-1",
        key_tag=key_tag,
        fingerprint=fingerprint,
        name=name,
        endpoint="generations",
        created_at=created_at,
        has_id=has_id,
    )
    if state is not CallState.RUNNING:
        changes = {"ended_at": NOW - 10, "is_kept": True, **changes}
    return CallView(identity, state, **changes)


def asking(name: str | None = None, *, sure: bool = False, **changes: Any) -> Asking:
    """The one request of the one key."""
    return Asking(
        **{"key_tag": KEY, "fingerprint": PRINT, **changes}, name=name, is_sure_retry=sure
    )
