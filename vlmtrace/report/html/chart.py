"""Charts: figures as plotly's JSON takes them, before a page draws them; each is built by a small pure function."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vlmtrace.report.cells import clean
from vlmtrace.timeline.recording import Json
from vlmtrace.units import NS_PER_MS

__all__ = ["Chart", "ascending", "axis", "categories", "label", "ms"]

_LONGEST_LABEL: Final = 36
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: ``traces`` and ``layout`` are plotly's, without a theme; ``height`` is in CSS pixels.

    ``told`` says in words what is drawn: the text that stands for the picture, and below it.
    """

    traces: list[Json]
    layout: dict[str, Json]
    height: int
    told: str
    notes: tuple[str, ...] = field(default=())

    @property
    def document(self) -> dict[str, Json]:
        """What the page's script reads."""
        return {"traces": self.traces, "layout": self.layout, "height": self.height}


def ms(ns: float) -> float:
    """Nanoseconds in milliseconds, to the nanosecond."""
    return round(ns / NS_PER_MS, _DIGITS)


def label(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Foreign text as plotly may be given it: cleaned, cut, and with nothing in it that plotly reads as markup."""
    return html.escape(clean(text, longest), quote=False)


def axis(title: str, **more: Json) -> dict[str, Json]:
    """An axis with a title and its unit."""
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def categories(rows: Sequence[str]) -> dict[str, Json]:
    """A vertical axis of words, the first on top."""
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(rows),
        "autorange": "reversed",
        "automargin": True,
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
        "ticklabelstandoff": 6,
    }


def ascending(values: Sequence[int], most: int) -> list[tuple[int, int]]:
    """At most ``most`` bins of like size over so many positions, as half-open ranges; one each where they fit."""
    count = len(values)
    bins = min(count, most)
    return [(at * count // bins, (at + 1) * count // bins) for at in range(bins)]
