"""Runs that drift, and steps far longer than the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import rebuilt, with_inputs
from tests.synthetic import MS, WARMED, Shape, recording
from vlmtrace.analysis.findings import Finding, Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, Track
from vlmtrace.timeline.spans import NewSpan

QUEUED = Shape(lead=8 * MS)


def found(made: Recording) -> dict[Slug, Finding]:
    return {finding.slug: finding for finding in summarise(made).findings}


def lasting(*visions: int, **more: object) -> Recording:
    """Generations whose vision takes so many ms, one after the other."""
    return recording(*(replace(QUEUED, vision=vision * MS, **more) for vision in visions))  # type: ignore[arg-type]


def with_slow_step(number: int, *, steps: int = 8, times: int = 4) -> Recording:
    """One generation whose step ``number`` takes so many times as long as the others: it has swallowed some."""
    made = recording(replace(QUEUED, steps=steps, gap=0))
    swallowed = range(number + 1, number + times)

    def kept(row: int) -> bool:
        span = made.spans[row]
        numbers = swallowed if span.name == names.STEP else range(number, number + times)
        return span.name not in (names.STEP, names.GAP) or span.number not in numbers

    slow = next(span for span in made.spans.named(names.STEP) if span.number == number)
    end, host_end = slow.end + (times - 1) * QUEUED.step, slow.host_end + (times - 1) * QUEUED.step
    longer = NewSpan(names.STEP, slow.track, (slow.begin, end), (slow.host_begin, host_end), slow.parent, 0, number)
    gaps = [
        NewSpan(names.GAP, slow.track, (end, end), parent=slow.parent, generation=0, number=number)
        for _ in range(number + times < steps)
    ]
    return rebuilt(made, keep=lambda span: kept(span.row) and span.row != slow.row, more=(longer, *gaps))


def with_host_span(made: Recording, name: str, begin: int, end: int, *, rank: int | None = None) -> Recording:
    """``made`` with a span of the host, its times counted from the begin of the first step."""
    tracks = (*made.tracks, Track("host", None, 99, "another", rank))
    at = next(made.spans.named(names.STEP)).begin
    return rebuilt(replace(made, tracks=tracks), more=(NewSpan(name, len(made.tracks), (at + begin, at + end)),))


def busy(made: Recording, *generations: int, name: str = names.CAPTURE) -> Recording:
    """``made`` with the compiler at work in these generations, for as many ms as their number."""
    begins = {g: next(s.begin for s in made.spans if s.generation == g) for g in generations}
    spans = (NewSpan(name, 0, (at, at + (g + 1) * MS), generation=g) for g, at in begins.items())
    return rebuilt(made, more=tuple(spans))


@pytest.mark.parametrize("name", [names.CAPTURE, names.COMPILE])
def test_generations_that_compile_or_capture_are_left_out(name: str) -> None:
    made = busy(recording(*(QUEUED,) * 6), 0, 2, name=name)
    summary = summarise(made)
    assert [one.generation.index for one in summary.counted] == [1, 3, 4, 5]
    assert summary.counts.left_out == {"compiling": 2}
    assert found(made)[Slug.COMPILED_IN_REPEATS].evidence == (
        "2 of 6 timed generations compiled or captured graphs, for up to 3 ms: left out"
    )


def test_where_every_generation_compiles_all_are_counted_and_it_is_said() -> None:
    made = busy(recording(*(QUEUED,) * 3), 0, 1, 2)
    assert len(summarise(made).counted) == 3
    assert found(made)[Slug.COMPILED_IN_REPEATS].evidence.endswith(": counted, for want of others")


def test_generations_that_get_faster_and_faster_ask_for_more_warm_up() -> None:
    finding = found(lasting(60, 55, 50, 45, 40, 35))[Slug.WARM_UP_DRIFT]
    assert finding.evidence == (
        "generate gets 22 % shorter from the first to the last of 6 like generations (Theil–Sen; Kendall p = 0.003)"
    )
    assert finding.remedy == "raise --warmup"


def test_generations_that_get_slower_point_at_heat_and_memory() -> None:
    finding = found(lasting(*range(30, 50, 2)))[Slug.WARM_UP_DRIFT]
    assert "longer" in finding.evidence
    assert "p < 0.001" in finding.evidence
    assert "heats up" in finding.remedy


@pytest.mark.parametrize(
    "visions",
    [
        (60, 55, 50, 45, 40),  # too few to be sure
        (32, 31, 30, 30, 29, 28),  # too little to matter
        (30, 60, 30, 60, 30, 60, 30),  # up and down
        (90, 30, 30, 30, 30, 30, 30, 30),  # one slow start
    ],
)
def test_what_may_be_chance_or_does_not_matter_is_no_drift(visions: tuple[int, ...]) -> None:
    assert Slug.WARM_UP_DRIFT not in found(lasting(*visions))


def test_warm_up_itself_is_not_a_drift() -> None:
    warm = [replace(QUEUED, vision=vision * MS, role=WARMED) for vision in (90, 80, 70, 60, 50, 40)]
    assert Slug.WARM_UP_DRIFT not in found(recording(*warm, *[QUEUED] * 6))


def test_generations_that_do_more_and_more_work_are_no_drift() -> None:
    assert Slug.WARM_UP_DRIFT not in found(recording(*(replace(QUEUED, steps=steps) for steps in range(4, 12))))
    made = lasting(30, 35, 40, 45, 50, 55, 60)
    by_size = [replace(one, inputs={**one.inputs, "visual_tokens": 64 + one.index}) for one in made.generations]
    assert Slug.WARM_UP_DRIFT not in found(replace(made, generations=tuple(by_size)))


def test_a_step_of_more_than_three_medians_is_named() -> None:
    finding = found(with_slow_step(2))[Slug.OUTLIER_STEPS]
    assert finding.evidence == "1 of 5 steps longer than 3 × the median (p50 10 ms, p99 38.8 ms): #0 step 2 40 ms"
    assert "trace" in finding.remedy


def test_a_step_of_three_medians_is_no_outlier_and_of_few_steps_none_is() -> None:
    assert Slug.OUTLIER_STEPS not in found(with_slow_step(2, times=3))
    assert Slug.OUTLIER_STEPS not in found(with_slow_step(1, steps=7))


def test_steps_are_held_against_those_of_like_generations() -> None:
    made = recording(*[replace(QUEUED, steps=6)] * 2, replace(QUEUED, steps=6, step=40 * MS))
    assert found(made)[Slug.OUTLIER_STEPS].evidence.startswith("6 of 18 steps")
    longer = replace(made.generations[2], inputs={**made.generations[2].inputs, "prompt_tokens": 9_000})
    assert Slug.OUTLIER_STEPS not in found(replace(made, generations=(*made.generations[:2], longer)))


def test_of_many_outliers_the_longest_are_named() -> None:
    shapes = [replace(QUEUED, steps=10)] * 4 + [replace(QUEUED, steps=1, step=(40 + at) * MS) for at in range(5)]
    evidence = found(recording(*shapes))[Slug.OUTLIER_STEPS].evidence
    assert evidence.endswith(": #8 step 0 44 ms, #7 step 0 43 ms, #6 step 0 42 ms and 2 more")


@pytest.mark.parametrize(("name", "remedy"), [(names.GC, "gc.freeze()"), (names.COMPILE, "--warmup")])
def test_what_the_host_did_meanwhile_is_given_as_the_cause(name: str, remedy: str) -> None:
    slow = with_slow_step(2)  # begins 20 ms after the first step and takes 40 ms
    finding = found(with_host_span(slow, name, 30 * MS, 45 * MS))[Slug.OUTLIER_STEPS]
    assert f"#0 step 2 40 ms ({name} 15 ms)" in finding.evidence
    assert remedy in finding.remedy


def test_only_what_overlaps_the_step_counts_and_once() -> None:
    slow = with_slow_step(2)
    made = with_host_span(slow, names.GC, 50 * MS, 70 * MS)
    made = with_host_span(made, names.GC, 55 * MS, 65 * MS)
    assert "(gc 10 ms)" in found(made)[Slug.OUTLIER_STEPS].evidence
    assert "gc" not in found(with_host_span(slow, names.GC, 61 * MS, 70 * MS))[Slug.OUTLIER_STEPS].evidence


def test_what_another_process_did_is_no_cause() -> None:
    made = with_host_span(with_slow_step(2), names.GC, 30 * MS, 45 * MS, rank=1)
    assert "gc" not in found(made)[Slug.OUTLIER_STEPS].evidence


def test_inputs_that_nobody_knows_are_alike() -> None:
    assert Slug.WARM_UP_DRIFT in found(with_inputs(lasting(60, 55, 50, 45, 40, 35)))
