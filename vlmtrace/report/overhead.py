"""Overhead in words: what tracing added to a request, and why the detail is less than was asked for."""

from __future__ import annotations

from vlmtrace.analysis.overhead import CONFIDENCE, PPM, RESOLUTION, Overhead
from vlmtrace.report.definitions import OVERHEAD
from vlmtrace.timeline.recording import Json, Lowered

__all__ = ["added_document", "added_parts", "lowered_document", "lowered_text"]


def added_parts(added: Overhead | None) -> list[str]:
    """``tracing added 0.21 % (95 %: −0.40 to 0.90 %, 20 pairs)``, and where that tells nothing, what would."""
    if added is None:
        return []
    places = 2 if added.half_width < RESOLUTION else 1
    low, middle, high = (_percent(share, places) for share in (added.low, added.median, added.high))
    pairs = f"{added.pairs:,} pair{'' if added.pairs == 1 else 's'}"
    parts = [f"tracing added {middle} % ({100 * CONFIDENCE:g} %: {low} to {high} %, {pairs})"]
    if not added.resolved:
        parts.append(
            f"unresolved: about {added.pairs_to_resolve:,} pairs (--repeats) would tell to ± {100 * RESOLUTION:g} %"
        )
    return parts


def added_document(added: Overhead | None) -> Json:
    """The same as JSON values, each key defined; ``None`` where nothing was measured."""
    if added is None:
        return None
    return {
        "median_share": added.median,
        "low_share": added.low,
        "high_share": added.high,
        "pairs": added.pairs,
        "resolved": added.resolved,
        "pairs_to_resolve": added.pairs_to_resolve,
        "unit": "fraction of the untraced time",
        "definitions": dict(OVERHEAD),
    }


def lowered_text(lowered: Lowered, used: str) -> str:
    """``detail lowered from layer to stage: counted cost 2.1 % > 1 %``."""
    cost, limit = 100 * lowered.counted_ns / lowered.generate_ns, f"{100 * lowered.limit_ppm / PPM:g}"
    told = next((text for digits in (3, 5) if (text := f"{cost:.{digits}g}") != limit), f"{cost:.9g}")
    return f"detail lowered from {lowered.asked} to {used}: counted cost {told} % > {limit} %"


def lowered_document(lowered: Lowered | None) -> Json:
    """The same as JSON values; ``None`` where the detail is what was asked for."""
    if lowered is None:
        return None
    return {
        "asked": lowered.asked,
        "cost_share": lowered.counted_ns / lowered.generate_ns,
        "limit_share": lowered.limit_ppm / PPM,
        "definition": "the detail asked for, and the largest counted cost of a warm-up at it / its host wall; this was "
        "above the limit",
    }


def _percent(share: float, places: int) -> str:
    return f"{100 * share:z.{places}f}".replace("-", "−")
