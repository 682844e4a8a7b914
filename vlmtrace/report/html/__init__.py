"""HTML: traces as one page that opens offline."""

from __future__ import annotations

from vlmtrace.report.html.page import Told, page

__all__ = ["Told", "page"]
