"""The table: a summary for a terminal, aligned and readable at 80 columns, coloured only where there are colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from vlmtrace.analysis.launch import Verdict
from vlmtrace.analysis.summary import Summary
from vlmtrace.report import lines, syncs
from vlmtrace.report.sections import Section

__all__ = ["WIDTH", "SummaryTable", "table_text"]

WIDTH: Final = 80
"""Columns of a table that is written to no terminal."""

_SEPARATOR: Final = " · "
_VERDICT_STYLES: Final = {Verdict.GPU: "green", Verdict.MIXED: "yellow", Verdict.HOST: "red", Verdict.UNKNOWN: "dim"}


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """A summary that rich can print: ``console.print(SummaryTable(summary))``. Foreign text is never read as markup.

    ``sections`` are printed below it.
    """

    summary: Summary
    sections: Sequence[Section] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        summary, width = self.summary, options.max_width
        yield from _packed(lines.title(summary), width, "bold")
        yield from _packed(lines.subtitle(summary), width)
        if not summary.rows:
            yield Text("no complete generation to show")
        else:
            yield Text()
            yield _stages(summary)
            yield from _packed(lines.footnotes(summary), width, "dim")
            yield Text()
            for parts in lines.totals(summary):
                yield from _packed(parts, width)
        yield from _syncs(summary, width)
        for finding in summary.findings:
            yield _finding(*lines.finding_text(finding))
        for section in self.sections:
            yield from _section(section, width)


def table_text(summary: Summary, sections: Sequence[Section] = (), width: int = WIDTH) -> str:
    """The table as plain text, ``width`` columns wide, whatever the environment says about colours."""
    out = StringIO()
    console = Console(
        file=out, width=width, color_system=None, force_terminal=False, no_color=True, legacy_windows=False, _environ={}
    )
    console.print(SummaryTable(summary, sections))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _stages(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    *numbers, last = lines.headings(summary)[1:]
    table.add_column("Stage", no_wrap=True, min_width=13)
    for heading, least in zip(numbers, (5, 8, 7, 6), strict=True):
        table.add_column(heading, no_wrap=True, justify="right", min_width=least)
    table.add_column(last, overflow="fold")
    for row in lines.rows(summary):
        stage = Text(row.tree, style="dim").append(row.stage, style="not dim" if row.tree else "bold not dim")
        note = Text(row.note, style="dim" if row.verdict is None else _VERDICT_STYLES[row.verdict])
        table.add_row(stage, *(Text(cell) for cell in (row.calls, row.p50, row.p95, row.share)), note)
    return table


def _syncs(summary: Summary, width: int) -> Iterator[RenderableType]:
    title = syncs.sync_title(summary)
    if title is None:
        return
    yield Text()
    yield Text(title, style="bold")
    shown = syncs.sync_rows(summary)
    if shown:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in shown:
            place = Text.assemble(row.place, " ", (row.function, "dim"))
            grid.add_row(Text(row.count), Text(row.stage), place)
        yield grid
    yield from _packed(syncs.sync_footnotes(summary), width, "dim")


def _section(section: Section, width: int) -> Iterator[RenderableType]:
    yield Text()
    yield Text(section.title, style="bold")
    for parts in section.lines:
        yield from _packed(parts, width)
    if section.rows:
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
        for column, heading in enumerate(section.headings):
            words = section.is_words(column)
            table.add_column(heading, justify="left" if words else "right", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))
        yield table
    for parts in section.notes:
        yield from _packed(parts, width, "dim")


def _finding(slug: str, evidence: str, remedy: str) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text("!", style="yellow"), Text.assemble((slug, "yellow"), f": {evidence} → {remedy}"))
    return grid


def _packed(parts: Sequence[str], width: int, style: str = "") -> Iterable[Text]:
    """Parts set apart by dots, broken between parts where they do not fit on one line."""
    line = ""
    for part in parts:
        longer = f"{line}{_SEPARATOR}{part}" if line else part
        if line and cell_len(longer) > width:
            yield Text(line, style=style)
            longer = part
        line = longer
    if line:
        yield Text(line, style=style)
