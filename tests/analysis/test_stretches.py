"""Where the device kept waiting for the host, as far as marks can tell."""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import with_args
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.analysis.launch import Verdict, verdict_of
from vlmtrace.analysis.measured import counted, measure
from vlmtrace.analysis.stretches import LONGEST, HostBound, Stretch, host_bound
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, SyncSite

AHEAD = 6 * MS
"""A lead that makes any part of a synthetic generation no longer host-bound."""


def found(made: Recording) -> HostBound:
    bound = host_bound(counted(measure(made)))
    assert bound is not None
    return bound


def with_leads(made: Recording, name: str, leads: dict[int, tuple[int, int]]) -> Recording:
    """``made`` with the leads at begin and end of the named spans, by their position among them, set to these."""
    host_begin, host_end = made.spans.host_begin[:], made.spans.host_end[:]
    for at, span in enumerate(made.spans.named(name)):
        if at in leads:
            begin, end = leads[at]
            host_begin[span.row], host_end[span.row] = span.begin - begin, span.end - end
    return replace(made, spans=replace(made.spans, host_begin=host_begin, host_end=host_end))


def places(bound: HostBound) -> list[tuple[tuple[str, ...], tuple[int, int] | None]]:
    return [(one.stages, one.steps) for one in sorted(bound.longest, key=lambda one: one.begin)]


def test_a_device_that_always_kept_up_gives_one_stretch_from_the_first_stage_to_the_last_step() -> None:
    made = recording(Shape(lead=0))
    bound = found(made)
    (one,) = bound.longest
    assert one == Stretch(
        generation=0,
        begin=next(made.spans.named(names.VISION)).begin,
        end=next(made.spans.named(names.DECODE)).end,
        offset=2 * MS,
        stages=(names.VISION, names.PREFILL, names.STEP),
        steps=(0, 3),
        share=94_500 / 96_800,
    )
    assert one.duration == (30_000 + 1_000 + 20_000 + 500 + 43_000) * US
    assert (bound.count, bound.total, bound.share) == (1, one.duration, one.share)


def test_a_step_that_was_queued_up_divides_the_stretch() -> None:
    made = with_leads(recording(Shape(lead=0, steps=5)), names.STEP, {2: (0, AHEAD)})
    assert places(found(made)) == [((names.VISION, names.PREFILL, names.STEP), (0, 1)), ((names.STEP,), (3, 4))]


def test_a_part_that_began_behind_the_host_is_in_no_stretch_though_it_ended_with_it() -> None:
    made = with_leads(recording(Shape(lead=0, steps=3)), names.STEP, {1: (AHEAD, 0)})
    assert places(found(made)) == [((names.VISION, names.PREFILL, names.STEP), (0, 0)), ((names.STEP,), (2, 2))]


def test_the_tolerance_is_that_of_the_verdict() -> None:
    step = Shape().step
    within = with_leads(recording(Shape(lead=0, steps=1)), names.STEP, {0: (step // 20, step // 20)})
    beyond = with_leads(recording(Shape(lead=0, steps=1)), names.STEP, {0: (0, step // 20 + 1)})
    before = with_leads(recording(Shape(lead=0, steps=1)), names.STEP, {0: (step // 20 + 1, 0)})
    assert [len(places(found(made))[0][0]) for made in (within, beyond, before)] == [3, 2, 2]


def test_a_wide_clock_tells_of_no_stretch() -> None:
    made = recording(Shape(lead=0))
    wide = replace(made, clocks=(replace(made.clocks[0], bound_ns=30 * MS),))
    assert found(wide) == HostBound(0, 0, 0.0, ())


def test_a_known_synchronisation_breaks_the_evidence() -> None:
    made = replace(recording(Shape(lead=0)), syncs=(SyncSite("a.py", 1, "f", names.STEP, 4),), audited=1)
    assert places(found(made)) == [((names.VISION, names.PREFILL), None)]


def test_a_vision_inside_prefill_has_to_have_kept_up_as_well() -> None:
    made = recording(Shape(lead=0, vision_inside=True, steps=0))
    assert places(found(made)) == [((names.PREFILL,), None)]
    assert found(with_leads(made, names.VISION, {0: (0, 20 * MS)})).count == 0


def test_a_vision_is_judged_up_to_its_encoders_exit() -> None:
    made = with_args(recording(Shape(lead=0, steps=0)), names.VISION, "encoder_ns", lambda _: 20 * MS)
    made = with_args(made, names.VISION, "encoder_lead_ns", lambda _: 15 * MS)
    assert places(found(made)) == [((names.PREFILL,), None)]


def test_stretches_never_join_over_the_border_of_a_generation() -> None:
    bound = found(recording(Shape(lead=0), Shape(lead=0, steps=9)))
    assert [one.generation for one in bound.longest] == [1, 0]
    assert bound.share == pytest.approx(bound.total / ((96_800 + 151_800) * US))


def test_the_longest_are_kept_and_all_are_counted() -> None:
    many = recording(*[Shape(lead=0, steps=0)] * (LONGEST + 3))
    bound = found(many)
    assert (bound.count, len(bound.longest)) == (LONGEST + 3, LONGEST)


def test_the_hosts_clock_tells_of_no_stretch() -> None:
    assert host_bound(counted(measure(recording(device=None)))) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_stretches_are_exactly_the_runs_of_steps_that_kept_up_at_both_ends(behind: list[tuple[bool, bool]]) -> None:
    leads = {at: (AHEAD * begin, AHEAD * end) for at, (begin, end) in enumerate(behind)}
    made = with_leads(recording(Shape(lead=18 * MS, steps=len(behind))), names.STEP, leads)
    bound = found(made)
    inside = {step for one in bound.longest if one.steps for step in range(one.steps[0], one.steps[1] + 1)}
    assert inside == {at for at, ends in enumerate(behind) if ends == (False, False)}
    (one,) = measure(made)
    assert all(verdict_of(one.leads[names.DECODE][at]) is Verdict.HOST for at in inside)
    assert bound.total == sum(stretch.duration for stretch in bound.longest) <= one.account.generate
    between = sorted(bound.longest, key=lambda stretch: stretch.begin)
    assert all(earlier.end < later.begin for earlier, later in pairwise(between))


def test_the_columns_of_the_recording_are_left_alone() -> None:
    made = recording(Shape(lead=0))
    before = array("q", made.spans.begin)
    found(made)
    assert made.spans.begin == before
