"""Lets web pages of other origins call the gateway (CORS: Fetch Standard, 3.3).

A browser asks first, by OPTIONS and without a key (a preflight), and shows a page only the answers
that allow its origin.  ``CORS_ORIGINS`` names the origins; without it nothing here is used.  Keys
are sent by the page itself, never by the browser, so no answer allows credentials.
"""

import re
from collections.abc import Mapping
from typing import Final

from image_gateway.core.headers import Headers
from image_gateway.edge.client.listener import Message, Scope, Send

ANY: Final = "*"

_REQUEST_HEADERS: Final = (
    "authorization",
    "api-key",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "prefer",
)
"""What clients send; a browser may ask for more, such as the SDKs' ``x-stainless-*``."""
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_MOST_HEADERS: Final = 64
_EXPOSED: Final = ", ".join(
    (
        "x-request-id",
        "x-call-id",
        "x-call-source",
        "idempotent-replayed",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "openai-processing-ms",
        "preference-applied",
        "location",
        "etag",
        "content-range",
        "accept-ranges",
        *(
            f"x-ratelimit-{kind}-{unit}"
            for kind in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        ),
    )
)
_OWN: Final = frozenset({b"access-control-allow-origin", b"access-control-allow-credentials"})
"""What only this module says."""
_MAX_AGE_SECONDS: Final = "7200"
"""How long a browser need not ask again; Chromium's own limit."""


class Cors:
    """The headers for the origins that the settings allow."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def __repr__(self) -> str:
        return f"<Cors for {len(self._origins)} origins>"

    def wrap(self, scope: Scope, send: Send) -> Send:
        """A ``send`` that adds the headers for the request's origin to the head of its answer."""
        allowed = self._allowed(Headers(scope["headers"]).get("origin"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message["headers"], allowed)}
            await send(message)

        return send_with_headers

    def _allowed(self, origin: str | None) -> str | None:
        if ANY in self._origins:
            return ANY
        return origin if origin in self._origins else None


def _with_headers(
    pairs: list[tuple[bytes, bytes]], allowed: str | None
) -> list[tuple[bytes, bytes]]:
    # An answer of the text API may have its own; two would allow nothing, and the preflight of its
    # call was answered here.
    pairs = [(name, value) for name, value in pairs if name.lower() not in _OWN]
    added = [(b"vary", b"Origin")]
    if allowed is not None:
        added.append((b"access-control-allow-origin", allowed.encode("latin-1")))
        added.append((b"access-control-expose-headers", _EXPOSED.encode()))
    return [*pairs, *added]


def preflight(headers: Headers, methods: str) -> Mapping[str, str]:
    """The headers of the answer to a preflight, for a path that takes ``methods``.

    Which headers a page may send is no secret and protects nothing, so those it asks for are
    allowed, within bounds.
    """
    asked = (headers.get("access-control-request-headers") or "").lower().split(",")
    names = [name.strip() for name in asked[:_MOST_HEADERS]]
    allowed = dict.fromkeys((*_REQUEST_HEADERS, *filter(_HEADER_NAME.fullmatch, names)))
    return {
        "access-control-allow-methods": methods,
        "access-control-allow-headers": ", ".join(allowed),
        "access-control-max-age": _MAX_AGE_SECONDS,
    }
