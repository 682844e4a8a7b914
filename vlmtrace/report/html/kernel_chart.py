"""Kernels by stage: how much of each stage the GPU was busy, and what kept it busy longest."""

from __future__ import annotations

from typing import Final

from vlmtrace.analysis.kernels import Kernels, StageKernels, TopKernel
from vlmtrace.report.html.chart import Chart, axis, categories, label, ms
from vlmtrace.report.html.colours import colour_of
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.units import duration_text

__all__ = ["LONGEST_SHOWN", "busy_chart", "longest_chart"]

LONGEST_SHOWN: Final = 12
"""So many kernels are drawn, the longest of all stages."""

_LONGEST_NAME: Final = 34
_LONGEST_HOVER: Final = 160


def busy_chart(found: Kernels) -> Chart | None:
    """Busy and idle share of each stage's time on each device; ``None`` where no stage's time is known."""
    known = [
        (stage, one, one.idle_share) for stage in found.stages for one in stage.devices if one.idle_share is not None
    ]
    if not known:
        return None
    rows = [_row(stage, one.device) for stage, one, _ in known]
    busy = [f"{names.short(stage.stage)}: busy {duration_text(one.busy)} per generation" for stage, one, _ in known]
    bar: dict[str, Json] = {"type": "bar", "orientation": "h", "y": list(rows)}
    return Chart(
        traces=[
            {
                **bar,
                "name": "busy",
                "x": [round(100 * (1 - idle), 3) for _, _, idle in known],
                "marker": {"color": [colour_of(stage.stage) for stage, _, _ in known]},
                "hovertext": list(busy),
                "hovertemplate": "%{hovertext}, %{x:.1f} % of the stage<extra></extra>",
            },
            {
                **bar,
                "name": "idle",
                "x": [round(100 * idle, 3) for _, _, idle in known],
                "marker": {"color": "rgba(138, 143, 152, 0.22)"},
                "hovertemplate": "idle %{x:.1f} % of the stage<extra></extra>",
            },
        ],
        layout={
            "barmode": "stack",
            "bargap": 0.3,
            "showlegend": False,
            "xaxis": axis("GPU busy, % of the stage", range=[0, 100]),
            "yaxis": categories(rows),
        },
        height=110 + 30 * len(rows),
        told="in how much of each stage anything ran on the GPU; grey: idle",
    )


def longest_chart(found: Kernels) -> Chart | None:
    """The kernels with the longest sums over the counted generations, in their stages' colours."""
    pairs = [(stage, kernel) for stage in found.stages if stage.devices for kernel in stage.top]
    pairs = sorted(pairs, key=lambda pair: -pair[1].total)[:LONGEST_SHOWN]
    if not pairs:
        return None
    rows = _names([kernel for _, kernel in pairs])
    return Chart(
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "y": list(rows),
                "x": [ms(kernel.total) for _, kernel in pairs],
                "marker": {"color": [colour_of(stage.stage) for stage, _ in pairs]},
                "hovertext": [_hover(stage, kernel) for stage, kernel in pairs],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        ],
        layout={
            "bargap": 0.3,
            "showlegend": False,
            "xaxis": axis("ms in all", rangemode="tozero"),
            "yaxis": categories(rows),
        },
        height=110 + 28 * len(rows),
        told=f"the {len(pairs):,} kernels that took longest, all counted generations together; colour: their stage",
    )


def _row(stage: StageKernels, device: int) -> str:
    name = names.short(stage.stage)
    return name if len(stage.devices) == 1 else f"{name}, GPU {device}"


def _names(kernels: list[TopKernel]) -> list[str]:
    """A label for each: rows of one name would be drawn as one."""
    made: list[str] = []
    for kernel in kernels:
        text, number = label(kernel.name, _LONGEST_NAME), 2
        unique = text
        while unique in made:
            unique, number = f"{text} ({number})", number + 1
        made.append(unique)
    return made


def _hover(stage: StageKernels, kernel: TopKernel) -> str:
    name = label(kernel.full_name, _LONGEST_HOVER)
    lines = [name[at : at + 80] for at in range(0, len(name), 80)] if "&" not in name else [name]
    share = "" if kernel.share is None else f", {100 * kernel.share:.1f} % of its kernel time"
    told = f"{names.short(stage.stage)}: {kernel.count:,} calls, {duration_text(kernel.total)}{share}"
    return "<br>".join((told, *lines))
