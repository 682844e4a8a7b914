"""The verdict: where the time goes, in one sentence with the figures of the summary."""

from __future__ import annotations

from typing import Final

from vlmtrace.analysis.launch import Verdict
from vlmtrace.analysis.rows import OTHER, StageRow
from vlmtrace.analysis.summary import Summary
from vlmtrace.report import lines
from vlmtrace.report.cells import fixed, percent
from vlmtrace.timeline import names
from vlmtrace.units import NS_PER_MS

__all__ = ["verdict_text"]

_PARTS: Final = (names.VISION, names.PREFILL, names.DECODE, OTHER)
_BOUND: Final = {
    Verdict.HOST: "host-bound: the GPU waits for the host to launch its work",
    Verdict.GPU: "GPU-bound: the host has launched its work long before the GPU is done",
    Verdict.MIXED: "bound by both: neither the host nor the GPU sets the pace throughout",
    Verdict.UNKNOWN: "of unknown bound: the evidence does not tell who waits for whom",
}


def verdict_text(summary: Summary) -> str:
    """``decode takes 89.7 % of generate() (medians: 1117.2 and 1209.9 ms) and is host-bound: …``."""
    whole = summary.row(names.GENERATE)
    parts = [row for stage in _PARTS if (row := summary.row(stage)) is not None and row.share is not None]
    if whole is None or not parts:
        return "There is no complete generation to judge."
    largest = max(parts, key=lambda row: row.share or 0)
    places = lines.decimals(summary)
    name = "What is no stage of generate()" if largest.stage == OTHER else largest.stage.capitalize()
    middle, of = (fixed(row.p50, NS_PER_MS, places) for row in (largest, whole))
    took = f"{name} takes {percent(largest.share)} of generate()"
    return f"{took} (medians: {middle} and {of} ms){_bound(summary, largest)}."


def _bound(summary: Summary, row: StageRow) -> str:
    if not summary.on_device:
        return ", on the host’s clock: it cannot tell who waits for whom"
    if row.judgement is None:
        return ""
    text = f" and is {_BOUND[row.judgement.verdict]}"
    if row.stage == names.DECODE and row.judgement.verdict is Verdict.HOST:
        text += f", in {row.judgement.host_bound_parts:,} of {row.judgement.parts:,} steps"
    return text
