"""The benchmark of a million spans, at two thousand: what it says is so. How fast it was is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import vlmtrace

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import million_spans


@pytest.fixture(scope="module", params=[["host"], ["device"], ["host", "--one-generation"]], ids=" ".join)
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """What the script kept of a run, and the table it printed."""
    out = tmp_path_factory.mktemp("spans") / "out.json"
    command = [sys.executable, million_spans.__file__, "--sizes", "2000", "--json", str(out), "--clock"]
    done = subprocess.run([*command, *request.param], check=True, capture_output=True, text=True)
    return json.loads(out.read_text()), done.stdout


def test_what_is_counted_is_what_was_recorded_and_comes_back(printed: tuple[dict, str]) -> None:
    kept, _ = printed
    (row,) = kept["rows"]
    steps = 31 if row["generations"] == 2 else (2000 - million_spans.spans_of(0)) // 32 + 1
    assert row["spans"] == row["loaded_spans"] == row["generations"] * million_spans.spans_of(steps)
    assert 2000 <= row["spans"] < 2000 + million_spans.spans_of(31)
    assert row["generations"] == (1 if kept["one_generation"] else 2)
    assert row["same_when_loaded"] is True


def test_every_phase_is_in_the_table_and_the_sum_is_theirs(printed: tuple[dict, str]) -> None:
    kept, text = printed
    (row,) = kept["rows"]
    heads, _, line = ([cell.strip() for cell in one.strip("|").split("|")] for one in text.splitlines())
    assert len(heads) == len(line)
    cells = dict(zip(heads, line, strict=True))
    assert cells["Spans"] == f"{row['spans']:,}"
    assert set(row["seconds"]) == set(row["processor_seconds"]) == set(million_spans.PHASES)
    assert float(cells["Sum"]) == pytest.approx(sum(row["seconds"].values()), abs=0.01)
    assert cells["Same when loaded"] == "yes"


def test_perfetto_finds_every_slice_that_was_recorded(printed: tuple[dict, str]) -> None:
    kept, text = printed
    (row,) = kept["rows"]
    assert row["problems"] == []
    assert row["imported_slices"] > row["spans"]
    assert text.splitlines()[-1].endswith("| yes |")


def test_memory_is_that_of_columns_and_the_peak_includes_what_was_there(printed: tuple[dict, str]) -> None:
    """A recorded span is ten integers of eight bytes; what a process holds beside the spans counts at this size too."""
    (row,) = printed[0]["rows"]
    assert row["bytes_per_span_recorded"] > 80
    assert row["bytes_per_span_marked"] > 2 * (4 + 3 * 8) * 0.9
    assert row["record_peak_mb"] >= row["start_mb"] > 0
    assert row["load_peak_mb"] > 0


@pytest.mark.parametrize("clock", ["host", "device"])
def test_the_stand_in_makes_a_recording_with_every_stage_of_a_generation(clock: str, tmp_path: Path) -> None:
    options = Namespace(sizes=[1], clock=clock, one_generation=False, trace=tmp_path / "made.pftrace")
    million_spans.record_part(options)
    recording = vlmtrace.load(options.trace)
    spans = [span.name for span in recording.spans]
    assert recording.on_device == (clock == "device")
    assert (spans.count("decode.step"), spans.count("token"), spans.count("layer")) == (31, 32, 32 * 28)
    assert (spans.count("vision.layer"), spans.count("prefill"), spans.count("decode.gap")) == (32, 1, 30)
    assert vlmtrace.render(recording)
