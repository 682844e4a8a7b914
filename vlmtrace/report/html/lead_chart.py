"""The lead over the steps: how far the host had run ahead when the device ended each, as a part of that step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.launch import GPU_FROM, HOST_TO, Lead
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median
from vlmtrace.report.html.chart import Chart, ascending, axis
from vlmtrace.report.html.colours import GREY, colour_of
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.units import duration_text

__all__ = ["MOST_BINS", "lead_chart"]

MOST_BINS: Final = 800
"""Steps are drawn in so many bins at the most."""

_ZONES: Final = ((HOST_TO, "host-bound below"), (GPU_FROM, "GPU-bound above"))


def lead_chart(chosen: Sequence[Measured]) -> Chart | None:
    """Median, least and most of lead ÷ duration over the generations, by step; ``None`` without a device's clock."""
    steps = [leads for one in chosen if (leads := one.leads.get(names.DECODE))]
    if not steps:
        return None
    longest = max(map(len, steps))
    bins = ascending(range(longest), MOST_BINS)
    parts = [[part for leads in steps for part in leads[first:behind] if part.duration > 0] for first, behind in bins]
    known = [(first, found) for (first, _), found in zip(bins, parts, strict=True) if found]
    shares = [[100 * part.lead / part.duration for part in found] for _, found in known]
    x: list[Json] = [first for first, _ in known]
    colour = colour_of(names.STEP)
    bound: dict[str, Json] = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    traces: list[Json] = [
        {**bound, "y": [round(min(each), 3) for each in shares], "showlegend": False},
        {
            **bound,
            "y": [round(max(each), 3) for each in shares],
            "fill": "tonexty",
            "fillcolor": "rgba(0, 158, 115, 0.25)",
            "name": "least to most",
        },
        {
            "type": "scatter",
            "mode": "lines+markers" if len(x) <= 100 else "lines",
            "name": "median",
            "x": x,
            "y": [round(median(each) or 0, 3) for each in shares],
            "hovertext": [_hover(first, found) for first, found in known],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "line": {"color": colour, "width": 2},
            "marker": {"color": colour, "size": 5},
        },
    ]
    most = max(100 * GPU_FROM, *(max(each) for each in shares))
    least = min(0.0, *(min(each) for each in shares))
    return Chart(
        traces=traces,
        layout={
            "xaxis": axis("step", rangemode="tozero"),
            "yaxis": axis("lead at end ÷ duration, %", range=[least - 3, most + 8]),
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"},
            "shapes": [_line(100 * share) for share, _ in _ZONES],
            "annotations": [_word(100 * share, f"{text} {100 * share:.0f} %") for share, text in _ZONES],
        },
        height=320,
        told="the lead: how long before the GPU ended a step the host had finished launching it, as a part of the step",
        notes=(f"{longest:,} steps are drawn in {len(bins):,} bins",) if len(bins) < longest else (),
    )


def _hover(step: int, parts: Sequence[Lead]) -> str:
    lead, duration = median([part.lead for part in parts]) or 0, median([part.duration for part in parts]) or 0
    return f"step {step}: lead {duration_text(lead)} of {duration_text(duration)} (medians)"


def _line(y: float) -> Json:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": {"color": GREY, "width": 1, "dash": "dot"},
    }


def _word(y: float, text: str) -> Json:
    return {
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "y": y,
        "yanchor": "bottom",
        "text": text,
        "showarrow": False,
        "font": {"size": 11},
    }
