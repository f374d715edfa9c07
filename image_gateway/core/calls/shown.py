"""A call as its client sees it who has its id: where it is in its life, and nothing of its content.

This module does not know how the call was found, nor what its answer says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from image_gateway.core.calls.model import CallIdentity, CallState

OBJECT: Final = "image.call"
DELETED_OBJECT: Final = "image.call.deleted"


class ShownStatus(StrEnum):
    """Where a call is, in the words of OpenAI's own background calls as far as these go."""

    QUEUED = "queued"
    """Nothing was sent yet."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    """Its answer is an error, and no picture was made."""
    UNKNOWN = "unknown"
    """Its answer is an error, and a picture may have been made."""


_ENDED: Final = {
    CallState.MADE: ShownStatus.COMPLETED,
    CallState.FAULT: ShownStatus.FAILED,
    CallState.NOTHING: ShownStatus.FAILED,
    CallState.UNKNOWN: ShownStatus.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class ShownCall:
    """A call at one moment.

    ``was_asked``: an upstream was asked.  ``queue_position``: its place among the calls that wait
    for a slot, 1 for the first; None if it does not wait, or another process knows.
    """

    identity: CallIdentity
    state: CallState
    was_asked: bool
    queue_position: int | None = None

    @property
    def status(self) -> ShownStatus:
        """Where it is."""
        running = ShownStatus.IN_PROGRESS if self.was_asked else ShownStatus.QUEUED
        return _ENDED.get(self.state, running)

    def fields(self, now: float) -> Mapping[str, object]:
        """What is sent of it as JSON; ``now`` is in seconds since 1970.

        ``age_seconds`` and ``queue_position`` stand there only while it runs.
        """
        identity = self.identity
        shown: dict[str, object] = {
            "id": identity.call_id,
            "object": OBJECT,
            "status": self.status,
            "created_at": int(identity.created_at),
            "endpoint": identity.endpoint,
        }
        if self.state is CallState.RUNNING:
            shown["age_seconds"] = max(0, int(now - identity.created_at))
            if self.queue_position is not None:
                shown["queue_position"] = self.queue_position
        return shown


def deleted(call_id: str) -> Mapping[str, object]:
    """What is sent when a call was forgotten."""
    return {"id": call_id, "object": DELETED_OBJECT, "deleted": True}
