"""From a parsed body to an image request that is known to be sane.

It owns the rules of the Images API (``catalogue.toml`` and what a table cannot say) and refuses
whatever breaks them with the name of the parameter.  It works on what ``core.request.forms`` made
of the body: a long string is only a placeholder (``core.codec.json_scanner``), so nothing here ever
holds a picture.

JSON null means absent, everywhere.  What is absent stays absent: no default is written into what
goes upstream, for its own default may be another one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from image_gateway.core.codec import json_skeleton
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.errors import Refusal, wrong_type, wrong_value
from image_gateway.core.request.catalogue import (
    Catalogue,
    Endpoint,
    ModelRules,
    Parameter,
    Scalar,
)
from image_gateway.core.request.forms import RawParameters
from image_gateway.core.request.images import Image
from image_gateway.core.untrusted import shown_name

_LONGEST_NAME: Final = 256
_EDGE_STEP: Final = 16
_LONGEST_EDGE: Final = 3840
_STEEPEST_RATIO: Final = 3
_FEWEST_PIXELS: Final = 655_360
_MOST_PIXELS: Final = 8_294_400
_NAMED_SIZES: Final = frozenset({"auto", "1024x1024", "1536x1024", "1024x1536"})
_FREE_SIZE: Final = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})", re.ASCII)
_WHERE_PICTURES_GO: Final = (
    "Pictures go to /v1/images/edits: as `images` in JSON, as `image` or `image[]` in multipart."
)
_EXPECTED: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "object": "an object",
}
_ADVICE: Final[Mapping[str, str]] = {
    "style": "It belonged to the dall-e models, which are retired.",
    "image": _WHERE_PICTURES_GO,
    "images": _WHERE_PICTURES_GO,
    "mask": "Only edits take a mask: call /v1/images/edits.",
    "response_format": "Edits always answer with `b64_json`.",
}


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One call, valid by the rules of its model.

    ``parameters`` holds what else goes upstream by the names and in the order of the body;
    ``model`` is the client's name for what ``upstream_model`` serves; ``texts`` are what the
    placeholders in it stand for.  ``is_form`` tells a multipart body from JSON.
    """

    endpoint: Endpoint
    model: str
    upstream_model: str
    prompt: str = field(repr=False)
    parameters: Mapping[str, object] = field(repr=False)
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    markup: Image | None = None
    stream: bool = False
    answer_as_url: bool = False
    texts: tuple[Body, ...] = field(default=(), repr=False)
    is_form: bool = False

    @property
    def count(self) -> int:
        """Pictures asked for."""
        n = self.parameters.get("n", 1)
        return n if isinstance(n, int) else 1

    @property
    def image_models(self) -> frozenset[str]:
        """The image models, as mapped, that an account has to know."""
        return frozenset({self.upstream_model})

    @property
    def input_images(self) -> tuple[Image, ...]:
        """Every picture that came with the call."""
        return self.images + tuple(image for image in (self.mask, self.markup) if image)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a body is held against: the catalogue, the key's names for models, the settings."""

    catalogue: Catalogue
    default_model: str
    model_map: Mapping[str, str]
    forward_parameters: frozenset[str]


def parse(
    endpoint: Endpoint, raw: RawParameters, rules: Rules, path_model: str | None = None
) -> ImageRequest:
    """A request from what its body gives; raises ``Refusal``.

    ``path_model`` is a deployment named by the path; it goes before the body's ``model``.
    """
    scalars = _check_parameters(endpoint, raw.values, rules)
    prompt = scalars.pop("prompt", None)
    if not isinstance(prompt, str):
        raise Refusal("missing_required_parameter", "`prompt` is missing.", param="prompt")
    if not prompt.strip():
        raise wrong_value("prompt", "is blank")
    body_model = scalars.pop("model", rules.default_model)
    model = path_model or str(body_model)
    upstream_model = rules.model_map.get(model, model)
    stream = scalars.pop("stream", False) is True
    answer_as_url = scalars.pop("response_format", None) == "url"
    _check_combinations(scalars, raw, stream=stream, answer_as_url=answer_as_url)
    _check_model(upstream_model, scalars, raw, rules.catalogue)
    return ImageRequest(
        endpoint=endpoint,
        model=model,
        upstream_model=upstream_model,
        prompt=prompt,
        parameters=scalars,
        images=raw.images,
        mask=raw.mask,
        markup=raw.markup,
        stream=stream,
        answer_as_url=answer_as_url,
        texts=raw.texts,
        is_form=raw.is_form,
    )


# -- scalars ---------------------------------------------------------------------------------------


def _check_parameters(
    endpoint: Endpoint, values: Mapping[str, object], rules: Rules
) -> dict[str, object]:
    checked: dict[str, object] = {}
    for name, value in values.items():
        parameter = rules.catalogue.parameters.get(name)
        if parameter is not None and endpoint in parameter.endpoints:
            _check_parameter(parameter, value)
        elif name not in rules.forward_parameters:
            advice = _ADVICE.get(name, "Leave it out.")
            shown = shown_name(name)
            raise Refusal(
                "unknown_parameter", f"`{shown}` is not known here. {advice}", param=shown
            )
        elif json_skeleton.contains_placeholder(value):
            raise wrong_value(name, f"holds a text longer than {json_skeleton.LIFT_BYTES} bytes")
        checked[name] = value
    for name in checked:
        parameter = rules.catalogue.parameters.get(name)
        if parameter is not None and parameter.needs is not None:
            _check_needs(parameter, checked)
    return checked


def _check_parameter(parameter: Parameter, value: object) -> None:
    name = parameter.name
    if parameter.type == "string":
        if not isinstance(value, str):
            raise wrong_type(name, _EXPECTED["string"])
        too_long = parameter.longest is not None and len(value) > parameter.longest
        if too_long or json_skeleton.placeholder_number(value) is not None:
            raise wrong_value(name, f"is longer than {parameter.longest or 64} characters")
    elif parameter.type == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, _EXPECTED["integer"])
        low, high = parameter.minimum, parameter.maximum
        if low is not None and high is not None and not low <= value <= high:
            raise wrong_value(name, f"must be from {low} to {high}")
    elif parameter.type == "boolean":
        if not isinstance(value, bool):
            raise wrong_type(name, _EXPECTED["boolean"])
    else:
        _check_svg(name, value)
    if parameter.choices is not None and value not in parameter.choices:
        raise wrong_value(name, f"must be one of {', '.join(parameter.choices)}")


def _check_svg(name: str, value: object) -> None:
    """``svg`` is the one parameter with names inside: ``{model, reasoning: {effort}}``."""
    if not isinstance(value, dict):
        raise wrong_type(name, _EXPECTED["object"])
    reasoning = value.get("reasoning")
    for inner, table, known in (
        (name, value, {"model", "reasoning"}),
        (f"{name}.reasoning", {} if reasoning is None else reasoning, {"effort"}),
    ):
        if not isinstance(table, dict):
            raise wrong_type(inner, _EXPECTED["object"])
        if set(table) - known:
            raise Refusal(
                "unknown_parameter",
                f"`{inner}` takes only {', '.join(sorted(known))}.",
                param=inner,
            )
        for key, text in table.items():
            if key == "reasoning" or text is None:
                continue
            if not isinstance(text, str):
                raise wrong_type(f"{inner}.{key}", _EXPECTED["string"])
            if len(text) > _LONGEST_NAME or json_skeleton.placeholder_number(text) is not None:
                raise wrong_value(f"{inner}.{key}", f"is longer than {_LONGEST_NAME} characters")


def _check_needs(parameter: Parameter, values: Mapping[str, object]) -> None:
    for other, wanted in (parameter.needs or {}).items():
        if values.get(other) not in wanted:
            names = " or ".join(_shown(value) for value in wanted)
            raise wrong_value(parameter.name, f"needs `{other}` to be {names}")


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_combinations(
    scalars: Mapping[str, object], raw: RawParameters, *, stream: bool, answer_as_url: bool
) -> None:
    output_format = scalars.get("output_format", "png")
    if scalars.get("background") == "transparent" and output_format not in {"png", "webp"}:
        raise wrong_value("background", "can be transparent only with output_format png or webp")
    if output_format == "svg" and scalars.get("n", 1) != 1:
        raise wrong_value("n", "must be 1 with output_format svg")
    if stream and output_format in {"gif", "svg"}:
        raise wrong_value("stream", "cannot be used with output_format gif or svg")
    if stream and answer_as_url:
        raise Refusal(
            "unsupported_value",
            "A stream carries its pictures as b64_json. Leave out `response_format` or `stream`.",
            param="response_format",
        )
    if raw.mask is not None and raw.markup is not None:
        raise wrong_value("markup", "cannot be used together with `mask`")


def _check_model(
    model: str, scalars: Mapping[str, object], raw: RawParameters, catalogue: Catalogue
) -> None:
    rules = catalogue.rules(model)
    if rules is None:
        return
    present = {"mask": raw.mask is not None, "markup": raw.markup is not None}
    for name, choices in rules.choices.items():
        if name not in scalars and not present.get(name):
            continue
        if not choices:
            raise wrong_value(name, f"is not accepted by {rules.name}")
        if scalars.get(name) not in choices:
            raise wrong_value(name, f"must be one of {', '.join(choices)} for {rules.name}")
    size = scalars.get("size")
    if isinstance(size, str):
        _check_size(size, rules)


def _check_size(size: str, rules: ModelRules) -> None:
    if rules.sizes is not None:
        if size not in rules.sizes:
            raise wrong_value("size", f"must be one of {', '.join(rules.sizes)} for {rules.name}")
        return
    if size in _NAMED_SIZES:
        return
    match = _FREE_SIZE.fullmatch(size)
    if match is None:
        raise wrong_value("size", "must be auto or WIDTHxHEIGHT, such as 1536x1024")
    width, height = int(match[1]), int(match[2])
    for broken, why in (
        (
            width % _EDGE_STEP or height % _EDGE_STEP,
            f"must have edges that are multiples of {_EDGE_STEP}",
        ),
        (
            max(width, height) > _LONGEST_EDGE,
            f"must not have an edge longer than {_LONGEST_EDGE}",
        ),
        (
            max(width, height) > _STEEPEST_RATIO * min(width, height),
            "must have a ratio from 1:3 to 3:1",
        ),
        (
            not _FEWEST_PIXELS <= width * height <= _MOST_PIXELS,
            f"must have {_FEWEST_PIXELS} to {_MOST_PIXELS} pixels",
        ),
    ):
        if broken:
            raise wrong_value("size", why)
