"""What calls used adds up exactly, however it is split, and no call that was paid for is hidden."""

from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.records import charges, summary
from image_gateway.core.records.bounded import Name
from image_gateway.core.records.charges import Charge, Uncharged
from image_gateway.core.records.totals import DIMENSIONS, Dimension, Totals, TotalsTable
from tests.parts.charged import odd_records, record
from tests.parts.examples import scaled

TEXT = {"input_tokens": 900, "output_tokens": 90, "total_tokens": 990}
ONE = Totals(
    calls=1,
    requests_with_images=1,
    images=2,
    input_tokens=5,
    output_tokens=7,
    total_tokens=12,
    without_cost=1,
)
"""The totals of ``record()``."""

BY = st.lists(st.sampled_from(list(DIMENSIONS)), min_size=1, max_size=3, unique=True)


def table_of(
    records: list[dict[str, Any]], by: list[Dimension], most_rows: int = 1000
) -> TotalsTable:
    made = TotalsTable(by, most_rows)
    for each in records:
        time = summary.time_of(each)
        if time is not None:
            made.add(each, time)
    return made


def rows_of(records: list[dict[str, Any]], *by: Dimension) -> list[tuple[Name, int]]:
    """The names of the rows, with their calls."""
    return [(name, sums.calls) for name, sums in table_of(records, [*by]).rows()]


def summed(records: list[dict[str, Any]]) -> Totals:
    """The sum over the records, without a table."""
    sums = Totals()
    for each in records:
        if (found := Totals.of(each)) is not None:
            sums.merge(found)
    return sums


# -- one call --------------------------------------------------------------------------------------


def test_a_call_uses_what_its_record_tells() -> None:
    assert Totals.of(record()) == ONE


def test_the_cost_closes_the_gap() -> None:
    found = Totals.of(record(cost_usd=0.1))
    assert found == replace(ONE, cost_usd=Decimal("0.1"), without_cost=0)


@pytest.mark.parametrize(
    ("details", "text", "image"),
    [
        (None, None, None),
        ({}, None, None),
        ("odd", None, None),
        ({"text_tokens": 2, "image_tokens": 3}, 2, 3),
        ({"text_tokens": 2}, 2, 3),
        ({"image_tokens": 0}, 5, 0),
        ({"text_tokens": 2, "image_tokens": 2}, None, None),
        ({"text_tokens": 6}, None, None),
    ],
)
def test_tokens_in_are_told_by_kind_where_the_answer_does_so_soundly(
    details: Any, text: int | None, image: int | None
) -> None:
    usage = {"input_tokens": 5, "input_tokens_details": details, "total_tokens": 12}
    found = Totals.of(record(usage=usage))
    assert found is not None
    assert (found.input_tokens_text, found.input_tokens_image) == (text, image)
    assert (found.input_tokens, found.total_tokens) == (5, 12)


def test_kinds_of_tokens_that_are_not_told_themselves_are_left_out() -> None:
    """Else the kinds would be more than their whole."""
    details = {"text_tokens": 2, "image_tokens": 3}
    usage = {"input_tokens_details": details, "output_tokens": 7, "total_tokens": 12}
    assert Totals.of(record(usage=usage)) == replace(ONE, input_tokens=0)


def test_cached_tokens_stand_apart_for_pictures_and_for_the_main_model() -> None:
    usage = {"input_tokens": 5, "cached_tokens": 4, "output_tokens": 7}
    text = {**TEXT, "input_tokens_details": {"cached_tokens": 800}}
    found = Totals.of(record(usage=usage, usage_text=text))
    assert found is not None
    assert (found.input_tokens_cached, found.text_input_tokens_cached) == (4, 800)
    assert (found.text_input_tokens, found.text_output_tokens) == (900, 90)
    assert found.total_tokens == 5 + 7 + 990


def test_what_wrote_an_svg_stands_beside_the_tokens_that_are_charged() -> None:
    svg = {"model": "gpt-5.5", "input_tokens": 1, "output_tokens": 2, "total_tokens": 4}
    found = Totals.of(record(svg_usage=svg))
    assert found == replace(ONE, svg_input_tokens=1, svg_output_tokens=2, svg_total_tokens=4)
    alone = Totals.of(record(usage=None, response_image_count=None, svg_usage=svg))
    assert alone is not None
    assert (alone.calls, alone.svg_total_tokens, alone.total_tokens) == (1, 4, 0)


def test_a_record_of_the_first_version_leaves_unknown_what_it_lacks() -> None:
    """It has no details, no main model, no svg, no owner and no cost."""
    fields = ("time", "request_id", "key_id", "attempts", "usage", "response_image_count")
    first = {name: value for name, value in record().items() if name in fields}
    assert Totals.of(first) == ONE
    unknown = {name for name, value in asdict(ONE).items() if value is None}
    assert unknown == {
        *("input_tokens_text", "input_tokens_image", "input_tokens_cached"),
        *("text_input_tokens_cached", "svg_input_tokens", "svg_output_tokens"),
        *("svg_total_tokens", "cost_usd"),
    }
    assert rows_of([first], "owner", "group", "model") == [((None, None, None), 1)]


def test_a_figure_that_some_calls_tell_is_their_sum() -> None:
    told = {"input_tokens": 5, "input_tokens_details": {"text_tokens": 5}, "total_tokens": 12}
    sums = summed([record(), record(usage=told), record(usage=told, cost_usd=0.2)])
    assert (sums.input_tokens, sums.input_tokens_text, sums.input_tokens_image) == (15, 10, 0)
    assert (sums.cost_usd, sums.without_cost) == (Decimal("0.2"), 2)


# -- what was paid for -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, 0, True, -1, "1"])
@pytest.mark.parametrize("attempts", [[], None, [{"action": "return"}]])
def test_a_call_that_was_refused_or_failed_used_nothing(count: object, attempts: Any) -> None:
    assert Totals.of(record(response_image_count=count, usage=None, attempts=attempts)) is None


@pytest.mark.parametrize("source", ["joined", "taken-over", "replayed"])
def test_a_call_is_used_once_however_many_requests_get_its_answer(source: str) -> None:
    """Whatever else their records say."""
    again = record(call_source=source, call_request_id="req_0", attempts=[], may_be_billed=True)
    assert Totals.of(again) is None


def test_a_call_that_was_finished_without_its_client_is_used() -> None:
    left = record(status=None, error_code="client_left", client_left=True)
    assert Totals.of(left) == ONE


@pytest.mark.parametrize(
    ("fields", "gaps"),
    [
        ({}, (0, 1)),
        ({"cost_usd": 0.5}, (0, 0)),
        ({"cost_usd": 0}, (0, 0)),
        ({"usage": None}, (1, 1)),
        ({"usage": None, "cost_usd": 0.5}, (1, 0)),
        ({"response_image_count": None}, (0, 1)),
        ({"response_image_count": None, "usage": {"total_tokens": 0}}, (0, 0)),
        ({"response_image_count": None, "usage": None, "may_be_billed": True}, (1, 1)),
        ({"response_image_count": None, "usage": None, "attempts": [{"action": "end"}]}, (1, 1)),
    ],
)
def test_a_call_that_was_paid_for_shows_if_its_usage_or_its_cost_is_not_known(
    fields: dict[str, Any], gaps: tuple[int, int]
) -> None:
    found = Totals.of(record(**fields))
    assert found is not None
    assert (found.without_usage, found.without_cost) == gaps
    assert found.may_be_billed == ("may_be_billed" in fields)


def test_tokens_without_a_picture_are_used() -> None:
    found = Totals.of(record(response_image_count=0))
    assert found == replace(ONE, requests_with_images=0, images=0)


def test_the_main_model_s_tokens_alone_are_used() -> None:
    found = Totals.of(record(response_image_count=0, usage=None, usage_text=TEXT))
    assert found is not None
    assert (found.input_tokens, found.text_input_tokens, found.total_tokens) == (0, 900, 990)


# -- sums ------------------------------------------------------------------------------------------


@settings(max_examples=scaled(80))
@given(st.lists(odd_records(), max_size=12), BY, st.integers(1, 4), st.randoms())
def test_however_calls_are_grouped_and_ordered_they_add_up_to_the_same(
    records: list[dict[str, Any]], by: list[Dimension], most_rows: int, random: Random
) -> None:
    """Whatever the records hold, and where there are more rows than the table keeps."""
    records = [each for each in records if summary.time_of(each) is not None]
    made = table_of(records, by, most_rows)
    assert len(made.rows()) <= most_rows
    assert made.total() == summed(records)
    again = table_of(random.sample(records, len(records)), by, most_rows)
    assert (again.rows(), again.others) == (made.rows(), made.others)


@settings(max_examples=scaled(80))
@given(st.lists(odd_records(), max_size=12), st.integers(0, 12))
def test_the_sums_of_two_parts_are_the_sum_of_the_whole(
    records: list[dict[str, Any]], at: int
) -> None:
    sums = summed(records[:at])
    sums.merge(summed(records[at:]))
    assert sums == summed(records)


@settings(max_examples=scaled(100))
@given(st.lists(odd_records(), max_size=8))
def test_the_sums_are_those_of_the_charges(records: list[dict[str, Any]]) -> None:
    """Of the records that can be charged."""
    records = [each for each in records if charges.of(each) is not Uncharged.UNREADABLE]
    charged = [found for found in map(charges.of, records) if isinstance(found, Charge)]
    sums = summed([each for each in records if isinstance(charges.of(each), Charge)])
    assert sums.calls == len(charged)
    assert sums.total_tokens == sum(each.tokens or 0 for each in charged)
    assert sums.images == sum(each.images for each in charged)
    assert sums.input_tokens + sums.text_input_tokens == sum(each.input for each in charged)
    assert sums.output_tokens + sums.text_output_tokens == sum(each.output for each in charged)
    cached = (sums.input_tokens_cached or 0) + (sums.text_input_tokens_cached or 0)
    assert cached == sum(each.cached_input for each in charged)
    costs = [each.cost for each in charged if each.cost is not None]
    assert sums.cost_usd == (sum(costs, Decimal(0)) if costs else None)
    found = Counter(map(charges.of, records))
    untold = sum(each.tokens is None for each in charged)
    assert summed(records).without_usage == found[Uncharged.WITHOUT_USAGE] + untold
    assert summed(records).total_tokens == sums.total_tokens


@given(odd_records())
def test_a_part_is_never_more_than_its_whole(non_base64: dict[str, Any]) -> None:
    found = Totals.of(non_base64)
    if found is not None:
        kinds = (found.input_tokens_text, found.input_tokens_image)
        assert kinds == (None, None) or sum(each or 0 for each in kinds) == found.input_tokens
        assert (found.input_tokens_cached or 0) <= found.input_tokens
        assert (found.text_input_tokens_cached or 0) <= found.text_input_tokens
        counts = [value for value in asdict(found).values() if value is not None]
        assert all(value >= 0 for value in counts)


# -- rows ------------------------------------------------------------------------------------------


def test_each_combination_that_comes_has_a_row() -> None:
    records = [
        record(owner_id="o", time="2026-11-21T23:59:59.999Z"),
        record(owner_id="o", time="2026-11-22T00:59:59+01:00"),
        record(owner_id="o", time="2026-11-22T00:00:00Z"),
        record(owner_id=None),
        record(owner_id="n", attempts=[]),
    ]
    assert rows_of(records, "owner", "day") == [
        (("o", "2026-11-21"), 2),
        (("o", "2026-11-22"), 1),
        ((None, "2026-11-21"), 1),
    ]
    assert rows_of(records, "day", "owner") == [
        (("2026-11-21", "o"), 2),
        (("2026-11-21", None), 1),
        (("2026-11-22", "o"), 1),
    ]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("key", {"key_id": "a"}),
        ("owner", {"owner_id": "a"}),
        ("group", {"group_id": "a"}),
        ("account", {"account_name": "a"}),
        ("model", {"model": "a"}),
        ("model", {"model": "public", "upstream_model": "a"}),
        ("day", {"time": "0001-02-03T00:00:00Z"}),
    ],
)
def test_calls_are_summed_by_a_field_of_their_record(by: Dimension, names: dict[str, Any]) -> None:
    name = "0001-02-03" if by == "day" else "a"
    assert rows_of([record(**names)], by) == [((name,), 1)]


@pytest.mark.parametrize("name", [None, 5, "", "a\0b", "x" * (charges.LONGEST_TEXT + 1), ["a"]])
def test_a_name_that_is_none_stands_last_and_alone(name: Any) -> None:
    assert rows_of([record(key_id=name), record(key_id="k")], "key") == [(("k",), 1), ((None,), 1)]


def test_more_rows_than_are_kept_share_one() -> None:
    made = table_of([record(key_id=name) for name in "dacb"], ["key"], 2)
    assert [name for name, _ in made.rows()] == [("c",), ("d",)]
    assert made.others == summed([record(), record()])
    assert repr(made) == "<TotalsTable by key: <Bounded 2 of 2 rows>>"


def test_a_day_is_that_of_the_arrival() -> None:
    made = TotalsTable(["day"], 1)
    made.add(record(time=None), datetime(2026, 11, 22, tzinfo=UTC))
    assert [name for name, _ in made.rows()] == [("2026-11-22",)]
