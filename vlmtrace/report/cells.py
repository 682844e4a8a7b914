"""Cells: numbers, counts and foreign names as text that is safe to print and short enough to read."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.rows import Range

__all__ = ["ABSENT", "clean", "fixed", "percent", "range_text", "significant", "summands"]

ABSENT: Final = "–"
"""What stands where a value does not exist; never 0."""

_LONGEST: Final = 64
_UNPRINTABLE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def clean(text: str, longest: int = _LONGEST) -> str:
    """Foreign text on one line, without anything that acts on a terminal, cut to ``longest`` characters.

    Control, format (bidirectional overrides) and unassigned characters and lone surrogates become ``�``.
    """
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join("�" if unicodedata.category(char) in _UNPRINTABLE else char for char in shown)


def fixed(value: float | None, scale: float, decimals: int) -> str:
    """``value / scale`` with that many decimals, or the sign for absent."""
    return ABSENT if value is None else f"{value / scale:.{decimals}f}"


def significant(value: float) -> str:
    """At least three significant digits without an exponent: ``1,250``, ``93.0``, ``4.35``, ``0.0123``."""
    if not math.isfinite(value) or not value:
        return f"{value:.0f}"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{max(0, 3 - before)}f}"


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; the whole without one."""
    if share is None:
        return ""
    return "100 %" if share == 1 else f"{share * 100:.1f} %"


def range_text(counts: Range) -> str:
    """``31``, or ``12–31`` where it varied."""
    fewest, most = counts
    return f"{fewest:,}" if fewest == most else f"{fewest:,}–{most:,}"


def summands(parts: Sequence[int], unit: int, decimals: int) -> tuple[list[str], str]:
    """Parts and their sum in ``unit``, rounded so that the printed sum holds, digit for digit.

    The sum is rounded; what the rounded-down parts lack of it goes to those with the largest remainders (Hamilton's
    method), so that each is within one of its last digit.
    """
    grain = 10**decimals
    scaled = [divmod(part * grain, unit) for part in parts]
    total = (2 * sum(parts) * grain + unit) // (2 * unit)
    floors = [whole for whole, _ in scaled]
    lacking = total - sum(floors)
    for at in sorted(range(len(parts)), key=lambda at: -scaled[at][1])[:lacking]:
        floors[at] += 1
    return [f"{floor / grain:.{decimals}f}" for floor in floors], f"{total / grain:.{decimals}f}"
