"""What ran on the GPU in each stage: compared with sums made another way, and with examples worked out by hand."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.altered import rebuilt, with_generation
from tests.analysis.paired import Op, paired
from tests.synthetic import MS, ORIGIN, US, WARMED, Shape, recording
from vlmtrace.analysis.kernels import LONGEST, OUTSIDE, Agreement, Copies, DeviceTime, Kernels, StageKernels, TopKernel
from vlmtrace.analysis.stats import median
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import ArgColumn, NewSpan

BEGIN = ORIGIN + 6 * MS
"""Where the first generate() begins: setup of 2 ms, vision of 30, between of 1, prefill of 20, first token of 0.5, then
steps of 10 ms with gaps of 1."""
VISION = BEGIN + 2 * MS
PREFILL = VISION + 31 * MS
STEP = PREFILL + 20 * MS + 500 * US


def kernels(made: Recording) -> Kernels:
    found = summarise(made).kernels
    assert found is not None
    return found


def stage(made: Recording, name: str) -> StageKernels:
    (found,) = (one for one in kernels(made).stages if one.stage == name)
    return found


# Against sums made another way.

GRID = 100 * US
"""Every border in these recordings lies on this grid, so that what holds in a cell's middle holds in all of it."""

STAGES = (names.VISION, names.PREFILL, names.STEP, names.GAP, *names.OTHER_PARTS)


@st.composite
def operations(draw: st.DrawFn, end: int, generations: int) -> list[Op]:
    made = []
    for _ in range(draw(st.integers(0, 25))):
        begin = ORIGIN + GRID * draw(st.integers(-20, end))
        launch = ORIGIN + 1_000 * draw(st.integers(0, 5))
        generation = draw(st.sampled_from([None, *range(generations)]))
        where = (
            draw(st.sampled_from([*STAGES, None])) if generation is not None else draw(st.sampled_from(["h2d", None]))
        )
        made.append(
            Op(
                begin,
                begin + GRID * draw(st.integers(0, 60)),
                where,
                generation if where is not None else None,
                draw(st.integers(0, 2)) if where in (names.STEP, names.GAP) else None,
                name=draw(st.sampled_from(["gemm", "copy_kernel"])),
                full=draw(st.sampled_from([None, "gemm<1>", "gemm<2>"])),
                device=draw(st.sampled_from([0, 0, 1])),
                stream=draw(st.sampled_from([7, 13])),
                call=draw(st.sampled_from([None, (launch, launch + 700)])),
                copied=draw(st.sampled_from([None, None, 4_096])),
            )
        )
    return made


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Recording, list[Op]]:
    shapes = [
        Shape(
            vision=GRID * draw(st.integers(4, 30)),
            prefill=GRID * draw(st.integers(4, 30)),
            step=GRID * draw(st.integers(4, 20)),
            steps=draw(st.integers(0, 3)),
            vision_inside=draw(st.booleans()),
            role=role,
        )
        for role in ("timed", *draw(st.lists(st.sampled_from(["timed", WARMED]), max_size=2)))
    ]
    made = recording(*shapes)
    ops = draw(operations((max(made.spans.end) - ORIGIN) // GRID + 20, len(shapes)))
    return paired(made, ops), ops


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_stages_and_what_is_unattributed_are_all_kernels(drawn: tuple[Recording, list[Op]]) -> None:
    made, ops = drawn
    found = kernels(made)
    counts = Counter(OUTSIDE if op.generation is None else op.stage for op in ops if op.is_kernel and op.stage)
    assert {one.stage: one.in_all for one in found.stages if one.in_all} == dict(counts)
    assert found.attributed + sum(found.unattributed.values()) == found.pairing.kernels == sum(map(is_kernel, ops))
    assert sum(found.outside.values()) == counts[OUTSIDE]


def is_kernel(op: Op) -> bool:
    return op.is_kernel


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_medians_and_sums_are_those_of_the_counted_generations(drawn: tuple[Recording, list[Op]]) -> None:
    made, ops = drawn
    chosen = [one.generation.index for one in summarise(made).counted]
    for found in kernels(made).stages:
        if found.stage == OUTSIDE:
            mine = [op for op in ops if op.generation is None and op.stage]
        else:
            mine = [op for op in ops if op.stage == found.stage and op.generation in chosen]
            ran = [g for g in chosen if spans_of(made, g, found.stage) or any(op.generation == g for op in mine)]
            each = [[op for op in mine if op.generation == g and op.is_kernel] for g in ran]
            calls = [{op.call for op in some if op.call is not None} for some in each]
            assert found.per_generation == median([len(some) for some in each])
            assert found.launches == median([len(some) for some in calls])
            assert found.launch_ns == median([700 * len(some) for some in calls])
        times: Counter[tuple[str, str]] = Counter()
        for op in filter(is_kernel, mine):
            times[op.name, op.full or op.name] += op.end - op.begin
        assert {(one.name, one.full_name): one.total for one in found.top} == dict(times)
        assert found.kernel_ns == times.total()
        copies = [op for op in mine if not op.is_kernel]
        assert sum(one.count for one in found.copies) == len(copies)
        assert sum(one.size for one in found.copies) == 4_096 * len(copies)
        assert sum(one.total for one in found.copies) == sum(op.end - op.begin for op in copies)


@settings(max_examples=40, deadline=None)
@given(recordings())
def test_busy_and_idle_are_what_looking_at_every_moment_tells(drawn: tuple[Recording, list[Op]]) -> None:
    made, ops = drawn
    chosen = [one.generation.index for one in summarise(made).counted]
    for found in kernels(made).stages:
        busy: dict[int, list[int]] = {}
        length: Counter[int] = Counter()
        for index in chosen:
            moments = own_moments(made, index, found.stage)
            for device in {op.device for op in ops if op.generation == index and op.stage} if moments else ():
                running = [op for op in ops if op.device == device]
                held = [at for at in moments if any(op.begin <= at < op.end for op in running)]
                busy.setdefault(device, []).append(GRID * len(held))
                length[device] += GRID * len(moments)
        assert found.devices == tuple(
            DeviceTime(device, median(busy[device]) or 0, pytest.approx(1 - sum(busy[device]) / length[device]))
            for device in sorted(busy)
        )


def spans_of(made: Recording, generation: int, name: str) -> list[tuple[int, int]]:
    return [(span.begin, span.end) for span in made.spans.named(name) if span.generation == generation]


def own_moments(made: Recording, generation: int, name: str) -> list[int]:
    """The middles of all cells of the grid that lie in the stage, those of a vision inside a prefill not in prefill."""
    visions = spans_of(made, generation, names.VISION) if name == names.PREFILL else []
    return [
        at
        for begin, end in spans_of(made, generation, name)
        for at in range(begin + GRID // 2, end, GRID)
        if not any(first <= at < last for first, last in visions)
    ]


# By hand.


def test_a_recording_that_is_not_paired_has_none() -> None:
    assert summarise(recording(Shape())).kernels is None


def test_kernels_that_are_not_all_of_the_reports_are_refused() -> None:
    made = paired(recording(Shape()), [Op(VISION, VISION + US, names.VISION)], kernels=3, unattributed={"elsewhere": 1})
    with pytest.raises(InvalidRecordingError, match="1 kernels in stages and 1 in none are not the 3 of the report"):
        summarise(made)


def test_what_belongs_to_no_stage_need_not_be_on_the_timeline() -> None:
    made = paired(recording(Shape()), [Op(VISION, VISION + US, names.VISION)], kernels=8, unattributed={"elsewhere": 7})
    assert (kernels(made).attributed, kernels(made).unattributed) == (1, {"elsewhere": 7})


def test_a_graph_that_starts_many_kernels_is_one_launch() -> None:
    call, other = (STEP, STEP + 40 * US), (STEP + 50 * US, STEP + 53 * US)
    ops = [
        Op(STEP + at * MS, STEP + (at + 1) * MS, names.STEP, step=0, call=call, api="cudaGraphLaunch")
        for at in range(5)
    ]
    ops.append(Op(STEP + 5 * MS, STEP + 6 * MS, names.STEP, step=0, call=other))
    found = stage(paired(recording(Shape()), ops), names.STEP)
    assert (found.per_generation, found.launches, found.launch_ns) == (6, 2, 43 * US)


def test_a_launch_that_the_report_does_not_hold_and_a_copy_are_no_launches() -> None:
    ops = [
        Op(VISION, VISION + US, names.VISION),
        Op(VISION + US, VISION + 2 * US, names.VISION, name="Memcpy HtoD", copied=64, call=(VISION, VISION + 9 * MS)),
    ]
    found = stage(paired(recording(Shape()), ops), names.VISION)
    assert (found.per_generation, found.launches, found.launch_ns) == (1, 0, 0)


def test_streams_that_overlap_keep_the_device_busy_once_but_their_kernels_take_their_time_each() -> None:
    ops = [
        Op(VISION, VISION + 6 * MS, names.VISION, stream=7),
        Op(VISION + 3 * MS, VISION + 9 * MS, names.VISION, stream=13, name="other", full="other<1>"),
        Op(VISION + 8 * MS, VISION + 15 * MS, names.VISION, stream=20, name="Memcpy DtoD", copied=1_000_000),
    ]
    found = stage(paired(recording(Shape()), ops), names.VISION)
    assert found.devices == (DeviceTime(0, 15 * MS, 0.5),)
    assert found.kernel_ns == 12 * MS
    assert found.top == (
        TopKernel("gemm", "void gemm<8>(float*)", 1, 6 * MS, 0.5),
        TopKernel("other", "other<1>", 1, 6 * MS, 0.5),
    )
    assert found.copies == (Copies("Memcpy DtoD", 1, 1_000_000, 7 * MS),)


def test_a_stage_is_busy_with_what_an_earlier_one_launched() -> None:
    ops = [Op(VISION + 20 * MS, PREFILL + 5 * MS, names.VISION)]
    made = paired(recording(Shape()), ops)
    assert stage(made, names.PREFILL).per_generation == 0
    assert stage(made, names.PREFILL).devices == (DeviceTime(0, 5 * MS, 0.75),)
    assert stage(made, names.OTHER_BETWEEN).devices == (DeviceTime(0, 1 * MS, 0.0),)


def test_a_device_counts_where_it_is_used() -> None:
    ops = [Op(VISION, VISION + 3 * MS, names.VISION), Op(VISION, VISION + 6 * MS, names.VISION, device=1)]
    made = paired(recording(Shape(), Shape()), ops)
    assert stage(made, names.VISION).devices == (DeviceTime(0, 3 * MS, 0.9), DeviceTime(1, 6 * MS, 0.8))


def test_warm_up_is_in_all_and_nowhere_else() -> None:
    made = recording(Shape(role=WARMED), Shape())
    later = made.generate_span(made.generations[1]).begin + 2 * MS
    ops = [Op(VISION + at * MS, VISION + (at + 1) * MS, names.VISION, name="warm") for at in range(5)]
    ops += [Op(later, later + MS, names.VISION, 1)]
    found = stage(paired(made, ops), names.VISION)
    assert (found.in_all, found.per_generation, found.kernel_ns) == (6, 1, MS)
    assert [one.name for one in found.top] == ["gemm"]


def test_without_a_counted_generation_kernels_are_counted_all_the_same() -> None:
    made = with_generation(paired(recording(Shape()), [Op(VISION, VISION + US, names.VISION)]), 0, error="boom")
    (found,) = kernels(made).stages
    assert (found.stage, found.in_all, found.per_generation, found.devices) == (names.VISION, 1, None, ())


def test_what_is_outside_of_generate_has_a_row_that_says_what_launched_it() -> None:
    ops = [
        Op(ORIGIN, ORIGIN + US, "preprocess", None),
        Op(ORIGIN + US, ORIGIN + 3 * US, "my span", None, name="mine"),
        Op(ORIGIN + 3 * US, ORIGIN + 4 * US, "my span", None, name="mine"),
        Op(ORIGIN + 4 * US, ORIGIN + 5 * US, "h2d", None, name="Memcpy HtoD", copied=10),
    ]
    made = paired(recording(Shape()), ops)
    found = stage(made, OUTSIDE)
    assert kernels(made).outside == {"my span": 2, "preprocess": 1}
    assert (found.in_all, found.per_generation, found.launches, found.launch_ns) == (3, None, None, None)
    assert found.devices == ()
    assert [(one.name, one.total) for one in found.top] == [("mine", 3 * US), ("gemm", US)]
    assert found.copies == (Copies("Memcpy HtoD", 1, 10, US),)


def test_the_longest_kernels_are_kept_and_their_shares_are_of_all() -> None:
    ops = [
        Op(VISION + at * MS, VISION + at * MS + (at + 1) * US, names.VISION, name=f"k{at}", full=None)
        for at in range(25)
    ]
    found = stage(paired(recording(Shape()), ops), names.VISION)
    whole = sum(range(1, 26)) * US
    assert len(found.top) == LONGEST
    assert found.top[0] == TopKernel("k24", "k24", 1, 25 * US, 25 * US / whole)
    assert found.kernel_ns == whole


def test_events_and_kernels_agree_as_far_as_they_lie_apart() -> None:
    ops = [
        Op(VISION + 3 * US, VISION + MS, names.VISION),
        Op(VISION + 2 * MS, VISION + 31 * MS, names.VISION),  # ends 1 ms behind its stage
        Op(VISION, VISION + US, names.VISION, name="Memcpy HtoD", copied=1),
    ]
    for step in range(4):
        begin = STEP + step * 11 * MS
        ops += [
            Op(begin + (step + 1) * US, begin + 2 * MS, names.STEP, step=step),
            Op(begin + 2 * MS, begin + 10 * MS - 2 * US, names.STEP, step=step, stream=9),
        ]
    made = paired(recording(Shape()), ops)
    assert stage(made, names.VISION).agreement == Agreement(1, 3 * US, 3 * US, -MS, -MS)
    assert stage(made, names.STEP).agreement == Agreement(4, 2_500, 3_850, 2 * US, 2 * US)
    assert stage(made, names.PREFILL).agreement is None
    assert stage(made, names.GAP).agreement is None


def test_kernels_of_several_spans_of_a_stage_are_told_apart_by_when_they_were_launched() -> None:
    made = recording(Shape())
    (first,) = made.spans.named(names.VISION)
    (between,) = made.spans.named(names.OTHER_BETWEEN)
    middle = between.begin + 400 * US
    more = (
        NewSpan(names.VISION, first.track, (between.begin, middle), parent=first.parent, generation=0),
        NewSpan(names.OTHER_BETWEEN, first.track, (middle, between.end), parent=first.parent, generation=0),
    )
    made = rebuilt(made, keep=lambda span: span.name != names.OTHER_BETWEEN, more=more)
    ops = [
        Op(VISION + US, VISION + 30 * MS - US, names.VISION, call=(VISION, VISION + US)),
        Op(between.begin + 5 * US, middle - 7 * US, names.VISION, call=(between.begin + US, between.begin + 2 * US)),
    ]
    found = stage(paired(made, ops), names.VISION).agreement
    assert found == Agreement(2, 3 * US, pytest.approx(4_800), 4 * US, pytest.approx(6_700))


def test_a_vision_inside_a_prefill_is_between_the_prefills_events_but_not_its_time() -> None:
    begin = BEGIN + 2 * MS
    ops = [
        Op(begin + 2 * US, begin + 15 * MS, names.VISION),
        Op(begin + 30 * MS, begin + 50 * MS - 4 * US, names.PREFILL),
    ]
    found = stage(paired(recording(Shape(vision_inside=True)), ops), names.PREFILL)
    assert found.agreement == Agreement(1, 2 * US, 2 * US, 4 * US, 4 * US)
    assert found.devices == (DeviceTime(0, 20 * MS - 4 * US, pytest.approx(4 * US / (20 * MS))),)


def test_the_clocks_bounds_are_told() -> None:
    made = paired(recording(Shape()), [Op(VISION, VISION + US, names.VISION)])
    assert (kernels(made).clock_bound, kernels(made).pairing.bound_ns) == (5 * US, 2 * US)


def test_kernels_change_nothing_else_in_a_summary() -> None:
    plain = recording(Shape(), Shape(lead=0))
    ops = [Op(VISION, VISION + 40 * MS, names.VISION), Op(STEP, STEP + MS, names.STEP, step=0, name="step (kernel)")]
    with_them = summarise(paired(plain, ops))
    without = summarise(plain)
    assert with_them.rows == without.rows
    assert with_them.metrics == without.metrics
    assert with_them.findings == without.findings


def test_numbers_where_texts_belong_are_not_taken_for_texts() -> None:
    """A trace that another version wrote may hold them."""
    made = paired(recording(Shape()), [Op(VISION, VISION + US, names.VISION)])
    spans = made.spans
    column = ArgColumn(False, array("q", spans.args["kernel"].rows), array("q", [10**9]))
    made = replace(made, spans=replace(spans, args={**spans.args, "kernel": column}))
    assert stage(made, names.VISION).top[0].full_name == "gemm"
