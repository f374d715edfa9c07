"""Every parameter of the Images API, held against its type, its range and its model's rules."""

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments as bodies
from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.errors import Refusal
from image_gateway.core.request import forms, image_request
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.images import Image
from tests.core.builders import CATALOGUE, PNG, parse, play, read, refusal_of, rules, split

G: Endpoint = "generations"
E: Endpoint = "edits"
_NEWEST = "gpt-image-2.5-sunburst"
_UNKNOWN = "somebody-s-model"


def _edit(**changes: Any) -> dict[str, Any]:
    return {"images": [PNG], **changes}


def _fault(
    body: dict[str, Any] | bytes, endpoint: Endpoint = G, **changes: Any
) -> tuple[str, str | None]:
    refusal = refusal_of(body, endpoint, **changes)
    assert refusal.spec.status == 400
    assert refusal.message
    return refusal.code, refusal.param


# -- the body --------------------------------------------------------------------------------


def test_the_least_call_is_a_prompt() -> None:
    made = parse(b'{"prompt":"a cat"}')
    assert made == image_request.ImageRequest(
        endpoint=G,
        model="gpt-image-2",
        upstream_model="gpt-image-2",
        prompt="a cat",
        parameters={},
    )
    assert made.count == 1
    assert made.input_images == ()


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b'[{"prompt":"x"}]'])
@pytest.mark.parametrize("endpoint", [G, E])
def test_a_body_must_be_an_object(body: bytes, endpoint: Endpoint) -> None:
    assert _fault(body, endpoint) == ("invalid_body", None)


_SCALARS: dict[str, tuple[list[Any], list[Any]]] = {
    # name: values that hold on the newest model, values of the right type that do not
    "n": ([1, 2, 10], [0, 11, -1, 10**18]),
    "size": (
        ["auto", "1024x1024", "1536x1024", "1024x1536", "2048x2048"],
        ["", "big", "1024", "x" * 5000],
    ),
    "quality": (
        ["low", "medium", "high", "auto", "xhigh", "max"],
        ["standard", "hd", "", "LOW", " low", "x" * 5000],
    ),
    "background": (["auto", "opaque", "transparent"], ["none", ""]),
    "output_format": (["png", "jpeg", "webp", "gif", "svg"], ["jpg", "PNG", ""]),
    "moderation": (["auto", "low"], ["high", "none", ""]),
    "stream": ([True, False], []),
    "complexity": (["low", "medium", "high"], ["", "auto", "x" * 64, "x" * 5000]),
    "user": (["x" * 512, "é" * 512], ["x" * 513, "x" * 5000]),
    "safety_identifier": (["x", "x" * 512], ["x" * 513, "x" * 5000]),
    "response_format": (["b64_json", "url"], ["base64", ""]),
}
_OF_TYPE: dict[str, list[Any]] = {
    "string": [5, 1.5, True, [], {}, ["low"]],
    "integer": ["2", "", 2.0, 1.5, True, False, [], {}, 10**30],
    "boolean": ["true", "false", 1, 0, [], {}],
    "object": ["x", 5, True, []],
}


@pytest.mark.parametrize("name", sorted(_SCALARS))
def test_a_parameter_takes_every_value_it_should(name: str) -> None:
    for value in _SCALARS[name][0]:
        made = parse({"model": _NEWEST, name: value})
        if name not in {"stream", "response_format"}:
            assert made.parameters == {name: value}


@pytest.mark.parametrize("name", sorted(_SCALARS))
def test_a_parameter_takes_no_other_value(name: str) -> None:
    for value in _SCALARS[name][1]:
        assert _fault({"model": _NEWEST, name: value}) == ("invalid_value", name)


@pytest.mark.parametrize("name", sorted(CATALOGUE.parameters))
def test_a_parameter_takes_no_other_type(name: str) -> None:
    """A number in a string is no number, and true is no 1."""
    parameter = CATALOGUE.parameters[name]
    endpoint, extra = (G, {}) if G in parameter.endpoints else (E, _edit())
    for value in _OF_TYPE[parameter.type]:
        assert _fault({**extra, name: value}, endpoint) == ("invalid_type", name)


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("name", [*sorted(CATALOGUE.parameters), "mask", "markup", "unheard_of"])
def test_null_means_absent_for_every_name(name: str, endpoint: Endpoint) -> None:
    body = {"prompt": "a cat", **(_edit() if endpoint == E else {})}
    if name == "prompt":
        assert _fault({**body, name: None}, endpoint) == ("missing_required_parameter", name)
    else:
        assert parse({**body, name: None}, endpoint) == parse(body, endpoint)


def test_a_value_that_is_false_or_zero_is_not_absent() -> None:
    made = parse({"output_format": "jpeg", "output_compression": 0})
    assert made.parameters == {"output_format": "jpeg", "output_compression": 0}


@given(st.permutations(["n", "size", "quality", "background", "user"]))
def test_parameters_go_on_under_their_names_in_their_order_with_no_default_added(
    names: list[str],
) -> None:
    values = {"n": 2, "size": "auto", "quality": "low", "background": "opaque", "user": "u"}
    made = parse({name: values[name] for name in names})
    assert list(made.parameters.items()) == [(name, values[name]) for name in names]


def test_n_is_the_count() -> None:
    assert parse({"n": 7}).count == 7
    assert parse({}).count == 1


# -- names that are not known ----------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("name", ["style", "Prompt", "seed", "_x", "a.b-c", "x" * 64])
def test_an_unknown_name_is_refused_by_its_name(name: str, endpoint: Endpoint) -> None:
    assert _fault(_edit(**{name: 1}) if endpoint == E else {name: 1}, endpoint) == (
        "unknown_parameter",
        name,
    )


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("images", G),
        ("image", G),
        ("mask", G),
        ("input_fidelity", G),
        ("markup", G),
        ("image", E),
        ("style", E),
    ],
)
def test_a_name_of_the_other_endpoint_is_unknown_here(name: str, endpoint: Endpoint) -> None:
    body = _edit() if endpoint == E else {}
    assert _fault({**body, name: "x"}, endpoint) == ("unknown_parameter", name)


@pytest.mark.parametrize(
    ("name", "endpoint", "advice"),
    [
        ("style", G, "dall-e"),
        ("images", G, "/v1/images/edits"),
        ("mask", G, "/v1/images/edits"),
        ("image", E, "`images`"),
        ("seed", G, "Leave it out"),
    ],
)
def test_the_refusal_of_a_name_says_what_to_do(name: str, endpoint: Endpoint, advice: str) -> None:
    body = _edit() if endpoint == E else {}
    assert advice in refusal_of({**body, name: "x"}, endpoint).message


@pytest.mark.parametrize(
    "name", ["x" * 65, "x" * 1000, "a\nb", "\u202ex", "a\0b", "a cat on a mat", "é", "a\n", "9", ""]
)
def test_what_is_no_name_is_refused_and_not_repeated(name: str) -> None:
    """It may be a prompt that slipped out of its quotes."""
    refusal = refusal_of({name: 1})
    assert refusal.code == "unknown_parameter"
    assert refusal.param
    assert refusal.param != name
    assert not name or name not in refusal.message


@pytest.mark.parametrize("body", [_edit(image=PNG), {"image": PNG}, {"image": [PNG]}])
def test_an_edit_in_json_is_told_to_send_image_as_images(body: dict[str, Any]) -> None:
    refusal = refusal_of(body, E)
    assert (refusal.code, refusal.param) == ("unknown_parameter", "image")
    assert "as `images`" in refusal.message
    assert "/v1/images/edits" not in refusal.message


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("name", ["image[]", "mask[]", "images[0]"])
def test_a_form_s_name_is_unknown_in_json(name: str, endpoint: Endpoint) -> None:
    body = _edit(**{name: PNG}) if endpoint == E else {name: PNG}
    assert _fault(body, endpoint)[0] == "unknown_parameter"


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("value", [1, "x", [1, {"a": None}], {"deep": True}, False])
def test_a_name_that_the_settings_forward_passes_as_it_is(endpoint: Endpoint, value: Any) -> None:
    body = {**(_edit() if endpoint == E else {}), "seed": value}
    made = parse(body, endpoint, forward_parameters=frozenset({"seed"}))
    assert made.parameters == {"seed": value}
    assert _fault({**body, "seeds": 1}, endpoint, forward_parameters=frozenset({"seed"})) == (
        "unknown_parameter",
        "seeds",
    )


def test_forwarding_a_known_name_switches_no_rule_off() -> None:
    forward = frozenset({"n", "stream"})
    assert _fault({"n": 11}, forward_parameters=forward) == ("invalid_value", "n")
    assert "stream" not in parse({"stream": False}, forward_parameters=forward).parameters


def test_a_forwarded_name_that_a_model_does_not_accept_is_refused() -> None:
    forward = frozenset({"markup"})
    assert _fault({"markup": "x"}, forward_parameters=forward) == ("invalid_value", "markup")


# -- the prompt ------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{}", b'{"prompt":null}', b'{"model":"gpt-image-2"}'])
def test_a_prompt_is_required(body: bytes) -> None:
    assert _fault(body) == ("missing_required_parameter", "prompt")


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000\u2003"])
def test_a_blank_prompt_is_refused(blank: str) -> None:
    assert _fault({"prompt": blank}) == ("invalid_value", "prompt")


def test_a_prompt_goes_on_as_it_came() -> None:
    prompt = '  "a" \\ cat\n\u0007\U0001f408\ud7ff '
    assert parse({"prompt": prompt}).prompt == prompt


_CHARACTERS = {
    "ascii": b"x",
    "two bytes": "é".encode(),
    "four bytes": "😀".encode(),
    "escaped": b"\\u0041",
    "escaped quote": b'\\"',
    "escaped surrogate pair": b"\\ud83d\\ude00",
}


@pytest.mark.parametrize("character", sorted(_CHARACTERS))
def test_a_prompt_of_32000_characters_is_read_however_it_is_written(character: str) -> None:
    made = parse(b'{"prompt":"' + _CHARACTERS[character] * 32_000 + b'"}')
    assert len(made.prompt) == 32_000
    assert set(made.prompt) == set(json.loads(b'"' + _CHARACTERS[character] + b'"'))
    assert made.texts == ()


@pytest.mark.parametrize("character", sorted(_CHARACTERS))
def test_a_prompt_of_32001_characters_is_refused_however_it_is_written(character: str) -> None:
    body = b'{"prompt":"' + _CHARACTERS[character] * 32_001 + b'"}'
    assert _fault(body) == ("invalid_value", "prompt")


def test_a_prompt_of_megabytes_is_refused_without_being_held() -> None:
    refusal = refusal_of(b'{"prompt":"' + b"x" * 5_000_000 + b'"}')
    assert (refusal.code, refusal.param) == ("invalid_value", "prompt")
    assert "32000" in refusal.message


@given(st.data())
def test_a_prompt_that_looks_like_a_mark_stays_a_prompt(data: st.DataObject) -> None:
    """NUL and a number within a prompt are the client's words, not the place of a picture."""
    prompt = data.draw(st.sampled_from(['a"\0', "b\0", 'c\\"\0', "d"])) + data.draw(
        st.sampled_from(["0", "00", "x", '"'])
    )
    picture = "data:image/png;base64," + "A" * 5000
    text = json.dumps({"prompt": prompt, "images": [picture]}).encode()
    found = forms.from_json(*read(text, data.draw(split(text))), takes_pictures=True)
    made = image_request.parse(E, found, rules())
    assert made.prompt == prompt
    assert [image.text for image in made.images] == ["\x000"]


def test_only_the_prompt_at_the_top_is_kept() -> None:
    assert forms.keep_prompt(("prompt",))
    for path in ((), ("x",), ("x", "prompt"), ("prompt", 0), ("prompt", "prompt"), (0,)):
        assert not forms.keep_prompt(path)


# -- the model -------------------------------------------------------------------------------


def test_the_model_is_the_body_s_else_the_default_and_the_path_s_goes_before_both() -> None:
    assert parse({"model": "gpt-image-1"}).model == "gpt-image-1"
    assert parse({}, default_model="gpt-image-1.5").model == "gpt-image-1.5"
    assert parse({"model": "gpt-image-1"}, path_model="pictures").model == "pictures"
    assert parse({}, path_model="pictures").model == "pictures"


def test_the_model_is_no_parameter() -> None:
    assert "model" not in parse({"model": "gpt-image-1"}).parameters


@pytest.mark.parametrize("path_model", [None, "pictures"])
def test_a_key_s_map_turns_the_model_into_the_upstream_s(path_model: str | None) -> None:
    asked = path_model or "public"
    made = parse({"model": "public"}, path_model=path_model, model_map={asked: "gpt-image-1"})
    assert (made.model, made.upstream_model) == (asked, "gpt-image-1")
    made = parse({"model": "public"}, path_model=path_model, model_map={"x": "y"})
    assert (made.model, made.upstream_model) == (asked, asked)


def test_the_default_model_goes_through_the_map_too() -> None:
    made = parse({}, model_map={"gpt-image-2": "inner"})
    assert (made.model, made.upstream_model) == ("gpt-image-2", "inner")


def test_the_rules_are_those_of_the_upstream_model() -> None:
    strict = {"public": "gpt-image-1"}
    assert _fault({"model": "public", "size": "2048x2048"}, model_map=strict)[1] == "size"
    free = {"gpt-image-1": "gpt-image-2"}
    assert parse({"model": "gpt-image-1", "size": "2048x2048"}, model_map=free).parameters


def test_a_model_s_name_has_256_characters_at_most() -> None:
    assert parse({"model": "m" * 256}).model == "m" * 256
    assert _fault({"model": "m" * 257}) == ("invalid_value", "model")
    assert _fault({"model": "m" * 5000}) == ("invalid_value", "model")
    assert parse({}, path_model="m" * 256).model == "m" * 256
    assert _fault({}, path_model="m" * 257) == ("invalid_value", "model")


_OLD = ["gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5"]
_SHIPPED = [*_OLD, "gpt-image-2", _NEWEST]


@pytest.mark.parametrize("model", [*_SHIPPED, _UNKNOWN])
@pytest.mark.parametrize("quality", ["xhigh", "max"])
def test_the_highest_qualities_begin_with_2_5(model: str, quality: str) -> None:
    body = {"model": model, "quality": quality}
    if model in {_NEWEST, _UNKNOWN}:
        assert parse(body).parameters == {"quality": quality}
    else:
        assert _fault(body) == ("invalid_value", "quality")


@pytest.mark.parametrize("model", [*_SHIPPED, _UNKNOWN])
@pytest.mark.parametrize("output_format", ["gif", "svg"])
def test_gif_and_svg_begin_with_2_5(model: str, output_format: str) -> None:
    body = {"model": model, "output_format": output_format}
    if model in {_NEWEST, _UNKNOWN}:
        assert parse(body).parameters == {"output_format": output_format}
    else:
        assert _fault(body) == ("invalid_value", "output_format")


@pytest.mark.parametrize("model", _SHIPPED)
@pytest.mark.parametrize("quality", ["low", "medium", "high", "auto"])
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_the_usual_choices_hold_for_every_model(
    model: str, quality: str, output_format: str
) -> None:
    body = {"quality": quality, "output_format": output_format}
    assert parse({"model": model, **body}).parameters == body


@pytest.mark.parametrize(
    ("model", "accepted"),
    [
        ("gpt-image-1", {"high", "low"}),
        ("gpt-image-1.5", {"high", "low"}),
        ("gpt-image-1-mini", {"low"}),
        ("gpt-image-2", set()),
        ("gpt-image-2-2026-04-21", set()),
        (_NEWEST, set()),
        (_UNKNOWN, {"high", "low"}),
    ],
)
def test_input_fidelity_is_each_model_s_own_matter(model: str, accepted: set[str]) -> None:
    for value in ("high", "low"):
        body = _edit(model=model, input_fidelity=value)
        if value in accepted:
            assert parse(body, E).parameters == {"input_fidelity": value}
        elif value == "low":  # the default asks for nothing
            assert parse(body, E).parameters == {}
        else:
            assert _fault(body, E) == ("invalid_value", "input_fidelity")


@pytest.mark.parametrize("model", [*_SHIPPED, _UNKNOWN])
def test_markup_and_complexity_begin_with_2_5(model: str) -> None:
    for name, value in (("markup", PNG), ("complexity", "high")):
        body = _edit(model=model, **{name: value})
        if model in {_NEWEST, _UNKNOWN}:
            made = parse(body, E)
            assert made.markup if name == "markup" else made.parameters == {name: value}
        else:
            assert _fault(body, E) == ("invalid_value", name)


# -- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", _SHIPPED)
@pytest.mark.parametrize("size", ["auto", "1024x1024", "1536x1024", "1024x1536"])
def test_the_named_sizes_hold_for_every_model(model: str, size: str) -> None:
    assert parse({"model": model, "size": size}).parameters == {"size": size}


@pytest.mark.parametrize("model", _OLD)
@pytest.mark.parametrize("size", ["2048x2048", "1024x1040", "1536x1536"])
def test_the_older_models_take_only_named_sizes(model: str, size: str) -> None:
    assert _fault({"model": model, "size": size}) == ("invalid_value", "size")


@pytest.mark.parametrize("model", ["gpt-image-2", _NEWEST])
@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ("1024x640", True),  # 655360 pixels, the fewest
        ("640x1024", True),
        ("1024x624", False),
        ("1008x640", False),
        ("3840x2160", True),  # 8294400 pixels, the most
        ("2160x3840", True),
        ("3840x2176", False),
        ("2880x2880", True),
        ("2896x2880", False),
        ("3840x1280", True),  # 3:1
        ("1280x3840", True),
        ("3840x1264", False),
        ("1264x3840", False),
        ("3856x2048", False),  # longer than 3840
        ("2048x3856", False),
        ("1440x480", True),
        ("1456x480", False),
        ("1025x1024", False),
        ("1024x1025", False),
        ("1032x1024", False),
        ("1024x1032", False),
        ("16x16", False),
        ("1024X1024", False),
        ("1024x", False),
        ("x1024", False),
        ("1024x1024x", False),
        ("01024x1024", False),
        ("+1024x1024", False),
        (" 1024x1024", False),
        ("1024x1024\n", False),
        ("1024 x 1024", False),
        ("1024.0x1024", False),
        ("0x0", False),
        ("-1024x-1024", False),
        ("99999x99999", False),
        ("1\u0660\u0662\u0664x1024", False),  # digits, but not ours
        ("\uff11024x1024", False),
    ],
)
def test_a_free_size_is_held_to_its_bounds(model: str, size: str, *, fits: bool) -> None:
    if fits:
        assert parse({"model": model, "size": size}).parameters == {"size": size}
    else:
        assert _fault({"model": model, "size": size}) == ("invalid_value", "size")


@given(st.integers(1, 250), st.integers(1, 250), st.integers(0, 1))
def test_a_free_size_is_accepted_exactly_when_all_four_rules_hold(
    across: int, down: int, off: int
) -> None:
    width, height = across * 16 + off, down * 16
    fits = (
        not off
        and width <= 3840
        and height <= 3840
        and width <= 3 * height
        and height <= 3 * width
        and 655_360 <= width * height <= 8_294_400
    )
    param = None
    try:
        parse({"size": f"{width}x{height}"})
    except Refusal as refusal:
        param = refusal.param
    assert param == (None if fits else "size")


@pytest.mark.parametrize(
    ("size", "word"),
    [("1025x1024", "16"), ("3856x2048", "3840"), ("3840x1264", "3:1"), ("1024x624", "pixels")],
)
def test_the_refusal_of_a_size_says_which_rule_broke(size: str, word: str) -> None:
    assert word in refusal_of({"size": size}).message


def test_a_model_without_rules_takes_any_size() -> None:
    assert parse({"model": _UNKNOWN, "size": "17x9999"}).parameters == {"size": "17x9999"}


# -- what goes only together -----------------------------------------------------------------

_PLAIN = {"model": _NEWEST}


@pytest.mark.parametrize("output_format", ["png", "webp", None])
def test_transparent_goes_with_png_and_webp(output_format: str | None) -> None:
    body = {"background": "transparent", "output_format": output_format}
    made = parse({**_PLAIN, **body})
    assert made.parameters == {name: value for name, value in body.items() if value is not None}


@pytest.mark.parametrize("output_format", ["jpeg", "gif", "svg"])
def test_transparent_goes_with_nothing_else(output_format: str) -> None:
    body = {**_PLAIN, "background": "transparent", "output_format": output_format}
    assert _fault(body) == ("invalid_value", "background")
    assert parse({**body, "background": "opaque"}).parameters["background"] == "opaque"


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
@pytest.mark.parametrize(("value", "fits"), [(0, True), (100, True), (-1, False), (101, False)])
def test_compression_goes_from_0_to_100(output_format: str, value: int, *, fits: bool) -> None:
    body = {"output_format": output_format, "output_compression": value}
    if fits:
        assert parse(body).parameters == body
    else:
        assert _fault(body) == ("invalid_value", "output_compression")


@pytest.mark.parametrize("output_format", ["png", "gif", "svg", None])
def test_compression_goes_with_jpeg_and_webp_only(output_format: str | None) -> None:
    body = {**_PLAIN, "output_compression": 50, "output_format": output_format}
    assert _fault(body) == ("invalid_value", "output_compression")


@pytest.mark.parametrize(("count", "fits"), [(None, True), (1, True), (2, False), (10, False)])
def test_an_svg_comes_alone(count: int | None, *, fits: bool) -> None:
    body = {**_PLAIN, "output_format": "svg", "n": count}
    if fits:
        assert parse(body).count == 1
    else:
        assert _fault(body) == ("invalid_value", "n")


@pytest.mark.parametrize(
    ("value", "fits"), [(0, True), (1, True), (3, True), (4, False), (-1, False)]
)
def test_a_stream_has_0_to_3_partial_images(value: int, *, fits: bool) -> None:
    body = {"stream": True, "partial_images": value}
    if fits:
        made = parse(body)
        assert made.stream
        assert made.parameters == {"partial_images": value}
    else:
        assert _fault(body) == ("invalid_value", "partial_images")


@pytest.mark.parametrize("stream", [False, None])
@pytest.mark.parametrize("value", [1, 2])
def test_partial_images_without_a_stream_are_refused(value: int, stream: object) -> None:
    body = {"partial_images": value, "stream": stream}
    assert _fault(body) == ("invalid_value", "partial_images")
    assert _fault({"partial_images": value}) == ("invalid_value", "partial_images")


@pytest.mark.parametrize("output_format", ["gif", "svg"])
def test_gif_and_svg_do_not_stream(output_format: str) -> None:
    body = {**_PLAIN, "output_format": output_format, "stream": True}
    assert _fault(body) == ("invalid_value", "stream")
    assert _fault({**body, "partial_images": 1}) == ("invalid_value", "stream")
    assert not parse({**body, "stream": False}).stream


@pytest.mark.parametrize(("stream", "expected"), [(True, True), (False, False), (None, False)])
def test_stream_is_taken_out_of_the_parameters(stream: object, *, expected: bool) -> None:
    made = parse({"stream": stream})
    assert made.stream is expected
    assert made.parameters == {}


@pytest.mark.parametrize(
    ("name", "low", "high"), [("frame_count", 2, 16), ("frame_duration_ms", 20, 655_350)]
)
def test_frames_belong_to_a_gif_and_have_bounds(name: str, low: int, high: int) -> None:
    gif = {**_PLAIN, "output_format": "gif"}
    for value in (low, high):
        assert parse({**gif, name: value}).parameters == {"output_format": "gif", name: value}
        for other in ("png", "webp", None):
            body = {**_PLAIN, "output_format": other, name: value}
            assert _fault(body) == ("invalid_value", name)
    for value in (low - 1, high + 1):
        assert _fault({**gif, name: value}) == ("invalid_value", name)


@pytest.mark.parametrize(
    ("size", "frames", "fits"),
    [
        ("384x384", None, True),  # 9 frames by default
        ("384x384", 9, True),
        ("384x384", 5, True),
        ("384x384", 4, False),
        ("512x512", None, True),
        ("512x512", 2, False),
        ("1024x1024", 7, True),
        ("1024x1024", 8, False),
        ("1024x1024", None, False),
        ("1536x1024", 5, True),
        ("1536x1024", 6, False),
        ("960x960", None, True),
        ("976x976", None, False),
        ("208x208", 16, True),
        ("auto", 16, True),
        ("384x380", 9, False),
        ("3856x16", 9, False),
        ("1600x512", 4, False),  # the ratio is each frame's
    ],
)
def test_the_pixels_of_a_gif_count_over_all_of_its_frames(
    size: str, frames: int | None, *, fits: bool
) -> None:
    body = {**_PLAIN, "output_format": "gif", "size": size, "frame_count": frames}
    if fits:
        assert parse(body).parameters["size"] == size
    else:
        assert _fault(body) == ("invalid_value", "size")


def test_the_refusal_of_a_gif_s_size_says_how_many_frames_count() -> None:
    message = refusal_of({**_PLAIN, "output_format": "gif", "size": "1024x1024"}).message
    assert "over all 9 frames, and has 9437184" in message


def test_a_gif_has_no_mask() -> None:
    body = _edit(model=_NEWEST, output_format="gif", mask=PNG)
    assert _fault(body, E) == ("invalid_value", "mask")
    assert parse(_edit(model=_NEWEST, output_format="gif"), E).mask is None


_SVG = {**_PLAIN, "output_format": "svg"}


@pytest.mark.parametrize(
    "svg",
    [
        {},
        {"model": "m"},
        {"model": None, "reasoning": None},
        {"reasoning": {}},
        {"reasoning": {"effort": None}},
        {"model": "m", "reasoning": {"effort": "high"}},
    ],
)
def test_svg_has_a_model_and_an_effort(svg: dict[str, Any]) -> None:
    assert parse({**_SVG, "svg": svg}).parameters == {"output_format": "svg", "svg": svg}


@pytest.mark.parametrize(
    ("svg", "code", "param"),
    [
        ({"x": 1}, "unknown_parameter", "svg"),
        ({"effort": "high"}, "unknown_parameter", "svg"),
        ({"reasoning": {"x": 1}}, "unknown_parameter", "svg.reasoning"),
        ({"reasoning": {"model": "m"}}, "unknown_parameter", "svg.reasoning"),
        ({"reasoning": "high"}, "invalid_type", "svg.reasoning"),
        ({"reasoning": []}, "invalid_type", "svg.reasoning"),
        ({"reasoning": False}, "invalid_type", "svg.reasoning"),
        ({"model": 5}, "invalid_type", "svg.model"),
        ({"model": {}}, "invalid_type", "svg.model"),
        ({"reasoning": {"effort": 5}}, "invalid_type", "svg.reasoning.effort"),
    ],
)
def test_svg_holds_nothing_else(svg: dict[str, Any], code: str, param: str) -> None:
    assert _fault({**_SVG, "svg": svg}) == (code, param)


@pytest.mark.parametrize("output_format", ["png", "gif", None])
def test_svg_belongs_to_an_svg(output_format: str | None) -> None:
    body = {**_PLAIN, "output_format": output_format, "svg": {"model": "m"}}
    assert _fault(body) == ("invalid_value", "svg")


@pytest.mark.parametrize("svg", [{"model": "m" * 5000}, {"reasoning": {"effort": "e" * 5000}}])
def test_svg_is_no_place_for_a_long_text(svg: dict[str, Any]) -> None:
    """Every other name is bounded; a model's name of megabytes is none."""
    assert _fault({**_SVG, "svg": svg})[0] == "invalid_value"


@pytest.mark.parametrize("reasoning", [True, False])
def test_a_name_within_svg_has_256_characters_at_most(*, reasoning: bool) -> None:
    def svg(size: int) -> dict[str, Any]:
        return {"reasoning": {"effort": "e" * size}} if reasoning else {"model": "m" * size}

    assert parse({**_SVG, "svg": svg(256)}).parameters["svg"] == svg(256)
    param = "svg.reasoning.effort" if reasoning else "svg.model"
    assert _fault({**_SVG, "svg": svg(257)}) == ("invalid_value", param)


@pytest.mark.parametrize(("value", "as_url"), [("url", True), ("b64_json", False), (None, False)])
def test_response_format_is_ours_and_never_goes_upstream(value: object, *, as_url: bool) -> None:
    made = parse({"response_format": value})
    assert made.answer_as_url is as_url
    assert made.parameters == {}


def test_a_stream_as_url_cannot_be_had() -> None:
    body = {"stream": True, "response_format": "url"}
    assert _fault(body) == ("unsupported_value", "response_format")
    assert parse({"stream": True, "response_format": "b64_json"}).stream
    assert parse({"stream": False, "response_format": "url"}).answer_as_url


def test_needs_are_looked_at_whatever_the_order_of_the_names() -> None:
    for body in (
        b'{"prompt":"x","output_compression":5,"output_format":"jpeg"}',
        b'{"prompt":"x","output_format":"jpeg","output_compression":5}',
    ):
        assert parse(body).parameters == {"output_format": "jpeg", "output_compression": 5}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"partial_images": 1}, "only with `stream` true"),
        ({"output_compression": 1}, "only with `output_format` jpeg or webp"),
        ({"n": 11}, "from 1 to 10"),
        ({"n": "1"}, "must be an integer"),
        ({"quality": "hd"}, "one of low, medium, high, auto"),
        ({"quality": "max"}, "one of low, medium, high, auto for gpt-image-2"),
        ({"model": "gpt-image-1", "size": "512x512"}, "1024x1536 for gpt-image-1"),
        ({"complexity": "high"}, "is not accepted by gpt-image-2"),
        ({"user": "x" * 513}, "at most 512 characters"),
    ],
)
def test_a_refusal_says_what_would_work(body: dict[str, Any], words: str) -> None:
    assert words in refusal_of(body).message


# -- pictures --------------------------------------------------------------------------------


def _images(body: dict[str, Any]) -> tuple[Image, ...]:
    return parse(body, E).images


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpg", "webp"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_picture_is_a_data_url_bare_or_in_an_object(kind: str, *, wrapped: bool) -> None:
    text = f"data:image/{kind};base64,AAAABBBB"
    item = {"image_url": text} if wrapped else text
    mime = "image/jpeg" if kind == "jpg" else f"image/{kind}"
    assert _images({"images": [item]}) == (Image(text, (base64.b64decode("AAAABBBB"),), mime, 6),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_picture_may_be_an_https_address(*, wrapped: bool) -> None:
    text = "https://example.com/a.png?x=1&y=é"
    item = {"image_url": text, "file_id": None} if wrapped else text
    assert _images({"images": [item]}) == (Image(text),)


def test_pictures_keep_their_order() -> None:
    long = "data:image/png;base64," + "A" * 8000
    body = {"images": ["https://a.example/", {"image_url": long}, PNG, long + "AAAA"]}
    made = parse(body, E)
    assert [image.text for image in made.images] == ["https://a.example/", "\x000", PNG, "\x001"]
    assert [image.size for image in made.images] == [None, 6000, 18, 6003]
    assert [image.data is None for image in made.images] == [True, False, False, False]
    assert len(made.texts) == 2


@given(st.integers(1, 4200).map(lambda fours: fours * 4), st.booleans())
@example(4096 - 22, False)  # the border at which a string is lifted
@example(4100 - 22, True)
def test_a_picture_s_size_is_that_of_its_bytes(characters: int, wrapped: object) -> None:
    text = "data:image/png;base64," + "A" * characters
    [image] = _images({"images": [{"image_url": text} if wrapped else text]})
    assert image.data is not None
    assert image.size == bodies.length(image.data) == characters * 3 // 4


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("characters", [400, 8000])
def test_padding_is_not_counted(padding: int, characters: int) -> None:
    text = "data:image/png;base64," + "A" * (characters - padding)
    for written in (text + "=" * padding, text):
        [image] = _images({"images": [written]})
        assert image.size == characters * 3 // 4 - padding


@pytest.mark.parametrize("size", [0, 8000])
def test_a_data_url_may_have_escaped_slashes(size: int) -> None:
    body = b'{"prompt":"x","images":["data:image\\/png;base64,AAAA' + b"A" * size + b'"]}'
    [image] = parse(body, E).images
    assert (image.type, image.size) == ("image/png", 3 + size * 3 // 4)


def test_1_to_16_images_make_an_edit() -> None:
    assert len(_images({"images": [PNG]})) == 1
    assert len(_images({"images": [PNG] * 16})) == 16
    assert _fault({"images": [PNG] * 17}, E) == ("invalid_value", "images")
    assert _fault({"images": []}, E) == ("invalid_value", "images")


@pytest.mark.parametrize("body", [{}, {"images": None}])
def test_an_edit_needs_images(body: dict[str, Any]) -> None:
    assert _fault(body, E) == ("missing_required_parameter", "images")


@pytest.mark.parametrize("body", [{"image": PNG}, {"image": [PNG], "images": None}])
def test_a_form_s_image_in_json_is_told_where_pictures_go(body: dict[str, Any]) -> None:
    assert _fault(body, E) == ("unknown_parameter", "image")
    assert "`images`" in refusal_of(body, E).message


@pytest.mark.parametrize("images", [PNG, {"image_url": PNG}, 5, True, "x" * 5000])
def test_images_are_a_list(images: Any) -> None:
    assert _fault({"images": images}, E) == ("invalid_type", "images")


_BAD_PICTURES: list[tuple[Any, str, str]] = [
    # what stands there, the code, what is behind the picture's own name in param
    (None, "invalid_type", ""),
    (5, "invalid_type", ""),
    ([PNG], "invalid_type", ""),
    ("", "invalid_value", ""),
    ("picture", "invalid_value", ""),
    ("http://example.com/a.png", "invalid_value", ""),
    ("file:///etc/passwd", "invalid_value", ""),
    ("HTTPS", "invalid_value", ""),
    ("https://", "invalid_value", ""),
    ("https:///a.png", "invalid_value", ""),
    ("https://exa mple.com/", "invalid_value", ""),
    ("https://example.com/\n", "invalid_value", ""),
    ("https://[::1", "invalid_value", ""),
    ("data:image/gif;base64,AAAA", "invalid_value", ""),
    ("data:image/svg+xml;base64,AAAA", "invalid_value", ""),
    ("data:text/html;base64,AAAA", "invalid_value", ""),
    ("data:image/png,AAAA", "invalid_value", ""),
    ("data:image/png;base64,", "invalid_value", ""),
    ("x" * 5000, "invalid_value", ""),
    ("data:image/gif;base64," + "A" * 5000, "invalid_value", ""),
    ("xdata:image/png;base64," + "A" * 5000, "invalid_value", ""),
    ("x" + "é" * 5000, "invalid_value", ""),
    ({}, "missing_required_parameter", ".image_url"),
    ({"image_url": None}, "missing_required_parameter", ".image_url"),
    ({"image_url": 5}, "invalid_type", ".image_url"),
    ({"image_url": {"url": PNG}}, "invalid_type", ".image_url"),
    ({"image_url": "picture"}, "invalid_value", ".image_url"),
    ({"file_id": "file-1"}, "unsupported_value", ".file_id"),
    ({"file_id": "f" * 5000}, "unsupported_value", ".file_id"),
    ({"file_id": ""}, "unsupported_value", ".file_id"),
    ({"image_url": PNG, "file_id": "file-1"}, "unsupported_value", ".file_id"),
    ({"image_url": PNG, "detail": "high"}, "unknown_parameter", ""),
    ({"image_url": PNG, "detail": None}, "unknown_parameter", ""),
    ({"url": PNG}, "unknown_parameter", ""),
]


@pytest.mark.parametrize(("value", "code", "behind"), _BAD_PICTURES)
def test_what_is_no_picture_is_refused_by_its_place(value: Any, code: str, behind: str) -> None:
    assert _fault({"images": [PNG, value]}, E) == (code, f"images[1]{behind}")


@pytest.mark.parametrize("name", ["mask", "markup"])
@pytest.mark.parametrize(("value", "code", "behind"), _BAD_PICTURES[1:])
def test_a_mask_and_a_markup_are_read_as_strictly(
    name: str, value: Any, code: str, behind: str
) -> None:
    body = _edit(model=_NEWEST, **{name: value})
    assert _fault(body, E) == (code, f"{name}{behind}")


def test_a_refused_file_id_says_what_to_send() -> None:
    assert "image_url" in refusal_of({"images": [{"file_id": "f"}]}, E).message


@pytest.mark.parametrize("size", [4, 8000])
def test_a_data_url_of_another_type_is_told_which_would_do(size: int) -> None:
    refusal = refusal_of({"images": ["data:image/gif;base64," + "A" * size]}, E)
    assert "png, jpeg or webp" in refusal.message


def test_no_refusal_repeats_a_picture_or_an_address() -> None:
    for value in ("http://hush.example/x", "data:image/gif;base64,HUSH", "hush" * 2000):
        assert "hush" not in refusal_of({"images": [value]}, E).message.lower()


@pytest.mark.parametrize("size", [4, 8000])
def test_a_mask_and_a_markup_are_png(size: int) -> None:
    png = "data:image/png;base64," + "A" * size
    for name in ("mask", "markup"):
        made = parse(_edit(model=_NEWEST, **{name: {"image_url": png}}), E)
        found = made.mask if name == "mask" else made.markup
        assert found is not None
        assert (found.type, found.size) == ("image/png", size * 3 // 4)
        assert made.input_images == (*made.images, found)
        for kind in ("jpeg", "jpg", "webp"):
            other = png.replace("png", kind)
            assert _fault(_edit(model=_NEWEST, **{name: other}), E) == ("invalid_value", name)
            assert _images({"images": [other]})


def test_a_mask_may_be_an_address() -> None:
    made = parse(_edit(mask="https://example.com/mask.png"), E)
    assert made.mask == Image("https://example.com/mask.png")
    assert made.markup is None


def test_a_markup_excludes_a_mask() -> None:
    body = _edit(model=_NEWEST, mask=PNG, markup=PNG)
    assert _fault(body, E) == ("invalid_value", "markup")
    assert parse({**body, "mask": None}, E).markup
    assert parse({**body, "markup": None}, E).mask


def test_pictures_are_no_parameters() -> None:
    made = parse(_edit(model=_NEWEST, mask=PNG, n=2), E)
    assert made.parameters == {"n": 2}


def _lifted(length: int) -> tuple[str, list[json_skeleton.LiftedString]]:
    head, tail = b"data:image/png;base64,".ljust(64, b"A"), b"A" * 24
    return "\x000", [json_skeleton.LiftedString(10, 10 + length, head, tail, length, non_base64=3)]


def test_a_picture_may_have_20971520_characters_and_no_more() -> None:
    body: dict[str, Any] = {"prompt": "x"}
    text, lifted = _lifted(20_971_520)
    found = forms.from_json({**body, "images": [text]}, lifted, takes_pictures=True)
    assert image_request.parse(E, found, rules()).images[0].size == (20_971_520 - 22) * 3 // 4
    text, lifted = _lifted(20_971_521)
    with pytest.raises(Refusal) as refused:
        forms.from_json({**body, "images": [{"image_url": text}]}, lifted, takes_pictures=True)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "images[0].image_url")
    assert "20971520" in refused.value.message


# -- what must never happen ------------------------------------------------------------------

_ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
        st.sampled_from(["auto", "low", "gif", "jpeg", "svg", "url", PNG, "1024x1024", _NEWEST]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["image_url", "file_id", "model", "reasoning", "effort", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
_NAMES = st.sampled_from([*CATALOGUE.parameters, "images", "image", "mask", "markup", "seed", "x"])


@given(st.sampled_from([G, E]), st.dictionaries(_NAMES, _ANYTHING, max_size=6))
def test_any_body_is_a_sane_request_or_a_refusal_of_a_client_s_mistake(
    endpoint: Endpoint, body: dict[str, Any]
) -> None:
    full = {"prompt": "x", **body}
    if endpoint == E:
        full = {"images": [PNG], **full}
    text = json.dumps(full).encode()
    forward = rules(forward_parameters=frozenset({"seed"}))
    refused: Refusal | json_scanner.ScanError | None = None
    try:
        found = forms.from_json(*read(text), takes_pictures=endpoint == E)
        made = image_request.parse(endpoint, found, forward)
    except (json_scanner.ScanError, Refusal) as error:
        refused = error
    if isinstance(refused, json_scanner.ScanError):
        assert b"\\u0000" in text
    elif refused is not None:
        assert refused.spec.status == 400
        assert refused.param is not None
    else:
        assert made.prompt == full["prompt"]
        assert 1 <= made.count <= 10
        assert set(made.parameters) <= {*CATALOGUE.parameters, "seed"}
        leaks = {"prompt", "model", "stream", "response_format", "images", "image", "mask"}
        assert not leaks & set(made.parameters)
        assert None not in made.parameters.values()
        assert bool(made.images) == (endpoint == E)


def test_a_request_s_repr_shows_no_prompt_and_no_picture() -> None:
    long = "data:image/png;base64," + "A" * 5000
    body = {"prompt": "hush", "user": "hush", "images": [PNG, long], "mask": PNG}
    shown = repr(parse(body, E))
    assert "hush" not in shown
    assert "base64" not in shown
    assert "Lifted" not in shown
    assert "Span" not in shown
    assert "edits" in shown


def test_what_was_lifted_can_be_played_again() -> None:
    """The exchange gets the very spans it needs, whatever else the body lifted."""
    picture, mask = "data:image/png;base64," + "A" * 5000, "data:image/png;base64," + "B" * 6000
    text = json.dumps({"mask": mask, "images": [picture], "prompt": "x"}).encode()
    made = parse(text, E)
    sent = bodies.from_json({"images": [image.text for image in made.images]}, made.texts)
    assert json.loads(play(sent, text)) == {"images": [picture]}


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("value", ["x" * 4097, {"a": "x" * 5000}, [1, [{"a": ["x" * 5000]}]]])
def test_a_forwarded_name_is_no_place_for_a_long_text(endpoint: Endpoint, value: Any) -> None:
    """It would be lifted, and not every form of a body can carry what was lifted."""
    body = {**(_edit() if endpoint == E else {}), "seed": value}
    assert _fault(body, endpoint, forward_parameters=frozenset({"seed"})) == (
        "invalid_value",
        "seed",
    )
    short = {**body, "seed": "x" * 4096}
    made = parse(short, endpoint, forward_parameters=frozenset({"seed"}))
    assert made.parameters == {"seed": "x" * 4096}


def test_an_https_address_may_be_longer_than_what_is_lifted() -> None:
    address = "https://example.com/" + "a" * 9000
    [image] = parse({"images": [address]}, E).images
    assert (image.data, image.type, image.size) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ({"model": "gpt-image-2", "quality": "hd"}, "low, medium, high, auto for gpt-image-2"),
        ({"quality": "hd"}, "low, medium, high, auto for gpt-image-2"),
        ({"output_format": "jpg"}, "png, jpeg, webp for gpt-image-2"),
        ({"model": "gpt-image-2.6-flare", "quality": "hd"}, "high, auto, xhigh, max"),
    ],
)
def test_a_refused_choice_is_told_the_choices_of_the_model(
    value: dict[str, Any], choices: str
) -> None:
    with pytest.raises(Refusal) as refused:
        parse({"prompt": "a cat", **value})
    assert choices in refused.value.message
