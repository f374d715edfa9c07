"""A picture in a request, in both representations that a body can have.

JSON carries a string (a data URL or an https URL), multipart carries bytes.  An ``Image`` has both,
as segments that are read only when they are sent, so a request in either format can go to an
upstream of either format.  An https URL has no bytes, because the gateway never fetches one.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from image_gateway.core.codec import base64_text, json_skeleton, multipart
from image_gateway.core.codec.body_segments import Body, Decoded, Encoded, Span
from image_gateway.core.errors import Refusal, wrong_type, wrong_value

LONGEST_IMAGE_URL: Final = 20_971_520
"""Characters of one ``image_url``; OpenAI's own limit."""

TYPES: Final = frozenset({"image/png", "image/jpeg", "image/webp"})

# A slash is the only character that JSON writers escape at the start of a data URL.
_DATA_URL: Final = re.compile(rb"data:image\\?/(png|jpeg|jpg|webp);base64,(?=.)", re.DOTALL)
_NON_BASE64_IN_PREFIX: Final = len(":;,")
_MOST_PADDING: Final = 2


@dataclass(frozen=True, slots=True)
class Image:
    """One picture.

    ``text`` is its JSON string or a placeholder (``json_skeleton.placeholder``); ``data`` its
    bytes, ``type`` their MIME type and ``size`` their number, all None for an https URL.
    ``digest`` tells what is behind a placeholder from anything else that can be there; None for a
    picture that ``text`` holds itself.
    """

    text: str = field(repr=False)
    data: Body | None = field(default=None, repr=False)
    type: str | None = None
    size: int | None = None
    digest: str | None = None


def from_json(
    kind: str, param: str, value: object, lifted: Sequence[json_skeleton.LiftedString]
) -> Image:
    """A picture from a value of a JSON body: a string, or an object with ``image_url``.

    ``kind`` is ``image``, ``mask`` or ``markup``, ``param`` its name in error messages.  Raises
    ``Refusal``.
    """
    if isinstance(value, dict):
        if value.get("file_id") is not None:
            raise Refusal(
                "unsupported_value",
                "The gateway does not support `file_id`. Send a data URL in `image_url`.",
                param=f"{param}.file_id",
            )
        unknown = set(value) - {"image_url", "file_id"}
        if unknown:
            raise Refusal(
                "unknown_parameter",
                f"`{param}` accepts only `image_url`. Leave out other names.",
                param=param,
            )
        value = value.get("image_url")
        param = f"{param}.image_url"
        if value is None:
            raise Refusal(
                "missing_required_parameter",
                f"`{param}` is missing. Send a data URL or an https URL in it.",
                param=param,
            )
    if not isinstance(value, str):
        raise wrong_type(param, "a data URL, an https URL or an object with `image_url`")
    number = json_skeleton.placeholder_number(value)
    string = _describe(value) if number is None else lifted[number]
    if string.characters > LONGEST_IMAGE_URL:
        raise wrong_value(param, f"must be at most {LONGEST_IMAGE_URL} characters long")
    prefix = _DATA_URL.match(string.head)
    if prefix is not None:
        return _from_data_url(kind, param, value, string, prefix, lifted=number is not None)
    if string.head.startswith(b"data:"):
        raise wrong_value(param, "must be a base64 data URL of a png, jpeg or webp")
    url = value if number is None else string.head.replace(b"\\/", b"/").decode("latin-1")
    if url.startswith("https://") and _is_valid_url(url):
        return Image(value, digest=_digest("text", string.digest))
    raise wrong_value(param, "must be a data URL (data:image/...) or a valid https URL")


def _describe(text: str) -> json_skeleton.LiftedString:
    """A short string, described like a lifted one; it is already unescaped."""
    raw = text.encode()
    non_base64 = len(raw.translate(None, base64_text.ALPHABET))
    return json_skeleton.LiftedString(0, len(raw), raw, raw[-_MOST_PADDING:], len(text), non_base64)


def _from_data_url(
    kind: str,
    param: str,
    value: str,
    string: json_skeleton.LiftedString,
    prefix: re.Match[bytes],
    *,
    lifted: bool,
) -> Image:
    declared = "jpeg" if prefix[1] == b"jpg" else prefix[1].decode()
    padding = len(string.tail) - len(string.tail.rstrip(b"="))
    characters = string.characters - len(prefix[0].replace(b"\\", b""))
    size = base64_text.decoded_size(characters, padding)
    if size is None or size == 0 or string.non_base64 != _NON_BASE64_IN_PREFIX + padding:
        raise wrong_value(
            param, "must be a complete base64 data URL: it is truncated, or has other characters"
        )
    head = string.head[prefix.end() :]
    data: Body
    if lifted:
        data = (Decoded(Span(string.start + prefix.end(), string.stop), size),)
    else:
        try:
            data = (base64.b64decode(head + b"=" * (-len(head) % 4), validate=True),)
        except binascii.Error:
            raise wrong_value(param, "must be a valid base64 data URL") from None
    # The declared type may be wrong, so the type that the bytes show takes precedence.
    mime_type = base64_text.image_type_of_base64(head) or f"image/{declared}"
    _require_allowed(kind, param, mime_type)
    return Image(value, data, mime_type, size, _digest("text", string.digest))


def _digest(of: str, sha256: bytes) -> str | None:
    """The digest of a text is none of data: a file may hold the text of a data URL."""
    return f"{of}:{sha256.hex()}" if sha256 else None


def _is_valid_url(text: str) -> bool:
    try:
        return bool(urlsplit(text).hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False


def from_part(part: multipart.Part, number: int) -> tuple[Image, Body]:
    """A picture from a part, and the text that replaces its placeholder ``number``.

    Raises ``Refusal``.
    """
    if part.data is None or part.data.length == 0:
        raise wrong_value(part.name, "must not be empty; send the picture as a file")
    mime_type = base64_text.image_type(part.head)
    if mime_type is None:
        # Without a known signature, the part header decides if it names a picture type.
        mime_type = part.declared if part.declared in TYPES else "application/octet-stream"
    _require_allowed(part.kind, part.name, mime_type)
    image = Image(
        json_skeleton.placeholder(number),
        (part.data,),
        mime_type,
        part.data.length,
        _digest("data", part.digest),
    )
    return image, (f"data:{mime_type};base64,".encode(), Encoded(part.data))


def _require_allowed(kind: str, param: str, mime_type: str) -> None:
    if kind in {"mask", "markup"}:
        if mime_type != "image/png":
            raise wrong_value(param, "must be a png")
    elif mime_type not in TYPES:
        raise wrong_value(param, "must be a png, jpeg or webp")
