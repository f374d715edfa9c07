"""Fingerprints: everything that changes an answer counts, and nothing that a retry writes anew."""

import base64
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls import fingerprint
from image_gateway.core.calls.names import CallSecrets
from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.errors import Refusal
from image_gateway.core.request import intent
from image_gateway.core.request.catalogue import Endpoint, Parameter
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import AnyRequest, IntentRequest
from image_gateway.core.request.model_names import ModelNames
from tests.core.builders import CATALOGUE, PNG, key, parse, parse_form, split

SECRETS = CallSecrets.of(b"a prompt key of the operator")
_NEWEST = "gpt-image-2.6-sunburst"
_BOUNDARY = "a-boundary"


def _of(request: AnyRequest, key_id: str = "key-1", secrets: CallSecrets = SECRETS) -> str:
    return fingerprint.of(secrets, key_id, request, CATALOGUE)


def _image(body: Mapping[str, object] | bytes, endpoint: Endpoint = "generations") -> str:
    return _of(parse(body, endpoint))


def _url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


LONG: Final = [_url(bytes([number]) * 9000) for number in range(3)]
"""Pictures that are lifted out of JSON."""
SHORT: Final = [_url(bytes([number]) * 90) for number in range(3)]


# -- parameters ------------------------------------------------------------------------------------

_VALUES: Final[Mapping[str, tuple[Any, ...]]] = {
    "prompt": ("a cat", "a dog", "a cat ", "a" * 9000, "a" * 9001),
    "model": ("gpt-image-2", "openai/gpt-image-2", "gpt-image-2.6-sunburst", "gpt-image-1"),
    "size": ("auto", "1024x1024", "1536x1024"),
    "svg": ({"model": "m"}, {"model": "n"}, {"reasoning": {"effort": "low"}}, {}),
    "user": ("", "u", "v"),
    "safety_identifier": ("", "u", "v"),
}
"""Values of the parameters without a list or a range of them."""


def _values(parameter: Parameter) -> tuple[Any, ...]:
    if parameter.choices is not None:
        return parameter.choices
    if parameter.minimum is not None and parameter.maximum is not None:
        low, high = parameter.minimum, parameter.maximum
        return tuple(range(low, min(high, low + 20) + 1))
    return (True, False) if parameter.type == "boolean" else _VALUES[parameter.name]


def _request(parameter: Parameter, endpoint: Endpoint, value: object) -> ImageRequest | None:
    """The request with this value on a model that takes it; None if no model takes it."""
    needs = {name: accepted[0] for name, accepted in (parameter.needs or {}).items()}
    body = {"model": _NEWEST, **needs, **({"images": [PNG]} if endpoint == "edits" else {})}
    for model in ({}, {"model": "gpt-image-1.5"}):
        try:
            return parse({**body, **model, parameter.name: value}, endpoint)
        except Refusal:
            continue
    return None


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        (name, endpoint)
        for name, parameter in CATALOGUE.parameters.items()
        for endpoint in sorted(parameter.endpoints)
    ],
)
def test_each_value_of_each_parameter_has_a_fingerprint_of_its_own(
    name: str, endpoint: Endpoint
) -> None:
    parameter = CATALOGUE.parameters[name]
    made = [_request(parameter, endpoint, value) for value in _values(parameter)]
    requests = [request for request in made if request is not None]
    assert len(requests) >= 2, "no two values to compare"
    assert len({_of(request) for request in requests}) == len(requests)


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
@pytest.mark.parametrize("model", sorted(CATALOGUE.models))
@pytest.mark.parametrize(
    "name", [name for name, each in CATALOGUE.parameters.items() if each.default is not None]
)
def test_a_documented_default_and_nothing_are_the_same_request(
    name: str, model: str, endpoint: Endpoint
) -> None:
    """Also where the parameter may not stand with another value."""
    default = CATALOGUE.parameters[name].default
    body = {"model": model, **({"images": [PNG]} if endpoint == "edits" else {})}
    assert _image({**body, name: default}, endpoint) == _image(body, endpoint)


def test_the_default_model_and_its_name_are_the_same_request() -> None:
    assert _image({}) == _image({"model": "gpt-image-2"})


def test_the_model_that_a_key_maps_a_name_to_counts() -> None:
    """An operator who changes the map between two tries has changed what is bought."""
    mapped = [parse({"model": "painter"}, model_map={"painter": to}) for to in ("a", "b")]
    assert len({_of(request) for request in mapped}) == 2


def test_a_model_in_the_path_is_the_model() -> None:
    assert _of(parse({}, "generations", "gpt-image-1.5")) == _image({"model": "gpt-image-1.5"})


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, True, "1", [1], {"a": 1}),
        (0, -0.0, 0.0, False, "", "false", []),
        ([1, [2]], [[1], 2], [1, 2], [12], ["1,2"]),
        ({"a": {"b": 1}}, {"a": 1, "b": 1}, {"a.b": 1}, {"a": "{'b': 1}"}),
        ("a", "A", "\u00e9", "e\u0301", "a\0", "\ufffd"),
        (10**18, 10**18 + 1, 1e18),
        (2**53, float(2**53)),
    ],
    ids=["ones", "zeros", "lists", "objects", "texts", "large", "doubles"],
)
def test_a_forwarded_value_counts_with_its_type(values: tuple[object, ...]) -> None:
    requests = [
        parse({"extra": value}, forward_parameters=frozenset({"extra"})) for value in values
    ]
    assert len({_of(request) for request in requests}) == len(values)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    # NUL at the start stands for a long string, and is refused in a body.
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: value is not None and "Infinity" not in json.dumps(value))


@given(_JSON, _JSON)
def test_two_values_have_one_fingerprint_only_if_they_are_one_json_value(
    one: object, other: object
) -> None:
    made = [
        _of(parse({"extra": value}, forward_parameters=frozenset({"extra"})))
        for value in (one, other)
    ]
    texts = [json.dumps(value, sort_keys=True) for value in (one, other)]
    assert (made[0] == made[1]) == (texts[0] == texts[1])


def test_what_one_field_holds_is_not_what_another_holds() -> None:
    bodies: list[dict[str, object]] = [
        {"prompt": "u", "user": "a"},
        {"prompt": "a", "user": "u"},
        {"prompt": "u", "safety_identifier": "a"},
        {"prompt": 'u","user":"a'},
    ]
    assert len({_image(body) for body in bodies}) == len(bodies)


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("urls", [SHORT, LONG], ids=["short", "long"])
def test_pictures_count_with_their_order_and_their_place(urls: list[str]) -> None:
    one, other, _ = urls
    bodies: list[dict[str, object]] = [
        {"images": [one]},
        {"images": [other]},
        {"images": [one, one]},
        {"images": [one, other]},
        {"images": [other, one]},
        {"images": [one], "mask": other},
        {"images": [one], "markup": other},
        {"images": [other], "mask": one},
        {"images": [one, other], "mask": one},
        {"images": ["https://example.com/a.png"]},
        {"images": ["https://example.com/" + "a" * 9000]},
    ]
    made = {_of(parse({"model": _NEWEST, **body}, "edits")) for body in bodies}
    assert len(made) == len(bodies)


def _form(*parts: tuple[str, str | bytes], boundary: str = _BOUNDARY, file: str = "a.png") -> str:
    text = b""
    for name, value in parts:
        text += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, bytes):
            text += f'; filename="{file}"\r\nContent-Type: image/png'.encode()
        text += b"\r\n\r\n" + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    request, _ = parse_form(text + f"--{boundary}--\r\n".encode(), boundary.encode())
    return _of(request)


def test_files_count_by_their_bytes_and_their_place() -> None:
    one, other = b"\x89PNG\r\n\x1a\n" + bytes(9000), b"\x89PNG\r\n\x1a\n" + bytes(9001)
    prompt = ("prompt", "a cat")
    made = [
        _form(prompt, ("image", one)),
        _form(prompt, ("image", other)),
        _form(prompt, ("image", one), ("image", other)),
        _form(prompt, ("image", other), ("image", one)),
        _form(prompt, ("image", one), ("mask", other)),
        _form(prompt, ("image", other), ("mask", one)),
    ]
    assert len(set(made)) == len(made)
    # The same in an order that their numbers tell.
    assert _form(prompt, ("image[1]", other), ("image[0]", one)) == made[2]


def test_a_form_is_written_anew_for_each_try() -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(9000)
    parts: list[tuple[str, str | bytes]] = [("prompt", "a cat"), ("n", "2"), ("image", data)]
    first = _form(*parts)
    assert _form(*parts, boundary="another") == first
    assert _form(*parts, file="b.png") == first
    assert _form(("image[]", data), *reversed(parts[:2])) == first


def test_the_type_that_a_file_is_believed_counts() -> None:
    request, _ = parse_form(
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b\r\n'
        b'Content-Disposition: form-data; name="image"; filename="a"\r\n'
        b"Content-Type: image/png\r\n\r\nno signature\r\n--b--\r\n",
        b"b",
    )
    as_jpeg = replace(request, images=(replace(request.images[0], type="image/jpeg"),))
    assert _of(as_jpeg) != _of(request)


def test_a_form_without_pictures_is_the_json_with_the_same_parameters() -> None:
    text = (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n--b\r\n'
        b'Content-Disposition: form-data; name="n"\r\n\r\n2\r\n--b--\r\n'
    )
    request, _ = parse_form(text, b"b", "generations")
    assert _of(request) == _image({"n": 2})


def test_a_picture_that_was_read_without_its_digest_is_an_error() -> None:
    request = parse({"images": [LONG[0]]}, "edits")
    unread = replace(request, images=(replace(request.images[0], digest=None),))
    with pytest.raises(ValueError, match="without its digest"):
        _of(unread)


# -- what a retry writes anew, and whose it is -----------------------------------------------------


@given(st.permutations(["prompt", "n", "size", "user", "images"]), st.data())
def test_neither_the_order_of_keys_nor_how_a_body_arrives_counts(
    names: list[str], data: st.DataObject
) -> None:
    values = {"prompt": "a cat", "n": 2, "size": "1024x1024", "user": "u", "images": [LONG[0]]}
    text = json.dumps({name: values[name] for name in names}).encode()
    assert _image(text, "edits") == _image(json.dumps(values, indent=2).encode(), "edits")
    skeleton = json_skeleton.JsonSkeleton(digests=True)
    for chunk in data.draw(split(text)):
        skeleton.feed(chunk)
    skeleton.close()
    [lifted] = skeleton.lifted
    assert parse(text, "edits").images[0].digest == f"text:{lifted.digest.hex()}"


def test_keys_endpoints_and_operators_do_not_share_fingerprints() -> None:
    request = parse({"prompt": "a cat"})
    other = CallSecrets.of(b"another prompt key")
    made = [
        _of(request),
        _of(request, "key-2"),
        _of(request, secrets=other),
        _of(replace(request, endpoint="edits")),
        _of(_intent({"model": "gpt-image-2", "input": "a cat"})),
    ]
    assert len(set(made)) == len(made)
    assert all(len(each) == 64 for each in made)


def test_a_fingerprint_keeps_its_value() -> None:
    """Files outlive a release; when this must change, kept calls are lost once."""
    assert _image({"prompt": "a cat", "n": 2}) == (
        "0f26311eb837ec6f547381fb2113b001a1a78c9fc4f27f05758bec6c36136fa3"
    )


# -- intents ---------------------------------------------------------------------------------------

_TOOL: Final[dict[str, object]] = {"type": "image_generation"}
_BODY: Final[dict[str, object]] = {"model": "gpt-5.5", "input": "a cat", "tools": [_TOOL]}


def _intent(value: Mapping[str, object] | bytes, **names: str) -> IntentRequest:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.INTENT, digests=True)
    skeleton.feed(text)
    body = skeleton.close()
    models = ModelNames(key(model_map=names))
    return intent.parse(body, skeleton.lifted, models, "gpt-image-2")


def _with_picture(url: str) -> dict[str, object]:
    content = [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": url}]
    return {**_BODY, "input": [{"role": "user", "content": content}]}


def test_each_field_of_an_intent_counts() -> None:
    bodies: list[dict[str, object]] = [
        _BODY,
        {**_BODY, "model": "gpt-5.6"},
        {**_BODY, "input": "a dog"},
        {**_BODY, "input": ["a cat"]},
        {**_BODY, "tools": [{**_TOOL, "size": "1024x1024"}]},
        {**_BODY, "tools": [_TOOL, _TOOL]},
        {**_BODY, "stream": True},
        {**_BODY, "store": False},
        {**_BODY, "store": True},
        {**_BODY, "previous_response_id": "resp_1"},
        {**_BODY, "temperature": 1},
        {**_BODY, "temperature": 1.0},
        {**_BODY, "metadata": {"a": "b"}},
        {**_BODY, "metadata": {"b": "a"}},
        *(_with_picture(url) for url in (*SHORT, *LONG)),
    ]
    assert len({_of(_intent(body)) for body in bodies}) == len(bodies)


def test_where_a_long_string_stands_counts() -> None:
    one, other = LONG[:2]
    orders = [
        {**_BODY, "input": [{"role": "user", "content": [{"a": first}, {"b": second}]}]}
        for first, second in itertools.product((one, other), repeat=2)
    ]
    assert len({_of(_intent(body)) for body in orders}) == len(orders)


def test_a_text_that_looks_like_a_digest_is_none() -> None:
    [digest] = _intent(_with_picture(LONG[0])).digests
    forged = [digest.hex(), "\ufffd" + digest.hex(), "0"]
    made = {_of(_intent(_with_picture(url))) for url in (LONG[0], *forged)}
    assert len(made) == 1 + len(forged)


def test_neither_the_order_of_keys_nor_white_space_counts_in_an_intent() -> None:
    body = _with_picture(LONG[0])
    turned = dict(reversed([*body.items()]))
    assert _of(_intent(json.dumps(turned, indent=1).encode())) == _of(_intent(body))


def test_what_an_intent_leaves_out_is_what_is_understood() -> None:
    assert _of(_intent({**_BODY, "stream": False})) == _of(_intent(_BODY))
    without = {"input": "a cat", "tools": [_TOOL]}
    assert _of(_intent(without)) == _of(_intent({**without, "model": "gpt-image-2"}))


def test_waiting_in_the_background_asks_for_the_same_picture() -> None:
    request = _intent(_BODY)
    assert _of(replace(request, body={**request.body, "background": True})) == _of(request)


def test_the_models_that_a_key_maps_names_to_count_in_an_intent() -> None:
    body = {"model": "painter", "input": "x", "tools": [{**_TOOL, "model": "brush"}]}
    maps = [
        {"painter": "a", "brush": "gpt-image-1"},
        {"painter": "b", "brush": "gpt-image-1"},
        {"painter": "a", "brush": "gpt-image-2"},
    ]
    assert len({_of(_intent(body, **names)) for names in maps}) == len(maps)


def test_a_long_string_that_was_read_without_its_digest_is_an_error() -> None:
    request = _intent(_with_picture(LONG[0]))
    with pytest.raises(ValueError, match="without its digest"):
        _of(replace(request, digests=(b"",)))


def test_an_intent_of_the_deepest_nesting_has_a_fingerprint() -> None:
    depth = json_scanner.INTENT.depth - 1
    text = json.dumps(_BODY)[:-1] + ', "metadata": ' + "[" * depth + "]" * depth + "}"
    assert len(_of(_intent(text.encode()))) == 64
