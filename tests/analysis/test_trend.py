"""Whether a series rises or falls, and how sure that is."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.analysis.trend import Trend, trend

series = st.lists(st.integers(1, 10**9), min_size=2, max_size=30)


def score(values: tuple[int, ...]) -> int:
    return sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))


def found(values: list[int]) -> Trend:
    made = trend(values)
    assert made is not None
    return made


def test_a_straight_line_changes_by_its_whole_height() -> None:
    assert found([100, 110, 120, 130, 140, 150]).change == pytest.approx(50 / 125)
    assert found([150, 140, 130, 120, 110, 100]).change == pytest.approx(-50 / 125)


def test_one_outlier_does_not_make_a_trend() -> None:
    made = found([100, 100, 100, 900, 100, 100, 100, 100])
    assert made.change == 0
    assert made.p > 0.5


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_probability_is_that_of_all_orders_counted_out(count: int) -> None:
    orders = list(permutations(range(1, count + 1)))
    for order in orders[:: max(1, len(orders) // 20)]:
        at_least = sum(abs(score(other)) >= abs(score(order)) for other in orders)
        assert found(list(order)).p == pytest.approx(min(1.0, at_least / len(orders)))


def test_five_in_order_are_not_yet_sure_and_six_are() -> None:
    assert found([1, 2, 3, 4, 5]).p > 0.01
    assert found([1, 2, 3, 4, 5, 6]).p < 0.01


@pytest.mark.parametrize("values", [[], [5], [0, 0, 0]])
def test_without_two_values_or_a_median_there_is_no_trend(values: list[int]) -> None:
    assert trend(values) is None


def test_a_long_series_is_judged_by_runs_of_neighbours() -> None:
    made = found([1_000_000 + at for at in range(10_000)])
    assert made.change == pytest.approx(0.01, rel=0.05)
    assert made.p < 1e-9


@given(series)
def test_turned_around_a_series_has_the_same_probability_and_the_opposite_change(values: list[int]) -> None:
    one, other = found(values), found(values[::-1])
    assert one.p == pytest.approx(other.p)
    assert one.change == pytest.approx(-other.change)


@given(series, st.integers(2, 1_000))
def test_a_trend_does_not_depend_on_the_unit(values: list[int], factor: int) -> None:
    one, other = found(values), found([value * factor for value in values])
    assert one.p == other.p
    assert one.change == pytest.approx(other.change)
    assert 0 <= one.p <= 1
