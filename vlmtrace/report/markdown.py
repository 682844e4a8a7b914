"""Markdown: a summary to paste into an issue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.summary import Summary
from vlmtrace.report import lines, syncs
from vlmtrace.report.sections import Section

__all__ = ["markdown_text"]

_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~&$])")
_LINKING: Final = re.compile(r"([#@])(?=\w)")


def markdown_text(summary: Summary, sections: Sequence[Section] = ()) -> str:
    """The summary as GitHub-flavoured Markdown: a title, the stage table, lists and ``sections`` below it."""
    out = [f"**{_line(lines.title(summary))}**", "", _line(lines.subtitle(summary)), ""]
    shown = lines.rows(summary)
    if shown:
        out += [_row(lines.headings(summary)), "| :-- | --: | --: | --: | --: | :-- |"]
        out += [
            _row((row.tree + row.stage, row.calls, row.p50, row.p95, row.share, row.note), keep_indent=True)
            for row in shown
        ]
        out += ["", _line(lines.footnotes(summary)), ""]
        out += [f"- {_line(parts)}" for parts in lines.totals(summary)]
    else:
        out.append("no complete generation to show")
    out += _syncs(summary)
    for finding in summary.findings:
        slug, evidence, remedy = lines.finding_text(finding)
        out.append(f"- **{slug}**: {_escaped(evidence)} → {_escaped(remedy)}")
    for section in sections:
        out += ["", *_section(section)]
    return "\n".join(out) + "\n"


def _syncs(summary: Summary) -> list[str]:
    title = syncs.sync_title(summary)
    if title is None:
        return []
    out = ["", _escaped(title), ""]
    shown = syncs.sync_rows(summary)
    if shown:
        out += [_row(("per generation", "stage", "line", "function")), "| --: | :-- | :-- | :-- |"]
        out += [*(_row((row.count, row.stage, row.place, row.function)) for row in shown), ""]
    return [*out, _line(syncs.sync_footnotes(summary)), ""]


def _section(section: Section) -> list[str]:
    out = [f"**{_escaped(section.title)}**", ""]
    out += [f"- {_line(parts)}" for parts in section.lines]
    if section.rows:
        rule = (":--" if section.is_words(column) else "--:" for column in range(len(section.headings)))
        out += [""] if section.lines else []
        out += [_row(section.headings), f"| {' | '.join(rule)} |", *map(_row, section.rows)]
    for parts in section.notes:
        out += ["", _line(parts)]
    return out


def _row(cells: Sequence[str], *, keep_indent: bool = False) -> str:
    escaped = [_escaped(cell) for cell in cells]
    if keep_indent:
        indent = len(escaped[0]) - len(escaped[0].lstrip(" "))
        escaped[0] = "&nbsp;" * indent + escaped[0].lstrip(" ")
    return "| " + " | ".join(escaped) + " |"


def _line(parts: Sequence[str]) -> str:
    return _escaped(" · ".join(parts))


def _escaped(text: str) -> str:
    """Text that Markdown and HTML leave alone: signs with a meaning behind a backslash.

    The empty comment keeps GitHub from making a link of ``#6`` or a mention of ``@name``; it is not shown.
    """
    return _LINKING.sub(r"\1<!-- -->", _SPECIAL.sub(r"\\\1", text))
