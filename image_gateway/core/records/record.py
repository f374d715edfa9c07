"""The log record: one object per request, built from an allow-list.

No field can hold a prompt, a picture, a picture's address, a credential or an upstream's body, so
a record never has one.  ``builder`` fills the fields.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Final

from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Source
from image_gateway.core.records.usage import Usage
from image_gateway.core.routing.failover import Action, Stage

SCHEMA_VERSION: Final = 2
"""Version 1 had in ``size`` and ``quality`` what came back, if known, and of ``usage`` the sums."""


CALLS_ENDPOINT: Final = "calls"
"""The endpoint of requests that only ask for calls by their ids, list them or forget them."""


@dataclass(slots=True)
class AttemptRecord:
    """One call to one account; ``action`` None: the call has not ended.

    ``reason`` is the row that let the call be sent again, to another account or to this one.
    """

    account_name: str
    dialect: str
    stage: str | None = None
    status: int | None = None
    error_code: str | None = None
    action: str | None = None
    upstream_ms: int | None = None
    reason: str | None = None

    @property
    def may_be_billed(self) -> bool:
        """Whether the call was sent and did not end, or ended with a picture."""
        return self.stage != Stage.CONNECT and self.action in {None, Action.DELIVER}


@dataclass(frozen=True, slots=True)
class Record:
    """One request's record; the fields are those of the documented JSON, in their order.

    None: not known.  ``call_request_id`` is the request that started the call; the attempts, the
    usage and the cost of the call are in that request's record alone.
    """

    time: datetime
    request_id: str
    call_id: str | None = None
    call_source: str | None = None
    call_request_id: str | None = None
    client_address: str | None = None
    user_agent: str | None = None
    key_id: str | None = None
    key_name: str | None = None
    group_id: str | None = None
    owner_id: str | None = None
    endpoint: str | None = None
    path: str | None = None
    body_form: str | None = None
    request_bytes: int | None = None
    model: str | None = None
    upstream_model: str | None = None
    size: str | None = None
    quality: str | None = None
    n: int | None = None
    stream: bool | None = None
    input_image_count: int | None = None
    input_image_bytes: int | None = None
    prompt_chars: int | None = None
    prompt_hmac: str | None = None
    status: int | None = None
    error_code: str | None = None
    error_source: str | None = None
    account_name: str | None = None
    dialect: str | None = None
    upstream_path: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    response_bytes: int | None = None
    response_image_count: int | None = None
    size_given: str | None = None
    quality_given: str | None = None
    background_given: str | None = None
    usage: Usage | None = None
    usage_text: Usage | None = None
    svg_usage: Usage | None = None
    cost_usd: float | None = None
    auth_ms: int | None = None
    body_ms: int | None = None
    wait_ms: int | None = None
    upstream_ms: int | None = None
    stream_ms: int | None = None
    total_ms: int | None = None
    client_left: bool = False
    may_be_billed: bool = False

    def as_json(self) -> dict[str, object]:
        """The record as JSON values.  Strings are cut to 256 characters: clients choose some."""
        values: dict[str, object] = {"schema_version": SCHEMA_VERSION}
        values.update(zip(FIELDS[1:], map(_cut, _FIELD_VALUES(self)), strict=True))
        values["time"] = self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values["attempts"] = [
            dict(zip(_ATTEMPT_FIELDS, map(_cut, _ATTEMPT_VALUES(attempt)), strict=True))
            for attempt in self.attempts
        ]
        return values


def saves_purchase(call_source: object, error_source: object) -> bool:
    """Whether a record is that of a request that found a call where it would have bought one.

    A request to which the gateway then failed to give the answer does not count.
    """
    return call_source in _FOUND and error_source != Source.GATEWAY


_FOUND: Final = (CallSource.JOINED, CallSource.TAKEN_OVER, CallSource.REPLAYED)

FIELDS: Final = ("schema_version", *(item.name for item in fields(Record)))
"""The record's fields, in order."""

_ATTEMPT_FIELDS: Final = tuple(item.name for item in fields(AttemptRecord))

_FIELD_VALUES: Final = attrgetter(*FIELDS[1:])
_ATTEMPT_VALUES: Final = attrgetter(*_ATTEMPT_FIELDS)
_LONGEST_TEXT: Final = 256


def _cut(value: object) -> object:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value
