"""Addresses of pictures: anyone who has one can read one picture of one call, until it expires.

An address is ``PUBLIC_URL/v1/images/files/<token>.<extension>``.  The token holds the call, the
index of the picture, the end and an HMAC over all of these and the extension, so that the gateway
keeps no list of addresses, and no other address can be made from one.  The token is a secret like a
key: it belongs in no record, log or error.

This module does not know whether the call is kept, nor what kind of picture it made.  The key comes
from ``core.calls.names``.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from image_gateway.core.calls import names

PATH: Final = "/v1/images/files/"

_INDEX_BYTES: Final = 2
_END_BYTES: Final = 5
_TAG_BYTES: Final = 16
_CALL_BYTES: Final = 16
_BYTES: Final = _CALL_BYTES + _INDEX_BYTES + _END_BYTES + _TAG_BYTES
# A multiple of three: base64 has no spare bits then, so no second text stands for the same bytes.
assert _BYTES % 3 == 0

_CALL_PREFIX: Final = "call_"
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,5}")
_NAME: Final = re.compile(rf"([A-Za-z0-9_-]{{{_BYTES // 3 * 4}}})\.({_EXTENSION.pattern})")

_SECRET: Final = re.compile(
    rf"(?<=/files/).+|[A-Za-z0-9_-]{{{_BYTES // 3 * 4}}}\.{_EXTENSION.pattern}",
    re.IGNORECASE | re.DOTALL,
)
"""What may be a token in a path: one that stands where it belongs, and one that looks like it."""


@dataclass(frozen=True, slots=True)
class Address:
    """One picture of a call.

    ``index`` counts from 0, ``end`` is in seconds since 1970: the address is read before it, and
    not at it.
    """

    call_id: str
    index: int
    end: int


def make(key: bytes, address: Address, extension: str) -> str:
    """The last segment of the path: the token and the extension, up to 58 characters.

    Raises ``ValueError`` for an id that is not a call's, for an extension that is not up to
    five lower-case letters and digits, and ``OverflowError`` for an index over 65535 or an end
    that is negative or over 2**40.
    """
    if not names.is_call_id(address.call_id):
        raise ValueError("an address needs the id of a call")
    if not _EXTENSION.fullmatch(extension):
        raise ValueError("an extension has up to five lower-case letters and digits")
    content = (
        bytes.fromhex(address.call_id.removeprefix(_CALL_PREFIX))
        + address.index.to_bytes(_INDEX_BYTES)
        + address.end.to_bytes(_END_BYTES)
    )
    token = base64.urlsafe_b64encode(content + _tag(key, content, extension))
    return f"{token.decode('ascii')}.{extension}"


def read(key: bytes, name: str, now: float) -> Address | None:
    """The picture that a last segment of a path stands for; None for any other text.

    None also if it was made under another key, was changed in any way, or has ended at ``now``, in
    seconds since 1970: who asks does not learn which.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    data = base64.urlsafe_b64decode(match[1])
    content, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(key, content, match[2])):
        return None
    index_at, end_at = _CALL_BYTES, _CALL_BYTES + _INDEX_BYTES
    address = Address(
        _CALL_PREFIX + content[:index_at].hex(),
        int.from_bytes(content[index_at:end_at]),
        int.from_bytes(content[end_at:]),
    )
    return address if now < address.end else None


def url(public_url: str, name: str) -> str:
    """The whole address; ``public_url`` has no slash at its end."""
    return f"{public_url}{PATH}{name}"


def hide(path: str) -> str:
    """A path without the token that may stand in it, whatever the path is otherwise; for a log."""
    plain = unquote(path)
    hidden = _SECRET.sub("...", plain)
    return path if hidden == plain else hidden


def _tag(key: bytes, content: bytes, extension: str) -> bytes:
    # The content's length is fixed, so that no extension can pass for a part of it.
    return hmac.digest(key, content + extension.encode("ascii"), hashlib.sha256)[:_TAG_BYTES]
