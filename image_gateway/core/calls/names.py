"""What calls are called: keyed tags, ``Idempotency-Key``, ids, and the sign of a sure retry.

A tag is an HMAC, so a file or a log that holds it tells nothing of the key or of the name that a
client chose, and nobody without the secret can make one.  Each purpose has a secret of its own.
Which call a request finds is decided in ``core.calls.finding``.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final, Self

from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers

_LABEL: Final = b"\xff image-gateway calls 1: "
"""What each label begins with.  Prompts are hashed under the same key and the hashes are logged; a
label is no UTF-8, so no prompt is one, and no log shows a secret."""

NAME_HEADER: Final = "Idempotency-Key"
_RETRY_COUNT: Final = "x-stainless-retry-count"
_NAME: Final = re.compile(r"[!-~]{1,255}")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,8}")
_CALL_ID: Final = re.compile(r"call_[0-9a-f]{32}")
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class CallSecrets:
    """The secrets that tags are made with, one for each purpose; 32 bytes each."""

    key_tags: bytes = field(repr=False)
    names: bytes = field(repr=False)
    fingerprints: bytes = field(repr=False)
    addresses: bytes = field(repr=False)

    @classmethod
    def of(cls, prompt_key: bytes) -> Self:
        """The secrets derived from ``PROMPT_HASH_KEY``: equal keys give equal secrets, so that the
        instances on one machine find each other's calls.
        """

        def derived(purpose: bytes) -> bytes:
            return hmac.digest(prompt_key, _LABEL + purpose, hashlib.sha256)

        return cls(
            key_tags=derived(b"key tags"),
            names=derived(b"names"),
            fingerprints=derived(b"fingerprints"),
            addresses=derived(b"addresses"),
        )


def key_tag(secrets: CallSecrets, key_id: str) -> str:
    """What stands for a key in the identity of its calls: 64 hex digits."""
    return _hex(secrets.key_tags, _encoded(key_id))


def name_tag(secrets: CallSecrets, key_id: str, name: str) -> str:
    """What stands for a key's ``Idempotency-Key``: 64 hex digits; another key's are different."""
    key = _encoded(key_id)
    return _hex(secrets.names, len(key).to_bytes(8, "big") + key + _encoded(name))


def _hex(secret: bytes, message: bytes) -> str:
    return hmac.digest(secret, message, hashlib.sha256).hex()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def idempotency_key(headers: Headers) -> str | None:
    """The name that a client gave its call in ``Idempotency-Key``; None if it gave none.

    Quotes belong to the name.  Raises ``Refusal``, whose message does not repeat the name.
    """
    names = set(headers.all(NAME_HEADER.lower()))
    if not names:
        return None
    if len(names) > 1:
        raise _wrong_name("was sent twice with different values. Send it once.")
    [name] = names
    if _NAME.fullmatch(name) is None:
        raise _wrong_name("must have 1 to 255 visible ASCII characters, such as a UUID.")
    return name


def _wrong_name(reason: str) -> Refusal:
    return Refusal("invalid_value", f"The header `{NAME_HEADER}` {reason}", param=NAME_HEADER)


def is_sure_retry(headers: Headers) -> bool:
    """Whether the client says that it sends a call again.

    The official SDKs count their retries in ``x-stainless-retry-count``.  0 proves nothing:
    LangChain for Node makes its own retries, and each of them says 0.
    """
    counts = set(headers.all(_RETRY_COUNT))
    return len(counts) == 1 and _COUNT.fullmatch(counts.pop()) is not None


def new_call_id(random: bytes) -> str:
    """The id of a new call: ``call_`` and 16 random bytes in hex."""
    if len(random) != _ID_BYTES:
        raise ValueError(f"a call's id needs {_ID_BYTES} random bytes, and got {len(random)}")
    return f"call_{random.hex()}"


def is_call_id(text: str) -> bool:
    """Whether a text looks like the id of a call; such a text is safe as the name of a file."""
    return _CALL_ID.fullmatch(text) is not None
