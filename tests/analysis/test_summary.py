"""A recording boiled down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import with_drafts, with_generation, with_inputs
from tests.analysis.test_accounting import shapes
from tests.synthetic import COLD, MS, US, WARMED, Shape, recording
from vlmtrace.analysis.launch import Verdict
from vlmtrace.analysis.rows import OTHER, StageRow
from vlmtrace.analysis.summary import Counts, Figure, Summary, summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import Spans, SpansBuilder


def row(summary: Summary, stage: str) -> StageRow:
    found = summary.row(stage)
    assert found is not None
    return found


def nothing() -> Spans:
    spans, _ = SpansBuilder().freeze()
    return spans


def test_rows_come_in_the_order_of_a_request() -> None:
    assert [found.stage for found in summarise(recording()).rows] == [
        names.PREPROCESS,
        names.GENERATE,
        names.VISION,
        names.ENCODER,
        names.PREFILL,
        names.DECODE,
        names.STEP,
        names.GAP,
        OTHER,
        names.DETOKENIZE,
    ]


def test_a_stage_is_the_median_of_its_sum_per_generation() -> None:
    found = row(summarise(recording(Shape(vision=30 * MS), Shape(vision=40 * MS), Shape(vision=90 * MS))), names.VISION)
    assert (found.calls, found.p50, found.p95) == ((1, 1), 40 * MS, 85 * MS)


def test_steps_are_counted_each_and_gaps_by_their_sum() -> None:
    summary = summarise(recording(Shape(steps=4), Shape(steps=2, step=20 * MS)))
    step, gap = row(summary, names.STEP), row(summary, names.GAP)
    assert (step.calls, step.p50) == ((2, 4), 10 * MS)
    assert (gap.calls, gap.p50) == ((1, 3), 2 * MS)


def test_a_stage_that_never_ran_keeps_its_row_without_figures() -> None:
    found = row(summarise(recording(Shape(steps=0))), names.DECODE)
    assert found == StageRow(names.DECODE, (0, 0), None, None)


def test_the_rest_names_its_largest_part() -> None:
    assert row(summarise(recording(Shape(tail=9 * MS))), OTHER).largest == (names.OTHER_TAIL, 9 * MS)


def test_decode_is_judged_by_its_steps() -> None:
    judgement = row(summarise(recording(Shape(lead=9 * MS))), names.DECODE).judgement
    assert judgement is not None
    assert judgement.verdict is Verdict.GPU
    assert judgement.parts == 4


def test_the_host_clock_has_no_verdict_and_no_bound() -> None:
    summary = summarise(recording(device=None))
    assert not summary.on_device
    assert all(found.judgement is None for found in summary.rows)
    assert summary.tracing.clock_bound is None


def test_warm_up_and_cold_generations_are_left_out_and_counted() -> None:
    slow = 500 * MS
    summary = summarise(recording(Shape(role=WARMED, vision=slow), Shape(role=COLD, vision=slow), Shape()))
    assert row(summary, names.VISION).p50 == 30 * MS
    assert summary.counts.left_out == {"cold": 1, "warmup": 1}
    assert summary.counts.roles == {"timed": 1}


def test_where_all_are_cold_they_are_counted_and_said_to_be_cold() -> None:
    summary = summarise(recording(Shape(role=COLD)))
    assert summary.counts.generations == 1
    assert summary.counts.roles == {"cold": 1}


def test_an_incomplete_generation_is_left_out_and_counted() -> None:
    made = with_generation(recording(Shape(), Shape(vision=500 * MS)), 1, error="KeyboardInterrupt")
    summary = summarise(made)
    assert summary.counts.left_out == {"incomplete": 1}
    assert row(summary, names.VISION).p50 == 30 * MS


@pytest.mark.parametrize("device", [0, None])
def test_without_a_complete_generation_there_are_no_rows_and_no_figures(device: int | None) -> None:
    summary = summarise(with_generation(recording(Shape(), device=device), 0, error="boom"))
    assert summary.rows == ()
    assert summary.nearest is None
    assert set(summary.metrics.values()) == {Figure(None, 0)}


def test_a_recording_without_generations_is_summarised() -> None:
    made = recording()
    empty = replace(made, generations=(), spans=nothing(), clocks=(), cost=replace(made.cost, waits=0, host_ns=()))
    summary = summarise(empty)
    assert (summary.counts.generations, summary.tracing.waits) == (0, None)


def test_the_counts_range_over_the_counted_generations() -> None:
    made = recording(Shape(steps=2), Shape(steps=4))
    made = with_generation(made, 1, inputs={"batch": 2, "prompt_tokens": 300, "visual_tokens": 128})
    counts = summarise(made).counts
    assert counts == Counts(2, {"timed": 2}, {}, (1, 2), (1, 1), (64, 128), (100, 300), (3, 5))


def test_what_is_not_known_of_the_inputs_is_absent() -> None:
    counts = summarise(with_inputs(recording())).counts
    assert (counts.batch, counts.images, counts.prompt_tokens) == (None, None, None)
    assert counts.visual_tokens == (64, 64)


def test_metrics_are_medians_over_generations_and_inter_token_latencies_are_pooled() -> None:
    summary = summarise(recording(Shape(lead=0), Shape(lead=0, vision=50 * MS), Shape(lead=0, steps=0)))
    assert summary.metrics["ttft"] == Figure(53_250 * US, 3)
    assert summary.metrics["itl_max"] == Figure(11 * MS, 8)
    assert summary.metrics["itl_p50"] == Figure(11 * MS, 8)
    assert summary.metrics["tpot"].samples == 2
    assert summary.metrics["decode_throughput"].value == pytest.approx(4 / 0.043)


def test_drafts_are_summed_over_generations_so_that_each_proposed_token_counts_once() -> None:
    made = with_drafts(recording(Shape(steps=1), Shape(steps=1)), (1, 1), (0, 0), (4, 0), (5, 4))
    found = summarise(made).metrics
    assert found["proposed"] == Figure(10, 2)
    assert found["accepted"] == Figure(5, 2)
    assert found["acceptance_rate"] == Figure(0.5, 10)


def test_where_nothing_was_proposed_there_is_no_rate() -> None:
    found = summarise(with_drafts(recording(Shape(steps=1)), (0, 0), (0, 0))).metrics
    assert found["proposed"] == Figure(0, 1)
    assert found["acceptance_rate"] == Figure(None, 0)


def test_the_named_generation_is_the_one_nearest_the_median() -> None:
    made = recording(Shape(role=WARMED), Shape(vision=90 * MS), Shape(vision=31 * MS), Shape(vision=30 * MS))
    nearest = summarise(made).nearest
    assert nearest is not None
    assert nearest.generation.index == 2


def test_of_two_equally_near_the_first_is_named() -> None:
    nearest = summarise(recording(Shape(vision=40 * MS), Shape(vision=30 * MS))).nearest
    assert nearest is not None
    assert nearest.generation.index == 0


def test_the_cost_of_tracing_is_its_part_of_the_hosts_wall_time() -> None:
    tracing = summarise(recording(Shape(), Shape())).tracing
    assert tracing.cost_share == pytest.approx(50_000 / 96_800_000)
    assert (tracing.waits, tracing.clock_bound, tracing.path) == (1, 5 * US, "cudaEventRecord")


def test_a_cost_that_was_not_taken_down_is_absent() -> None:
    made = recording()
    assert summarise(replace(made, cost=replace(made.cost, host_ns=()))).tracing.cost_share is None


@given(st.lists(shapes, min_size=1, max_size=4), st.sampled_from([0, None]))
def test_the_shares_of_the_parts_add_up_to_the_whole(made: list[Shape], device: int | None) -> None:
    summary = summarise(recording(*made, device=device))
    parts = [row(summary, stage).share or 0 for stage in (names.VISION, names.PREFILL, names.DECODE, OTHER)]
    assert sum(parts) == pytest.approx(1)
