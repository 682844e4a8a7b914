"""Layers as a heat map: each block of the model over the steps of one generation, or over generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.layers import LayerGrid
from vlmtrace.analysis.stats import percentile
from vlmtrace.report.html.chart import Chart, ascending, axis, ms
from vlmtrace.report.html.colours import HEAT
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json

__all__ = ["MOST_COLUMNS", "MOST_ROWS", "layer_chart"]

MOST_COLUMNS: Final = 400
MOST_ROWS: Final = 200
"""More columns or rows than this are joined, each cell the mean of its own."""

_TITLES: Final = {
    names.VISION: "vision encoder, layer × generation",
    names.PREFILL: "prefill, layer × generation",
    names.STEP: "decode, layer × step",
}


def layer_chart(grid: LayerGrid) -> Chart:
    """The grid in ms; colours reach to the 98th percentile, so that one slow cell does not hide the rest."""
    rows, columns = ascending(grid.rows, MOST_ROWS), ascending(grid.columns, MOST_COLUMNS)
    joined = len(rows) < len(grid.rows) or len(columns) < len(grid.columns)
    cells = [[_mean(grid, row, column) for column in columns] for row in rows]
    known = [ns for line in cells for ns in line if ns is not None]
    most = percentile(known, 98) or 0
    by_step = grid.generation is not None
    what = "step" if by_step else "generation"
    title = _TITLES[grid.stage] + (f" of generation #{grid.generation}" if by_step else "")
    x: list[Json] = [_number(grid.columns, column) for column in columns]
    return Chart(
        traces=[
            {
                "type": "heatmap",
                "x": x if by_step else [f"#{number}" for number in x],
                "y": [_number(grid.rows, row) for row in rows],
                "z": [[None if ns is None else ms(ns) for ns in line] for line in cells],
                "zmin": ms(min(known, default=0)),
                "zmax": ms(most),
                "colorscale": HEAT,
                "hoverongaps": False,
                "xgap": 0 if len(columns) > 60 else 1,
                "ygap": 0 if len(rows) > 60 else 1,
                "hovertemplate": f"layer %{{y}}, {what} %{{x}}: %{{z:,.3f}} ms<extra></extra>",
                "colorbar": {"title": {"text": "ms", "side": "top"}, "thickness": 12, "outlinewidth": 0},
            }
        ],
        layout={
            "title": {"text": title, "x": 0, "xanchor": "left", "xref": "paper"},
            "xaxis": axis(what, showgrid=False, **({} if by_step else {"type": "category"})),
            "yaxis": axis("layer", showgrid=False),
        },
        height=max(260, min(460, 120 + 9 * len(rows))),
        told="elapsed time of each layer; colours reach to the 98th percentile",
        notes=("neighbours are drawn together, each cell their mean",) if joined else (),
    )


def _mean(grid: LayerGrid, rows: tuple[int, int], columns: tuple[int, int]) -> float | None:
    found = [ns for line in grid.cells[slice(*rows)] for ns in line[slice(*columns)] if ns is not None]
    return sum(found) / len(found) if found else None


def _number(numbers: Sequence[int], within: tuple[int, int]) -> int:
    """The number of the first in a bin."""
    return numbers[within[0]]
