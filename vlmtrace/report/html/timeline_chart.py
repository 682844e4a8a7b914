"""The timeline of one generation: stages, steps and parts on the axis, and below them when the host launched them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.rows import OTHER
from vlmtrace.report.html.chart import Chart, ascending, axis, categories, label, ms
from vlmtrace.report.html.colours import colour_of
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.timeline.spans import Span
from vlmtrace.units import duration_text

__all__ = ["MOST_BARS", "timeline_chart"]

MOST_BARS: Final = 600
"""Of one stage so many spans are drawn one by one; of more, neighbours are drawn as one."""

_AROUND: Final = "around it, host"
_STAGES: Final = "stages"
_STEPS: Final = "steps"
_PARTS: Final = "parts"
_LAUNCHES: Final = "host launches"


@dataclass(frozen=True, slots=True)
class _Bar:
    row: str
    stage: str
    begin: int
    end: int
    hover: str
    text: str = ""


def timeline_chart(one: Measured) -> Chart:
    """The generation's stages in their rows, in ms after the host entered ``generate()``."""
    origin = one.stages.generate.host_begin
    bars = list(_bars(one))
    rows = [row for row in (_AROUND, _STAGES, _STEPS, _PARTS, _LAUNCHES) if any(bar.row == row for bar in bars)]
    by_stage: defaultdict[str, list[_Bar]] = defaultdict(list)
    for bar in bars:
        by_stage[bar.stage].append(bar)
    joined = any(len(spans) > MOST_BARS for spans in (one.stages.steps, one.stages.gaps, one.stages.vision))
    index = one.generation.index
    return Chart(
        traces=[_trace(stage, found, origin) for stage, found in by_stage.items()],
        layout={
            "barmode": "overlay",
            "bargap": 0.28,
            "uniformtext": {"minsize": 10, "mode": "hide"},
            "xaxis": axis("ms after the host entered generate()"),
            "yaxis": categories(rows),
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"},
        },
        height=150 + 46 * len(rows),
        told=f"generation #{index}, {duration_text(one.account.generate)} long, the one nearest the median: when each "
        "stage ran" + (", and when the host launched it" if _LAUNCHES in rows else ""),
        notes=(f"more than {MOST_BARS:,} of a kind: neighbours are drawn as one",) if joined else (),
    )


def _bars(one: Measured) -> Iterator[_Bar]:
    stages = one.stages
    for found in stages.around.values():
        yield from _drawn(found, _AROUND)
    for span in stages.other:
        yield _bar(span, _STAGES, OTHER)
    for span in stages.prefill:
        yield from _around_visions(span, stages.vision_in_prefill)
    for found in (stages.vision, stages.decode):
        yield from _drawn(found, _STAGES)
    for found in (stages.steps, stages.gaps):
        yield from _drawn(found, _STEPS)
    for found in (*stages.parts.values(), stages.vision_in_decode):
        yield from _drawn(found, _PARTS)
    if one.clock_bound is not None:
        for found in (stages.vision, stages.prefill, stages.steps):
            yield from _drawn(found, _LAUNCHES, launches=True)


def _around_visions(prefill: Span, visions: Sequence[Span]) -> Iterator[_Bar]:
    """A prefill without the visions inside it: its own time, in pieces; the longest carries the name."""
    inside = [span for span in visions if prefill.begin <= span.begin and span.end <= prefill.end]
    if not inside:
        yield _bar(prefill, _STAGES, prefill.name)
        return
    cuts = [prefill.begin, *(at for span in inside for at in (span.begin, span.end)), prefill.end]
    pieces = [(begin, end) for begin, end in zip(cuts[::2], cuts[1::2], strict=True) if end > begin]
    own = sum(end - begin for begin, end in pieces)
    longest = max(pieces, key=lambda piece: piece[1] - piece[0], default=None)
    for piece in pieces:
        text = prefill.name if piece == longest else ""
        told = f"prefill: {duration_text(own)} of its own, without the vision inside"
        yield _Bar(_STAGES, prefill.name, *piece, hover=told, text=text)


def _drawn(spans: Sequence[Span], row: str, *, launches: bool = False) -> Iterator[_Bar]:
    """One bar for each span, or for neighbours together where there are too many."""
    for first, behind in ascending([span.row for span in spans], MOST_BARS) if spans else ():
        if behind == first + 1:
            yield _bar(spans[first], row, spans[first].name, launches=launches)
            continue
        begin, last = spans[first], spans[behind - 1]
        ends = (begin.host_begin, last.host_end) if launches else (begin.begin, last.end)
        text = f"{label(names.short(begin.name))} {begin.number} to {last.number}, {behind - first:,} together"
        yield _Bar(row, begin.name, *ends, hover=f"{text}: {duration_text(ends[1] - ends[0])}")


def _bar(span: Span, row: str, stage: str, *, launches: bool = False) -> _Bar:
    name = names.short(span.name)
    numbered = name if span.number is None else f"{name} {span.number}"
    if launches:
        told = f"launching {numbered}: {duration_text(span.host_duration)} on the host"
        return _Bar(row, stage, span.host_begin, span.host_end, hover=told)
    hover = f"{numbered}: {duration_text(span.duration)}"
    kv = span.spans.arg(span.row, "kv")
    hover += f", KV length {kv:,}" if isinstance(kv, int) else ""
    shown = stage not in {names.STEP, names.GAP, OTHER}
    return _Bar(row, stage, span.begin, span.end, hover=hover, text=name.rpartition(".")[2] if shown else "")


def _trace(stage: str, bars: Sequence[_Bar], origin: int) -> dict[str, Json]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": "decode, step" if stage == names.STEP else names.short(stage),
        "showlegend": stage != names.DECODE,
        "y": [bar.row for bar in bars],
        "base": [ms(bar.begin - origin) for bar in bars],
        "x": [ms(bar.end - bar.begin) for bar in bars],
        "text": [bar.text for bar in bars],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertext": [bar.hover for bar in bars],
        "hovertemplate": "%{hovertext}<br>from %{base:,.3f} ms<extra></extra>",
        "marker": {"color": colour_of(stage), "line": {"width": 0}},
    }
