"""Counts in buckets: exact where values are small, within the promised error above."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.records.histogram import Bucket, Histogram

_VALUES = st.lists(st.integers(0, 200) | st.integers(0, 2**40), min_size=1, max_size=200)
_BITS = st.integers(1, 10)


def filled(values: list[int], bits: int) -> Histogram:
    histogram = Histogram(bits)
    for value in values:
        histogram.add(value)
    return histogram


@given(_VALUES, _BITS)
def test_a_percentile_s_bucket_holds_the_value_of_the_sorted_list(
    values: list[int], bits: int
) -> None:
    percents = (1, 50, 90, 99, 100)
    ordered = sorted(values)
    found = filled(values, bits).percentiles(percents)
    for percent, bucket in zip(percents, found, strict=True):
        exact = ordered[-(-percent * len(ordered) // 100) - 1]
        assert bucket is not None
        assert bucket.start <= exact <= bucket.last
        assert bucket.start <= bucket.middle <= bucket.last
        assert bucket.width == 1 or bucket.width <= exact / 2 ** (bits - 1)


@given(_VALUES, _VALUES, _BITS)
def test_merging_is_counting_all_of_them(one: list[int], other: list[int], bits: int) -> None:
    merged = filled(one, bits)
    merged.merge(filled(other, bits))
    whole = filled(one + other, bits)
    assert merged.total == whole.total == len(one) + len(other)
    assert merged.percentiles((10, 50, 99)) == whole.percentiles((10, 50, 99))
    assert repr(merged) == repr(whole)


def test_no_value_has_no_percentile() -> None:
    assert Histogram(5).percentiles((50, 99)) == [None, None]


@pytest.mark.parametrize(("bits", "most"), [(5, 288), (7, 1000)])
def test_the_buckets_up_to_25_minutes_are_few(bits: int, most: int) -> None:
    assert len(filled([*range(0, 1_500_001, 7), *range(2000)], bits)) <= most


def test_small_values_have_a_bucket_each() -> None:
    assert filled([31, 31, 31], 5).percentiles((50,)) == [Bucket(31, 1)]
    assert filled([32, 33], 5).percentiles((50, 100)) == [Bucket(32, 2), Bucket(32, 2)]
