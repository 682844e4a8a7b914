"""Laying a drifting device clock on the host's: what is stored as bound must hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.timeline.alignment import MAX_DRIFT_PPB, Constraints, Rate, fit_offset, fit_rate
from vlmtrace.timeline.recording import Anchor

S = 1_000_000_000


def anchors_at(times: list[int], drift_ppb: int, offset: int, widths: list[int]) -> list[Anchor]:
    """Anchors at host times; the device reads ``host − offset``, stretched by its drift, anywhere in the width."""
    made = []
    for time, width in zip(times, widths, strict=True):
        device = (time - offset) + (time - times[0]) * drift_ppb // S
        made.append(Anchor(time - width // 3, device, time + width - width // 3))
    return made


def test_two_anchors_ten_seconds_apart_tell_twenty_parts_per_million() -> None:
    rate = fit_rate(anchors_at([S, 11 * S], 20_000, 5 * S, [9_000, 9_000]))
    assert abs(-rate.ppb - 20_000) <= rate.uncertainty_ppb <= 2_000


def test_anchors_too_close_to_tell_a_drift_are_believed_to_have_none() -> None:
    rate = fit_rate(anchors_at([S, S + 1_000_000], 20_000, 0, [9_000, 9_000]))
    assert rate == Rate(0, MAX_DRIFT_PPB, rate.residual_ns)


def test_one_anchor_tells_no_rate() -> None:
    assert fit_rate([Anchor(0, 0, 10)]).ppb == 0


def test_a_drift_that_no_hardware_has_is_not_believed() -> None:
    assert fit_rate(anchors_at([0, 100 * S], 5_000_000, 0, [9_000, 9_000])).ppb == 0


def test_an_anchor_that_was_interrupted_hardly_moves_the_rate() -> None:
    times = [S * i for i in range(1, 12)]
    clean = fit_rate(anchors_at(times, 20_000, 0, [9_000] * 11))
    late = anchors_at(times, 20_000, 0, [9_000] * 11)
    late[5] = Anchor(late[5].host_before, late[5].device, late[5].host_after + 400_000)
    assert abs(fit_rate(late).ppb - clean.ppb) < 50


def test_constraints_that_contradict_each_other_widen_the_interval_to_hold_them_all() -> None:
    fitted = fit_offset(Rate(0, 0, 0), 0, Constraints([(1_000, 0)], [(400, 0)], []))
    assert fitted.widened_ns == 600
    assert fitted.offset_ns == 700
    assert fitted.bound_ns == 300


def test_an_offset_without_a_bound_from_above_is_refused() -> None:
    with pytest.raises(ValueError, match="above"):
        fit_offset(Rate(0, 0, 0), 0, Constraints([(1_000, 0)], [], []))


def test_misfit_and_chaining_are_part_of_the_bound() -> None:
    plain = fit_offset(Rate(0, 0, 0), 0, Constraints([], [], [Anchor(0, 0, 100)]))
    worse = fit_offset(Rate(0, 0, 7), 0, Constraints([], [], [Anchor(0, 0, 100)], chain_ns=11))
    assert worse.bound_ns == plain.bound_ns + 18


@given(
    drift=st.integers(-60_000, 60_000),
    offset=st.integers(-(10**15), 10**15),
    lags=st.lists(st.integers(0, 50_000_000), min_size=1, max_size=30),
    widths=st.lists(st.integers(4_000, 60_000), min_size=2, max_size=2),
    seconds=st.integers(2, 600),
)
def test_every_position_is_within_its_bound_of_the_truth(
    drift: int, offset: int, lags: list[int], widths: list[int], seconds: int
) -> None:
    """Marks are reached after they were recorded; the map must place each within the bound that it states."""
    begin, end = 10 * S, (10 + seconds) * S
    both = anchors_at([begin, end], drift, offset, widths)

    def device(host: int) -> int:
        return (host - offset) + (host - begin) * drift // S

    step = (end - begin) // (len(lags) + 1)
    reached = [begin + step * (i + 1) for i in range(len(lags))]
    marks = [(at - lag, device(at)) for at, lag in zip(reached, lags, strict=True)]
    fitted = fit_offset(fit_rate(both), marks[0][1], Constraints(marks, [(end, device(end))], both))
    assert fitted.widened_ns == 0
    for at in reached:
        assert abs(fitted(device(at)) - at) <= fitted.bound_ns + 2
    assert all(fitted(d) >= host - 2 for host, d in marks), "a mark may not be reached before it was recorded"


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**12), st.integers(-MAX_DRIFT_PPB, MAX_DRIFT_PPB))
def test_the_map_never_turns_two_marks_around(pivot: int, apart: int, rate: int) -> None:
    fitted = fit_offset(Rate(rate, 0, 0), pivot, Constraints([], [], [Anchor(0, 0, 10)]))
    assert fitted(pivot + apart) >= fitted(pivot)
