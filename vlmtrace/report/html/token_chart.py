"""The latency between tokens over their numbers: every generation's, their median, and the late ones with causes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.late_tokens import LateToken
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median
from vlmtrace.report.html.chart import Chart, ascending, axis, ms
from vlmtrace.report.html.colours import ACCENT, GREY, colour_of
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.units import duration_text

__all__ = ["MOST_BINS", "MOST_MARKED", "MOST_POINTS", "cause_text", "token_chart"]

MOST_POINTS: Final = 8_000
"""So many gaps are drawn one by one; of more, the median and the range."""
MOST_BINS: Final = 800
"""The median is drawn over so many bins of token numbers at the most."""
MOST_MARKED: Final = 300
"""So many late tokens are marked, the longest."""


def token_chart(chosen: Sequence[Measured], late: Sequence[LateToken]) -> Chart | None:
    """ITL in ms over the number of the token that a gap ends with; ``None`` where no generation has two tokens."""
    gaps = {one.generation.index: one.metrics.itl for one in chosen if one.metrics.itl}
    if not gaps:
        return None
    longest = max(map(len, gaps.values()))
    total = sum(map(len, gaps.values()))
    bins = ascending(range(longest), MOST_BINS)
    traces: list[Json] = [_points(gaps)] if total <= MOST_POINTS else _range(gaps, bins)
    traces.append(_median(gaps, bins))
    if late:
        traces.append(_marked(late[:MOST_MARKED]))
    notes = [] if total <= MOST_POINTS else [f"{total:,} gaps: their range is drawn, not each"]
    if len(bins) < longest:
        notes.append(f"{longest:,} tokens are drawn in {len(bins):,} bins")
    if len(late) > MOST_MARKED:
        notes.append(f"marked are the {MOST_MARKED:,} latest of {len(late):,}")
    return Chart(
        traces=traces,
        layout={
            "xaxis": axis("token (the first is 0)", rangemode="tozero"),
            "yaxis": axis("ms since the token before", rangemode="tozero"),
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"},
            "hovermode": "closest",
        },
        height=340,
        told=f"inter-token latency of {len(gaps):,} generation{'' if len(gaps) == 1 else 's'} over the token's number",
        notes=tuple(notes),
    )


def cause_text(late: LateToken) -> str:
    """What is known of why a token was late."""
    parts = [f"{name} {duration_text(ns)}" for name, ns in late.causes]
    if late.alloc_retries:
        parts.append(f"the allocator ran out {late.alloc_retries:,} × in this generation")
    return ", ".join(parts) or "not known"


def _points(gaps: dict[int, tuple[int, ...]]) -> dict[str, Json]:
    pairs = [(index, token, ns) for index, itl in gaps.items() for token, ns in enumerate(itl, 1)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "each generation",
        "x": [token for _, token, _ in pairs],
        "y": [ms(ns) for _, _, ns in pairs],
        "customdata": [index for index, _, _ in pairs],
        "hovertemplate": "generation #%{customdata}, token %{x:,}: %{y:,.3f} ms<extra></extra>",
        "marker": {"color": colour_of(names.STEP), "opacity": 0.65, "size": 5},
    }


def _range(gaps: dict[int, tuple[int, ...]], bins: Sequence[tuple[int, int]]) -> list[Json]:
    x: list[Json] = [_middle(*one) for one in bins]
    found = [_within(gaps, first, behind) for first, behind in bins]
    bound: dict[str, Json] = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        {**bound, "y": [ms(min(ns)) for ns in found], "showlegend": False},
        {
            **bound,
            "y": [ms(max(ns)) for ns in found],
            "name": "fewest to most",
            "fill": "tonexty",
            "fillcolor": "rgba(0, 158, 115, 0.25)",
        },
    ]


def _median(gaps: dict[int, tuple[int, ...]], bins: Sequence[tuple[int, int]]) -> dict[str, Json]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "median",
        "x": [_middle(*one) for one in bins],
        "y": [ms(median(_within(gaps, first, behind)) or 0) for first, behind in bins],
        "hovertemplate": "token %{x:,}: median %{y:,.3f} ms<extra></extra>",
        "line": {"color": GREY, "width": 2},
    }


def _within(gaps: dict[int, tuple[int, ...]], first: int, behind: int) -> list[int]:
    return [ns for itl in gaps.values() for ns in itl[first:behind]]


def _marked(late: Sequence[LateToken]) -> dict[str, Json]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "late",
        "x": [one.token for one in late],
        "y": [ms(one.ns) for one in late],
        "hovertext": [f"generation #{one.generation}, token {one.token:,}: {duration_text(one.ns)}" for one in late],
        "customdata": [cause_text(one) for one in late],
        "hovertemplate": "%{hovertext}<br>cause: %{customdata}<extra></extra>",
        "marker": {"color": ACCENT, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
    }


def _middle(first: int, behind: int) -> float:
    """The number of the token in the middle of a bin of gaps; gap 0 lies in front of token 1."""
    return (first + behind - 1) / 2 + 1
