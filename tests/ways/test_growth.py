"""A thousand recordings, each attached and taken off again, leave the process as it was."""

from __future__ import annotations

import copy
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
import torch
from torch import nn

import vlmtrace
from tests.models import build
from tests.ways.examination import state_of
from vlmtrace.capture import calibration
from vlmtrace.capture.recorder import Recorder, RecorderOptions

_PeakOf: TypeAlias = Callable[[int, Callable[[], None]], int]


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording begins with a calibration, which takes longer than a tiny generation; here no price need be good."""
    monkeypatch.setattr(calibration, "_ROUNDS", 1)


@pytest.fixture
def peak_of() -> Iterator[_PeakOf]:
    """The most bytes of Python's that are in use while something is done so many times.

    Garbage is collected after each, so that the peak does not depend on when it happens to be.
    """

    def measured(times: int, once: Callable[[], None]) -> int:
        gc.collect()
        tracemalloc.reset_peak()
        for _ in range(times):
            once()
            gc.collect()
        return tracemalloc.get_traced_memory()[1]

    gc.collect()
    gc.freeze()  # what is there already need not be looked at each time
    gc.disable()
    tracemalloc.start()
    try:
        yield measured
    finally:
        tracemalloc.stop()
        gc.enable()
        gc.unfreeze()


def _recorded(model: nn.Module) -> Callable[[], None]:
    inputs = build("llava").inputs

    def once() -> None:
        with vlmtrace.trace(model, detail="layer"), torch.no_grad():
            model.generate(**inputs, max_new_tokens=2, do_sample=False)  # type: ignore[operator]

    return once


def _kept(model: nn.Module) -> tuple[int, int, list[int]]:
    """Objects and blocks of memory that are in use, and how often each module of ``model`` is referred to."""
    gc.collect()
    references = [sys.getrefcount(module) for module in model.modules()]
    return len(gc.get_objects()), sys.getallocatedblocks(), references


@pytest.mark.conformance
def test_a_thousand_recordings_leave_no_growth() -> None:
    model = copy.deepcopy(build("llava").model)
    once = _recorded(model)
    for _ in range(50):
        once()
    (objects, blocks, references), state = _kept(model), state_of(model)
    for _ in range(1000):
        once()
    objects_after, blocks_after, references_after = _kept(model)
    assert objects_after - objects < 500, "one object left by each recording would be a thousand"
    assert blocks_after - blocks < 500, "one number or text left by each recording would be a thousand"
    assert references_after == references
    assert state_of(model) == state


@pytest.mark.conformance
def test_many_recordings_take_no_more_memory_than_a_few(peak_of: _PeakOf) -> None:
    once = _recorded(copy.deepcopy(build("llava").model))
    peak_of(200, once)  # what torch and transformers keep of the first calls levels off after some fifty
    before = peak_of(10, once)
    assert peak_of(200, once) - before < 20_000, "100 bytes left by each recording would be as much"


@pytest.mark.conformance
def test_a_thousand_generations_of_a_server_take_no_more_memory_than_a_hundred(peak_of: _PeakOf) -> None:
    tiny = build("llama")

    def once() -> None:
        with torch.no_grad():
            tiny.model.generate(**tiny.inputs, max_new_tokens=2, do_sample=False)

    with Recorder(RecorderOptions("slow", slowest=5)) as made:
        peak_of(300, once)  # more than the collections that a recorder remembers: there is one after each
        peak_of(1000, once)  # and what torch and transformers keep of the first calls, more so behind other tests
        before = peak_of(100, once)
        after = peak_of(1000, once)
    assert after - before < 50_000, "50 bytes left by each generation would be as much"
    assert made.ring is not None
    assert made.ring.generations == 2400
