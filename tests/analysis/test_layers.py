"""Layers by forward."""

from __future__ import annotations

from tests.analysis.layered import layered
from tests.synthetic import MS, WARMED, Shape, recording
from vlmtrace.analysis.layers import LayerGrid, layer_grids
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def grids(made: Recording) -> dict[str, LayerGrid]:
    summary = summarise(made)
    assert summary.nearest is not None
    return {grid.stage: grid for grid in layer_grids(made, summary.counted, summary.nearest)}


def test_vision_and_prefill_are_told_by_generation_and_decode_by_step_of_the_nearest() -> None:
    found = grids(layered(Shape(role=WARMED), Shape(), Shape(vision=60 * MS)))
    assert found[names.VISION] == LayerGrid(names.VISION, None, (0, 1, 2), (1, 2), ((10 * MS, 20 * MS),) * 3)
    assert found[names.PREFILL].columns == (1, 2)
    steps = found[names.STEP]
    assert (steps.generation, steps.rows, steps.columns) == (1, (0, 1, 2), (0, 1, 2, 3))
    assert steps.cells == ((10 * MS // 3,) * 4,) * 3


def test_steps_without_layers_are_left_out_of_the_columns() -> None:
    assert grids(layered(Shape(steps=6), every=2))[names.STEP].columns == (0, 2, 4)


def test_without_layers_there_is_nothing() -> None:
    assert grids(recording()) == {}
