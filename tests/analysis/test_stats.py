"""Percentiles, medians and ratios."""

from __future__ import annotations

import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.analysis.stats import median, percentile, ratio

samples = st.lists(st.integers(0, 10**15), min_size=1, max_size=30)


def test_a_percentile_interpolates_linearly_between_closest_ranks() -> None:
    assert percentile([40, 10, 20, 30], 50) == 25
    assert percentile([0, 100], 95) == 95
    assert percentile([15, 20, 35, 40, 50], 40) == 29


def test_a_percentile_that_is_a_whole_number_stays_an_integer() -> None:
    assert isinstance(percentile([1, 3], 50), int)
    assert isinstance(percentile([1, 2], 50), float)


def test_a_percentile_of_equal_floats_is_that_float() -> None:
    assert percentile([-1 / 3, -1 / 3], 50) == -1 / 3


def test_no_samples_have_no_percentile() -> None:
    assert percentile([], 50) is None
    assert median([]) is None


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_percentile_outside_0_to_100_is_refused(percent: int) -> None:
    with pytest.raises(ValueError, match=f"percent is {percent}"):
        percentile([1], percent)


def test_a_ratio_to_nothing_is_absent() -> None:
    assert ratio(1, 0) is None
    assert ratio(1, 4) == 0.25


@given(samples, st.integers(0, 100))
def test_a_percentile_is_the_exact_rational_rounded_once(values: list[int], percent: int) -> None:
    ordered = sorted(values)
    position = Fraction((len(values) - 1) * percent, 100)
    low = int(position)
    exact = Fraction(ordered[low])
    if low + 1 < len(ordered):
        exact += (position - low) * (ordered[low + 1] - ordered[low])
    found = percentile(values, percent)
    assert found == float(exact)


@given(samples)
def test_percentiles_rise_from_the_least_to_the_largest_sample(values: list[int]) -> None:
    found = [percentile(values, percent) for percent in range(101)]
    assert all(value is not None for value in found)
    assert found == sorted(found)  # type: ignore[type-var]
    assert (found[0], found[100]) == (min(values), max(values))


@given(samples)
def test_the_median_is_the_statistics_modules(values: list[int]) -> None:
    assert median(values) == statistics.median(values)
