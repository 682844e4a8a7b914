"""A thousand recordings, each attached and taken off again, leave the process as it was."""

from __future__ import annotations

import copy
import gc
import sys
import tracemalloc

import pytest
import torch

import vlmtrace
from tests.models import build
from tests.ways.examination import state_of
from vlmtrace.capture.recorder import Recorder, RecorderOptions


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.conformance
def test_a_thousand_recordings_leave_no_growth() -> None:
    tiny = build("llava")
    model = copy.deepcopy(tiny.model)

    def once() -> None:
        with vlmtrace.trace(model, detail="layer"), torch.no_grad():
            model.generate(**tiny.inputs, max_new_tokens=2, do_sample=False)

    for _ in range(50):
        once()
    objects, references, state = _objects(), sys.getrefcount(model), state_of(model)
    for _ in range(1000):
        once()
    assert _objects() - objects < 500, "one object left by each recording would be a thousand"
    assert sys.getrefcount(model) == references
    assert state_of(model) == state


@pytest.mark.conformance
def test_a_thousand_generations_of_a_server_take_no_more_memory_than_a_hundred() -> None:
    tiny = build("llama")
    made = Recorder(RecorderOptions("slow", slowest=5)).start()

    def serve(count: int) -> int:
        for _ in range(count):
            with torch.no_grad():
                tiny.model.generate(**tiny.inputs, max_new_tokens=2, do_sample=False)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        serve(50)
        before = serve(50)
        after = serve(1000)
    finally:
        tracemalloc.stop()
        made.stop()
    assert after - before < 50_000, "50 bytes a generation would be more"
    assert made.ring is not None
    assert made.ring.generations == 1100
