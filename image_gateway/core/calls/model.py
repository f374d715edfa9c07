"""A call as others see it: what it is called, how far it is, and how a request came to it."""

from dataclasses import dataclass
from enum import StrEnum


class CallState(StrEnum):
    """How far a call is, or how it ended."""

    RUNNING = "running"
    MADE = "made"
    """It ended with a picture."""
    FAULT = "fault"
    """It ended with an error that is the request's own fault: any account would give it."""
    UNKNOWN = "unknown"
    """It was sent, and whether a picture was made is not known."""
    NOTHING = "nothing"
    """It ended, and certainly no picture was made: another try costs nothing."""


class CallSource(StrEnum):
    """How a request came to its call; clients read it in ``x-call-source``."""

    MADE = "made"
    """It started the call."""
    JOINED = "joined"
    """The call ran already."""
    TAKEN_OVER = "taken-over"
    """The call had lost its client."""
    REPLAYED = "replayed"
    """The call had ended, and its answer was kept."""


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """What a call is found by.

    ``key_tag``, ``fingerprint`` and ``name`` are keyed hashes in hex (``core.calls.names``), so
    that nothing of a key or of a request stands in a file.  ``fingerprint`` is empty if the request
    was refused before its body was read: no request finds such a call.  ``name`` None: the request
    had no Idempotency-Key.  ``has_id``: the client wanted the call's id, to ask by it.
    ``request_id`` is the request that started the call; ``created_at`` is in seconds since 1970.
    ``model`` is the client's name for its model, if its response has to tell it.
    """

    call_id: str
    request_id: str
    key_tag: str
    fingerprint: str
    name: str | None
    endpoint: str
    created_at: float
    has_id: bool = False
    model: str = ""

    @property
    def begins_early(self) -> bool:
        """Whether the call is kept before an upstream is asked: others may ask for it by then."""
        return self.has_id or self.name is not None
