"""Who waits for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import with_args
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.analysis.launch import Lead, Verdict, judge, leads
from vlmtrace.analysis.measured import measure
from vlmtrace.analysis.stages import gather
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, SyncSite

parts = st.builds(Lead, st.integers(-(10**6), 10**9), st.integers(1, 10**9), st.integers(0, 10**6))


@pytest.mark.parametrize(
    ("lead", "bound", "expected"),
    [
        (500, 0, Verdict.GPU),
        (499, 0, Verdict.MIXED),
        (51, 0, Verdict.MIXED),
        (50, 0, Verdict.HOST),
        (-3, 0, Verdict.HOST),
        (100, 100, Verdict.HOST),
        (101, 100, Verdict.MIXED),
        (900, 250, Verdict.GPU),
        (900, 251, Verdict.UNKNOWN),
    ],
)
def test_thresholds_hold_to_the_nanosecond(lead: int, bound: int, expected: Verdict) -> None:
    judgement = judge([Lead(lead, 1_000, bound)])
    assert judgement is not None
    assert judgement.verdict is expected


def test_a_known_synchronisation_leaves_no_evidence() -> None:
    judgement = judge([Lead(900, 1_000, 0, synced=True)])
    assert judgement is not None
    assert judgement.verdict is Verdict.UNKNOWN


def test_steps_are_judged_together_and_counted_alone() -> None:
    judgement = judge([Lead(0, 100, 1), Lead(0, 100, 1), Lead(900, 1_000, 1)])
    assert judgement is not None
    assert judgement.verdict is Verdict.GPU
    assert judgement.lead_share == 0.75
    assert judgement.bound_share == 3 / 1_200
    assert (judgement.parts, judgement.host_bound_parts) == (3, 2)


def test_there_is_nothing_to_judge_without_parts_or_time() -> None:
    assert judge([]) is None
    assert judge([Lead(0, 0, 5)]) is None


def test_a_vision_is_judged_up_to_its_encoders_exit() -> None:
    made = recording(Shape(lead=0))
    made = with_args(made, names.VISION, "encoder_ns", lambda _: 20 * MS)
    made = with_args(made, names.VISION, "encoder_lead_ns", lambda _: 15 * MS)
    assert leads(gather(made)[0], 7)[names.VISION] == (Lead(15 * MS, 20 * MS, 7),)


def test_a_vision_without_that_mark_is_judged_as_a_whole() -> None:
    assert leads(gather(recording(Shape()))[0], 7)[names.VISION] == (Lead(200 * US, 30 * MS, 7),)


def test_a_prefill_is_judged_against_its_own_time() -> None:
    inside = leads(gather(recording(Shape(vision_inside=True)))[0], 7)
    assert inside[names.PREFILL] == (Lead(200 * US, 20 * MS, 7),)


def synced(made: Recording, *stages: str) -> Recording:
    """``made`` with one synchronisation seen in each of ``stages``, in one audited generation."""
    seen = (SyncSite("model.py", line, "forward", stage, 1) for line, stage in enumerate(stages, start=1))
    return replace(made, syncs=tuple(seen), audited=1)


@pytest.mark.parametrize(
    ("stage", "unknown"),
    [
        (names.VISION, names.VISION),
        (names.ENCODER, names.VISION),
        (names.PROJECTOR, names.VISION),
        (names.PREFILL, names.PREFILL),
        (names.MERGE, names.PREFILL),
        (names.STEP, names.DECODE),
    ],
)
def test_only_the_stage_of_an_audited_synchronisation_loses_its_verdict(stage: str, unknown: str) -> None:
    (one,) = measure(synced(recording(Shape()), stage))
    known = {judged: [part.synced for part in parts] for judged, parts in one.leads.items()}
    assert known.pop(unknown) == [True] * len(one.leads[unknown])
    assert not any(any(parts) for parts in known.values())


@pytest.mark.parametrize("stage", [names.GAP, *names.OTHER_PARTS])
def test_a_synchronisation_between_stages_leaves_every_verdict(stage: str) -> None:
    (one,) = measure(synced(recording(Shape()), stage))
    assert not any(part.synced for parts in one.leads.values() for part in parts)


@pytest.mark.parametrize(("stage", "known"), [(names.VISION, False), (names.PROJECTOR, False), (names.ENCODER, True)])
def test_a_vision_judged_up_to_its_encoders_exit_keeps_its_verdict_if_only_the_rest_waits(
    stage: str, known: bool
) -> None:
    made = with_args(recording(Shape()), names.VISION, "encoder_ns", lambda _: 20 * MS)
    made = with_args(made, names.VISION, "encoder_lead_ns", lambda _: 15 * MS)
    (one,) = measure(synced(made, stage))
    assert [part.synced for part in one.leads[names.VISION]] == [known]


def test_on_the_hosts_clock_there_is_no_verdict() -> None:
    assert [one.leads for one in measure(recording(Shape(), device=None))] == [{}]


def test_the_bound_of_a_generations_own_clock_is_used() -> None:
    made = recording(Shape(), Shape())
    made = replace(made, clocks=(made.clocks[0], replace(made.clocks[1], bound_ns=9 * US)))
    assert [one.leads[names.PREFILL][0].bound for one in measure(made)] == [5 * US, 9 * US]


@given(st.lists(parts, min_size=1, max_size=8), st.integers(2, 1_000))
def test_a_verdict_does_not_depend_on_the_unit_of_time(judged: list[Lead], factor: int) -> None:
    scaled = [Lead(part.lead * factor, part.duration * factor, part.bound * factor) for part in judged]
    one, other = judge(judged), judge(scaled)
    assert one is not None
    assert other is not None
    assert one.verdict is other.verdict
