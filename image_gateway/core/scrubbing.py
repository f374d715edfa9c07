"""Takes credentials, account names and content out of what an upstream says.

An upstream may repeat in any text what it was sent: in a message, a code, a header.  One
``Scrubber`` for each account knows all that must not be seen, in every spelling in which a server
may repeat it, and everything that leaves an attempt goes through it: errors, headers, records.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final, Self
from urllib.parse import quote, quote_plus

import orjson

from image_gateway.core import headers
from image_gateway.core.errors import UpstreamError
from image_gateway.core.model import Account, Proxy

_TOKENS: Final = re.compile(
    # A match begins only at the start of a token, so a run that fails is tried once, not at
    # each hyphen.
    r"(?i)(?<![\w-])"
    r"(?:bearer\s+[a-z0-9._~+/=-]{8,}|sk-[a-z0-9_-]{8,}|eyj[a-z0-9_-]{8,}\.[a-z0-9._-]+)"
)
_DATA_URLS: Final = re.compile(r"(?i)data:[a-z]+/[a-z0-9+.-]+(?:;[\w=.-]+)*;base64,[\w+/=-]*")
# A base64 run this long is not a word, an id or a request id: it is content.
_BASE64_RUNS: Final = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")
_ALWAYS: Final = (_TOKENS, _DATA_URLS, _BASE64_RUNS)
_SHORT: Final = 6
"""A shorter secret or name may be part of other words, so only whole words are replaced."""
_LONG: Final = 16
"""In a code such as ``moderation_blocked``, a shorter secret is replaced only as a whole word.  A
longer one is found in any case."""
_CODES: Final = frozenset({"code", "type"})
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_HEADER: Final = 1024
"""Characters; a limit or a reset is short, and a hundred headers of 64 KiB would take seconds."""
_REMEMBERED: Final = 256
"""Accounts whose secrets are spelled once for all their calls: it takes 0.1 ms (measured)."""
REDACTED: Final = "[redacted]"
"""Stands in place of what must not be seen."""


class Scrubber:
    """Replaces secrets and content in texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = _all_spellings(tuple(secrets))

    @classmethod
    def of(cls, account: Account) -> Self:
        """The scrubber for the answers of an account."""
        return cls([*account.secrets(), account.account_name, *_basic(account.proxy)])

    def __repr__(self) -> str:
        return f"<Scrubber of {len(self._secrets)} texts>"

    def clean_text(self, text: str, name: str = "") -> str:
        """A text without secrets, data URLs and base64; ``name`` is that of its field."""
        is_code = name in _CODES and _IDENTIFIER.fullmatch(text) is not None
        return self._clean(text, _LONG if is_code else _SHORT)

    def clean_json(self, body: bytes) -> bytes:
        """JSON text of an error; unchanged, byte for byte, if there is nothing to take out."""
        value = orjson.loads(body)
        cleaned = self.clean(value)
        return body if cleaned == value else orjson.dumps(cleaned)

    def clean(self, value: object, name: str = "") -> object:
        """A JSON value of bounded depth."""
        if isinstance(value, str):
            return self.clean_text(value, name)
        if isinstance(value, dict):
            return {self._clean_key(key): self.clean(inner, key) for key, inner in value.items()}
        return [self.clean(inner) for inner in value] if isinstance(value, list) else value

    def clean_error(self, error: UpstreamError) -> UpstreamError:
        """An error whose texts may be shown and recorded."""

        def clean(text: str | None, name: str = "") -> str | None:
            return None if text is None else self.clean_text(text, name)

        return replace(
            error,
            message=clean(error.message),
            type=clean(error.type, "type"),
            param=clean(error.param),
            code=clean(error.code, "code"),
        )

    def clean_headers(self, upstream: Mapping[str, str]) -> dict[str, str]:
        """Headers without those that would carry a secret to the client."""
        return {
            name: value
            for name, value in upstream.items()
            if not headers.may_reach_client(name) or self._is_clean(name, value)
        }

    def _is_clean(self, name: str, value: str) -> bool:
        if len(value) > _LONGEST_HEADER:
            return False
        # An account may be called ``100``, and that is a limit, too.
        shown = name if len(value) < _SHORT and value.isdigit() else f"{name}: {value}"
        return self._clean(shown, _SHORT) == shown

    def _clean_key(self, key: str) -> str:
        """A key, of which only what cannot be an everyday word is taken out."""
        return self._clean(key, _LONG, whole_words=False)

    def _clean(self, text: str, length: int, *, whole_words: bool = True) -> str:
        """Replace the secrets of at least this length, and shorter ones as whole words."""
        for pattern in _ALWAYS:
            text = pattern.sub(REDACTED, text)
        lowered = text.lower()
        for secret in self._secrets:
            # A pattern is made only for what is there: most texts hold no secret.
            if secret.lower() in lowered and (whole_words or len(secret) >= length):
                text = _pattern(secret, length).sub(REDACTED, text)
                lowered = text.lower()
        return text


def _pattern(text: str, length: int) -> re.Pattern[str]:
    """Matches a text anywhere, or only as a whole word if it is shorter than ``length``."""
    escaped = re.escape(text)
    if len(text) < length:
        escaped = rf"(?<![\w-]){escaped}(?![\w-])"
    return re.compile(escaped, re.IGNORECASE if len(text) >= _LONG else 0)


@lru_cache(_REMEMBERED)
def _all_spellings(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Every spelling of every secret; a text that holds another goes first."""
    spelled = {spelling for secret in secrets for spelling in _spellings(secret)}
    return tuple(sorted(spelled - {""}, key=lambda text: (-len(text), text)))


def _spellings(secret: str) -> Iterable[str]:
    """A secret unchanged, and as it is written in URLs, in HTML and in nested JSON."""
    quoted = quote(secret, safe="")
    escaped = orjson.dumps(secret).decode()[1:-1]
    yield from (secret, quoted, quote(secret), quote_plus(secret), html.escape(secret), escaped)
    yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)


def _basic(proxy: Proxy | None) -> Iterable[str]:
    """What a ``Proxy-Authorization`` holds: user and password as one text in base64."""
    if proxy is None or proxy.username is None:
        return
    password = "" if proxy.password is None else proxy.password.reveal()
    pair = f"{proxy.username.reveal()}:{password}"
    for encoding in ("utf-8", "latin-1"):
        encoded = base64.b64encode(pair.encode(encoding, "replace")).decode()
        # Without its padding it is found with and without.
        yield encoded.rstrip("=")
        yield encoded.rstrip("=").translate(str.maketrans("+/", "-_"))
