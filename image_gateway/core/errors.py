"""Errors: the table of the gateway's own errors, and how to read the errors of an upstream.

Every error says who failed (client, gateway or upstream) and whether repeating the call is safe.
Codes and statuses are promises to programs (core/README.md, "Error codes"); messages are for people
and say what to change.  No message ever contains a secret, a prompt or a part of a picture: callers
pass names of parameters, limits and counts, never content.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

from image_gateway.core import untrusted


class Source(StrEnum):
    """Who failed."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """Status, type and source of an error code.

    ``retry`` is False if a client must not repeat the call by itself, as the official SDKs do after
    408, 409, 429 and >= 500; it becomes ``x-should-retry: false``.
    """

    status: int
    type: str
    source: Source
    retry: bool = True


_INVALID: Final = "invalid_request_error"
_PERMISSION: Final = "permission_error"
_LIMIT: Final = "rate_limit_error"
_API: Final = "api_error"

ERROR_SPECS: Final[Mapping[str, ErrorSpec]] = {
    "missing_api_key": ErrorSpec(401, _INVALID, Source.CLIENT),
    "invalid_api_key": ErrorSpec(401, _INVALID, Source.CLIENT),
    "key_disabled": ErrorSpec(403, _PERMISSION, Source.CLIENT),
    "key_expired": ErrorSpec(403, _PERMISSION, Source.CLIENT),
    "group_image_generation_disabled": ErrorSpec(403, _PERMISSION, Source.CLIENT),
    "key_image_generation_disabled": ErrorSpec(403, _PERMISSION, Source.CLIENT),
    "insufficient_quota": ErrorSpec(429, "insufficient_quota", Source.CLIENT, retry=False),
    "key_concurrency": ErrorSpec(429, _LIMIT, Source.CLIENT),
    "owner_concurrency": ErrorSpec(429, _LIMIT, Source.CLIENT),
    "key_start_interval": ErrorSpec(429, _LIMIT, Source.CLIENT),
    "unknown_path": ErrorSpec(404, _INVALID, Source.CLIENT),
    "method_not_allowed": ErrorSpec(405, _INVALID, Source.CLIENT),
    "unsupported_protocol": ErrorSpec(400, _INVALID, Source.CLIENT),
    "upgrade_required": ErrorSpec(426, _INVALID, Source.CLIENT),
    "request_too_large": ErrorSpec(413, _INVALID, Source.CLIENT),
    "unsupported_media_type": ErrorSpec(415, _INVALID, Source.CLIENT),
    "request_timeout": ErrorSpec(408, _INVALID, Source.CLIENT, retry=False),
    "invalid_body": ErrorSpec(400, _INVALID, Source.CLIENT),
    "missing_required_parameter": ErrorSpec(400, _INVALID, Source.CLIENT),
    "invalid_type": ErrorSpec(400, _INVALID, Source.CLIENT),
    "invalid_value": ErrorSpec(400, _INVALID, Source.CLIENT),
    "unknown_parameter": ErrorSpec(400, _INVALID, Source.CLIENT),
    "idempotency_key_reused": ErrorSpec(422, _INVALID, Source.CLIENT, retry=False),
    "repeated_call": ErrorSpec(400, _INVALID, Source.CLIENT, retry=False),
    "call_not_found": ErrorSpec(404, _INVALID, Source.CLIENT),
    "picture_not_found": ErrorSpec(404, _INVALID, Source.CLIENT),
    "call_cancelled": ErrorSpec(409, _INVALID, Source.CLIENT, retry=False),
    "model_not_allowed": ErrorSpec(403, _PERMISSION, Source.CLIENT),
    "model_not_found": ErrorSpec(404, _INVALID, Source.CLIENT),
    "unsupported_value": ErrorSpec(400, _INVALID, Source.CLIENT),
    "not_an_image_request": ErrorSpec(421, _INVALID, Source.CLIENT),
    "misdirected_request": ErrorSpec(421, _INVALID, Source.CLIENT),
    "account_concurrency": ErrorSpec(429, _LIMIT, Source.GATEWAY),
    "rate_limit_exceeded": ErrorSpec(429, _LIMIT, Source.UPSTREAM),
    "no_account_available": ErrorSpec(503, _API, Source.GATEWAY),
    "account_credentials": ErrorSpec(503, _API, Source.UPSTREAM),
    "account_refused": ErrorSpec(503, _API, Source.UPSTREAM),
    "upstream_unreachable": ErrorSpec(502, _API, Source.UPSTREAM),
    "outcome_unknown": ErrorSpec(504, _API, Source.UPSTREAM, retry=False),
    "upstream_redirect": ErrorSpec(502, _API, Source.UPSTREAM, retry=False),
    "upstream_invalid": ErrorSpec(502, _API, Source.UPSTREAM, retry=False),
    "upstream_refused": ErrorSpec(502, _API, Source.UPSTREAM, retry=False),
    "upstream_cut": ErrorSpec(502, _API, Source.UPSTREAM, retry=False),
    "control_plane_unavailable": ErrorSpec(503, _API, Source.GATEWAY),
    "overloaded": ErrorSpec(503, _API, Source.GATEWAY),
    "draining": ErrorSpec(503, _API, Source.GATEWAY),
    "internal_error": ErrorSpec(500, _API, Source.GATEWAY, retry=False),
}

CLIENT_LEFT: Final = "client_left"
"""A code for records only: the client had left, so there was no answer."""


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault
    """An error answer of the gateway, in OpenAI's error shape.

    ``retry_after`` is in seconds; None sends no wait.  ``spec`` is for a code that an upstream
    chose, which is in no table.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        spec: ErrorSpec | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.spec = spec or ERROR_SPECS[code]
        self._headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON text; it always has the four keys that the SDKs read."""
        return error_body(self.message, self.spec.type, self.param, self.code)

    def headers(self) -> dict[str, str]:
        """The headers except content type and length; a wait is sent in whole seconds and in ms."""
        headers = dict(self._headers)
        if self.retry_after is not None:
            headers |= retry_headers(self.retry_after)
        if not self.spec.retry:
            headers["x-should-retry"] = "false"
        return headers


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """An error in OpenAI's shape, as JSON text."""
    error = {"message": message, "type": type_, "param": param, "code": code}
    return orjson.dumps({"error": error})


def retry_headers(seconds: float) -> dict[str, str]:
    """Both headers for a wait in seconds: the SDKs read ``retry-after-ms`` first."""
    milliseconds = max(1, math.ceil(seconds * 1000))
    return {
        "retry-after": str(math.ceil(milliseconds / 1000)),
        "retry-after-ms": str(milliseconds),
    }


def missing_key() -> Refusal:
    """The request has no key in any of the accepted headers."""
    return Refusal(
        "missing_api_key",
        "The request has no API key. Send it as `Authorization: Bearer <key>` or `api-key: <key>`.",
    )


def unknown_key() -> Refusal:
    """The control plane does not have this key; the message never repeats it."""
    return Refusal("invalid_api_key", "Unknown API key. Check the key that you send.")


def encoded_body(encodings: Iterable[str] = ()) -> Refusal:
    """The body is compressed in a way that the gateway does not open; ``encodings`` it opens."""
    supported = "".join(f", or with {name}" for name in sorted(encodings))
    return Refusal(
        "unsupported_media_type",
        "This encoding of the request body is not supported. Send the body without a "
        f"`content-encoding`{supported}.",
    )


def wrong_type(param: str, expected: str) -> Refusal:
    """A parameter has the wrong JSON type."""
    return Refusal("invalid_type", f"`{param}` must be {expected}.", param=param)


def wrong_value(param: str, rule: str) -> Refusal:
    """A parameter has the right type but breaks a rule, a predicate such as "must be 1"."""
    return Refusal("invalid_value", f"`{param}` {rule}.", param=param)


def reused_name(call_id: str) -> Refusal:
    """The client's own name for a call belongs to this one; nothing was sent."""
    return Refusal(
        "idempotency_key_reused",
        "This `Idempotency-Key` was sent with another request before. Send that request unchanged "
        "to get its answer, or a new key for this one.",
        headers={"x-call-id": call_id},
    )


def repeated_call(call_id: str, seconds_ago: float) -> Refusal:
    """This equal call was sent ``seconds_ago`` and nobody knows what it made; nothing was sent."""
    seconds = max(1, round(seconds_ago))
    ago = "1 second" if seconds == 1 else f"{seconds} seconds"
    return Refusal(
        "repeated_call",
        f"An equal call was sent {ago} ago and its outcome is unknown: its picture may exist and "
        "be billed. To buy another picture, send this call once more, or with an `Idempotency-Key` "
        "of its own.",
        headers={"x-call-id": call_id},
    )


def call_not_found() -> Refusal:
    """No call has this id, it is kept no longer, or it is another key's: always the same words."""
    return Refusal(
        "call_not_found",
        "This key has no call with this id, or the call is no longer kept. Check the id, and send "
        "the key that started the call.",
    )


def call_cancelled() -> Refusal:
    """The key that started the call has ended it before it made anything."""
    return Refusal("call_cancelled", "This call was cancelled before its picture was made.")


# -- errors of upstreams ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """The content of an upstream's error body, whatever its shape.

    ``shaped``: it already has OpenAI's shape, a message inside ``error``.
    """

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | None = None
    shaped: bool = False
    resets_in_seconds: float | None = None
    resets_at: float | None = None


def read_upstream_error(body: bytes) -> UpstreamError:
    """Read an error body: OpenAI's shape, Codex's ``detail``, or a bare ``code`` and ``message``.

    Anything else, such as HTML, gives an empty error.  Source: ``core/dialects/README.md``, the
    errors of each upstream.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return UpstreamError()
    return from_value(value)


def from_value(value: object) -> UpstreamError:
    """The same from a parsed body."""
    if not isinstance(value, dict):
        return UpstreamError()
    error, detail = value.get("error"), value.get("detail")
    if isinstance(error, dict):
        return from_fields(error, shaped=isinstance(error.get("message"), str))
    if isinstance(error, str) or isinstance(detail, str):
        return UpstreamError(message=_text(error) or _text(detail))
    return from_fields(detail if isinstance(detail, dict) else value)


def from_fields(fields: Mapping[str, object], *, shaped: bool = False) -> UpstreamError:
    """An error from its fields; unknown fields are ignored."""
    return UpstreamError(
        message=_text(fields.get("message")),
        type=_text(fields.get("type")),
        param=_text(fields.get("param")),
        code=_text(fields.get("code")),
        shaped=shaped,
        resets_in_seconds=untrusted.number(fields.get("resets_in_seconds")),
        resets_at=untrusted.number(fields.get("resets_at")),
    )


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


CONTENT_FAULTS: Final = frozenset(
    {
        "moderation_blocked",
        "content_policy_violation",
        "content_policy",
        "content_filter",
        "contentfilter",
        "responsibleaipolicyviolation",
        "safety_violation",
    }
)
"""Codes and types, in lower case, of a refusal by a content policy."""

CLIENT_FAULTS: Final = CONTENT_FAULTS | {
    "image_generation_user_error",
    "invalid_prompt",
    "invalid_parameter",
    "invalid_value",
    "invalid_type",
    "invalid_size",
    "invalid_image",
    "invalid_image_file",
    "invalid_image_format",
    "invalid_image_url",
    "image_too_large",
    "empty_image_file",
    "unknown_parameter",
    "unsupported_parameter",
    "unsupported_value",
    "missing_required_parameter",
    "string_above_max_length",
    "integer_above_max_value",
    "integer_below_min_value",
}
"""Codes and types, in lower case, that blame the call itself: every account would refuse it."""

CREDENTIAL_FAULTS: Final = frozenset(
    {"invalid_api_key", "token_expired", "token_invalidated", "authentication_error"}
)
"""Codes and types, in lower case, about the credential that signed the call."""

MISSING_MODEL: Final = frozenset(
    {"model_not_found", "deploymentnotfound", "deployment_not_found", "unknown_model"}
)

_STATUSES: Final[tuple[tuple[frozenset[str], int], ...]] = (
    (CLIENT_FAULTS | {"context_length_exceeded"}, 400),
    (
        frozenset(
            {
                "rate_limit_exceeded",
                "rate_limit_error",
                "usage_limit_reached",
                "insufficient_quota",
                "too_many_requests",
            }
        ),
        429,
    ),
    (frozenset({"server_is_overloaded", "slow_down", "overloaded_error"}), 503),
    (MISSING_MODEL, 404),
    (CREDENTIAL_FAULTS, 401),
    (frozenset({"permission_error"}), 403),
    (frozenset({"invalid_request_error"}), 400),
)
"""The status for an error that came in a stream and so has none; the first match counts."""


def codes(error: UpstreamError) -> set[str]:
    """The code and type of an error, in lower case."""
    return {text.lower() for text in (error.code, error.type) if text}


def shown_code(error: UpstreamError) -> str | None:
    """An upstream's code or type, if it looks like a code; a sentence may hold content."""
    text = error.code or error.type
    return text if text is not None and _IDENTIFIER.fullmatch(text) else None


def status_of(error: UpstreamError) -> int:
    """The HTTP status for an error that came as an event; 500 if its codes are unknown."""
    error_codes = codes(error)
    return next((status for names, status in _STATUSES if names & error_codes), 500)


def passed_on(status: int, body: bytes, error: UpstreamError) -> bytes:
    """An upstream's error for the client: unchanged if in OpenAI's shape, else converted to it.

    An error that lacks some of the four keys gets them, and keeps its other fields, as far as they
    are not nested deeper than any real ones.  ``error`` may
    name a field otherwise than the body does (``core.dialects.faults.for_client``).
    """
    type_ = error.type or (_LIMIT if status == 429 else _API if status >= 500 else _INVALID)
    if error.shaped:
        value = orjson.loads(body)
        is_deep = untrusted.is_deep(value)
        fields = untrusted.mapping(untrusted.pruned(value["error"]))
        defaults = {"type": type_, "param": error.param, "code": error.code}
        texts = {"message": error.message, "param": error.param}
        renamed = {name: text for name, text in texts.items() if isinstance(fields.get(name), str)}
        completed = {**defaults, **fields, **renamed}
        return body if completed == fields and not is_deep else orjson.dumps({"error": completed})
    message = error.message or (
        f"The upstream refused the call with the error code {error.code}."
        if error.code and _IDENTIFIER.fullmatch(error.code)
        else f"The upstream answered with status {status} and no JSON error."
    )
    return error_body(message, type_, error.param, error.code)


_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
