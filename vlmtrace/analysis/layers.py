"""Layers: how long each block of the encoder and of the language model took, forward by forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vlmtrace.analysis.measured import Measured
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE, Spans

__all__ = ["LayerGrid", "layer_grids"]


@dataclass(frozen=True, slots=True)
class LayerGrid:
    """Elapsed ns of layer ``rows[y]`` in column ``columns[x]`` at ``cells[y][x]``; ``None`` where it was not timed.

    ``stage`` is what ran the layers. Columns are the steps of generation ``generation``, or where that is ``None``
    generations, with the sum over their forwards.
    """

    stage: str
    generation: int | None
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    cells: tuple[tuple[int | None, ...], ...]


def layer_grids(recording: Recording, chosen: Sequence[Measured], nearest: Measured) -> tuple[LayerGrid, ...]:
    """Layers of the vision encoder and of prefill by generation, and of decode by step of ``nearest``, where known."""
    spans = recording.spans
    counted = {one.generation.index for one in chosen}
    index = nearest.generation.index
    sums: dict[str, defaultdict[tuple[int, int], int]] = {
        stage: defaultdict(int) for stage in (names.VISION, names.PREFILL, names.STEP)
    }
    for name in (names.VISION_LAYER, names.LAYER):
        for span in spans.named(name):
            if span.number is None or span.generation not in counted or span.incomplete:
                continue
            stage, column = _home(spans, span.row)
            if stage == names.STEP:
                # A vision that is run again inside a step has layers of its own kind.
                if name == names.LAYER and span.generation == index and column != NONE:
                    sums[stage][span.number, column] += span.duration
            elif stage == (names.VISION if name == names.VISION_LAYER else names.PREFILL):
                sums[stage][span.number, span.generation] += span.duration
    return tuple(_grid(stage, index if stage == names.STEP else None, cells) for stage, cells in sums.items() if cells)


def _home(spans: Spans, row: int) -> tuple[str, int]:
    """The step that a layer lies in, else the nearest prefill or vision, and its number."""
    home = ("", NONE)
    above = spans.parent[row]
    while above != NONE:
        name = spans.strings[spans.name[above]]
        if name == names.STEP or (name in {names.PREFILL, names.VISION} and not home[0]):
            home = (name, spans.number[above])
        above = spans.parent[above]
    return home


def _grid(stage: str, generation: int | None, cells: dict[tuple[int, int], int]) -> LayerGrid:
    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}))
    return LayerGrid(
        stage=stage,
        generation=generation,
        rows=rows,
        columns=columns,
        cells=tuple(tuple(cells.get((row, column)) for column in columns) for row in rows),
    )
