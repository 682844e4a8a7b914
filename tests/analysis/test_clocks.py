"""How a device's clock was laid on the host's, as numbers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import with_generation
from tests.synthetic import MS, US, WARMED, Shape, recording
from vlmtrace.analysis.clocks import ClockFit, clock_fits
from vlmtrace.analysis.measured import measure
from vlmtrace.timeline.recording import Anchor, Clock, Recording


def fits(made: Recording) -> tuple[ClockFit, ...]:
    return clock_fits(made, measure(made))


def with_clocks(made: Recording, *changes: dict[str, object]) -> Recording:
    """``made`` with facts of its clocks replaced, the first clock's first."""
    changed = [replace(clock, **facts) for clock, facts in zip(made.clocks, changes, strict=True)]  # type: ignore[arg-type]
    return replace(made, clocks=tuple(changed))


def test_a_device_has_its_drift_bounds_residual_and_chaining_error() -> None:
    made = with_clocks(
        recording(Shape(role=WARMED), Shape(), Shape()),
        {"bound_ns": 3 * US, "rate_ppb": 20_100, "chain_ns": 70},
        {"bound_ns": 9 * US, "rate_ppb": 20_300, "residual_ns": 400},
        {"bound_ns": 4 * US, "rate_ppb": 20_200, "widened_ns": 55},
    )
    (fit,) = fits(made)
    assert (fit.device, fit.rate_ppb, fit.drift_known) == (0, (20_100, 20_300), True)
    assert (fit.bound_p50, fit.bound_max) == (4 * US, 9 * US)
    assert (fit.residual_max, fit.chain_max, fit.widened) == (400, 70, 1)
    assert [one.generation for one in fit.generations] == [0, 1, 2]
    assert fit.generations[0].role == WARMED


def test_an_anchor_that_generations_share_counts_once() -> None:
    shared, wide = Anchor(0, 5, 10), Anchor(100, 105, 130)
    made = with_clocks(recording(Shape(), Shape()), {"anchors": (shared,)}, {"anchors": (shared, wide)})
    (fit,) = fits(made)
    assert (fit.anchors, fit.width_p50, fit.width_max) == (2, 20, 30)


def test_without_anchors_no_width_is_told() -> None:
    (fit,) = fits(with_clocks(recording(), {"anchors": ()}))
    assert (fit.anchors, fit.width_p50, fit.width_max) == (0, None, None)


def test_a_rate_of_nothing_is_a_drift_that_nobody_could_tell() -> None:
    (fit,) = fits(with_clocks(recording(), {"rate_ppb": 0}))
    assert not fit.drift_known


def test_each_device_is_told_apart_in_order() -> None:
    made = with_clocks(recording(Shape(), Shape()), {"device": 1}, {"device": 0})
    assert [(fit.device, [one.generation for one in fit.generations]) for fit in fits(made)] == [(0, [1]), (1, [0])]


def test_the_wall_is_set_against_the_device_where_the_call_ended_as_it_should() -> None:
    made = with_generation(recording(Shape(late=2 * MS), Shape()), 1, error="boom")
    (fit,) = fits(made)
    assert [one.wall_minus_device for one in fit.generations] == [-2 * MS, None]


def test_the_hosts_clock_is_laid_on_nothing() -> None:
    assert fits(recording(device=None)) == ()


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=12))
def test_half_of_the_bounds_are_no_wider_than_their_median_and_none_than_their_most(bounds: list[int]) -> None:
    made = with_clocks(recording(*[Shape(steps=0)] * len(bounds)), *({"bound_ns": bound} for bound in bounds))
    (fit,) = fits(made)
    assert fit.bound_max == max(bounds)
    assert 2 * sum(bound <= fit.bound_p50 for bound in bounds) >= len(bounds)
    kept: list[Clock] = [one.clock for one in fit.generations]
    assert kept == list(made.clocks)
