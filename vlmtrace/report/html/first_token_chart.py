"""The way to the first token of one generation, part by part, as one bar and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.first_token import BEFORE, ENTRY, Part, first_token_parts
from vlmtrace.analysis.measured import Measured
from vlmtrace.report.cells import percent, summands
from vlmtrace.report.html.chart import Chart, axis, ms
from vlmtrace.report.html.colours import colour_of
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.units import NS_PER_MS, duration_text

__all__ = ["FirstToken", "PartRow", "first_token"]

_PLACES: Final = 3
_WORDS: Final = {
    BEFORE: "between the calls before generate()",
    ENTRY: "until the GPU reached generate()",
    names.OTHER_SETUP: "setup of generate()",
    names.OTHER_BETWEEN: "between vision and prefill",
    names.OTHER_FIRST_TOKEN: "choosing the first token",
    names.OTHER_TAIL: "choosing the first token",
}


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part as text, with its colour."""

    name: str
    colour: str
    ms: str
    share: str


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The way to the first token of one generation: the chart, the same as rows, and their sum.

    ``whole`` names the metric that the sum is, ``metric`` is its key.
    """

    chart: Chart
    rows: tuple[PartRow, ...]
    total: str
    whole: str
    metric: str


def first_token(one: Measured) -> FirstToken | None:
    """The parts of TTFT with preprocessing (of TTFT where none was seen); ``None`` where no token was marked."""
    parts = [part for part in first_token_parts(one) if part.ns]
    if not parts:
        return None
    texts, total = summands([part.ns for part in parts], NS_PER_MS, _PLACES)
    whole = sum(part.ns for part in parts)
    what = "TTFT with preprocessing" if one.metrics.ttft_e2e is not None else "TTFT"
    return FirstToken(
        chart=Chart(
            traces=[_trace(part, whole) for part in parts],
            layout={
                "barmode": "stack",
                "bargap": 0.1,
                "uniformtext": {"minsize": 10, "mode": "hide"},
                "xaxis": axis("ms on the way to the first token"),
                "yaxis": {"visible": False, "fixedrange": True},
                "showlegend": False,
            },
            height=130,
            told=f"{what} of generation #{one.generation.index}, {duration_text(whole)}: what passed before the first "
            "token",
        ),
        rows=tuple(
            PartRow(_name(part), colour_of(part.name), text, _share(part.ns / whole))
            for part, text in zip(parts, texts, strict=True)
        ),
        total=total,
        whole=what,
        metric="ttft" if one.metrics.ttft_e2e is None else "ttft_e2e",
    )


def _name(part: Part) -> str:
    return _WORDS.get(part.name, part.name)


def _share(share: float) -> str:
    return percent(share) if share >= 0.001 else "< 0.1 %"


def _trace(part: Part, whole: int) -> dict[str, Json]:
    share = _share(part.ns / whole)
    return {
        "type": "bar",
        "orientation": "h",
        "name": _name(part),
        "y": [""],
        "x": [ms(part.ns)],
        "text": [part.name.rpartition(".")[2].replace("_", " ")],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertext": [f"{_name(part)}: {duration_text(part.ns)} ({share})"],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": colour_of(part.name), "line": {"width": 0}},
    }
