"""A picture in a request, told in both ways in which a body can carry it.

JSON carries a text (a data URL or an https address), multipart carries bytes.  An ``Image`` knows
both, as segments that cost nothing until they are played, so that any form of request can go to an
upstream of any form.  An address has no bytes: the gateway never fetches one.
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

# An escaped slash is all that a JSON writer puts into the head of a data URL.
_DATA_URL: Final = re.compile(rb"data:image\\?/(png|jpeg|jpg|webp);base64,(?=.)", re.DOTALL)
_NON_BASE64_IN_PREFIX: Final = len(":;,")
_MOST_PADDING: Final = 2


@dataclass(frozen=True, slots=True)
class Image:
    """One picture.

    ``text`` is its JSON string or a placeholder of one (``json_skeleton.placeholder``); ``data``
    its bytes, ``type`` their MIME type and ``size`` their number, all None for an address.
    ``name`` is the part's name in a multipart body.
    """

    name: str
    text: str = field(repr=False)
    data: Body | None = field(default=None, repr=False)
    type: str | None = None
    size: int | None = None


def from_json(
    name: str, param: str, value: object, lifted: Sequence[json_skeleton.LiftedString]
) -> Image:
    """A picture from a value of a JSON body: a text, or an object with ``image_url``.

    ``name`` is what its part would be called, ``param`` what a message calls it.  Raises
    ``Refusal``.
    """
    if isinstance(value, dict):
        if value.get("file_id") is not None:
            raise Refusal(
                "unsupported_value",
                "No account can read a `file_id`. Send the picture as a data URL in `image_url`.",
                param=f"{param}.file_id",
            )
        unknown = set(value) - {"image_url", "file_id"}
        if unknown:
            raise Refusal("unknown_parameter", f"`{param}` takes only `image_url`.", param=param)
        value = value.get("image_url")
        param = f"{param}.image_url"
        if value is None:
            raise Refusal("missing_required_parameter", f"`{param}` is missing.", param=param)
    if not isinstance(value, str):
        raise wrong_type(param, "a data URL, an https URL or an object with `image_url`")
    number = json_skeleton.placeholder_number(value)
    found = _lifted(value) if number is None else lifted[number]
    if found.characters > LONGEST_IMAGE_URL:
        raise wrong_value(param, f"is longer than {LONGEST_IMAGE_URL} characters")
    prefix = _DATA_URL.match(found.head)
    if prefix is not None:
        return _from_data_url(name, param, value, found, prefix, lifted=number is not None)
    if found.head.startswith(b"data:"):
        raise wrong_value(param, "must be a data URL of a png, jpeg or webp in base64")
    address = value if number is None else found.head.replace(b"\\/", b"/").decode("latin-1")
    if address.startswith("https://") and _is_address(address):
        return Image(name, value)
    raise wrong_value(param, "must begin with data:image/ or https://")


def _lifted(text: str) -> json_skeleton.LiftedString:
    """A short text, described like a lifted one; it has no escapes any more."""
    raw = text.encode()
    non_base64 = len(raw.translate(None, base64_text.ALPHABET))
    return json_skeleton.LiftedString(0, len(raw), raw, raw[-_MOST_PADDING:], len(text), non_base64)


def _from_data_url(
    name: str,
    param: str,
    value: str,
    found: json_skeleton.LiftedString,
    prefix: re.Match[bytes],
    *,
    lifted: bool,
) -> Image:
    declared = "jpeg" if prefix[1] == b"jpg" else prefix[1].decode()
    tail = base64_text.unescape(found.tail)[-_MOST_PADDING:]
    padding = len(tail) - len(tail.rstrip(b"="))
    characters = found.characters - len(prefix[0].replace(b"\\", b""))
    size = base64_text.decoded_size(characters, padding)
    if size is None or size == 0 or found.non_base64 != _NON_BASE64_IN_PREFIX + padding:
        raise wrong_value(param, "is no data URL in base64: it is cut, or holds other characters")
    head = found.head[prefix.end() :]
    data: Body
    if lifted:
        data = (Decoded(Span(found.start + prefix.end(), found.stop), size),)
    else:
        try:
            data = (base64.b64decode(head + b"=" * (-len(head) % 4), validate=True),)
        except binascii.Error:
            raise wrong_value(param, "is no data URL in base64") from None
    # What was declared may be wrong; what the bytes show is not.
    kind = base64_text.image_type_of_base64(head) or f"image/{declared}"
    return Image(name, value, data, _allowed(name, param, kind), size)


def _is_address(text: str) -> bool:
    try:
        return bool(urlsplit(text).hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False


def from_part(name: str, part: multipart.Part, number: int) -> tuple[Image, Body]:
    """A picture from a part, and the text that its placeholder ``number`` stands for.

    ``name`` is what its part will be called.  Raises ``Refusal``.
    """
    if part.data is None or part.data.length == 0:
        raise wrong_value(part.name, "is empty")
    kind = base64_text.image_type(part.head)
    if kind is None:
        # A picture that shows nothing is believed its headers, but not that it is just bytes.
        kind = part.declared if part.declared in TYPES else "application/octet-stream"
    kind = _allowed(part.name, part.name, kind)
    image = Image(name, json_skeleton.placeholder(number), (part.data,), kind, part.data.length)
    return image, (f"data:{kind};base64,".encode(), Encoded(part.data))


def _allowed(name: str, param: str, kind: str) -> str:
    if name.startswith(("mask", "markup")):
        if kind != "image/png":
            raise wrong_value(param, "must be a png")
    elif kind not in TYPES:
        raise wrong_value(param, "must be a png, jpeg or webp")
    return kind
