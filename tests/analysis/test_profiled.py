"""Profiled: a pass that a profiler watched stands behind the recording, with its kernels, and changes no figure."""

from __future__ import annotations

from array import array
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path

import pytest

from tests import synthetic
from tests.nsight.torch_events import WITHIN, around, called, kernel
from tests.synthetic import MS, WARMED, Shape
from vlmtrace.analysis.profiled import with_profile
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import VlmtraceError
from vlmtrace.formats import read, write
from vlmtrace.formats.titles import Titles
from vlmtrace.nsight.torch_trace import report_of
from vlmtrace.report import render
from vlmtrace.report.pairing import pairing_text
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import KERNELS, PROFILED, TIMED, Counter, Recording
from vlmtrace.timeline.spans import SpansBuilder

OFFSET = 123_456_789_000
LATER = 60_000 * MS
SLOW = Shape(vision=60 * MS, step=21 * MS, steps=4)


def later(recording: Recording, by: int = LATER) -> Recording:
    """The same, recorded later."""
    columns = ("begin", "end", "host_begin", "host_end")
    spans = recording.spans
    moved = replace(spans, **{key: type(spans.begin)("q", [at + by for at in getattr(spans, key)]) for key in columns})
    builder = SpansBuilder()
    builder.extend_with(moved)
    clocks = tuple(replace(clock, offset_ns=clock.offset_ns + by) for clock in recording.clocks)
    return replace(recording, spans=builder.freeze()[0], clocks=clocks)


def timed(device: int | None = 0) -> Recording:
    return synthetic.recording(Shape(role=WARMED), Shape(), Shape(vision=31 * MS), device=device)


def profiled(*, marks: bool = True, shape: Shape = SLOW, device: int | None = 0) -> Recording:
    further = later(synthetic.recording(shape, device=device))
    return with_profile(timed(device), further, report_of(around(further, OFFSET, marks=marks), "2.13.0"))


def operations(recording: Recording) -> Tally[tuple[int | None, object]]:
    return Tally(
        (span.generation, span.args.get("stage", span.args.get("unattributed")))
        for span in recording.spans
        if recording.tracks[span.track].kind == KERNELS
    )


@pytest.mark.parametrize("marks", [True, False])
def test_every_kernel_is_in_the_stage_of_the_profiled_generation_that_launched_it(marks: bool) -> None:
    made = profiled(marks=marks)

    assert [one.role for one in made.generations] == [WARMED, TIMED, TIMED, PROFILED]
    assert operations(made) == {(3, names.VISION): 2, (3, names.PREFILL): 2, (3, names.STEP): 8}
    assert made.pairing is not None
    assert (made.pairing.kernels, made.pairing.unattributed) == (12, {})
    assert (made.pairing.tool, made.pairing.product) == ("torch.profiler", "2.13.0")


@pytest.mark.parametrize("marks", [True, False])
def test_kernels_lie_on_the_axis_within_the_bound(marks: bool) -> None:
    made = profiled(marks=marks)
    assert made.pairing is not None
    stage = next(span for span in made.spans.named(names.PREFILL) if span.generation == 3)
    first = min(
        (span for span in made.spans if span.generation == 3 and span.args.get("stage") == names.PREFILL),
        key=lambda span: span.begin,
    )
    assert abs(first.begin - (stage.begin + 20_000)) <= made.pairing.bound_ns
    assert abs(first.host_begin - (stage.host_begin + 10_000)) <= made.pairing.bound_ns
    # With the calls, drift is told too; by ranges alone 100 ppm over the pass are possible.
    assert made.pairing.bound_ns < (2_000 if marks else 20_000)


def test_no_figure_of_the_timed_generations_is_another() -> None:
    plain, made = timed(), profiled()
    before, after = summarise(plain), summarise(made)

    assert after.rows == before.rows
    assert after.metrics == before.metrics
    assert after.findings == before.findings
    assert after.tracing == before.tracing
    assert after.host_bound == before.host_bound
    assert [one.generation.index for one in after.counted] == [one.generation.index for one in before.counted]
    assert before.nearest is not None
    assert after.nearest is not None
    assert after.nearest.account == before.nearest.account
    assert after.counts.left_out == {"profiled": 1, "warmup": 1}
    assert "2 generations (1 profiled, 1 warm-up left out)" in render(after)
    assert len(made.clocks) == len(made.generations)
    assert [made.clocks[one.clock or 0].generation for one in made.generations] == [0, 1, 2, 3]


def test_the_kernels_that_are_counted_are_the_profiled_generations() -> None:
    found = summarise(profiled()).kernels
    assert found is not None
    assert found.generations == 1
    assert {stage.stage: (stage.per_generation, stage.launches) for stage in found.stages if stage.stage in WITHIN} == {
        names.VISION: (2, 2),
        names.PREFILL: (2, 2),
        names.STEP: (8, 8),
    }
    text = render(summarise(profiled()), views=("kernels",))
    assert "torch.profiler 2.13.0" in text
    assert "12 in stages + 0 unattributed = 12 kernels" in text
    assert "Nsight" not in text


def test_a_baseline_tells_what_the_profiler_cost() -> None:
    text = render(summarise(profiled(), synthetic.recording()), views=("kernels",))
    assert "1 generation under torch.profiler, 1 without" in text
    assert "how much torch.profiler inflated the stage" in text
    assert "+30.000" in text  # a vision of 60 ms that takes 30 ms without


def test_what_was_found_is_told_in_words() -> None:
    made = profiled()
    assert made.pairing is not None
    text = pairing_text(made, made.pairing)
    assert "12 of 12 kernels lie in a stage" in text
    assert "report of torch.profiler 2.13.0" in text


def test_counters_go_on_through_the_profiled_generation() -> None:
    further = later(synthetic.recording(SLOW))
    at = array("q", [synthetic.ORIGIN, synthetic.ORIGIN + MS])
    late = array("q", [time + LATER for time in at])
    plain = replace(timed(), counters=(Counter("KV cache", "bytes", 0, at, array("q", [1, 2])),))
    others = (Counter("KV cache", "bytes", 0, late, array("q", [3, 4])), Counter("new", "", None, late, at))
    made = with_profile(plain, replace(further, counters=others), report_of(around(further, OFFSET), "2"))
    assert made.counters == (Counter("KV cache", "bytes", 0, at + late, array("q", [1, 2, 3, 4])), others[1])


def test_without_a_timed_generation_a_profiled_one_is_counted_no_more() -> None:
    further = later(synthetic.recording(SLOW))
    cold = synthetic.recording(Shape(role=synthetic.COLD))
    made = with_profile(cold, further, report_of(around(further, OFFSET), "2"))
    assert [one.generation.role for one in summarise(made).counted] == [synthetic.COLD]


def test_what_is_in_no_stage_is_counted_with_its_reason() -> None:
    further = later(synthetic.recording(SLOW))
    tid = further.tracks[0].thread
    end = max(further.spans.host_end) - OFFSET + 5 * MS
    more = [
        kernel("before", end, end + 10, 9_001),
        called("cudaLaunchKernel", end, end + 5, tid, 9_002),
        kernel("behind", end + 50, end + 60, 9_002),
        called("cudaLaunchKernel", end, end + 5, tid + 5, 9_003),
        kernel("elsewhere", end + 50, end + 60, 9_003),
    ]
    made = with_profile(timed(), further, report_of([*around(further, OFFSET), *more], "2"))
    assert made.pairing is not None
    assert made.pairing.kernels == 15
    assert made.pairing.unattributed == {
        "its launch is not in the report": 1,
        "launched by a thread without vlmtrace's ranges": 1,
        "launched outside of vlmtrace's ranges": 1,
    }


@pytest.mark.parametrize("ending", [".pftrace", ".json"])
def test_it_comes_back_from_a_file(ending: str, tmp_path: Path) -> None:
    made = profiled()
    path = tmp_path / f"t{ending}"
    path.write_bytes(b"".join(write(made, ending)))
    assert read(path) == made


def test_the_title_of_the_generation_says_so() -> None:
    made = profiled()
    titles = Titles(made)
    assert [titles.of(one.span).endswith("(profiled)") for one in made.generations] == [False, False, False, True]


def test_a_profiler_that_saw_no_kernels_is_told_in_a_line() -> None:
    further = later(synthetic.recording(SLOW))
    nothing = report_of((event for event in around(further, OFFSET) if event["cat"] == "cpu_op"), "2")
    with pytest.raises(VlmtraceError, match=r"torch\.profiler saw no kernels"):
        with_profile(timed(), further, nothing)


def test_a_recording_is_profiled_once() -> None:
    further = later(synthetic.recording(SLOW), 2 * LATER)
    with pytest.raises(VlmtraceError, match="already"):
        with_profile(profiled(), further, report_of(around(further, OFFSET), "2"))
