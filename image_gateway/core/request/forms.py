"""The two forms of a request's body, JSON and multipart, brought to one: what was given.

Here a form's own habits end: a part's text becomes the type that its parameter has, ``svg[model]``
becomes a name within ``svg``, ``images`` of JSON and ``image`` and ``image[]`` of a form become
pictures in the order of the wire.  What the values mean, and whether they are allowed, is
``core.request.image_request``.
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
"""JSON text of the longest legal prompt: every character as an escaped surrogate pair."""

_NESTED: Final = re.compile(r"(\w+)\[(\w+)\](?:\[(\w+)\])?", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class RawParameters:
    """What a body gives: ``values`` by name, pictures, and the texts that placeholders stand for.

    ``is_form`` tells a multipart body from JSON.  None of ``values`` is null.
    """

    values: Mapping[str, object] = field(repr=False)
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    markup: Image | None = None
    texts: tuple[Body, ...] = field(default=(), repr=False)
    is_form: bool = False


def keep_prompt(path: json_scanner.Path) -> bool:
    """Which long string of a JSON body must be read: only the prompt."""
    return path == ("prompt",)


def from_json(
    body: object, lifted: Sequence[json_skeleton.LiftedString], *, takes_pictures: bool
) -> RawParameters:
    """What a JSON body gives, from its skeleton; null means absent.  Raises ``Refusal``.

    Where the endpoint takes no pictures their names stay among the values, to be refused there.
    """
    if not isinstance(body, dict):
        raise Refusal("invalid_body", "The body must be a JSON object.")
    values = {name: value for name, value in body.items() if value is not None}
    texts = body_segments.of_lifted(lifted)
    if not takes_pictures:
        return RawParameters(values, texts=texts)
    references = values.pop("images", None)
    if references is None:
        if "image" in values:
            raise Refusal(
                "unknown_parameter",
                "`image`: A JSON edit takes its pictures in `images`.",
                param="image",
            )
        raise Refusal("missing_required_parameter", "`images` is missing.", param="images")
    if not isinstance(references, list):
        raise wrong_type("images", "a list of images")
    if not 1 <= len(references) <= MOST_IMAGES:
        raise wrong_value("images", f"must hold 1 to {MOST_IMAGES} images")

    def single(name: str) -> Image | None:
        value = values.pop(name, None)
        return None if value is None else images.from_json(name, name, value, lifted)

    return RawParameters(
        images=tuple(
            images.from_json("image[]", f"images[{index}]", value, lifted)
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
    """What a multipart body gives.  Raises ``Refusal``."""
    values: dict[str, object] = {}
    found: dict[str, list[Image]] = {"image": [], "mask": [], "markup": []}
    texts: list[Body] = []
    for part in parts:
        if part.text is not None:
            _put(values, part.name, _decode(part.name, part.text), catalogue)
            continue
        name = part.name.removesuffix("[]")
        if not takes_pictures:
            raise Refusal(
                "unknown_parameter",
                f"`{name}` is not known here. Pictures go to /v1/images/edits.",
                param=name,
            )
        # ``image`` and ``image[]`` go on as they came; of the others there is only one.
        sent_as = part.name if name == "image" else name
        image, text = images.from_part(sent_as, part, len(texts))
        texts.append(text)
        found[name].append(image)
        if len(found[name]) > (MOST_IMAGES if name == "image" else 1):
            many = f"takes at most {MOST_IMAGES} pictures" if name == "image" else "was sent twice"
            raise wrong_value(name, many)
    if takes_pictures and not found["image"]:
        raise Refusal("missing_required_parameter", "`image` is missing.", param="image")
    return RawParameters(
        values,
        tuple(found["image"]),
        next(iter(found["mask"]), None),
        next(iter(found["markup"]), None),
        tuple(texts),
        is_form=True,
    )


def _decode(name: str, text: bytes) -> str:
    try:
        value = text.decode()
    except UnicodeDecodeError:
        raise Refusal(
            "invalid_body",
            f"`{shown_name(name)}` is not valid UTF-8.",
            param=shown_name(name),
        ) from None
    if json_skeleton.is_placeholder(value):
        # It could pass for the placeholder of a picture.
        raise wrong_value(shown_name(name), "begins with a NUL character")
    return value


def _put(values: dict[str, object], name: str, text: str, catalogue: Catalogue) -> None:
    """One field into ``values``, typed; ``svg[model]`` goes into what ``svg`` holds."""
    shown = shown_name(name)
    place, key, value = values, name, _typed(name, text, catalogue)
    nested = _NESTED.fullmatch(name)
    if nested is not None:
        for outer, inner in zip(nested.groups(), nested.groups()[1:], strict=False):
            if outer is None or inner is None:
                break
            within = place.setdefault(outer, {})
            if not isinstance(within, dict):
                raise wrong_value(shown, "was sent twice")
            place, key = within, inner
    if key in place:
        raise wrong_value(shown, "was sent twice")
    place[key] = value


def _typed(name: str, text: str, catalogue: Catalogue) -> object:
    parameter = catalogue.parameters.get(name)
    if parameter is None or parameter.type == "string":
        return text
    if parameter.type == "integer":
        if _INTEGER.fullmatch(text) is None:
            raise wrong_type(name, "an integer")
        return int(text)
    if parameter.type == "boolean":
        if text.lower() not in _BOOLEANS:
            raise wrong_type(name, "true or false")
        return _BOOLEANS[text.lower()]
    raise wrong_type(name, f"sent as names of its own, such as `{name}[model]`")


def to_fields(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Values as the fields of a multipart body: nested names in brackets, the rest as JSON."""
    fields: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = {f"{name}[{key}]": each for key, each in value.items() if each is not None}
            fields += to_fields(inner)
        else:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            fields.append((name, text))
    return fields
