"""The reference traces are small and sound, and what Perfetto shows of them is what they hold.

What is derived may be drawn otherwise by today's version than by the one that wrote them: as they stand they are
asked for what was recorded, and for all of it once they are written anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmtrace
from tests.docs.markdown import ROOT
from tests.importer import TraceProcessor, assert_clean
from vlmtrace.timeline.recording import KERNELS, NSIGHT, PROFILED

TRACES = sorted((ROOT / "traces").glob("*.pftrace"))

each_trace = pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)


def test_there_are_shapes_at_several_details_under_two_versions_families_and_other_ways_of_looking() -> None:
    details = {"stage", "module", "layer"}
    ways = [path.stem.split("-transformers-")[0].rpartition("-")[2] for path in TRACES]
    assert sum(way in details for way in ways) == 8 + 5
    assert sorted(way for way in ways if way not in details) == ["compiled", "kernels", "paired"]


@each_trace
def test_a_reference_trace_is_small_and_perfetto_finds_every_span_of_it(path: Path) -> None:
    assert path.stat().st_size <= 1_000_000
    processor = TraceProcessor(path)
    assert processor.query("select name from stats where value != 0 and severity in ('error', 'data_loss')") == []
    found = processor.query(
        "select extract_arg(arg_set_id, 'debug.id') as row, ts, dur from slice "
        "where category in ('stage', 'module', 'layer', 'token', 'host', 'user', 'kernel', 'copy') order by row"
    )
    spans = vlmtrace.load(path).spans
    assert [tuple(row.values()) for row in found] == [(span.row, span.begin, span.duration) for span in spans]


@each_trace
def test_a_reference_trace_written_anew_is_clean(path: Path, tmp_path: Path) -> None:
    recording = vlmtrace.load(path)
    again = vlmtrace.save(recording, tmp_path / path.name)
    assert vlmtrace.load(again) == recording
    assert_clean(again, recording)


@each_trace
def test_a_reference_trace_is_of_a_gpu_and_what_its_name_says(path: Path) -> None:
    recording = vlmtrace.load(path)
    assert recording.on_device
    assert recording.incomplete is None
    assert recording.models[0].random_weights
    name, _, version = path.stem.partition("-transformers-")
    assert str(recording.environment["transformers"]).startswith(version)
    shape, _, shown = name.rpartition("-")
    if shown == "compiled":
        assert {one.mode for one in recording.generations} == {"compiled"}
    elif shown == "kernels":
        assert recording.generations[-1].role == PROFILED
        assert any(track.kind == KERNELS for track in recording.tracks)
    elif shown == "paired":
        assert recording.pairing is not None
        assert recording.pairing.tool == NSIGHT
        assert recording.pairing.kernels > 0
        assert any(track.kind == KERNELS for track in recording.tracks)
    else:
        assert shown == recording.detail
    command = recording.workload["command"]
    assert isinstance(command, list)
    assert shape == (str(command[command.index("--shape") + 1]) if "--shape" in command else "demo")
