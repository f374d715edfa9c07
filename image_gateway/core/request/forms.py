"""Turns both formats of a request body, JSON and multipart, into the same ``RawParameters``.

The differences between the formats end here: the text of a part gets the type of its parameter,
``svg[model]`` becomes a name inside ``svg``, and ``images`` of JSON and ``image``, ``image[]`` and
``image[0]`` of a form become pictures: in the order in which they arrived, or in that of their
numbers if each has one.  ``core.request.image_request``
decides what the values mean, and whether they are allowed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from image_gateway.core.codec import body_segments, json_scanner, json_skeleton, multipart
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.errors import Refusal, wrong_type, wrong_value
from image_gateway.core.request import images
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.images import Image
from image_gateway.core.untrusted import shown_name

MOST_IMAGES: Final = 16
LONGEST_PROMPT_BYTES: Final = 32_000 * 12
"""JSON text of the longest allowed prompt: every character as an escaped surrogate pair."""

_NESTED: Final = re.compile(r"(\w+)\[(\w+)\](?:\[(\w+)\])?", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class RawParameters:
    """The content of a body: ``values`` by name, pictures, and the texts of its placeholders.

    ``is_form`` is true for multipart, false for JSON.  None of ``values`` is null.
    """

    values: Mapping[str, object] = field(repr=False)
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    markup: Image | None = None
    texts: tuple[Body, ...] = field(default=(), repr=False)
    is_form: bool = False


def keep_prompt(path: json_scanner.Path) -> bool:
    """Whether a long string of a JSON body must be read: only the prompt must."""
    return path == ("prompt",)


def from_json(
    body: object, lifted: Sequence[json_skeleton.LiftedString], *, takes_pictures: bool
) -> RawParameters:
    """The parameters of a JSON body from its skeleton; null means absent.  Raises ``Refusal``.

    If the endpoint takes no pictures, their names stay among the values and are refused later.
    """
    if not isinstance(body, dict):
        raise Refusal("invalid_body", "The body must be a JSON object.")
    values = {name: value for name, value in body.items() if value is not None}
    texts = body_segments.of_lifted(lifted)
    if not takes_pictures:
        return RawParameters(values, texts=texts)
    references = values.pop("images", None)
    if "image" in values:
        raise Refusal(
            "unknown_parameter",
            "A JSON edit does not accept `image`. Send its pictures as `images`.",
            param="image",
        )
    if references is None:
        raise Refusal(
            "missing_required_parameter",
            f"`images` is missing. Send 1 to {MOST_IMAGES} pictures in it.",
            param="images",
        )
    if not isinstance(references, list):
        raise wrong_type("images", "a list of images")
    if not 1 <= len(references) <= MOST_IMAGES:
        raise wrong_value(
            "images", f"must have 1 to {MOST_IMAGES} images, and has {len(references)}"
        )

    def single(name: str) -> Image | None:
        value = values.pop(name, None)
        return None if value is None else images.from_json(name, name, value, lifted)

    return RawParameters(
        images=tuple(
            images.from_json("image", f"images[{index}]", value, lifted)
            for index, value in enumerate(references)
        ),
        mask=single("mask"),
        markup=single("markup"),
        values=values,
        texts=texts,
    )


def from_parts(
    parts: Sequence[multipart.Part], catalogue: Catalogue, *, takes_pictures: bool
) -> RawParameters:
    """The parameters of a multipart body.  Raises ``Refusal``."""
    values: dict[str, object] = {}
    pictures: dict[str, list[Image]] = {"image": [], "mask": [], "markup": []}
    numbers: list[int | None] = []
    texts: list[Body] = []
    for part in parts:
        if part.text is not None:
            _put(values, part.name, _decode(part.name, part.text), catalogue)
            continue
        name = part.kind
        if not takes_pictures:
            raise Refusal(
                "unknown_parameter",
                f"This endpoint does not accept `{name}`. Send pictures to /v1/images/edits.",
                param=name,
            )
        image, text = images.from_part(part, len(texts))
        texts.append(text)
        pictures[name].append(image)
        if name == "image":
            if part.index is not None and part.index in numbers:
                raise wrong_value(part.name, "was sent twice; send it once")
            numbers.append(part.index)
        limit = MOST_IMAGES if name == "image" else 1
        if len(pictures[name]) > limit:
            raise wrong_value(
                name,
                "may be sent only once" if limit == 1 else f"may be sent at most {limit} times",
            )
    if takes_pictures and not pictures["image"]:
        raise Refusal(
            "missing_required_parameter",
            f"`image` is missing. Send 1 to {MOST_IMAGES} pictures as `image` or `image[]`.",
            param="image",
        )
    return RawParameters(
        values,
        tuple(_in_order(pictures["image"], numbers)),
        next(iter(pictures["mask"]), None),
        next(iter(pictures["markup"]), None),
        tuple(texts),
        is_form=True,
    )


def _in_order(pictures: Sequence[Image], numbers: Sequence[int | None]) -> list[Image]:
    order = [number for number in numbers if number is not None]
    if len(order) < len(pictures):
        return list(pictures)
    return [
        image for _, image in sorted(zip(order, pictures, strict=True), key=lambda item: item[0])
    ]


def _decode(name: str, text: bytes) -> str:
    try:
        value = text.decode()
    except UnicodeDecodeError:
        raise Refusal(
            "invalid_body",
            f"`{shown_name(name)}` is not valid UTF-8. Send text in UTF-8.",
            param=shown_name(name),
        ) from None
    if json_skeleton.is_placeholder(value):
        # Otherwise it could forge the placeholder of a picture.
        raise wrong_value(shown_name(name), "must not begin with a NUL character")
    return value


def _put(values: dict[str, object], name: str, text: str, catalogue: Catalogue) -> None:
    """Add one typed field to ``values``; ``svg[model]`` goes into the mapping at ``svg``."""
    safe_name = shown_name(name)
    target, key, value = values, name, _typed(name, text, catalogue)
    nested = _NESTED.fullmatch(name)
    if nested is not None:
        for outer, inner in zip(nested.groups(), nested.groups()[1:], strict=False):
            if outer is None or inner is None:
                break
            nested_values = target.setdefault(outer, {})
            if not isinstance(nested_values, dict):
                raise wrong_value(safe_name, "was sent twice; send it once")
            target, key = nested_values, inner
    if key in target:
        raise wrong_value(safe_name, "was sent twice; send it once")
    target[key] = value


def _typed(name: str, text: str, catalogue: Catalogue) -> object:
    parameter = catalogue.parameters.get(name)
    if parameter is None or parameter.type == "string":
        return text
    text = text.strip(" \t\r\n")  # what curl takes from a file ends with its line
    if parameter.type == "integer":
        if _INTEGER.fullmatch(text) is None:
            raise wrong_type(name, "an integer")
        return int(text)
    if parameter.type == "boolean":
        if text.lower() not in _BOOLEANS:
            raise wrong_type(name, "true or false")
        return _BOOLEANS[text.lower()]
    raise wrong_type(name, f"sent field by field, such as `{name}[model]`")


def to_fields(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Values as the fields of a multipart body: nested names in brackets, the rest as JSON."""
    fields: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            nested = {f"{name}[{key}]": item for key, item in value.items() if item is not None}
            fields += to_fields(nested)
        else:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            fields.append((name, text))
    return fields
