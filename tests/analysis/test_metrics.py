"""Latency and throughput of one generation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import rebuilt, with_args, with_drafts, with_generation, with_inputs, without_args
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.analysis.accounting import account
from vlmtrace.analysis.metrics import Metrics, measure_metrics
from vlmtrace.analysis.stages import gather
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def metrics(made: Recording) -> Metrics:
    stages = gather(made)[0]
    return measure_metrics(stages, account(stages))


def test_the_first_token_is_timed_from_the_hosts_entry_of_generate() -> None:
    stages_and_half_the_rest = (2_000 + 30_000 + 1_000 + 20_000 + 250) * US
    assert metrics(recording(Shape(lead=0))).ttft == stages_and_half_the_rest
    assert metrics(recording(Shape(lead=400 * US))).ttft == stages_and_half_the_rest + 5 * US


def test_with_preprocessing_it_is_timed_from_the_beginning_of_preprocess() -> None:
    found = metrics(recording(Shape(lead=0)))
    assert found.ttft is not None
    assert found.ttft_e2e == found.ttft + 6 * MS


def test_without_preprocessing_seen_its_latency_is_absent() -> None:
    found = metrics(rebuilt(recording(Shape()), keep=lambda span: span.name != names.PREPROCESS))
    assert found.ttft is not None
    assert found.ttft_e2e is None


def test_inter_token_latencies_are_the_gaps_between_token_marks() -> None:
    assert metrics(recording(Shape())).itl == (10_350 * US, 11 * MS, 11 * MS, 11 * MS)


def test_time_per_output_token_spreads_the_marks_over_the_tokens_after_the_first() -> None:
    assert metrics(recording(Shape())).tpot == 43_350 * US / 4


def test_an_accepted_group_counts_all_the_tokens_that_it_appends() -> None:
    made = with_args(recording(Shape()), names.TOKEN, "appended", lambda mark: 1 if mark.number == 0 else 3)
    assert metrics(made).tpot == 43_350 * US / 12


def test_beams_are_counted_by_steps() -> None:
    made = with_args(recording(Shape()), names.TOKEN, "appended", lambda _: 3)
    assert metrics(with_args(made, names.TOKEN, "beam", lambda _: 4)).tpot == 43_350 * US / 4


def test_decode_throughput_leaves_out_the_tokens_that_prefill_made() -> None:
    assert metrics(recording(Shape())).decode_throughput == pytest.approx(4 / 0.043)


def test_output_throughput_counts_every_token_over_the_whole_call() -> None:
    assert metrics(recording(Shape())).output_throughput == pytest.approx(5 / 0.0968)


def test_a_padded_row_counts_only_its_own_tokens() -> None:
    found = metrics(with_generation(recording(Shape()), 0, new_tokens=(5, 2, 1)))
    assert found.decode_throughput == pytest.approx((4 + 1 + 0) / 0.043)
    assert found.output_throughput == pytest.approx(8 / 0.0968)


def test_a_sequence_that_made_nothing_takes_nothing_off_the_others() -> None:
    found = metrics(with_generation(recording(Shape()), 0, new_tokens=(5, 0)))
    assert found.decode_throughput == pytest.approx(4 / 0.043)


def test_with_one_token_everything_about_decode_is_absent_and_not_0() -> None:
    found = metrics(recording(Shape(steps=0)))
    assert found.ttft is not None
    assert found.itl == ()
    assert found.tpot is None
    assert found.decode_throughput is None
    assert found.output_throughput is not None


def test_without_token_marks_nothing_is_made_up() -> None:
    found = metrics(rebuilt(recording(Shape()), keep=lambda span: span.name != names.TOKEN))
    assert (found.ttft, found.ttft_e2e, found.tpot, found.decode_throughput) == (None, None, None, None)


def test_without_counted_tokens_there_is_no_throughput() -> None:
    found = metrics(with_generation(recording(Shape()), 0, new_tokens=()))
    assert (found.decode_throughput, found.output_throughput) == (None, None)


def test_vision_is_put_in_relation_to_its_visual_tokens() -> None:
    assert metrics(recording(Shape())).vision_per_1000 == 30 * MS * 1_000 / 64


def test_visual_tokens_come_from_the_vision_spans_where_the_inputs_do_not_tell() -> None:
    assert metrics(with_inputs(recording(Shape()), batch=1)).vision_per_1000 == 30 * MS * 1_000 / 64
    unknown = without_args(with_inputs(recording(Shape()), batch=1), "visual_tokens")
    assert metrics(unknown).vision_per_1000 is None


def test_drafts_are_counted_over_the_prefill_and_all_steps() -> None:
    found = metrics(with_drafts(recording(Shape(steps=2)), (2, 1), (3, 0), (3, 3)))
    assert (found.proposed, found.accepted) == (8, 4)


def test_a_step_that_was_proposed_nothing_counts_as_nothing_and_not_as_absent() -> None:
    found = metrics(with_drafts(recording(Shape(steps=1)), (0, 0), (0, 0)))
    assert (found.proposed, found.accepted) == (0, 0)


def test_without_drafts_what_they_proposed_is_absent() -> None:
    found = metrics(recording(Shape()))
    assert (found.proposed, found.accepted) == (None, None)


def test_no_visual_tokens_have_no_time_each() -> None:
    assert metrics(with_inputs(recording(Shape()), visual_tokens=0)).vision_per_1000 is None


@given(st.integers(1, 6), st.integers(1, 4))
def test_the_inter_token_latencies_add_up_to_the_time_after_the_first_token(steps: int, appended: int) -> None:
    made = with_args(recording(replace(Shape(), steps=steps)), names.TOKEN, "appended", lambda _: appended)
    found = metrics(made)
    assert found.tpot is not None
    assert sum(found.itl) == pytest.approx(found.tpot * steps * appended)
