"""Stages from a report alone: the same stages as the trace has, as near as ranges can tell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.nsight.exports import NEWEST, US, VERSIONS, Export, Launches, Plan, generation, matching_recording
from vlmtrace.analysis.pairing import pair_alone
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import read
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import KERNELS, WARMED, Recording

BESIDE = 5 * US
STAGES = (names.VISION, names.PREFILL, names.DECODE, names.STEP, names.GAP, names.ENCODER)


def lengths(recording: Recording, stage: str) -> list[int]:
    return [span.duration for span in recording.spans.named(stage)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("delay_us", [2, 400])
def test_stages_are_as_long_as_in_the_trace(tmp_path: Path, version: str, delay_us: int) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, version, beside_ns=BESIDE) as export:
        thread = export.process(470).thread(at=1_000_000)
        for steps in (1, 5):
            generation(thread, Plan(steps=steps, delay_ns=delay_us * US, tail=Launches(2)))
    alone, trace = pair_alone(read(path), "r"), matching_recording(export, offset_ns=0)
    for stage in STAGES:
        got, wanted = lengths(alone, stage), lengths(trace, stage)
        assert len(got) == len(wanted), stage
        # A range begins behind its mark and ends before it.
        assert all(abs(a - b) <= 3 * BESIDE for a, b in zip(got, wanted, strict=True)), stage


def test_kernels_are_where_they_were_launched(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        made = generation(export.process(470).thread(at=1_000_000), Plan(layers=3))
    got = pair_alone(read(path), "r")
    found = Counter(span.args["stage"] for span in got.spans if got.tracks[span.track].kind == KERNELS)
    for stage in (names.VISION, names.PREFILL, names.STEP):
        assert found[stage] == made.work(stage).kernels
    assert got.detail == "layer"
    assert got.pairing is not None
    assert found.total() == got.pairing.kernels
    assert got.pairing.bound_ns == 0


def test_warm_ups_are_told_and_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        generation(thread, Plan(role=WARMED))
        generation(thread, Plan())
    got = pair_alone(read(path), "r")
    assert [one.role for one in got.generations] == [WARMED, "timed"]
    assert summarise(got).counts.generations == 1


def test_threads_that_generate_have_rows_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        process = export.process(470)
        generation(process.thread(at=1_000_000), Plan())
        generation(process.thread(480, "worker", at=90_000_000), Plan(steps=2))
    got = pair_alone(read(path), "r")
    assert [got.tracks[got.generate_span(one).track].thread for one in got.generations] == [470, 480]


def test_nothing_is_said_that_a_report_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        generation(export.process(470).thread(at=1_000_000), Plan())
    summary = summarise(pair_alone(read(path), "r"))
    assert summary.tracing.cost_share is summary.tracing.waits is summary.tracing.clock_bound is None
    assert summary.metrics["ttft"].value is None
    assert summary.counts.new_tokens is None


def test_the_real_export_alone(real_export: Path) -> None:
    got = pair_alone(read(real_export), "h100")
    assert len(lengths(got, names.STEP)) == 7  # whose ranges were called `decode`
    assert got.environment["gpu"] == "NVIDIA H100 80GB HBM3"
    found = Counter(span.args["stage"] for span in got.spans if got.tracks[span.track].kind == KERNELS)
    assert found.total() == 2_076


def test_a_report_without_a_generation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export, export.process(470).thread().range("h2d"):
        pass
    with pytest.raises(VlmtraceError, match="holds no range 'generate'"):
        pair_alone(read(path), "r.sqlite")
