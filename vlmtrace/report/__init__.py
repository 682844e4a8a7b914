"""Report: a summary as text, a plan as a tree, recordings as a page. Files are not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vlmtrace.analysis.summary import Summary
from vlmtrace.errors import UsageError
from vlmtrace.report.clock import clock_sections
from vlmtrace.report.document import document_text
from vlmtrace.report.kernels import kernel_sections
from vlmtrace.report.launch import launch_sections
from vlmtrace.report.markdown import markdown_text
from vlmtrace.report.plan import plan_sections, plan_text
from vlmtrace.report.sections import Section
from vlmtrace.report.table import WIDTH, SummaryTable, table_text

__all__ = ["FORMATS", "VIEWS", "SummaryTable", "plan_text", "render", "view"]

FORMATS: Final = ("table", "json", "markdown")
"""What :func:`render` can make, the default first."""

_VIEWS: Final[Mapping[str, Callable[[Summary], list[Section]]]] = {
    "stages": plan_sections,
    "clock": clock_sections,
    "launch": launch_sections,
    "kernels": kernel_sections,
}
VIEWS: Final = tuple(_VIEWS)
"""What a table or Markdown can show below the summary when asked; JSON always has all of it."""


def view(summary: Summary, views: Sequence[str]) -> tuple[Section, ...]:
    """The sections of those of :data:`VIEWS`, in that order."""
    return tuple(section for name in VIEWS if name in views for section in _VIEWS[name](summary))


def render(
    summary: Summary,
    format: str = "table",  # noqa: A002 - the option's name
    *,
    width: int = WIDTH,
    views: Sequence[str] = (),
) -> str:
    """The summary as text ending in a newline: ``table`` (plain, ``width`` columns wide), ``json`` or ``markdown``.

    ``views`` names some of :data:`VIEWS`. On a terminal, print :class:`SummaryTable` with a rich console instead: it
    takes the terminal's width and colours.

    Raises:
        UsageError: if ``format`` is none of :data:`FORMATS`, or one of ``views`` none of :data:`VIEWS`.
    """
    for name in views:
        if name not in VIEWS:
            raise UsageError(f"unknown view {name!r} of a summary", f"use one of {', '.join(VIEWS)}")
    if format == "table":
        return table_text(summary, view(summary, views), width)
    if format == "markdown":
        return markdown_text(summary, view(summary, views))
    if format == "json":
        return document_text(summary)
    raise UsageError(f"unknown summary format {format!r}", f"use one of {', '.join(FORMATS)}")
