"""Report: a summary as text, a plan as a tree. Recordings and files are not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vlmtrace.analysis.summary import Summary
from vlmtrace.errors import UsageError
from vlmtrace.report.document import document_text
from vlmtrace.report.markdown import markdown_text
from vlmtrace.report.plan import plan_text
from vlmtrace.report.table import WIDTH, SummaryTable, table_text

__all__ = ["FORMATS", "SummaryTable", "plan_text", "render"]

_RENDERERS: Final[Mapping[str, Callable[[Summary], str]]] = {"json": document_text, "markdown": markdown_text}
FORMATS: Final = ("table", *_RENDERERS)
"""What :func:`render` can make, the default first."""


def render(summary: Summary, format: str = "table", *, width: int = WIDTH) -> str:  # noqa: A002 - the option's name
    """The summary as text ending in a newline: ``table`` (plain, ``width`` columns wide), ``json`` or ``markdown``.

    On a terminal, print :class:`SummaryTable` with a rich console instead: it takes the terminal's width and colours.

    Raises:
        UsageError: if ``format`` is none of :data:`FORMATS`.
    """
    if format == "table":
        return table_text(summary, width)
    if format not in _RENDERERS:
        raise UsageError(f"unknown summary format {format!r}", f"use one of {', '.join(FORMATS)}")
    return _RENDERERS[format](summary)
