"""Colours: one for each stage, the same in every chart and table, told apart by the colour-blind too.

They are Okabe and Ito's eight (*Color Universal Design*, 2008), and tints of these for parts of a stage.
"""

from __future__ import annotations

from typing import Final

from vlmtrace.analysis.first_token import BEFORE, ENTRY
from vlmtrace.analysis.kernels import OUTSIDE
from vlmtrace.analysis.rows import OTHER
from vlmtrace.timeline import names

__all__ = ["ACCENT", "GREY", "HEAT", "colour_of"]

GREY: Final = "#8a8f98"
"""Of what is no stage, and of lines that must be seen on light and on dark."""
ACCENT: Final = "#D55E00"
"""Of what is marked: outliers."""
HEAT: Final = "Cividis"
"""The colour scale of heat maps: of one hue direction for every eye (Nuñez and others, PLOS ONE 2018)."""

_OF_STAGE: Final = {
    names.PREPROCESS: "#56B4E9",
    names.H2D: "#D55E00",
    names.GENERATE: "#5f6670",
    names.VISION: "#0072B2",
    names.ENCODER: "#3f95c8",
    names.PROJECTOR: "#8cc0de",
    names.PREFILL: "#E69F00",
    names.MERGE: "#f2cc73",
    names.DECODE: "#009E73",
    names.STEP: "#009E73",
    names.GAP: "#CC79A7",
    names.LM_HEAD: "#66c5ab",
    names.DETOKENIZE: "#F0E442",
    OTHER: GREY,
    BEFORE: "#c3c7cd",
    ENTRY: "#c3c7cd",
    OUTSIDE: "#c3c7cd",
}


def colour_of(stage: str) -> str:
    """The colour of a stage by its full name, as ``#rrggbb``."""
    return _OF_STAGE.get(stage, GREY)
