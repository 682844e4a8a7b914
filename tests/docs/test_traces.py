"""The reference traces are small, sound, and what Perfetto shows of them is what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmtrace
from tests.docs.markdown import ROOT
from tests.importer import assert_clean

TRACES = sorted((ROOT / "traces").glob("*.pftrace"))

each_trace = pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)


def test_there_are_two_shapes_at_two_details_under_two_versions() -> None:
    assert len(TRACES) == 8


@each_trace
def test_a_reference_trace_is_small_and_perfetto_finds_all_of_it(path: Path) -> None:
    assert path.stat().st_size <= 1_000_000
    assert_clean(path, vlmtrace.load(path))


@each_trace
def test_a_reference_trace_is_of_a_gpu_and_what_its_name_says(path: Path) -> None:
    recording = vlmtrace.load(path)
    assert recording.on_device
    assert recording.incomplete is None
    assert recording.models[0].random_weights
    assert f"-{recording.detail}-transformers-{recording.environment['transformers']}".startswith(
        path.stem[path.stem.index(f"-{recording.detail}-") :]
    )
    command = recording.workload["command"]
    assert isinstance(command, list)
    assert path.stem.startswith(str(command[command.index("--shape") + 1]))
