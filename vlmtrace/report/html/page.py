"""The page: traces as one HTML document that carries everything it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.late_tokens import LateToken, late_tokens
from vlmtrace.analysis.layers import layer_grids
from vlmtrace.analysis.rows import OTHER
from vlmtrace.analysis.summary import Summary
from vlmtrace.report import lines, syncs
from vlmtrace.report.cells import ABSENT, clean, fixed, percent, significant
from vlmtrace.report.clock import clock_sections
from vlmtrace.report.definitions import COLUMNS, METRICS, STAGES
from vlmtrace.report.html import facts
from vlmtrace.report.html.chart import Chart
from vlmtrace.report.html.colours import colour_of
from vlmtrace.report.html.embedding import data_uri, needing_extra, own_file, plotly_source, script_json
from vlmtrace.report.html.first_token_chart import FirstToken, first_token
from vlmtrace.report.html.kernel_chart import busy_chart, longest_chart
from vlmtrace.report.html.layer_chart import layer_chart
from vlmtrace.report.html.lead_chart import lead_chart
from vlmtrace.report.html.timeline_chart import timeline_chart
from vlmtrace.report.html.token_chart import cause_text, token_chart
from vlmtrace.report.html.verdict import verdict_text
from vlmtrace.report.kernels import kernel_sections
from vlmtrace.report.launch import launch_sections
from vlmtrace.report.sections import Section
from vlmtrace.report.stage_csv import stage_csv
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json, Recording
from vlmtrace.units import NS_PER_MS, duration_text

__all__ = ["Told", "page"]

_LATE_SHOWN: Final = 10
_PARTS: Final = (names.VISION, names.PREFILL, names.DECODE, OTHER)
_COMPARED: Final = (names.GENERATE, names.VISION, names.PREFILL, names.DECODE)


@dataclass(frozen=True, slots=True)
class Told:
    """One trace to be told of: what to call it (its file's name), the recording, and its summary."""

    name: str
    recording: Recording
    summary: Summary


@dataclass(frozen=True, slots=True)
class _Late:
    generation: int
    token: int
    length: str
    cause: str


def page(told: Sequence[Told]) -> str:
    """The HTML document, one section for each trace; it asks the network for nothing.

    Raises:
        VlmtraceError: if the extra ``report`` is not installed.
    """
    with needing_extra():
        import jinja2

        library = plotly_source()
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    charts: dict[str, Json] = {}
    sections = [_section(f"t{number}", each, charts) for number, each in enumerate(told, 1)]
    return made.from_string(own_file("page.html.j2")).render(
        title=_title(told),
        style=own_file("page.css"),
        script=own_file("page.js"),
        library=library,
        charts=script_json(charts),
        sections=sections,
        comparison=_comparison(told) if len(told) > 1 else [],
        metrics=[(metric.title, metric.unit, metric.definition) for metric in METRICS],
        stages=list(STAGES.items()),
        columns=list(COLUMNS.items()),
    )


def _title(told: Sequence[Told]) -> str:
    text = "vlmtrace: " + ", ".join(clean(each.name) for each in told[:2])
    text += f" and {len(told) - 2:,} more" if len(told) > 2 else ""
    if all(each.summary.on_device for each in told):
        return text
    return f"{text} · {'times are the host’s' if len(told) == 1 else 'some times are the host’s'}"


def _section(key: str, told: Told, charts: dict[str, Json]) -> dict[str, object]:
    """What the template shows of one trace; its charts go to ``charts``, where the page's script finds them."""
    summary = told.summary

    def placed(name: str, chart: Chart | None) -> dict[str, object] | None:
        if chart is None:
            return None
        charts[f"{key}-{name}"] = chart.document
        return {"id": f"{key}-{name}", "height": chart.height, "told": chart.told, "notes": chart.notes}

    late = late_tokens(told.recording, summary.counted)
    way = None if summary.nearest is None else first_token(summary.nearest)
    launch = launch_sections(summary)
    return {
        "key": key,
        "name": clean(told.name),
        "title": lines.title(summary),
        "subtitle": lines.subtitle(summary),
        "versions": facts.versions(summary),
        "on_device": summary.on_device,
        "incomplete": None if summary.incomplete is None else clean(summary.incomplete, 200),
        "verdict": verdict_text(summary),
        "tiles": _tiles(summary),
        "environment": facts.environment(summary),
        "headings": lines.headings(summary),
        "rows": _rows(summary),
        "bar": _bar(summary),
        "footnotes": lines.footnotes(summary),
        "totals": lines.totals(summary) if summary.rows else [],
        "nearest": None if summary.nearest is None else summary.nearest.generation.index,
        "timeline": placed("timeline", None if summary.nearest is None else timeline_chart(summary.nearest)),
        "way": _way(way, summary),
        "way_chart": placed("ttft", None if way is None else way.chart),
        "tokens": placed("itl", token_chart(summary.counted, late)),
        "late": [_late(one) for one in late[:_LATE_SHOWN]],
        "late_more": max(0, len(late) - _LATE_SHOWN),
        "detail": summary.detail,
        "layers": [placed(f"layers-{at}", chart) for at, chart in enumerate(_layers(told))],
        "lead": placed("lead", lead_chart(summary.counted)),
        "launch": [_table(section) for section in launch],
        "busy": placed("busy", None if summary.kernels is None else busy_chart(summary.kernels)),
        "longest": placed("longest", None if summary.kernels is None else longest_chart(summary.kernels)),
        "kernels": [_table(section) for section in (kernel_sections(summary) if summary.kernels is not None else ())],
        "findings": [lines.finding_text(finding) for finding in summary.findings],
        "trust": facts.trust(summary),
        "clock": [_table(section) for section in clock_sections(summary)],
        "syncs": _syncs(summary),
        "command": facts.command_of(summary),
        "workload": facts.workload(summary),
        "csv": stage_csv(summary),
        "csv_link": data_uri(stage_csv(summary), "text/csv"),
        "csv_name": f"{_file_name(told.name)}-stages.csv",
    }


def _layers(told: Told) -> list[Chart]:
    if told.summary.nearest is None or told.summary.detail != "layer":
        return []
    return [layer_chart(grid) for grid in layer_grids(told.recording, told.summary.counted, told.summary.nearest)]


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """The figures to be read first: a word, the number and its unit."""
    places = lines.decimals(summary)
    made = []
    whole = summary.row(names.GENERATE)
    if whole is not None:
        made.append(("generate p50", fixed(whole.p50, NS_PER_MS, places), "ms"))
    for key, word in (("ttft", "TTFT"), ("itl_p50", "ITL p50"), ("itl_p99", "ITL p99"), ("tpot", "TPOT")):
        value = summary.metrics[key].value
        if value is not None:
            made.append((word, fixed(value, NS_PER_MS, places), "ms"))
    for key, word in (("decode_throughput", "decode"), ("output_throughput", "output")):
        value = summary.metrics[key].value
        if value is not None:
            made.append((word, significant(value), "tok/s"))
    return made


def _rows(summary: Summary) -> list[dict[str, str]]:
    """The stage table as the terminal shows it, with colours."""
    return [
        {
            "tree": row.tree,
            "stage": row.stage,
            "colour": colour_of(stage.stage),
            "calls": row.calls,
            "p50": row.p50,
            "p95": row.p95,
            "share": row.share,
            "note": row.note,
            "verdict": "" if row.verdict is None else row.verdict.name.lower(),
        }
        for row, stage in zip(lines.rows(summary), summary.rows, strict=True)
    ]


def _bar(summary: Summary) -> list[dict[str, str]]:
    """The four parts of ``generate`` by their shares, which add up to the whole."""
    parts = [(stage, row) for stage in _PARTS if (row := summary.row(stage)) is not None and row.share]
    return [
        {
            "stage": stage,
            "colour": colour_of(stage),
            "width": f"{100 * (row.share or 0):.3f}",
            "text": f"{stage} {percent(row.share)}",
            "size": "wide" if (row.share or 0) > 0.3 else "middling" if (row.share or 0) > 0.14 else "narrow",
        }
        for stage, row in parts
    ]


def _way(way: FirstToken | None, summary: Summary) -> dict[str, object] | None:
    """The parts of one generation's TTFT, and the median over all to hold it against."""
    if way is None:
        return None
    figure = summary.metrics[way.metric]
    middle = fixed(figure.value, NS_PER_MS, lines.decimals(summary))
    return {"rows": way.rows, "total": way.total, "whole": way.whole, "median": middle, "samples": figure.samples}


def _late(one: LateToken) -> _Late:
    return _Late(one.generation, one.token, duration_text(one.ns), cause_text(one))


def _table(section: Section) -> dict[str, object]:
    words = [section.is_words(column) for column in range(len(section.headings))]
    return {
        "title": section.title,
        "lines": section.lines,
        "headings": list(zip(section.headings, words, strict=True)),
        "rows": [list(zip(row, words, strict=True)) for row in section.rows],
        "notes": section.notes,
    }


def _syncs(summary: Summary) -> dict[str, object] | None:
    title = syncs.sync_title(summary)
    if title is None:
        return None
    return {"title": title, "rows": syncs.sync_rows(summary), "notes": syncs.sync_footnotes(summary)}


def _comparison(told: Sequence[Told]) -> list[dict[str, object]]:
    """One row for each trace: the figures that its own section shows."""
    rows: list[dict[str, object]] = []
    for number, each in enumerate(told, 1):
        summary = each.summary
        places = lines.decimals(summary)
        times = [
            ABSENT if (row := summary.row(stage)) is None else fixed(row.p50, NS_PER_MS, places) for stage in _COMPARED
        ]
        times += [fixed(summary.metrics[key].value, NS_PER_MS, places) for key in ("ttft", "itl_p50", "tpot")]
        rate = summary.metrics["decode_throughput"].value
        decode = summary.row(names.DECODE)
        judged = None if decode is None else decode.judgement
        rows.append(
            {
                "key": f"t{number}",
                "name": clean(each.name),
                "what": " · ".join(lines.title(summary)),
                "detail": clean(summary.detail),
                "n": f"{summary.counts.generations:,}",
                "cells": [*times, ABSENT if rate is None else significant(rate)],
                "bound": ABSENT if judged is None else judged.verdict.value,
            }
        )
    return rows


def _file_name(text: str) -> str:
    """A name that is one on every system."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in text[:80])
