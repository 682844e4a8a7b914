"""What tracing adds, from pairs of requests, and the detail that a limit leaves."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.overhead import RESOLUTION, CountedCost, added, detail_within, highest_cost
from vlmtrace.errors import EXIT_LIMIT, LimitExceededError
from vlmtrace.timeline.recording import Lowered, OverheadPair, Recording

lengths = st.integers(1, 10**12)
pairs = st.lists(st.builds(OverheadPair, lengths, lengths), min_size=1, max_size=12)


def shares(*percents: float, untraced: int = 10**9) -> list[OverheadPair]:
    return [OverheadPair(untraced, untraced + round(untraced * percent / 100)) for percent in percents]


def even(count: int, reach: float) -> list[OverheadPair]:
    """Pairs spread evenly from ``-reach`` to ``reach`` percent."""
    return shares(*(reach * (2 * i / (count - 1) - 1) for i in range(count)))


def normal(seed: int) -> list[OverheadPair]:
    """21 pairs drawn around half a percent."""
    draw = Random(seed)
    return shares(*(draw.gauss(0.5, 2.0) for _ in range(21)))


def costing(share: float, *more: float, detail: str = "module") -> Recording:
    """A recording whose generations spend these shares of their host wall in marks."""
    made = recording(*[Shape(lead=0) for _ in (share, *more)], detail=detail)
    walls = [made.generate_span(generation).host_duration for generation in made.generations]
    spent = tuple(round(wall * part) for wall, part in zip(walls, (share, *more), strict=True))
    return replace(made, cost=replace(made.cost, host_ns=spent))


def test_without_pairs_nothing_is_said() -> None:
    assert added([]) is None


def test_each_pair_is_compared_within_itself() -> None:
    """Requests of unequal length, each 2 % longer when traced: the lengths cancel, as they do not in two medians."""
    made = added([OverheadPair(length * MS, length * MS * 51 // 50) for length in (50, 5_000, 500, 50_000, 150)])
    assert made is not None
    assert (made.median, made.low, made.high) == (0.02, 0.02, 0.02)
    assert made.pairs == 5


@settings(max_examples=30, deadline=None)
@given(pairs)
def test_the_interval_holds_the_median_lies_within_what_was_measured_and_is_the_same_each_time(
    drawn: list[OverheadPair],
) -> None:
    made = added(drawn)
    assert made is not None
    measured = [(pair.traced_ns - pair.untraced_ns) / pair.untraced_ns for pair in drawn]
    assert min(measured) <= made.low <= made.median <= made.high <= max(measured)
    assert added(drawn) == made


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    intervals = [added(normal(seed)) for seed in range(60)]
    held = sum(one is not None and one.low <= 0.005 <= one.high for one in intervals)
    assert 0.88 * 60 <= held < 60


def test_an_interval_around_0_that_is_wide_is_unresolved_and_says_how_many_pairs_would_do() -> None:
    made = added(even(41, 8.0))
    assert made is not None
    assert made.low < 0 < made.high
    assert not made.resolved
    assert made.pairs_to_resolve > 2 * made.pairs
    enough = added(even(made.pairs_to_resolve, 8.0))
    assert enough is not None
    assert enough.half_width == pytest.approx(RESOLUTION, rel=0.2)


@pytest.mark.parametrize(
    ("percents", "resolved"),
    [((-0.5, 0.0, 0.5), True), ((5, 20, 90), True), ((-30, -20, -5), True), ((-30, 1, 30), False), ((0, 0, 9), False)],
)
def test_it_is_resolved_where_the_interval_is_narrow_or_leaves_out_0(
    percents: tuple[float, ...], *, resolved: bool
) -> None:
    made = added(shares(*percents))
    assert made is not None
    assert made.resolved is resolved


def test_a_narrow_interval_asks_for_no_more_pairs() -> None:
    made = added(shares(0.1, 0.2, 0.3, 0.4))
    assert made is not None
    assert made.pairs_to_resolve == made.pairs == 4


def test_the_generation_that_cost_most_is_the_one_that_tells() -> None:
    cold_first = costing(0.0001, 0.03, 0.02)
    cost = highest_cost(cold_first)
    assert cost is not None
    assert cost.counted_ns == cold_first.cost.host_ns[1]
    assert cost.generate_ns == cold_first.generate_span(cold_first.generations[1]).host_duration


def test_a_generation_that_broke_off_and_a_recording_that_counted_nothing_tell_no_cost() -> None:
    made = costing(0.5, 0.1)
    first, second = made.generations
    cost = highest_cost(replace(made, generations=(replace(first, error="boom"), second)))
    assert cost is not None
    assert cost.counted_ns == made.cost.host_ns[1]
    assert highest_cost(replace(made, cost=replace(made.cost, host_ns=()))) is None


@pytest.mark.parametrize(
    ("costs", "asked", "used", "tried"),
    [
        ({"layer": 0.009}, "layer", "layer", ["layer"]),
        ({"layer": 0.021, "module": 0.004}, "layer", "module", ["layer", "module"]),
        ({"layer": 0.021, "module": 0.011, "stage": 0.002}, "layer", "stage", ["layer", "module", "stage"]),
        ({"module": 0.011, "stage": 0.002}, "module", "stage", ["module", "stage"]),
        ({"stage": 0.002}, "stage", "stage", ["stage"]),
    ],
)
def test_the_finest_detail_that_keeps_the_limit_is_used(
    costs: dict[str, float], asked: str, used: str, tried: list[str]
) -> None:
    seen: list[str] = []

    def record(detail: str) -> Recording:
        seen.append(detail)
        return costing(costs[detail], detail=detail)

    detail, lowered = detail_within(10_000, asked, record)

    assert (detail, seen) == (used, tried)
    if used == asked:
        assert lowered is None
    else:
        told = highest_cost(costing(costs[asked]))
        assert told is not None
        assert lowered == Lowered(asked, told.counted_ns, told.generate_ns, 10_000)


def test_a_cost_equal_to_the_limit_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmtrace.analysis.overhead.highest_cost", lambda _: CountedCost(10, 1_000))
    assert detail_within(10_000, "layer", lambda _: recording()) == ("layer", None)
    with pytest.raises(LimitExceededError):
        detail_within(9_999, "layer", lambda _: recording())


def test_where_every_detail_is_above_the_limit_it_is_refused_with_both_figures() -> None:
    with pytest.raises(LimitExceededError) as raised:
        detail_within(10_000, "layer", lambda detail: costing(0.1 if detail == "layer" else 0.02))
    assert "tracing would cost 2 % of generate at the least detail (stage), above the limit of 1 %" in str(raised.value)
    assert raised.value.exit_code == EXIT_LIMIT
