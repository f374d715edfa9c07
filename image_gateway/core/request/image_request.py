"""Turns the parameters of a body into a valid image request.

It applies the rules of the Images API (``catalogue.toml``, and here the rules that do not fit into
a table); the refusal of a request that breaks one names the parameter.  Its input is
``forms.RawParameters``, where a placeholder replaces each long string
(``core.codec.json_skeleton``), so nothing here ever holds a picture.

JSON null means absent, everywhere.  An absent parameter stays absent: no default is added to what
goes upstream, because the upstream may have another default.  A documented default that a client
sends asks for nothing, so it is never refused: it goes on where it may stand, and is left out where
the same parameter with another value would be refused.
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
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.untrusted import shown_name

_LONGEST_NAME: Final = 256
_EDGE_STEP: Final = 16
_LONGEST_EDGE: Final = 3840
_STEEPEST_RATIO: Final = 3
_FEWEST_PIXELS: Final = 655_360
_MOST_PIXELS: Final = 8_294_400
_NAMED_SIZES: Final = frozenset({"auto", "1024x1024", "1536x1024", "1024x1536"})
_FREE_SIZE: Final = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})", re.ASCII)
_SEND_TO_EDITS: Final = (
    "Send pictures to /v1/images/edits: as `images` in JSON, as `image` or `image[]` in multipart."
)
_EXPECTED: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "object": "an object",
}
_ADVICE: Final[Mapping[str, str]] = {
    "style": "Leave it out: only the retired dall-e models took it.",
    "image": _SEND_TO_EDITS,
    "images": _SEND_TO_EDITS,
    "mask": "Only edits take a mask. Send it to /v1/images/edits.",
}


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One call, valid by the rules of its model.

    ``parameters`` holds the other parameters to send upstream, in the order of the body; ``model``
    is the client's own name for ``upstream_model``; ``texts`` are the texts of the placeholders.
    ``is_form`` is true for multipart, false for JSON.
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
        """The number of pictures requested."""
        n = self.parameters.get("n", 1)
        return n if isinstance(n, int) else 1

    @property
    def image_models(self) -> Mapping[str, str]:
        """The image models that an account must serve, with the client's names for them."""
        return {self.upstream_model: self.model}

    @property
    def input_images(self) -> tuple[Image, ...]:
        """All pictures of the request."""
        return self.images + tuple(image for image in (self.mask, self.markup) if image)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules to check a body by: the catalogue, what names mean to the key, the settings."""

    catalogue: Catalogue
    default_model: str
    names: ModelNames
    forward_parameters: frozenset[str]


def parse(
    endpoint: Endpoint, raw: RawParameters, rules: Rules, path_model: str | None = None
) -> ImageRequest:
    """A request from the parameters of its body; raises ``Refusal``.

    ``path_model`` is a deployment named in the path; it overrides ``model`` in the body.
    """
    if path_model is not None:
        _check_parameter(rules.catalogue.parameters["model"], path_model)
    named = path_model or raw.values.get("model", rules.default_model)
    model = named if isinstance(named, str) else rules.default_model
    upstream_model = rules.names.upstream(model)
    scalars = _check_parameters(endpoint, raw.values, rules, rules.catalogue.rules(upstream_model))
    prompt = scalars.pop("prompt", None)
    if not isinstance(prompt, str):
        raise Refusal(
            "missing_required_parameter",
            "`prompt` is missing. Describe the picture in it.",
            param="prompt",
        )
    if not prompt.strip():
        raise wrong_value("prompt", "must not be blank")
    scalars.pop("model", None)
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
    endpoint: Endpoint, values: Mapping[str, object], rules: Rules, model_rules: ModelRules | None
) -> dict[str, object]:
    """The checked values; a refused choice is told the choices of the model, if they are fewer."""
    checked: dict[str, object] = {}
    for name, value in values.items():
        parameter = rules.catalogue.parameters.get(name)
        if parameter is not None and parameter.asks_for_nothing(value):
            # An empty text says nothing, and not every route has a place for it.
            if endpoint not in parameter.endpoints or value == "":
                continue
        elif parameter is not None and endpoint in parameter.endpoints:
            _check_parameter(parameter, value)
            if parameter.choices is not None and value not in parameter.choices:
                raise _not_a_choice(parameter, model_rules)
        elif name not in rules.forward_parameters:
            advice = _ADVICE.get(name, "Leave it out.")
            safe_name = shown_name(name)
            raise Refusal(
                "unknown_parameter",
                f"This endpoint does not accept `{safe_name}`. {advice}",
                param=safe_name,
            )
        elif json_skeleton.contains_placeholder(value):
            raise wrong_value(
                name, f"must not hold a string longer than {json_skeleton.LIFT_BYTES} bytes"
            )
        checked[name] = value
    for name, value in list(checked.items()):
        parameter = rules.catalogue.parameters.get(name)
        if parameter is None or parameter.needs is None:
            continue
        broken = _broken_need(parameter, checked)
        if broken is not None and not parameter.asks_for_nothing(value):
            raise wrong_value(name, broken)
        if broken is not None:
            del checked[name]
    return checked


def _check_parameter(parameter: Parameter, value: object) -> None:
    name = parameter.name
    if parameter.type == "string":
        if not isinstance(value, str):
            raise wrong_type(name, _EXPECTED["string"])
        too_long = parameter.longest is not None and len(value) > parameter.longest
        if too_long or json_skeleton.placeholder_number(value) is not None:
            raise wrong_value(name, f"must be at most {parameter.longest or 64} characters long")
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


def _not_a_choice(parameter: Parameter, model_rules: ModelRules | None) -> Refusal:
    if model_rules is not None and parameter.name in model_rules.choices:
        return _not_accepted(parameter.name, model_rules.choices[parameter.name], model_rules.name)
    return wrong_value(parameter.name, f"must be one of {', '.join(parameter.choices or ())}")


def _check_svg(name: str, value: object) -> None:
    """``svg`` is the only nested parameter: ``{model, reasoning: {effort}}``."""
    if not isinstance(value, dict):
        raise wrong_type(name, _EXPECTED["object"])
    reasoning = value.get("reasoning")
    for path, table, names in (
        (name, value, {"model", "reasoning"}),
        (f"{name}.reasoning", {} if reasoning is None else reasoning, {"effort"}),
    ):
        if not isinstance(table, dict):
            raise wrong_type(path, _EXPECTED["object"])
        if set(table) - names:
            raise Refusal(
                "unknown_parameter",
                f"`{path}` accepts only {' and '.join(sorted(names))}. Leave out other names.",
                param=path,
            )
        for key, text in table.items():
            if key == "reasoning" or text is None:
                continue
            if not isinstance(text, str):
                raise wrong_type(f"{path}.{key}", _EXPECTED["string"])
            if len(text) > _LONGEST_NAME or json_skeleton.placeholder_number(text) is not None:
                raise wrong_value(
                    f"{path}.{key}", f"must be at most {_LONGEST_NAME} characters long"
                )


def _broken_need(parameter: Parameter, values: Mapping[str, object]) -> str | None:
    """The rule that the other parameters break, None if they keep all."""
    for name, accepted in (parameter.needs or {}).items():
        if values.get(name) not in accepted:
            choices = " or ".join(_as_text(value) for value in accepted)
            return f"can be used only with `{name}` {choices}"
    return None


def _as_text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_combinations(
    scalars: Mapping[str, object], raw: RawParameters, *, stream: bool, answer_as_url: bool
) -> None:
    output_format = scalars.get("output_format", "png")
    if scalars.get("background") == "transparent" and output_format not in {"png", "webp"}:
        raise wrong_value("background", "can be transparent only with `output_format` png or webp")
    if output_format == "svg" and scalars.get("n", 1) != 1:
        raise wrong_value("n", "must be 1 with `output_format` svg")
    if stream and output_format in {"gif", "svg"}:
        raise wrong_value("stream", "cannot be used with `output_format` gif or svg")
    if stream and answer_as_url:
        raise Refusal(
            "unsupported_value",
            "A stream sends pictures as `b64_json`. Leave out `response_format` or `stream`.",
            param="response_format",
        )
    if raw.mask is not None and output_format == "gif":
        raise wrong_value("mask", "cannot be used with `output_format` gif")
    if raw.mask is not None and raw.markup is not None:
        raise wrong_value("markup", "cannot be used together with `mask`; send one of them")


def _check_model(
    model: str, scalars: dict[str, object], raw: RawParameters, catalogue: Catalogue
) -> None:
    """Check what the model accepts; takes out the defaults that it does not."""
    rules = catalogue.rules(model)
    if rules is None:
        return
    for name, accepted in _accepted(rules).items():
        if name in scalars and scalars[name] not in accepted:
            parameter = catalogue.parameters.get(name)  # None for ``mask``, where it is forwarded
            if parameter is None or not parameter.asks_for_nothing(scalars[name]):
                raise _not_accepted(name, accepted, rules.name)
            del scalars[name]
    for name, image in (("mask", raw.mask), ("markup", raw.markup)):
        if image is not None and rules.choices.get(name) == ():
            raise _not_accepted(name, (), rules.name)
    size = scalars.get("size")
    if isinstance(size, str) and rules.sizes is None:
        _check_size(size, _frames(scalars, catalogue))


def _accepted(rules: ModelRules) -> Mapping[str, tuple[str, ...]]:
    """The values that a model accepts, by the parameters that it restricts."""
    return rules.choices if rules.sizes is None else {**rules.choices, "size": rules.sizes}


def _not_accepted(name: str, accepted: tuple[str, ...], model: str) -> Refusal:
    if not accepted:
        return wrong_value(name, f"is not accepted by {model}; leave it out")
    return wrong_value(name, f"must be one of {', '.join(accepted)} for {model}")


def _frames(scalars: Mapping[str, object], catalogue: Catalogue) -> int:
    """The number of frames of one picture; only a gif has more than one."""
    if scalars.get("output_format") != "gif":
        return 1
    frames = scalars.get("frame_count", catalogue.parameters["frame_count"].default)
    return frames if isinstance(frames, int) else 1


def _check_size(size: str, frames: int) -> None:
    """Check a free size; a gif's pixels count over all of its frames."""
    if size == "auto" or (size in _NAMED_SIZES and frames == 1):
        return
    match = _FREE_SIZE.fullmatch(size)
    if match is None:
        raise wrong_value("size", "must be auto or WIDTHxHEIGHT, such as 1536x1024")
    width, height = int(match[1]), int(match[2])
    pixels = width * height * frames
    all_frames = "" if frames == 1 else f" over all {frames} frames"
    for is_broken, rule in (
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
            f"must have a ratio from 1:{_STEEPEST_RATIO} to {_STEEPEST_RATIO}:1",
        ),
        (
            not _FEWEST_PIXELS <= pixels <= _MOST_PIXELS,
            f"must have {_FEWEST_PIXELS} to {_MOST_PIXELS} pixels{all_frames}, and has {pixels}",
        ),
    ):
        if is_broken:
            raise wrong_value("size", rule)
