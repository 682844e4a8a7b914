"""The real Perfetto UI opens what vlmtrace writes, and shows its rows as they were laid out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.kernels import with_kernels
from tests.synthetic import WARMED, Shape, recording
from tests.ui.perfetto_ui import Shown, UiRefusedError, show
from vlmtrace import formats
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

pytestmark = pytest.mark.ui

THREE = (Shape(role=WARMED), Shape(), Shape(vision_inside=True))

CLOCKS = ((0, "System"), (1, "Clock Snapshots"))
"""The UI's own row for the snapshot that ties the axis to the wall clock."""


def written(made: Recording, path: Path) -> Path:
    path.write_bytes(b"".join(formats.write(made, formats.format_of(path))))
    return path


def assert_sound(shown: Shown) -> None:
    assert shown.import_errors == 0
    assert shown.page_errors == ()
    with Image.open(shown.picture) as picture:
        assert picture.size == (1500, 900)
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
        assert colours is not None
        assert len(colours) > 100, "an empty page has a handful"


def test_a_device_recording_shows_its_rows_in_the_order_of_the_layout(tmp_path: Path) -> None:
    shown = show(written(recording(*THREE), tmp_path / "device.pftrace"), "device.png", "--expand")
    assert_sound(shown)
    assert shown.tree == (
        *CLOCKS,
        (0, "tiny"),
        (1, "GPU 0"),
        *((2, row) for row in ("Generations", "Stages", "Steps", "Modules", "Tokens")),
        (1, "Host: MainThread"),
        (1, "Counters"),
        (2, "tokens"),
        (2, "ITL"),
        (2, "lead"),
        (1, "! few-repeats"),
        (1, "! host-bound-decode"),
        (1, "Recording"),
    )


def test_a_paired_recording_shows_its_kernels_by_stream_under_the_stages_they_ran_in(tmp_path: Path) -> None:
    made = with_kernels(recording(*THREE))
    trace = written(made, tmp_path / "paired.pftrace")
    options = ("--expand", "--zoom", "generate #1 64*", "--select", "flash_fwd_kernel", "--track", "Kernels, stream 7")
    shown = show(trace, "paired.png", *options)
    assert_sound(shown)
    assert shown.tree == (
        *CLOCKS,
        (0, "tiny"),
        (1, "GPU 0"),
        *((2, row) for row in ("Generations", "Stages", "Steps", "Modules", "Tokens")),
        *((2, row) for row in ("Kernels, stream 7", "Kernels, stream 7, lane 2", "Kernels, stream 14")),
        *((2, row) for row in ("Copies, stream 7", "Copies, stream 14")),
        (1, "GPU 1"),
        (2, "Kernels, stream 7"),
        (1, "Host: MainThread"),
        (1, "Host: MainThread, launches"),
        (1, "Counters"),
        (2, "tokens"),
        (2, "ITL"),
        (2, "lead"),
        (1, "! few-repeats"),
        (1, "! host-bound-decode"),
        (1, "Recording"),
    )
    first = next(span for span in made.spans_of(made.generations[1]) if span.name == "flash_fwd_kernel")
    assert shown.selected is not None
    assert (int(shown.selected["ts"]), int(shown.selected["dur"])) == (first.begin, first.duration)


def test_a_host_recording_says_so_in_its_title(tmp_path: Path) -> None:
    shown = show(written(recording(*THREE, device=None), tmp_path / "host.pftrace"), "host.png", "--expand")
    assert_sound(shown)
    assert shown.tree == (
        *CLOCKS,
        (0, "tiny · host clock"),
        (1, "CPU"),
        *((2, row) for row in ("Generations", "Stages", "Steps", "Modules", "Tokens")),
        (1, "Host: MainThread"),
        (1, "Counters"),
        (2, "tokens"),
        (2, "ITL"),
        (1, "! few-repeats"),
        (1, "Recording"),
    )


def test_chrome_json_shows_the_same_rows_without_groups(tmp_path: Path) -> None:
    shown = show(written(recording(*THREE), tmp_path / "device.json.gz"), "chrome.png", "--expand")
    assert_sound(shown)
    (process, *rows) = [name for depth, name in shown.tree if depth < 2]
    assert process == "tiny 1"
    # The UI puts a thread's number behind its name, and a process's counters last.
    assert [row.rstrip("0123456789 ") for row in rows] == [
        *(f"GPU 0 · {row}" for row in ("Generations", "Stages", "Steps", "Modules", "Tokens")),
        "Host: MainThread",
        "! few-repeats",
        "! host-bound-decode",
        "Recording",
        "ITL µs",
        "lead µs",
        "tokens count",
    ]


def test_a_stage_within_a_generation_can_be_found_zoomed_to_and_selected(tmp_path: Path) -> None:
    made = recording(*THREE)
    trace = written(made, tmp_path / "zoomed.pftrace")
    shown = show(
        trace, "zoomed.png", "--expand", "--zoom", "generate #1 64*", "--select", "prefill", "--track", "Stages"
    )
    assert_sound(shown)
    (prefill,) = (span for span in made.spans_of(made.generations[1]) if span.name == names.PREFILL)
    assert shown.selected is not None
    assert (int(shown.selected["ts"]), int(shown.selected["dur"])) == (prefill.begin, prefill.duration)


def test_a_slice_that_is_not_there_is_named(tmp_path: Path) -> None:
    trace = written(recording(), tmp_path / "one.pftrace")
    with pytest.raises(UiRefusedError, match=r"^perfetto-ui: --zoom 'generate #9\*' is no slice of "):
        show(trace, "nothing.png", "--zoom", "generate #9*")


def test_a_file_that_is_no_trace_is_refused_by_the_ui(tmp_path: Path) -> None:
    trace = tmp_path / "notes.pftrace"
    trace.write_text("no trace\n")
    with pytest.raises(UiRefusedError, match=r"^perfetto-ui: the UI refused .*Cannot open this file"):
        show(trace, "refused.png")


def test_a_trace_from_which_the_importer_drops_a_slice_counts_an_error(tmp_path: Path) -> None:
    """What proves that no error means none: two slices of one row that overlap in part."""
    row = {"ph": "X", "pid": 1, "tid": 2}
    events = [{**row, "name": "first", "ts": 0, "dur": 20}, {**row, "name": "second", "ts": 10, "dur": 20}]
    trace = tmp_path / "overlap.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    assert show(trace, "overlap.png").import_errors == 1
