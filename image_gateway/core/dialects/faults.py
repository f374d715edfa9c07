"""Whose fault an upstream's error is.

The same status means different things: a 400 may be about the request, about the account that
carried it, or about a field that only the gateway added.  ``KnownError`` is a row that says so for
one error; each dialect's record has its own rows, and ``COMMON`` are the rows for all of them.  The
first row that fits counts, so the exact ones come before the general ones.  What follows from a
fault is decided by ``core.routing.failover``.

A phrase is matched at the start of a message only, and every other field exactly: clients choose
the words that an upstream quotes later in its message, and must not be able to stop an account.
Sources: README.md in this folder, "What an error is about".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from image_gateway.core import errors
from image_gateway.core.errors import UpstreamError
from image_gateway.core.request import intent
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest, IntentRequest


class Fault(StrEnum):
    """What an error is about; all but ``REQUEST`` let another account serve the call."""

    REQUEST = "request"
    """Every account would refuse it."""
    ACCOUNT = "account"
    MODEL = "model"
    """The account does not serve this model."""
    ENDPOINT = "endpoint"
    """The account does not serve this endpoint for this model."""
    FORM = "form"
    """The gateway wrote the call in a form that this account does not take."""
    OVERLOAD = "overload"
    """The upstream did not begin with the call."""


def always(request: AnyRequest) -> bool:  # noqa: ARG001 - the field's signature
    """For an error that means the same for every request."""
    return True


@dataclass(frozen=True, slots=True)
class KnownError:
    """An error of an upstream, and whose fault it is.

    It fits an error with one of its ``statuses`` and one of its ``params`` that has one of its
    ``codes`` (as code or type, in lower case) or else its ``phrase`` at the start of the message;
    empty fields fit anything.  ``when`` tells by the request whether the gateway or the client
    wrote what the error is about.  ``name`` stands in records and logs; ``meaning`` is for people.
    """

    name: str
    fault: Fault
    meaning: str
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    params: frozenset[str] = frozenset()
    phrase: re.Pattern[str] | None = None
    when: Callable[[AnyRequest], bool] = always

    def fits(self, status: int, error: UpstreamError, request: AnyRequest) -> bool:
        """Whether this row is about such an error."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.params or error.param in self.params)
            and self._has_words(error)
            and self.when(request)
        )

    def _has_words(self, error: UpstreamError) -> bool:
        if not self.codes and self.phrase is None:
            return True
        if self.codes & errors.codes(error):
            return True
        return self.phrase is not None and self.phrase.match(error.message or "") is not None


def phrase(text: str) -> re.Pattern[str]:
    """A pattern for the start of a message, without regard to case."""
    return re.compile(rf"(?:error: )?{text}", re.IGNORECASE)


def lists_image_tool(request: AnyRequest) -> bool:
    """Whether the call that goes to a Responses route has the image tool in ``tools``."""
    return (
        isinstance(request, ImageRequest)
        or request.is_for_image_model
        or bool(intent.image_tools(request.body))
    )


def has_main_model_of_account(request: AnyRequest) -> bool:
    """Whether the account's main model takes the call, not one that the client named."""
    return isinstance(request, ImageRequest) or request.is_for_image_model


_REFUSALS: Final = frozenset({400, 401, 402, 403, 404, 405, 409, 410, 422, 429})
_ABOUT_MODELS: Final = frozenset({400, 403, 404, 410, 422})
_OWNERS: Final = (
    r"(?:your|this|the) (?:openai |azure |associated )?"
    r"(?:account|organi[sz]ation|workspace|project|resource|subscription|team|user|api key)"
)
_STOPPED: Final = (
    r"(?:deactivated|disabled|suspended|blocked|banned|archived|terminated|restricted|deleted"
    r"|not active|inactive|past due)"
)

COMMON: Final[Sequence[KnownError]] = (
    KnownError(
        "moderation",
        Fault.REQUEST,
        "the content policy refuses the prompt or a picture",
        codes=errors.CONTENT_FAULTS,
    ),
    KnownError(
        "organization_not_verified",
        Fault.MODEL,
        "the account's organization is not verified for this model",
        phrase=phrase(r"your organi[sz]ation must be verified"),
    ),
    KnownError(
        "account_spent",
        Fault.ACCOUNT,
        "the account's money or quota is used up",
        statuses=_REFUSALS,
        codes=frozenset(
            {
                "billing_hard_limit_reached",
                "billing_limit_reached",
                "billing_not_active",
                "billing_error",
                "budget_exceeded",
                "budget_reached",
                "credits_exhausted",
                "insufficient_balance",
                "insufficient_credits",
                "insufficient_funds",
                "insufficient_quota",
                "insufficient_user_quota",
                "organization_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "payment_required",
                "pre_consume_token_quota_failed",
                "quota_exceeded",
                "usage_not_included",
            }
        ),
        phrase=phrase(
            r"(?:billing hard limit has been reached|you exceeded your current quota"
            r"|you have (?:exceeded|reached) your (?:assigned |monthly )?(?:quota|budget|spend)"
            r"|(?:your )?(?:credit |account )?balance (?:is )?(?:too low|insufficient|not enough)"
            r"|your credit balance is|insufficient (?:balance|credits?|funds|quota)"
            r"|payment required)"
        ),
    ),
    KnownError(
        "account_stopped",
        Fault.ACCOUNT,
        "the account is deactivated, suspended or blocked",
        statuses=_REFUSALS,
        codes=frozenset(
            {
                "access_terminated",
                "account_banned",
                "account_blocked",
                "account_deactivated",
                "account_disabled",
                "account_suspended",
                "deactivated_workspace",
                "invalid_organization",
                "ip_not_authorized",
                "mismatched_organization",
                "organization_deactivated",
                "organization_disabled",
                "organization_suspended",
                "project_archived",
                "project_not_found",
                "subscriptionnotregistered",
                "unsupported_country_region_territory",
                "user_banned",
                "user_deactivated",
                "workspace_deactivated",
            }
        ),
        phrase=phrase(
            rf"(?:{_OWNERS} (?:associated with this api key |you are accessing )?"
            r"(?:has been|have been|was|is|are)(?: currently| temporarily| permanently)? "
            rf"{_STOPPED}"
            r"|access (?:was |has been )?(?:terminated|blocked|denied due to)"
            r"|country, region, or territory not supported)"
        ),
    ),
    KnownError(
        "model_unknown",
        Fault.MODEL,
        "the account does not serve this model",
        codes=errors.MISSING_MODEL
        | {
            "model_deprecated",
            "model_not_supported",
            "modeldeprecated",
            "no_available_channel",
            "unsupported_model",
        },
    ),
    KnownError(
        "model_unknown",
        Fault.MODEL,
        "the account does not serve this model",
        statuses=_ABOUT_MODELS,
        params=frozenset({"model"}),
    ),
    KnownError(
        "model_unknown",
        Fault.MODEL,
        "the account does not serve this model",
        statuses=_ABOUT_MODELS,
        phrase=phrase(
            r"(?:the )?(?:requested )?(?:model|deployment) ['\"`]?[\w./:-]{1,80}['\"`]? "
            r"(?:does not exist|not found|(?:is|has been) "
            r"(?:deprecated|retired|shut down|not (?:available|found|supported)))"
        ),
    ),
    KnownError(
        "endpoint_unknown",
        Fault.ENDPOINT,
        "the account does not serve this endpoint",
        statuses=frozenset({400, 404, 405}),
        codes=frozenset({"operationnotsupported", "unknown_url", "unsupportedapiversion"}),
        phrase=phrase(
            r"(?:invalid url|unknown (?:request )?url|resource not found"
            r"|method not allowed|api version not supported|unsupported api version"
            r"|the requested operation is unsupported)"
        ),
    ),
    KnownError(
        "form_refused",
        Fault.FORM,
        "the account does not take the form in which the gateway sent the call",
        statuses=frozenset({400, 415, 422}),
        codes=frozenset(
            {
                "invalid_content_type",
                "invalid_json",
                "invalid_multipart",
                "unsupported_content_type",
            }
        ),
        phrase=phrase(
            r"(?:(?:unsupported|invalid) content[- ]type|we could not parse the json body"
            r"|(?:could not|failed to|error) pars(?:e|ing) (?:the )?(?:multipart|form|body))"
        ),
    ),
    KnownError(
        "form_refused",
        Fault.FORM,
        "the account does not take the form in which the gateway sent the call",
        statuses=frozenset({415}),
    ),
    KnownError(
        "overloaded",
        Fault.OVERLOAD,
        "the upstream is overloaded",
        statuses=frozenset({500, 503, 529}),
        codes=frozenset(
            {"engine_overloaded", "overloaded_error", "server_is_overloaded", "slow_down"}
        ),
    ),
)

GATEWAYS_FIELD: Final = KnownError(
    "field_of_gateway",
    Fault.FORM,
    "the account refuses a field that the gateway added",
)
PARAMETER_REFUSED: Final = KnownError(
    "parameter_refused",
    Fault.REQUEST,
    "a parameter of the request is refused",
    codes=errors.CLIENT_FAULTS,
)
_ABOUT_FIELDS: Final = frozenset({400, 422})


def find(
    rows: Sequence[KnownError], status: int | None, error: UpstreamError, request: AnyRequest
) -> KnownError | None:
    """The row that an error fits, of a dialect's own ``rows`` and the common ones; None if unknown.

    ``status`` None: there was no answer.
    """
    if status is None or status < 400:
        return None
    for row in (*rows, *COMMON):
        if row.fits(status, error, request):
            return row
    named = _named_field(error)
    if status in _ABOUT_FIELDS and named is not None and _is_gateways_own(named, request):
        return GATEWAYS_FIELD
    return PARAMETER_REFUSED if PARAMETER_REFUSED.fits(status, error, request) else None


_FIELD_IN_MESSAGE: Final = phrase(
    r"(?:unsupported|unknown|unrecognized|invalid|missing(?: required)?)"
    r" (?:parameter|field|argument|request argument supplied)s?:? ['\"`]?([A-Za-z_][\w.\[\]]{0,80})"
)
_WRITTEN: Final = frozenset(
    {"action", "include", "input", "instructions", "store", "stream", "tool_choice", "tools"}
)
"""The fields that an encoder writes although the client did not send them."""
_WORDS: Final = re.compile(r"[A-Za-z_]\w*")
_TOOL_NAMES: Final = {
    "image_url": "images",
    "input_image": "images",
    "input_image_mask": "mask",
    "input": "prompt",
    "text": "prompt",
}
"""What the parts of a call on the Responses route are called on the Images API."""


def _named_field(error: UpstreamError) -> str | None:
    """The field that an error names, in ``param`` or at the start of its message."""
    if error.param:
        return error.param
    match = _FIELD_IN_MESSAGE.match(error.message or "")
    return None if match is None else match[1]


def _is_gateways_own(name: str, request: AnyRequest) -> bool:
    """Whether a field was written by the gateway alone.

    One that nobody wrote may be missing, which the client can change.
    """
    words = _WORDS.findall(name)
    return bool(words) and words[0] in _WRITTEN and client_field(name, request) is None


def client_field(name: str, request: AnyRequest) -> str | None:
    """The client's name for a field that an upstream names; None if the client did not send it.

    An image call that goes to a Responses route becomes a tool and a message there: its ``size`` is
    ``tools[0].size``.
    """
    words = _WORDS.findall(name)
    if not words:
        return None
    if isinstance(request, IntentRequest):
        return name if words[0] in request.body else None
    fields = _fields(request)
    if words[0] in fields:
        return name
    names = [_TOOL_NAMES.get(word, word) for word in reversed(words)]
    field = next((field for field in names if field in fields), None)
    return "image" if field == "images" and request.is_form else field


def _fields(request: ImageRequest) -> set[str]:
    """The fields that the client sent, as far as they go upstream."""
    optional = {
        "image": bool(request.images),
        "images": bool(request.images),
        "mask": request.mask is not None,
        "markup": request.markup is not None,
        "stream": request.stream,
    }
    return {
        "prompt",
        "model",
        *request.parameters,
        *(name for name, is_sent in optional.items() if is_sent),
    }


def for_client(error: UpstreamError, request: AnyRequest) -> UpstreamError:
    """The same error by the client's names for its fields."""
    if error.param is None:
        return error
    field = client_field(error.param, request)
    if field is None or field == error.param:
        return error
    message = None if error.message is None else error.message.replace(error.param, field)
    return replace(error, param=field, message=message)
