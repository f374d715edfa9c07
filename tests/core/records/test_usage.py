"""Usage: known counts and nothing else, whatever an upstream reports."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records import usage
from image_gateway.core.records.usage import MOST_TOKENS

PICTURES = {
    "input_tokens": 30,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 20},
    "cached_tokens": 5,
    "cached_tokens_details": {"text_tokens": 2, "image_tokens": 3},
    "output_tokens": 40,
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 40},
    "total_tokens": 70,
}
MAIN_MODEL = {
    "input_tokens": 900,
    "input_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 7},
    "output_tokens": 90,
    "output_tokens_details": {"reasoning_tokens": 50},
    "total_tokens": 990,
}
SVG = {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 3, "total_tokens": 4}


@pytest.mark.parametrize("value", [PICTURES, MAIN_MODEL, SVG])
def test_what_upstreams_document_is_kept_whole(value: dict[str, object]) -> None:
    assert usage.read(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"total_tokens": 0}, {"total_tokens": 0}),
        ({"input_tokens": 1, "output_tokens": "2", "total_tokens": 3.0}, {"input_tokens": 1}),
        ({"input_tokens": 1, "input_tokens_details": {"hush": 5}}, {"input_tokens": 1}),
        ({"input_tokens": 1, "input_tokens_details": 5}, {"input_tokens": 1}),
        ({"input_tokens": -1, "output_tokens": MOST_TOKENS}, {"output_tokens": MOST_TOKENS}),
        ({"input_tokens": MOST_TOKENS + 1}, None),
        ({"input_tokens": {"input_tokens": 1}}, None),
        ({"input_tokens": True}, None),
        ({"input_tokens": None}, None),
        ({"prompt": "hush"}, None),
        ({}, None),
        ([], None),
        ("hush", None),
        (None, None),
        (5, None),
    ],
)
def test_what_is_no_count_of_tokens_is_left_out(value: object, expected: object) -> None:
    assert usage.read(value) == expected


_NAMES = st.sampled_from(sorted({*PICTURES, *MAIN_MODEL, "text_tokens", "image_tokens", "hush"}))
_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("hush"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=6),
    max_leaves=20,
)


def depth(value: object) -> int:
    return 1 + max(map(depth, value.values()), default=0) if isinstance(value, dict) else 0


def leaves(value: dict[str, Any]) -> list[object]:
    return [
        leaf
        for inner in value.values()
        for leaf in (leaves(inner) if isinstance(inner, dict) else [inner])
    ]


@given(st.dictionaries(_NAMES, _ODD, max_size=8) | _ODD)
def test_a_usage_is_small_and_holds_only_numbers(value: object) -> None:
    found = usage.read(value)
    if found is not None:
        assert isinstance(found, dict)
        assert depth(found) <= 3
        assert all(type(count) is int and 0 <= count <= MOST_TOKENS for count in leaves(found))
        assert usage.read(found) == found
        assert "hush" not in repr(found)
    total = usage.total_of(value)
    assert total is None or 0 <= total <= 2 * MOST_TOKENS
    assert usage.cached_of(value) in {None, usage.cached_of(found)}


@pytest.mark.parametrize(
    ("value", "cached"),
    [
        (PICTURES, 5),
        (MAIN_MODEL, 800),
        (SVG, None),
        ({"input_tokens": 9, "cached_tokens": 0}, 0),
        ({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 9}}, 9),
        ({"input_tokens": 9, "cached_tokens_details": {"text_tokens": 2, "image_tokens": 3}}, 5),
        ({"input_tokens": 9, "cached_tokens_details": {"image_tokens": 3}}, 3),
        ({"input_tokens": 9, "cached_tokens": 10}, None),
        ({"cached_tokens": 5}, None),
        ({"input_tokens": 9, "cached_tokens_details": {}}, None),
        ({"input_tokens": 9, "cached_tokens": True}, None),
        ("hush", None),
    ],
)
def test_cached_tokens_are_a_part_of_those_that_came_wherever_they_are_told(
    value: object, cached: int | None
) -> None:
    assert usage.cached_of(value) == cached


@pytest.mark.parametrize("model", ["gpt-5.5", "gpt-5.5-2026-11-01", "openai/gpt-5.5"])
def test_the_usage_of_an_svg_names_its_model(model: str) -> None:
    assert usage.read_svg({"model": model, **SVG, "more": 5}) == {"model": model, **SVG}


@pytest.mark.parametrize("model", [None, 5, "", "a red cat", "x" * 65, "\x000", "sk-1\n"])
def test_what_does_not_look_like_a_model_is_left_out(model: object) -> None:
    assert usage.read_svg({"model": model, **SVG}) == SVG


def test_a_model_alone_is_no_usage() -> None:
    assert usage.read_svg({"model": "gpt-5.5"}) is None
    assert usage.read_svg("gpt-5.5") is None
