"""Which route can do what: nothing is dropped to fit, and a refusal names what would."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.dialects import (
    DIALECTS,
    Ability,
    EncodeContext,
    UpstreamRequest,
    UpstreamRoute,
)
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.routing import capability
from image_gateway.core.routing.capability import (
    INTENT_NEEDS,
    NEEDS,
    Gap,
    Need,
    choose,
    gap,
)
from tests.core.builders import CATALOGUE, PNG, ROUTES, account, account_with, parse, play

E: Endpoint = "edits"
_FORWARD = frozenset({"seed"})
_NEWEST = "gpt-image-2.6-sunburst"
_ADDRESS = "https://example.com/a.png"
_CONTEXT = EncodeContext("https://codex.example", "0.1.0", "b0undary")

DIRECT, RESPONSES, AZURE, OPENAI = ROUTES


def _request(value: dict[str, Any], *, is_form: bool = False) -> ImageRequest:
    endpoint: Endpoint = "edits" if "images" in value else "generations"
    model = {"model": _NEWEST} if "model" not in value else {}
    made = parse({**model, **value}, endpoint, forward_parameters=_FORWARD)
    return made if not is_form else _as_form(made)


def _as_form(made: ImageRequest) -> ImageRequest:
    return ImageRequest(**{**{name: getattr(made, name) for name in _FIELDS}, "is_form": True})


_FIELDS = ImageRequest.__dataclass_fields__.keys()


# -- the table -------------------------------------------------------------------------------

_MATRIX: list[tuple[dict[str, Any], str | None, set[UpstreamRoute]]] = [
    # what is asked, the parameter that asks for something, who can
    ({}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"size": "1024x1024", "quality": "high"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG]}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG] * 5}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG] * 6}, "images", {RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG] * 16}, "images", {RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG], "mask": PNG}, "mask", {RESPONSES, AZURE, OPENAI}),
    ({"images": [PNG], "markup": PNG}, "markup", {AZURE, OPENAI}),
    ({"images": [_ADDRESS]}, "images", {OPENAI}),
    ({"images": [PNG, PNG, _ADDRESS]}, "images", {OPENAI}),
    ({"images": [PNG], "mask": _ADDRESS}, "mask", {OPENAI}),
    ({"images": [PNG], "markup": _ADDRESS}, "markup", {OPENAI}),
    ({"n": 1}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"n": 10}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"background": "transparent"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"output_format": "webp"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"output_format": "gif"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    (
        {"output_format": "gif", "frame_count": 3, "frame_duration_ms": 40},
        None,
        {DIRECT, RESPONSES, AZURE, OPENAI},
    ),
    ({"output_format": "svg"}, "output_format", {AZURE, OPENAI}),
    ({"complexity": "high"}, "complexity", {AZURE, OPENAI}),
    ({"user": "u"}, "user", {DIRECT, AZURE, OPENAI}),
    ({"safety_identifier": "s"}, "safety_identifier", {DIRECT, AZURE, OPENAI}),
    ({"seed": 7}, "seed", {DIRECT, AZURE, OPENAI}),
    ({"moderation": "low"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"stream": True}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"stream": True, "partial_images": 0}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    ({"stream": True, "partial_images": 3}, "partial_images", {RESPONSES, AZURE, OPENAI}),
    ({"response_format": "url"}, None, {DIRECT, RESPONSES, AZURE, OPENAI}),
    (
        {"output_format": "jpeg", "output_compression": 50},
        None,
        {DIRECT, RESPONSES, AZURE, OPENAI},
    ),
    (
        {"images": [PNG], "input_fidelity": "high", "model": "gpt-image-1.5"},
        None,
        {DIRECT, RESPONSES, AZURE, OPENAI},
    ),
]


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(("value", "param", "able"), _MATRIX)
def test_a_route_can_do_what_the_table_says_and_names_what_it_cannot(
    value: dict[str, Any], param: str | None, able: set[UpstreamRoute], route: UpstreamRoute
) -> None:
    for is_form in (False, True):
        found = gap(_request(value, is_form=is_form), route)
        shown = "image" if is_form and param == "images" else param
        assert (None if found is None else found.param) == (None if route in able else shown)
        assert found is None or found.advice.endswith(".")


_WISHES = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 10),
        "background": st.sampled_from(["auto", "transparent"]),
        "output_format": st.sampled_from(["png", "webp", "gif", "svg"]),
        "complexity": st.just("high"),
        "frame_count": st.integers(2, 16),
        "frame_duration_ms": st.integers(20, 60),
        "svg": st.just({"model": "m"}),
        "user": st.just("u"),
        "seed": st.just(7),
        "stream": st.booleans(),
        "partial_images": st.integers(0, 3),
        "images": st.lists(st.sampled_from([PNG, PNG, PNG, _ADDRESS]), min_size=1, max_size=7),
        "mask": st.sampled_from([PNG, _ADDRESS]),
        "markup": st.just(PNG),
        "output_compression": st.integers(0, 100),
        "moderation": st.just("low"),
    },
)


def _wish(value: dict[str, Any]) -> ImageRequest | None:
    """A request without what the others of its parameters do not allow; seldom None, where the
    wish is against the API's own rules still.
    """
    picture = value.get("output_format")
    allowed = {
        "mask": "images" in value and picture != "gif",
        "markup": "images" in value,
        "output_compression": picture == "webp",
        "frame_count": picture == "gif",
        "frame_duration_ms": picture == "gif",
        "svg": picture == "svg",
        "stream": picture not in {"gif", "svg"},
        "background": picture in {None, "png", "webp"},
        "partial_images": value.get("stream") and picture not in {"gif", "svg"},
    }
    try:
        return _request({name: each for name, each in value.items() if allowed.get(name, True)})
    except Refusal:
        return None


_REQUESTS = _WISHES.map(_wish).filter(lambda made: made is not None)


@given(_REQUESTS, st.sampled_from(ROUTES))
def test_there_is_a_gap_exactly_where_a_need_is_not_met(
    request: ImageRequest, route: UpstreamRoute
) -> None:
    unmet = [need for need in NEEDS if need.asked(request) and need.ability in route.lacks]
    found = gap(request, route)
    if not unmet:
        assert found is None
    else:
        assert found == Gap(str(unmet[0].asked(request)), unmet[0].advice)


@given(_REQUESTS)
def test_what_a_need_names_was_really_asked_for(request: ImageRequest) -> None:
    pictures = {
        "images": bool(request.images),
        "mask": request.mask is not None,
        "markup": request.markup is not None,
        "stream": request.stream,
    }
    for need in NEEDS:
        param = need.asked(request)
        assert param is None or pictures.get(param, param in request.parameters)


@given(_REQUESTS)
def test_openai_s_own_form_can_do_everything(request: ImageRequest) -> None:
    assert gap(request, OPENAI) is None


_ASKING: dict[str, dict[str, Any]] = {
    "an edit": {"images": [PNG]},
    "more than 5 pictures in an edit": {"images": [PNG] * 6},
    "a picture above 15 MB": {"images": [PNG]},
    "`mask`": {"images": [PNG], "mask": PNG},
    "`markup`": {"images": [PNG], "markup": PNG},
    "a picture by its https address": {"images": [_ADDRESS]},
    "`n` above 1": {"n": 2},
    "`background: transparent`": {"background": "transparent"},
    "`output_format: gif`, with `frame_count` and `frame_duration_ms`": {"output_format": "gif"},
    "`output_format: svg`, with `svg`": {"output_format": "svg"},
    "`complexity`": {"complexity": "high"},
    "`user`, `safety_identifier`, `FORWARD_PARAMETERS`": {"user": "u"},
    "`stream`": {"stream": True},
    "`partial_images` above 0": {"stream": True, "partial_images": 1},
}


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.title)
def test_every_need_is_asked_for_by_a_name_that_exists(need: Need[ImageRequest]) -> None:
    asking = _request(_ASKING[need.title])
    if need.title == "a picture above 15 MB":
        large = replace(asking.images[0], size=capability.LARGEST_CODEX_IMAGE + 1)
        asking = replace(asking, images=(large,))
    param = need.asked(asking)
    assert param in {*CATALOGUE.parameters, "images", "mask", "markup"}
    plain = _request({"images": [PNG]} if need.title != "an edit" else {})
    assert need.asked(plain) is None
    assert need.advice


@pytest.mark.parametrize("name", ["images", "mask", "markup"])
def test_a_picture_that_is_too_large_is_named(name: str) -> None:
    asking = _request({"images": [PNG], **({} if name == "images" else {name: PNG})})
    small = asking.images[0] if name == "images" else getattr(asking, name)
    large = replace(small, size=capability.LARGEST_CODEX_IMAGE + 1)
    changes: dict[str, Any] = {name: (large,) if name == "images" else large}
    asking = replace(asking, **changes)
    [need] = [need for need in NEEDS if "15 MB" in need.title]
    assert need.asked(asking) == name


def test_every_ability_is_a_line_of_the_table() -> None:
    abilities = [need.ability for need in NEEDS] + [need.ability for need in INTENT_NEEDS]
    assert set(abilities) == set(Ability)


def test_the_table_has_these_lines_and_no_line_twice() -> None:
    assert [need.title for need in NEEDS] == list(_ASKING)


# -- nothing is dropped ----------------------------------------------------------------------

_OURS = {"stream", "response_format", "model", "prompt"}


def _one(route: UpstreamRoute) -> Account:
    return account_with(route, base_url="https://up.example", responses_model="gpt-5.5")


@given(_REQUESTS, st.sampled_from(ROUTES))
def test_what_a_route_can_do_it_says_all_of(request: ImageRequest, route: UpstreamRoute) -> None:
    """Every parameter that the client sent stands in the call, under its own name."""
    if gap(request, route) is not None:
        return
    call = route.encode(request, _one(route), Headers([]), _CONTEXT)
    said = _said(call, route)
    for name, value in request.parameters.items():
        if route is RESPONSES and name == "n":
            continue  # as many calls
        if route is DIRECT and name == "partial_images":
            assert value == 0
            continue
        assert said[name] == (value if said["json"] else _text(value)), name
    assert said["pictures"] == len(request.input_images)


def _text(value: object) -> object:
    if isinstance(value, dict):
        return {name: _text(each) for name, each in value.items()}
    return str(value).lower() if isinstance(value, bool) else str(value)


def _said(call: UpstreamRequest, route: UpstreamRoute) -> dict[str, Any]:
    text = play(call.body, b"")
    if text.startswith(b"--"):
        found: dict[str, Any] = {"json": False, "pictures": text.count(b'; filename="')}
        for part in text.split(b"--b0undary")[1:-1]:
            head, _, value = part.partition(b"\r\n\r\n")
            name = head.partition(b'name="')[2].partition(b'"')[0].decode()
            if b"filename=" not in head:
                found[name] = value.removesuffix(b"\r\n").decode()
        if "svg[model]" in found:
            found["svg"] = {"model": found.pop("svg[model]")}
        return found
    value = json.loads(text)
    if route is RESPONSES:
        [tool] = value["tools"]
        content = value["input"][0]["content"]
        pictures = sum(item["type"] == "input_image" for item in content)
        return {**tool, "json": True, "pictures": pictures + ("input_image_mask" in tool)}
    pictures = len(value.get("images", [])) + sum(name in value for name in ("mask", "markup"))
    return {**value, "json": True, "pictures": pictures}


# -- an account's routes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "stream", "expected"),
    [
        ({}, False, [DIRECT]),
        ({}, True, [DIRECT]),
        ({"codex_route": "responses"}, False, [DIRECT]),
        ({"responses_model": "m"}, False, [DIRECT, RESPONSES]),
        ({"responses_model": "m"}, True, [RESPONSES, DIRECT]),
        ({"responses_model": "m", "codex_route": "responses"}, False, [RESPONSES, DIRECT]),
        ({"responses_model": "m", "codex_route": "responses"}, True, [RESPONSES, DIRECT]),
        ({"dialect": "azure", "responses_model": "m"}, True, [AZURE]),
        ({"dialect": "azure", "codex_route": "responses"}, False, [AZURE]),
        ({"dialect": "openai", "responses_model": "m"}, True, [OPENAI]),
        ({"dialect": "openai"}, False, [OPENAI]),
    ],
)
def test_an_account_has_its_own_ways_the_preferred_one_first(
    changes: dict[str, Any], stream: object, expected: list[UpstreamRoute]
) -> None:
    one = account(**changes)
    found = DIALECTS[one.dialect].routes_of(one, _request({"stream": stream}))
    assert list(found) == expected


@pytest.mark.parametrize(
    ("changes", "value", "expected"),
    [
        ({}, {}, DIRECT),
        ({}, {"stream": True}, DIRECT),
        ({}, {"images": [PNG], "mask": PNG}, "mask"),
        ({"responses_model": "m"}, {}, DIRECT),
        ({"responses_model": "m"}, {"images": [PNG], "mask": PNG}, RESPONSES),
        ({"responses_model": "m"}, {"images": [PNG] * 6}, RESPONSES),
        ({"responses_model": "m"}, {"stream": True, "partial_images": 2}, RESPONSES),
        ({"responses_model": "m"}, {"stream": True, "user": "u"}, DIRECT),
        ({"responses_model": "m"}, {"stream": True, "user": "u", "partial_images": 2}, "user"),
        ({"responses_model": "m"}, {"images": [PNG], "mask": PNG, "user": "u"}, "mask"),
        ({"responses_model": "m"}, {"images": [PNG], "markup": PNG}, "markup"),
        ({"responses_model": "m", "codex_route": "responses"}, {"user": "u"}, DIRECT),
        ({"responses_model": "m", "codex_route": "responses"}, {"n": 4}, RESPONSES),
        ({"dialect": "azure"}, {"images": [_ADDRESS]}, "images"),
        ({"dialect": "azure"}, {"images": [PNG], "markup": PNG, "n": 3}, AZURE),
        ({"dialect": "openai"}, {"images": [_ADDRESS], "mask": PNG}, OPENAI),
    ],
)
def test_the_first_route_that_can_do_all_of_it_is_taken_else_the_preferred_one_s_gap_told(
    changes: dict[str, Any], value: dict[str, Any], expected: UpstreamRoute | str
) -> None:
    found = choose(account(**changes), _request(value))
    assert (found.param if isinstance(found, Gap) else found) == expected


_ACCOUNTS = st.builds(
    account,
    dialect=st.sampled_from(["codex", "azure", "openai"]),
    responses_model=st.sampled_from([None, "m"]),
    codex_route=st.sampled_from(["direct", "responses"]),
)


@given(_ACCOUNTS, _REQUESTS)
def test_what_is_chosen_can_do_all_of_it_and_is_none_only_where_no_way_can(
    one: Account, request: ImageRequest
) -> None:
    dialect = DIALECTS[one.dialect]
    ways = dialect.routes_of(one, request)
    found = choose(one, request)
    if isinstance(found, Gap):
        assert all(gap(request, way) is not None for way in ways)
        assert found == gap(request, ways[0])
    else:
        assert found in ways
        assert gap(request, found) is None
        assert all(gap(request, way) is not None for way in ways[: ways.index(found)])
    assert set(ways) <= set(dialect.routes)


def test_the_most_pictures_of_the_direct_route_are_5() -> None:
    assert capability.MOST_CODEX_IMAGES == 5
