"""Headers: allow-lists for both directions, and readers for the few headers the gateway uses.

Only headers named here are forwarded, so cookies, ``x-stainless-*``, authorization and hop-by-hop
headers never are.  Names are lower case.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

from image_gateway.core.errors import UpstreamError

RawHeaders = Iterable[tuple[bytes, bytes]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

TO_CLIENT: Final = frozenset({"content-type", "content-length", "openai-processing-ms"})
TO_CLIENT_PREFIXES: Final = ("x-ratelimit-",)
RETRY: Final = frozenset({"retry-after", "retry-after-ms"})
_WAITS: Final = (("retry-after-ms", 1000.0), ("x-ms-retry-after-ms", 1000.0), ("retry-after", 1.0))

LONGEST_WAIT: Final = 7 * 24 * 3600.0
"""Seconds; Codex's longest window is a week, so a larger number is an error."""

_LONGEST_USER_AGENT: Final = 120
_SESSION: Final = ("session_id", "session-id", "conversation_id", "x-session-id")

_REMAINING: Final = "x-ratelimit-remaining-"
_RESET: Final = "x-ratelimit-reset-"
_DURATION: Final = re.compile(
    r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?", re.ASCII
)
_MOST_FORWARDED: Final = 16
_MOST_DIGITS: Final = 20
"""Enough for 64 bits; h11 takes no longer Content-Length, and one that is not read is none."""


class Headers:
    """The headers of one request, by lower-case name; the first value wins.

    Names and values, bytes in ASGI, are decoded as latin-1.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: RawHeaders) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            key = name.decode("latin-1").lower()
            self._values.setdefault(key, []).append(value.decode("latin-1").strip())

    def __repr__(self) -> str:
        return f"<Headers {sorted(self._values)}>"

    def get(self, name: str) -> str | None:
        """The first value, None if the header is absent."""
        values = self._values.get(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value, in order."""
        return self._values.get(name, [])

    def named(self, names: frozenset[str], prefixes: tuple[str, ...]) -> dict[str, str]:
        """The headers on an allow-list of names and prefixes; repeated values are joined."""
        return {
            name: ", ".join(values)
            for name, values in self._values.items()
            if (name in names or (prefixes and name.startswith(prefixes)))
            and all(map(is_sendable, values))
        }


def secret(headers: Headers) -> str | None:
    """The API key: ``Authorization: Bearer`` before ``api-key``, which Azure's clients send."""
    scheme, _, token = (headers.get("authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("api-key") or None


def session(headers: Headers) -> str | None:
    """The session that the client names for its call; None if it names none."""
    return next((value for name in _SESSION if (value := headers.get(name))), None)


def user_agent(headers: Headers) -> str | None:
    """The client's name for itself, without characters that cannot be printed, and cut."""
    value = headers.get("user-agent") or ""
    return "".join(filter(str.isprintable, value))[:_LONGEST_USER_AGENT] or None


def media_type(value: str | None) -> str:
    """``application/json`` for ``Application/JSON; charset=utf-8``; empty if there is none."""
    return (value or "").partition(";")[0].strip().lower()


def content_codings(headers: Headers) -> list[str]:
    """The content codings of a body in the order in which they were applied, in lower case."""
    codings = ",".join(headers.all("content-encoding")).lower().split(",")
    return [name for coding in codings if (name := coding.strip()) not in {"", "identity"}]


_CHARSET: Final = re.compile(r"charset\s*(\*[\d\s*]*)?=\s*[\"']?([^\s\"';]*)", re.IGNORECASE)
_ASCII_SUPERSETS: Final = frozenset(
    {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "latin-1", "windows-1252"}
)


def is_readable_text(content_types: Iterable[str]) -> bool:
    """Whether the charsets of a body, if any are named, write ASCII as ASCII.

    In others, such as UTF-7, a word can hide from code that reads UTF-8.  Nobody needs the extended
    forms for a charset (``charset*=``, RFC 2231), so they count as unreadable.
    """
    return all(
        not extension and charset.lower() in _ASCII_SUPERSETS
        for content_type in content_types
        for extension, charset in _CHARSET.findall(content_type)
    )


def content_length(headers: Headers) -> int | None:
    """The declared length in bytes, None if the body is chunked or absent."""
    return whole(headers.get("content-length"))


def whole(value: str | None) -> int | None:
    """A header value as a whole number, None for anything else."""
    if value is None or len(value) > _MOST_DIGITS or not (value.isascii() and value.isdigit()):
        return None
    return int(value)


def client_address(peer: str | None, headers: Headers, trusted: tuple[Network, ...]) -> str | None:
    """The client's address: the last one that is not a trusted proxy.

    ``X-Forwarded-For`` counts only if the peer itself is in ``trusted``; it is read from the right,
    because anybody may have written the addresses further left.
    """
    address = peer if peer is None else _told(peer) or peer
    forwarded = ",".join(headers.all("x-forwarded-for")).split(",")[-_MOST_FORWARDED:]
    while address is not None and is_trusted(address, trusted) and forwarded:
        before = _told(forwarded.pop())
        if before is None:
            break
        address = before
    return address


def is_trusted(address: str, trusted: tuple[Network, ...]) -> bool:
    """Whether an address, in any of the forms of ``read_address``, is in one of the networks."""
    parsed = read_address(address)
    return parsed is not None and any(parsed in network for network in trusted)


_WITH_PORT: Final = re.compile(r"(?:\[([^\]]*)\]|([\d.]+))(?::\d{1,5})?", re.ASCII)


def read_address(text: str) -> IpAddress | None:
    """The IP address of a peer or of one that is forwarded, None for anything else.

    A port goes, and so do brackets and a zone: both belong to the socket or the machine that
    reports them, and a zone may be any text.  An IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2),
    as a socket for both families reports it, becomes what it is.
    """
    text = text.strip()
    match = _WITH_PORT.fullmatch(text)
    host = (match[1] or match[2] or "") if match is not None else text
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _told(text: str) -> str | None:
    address = read_address(text)
    return None if address is None else str(address)


def may_reach_client(name: str) -> bool:
    """Whether a header of an upstream's answer may be forwarded, with an error or without."""
    return name in TO_CLIENT | RETRY or name.startswith(TO_CLIENT_PREFIXES)


def to_client(upstream: Mapping[str, str]) -> dict[str, str]:
    """The headers of an upstream's answer to forward to the client."""
    return {
        name: value
        for name, value in upstream.items()
        if (name in TO_CLIENT or name.startswith(TO_CLIENT_PREFIXES)) and is_sendable(value)
    }


def to_client_with_error(upstream: Mapping[str, str]) -> dict[str, str]:
    """The headers of a failed answer to forward: when to retry, and the remaining limits."""
    return {
        name: value
        for name, value in upstream.items()
        if (name in RETRY or name.startswith(TO_CLIENT_PREFIXES)) and is_sendable(value)
    }


def is_sendable(value: str) -> bool:
    """Whether a header may have this value; otherwise the header is dropped, not repaired."""
    return value.isascii() and (value.isprintable() or not value)


def named_wait(
    upstream: Mapping[str, str], error: UpstreamError, now: float, *, limited: bool
) -> float | None:
    """Seconds to wait according to an answer, None if it names no wait.

    ``now`` is the time in seconds since 1970, for an error with a ``resets_at``.  The most exact
    source counts: ``retry-after-ms``, the same with ``x-ms-``, ``retry-after`` (these upstreams do
    not use its date form), then ``resets_in_seconds`` or ``resets_at`` of the error.  If the answer
    is about a limit (``limited``), the last source is the latest reset of a used-up
    ``x-ratelimit-*`` limit.
    """
    wait = _named_wait(upstream, error, now)
    if wait is None and limited:
        wait = _rate_limit_reset(upstream)
    return None if wait is None else min(max(wait, 0.0), LONGEST_WAIT)


def _named_wait(upstream: Mapping[str, str], error: UpstreamError, now: float) -> float | None:
    for name, unit in _WAITS:
        seconds = number(upstream.get(name))
        if seconds is not None:
            return seconds / unit
    if error.resets_in_seconds is not None:
        return error.resets_in_seconds
    if error.resets_at is not None:
        return error.resets_at - now
    return None


def _rate_limit_reset(upstream: Mapping[str, str]) -> float | None:
    resets = [
        seconds
        for name, remaining in upstream.items()
        if name.startswith(_REMAINING) and number(remaining) == 0
        if (seconds := _duration(upstream.get(_RESET + name.removeprefix(_REMAINING)))) is not None
    ]
    return max(resets, default=None)


def _duration(text: str | None) -> float | None:
    """Seconds of ``7``, ``7.5``, ``250ms`` or ``1h6m0.5s``; None for anything else."""
    seconds = number(text)
    match = _DURATION.fullmatch(text or "")
    if seconds is not None or match is None or not text:
        return seconds
    return sum(
        float(part) * unit
        for part, unit in zip(match.groups(default="0"), (3600, 60, 1, 0.001), strict=True)
    )


def number(text: str | None) -> float | None:
    """A header value as a number of at least zero; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
