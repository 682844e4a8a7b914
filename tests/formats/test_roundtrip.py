"""What is written is what is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests import synthetic
from tests.strategies import recordings
from tests.synthetic import Shape
from vlmtrace import formats
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

Save = Callable[[Recording, str], Path]
every_format = pytest.mark.parametrize("suffix", formats.FORMATS)
drawn = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(recording: Recording, suffix: str) -> Path:
        path = tmp_path / f"trace{suffix}"
        path.write_bytes(b"".join(formats.write(recording, suffix)))
        return path

    return save


@every_format
@drawn
@given(recording=recordings())
def test_whatever_was_recorded_loads_as_it_was(save: Save, suffix: str, recording: Recording) -> None:
    assert formats.read(save(recording, suffix)) == recording


@every_format
@pytest.mark.parametrize("device", [0, None])
def test_a_loaded_recording_is_written_to_the_same_bytes(save: Save, suffix: str, device: int | None) -> None:
    recording = synthetic.recording(Shape(), Shape(vision_inside=True, steps=0), device=device)
    path = save(recording, suffix)
    assert b"".join(formats.write(formats.read(path), suffix)) == path.read_bytes()


@every_format
def test_a_file_is_known_by_its_content_not_its_name(save: Save, suffix: str) -> None:
    recording = synthetic.recording()
    path = save(recording, suffix)
    assert formats.read(path.rename(path.with_name("trace.txt"))) == recording


@every_format
def test_a_recording_without_spans_loads(save: Save, suffix: str) -> None:
    spans, _ = SpansBuilder().freeze()
    recording = replace(synthetic.recording(), generations=(), tracks=(), spans=spans)
    assert formats.read(save(recording, suffix)) == recording


@every_format
def test_a_name_of_a_megabyte_loads(save: Save, suffix: str) -> None:
    base = synthetic.recording()
    builder = SpansBuilder()
    builder.add(NewSpan("é" * 1_000_000, 0, (base.origin_ns, base.origin_ns + 5), args={"path": "x" * 1_000_000}))
    recording = replace(base, generations=(), spans=builder.freeze()[0])
    assert formats.read(save(recording, suffix)) == recording


@every_format
def test_a_trace_counts_what_is_far_from_its_origin_exactly(save: Save, suffix: str) -> None:
    """A recording of ten days: microseconds as doubles would have lost its nanoseconds."""
    base = synthetic.recording(device=None)
    late = base.origin_ns + 10 * 24 * 3_600 * 1_000_000_000 + 1
    builder = SpansBuilder()
    builder.add(NewSpan("late", 0, (late, late + 3)))
    recording = replace(base, generations=(), spans=builder.freeze()[0])
    assert formats.read(save(recording, suffix)) == recording
