"""CSV: the stage table of a summary with every digit, for a spreadsheet or a script."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Final

from vlmtrace.analysis.summary import Summary
from vlmtrace.units import NS_PER_MS

__all__ = ["HEADINGS", "stage_csv"]

HEADINGS: Final = ("stage", "calls_min", "calls_max", "p50_ms", "p95_ms", "share", "verdict", "peak_bytes")


def stage_csv(summary: Summary) -> str:
    """One line per row of the summary, as in its JSON: times in ms, shares as fractions, absent figures empty."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADINGS)
    for row in summary.rows:
        verdict = "" if row.judgement is None else row.judgement.verdict.value
        figures = (_ms(row.p50), _ms(row.p95), _text(row.share))
        writer.writerow((row.stage, *row.calls, *figures, verdict, "" if row.peak is None else row.peak))
    return out.getvalue()


def _ms(ns: float | None) -> str:
    return "" if ns is None else repr(ns / NS_PER_MS)


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
