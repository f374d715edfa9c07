"""Headers of clients and upstreams (``core.headers``, ``core.calls.preferences``, and the headers
of the calls of each dialect).
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final

from image_gateway.core import headers
from image_gateway.core.calls import preferences
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.dialects.upstream_request import EncodeContext
from image_gateway.core.errors import UpstreamError, retry_headers
from image_gateway.core.headers import Headers
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.scrubbing import Scrubber
from tests.fuzz.accounts import ACCOUNTS, SECRETS
from tests.fuzz.values import Values

NAMES: Final = (
    *(b"authorization", b"api-key", b"user-agent", b"originator", b"session_id", b"prefer"),
    *(b"x-forwarded-for", b"content-type", b"content-encoding", b"content-length", b"cookie"),
    *(b"retry-after", b"retry-after-ms", b"x-ms-retry-after-ms", b"openai-processing-ms"),
    *(b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests", b"x-ratelimit-limit-"),
    *(b"x-codex-primary-used-percent", b"x-codex-primary-reset-after-seconds", b"traceparent"),
    *(b"x-codex-secondary-reset-at", b"x-codex-turn", b"openai-beta", b"baggage", b"X-CODEX-A"),
)
TRUSTED: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.0.0.0/8"))
REQUEST: Final = ImageRequest("generations", "gpt-image-2", "gpt-image-2", "a cat", {})
CONTEXT: Final = EncodeContext("https://upstream.example/v1", "1.0", "b" * 32)
_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_TOKEN: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def is_sendable(sent: Mapping[str, str]) -> bool:
    """Whether no name and no value can end a header or begin another."""
    return all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in sent.items())


def check(data: bytes) -> None:
    """No header raises; what is sent on cannot be taken for two; waits and texts are bounded."""
    values = Values(data)
    pairs: list[tuple[bytes, bytes]] = []
    while not values.is_empty and len(pairs) < 32:
        pairs.append((values.one_of(NAMES), values.some()))
    found = Headers(pairs)
    check_client(found)
    check_upstream({name.decode().lower(): value.decode("latin-1") for name, value in pairs})


def check_client(found: Headers) -> None:
    """What is read of a client's headers, and what goes to upstreams of them."""
    headers.secret(found)
    headers.session(found)
    agent = headers.user_agent(found)
    assert agent is None or (agent.isprintable() and 0 < len(agent) <= 120)
    headers.media_type(found.get("content-type"))
    headers.is_readable_text(found.all("content-type"))
    assert all(headers.content_codings(found))
    length = headers.content_length(found)
    assert length is None or 0 <= length < 10**18
    for peer in ("127.0.0.1", "203.0.113.9", "::ffff:10.0.0.1", None, "unix:"):
        address = headers.client_address(peer, found, TRUSTED)
        assert address == peer or address == str(ip_address(address or ""))
    assert headers.client_address("203.0.113.9", found, TRUSTED) == "203.0.113.9"
    liked = preferences.read(found.all("prefer"))
    assert liked.wait_seconds is None or 0 <= liked.wait_seconds <= preferences.LONGEST_WAIT
    assert _VALUE.fullmatch(liked.header() or "")
    for account in ACCOUNTS:
        for route in DIALECTS[account.dialect].routes:
            sent = route.encode(REQUEST, account, found, CONTEXT).headers
            assert is_sendable(sent), sent
            assert not {"cookie", "x-forwarded-for", "content-encoding"} & sent.keys()
            credential = account.signed_by().token.reveal()
            assert credential in sent.get("authorization", "") + sent.get("api-key", "")


def check_upstream(answer: dict[str, str]) -> None:
    """What is read of an upstream's headers, and what goes to clients of them."""
    assert is_sendable(headers.to_client(answer))
    assert is_sendable(headers.to_client_with_error(answer))
    errors = (
        UpstreamError(),
        UpstreamError(resets_in_seconds=1e300),
        UpstreamError(resets_at=-1e300),
    )
    for error in errors:
        for limited in (False, True):
            wait = headers.named_wait(answer, error, 1e9, limited=limited)
            if wait is not None:
                assert 0 <= wait <= headers.LONGEST_WAIT
                assert is_sendable(retry_headers(wait))
    for dialect in DIALECTS.values():
        for window in dialect.budget_windows(answer, 1e9).values():
            assert window.used_percent >= 0
            assert window.seconds_left is None or window.seconds_left == window.seconds_left
    for account in ACCOUNTS:
        cleaned = Scrubber.of(account).clean_headers(answer)
        shown = {n: v for n, v in cleaned.items() if headers.may_reach_client(n)}
        assert not any(secret in value for value in shown.values() for secret in SECRETS)
