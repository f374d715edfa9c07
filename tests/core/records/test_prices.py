"""Money: exact sums over what an answer reports, and no guess where it does not say."""

import json
import tomllib
from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records import prices, usage
from image_gateway.core.records.prices import Bill, Price, PriceError, Prices
from tests.core.builders import PRICES
from tests.parts.pages import DIALECT_FACTS
from tests.parts.upstream import images

LISTED = Price(
    text_in=Decimal(5),
    cached_text_in=Decimal("1.25"),
    image_in=Decimal(8),
    cached_image_in=Decimal(2),
    image_out=Decimal(30),
)


def cost(
    used: dict[str, Any], price: Price = LISTED, *, only_text_in: bool = False
) -> float | None:
    """The cost of one picture, its usage read as it comes from an upstream."""
    bill = Bill(1, usage.read(used), "a-model", only_text_in)
    return Prices({"a-model": price}).cost_usd(bill)


def kinds(text: int | None = None, image: int | None = None) -> dict[str, int]:
    counts = {"text_tokens": text, "image_tokens": image}
    return {name: count for name, count in counts.items() if count is not None}


# -- the shipped prices --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        *("gpt-image-2", "gpt-image-2-2026-04-21", "openai/gpt-image-2", " GPT-Image-2 "),
        *("gpt-image-2.5-sunburst", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst-2026-09-08"),
        *("gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "gpt-image-2.6-comet"),
    ],
)
def test_the_current_families_have_the_documented_prices(model: str) -> None:
    assert PRICES.of(model) == LISTED
    for number in ("5.00", "1.25", "8.00", "2.00", "30.00"):
        assert number in DIALECT_FACTS.section("Models and prices")


@pytest.mark.parametrize(
    "model",
    [
        *(None, "", "-", "gpt-image", "gpt-image-1", "gpt-image-1.5", "gpt-image-1-mini"),
        *("gpt-image-3", "gpt-image-20", "gpt-image-2.50", "gpt-image-2x", "gpt-5.5"),
        *("chatgpt-image-latest", "my-gpt-image-2", "gpt-image-2" + "-x" * 200),
    ],
)
def test_no_price_is_known_of_any_other_model(model: str | None) -> None:
    assert PRICES.of(model) == Price()
    assert PRICES.cost_usd(Bill(1, usage.read(images()["usage"]), model)) is None


def test_the_longest_listed_beginning_counts_and_a_name_as_it_is_before_all() -> None:
    one, two, three = Price(Decimal(1)), Price(Decimal(2)), Price(Decimal(3))
    made = Prices({"a": one, "a-b": two, "x/A-b": three})
    assert (made.of("a-c"), made.of("a-b"), made.of("a-b-c")) == (one, two, two)
    assert (made.of("x/A-b"), made.of("x/a-b"), made.of("ab")) == (three, two, Price())


# -- the arithmetic ------------------------------------------------------------------------------

SMALL = st.integers(0, 2_000_000)
AMOUNTS = st.decimals(0, 1000, places=4)


@given(SMALL, SMALL, st.data(), SMALL, st.tuples(*[AMOUNTS] * 5))
def test_a_cost_is_the_exact_sum_to_the_micro_dollar(
    text: int, image: int, data: st.DataObject, went: int, amounts: tuple[Decimal, ...]
) -> None:
    cached_text = data.draw(st.integers(0, text))
    cached_image = data.draw(st.integers(0, image))
    used = {
        "input_tokens": text + image,
        "input_tokens_details": kinds(text, image),
        "cached_tokens": cached_text + cached_image,
        "cached_tokens_details": kinds(cached_text, cached_image),
        "output_tokens": went,
    }
    counts = (text - cached_text, cached_text, image - cached_image, cached_image, went)
    names = ("text_in", "cached_text_in", "image_in", "cached_image_in", "image_out")
    found = cost(used, Price(**dict(zip(names, amounts, strict=True))))
    exact = sum(
        (count * Fraction(amount) for count, amount in zip(counts, amounts, strict=True)),
        Fraction(0),
    )
    assert found is not None
    assert found == round(exact) / 1_000_000
    assert Decimal(repr(found)) * 10**6 % 1 == 0, "six decimals at most"
    assert abs(Fraction(repr(found)) - exact / 1_000_000) <= Fraction(1, 2_000_000)
    assert orjson.loads(orjson.dumps(found)) == json.loads(json.dumps(found)) == found


def test_a_usage_as_it_comes_is_priced() -> None:
    assert cost(images()["usage"]) == 0.000235
    assert cost({**images()["usage"], "output_tokens": 4160}) == 0.124825


def test_what_costs_nothing_costs_zero_and_is_known() -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0}
    assert cost(nothing) == 0
    assert cost(nothing, Price()) == 0


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({"input_tokens_details": kinds(text=100)}, 0.0005),
        ({"input_tokens_details": kinds(text=60)}, 0.00062),
        ({"input_tokens_details": kinds(image=100)}, 0.0008),
        ({"input_tokens_details": kinds(60, 40), "cached_tokens": 100}, 0.000155),
        ({"input_tokens_details": kinds(60, 40), "cached_tokens": 0}, 0.00062),
        ({"input_tokens_details": {**kinds(100, 0), "cached_tokens": 40}}, 0.00035),
        ({"input_tokens_details": {**kinds(0, 100), "cached_tokens": 40}}, 0.00056),
        ({"input_tokens_details": kinds(100), "output_tokens_details": kinds(0, 0)}, 0.0005),
    ],
)
def test_a_kind_that_is_not_named_is_known_where_no_other_is_possible(
    used: dict[str, Any], expected: float
) -> None:
    assert cost({"input_tokens": 100, "output_tokens": 0, **used}) == expected


@pytest.mark.parametrize(
    "used",
    [
        {},
        {"input_tokens": None},
        {"output_tokens": None},
        {"input_tokens_details": {}},
        {"input_tokens_details": kinds(60, 41)},
        {"input_tokens_details": kinds(text=101)},
        {"input_tokens_details": kinds(60, 40), "cached_tokens": 50},
        {"input_tokens_details": kinds(60, 40), "cached_tokens": 101},
        {"input_tokens_details": kinds(100, 0), "cached_tokens": 101},
        {
            "input_tokens_details": kinds(60, 40),
            "cached_tokens": 50,
            "cached_tokens_details": kinds(10, 30),
        },
        {
            "input_tokens_details": kinds(60, 40),
            "cached_tokens": 45,
            "cached_tokens_details": kinds(4, 41),
        },
        {"input_tokens_details": kinds(100), "output_tokens_details": kinds(text=1)},
        {"input_tokens_details": kinds(100), "output_tokens_details": kinds(image=7)},
    ],
)
def test_what_is_not_said_or_contradicts_itself_is_not_guessed(used: dict[str, Any]) -> None:
    assert cost({"input_tokens": 100, "output_tokens": 10, **used}) is None


def test_all_tokens_in_are_text_where_no_picture_went_in() -> None:
    used = {"input_tokens": 100, "output_tokens": 10}
    assert cost(used, only_text_in=True) == 0.0008
    assert cost({**used, "input_tokens_details": kinds(40, 60)}, only_text_in=True) == 0.00098
    assert cost({**used, "input_tokens": None}, only_text_in=True) is None


def test_a_model_that_writes_too_needs_to_say_what_it_wrote() -> None:
    both = Price(text_in=Decimal(5), text_out=Decimal(10), image_out=Decimal(30))
    used = {"input_tokens": 0, "output_tokens": 10}
    assert cost(used, both) is None
    assert cost({**used, "output_tokens_details": kinds(image=7)}, both) == 0.00024


@pytest.mark.parametrize("kind", ["text_in", "cached_text_in", "image_in", "image_out"])
def test_tokens_without_a_price_leave_the_cost_unknown(kind: str) -> None:
    used = {
        "input_tokens": 100,
        "input_tokens_details": kinds(60, 40),
        "cached_tokens": 10,
        "cached_tokens_details": kinds(10, 0),
        "output_tokens": 10,
    }
    amounts = {name: getattr(LISTED, name) for name in Price.__slots__}
    assert cost(used, Price(**amounts)) is not None
    assert cost(used, Price(**{**amounts, kind: None})) is None


_COUNT = st.none() | st.integers(0, 3)
_KINDS = st.builds(kinds, _COUNT, _COUNT)
_USED = st.fixed_dictionaries(
    {},
    optional={
        "input_tokens": st.integers(0, 6),
        "input_tokens_details": _KINDS,
        "cached_tokens": st.integers(0, 6),
        "cached_tokens_details": _KINDS,
        "output_tokens": st.integers(0, 6),
        "output_tokens_details": _KINDS,
    },
)


@given(_USED)
def test_a_known_cost_is_the_only_one_that_fits_what_was_said(used: dict[str, Any]) -> None:
    """Against every way to fill in what the answer leaves open."""
    found = cost(used)
    if found is None:
        return
    possible = set()
    for text, image, cached_text, cached_image, went in product(range(7), repeat=5):
        if (
            cached_text <= text
            and cached_image <= image
            and fits(used, "input_tokens", text, image)
            and fits(used, "cached_tokens", cached_text, cached_image)
            and fits(used, "output_tokens", 0, went)
        ):
            paid = 5 * (text - cached_text) + 8 * (image - cached_image)
            possible.add(paid * 4 + 5 * cached_text + 8 * cached_image + 120 * went)
    assert {round(each / 4) for each in possible} == {round(found * 1_000_000)}


def fits(used: dict[str, Any], name: str, text: int, image: int) -> bool:
    """Whether a split agrees with a usage; an answer that names no cached tokens has none."""
    details = used.get(f"{name}_details", {})
    if name == "cached_tokens" and name not in used and not details:
        return text == image == 0
    wanted = {"text_tokens": text, "image_tokens": image}
    agrees = all(wanted[kind] == count for kind, count in details.items())
    return agrees and used.get(name, text + image) == text + image


# -- three usages --------------------------------------------------------------------------------

TEXT = {"input_tokens": 900, "input_tokens_details": {"cached_tokens": 100}, "output_tokens": 90}
MAIN = Price(text_in=Decimal(2), cached_text_in=Decimal("0.5"), text_out=Decimal(16))


def test_all_that_was_used_is_in_the_cost() -> None:
    made = Prices({"image": LISTED, "main": MAIN, "svg": Price(Decimal(1), text_out=Decimal(4))})
    pictures = usage.read(images()["usage"])
    svg = {"model": "svg-2026", "input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 3}
    assert made.cost_usd(Bill(1, pictures, "image")) == 0.000235
    whole = Bill(1, pictures, "image", False, TEXT, "main", usage.read_svg(svg))
    assert made.cost_usd(whole) == 0.000235 + 0.00309 + 0.00003
    assert made.cost_usd(Bill(0, None, "image", False, TEXT, "main")) == 0.00309


@pytest.mark.parametrize(
    "bill",
    [
        Bill(0),
        Bill(1, None, "image"),
        Bill(1, None, "image", False, TEXT, "main"),
        Bill(1, images()["usage"], "image", False, TEXT, "other"),
        Bill(1, images()["usage"], "image", svg_usage={"input_tokens": 1, "output_tokens": 1}),
        Bill(0, None, None, False, {"output_tokens": 5}, "main"),
        Bill(0, None, None, False, {**TEXT, "input_tokens": 99}, "main"),
    ],
)
def test_a_part_that_is_not_known_leaves_the_whole_unknown(bill: Bill) -> None:
    assert Prices({"image": LISTED, "main": MAIN}).cost_usd(bill) is None


# -- the tables ----------------------------------------------------------------------------------


def test_prices_are_read_as_they_are_written() -> None:
    text = '["gpt-5.5"]\ntext_in = 0.1\ntext_out = 10\n[b]\nimage_out = 0'
    assert prices.parse(tomllib.loads(text)) == {
        "gpt-5.5": Price(text_in=Decimal("0.1"), text_out=Decimal(10)),
        "b": Price(image_out=Decimal(0)),
    }


@pytest.mark.parametrize(
    ("tables", "where"),
    [
        ({"a": 5}, "a must be a table"),
        ({"a": {}}, "a is empty"),
        ({"a": {"image": 5}}, r"a\.image is unknown.*text_in, cached_text_in, image_in"),
        *(
            ({"a": {"image_in": value}}, r"a\.image_in must be USD for a million tokens")
            for value in ("5", True, None, -1, -0.01, float("nan"), float("inf"), 10**10, 10**400)
        ),
    ],
)
def test_a_table_that_is_no_price_is_refused_with_its_place(
    tables: dict[str, Any], where: str
) -> None:
    with pytest.raises(PriceError, match=where):
        prices.parse(tables)


def test_the_shipped_file_says_when_it_was_true() -> None:
    text = Path(prices.__file__).with_name("prices.toml").read_text("utf-8")
    assert "State of 20" in text.splitlines()[0]
