"""Which calls of a report are which generations, by their starts and lengths alone."""

from __future__ import annotations

import pytest

from tests import synthetic
from tests.synthetic import Shape
from vlmtrace.analysis.attribution import Call, ThreadPlaces
from vlmtrace.analysis.report_clock import match
from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

OFFSET = 7_000_000_000
MS = 1_000_000


def calls(recording: Recording, late_ns: int = 0, longer_step_ns: int = 0) -> ThreadPlaces:
    """The calls of a report on a clock of its own. The range of each ``generate`` begins late: its thread was stopped.

    Each step but the first begins another so many ns later than the one before.
    """
    made = ThreadPlaces()
    for generation in recording.generations:
        whole = recording.generate_span(generation)
        inside = [span for span in recording.spans if span.generation == generation.index]
        forwards = [span for span in inside if span.name in (names.PREFILL, names.STEP)]
        later = [OFFSET + longer_step_ns * max(0, at - 1) for at in range(len(forwards))]
        made.calls.append(
            Call(
                whole.name,
                whole.host_begin + OFFSET + late_ns,
                whole.host_end + OFFSET,
                tuple(
                    (one.name, one.host_begin + by, one.host_end + by) for one, by in zip(forwards, later, strict=True)
                ),
            )
        )
    return made


def thread(recording: Recording) -> int:
    return recording.tracks[recording.generate_span(recording.generations[0]).track].thread


@pytest.mark.parametrize("late_ns", [0, 12 * MS])
def test_each_call_is_its_generation_also_where_its_thread_was_stopped_as_it_began(late_ns: int) -> None:
    recording = synthetic.recording(Shape(), Shape(), Shape())
    found = match(recording, {thread(recording): calls(recording, late_ns)})
    assert [(one.call, one.generation) for one in found] == [(0, 0), (1, 1), (2, 2)]


def test_calls_whose_steps_lie_elsewhere_are_another_runs() -> None:
    recording = synthetic.recording(Shape(), Shape())
    with pytest.raises(VlmtraceError, match="holds no generate"):
        match(recording, {thread(recording): calls(recording, longer_step_ns=MS)})
