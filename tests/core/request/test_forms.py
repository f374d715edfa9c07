"""What a body gives: the same from a form as from JSON, with nothing guessed and nothing lost."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import json_skeleton, multipart
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.errors import Refusal
from image_gateway.core.request import forms, image_request
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.forms import RawParameters
from tests.core.builders import CATALOGUE, PNG, parse, parse_form, play, read, rules

G: Endpoint = "generations"
E: Endpoint = "edits"
_NEWEST = "gpt-image-2.5-sunburst"
_BOUNDARY = "b0undary"
_PICTURE = base64.b64decode(PNG.partition(",")[2])
_PICTURES = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(30)),
    "jpeg": b"\xff\xd8\xff\xe0" + b"\xfb\xef\xbe" * 10,
    "webp": b"RIFF\0\0\0\0WEBP" + bytes(40),
}

_Field = tuple[str, str | bytes]

PICTURE_NAMES = [
    "image",
    "image[]",
    "image[1]",
    "image[007]",
    "mask",
    "mask[]",
    "mask[0]",
    "markup",
]


def _body(*parts: _Field) -> bytes:
    """A form as SDKs write it: text for fields, a file name and no telling type for pictures."""
    text = b""
    for name, value in parts:
        text += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, bytes):
            text += b'; filename="upload"\r\nContent-Type: application/octet-stream'
        text += b"\r\n\r\n" + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return text + f"--{_BOUNDARY}--\r\n".encode()


def _given(*parts: _Field, takes_pictures: bool = True) -> RawParameters:
    reader = multipart.MultipartReader(_BOUNDARY.encode(), multipart.PartLimits(10_000_000, 64))
    reader.feed(_body(*parts))
    return forms.from_parts(reader.close(), CATALOGUE, takes_pictures=takes_pictures)


def _values(*parts: _Field) -> Mapping[str, object]:
    return _given(*parts, takes_pictures=False).values


def _fault(*parts: _Field, takes_pictures: bool = False) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        _given(*parts, takes_pictures=takes_pictures)
    assert refused.value.spec.status == 400
    return refused.value.code, refused.value.param


def _form(
    *parts: _Field, endpoint: Endpoint = E, **changes: Any
) -> tuple[image_request.ImageRequest, bytes]:
    return parse_form(_body(*parts), _BOUNDARY.encode(), endpoint, **changes)


# -- a part's text becomes its parameter's type ----------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "2", 2),
        ("n", "0", 0),
        ("n", "-1", -1),
        ("n", "007", 7),
        ("n", "1\n", 1),
        ("n", " 1\r\n", 1),
        ("stream", "false\n", False),
        ("output_compression", "100", 100),
        ("partial_images", "0", 0),
        ("stream", "true", True),
        ("stream", "false", False),
        ("stream", "True", True),
        ("stream", "FALSE", False),
        ("size", "1024x1024", "1024x1024"),
        ("quality", "", ""),
        ("user", "2", "2"),
        ("user", "true", "true"),
        ("prompt", " a\r\ncat\0 ", " a\r\ncat\0 "),
        ("prompt", "é😀", "é😀"),
        ("seed", "2", "2"),
        ("model", "null", "null"),
    ],
)
def test_a_text_becomes_the_type_of_its_parameter(name: str, text: str, value: object) -> None:
    assert _values((name, text)) == {name: value}
    assert type(_values((name, text))[name]) is type(value)


@pytest.mark.parametrize("name", ["n", "output_compression", "partial_images", "frame_count"])
@pytest.mark.parametrize(
    "text",
    ["", " ", "two", "2.0", "1e1", "+2", "2 3", "0x2", "1_0", "٢", "null", "--2"],
)
def test_a_bad_number_is_an_error_and_not_0(name: str, text: str) -> None:
    assert _fault((name, text)) == ("invalid_type", name)


def test_a_number_of_any_length_is_an_answer_of_400() -> None:
    assert _values(("n", "9" * 9)) == {"n": 999_999_999}
    assert _fault(("n", "9" * 4000)) == ("invalid_type", "n")


@pytest.mark.parametrize("text", ["", "1", "0", "yes", "no", "on", "t", "tr ue", "null"])
def test_a_bad_boolean_is_an_error_and_not_false(text: str) -> None:
    assert _fault(("stream", text)) == ("invalid_type", "stream")


def test_what_is_no_utf_8_is_refused_by_its_name() -> None:
    text = _body(("prompt", "@")).replace(b"@", b"\xff")
    reader = multipart.MultipartReader(_BOUNDARY.encode(), multipart.PartLimits(100, 4))
    reader.feed(text)
    with pytest.raises(Refusal) as refused:
        forms.from_parts(reader.close(), CATALOGUE, takes_pictures=False)
    assert (refused.value.code, refused.value.param) == ("invalid_body", "prompt")


@pytest.mark.parametrize("name", ["prompt", "model", "user", "seed", "svg[model]"])
@pytest.mark.parametrize("text", ["\0", "\x000", "\x000 a cat", "\0a cat"])
def test_a_text_that_begins_with_nul_is_refused(name: str, text: str) -> None:
    """It could pass for the mark of a picture."""
    assert _fault((name, text), takes_pictures=False) == ("invalid_value", name)
    assert _fault(("image", _PICTURE), (name, text), takes_pictures=True)[1] == name
    assert _values((name, "a" + text)) != {}


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("svg[model]", "m")], {"svg": {"model": "m"}}),
        (
            [("svg[reasoning][effort]", "high"), ("svg[model]", "m")],
            {"svg": {"reasoning": {"effort": "high"}, "model": "m"}},
        ),
        ([("meta[a]", "1"), ("meta[b]", "2"), ("n", "2")], {"meta": {"a": "1", "b": "2"}, "n": 2}),
        ([("a.b", "1"), ("svg.model", "m")], {"a.b": "1", "svg.model": "m"}),
        ([("x[]", "1")], {"x[]": "1"}),
        ([("x[a", "1"), ("x]", "2")], {"x[a": "1", "x]": "2"}),
        ([("x[a][b][c]", "1")], {"x[a][b][c]": "1"}),
        ([("x[a]y", "1"), ("[a]", "2")], {"x[a]y": "1", "[a]": "2"}),
    ],
)
def test_only_names_in_brackets_are_nested(
    parts: list[_Field], expected: dict[str, object]
) -> None:
    """A dotted name is a name, as it stands."""
    assert _values(*parts) == expected


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("n", "1"), ("n", "1")], "n"),
        ([("prompt", "a"), ("size", "auto"), ("prompt", "b")], "prompt"),
        ([("svg[model]", "a"), ("svg[model]", "b")], "svg[model]"),
        ([("svg[reasoning]", "a"), ("svg[reasoning][effort]", "b")], "svg[reasoning][effort]"),
        ([("svg[reasoning][effort]", "a"), ("svg[reasoning]", "b")], "svg[reasoning]"),
        ([("meta", "a"), ("meta[b]", "c")], "meta[b]"),
        ([("meta[b]", "c"), ("meta", "a")], "meta"),
    ],
)
def test_what_is_sent_twice_is_refused_and_none_of_it_wins(parts: list[_Field], param: str) -> None:
    assert _fault(*parts) == ("invalid_value", param)


def test_an_object_is_sent_by_the_names_in_it() -> None:
    assert _fault(("svg", '{"model":"m"}')) == ("invalid_type", "svg")


@pytest.mark.parametrize("name", ["n[x]", "stream[a][b]", "prompt[x]", "model[x]", "size[x]"])
def test_a_scalar_with_names_in_it_is_of_the_wrong_type(name: str) -> None:
    outer = name.partition("[")[0]
    prompt: list[_Field] = [] if outer == "prompt" else [("prompt", "a cat")]
    with pytest.raises(Refusal) as refused:
        _form(*prompt, (name, "1"), endpoint=G)
    assert (refused.value.code, refused.value.param) == ("invalid_type", outer)


@pytest.mark.parametrize("name", ["svg[x]", "svg[reasoning][x]", "svg[model][x]", "seed", "a.b"])
def test_a_name_that_nobody_knows_is_refused(name: str) -> None:
    values: list[_Field] = [("model", _NEWEST), ("output_format", "svg"), ("prompt", "a cat")]
    with pytest.raises(Refusal) as refused:
        _form(*values, (name, "1"), endpoint=G)
    assert refused.value.code in {"unknown_parameter", "invalid_type"}
    assert refused.value.param is not None


@pytest.mark.parametrize(
    "name", ["mask_", "images", "images[0]", "image[x]", "image[1000]", "image[][]", "file"]
)
def test_a_file_of_another_name_is_not_taken_for_a_picture(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        _form(("prompt", "a cat"), ("image", _PICTURE), (name, "short"))
    assert refused.value.code == "unknown_parameter"


# -- pictures --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["image", "image[]"]), min_size=1, max_size=16), st.data())
def test_pictures_without_numbers_keep_their_order(names: list[str], data: st.DataObject) -> None:
    pictures = [_PICTURES["png"] + bytes([number]) for number in range(len(names))]
    parts: list[_Field] = list(zip(names, pictures, strict=True))
    # Scalars stand anywhere, even behind the files.
    for field in (("prompt", "a cat"), ("model", _NEWEST), ("n", "2")):
        parts.insert(data.draw(st.integers(0, len(parts))), field)
    made, laid_down = _form(*parts)
    assert [play(image.data or (), laid_down) for image in made.images] == pictures
    assert (made.prompt, made.model, made.parameters) == ("a cat", _NEWEST, {"n": 2})
    for image, picture in zip(made.images, pictures, strict=True):
        number = json_skeleton.placeholder_number(image.text)
        assert number is not None
        url = b"data:image/png;base64," + base64.b64encode(picture)
        assert play(made.texts[number], laid_down) == url


def _starts(found: RawParameters) -> list[int]:
    """Where each picture begins among the bytes that were laid down."""
    spans = [segment for image in found.images for segment in image.data or ()]
    return [span.start for span in spans if isinstance(span, Span)]


@given(st.permutations(range(16)), st.integers(1, 16))
def test_pictures_that_all_have_a_number_are_in_the_order_of_their_numbers(
    order: list[int], count: int
) -> None:
    """PHP numbers them; the numbers may have gaps."""
    parts: list[_Field] = [(f"image[{n * 3}]", _PICTURES["png"] + bytes([n])) for n in order]
    given_ = _given(*parts[:count])
    starts = _starts(given_)
    length = len(_PICTURES["png"]) + 1
    arrived = [order[start // length] for start in starts]
    assert arrived == sorted(order[:count])


@given(st.permutations(["image", "image[]", "image[1]", "image[0]"]))
def test_pictures_of_which_some_have_no_number_are_in_the_order_of_their_arrival(
    names: list[str],
) -> None:
    found = _given(*((name, _PICTURES["png"]) for name in names))
    starts = _starts(found)
    assert starts == sorted(starts)
    assert len(starts) == 4


def test_a_number_comes_once() -> None:
    parts: list[_Field] = [("image[0]", _PICTURE), ("image[1]", _PICTURE), ("image[00]", _PICTURE)]
    assert _fault(*parts, takes_pictures=True) == ("invalid_value", "image[00]")


def test_a_form_has_1_to_16_images() -> None:
    one: _Field = ("image[]", _PICTURE)
    assert len(_given(*[one] * 16).images) == 16
    assert _fault(*[one] * 17, takes_pictures=True) == ("invalid_value", "image")
    mixed: list[_Field] = [one] * 8 + [("image", _PICTURE)] * 9
    assert _fault(*mixed, takes_pictures=True) == ("invalid_value", "image")
    for fields in ([], [("prompt", "a cat")], [("mask", _PICTURE)]):
        assert _fault(*fields, takes_pictures=True) == ("missing_required_parameter", "image")


@pytest.mark.parametrize("name", ["mask", "markup"])
@pytest.mark.parametrize(("first", "second"), [("", ""), ("[]", ""), ("", "[]"), ("[]", "[]")])
def test_a_mask_and_a_markup_come_once(name: str, first: str, second: str) -> None:
    image: _Field = ("image", _PICTURE)
    one = _given(image, (name + first, _PICTURE))
    found = one.mask if name == "mask" else one.markup
    assert found is not None
    twice = [image, (name + first, _PICTURE), (name + second, _PICTURE)]
    assert _fault(*twice, takes_pictures=True) == ("invalid_value", name)


def test_a_mask_is_no_markup_and_the_two_exclude_each_other() -> None:
    base: list[_Field] = [("prompt", "a cat"), ("model", _NEWEST), ("image", _PICTURE)]
    made, _ = _form(*base, ("mask", _PICTURE))
    assert made.mask is not None
    assert made.markup is None
    made, _ = _form(*base, ("markup", _PICTURE))
    assert made.mask is None
    assert made.markup is not None
    with pytest.raises(Refusal) as refused:
        _form(*base, ("markup", _PICTURE), ("mask", _PICTURE))
    assert (refused.value.code, refused.value.param) == ("invalid_value", "markup")


def test_a_markup_begins_with_2_5_in_a_form_too() -> None:
    with pytest.raises(Refusal) as refused:
        _form(("prompt", "a cat"), ("image", _PICTURE), ("markup", _PICTURE))
    assert (refused.value.code, refused.value.param) == ("invalid_value", "markup")


@pytest.mark.parametrize("name", PICTURE_NAMES)
def test_a_generation_takes_no_picture(name: str) -> None:
    shown = name.partition("[")[0]
    parts: list[_Field] = [("prompt", "a cat"), (name, _PICTURE)]
    assert _fault(*parts, takes_pictures=False) == ("unknown_parameter", shown)


@pytest.mark.parametrize("name", PICTURE_NAMES)
@pytest.mark.parametrize("value", [b"", b"no picture", b"https://example.com/a.png", b"GIF89a"])
def test_a_part_that_is_no_picture_is_refused_by_its_name(name: str, value: bytes) -> None:
    parts: list[_Field] = [("image", _PICTURE), (name, value)]
    assert _fault(*parts, takes_pictures=True) == ("invalid_value", name)


# -- the two forms are one -------------------------------------------------------------------

_SCALARS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a cat", 'a "cat"\\ \0é', "2", "true", "\U0001f408" * 40])},
    optional={
        "model": st.sampled_from([_NEWEST, "gpt-image-1", "somebody-s-model"]),
        "n": st.integers(-1, 11),
        "size": st.sampled_from(["auto", "1024x1024", "2048x2048", "big"]),
        "quality": st.sampled_from(["low", "max", "hd"]),
        "background": st.sampled_from(["opaque", "transparent"]),
        "output_format": st.sampled_from(["png", "jpeg", "svg", "gif"]),
        "output_compression": st.integers(-1, 101),
        "stream": st.booleans(),
        "partial_images": st.integers(0, 4),
        "frame_count": st.integers(1, 3),
        "user": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        "seed": st.sampled_from(["1", "x"]),
        "svg": st.sampled_from(
            [{"model": "m"}, {"model": "m", "reasoning": {"effort": "high"}}, {"x": "1"}]
        ),
    },
)


def _outcome(make: Any) -> image_request.ImageRequest | tuple[str, str | None]:
    try:
        made = make()
    except Refusal as refusal:
        param = {"image": "images"}.get(refusal.param or "", refusal.param)
        return refusal.code, param
    assert isinstance(made, image_request.ImageRequest)
    return made


@given(
    _SCALARS,
    st.lists(st.sampled_from(sorted(_PICTURES)), max_size=3),
    st.sampled_from([None, "png", "jpeg"]),
    st.sampled_from([None, None, "png"]),
    st.sampled_from([G, E]),
)
def test_a_form_and_the_json_of_the_same_call_are_the_same_request(
    scalars: dict[str, Any],
    images: list[str],
    mask: str | None,
    markup: str | None,
    endpoint: Endpoint,
) -> None:
    """Equal in all but how a picture lies where it was laid down."""
    if endpoint == G:
        images, mask, markup = [], None, None

    def url(kind: str) -> str:
        return f"data:image/{kind};base64,{base64.b64encode(_PICTURES[kind]).decode()}"

    value = dict(scalars)
    parts: list[_Field] = list(forms.to_fields(scalars))
    if endpoint == E and images:
        value["images"] = [{"image_url": url(kind)} for kind in images]
        parts += [("image[]", _PICTURES[kind]) for kind in images]
    for name, kind in (("mask", mask), ("markup", markup)):
        if kind is not None:
            value[name] = {"image_url": url(kind)}
            parts.append((name, _PICTURES[kind]))
    text, form = json.dumps(value).encode(), _body(*parts)
    forward = frozenset({"seed"})
    spools: list[bytes] = []

    def by_form() -> image_request.ImageRequest:
        made, laid_down = parse_form(form, _BOUNDARY.encode(), endpoint, forward_parameters=forward)
        spools.append(laid_down)
        return made

    one = _outcome(lambda: parse(text, endpoint, forward_parameters=forward))
    other = _outcome(by_form)
    if isinstance(one, tuple) or isinstance(other, tuple):
        if endpoint == E and not isinstance(one, image_request.ImageRequest) and one != other:
            # A bad picture and a bad scalar in one body: either may be told.
            assert isinstance(other, tuple)
            return
        assert one == other
        return
    assert (one.is_form, other.is_form) == (False, True)
    for name in ("endpoint", "model", "upstream_model", "prompt", "stream", "answer_as_url"):
        assert getattr(one, name) == getattr(other, name)
    assert one.parameters == other.parameters
    for mine, theirs in zip(one.input_images, other.input_images, strict=True):
        assert (mine.type, mine.size) == (theirs.type, theirs.size)
        assert play(mine.data or (), text) == play(theirs.data or (), spools[0])


# -- JSON ------------------------------------------------------------------------------------


def test_null_is_absent_from_what_is_given() -> None:
    given_, lifted = read(b'{"prompt":"x","n":null,"images":["https://a.example/"],"mask":null}')
    found = forms.from_json(given_, lifted, takes_pictures=True)
    assert found.values == {"prompt": "x"}
    assert (len(found.images), found.mask, found.markup) == (1, None, None)
    assert not found.is_form


def test_where_no_picture_is_taken_their_names_stay_to_be_refused() -> None:
    given_, lifted = read(b'{"prompt":"x","images":[1],"mask":2}')
    found = forms.from_json(given_, lifted, takes_pictures=False)
    assert found.values == {"prompt": "x", "images": [1], "mask": 2}


# -- back to fields --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"n": 2, "stream": True, "x": False}, [("n", "2"), ("stream", "true"), ("x", "false")]),
        (
            {"svg": {"model": "m", "reasoning": {"effort": "high"}}},
            [("svg[model]", "m"), ("svg[reasoning][effort]", "high")],
        ),
        ({"svg": {"model": None, "reasoning": {"effort": None}}}, []),
        ({"svg": {}}, []),
        ({"seed": 1.5}, [("seed", "1.5")]),
        ({}, []),
    ],
)
def test_values_become_the_fields_of_a_form(
    values: dict[str, object], fields: list[tuple[str, str]]
) -> None:
    assert forms.to_fields(values) == fields


@given(_SCALARS)
def test_fields_are_read_back_as_the_values_they_were(scalars: dict[str, Any]) -> None:
    fields = forms.to_fields(scalars)
    assert _values(*fields) == scalars


def test_what_is_given_does_not_show_itself() -> None:
    shown = repr(_given(("prompt", "hush"), ("image", _PICTURE)))
    assert "hush" not in shown
    assert "base64" not in shown


def test_a_form_takes_the_settings_names_as_texts() -> None:
    made, _ = _form(
        ("prompt", "a cat"), ("seed", "7"), endpoint=G, forward_parameters=frozenset({"seed"})
    )
    assert made.parameters == {"seed": "7"}
    assert rules().forward_parameters == frozenset()
