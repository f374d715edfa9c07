"""A documented default asks for nothing: no client is refused for sending one."""

from typing import Any

import pytest

from image_gateway.core.request.catalogue import Endpoint
from tests.core.builders import CATALOGUE, PNG, parse, refusal_of

G: Endpoint = "generations"
E: Endpoint = "edits"
_NEWEST = CATALOGUE.newest
_UNKNOWN = "somebody-s-model"

_DEFAULTS = {
    name: parameter.default
    for name, parameter in CATALOGUE.parameters.items()
    if parameter.default is not None
}


def test_these_defaults_are_documented() -> None:
    assert _DEFAULTS == {
        "n": 1,
        "size": "auto",
        "quality": "auto",
        "background": "auto",
        "output_format": "png",
        "output_compression": 100,
        "moderation": "auto",
        "stream": False,
        "partial_images": 0,
        "input_fidelity": "low",
        "frame_count": 9,
        "frame_duration_ms": 200,
        "user": "",
        "safety_identifier": "",
        "response_format": "b64_json",
    }


@pytest.mark.parametrize("name", sorted(_DEFAULTS))
@pytest.mark.parametrize("model", [*CATALOGUE.models, _UNKNOWN])
@pytest.mark.parametrize("endpoint", [G, E])
def test_a_default_is_never_refused(name: str, model: str, endpoint: Endpoint) -> None:
    extra = {"images": [PNG]} if endpoint == E else {}
    rules = CATALOGUE.rules(model)
    every = CATALOGUE.parameters["output_format"].choices or ()
    for output_format in every if rules is None else rules.choices.get("output_format", every):
        body = {"model": model, "output_format": output_format, name: _DEFAULTS[name]}
        made = parse({**extra, **body}, endpoint)
        assert made.parameters.get(name, _DEFAULTS[name]) == _DEFAULTS[name]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"output_compression": 100}, {}),
        ({"output_compression": 100, "output_format": "png"}, {"output_format": "png"}),
        (
            {"output_compression": 100, "output_format": "webp"},
            {"output_compression": 100, "output_format": "webp"},
        ),
        ({"partial_images": 0}, {}),
        ({"partial_images": 0, "stream": False}, {}),
        ({"partial_images": 0, "stream": True}, {"partial_images": 0}),
        ({"user": "", "safety_identifier": ""}, {}),
        ({"frame_count": 9, "frame_duration_ms": 200}, {}),
        ({"input_fidelity": "low"}, {}),
        ({"n": 1, "quality": "auto"}, {"n": 1, "quality": "auto"}),
        ({"response_format": "b64_json", "stream": True}, {}),
        ({"output_format": "svg", "n": 1, "model": _NEWEST}, {"output_format": "svg", "n": 1}),
    ],
)
def test_a_default_goes_on_where_it_may_stand_and_is_left_out_elsewhere(
    body: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert parse(body).parameters == sent


@pytest.mark.parametrize(
    "body",
    [
        {"output_compression": 99},
        {"output_compression": 100.0},
        {"partial_images": 1},
        {"partial_images": False},
        {"frame_count": 8},
        {"n": True},
        {"stream": 0},
        {"input_fidelity": "high"},
    ],
)
def test_what_only_resembles_a_default_is_checked(body: dict[str, Any]) -> None:
    assert refusal_of(body).param == next(iter(body))
